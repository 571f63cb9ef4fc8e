"""What answers at once loads neither torch nor any other large package: checked by what is imported, not by time."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sortednet.cli import _parser

HEAVY = ("torch", "transformers", "accelerate", "numpy", "scipy", "sklearn", "sympy", "matplotlib", "peft")
RUN = Path(__file__).parent / "fixtures" / "0.1" / "runs" / "images"
IMAGES = "space: {depth: [1, 2]}\ntraining:\n  "
TEXT = "pretrained: {path: somewhere}\ntext: {name: sst2}\nspace: {num_hidden_layers: [1, 2]}\n"
FORMULAS = "depths: [1, 4]\nproblems: {draws: 100}\ntraining:\n  "

COMMANDS = re.search(r"\{([a-z,]+)\}", _parser().format_help())[1].split(",")


def run(folder: Path, *words: str) -> tuple[int, list[str], str]:
    """Run a command in a process of its own; return its status, the large packages it loaded, and what it printed."""
    program = (
        "import json, sys\n"
        "from sortednet.cli import main\n"
        "try: status = main(json.loads(sys.argv[1]))\n"
        "except SystemExit as end: status = end.code or 0\n"
        f"print(json.dumps([status, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, json.dumps(words)], capture_output=True, text=True, cwd=folder, check=True
    )
    status, loaded = json.loads(ended.stdout.splitlines()[-1])
    return status, loaded, ended.stdout + ended.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS, "symbolic fit", "symbolic train", "symbolic report"])
def test_help_loads_nothing_large(tmp_path: Path, command: str) -> None:
    status, loaded, text = run(tmp_path, *command.split(), "--help")
    assert (status, loaded) == (0, [])
    assert "usage:" in text


def test_select_loads_nothing_large(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    status, loaded, text = run(tmp_path, "select", "run", "--name", "small", "min_quality=0")
    assert (status, loaded) == (0, []), text
    assert "Best under min_quality=0" in text
    assert "small" in json.loads((tmp_path / "run" / "chosen.json").read_text())["chosen"]


def test_init_loads_nothing_large(tmp_path: Path) -> None:
    assert run(tmp_path, "init", "images")[:2] == (0, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (IMAGES + "updaets: 5", ["train", "c.yaml"]),
        (IMAGES + "updates: many", ["train", "c.yaml"]),
        (IMAGES + "updates: 0", ["train", "c.yaml"]),
        (IMAGES + "updates: 5\nrecipe: srted", ["train", "c.yaml"]),
        (IMAGES + "updates: 5\nsampler: {name: unifrom}", ["train", "c.yaml"]),
        (IMAGES + "updates: 5\nmodel: {name: resnet}", ["train", "c.yaml"]),
        (IMAGES + "updates: 5", ["train", "c.yaml", "training.batchsize=3"]),
        (IMAGES + "updates: 5", ["train", "--outptu", "x", "c.yaml"]),
        (IMAGES + "updates: {", ["train", "c.yaml"]),
        (TEXT + "traning: {}", ["train", "c.yaml"]),
        (TEXT + "adapter: {rank: 3}", ["train", "c.yaml"]),
        (TEXT + "adapter: {r: 0}", ["train", "c.yaml"]),
        (FORMULAS + "updaets: 5", ["symbolic", "train", "c.yaml"]),
        (FORMULAS + "updates: 5\nmodel: {width: 5}", ["symbolic", "train", "c.yaml"]),
        (FORMULAS + "updates: 5", ["train", "c.yaml"]),
        ("", ["train", "nowhere.yaml"]),
        ("", ["select", "nowhere", "max_params=5"]),
        ("", ["symbolic", "fit", "points.csv", "--candidates", "many"]),
        ("", ["generate", "run", "text", "--top_k", "3"]),
        ("", ["generate", "nowhere", "text"]),
        ("", ["evaluate", "nowhere"]),
        ("", ["extract", "nowhere", "depth=1"]),
        ("", ["report", "nowhere"]),
        ("", ["reproduce", "fig4.2", "--data", "nowhere"]),
        ("", ["reproduce", "fig9.9"]),
        ("", ["trian", "c.yaml"]),
        ("", ["symbolic"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.splitlines()[-1] if value else "-",
)
def test_errors_load_nothing_large_and_exit_with_status_2(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "c.yaml").write_text(text)
    status, loaded, said = run(tmp_path, *words)
    assert (status, loaded) == (2, []), said
    assert "error: " in said
    assert "Traceback" not in said


def test_importing_the_package_loads_nothing_large(tmp_path: Path) -> None:
    program = f"import sys, sortednet\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
