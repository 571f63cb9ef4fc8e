"""The texts of a batch while they grow: tokens, where each ends, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from .statistics import Emitted, Statistics

__all__ = ["Ending", "Sequences"]


@dataclass(frozen=True)
class Ending:
    """When a text ends.

    Attributes:
        length: Tokens of the longest text, the prompt and its padding included.
        ids: Tokens that end a text, and belong to it.
        criteria: Other stopping criteria, called as transformers calls them, with one row at a time.
    """

    length: int
    ids: frozenset[int] = frozenset()
    criteria: Sequence[Callable[..., Any]] = ()


@final
class Sequences:
    """Prompts and what was generated behind them, drafted tokens too as long as they are not judged.

    Args:
        prompts: As the caller gave them, padding included. Shape (B, P), int64.
        ending: When a text ends.
        statistics: Counts the tokens.
        told: Called with every token as soon as it belongs to its text.
        streamer: Of transformers, for a single row: gets every token as it is known, and the end.
    """

    def __init__(
        self,
        prompts: Tensor,
        ending: Ending,
        statistics: Statistics,
        told: Callable[[Emitted], None] | None = None,
        streamer: Any = None,
        room: int = 64,
    ) -> None:
        rows, length = prompts.shape
        self.tokens = torch.cat([prompts, prompts.new_zeros(rows, ending.length - length + room)], 1)
        self.lengths = [length] * rows
        self.active = list(range(rows))
        self._prompt, self._ending = length, ending
        self._statistics, self._told, self._streamer = statistics, told, streamer
        statistics.texts += rows

    @property
    def left(self) -> int:
        """How many tokens the row that needs most may still get."""
        return max(self._ending.length - self.lengths[row] for row in self.active)

    def draft(self, place: int, tokens: Tensor) -> None:
        """Write a drafted token behind each active row, `place` tokens behind its text. Shape (M,)."""
        ends = torch.tensor([self.lengths[row] + place for row in self.active], device=self.tokens.device)
        self.tokens[torch.tensor(self.active, device=self.tokens.device), ends] = tokens

    def last(self, counts: Sequence[int]) -> Tensor:
        """Return the last tokens of each active row, so many of each, from the left. Shape (M, T), T the most."""
        found = self.tokens.new_zeros(len(self.active), max(counts))
        for place, (row, count) in enumerate(zip(self.active, counts, strict=True)):
            found[place, :count] = self.tokens[row, self.lengths[row] - count : self.lengths[row]]
        return found

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether every one of these tokens ends its text."""
        return all(token in self._ending.ids for token in tokens)

    def extend(
        self, tokens: Sequence[Sequence[int]], exits: Sequence[Sequence[int]], drafted: Sequence[int]
    ) -> list[int]:
        """Add judged tokens to each active row, one by one, up to where its text ends.

        Args:
            tokens: Of each active row, at least one.
            exits: The depth that chose each of them.
            drafted: How many of a row's tokens were drafted.

        Returns:
            The indices, among the rows that were active, of those that still are.
        """
        alive = []
        for place, row in enumerate(list(self.active)):
            ended = False
            for position, (token, exit_) in enumerate(zip(tokens[place], exits[place], strict=True)):
                ended = self._add(row, token, exit_, position < drafted[place])
                if ended:
                    break
            if not ended:
                alive.append(place)
        self.active = [self.active[place] for place in alive]
        if not self.active and self._streamer is not None:
            self._streamer.end()
        return alive

    def _add(self, row: int, token: int, exit_: int, drafted: bool) -> bool:
        """Add one token, and return whether the text ends with it."""
        self.tokens[row, self.lengths[row]] = token
        self.lengths[row] += 1
        counts = self._statistics
        counts.tokens += 1
        counts.by_exit[exit_] += 1
        counts.accepted += drafted
        if self._streamer is not None:
            self._streamer.put(torch.tensor([token]))
        if self._told is not None:
            self._told(Emitted(row, token, exit_, drafted))
        if token in self._ending.ids or self.lengths[row] >= self._ending.length:
            return True
        text = self.tokens[row : row + 1, : self.lengths[row]]
        return any(bool(torch.as_tensor(one(text, None)).any()) for one in self._ending.criteria)

    def result(self, padding: int) -> Tensor:
        """Return the texts, padded behind their ends. Shape (B, T), T that of the longest."""
        longest = max(self.lengths)
        for row, length in enumerate(self.lengths):
            self.tokens[row, length:longest] = padding
        return self.tokens[:, :longest].clone()
