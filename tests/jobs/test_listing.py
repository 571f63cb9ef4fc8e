from collections.abc import Mapping

import pytest

import sortednet as sn
from sortednet.cli import main
from sortednet.imports.names import EXPERIMENTS, IMAGES, MODELS, OBJECTIVES, RECIPES, SAMPLERS, Names
from sortednet.jobs.listing import LISTED, rows_of
from sortednet.training.config import SamplerConfig
from sortednet.training.names import make_sampler, objective_of

REGISTRIES = {
    "models": MODELS, "data": IMAGES, "recipes": RECIPES, "samplers": SAMPLERS, "objectives": OBJECTIVES,
    "experiments": EXPERIMENTS,
}  # fmt: skip
SPACE = sn.Space(depth=[1, 2], width=[4, 8])
NEEDED = {"weighted": {"weights": {"depth=1,width=4": 1.0}}, "cycle": {"settings": ["depth=1,width=4"]}}


def test_everything_that_can_be_named_can_be_listed() -> None:
    assert set(REGISTRIES) == set(LISTED)


@pytest.mark.parametrize("what", LISTED)
def test_a_list_shows_every_name_with_what_it_is(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {name: (title, options) for name, title, options in rows_of(what)}
    assert set(REGISTRIES[what]) <= set(rows)
    assert all(title.strip() for title, _ in rows.values())
    assert main(["list", what]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)


def test_data_lists_texts_too() -> None:
    assert {"digits", "sst2", "gsm8k", "csv"} <= {name for name, _, _ in rows_of("data")}


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_every_name_is_where_the_registry_says(registry: Names) -> None:
    assert isinstance(registry, Mapping)
    assert all(registry[name] is not None for name in registry)


@pytest.mark.parametrize("name", SAMPLERS)
def test_yaml_and_python_take_the_same_samplers(name: str) -> None:
    options = NEEDED.get(name, {})
    from_yaml = SamplerConfig(name, options)
    made = make_sampler(from_yaml.name, SPACE, 3, from_yaml.options)
    by_hand = SAMPLERS[name](SPACE, **options, **({} if name == "cycle" else {"seed": 3}))
    assert made.draw(6) == by_hand.draw(6)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in NEEDED])
def test_a_trainer_takes_the_samplers_of_yaml_by_name(name: str) -> None:
    net = sn.SortedNet(sn.models.MLP, SPACE)
    objective = objective_of("stochastic", name, net, seed=3)
    assert objective.sampler.draw(4) == make_sampler(name, SPACE, 3).draw(4)


@pytest.mark.parametrize("name", NEEDED)
def test_a_sampler_that_needs_more_says_what(name: str) -> None:
    with pytest.raises(sn.SortedNetError, match=rf"{next(iter(NEEDED[name]))}.*"):
        make_sampler(name, SPACE, 0)


def test_unknown_names_are_refused_with_those_that_are_close() -> None:
    with pytest.raises(ValueError, match=r"sampler.name='unifrom' is unknown. Did you mean uniform"):
        SamplerConfig("unifrom")
