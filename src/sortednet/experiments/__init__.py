"""The papers' experiments, each by one command: `sortednet reproduce NAME`."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .running import Conditions, Experiment, Job, Outcome, main_job, markdown, run

__all__ = ["Conditions", "Experiment", "Job", "Outcome", "main_job", "markdown", "run"]

_HOMES = {"running": ["Conditions", "Experiment", "Job", "Outcome", "main_job", "markdown", "run"]}

__getattr__, __dir__ = attach(__name__, _HOMES)
