"""Measure every sub-model of a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation.table import Table
from ..files.run_folder import CONFIG, writing
from ..imports.packages import needs
from .configurations import read_config
from .fine_tuning_config import FineTuningConfig
from .selection import EVALUATED, TABLE, check_trained, evaluated_text, in_run, print_rows

with needs("A command", "cli"):
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["evaluate"]

_COSTS = ("flops", "latency", "memory")


def evaluate(
    run: str,
    console: Console,
    *,
    measure: Sequence[Any] = _COSTS,
    batch_size: int | None = None,
    cost_batch: int = 1,
    trust: Sequence[str] = (),
) -> Table:
    """Measure every sub-model of a run, write `table.json` and `table.csv`, and print those that no smaller one beats.

    Args:
        run: The run's folder.
        console: Where progress is shown.
        measure: Costs to measure, of `flops`, `latency` and `memory`.
        batch_size: Examples in a batch, at least 1; 256 images or 32 texts where left out.
        cost_batch: Examples that latency and memory are measured on, at least 1.
        trust: Modules that the run's configuration may name besides your own, such as `torchvision`.

    Raises:
        ConfigError: If a value is outside its range, or the run is not trained.
    """
    if set(measure) - set(_COSTS) or (batch_size is not None and batch_size < 1) or cost_batch < 1:
        raise ConfigError(
            f"measure={list(measure)} may hold flops, latency and memory; batch_size={batch_size} and "
            f"cost_batch={cost_batch} are at least 1."
        )
    config = read_config(in_run(run, CONFIG, "sortednet train"))
    check_trained(run, CONFIG)
    import torch

    from ..evaluation import evaluator as evaluation

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluating", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if isinstance(config, FineTuningConfig):
            from . import fine_tuning as fine_tuning_job

            opened = fine_tuning_job.open_run(config, Path(run))
            table = fine_tuning_job.evaluate(
                opened, Path(run), batch_size=batch_size or 32, measure=measure, cost_batch=cost_batch, progress=show
            )
        else:
            from . import images as image_job

            images, net = image_job.open_run(config, Path(run), trust)
            held = (images.test_images, images.test_labels)
            batches = list(zip(*(torch.split(one, batch_size or 256) for one in held), strict=True))
            table = evaluation.evaluate(net, batches, measure=measure, cost_batch=cost_batch, progress=show)
    with writing(run) as save:
        save.write(EVALUATED, evaluated_text(run).encode())
        table.to_json(save.beside / TABLE)
        table.to_csv(save.beside / "table.csv")
    front = table.pareto()
    print_rows(table, front, f"{len(table)} sub-models; the {len(front)} that no smaller one beats:")
    console.print(f"The whole table: {Path(run) / 'table.csv'}")
    return table
