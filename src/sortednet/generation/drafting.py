"""Who drafts: the first layers of the model itself, or a smaller model beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor

from .controller import Plan
from .engine import Engine
from .processing import Confidence, confidence_of
from .sequences import Sequences

__all__ = ["Drafter", "ExitDrafter", "ModelDrafter"]


class Drafter(ABC):
    """Gives logits for the next drafted token, before the full model has seen the tokens drafted so far."""

    partial = False
    """Whether only some tokens are drafted."""

    @abstractmethod
    def read(self, newest: Tensor, plan: Plan) -> tuple[Tensor, int] | None:
        """Return the logits behind the newest token, and the exit that gave them; None where none is sure enough.

        Args:
            newest: The newest token of each row, drafted ones included; pushed to the engine already. Shape (M,).
            plan: The exits and how sure they must be.

        Returns:
            Logits of shape (M, 1, V), and a depth.
        """

    def judged(self, lengths: Sequence[int]) -> None:  # noqa: B027
        """Take note of how many tokens the full model has accepted and run, in each row."""

    def keep(self, rows: Sequence[int]) -> None:  # noqa: B027
        """Forget all rows but these."""

    def prepare(self) -> None:  # noqa: B027
        """Run the prompts."""


def _is_sure(logits: Tensor, threshold: float, measure: Confidence) -> bool:
    """Decide from the distribution, before a token is drawn from it; half of the rows decide for all."""
    return threshold <= 0 or float((confidence_of(logits, measure) >= threshold).float().mean()) >= 0.5


@final
class ExitDrafter(Drafter):
    """Drafts at exits of the engine, which are tried in turn.

    Args:
        engine: The full model's.
        confidence: How sure an exit is.
        shortlist: The only tokens that are drafted.
    """

    def __init__(self, engine: Engine, confidence: Confidence, shortlist: Tensor | int | None = None) -> None:
        self._engine, self._confidence, self._shortlist = engine, confidence, shortlist
        self.partial = shortlist is not None

    def read(self, newest: Tensor, plan: Plan) -> tuple[Tensor, int] | None:
        for depth, threshold in zip(plan.exits, plan.thresholds, strict=True):
            self._engine.advance(depth)
            logits = self._engine.decoder.logits(self._engine.hidden(depth), self._shortlist)
            if _is_sure(logits, threshold, self._confidence):
                return logits, depth
        return None


@final
class ModelDrafter(Drafter):
    """Drafts with a smaller model, such as a narrower sub-model, which has a cache of its own.

    Args:
        engine: The smaller model's, the prompts pushed.
        sequences: The texts.
        confidence: How sure it is.
        shortlist: The only tokens that are drafted.
    """

    def __init__(
        self, engine: Engine, sequences: Sequences, confidence: Confidence, shortlist: Tensor | int | None = None
    ) -> None:
        self._engine, self._sequences = engine, sequences
        self._confidence, self._shortlist = confidence, shortlist
        self.partial = shortlist is not None
        self._lengths = list(engine.filled[0])
        self._behind = True

    def prepare(self) -> None:
        self._engine.complete()

    def read(self, newest: Tensor, plan: Plan) -> tuple[Tensor, int] | None:
        engine, counts = self._engine, None
        engine.forget()
        if self._behind:
            # Of the text, what it has not seen yet: the newest token, and what was accepted behind its last draft.
            counts = [length + 1 - seen for length, seen in zip(self._lengths, engine.filled[0], strict=True)]
            engine.push(self._sequences.last(counts), counts)
            self._behind = False
        else:
            engine.push(newest[:, None])
        engine.complete()
        logits = engine.decoder.logits(engine.hidden(engine.exits[-1], counts), self._shortlist)
        sure = not plan.thresholds or _is_sure(logits, plan.thresholds[0], self._confidence)
        return (logits, 0) if sure else None

    def judged(self, lengths: Sequence[int]) -> None:
        self._lengths, self._behind = list(lengths), True
        self._engine.roll_back([min(pair) for pair in zip(lengths, self._engine.filled[0], strict=True)])

    def keep(self, rows: Sequence[int]) -> None:
        self._lengths = [self._lengths[row] for row in rows]
        self._engine.keep(rows)
