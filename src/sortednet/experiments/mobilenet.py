"""160 sub-models of MobileNetV2 on CIFAR-10: figures 4.2, 4.3 and 4.5."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ..evaluation.table import Table
from ..jobs import images as image_job
from ..jobs.image_config import ModelConfig, RunConfig
from ..network.sorted_net import SortedNet
from ..report.pictures import write_heatmaps, write_lines
from ..space import Space
from ..training.classifiers import adjust_classifiers
from ..training.trainer import TrainingConfig
from .images import cifar10, job, measured, on_device, table_of
from .running import Conditions, Experiment, Job, Outcome, Result

__all__ = [
    "BEST_RETRAINED",
    "SUB_MODELS",
    "THRESHOLD",
    "config",
]

DEPTHS = tuple(range(1, 17))
WIDTHS = tuple(step / 10 for step in range(1, 11))
TEST_IMAGES = 1000  # at the small scale
UPDATES = {"cpu": 300, "gpu": 39_000}
BEST = (DEPTHS[12:], WIDTHS[5:])
FULL = "depth=16,width=1.0"
PAPERS = {"baseline": 95.45, "sorted": 91.67, "width": 94.37, "depth": 94.01, "mean": 56.18, "adjusted": 50.3}
"""Fig. 4.2 of the papers: the full model of each run, and the mean of 160 sub-models, of 60 epochs for each of them."""

_BEST_PAPERS = {"full": 95.16, "depth=16,width=0.6": 86.24, "depth=16,width=0.8": 91.88}
_THRESHOLD = 0.8
"""Fig. 4.5 keeps sub-models above 80 % accuracy; here above 80 % of the baseline's, which is lower at small scale."""


def config(
    conditions: Conditions,
    recipe: str,
    *,
    depths: tuple[int, ...] | None = None,
    widths: tuple[float, ...] | None = None,
) -> RunConfig:
    """Return a run of a space by a recipe: the same updates, order of batches and hyper-parameters for every space.

    Args:
        conditions: The scale, the seed and the data.
        recipe: The recipe's name.
        depths: Blocks; all where left out.
        widths: Shares of the full width; all where left out.
    """
    on_gpu = conditions.scale == "gpu"
    training = TrainingConfig(
        updates=UPDATES[conditions.scale], batch_size=128, optimizer="adamw", learning_rate=2e-3, weight_decay=0.05,
        schedule="linear", warmup_share=0.1, max_norm=1.0, checkpoint_every=500, keep=1, log_every=20,
        precision="bf16" if on_gpu else "no", seed=conditions.seed, compile=on_gpu, channels_last=True,
    )  # fmt: skip
    data = cifar10(conditions) if on_gpu else cifar10(conditions, parts=2, pixels=16, test_images=TEST_IMAGES)
    model = ModelConfig("mobilenet_v2", {"base_multiplier": 1.4 if on_gpu else 0.35, "small_images": True})
    space = {"depth": list(depths or DEPTHS), "width": list(widths or WIDTHS)}
    ours = {"draws": 4} if recipe == "sorted" else {}
    return RunConfig(space=space, model=model, data=data, training=training, recipe=recipe, recipe_options=ours)


def _jobs(conditions: Conditions) -> dict[str, Job]:
    baseline = config(conditions, "sortednet", depths=DEPTHS[-1:], widths=WIDTHS[-1:])
    return {
        "mobilenet-baseline": job(baseline),
        "mobilenet-baseline-adjusted": _adjusted(baseline, conditions),
        "mobilenet-sortednet": job(config(conditions, "sortednet")),
        "mobilenet-sorted": job(config(conditions, "sorted")),
        "mobilenet-width": job(config(conditions, "sorted", depths=DEPTHS[-1:])),
        "mobilenet-depth": job(config(conditions, "sorted", widths=WIDTHS[-1:])),
    }


def _adjusted(baseline: RunConfig, conditions: Conditions) -> Job:
    images = 500 if conditions.scale == "cpu" else None
    described = {"images": images, "epochs": 5, "scale": conditions.scale, "seed": conditions.seed}
    run = partial(_adjust, baseline, images)
    return Job(run, described, needs=("mobilenet-baseline",))


def _adjust(baseline: RunConfig, count: int | None, folder: Path, results: Mapping[str, Result]) -> Result:
    """Measure the baseline's own 160 sub-models, before and after a classifier is trained for each."""
    images = on_device(baseline)
    _, opened = image_job.open_run(baseline, folder.parent / "mobilenet-baseline")
    space = Space(depth=DEPTHS, width=WIDTHS)
    net = SortedNet(image_job.make_builder(baseline, images), space, model=opened.full)
    before = measured(net, images, None, folder)
    batches = list(
        zip(*(torch.split(one[:count], 128) for one in (images.train_images, images.train_labels)), strict=True)
    )
    adjust_classifiers(net, batches, functional.cross_entropy, "model.classifier.*")
    after = measured(net, images, None, folder)
    return {**after, "before": before["quality"]}


def _mean(result: Result) -> float:
    return float(statistics.mean(result["quality"].values()))


def _outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    baseline = results["mobilenet-baseline"]["quality"][FULL]
    adjusted = results["mobilenet-baseline-adjusted"]
    rows: list[list[Any]] = [
        ["baseline, trained alone", baseline, 100.0, None, None, PAPERS["baseline"], None],
        _row("its sub-models as they are", adjusted["before"], baseline),
        _row("its sub-models, classifiers adjusted", adjusted["quality"], baseline, mean=PAPERS["adjusted"]),
        _row("sortednet", results["mobilenet-sortednet"]["quality"], baseline, PAPERS["sorted"], PAPERS["mean"]),
        _row("sorted", results["mobilenet-sorted"]["quality"], baseline),
        _row("sorted, width only", results["mobilenet-width"]["quality"], baseline, PAPERS["width"]),
        _row("sorted, depth only", results["mobilenet-depth"]["quality"], baseline, PAPERS["depth"]),
    ]
    figures = {
        "fig42_baseline": baseline,
        "fig42_full": 100 * results["mobilenet-sorted"]["quality"][FULL] / baseline,
        "fig42_full_sortednet": 100 * results["mobilenet-sortednet"]["quality"][FULL] / baseline,
        "fig42_mean_recovery": 100 * _mean(results["mobilenet-sorted"]) / baseline,
        "fig42_mean_recovery_sortednet": 100 * _mean(results["mobilenet-sortednet"]) / baseline,
        "fig42_width_only": 100 * results["mobilenet-width"]["quality"][FULL] / baseline,
        "fig42_depth_only": 100 * results["mobilenet-depth"]["quality"][FULL] / baseline,
        "fig42_adjusted": 100 * _mean(adjusted) / baseline,
    }
    columns = ["run", "full", "of baseline, %", "mean of sub-models", "of baseline, %", "full, papers", "mean, papers"]
    curves = {name: found["curve"] for name, found in results.items() if name != "mobilenet-sorted"}
    sizes = results["mobilenet-sorted"]["parameters"]
    alike = (
        f" Channels are rounded to multiples of 8, as the class has it, so that {len(set(sizes.values()))} of the "
        f"{len(sizes)} cells are different sub-models."
    )
    return Outcome(columns, rows, figures, _notes(conditions) + alike, curves)


def _row(
    name: str, quality: Mapping[str, float], baseline: float, full: float | None = None, mean: float | None = None
) -> list[Any]:
    average = statistics.mean(quality.values())
    return [name, quality[FULL], 100 * quality[FULL] / baseline, average, 100 * average / baseline, full, mean]


def _notes(conditions: Conditions) -> str:
    one = config(conditions, "sorted").training
    text = (
        "MobileNetV2 cut after 1 to 16 blocks and at 10 to 100 % of its width, CIFAR-10, test accuracy in per cent. "
        f"Every run has {one.updates:,} updates of batches of {one.batch_size}, the same order of images and "
        f"augmentation, AdamW at {one.learning_rate} with a linear schedule and a warm-up, from random weights; the "
        "papers start from pretrained weights and train 60 epochs for each of the 160 sub-models. `sortednet` draws "
        "one sub-model a batch; `sorted` splits it among four, in the whole space always with the largest, and "
        "measures the statistics of batch norm anew. Classifiers are adjusted for 5 epochs each, as in the papers."
    )
    if conditions.scale == "gpu":
        return text
    return text + (
        " The small scale has a quarter of the channels (a multiplier of 0.35 instead of 1.4), 20,000 images of "
        "16 x 16 pixels and 1,000 test images, and classifiers are adjusted on 500 images."
    )


def _draw(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    panels = {
        "sorted": table_of(results["mobilenet-sorted"]),
        "sortednet": table_of(results["mobilenet-sortednet"]),
        "baseline, classifiers adjusted": table_of(results["mobilenet-baseline-adjusted"]),
    }
    write_heatmaps(path, panels, x="width", y="depth", title="160 sub-models of MobileNetV2, CIFAR-10")


SUB_MODELS = Experiment("fig4.2", "160 sub-models of MobileNetV2 on CIFAR-10 (fig. 4.2)", _jobs, _outcome, _draw)


# The best of them, retrained


def _best_jobs(conditions: Conditions) -> dict[str, Job]:
    first = _jobs(conditions)
    best = config(conditions, "sorted", depths=BEST[0], widths=BEST[1])
    return {
        "mobilenet-baseline": first["mobilenet-baseline"],
        "mobilenet-sorted": first["mobilenet-sorted"],
        "mobilenet-best": job(best),
    }


def _best_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    baseline = results["mobilenet-baseline"]["quality"][FULL]
    best, whole = results["mobilenet-best"]["quality"], results["mobilenet-sorted"]["quality"]
    corners = (FULL, "depth=16,width=0.8", "depth=16,width=0.6", "depth=13,width=1.0", "depth=13,width=0.6")
    shown = [name for name in corners if name in best]
    papers = {**_BEST_PAPERS, FULL: _BEST_PAPERS["full"]}
    rows: list[list[Any]] = [[name, whole[name], best[name], papers.get(name)] for name in shown]
    means = [statistics.mean(found[name] for name in best) for found in (whole, best)]
    rows.append([f"mean of {len(best)}", *means, None])
    return Outcome(
        columns=["sub-model", "among 160", "the best 20 retrained", "in the papers, retrained"],
        rows=rows,
        figures={
            "fig43_full": 100 * best[FULL] / baseline,
            "fig43_gain": statistics.mean(best[name] - whole[name] for name in best),
        },
        notes="The 20 sub-models of at least 13 blocks and 60 % of the width, trained without the others. "
        + _notes(conditions),
        curves={"mobilenet-best": results["mobilenet-best"]["curve"]},
    )


def _draw_best(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    best = results["mobilenet-best"]["quality"]
    panels = {
        "among 160": Table([row for row in table_of(results["mobilenet-sorted"]) if str(row.setting) in best]),
        "retrained alone": table_of(results["mobilenet-best"]),
    }
    write_heatmaps(path, panels, x="width", y="depth", title="The best 20 sub-models")


BEST_RETRAINED = Experiment(
    "fig4.3", "The best 20 sub-models, retrained (fig. 4.3)", _best_jobs, _best_outcome, _draw_best
)


# Selection by a threshold


def _threshold_jobs(conditions: Conditions) -> dict[str, Job]:
    first = _jobs(conditions)
    return {name: first[name] for name in ("mobilenet-baseline", "mobilenet-sorted")}


def _threshold_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    baseline = results["mobilenet-baseline"]["quality"][FULL]
    table = table_of(results["mobilenet-sorted"])
    kept = table.above(_THRESHOLD * baseline)
    rows = [
        [str(row.setting), row.quality, row.params]
        for row in sorted(table.pareto(), key=lambda row: row.params)
        if row in kept
    ]
    smallest = min((row.params for row in kept), default=0)
    full = table.row(FULL).params
    return Outcome(
        columns=["sub-model", "accuracy", "parameters"],
        rows=rows,
        figures={
            "fig45_kept": float(len(kept)),
            "fig45_smallest_share": 100 * smallest / full if kept else 100.0,
        },
        notes=f"{len(kept)} of 160 sub-models reach {100 * _THRESHOLD:.0f} % of the accuracy of the baseline "
        f"({baseline:.2f}); shown are those that no smaller one beats. The papers keep those above 80 % accuracy, with "
        "a baseline of 95.45. " + _notes(conditions),
    )


def _draw_threshold(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    baseline = results["mobilenet-baseline"]["quality"][FULL]
    table = table_of(results["mobilenet-sorted"])
    curves: dict[str, list[tuple[float, float]]] = {}
    for depth in (1, 4, 8, 12, 16):
        rows = sorted((row for row in table if row.setting["depth"] == depth), key=lambda row: row.params)
        curves[f"{depth} blocks"] = [(row.params, row.quality) for row in rows]
    ends = [min(row.params for row in table), max(row.params for row in table)]
    curves["threshold"] = [(end, _THRESHOLD * baseline) for end in ends]
    write_lines(path, curves, x="parameters", y="accuracy, %", title="Sub-models above a threshold", log=True)


THRESHOLD = Experiment(
    "fig4.5", "Selection by a threshold (fig. 4.5)", _threshold_jobs, _threshold_outcome, _draw_threshold
)
