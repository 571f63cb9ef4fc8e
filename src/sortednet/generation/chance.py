"""What is random in decoding, and the rule that keeps drafted text to the full model's distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

__all__ = ["Chance", "Drawn", "judge_greedy", "judge_sampled"]


class Chance(ABC):
    """Where random decisions come from. Drafting, stopping and accepting never share a draw."""

    @abstractmethod
    def pick(self, probabilities: Tensor) -> Tensor:
        """Draw one token for each row. From shape (B, V), float32, to (B,), int64."""

    @abstractmethod
    def flip(self, probabilities: Tensor) -> Tensor:
        """Return True with each of these probabilities, independently. From shape (B, K) to (B, K), bool."""


@final
class Drawn(Chance):
    """Random numbers of a generator; torch's own where none is given."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self._generator = generator

    def pick(self, probabilities: Tensor) -> Tensor:
        return torch.multinomial(probabilities, 1, generator=self._generator)[:, 0]

    def flip(self, probabilities: Tensor) -> Tensor:
        drawn = torch.rand(probabilities.shape, generator=self._generator, device=probabilities.device)
        return drawn < probabilities


def judge_greedy(drafted: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Accept drafted tokens as long as the full model would have chosen them.

    Args:
        drafted: Shape (B, K).
        logits: The full model's, processed, at the positions of the drafted tokens and one behind. Shape (B, K + 1, V).

    Returns:
        How many tokens of each row are accepted, shape (B,), and the full model's own token behind them, shape (B,).
    """
    chosen = logits.argmax(-1)
    accepted = (drafted == chosen[:, :-1]).long().cumprod(1).sum(1)
    return accepted, chosen.gather(1, accepted[:, None])[:, 0]


def judge_sampled(drafted: Tensor, draft: Tensor, target: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Accept drafted tokens so that the text is distributed as the target's own.

    Args:
        drafted: Each drawn from its row of `draft`. Shape (B, K).
        draft: The distributions that the tokens were drawn from, all that was done to them included. Shape (B, K, V).
        target: The full model's distributions, at those positions and one behind. Shape (B, K + 1, V).
        chance: Decides.

    Returns:
        How many tokens of each row are accepted, shape (B,), and the token behind them, shape (B,).

    Source:
        Leviathan et al. (2023), arXiv:2211.17192v2, Alg. 1 and App. A.1. Where nothing is left of the target without
        the draft, which rounding alone can bring about, we draw from the target.
    """
    rows = torch.arange(drafted.shape[0], device=drafted.device)
    p = target[:, :-1].gather(2, drafted[..., None])[..., 0]
    q = draft.gather(2, drafted[..., None])[..., 0]
    accepted = chance.flip((p / q).clamp(max=1)).long().cumprod(1).sum(1)
    # Behind the last drafted token the draft claims nothing, so that what is left is the target itself.
    claimed = torch.cat([draft, torch.zeros_like(target[:, :1])], 1)[rows, accepted]
    wanted = target[rows, accepted]
    left = (wanted - claimed).clamp(min=0)
    mass = left.sum(-1, keepdim=True)
    return accepted, chance.pick(torch.where(mass > 0, left / mass.where(mass > 0, 1), wanted))
