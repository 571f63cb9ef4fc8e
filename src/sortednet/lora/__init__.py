"""Adapters of PEFT whose rank is sorted."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .builder import AdapterBuilder, Outline, adapted, adapter_layouts
    from .checks import check_config, check_layers
    from .forward import GatedForward
    from .gates import Gates
    from .making import base_of, lora_config, open_plain
    from .ordering import order_by_singular_values
    from .saving import (
        adapter_state,
        baked,
        check_base,
        identity_of,
        load_adapter_state,
        read_config,
        write_adapter,
        write_config,
    )

__all__ = [
    "AdapterBuilder",
    "GatedForward",
    "Gates",
    "Outline",
    "adapted",
    "adapter_layouts",
    "adapter_state",
    "baked",
    "base_of",
    "check_base",
    "check_config",
    "check_layers",
    "identity_of",
    "load_adapter_state",
    "lora_config",
    "open_plain",
    "order_by_singular_values",
    "read_config",
    "write_adapter",
    "write_config",
]

_HOMES = {
    "builder": ["AdapterBuilder", "Outline", "adapted", "adapter_layouts"],
    "checks": ["check_config", "check_layers"],
    "forward": ["GatedForward"],
    "gates": ["Gates"],
    "making": ["base_of", "lora_config", "open_plain"],
    "ordering": ["order_by_singular_values"],
    "saving": [
        "adapter_state",
        "baked",
        "check_base",
        "identity_of",
        "load_adapter_state",
        "read_config",
        "write_adapter",
        "write_config",
    ],
}

__getattr__, __dir__ = attach(__name__, _HOMES)
