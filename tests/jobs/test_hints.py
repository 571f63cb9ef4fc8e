"""What commands say of an input that is for something else: at once, with the place and the right remedy."""

import shutil
from pathlib import Path

import pytest

from sortednet.cli import main

RUNS = Path(__file__).parent.parent / "fixtures" / "0.1" / "runs"


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("space", "place", "why"),
    [
        ("{depth: 4, width: [4]}", r"(line 2, column 3)", "space.depth=4 cannot be used."),
        ("{depth: [1, 2], width: [4, four]}", r"(line 3, column 3)", "space.width=[4, 'four'] cannot be used."),
        ("{depth: [1, 2], width: []}", r"(line 3, column 3)", "space.width=[] cannot be used."),
    ],
)
def test_a_support_that_is_none_is_told_with_its_place(tmp_path: Path, capsys, space, place, why) -> None:
    lines = space.strip("{}").replace("], ", "],\n  ").replace("4, width", "4,\n  width")
    (tmp_path / "c.yaml").write_text(f"space: {{\n  {lines}}}\n")
    said = error_of(capsys, "train", str(tmp_path / "c.yaml"))
    assert place in said
    assert why in said


def test_a_support_on_the_command_line_is_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text("space: {depth: [1, 2], width: [4]}\n")
    said = error_of(capsys, "train", str(tmp_path / "c.yaml"), "space.width=8")
    assert "(space.width=... on the command line)" in said


def test_a_list_of_settings_that_is_none_is_told(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text("space: [{depth: 1}, {width: 2}]\n")
    assert "(line 1, column 1)" in error_of(capsys, "train", str(tmp_path / "c.yaml"))


def test_a_run_of_formulas_is_not_evaluated_but_used(capsys) -> None:
    run = next(one.parent for one in RUNS.glob("*/config.json") if "generator" in one.read_text())
    said = error_of(capsys, "evaluate", str(run))
    assert f"sortednet symbolic fit POINTS.csv --model {run / 'symbolic.safetensors'}" in said


def test_a_fit_has_a_page_of_its_own(tmp_path: Path, capsys) -> None:
    (tmp_path / "fit.json").write_text("{}")
    assert f"See it as a page: sortednet symbolic report {tmp_path}" in error_of(capsys, "report", str(tmp_path))


def test_a_table_is_no_model_of_formulas(tmp_path: Path, capsys) -> None:
    (tmp_path / "p.csv").write_text("x,y\n1,2\n2,4\n3,6\n")
    said = error_of(capsys, "symbolic", "fit", str(tmp_path / "p.csv"), "--model", str(tmp_path / "p.csv"))
    assert "p.csv is no model of sortednet symbolic" in said


def test_a_classifier_does_not_generate(capsys) -> None:
    assert "which is no causal language model" in error_of(capsys, "generate", str(RUNS / "text"), "once")


def test_the_labels_that_there_are_are_told(tmp_path: Path, capsys) -> None:
    run = shutil.copytree(RUNS / "images", tmp_path / "run")
    said = error_of(capsys, "extract", str(run), "nolabel")
    assert "'nolabel' is neither a setting nor the label of a selection; those of" in said
