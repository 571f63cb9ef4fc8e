"""Early exit: each token is read at the first depth that is sure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from .chance import Chance
from .engine import Engine
from .processing import Confidence, Processing, confidence_of
from .sequences import Sequences
from .statistics import Statistics

__all__ = ["ExitDecoding", "Filling"]

Filling = Literal["exact", "propagate"]


@final
class ExitDecoding:
    """Decodes a batch token by token, each row leaving at the first exit that is sure.

    A batch goes as deep as its least sure row; the others take their tokens from their own exits all the same, so that
    they are, with exact filling, those of decoding alone.

    Args:
        engine: Holds the prompts, not yet advanced.
        sequences: The texts.
        processing: Of logits.
        chance: Of drawn tokens.
        statistics: Counts.
        thresholds: How sure each exit of the engine must be, in (0, 1]; rows end at their own depth in any case.
        confidence: How sure exits are.
        filling: What deeper layers hold of tokens that left before: what they would have computed, computed when it is
            needed (`exact`), or what they make of the exit's state (`propagate`).
        max_waiting: Positions that may wait until all are filled.
    """

    def __init__(
        self,
        engine: Engine,
        sequences: Sequences,
        processing: Processing,
        chance: Chance,
        statistics: Statistics,
        thresholds: Mapping[int, float],
        confidence: Confidence = "probability",
        filling: Filling = "exact",
        max_waiting: int = 32,
    ) -> None:
        self._engine, self._sequences, self._processing = engine, sequences, processing
        self._chance, self._statistics = chance, statistics
        self._thresholds = thresholds
        self._confidence, self._filling, self._max_waiting = confidence, filling, max_waiting

    def run(self) -> None:
        """Decode until every text has ended."""
        engine = self._engine
        new = engine.new
        engine.complete()
        self._statistics.prompt_layer_calls += engine.layer_calls
        newest = self._token(new)
        while self._sequences.active:
            engine.forget()
            engine.push(newest[:, None])
            newest = self._token()

    def _token(self, counts: Sequence[int] | None = None) -> Tensor:
        """Choose the next token of each row and return those of the rows that go on. Shape (M,).

        Args:
            counts: How many positions of each row advance; one where left out.
        """
        engine = self._engine
        rows = engine.rows
        logits: Tensor | None = None
        left, undecided = [0] * rows, torch.ones(rows, dtype=torch.bool)
        for depth in engine.exits:
            if depth not in self._thresholds and depth not in engine.depths:
                continue
            engine.advance(depth)
            read = engine.decoder.logits(engine.hidden(depth, counts))  # (M, 1, V)
            taken = torch.tensor([one == depth for one in engine.depths])
            if depth in self._thresholds:
                sure = confidence_of(read[:, 0], self._confidence) >= self._thresholds[depth]
                taken[: len(sure)] |= sure.cpu()
            taken &= undecided
            logits = self._merged(logits, read, taken)
            left = [depth if now else former for now, former in zip(taken.tolist(), left, strict=True)]
            undecided &= ~taken
            if not undecided.any():
                break
        assert logits is not None
        scores = self._processing(logits, self._sequences)[:, 0]
        tokens = self._chance.pick(scores) if self._processing.sample else scores.argmax(-1)
        self._settle()
        alive = self._sequences.extend([[token] for token in tokens.tolist()], [[one] for one in left], [0] * rows)
        if alive and len(alive) < rows:
            engine.keep(alive)
            tokens = tokens[torch.tensor(alive, dtype=torch.long, device=tokens.device)]
        return tokens

    @staticmethod
    def _merged(logits: Tensor | None, read: Tensor, taken: Tensor) -> Tensor:
        """Put what was read into the rows that take it. `taken` may be longer than `read`, and is False there."""
        if logits is None:
            if bool(taken.all()):
                return read
            logits = read.new_zeros(len(taken), *read.shape[1:])
        rows = taken.nonzero()[:, 0].to(read.device)
        logits[rows] = read[rows]
        return logits

    def _settle(self) -> None:
        """Fill the deeper layers, by propagation or where too much waits."""
        if self._filling == "propagate":
            self._engine.propagate()
        elif self._engine.waiting >= self._max_waiting:
            self._engine.complete()
