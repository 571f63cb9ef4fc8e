"""What sub-models do not share: private tensors, and statistics that are private or estimated again after training."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BuildError, DataError
from ..imports.names import BufferPolicy
from ..imports.privates.torch import RunningNorm, buffers_of, parameters_of
from ..space import Setting
from .batches import arguments_of
from .examples import is_joinable, join_batch, size_of_inputs
from .layouts import tensors_of

__all__ = ["BufferPolicy", "Private", "check_patterns", "estimate_statistics", "refuse_tied"]


_USED: ContextVar[list[tuple[Tensor, Tensor]] | None] = ContextVar("_USED", default=None)


class Private(nn.Module):
    """The tensors that belong to single sub-models, by setting and by full name.

    Args:
        patterns: Shell patterns of parameters and buffers that each sub-model has for itself.
        policy: The policy for all other persistent buffers.
        full: The full setting, whose tensors are always those of the full model.
        trainable: The full model's parameters by name, and whether they are trained.
    """

    def __init__(
        self, patterns: Sequence[str], policy: BufferPolicy, full: Setting, trainable: Mapping[str, bool]
    ) -> None:
        super().__init__()
        self.patterns, self.policy, self.full, self.trainable = tuple(patterns), policy, full, dict(trainable)
        self.owners = nn.ModuleDict()
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def covers(self, name: str, is_buffer: bool) -> bool:
        """Whether each sub-model has its own tensor of this name from the start."""
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns):
            return True
        return is_buffer and self.policy == "private"

    def find(self, setting: Setting, name: str, training: bool = False) -> Tensor | None:
        """Return the sub-model's own tensor, or None where it shares the full model's.

        Args:
            setting: The sub-model.
            name: Full name of the parameter or buffer.
            training: Whether the module that holds it trains; statistics estimated again count in evaluation only.
        """
        if not self.owners or setting == self.full:
            return None
        key = _key(setting)
        if key not in self.owners:
            return None
        owner = self.owners[key]
        entry = name.replace(".", "/")
        if entry in parameters_of(owner):
            return parameters_of(owner)[entry]  # type: ignore[no-any-return]
        if training and self.policy == "reestimated" and not self.covers(name, is_buffer=True):
            return None
        return buffers_of(owner).get(entry)

    @contextmanager
    def remembering(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Give a list of the buffers that sub-models train with in this context, and what they held, the last first."""
        used: list[tuple[Tensor, Tensor]] = []
        token = _USED.set(used)
        try:
            yield used
        finally:
            _USED.reset(token)

    def remember(self, buffer: Tensor) -> None:
        """Keep what a sub-model's own buffer holds before it trains, where somebody wants to know."""
        used = _USED.get()
        if used is not None:
            used.insert(0, (buffer, buffer.clone()))

    def add(self, setting: Setting, tensors: Mapping[str, Tensor]) -> None:
        """Give a sub-model tensors of its own: parameters for the full model's parameters, buffers for all else."""
        key = _key(setting)
        if key not in self.owners:
            self.owners[key] = nn.Module()
        for name, tensor in tensors.items():
            entry = name.replace(".", "/")
            if name in self.trainable:
                parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, self.trainable[name])
                self.owners[key].register_parameter(entry, parameter)
            else:
                self.owners[key].register_buffer(entry, tensor)

    def tensors(self) -> dict[tuple[str, str], Tensor]:
        """Return everything held, by the setting's text and the full name."""
        return {
            (key.replace(":", "."), entry.replace("/", ".")): tensor
            for key, owner in self.owners.items()
            for entry, tensor in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
        }

    def restore(self, tensors: Mapping[tuple[str, str], Tensor]) -> None:
        """Take over what `tensors` returned."""
        for (setting, name), tensor in tensors.items():
            self.add(Setting.parse(setting), {name: tensor})


def _make_room(private: Private, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    """Make room for what was added later in the saved network, such as statistics measured after training."""
    for path, tensor in state_dict.items():
        if path.startswith(f"{prefix}owners."):
            key, _, entry = path.removeprefix(f"{prefix}owners.").partition(".")
            setting, name = Setting.parse(key.replace(":", ".")), entry.replace("/", ".")
            if key not in private.owners or entry not in dict(private.owners[key].state_dict()):
                private.add(setting, {name: torch.zeros_like(tensor)})


def _key(setting: Setting) -> str:
    # Names of modules must not hold a dot.
    return str(setting).replace(".", ":")


def estimate_statistics(module: nn.Module, batches: Iterable[Any]) -> None:
    """Measure the running statistics of a model's batch norms anew, as plain averages over batches.

    Only the norms are put into training mode: dropout and all else stay as in evaluation. A last batch of one example,
    which has no statistics, goes with the one before.

    Args:
        module: The model; its statistics are overwritten in place.
        batches: Inputs, batch by batch.

    Source:
        Yu & Huang (2019), arXiv:1903.05134, Sec. 3.3: post-statistics of batch normalization.
    """
    norms = [one for one in module.modules() if isinstance(one, RunningNorm) and one.track_running_stats]
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            for args, kwargs in _joined([arguments_of(module, one) for one in batches]):
                module(*args, **kwargs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _joined(calls: list[Any]) -> list[Any]:
    """Join a last call of one example with the one before, where that can be done."""
    with suppress(DataError):
        if len(calls) > 1 and size_of_inputs(calls[-1]) == 1 and is_joinable(calls[-2], size_of_inputs(calls[-2])):
            return [*calls[:-2], join_batch(calls[-2:])]
    return calls


def check_patterns(model: nn.Module, patterns: Iterable[str]) -> None:
    """Refuse patterns of private tensors that match none, or one that is tied to another.

    Raises:
        BuildError: If one does.
    """
    names = tensors_of(model)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise BuildError(
                f"private={pattern!r} matches no parameter or buffer. Those of the model are {list(names)[:4]}..."
            )
        refuse_tied(model, pattern)


def refuse_tied(model: nn.Module, pattern: str) -> None:
    """Refuse to make a parameter private that is tied to another: they would no longer be one.

    Raises:
        BuildError: If a name that matches the pattern has another name too.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for tied in names.values():
        matching = fnmatch.filter(tied, pattern)
        if len(tied) > 1 and matching:
            raise BuildError(
                f"{matching[0]} is tied to {next(n for n in tied if n != matching[0])}, so that no sub-model can have "
                "one of its own. Untie them in the builder, or leave them shared."
            )
