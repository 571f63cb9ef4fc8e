"""Configs and adapters as PEFT itself makes and opens them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..errors import CheckpointError, ConfigError
from ..imports.packages import needs

__all__ = ["base_of", "lora_config", "open_plain", "without_old_names"]


@contextmanager
def without_old_names() -> Iterator[None]:
    """Keep back that PEFT asks a model by a name that transformers gives up, which nobody who calls us can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def lora_config(fields: Mapping[str, Any]) -> Any:
    """Return a `peft.LoraConfig`.

    Args:
        fields: By name; those left out keep PEFT's defaults.

    Raises:
        ConfigError: If PEFT has no such field, or refuses a value.
        ImportError: If PEFT is not installed.

    Example:
        >>> lora_config({"r": 4, "target_modules": ["query"]}).r
        4
    """
    with needs("An adapter", "peft"):
        from peft import LoraConfig
    try:
        return LoraConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"PEFT makes no LoraConfig of {dict(fields)}: {error}. Correct the fields.") from error


def open_plain(model: nn.Module, path: str | Path) -> nn.Module:
    """Open an adapter as PEFT does without this library, in evaluation mode.

    Args:
        model: The model that it is for, which is changed in place.
        path: The adapter's folder.

    Raises:
        CheckpointError: If PEFT cannot open it on this model.
    """
    from peft import PeftModel

    try:
        with without_old_names():
            opened: nn.Module = PeftModel.from_pretrained(model, str(path))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"PEFT cannot open {path} on a {type(model).__name__}: {error}") from error
    return opened.eval()


def base_of(full: nn.Module) -> Any:
    """Return the model itself, without what PEFT has put around it, if it has."""
    return cast(Any, full).get_base_model() if hasattr(full, "peft_config") else full
