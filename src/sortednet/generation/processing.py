"""From logits to distributions: transformers' processors, each position with its own text before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Literal, final

import torch
from torch import Tensor

from ..errors import ConfigError
from .sequences import Sequences

__all__ = ["CONFIDENCES", "Confidence", "Processing", "confidence_of"]

Confidence = Literal["probability", "margin", "entropy"]
CONFIDENCES: tuple[Confidence, ...] = ("probability", "margin", "entropy")

# Of transformers: what reads the scores alone, so that all positions can be processed at once.
_OF_SCORES = (
    "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper", "TypicalLogitsWarper",
    "EpsilonLogitsWarper", "EtaLogitsWarper", "LogitNormalization", "InfNanRemoveLogitsProcessor", "TopHLogitsWarper",
)  # fmt: skip


def confidence_of(logits: Tensor, measure: Confidence) -> Tensor:
    """Return how sure logits are, in [0, 1].

    Args:
        logits: Shape (..., V).
        measure: The top `probability`, its `margin` to the second, or 1 minus the `entropy` over that of no knowledge.

    Returns:
        Shape (...).

    Raises:
        ConfigError: If the measure is unknown.

    Source:
        Schuster et al. (2022), arXiv:2207.07061v2, Sec. 3.5, for the margin.

    Example:
        >>> confidence_of(torch.tensor([0.6, 0.3, 0.1]).log(), "margin")
        tensor(0.3000)
    """
    probabilities = logits.float().softmax(-1)
    if measure == "probability":
        return probabilities.amax(-1)
    if measure == "margin":
        best = probabilities.topk(2, -1).values
        return best[..., 0] - best[..., 1]
    if measure == "entropy":
        entropy: Tensor = torch.special.entr(probabilities).sum(-1)
        return 1 - entropy / math.log(logits.shape[-1])
    raise ConfigError(f"confidence={measure!r} is unknown. Choose one of {', '.join(CONFIDENCES)}.")


@final
class Processing:
    """Applies logits processors to several positions of several rows.

    Args:
        processors: As transformers prepared them: called with the texts (B, T) and scores (B, V).
        sample: Whether tokens are drawn; the most probable is taken otherwise.
    """

    def __init__(self, processors: Sequence[Callable[..., Any]], sample: bool) -> None:
        self._processors = list(processors)
        self._of_scores = all(type(one).__name__ in _OF_SCORES for one in processors)
        self.sample = sample

    def __call__(self, logits: Tensor, sequences: Sequences, place: int = 0) -> Tensor:
        """Process logits.

        Args:
            logits: Shape (M, T, V), float32; the first ones at `place` drafted tokens behind each active row's text.
            sequences: The texts, drafted tokens included.
            place: See `logits`.

        Returns:
            Logits, or probabilities where tokens are drawn. Shape (M, T, V).
        """
        if self._processors:
            logits = self._processed(logits, sequences, place)
        return logits.softmax(-1) if self.sample else logits

    def roughly(self, logits: Tensor) -> Tensor:
        """Process logits of any positions by what reads the scores alone, for an estimate. Shape (..., V)."""
        if self._of_scores:
            logits = self._by_scores(logits)
        return logits.softmax(-1) if self.sample else logits

    def _by_scores(self, logits: Tensor) -> Tensor:
        scores = logits.reshape(-1, logits.shape[-1]).clone()
        for one in self._processors:
            scores = one(None, scores)
        return scores.view(logits.shape)

    def _processed(self, logits: Tensor, sequences: Sequences, place: int) -> Tensor:
        if self._of_scores:
            return self._by_scores(logits)
        rows, positions, _ = logits.shape
        processed = torch.empty_like(logits)
        texts = sequences.tokens
        groups: dict[int, list[tuple[int, int]]] = {}
        for row, position in product(range(rows), range(positions)):
            length = sequences.lengths[sequences.active[row]] + place + position
            groups.setdefault(length, []).append((row, position))
        for length, members in groups.items():
            # Some processors know the rows of the call by their index. So they get all rows, those of this length in
            # their places; what is in the other rows does not matter.
            for position in {position for _, position in members}:
                found = [row for row, one in members if one == position]
                index = torch.tensor([sequences.active[row] for row in found], device=logits.device)
                scores = logits[:1, position].repeat(len(texts), 1)
                scores[index] = logits[found, position]
                for one in self._processors:
                    scores = one(texts[:, :length], scores)
                processed[found, position] = scores[index]
        return processed
