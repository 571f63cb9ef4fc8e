"""One cut: where a tensor of a sub-model lies in the full tensor of the same name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cut"]


@dataclass(frozen=True)
class Cut:
    """Where one parameter of a sub-model lies in the full parameter of the same name.

    Args:
        shape: Shape of the sub-model's parameter.
        pieces: For each axis the (start, length) of the pieces that make it up, in the full parameter's units.
    """

    shape: tuple[int, ...]
    pieces: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def is_view(self) -> bool:
        """Whether the cut is one piece along every axis, so that it needs no copy."""
        return all(len(axis) == 1 for axis in self.pieces)

    def of(self, full: Tensor) -> Tensor:
        """Return the sub-model's part of `full`: a view, or where blocks are cut their concatenation."""
        part = full
        for axis, pieces in enumerate(self.pieces):
            if len(pieces) > 1:
                part = torch.cat([part.narrow(axis, start, length) for start, length in pieces], axis)
            elif pieces[0] != (0, full.shape[axis]):
                part = part.narrow(axis, *pieces[0])
        # A view even at full size, so that a compiled block sees the same kind of tensor at every setting.
        return part.view_as(part) if part is full else part

    def runs(self, full_shape: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the (start, length) of the stretches that make up the part, in a full parameter stored row by row.

        Args:
            full_shape: Shape of the full parameter.

        Returns:
            Stretches in units of one number, in the order of the part's own numbers.
        """
        cut = [axis for axis, size in enumerate(full_shape) if self.pieces[axis] != ((0, size),)]
        if not cut:
            yield 0, math.prod(full_shape)
            return
        strides = [math.prod(full_shape[axis + 1 :]) for axis in range(len(full_shape))]
        last = cut[-1]
        indices = [[i for start, length in axis for i in range(start, start + length)] for axis in self.pieces[:last]]
        for outer in itertools.product(*indices):
            offset = sum(index * stride for index, stride in zip(outer, strides, strict=False))
            for start, length in self.pieces[last]:
                yield offset + start * strides[last], length * strides[last]

    def write(self, full: Tensor, part: Tensor) -> None:
        """Write a part back to where it lies in `full`, a tensor of the full parameter's shape."""
        pairs = [(full, part)]
        for axis, pieces in enumerate(self.pieces):
            sizes = [length for _, length in pieces]
            pairs = [
                (region.narrow(axis, start, length), own)
                for region, held in pairs
                for (start, length), own in zip(pieces, torch.split(held, sizes, axis), strict=True)
            ]
        for region, held in pairs:
            region.copy_(held)

    def mark(self, mask: Tensor, value: bool) -> None:
        """Write `value` into the sub-model's part of `mask`, a tensor of the full parameter's shape."""
        regions = [mask]
        for axis, pieces in enumerate(self.pieces):
            regions = [region.narrow(axis, start, length) for region in regions for start, length in pieces]
        for region in regions:
            region.fill_(value)
