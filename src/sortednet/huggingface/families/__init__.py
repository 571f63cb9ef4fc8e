"""Hugging Face models: which fields of a config are dimensions, how they are tied, which parameters are fused."""

from .builder import PretrainedBuilder, is_causal
from .checks import builder_of
from .elsewhere import unopened
from .mobilenet_v2 import MobileNetV2, mobilenet_v2
from .opening import check_folder, check_size_of, check_tokenizer_files, open_pretrained, read_builder, without_code
from .table import FAMILIES, Family, Heads, family_of

__all__ = [
    "FAMILIES",
    "Family",
    "Heads",
    "MobileNetV2",
    "PretrainedBuilder",
    "builder_of",
    "check_folder",
    "check_size_of",
    "check_tokenizer_files",
    "family_of",
    "is_causal",
    "mobilenet_v2",
    "open_pretrained",
    "read_builder",
    "unopened",
    "without_code",
]
