"""What a person may set on an adapted model: whether an adapter is on, and what it is multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..imports.privates.peft import SWITCHES
from ..views.options import Held

__all__ = ["rescaled", "switches_of"]


def switches_of(module: nn.Module) -> Iterator[Held]:
    """Yield the switches of an adapted layer, or of a module that is saved with an adapter; nothing of others."""
    if hasattr(module, "disable_adapters") and hasattr(module, "active_adapters"):
        yield Held("adapters", vars(module), (*SWITCHES, "scaling"), {"scaling": rescaled})


def rescaled(own: Mapping[str, float], was: Mapping[str, float], now: Mapping[str, float]) -> dict[str, Any]:
    """Return the scaling of a rank by adapter, changed as that of the largest rank was.

    Example:
        >>> rescaled({"default": 4.0}, {"default": 2.0}, {"default": 1.0})
        {'default': 2.0}
    """
    return {name: one * (now[name] / was[name]) if was.get(name) and name in now else one for name, one in own.items()}
