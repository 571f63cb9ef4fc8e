import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sortednet.experiments import main_job, node_control
from sortednet.experiments.node_control import NODE_CONTROL
from sortednet.experiments.running import Conditions, Outcome
from sortednet.imports.names import EXPERIMENTS

POSITIVE, NEGATIVE = (
    ["a fine film", "fine and warm", "warm , fine , good"],
    ["a dull film", "dull and cold", "cold , bad"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few sentences whose words say their class."""
    made = tmp_path_factory.mktemp("sentences")
    rows = [f"{text}\t{label}" for label, texts in enumerate((NEGATIVE, POSITIVE)) for text in texts]
    for part, times in (("train", 20), ("dev", 1)):
        (made / f"glue_sst2_{part}.tsv").write_text("\n".join(["sentence\tlabel", *rows * times]) + "\n")
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    language = replace(
        node_control.LANGUAGE["cpu"], layers=1, width=16, heads=2, vocabulary=330, tokens=16, updates=120, batch=16,
        rates=(1e-2,), held_out=12,
    )  # fmt: skip
    digits = replace(node_control.DIGITS["cpu"], layers=2, width=32, updates=40, batch=64, steps=5, images=8)
    monkeypatch.setitem(node_control.LANGUAGE, "cpu", language)
    monkeypatch.setitem(node_control.DIGITS, "cpu", replace(digits, rates=(1e-3, 1e-2)))


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return {}


def done(folder: Path, output: Path, results: dict[str, dict]) -> Outcome:
    """Do all jobs in this process once, and return the outcome."""
    given = Conditions(data=str(folder))
    for name in NODE_CONTROL.jobs(given):
        if name not in results:
            main_job(NODE_CONTROL, given, output, name)
            results[name] = json.loads((output / given.folder / "jobs" / f"{name}.json").read_text())
    return NODE_CONTROL.summarise(given, results)


def test_it_is_a_command() -> None:
    assert EXPERIMENTS["node-control"] is NODE_CONTROL


def test_every_method_is_measured_on_both_tasks(folder: Path, tmp_path: Path, results: dict[str, dict]) -> None:
    outcome = done(folder, tmp_path, results)
    assert [len(row) for row in outcome.rows] == [len(outcome.columns)] * 10
    assert set(outcome.figures) == {
        *(
            f"lm_{one}_{metric}"
            for one in ("node", "inside", "append", "sum", "shift")
            for metric in ("loss", "gain", "accuracy")
        ),
        "lm_none_loss",
        *(f"digits_{one}_{metric}" for one in ("node", "append", "shift") for metric in ("accuracy", "frechet")),
    }
    assert all(math.isfinite(value) for value in outcome.figures.values())
    assert set(outcome.curves) == set(results)


def test_a_condition_is_learned(folder: Path, tmp_path: Path, results: dict[str, dict]) -> None:
    figures = done(folder, tmp_path, results).figures
    for name in ("node", "inside", "append", "sum", "shift"):
        assert figures[f"lm_{name}_gain"] > 0.05
        assert figures[f"lm_{name}_accuracy"] > 80


def test_methods_differ_in_their_controls_alone(folder: Path, tmp_path: Path, results: dict[str, dict]) -> None:
    done(folder, tmp_path, results)
    for task, methods in (
        ("lm", ("node", "inside", "append", "sum", "shift", "none")),
        ("digits", ("node", "append", "shift")),
    ):
        found = [results[f"node-control-{task}-{name}"] for name in methods]
        assert len({one["parameters"] - one["added"] for one in found}) == 1
    assert results["node-control-lm-none"]["added"] == 0
    assert results["node-control-lm-node"]["added"] == results["node-control-lm-shift"]["added"]
    described = [NODE_CONTROL.jobs(Conditions(seed=2))[name].described for name in results]
    assert {one["seed"] for one in described} == {2}
    assert len({json.dumps(one["shape"]) for one in described}) == 2


def test_a_method_gets_the_rate_that_is_best_on_what_was_held_out(
    folder: Path, tmp_path: Path, results: dict[str, dict]
) -> None:
    done(folder, tmp_path, results)
    found = results["node-control-digits-node"]
    assert set(found["rates"]) == {"0.001", "0.01"}
    assert found["held_out"] == min(found["rates"].values())
    assert found["rates"][str(found["rate"])] == found["held_out"]


def test_the_picture_is_drawn(folder: Path, tmp_path: Path, results: dict[str, dict]) -> None:
    done(folder, tmp_path, results)
    NODE_CONTROL.draw(tmp_path / "a.png", Conditions(), results)
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_the_frechet_distance_of_normal_distributions() -> None:
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Identity(), nn.Identity())
    one, other = torch.randn(2, 5000, 3, dtype=torch.float64)
    assert node_control._frechet(judge, one, one) == pytest.approx(0, abs=1e-9)
    # Means 2 apart, standard deviations 1 and 3 along one axis of three: 2^2 + (3 - 1)^2.
    scaled = other * torch.tensor([3.0, 1.0, 1.0]) + torch.tensor([0.0, 2.0, 0.0])
    assert node_control._frechet(judge, one, scaled) == pytest.approx(8, rel=0.05)
