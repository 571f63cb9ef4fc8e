"""Measure every sub-model of a trained run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..evaluation.table import Table
from ..files.run_folder import CONFIG, writing
from ..imports.packages import needs
from .configurations import read_config
from .fine_tuning_config import FineTuningConfig
from .selection import EVALUATED, TABLE, check_trained, evaluated_text, in_run, print_conditions, print_rows

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
    report_share: float = 0.0,
    trust: Sequence[str] = (),
) -> Table:
    """Measure every sub-model of a run, write `table.json` and `table.csv`, and print those that no smaller one beats.

    Args:
        run: The run's folder.
        console: Where progress is shown.
        measure: Costs to measure, of `flops`, `latency` and `memory`.
        batch_size: Examples in a batch, at least 1; 256 images or 32 texts where left out.
        cost_batch: Examples that latency and memory are measured on, at least 1.
        report_share: The share of the examples, at least 0 and below 1, that is reported on alone, and nothing is
            chosen by; drawn at random, the same at every evaluation.
        trust: Modules that the run's configuration may name besides your own, such as `torchvision`.

    Raises:
        ConfigError: If a value is outside its range, or the run is not trained.
    """
    if set(measure) - set(_COSTS) or (batch_size is not None and batch_size < 1) or cost_batch < 1:
        raise ConfigError(
            f"measure={list(measure)} may hold flops, latency and memory; batch_size={batch_size} and "
            f"cost_batch={cost_batch} are at least 1."
        )
    if not 0 <= report_share < 1:
        raise ConfigError(f"report_share={report_share} is no share. Give at least 0 and below 1, such as 0.5.")
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
            parts = _parted(len(opened.examples), report_share)
            kept, apart = ([opened.examples[place] for place in part] for part in parts)
            table = fine_tuning_job.evaluate(
                replace(opened, examples=kept), Path(run),
                batch_size=batch_size or 32, measure=measure, cost_batch=cost_batch, report=apart,
                conditions=_conditions("evaluation examples", config.seed, report_share), progress=show,
            )  # fmt: skip
        else:
            from . import images as image_job

            images, net = image_job.open_run(config, Path(run), trust)
            held = (images.test_images, images.test_labels)
            parts = _parted(len(images.test_labels), report_share)
            batches, reported = (
                list(zip(*(torch.split(one[part], batch_size or 256) for one in held), strict=True)) for part in parts
            )
            table = evaluation.evaluate(
                net, batches, measure=measure, cost_batch=cost_batch, report=reported if report_share else None,
                conditions=_conditions("test images", config.training.seed, report_share), progress=show,
            )  # fmt: skip
    with writing(run) as save:
        save.write(EVALUATED, evaluated_text(run).encode())
        table.to_json(save.beside / TABLE)
        table.to_csv(save.beside / "table.csv")
    front = table.pareto()
    print_rows(table, front, f"{len(table)} sub-models; the {len(front)} that no smaller one beats:")
    print_conditions(table)
    console.print(f"The whole table: {Path(run) / 'table.csv'}")
    return table


def _parted(count: int, share: float) -> tuple[list[int], list[int]]:
    """Return the places of the examples to choose by, and of those to report on, each in order."""
    apart = set(random.Random(0).sample(range(count), round(count * share)))
    parts = [place for place in range(count) if place not in apart], sorted(apart)
    if share and not all(parts):
        raise ConfigError(f"report_share={share} of {count} examples leaves none on one side. Give another share.")
    return parts


def _conditions(examples: str, seed: int, share: float) -> dict[str, str | int]:
    split = f"{1 - share:.0%} of the {examples} to choose by, {share:.0%} to report" if share else f"all {examples}"
    return {"split": split, "seed": seed}
