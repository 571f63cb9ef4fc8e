"""What the commands do with images: train a network on them, and open it again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from .config import RunConfig
from .data import ImageData, augment
from .device import usable_device
from .errors import SortedNetError, TrainingError
from .loading import load
from .network import SortedNet
from .recipe_training import train_recipe

__all__ = ["inputs_for_statistics", "open_run", "train"]

_MEASURED = 2048  # images that statistics are measured on


def train(
    config: RunConfig, *, resume: bool, console: Console | None = None, images: ImageData | None = None
) -> SortedNet:
    """Train to the end, write the network to `output/model`, and return it.

    Args:
        config: What to do. Its paths are absolute.
        resume: Whether to go on from the last checkpoint in `output`.
        console: Where progress is shown; standard error where left out.
        images: The data, where they are loaded already, on any device.

    Raises:
        ConfigError: If the configuration cannot be carried out.
        DataError: If the images are missing or unfit.
        TrainingError: If a loss is not finite, or the model does not fit the images.
        CheckpointError: If a checkpoint is damaged or of another run.
    """
    output = Path(config.output)
    images = config.load_data() if images is None else images
    net = config.make_network(images)
    shift, flip = config.data.shift, config.data.flip

    def transform(batch: Any, generator: torch.Generator) -> Any:
        return augment(batch[0], generator, shift=shift, flip=flip), batch[1]

    try:
        train_recipe(
            config.make_recipe(), net, functional.cross_entropy, (images.train_images, images.train_labels),
            config.training, output, resume=resume, transform=transform, description=asdict(config), console=console,
        )  # fmt: skip
    except SortedNetError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{config.model.name} cannot be trained on {config.data.name}: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}. The model must take images "
            f"of shape (B, {', '.join(map(str, images.train_images.shape[1:]))}) and return logits of shape "
            f"(B, {len(images.class_names)})."
        ) from error
    if net.private.policy == "reestimated" and any(isinstance(one, _BatchNorm) for one in net.full.modules()):
        net.reestimate(inputs_for_statistics(images, net))
        net.save_pretrained(output / "model")
    return net


def inputs_for_statistics(images: ImageData, net: SortedNet) -> list[Tensor]:
    """Return batches of training images, on the network's device, to measure running statistics on."""
    device = next(net.parameters()).device
    return list(torch.split(images.train_images[:_MEASURED].to(device), 256))


def open_run(config: RunConfig, run: Path) -> tuple[ImageData, SortedNet]:
    """Open a trained run: its images, and its network on the accelerator if there is one.

    Raises:
        CheckpointError: If the network is missing or damaged.
        DataError: If the images are missing or unfit.
    """
    images = config.load_data()
    net = load(run / "model", config.make_wrapped_builder(images), space=config.make_space())
    return images, net.to(usable_device())
