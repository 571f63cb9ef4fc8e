import json
from pathlib import Path

import pytest
import yaml

from sortednet.cli import main
from sortednet.jobs.beginning import FIRST, first_text
from sortednet.jobs.configurations import read_config, read_symbolic_config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", FIRST)
def test_a_first_configuration_is_read(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", kind]) == 0
    path = tmp_path / f"{kind}.yaml"
    assert f"train {kind}.yaml" in capsys.readouterr().err
    read_symbolic_config(path) if kind == "formulas" else read_config(path)
    assert "THIS_FILE" not in path.read_text()


@pytest.mark.parametrize("kind", FIRST)
def test_every_line_that_is_left_out_can_be_put_in(kind: str, tmp_path: Path) -> None:
    """Lines behind `# ` that are YAML keys are suggestions, and must be right too, each alone."""
    lines = first_text(kind).splitlines()
    places = [place for place, line in enumerate(lines) if line.startswith("  # ") and ": " in line]
    assert places or kind in ("formulas", "adapters")
    for place in places:
        suggestion = lines[place].replace("# ", "", 1)
        section = next(above for above in range(place, -1, -1) if lines[above][:1].isalpha())
        inside = [line for line in lines[section:place] if not line.startswith(suggestion.split(":")[0] + ":")]
        (tmp_path / "c.yaml").write_text("\n".join([*lines[:section], *inside, suggestion, *lines[place + 1 :]]))
        read_config("c.yaml")


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images.yaml").write_text("mine")
    assert main(["init", "images"]) == 2
    assert "is there already and is not written over" in capsys.readouterr().err
    assert (tmp_path / "images.yaml").read_text() == "mine"
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere")
    assert main(["init", "images", "--output", "link.yaml"]) == 2


def test_the_first_run_on_images_works_as_its_comments_say(tmp_path: Path) -> None:
    assert main(["init", "images", "--output", "my run.yaml"]) == 0
    small = ["training.updates=2", "training.batch_size=8", "space.depth=[1, 2]", "space.width=[8, 16]"]
    assert main(["train", "my run.yaml", *small]) == 0
    assert main(["evaluate", "runs/images", "--measure", "flops"]) == 0
    assert main(["select", "runs/images", "max_params=50000", "--name", "small"]) == 0
    assert main(["extract", "runs/images", "small"]) == 0
    assert main(["report", "runs/images"]) == 0
    assert json.loads((tmp_path / "runs" / "images" / "config.json").read_text())["recipe"] == "sorted"


@pytest.mark.parametrize("kind", FIRST)
def test_every_section_has_a_comment(kind: str) -> None:
    text = first_text(kind)
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) >= {"output", "training"}
    assert sum("#" in line for line in text.splitlines()) > 10
