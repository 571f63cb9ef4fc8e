"""Chooses how to draft: from which exits, how sure they must be, and how many tokens; none where that is faster.

It measures what layers cost on this machine, and how often each exit agrees with the full model. Both are known before
a token is drawn, so that its choices leave the distribution of the text as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

import torch
from torch import Tensor

__all__ = ["Controller", "Plan"]

_THRESHOLDS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
_MEMORY = 160  # positions
_SAMPLES = 9  # timings
_GROWTH = 0.06  # what one more position adds to a layer's time, before it is measured
_GAIN = 1.03  # how much faster than plain a plan must look
_PRIOR = 2.0  # positions of the acceptance assumed before any was seen
_START = 4  # tokens drafted before anything is known; Valipour et al. start there too


@dataclass(frozen=True)
class Plan:
    """How the next tokens are drafted.

    Attributes:
        exits: Depths that are tried in turn; none where nothing is drafted.
        thresholds: How sure each must be, in [0, 1]; where none is, the full model takes over.
        length: Most tokens drafted.
    """

    exits: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    length: int = 0


@final
class Controller:
    """Estimates costs and agreement, and the plan with the most tokens in a second.

    Args:
        depth: Layers of the full model.
        exits: Depths that may draft, increasing.
        most: Most tokens to draft.
    """

    def __init__(self, depth: int, exits: Sequence[int], most: int) -> None:
        self.exits = tuple(exits)
        self._depth, self._most = depth, most
        # Each is replaced whole, and never changed: another thread may be planning with the former one.
        self._layer: Mapping[int, Sequence[float]] = {}
        self._reading: Mapping[int, Sequence[float]] = {}
        self._drafting_times: Sequence[float] = ()
        self._observed = torch.zeros(2, 0, len(exits))  # confidence and agreement
        self._drafting = True

    def timed(
        self,
        layers: Mapping[int, tuple[float, int]],
        reading: Mapping[int, tuple[float, int]],
        drafting: tuple[float, int],
    ) -> None:
        """Take in how long things took, as seconds and how many there were.

        Args:
            layers: Layers, by positions of a row.
            reading: The full model's readings, by positions of a row.
            drafting: Drafted tokens, without the full model's layers.
        """
        if drafting[1]:
            self._drafting_times = (*self._drafting_times, drafting[0] / drafting[1])[-_SAMPLES:]
        self._layer, self._reading = _with(self._layer, layers), _with(self._reading, reading)

    def observe(self, confidence: Tensor, agreement: Tensor) -> None:
        """Take in how sure each exit was, and how likely its token would have been accepted. Both of shape (N, E)."""
        observed = torch.stack([confidence.float().cpu(), agreement.float().cpu()])
        self._observed = torch.cat([self._observed, observed], 1)[:, -_MEMORY:]

    def _cost(self, kept: Mapping[int, Sequence[float]], count: float) -> float:
        """Return the seconds for `count` positions, between or beyond those measured."""
        known = sorted((one, median(times)) for one, times in kept.items())
        if not known:
            return 1.0 + _GROWTH * count
        below = [(one, seconds) for one, seconds in known if one <= count]
        above = [(one, seconds) for one, seconds in known if one > count]
        if not below:
            return above[0][1]
        (left, least) = below[-1]
        if not above:
            return least * (1 + _GROWTH * (count - left))
        (right, most) = above[0]
        return least + (most - least) * (count - left) / (right - left)

    @property
    def probe(self) -> Plan:
        """A short plan, to see how drafting fares."""
        return Plan(self.exits[:1], (0.0,), min(2, self._most))

    def plan(self, rows: int, left: int) -> Plan:
        """Choose for the next tokens.

        Args:
            rows: Sequences of the batch. Rows of a batch draft together, so that thresholds help a single one alone.
            left: Tokens that are still wanted; no more are drafted than can be used.

        Returns:
            The plan; without any exit where plain decoding looks faster.
        """
        most = min(self._most, left - 1)
        if most < 1:
            return Plan()
        confidence, agreement = self._observed
        if not len(confidence):
            return Plan(self.exits[:1], (0.0,), min(_START, most))
        thresholds = torch.tensor(_THRESHOLDS if rows == 1 else _THRESHOLDS[:1])
        read, layer = self._cost(self._reading, 1), self._cost(self._layer, 1)
        plain = 1 / (self._depth * layer + read)
        best, speed = Plan(), plain * (1.0 if self._drafting else _GAIN)
        for first in range(len(self.exits)):
            found = self._fastest(confidence[:, first:], agreement[:, first:], self.exits[first:], thresholds, most)
            if found[1] > speed:
                best, speed = found
        self._drafting = bool(best.exits)
        return best

    def _fastest(
        self, confidence: Tensor, agreement: Tensor, exits: Sequence[int], thresholds: Tensor, most: int
    ) -> tuple[Plan, float]:
        """Return the best plan that begins at the first of these exits, and its tokens in a second."""
        sure = (confidence[..., None] >= thresholds).float()  # (N, E, S)
        unsure = torch.cat([torch.ones_like(sure[:, :1]), (1 - sure).cumprod(1)], 1)  # before each exit
        leaves = sure * unsure[:, :-1]  # (N, E, S): the exit at which a token leaves
        share = leaves.mean(0).cumsum(0)  # (E, S): leaves at this exit or before
        agreed = (leaves * agreement[..., None]).mean(0).cumsum(0)
        weight = _PRIOR / len(confidence)
        accepted = (agreed + 0.5 * weight * share) / (1 + weight)  # drafted, and accepted
        # What one drafted token costs: layers, and a reading at every exit tried.
        depths = torch.tensor([0, *exits], dtype=torch.float)
        tried = unsure[:, :-1].mean(0)  # (E, S)
        step = self._cost(self._layer, 1) * (tried * depths.diff()[:, None]).cumsum(0)
        drafting = median(self._drafting_times) if self._drafting_times else self._cost(self._reading, 1)
        step = step + drafting * tried.cumsum(0)
        lengths = torch.arange(1, most + 1)
        powers = torch.arange(most + 1)
        passes = (share[..., None] ** powers).cumsum(-1)[..., 1:]  # (E, S, K): positions in a round
        tokens = (accepted[..., None] ** powers).cumsum(-1)[..., 1:]
        counts = range(1, most + 2)
        deep = torch.tensor([self._cost(self._layer, count) for count in counts])
        reading = torch.tensor([self._cost(self._reading, count) for count in counts])
        place = (passes - 1).clamp(0, most)
        low = place.floor().long().clamp(max=most - 1)
        between = place - low

        def at(costs: Tensor) -> Tensor:
            return costs[low] + (costs[low + 1] - costs[low]) * between

        # What waits at the first exit passes all others too, though a token that went deeper has passed some already.
        rest = self._depth - exits[0]
        # The last token of a full draft passes the first layers without being read.
        unread = (share[..., None] ** lengths) * drafting
        seconds = passes * step[..., None] - unread + rest * at(deep) + at(reading)
        speed = tokens / seconds
        index = int(speed.argmax())
        last, threshold, length = torch.unravel_index(torch.tensor(index), speed.shape)
        chosen = tuple(exits[: int(last) + 1])
        plan = Plan(chosen, (float(thresholds[threshold]),) * len(chosen), int(lengths[length]))
        return plan, float(speed.flatten()[index])


def _with(kept: Mapping[int, Sequence[float]], found: Mapping[int, tuple[float, int]]) -> dict[int, Sequence[float]]:
    """Return the timings with one more, the mean of those found, for each number of positions found."""
    more = {count: (*kept.get(count, ()), seconds / number)[-_SAMPLES:] for count, (seconds, number) in found.items()}
    return {**kept, **more}
