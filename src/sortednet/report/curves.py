"""The training curves: a few that can be told apart, the others on demand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from ..evaluation.table import Row, Table, readable
from .figures import labelled
from .style import COLOURS, MUTED, drawable, name_axes, place_ticks, rule, start, ticks_of
from .svg import PAGE_WIDTH, Choice, Figure, Line

__all__ = ["Curve", "curves_figure"]

Curve = Sequence[tuple[int, float]]

_POINTS = 200
_MOST_NAMED = 6


def curves_figure(
    table: Table, curves: Mapping[str, Curve], marked: Mapping[str, Row], width: float = PAGE_WIDTH
) -> Figure:
    """Draw the loss over the updates of the marked, the smallest and the largest sub-models, and of the rest on demand.

    Args:
        table: What was measured.
        curves: Pairs of (update, loss) by the text of a setting.
        marked: Rows to name, by label.
        width: In inches; a narrow picture has no rest.
    """
    narrow = width < PAGE_WIDTH
    smooth = {name: _smoothed(points) for name, points in curves.items()}
    smooth = {name: one for name, one in smooth.items() if any(map(math.isfinite, one[1]))}
    rows = {str(row.setting): row for row in table}
    named = _named(table, smooth, marked)
    picture = start(width, 3.4 if narrow else 4.8)
    axes = picture.subplots()
    tips = []
    # Those that were chosen come last, above the others.
    for name in sorted(smooth, key=lambda one: -[*named].index(one) if one in named else -len(smooth)):
        updates, losses = smooth[name]
        if narrow and name not in named:
            continue
        (line,) = axes.plot(
            updates,
            losses,
            "-" if len(updates) > 1 else "o",
            markersize=4,
            linewidth=2.0 if name in named else 0.8,
            color=COLOURS[[*named].index(name)] if name in named else MUTED,
        )
        note = f"{readable(rows[name].params)} parameters" if name in rows else "not in the table"
        label = next((one for row, one in labelled(marked) if str(row.setting) == name), "")
        text = f"{label}: {name}" if label else name
        tips.append(Line(line, f"{text}\n{note}", "update", "loss", rest=name not in named))
    losses = [loss for _, one in smooth.values() for loss in one if math.isfinite(loss)]
    log = bool(losses) and min(losses) > 0 and max(losses) > 20 * min(losses)
    if log:
        axes.set_yscale("log")
        marks = ticks_of(losses)
        place_ticks(axes.yaxis, marks, [f"{mark:.3g}" for mark in marks])
    axes.set_xlim(left=0)
    rule(axes)
    name_axes(axes, "update", "loss (log scale)" if log else "loss")
    others = len(smooth) - len(named)
    rest = f"Show the other {others:,}" if others and not narrow else ""
    return Figure([Choice("", picture, tips)], rest=rest, legend=[*zip(COLOURS, named.values(), strict=False)])


def _named(table: Table, drawn: Mapping[str, object], marked: Mapping[str, Row]) -> dict[str, str]:
    """Choose the curves that are named: the marked ones, the extremes, or all where they are few."""
    rows = {str(row.setting): row for row in table}
    known = [str(row.setting) for row in table if str(row.setting) in drawn]
    found = {
        str(row.setting): f"{label}: {row.setting}" for row, label in labelled(marked) if str(row.setting) in drawn
    }
    for name, what in ((known[0], "smallest"), (known[-1], "largest")) if known else ():
        found.setdefault(name, f"{what}: {name}")
    if len(drawn) <= _MOST_NAMED or not found:
        for name in [*known, *(one for one in drawn if one not in rows)][:_MOST_NAMED]:
            found.setdefault(name, name)
    return dict([*found.items()][: len(COLOURS) - 1])


def _smoothed(points: Curve) -> tuple[list[float], list[float]]:
    """Average a curve over bins to at most 200 points, then over up to 5 neighbours."""
    ordered = sorted(points)
    size = math.ceil(len(ordered) / _POINTS)
    bins = [ordered[start : start + size] for start in range(0, len(ordered), size or 1)]
    updates = [statistics.fmean(update for update, _ in one) for one in bins]
    losses = [statistics.fmean(drawable(loss) for _, loss in one) for one in bins]
    reach = 2 if len(bins) >= 30 else 1 if len(bins) >= 10 else 0
    ends = [min(reach, place, len(losses) - 1 - place) for place in range(len(losses))]
    smooth = [statistics.fmean(losses[place - end : place + end + 1]) for place, end in enumerate(ends)]
    return updates, smooth
