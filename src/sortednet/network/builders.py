"""What a kind of model tells the network, and where each kind is found.

The network knows modules alone. Whatever else there is to know of a pretrained model or of an adapter stands in its
builder, of which every method has a default that does nothing; and in its module, which the table names and which is
imported when a file names the kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

from torch import Tensor, nn

from ..errors import CheckpointError
from ..files.weights import WEIGHTS
from ..space import Number, Setting
from ..views.buffers import Private
from ..views.examples import Inputs
from ..views.layouts import Layout
from ..views.options import Held
from ..views.skeletons import Skeleton
from .checkpoint import fitting

__all__ = ["KINDS", "PLAIN", "Builder", "SharedForward", "as_builder", "kind_of", "module_of"]

PLAIN = "module"
KINDS: Mapping[str, str] = {"pretrained": "sortednet.huggingface.loading", "adapter": "sortednet.lora.loading"}
"""By kind the module with its `load`, whose arguments are those of `loading.load` and what describes the network."""
_MARKS = {"adapter": "adapter", "class": "pretrained"}  # by which a description of version 0.1 tells its kind


class SharedForward(Protocol):
    """A way of a kind's own to run several sub-models in one forward."""

    def forget(self) -> None:
        """Build all skeletons anew."""

    def groups(self, settings: Sequence[Setting]) -> list[list[int]]:
        """Group the places of settings that share a forward so."""

    def run(
        self, full: nn.Module, settings: Sequence[Setting], inputs: Sequence[Inputs], inference: bool
    ) -> list[Any] | None:
        """Return the output of each, on inputs of its own; None if it turns out that they share none."""


class Builder:
    """Makes a model at a setting, and tells the network what it cannot know of a plain module.

    A kind of model is a class of this: its `__call__`, and those of the other methods that it has an answer to.

    Attributes:
        kind: The name that files are found by: one of `KINDS`, or `PLAIN`.
        weights: The name of the file of the weights.
        unwatchable: Why its models cannot be watched, so that its layouts tell how they are cut; else empty.
    """

    kind: ClassVar[str] = PLAIN
    weights: ClassVar[str] = WEIGHTS
    unwatchable: ClassVar[str] = ""

    def __call__(self, **setting: Number) -> nn.Module:
        """Build the model at a setting."""
        raise NotImplementedError

    def layouts(self, full: nn.Module) -> tuple[Layout, ...]:
        """Return the layouts of fused parameters that are known of the kind."""
        return ()

    def example(self, full: nn.Module) -> Any:
        """Return inputs that a model of the kind may run on, by name of its arguments; None where none are known."""
        return None

    def brief(self, inputs: Inputs) -> Inputs:
        """Return inputs of the same kind with fewer positions, for a trial; the same where it is not known how."""
        return inputs

    def inner(self, full: nn.Module) -> Any:
        """Return the model itself, without what was put around it."""
        return full

    def head(self, full: nn.Module) -> Any:
        """Return what reads the exits of a model in chunks; None where each is read whole."""
        return None

    def shared_forward(
        self, private: Private, prepared: Callable[[Setting], Skeleton], plain: Callable[[Setting], Skeleton]
    ) -> SharedForward | None:
        """Return a way of its own to run several sub-models in one forward.

        Args:
            private: The network's private tensors.
            prepared: Makes a new skeleton of a setting, compiled where the network is.
            plain: The same, never compiled.
        """
        return None

    def shares(self, name: str) -> bool:
        """Whether a trained parameter belongs to all sub-models alike, whichever is the smallest that has it."""
        return False

    def refuse_merged(self, full: nn.Module, merged: Setting | None) -> None:
        """Refuse a model that may not be used now.

        Raises:
            SettingError: If so.
        """

    def follow(self, full: nn.Module) -> bool:
        """Let the models that it makes be as the full model is now, such as with more symbols, where it can.

        Args:
            full: The full model, which a person has changed.

        Returns:
            Whether it makes others now.
        """
        return False

    def options(self, module: nn.Module) -> Iterable[Held]:
        """Return what a person may set on a module of the kind's models beside its weights, which sub-models follow.

        What torch's own layers were made with is followed anyway.
        """
        return ()

    def to_json(self, full: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what a checkpoint needs to make this builder again, as plain values."""
        return {}

    def before_saving(self, full: nn.Module, path: str | Path, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Write what belongs beside the weights, and return the tensors that are stored.

        Args:
            full: The full model.
            path: The folder.
            state: The full model's state dictionary.
        """
        return state

    def restore(self, full: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
        """Put stored tensors into a full model, in place, so that an optimiser keeps its parameters.

        Raises:
            CheckpointError: If they are those of another model.
        """
        with fitting(path):
            missing = full.load_state_dict(weights, strict=False).missing_keys
        held = full.state_dict(keep_vars=True)
        filled = {id(held[name]) for name in weights if name in held}
        lost = [name for name in missing if id(held[name]) not in filled]  # but for other names of tied parameters
        if lost:
            raise CheckpointError(f"{path} lacks {', '.join(lost)}. Restore it from a copy, or take an earlier one.")


@final
class _Plain(Builder):
    """A function or a class of the user's own."""

    def __init__(self, build: Callable[..., nn.Module]) -> None:
        self._build = build

    def __call__(self, **setting: Number) -> nn.Module:
        return self._build(**setting)


def as_builder(build: Callable[..., nn.Module]) -> Builder:
    """Return a builder of whatever makes a model from one keyword argument per dimension."""
    return build if isinstance(build, Builder) else _Plain(build)


def kind_of(described: Mapping[str, Any], path: str | Path) -> str:
    """Return the kind of the network that a checkpoint describes.

    Raises:
        CheckpointError: If this version knows no such kind.
    """
    kind = described.get("kind", next((kind for mark, kind in _MARKS.items() if mark in described), PLAIN))
    if kind != PLAIN and kind not in KINDS:
        raise CheckpointError(f"{path} holds a network of kind {kind!r:.40}, which is not known. Update sortednet.")
    return str(kind)


def module_of(kind: str) -> Any:
    """Import the module of a kind."""
    return importlib.import_module(KINDS[kind])
