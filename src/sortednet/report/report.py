"""The report: one page, and one picture, of what every sub-model is worth and what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path

from ..evaluation.similarity import Similarity
from ..evaluation.table import Row, Table
from ..space import Setting
from . import figures
from . import html as page
from .style import INK, drawable, start, write

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

    The page holds all it needs and loads nothing, so that it opens offline and can be sent as one file (under 1 MB for
    160 sub-models).

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
        ImportError: If matplotlib is not installed.

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
    if similarities is None:
        similarities = map(Similarity.from_json, sorted(Path(path).parent.glob("similarity*.json")))
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(table, facts or {}),
        page.section("grid", f"{table.metric} of every sub-model", _grid_caption(table), figures.grid_figure(shown)),
        page.section("cost", f"{table.metric} against cost", _COST_CAPTION, figures.cost_figure(shown, rings)),
        page.section("curves", "Training", _CURVES_CAPTION, figures.curves_figure(shown, curves, rings))
        if curves
        else "",
        *(_similarity(f"similarity-{place}", found) for place, found in enumerate(similarities)),
        f"<section><h2>Chosen sub-models</h2>{_chosen_table(table, marked)}</section>" if marked else "",
        f"<section><h2>All sub-models</h2><p>{_TABLE_CAPTION}</p>{_whole_table(table)}</section>",
    ]
    page.write(path, title, body)


def _similarity(name: str, found: Similarity) -> str:
    caption = _SIMILARITY_CAPTION.format(
        first=found.counts[0], last=found.counts[-1], equal=0 if found.measure == "kl" else 1
    )
    heading = f"{found.label}: {found.name} against {found.reference}"
    return page.section(name, heading, caption, figures.similarity_figure(found))


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
    picture = start(10, 4.3)
    picture.get_layout_engine().set(wspace=0.06)
    left, right = picture.subplots(1, 2)
    if len(table.dimensions) == 1:
        figures.draw_line(left, table)
        heading = f"{table.metric} against {table.dimensions[0]}"
    else:
        columns, lines, grids = figures.grids_of(table)
        where = next(iter(grids))
        figures.draw_grid(left, table, where, written=len(columns) <= 12 and len(lines) <= 20)
        heading = f"{table.metric} at {where}" if where else table.metric
    figures.draw_cost(right, table, "params", {})
    for axes, text in ((left, heading), (right, f"{table.metric} against parameters")):
        axes.set_title(text, fontsize=10, color=INK, parse_math=False)
    if title is not None:
        picture.suptitle(title, fontsize=12, color=INK, parse_math=False)
    write(path, picture)


def _drawable(table: Table) -> Table:
    rows = [replace(row, quality=drawable(row.quality)) for row in table]
    return Table(rows, table.metric, table.higher_is_better)
