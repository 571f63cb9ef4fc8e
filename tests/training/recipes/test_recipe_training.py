"""The stages of a recipe one after another: fresh starts, and what a run is not continued with."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

import sortednet as sn
from sortednet.errors import CheckpointError, ConfigError, DataError
from sortednet.files.run_folder import read_curves
from sortednet.models import MLP
from sortednet.training import recipes
from sortednet.training import trainer as trainers
from sortednet.training.recipe_training import train_recipe
from sortednet.training.recipes import Recipe
from sortednet.training.trainer import TrainingConfig

SPACE = sn.Space(depth=[1, 2], width=[2, 4])
BUILD = partial(MLP, inputs=3, classes=3)
CONFIG = TrainingConfig(updates=6, batch_size=6, checkpoint_every=1, log_every=1)


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def train(recipe: Recipe, output: Path, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    net = recipe.network(BUILD)
    train_recipe(recipe, net, functional.cross_entropy, data(), CONFIG, output, console=Console(quiet=True), **options)
    return dict(net.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_trains_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(recipes.once_for_all(SPACE), tmp_path)
    monkeypatch.setattr(trainers, "step", None)
    assert same(first, train(recipes.once_for_all(SPACE), tmp_path))


def test_an_interrupted_fresh_start_leaves_nothing_of_the_run_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.once_for_all(SPACE)
    train(recipe, tmp_path / "one")

    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainers, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "one", seed=1, resume=False)
    assert same(train(recipe, tmp_path / "one", seed=1), train(recipe, tmp_path / "other", seed=1))


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        (recipes.matformer(SPACE), r"recipe was 'lcs_p' and is 'matformer'"),
        (recipes.lcs_p(SPACE, draws=3), r"recipe_options.draws was 4 and is 3"),
    ],
)
def test_a_run_is_not_continued_by_another_recipe(tmp_path: Path, now: Recipe, changed: str) -> None:
    train(recipes.lcs_p(SPACE), tmp_path)
    with pytest.raises(CheckpointError, match=rf"belongs to another run: .*description.*{changed}"):
        train(now, tmp_path)


def test_a_stage_of_another_recipe_is_not_left_beside_a_new_run(tmp_path: Path) -> None:
    train(recipes.once_for_all(SPACE), tmp_path)
    for path in (*(tmp_path / "checkpoints").glob("*"), *(tmp_path / "model").glob("*")):
        path.unlink()  # as if it had been interrupted in an earlier stage
    with pytest.raises(CheckpointError, match="stages/1 belongs to another run: recipe was 'once_for_all' and is"):
        train(recipes.matformer(SPACE), tmp_path)
    first = train(recipes.matformer(SPACE), tmp_path, resume=False)
    assert same(first, train(recipes.matformer(SPACE), tmp_path))


def test_the_curves_of_stages_follow_one_another(tmp_path: Path) -> None:
    train(recipes.sft_ict(SPACE), tmp_path)
    curves = read_curves(tmp_path)
    assert [update for update, _ in curves["depth=2,width=4"]] == [1, 2, 3, 4, 5, 6]
    assert [update for update, _ in curves["depth=1,width=2"]] == [5, 6]


def test_options_without_sense_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"draws=1 is too few for Sandwich\. Draw at least 3"):
        train(recipes.lcs_p(SPACE, draws=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_fewer_updates_than_stages_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = recipes.dynabert(SPACE, hidden=0)
    with pytest.raises(ConfigError, match=r"3 updates are too few for the 4 stages of recipe dynabert"):
        train_recipe(
            recipe, recipe.network(BUILD), functional.cross_entropy, data(),
            TrainingConfig(updates=3, batch_size=6), tmp_path,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_trained_leaves_the_run_before_as_it_is(tmp_path: Path) -> None:
    train(recipes.lcs_p(SPACE), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    recipe = recipes.once_for_all(SPACE)
    short = tuple(one[:3] for one in data())
    for updates, examples, error in [(1, data(), "too few for the"), (6, short, "fewer than a batch")]:
        with pytest.raises((ConfigError, DataError), match=error):
            train_recipe(
                recipe, recipe.network(BUILD), functional.cross_entropy, examples,
                replace(CONFIG, updates=updates), tmp_path, resume=False,
            )  # fmt: skip
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_later_stages_follow_the_full_model_as_the_first_one_left_it(tmp_path: Path) -> None:
    recipe = recipes.dynabert(SPACE, hidden=0)
    net, x = recipe.network(BUILD), data()[0]
    teachers = []
    for part in recipe.parts(net, tmp_path):
        teachers.append(part.teacher)
        with torch.no_grad():
            net.full.head.bias.add_(1)
    assert teachers[0] is None
    assert teachers[1] is teachers[2] is teachers[3]
    torch.testing.assert_close(teachers[1](x) + 3, net.full(x))
    assert not any(parameter.requires_grad for parameter in teachers[1].parameters())


def test_all_stages_but_the_last_have_a_folder_of_their_own(tmp_path: Path) -> None:
    recipe = recipes.dynabert(SPACE, hidden=0)
    found = [part.folder for part in recipe.parts(recipe.network(BUILD), tmp_path)]
    assert found == [tmp_path / "stages" / "1", tmp_path / "stages" / "2", tmp_path / "stages" / "3", tmp_path]
