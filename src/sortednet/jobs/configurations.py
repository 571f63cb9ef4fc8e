"""Which command a configuration file is for, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError
from ..files.run_folder import CONFIG
from .config_file import read, read_document
from .fine_tuning_config import FineTuningConfig
from .image_config import RunConfig

if TYPE_CHECKING:
    from ..symbolic.commands.training_config import SymbolicConfig

__all__ = ["read_config", "read_symbolic_config", "with_output"]

_OF_FORMULAS = {"generator", "problems"}
_Config = TypeVar("_Config", RunConfig, FineTuningConfig, RunConfig | FineTuningConfig, "SymbolicConfig")


def read_config(path: str | Path, changes: Sequence[str] = ()) -> RunConfig | FineTuningConfig:
    """Read a YAML or JSON file into a `RunConfig`, or where it has the key `pretrained` into a `FineTuningConfig`.

    Args:
        path: The file.
        changes: Values to change, such as `training.updates=100`.

    Returns:
        The configuration.

    Raises:
        ConfigError: If the file is missing, a key is unknown, or a value has the wrong type; it says where.
    """
    document = read_document(path)
    keys = document.values.keys()
    if _OF_FORMULAS & keys and "space" not in keys:
        run = Path(path).parent if Path(path).name == CONFIG else None
        raise ConfigError(
            f"{path} is for another command. Use it so: sortednet symbolic train {path}"
            if run is None
            else f"{run} is a run that trains a model of formulas. Use the model: sortednet symbolic fit POINTS.csv "
            f"--model {run / 'symbolic.safetensors'}"
        )
    of_text = "pretrained" in keys
    config = read(document, FineTuningConfig, changes) if of_text else read(document, RunConfig, changes)
    if config.recipe is not None and config.recipe_options:
        from ..training.recipes import check_options

        check_options(config.recipe, config.recipe_options)
    return config


def read_symbolic_config(path: str | Path, changes: Sequence[str] = ()) -> SymbolicConfig:
    """Read a YAML or JSON file of a run that trains a model which writes formulas.

    Args:
        path: The file.
        changes: Values to change, such as `training.updates=100`.

    Returns:
        The configuration.

    Raises:
        ConfigError: If the file is missing, a key is unknown, or a value has the wrong type; it says where.
    """
    document = read_document(path, "configs/symbolic.yaml")
    if document.values.keys() & {"space", "pretrained"}:
        raise ConfigError(f"{path} is for another command. Use it so: sortednet train {path}")
    from ..symbolic.commands.training_config import SymbolicConfig  # which needs the packages of formulas

    return read(document, SymbolicConfig, changes)


def with_output(config: _Config, output: str | None) -> _Config:
    """Return a configuration with the run's folder in place of its own, where one is given.

    Raises:
        ConfigError: If the folder has no name.
    """
    config = config if output is None else replace(config, output=output)
    if not config.output:
        raise ConfigError("output is empty. Give the run's folder, such as --output runs/mine.")
    return config
