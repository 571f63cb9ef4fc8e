"""The page and the picture of a formula that was found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from textwrap import wrap

from ...report import html as page
from ...report import style as canvas
from .figures import data_figure, draw_data, draw_front, front_figure, left_figure
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

    The page holds all it needs and loads nothing, so that it opens offline and can be sent as one file.

    Args:
        path: File; what was there is replaced once all is written.
        record: What was found.
        title: Heading of the page.

    Raises:
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.
    """
    heading = title or f"A formula for {record.target}"
    inexact = record.best.error >= EXACT
    single = record.x.shape[1] == 1
    body = [
        f"<h1>{escape(heading)}</h1>",
        _formula(record),
        *(f'<p class="note"><b>Note.</b> {escape(one)}</p>' for one in record.facts.warnings),
        page.facts(_facts(record)),
        _copies(record),
        page.section("data", "Data and formula", _data_caption(record, single), data_figure(record)),
        page.section("left", "What is left over", _LEFT_CAPTION, left_figure(record)) if inexact else "",
        page.section("front", "Error against complexity", _FRONT_CAPTION, front_figure(record)),
        f"<section><h2>Formulas</h2><p>{_TABLE_CAPTION}</p>{_table(record)}</section>",
    ]
    page.write(path, heading, body)


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
    blocks = "".join(page.copied(f"copy-{name}", name, text) for name, text in forms.items())
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
    draw_data(left, record, record.best)
    canvas.head(left, f"R\u00b2 {r2_text(record)}", 10, 5)
    draw_front(right, record)
    canvas.head(right, "error against complexity", 10, 4)
    typeset = _typeset(record)
    if typeset is None:
        picture.suptitle(_lines(record), fontsize=_PLAIN_FONT, color=canvas.INK, parse_math=False)
    else:
        picture.suptitle(typeset, fontsize=_TITLE_FONT, color=canvas.INK)
    canvas.write(path, picture)


def _lines(record: FormulaRecord) -> str:
    """Return the formula as text in at most three lines, broken before signs."""
    text = re.sub(r"(?<![eE(*\s])([-+])", r" \1", f"{record.target} = {record.best}")
    most = int((_WIDTH - 0.4) / canvas.inches(1, _PLAIN_FONT))
    return "\n".join(wrap(text, most, max_lines=3, placeholder=" ...", break_on_hyphens=False))


def _typeset(record: FormulaRecord) -> str | None:
    """Return the formula for matplotlib to typeset; None where it cannot, or not in one line."""
    text = f"${_upright(record.target)} = {record.best.latex()}$"
    parser = canvas.optional("matplotlib.mathtext").MathTextParser("path")
    try:
        width = parser.parse(
            text, 72, canvas.optional("matplotlib.font_manager").FontProperties(size=_TITLE_FONT)
        ).width
    except ValueError:  # a name or a macro that it does not know
        return None
    return text if width / 72 < _WIDTH - 0.4 else None


def _upright(name: str) -> str:
    return name if len(name) == 1 and name.isalpha() else r"\mathrm{" + name.replace("_", r"\_") + "}"
