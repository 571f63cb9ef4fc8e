"""What each sub-model is worth and what it costs."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .comparison import compare_submodels
    from .cost import count_flops, count_parameters, measure_latency, measure_memory
    from .directions import direction_of
    from .evaluator import accuracy, evaluate, quality
    from .judging import Judgement, exact_match, exact_match_judge, final_answer, judge_pairs
    from .similarity import Similarity
    from .table import Row, Table
    from .theory import curvature, distance_bound, gradient_gap, loss_bound, parameter_distance

__all__ = [
    "Judgement",
    "Row",
    "Similarity",
    "Table",
    "accuracy",
    "compare_submodels",
    "count_flops",
    "count_parameters",
    "curvature",
    "direction_of",
    "distance_bound",
    "evaluate",
    "exact_match",
    "exact_match_judge",
    "final_answer",
    "gradient_gap",
    "judge_pairs",
    "loss_bound",
    "measure_latency",
    "measure_memory",
    "parameter_distance",
    "quality",
]

_HOMES = {
    "comparison": ["compare_submodels"],
    "cost": ["count_flops", "count_parameters", "measure_latency", "measure_memory"],
    "directions": ["direction_of"],
    "evaluator": ["accuracy", "evaluate", "quality"],
    "judging": ["Judgement", "exact_match", "exact_match_judge", "final_answer", "judge_pairs"],
    "similarity": ["Similarity"],
    "table": ["Row", "Table"],
    "theory": ["curvature", "distance_bound", "gradient_gap", "loss_bound", "parameter_distance"],
}

__getattr__, __dir__ = attach(__name__, _HOMES)
