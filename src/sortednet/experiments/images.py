"""Jobs that train a network on images and measure its sub-models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data.images import ImageData
from ..evaluation.evaluator import evaluate
from ..evaluation.table import Row, Table
from ..files.run_folder import read_curves
from ..imports.packages import needs
from ..jobs import images as image_job
from ..jobs.image_config import DataConfig, RunConfig
from ..network.sorted_net import SortedNet
from ..space import Setting
from ..training.device import usable_device
from .running import Conditions, Job, Result

with needs("An experiment", "cli"):
    from rich.console import Console

__all__ = ["cifar10", "job", "measured", "on_device", "table_of", "thinned"]

_KEPT = 60  # points of a training curve


def cifar10(conditions: Conditions, *, parts: int = 5, pixels: int = 32, test_images: int | None = None) -> DataConfig:
    """Return CIFAR-10 with the papers' augmentation: shifts of up to an eighth of the height, and mirroring.

    Args:
        conditions: Where the images are.
        parts: How many of the five training parts.
        pixels: Height and width that the images are averaged down to.
        test_images: How many test images; all where left out.
    """
    options: dict[str, Any] = {"folder": conditions.data or "data/cifar10", "parts": parts, "pixels": pixels}
    if test_images is not None:
        options["test_images"] = test_images
    return DataConfig("cifar10", options, shift=pixels // 8, flip=True)


def job(config: RunConfig, settings: Iterable[Mapping[str, Any] | str] | None = None) -> Job:
    """Return the job that trains as a configuration says, and measures sub-models on the test images.

    Args:
        config: What to train; its folder is that of the job.
        settings: The sub-models to measure; all where left out.
    """
    chosen = None if settings is None else [str(one) for one in settings]
    options = {name: value for name, value in config.data.options.items() if name != "folder"}
    described = asdict(replace(config, data=replace(config.data, options=options), output=""))
    return Job(partial(_run, config, chosen), {**described, "measured": chosen})


def _run(config: RunConfig, settings: list[str] | None, folder: Path, results: Mapping[str, Result]) -> Result:
    images = on_device(config)
    held = replace(config, output=str(folder)).absolute()
    net = image_job.train(held, resume=True, console=Console(quiet=True), images=images)
    return measured(net, images, settings, folder)


def on_device(config: RunConfig) -> ImageData:
    """Load the images, on the accelerator if there is one."""
    torch.set_float32_matmul_precision("high")  # TF32, where there is any
    return image_job.load_data(config).to(usable_device())


def measured(net: SortedNet, images: ImageData, settings: list[str] | None, folder: Path) -> Result:
    """Return the accuracy and the size of sub-models, and the training curve of a run."""
    size = 500 if images.test_images.device.type == "cpu" else 2500
    batches = list(zip(*(torch.split(one, size) for one in (images.test_images, images.test_labels)), strict=True))
    table = evaluate(net.eval(), batches, settings=settings, measure=())
    return {
        "quality": {str(row.setting): row.quality for row in table},
        "parameters": {str(row.setting): row.params for row in table},
        "curve": thinned(read_curves(folder)),
    }


def thinned(curves: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """Return some points of every training curve, each the mean of those around it."""
    found = {}
    for name, points in curves.items():
        step = max(1, -(-len(points) // _KEPT))
        parts = [points[start : start + step] for start in range(0, len(points), step)]
        found[name] = [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]
    return found


def table_of(result: Result) -> Table:
    """Return the sub-models of a job as a table."""
    rows = [
        Row(Setting.parse(name), quality, result["parameters"][name]) for name, quality in result["quality"].items()
    ]
    return Table(rows)
