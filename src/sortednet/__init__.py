"""Many-in-one networks: one set of weights, one training run, every size."""

from . import importance, models, recipes
from ._version import __version__
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
