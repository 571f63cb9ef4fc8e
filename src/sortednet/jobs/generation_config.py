"""The configuration of a text that is continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError

__all__ = ["GenerateConfig"]


@dataclass(frozen=True)
class GenerateConfig:
    """How a text is continued.

    Args:
        decoding: The full model's text from drafts of its first layers, each token from the first exit that is sure of
            it, or neither.
        setting: The sub-model that decodes, such as num_hidden_layers=8, or the label of a selection; the full model
            where left out.
        exits: Depths that draft or may choose a token, such as 4 or [4,8]; all below the sub-model's where left out.
        thresholds: How sure an exit must be, one number for all or one for each; the papers' for early_exit and chosen
            while decoding for self_speculative where left out.
        draft_tokens: Most tokens of a draft, 1 to 64.
        max_new_tokens: Most tokens.
        temperature: Draw tokens, at this temperature; the most probable one is taken where left out.
        top_k: Draw from so many of the most probable tokens.
        top_p: Draw from the most probable tokens that together have this probability.
        seed: Of drawn tokens.

    Raises:
        ConfigError: If a value is outside its range, or says nothing to what else is given.
    """

    decoding: Literal["self_speculative", "early_exit", "plain"] = "self_speculative"
    setting: str | None = None
    exits: int | list[int] | None = None
    thresholds: float | list[float] | None = None
    draft_tokens: int | None = None
    max_new_tokens: int = 200
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature is None or self.temperature > 0, "above 0; leave it out to draw nothing"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]"),
            ("seed", 0 <= self.seed < 2**63, "at least 0 and below 2^63"),
        ):
            if not fits:
                raise ConfigError(f"{name}={getattr(self, name)} must be {wanted}.")
        for name in ("top_k", "top_p"):
            if getattr(self, name) is not None and self.temperature is None:
                raise ConfigError(f"{name}={getattr(self, name)} is for drawn tokens. Give temperature too, such as 1.")
        drafting, leaving = ("self_speculative",), ("self_speculative", "early_exit")
        for name, users in (("exits", leaving), ("thresholds", leaving), ("draft_tokens", drafting)):
            if getattr(self, name) is not None and self.decoding not in users:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not used by decoding={self.decoding}. Leave it out, or choose "
                    f"{' or '.join(users)}."
                )

    @property
    def sampling(self) -> dict[str, Any]:
        """What transformers' `generate` takes; what is left out is not done, whatever the model's own file says."""
        if self.temperature is None:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_k": self.top_k or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
        }
