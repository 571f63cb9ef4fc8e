"""The figures of the report: the grid, quality against cost, the training curves, and the similarity heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..evaluation.row import INTERVALS
from ..evaluation.similarity import Similarity
from ..evaluation.table import Row, Table, readable
from ..space import Setting
from .style import (
    ACCENT,
    INK,
    MUTED,
    SMALL_FONT,
    drawable,
    heatmap,
    inches,
    name_axes,
    optional,
    place_ticks,
    rule,
    span,
    start,
    ticks_of,
    write_cells,
)
from .svg import PAGE_WIDTH, Cells, Choice, Figure, Points

__all__ = [
    "COSTS",
    "HEADS",
    "Grid",
    "axes_of",
    "colour_bar",
    "cost_figure",
    "draw_cells",
    "draw_cost",
    "draw_grid",
    "draw_line",
    "grid_figure",
    "grids_of",
    "labelled",
    "norm_of",
    "similarity_figure",
    "worth_title",
]

Grid = list[list[Row | None]]

COSTS = {
    "params": "parameters",
    "flops": "FLOPs of one forward",
    "latency_ms": "latency of one forward",
    "memory_bytes": "memory (bytes)",
}
HEADS = {"params": "Parameters", "flops": "FLOPs", "latency_ms": "Latency", "memory_bytes": "Memory"}
_CELL = (0.54, 0.42)  # in inches, with room for two lines of text
_SMALL_CELL = (0.12, 0.15)
_NARROW_CELL = (0.36, 0.28)


def axes_of(table: Table, most: int = 12) -> tuple[str, str, list[str]]:
    """Choose the dimension across, the one upwards, and the others. The larger goes across if it fits there.

    Args:
        table: What was measured.
        most: How many values fit across.
    """
    counts = {name: len({row.setting[name] for row in table}) for name in table.dimensions}
    by_count = sorted(counts, key=lambda name: -counts[name])
    across, up = by_count[0], by_count[1]
    if counts[across] > most:
        across, up = up, across
    return across, up, [name for name in table.dimensions if name not in (across, up)]


def grids_of(table: Table, most: int = 12) -> tuple[list[str], list[str], dict[str, Grid]]:
    """Lay out the rows: the values across and upwards, and a grid for each setting of the other dimensions."""
    across, up, others = axes_of(table, most)
    columns = sorted({row.setting[across] for row in table})
    lines = sorted({row.setting[up] for row in table})
    found: dict[tuple[float, ...], Grid] = {}
    for row in sorted(table, key=lambda row: tuple(-row.setting[name] for name in others)):
        key = tuple(row.setting[name] for name in others)
        grid = found.setdefault(key, [[None] * len(columns) for _ in lines])
        grid[lines.index(row.setting[up])][columns.index(row.setting[across])] = row
    named = {", ".join(f"{n}={v}" for n, v in zip(others, key, strict=True)): grid for key, grid in found.items()}
    return [str(v) for v in columns], [str(v) for v in lines], named


def worth_title(table: Table) -> str:
    """Name the axis of the quality."""
    if table.higher_is_better is None:
        return table.metric
    return f"{table.metric} ({'higher' if table.higher_is_better else 'lower'} is better)"


def norm_of(values: Iterable[float], *, log: bool = False) -> Any:
    """Return what takes the finite ones of these values to colours."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    colors = optional("matplotlib.colors")
    return colors.LogNorm(low, high, clip=True) if log else colors.Normalize(low, high)


def _between(table: Table, row: Row, name: str) -> str:
    between = table.interval(row, name) if name in INTERVALS else ""
    return f" ({between})" if between else ""


def _tip(table: Table, row: Row, label: str = "") -> str:
    names = {"quality": table.metric, "recovery": "recovery", **{k: v.lower() for k, v in HEADS.items()}}
    names["reported"] = f"{table.metric} reported"
    values = [f"{names[name]}: {table.text(row, name)}{_between(table, row, name)}" for name in table.columns]
    return "\n".join([*([label] if label else []), str(row.setting), *values])


def draw_cells(
    axes: Any,
    table: Table,
    grid: Grid,
    names: tuple[Sequence[str], Sequence[str]],
    norm: Any,
    *,
    written: bool = True,
    recovery: bool = False,
    most_ticks: int = 16,
) -> Any:
    """Draw one grid of sub-models by colour; return what a colour bar describes.

    Args:
        axes: Where.
        table: Of the rows.
        grid: A row for each line; None is a grey cell.
        names: Of the columns and of the lines.
        norm: From qualities to colours.
        written: Whether each cell bears its number.
        recovery: Whether it bears the recovery below.
        most_ticks: How many names fit along an axis.
    """
    values = [[math.nan if row is None else row.quality for row in line] for line in grid]
    higher = table.higher_is_better is not False
    image = heatmap(axes, values, *names, norm, higher_is_better=higher, most_ticks=most_ticks)
    recovery = recovery and "recovery" in table.columns
    for column, align, font in [
        ("quality", "bottom" if recovery else "center", SMALL_FONT + recovery),
        *([("recovery", "top", SMALL_FONT)] if recovery else []),
    ]:
        if written:
            texts = [["" if row is None else table.text(row, column) for row in line] for line in grid]
            write_cells(axes, values, texts, norm, higher_is_better=higher, align=align, font=font)
    return image


def draw_grid(
    axes: Any, table: Table, where: str, *, written: bool, recovery: bool = False, most: int = 12, bar: bool = True
) -> None:
    """Draw the grid of a table of several dimensions.

    Args:
        axes: Where.
        table: What was measured.
        where: Which of `grids_of`.
        written: Whether each cell bears its number.
        recovery: Whether it bears the recovery below.
        most: How many values fit across.
        bar: Whether a colour bar stands beside it.
    """
    across, up, _ = axes_of(table, most)
    columns, lines, grids = grids_of(table, most)
    norm = norm_of(row.quality for row in table)
    image = draw_cells(
        axes,
        table,
        grids[where],
        (columns, lines),
        norm,
        written=written,
        recovery=recovery,
        most_ticks=24 if written else most + 4,
    )
    name_axes(axes, across, up)
    if bar:
        colour_bar(axes, image, table.metric)


def colour_bar(axes: Any, image: Any, name: str) -> Any:
    """Draw what the colours of a plot mean beside it."""
    bar = axes.get_figure().colorbar(image, ax=axes, pad=0.012, fraction=0.05, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label(name, color=INK, parse_math=False)
    return bar


def grid_figure(table: Table, width: float = PAGE_WIDTH) -> Figure:
    """Draw quality over the dimensions: a heat map for each setting of the further ones, or a line for one.

    Args:
        table: What was measured.
        width: Of the pictures, in inches.
    """
    narrow = width < PAGE_WIDTH
    if len(table.dimensions) == 1:
        picture = start(width, 3.0 if narrow else 3.8)
        return Figure([Choice("", picture, draw_line(picture.subplots(), table, recovery=not narrow))])
    most = 8 if narrow else 12
    columns, lines, grids = grids_of(table, most)
    written = len(columns) <= (most if narrow else 24) and len(lines) <= 60
    cell = _NARROW_CELL if narrow else _CELL if written else _SMALL_CELL
    choices = []
    for where, grid in grids.items():
        wide = width if narrow else max(width, 1.6 + len(columns) * cell[0])
        picture = start(wide, 0.7 + max(1.8, len(lines) * cell[1]))
        axes = picture.subplots()
        draw_grid(axes, table, where, written=written, recovery=not narrow, most=most, bar=not (narrow and written))
        texts = [["" if row is None else _tip(table, row) for row in line] for line in grid]
        choices.append(Choice(where, picture, [Cells(axes, texts)]))
    return Figure(choices, "At", least_width=1.6 + len(columns) * cell[0])


def draw_line(axes: Any, table: Table, *, recovery: bool = False) -> list[Points]:
    """Draw the quality over the one dimension of a table; return what is told at each point."""
    name = table.dimensions[0]
    rows = sorted(table, key=lambda row: row.setting[name])
    places, qualities = range(len(rows)), [row.quality for row in rows]
    axes.plot(places, qualities, "o-", color=ACCENT, linewidth=1.6, markersize=5)
    every = math.ceil(len(rows) / (16 if axes.get_figure().get_figwidth() >= PAGE_WIDTH / 2 else 8))
    axes.set_xticks(places[::every], [str(row.setting[name]) for row in rows[::every]], parse_math=False)
    low, high = span(qualities)
    axes.set_ylim(low, high + 0.12 * (high - low))
    for place, row in enumerate(rows if recovery and len(rows) <= 16 else []):
        if math.isfinite(row.quality):
            for column, above in (("recovery", 6), ("quality", 16)):
                if column in table.columns or column == "quality":
                    above = above if "recovery" in table.columns else 6
                    axes.annotate(
                        table.text(row, column),
                        (place, row.quality),
                        (0, above),
                        textcoords="offset points",
                        ha="center",
                        fontsize=SMALL_FONT,
                        color=INK,
                        parse_math=False,
                    )
    rule(axes)
    name_axes(axes, name, worth_title(table))
    return [Points(axes, places, qualities, [_tip(table, row) for row in rows])]


def cost_figure(table: Table, marked: Mapping[str, Row], width: float = PAGE_WIDTH) -> Figure:
    """Draw quality against each measured cost, with the Pareto front and the marked rows by label."""
    choices = []
    for cost in (cost for cost in COSTS if cost in table.columns):
        picture = start(width, 4.6 if width >= PAGE_WIDTH else 3.6)
        choices.append(Choice(HEADS[cost], picture, draw_cost(picture.subplots(), table, cost, marked, legend=False)))
    return Figure(choices, "Cost", legend=[(MUTED, "sub-models"), (ACCENT, "Pareto front")])


def draw_cost(axes: Any, table: Table, cost: str, marked: Mapping[str, Row], *, legend: bool = True) -> list[Points]:
    """Draw quality against one cost; return what is told at each point.

    Args:
        axes: Where.
        table: What was measured.
        cost: One of `COSTS` that the table has.
        marked: Rows of the table to name, by label.
        legend: Whether the plot itself says what its colours mean.
    """
    rows = [row for row in table if getattr(row, cost) is not None]
    labels = labelled({label: row for label, row in marked.items() if row in rows})
    for members, look in (
        (rows, {"color": MUTED, "markersize": 4.5, "alpha": 0.75, "markeredgewidth": 0, "label": "sub-models"}),
        (
            [] if table.higher_is_better is None else table.pareto(cost),
            {"color": ACCENT, "linestyle": "-", "markersize": 5, "label": "Pareto front"},
        ),
        ([row for row, _ in labels], {"color": ACCENT, "markersize": 11, "markerfacecolor": "none"}),
    ):
        costs = [float(getattr(row, cost)) for row in members]
        axes.plot(costs, [row.quality for row in members], **{"marker": "o", "linestyle": "", "linewidth": 1.6, **look})
    costs = [float(getattr(row, cost)) for row in rows]
    log = min(costs) > 0
    if log:
        axes.set_xscale("log")
        narrow = axes.get_figure().get_figwidth() < PAGE_WIDTH / 2
        marks = ticks_of(costs)
        marks = marks[:: math.ceil(len(marks) / 4)] if narrow else marks
        place_ticks(axes.xaxis, marks, [readable(mark, cost) for mark in marks])
    low, high = span([row.quality for row in table])
    room = 0.22 * (high - low) if marked else 0.0
    axes.set_ylim(*((low, high + room) if table.higher_is_better is not False else (low - room, high)))
    _name_marked(axes, table, labels, cost, log)
    rule(axes)
    if legend:
        axes.legend(
            loc="lower right" if table.higher_is_better is not False else "upper right", fontsize=8, frameon=False
        )
    name_axes(axes, COSTS[cost] + (" (log scale)" if log else ""), worth_title(table))
    names = dict(labels)
    told = [_tip(table, row, names.get(row, "")) for row in rows]
    return [Points(axes, costs, [row.quality for row in rows], told)]


def labelled(marked: Mapping[str, Row]) -> list[tuple[Row, str]]:
    """Join the labels of one sub-model; the cheapest first."""
    joined: dict[Row, list[str]] = {}
    for label, row in sorted(marked.items(), key=lambda pair: pair[1].params):
        joined.setdefault(row, []).append(label)
    return [(row, ", ".join(labels)) for row, labels in joined.items()]


def _name_marked(axes: Any, table: Table, labels: Sequence[tuple[Row, str]], cost: str, log: bool) -> None:
    """Place labels on the empty side of the front, in steps so that neighbours do not meet."""
    costs = [value for row in table if (value := getattr(row, cost)) is not None]
    scaled = [math.log10(value) if log else value for value in (min(costs), max(costs))]
    for place, (row, label) in enumerate(sorted(labels, key=lambda pair: getattr(pair[0], cost))):
        if not math.isfinite(row.quality):
            continue
        x = math.log10(getattr(row, cost)) if log else getattr(row, cost)
        left = x - scaled[0] < 0.15 * (scaled[1] - scaled[0])
        axes.annotate(
            label,
            (float(getattr(row, cost)), row.quality),
            (0 if left else -14, (-1 if table.higher_is_better is False else 1) * (20 + 12 * (place % 3))),
            textcoords="offset points",
            ha="left" if left else "right",
            va="center",
            fontweight="bold",
            fontsize=9,
            color=INK,
            parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            arrowprops={"arrowstyle": "-", "color": ACCENT, "linewidth": 1, "shrinkA": 0, "shrinkB": 6},
        )


def similarity_figure(found: Similarity, width: float = PAGE_WIDTH) -> Figure:
    """Draw a heat map, sub-models over output positions; the lighter, the closer to the reference."""
    narrow = width < PAGE_WIDTH
    parsed = [Setting.parse(one) for one in found.settings]
    alike = {tuple(one) for one in parsed}
    up = next(iter(parsed[0])) if len(alike) == 1 and len(parsed[0]) == 1 else ""
    lines = [str(one[up]) if up else str(one) for one in parsed]
    if narrow and len(alike) == 1 and not up:
        # The names are told once, along the axis.
        up, lines = ",\n".join(parsed[0]), [", ".join(map(str, one.values())) for one in parsed]
    columns = [str(one) for one in found.positions]
    written = len(columns) <= (6 if narrow else 16) and len(lines) <= 60
    found = replace(found, values=tuple(tuple(map(drawable, row)) for row in found.values))
    finite = [value for row in found.values for value in row if math.isfinite(value)]
    closer_is_higher = found.measure == "cosine"
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    # The divergences of small sub-models would hide the differences of the others on a linear scale.
    log = not closer_is_higher and high > 20 * max(low, 1e-3 * high) > 0
    ends = (low, 1.0) if closer_is_higher else (max(low, 1e-3 * high) if log else 0.0, high or 1.0)
    norm = norm_of(ends, log=log)
    least = 2.0 + inches(max(map(len, lines)), 8) + len(columns) * (_CELL[0] if written else 0.03)
    picture = start(width if narrow else max(width, least), 0.7 + max(1.8, len(lines) * (0.3 if written else 0.2)))
    axes = picture.subplots()
    most_ticks = 8 if narrow else 16
    image = heatmap(axes, found.values, columns, lines, norm, higher_is_better=closer_is_higher, most_ticks=most_ticks)
    if written:
        texts = [[f"{value:.3g}" for value in row] for row in found.values]
        write_cells(axes, found.values, texts, norm, higher_is_better=closer_is_higher)
    name_axes(axes, "output position", up)
    bar = colour_bar(axes, image, "cosine" if closer_is_higher else "nats (log scale)" if log else "nats")
    if log:
        marks = ticks_of(ends)
        place_ticks(bar.ax.yaxis, marks, [f"{mark:.3g}" for mark in marks])
    told = Cells(
        axes,
        [[f"{value:.4g}" if math.isfinite(value) else "" for value in row] for row in found.values],
        rows=[str(one) for one in parsed],
        columns=[
            f"output position {position}\nexamples: {count:,}"
            for position, count in zip(found.positions, found.counts, strict=True)
        ],
        name=found.label,
    )
    return Figure([Choice("", picture, [told])], least_width=least)
