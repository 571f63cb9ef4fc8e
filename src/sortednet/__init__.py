"""Many-in-one networks: one set of weights, one training run, every size."""

from .buffers import BufferPolicy
from .errors import SortedNetError
from .layouts import Layout
from .network import SortedNet, SubModel, load
from .objectives import Distillation, Objective, Stochastic, StochasticSummation, Summation
from .sampling import Cycle, Geometric, PerDimension, Sampler, Sandwich, Stratified, Uniform, Weighted, WithLargest
from .space import Setting, Space, Support
from .training import StepResult, step

__all__ = [
    "BufferPolicy",
    "Cycle",
    "Distillation",
    "Geometric",
    "Layout",
    "Objective",
    "PerDimension",
    "Sampler",
    "Sandwich",
    "Setting",
    "SortedNet",
    "SortedNetError",
    "Space",
    "StepResult",
    "Stochastic",
    "StochasticSummation",
    "Stratified",
    "SubModel",
    "Summation",
    "Support",
    "Uniform",
    "Weighted",
    "WithLargest",
    "load",
    "step",
]

__version__ = "0.1.0"
