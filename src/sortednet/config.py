"""The configuration of a run: what a YAML file may say, and the objects it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from . import models, objectives, sampling
from .buffers import BufferPolicy
from .data import ImageData
from .data import load as load_images
from .errors import ConfigError, SortedNetError
from .layouts import Layout
from .network import SortedNet
from .objectives import Objective
from .recipes import Recipe, Stage, check_options, recipe_of
from .space import Setting, Space
from .trainers import TrainingConfig

__all__ = [
    "DataConfig",
    "LayoutConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "RunConfig",
    "SamplerConfig",
    "check_recipe",
    "make_objective",
]

SAMPLERS: dict[str, type[sampling.Sampler]] = {
    "uniform": sampling.Uniform,
    "stratified": sampling.Stratified,
    "weighted": sampling.Weighted,
    "per_dimension": sampling.PerDimension,
    "geometric": sampling.Geometric,
    "cycle": sampling.Cycle,
}


@dataclass(frozen=True)
class ModelConfig:
    """Which model.

    Args:
        name: A model of this library (`mlp`, `preresnet`, `transformer`, `mobilenet_v2`), or the import path of your
            own builder, such as `my_package.my_module:build`.
        options: Arguments of the builder that are not sorted.
    """

    name: str = "preresnet"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Args:
        name: `digits`, `cifar10`, `npz` or `image_folder`.
        options: Arguments of the loader, such as `path`.
        shift: Largest random shift of a training image, in pixels.
        flip: Whether training images are mirrored at random.
    """

    name: str = "digits"
    options: dict[str, Any] = field(default_factory=dict)
    shift: int = 0
    flip: bool = False


@dataclass(frozen=True)
class LayoutConfig:
    """How an axis of some parameters is made up; see `sortednet.Layout`.

    Args:
        pattern: Shell pattern of the parameters' full names.
        axis: The axis made of blocks.
        blocks: Number of equal blocks; 1 where the axis is not fused.
    """

    pattern: str
    axis: int = 0
    blocks: int = 3


@dataclass(frozen=True)
class SamplerConfig:
    """How settings are drawn.

    Args:
        name: `uniform`, `stratified`, `weighted`, `per_dimension`, `geometric` or `cycle`.
        options: Further arguments of the sampler.
        always: Settings in every draw: `largest`, or `sandwich` for the largest and the smallest.
    """

    name: str = "stratified"
    options: dict[str, Any] = field(default_factory=dict)
    always: Literal["largest", "sandwich"] | None = None


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which sub-models a batch trains.

    Args:
        name: `stochastic`, `per_example`, `stochastic_summation` or `summation`.
        draws: Sub-models that a batch is split among, for `stochastic`.
        distillation: Weight of the full model's outputs as targets; 0 for none.
        temperature: Of the distillation.
        full_weight: Weight of the full model's loss where the others have 1, above 0; weights are normalised.
    """

    name: Literal["stochastic", "per_example", "stochastic_summation", "summation"] = "stochastic"
    draws: int = 8
    distillation: float = 0.0
    temperature: float = 1.0
    full_weight: float = 1.0


@dataclass(frozen=True)
class RunConfig:
    """A run of `sortednet train`.

    Args:
        space: The supports by dimension, or a list of settings.
        output: Folder for all that the run writes.
        model: Which model.
        data: Which images.
        sampler: How settings are drawn.
        objective: Which sub-models a batch trains.
        training: How it is trained.
        buffers: Whose the running statistics are: `shared`, `private` or `reestimated`.
        private: Shell patterns of parameters that every sub-model has for itself, such as `head.*`.
        layouts: Layouts of fused parameters.
        recipe: A method by name, such as `sorted` or `slimmable`, in place of `sampler`, `objective`, `buffers` and
            `private`; see `sortednet.recipes`.
        recipe_options: Its further arguments.

    Raises:
        ConfigError: If the recipe or an option of it is unknown, or what it decides is given too.
    """

    space: dict[str, Any] | list[Any]
    output: str = "runs/run"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    buffers: BufferPolicy = "shared"
    private: list[str] = field(default_factory=list)
    layouts: list[LayoutConfig] = field(default_factory=list)
    recipe: str | None = None
    recipe_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_recipe(self, ("sampler", "objective", "buffers", "private"))

    @property
    def title(self) -> str:
        """The heading of the report."""
        return f"{self.model.name} on {self.data.name}"

    def make_space(self) -> Space:
        """Return the space.

        Raises:
            SpaceError: If it is none.
        """
        return Space(self.space) if isinstance(self.space, list) else Space(**self.space)

    def make_builder(self, images: ImageData) -> Callable[..., nn.Module]:
        """Return the builder, told the number of classes and channels where it asks for them and the file does not.

        Raises:
            ConfigError: If there is no such model, or it does not take an option or a dimension.
        """
        build = models.resolve(self.model.name)
        facts = {
            "classes": len(images.class_names),
            "channels": images.train_images.shape[1],
            "inputs": images.train_images[0].numel(),
        }
        taken = inspect.signature(build).parameters
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
            for name in (*self.model.options, *self.make_space().supports):
                if name not in taken:
                    raise ConfigError(f"{self.model.name} takes no argument {name}. It takes {', '.join(taken)}.")
        options = {**{name: value for name, value in facts.items() if name in taken}, **self.model.options}
        return partial(build, **options)

    def make_network(self, images: ImageData) -> SortedNet:
        """Return the network with fresh weights, the same for the same seed."""
        torch.manual_seed(self.training.seed)
        layouts = [Layout(one.pattern, one.axis, one.blocks) for one in self.layouts]
        return self.make_recipe().network(self.make_builder(images), layouts=layouts)

    def make_recipe(self) -> Recipe:
        """Return the method of training: the recipe that is named, or what the sections say as one stage.

        Raises:
            ConfigError: If a name or an option is unknown.
        """
        space = self.make_space()
        if self.recipe is not None:
            return recipe_of(self.recipe, space, self.recipe_options)
        stage = Stage(lambda net, seed, teacher: self.make_objective(net.space))
        return Recipe("sections", space, (stage,), buffers=self.buffers, private=lambda model: self.private)

    def make_wrapped_builder(self, images: ImageData) -> Callable[..., nn.Module]:
        """Return the builder as the network's recipe changes it, for opening what was trained."""
        wrap = self.make_recipe().wrap
        return self.make_builder(images) if wrap is None else wrap(self.make_builder(images))

    def absolute(self) -> RunConfig:
        """Return the same configuration with the data's paths made absolute, so that it can be used from any folder."""
        options = {
            name: str(Path(value).absolute()) if name in ("path", "folder") else value
            for name, value in self.data.options.items()
        }
        return replace(self, data=replace(self.data, options=options))

    def make_objective(self, space: Space) -> Objective:
        """Return the objective and its sampler.

        Raises:
            ConfigError: If a name or an option is unknown.
        """
        return make_objective(self.objective, self.sampler, space, self.training.seed)

    def load_data(self) -> ImageData:
        """Load the images.

        Raises:
            DataError: If they are missing or have the wrong shapes.
            ConfigError: If the loader does not take an option.
        """
        return call(load_images, "data.options", self.data.options, self.data.name)  # type: ignore[no-any-return]


def check_recipe(config: Any, decided: Sequence[str]) -> None:
    """Refuse a configuration whose recipe is unknown, or which says otherwise what the recipe decides.

    Args:
        config: A run's configuration, with `recipe` and `recipe_options`.
        decided: The fields that a recipe decides.

    Raises:
        ConfigError: If it is so.
    """
    if config.recipe is None:
        if config.recipe_options:
            raise ConfigError(f"recipe_options={config.recipe_options} have no recipe. Name one, or leave them out.")
        return
    check_options(config.recipe, config.recipe_options)
    defaults = {one.name: one for one in fields(config)}
    for name in decided:
        default = defaults[name]
        usual = default.default_factory() if default.default_factory is not MISSING else default.default
        if getattr(config, name) != usual:
            raise ConfigError(
                f"recipe={config.recipe} decides what {name} says. Leave {name} out, or the recipe; "
                "recipe_options hold what can be changed."
            )


def make_objective(one: ObjectiveConfig, sampler: SamplerConfig, space: Space, seed: int) -> Objective:
    """Return the objective that a configuration describes.

    Args:
        one: The objective.
        sampler: How it draws, if it does.
        space: The sub-models.
        seed: Of the sampler, where its options give none.

    Raises:
        ConfigError: If a name or an option is unknown.
    """
    if one.draws < 1 or one.distillation < 0 or one.temperature <= 0 or one.full_weight <= 0:
        raise ConfigError(
            f"objective.draws={one.draws} must be at least 1, distillation={one.distillation} at least 0, "
            f"temperature={one.temperature} and full_weight={one.full_weight} above 0."
        )
    distillation = objectives.Distillation(one.distillation, one.temperature) if one.distillation else None
    weight = partial(_weight, full=space.full, full_weight=one.full_weight) if one.full_weight != 1 else None
    if one.name == "summation":
        return objectives.Summation(space, distillation, weight)
    drawn = _sampler(sampler, space, seed)
    if one.name == "stochastic_summation":
        return objectives.StochasticSummation(drawn, distillation=distillation, settings_weight=weight)
    if one.name == "per_example":
        return objectives.PerExample(drawn, distillation, weight)
    return objectives.Stochastic(drawn, one.draws, distillation, weight)


def _weight(setting: Setting, full: Setting, full_weight: float) -> float:
    return full_weight if setting == full else 1.0


def _sampler(one: SamplerConfig, space: Space, seed: int) -> sampling.Sampler:
    if one.name not in SAMPLERS:
        raise ConfigError(f"sampler.name={one.name!r} is unknown. Choose one of {list(SAMPLERS)}.")
    options = {**one.options}
    if one.name != "cycle":
        options.setdefault("seed", seed)
    inner = call(SAMPLERS[one.name], "sampler.options", options, space)
    if one.always == "largest":
        return sampling.WithLargest(inner)
    return sampling.Sandwich(inner) if one.always == "sandwich" else inner


def call(function: Callable[..., Any], what: str, options: Mapping[str, Any], *args: Any) -> Any:
    """Call a function with options from a file, and say which option it does not take.

    Raises:
        ConfigError: If the options do not fit.
    """
    try:
        return function(*args, **options)
    except SortedNetError:
        raise
    except TypeError as error:
        raise ConfigError(f"{what}={dict(options)} do not fit: {error}. Correct the names or the values.") from error
