"""The privates of TRL. ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone."""

from __future__ import annotations

from typing import Any

__all__ = ["evaluation_metrics"]


def evaluation_metrics(trainer: Any) -> dict[str, list[float]]:
    """Return what a trainer of TRL has gathered beside the loss in an evaluation, which whoever reads it empties."""
    held: dict[str, list[float]] = getattr(trainer, "_metrics", {}).get("eval", {})
    return held
