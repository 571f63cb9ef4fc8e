"""Train or fine-tune a network as a file says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..imports.packages import needs
from .configurations import read_config, with_output
from .fine_tuning_config import FineTuningConfig

with needs("A command", "cli"):
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

if TYPE_CHECKING:
    from ..network.sorted_net import SortedNet

__all__ = ["train"]


def train(
    path: str,
    changes: Sequence[str],
    output: str | None,
    resume: bool,
    console: Console,
    trust: Sequence[str] = (),
) -> SortedNet:
    """Train or fine-tune a network, going on from the last checkpoint in the run's folder.

    Args:
        path: The YAML file.
        changes: Values to change, such as `training.updates=100`.
        output: The run's folder, instead of the file's.
        resume: Whether to go on; it starts anew otherwise.
        console: Where progress is shown.
        trust: Modules that the file may name besides your own, such as `torchvision`.

    Raises:
        ConfigError: If the configuration cannot be carried out.
    """
    config = with_output(read_config(path, changes), output).absolute()
    if isinstance(config, FineTuningConfig):
        net = _fine_tune(config, resume, console)
    else:
        from . import images as image_job

        net = image_job.train(config, resume=resume, console=console, trust=trust)
    console.print(f"Trained {len(net.space)} sub-models in one network: {Path(config.output) / 'model'}")
    return net


def _fine_tune(config: FineTuningConfig, resume: bool, console: Console) -> SortedNet:
    from . import fine_tuning as fine_tuning_job

    columns = (
        TextColumn("fine-tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=console)
    task = progress.add_task("", total=None, loss="-")

    def show(done: int, total: int, loss: float | None) -> None:
        progress.start()  # with the first update
        progress.update(task, completed=done, total=total, loss="-" if loss is None else f"{loss:.4f}")

    try:
        return fine_tuning_job.train(config, resume=resume, progress=show, say=console.print)
    finally:
        progress.stop()
