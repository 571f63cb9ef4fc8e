"""The lazy-depth engine: every position has passed some layers, and goes deeper only when something needs it to.

Early exit, self-speculation and fixed depth are policies over one primitive, `advance`. A row that goes deeper takes
all its earlier positions that wait there with it, in the same matrix product. So at every layer the keys present are
those of the first positions, without a gap, and nothing is ever computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor

from .adapters import Decoder
from .cache import Cache, causal_mask
from .statistics import Statistics

__all__ = ["Engine"]


@final
class Engine:
    """The tokens' hidden states and caches of a batch while it is decoded.

    Args:
        decoder: The model, taken apart.
        exits: Depths at which hidden states may be read or wait, increasing; the last one is the greatest depth used.
        depths: The depth at which each row is complete, decreasing along the batch. Length B.
        most: Positions of a row that will be needed at most.
        statistics: Counts the layers that ran.
    """

    def __init__(
        self, decoder: Decoder, exits: Sequence[int], depths: Sequence[int], most: int, statistics: Statistics
    ) -> None:
        assert list(depths) == sorted(depths, reverse=True), depths
        assert depths[0] == exits[-1], exits
        self.decoder = decoder
        self.exits = list(exits)
        self.depths = list(depths)
        self.cache = Cache(exits[-1], len(depths), most)
        self.seconds: dict[int, tuple[float, int]] = {}
        self.timed = True
        self._statistics = statistics
        self._bounds = [0, *exits]
        # Behind how many positions each row is at each boundary, the embedding first.
        self.filled = [[0] * len(depths) for _ in self._bounds]
        self._tokens: list[Tensor] = []
        self._waiting: list[Tensor | None] = [None] * len(self._bounds)
        self._latest: list[list[Tensor]] = [[] for _ in self._bounds]
        self.layer_calls = 0
        self.spent = 0.0
        self._known: tuple[tuple[int, ...], dict[str, Any]] | None = None

    @property
    def rows(self) -> int:
        """The number of sequences, B."""
        return len(self.depths)

    @property
    def waiting(self) -> int:
        """How many positions of a row wait before the last layers, at most."""
        return max(top - bottom for top, bottom in zip(self.filled[0], self._complete(), strict=True))

    def _complete(self) -> list[int]:
        return [self.filled[self._bounds.index(depth)][row] for row, depth in enumerate(self.depths)]

    @property
    def new(self) -> list[int]:
        """How many positions of each row wait before the first layer."""
        return [top - bottom for top, bottom in zip(self.filled[0], self.filled[1], strict=True)]

    def push(self, tokens: Tensor, counts: Sequence[int] | None = None) -> None:
        """Add tokens behind each row. They wait before the first layer.

        Args:
            tokens: Shape (B, T).
            counts: How many of its tokens each row has, at least 1, the rest being anything; T where left out.
        """
        self._tokens.append(tokens)
        self.filled[0] = [
            length + count
            for length, count in zip(self.filled[0], counts or [tokens.shape[1]] * self.rows, strict=True)
        ]

    def take_in(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Begin with the keys and values that every layer holds of the first positions. Shape (B, H, T, D) each."""
        count = layers[0][0].shape[2]
        self.cache.aim([0] * self.rows, count, self.decoder.device)
        for place, (key, value) in enumerate(layers[: self.exits[-1]]):
            self.cache.update(key, value, place)
        self.filled = [[count] * self.rows for _ in self._bounds]

    def advance(self, depth: int) -> None:
        """Take every position that waits before this depth to it, as far as its row goes."""
        for place in range(1, self._bounds.index(depth) + 1):
            self._advance_one(place)

    def complete(self) -> None:
        """Take every position to its row's own depth."""
        self.advance(self.exits[-1])

    def _advance_one(self, place: int) -> None:
        """Take what waits at the boundary before `place` to it."""
        rows = sum(depth >= self._bounds[place] for depth in self.depths)
        starts, ends = self.filled[place][:rows], self.filled[place - 1][:rows]
        count = max(end - start for start, end in zip(starts, ends, strict=True))
        if count == 0:
            return
        given = self._prepared(starts, count)
        if place == 1:
            tokens = torch.cat(self._tokens, 1) if len(self._tokens) > 1 else self._tokens[0]
            self._tokens = []
            hidden = self.decoder.embed(tokens, given["position_ids"])
        else:
            held = self._waiting[place - 1]
            assert held is not None
            # Prompts wait from the left, as wide as the longest of all rows.
            hidden = held[:rows, :count] if not any(starts) else held[:rows]
        assert hidden.shape[1] == count, "what waits is of one count, or was pushed at once"
        first, last = self._bounds[place - 1], self._bounds[place]
        began = self.clock()
        hidden = self.decoder.run(first, last, hidden, given)
        self._count(count, last - first, self.clock() - began, sum(ends) - sum(starts))
        if place > 1:
            self._waiting[place - 1] = None
        self._latest[place].append(hidden)
        if place + 1 < len(self._bounds):
            before = self._waiting[place]
            # What ends here leaves at once; what goes deeper waits, as it is: the final norm is of the reading.
            self._waiting[place] = hidden if before is None else torch.cat([before[:rows], hidden], 1)
        self.filled[place][:rows] = ends

    def _prepared(self, starts: list[int], count: int) -> dict[str, Any]:
        """Return what layers get for new positions, and aim the cache there. The same places need it but once."""
        key = (*starts, count)
        if self._known is None or self._known[0] != key:
            device = self.decoder.device
            places = torch.tensor(starts, device=device)[:, None] + torch.arange(count, device=device)
            if self.decoder.learned_positions:
                # Places behind a row's end are read by nobody, and the table of positions has no entry for them.
                places = places.clamp(max=self.decoder.positions - 1)
            self.cache.aim(starts, count, device)
            mask = causal_mask(starts, count, device, self.decoder.dtype)
            self._known = key, self.decoder.given(places, mask, self.cache)
        return self._known[1]

    def clock(self) -> float:
        """Return the time in seconds, once the device has done what it was given, if this is timed."""
        if self.timed and self.decoder.device.type != "cpu":
            torch.accelerator.synchronize(self.decoder.device)
        return perf_counter()

    def _count(self, count: int, layers: int, seconds: float, positions: int) -> None:
        if self.timed:
            spent, times = self.seconds.get(count, (0.0, 0))
            self.seconds[count] = (spent + seconds, times + layers)
            self.spent += seconds
        self.layer_calls += layers
        self._statistics.ran(layers, positions)

    def forget(self) -> None:
        """Let go of what was read so far, and of nothing that waits."""
        self._latest = [[] for _ in self._bounds]

    def hidden(self, depth: int, counts: Sequence[int] | None = None) -> Tensor:
        """Return the states of each row's newest position behind a depth.

        Args:
            depth: One of the exits.
            counts: How many of the positions that advanced last are the row's own; all where left out.

        Returns:
            Shape (M, 1, W), for the M rows that reach that depth.
        """
        latest = self._latest[self._bounds.index(depth)][-1]
        if counts is None:
            return latest[:, -1:]
        rows = torch.arange(latest.shape[0], device=latest.device)
        return latest[rows, torch.tensor(counts[: latest.shape[0]], device=latest.device) - 1][:, None]

    def advanced(self, depth: int) -> Tensor:
        """Return the states of all that reached a depth since `forget`. Shape (M, T, W)."""
        latest = self._latest[self._bounds.index(depth)]
        return latest[0] if len(latest) == 1 else torch.cat(latest, 1)

    def final(self, counts: Sequence[int] | None = None) -> Tensor:
        """Return the states of every row behind its own depth: all since `forget`, or the newest of so many positions.

        Returns:
            Shape (B, T, W), or (B, 1, W).
        """
        found = []
        for depth in sorted(set(self.depths), reverse=True):
            deeper = sum(one > depth for one in self.depths)
            found.append((self.advanced(depth) if counts is None else self.hidden(depth, counts))[deeper:])
        return found[0] if len(found) == 1 else torch.cat(found)

    def propagate(self) -> None:
        """Fill the deeper layers' keys and values from the states that wait, without running the layers.

        Source:
            Schuster et al. (2022), arXiv:2207.07061v2, Sec. 3.1: state propagation.
        """
        at = next((place for place, held in enumerate(self._waiting) if held is not None), None)
        held = None if at is None else self._waiting[at]
        if at is None or held is None:
            return
        for place in range(at + 1, len(self._bounds)):
            rows = sum(one >= self._bounds[place] for one in self.depths)
            starts, ends = self.filled[place][:rows], self.filled[at][:rows]
            count = max((end - start for start, end in zip(starts, ends, strict=True)), default=0)
            if not count:
                continue
            given = self._prepared(starts, count)
            self.decoder.write(self._bounds[place - 1], self._bounds[place], held[:rows, -count:], given, self.cache)
            self.filled[place][:rows] = ends
        self._waiting[at] = None

    def roll_back(self, lengths: Sequence[int]) -> None:
        """Forget every position behind these lengths. Nothing may wait behind them."""
        self._tokens = []
        for place in range(len(self._bounds)):
            self.filled[place] = [min(one, length) for one, length in zip(self.filled[place], lengths, strict=True)]
            self._waiting[place] = None
        assert all(one == length for one, length in zip(self._complete(), lengths, strict=True))

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which stay in order."""
        if list(rows) == list(range(self.rows)):
            return
        index = torch.tensor(rows, dtype=torch.long, device=self.decoder.device)
        self.cache.keep(rows)
        self._known = None
        self._tokens = [tokens[index] for tokens in self._tokens]
        for place, held in enumerate(self._waiting):
            if held is not None:
                self._waiting[place] = held[index[index < held.shape[0]]]
        self.depths = [self.depths[row] for row in rows]
        self.filled = [[lengths[row] for row in rows] for lengths in self.filled]
        deepest = self._bounds.index(self.depths[0]) if rows else 0
        self._bounds, self.exits = self._bounds[: deepest + 1], self.exits[:deepest]
        self.filled, self._waiting = self.filled[: deepest + 1], self._waiting[: deepest + 1]
        self.forget()
        if rows:
            self._waiting[deepest] = None
