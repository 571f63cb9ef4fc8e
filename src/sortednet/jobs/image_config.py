"""The configuration of a run on images, and the sections that other runs have too: what a YAML file may say.

Nothing here makes anything, or needs torch: `image_job` and `named` make what a configuration describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SettingError, SpaceError
from ..imports.names import IMAGES, MODELS, OWN_BUILDER, RECIPES, BufferPolicy
from ..space import Space
from ..training.config import ObjectiveConfig, SamplerConfig, TrainingConfig

__all__ = [
    "DataConfig",
    "LayoutConfig",
    "ModelConfig",
    "RunConfig",
    "check_recipe",
    "check_space",
]


@dataclass(frozen=True)
class ModelConfig:
    """Which model.

    Args:
        name: A model of this library (`mlp`, `preresnet`, `transformer`, `mobilenet_v2`), or the import path of your
            own builder, such as `my_package.my_module:build`.
        options: Arguments of the builder that are not sorted.

    Raises:
        ConfigError: If the name is unknown.
    """

    name: str = "preresnet"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if ":" not in self.name:
            MODELS.check(self.name, "model.name", also=OWN_BUILDER)


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Args:
        name: `digits`, `cifar10`, `npz` or `image_folder`.
        options: Arguments of the loader, such as `path`.
        shift: Largest random shift of a training image, in pixels.
        flip: Whether training images are mirrored at random.

    Raises:
        ConfigError: If the name is unknown.
    """

    name: str = "digits"
    options: dict[str, Any] = field(default_factory=dict)
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        IMAGES.check(self.name, "data.name")


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
            `private`; see `sortednet.training.recipes`.
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
        check_space(self.space)
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

    def absolute(self) -> RunConfig:
        """Return the same configuration with the data's paths made absolute, so that it can be used from any folder."""
        options = {
            name: str(Path(value).absolute()) if name in ("path", "folder") and isinstance(value, str) else value
            for name, value in self.data.options.items()
        }
        return replace(self, data=replace(self.data, options=options))


def check_space(space: Any) -> None:
    """Refuse a space that cannot be made; the message begins with the key that is wrong.

    Args:
        space: The supports by dimension, or a list of settings.

    Raises:
        ConfigError: If it is none.
    """
    for name, values in space.items() if isinstance(space, dict) else ():
        try:
            Space(**{name: values})
        except SpaceError as error:
            raise ConfigError(f"space.{name}={values!s:.200} cannot be used. {error}") from None
    if isinstance(space, list):
        try:
            Space(space)
        except (SpaceError, SettingError) as error:
            raise ConfigError(f"space={space!s:.200} cannot be used. {error}") from None


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
    RECIPES.check(config.recipe)
    defaults = {one.name: one for one in fields(config)}
    for name in decided:
        default = defaults[name]
        usual = default.default_factory() if default.default_factory is not MISSING else default.default
        if getattr(config, name) != usual:
            raise ConfigError(
                f"recipe={config.recipe} decides what {name} says. Leave {name} out, or the recipe; "
                "recipe_options hold what can be changed."
            )
