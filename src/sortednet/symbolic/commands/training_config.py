"""The configuration of a run that trains a model which writes formulas."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import ConfigError
from ...training.config import TrainingConfig
from ..configuration import GeneratorConfig, ModelConfig

__all__ = ["ProblemsConfig", "SymbolicConfig"]


@dataclass(frozen=True)
class ProblemsConfig:
    """Which problems a model is trained on.

    Args:
        draws: Trees that are drawn for each number of variables, at least 1; their distinct skeletons are trained on.
        seed: Of trees, constants and points.
        instances: Problems of a batch that share a skeleton, at least 1.
        points: The fewest and the most points that a problem is shown with; as the generator says where null.
        band: Share of the skeletons, of about the same length, that a batch is from, in (0, 1].
        workers: Processes that draw problems beside the one that trains; none where 0. The problems are the same.
    """

    draws: int = 60_000
    seed: int = 0
    instances: int = 4
    points: tuple[int, int] | None = None
    band: float = 0.25
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("draws", "instances"):
            if getattr(self, name) < 1:
                raise ConfigError(f"problems.{name}={getattr(self, name)} is below 1.")
        if not 0 < self.band <= 1:
            raise ConfigError(f"problems.band={self.band} must be in (0, 1].")
        if self.workers < 0:
            raise ConfigError(f"problems.workers={self.workers} is below 0.")
        if self.points is not None and not 2 <= self.points[0] <= self.points[1]:
            raise ConfigError(f"problems.points={self.points} must be the fewest, at least 2, and the most.")


@dataclass(frozen=True)
class SymbolicConfig:
    """A run that trains a SymbolicGPT.

    Args:
        output: The run's folder.
        generator: What draws problems.
        model: The model's size.
        problems: Which problems.
        depths: Numbers of layers that are sorted, the model's own among them; an ordinary model where null.
        training: How to train.

    Raises:
        ConfigError: If the depths are not of the model.
    """

    output: str = "runs/symbolic"
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    problems: ProblemsConfig = field(default_factory=ProblemsConfig)
    depths: tuple[int, ...] | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.depths is not None and (not self.depths or max(self.depths) != self.model.layers):
            raise ConfigError(
                f"depths={self.depths} must be numbers of layers, the largest model.layers={self.model.layers}."
            )
