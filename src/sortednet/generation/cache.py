"""Keys and values: preallocated, growing, with rows of different lengths, rolled back by forgetting a length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

__all__ = ["Cache", "causal_mask"]

_LEAST = 64  # positions
_STEP = 8  # positions at a time, where more are needed than was said


class _Written(Exception):  # noqa: N818
    """Ends a layer once its keys and values are written."""


@final
class Cache:
    """The keys and values of every layer, each row of the batch with its own length.

    What lies behind a row's length is stale and hidden by the mask, so that rolling back moves no data. Layers call
    `update` as they call transformers' own caches.

    Args:
        layers: Number of layers.
        rows: Number of sequences, B.
        most: Positions that will be needed at most; more are allocated where that was too few.
    """

    def __init__(self, layers: int, rows: int, most: int) -> None:
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._rows, self._most = rows, most
        self._rows_now = rows
        self._start: int | None = 0
        self._index: tuple[Tensor, Tensor] | None = None
        self._end = 0
        self._only_write = False

    def aim(self, starts: Sequence[int], count: int, device: torch.device) -> None:
        """Say where the next updates write.

        Args:
            starts: For the first rows of the batch the position of the first new key, at least 0. Length M <= B.
            count: How many positions are new, T.
            device: Where the keys are.
        """
        self._end = max(starts) + count
        self._rows_now = len(starts)
        self._start = starts[0] if len(set(starts)) == 1 else None
        if self._start is None:
            first = torch.tensor(starts, device=device)
            self._index = (
                torch.arange(len(starts), device=device)[:, None],
                first[:, None] + torch.arange(count, device=device),
            )

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new positions, and return those of all positions so far.

        Args:
            key: Shape (M, H, T, D).
            value: Shape (M, H, T, D).
            layer: The layer's index.

        Returns:
            Keys and values, both of shape (M, H, S, D), S the longest row's length.
        """
        held = self._room(layer, key, value)
        for buffer, new in zip(held, (key, value), strict=True):
            if self._start is not None:
                buffer[: self._rows_now, :, self._start : self._end] = new
            else:
                assert self._index is not None
                buffer[self._index[0], :, self._index[1]] = new.transpose(1, 2)  # (M, T, H, D)
        if self._only_write:
            raise _Written
        keys, values = held
        return keys[: self._rows_now, :, : self._end], values[: self._rows_now, :, : self._end]

    def write_only(self, layer: Any, hidden: Tensor, given: dict[str, Any]) -> None:
        """Run a layer only as far as its keys and values."""
        self._only_write = True
        try:
            layer(hidden, **given)
        except _Written:
            pass
        finally:
            self._only_write = False

    def _room(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        held = self._held[layer]
        if held is not None and held[0].shape[2] >= self._end:
            return held
        room = min(max(2 * self._end, _LEAST), max(self._most, self._end + _STEP))

        def grown(new: Tensor, place: int) -> Tensor:
            # Zeros, for what is hidden by the mask is still multiplied by 0, and 0 times nan is nan.
            buffer = new.new_zeros(self._rows, new.shape[1], room, new.shape[3])
            if held is not None:
                buffer[:, :, : held[place].shape[2]] = held[place]
            return buffer

        made = grown(key, 0), grown(value, 1)
        self._held[layer] = made
        return made

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, in this order."""
        self._rows = len(rows)
        for layer, held in enumerate(self._held):
            if held is not None:
                index = torch.tensor(rows, device=held[0].device)
                self._held[layer] = (held[0][index], held[1][index])

    def drain(self, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give each layer's keys and values at the first positions away. Shape (B, H, length, D) each."""
        for layer, held in enumerate(self._held):
            if held is not None:
                self._held[layer] = None
                yield held[0][:, :, :length], held[1][:, :, :length]


def causal_mask(starts: Sequence[int], count: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """Return the additive mask for new positions behind rows of different lengths.

    It is additive, which every attention of transformers takes as such; a boolean one is added as 0 and 1 by some.

    Args:
        starts: Length of each row before the new positions. Length B.
        count: New positions of each row, T.
        device: Where to make it.
        dtype: Of the hidden states.

    Returns:
        Shape (B, 1, T, S), or (1, 1, T, S) where all rows are of one length, S the longest row's length; 0 where a
        key may be seen, the least number elsewhere. None where every key may be seen by its row's single query.
    """
    same = len(set(starts)) == 1
    if same and count == 1:
        return None
    first = torch.tensor(starts[:1] if same else starts, device=device)
    queries = first[:, None] + torch.arange(count, device=device)  # (B, T)
    hidden = torch.arange(max(starts) + count, device=device) > queries[:, None, :, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
