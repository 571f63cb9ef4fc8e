"""The figures of the report: the grid, quality against cost, the training curves, and the similarity heat map."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from ..evaluation.similarity import Similarity
from ..evaluation.table import Row, Table, readable
from ..space import Setting
from .plotly_style import ACCENT, INK, LINE, MUTED, blank, drawable, optional, plotly, plotly_source, span, ticks_of

__all__ = [
    "ACCENT",
    "COSTS",
    "HEADS",
    "INK",
    "LINE",
    "MUTED",
    "Curve",
    "Grid",
    "axes_of",
    "cost_figure",
    "curves_figure",
    "drawable",
    "grid_figure",
    "grids_of",
    "ink_on",
    "labelled",
    "optional",
    "plotly_source",
    "similarity_figure",
    "span",
    "ticks_of",
    "worth_title",
]

Grid = list[list[Row | None]]
Curve = Sequence[tuple[int, float]]

_SCALE = "Viridis"
COSTS = {
    "params": "parameters",
    "flops": "FLOPs of one forward",
    "latency_ms": "latency of one forward",
    "memory_bytes": "memory (bytes)",
}
HEADS = {"params": "Parameters", "flops": "FLOPs", "latency_ms": "Latency", "memory_bytes": "Memory"}
_CURVE_POINTS = 200


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


def _cell(table: Table, row: Row | None, template: str) -> str:
    if row is None:
        return ""
    return table.text(row, "quality") + ("" if row.recovery is None else template.format(table.text(row, "recovery")))


def _hover(table: Table, row: Row | None, label: str = "") -> str:
    if row is None:
        return ""
    lines = [f"<b>{escape(label)}</b>"] if label else []
    lines.append(f"<b>{escape(str(row.setting))}</b>")
    names = {"quality": table.metric, "recovery": "recovery", **{k: v.lower() for k, v in HEADS.items()}}
    lines += [f"{escape(names[name])}: {table.text(row, name)}" for name in table.columns]
    return "<br>".join(lines)


def grid_figure(table: Table) -> Any:
    """Draw quality over the dimensions: a heat map with a choice for every further dimension, or a line for one."""
    graph = plotly("graph_objects")
    if len(table.dimensions) == 1:
        return _line_figure(table)
    across, up, others = axes_of(table)
    columns, lines, grids = grids_of(table)
    qualities = [row.quality for row in table if math.isfinite(row.quality)]
    legible = len(columns) <= 24 and len(lines) <= 60
    low, high = min(qualities, default=0.0), max(qualities, default=1.0)
    traces = [
        graph.Heatmap(
            x=columns,
            y=lines,
            z=[[None if row is None else row.quality for row in line] for line in grid],
            zmin=low,
            zmax=high,
            hovertext=[[_hover(table, row) for row in line] for line in grid],
            hoverinfo="text",
            hoverongaps=False,
            colorscale=_SCALE,
            reversescale=not table.higher_is_better,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": escape(table.metric), "side": "right"}, "thickness": 12, "outlinewidth": 0},
            meta=key,
            visible=place == 0,
        )
        for place, (key, grid) in enumerate(grids.items())
    ]
    if legible:
        traces += [
            graph.Scatter(
                x=[column for line in grid for column, row in zip(columns, line, strict=True) if row is not None],
                y=[name for name, line in zip(lines, grid, strict=True) for row in line if row is not None],
                text=[_cell(table, row, "<br>{}") for line in grid for row in line if row is not None],
                mode="text",
                textfont={
                    "size": 11,
                    "color": [
                        ink_on(row.quality, low, high, table) for line in grid for row in line if row is not None
                    ],
                },
                hoverinfo="skip",
                meta=key,
                visible=place == 0,
            )
            for place, (key, grid) in enumerate(grids.items())
        ]
    return blank(
        traces,
        90 + max(180, len(lines) * (40 if legible else 14)),
        plot_bgcolor="#eef1f5",
        xaxis=_categories(across, columns),
        yaxis=_categories(up, lines),
        meta={
            "options": {key: {"label": key, "layout": {}} for key in grids},
            "choose": "At" if others else "",
            "least_width": 150 + len(columns) * (52 if legible else 12),
        },
    )


def _line_figure(table: Table) -> Any:
    graph = plotly("graph_objects")
    name = table.dimensions[0]
    rows = sorted(table, key=lambda row: row.setting[name])
    line = graph.Scatter(
        x=[str(row.setting[name]) for row in rows],
        y=[row.quality for row in rows],
        text=[_cell(table, row, "<br>({})") for row in rows],
        textposition="top center",
        mode="lines+markers+text" if len(rows) <= 16 else "lines+markers",
        line={"color": ACCENT, "width": 2},
        marker={"size": 9},
        hovertext=[_hover(table, row) for row in rows],
        hoverinfo="text",
        cliponaxis=False,
    )
    low, high = span([row.quality for row in rows])
    return blank(
        [line],
        380,
        xaxis={"title": {"text": escape(name)}, "type": "category"},
        yaxis={"title": {"text": escape(worth_title(table))}, "range": [low, high + 0.12 * (high - low)]},
        meta={"least_width": min(len(rows), 16) * 60},
    )


def _categories(name: str, values: Sequence[str]) -> dict[str, Any]:
    ends = [-0.5, len(values) - 0.5]
    return {
        "title": {"text": escape(name)},
        "type": "category",
        "categoryarray": list(values),
        "range": ends,
        "showgrid": False,
    }


def ink_on(quality: float, low: float, high: float, table: Table) -> str:
    """Choose the colour of text that can be read on a cell of the grid."""
    if not math.isfinite(quality):
        return INK
    place = (quality - low) / ((high - low) or 1)
    return INK if (place if table.higher_is_better else 1 - place) > 0.5 else "#ffffff"


def worth_title(table: Table) -> str:
    """Name the axis of the quality, as plain text."""
    return f"{table.metric} ({'higher' if table.higher_is_better else 'lower'} is better)"


def cost_figure(table: Table, marked: Mapping[str, Row]) -> Any:
    """Draw quality against each measured cost, with the Pareto front and the marked rows by label."""
    graph = plotly("graph_objects")
    low, high = span([row.quality for row in table])
    traces, options = [], {}
    for place, (cost, title) in enumerate((c, t) for c, t in COSTS.items() if c in table.columns):
        rows = [row for row in table if getattr(row, cost) is not None]
        front = table.pareto(cost)
        labels = labelled({label: row for label, row in marked.items() if row in rows})
        log = min(getattr(row, cost) for row in rows) > 0
        for members, look in [
            (rows, {"mode": "markers", "marker": {"size": 7, "color": MUTED, "opacity": 0.75}}),
            (front, {"mode": "lines+markers", "line": {"color": ACCENT, "width": 2}, "marker": {"size": 8}}),
            ([row for row, _ in labels], {"mode": "markers", "marker": _ring()}),
        ]:
            names = dict(labels)
            traces.append(
                graph.Scatter(
                    x=[getattr(row, cost) for row in members],
                    y=[row.quality for row in members],
                    hovertext=[_hover(table, row, names.get(row, "")) for row in members],
                    hoverinfo="text",
                    meta=cost,
                    visible=place == 0,
                    **look,
                )
            )
        ticks = ticks_of([getattr(row, cost) for row in rows]) if log else None
        options[cost] = {
            "label": HEADS[cost],
            "layout": {
                "xaxis.title.text": title + (" (log scale)" if log else ""),
                "xaxis.type": "log" if log else "linear",
                "xaxis.tickvals": ticks,
                "xaxis.ticktext": None if ticks is None else [readable(tick, cost) for tick in ticks],
                "xaxis.autorange": True,
                "annotations": _annotations(table, labels, cost, log),
            },
        }
    room = 0.22 * (high - low) if marked else 0.0
    return blank(
        traces,
        460,
        yaxis={
            "title": {"text": escape(worth_title(table))},
            "range": [low, high + room] if table.higher_is_better else [low - room, high],
        },
        meta={"options": options, "choose": "Cost"},
    )


def _ring() -> dict[str, Any]:
    return {"size": 15, "symbol": "circle-open", "color": ACCENT, "line": {"width": 2.5, "color": ACCENT}}


def labelled(marked: Mapping[str, Row]) -> list[tuple[Row, str]]:
    """Join the labels of one sub-model; the cheapest first."""
    joined: dict[Row, list[str]] = {}
    for label, row in sorted(marked.items(), key=lambda pair: pair[1].params):
        joined.setdefault(row, []).append(label)
    return [(row, ", ".join(labels)) for row, labels in joined.items()]


def _annotations(table: Table, labels: Sequence[tuple[Row, str]], cost: str, log: bool) -> list[dict[str, Any]]:
    """Place labels on the empty side of the front, in steps so that neighbours do not meet."""
    found: list[dict[str, Any]] = []
    costs = [value for row in table if (value := getattr(row, cost)) is not None]
    scaled = [math.log10(value) if log else value for value in (min(costs), max(costs))]
    for place, (row, label) in enumerate(sorted(labels, key=lambda pair: getattr(pair[0], cost))):
        x = math.log10(getattr(row, cost)) if log else getattr(row, cost)
        left = x - scaled[0] < 0.15 * (scaled[1] - scaled[0])
        found.append(
            {
                "x": x,
                "y": row.quality,
                "text": f"<b>{escape(label)}</b>",
                "ax": 0 if left else -18,
                "ay": (-1 if table.higher_is_better else 1) * (26 + 16 * (place % 3)),
                "xanchor": "left" if left else "right",
                "arrowcolor": ACCENT,
                "arrowwidth": 1,
                "arrowhead": 0,
                "standoff": 8,
                "bgcolor": "rgba(255,255,255,0.8)",
            }
        )
    return found


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
    return [round(update, 1) for update in updates], [float(f"{loss:.5g}") for loss in smooth]


def curves_figure(table: Table, curves: Mapping[str, Curve], marked: Mapping[str, Row]) -> Any:
    """Draw the loss of each sub-model over the updates, coloured by parameters, the marked rows bold."""
    graph = plotly("graph_objects")
    rows = {str(row.setting): row for row in table}
    bold = {str(row.setting): label for row, label in labelled(marked)}
    low, high = (math.log10(max(table[place].params, 1)) for place in (0, -1))
    # Viridis without its lightest part, which vanishes on white.
    scale = plotly("colors").sample_colorscale(_SCALE, [0.85 * step / 20 for step in range(21)])
    traces, losses = [], []
    for name, points in sorted(curves.items(), key=lambda pair: pair[0] in bold):
        if not points:
            continue
        updates, smooth = _smoothed(points)
        losses += [loss for loss in smooth if math.isfinite(loss)]
        place = (math.log10(max(rows[name].params, 1)) - low) / ((high - low) or 1) if name in rows else None
        note = f"{readable(rows[name].params)} parameters" if name in rows else "not in the table"
        text = f"{bold[name]}: {name}" if name in bold else name
        traces.append(
            graph.Scatter(
                x=updates,
                y=smooth,
                mode="lines" if len(updates) > 1 else "markers",
                line={"color": MUTED if place is None else scale[round(20 * place)], "width": 3 if name in bold else 1},
                opacity=1.0 if name in bold or len(curves) <= 12 else 0.7,
                name=escape(name),
                hovertemplate=f"<b>{escape(text)}</b><br>{note}<br>update %{{x:.0f}}: loss %{{y:.4g}}<extra></extra>",
            )
        )
    traces.append(_size_bar(low, high, scale))
    log = bool(losses) and min(losses) > 0 and max(losses) > 20 * min(losses)
    return blank(
        traces,
        480,
        xaxis={"title": {"text": "update"}, "rangemode": "tozero"},
        yaxis={
            "title": {"text": "loss (log scale)" if log else "loss"},
            "type": "log" if log else "linear",
            "tickvals": ticks_of(losses) if log else None,
        },
    )


def _size_bar(low: float, high: float, scale: Sequence[str]) -> Any:
    """Draw no point, only the bar that tells parameters by colour; `low` and `high` are powers of ten."""
    ticks = [low + (high - low) * part for part in (0, 0.5, 1)] if high > low else [low]
    return plotly("graph_objects").Scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [low],
            "cmin": low,
            "cmax": high if high > low else low + 1,
            "colorscale": [[place / 20, colour] for place, colour in enumerate(scale)],
            "showscale": True,
            "colorbar": {
                "title": {"text": "parameters", "side": "right"},
                "thickness": 12,
                "outlinewidth": 0,
                "tickvals": ticks,
                "ticktext": [readable(10**tick) for tick in ticks],
            },
        },
    )


def similarity_figure(found: Similarity) -> Any:
    """Draw a heat map, sub-models over output positions; the lighter, the closer to the reference."""
    graph = plotly("graph_objects")
    parsed = [Setting.parse(one) for one in found.settings]
    alike = {tuple(one) for one in parsed}
    up = next(iter(parsed[0])) if len(alike) == 1 and len(parsed[0]) == 1 else ""
    lines = [str(one[up]) if up else escape(str(one)) for one in parsed]
    columns = [str(one) for one in found.positions]
    legible = len(columns) <= 16 and len(lines) <= 60
    found = replace(found, values=tuple(tuple(map(drawable, row)) for row in found.values))
    finite = [value for row in found.values for value in row if math.isfinite(value)]
    closer_is_higher = found.measure == "cosine"
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    # The divergences of small sub-models would hide the differences of the others on a linear scale.
    log = not closer_is_higher and high > 20 * max(low, 1e-3 * high) > 0
    low, high = (low, 1.0) if closer_is_higher else (max(low, 1e-3 * high) if log else 0.0, high or 1.0)
    ticks = ticks_of([low, high]) if log else None

    def shade(value: float) -> float:
        return math.log10(max(value, low)) if log and math.isfinite(value) else value

    heat = graph.Heatmap(
        x=columns,
        y=lines,
        z=[[shade(value) if math.isfinite(value) else None for value in row] for row in found.values],
        zmin=shade(low),
        zmax=shade(high),
        hovertext=[
            [
                f"<b>{escape(str(setting))}</b><br>output position {position}<br>{found.label}: {value:.4g}<br>"
                f"examples: {count:,}"
                for position, value, count in zip(found.positions, row, found.counts, strict=True)
            ]
            for setting, row in zip(parsed, found.values, strict=True)
        ],
        text=[[f"{value:.3g}" if legible else "" for value in row] for row in found.values],
        texttemplate="%{text}" if legible else None,
        hoverinfo="text",
        colorscale=_SCALE,
        reversescale=not closer_is_higher,
        xgap=1 if len(columns) <= 64 else 0,
        ygap=1,
        colorbar={
            "title": {"text": "cosine" if closer_is_higher else "nats, log scale" if log else "nats", "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
            "tickvals": None if ticks is None else [math.log10(tick) for tick in ticks],
            "ticktext": None if ticks is None else [f"{tick:.3g}" for tick in ticks],
        },
    )
    return blank(
        [heat],
        90 + max(180, len(lines) * (30 if legible else 20)),
        plot_bgcolor="#eef1f5",
        xaxis={**_categories("output position", columns), "nticks": 16, "tickangle": 0},
        yaxis=_categories(up, lines),
        meta={"least_width": 200 + len(columns) * (52 if legible else 3)},
    )
