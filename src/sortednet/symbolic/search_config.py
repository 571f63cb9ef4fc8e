"""How formulas are looked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError

__all__ = ["SearchConfig"]


@dataclass(frozen=True)
class SearchConfig:
    """How formulas are looked for.

    Args:
        candidates: Skeletons that the model writes, at least 1.
        top_k: Tokens that are drawn among, at least 1; the papers' 40.
        temperature: Of the draws, above 0.
        beams: Skeletons of a beam search beside the drawn ones, at least 0.
        shown: Points that the model is shown at once, at least 2. Where there are more, each of `bags` is shown others.
        bags: Sets of points, at least 1.
        fitted_points: Points that constants are first fitted to, at least 2; the best skeletons then see all.
        followed: Skeletons that are fitted from more starts and in more steps after a first look, at least 1.
        refined: Skeletons whose constants are fitted to the last digits, at least 1.
        pooled: Terms of the fitted skeletons that are put together anew, one by one; 0 for none.
        laws: Whether simple laws are looked for beside what the model writes, and the model is left out where one of
            them is exact.
        parsimony: What a node of a formula costs, in units of the logarithm of its likelihood, at least 0.
        time_limit_s: Seconds after which no new work is begun, above 0; none where left out. The model always writes
            its candidates, and at least one is fitted.

    Raises:
        ConfigError: If a value is outside its range.
    """

    candidates: int = 64
    top_k: int = 40
    temperature: float = 1.0
    beams: int = 0
    shown: int = 128
    bags: int = 2
    fitted_points: int = 128
    followed: int = 16
    refined: int = 6
    pooled: int = 80
    laws: bool = True
    parsimony: float = 2.0
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}.")
        for name in ("temperature", "parsimony", "time_limit_s"):
            value = getattr(self, name)
            if name == "time_limit_s" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise ConfigError(f"{name}={value!r} is no number. Give one above 0.")
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature} must be above 0.")
        if not self.parsimony >= 0:
            raise ConfigError(f"parsimony={self.parsimony} must be at least 0.")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ConfigError(f"time_limit_s={self.time_limit_s} must be above 0, or None for no limit.")


_LEAST = {
    "candidates": 1, "top_k": 1, "beams": 0, "shown": 2, "bags": 1, "fitted_points": 2, "followed": 1, "refined": 1,
    "pooled": 0,
}  # fmt: skip
