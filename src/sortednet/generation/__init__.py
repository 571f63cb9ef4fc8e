"""Decoding: a lazy-depth engine, and early exit, self-speculation and fixed depth as policies over it."""

from .calibration import calibrate
from .policies import EarlyExit, FixedDepth, Policy, SelfSpeculative
from .statistics import Emitted, Statistics

__all__ = ["EarlyExit", "Emitted", "FixedDepth", "Policy", "SelfSpeculative", "Statistics", "calibrate"]
