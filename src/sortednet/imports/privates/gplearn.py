"""The privates of gplearn. ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone."""

from __future__ import annotations

from typing import Any

__all__ = ["program_of"]


def program_of(regressor: Any) -> list[Any]:
    """Return the formula that a fitted regressor has found: functions, columns and numbers, in prefix order."""
    program: list[Any] = regressor._program.program
    return program
