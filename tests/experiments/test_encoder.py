import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from sortednet.data.text import train_tokenizer
from sortednet.experiments import encoder, main_job
from sortednet.experiments.running import Conditions, Experiment, Outcome

SMALL = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
LARGE = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 16}
WORDS = ["good fine film", "bad dull film", "a nice story", "a poor story"] * 3
FILES = {
    "glue_sst2_{}.tsv": ("sentence\tlabel", "{0}\t{1}"),
    "glue_mrpc_{}.tsv": ("sentence1\tsentence2\tlabel", "{0}\t{0}\t{1}"),
    "glue_rte_{}.tsv": ("sentence1\tsentence2\tlabel", "{0}\t{0}\t{1}"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder, and a few rows of three tasks."""
    made = tmp_path_factory.mktemp("encoder")
    for name, (header, row) in FILES.items():
        rows = "".join(row.format(text, place % 2) + "\n" for place, text in enumerate(WORDS))
        for part in ("train", "dev", "test"):
            (made / name.format(part)).write_text(f"{header}\n{rows}")
    tokenizer = train_tokenizer(WORDS, vocab_size=280)
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "pad_token_id": tokenizer.pad_token_id}
    BertModel(BertConfig(**shape, **LARGE)).save_pretrained(made / "model")
    tokenizer.save_pretrained(made / "model")
    return made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the experiments as small as the encoder."""
    spaces: dict[str, Any] = {"table4.3": {"num_hidden_layers": [1, 2]}, "tableC.3": [SMALL, LARGE]}
    for name, space in spaces.items():
        shape = encoder.SHAPES[name, "cpu"]
        training = {**shape.training, "max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1}
        tiny = replace(shape, space=space, training=training, text={"train_examples": 8}, max_length=16)
        monkeypatch.setitem(encoder.SHAPES, (name, "cpu"), tiny)


def conditions(folder: Path) -> Conditions:
    return Conditions(data=str(folder), model=str(folder / "model"))


def done(experiment: Experiment, folder: Path, output: Path) -> Outcome:
    """Do all jobs in this process, and return the outcome."""
    given, results = conditions(folder), {}
    for name in experiment.jobs(given):
        main_job(experiment, given, output, name)
        results[name] = json.loads((output / given.folder / "jobs" / f"{name}.json").read_text())
    experiment.draw(output / "a.png", given, results)
    return experiment.summarise(given, results)


def test_depths_of_an_encoder_are_compared(folder: Path, tmp_path: Path) -> None:
    outcome = done(encoder.TABLE_4_3, folder, tmp_path)
    assert list(outcome.columns) == ["method", "1 layer", "2 layers", "average"]
    assert [len(row) for row in outcome.rows] == [4] * 4
    assert all(row[3] == pytest.approx((row[1] + row[2]) / 2) for row in outcome.rows)
    assert set(outcome.figures) == {
        f"{method}_{figure}"
        for method in ("sorted", "sorted_mean", "ordinary", "ours")
        for figure in ("average", "full", "smallest")
    }
    assert set(outcome.curves) == set(encoder.TABLE_4_3.jobs(conditions(folder)))
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert not list(tmp_path.glob("**/checkpoints"))


def test_a_model_inside_another_is_compared_with_both_alone(folder: Path, tmp_path: Path) -> None:
    outcome = done(encoder.TABLE_C_3, folder, tmp_path)
    assert set(outcome.figures) == {
        "sorted_large", "sorted_small", "sorted_twice_large", "sorted_twice_small", "large_large", "extracted_small",
    }  # fmt: skip
    large, small = outcome.rows[0], outcome.rows[1]
    assert (large[1], small[1]) == ("large", "small")
    assert large[2] > small[2]
    assert small[5] == pytest.approx((small[3] + small[4]) / 2)
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("experiment", [encoder.TABLE_4_3, encoder.TABLE_C_3], ids=lambda one: one.name)
def test_what_a_job_does_names_no_place_of_a_machine(experiment: Experiment, folder: Path) -> None:
    for job in experiment.jobs(conditions(folder)).values():
        assert str(folder.parent) not in json.dumps(dict(job.described))


def test_only_tasks_whose_files_are_there_are_trained(folder: Path) -> None:
    given = replace(conditions(folder), scale="gpu")
    assert {name.split("-")[1] for name in encoder.TABLE_4_3.jobs(given)} == {"sst2", "mrpc", "rte"}


def test_all_tasks_are_named_where_no_file_is_there(tmp_path: Path) -> None:
    given = Conditions("gpu", data=str(tmp_path))
    assert {name.split("-")[1] for name in encoder.TABLE_C_3.jobs(given)} == {"sst2", "mrpc", "rte", "stsb"}


@pytest.mark.parametrize("experiment", [encoder.TABLE_4_3, encoder.TABLE_C_3], ids=lambda one: one.name)
def test_all_methods_get_the_same_batches(experiment: Experiment, folder: Path) -> None:
    jobs = experiment.jobs(replace(conditions(folder), seed=3))
    described = [job.described for name, job in jobs.items() if "sst2" in name]
    assert {one["training"]["seed"] for one in described} == {3}
    assert len({json.dumps(one["text"]) for one in described}) == 1
    assert len({one["training"]["per_device_train_batch_size"] for one in described}) == 1


def test_the_papers_figures_stand_beside_the_large_scale(folder: Path) -> None:
    given = replace(conditions(folder), scale="gpu")
    results = {
        name: {"quality": {f"num_hidden_layers={depth}": float(depth) for depth in range(1, 13)}, "curve": {}}
        for name in encoder.TABLE_4_3.jobs(given)
    }
    rows = encoder.TABLE_4_3.summarise(given, results).rows
    assert rows[-2][1] == pytest.approx((70.76 + 81.22 + 47.65) / 3)
    assert rows[-1][-1] == 52.86
