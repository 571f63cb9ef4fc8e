"""Adapters of PEFT whose rank is sorted."""

from .builder import RANK, AdapterBuilder, Outline, Scaling, adapted, adapter_layouts
from .checks import RankPattern, check_config, check_layers, check_ranks
from .forward import GatedForward
from .gates import Gates
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
    "check_base",
    "check_config",
    "check_layers",
    "check_ranks",
    "identity_of",
    "load_adapter_state",
    "order_by_singular_values",
    "read_config",
    "write_adapter",
    "write_config",
]
