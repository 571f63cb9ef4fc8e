"""The privates of transformers, apart from those of its `Trainer`, which `huggingface.trainer` overrides.

ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = [
    "CHECKPOINTING",
    "LOSS",
    "attention_of",
    "class_for",
    "draw_weights",
    "keep_weights",
    "mask_length",
    "wrapped_checkpoints",
]

_FUNCTION = "_gradient_checkpointing_func"
CHECKPOINTING = ("gradient_checkpointing", _FUNCTION)
"""What `gradient_checkpointing_enable` sets on the modules of a model."""
LOSS = ("loss_type", "_loss_function")
"""By which a model finds its loss; the second is there where a person has set `loss_function`."""


@contextmanager
def wrapped_checkpoints(model: nn.Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Let a model call its activation checkpoints through something else inside the context.

    Args:
        model: The model.
        wrap: Makes what is called in the place of a module's own function.
    """
    own = {module: vars(module)[_FUNCTION] for module in model.modules() if _FUNCTION in vars(module)}
    for module, function in own.items():
        vars(module)[_FUNCTION] = wrap(function)
    try:
        yield
    finally:
        for module, function in own.items():
            vars(module)[_FUNCTION] = function


def keep_weights(parameter: nn.Parameter) -> None:
    """Let a model draw no initial values for a parameter."""
    parameter._is_hf_initialized = True  # type: ignore[attr-defined]


def draw_weights(model: Any, module: nn.Module) -> None:
    """Draw the initial weights of a part as the model's class draws them."""
    model._init_weights(module)


def attention_of(config: Any) -> str | None:
    """Return which implementation of attention a model runs, `eager`, `sdpa` or another."""
    chosen: str | None = config._attn_implementation
    return chosen


def mask_length(generation_config: Any) -> int | None:
    """Return how long a mask without padding was, which `generate` leaves out; None where it was given none."""
    return getattr(generation_config, "_mask_length", None)


def class_for(auto: Any, config: Any) -> Any:
    """Return the class that an auto class opens a config as; None where it knows none, several where it may choose."""
    return auto._model_mapping.get(type(config), None)
