"""The report: one page, and one picture, of what every sub-model is worth and what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ..evaluation.similarity import Similarity
from ..evaluation.table import Row, Table, readable
from ..space import Setting
from . import html as page
from . import matplotlib_style as canvas
from . import plotly_figures as figures

__all__ = ["write_picture", "write_report"]

_COST_CAPTION = (
    "Every point is one sub-model; the line joins those that nothing at most as costly equals or betters "
    "(the Pareto front). Hover for the setting."
)
_CURVES_CAPTION = (
    "One line per sub-model, each point the mean of a few neighbouring updates; the darker, the fewer parameters. "
    "Chosen sub-models are drawn bold. Hover for the name."
)
_SIMILARITY_CAPTION = (
    "Each cell is the mean over the examples that reach a position: {first:,} at the first, {last:,} at the last. "
    "The lighter, the closer; {equal} where equal. Hover for the value."
)
_TABLE_CAPTION = "Click a heading to sort. Bold: on the Pareto front of the parameters."


def write_report(
    path: str | Path,
    table: Table,
    *,
    curves: Mapping[str, figures.Curve] | None = None,
    chosen: Mapping[str, Setting] | None = None,
    similarities: Iterable[Similarity] | None = None,
    title: str = "Every sub-model of one network",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write one HTML page that shows the table: a grid, quality against cost, training, and all rows.

    The page holds all it needs and loads nothing, so that it opens offline and can be sent as one file (about 5 MB).

    Args:
        path: File; what was there is replaced once all is written.
        table: What was measured, any number of dimensions; a setting that the table lacks stays blank in the grid.
        curves: Pairs of (update, loss) by the text of a setting. Lines are averaged lightly, and grey where the table
            has no such setting.
        chosen: Settings to mark, by label.
        similarities: How close the sub-models are to a reference, a heat map each; where left out, those of the files
            `similarity*.json` in the page's folder.
        title: Heading of the page.
        facts: More key facts, by name.

    Raises:
        SettingError: If a chosen setting is not in the table.
        CheckpointError: If the file cannot be written, or a similarity file is damaged.
        ImportError: If plotly is not installed.

    Example:
        >>> import tempfile
        >>> from sortednet.evaluation.table import Row, Table
        >>> table = Table([Row(Setting({"depth": d}), quality=0.1 * d, params=100 * d) for d in (2, 4, 8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(f"{folder}/report.html", table, chosen={"phone": table.select(max_params=500)})
        ...     "depth=4" in Path(folder, "report.html").read_text(encoding="utf-8")
        True
    """
    marked = {label: table.row(setting) for label, setting in (chosen or {}).items()}
    shown = _drawable(table)
    rings = {label: shown.row(row.setting) for label, row in marked.items()}
    drawn = {"grid": figures.grid_figure(shown), "cost": figures.cost_figure(shown, rings)}
    if curves:
        drawn["curves"] = figures.curves_figure(shown, curves, rings)
    if similarities is None:
        similarities = map(Similarity.from_json, sorted(Path(path).parent.glob("similarity*.json")))
    compared = {f"similarity-{place}": found for place, found in enumerate(similarities)}
    drawn.update({name: figures.similarity_figure(found) for name, found in compared.items()})
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(table, facts or {}),
        page.section("grid", f"{table.metric} of every sub-model", _grid_caption(table), drawn["grid"]),
        page.section("cost", f"{table.metric} against cost", _COST_CAPTION, drawn["cost"]),
        page.section("curves", "Training", _CURVES_CAPTION, drawn["curves"]) if curves else "",
        *(_similarity(name, found, drawn[name]) for name, found in compared.items()),
        f"<section><h2>Chosen sub-models</h2>{_chosen_table(table, marked)}</section>" if marked else "",
        f"<section><h2>All sub-models</h2><p>{_TABLE_CAPTION}</p>{_whole_table(table)}</section>",
    ]
    page.write(path, title, body, drawn)


def _similarity(name: str, found: Similarity, figure: Any) -> str:
    caption = _SIMILARITY_CAPTION.format(
        first=found.counts[0], last=found.counts[-1], equal=0 if found.measure == "kl" else 1
    )
    return page.section(name, f"{found.label}: {found.name} against {found.reference}", caption, figure)


def _grid_caption(table: Table) -> str:
    recovery = ", and its recovery: per cent of the full model's" if "recovery" in table.columns else ""
    what = f"The {table.metric} of each sub-model{recovery}."
    cells = math.prod(len({row.setting[name] for row in table}) for name in table.dimensions)
    return what if cells == len(table) else f"{what} Grey cells were not evaluated."


def _facts(table: Table, more: Mapping[str, str]) -> str:
    """List the key facts."""
    largest = _largest(table)
    recoveries = [row.recovery for row in table if row.recovery is not None and math.isfinite(row.recovery)]
    shown = [("Sub-models", f"{len(table):,}", f"over {', '.join(table.dimensions)}")]
    for name, row in ((largest[0], largest[1]), ("Smallest", table[0])):
        note = f"{row.setting}, {table.text(row, 'params')} parameters"
        shown.append((f"{name}: {table.metric}", table.text(row, "quality"), note))
    if recoveries:
        shown.append(("Mean recovery", f"{statistics.fmean(recoveries):.1f} %", "of the full model's quality"))
    shown += [(name, value, "") for name, value in more.items()]
    return page.facts(shown)


def _largest(table: Table) -> tuple[str, Row]:
    """Find the full model, or what comes closest where a list of settings leaves it out."""
    full = Setting({name: max(row.setting[name] for row in table) for name in table.dimensions})
    found = next((row for row in table if row.setting == full), None)
    return ("Largest", table[-1]) if found is None else ("Full model", found)


def _heads(table: Table, columns: list[str]) -> list[str]:
    names = {"quality": table.metric[:1].upper() + table.metric[1:], "recovery": "Recovery", **figures.HEADS}
    return [escape(names[column]) for column in columns]


def _cells(table: Table, row: Row, columns: list[str]) -> str:
    values = (getattr(row, column) for column in columns)
    return "".join(
        f'<td data-value="{"" if value is None else value}">{table.text(row, column)}</td>'
        for column, value in zip(columns, values, strict=True)
    )


def _chosen_table(table: Table, marked: Mapping[str, Row]) -> str:
    columns = list(table.columns)
    heads = "".join(f"<th>{head}</th>" for head in _heads(table, columns))
    lines = "".join(
        f'<tr><td class="name"><b>{escape(label)}</b></td><td class="name">{page.breakable(str(row.setting))}</td>'
        f"{_cells(table, row, columns)}</tr>"
        for label, row in marked.items()
    )
    return (
        '<div class="scroll"><table><thead><tr><th class="name">Label</th><th class="name">Setting</th>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _whole_table(table: Table) -> str:
    columns = list(table.columns)
    front = set(table.pareto())
    ordered = sorted(table, key=lambda row: tuple(row.setting[name] for name in table.dimensions))
    places = {row: place for place, row in enumerate(ordered)}
    heads = "".join(f'<th><button type="button">{head}</button></th>' for head in _heads(table, columns))
    lines = "".join(
        f'<tr{" class=front" if row in front else ""}><td class="name" data-value="{places[row]}">'
        f"{page.breakable(str(row.setting))}</td>{_cells(table, row, columns)}</tr>"
        for row in table
    )
    return (
        '<div class="scroll tall"><table><thead><tr><th class="name"><button type="button">Setting</button></th>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def write_picture(path: str | Path, table: Table, *, title: str | None = None) -> None:
    """Write a PNG, 2000 pixels wide: the grid at the left, quality against parameters at the right.

    Of more than two dimensions, the others stand at their largest value.

    Args:
        path: File; what was there is replaced once all is written.
        table: What was measured.
        title: Line above both parts; none where left out.

    Raises:
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from sortednet.evaluation.table import Row, Table
        >>> table = Table([Row(Setting({"depth": d}), quality=0.1 * d, params=100 * d) for d in (2, 4, 8)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_picture(f"{folder}/table.png", table)
        ...     Path(folder, "table.png").read_bytes()[1:4]
        b'PNG'
    """
    table = _drawable(table)
    picture = canvas.start(10, 4.3)
    picture.get_layout_engine().set(wspace=0.06)
    left, right = picture.subplots(1, 2)
    if len(table.dimensions) == 1:
        _picture_line(left, table)
    else:
        _picture_grid(picture, left, table)
    _picture_front(right, table)
    if title is not None:
        picture.suptitle(title, fontsize=12, color=figures.INK, parse_math=False)
    canvas.write(path, picture)


def _drawable(table: Table) -> Table:
    rows = [replace(row, quality=figures.drawable(row.quality)) for row in table]
    return Table(rows, table.metric, table.higher_is_better)


def _picture_line(axes: Any, table: Table) -> None:
    name = table.dimensions[0]
    rows = sorted(table, key=lambda row: row.setting[name])
    axes.plot([row.setting[name] for row in rows], [row.quality for row in rows], "o-", color=figures.ACCENT, ms=4)
    axes.grid(color=figures.LINE)
    axes.set_axisbelow(True)
    canvas.name_axes(axes, name, table.metric)
    axes.set_title(f"{table.metric} against {name}", fontsize=10, color=figures.INK, parse_math=False)


def _picture_grid(picture: Any, axes: Any, table: Table) -> None:
    across, up, others = figures.axes_of(table)
    columns, lines, grids = figures.grids_of(table)
    where, grid = next(iter(grids.items()))
    values = [[math.nan if row is None else row.quality for row in line] for line in grid]
    shown = [value for line in values for value in line if math.isfinite(value)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    colours = "viridis" if table.higher_is_better else "viridis_r"
    axes.set_facecolor("#eef1f5")
    image = axes.imshow(values, aspect="auto", origin="lower", cmap=colours, vmin=low, vmax=high)
    picture.colorbar(image, ax=axes, pad=0.02, fraction=0.05).ax.tick_params(labelsize=8)
    for set_ticks, names in ((axes.set_xticks, columns), (axes.set_yticks, lines)):
        every = math.ceil(len(names) / 16)
        set_ticks(range(0, len(names), every), names[::every])
    if len(columns) <= 12 and len(lines) <= 20:
        for y, line in enumerate(grid):
            for x, row in enumerate(line):
                if row is not None and math.isfinite(row.quality):
                    axes.text(
                        x,
                        y,
                        table.text(row, "quality"),
                        ha="center",
                        va="center",
                        fontsize=7.5,
                        color=figures.ink_on(row.quality, low, high, table),
                    )
    canvas.name_axes(axes, across, up)
    axes.set_title(
        f"{table.metric}{' at ' + where if others else ''}", fontsize=10, color=figures.INK, parse_math=False
    )


def _picture_front(axes: Any, table: Table) -> None:
    front = table.pareto()
    axes.plot(
        [row.params for row in table],
        [row.quality for row in table],
        "o",
        color=figures.MUTED,
        ms=4,
        alpha=0.75,
        mew=0,
        label="sub-models",
    )
    axes.plot(
        [row.params for row in front],
        [row.quality for row in front],
        "o-",
        color=figures.ACCENT,
        ms=5,
        label="Pareto front",
    )
    if table[0].params > 0:
        axes.set_xscale("log")
        marks = figures.ticks_of([row.params for row in table])
        axes.set_xticks(marks, [readable(mark) for mark in marks])
        axes.minorticks_off()
    axes.grid(color=figures.LINE)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right" if table.higher_is_better else "upper right", fontsize=8, frameon=False)
    canvas.name_axes(axes, "parameters (log scale)" if table[0].params > 0 else "parameters", table.metric)
    axes.set_title(f"{table.metric} against parameters", fontsize=10, color=figures.INK, parse_math=False)
