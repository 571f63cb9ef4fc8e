"""What the commands do with formulas: train a model that writes them, sorted over its depth or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..._version import __version__
from ...files.weights import WEIGHTS
from ...imports.packages import needs
from ...network import checkpoint
from ...network.sorted_net import SortedNet
from ...space import Space
from ...training.objectives import Objective, PerExample
from ...training.sampling import Weighted
from ...training.trainer import Trainer
from .. import (
    Familiarity,
    ModelConfig,
    Pretrained,
    ProblemData,
    SymbolicGPT,
    collate_problems,
    make_pool,
    save_model,
    token_loss,
)
from ..expressions import Split, stream
from ..scaling import standardise
from .training_config import SymbolicConfig

with needs("Finding formulas", "cli,symbolic"):
    from rich.console import Console

__all__ = ["FILE", "make_data", "make_network", "open_network", "train", "write_models"]

FILE = "symbolic.safetensors"
_MEASURED = 2048  # problems that familiarity is learned from
_VALIDATED = 2048
_BATCH = 128


def make_network(config: SymbolicConfig) -> SortedNet:
    """Make the network that a configuration describes, untrained."""
    torch.manual_seed(config.training.seed)
    space = Space(layers=list(config.depths or (config.model.layers,)))
    return SortedNet(partial(_build, config.model), space)


def _build(size: ModelConfig, layers: int) -> SymbolicGPT:
    """Make the model with some of its layers."""
    return SymbolicGPT(replace(size, layers=layers))


def make_data(config: SymbolicConfig, split: Split = "train", length: int | None = None) -> ProblemData:
    """Return the problems of a split that a configuration describes.

    Args:
        config: The configuration.
        split: `train` or `validation`.
        length: How many; what training takes where left out.
    """
    training, problems = config.training, config.problems
    pool = make_pool(config.generator, problems.draws, problems.seed, split)
    return ProblemData(
        pool, config.generator, config.model, length or training.updates * training.batch_size * training.accumulate,
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
    net = make_network(config)
    data = make_data(config)
    make_data(config, "validation", _VALIDATED)  # there may be no skeletons for it, which is better found before
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
    validation = make_data(config, "validation", _VALIDATED)
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
    net = make_network(config)
    tensors, _ = checkpoint.read_file(Path(folder) / "model" / WEIGHTS)
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
