"""The papers' experiments, each by one command: `sortednet reproduce NAME`."""

from __future__ import annotations

from .encoder import TABLE_4_3, TABLE_C_3
from .mobilenet import BEST_RETRAINED, SUB_MODELS, THRESHOLD
from .node_control import NODE_CONTROL
from .order_dependency import ORDER_DEPENDENCY
from .running import Conditions, Experiment, Job, Outcome, Scale, main_job, markdown, run
from .symbolic import SYMBOLIC
from .widths import ACCUMULATION, TABLE_4_2, TIME_PER_EPOCH

__all__ = ["EXPERIMENTS", "Conditions", "Experiment", "Job", "Outcome", "Scale", "main_job", "markdown", "run"]

EXPERIMENTS: dict[str, Experiment] = {
    one.name: one
    for one in (
        SUB_MODELS,
        BEST_RETRAINED,
        THRESHOLD,
        TABLE_4_2,
        ACCUMULATION,
        TIME_PER_EPOCH,
        TABLE_4_3,
        TABLE_C_3,
        ORDER_DEPENDENCY,
        NODE_CONTROL,
        SYMBOLIC,
    )
}
