"""The figures of a formula's page: data against formulas, what is left over, error against complexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from ...imports.packages import needs
from ...report.plotly_style import ACCENT, INK, MUTED, blank, plotly, span
from .record import EXACT, FormulaRecord, error_text, shortened

with needs("Finding formulas", "symbolic"):
    import numpy as np

__all__ = ["data_figure", "drawn_y", "front_figure", "grid_of", "is_crowded", "left_figure", "marks_of", "shown_error"]

_GRID, _CROWD = 400, 300
_FLOOR = EXACT / 10  # where exact formulas stand on a logarithmic axis


def grid_of(record: FormulaRecord) -> Any:
    """Return where the curves of one variable are drawn. Shape (G,)."""
    low, high = span(record.x[:, 0])
    return np.linspace(low, high, _GRID)


def drawn_y(record: FormulaRecord) -> tuple[float, float]:
    """Return the range of y that is drawn, which no pole of a formula stretches."""
    return span([*record.y.tolist(), *_finite(record.best(record.x))])


def is_crowded(record: FormulaRecord) -> bool:
    """Return whether there are so many points that they cover each other."""
    return len(record.y) > _CROWD


def shown_error(error: float) -> float:
    """Return where an error stands on a logarithmic axis."""
    return max(error, _FLOOR)


def marks_of(errors: Sequence[float]) -> tuple[list[float], list[str]]:
    """Return the numbers along a logarithmic axis of errors, and their text."""
    low = math.floor(math.log10(shown_error(min(errors))) + 0.01)
    high = math.ceil(math.log10(shown_error(max(errors))) - 0.01)  # the rounded mean leaves hardly more than 1
    step = max(1, math.ceil((high - low) / 7))
    powers = list(range(high, low - 1, -step))
    texts = {power: f"{10.0**power:g}" if abs(power) <= 3 else f"1e{power}" for power in powers}
    if min(errors) < EXACT:
        floor = round(math.log10(_FLOOR))
        texts = {power: text for power, text in texts.items() if power > floor + step / 2} | {floor: "exact"}
    return [10.0**power for power in texts], list(texts.values())


def data_figure(record: FormulaRecord) -> Any:
    """Draw the points and a formula: as a curve over one variable, or what it gives against what was measured."""
    single = record.x.shape[1] == 1
    traces = [] if single else [_diagonal(record)]
    graph = plotly("graph_objects")
    options = {}
    grid = grid_of(record) if single else None
    for place, formula in _choices(record):
        hover = f"<b>{_plain(shortened(str(formula)))}</b><br>"
        shown = {"meta": str(place), "visible": formula is record.best, "hoverlabel": {"align": "left"}}
        if grid is not None:
            traces.append(
                graph.Scatter(
                    x=_digits(grid),
                    y=_digits(formula(grid[:, None])),
                    mode="lines",
                    line={"color": ACCENT, "width": 2.5},
                    hovertemplate=f"{hover}{_plain(record.columns[0])}: %{{x:.5g}}<br>"
                    f"{_plain(record.target)}: %{{y:.5g}}<extra></extra>",
                    **shown,
                )
            )
        else:
            columns = "".join(
                f"{_plain(name)}: %{{customdata[{place}]:.5g}}<br>" for place, name in enumerate(record.columns)
            )
            traces.append(
                graph.Scatter(
                    x=_digits(record.y),
                    y=_digits(formula(record.x)),
                    customdata=[_digits(row) for row in record.x],
                    mode="markers",
                    marker=_dots(record),
                    hovertemplate=f"{columns}{_plain(record.target)}: %{{x:.5g}}<br>formula: %{{y:.5g}}<extra></extra>",
                    **shown,
                )
            )
        label = f"{shortened(str(formula), 60)}  (error {error_text(formula.error)})"
        options[str(place)] = {"label": label, "layout": {}}
    if single:
        traces.insert(0 if is_crowded(record) else len(traces), _points(record))  # a crowd would hide the curve
    low, high = drawn_y(record)
    name = escape(record.target)
    return blank(
        traces,
        460,
        xaxis={"title": {"text": escape(record.columns[0]) if single else f"{name}, measured"}},
        yaxis={"title": {"text": name if single else f"{name} by the formula"}, "range": [low, high]},
        meta={"options": options, "choose": "Formula"},
    )


def left_figure(record: FormulaRecord) -> Any:
    """Draw what the formula leaves over, against each variable."""
    graph = plotly("graph_objects")
    left = record.y - record.best(record.x)
    traces, options = [], {}
    for place, name in enumerate(record.columns):
        traces.append(
            graph.Scatter(
                x=_digits(record.x[:, place]),
                y=_digits(left),
                mode="markers",
                marker=_dots(record),
                meta=str(place),
                visible=place == 0,
                hovertemplate=f"{_plain(name)}: %{{x:.5g}}<br>left over: %{{y:.4g}}<extra></extra>",
            )
        )
        options[str(place)] = {"label": name, "layout": {"xaxis.title.text": escape(name), "xaxis.autorange": True}}
    low, high = span(_finite(left))
    return blank(
        traces,
        360,
        xaxis={"title": {"text": escape(record.columns[0])}},
        yaxis={"title": {"text": f"{escape(record.target)} less the formula"}, "range": [min(low, 0), max(high, 0)]},
        shapes=[{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": MUTED}}],
        meta={"options": options, "choose": "Against"},
    )


def front_figure(record: FormulaRecord) -> Any:
    """Draw the error of each formula against its complexity, the chosen one with a ring."""
    graph = plotly("graph_objects")
    shown = [one for one in record.candidates if math.isfinite(one.error)] or [record.best]
    errors = [shown_error(one.error) if math.isfinite(one.error) else 1.0 for one in shown]
    marks, texts = marks_of([*errors, 1.0])  # with the error of the mean
    line = graph.Scatter(
        x=[one.complexity for one in shown],
        y=errors,
        mode="lines+markers",
        line={"color": ACCENT, "width": 2},
        marker={"size": 9},
        hovertext=[
            f"<b>{escape(shortened(str(one), 90))}</b><br>complexity {one.complexity}<br>error {error_text(one.error)}"
            for one in shown
        ],
        hoverinfo="text",
        cliponaxis=False,
    )
    ring = {"size": 17, "symbol": "circle-open", "color": INK, "line": {"width": 2, "color": INK}}
    chosen = graph.Scatter(
        x=[record.best.complexity],
        y=[shown_error(record.best.error) if math.isfinite(record.best.error) else 1.0],
        mode="markers+text",
        text=["chosen"],
        textposition="top right",
        marker=ring,
        hoverinfo="skip",
        cliponaxis=False,
    )
    low, high = (math.log10(end) for end in (min(*errors, *marks), max(*errors, *marks)))
    most = max(one.complexity for one in shown)
    return blank(
        [line, chosen],
        380,
        xaxis={"title": {"text": "complexity (nodes of the formula)"}, "range": [0, most + max(2, 0.12 * most)]},
        yaxis={
            "title": {"text": "error (share of the variance)"},
            "type": "log",
            "tickvals": marks,
            "ticktext": texts,
            "range": [low - 0.06 * (high - low) - 0.05, high + 0.12 * (high - low) + 0.05],
        },
    )


def _choices(record: FormulaRecord) -> list[tuple[int, Any]]:
    """Return the formulas that can be chosen, the best one first."""
    others = [one for one in record.candidates if str(one) != str(record.best)]
    return list(enumerate([record.best, *reversed(others)]))


def _points(record: FormulaRecord) -> Any:
    return plotly("graph_objects").Scatter(
        x=_digits(record.x[:, 0]),
        y=_digits(record.y),
        mode="markers",
        marker={**_dots(record), "color": MUTED if is_crowded(record) else INK},
        hovertemplate=f"{_plain(record.columns[0])}: %{{x:.5g}}<br>{_plain(record.target)}: %{{y:.5g}}<extra></extra>",
    )


def _diagonal(record: FormulaRecord) -> Any:
    ends = list(span(record.y))
    return plotly("graph_objects").Scatter(
        x=ends, y=ends, mode="lines", line={"color": MUTED, "dash": "dash"}, hoverinfo="skip"
    )


def _dots(record: FormulaRecord) -> dict[str, Any]:
    crowded = is_crowded(record)
    return {"size": 5 if crowded else 7, "color": ACCENT, "opacity": 0.45 if crowded else 0.7, "line": {"width": 0}}


def _digits(values: Any) -> list[float | None]:
    """Round to six digits, which no screen shows; None where there is no value."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in np.asarray(values, float).tolist()]


def _finite(values: Any) -> list[float]:
    return [value for value in np.asarray(values, float).tolist() if math.isfinite(value)]


def _plain(text: str) -> str:
    """Escape text for a template of plotly."""
    return escape(text).replace("%{", "% {")
