"""The process of a command: an interruption at any moment, and output that nobody reads to its end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
output: {output}
space: {{depth: [1, 2], width: [4, 8]}}
model: {{name: mlp}}
data: {{name: digits}}
training: {{updates: 3, batch_size: 8}}
"""
# Interrupts its own process when a module is looked for, so that the moment is the same on every machine.
INTERRUPTED_AT = """
import os, signal, sys
from importlib.abc import MetaPathFinder


moment = sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started from does


class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Interrupting())
from sortednet.__main__ import run
run()
"""


@pytest.mark.parametrize(
    "module",
    [
        "sortednet.cli", "jsonargparse", "rich.console", "sortednet.jobs.training", "torch", "torch.nn", "numpy",
        "accelerate", "sortednet.jobs.images", "sklearn.model_selection",
    ],
)  # fmt: skip
def test_an_interruption_at_any_moment_is_one_line(tmp_path: Path, module: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(output=tmp_path / "run"))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED_AT, module, "train", str(config)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("Interrupted.")
    assert len(ended.stderr.splitlines()) == 1


def test_an_interruption_inside_of_a_finaliser_ends_the_command() -> None:
    program = """
import os, signal, sys, time
from sortednet import cli

signal.signal(signal.SIGINT, signal.default_int_handler)

class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def run(words):
    Thing()
    time.sleep(60)

cli._run = run
sys.exit(cli.main(["list"]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stderr) == (130, "Interrupted.\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
def test_output_that_is_not_read_to_its_end_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as unread:
        ended = subprocess.run(
            [sys.executable, "-m", "sortednet", "--help"], stdout=unread, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_the_system_refuses_is_one_line_with_status_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = subprocess.run(
        [sys.executable, "-m", "sortednet", "init", "images", "--output", str(tmp_path / "file" / "c.yaml")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "c.yaml" in ended.stderr
