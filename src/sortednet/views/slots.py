"""A tensor of a sub-model, and the place in the full model that it looks at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import BuildError
from ..imports.privates.torch import buffers_of, parameters_of
from ..space import Setting
from .buffers import Private
from .cut import Cut

__all__ = ["Slot", "bind_slot"]


@dataclass(frozen=True)
class Slot:
    """A tensor of the skeleton and the place in the full model that it looks at.

    Attributes:
        module: The skeleton's module that holds it.
        name: Its name there.
        source: The full model's module of the same path.
        path: The full name of the tensor in the model.
        cut: Where it lies in the full tensor.
        tie: Slots of the same tie are one tensor.
        is_buffer: Whether it is a buffer, and no parameter.
    """

    module: nn.Module
    name: str
    source: nn.Module
    path: str
    cut: Cut
    tie: int
    is_buffer: bool = False

    def full(self) -> Tensor:
        """Return the full model's tensor as it is now.

        Raises:
            BuildError: If there is none any more.
        """
        tensor = (buffers_of if self.is_buffer else parameters_of)(self.source).get(self.name)
        if tensor is None:
            raise BuildError(
                f"{self.path} is no longer in the full model. Build the SortedNet again after changing it."
            )
        return tensor

    def held(self) -> Tensor | None:
        """Return what the skeleton's module holds."""
        return (buffers_of if self.is_buffer else parameters_of)(self.module).get(self.name)

    def put(self, tensor: Tensor) -> None:
        """Let the skeleton's module hold a tensor: of a parameter a plain one, as `torch.func.functional_call` does."""
        (buffers_of if self.is_buffer else parameters_of)(self.module)[self.name] = tensor


def bind_slot(slot: Slot, private: Private, setting: Setting) -> None:
    """Let a slot look at the full model's tensor as it is now, or at the sub-model's own.

    Args:
        slot: The slot.
        private: Tensors that belong to one sub-model alone.
        setting: The sub-model's setting.

    Raises:
        BuildError: If it has one of its own, of another size than the full model's corner is now.
    """
    own = private.find(setting, slot.path)
    if own is not None and own.shape != slot.cut.shape:
        raise BuildError(
            f"{slot.path} of {setting} is its own, of shape {tuple(own.shape)}, and the full model's was changed to "
            f"another: the sub-model's would be {slot.cut.shape}. Make a new SortedNet of the changed model."
        )
    slot.put(slot.cut.of(slot.full()) if own is None else own)
