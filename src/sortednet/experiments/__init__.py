"""The papers' experiments, each by one command: `sortednet reproduce NAME`."""

from __future__ import annotations

from .running import Conditions, Experiment, Job, Outcome, main_job, markdown, run

__all__ = ["Conditions", "Experiment", "Job", "Outcome", "main_job", "markdown", "run"]
