"""What every benchmark shares: the machine it ran on, and how times are compared."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import sortednet


def context(**more: Any) -> dict[str, Any]:
    """Describe the run: commit, device, versions."""
    root = Path(__file__).parent.parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True).stdout
    return {
        "commit": commit.strip(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sortednet": sortednet.__version__,
        **more,
    }


def alternate(contenders: dict[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Time contenders in turn, so that whatever else the machine does hits all of them. Seconds, one per repeat."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(-warmup, repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median of the ratios of neighbouring repeats."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "q1": quartiles[0], "q3": quartiles[2]}


def run_apart(script: str, names: list[str], kept: Path, workers: int, only: list[str]) -> None:
    """Make each run that is not kept yet in a process of its own: this command again, with `--run NAME`.

    Args:
        script: The script.
        names: Of the runs.
        kept: Folder with a JSON file for each run that was made.
        workers: Runs at a time.
        only: What `--only` was given, which the processes do not get.
    """
    # Without these, every step gives its memory back to the system and asks for it again.
    memory = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592", "OMP_NUM_THREADS": "1"}
    words = [word for word in sys.argv[1:] if word not in ("--only", *only)]

    def start(name: str) -> None:
        subprocess.run([sys.executable, script, *words, "--run", name], check=True, env={**os.environ, **memory})

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(start, [name for name in names if not (kept / f"{name}.json").is_file()]))


def output(description: str) -> Path:
    """Read --out from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    return Path(parser.parse_args().out)


def write(path: Path, metrics: dict[str, float], described: dict[str, Any]) -> None:
    """Write the result and show its figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metrics": metrics, "context": described}, indent=1) + "\n")
    for name, value in metrics.items():
        print(f"{name} = {value:.4g}")
