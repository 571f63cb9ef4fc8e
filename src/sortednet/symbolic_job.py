"""What the commands do with formulas: train a model that writes them, sorted over its depth or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import checkpoint
from ._version import __version__
from .errors import ConfigError
from .network import SortedNet
from .objectives import Objective, PerExample
from .sampling import Weighted
from .space import Space
from .symbolic import (
    Familiarity,
    GeneratorConfig,
    ModelConfig,
    Pretrained,
    ProblemData,
    SymbolicGPT,
    collate_problems,
    make_pool,
    save_model,
    token_loss,
)
from .symbolic.expressions import stream
from .symbolic.scaling import standardise
from .trainers import Trainer, TrainingConfig

__all__ = ["FILE", "ProblemsConfig", "SymbolicConfig", "open_network", "train", "write_models"]

FILE = "symbolic.safetensors"
_MEASURED = 2048  # problems that familiarity is learned from
_VALIDATED = 2048
_BATCH = 128


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

    def network(self) -> SortedNet:
        """Make the network, untrained."""
        torch.manual_seed(self.training.seed)
        return SortedNet(self.build, Space(layers=list(self.depths or (self.model.layers,))))

    def build(self, layers: int) -> SymbolicGPT:
        """Make the model with some of its layers."""
        return SymbolicGPT(replace(self.model, layers=layers))

    def data(self, split: str = "train", length: int | None = None) -> ProblemData:
        """Return problems of a split.

        Args:
            split: `train` or `validation`.
            length: How many; what training takes where left out.
        """
        training, problems = self.training, self.problems
        pool = make_pool(self.generator, problems.draws, problems.seed, split)  # type: ignore[arg-type]
        return ProblemData(
            pool, self.generator, self.model, length or training.updates * training.batch_size * training.accumulate,
            problems.seed, instances=problems.instances, points=problems.points, band=problems.band,
        )  # fmt: skip


def train(config: SymbolicConfig, *, resume: bool, console: Console | None = None) -> SortedNet:
    """Train to the end, and write the network to `output/model` and a model file to `output/symbolic.safetensors`.

    Args:
        config: What to do.
        resume: Whether to go on from the last checkpoint in `output`.
        console: Where progress is shown; standard error where left out.

    Raises:
        ConfigError: If the configuration cannot be carried out.
        TrainingError: If a loss is not finite.
        CheckpointError: If a checkpoint is damaged or of another run.
    """
    net = config.network()
    data = config.data()
    config.data("validation", _VALIDATED)  # there may be no skeletons for it, which is better found before
    Trainer(
        net, _objective(net), token_loss, data, config.training, config.output, collate=collate_problems,
        workers=config.problems.workers, description=asdict(config), console=console, title="training on problems",
    ).train(resume)  # fmt: skip
    write_models(config, net, data)
    return net


def _objective(net: SortedNet) -> Objective:
    """Let each example draw a depth, deeper ones more often: deep blocks see few examples otherwise."""
    depths = {setting: float(setting["layers"]) for setting in net.space}
    return PerExample(Weighted(net.space, depths, seed=0))


def write_models(config: SymbolicConfig, net: SortedNet, data: ProblemData) -> None:
    """Write a model file for the full model, and one for each other depth, `symbolic-LAYERS.safetensors`.

    Args:
        config: What was done.
        net: Trained.
        data: What it was trained on.
    """
    validation = config.data("validation", _VALIDATED)
    familiarity = Familiarity.learn(_problems(validation))
    for setting in net.space:
        layers = int(setting["layers"])
        model = net.extract(setting).eval().cpu()
        assert isinstance(model, SymbolicGPT)
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.half())  # what will be read again
        about = {
            "updates": config.training.updates,
            "examples": config.training.updates * config.training.batch_size * config.training.accumulate,
            "skeletons": len(data.pool),
            "depths": list(config.depths or ()),
            "validation_loss": _loss(model, validation),
            "sortednet": __version__,
        }
        name = FILE if layers == config.model.layers else FILE.replace(".", f"-{layers}.")
        save_model(Path(config.output) / name, Pretrained(model, config.generator, familiarity, about))


def open_network(folder: str | Path, config: SymbolicConfig) -> SortedNet:
    """Open the network of a finished run."""
    net = config.network()
    tensors, _ = checkpoint.read_file(Path(folder) / "model" / checkpoint.WEIGHTS)
    net.full.load_state_dict(tensors)
    return net


def _batches(data: ProblemData, count: int) -> Any:
    return (data.__getitems__(list(range(first, first + _BATCH))) for first in range(0, count, _BATCH))


def _problems(data: ProblemData) -> Iterator[tuple[Any, Any]]:
    """Yield scaled points and values of problems with as many points as are trained on, without padding."""
    low, high = data.points or data.generator.points_of(1)
    for block in range(_MEASURED // _BATCH):
        points = low + block % (high - low + 1)
        for drawn in stream(data.pool, data.generator, data.seed, block, _BATCH, 1, points):
            for x, y in zip(drawn.x, drawn.y, strict=True):
                yield standardise(x, y)[:2]


@torch.no_grad()
def _loss(model: SymbolicGPT, data: ProblemData) -> float:
    losses = [
        float(token_loss(model(points, mask, tokens), targets))
        for points, mask, tokens, targets in _batches(data, _VALIDATED)
    ]
    return sum(losses) / len(losses)
