"""Which axes of a model's inputs take any size, and inputs of other sizes to check it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ..errors import ExportError

__all__ = ["Axes"]

_BATCH, _LENGTH, _TARGET = "batch", "sequence", "decoder_sequence"
_KNOWN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "position_ids"), (_BATCH, _LENGTH)),
    **dict.fromkeys(("inputs_embeds", "special_tokens_mask", "bbox"), (_BATCH, _LENGTH)),
    **dict.fromkeys(("decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds"), (_BATCH, _TARGET)),
    "input_values": (_BATCH, _LENGTH),
}
"""The axes of inputs that transformers knows by these names."""


@final
@dataclass(frozen=True)
class Axes:
    """The axes that take any size.

    Attributes:
        names: The names of axes, by input and axis.
        sizes: The size that an axis of each name has in the inputs.
    """

    names: Mapping[str, Mapping[int, str]]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], wanted: Mapping[str, Mapping[int, str]] | None) -> Axes:
        """Return the axes that were asked for, or where that is None those that the inputs are known by.

        Raises:
            ExportError: If there is no such input or axis, or two axes of one name differ in size.
        """
        names = _known(tensors) if wanted is None else wanted
        sizes: dict[str, int] = {}
        for name, axes in names.items():
            if name not in tensors:
                raise ExportError(f"dynamic_axes names the input {name!r}. Choose among {', '.join(tensors)}.")
            shape = tuple(tensors[name].shape)
            for axis, label in axes.items():
                if axis not in range(len(shape)):
                    raise ExportError(
                        f"dynamic_axes names axis {axis} of {name}, which has the shape {shape}. Count from 0 to "
                        f"{len(shape) - 1}."
                    )
                if sizes.setdefault(label, shape[axis]) != shape[axis]:
                    raise ExportError(
                        f"Axis {axis} of {name} has the size {shape[axis]}, and another axis called {label!r} "
                        f"{sizes[label]}. Give axes of different sizes different names in dynamic_axes."
                    )
        return cls({name: dict(axes) for name, axes in names.items() if axes}, sizes)

    def traced(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs to follow the model with: a size of 1 would be taken for a constant."""
        return self._at(tensors, {label: max(2, size) for label, size in self.sizes.items()})

    def others(self, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs, and others: each axis at another size, all of them, a batch of one."""
        # One less, since a model may have a largest size.
        changed = {label: size - 1 if size > 2 else size + 1 for label, size in self.sizes.items()}
        alone = [{label: size} for label, size in changed.items()] if len(changed) > 1 else []
        first = {label: 1 for axes in self.names.values() for axis, label in axes.items() if axis == 0}
        tried: list[dict[str, int]] = []
        for sizes in ({}, *alone, changed, first):
            if {**self.sizes, **sizes} not in tried:
                tried.append({**self.sizes, **sizes})
                yield self._at(tensors, sizes)

    def refuse_fixed(self, fixed: Mapping[tuple[str, int], int]) -> None:
        """Refuse a model that fixes an axis.

        Args:
            fixed: The sizes of fixed axes, by input and axis; those that were not to take any size are left out.

        Raises:
            ExportError: If it does.
        """
        found = {place: size for place, size in fixed.items() if place[1] in self.names.get(place[0], {})}
        for (name, axis), size in found.items():
            labels = {self.names[one][place] for one, place in found}
            raise ExportError(
                f"The model fixes axis {axis} of {name}, {self.names[name][axis]!r}, at the size {size}. Name it at "
                "every input that has it, let the forward read the size from its inputs, or give inputs of that size "
                f"with {self._without(labels)}."
            )

    def remedy(self) -> str:
        """Say what to give where some axis may be fixed in the model."""
        return f"Try {self._without(set(self.sizes))} if a shape is fixed in the model." if self.names else ""

    def _without(self, labels: set[str]) -> str:
        kept = {
            name: {axis: label for axis, label in axes.items() if label not in labels}
            for name, axes in self.names.items()
        }
        return f"dynamic_axes={ {name: axes for name, axes in kept.items() if axes} }"

    def _at(self, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Repeat or leave out what lies along axes until they have other sizes."""
        made = dict(tensors)
        for name, axes in self.names.items():
            for axis, label in axes.items():
                one, size = made[name], sizes.get(label, self.sizes[label])
                if size != one.shape[axis]:
                    places = torch.arange(size, device=one.device) % one.shape[axis]
                    made[name] = one.index_select(axis, places)
        return made


def _known(tensors: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    """Return the axes of the inputs by their names, and the first ones that are as long as the first tensor's."""
    batch = next(one for one in tensors.values() if one.dim()).shape[0]
    found: dict[str, dict[int, str]] = {}
    for name, tensor in tensors.items():
        labels = _KNOWN.get(name, (_BATCH,))[: tensor.dim()]
        found[name] = {axis: one for axis, one in enumerate(labels) if one != _BATCH or tensor.shape[axis] == batch}
    return found
