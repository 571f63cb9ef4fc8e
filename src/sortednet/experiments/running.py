"""What every experiment shares: jobs in processes of their own, which can be stopped and gone on with, and results."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch

from .._version import __version__
from ..errors import CheckpointError, ConfigError, TrainingError
from ..files import records
from ..files.run_folder import refuse_other_run
from ..files.writing import write_bytes
from ..imports.names import Scale
from ..training.device import usable_device

__all__ = ["Conditions", "Experiment", "Job", "Outcome", "Scale", "main_job", "markdown", "run"]

Result = dict[str, Any]
_GRACE_S = 120  # for a process to save what it has when its time is up


@dataclass(frozen=True)
class Conditions:
    """Under what an experiment runs.

    Args:
        scale: `cpu` or `gpu`.
        seed: Of the weights, of the order of the data and of what is drawn, at least 0.
        data: Folder of the data; the experiment's own, `data/cifar10` or `data/glue`, where left out.
        model: Folder or name of the pretrained model; the experiment's own where left out.

    Raises:
        ConfigError: If the scale is unknown or the seed negative.
    """

    scale: Scale = "cpu"
    seed: int = 0
    data: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.scale not in get_args(Scale):
            raise ConfigError(f"scale={self.scale!r} is unknown. Choose cpu or gpu.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} is negative. Give 0 or more.")

    @property
    def folder(self) -> str:
        """The name of the folder in which all experiments under these conditions keep their jobs."""
        return f"{self.scale}-{self.seed}"


@dataclass(frozen=True)
class Job:
    """A part of an experiment that runs in a process of its own, and that several experiments may share.

    Args:
        run: Does it in the folder given, going on from what it finds there, with the results of the jobs it needs;
            returns plain JSON values.
        described: What it does, as plain JSON values: a finished job is used again if nothing of it has changed.
        needs: Names of the jobs that come first.
    """

    run: Callable[[Path, Mapping[str, Result]], Result]
    described: Mapping[str, Any]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Args:
        columns: Headings of the table.
        rows: Its rows: text, numbers, or None where nothing was measured.
        figures: Numbers by name, which several seeds are averaged over.
        notes: What a reader of the table must know: what is compared, and how it differs from the papers.
        curves: Training losses by job and sub-model, as pairs of update and loss.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    figures: Mapping[str, float]
    notes: str
    curves: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One of the papers' figures or tables.

    Args:
        name: Its name on the command line.
        title: What it shows.
        jobs: Its jobs by name, in order.
        summarise: Makes the outcome of the results of all jobs.
        draw: Writes the figure to a PNG file.
    """

    name: str
    title: str
    jobs: Callable[[Conditions], dict[str, Job]]
    summarise: Callable[[Conditions, Mapping[str, Result]], Outcome]
    draw: Callable[[Path, Conditions, Mapping[str, Result]], object]


def run(
    experiment: Experiment,
    conditions: Conditions,
    output: str | Path = "runs/reproduce",
    *,
    workers: int | None = None,
    minutes: float | None = None,
    say: Callable[[str], object] = print,
) -> Outcome | None:
    """Run what is left of an experiment, and write its result.

    Args:
        experiment: The experiment.
        conditions: Its scale, seed and data.
        output: Folder for all experiments. Under `SCALE-SEED` there are `jobs`, and for the experiment a JSON file with
            the outcome, its table in Markdown and its figure as PNG.
        workers: Jobs at a time, at least 1; one for each core on a CPU, one on a GPU.
        minutes: Time after which what runs is saved and stopped, above 0; none where left out.
        say: Called with what a user should know.

    Returns:
        The outcome; None if time was up before the end, and the same call goes on.

    Raises:
        ConfigError: If a number is out of its range, or a job cannot be carried out.
        CheckpointError: If a finished job was another one than the experiment needs now.
        TrainingError: If a job fails.
    """
    on_gpu = conditions.scale == "gpu" and torch.accelerator.is_available()
    count = (1 if on_gpu else os.cpu_count() or 1) if workers is None else workers
    if count < 1:
        raise ConfigError(f"workers={workers} is below 1. Give the number of jobs at a time.")
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes={minutes} is not above 0. Give how long to run, or leave it out.")
    folder = Path(output) / conditions.folder
    jobs = experiment.jobs(conditions)
    results = {name: found for name, job in jobs.items() if (found := _finished(folder, name, job)) is not None}
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    command = [sys.executable, "-m", "sortednet", "reproduce", experiment.name, f"--output={output}"]
    command += [f"--{name}={value}" for name, value in asdict(conditions).items() if value is not None]
    if not _run_all(jobs, results, folder, command, count, deadline, say):
        say(f"Time is up with {len(results)} of {len(jobs)} jobs done. The same command goes on from here.")
        return None
    outcome = experiment.summarise(conditions, results)
    _write(experiment, conditions, folder, outcome, results)
    say(f"Wrote {folder / experiment.name}.json, .md and .png")
    return outcome


def main_job(experiment: Experiment, conditions: Conditions, output: str | Path, name: str) -> None:
    """Do one job of an experiment in this process, and write its result beside its folder.

    Raises:
        ConfigError: If the experiment has no such job, or one that it needs is not done.
    """
    jobs = experiment.jobs(conditions)
    folder = Path(output) / conditions.folder
    if name not in jobs:
        raise ConfigError(f"job={name!r} is none of {experiment.name}. Choose one of {', '.join(jobs)}.")
    results = {}
    for needed in jobs[name].needs:
        found = _finished(folder, needed, jobs[needed])
        if found is None:
            raise ConfigError(f"Job {name} needs {needed}, which is not done. Run the whole experiment, without --job.")
        results[needed] = found
    start = time.perf_counter()
    found = jobs[name].run(folder / "jobs" / name, results)
    described = {"job": dict(jobs[name].described), "seconds": time.perf_counter() - start, **_machine()}
    write_bytes(_file(folder, name), records.to_text({**found, "described": described}, indent=None).encode())


def markdown(outcome: Outcome) -> str:
    """Return the table of an outcome in Markdown."""

    def text(value: Any) -> str:
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [f"| {' | '.join(outcome.columns)} |", f"| ---{' | ---:' * (len(outcome.columns) - 1)} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(text, row))} |" for row in outcome.rows)])


def _run_all(
    jobs: Mapping[str, Job],
    results: dict[str, Result],
    folder: Path,
    command: Sequence[str],
    workers: int,
    deadline: float | None,
    say: Callable[[str], object],
) -> bool:
    """Do the jobs that are left, each once what it needs is there; return whether all are done."""
    left = [name for name in jobs if name not in results]
    running: dict[Future[bool], str] = {}
    processes = _Processes()
    with ThreadPoolExecutor(workers) as pool, _stopping(processes):
        while left or running:
            ready = [name for name in left if all(needed in results for needed in jobs[name].needs)]
            for name in ready[: workers - len(running)]:
                left.remove(name)
                running[
                    pool.submit(
                        _process, [*command, f"--job={name}"], folder / f"{name}.log", deadline, workers, processes
                    )
                ] = name
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                name = running.pop(one)
                if not one.result():
                    left.clear()
                    continue
                results[name] = records.read(_file(folder, name))
                say(f"{name}: {results[name]['described']['seconds']:.0f} s")
            if deadline is not None and time.monotonic() > deadline:
                left.clear()
    return len(results) == len(jobs)


@dataclass
class _Processes:
    """The processes of an experiment, and whether they are to end."""

    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)


@contextmanager
def _stopping(processes: _Processes) -> Iterator[None]:
    """Let processes that still run save what they have, and end, if an error ends the context."""
    try:
        yield
    except BaseException:
        processes.ending.set()
        for process in processes.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        raise


def _process(
    command: Sequence[str],
    log: Path,
    deadline: float | None,
    workers: int,
    processes: _Processes,
) -> bool:
    """Run one job in a process of its own; return whether it is done, and not stopped for time."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    # Without the latter two, every step on a CPU gives its memory back to the system and asks for it again.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={"OMP_NUM_THREADS": threads, **memory, **os.environ}
        )
        processes.started.append(process)
        if processes.ending.is_set():  # another failed while this one started
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(None if deadline is None else max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode != 0:
                return False
    if process.returncode != 0:
        lines = log.read_text().strip().splitlines()
        said = " ".join(lines[-3:]).removeprefix("error: ") or "it said nothing."
        raise TrainingError(f"Job {command[-1].removeprefix('--job=')} failed: {said} The whole log is {log}.")
    return True


def _finished(folder: Path, name: str, job: Job) -> Result | None:
    """Return the result of a finished job; None if there is none.

    Raises:
        CheckpointError: If it was another job, or its file is damaged.
    """
    path = _file(folder, name)
    if not path.is_file():
        return None
    remedy = "Remove it and its folder to do the job again, or give another output."
    try:
        found: Result = records.read(path)
        then = dict(found["described"]["job"])
    except (OSError, *records.MALFORMED):
        raise CheckpointError(f"{path} is damaged. {remedy}") from None
    refuse_other_run(path, then, dict(job.described), remedy)
    return found


def _file(folder: Path, name: str) -> Path:
    return folder / "jobs" / f"{name}.json"


def _machine() -> dict[str, Any]:
    device = str(usable_device())
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sortednet": __version__,
    }


def _write(
    experiment: Experiment,
    conditions: Conditions,
    folder: Path,
    outcome: Outcome,
    results: Mapping[str, Result],
) -> None:
    held = {
        "experiment": experiment.name,
        "title": experiment.title,
        **asdict(conditions),
        **_machine(),
        "seconds": sum(found["described"]["seconds"] for found in results.values()),
        "table": {"columns": list(outcome.columns), "rows": [list(row) for row in outcome.rows]},
        "figures": dict(outcome.figures),
        "notes": outcome.notes,
        "curves": dict(outcome.curves),
    }
    del held["data"], held["model"]  # where they lie on this machine
    write_bytes(folder / f"{experiment.name}.json", json.dumps(held, indent=1).encode())
    text = f"# {experiment.title}\n\n{outcome.notes}\n\n{markdown(outcome)}\n"
    write_bytes(folder / f"{experiment.name}.md", text.encode())
    experiment.draw(folder / f"{experiment.name}.png", conditions, results)
