"""The privates of PEFT. ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["SWITCHES", "change_embedded"]

SWITCHES = ("_disable_adapters", "_active_adapter")
"""Whether an adapted layer adds what its adapters give, and which of them."""


def change_embedded(layer: Any, change: Callable[[Tensor], Tensor]) -> None:
    """Change what the first matrix of an adapted embedding returns, for good; it is no module that takes a hook.

    Args:
        layer: The adapted embedding, of a model of our own.
        change: Of what is returned, shape (..., r).
    """
    own = layer._embed

    def embed(*args: Any, **kwargs: Any) -> Tensor:
        return change(own(*args, **kwargs))

    layer._embed = embed
