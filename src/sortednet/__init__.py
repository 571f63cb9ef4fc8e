"""Many-in-one networks: one set of weights, one training run, every size."""

from typing import TYPE_CHECKING

from ._version import __version__
from .imports.lazy import attach

if TYPE_CHECKING:
    from . import conditional, data, evaluation, generation, huggingface, lora, models, report, symbolic, training
    from .conditional.conditioned import condition
    from .errors import SortedNetError
    from .evaluation.comparison import compare_submodels
    from .evaluation.evaluator import accuracy, evaluate
    from .evaluation.table import Row, Table
    from .export.onnx import to_onnx
    from .generation.calibration import calibrate
    from .generation.policies import EarlyExit, FixedDepth, SelfSpeculative
    from .lora.ranks import dylora, load_adapter, merge, order_ranks, save_adapter, unmerge
    from .network.loading import load
    from .network.sorted_net import SortedNet
    from .network.sub_model import SubModel
    from .space import Setting, Space, Support
    from .training import importance, recipes
    from .training.classifiers import adjust_classifiers
    from .training.layer_dropout import drop_layers
    from .training.objectives import Distillation, Objective, PerExample, Stochastic, StochasticSummation, Summation
    from .training.sampling import (
        Cycle,
        Geometric,
        PerDimension,
        Sampler,
        Sandwich,
        Stratified,
        Uniform,
        Weighted,
        WithLargest,
    )
    from .training.steps import step
    from .views.layouts import Layout

__all__ = [
    "Cycle",
    "Distillation",
    "EarlyExit",
    "FixedDepth",
    "Geometric",
    "Layout",
    "Objective",
    "PerDimension",
    "PerExample",
    "Row",
    "Sampler",
    "Sandwich",
    "SelfSpeculative",
    "Setting",
    "SortedNet",
    "SortedNetError",
    "Space",
    "Stochastic",
    "StochasticSummation",
    "Stratified",
    "SubModel",
    "Summation",
    "Support",
    "Table",
    "Uniform",
    "Weighted",
    "WithLargest",
    "__version__",
    "accuracy",
    "adjust_classifiers",
    "calibrate",
    "compare_submodels",
    "condition",
    "conditional",
    "data",
    "drop_layers",
    "dylora",
    "evaluate",
    "evaluation",
    "generation",
    "huggingface",
    "importance",
    "load",
    "load_adapter",
    "lora",
    "merge",
    "models",
    "order_ranks",
    "recipes",
    "report",
    "save_adapter",
    "step",
    "symbolic",
    "to_onnx",
    "training",
    "unmerge",
]

_HOMES = {
    "conditional.conditioned": ["condition"],
    "errors": ["SortedNetError"],
    "evaluation.comparison": ["compare_submodels"],
    "evaluation.evaluator": ["accuracy", "evaluate"],
    "evaluation.table": ["Row", "Table"],
    "export.onnx": ["to_onnx"],
    "generation.calibration": ["calibrate"],
    "generation.policies": ["EarlyExit", "FixedDepth", "SelfSpeculative"],
    "lora.ranks": ["dylora", "load_adapter", "merge", "order_ranks", "save_adapter", "unmerge"],
    "network.loading": ["load"],
    "network.sorted_net": ["SortedNet"],
    "network.sub_model": ["SubModel"],
    "space": ["Setting", "Space", "Support"],
    "training.classifiers": ["adjust_classifiers"],
    "training.layer_dropout": ["drop_layers"],
    "training.objectives": [
        "Distillation",
        "Objective",
        "PerExample",
        "Stochastic",
        "StochasticSummation",
        "Summation",
    ],
    "training.sampling": [
        "Cycle",
        "Geometric",
        "PerDimension",
        "Sampler",
        "Sandwich",
        "Stratified",
        "Uniform",
        "Weighted",
        "WithLargest",
    ],
    "training.steps": ["step"],
    "views.layouts": ["Layout"],
}
_MODULES = {
    "conditional": "conditional",
    "data": "data",
    "evaluation": "evaluation",
    "generation": "generation",
    "huggingface": "huggingface",
    "importance": "training.importance",
    "lora": "lora",
    "models": "models",
    "recipes": "training.recipes",
    "report": "report",
    "symbolic": "symbolic",
    "training": "training",
}

__getattr__, __dir__ = attach(__name__, _HOMES, _MODULES)
