"""The training arguments of Hugging Face that a configuration's section `training` describes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..imports.packages import needs
from .pretrained import first_line

with needs("Fine-tuning", "cli,transformers,text"):
    import transformers

__all__ = ["make_training_arguments", "of_stage", "that_matter"]

_GIVEN_ELSEWHERE = {
    "output_dir": "output",
    "resume_from_checkpoint": "the option --resume",
    "disable_tqdm": "nothing: the command shows its own progress",
}
_FREE = ("save_", "logging_", "log_", "report_to", "run_name", "eval_", "per_device_eval", "dataloader_", "tf32")
"""Beginnings of the names of training arguments that do not change what is trained."""
_EPOCHS = 3.0  # of transformers, where nothing is said


def make_training_arguments(training: Mapping[str, Any], output: Path) -> Any:
    """Return the training arguments, for checkpoints in a folder.

    Args:
        training: Fields of `transformers.TrainingArguments`.
        output: The folder.

    Raises:
        ConfigError: If a name is unknown, or a value cannot be used.
    """
    kind = transformers.TrainingArguments
    known = {one.name: one.default for one in fields(kind) if one.init}
    for name, value in training.items():
        if name in _GIVEN_ELSEWHERE:
            raise ConfigError(f"training.{name} is set by the command. Give {_GIVEN_ELSEWHERE[name]} instead.")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            meant = f"Did you mean {' or '.join(close)}?" if close else "Such as num_train_epochs."
            raise ConfigError(f"training.{name} is no field of transformers.TrainingArguments. {meant}")
        _check_type(name, value, known[name])
    accelerated = torch.accelerator.is_available()
    defaults = {
        "seed": 0, "logging_steps": 10, "save_total_limit": 2, "logging_nan_inf_filter": False,
        "dataloader_pin_memory": accelerated, "use_cpu": not accelerated,
    }  # fmt: skip
    given = {  # YAML reads a plain `no` as false
        name: "no" if value is False and name.endswith("_strategy") else value for name, value in training.items()
    }
    try:
        return kind(**{**defaults, **given, "output_dir": str(output), "disable_tqdm": True})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"training={dict(training)} cannot be used: {first_line(error)}") from None


def of_stage(training: Mapping[str, Any], number: int, share: float, max_steps: int | None) -> dict[str, Any]:
    """Return the training arguments of one of several stages of a training.

    Every stage has an order of the data of its own: each may be less than an epoch, and all would see the same part.

    Args:
        training: Those of the whole training.
        number: Which stage, from 1.
        share: Its share of the epochs, in (0, 1].
        max_steps: Its updates, where these are said instead.
    """
    found = dict(training)
    for name in ("seed", "data_seed"):
        if name == "seed" or found.get(name) is not None:
            found[name] = int(found.get(name, 0)) + number - 1
    if max_steps is None:
        found["num_train_epochs"] = float(found.get("num_train_epochs", _EPOCHS)) * share
    else:
        found["max_steps"] = max_steps
    return found


def that_matter(training: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the training arguments that change what is trained."""
    return {name: one for name, one in training.items() if not name.startswith(_FREE)}


def _check_type(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another kind than the default, where that is a number or a truth value."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, (int, float)):
        fits, wanted = is_number, f"a number, such as {default}"
    else:
        return
    if not fits:
        raise ConfigError(f"training.{name}={value!r} is of type {type(value).__name__}. Give {wanted}.")
