"""The figures of the report: the grid, quality against cost, the training curves, and the similarity heat map."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from .svg import PAGE_WIDTH, Cells, Choice, Figure, Line, Points

__all__ = [
    "COSTS",
    "HEADS",
    "Curve",
    "Grid",
    "axes_of",
    "cost_figure",
    "curves_figure",
    "draw_cells",
    "draw_cost",
    "draw_grid",
    "draw_line",
    "grid_figure",
    "grids_of",
    "norm_of",
    "similarity_figure",
    "worth_title",
]

Grid = list[list[Row | None]]
Curve = Sequence[tuple[int, float]]

COSTS = {
    "params": "parameters",
    "flops": "FLOPs of one forward",
    "latency_ms": "latency of one forward",
    "memory_bytes": "memory (bytes)",
}
HEADS = {"params": "Parameters", "flops": "FLOPs", "latency_ms": "Latency", "memory_bytes": "Memory"}
_CURVE_POINTS = 200
_CELL = (0.54, 0.42)  # in inches, with room for two lines of text
_SMALL_CELL = (0.12, 0.15)


def axes_of(table: Table) -> tuple[str, str, list[str]]:
    """Choose the dimension across, the one upwards, and the others. The larger goes across if it fits there."""
    counts = {name: len({row.setting[name] for row in table}) for name in table.dimensions}
    by_count = sorted(counts, key=lambda name: -counts[name])
    across, up = by_count[0], by_count[1]
    if counts[across] > 12:
        across, up = up, across
    return across, up, [name for name in table.dimensions if name not in (across, up)]


def grids_of(table: Table) -> tuple[list[str], list[str], dict[str, Grid]]:
    """Lay out the rows: the values across and upwards, and a grid for each setting of the other dimensions."""
    across, up, others = axes_of(table)
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
    return f"{table.metric} ({'higher' if table.higher_is_better else 'lower'} is better)"


def norm_of(values: Iterable[float], *, log: bool = False) -> Any:
    """Return what takes the finite ones of these values to colours."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    colors = optional("matplotlib.colors")
    return colors.LogNorm(low, high, clip=True) if log else colors.Normalize(low, high)


def _tip(table: Table, row: Row, label: str = "") -> str:
    names = {"quality": table.metric, "recovery": "recovery", **{k: v.lower() for k, v in HEADS.items()}}
    values = [f"{names[name]}: {table.text(row, name)}" for name in table.columns]
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


def draw_grid(axes: Any, table: Table, where: str, *, written: bool, recovery: bool = False) -> None:
    """Draw the grid of a table of several dimensions, with its colour bar.

    Args:
        axes: Where.
        table: What was measured.
        where: Which of `grids_of`.
        written: Whether each cell bears its number.
        recovery: Whether it bears the recovery below.
    """
    across, up, _ = axes_of(table)
    columns, lines, grids = grids_of(table)
    norm = norm_of(row.quality for row in table)
    image = draw_cells(
        axes,
        table,
        grids[where],
        (columns, lines),
        norm,
        written=written,
        recovery=recovery,
        most_ticks=24 if written else 16,
    )
    name_axes(axes, across, up)
    _colour_bar(axes, image, table.metric)


def _colour_bar(axes: Any, image: Any, name: str) -> Any:
    bar = axes.get_figure().colorbar(image, ax=axes, pad=0.012, fraction=0.05, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label(name, color=INK, parse_math=False)
    return bar


def grid_figure(table: Table) -> Figure:
    """Draw quality over the dimensions: a heat map for each setting of the further ones, or a line for one."""
    if len(table.dimensions) == 1:
        picture = start(PAGE_WIDTH, 3.8)
        return Figure([Choice("", picture, draw_line(picture.subplots(), table, recovery=True))])
    columns, lines, grids = grids_of(table)
    written = len(columns) <= 24 and len(lines) <= 60
    cell = _CELL if written else _SMALL_CELL
    choices = []
    for where, grid in grids.items():
        picture = start(max(PAGE_WIDTH, 1.6 + len(columns) * cell[0]), 0.7 + max(1.8, len(lines) * cell[1]))
        axes = picture.subplots()
        draw_grid(axes, table, where, written=written, recovery=True)
        texts = [["" if row is None else _tip(table, row) for row in line] for line in grid]
        choices.append(Choice(where, picture, [Cells(axes, texts)]))
    return Figure(choices, "At", least_width=1.6 + len(columns) * cell[0])


def draw_line(axes: Any, table: Table, *, recovery: bool = False) -> list[Points]:
    """Draw the quality over the one dimension of a table; return what is told at each point."""
    name = table.dimensions[0]
    rows = sorted(table, key=lambda row: row.setting[name])
    places, qualities = range(len(rows)), [row.quality for row in rows]
    axes.plot(places, qualities, "o-", color=ACCENT, linewidth=1.6, markersize=5)
    every = math.ceil(len(rows) / 16)
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


def cost_figure(table: Table, marked: Mapping[str, Row]) -> Figure:
    """Draw quality against each measured cost, with the Pareto front and the marked rows by label."""
    choices = []
    for cost in (cost for cost in COSTS if cost in table.columns):
        picture = start(PAGE_WIDTH, 4.6)
        choices.append(Choice(HEADS[cost], picture, draw_cost(picture.subplots(), table, cost, marked)))
    return Figure(choices, "Cost")


def draw_cost(axes: Any, table: Table, cost: str, marked: Mapping[str, Row]) -> list[Points]:
    """Draw quality against one cost; return what is told at each point.

    Args:
        axes: Where.
        table: What was measured.
        cost: One of `COSTS` that the table has.
        marked: Rows of the table to name, by label.
    """
    rows = [row for row in table if getattr(row, cost) is not None]
    labels = _labelled({label: row for label, row in marked.items() if row in rows})
    for members, look in (
        (rows, {"color": MUTED, "markersize": 4.5, "alpha": 0.75, "markeredgewidth": 0, "label": "sub-models"}),
        (table.pareto(cost), {"color": ACCENT, "linestyle": "-", "markersize": 5, "label": "Pareto front"}),
        ([row for row, _ in labels], {"color": ACCENT, "markersize": 11, "markerfacecolor": "none"}),
    ):
        costs = [float(getattr(row, cost)) for row in members]
        axes.plot(costs, [row.quality for row in members], **{"marker": "o", "linestyle": "", "linewidth": 1.6, **look})
    costs = [float(getattr(row, cost)) for row in rows]
    log = min(costs) > 0
    if log:
        axes.set_xscale("log")
        marks = ticks_of(costs)
        place_ticks(axes.xaxis, marks, [readable(mark, cost) for mark in marks])
    low, high = span([row.quality for row in table])
    room = 0.22 * (high - low) if marked else 0.0
    axes.set_ylim(*((low, high + room) if table.higher_is_better else (low - room, high)))
    _name_marked(axes, table, labels, cost, log)
    rule(axes)
    axes.legend(loc="lower right" if table.higher_is_better else "upper right", fontsize=8, frameon=False)
    name_axes(axes, COSTS[cost] + (" (log scale)" if log else ""), worth_title(table))
    names = dict(labels)
    told = [_tip(table, row, names.get(row, "")) for row in rows]
    return [Points(axes, costs, [row.quality for row in rows], told)]


def _labelled(marked: Mapping[str, Row]) -> list[tuple[Row, str]]:
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
            (0 if left else -14, (1 if table.higher_is_better else -1) * (20 + 12 * (place % 3))),
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


def _smoothed(points: Curve) -> tuple[list[float], list[float]]:
    """Average a curve over bins to at most 200 points, then over up to 5 neighbours."""
    ordered = sorted(points)
    size = math.ceil(len(ordered) / _CURVE_POINTS)
    bins = [ordered[start : start + size] for start in range(0, len(ordered), size or 1)]
    updates = [statistics.fmean(update for update, _ in one) for one in bins]
    losses = [statistics.fmean(drawable(loss) for _, loss in one) for one in bins]
    reach = 2 if len(bins) >= 30 else 1 if len(bins) >= 10 else 0
    ends = [min(reach, place, len(losses) - 1 - place) for place in range(len(losses))]
    smooth = [statistics.fmean(losses[place - end : place + end + 1]) for place, end in enumerate(ends)]
    return updates, smooth


def curves_figure(table: Table, curves: Mapping[str, Curve], marked: Mapping[str, Row]) -> Figure:
    """Draw the loss of each sub-model over the updates, coloured by parameters, the marked rows bold."""
    picture = start(PAGE_WIDTH, 4.8)
    axes = picture.subplots()
    rows = {str(row.setting): row for row in table}
    bold = {str(row.setting): label for row, label in _labelled(marked)}
    colours = _sizes(table)
    tips, losses = [], []
    for name, points in sorted(curves.items(), key=lambda pair: pair[0] in bold):
        updates, smooth = _smoothed(points)
        if not any(map(math.isfinite, smooth)):
            continue
        losses += [loss for loss in smooth if math.isfinite(loss)]
        (line,) = axes.plot(
            updates,
            smooth,
            "-" if len(updates) > 1 else "o",
            markersize=4,
            linewidth=2.4 if name in bold else 0.9,
            color=colours.to_rgba(max(float(rows[name].params), 1)) if name in rows else MUTED,
            alpha=1.0 if name in bold or len(curves) <= 12 else 0.7,
        )
        note = f"{readable(rows[name].params)} parameters" if name in rows else "not in the table"
        text = f"{bold[name]}: {name}" if name in bold else name
        tips.append(Line(line, f"{text}\n{note}", "update", "loss"))
    bar = _colour_bar(axes, colours, "parameters")
    ends = colours.norm.vmin, colours.norm.vmax
    marks = [ends[0] * (ends[1] / ends[0]) ** part for part in (0, 0.5, 1)] if ends[1] > ends[0] else [ends[0]]
    place_ticks(bar.ax.yaxis, marks, [readable(mark) for mark in marks])
    log = bool(losses) and min(losses) > 0 and max(losses) > 20 * min(losses)
    if log:
        axes.set_yscale("log")
        marks = ticks_of(losses)
        place_ticks(axes.yaxis, marks, [f"{mark:.3g}" for mark in marks])
    axes.set_xlim(left=0)
    rule(axes)
    name_axes(axes, "update", "loss (log scale)" if log else "loss")
    return Figure([Choice("", picture, tips)])


def _sizes(table: Table) -> Any:
    """Return what colours parameters: viridis without its lightest part, which vanishes on white."""
    colors, cm = optional("matplotlib.colors"), optional("matplotlib.cm")
    dark = [optional("matplotlib").colormaps["viridis"](0.85 * step / 20) for step in range(21)]
    low, high = (max(float(table[place].params), 1) for place in (0, -1))
    scale = colors.LinearSegmentedColormap.from_list("sizes", dark)
    return cm.ScalarMappable(colors.LogNorm(low, high), scale)


def similarity_figure(found: Similarity) -> Figure:
    """Draw a heat map, sub-models over output positions; the lighter, the closer to the reference."""
    parsed = [Setting.parse(one) for one in found.settings]
    alike = {tuple(one) for one in parsed}
    up = next(iter(parsed[0])) if len(alike) == 1 and len(parsed[0]) == 1 else ""
    lines = [str(one[up]) if up else str(one) for one in parsed]
    columns = [str(one) for one in found.positions]
    written = len(columns) <= 16 and len(lines) <= 60
    found = replace(found, values=tuple(tuple(map(drawable, row)) for row in found.values))
    finite = [value for row in found.values for value in row if math.isfinite(value)]
    closer_is_higher = found.measure == "cosine"
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    # The divergences of small sub-models would hide the differences of the others on a linear scale.
    log = not closer_is_higher and high > 20 * max(low, 1e-3 * high) > 0
    ends = (low, 1.0) if closer_is_higher else (max(low, 1e-3 * high) if log else 0.0, high or 1.0)
    norm = norm_of(ends, log=log)
    width = 2.0 + inches(max(map(len, lines)), 8) + len(columns) * (_CELL[0] if written else 0.03)
    picture = start(max(PAGE_WIDTH, width), 0.7 + max(1.8, len(lines) * (0.3 if written else 0.2)))
    axes = picture.subplots()
    image = heatmap(axes, found.values, columns, lines, norm, higher_is_better=closer_is_higher)
    if written:
        texts = [[f"{value:.3g}" for value in row] for row in found.values]
        write_cells(axes, found.values, texts, norm, higher_is_better=closer_is_higher)
    name_axes(axes, "output position", up)
    bar = _colour_bar(axes, image, "cosine" if closer_is_higher else "nats (log scale)" if log else "nats")
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
    return Figure([Choice("", picture, [told])], least_width=width)
