"""Adapters of PEFT whose rank is sorted."""

from .builder import RANK, AdapterBuilder, Outline, Scaling, adapted, adapter_layouts, base_of
from .checks import RankPattern, check_config, check_layers, check_ranks, largest_rank
from .forward import GatedForward
from .gates import Gates
from .making import lora_config, open_plain
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
    "RANK",
    "AdapterBuilder",
    "GatedForward",
    "Gates",
    "Outline",
    "RankPattern",
    "Scaling",
    "adapted",
    "adapter_layouts",
    "adapter_state",
    "baked",
    "base_of",
    "check_base",
    "check_config",
    "check_layers",
    "check_ranks",
    "identity_of",
    "largest_rank",
    "load_adapter_state",
    "lora_config",
    "open_plain",
    "order_by_singular_values",
    "read_config",
    "write_adapter",
    "write_config",
]
