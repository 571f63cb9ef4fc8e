"""The page and the picture of a formula that was found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from ...report import html as page
from ...report import matplotlib_style as canvas
from ...report.plotly_style import ACCENT, INK, LINE, MUTED, optional
from .figures import data_figure, drawn_y, front_figure, grid_of, is_crowded, left_figure, marks_of, shown_error
from .record import EXACT, FormulaRecord, error_text, mathml_of, python_of, r2_text

__all__ = ["write_formula_page", "write_formula_picture"]

_DATA_CAPTION = {
    True: "The points, and the formula as a curve. Hover for values.",
    False: "Every point is one of the data; on the dashed line the formula gives what was measured. Hover for values.",
}
_LEFT_CAPTION = "What the formula does not explain, point by point. A pattern here is something that it misses."
_FRONT_CAPTION = (
    "Every point is a formula: none of the others is both shorter and closer. The error is the mean squared difference "
    "as a share of the variance. Hover for the formula."
)
_TABLE_CAPTION = "Click a heading to sort. Bold: the chosen formula, which weighs error against length."
_WIDTH, _HEIGHT = 10.0, 4.6  # inches
_TITLE_FONT, _PLAIN_FONT = 13.0, 9.5


def write_formula_page(path: str | Path, record: FormulaRecord, *, title: str | None = None) -> None:
    """Write one HTML page: the formula, the data against it, and the formulas beside it.

    The page holds all it needs and loads nothing, so that it opens offline and can be sent as one file (about 5 MB).

    Args:
        path: File; what was there is replaced once all is written.
        record: What was found.
        title: Heading of the page.

    Raises:
        CheckpointError: If the file cannot be written.
        ImportError: If plotly is not installed.
    """
    heading = title or f"A formula for {record.target}"
    drawn = {"data": data_figure(record), "front": front_figure(record)}
    inexact = record.best.error >= EXACT
    if inexact:
        drawn["left"] = left_figure(record)
    single = record.x.shape[1] == 1
    body = [
        f"<h1>{escape(heading)}</h1>",
        _formula(record),
        *(f'<p class="note"><b>Note.</b> {escape(one)}</p>' for one in record.facts.warnings),
        page.facts(_facts(record)),
        _copies(record),
        page.section("data", "Data and formula", _data_caption(record, single), drawn["data"]),
        page.section("left", "What is left over", _LEFT_CAPTION, drawn["left"]) if inexact else "",
        page.section("front", "Error against complexity", _FRONT_CAPTION, drawn["front"]),
        f"<section><h2>Formulas</h2><p>{_TABLE_CAPTION}</p>{_table(record)}</section>",
    ]
    page.write(path, heading, body, drawn)


def _data_caption(record: FormulaRecord, single: bool) -> str:
    shown = len(record.y)
    part = f" {shown:,} of the {record.total:,} points are shown." if shown < record.total else ""
    return _DATA_CAPTION[single] + part


def _formula(record: FormulaRecord) -> str:
    """Show the formula, and which column each changed name stands for."""
    target = f"<mi>{escape(record.target)}</mi><mo>=</mo>"
    math = mathml_of(record.best).replace('display="block">', f'display="block">{target}', 1)
    changed = [
        f"<b>{escape(own)}</b> is the column <b>{escape(column)}</b>"
        for own, column in zip(record.best.names, record.columns, strict=True)
        if own != column and own in record.best.variables()
    ]
    legend = f"<p>{', '.join(changed)}.</p>" if changed else ""
    return f'<div class="formula scroll">{math}</div>{legend}'


def _facts(record: FormulaRecord) -> Iterable[tuple[str, str, str]]:
    facts = record.facts
    points = f"on the {record.total:,} points it was fitted to"
    yield "R\u00b2", r2_text(record), points
    yield "Error", error_text(record.best.error), "share of the variance that is left"
    yield "Complexity", str(record.best.complexity), "variables, constants, operators, functions"
    used = record.best.variables()
    shown = [column for own, column in zip(record.best.names, record.columns, strict=True) if own in used]
    of = f"of {len(record.columns)}: {', '.join(record.columns)}" if len(record.columns) > len(shown) else ""
    yield "Depends on", ", ".join(shown) or "nothing", of
    if facts.written:
        texts = f"{facts.distinct:,} distinct skeletons; {facts.invalid_share:.0%} invalid"
        yield "The model wrote", f"{facts.written:,} texts", texts
        yield "Data", "familiar" if facts.familiar else "unfamiliar", "against what the model learned from"
    stopped = "" if facts.finished else "; time was up"
    yield "Time", f"{facts.seconds:.1f} s", f"seed {facts.seed}{stopped}"
    yield "Source", record.source, "" if facts.model is None else f"model {facts.model}"


def _copies(record: FormulaRecord) -> str:
    """Offer the formula as text."""
    forms = {"Text": str(record.best), "Python": python_of(record), "LaTeX": record.best.latex()}
    blocks = "".join(
        f'<div class="copy"><div><b>{name}</b><button type="button" data-copy="copy-{name}">Copy</button></div>'
        f'<pre id="copy-{name}">{escape(text)}</pre></div>'
        for name, text in forms.items()
    )
    return f"<section><h2>To copy</h2>{blocks}</section>"


def _table(record: FormulaRecord) -> str:
    heads = "".join(f'<th><button type="button">{name}</button></th>' for name in ("Complexity", "Error"))
    lines = "".join(
        f"<tr{' class=front' if str(one) == str(record.best) else ''}>"
        f'<td data-value="{one.complexity}">{one.complexity}</td>'
        f'<td data-value="{one.error}">{error_text(one.error)}</td><td class="name code">{escape(str(one))}</td></tr>'
        for one in record.candidates
    )
    return (
        f'<div class="scroll"><table><thead><tr>{heads}<th class="name wide">Formula</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def write_formula_picture(path: str | Path, record: FormulaRecord) -> None:
    """Write a PNG, 2000 pixels wide: data and formula at the left, error against complexity at the right.

    Args:
        path: File; what was there is replaced once all is written.
        record: What was found.

    Raises:
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.
    """
    picture = canvas.start(_WIDTH, _HEIGHT)
    picture.get_layout_engine().set(wspace=0.06)
    left, right = picture.subplots(1, 2, width_ratios=(3, 2))
    _draw_data(left, record)
    _draw_front(right, record)
    typeset = _typeset(record)
    if typeset is None:
        picture.suptitle(_lines(record), fontsize=_PLAIN_FONT, color=INK, parse_math=False)
    else:
        picture.suptitle(typeset, fontsize=_TITLE_FONT, color=INK)
    canvas.write(path, picture)


def _lines(record: FormulaRecord) -> str:
    """Return the formula as text in at most three lines, broken before signs."""
    text = re.sub(r"(?<![eE(*\s])([-+])", r" \1", f"{record.target} = {record.best}")
    most = int((_WIDTH - 0.4) / canvas.inches(1, _PLAIN_FONT))
    return "\n".join(wrap(text, most, max_lines=3, placeholder=" ...", break_on_hyphens=False))


def _typeset(record: FormulaRecord) -> str | None:
    """Return the formula for matplotlib to typeset; None where it cannot, or not in one line."""
    text = f"${_upright(record.target)} = {record.best.latex()}$"
    parser = optional("matplotlib.mathtext").MathTextParser("path")
    try:
        width = parser.parse(text, 72, optional("matplotlib.font_manager").FontProperties(size=_TITLE_FONT)).width
    except ValueError:  # a name or a macro that it does not know
        return None
    return text if width / 72 < _WIDTH - 0.4 else None


def _upright(name: str) -> str:
    return name if len(name) == 1 and name.isalpha() else r"\mathrm{" + name.replace("_", r"\_") + "}"


def _draw_data(axes: Any, record: FormulaRecord) -> None:
    single = record.x.shape[1] == 1
    crowded = is_crowded(record)
    look = {"ms": 3 if crowded else 4, "mew": 0, "alpha": 0.4 if crowded else 0.65}
    if single:
        grid = grid_of(record)
        above = 3 if crowded else 2  # a crowd would hide the curve; 2 is where lines stand
        axes.plot(grid, record.best(grid[:, None]), color=ACCENT, linewidth=2, label="formula", zorder=above)
        axes.plot(record.x[:, 0], record.y, "o", color=MUTED if crowded else INK, label="data", **look)
        axes.legend(fontsize=8, frameon=False)
        canvas.name_axes(axes, record.columns[0], record.target)
    else:
        low, high = drawn_y(record)
        axes.plot((low, high), (low, high), "--", color=MUTED, linewidth=1)
        axes.plot(record.y, record.best(record.x), "o", color=ACCENT, **look)
        axes.set_xlim(low, high)
        canvas.name_axes(axes, f"{record.target}, measured", f"{record.target} by the formula")
    axes.set_ylim(*drawn_y(record))
    axes.grid(color=LINE)
    axes.set_axisbelow(True)
    canvas.head(axes, f"R\u00b2 {r2_text(record)}", 10, 5)


def _draw_front(axes: Any, record: FormulaRecord) -> None:
    shown = [one for one in record.candidates if one.error < float("inf")]
    errors = [shown_error(one.error) for one in shown]
    axes.plot([one.complexity for one in shown], errors, "o-", color=ACCENT, ms=5)
    if record.best.error < float("inf"):
        axes.plot(
            record.best.complexity, shown_error(record.best.error), "o", ms=11, mfc="none", mec=INK, label="chosen"
        )
        axes.legend(fontsize=8, frameon=False, loc="upper right")
    marks, texts = marks_of([*errors, 1.0])  # with the error of the mean
    axes.set_yscale("log")
    axes.set_yticks(marks, texts)
    axes.minorticks_off()
    axes.set_ylim(0.5 * min(marks), 2 * max(marks))
    axes.set_xlim(0, 1.08 * max(5, *(one.complexity for one in record.candidates)))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=LINE)
    axes.set_axisbelow(True)
    canvas.name_axes(axes, "complexity (nodes of the formula)", "error (share of the variance)")
    canvas.head(axes, "error against complexity", 10, 4)
