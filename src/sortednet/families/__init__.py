"""Hugging Face models: which fields of a config are dimensions, how they are tied, which parameters are fused."""

from .builder import PretrainedBuilder, is_causal
from .checks import builder_of
from .mobilenet_v2 import MobileNetV2, mobilenet_v2
from .opening import open_pretrained, read_builder
from .table import FAMILIES, Family, Heads, family_of

__all__ = [
    "FAMILIES",
    "Family",
    "Heads",
    "MobileNetV2",
    "PretrainedBuilder",
    "builder_of",
    "family_of",
    "is_causal",
    "mobilenet_v2",
    "open_pretrained",
    "read_builder",
]
