"""The stages of a recipe, trained one after another: the loop, whatever trains each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..network.sorted_net import SortedNet
from .objectives import LossFunction, Objective
from .recipes import Recipe
from .recipes.recipe import Part

__all__ = ["StageTrainer", "train_stages"]

_PREPARING = 8  # batches that a stage may look at before its first update


T = TypeVar("T", bound="StageTrainer")


class StageTrainer(Protocol):
    """Trains one stage. `Trainer` is one."""

    @property
    def has_begun(self) -> bool:
        """Whether there is something of the stage to go on from."""

    @property
    def loss_fn(self) -> LossFunction:
        """Mean loss of an output and the targets."""

    def first_batches(self, count: int) -> Sequence[Any]:
        """Return batches of the training data, where the network is.

        Args:
            count: How many at most, at least 1.
        """

    def train(self, resume: bool) -> object:
        """Train the stage to its end, from its start or from where it was left.

        Args:
            resume: Whether to go on from what is there.
        """


def train_stages(
    recipe: Recipe,
    net: SortedNet,
    output: str | Path,
    trainer_of: Callable[[Part, Objective], T],
    *,
    begin: Callable[[T], object],
    seed: int,
    resume: bool,
) -> None:
    """Train a network by all stages of a recipe, each in a folder of its own.

    Args:
        recipe: The method.
        net: Its network.
        output: Folder of the training; see `Part.folder`.
        trainer_of: Makes what trains a stage by its objective, with the stage applied to the network.
        begin: Makes the folder ready, given what trains the first stage; until then nothing in it is changed.
        seed: Of the objectives.
        resume: Whether to go on from what the stages have left. A stage that has begun is not prepared again.

    Raises:
        ConfigError: If the network was made for another recipe, or an objective cannot be had of it.
    """
    for stage in recipe.stages:
        stage.objective(net, seed, None)  # refuses options that make no sense before anything is trained
    for part in recipe.parts(net, output):
        stage = part.stage
        with stage.applied(net):
            trainer = trainer_of(part, stage.objective(net, seed, part.teacher))
            if part.number == 1:
                begin(trainer)
            if stage.prepare is not None and not (resume and trainer.has_begun):
                stage.prepare(net, trainer.first_batches(_PREPARING), trainer.loss_fn)
            trainer.train(resume=resume)
