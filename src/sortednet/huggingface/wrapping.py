"""What TRL and Accelerate do to a pretrained model, done to the sub-models of a network instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import ConfigError, DataError
from ..network.sorted_net import SortedNet
from ..space import Setting

__all__ = ["At", "Unlabelled", "check_data", "check_model", "decayed", "parts_unnamed"]


def decayed(net: SortedNet, names: Sequence[str]) -> list[str]:
    """Let the weights of a sub-model's own decay where those of the full model do.

    Args:
        net: The network.
        names: Names of the network's parameters with weight decay, as transformers finds them. It goes by the names
            and classes of modules, which private parameters do not lie in.

    Returns:
        The names, those of private parameters corrected.
    """
    if not net.private.owners:
        return list(names)
    full = {name.removeprefix("full.") for name in names if name.startswith("full.")}
    private = {id(one): name for (_, name), one in net.private.tensors().items()}
    own = [name for name, one in net.named_parameters() if private.get(id(one)) in full]
    return [*(name for name in names if name.startswith("full.")), *own]


@contextmanager
def parts_unnamed(net: SortedNet) -> Iterator[None]:
    """Keep Accelerate from sharding the embedding, the last norm and the head on their own: exits read them in chunks.

    Blocks are still sharded one by one, and all else with the network.
    """
    unnamed = {"get_input_embeddings": _none, "get_output_embeddings": _none, "base_model_prefix": ""}
    net.__dict__.update(unnamed)  # these come before the full model's
    try:
        yield
    finally:
        for name in unnamed:
            del net.__dict__[name]


def _none() -> None:
    return None


@dataclass(frozen=True)
class At:
    """Data, or a loader of batches, for one sub-model, whose name goes with each batch into the model's forward."""

    held: Any
    setting: Setting
    fixed: Mapping[str, Any]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.held:
            yield {**batch, **self.fixed, "setting": str(self.setting)}

    def __len__(self) -> int:
        return len(self.held)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.held, name)


@dataclass(frozen=True)
class Unlabelled:
    """Calls a model without labels, where the loss is not its own."""

    model: nn.Module

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**{name: value for name, value in inputs.items() if name != "labels"})


def check_model(model: Any) -> None:
    """Refuse to train what has no sub-models.

    Raises:
        ConfigError: If it is no `SortedNet`.
    """
    if not isinstance(model, SortedNet):
        given = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise ConfigError(
            f"The model is {given}, which has no sub-models. Make it a SortedNet first, such as "
            "model=SortedNet.from_pretrained(model, num_hidden_layers=[...])."
        )


def check_data(data: Any) -> None:
    """Refuse training data without an example.

    Raises:
        DataError: If there is none.
    """
    try:
        empty = data is not None and len(data) == 0
    except TypeError:  # data of unknown length
        return
    if empty:
        raise DataError("The training data are empty. Give at least one example.")
