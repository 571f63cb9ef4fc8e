"""Many-in-one networks: one set of weights, one training run, every size."""

from typing import TYPE_CHECKING

from ._version import __version__
from .lazy import attach

if TYPE_CHECKING:
    from . import importance, models, recipes
    from .analysis import curvature, distance_bound, gradient_gap, loss_bound, parameter_distance
    from .buffers import BufferPolicy
    from .classifiers import adjust_classifiers
    from .comparison import compare_submodels
    from .conditional import Conditioned, condition
    from .cost import count_flops, count_parameters, measure_latency, measure_memory
    from .decoding import EarlyExit, FixedDepth, SelfSpeculative, calibrate
    from .errors import SortedNetError
    from .evaluation import accuracy, evaluate
    from .export import to_onnx
    from .judging import Judgement, exact_match, exact_match_judge, final_answer, judge_pairs
    from .layer_dropout import drop_layers, growing_rates
    from .layouts import Layout
    from .loading import load
    from .network import SortedNet
    from .objectives import (
        Distillation,
        Objective,
        Penalised,
        PerExample,
        Stochastic,
        StochasticSummation,
        Summation,
    )
    from .rank_curve import RankCurve, evaluate_ranks
    from .ranks import dylora, load_adapter, merge, order_ranks, save_adapter, unmerge
    from .sampling import (
        Cycle,
        Geometric,
        Held,
        PerDimension,
        Sampler,
        Sandwich,
        Stratified,
        Uniform,
        Weighted,
        WithLargest,
    )
    from .similarity import Similarity
    from .space import Setting, Space, Support
    from .sub_model import SubModel
    from .table import Row, Table
    from .training import StepResult, apply_update, step

__all__ = [
    "BufferPolicy",
    "Conditioned",
    "Cycle",
    "Distillation",
    "EarlyExit",
    "FixedDepth",
    "Geometric",
    "Held",
    "Judgement",
    "Layout",
    "Objective",
    "Penalised",
    "PerDimension",
    "PerExample",
    "RankCurve",
    "Row",
    "Sampler",
    "Sandwich",
    "SelfSpeculative",
    "Setting",
    "Similarity",
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
    "Table",
    "Uniform",
    "Weighted",
    "WithLargest",
    "__version__",
    "accuracy",
    "adjust_classifiers",
    "apply_update",
    "calibrate",
    "compare_submodels",
    "condition",
    "count_flops",
    "count_parameters",
    "curvature",
    "distance_bound",
    "drop_layers",
    "dylora",
    "evaluate",
    "evaluate_ranks",
    "exact_match",
    "exact_match_judge",
    "final_answer",
    "gradient_gap",
    "growing_rates",
    "importance",
    "judge_pairs",
    "load",
    "load_adapter",
    "loss_bound",
    "measure_latency",
    "measure_memory",
    "merge",
    "models",
    "order_ranks",
    "parameter_distance",
    "recipes",
    "save_adapter",
    "step",
    "to_onnx",
    "unmerge",
]

_HOMES = {
    "analysis": ["curvature", "distance_bound", "gradient_gap", "loss_bound", "parameter_distance"],
    "buffers": ["BufferPolicy"],
    "classifiers": ["adjust_classifiers"],
    "comparison": ["compare_submodels"],
    "conditional": ["Conditioned", "condition"],
    "cost": ["count_flops", "count_parameters", "measure_latency", "measure_memory"],
    "decoding": ["EarlyExit", "FixedDepth", "SelfSpeculative", "calibrate"],
    "errors": ["SortedNetError"],
    "evaluation": ["accuracy", "evaluate"],
    "export": ["to_onnx"],
    "judging": ["Judgement", "exact_match", "exact_match_judge", "final_answer", "judge_pairs"],
    "layer_dropout": ["drop_layers", "growing_rates"],
    "layouts": ["Layout"],
    "loading": ["load"],
    "network": ["SortedNet"],
    "objectives": [
        "Distillation",
        "Objective",
        "Penalised",
        "PerExample",
        "Stochastic",
        "StochasticSummation",
        "Summation",
    ],
    "rank_curve": ["RankCurve", "evaluate_ranks"],
    "ranks": ["dylora", "load_adapter", "merge", "order_ranks", "save_adapter", "unmerge"],
    "sampling": [
        "Cycle",
        "Geometric",
        "Held",
        "PerDimension",
        "Sampler",
        "Sandwich",
        "Stratified",
        "Uniform",
        "Weighted",
        "WithLargest",
    ],
    "similarity": ["Similarity"],
    "space": ["Setting", "Space", "Support"],
    "sub_model": ["SubModel"],
    "table": ["Row", "Table"],
    "training": ["StepResult", "apply_update", "step"],
}

__getattr__, __dir__ = attach(__name__, _HOMES, modules=["importance", "models", "recipes"])
