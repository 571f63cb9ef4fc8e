"""What every recipe keeps to, on small networks. A new recipe is one more entry here."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

import sortednet as sn
from sortednet.imports.names import RECIPES
from sortednet.models import PreResNet, Transformer
from sortednet.training import trainer as trainers
from sortednet.training.recipe_training import train_recipe
from sortednet.training.recipes import Recipe, recipe_of
from sortednet.training.trainer import TrainingConfig

UPDATES = 2  # of a stage
LABELS = torch.arange(12) % 3


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@dataclass(frozen=True)
class Network:
    """A network that recipes train, and its examples."""

    build: Callable[..., nn.Module]
    space: sn.Space
    inputs: Tensor


IMAGES = torch.randn(12, 1, 6, 6, generator=_generator())
TOKENS = torch.randint(0, 12, (12, 5), generator=_generator())
NETWORKS = {
    "batch": Network(partial(PreResNet, stages=1, channels=1, classes=3), sn.Space(depth=[1, 2], width=[2, 4]), IMAGES),
    "group": Network(
        partial(PreResNet, stages=2, channels=1, classes=3, norm="group"), sn.Space(depth=[1, 2], width=[2, 4]), IMAGES
    ),
    "transformer": Network(
        partial(Transformer, heads=2, hidden=8, head_size=4, vocabulary=12, positions=5, classes=3, causal=False),
        sn.Space(depth=[1, 2], width=[4, 8]),
        TOKENS,
    ),
}


@dataclass(frozen=True)
class Case:
    """A recipe on a network."""

    recipe: str
    network: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def made(self) -> Recipe:
        return recipe_of(self.recipe, NETWORKS[self.network].space, self.options)

    def net(self, recipe: Recipe) -> sn.SortedNet:
        torch.manual_seed(0)
        return recipe.network(NETWORKS[self.network].build)

    def train(self, output: Path, seed: int = 0) -> sn.SortedNet:
        recipe = self.made()
        config = TrainingConfig(UPDATES * len(recipe.stages), batch_size=6, checkpoint_every=1, log_every=1, seed=seed)
        data = NETWORKS[self.network].inputs, LABELS
        net = self.net(recipe)
        return train_recipe(recipe, net, functional.cross_entropy, data, config, output, console=Console(quiet=True))

    def settings(self) -> list[sn.Setting]:
        return list(NETWORKS[self.network].space)


CASES = [
    Case("sorted", "batch"),
    Case("sorted", "transformer"),
    Case("sortednet", "batch"),
    Case("sortednet", "transformer"),
    Case("slimmable", "batch"),
    Case("slimmable", "group"),
    Case("universally_slimmable", "batch"),
    Case("lcs_p", "batch"),
    Case("lcs_p", "group"),
    Case("lcs_l", "batch", {"dimension": "width"}),
    Case("lcs_l", "group", {"dimension": "width"}),
    Case("matformer", "transformer"),
    Case("early_exit", "batch", {"head": "head.*"}),
    Case("early_exit", "transformer", {"head": "head.*"}),
    Case("sft_ict", "batch", {"head": "head.*"}),
    Case("sft_ict", "transformer", {"head": "head.*"}),
    Case("extracted", "batch"),
    Case("layer_drop", "transformer"),
    Case("layer_skip", "transformer"),
    Case("dynabert", "batch", {"hidden": 0.0}),
    Case("dynabert", "transformer", {"hidden": 0.0}),
    Case("once_for_all", "batch"),
    Case("once_for_all", "group"),
]


@dataclass(frozen=True)
class Trained:
    """A case trained to the end without a break."""

    case: Case
    net: sn.SortedNet
    output: Path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Run on one thread: the networks are far too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.recipe}-{case.network}")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    output = tmp_path_factory.mktemp("trained")
    return Trained(request.param, request.param.train(output), output)


def weights(net: sn.SortedNet) -> dict[str, Tensor]:
    """Return all that a network holds, private tensors and statistics included."""
    return dict(net.state_dict())


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def folders(trained: Trained) -> list[Path]:
    """Return the folder of every stage."""
    before = len(trained.case.made().stages) - 1
    return [*(trained.output / "stages" / str(place + 1) for place in range(before)), trained.output]


def test_every_recipe_has_a_case() -> None:
    assert {case.recipe for case in CASES} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_its_source(name: str) -> None:
    _, found, source = (RECIPES[name].__doc__ or "").partition("Source:")
    assert found
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|PhD thesis", source)


def test_every_stage_trains_with_finite_losses(trained: Trained) -> None:
    for folder in folders(trained):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines
        assert all(math.isfinite(loss) for line in lines for loss in (line["loss"], *line["terms"].values()))


def test_every_stage_changes_weights(trained: Trained) -> None:
    recipe = trained.case.made()
    held = [weights(trained.case.net(recipe)), *(_saved(folder, recipe, trained.case) for folder in folders(trained))]
    assert not any(same(before, after) for before, after in pairwise(held))


def test_every_sub_model_equals_its_extracted_model(trained: Trained) -> None:
    net, inputs = trained.net.eval(), NETWORKS[trained.case.network].inputs
    for setting in trained.case.settings():
        assert torch.equal(net.at(setting)(inputs), net.extract(setting)(inputs)), setting


def test_the_saved_network_opens_to_the_same_outputs(trained: Trained) -> None:
    net, inputs = trained.net.eval(), NETWORKS[trained.case.network].inputs
    again = sn.load(trained.output / "model", net.builder).eval()
    for setting in trained.case.settings():
        assert torch.equal(again.at(setting)(inputs), net.at(setting)(inputs)), setting


def test_a_corner_of_the_saved_network_opens_to_the_same_outputs(trained: Trained) -> None:
    net, inputs = trained.net.eval(), NETWORKS[trained.case.network].inputs
    for setting in trained.case.settings():
        corner = sn.load(trained.output / "model", net.builder, at=setting).eval()
        assert torch.equal(corner(inputs), net.at(setting)(inputs)), setting


def test_the_same_seed_gives_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    assert same(weights(trained.net), weights(trained.case.train(tmp_path)))


def test_another_seed_gives_other_weights(trained: Trained, tmp_path: Path) -> None:
    assert not same(weights(trained.net), weights(trained.case.train(tmp_path, seed=1)))


def test_a_run_interrupted_after_every_third_update_takes_the_uninterrupted_trajectory(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, left = trainers.step, 0

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return plain(*args, **kwargs)

    monkeypatch.setattr(trainers, "step", stopping)
    stages = len(trained.case.made().stages)
    for allowed in [1] if stages == 1 else [3] * ((UPDATES * stages - 1) // 3):
        left = allowed
        with pytest.raises(KeyboardInterrupt):
            trained.case.train(tmp_path)
    left = UPDATES * stages
    assert same(weights(trained.net), weights(trained.case.train(tmp_path)))


def test_what_a_stage_does_not_train_stays_bit_for_bit(trained: Trained) -> None:
    recipe = trained.case.made()
    before = weights(trained.case.net(recipe))
    for stage, folder in zip(recipe.stages, folders(trained), strict=True):
        after = _saved(folder, recipe, trained.case)
        patterns = ("*",) if stage.trained is None else stage.trained(trained.net.full)
        for name, tensor in after.items():
            path = name.removeprefix("full.")
            if name != path and not any(fnmatchcase(path, pattern) for pattern in patterns):
                assert torch.equal(tensor, before[name]), name
        before = after


def test_after_training_everything_is_trained_again_as_before(trained: Trained) -> None:
    assert all(parameter.requires_grad for parameter in trained.net.parameters())


def _saved(folder: Path, recipe: Recipe, case: Case) -> dict[str, Tensor]:
    """Return all that the network of a finished stage holds."""
    return weights(sn.load(folder / "model", case.net(recipe).builder))
