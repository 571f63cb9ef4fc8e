"""The configuration of a search for a formula."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["FitConfig"]

_MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class FitConfig:
    """How a formula is looked for.

    Args:
        target: Column that the formula gives; the last one where left out.
        model: Model file; the one that comes with the package where left out.
        candidates: Skeletons that the model writes; more take longer and find more.
        beams: Skeletons of a beam search beside them.
        seed: Of all that is drawn; the same seed gives the same formula.
        time_limit_s: Seconds after which no new work is begun; none where left out.
        parsimony: What a node of a formula costs; more give shorter formulas.
        output: Folder for fit.json.
    """

    target: str | None = None
    model: str | None = None
    candidates: int = 64
    beams: int = 0
    seed: int = 0
    time_limit_s: float | None = None
    parsimony: float = 2.0
    output: str = "runs/symbolic_fit"

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _MOST_SEED:
            raise ConfigError(f"seed={self.seed} must be from 0 to {_MOST_SEED}.")
        if not self.output:
            raise ConfigError("output is empty. Give a folder, such as --output runs/mine.")
