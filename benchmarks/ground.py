"""What a new user meets: how soon commands answer, how long the demo takes from a clean clone, which warnings are seen.

Processor times are of whole processes, in turn with `import torch`, and compared as ratios. The demo is timed by the
clock, in a clone of the last commit, with the installation; the downloads that pip keeps are there already.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import readme_examples
from measuring import context, write

ROOT = Path(__file__).parent.parent
RUN = ROOT / "tests" / "fixtures" / "0.1" / "runs" / "images"
REPEATS = 9
CONFIG = "space: {depth: [1, 2]}\ntraining:\n  updaets: 5\n"
WARNING = re.compile(r"^.*(?:Warning|warning): .*$", re.MULTILINE)


def processor_s(command: list[str], folder: Path, status: int) -> float:
    """Return the processor time of a process and its children in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == status, (command, ended.stderr)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def commands() -> tuple[dict[str, float], dict[str, Any]]:
    """Return the processor time of commands over that of `import torch`, medians of ratios of neighbours."""
    program = str(Path(sys.executable).with_name("sortednet"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(RUN, folder / "run")
        (folder / "c.yaml").write_text(CONFIG)
        contenders = {
            "torch": ([sys.executable, "-c", "import torch"], 0),
            "help": ([program, "--help"], 0),
            "select": ([program, "select", "run", "min_quality=0"], 0),
            "error": ([program, "train", "c.yaml"], 2),
        }
        times: dict[str, list[float]] = {key: [] for key in contenders}
        for repeat in range(-2, REPEATS):
            for key, (command, status) in contenders.items():
                seconds = processor_s(command, folder, status)
                if repeat >= 0:
                    times[key].append(seconds)
    ratios = {
        f"{key}_over_torch": statistics.median(a / b for a, b in zip(times[key], times["torch"], strict=True))
        for key in ("help", "select", "error")
    }
    return ratios, {f"{key}_processor_s": statistics.median(held) for key, held in times.items()}


def demo_minutes() -> float:
    """Return how long `make demo` takes in a clone of the last commit."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), f"{folder}/clone"], check=True)
        variables = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        began = time.perf_counter()
        subprocess.run(["make", "-s", "demo"], cwd=f"{folder}/clone", env=variables, check=True, stdout=sys.stderr)
        return (time.perf_counter() - began) / 60


def warnings_seen(python: str) -> tuple[int, dict[str, Any]]:
    """Return how many warnings the README's examples show with an environment's versions."""
    with tempfile.TemporaryDirectory() as folder:
        ended = readme_examples.run(python, Path(folder))
    failed = {heading: said.strip().splitlines()[-1:] for heading, (status, said) in ended.items() if status}
    assert not failed, failed
    found = {heading: WARNING.findall(said) for heading, (_, said) in ended.items()}
    program = (
        "import json, platform; from importlib.metadata import version; "
        "print(json.dumps({'python': platform.python_version(), **{name: version(name) for name in "
        "('torch', 'transformers', 'peft', 'accelerate', 'scikit-learn')}}))"
    )
    versions = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout
    seen = {heading: lines for heading, lines in found.items() if lines}
    return sum(map(len, found.values())), {"versions": versions.strip(), "seen": seen, "examples": len(ended) - 1}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    parser.add_argument(
        "--newest", default=sys.executable, help="the Python of an environment with the newest versions"
    )
    given = parser.parse_args()
    metrics, about = commands()
    seen, examples = warnings_seen(given.newest)
    metrics |= {"warnings_seen": seen, "demo_minutes": demo_minutes()}
    write(given.out, metrics, context(repeats=REPEATS, **about, readme=examples))
