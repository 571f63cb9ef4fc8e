"""The report: one page, and one picture, of what every sub-model is worth and what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path

from ..evaluation.row import INTERVALS
from ..evaluation.similarity import Similarity
from ..evaluation.table import Row, Table
from ..space import Setting
from . import figures
from . import html as page
from .advice import advised, how_sure, in_short, largest_of
from .curves import Curve, curves_figure
from .style import INK, drawable, start, write
from .svg import NARROW_WIDTH

__all__ = ["write_picture", "write_report"]

_COST_CAPTION = (
    "Every point is one sub-model; the line joins those that nothing at most as costly equals or betters "
    "(the Pareto front). Hover or tap for the setting."
)
_CURVES_CAPTION = (
    "Each point is the mean of a few neighbouring updates. Named: the chosen, the smallest and the largest. "
    "Hover or tap for the others' names."
)
_SIMILARITY_CAPTION = (
    "Each cell is the mean over the examples that reach a position: {first:,} at the first, {last:,} at the last. "
    "The lighter, the closer; {equal} where equal. Hover or tap for the value."
)
_TABLE_CAPTION = (
    "Click a heading to sort. Bold: on the Pareto front of the parameters. The button at the end of a row copies what "
    "takes that sub-model out."
)
_IN_PYTHON = 'model = net.extract("{setting}")'


def write_report(
    path: str | Path,
    table: Table,
    *,
    curves: Mapping[str, Curve] | None = None,
    chosen: Mapping[str, Setting] | None = None,
    similarities: Iterable[Similarity] | None = None,
    title: str = "Every sub-model of one network",
    facts: Mapping[str, str] | None = None,
    command: str = _IN_PYTHON,
) -> None:
    """Write one HTML page: what to take and why, a grid, quality against cost, training, and all rows.

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
        command: What takes a sub-model out, to be copied for each row, with `{setting}` in its place.

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
    row = advised(table, marked)
    grid, cost = figures.grid_figure, figures.cost_figure
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{page.breakable(in_short(table, marked))}</p>',
        f"<p>{escape(sure)}</p>" if (sure := how_sure(table, row)) else "",
        page.copied("take", "Take it", command.replace("{setting}", str(row.setting))) if row else "",
        _facts(table, facts or {}),
        page.section(
            "grid", f"{table.metric} of every sub-model", _grid_caption(table), grid(shown), grid(shown, NARROW_WIDTH)
        ),
        page.section(
            "cost",
            f"{table.metric} against cost",
            _COST_CAPTION,
            cost(shown, rings),
            cost(shown, rings, NARROW_WIDTH),
        ),
        page.section(
            "curves",
            "Training",
            _CURVES_CAPTION,
            curves_figure(shown, curves, rings),
            curves_figure(shown, curves, rings, NARROW_WIDTH),
        )
        if curves
        else "",
        *(_similarity(f"similarity-{place}", found) for place, found in enumerate(similarities)),
        f"<section><h2>Chosen sub-models</h2>{_chosen(table, marked, command)}</section>" if marked else "",
        f"<section><h2>All sub-models</h2><p>{_TABLE_CAPTION}</p>"
        f"<p>Download {page.download('table.csv', table.csv(), 'text/csv')}</p>{_all(table, command)}</section>",
        _measured(table),
    ]
    page.write(path, title, body)


def _similarity(name: str, found: Similarity) -> str:
    caption = _SIMILARITY_CAPTION.format(
        first=found.counts[0], last=found.counts[-1], equal=0 if found.measure == "kl" else 1
    )
    heading = f"{found.label}: {found.name} against {found.reference}"
    draw = figures.similarity_figure
    return page.section(name, heading, caption, draw(found), draw(found, NARROW_WIDTH))


def _grid_caption(table: Table) -> str:
    recovery = ", and its recovery: per cent of the full model's" if "recovery" in table.columns else ""
    what = f"The {table.metric} of each sub-model{recovery}."
    cells = math.prod(len({row.setting[name] for row in table}) for name in table.dimensions)
    return what if cells == len(table) else f"{what} Grey cells were not evaluated."


def _facts(table: Table, more: Mapping[str, str]) -> str:
    """List the key facts."""
    recoveries = [row.recovery for row in table if row.recovery is not None and math.isfinite(row.recovery)]
    shown = [("Sub-models", f"{len(table):,}", f"over {', '.join(table.dimensions)}")]
    for name, row in (largest_of(table), ("Smallest", table[0])):
        note = f"{row.setting}, {table.text(row, 'params')} parameters"
        shown.append((f"{name}: {table.metric}", table.text(row, "quality"), note))
    if recoveries:
        shown.append(("Mean recovery", f"{statistics.fmean(recoveries):.1f} %", "of the full model's quality"))
    shown += [(name[:1].upper() + name[1:], value, "") for name, value in more.items()]
    return page.facts(shown)


def _columns(table: Table) -> list[tuple[str, str]]:
    """Name the columns of what was measured, and their heads; the first is the quality."""
    quality = table.metric[:1].upper() + table.metric[1:]
    heads = {"quality": quality, "reported": "Reported", "recovery": "Recovery", **figures.HEADS}
    found = []
    for column in table.columns:
        found.append((column, heads[column]))
        if column in INTERVALS and any(getattr(row, INTERVALS[column][0]) is not None for row in table):
            found.append((INTERVALS[column][0], "95 %"))
    return found


def _cell(table: Table, row: Row, column: str) -> str:
    value = getattr(row, column)
    of = next((name for name, ends in INTERVALS.items() if column in ends), None)
    text = table.text(row, column) if of is None else table.interval(row, of)
    kind = "" if of is None else " class=between"
    return f'<td{kind} data-value="{"" if value is None else value}">{escape(text)}</td>'


def _head(name: str, kind: str = "") -> str:
    shown = escape(name).replace("_", "_<wbr>")
    return f'<th{f" class={kind}" if kind else ""}><button type="button">{shown}</button></th>'


def _listed(table: Table, lines: Iterable[tuple[Row, str]], heads: str, command: str, *, tall: bool = False) -> str:
    """Return a table of rows, each with what was measured and a button that copies its command.

    Args:
        table: What was measured.
        lines: Rows, and the cells that come first.
        heads: Those of these cells.
        command: With `{setting}` in the setting's place.
        tall: Whether it scrolls in a box of its own.
    """
    columns = _columns(table)
    front = set() if table.higher_is_better is None or not tall else set(table.pareto())
    # After the quality, a narrow screen shows one column at a time.
    heads += "".join(_head(name, "less" if place else "") for place, (_, name) in enumerate(columns))
    body = "".join(
        f'<tr{" class=front" if row in front else ""} data-setting="{escape(str(row.setting))}">{first}'
        f"{''.join(_cell(table, row, column) for column, _ in columns)}"
        '<td><button type="button" class="take">Copy</button></td></tr>'
        for row, first in lines
    )
    return (
        f'<div class="scroll{" tall" if tall else ""}"><table data-command="{escape(command)}"><thead><tr>{heads}'
        f'<th aria-label="Command"></th></tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="said" aria-live="polite"></p>'
    )


def _chosen(table: Table, marked: Mapping[str, Row], command: str) -> str:
    lines = (
        (
            row,
            f'<td class="name" data-value="{place}"><b>{escape(label)}</b><br>{page.breakable(str(row.setting))}</td>',
        )
        for place, (label, row) in enumerate(marked.items())
    )
    return _listed(table, lines, _head("Label", "name"), command)


def _all(table: Table, command: str) -> str:
    heads = "".join(_head(name, "dim") for name in table.dimensions)
    lines = (
        (row, "".join(f'<td data-value="{row.setting[name]}">{row.setting[name]}</td>' for name in table.dimensions))
        for row in table
    )
    return _listed(table, lines, heads, command, tall=True)


def _measured(table: Table) -> str:
    """Say with what and on what the table was measured, and why there are gaps."""
    notes = "".join(
        f'<p class="note"><b>{escape(figures.HEADS.get(name, name))}</b> has gaps: {escape(reason)}</p>'
        for name, reason in table.notes.items()
    )
    told = [(name[:1].upper() + name[1:], str(value), "") for name, value in table.conditions.items()]
    shown = page.facts(told, small=True) if told else ""
    return f"<section><h2>How it was measured</h2>{notes}{shown}</section>" if notes or shown else ""


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
    return table.with_rows(rows)
