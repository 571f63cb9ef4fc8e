"""The experiments on images, each shrunk to a few updates of its own jobs."""

from pathlib import Path

import pytest
import torch

from sortednet.experiments import Conditions, Experiment, main_job, mobilenet, run, widths
from sortednet.experiments.running import Outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the binary version of CIFAR-10, of 160 images a part."""
    path = tmp_path_factory.mktemp("cifar")
    generator = torch.Generator().manual_seed(0)
    for name in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"):
        images = torch.randint(256, (160, 3073), generator=generator, dtype=torch.uint8)
        images[:, 0] = torch.arange(160) % 10
        (path / f"{name}.bin").write_bytes(images.numpy().tobytes())
    (path / "batches.meta.txt").write_text("\n".join(f"class{one}" for one in range(10)))
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "UPDATES", {"cpu": 4, "gpu": 4})
    monkeypatch.setattr(widths, "TIMED", {"cpu": 2, "gpu": 2})
    monkeypatch.setattr(widths, "TEST_IMAGES", 32)
    monkeypatch.setattr(mobilenet, "TEST_IMAGES", 32)
    monkeypatch.setattr(mobilenet, "UPDATES", {"cpu": 2, "gpu": 2})
    monkeypatch.setattr(mobilenet, "DEPTHS", (1, 16))
    monkeypatch.setattr(mobilenet, "WIDTHS", (0.1, 1.0))
    monkeypatch.setattr(mobilenet, "BEST", ((16,), (0.1, 1.0)))


def outcome_of(experiment: Experiment, conditions: Conditions, output: Path) -> Outcome:
    """Do the jobs in this process, and write the result as ever."""
    for name in experiment.jobs(conditions):
        main_job(experiment, conditions, output, name)
    outcome = run(experiment, conditions, output, say=lambda text: None)
    assert outcome is not None
    for suffix in ("json", "md", "png"):
        assert (output / conditions.folder / f"{experiment.name}.{suffix}").stat().st_size > 100
    return outcome


def test_table_4_2_compares_every_method_with_both_norms(folder: Path, tmp_path: Path) -> None:
    outcome = outcome_of(widths.TABLE_4_2, Conditions(data=str(folder)), tmp_path)
    assert len(outcome.rows) == 2 * len(widths.METHODS)
    best = max(outcome.figures[f"batch_{name}"] for name in widths.METHODS if name != "sorted")
    assert outcome.figures["table42_bn"] == pytest.approx(outcome.figures["batch_sorted"] - best)


def test_accumulation_shares_a_job_with_table_4_2(folder: Path, tmp_path: Path) -> None:
    conditions = Conditions(data=str(folder))
    shared = widths.ACCUMULATION.jobs(conditions).keys() & widths.TABLE_4_2.jobs(conditions).keys()
    assert shared == {"widths-instance-sortednet"}
    outcome = outcome_of(widths.ACCUMULATION, conditions, tmp_path)
    assert len(outcome.rows) == 8


def test_time_of_an_epoch_is_measured_of_both_methods(folder: Path, tmp_path: Path) -> None:
    outcome = outcome_of(widths.TIME_PER_EPOCH, Conditions(data=str(folder)), tmp_path)
    assert outcome.figures["lcs_time_ratio"] > 0


def test_figure_4_2_holds_every_run_against_the_baseline(folder: Path, tmp_path: Path) -> None:
    outcome = outcome_of(mobilenet.SUB_MODELS, Conditions(data=str(folder)), tmp_path)
    assert outcome.rows[0][1] == outcome.figures["fig42_baseline"]
    assert len(outcome.rows) == 7


def test_figure_4_3_retrains_the_best(folder: Path, tmp_path: Path) -> None:
    outcome = outcome_of(mobilenet.BEST_RETRAINED, Conditions(data=str(folder)), tmp_path)
    assert outcome.rows[-1][0] == "mean of 2"


def test_figure_4_5_keeps_what_is_above_the_threshold(folder: Path, tmp_path: Path) -> None:
    outcome = outcome_of(mobilenet.THRESHOLD, Conditions(data=str(folder)), tmp_path)
    assert 0 <= outcome.figures["fig45_kept"] <= 4


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_methods_differ_in_their_recipe_alone(scale: str) -> None:
    runs = [widths.config(Conditions(scale), method, "batch") for method in widths.METHODS]
    assert len({str(one.training) for one in runs}) == 1
    assert len({str(one.data) for one in runs}) == 1
    assert len({str(one.model) for one in runs}) == 1


def test_missing_images_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cifar10_train_1of5"):
        main_job(widths.TABLE_4_2, Conditions(data=str(tmp_path)), tmp_path, "widths-batch-sorted")
