"""The figures of a formula: data against formulas, what is left over, error against complexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...imports.packages import needs
from ...report.style import ACCENT, INK, MUTED, name_axes, place_ticks, rule, span, start
from ...report.svg import PAGE_WIDTH, Choice, Figure, Line, Points
from .record import EXACT, FormulaRecord, error_text, shortened

with needs("Finding formulas", "symbolic"):
    import numpy as np

__all__ = ["data_figure", "draw_data", "draw_front", "front_figure", "left_figure", "marks_of"]

_GRID, _CROWD = 400, 300
_FLOOR = EXACT / 10  # where exact formulas stand on a logarithmic axis


def _drawn_y(record: FormulaRecord) -> tuple[float, float]:
    """Return the range of y that is drawn, which no pole of a formula stretches."""
    return span([*record.y.tolist(), *_finite(record.best(record.x))])


def _is_crowded(record: FormulaRecord) -> bool:
    """Return whether there are so many points that they cover each other."""
    return len(record.y) > _CROWD


def _shown_error(error: float) -> float:
    """Return where an error stands on a logarithmic axis."""
    return max(error, _FLOOR)


def marks_of(errors: Sequence[float]) -> tuple[list[float], list[str]]:
    """Return the numbers along a logarithmic axis of errors, and their text."""
    low = math.floor(math.log10(_shown_error(min(errors))) + 0.01)
    high = math.ceil(math.log10(_shown_error(max(errors))) - 0.01)  # the rounded mean leaves hardly more than 1
    step = max(1, math.ceil((high - low) / 7))
    powers = list(range(high, low - 1, -step))
    texts = {power: f"{10.0**power:g}" if abs(power) <= 3 else f"1e{power}" for power in powers}
    if min(errors) < EXACT:
        floor = round(math.log10(_FLOOR))
        texts = {power: text for power, text in texts.items() if power > floor + step / 2} | {floor: "exact"}
    return [10.0**power for power in texts], list(texts.values())


def data_figure(record: FormulaRecord) -> Figure:
    """Draw the points and each formula, the best one first."""
    others = [one for one in record.candidates if str(one) != str(record.best)]
    choices = []
    for formula in (record.best, *reversed(others)):
        picture = start(PAGE_WIDTH, 4.6)
        label = f"{shortened(str(formula), 60)}  (error {error_text(formula.error)})"
        choices.append(Choice(label, picture, draw_data(picture.subplots(), record, formula)))
    return Figure(choices, "Formula")


def draw_data(axes: Any, record: FormulaRecord, formula: Any) -> list[Points | Line]:
    """Draw the points and a formula: as a curve over one variable, or what it gives against what was measured.

    Args:
        axes: Where.
        record: What was found.
        formula: One of its formulas.

    Returns:
        What is told where.
    """
    crowded = _is_crowded(record)
    low, high = _drawn_y(record)
    look = {"marker": "o", "linestyle": "", "markersize": 3.5 if crowded else 4.5, "markeredgewidth": 0}
    tips: list[Points | Line]
    if record.x.shape[1] == 1:
        column, target = record.columns[0], record.target
        grid = np.linspace(*span(record.x[:, 0]), _GRID)
        above = 3 if crowded else 2  # a crowd would hide the curve; 2 is where lines stand
        curve = _drawn(formula(grid[:, None]), low, high)
        (line,) = axes.plot(grid, curve, color=ACCENT, linewidth=2, label="formula", zorder=above)
        axes.plot(
            record.x[:, 0],
            record.y,
            color=MUTED if crowded else INK,
            alpha=0.45 if crowded else 0.7,
            label="data",
            **look,
        )
        axes.set_xlim(grid[0], grid[-1])
        axes.legend(fontsize=8, frameon=False)
        name_axes(axes, column, target)
        tips = [Line(line, shortened(str(formula)), column, target)] if _finite(curve) else []
        tips.append(Points(axes, record.x[:, 0].tolist(), record.y.tolist(), _measured(record)))
    else:
        given = _drawn(formula(record.x), low, high)
        axes.plot((low, high), (low, high), "--", color=MUTED, linewidth=1)
        axes.plot(record.y, given, color=ACCENT, alpha=0.45 if crowded else 0.7, **look)
        axes.set_xlim(*span(record.y.tolist()))
        name_axes(axes, f"{record.target}, measured", f"{record.target} by the formula")
        tips = [Points(axes, record.y.tolist(), given.tolist(), _measured(record), ("", "by the formula"))]
    axes.set_ylim(low, high)
    rule(axes)
    return tips


def _drawn(values: Any, low: float, high: float) -> Any:
    """Return values, none of which is further away than ten times what is drawn: canvases have an end."""
    found = np.array(values, float)
    with np.errstate(invalid="ignore"):
        found[~((found > low - 10 * (high - low)) & (found < high + 10 * (high - low)))] = np.nan
    return found


def _measured(record: FormulaRecord) -> list[str]:
    return [
        "\n".join(f"{name}: {value:.5g}" for name, value in zip((*record.columns, record.target), row, strict=True))
        for row in np.column_stack([record.x, record.y]).tolist()
    ]


def left_figure(record: FormulaRecord) -> Figure:
    """Draw what the formula leaves over, against each variable."""
    left = record.y - record.best(record.x)
    low, high = span(_finite(left))
    crowded = _is_crowded(record)
    told = [f"left over: {value:.4g}\n{text}" for value, text in zip(left.tolist(), _measured(record), strict=True)]
    choices = []
    for place, name in enumerate(record.columns):
        picture = start(PAGE_WIDTH, 3.6)
        axes = picture.subplots()
        axes.plot(
            record.x[:, place],
            left,
            "o",
            color=ACCENT,
            markersize=3.5 if crowded else 4.5,
            markeredgewidth=0,
            alpha=0.45 if crowded else 0.7,
        )
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.set_ylim(min(low, 0), max(high, 0))
        rule(axes)
        name_axes(axes, name, f"{record.target} less the formula")
        choices.append(Choice(name, picture, [Points(axes, record.x[:, place].tolist(), left.tolist(), told)]))
    return Figure(choices, "Against")


def front_figure(record: FormulaRecord) -> Figure:
    """Draw the error of each formula against its complexity, the chosen one with a ring."""
    picture = start(PAGE_WIDTH, 3.8)
    return Figure([Choice("", picture, draw_front(picture.subplots(), record))])


def draw_front(axes: Any, record: FormulaRecord) -> list[Points]:
    """Draw the error of each formula against its complexity, the chosen one with a ring; return what is told where."""
    shown = [one for one in record.candidates if math.isfinite(one.error)] or [record.best]
    errors = [_shown_error(one.error) if math.isfinite(one.error) else 1.0 for one in shown]
    lengths = [one.complexity for one in shown]
    axes.plot(lengths, errors, "o-", color=ACCENT, markersize=5, linewidth=1.6)
    axes.plot(
        record.best.complexity,
        _shown_error(record.best.error) if math.isfinite(record.best.error) else 1.0,
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=INK,
        label="chosen",
    )
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    marks, texts = marks_of([*errors, 1.0])  # with the error of the mean
    axes.set_yscale("log")
    place_ticks(axes.yaxis, marks, texts)
    axes.set_ylim(0.5 * min(*errors, *marks), 2 * max(*errors, *marks))
    axes.set_xlim(0, max(lengths) + max(2, 0.12 * max(lengths)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    rule(axes)
    name_axes(axes, "complexity (nodes of the formula)", "error (share of the variance)")
    told = [f"{shortened(str(one), 90)}\ncomplexity {one.complexity}\nerror {error_text(one.error)}" for one in shown]
    return [Points(axes, lengths, errors, told)]


def _finite(values: Any) -> list[float]:
    return [value for value in np.asarray(values, float).tolist() if math.isfinite(value)]
