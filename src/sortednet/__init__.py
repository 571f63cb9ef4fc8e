"""Many-in-one networks: one set of weights, one training run, every size."""

from typing import TYPE_CHECKING

from ._version import __version__
from .imports.lazy import attach

if TYPE_CHECKING:
    from . import models
    from .conditional import Conditioned, condition
    from .errors import SortedNetError
    from .evaluation.comparison import compare_submodels
    from .evaluation.cost import count_flops, count_parameters, measure_latency, measure_memory
    from .evaluation.evaluator import accuracy, evaluate
    from .evaluation.judging import Judgement, exact_match, exact_match_judge, final_answer, judge_pairs
    from .evaluation.similarity import Similarity
    from .evaluation.table import Row, Table
    from .evaluation.theory import curvature, distance_bound, gradient_gap, loss_bound, parameter_distance
    from .export.onnx import to_onnx
    from .generation import EarlyExit, FixedDepth, SelfSpeculative, calibrate
    from .lora.rank_curve import RankCurve, evaluate_ranks
    from .lora.ranks import dylora, load_adapter, merge, order_ranks, save_adapter, unmerge
    from .network.loading import load
    from .network.sorted_net import SortedNet
    from .network.sub_model import SubModel
    from .space import Setting, Space, Support
    from .training import importance, recipes
    from .training.classifiers import adjust_classifiers
    from .training.layer_dropout import drop_layers, growing_rates
    from .training.objectives import (
        Distillation,
        Objective,
        Penalised,
        PerExample,
        Stochastic,
        StochasticSummation,
        Summation,
    )
    from .training.sampling import (
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
    from .training.steps import StepResult, apply_update, step
    from .views.buffers import BufferPolicy
    from .views.layouts import Layout

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
    "conditional": ["Conditioned", "condition"],
    "errors": ["SortedNetError"],
    "evaluation.comparison": ["compare_submodels"],
    "evaluation.cost": ["count_flops", "count_parameters", "measure_latency", "measure_memory"],
    "evaluation.evaluator": ["accuracy", "evaluate"],
    "evaluation.judging": ["Judgement", "exact_match", "exact_match_judge", "final_answer", "judge_pairs"],
    "evaluation.similarity": ["Similarity"],
    "evaluation.table": ["Row", "Table"],
    "evaluation.theory": ["curvature", "distance_bound", "gradient_gap", "loss_bound", "parameter_distance"],
    "export.onnx": ["to_onnx"],
    "generation": ["EarlyExit", "FixedDepth", "SelfSpeculative", "calibrate"],
    "lora.rank_curve": ["RankCurve", "evaluate_ranks"],
    "lora.ranks": ["dylora", "load_adapter", "merge", "order_ranks", "save_adapter", "unmerge"],
    "network.loading": ["load"],
    "network.sorted_net": ["SortedNet"],
    "network.sub_model": ["SubModel"],
    "space": ["Setting", "Space", "Support"],
    "training.classifiers": ["adjust_classifiers"],
    "training.layer_dropout": ["drop_layers", "growing_rates"],
    "training.objectives": [
        "Distillation",
        "Objective",
        "Penalised",
        "PerExample",
        "Stochastic",
        "StochasticSummation",
        "Summation",
    ],
    "training.sampling": [
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
    "training.steps": ["StepResult", "apply_update", "step"],
    "views.buffers": ["BufferPolicy"],
    "views.layouts": ["Layout"],
}

__getattr__, __dir__ = attach(
    __name__, _HOMES, modules={"importance": "training.importance", "models": "models", "recipes": "training.recipes"}
)
