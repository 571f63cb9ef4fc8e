"""Four widths of cPreResNet20 on CIFAR-10: table 4.2, tables 4.5 and C.1, and the time of an epoch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ..data.images import augment
from ..jobs import images as image_job
from ..jobs.image_config import ModelConfig, RunConfig
from ..report.pictures import write_bars, write_lines
from ..training.steps import step
from ..training.trainer import TrainingConfig
from .images import cifar10, job, on_device
from .running import Conditions, Experiment, Job, Outcome, Result

__all__ = [
    "ACCUMULATION",
    "METHODS",
    "TABLE_4_2",
    "TIME_PER_EPOCH",
    "config",
]

WIDTHS = (16, 12, 8, 4)
TIMED = {"cpu": 24, "gpu": 390}  # updates whose time is taken
TEST_IMAGES = 2000  # at the small scale
UPDATES = {"cpu": 300, "gpu": 78_000}
PAPERS: dict[str, dict[str, tuple[float, ...]]] = {
    "instance": {
        "slimmable": (88.67, 87.86, 84.46, 75.42),
        "lcs_p": (87.61, 85.73, 81.54, 76.17),
        "sortednet": (89.14, 88.46, 85.51, 75.10),
    },
    "batch": {
        "slimmable": (79.84, 78.59, 69.44, 10.96),
        "lcs_p": (65.87, 85.67, 65.58, 15.78),
        "sortednet": (85.24, 85.29, 70.98, 12.59),
    },
}
"""Table 4.2 of the papers: accuracy at 100, 75, 50 and 25 % of the width."""

_ACCUMULATION_PAPERS = {1: (80.85, 80.85), 2: (82.53, 80.75), 3: (83.11, 81.63), 4: (83.95, 82.19)}
"""Mean accuracy by g_acc: with equal updates (table 4.5), with equal epochs (table C.1)."""

_TITLES = {
    "slimmable": "slimmable",
    "universally_slimmable": "universally slimmable",
    "lcs_p": "LCS-p",
    "sortednet": "SortedNet, g_acc 4",
    "sorted": "sorted (ours)",
}
METHODS = tuple(_TITLES)


def config(
    conditions: Conditions, method: str, norm: str, updates: int | None = None, accumulate: int = 1
) -> RunConfig:
    """Return the run of a method: the papers' hyper-parameters, the same updates and order of batches for all.

    Args:
        conditions: The scale, the seed and the data.
        method: A recipe's name.
        norm: The normalisation.
        updates: Updates; those of the scale where left out.
        accumulate: Batches for an update.
    """
    on_gpu = conditions.scale == "gpu"
    widths = list(range(4, 17)) if method in ("universally_slimmable", "lcs_p") else sorted(WIDTHS)
    training = TrainingConfig(
        updates=updates or UPDATES[conditions.scale], batch_size=128, accumulate=accumulate, optimizer="sgd",
        learning_rate=0.1, weight_decay=5e-4, schedule="cosine", warmup_share=0.025, max_norm=None,
        checkpoint_every=1000, keep=1, log_every=20, seed=conditions.seed, compile=on_gpu, channels_last=True,
    )  # fmt: skip
    data = cifar10(conditions) if on_gpu else cifar10(conditions, parts=2, pixels=16, test_images=TEST_IMAGES)
    options = {"bottleneck": True, "norm_scale": 0.5, "norm": norm, "depth": 2}
    options_of: dict[str, dict[str, Any]] = {
        "sortednet": {"accumulation": "sum"},
        "sorted": {"draws": 1, "accumulation": "sum", "norms": "private"},
    }
    return RunConfig(
        space={"width": widths}, model=ModelConfig("preresnet", options), data=data, training=training, recipe=method,
        recipe_options=options_of.get(method, {}),
    )  # fmt: skip


def _norms(conditions: Conditions) -> dict[str, str]:
    """Return the two normalisations by the name of the column."""
    return {"instance": "instance" if conditions.scale == "gpu" else "group", "batch": "batch"}


def _settings() -> list[str]:
    return [f"width={width}" for width in WIDTHS]


# Table 4.2


def _table_jobs(conditions: Conditions) -> dict[str, Job]:
    jobs = {}
    for column, norm in _norms(conditions).items():
        for method in METHODS:
            one = config(conditions, method, norm, accumulate=4 if method in ("sortednet", "sorted") else 1)
            jobs[f"widths-{column}-{method}"] = job(one, _settings())
    return jobs


def _means(results: Mapping[str, Result], column: str) -> dict[str, float]:
    return {
        method: statistics.mean(results[f"widths-{column}-{method}"]["quality"][one] for one in _settings())
        for method in METHODS
    }


def _table_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    rows: list[list[Any]] = []
    figures: dict[str, float] = {}
    for column, norm in _norms(conditions).items():
        means = _means(results, column)
        for method in METHODS:
            quality = results[f"widths-{column}-{method}"]["quality"]
            paper = PAPERS[column].get(method)
            rows.append(
                [method, norm, *(quality[one] for one in _settings()), means[method],
                 statistics.mean(paper) if paper else None]
            )  # fmt: skip
            figures[f"{column}_{method}"] = means[method]
        others = max(value for method, value in means.items() if method != "sorted")
        figures[f"table42_{'in' if column == 'instance' else 'bn'}"] = means["sorted"] - others
    return Outcome(
        columns=["method", "norm", "100 %", "75 %", "50 %", "25 %", "mean", "mean in the papers"],
        rows=rows,
        figures=figures,
        notes=_notes(conditions),
        curves={name: found["curve"] for name, found in results.items()},
    )


def _notes(conditions: Conditions) -> str:
    one = config(conditions, "sorted", "batch")
    shared = (
        f"cPreResNet20, CIFAR-10, test accuracy in per cent at four widths. {one.training.updates:,} updates of "
        f"batches of {one.training.batch_size} for every method, in the same order with the same augmentation; SGD, "
        f"rate {one.training.learning_rate}, momentum 0.9, weight decay {one.training.weight_decay}, a cosine with a "
        "short warm-up, as in the code of LCS. Slimmable and LCS-p sum the losses of four widths a batch (all four; "
        "largest, smallest and two of thirteen), universally slimmable too, with in-place distillation and statistics "
        "measured anew. SortedNet sums the gradients of four batches of one uniformly drawn width each (g_acc 4), so "
        "that it sees four times the images at the same cost. Ours (`recipe: sorted`) does so too, with stratified "
        "draws, so that an update has every width once, and with norms private to each width. Distillation is a part "
        "of universally slimmable alone."
    )
    if conditions.scale == "gpu":
        return shared
    return shared + (
        " The small scale has images of 16 x 16 pixels, 20,000 of them, and group norm with one group in place of "
        "instance norm, with which no method leaves the starting plateau within so few updates; so the papers' "
        "figures, of 32 x 32 pixels and 78,000 updates, are beside the point of each row, not a comparison."
    )


def _draw_table(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    groups = {}
    for column, norm in _norms(conditions).items():
        means = _means(results, column)
        groups[f"{norm} norm"] = {_TITLES[method]: value for method, value in means.items()}
    write_bars(path, groups, y="mean accuracy of four widths, %", title="Four widths of cPreResNet20")


TABLE_4_2 = Experiment(
    "table4.2", "Four widths of cPreResNet20 on CIFAR-10 (table 4.2)", _table_jobs, _table_outcome, _draw_table
)


# Accumulation


def _accumulation_jobs(conditions: Conditions) -> dict[str, Job]:
    norm = _norms(conditions)["instance"]
    whole = config(conditions, "sortednet", norm)
    jobs = {}
    for batches in (1, 2, 3, 4):
        jobs[_name(batches, "updates")] = job(config(conditions, "sortednet", norm, accumulate=batches), _settings())
        if batches > 1:
            fewer = whole.training.updates // batches
            one = config(conditions, "sortednet", norm, updates=fewer, accumulate=batches)
            jobs[_name(batches, "epochs")] = job(one, _settings())
    return jobs


def _name(batches: int, equal: str) -> str:
    """Return the name of a job; g_acc 4 with equal updates is table 4.2's."""
    if batches == 4 and equal == "updates":
        return "widths-instance-sortednet"
    return f"accumulation-{batches}" + ("" if batches == 1 else f"-equal-{equal}")


def _accumulation_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    rows: list[list[Any]] = []
    figures = {}
    for place, equal in enumerate(("updates", "epochs")):
        for batches in (1, 2, 3, 4):
            quality = results[_name(batches, "updates" if batches == 1 else equal)]["quality"]
            values = [quality[one] for one in _settings()]
            rows.append(
                [f"{batches}, equal {equal}", *values, statistics.mean(values), _ACCUMULATION_PAPERS[batches][place]]
            )
            figures[f"accumulation_{batches}_{equal}"] = statistics.mean(values)
    return Outcome(
        columns=["g_acc", "100 %", "75 %", "50 %", "25 %", "mean", "mean in the papers"],
        rows=rows,
        figures=figures,
        notes="SortedNet with g_acc batches of one width each for an update: with as many updates (and g_acc times "
        "the epochs), or as many epochs (and updates / g_acc). " + _notes(conditions),
        curves={name: found["curve"] for name, found in results.items()},
    )


def _draw_accumulation(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    outcome = _accumulation_outcome(conditions, results)
    lines = {
        f"equal {equal}": [(batches, outcome.figures[f"accumulation_{batches}_{equal}"]) for batches in (1, 2, 3, 4)]
        for equal in ("updates", "epochs")
    }
    write_lines(path, lines, x="g_acc", y="mean accuracy of four widths, %", title="Accumulation of batches")


ACCUMULATION = Experiment(
    "table4.5",
    "Accumulation of batches in SortedNet (tables 4.5 and C.1)",
    _accumulation_jobs,
    _accumulation_outcome,
    _draw_accumulation,
)


# Time of an epoch


def _time_jobs(conditions: Conditions) -> dict[str, Job]:
    norm = _norms(conditions)["instance"]
    methods = {
        "sortednet": config(conditions, "sortednet", norm, accumulate=4),
        "lcs_p": config(conditions, "lcs_p", norm),
    }
    updates = TIMED[conditions.scale]
    described = {"updates": updates, "norm": norm, "scale": conditions.scale, "seed": conditions.seed}
    return {"time-per-epoch": Job(partial(_times, methods, updates), described)}


def _times(methods: Mapping[str, RunConfig], updates: int, folder: Path, results: Mapping[str, Result]) -> Result:
    """Time the updates of both methods in turn, so that whatever else the machine does hits both."""
    images = on_device(next(iter(methods.values())))
    steps = {name: _stepper(one, images) for name, one in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(-1, updates):
        for name, one_step in steps.items():
            start = time.perf_counter()
            one_step()
            if images.train_images.is_cuda:
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {"seconds_per_update": seconds}


def _stepper(one: RunConfig, images: Any) -> Callable[[], object]:
    """Return what makes an update of a method: as many batches as it accumulates, augmented."""
    net = image_job.make_network(one, images).to(images.train_images.device).train()
    if one.training.compile:
        net.compile()
    objective = image_job.make_recipe(one).stages[0].objective(net, one.training.seed, None)
    rate, decay = one.training.learning_rate, one.training.weight_decay
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=decay)
    generator = torch.Generator().manual_seed(one.training.seed)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(images.train_images), (one.training.batch_size,), generator=generator)
        chosen = chosen.to(images.train_images.device)
        moved = augment(images.train_images[chosen], generator, shift=one.data.shift, flip=one.data.flip)
        return moved, images.train_labels[chosen]

    def make_step() -> object:
        batches = [batch() for _ in range(one.training.accumulate)]
        return step(net, objective, optimizer, batches, functional.cross_entropy, accumulate=True)

    return make_step


def _time_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    seconds = results["time-per-epoch"]["seconds_per_update"]
    updates = 50_000 // 128
    # Settings are drawn, so that no pair of updates is alike: the ratio is that of the means.
    epochs = {name: updates * statistics.mean(values) for name, values in seconds.items()}
    ratio = epochs["sortednet"] / epochs["lcs_p"]
    return Outcome(
        columns=["method", "seconds for an epoch's updates", "seconds in the papers"],
        rows=[
            ["sortednet, g_acc 4", epochs["sortednet"], 198.8],
            ["lcs_p", epochs["lcs_p"], 292.7],
            ["ratio", ratio, 198.8 / 292.7],
        ],
        figures={"lcs_time_ratio": ratio},
        notes=f"Mean time of {len(seconds['lcs_p'])} updates of each, in turn, times {updates} updates, the number "
        "of an epoch of 50,000 images: four batches of one uniformly drawn width each, against one batch at four "
        "widths (largest, smallest, two of thirteen drawn).",
    )


def _draw_time(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    rows = _time_outcome(conditions, results).rows
    bars = {"time": {str(row[0]): float(row[1]) for row in rows[:2]}}
    write_bars(path, bars, y="seconds for an epoch's updates", title="Time of an epoch, equal updates")


TIME_PER_EPOCH = Experiment(
    "time-per-epoch", "Time of an epoch, SortedNet against LCS-p (C.4.3)", _time_jobs, _time_outcome, _draw_time
)
