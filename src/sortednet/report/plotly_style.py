"""What every figure of the pages shares: plotly, colours, an empty figure, round numbers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..imports.packages import needs

__all__ = [
    "ACCENT",
    "INK",
    "LINE",
    "MUTED",
    "blank",
    "drawable",
    "optional",
    "plotly",
    "plotly_source",
    "span",
    "ticks_of",
]

_LARGEST = 1e100
ACCENT, INK, MUTED, LINE = "#0b62a8", "#1f2933", "#9aa8b8", "#e4e8ee"


def plotly(module: str) -> Any:
    """Import a module of plotly, such as `graph_objects`."""
    return optional(f"plotly.{module}")


def plotly_source() -> str:
    """Return plotly's script, to be put into a page."""
    source: str = plotly("offline").get_plotlyjs()
    return source


def optional(module: str) -> Any:
    """Import a module of the extra `report`.

    Raises:
        ImportError: If its package is not installed.
    """
    with needs("A report", "report"):
        return importlib.import_module(module)


def blank(data: Iterable[Any], height: int, **layout: Any) -> Any:
    """Return a figure in the look of the page.

    Args:
        data: Traces; those whose `meta` is a choice are shown with it, the others always.
        height: In pixels.
        **layout: More of the layout; `meta` holds `options` (a label and a layout for each choice), `choose` (what is
            chosen), and `least_width` in pixels.
    """
    axis = {"gridcolor": LINE, "linecolor": MUTED, "zeroline": False, "automargin": True, "ticks": "outside"}
    meta = {"options": {}, "choose": "", "least_width": 0, **layout.pop("meta", {})}
    figure = plotly("graph_objects").Figure(list(data))
    figure.update_layout(
        template="none",
        height=height,
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        margin={"l": 60, "r": 12, "t": 34, "b": 52},
        hoverlabel={"align": "left", "bgcolor": "#ffffff", "bordercolor": MUTED, "font": {"color": INK}},
        hovermode="closest",
        showlegend=False,
        xaxis=axis,
        yaxis=axis,
        meta=meta,
    )
    return figure.update_layout(**layout)


def drawable(value: float) -> float:
    """Return a number of a size that can be drawn; NaN and infinite ones stay."""
    return max(-_LARGEST, min(_LARGEST, value)) if math.isfinite(value) else value


def span(values: Iterable[float]) -> tuple[float, float]:
    """Return the range of the finite values with a margin."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    margin = 0.05 * (max(finite) - min(finite)) or 0.05 * abs(max(finite)) or 1.0
    return min(finite) - margin, max(finite) + margin


def ticks_of(values: Sequence[float]) -> list[float]:
    """Choose round ticks for a logarithmic axis, at most about eight."""
    low, high = min(values), max(values)
    ticks: list[float] = []
    for steps in ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 6, 8]):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 4:
            return ticks
    return ticks if len(ticks) > 1 else sorted({low, high})
