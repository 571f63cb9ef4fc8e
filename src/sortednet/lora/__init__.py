"""Adapters of PEFT whose rank is sorted: one training, an adapter for every rank."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .builder import AdapterBuilder, Outline, adapted, adapter_layouts
    from .checks import check_config, check_layers
    from .forward import GatedForward
    from .gates import Gates
    from .making import base_of, lora_config, open_plain
    from .ordering import order_by_singular_values
    from .rank_curve import RankCurve, evaluate_ranks
    from .ranks import dylora, load_adapter, merge, order_ranks, save_adapter, unmerge
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
    "RankCurve",
    "adapted",
    "adapter_layouts",
    "adapter_state",
    "baked",
    "base_of",
    "check_base",
    "check_config",
    "check_layers",
    "dylora",
    "evaluate_ranks",
    "identity_of",
    "load_adapter",
    "load_adapter_state",
    "lora_config",
    "merge",
    "open_plain",
    "order_by_singular_values",
    "order_ranks",
    "read_config",
    "save_adapter",
    "unmerge",
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
    "rank_curve": ["RankCurve", "evaluate_ranks"],
    "ranks": ["dylora", "load_adapter", "merge", "order_ranks", "save_adapter", "unmerge"],
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
