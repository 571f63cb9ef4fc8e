"""Repeat an experiment of the papers."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..imports.names import EXPERIMENTS, Scale
from ..imports.packages import needs
from ..jobs.terminal import output_console

with needs("A command", "cli"):
    from rich.console import Console

__all__ = ["reproduce"]


def reproduce(
    name: str,
    console: Console,
    *,
    scale: Scale = "cpu",
    seed: int = 0,
    data: str | None = None,
    model: str | None = None,
    output: str = "runs/reproduce",
    workers: int | None = None,
    minutes: float | None = None,
    job: str | None = None,
) -> None:
    """Run an experiment, going on where it was stopped, and print its table.

    Args:
        name: Which one.
        console: Where progress is told.
        scale: A small version, or the papers' size.
        seed: Of weights, of the order of the data, of what is drawn.
        data: Folder of the data.
        model: Folder or name of the pretrained encoder.
        output: Folder for all experiments.
        workers: Jobs at a time; one a core, one on a GPU where left out.
        minutes: Save what runs after these, and stop.
        job: Do this job alone, in this process.

    Raises:
        ConfigError: If the data are no folder.
    """
    EXPERIMENTS.check(name)
    if data is not None and not Path(data).expanduser().is_dir():
        raise ConfigError(f"data={data!r} is no folder. Give the folder that holds the data.")
    from . import Conditions, main_job, markdown, run

    experiment = EXPERIMENTS[name]
    conditions = Conditions(scale, seed, data, model)
    if job is not None:
        main_job(experiment, conditions, output, job)
        return
    outcome = run(experiment, conditions, output, workers=workers, minutes=minutes, say=console.print)
    if outcome is not None:
        output_console().print(markdown(outcome))
