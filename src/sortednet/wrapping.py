"""What TRL and Accelerate do to a pretrained model, done to the sub-models of a network instead."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

from .network import SortedNet
from .space import Setting

__all__ = ["At", "decayed", "fuse_heads", "parts_unnamed"]


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


def fuse_heads(net: SortedNet) -> None:
    """Let the fused head that TRL gives a model read the sub-model that runs, instead of the full model."""
    fused = getattr(net.__dict__.get("forward"), "__func__", None)
    if fused is None or "fused_lm_head" not in inspect.signature(fused, follow_wrapped=False).parameters:
        return
    if hasattr(fused, "of_sub_models"):  # the network was trained before
        return

    @functools.wraps(SortedNet.forward)
    def forward(self: SortedNet, *args: Any, setting: Any = None, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return SortedNet.forward(self, *args, setting=setting, **kwargs)
        return fused(self._bound(self.space.setting(setting)).module, *args, fused_lm_head=True, **kwargs)

    forward.of_sub_models = True  # type: ignore[attr-defined]
    net.forward = MethodType(forward, net)  # type: ignore[method-assign]


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
