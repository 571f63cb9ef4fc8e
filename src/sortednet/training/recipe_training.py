"""The stages of a recipe, trained one after another on Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import CheckpointError
from ..files import records
from ..files.run_folder import CONFIG, STAGES, clear, refuse_other_run
from ..imports.packages import needs
from ..network.sorted_net import SortedNet
from .objectives import Batch, LossFunction, Objective
from .recipes import Recipe
from .recipes.recipe import Part
from .stages import train_stages
from .trainer import Trainer, TrainingConfig

with needs("A trainer", "train"):
    from rich.console import Console

__all__ = ["train_recipe"]


def train_recipe(
    recipe: Recipe,
    net: SortedNet,
    loss_fn: LossFunction,
    data: Dataset[Any] | Sequence[Tensor],
    config: TrainingConfig,
    output: str | Path,
    *,
    resume: bool = True,
    transform: Callable[[Any, torch.Generator], Batch] | None = None,
    description: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> SortedNet:
    """Train a network by a recipe to the end, write it to `output/model`, and return it.

    Each stage has an optimiser and a schedule of its own and its share of the updates. All but the last keep their
    checkpoints under `output/stages`; a run that is interrupted in any of them goes on from there.

    Args:
        recipe: The method.
        net: Its network (`Recipe.network`).
        loss_fn: Mean loss of an output and the targets.
        data: As for `Trainer`: a map-style data set, or a tuple of tensors of equal length.
        config: How to train; its updates are those of all stages together.
        output: Folder for metrics, checkpoints and the trained network.
        resume: Whether to go on from the last checkpoint in `output`.
        transform: Changes a batch before use, given it and a seeded generator.
        description: Whatever else must be the same for a run to be continued.
        console: Where progress is shown; standard error where left out.

    Returns:
        The trained network.

    Raises:
        ConfigError: If there are fewer updates than stages, or a stage trains nothing.
        DataError: If the data are empty or hold fewer examples than a batch.
        TrainingError: If a loss is not finite.
        CheckpointError: If a checkpoint is damaged or of another run.

    Example:
        >>> import sortednet as sn, tempfile
        >>> from torch.nn import functional
        >>> recipe = sn.recipes.slimmable(sn.Space(width=[4, 8]))
        >>> images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
        >>> from functools import partial
        >>> net = recipe.network(partial(sn.models.PreResNet, depth=1, classes=2, channels=1))
        >>> config = TrainingConfig(updates=2, batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trained = train_recipe(recipe, net, functional.cross_entropy, (images, labels), config, folder,
        ...                            console=Console(quiet=True))
        >>> trained is net
        True
    """
    about = {"recipe": recipe.name, "recipe_options": dict(recipe.options), **(description or {})}
    updates = recipe.updates(config.updates)

    def trainer_of(part: Part, objective: Objective) -> Trainer:
        place = part.number - 1
        return Trainer(
            net, objective, loss_fn, data,
            replace(config, updates=updates[place], seed=config.seed + place),  # an order of its own
            part.folder, accumulation=part.stage.accumulation,
            title="training" if len(updates) == 1 else f"stage {part.number} of {len(updates)}", transform=transform,
            description=about, console=console,
        )  # fmt: skip

    def begin(_: Trainer) -> None:
        if resume:
            _refuse_other(Path(output), about)
        else:
            clear(output)

    train_stages(recipe, net, output, trainer_of, begin=begin, seed=config.seed, resume=resume)
    return net


def _description(path: Path) -> Any:
    try:
        held = records.read(path)
        held.items()
    except (OSError, *records.MALFORMED) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Restore it, or start anew without resuming.") from None
    return held


def _refuse_other(output: Path, about: Mapping[str, Any]) -> None:
    """Refuse a folder in which stages of another recipe lie.

    Raises:
        CheckpointError: If there are some.
    """
    for path in sorted((output / STAGES).glob(f"*/{CONFIG}")):
        held = _description(path)
        names = ("recipe", "recipe_options")
        refuse_other_run(path.parent, {name: held.get(name) for name in names}, {name: about[name] for name in names})
