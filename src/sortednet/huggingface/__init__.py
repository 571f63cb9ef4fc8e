"""Pretrained models of Hugging Face as many-in-one networks, and their trainers."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .families.table import FAMILIES, Family, Heads
    from .network import PretrainedNet
    from .readouts import MeanReadout, Readout
    from .trainer import SortedTrainer, SortedTrainerMixin

__all__ = [
    "FAMILIES",
    "Family",
    "Heads",
    "MeanReadout",
    "PretrainedNet",
    "Readout",
    "SortedTrainer",
    "SortedTrainerMixin",
]

_HOMES = {
    "families.table": ["FAMILIES", "Family", "Heads"],
    "network": ["PretrainedNet"],
    "readouts": ["MeanReadout", "Readout"],
    "trainer": ["SortedTrainer", "SortedTrainerMixin"],
}

__getattr__, __dir__ = attach(__name__, _HOMES)
