"""Pictures of symbolic regression: cumulative curves of the error, and data against formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from .. import figures
from ..canvas import COLOURS, LINE_FONT, head, name_axes, start, wrapped, write
from ..errors import DataError
from ..symbolic.expressions import Sum, evaluate, to_text
from .symbolic_problems import Problem
from .symbolic_scores import CEILING, curve

__all__ = ["write_curves", "write_fits"]

_PANEL = (3.1, 2.5)  # inches
_COLUMNS = 4
_STYLES = ("-", "--", "-.", ":")
_WIDTHS = (2.0, 1.4, 1.4, 1.4)


def write_curves(path: str | Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> None:
    """Write a PNG of the papers' cumulative curves side by side: the share of problems below each error.

    Args:
        path: File; what was there is replaced once all is written.
        panels: MSE_N of each problem by method, by heading.
        title: Line above all.

    Raises:
        DataError: If there is no panel.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.
    """
    if not panels:
        raise DataError("There is no curve to draw. Give at least one panel.")
    names = list(dict.fromkeys(name for errors in panels.values() for name in errors))
    picture, cells = _cells(len(panels) + 1, title)
    end = math.log(CEILING)
    drawn: dict[str, Any] = {}
    for place, (heading, errors) in enumerate(panels.items()):
        axes = cells[place]
        for name, values in errors.items():
            points = curve(values)
            across, up = zip(*points, strict=True)
            look = names.index(name) % len(_STYLES)
            (drawn[name],) = axes.plot(
                across, up, color=COLOURS[look], linestyle=_STYLES[look], linewidth=_WIDTHS[look]
            )
        axes.set_xlim(-end, end)
        axes.set_ylim(0, 103)
        axes.grid(color=figures.LINE)
        name_axes(axes, "ln MSE_N", "" if place % _COLUMNS else "problems at or below, %")
        head(axes, heading, 9.5, _PANEL[0])
    _name_all(cells[len(panels)], drawn)
    write(path, picture)


def write_fits(
    path: str | Path, problems: Sequence[Problem], found: Mapping[str, Sequence[Sequence[float | None]]], *, title: str
) -> None:
    """Write a PNG of problems of one variable: the training points, the true function, and what methods found.

    Args:
        path: File; what was there is replaced once all is written.
        problems: Of one variable, at least one.
        found: By method, the values for each problem on an even grid from -5 to 5, None where there is none.
        title: Line above all.

    Raises:
        DataError: If there is no problem.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.
    """
    if not problems:
        raise DataError("There is no problem to draw. Give at least one.")
    picture, cells = _cells(len(problems) + 1, title)
    drawn: dict[str, Any] = {}
    for place, problem in enumerate(problems):
        axes = cells[place]
        grid = np.linspace(-5, 5, 1001)
        with np.errstate(all="ignore"):
            truth = np.broadcast_to(evaluate(problem.truth, [grid]), grid.shape)
        limits = _limits(problem, truth)
        truth = _without_jumps(truth, limits[1] - limits[0])
        (drawn["true formula"],) = axes.plot(grid, truth, color=figures.MUTED, linewidth=4.5, alpha=0.45)
        for number, (name, values) in enumerate(found.items()):
            own = [math.nan if value is None else value for value in values[place]]
            (drawn[name],) = axes.plot(
                np.linspace(-5, 5, len(own)), own, color=COLOURS[number], linestyle=_STYLES[number % 4], linewidth=1.5
            )
        drawn["training points"] = axes.scatter(problem.x[:, 0], problem.y, s=11, color=figures.INK, zorder=4)
        axes.axvspan(-3, 3, color=figures.LINE, alpha=0.45, zorder=0, linewidth=0)
        axes.set_xlim(-5, 5)
        axes.set_ylim(*limits)
        name_axes(axes, "x1", "")
        head(axes, shorten(_rounded(problem.truth), 110, placeholder=" ..."), 7.5, _PANEL[0])
    _name_all(cells[len(problems)], drawn)
    write(path, picture)


def _cells(count: int, title: str) -> tuple[Any, list[Any]]:
    """Start a picture with so many plots and more in rows; those beyond are for names, and have no axes."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    picture = start(columns * _PANEL[0], rows * _PANEL[1] + 0.4)
    picture.suptitle(wrapped(title, columns * _PANEL[0], 12), fontsize=12, color=figures.INK, parse_math=False)
    cells = list(picture.subplots(rows, columns, squeeze=False).flat)
    for axes in cells[count - 1 :]:
        axes.set_axis_off()
    return picture, cells


def _name_all(axes: Any, drawn: Mapping[str, Any]) -> None:
    axes.legend(list(drawn.values()), list(drawn), loc="center", fontsize=LINE_FONT + 1, frameon=False)


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
