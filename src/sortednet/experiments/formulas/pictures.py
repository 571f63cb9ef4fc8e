"""Pictures of symbolic regression: cumulative curves of the error, and data against formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from ...errors import DataError
from ...report.style import COLOURS, INK, LINE, LINE_FONT, MUTED, head, name_axes, start, wrapped, write
from ...symbolic.expressions import Sum, evaluate, to_text
from .problems import Problem
from .scores import CEILING, curve

__all__ = ["Fit", "write_overview"]

_PANEL = (3.1, 2.5)  # inches
_COLUMNS = 4
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Fit:
    """A problem of one variable, and what methods found of it.

    Attributes:
        problem: The problem.
        found: By method, values on an even grid from -5 to 5, None where there is none.
    """

    problem: Problem
    found: Mapping[str, Sequence[float | None]]


def write_overview(
    path: str | Path,
    fits: Sequence[Fit],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    title: str,
) -> None:
    """Write a PNG of problems with what methods found of them, and of the papers' cumulative curves.

    Args:
        path: File; what was there is replaced once all is written.
        fits: Problems of one variable.
        curves: MSE_N of each problem by method, by heading: the share of problems at or below each error is drawn.
        title: Line above all.

    Raises:
        DataError: If there is nothing to draw.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.
    """
    if not fits and not curves:
        raise DataError("There is nothing to draw. Give at least one problem or one curve.")
    picture, cells = _cells(len(fits) + len(curves) + 1, title)
    methods = [name for fit in fits for name in fit.found] + [name for errors in curves.values() for name in errors]
    looks = {
        name: {"color": COLOURS[place], "linestyle": _STYLES[place % len(_STYLES)], "linewidth": 1.5 if place else 2.0}
        for place, name in enumerate(dict.fromkeys(methods))
    }
    drawn: dict[str, Any] = {}
    for axes, fit in zip(cells, fits, strict=False):
        drawn |= _draw_fit(axes, fit, looks)
    for place, (heading, errors) in enumerate(curves.items(), len(fits)):
        drawn |= _draw_curves(cells[place], errors, looks)
        name_axes(cells[place], "ln MSE_N", "" if place % _COLUMNS and place > len(fits) else "problems at or below, %")
        head(cells[place], heading, 9.5, _PANEL[0])
    cells[len(fits) + len(curves)].legend(
        list(drawn.values()), list(drawn), loc="center", fontsize=LINE_FONT + 1, frameon=False
    )
    write(path, picture)


def _draw_curves(
    axes: Any, errors: Mapping[str, Sequence[float]], looks: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Draw the cumulative curve of each method; return the lines by name."""
    drawn = {}
    for name, values in errors.items():
        across, up = zip(*curve(values), strict=True)
        (drawn[name],) = axes.plot(across, up, **looks[name])
    axes.set_xlim(-math.log(CEILING), math.log(CEILING))
    axes.set_ylim(0, 103)
    axes.grid(color=LINE)
    return drawn


def _draw_fit(axes: Any, fit: Fit, looks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Draw the training points, the true function, and what each method found; return what was drawn by name."""
    problem = fit.problem
    grid = np.linspace(-5, 5, 1001)
    with np.errstate(all="ignore"):
        truth = np.broadcast_to(evaluate(problem.truth, [grid]), grid.shape)
    limits = _limits(problem, truth)
    truth = _without_jumps(truth, limits[1] - limits[0])
    drawn: dict[str, Any] = {}
    (drawn["true formula"],) = axes.plot(grid, truth, color=MUTED, linewidth=4.5, alpha=0.45)
    for name, values in fit.found.items():
        own = [math.nan if value is None else value for value in values]
        (drawn[name],) = axes.plot(np.linspace(-5, 5, len(own)), own, **looks[name])
    drawn["training points"] = axes.scatter(problem.x[:, 0], problem.y, s=11, color=INK, zorder=4)
    axes.axvspan(-3, 3, color=LINE, alpha=0.45, zorder=0, linewidth=0)
    axes.set_xlim(-5, 5)
    axes.set_ylim(*limits)
    name_axes(axes, "x1", "")
    head(axes, shorten(_rounded(problem.truth), 110, placeholder=" ..."), 7.5, _PANEL[0])
    return drawn


def _cells(count: int, title: str) -> tuple[Any, list[Any]]:
    """Start a picture with so many plots and more in rows; those beyond are for names, and have no axes."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    picture = start(columns * _PANEL[0], rows * _PANEL[1] + 0.4)
    picture.suptitle(wrapped(title, columns * _PANEL[0], 12), fontsize=12, color=INK, parse_math=False)
    cells = list(picture.subplots(rows, columns, squeeze=False).flat)
    for axes in cells[count - 1 :]:
        axes.set_axis_off()
    return picture, cells


def _limits(problem: Problem, truth: Any) -> tuple[float, float]:
    """Return the ends of the axis: the training points, and of the truth beyond them as much again at either end."""
    held = truth[np.isfinite(truth)]
    least, most = float(problem.y.min()), float(problem.y.max())
    low = max(float(held.min()), 2 * least - most)
    high = min(float(held.max()), 2 * most - least)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _without_jumps(values: Any, largest: float) -> Any:
    """Return values with a gap wherever a function jumps further than all that is shown, as at a pole."""
    steps = np.abs(np.diff(values, prepend=values[:1]))
    return np.where(steps > largest, math.nan, values)


def _rounded(formula: Sum) -> str:
    """Return a formula as text with numbers of three digits, and spaces where a line may break."""

    def short(inner: Sum) -> Sum:
        return tuple(
            (
                tuple(((kind, one if kind == "x" else short(one)), exponent) for (kind, one), exponent in monomial),
                float(f"{coefficient:.3g}"),
            )
            for monomial, coefficient in inner
        )

    text = to_text(short(formula))
    return text[0] + text[1:].replace("+", " + ").replace("-", " - ").replace("** - ", "**-").replace("( - ", "(-")
