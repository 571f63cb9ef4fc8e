"""What the commands do with images: train a network on them, and open it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import models
from ..data.images import ImageData, augment
from ..data.images import load as load_images
from ..errors import ConfigError, SortedNetError, TrainingError
from ..imports.packages import needs
from ..imports.privates.torch import BatchNorm
from ..network.loading import load
from ..network.sorted_net import SortedNet
from ..training.device import usable_device
from ..training.names import call, make_objective
from ..training.objectives import Objective
from ..training.recipe_training import train_recipe
from ..training.recipes import Recipe, Stage, recipe_of
from ..views.layouts import Layout
from .image_config import RunConfig

with needs("Training on images", "cli"):
    from rich.console import Console

__all__ = [
    "inputs_for_statistics",
    "load_data",
    "make_builder",
    "make_network",
    "make_recipe",
    "open_run",
    "train",
]

_MEASURED = 2048  # images that statistics are measured on


def train(
    config: RunConfig,
    *,
    resume: bool,
    console: Console | None = None,
    images: ImageData | None = None,
    trust: Sequence[str] = (),
) -> SortedNet:
    """Train to the end, write the network to `output/model`, and return it.

    Args:
        config: What to do. Its paths are absolute.
        resume: Whether to go on from the last checkpoint in `output`.
        console: Where progress is shown; standard error where left out.
        images: The data, where they are loaded already, on any device.
        trust: Modules that the configuration may name besides your own, see `models.resolve`.

    Raises:
        ConfigError: If the configuration cannot be carried out.
        DataError: If the images are missing or unfit.
        TrainingError: If a loss is not finite, or the model does not fit the images.
        CheckpointError: If a checkpoint is damaged or of another run.
    """
    output = Path(config.output)
    images = load_data(config) if images is None else images
    net = make_network(config, images, trust)
    shift, flip = config.data.shift, config.data.flip

    def transform(batch: Any, generator: torch.Generator) -> Any:
        return augment(batch[0], generator, shift=shift, flip=flip), batch[1]

    try:
        train_recipe(
            make_recipe(config), net, functional.cross_entropy, (images.train_images, images.train_labels),
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
    if net.private.policy == "reestimated" and any(isinstance(one, BatchNorm) for one in net.full.modules()):
        net.reestimate(inputs_for_statistics(images, net))
        net.save_pretrained(output / "model")
    return net


def load_data(config: RunConfig) -> ImageData:
    """Load the images that a configuration names.

    Raises:
        DataError: If they are missing or have the wrong shapes.
        ConfigError: If the loader does not take an option.
    """
    images: ImageData = call(load_images, "data.options", config.data.options, config.data.name)
    return images


def make_builder(config: RunConfig, images: ImageData, trust: Sequence[str] = ()) -> Callable[..., nn.Module]:
    """Return the builder, told the number of classes and channels where it asks for them and the file does not.

    Raises:
        ConfigError: If there is no such model, or it does not take an option or a dimension.
    """
    build = models.resolve(config.model.name, trust)
    facts = {
        "classes": len(images.class_names),
        "channels": images.train_images.shape[1],
        "inputs": images.train_images[0].numel(),
    }
    taken = inspect.signature(build).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        for name in (*config.model.options, *config.make_space().supports):
            if name not in taken:
                raise ConfigError(f"{config.model.name} takes no argument {name}. It takes {', '.join(taken)}.")
    options = {**{name: value for name, value in facts.items() if name in taken}, **config.model.options}
    return partial(build, **options)


def make_recipe(config: RunConfig) -> Recipe:
    """Return the method of training: the recipe that is named, or what the sections say as one stage.

    Raises:
        ConfigError: If a name or an option is unknown.
    """
    space = config.make_space()
    if config.recipe is not None:
        return recipe_of(config.recipe, space, config.recipe_options)

    def objective(net: SortedNet, seed: int, teacher: nn.Module | None) -> Objective:
        return make_objective(config.objective, config.sampler, net.space, config.training.seed)

    return Recipe("sections", space, (Stage(objective),), buffers=config.buffers, private=lambda model: config.private)


def make_network(config: RunConfig, images: ImageData, trust: Sequence[str] = ()) -> SortedNet:
    """Return the network with fresh weights, the same for the same seed."""
    torch.manual_seed(config.training.seed)
    layouts = [Layout(one.pattern, one.axis, one.blocks) for one in config.layouts]
    return make_recipe(config).network(make_builder(config, images, trust), layouts=layouts)


def inputs_for_statistics(images: ImageData, net: SortedNet) -> list[Tensor]:
    """Return batches of training images, on the network's device, to measure running statistics on."""
    device = next(net.parameters()).device
    return list(torch.split(images.train_images[:_MEASURED].to(device), 256))


def open_run(config: RunConfig, run: Path, trust: Sequence[str] = ()) -> tuple[ImageData, SortedNet]:
    """Open a trained run: its images, and its network on the accelerator if there is one.

    Raises:
        CheckpointError: If the network is missing or damaged.
        DataError: If the images are missing or unfit.
    """
    images = load_data(config)
    build, wrap = make_builder(config, images, trust), make_recipe(config).wrap
    net = load(run / "model", build if wrap is None else wrap(build), space=config.make_space())
    return images, net.to(usable_device())
