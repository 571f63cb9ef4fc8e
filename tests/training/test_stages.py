"""The loop over a recipe's stages, with trainers that train nothing."""

from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional

import sortednet as sn
from sortednet.errors import ConfigError
from sortednet.models import MLP
from sortednet.training.recipes import Recipe, Stage
from sortednet.training.recipes.recipe import Part, full_only
from sortednet.training.stages import train_stages

SPACE = sn.Space(depth=[1, 2])


class Scripted:
    """Writes down what it is asked for."""

    loss_fn = staticmethod(functional.cross_entropy)

    def __init__(self, number: int, has_begun: bool, asked: list[str]) -> None:
        self.number, self.has_begun, self.asked = number, has_begun, asked

    def first_batches(self, count: int) -> list[int]:
        return list(range(count))

    def train(self, resume: bool) -> None:
        self.asked.append(f"train {self.number} {resume}")


def asked_for(tmp_path: Path, begun: set[int], resume: bool) -> list[str]:
    """Return what is done with two stages, some of which have begun."""
    asked: list[str] = []

    def prepare(net: Any, batches: Any, loss_fn: Any) -> None:
        assert loss_fn is functional.cross_entropy
        asked.append(f"prepare with {len(batches)} batches")

    def trainer_of(part: Part, objective: object) -> Scripted:
        return Scripted(part.number, part.number in begun, asked)

    def begin(first: Scripted) -> None:
        asked.append(f"begin {first.number}")

    recipe = Recipe("two", SPACE, (Stage(full_only(SPACE), prepare=prepare), Stage(full_only(SPACE), prepare=prepare)))
    train_stages(recipe, recipe.network(MLP), tmp_path, trainer_of, begin=begin, seed=0, resume=resume)
    return asked


PREPARED = "prepare with 8 batches"


@pytest.mark.parametrize(
    ("begun", "resume", "expected"),
    [
        (set(), True, ["begin 1", PREPARED, "train 1 True", PREPARED, "train 2 True"]),
        ({1}, True, ["begin 1", "train 1 True", PREPARED, "train 2 True"]),
        ({1, 2}, True, ["begin 1", "train 1 True", "train 2 True"]),
        ({1, 2}, False, ["begin 1", PREPARED, "train 1 False", PREPARED, "train 2 False"]),
    ],
)
def test_a_stage_that_goes_on_is_not_prepared_again(
    tmp_path: Path, begun: set[int], resume: bool, expected: list[str]
) -> None:
    assert asked_for(tmp_path, begun, resume) == expected


def test_every_objective_is_made_before_anything_begins(tmp_path: Path) -> None:
    def refused(*_: Any) -> Any:
        raise ConfigError("makes no sense")

    def never(*_: Any) -> Any:
        raise AssertionError

    recipe = Recipe("two", SPACE, (Stage(full_only(SPACE)), Stage(refused)))
    with pytest.raises(ConfigError, match="makes no sense"):
        train_stages(recipe, recipe.network(MLP), tmp_path, never, begin=never, seed=0, resume=False)
