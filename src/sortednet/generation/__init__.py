"""Text from a language model: one lazy-depth engine, and policies over it."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .calibration import calibrate
    from .policies import EarlyExit, FixedDepth, Policy, SelfSpeculative
    from .statistics import Emitted, Statistics

__all__ = [
    "EarlyExit",
    "Emitted",
    "FixedDepth",
    "Policy",
    "SelfSpeculative",
    "Statistics",
    "calibrate",
]

_HOMES = {
    "calibration": ["calibrate"],
    "policies": ["EarlyExit", "FixedDepth", "Policy", "SelfSpeculative"],
    "statistics": ["Emitted", "Statistics"],
}

__getattr__, __dir__ = attach(__name__, _HOMES)
