"""What every picture shares: its canvas, colours and fonts, and how axes and lines are named."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from ..errors import DataError
from ..files.writing import write_bytes
from . import plotly_figures as figures

__all__ = ["COLOURS", "LINE_FONT", "head", "inches", "legend", "legend_width", "name_axes", "start", "wrapped", "write"]

# Of Okabe and Ito, told apart by colour-blind people, without the yellow that vanishes on white; then shapes.
COLOURS = (figures.ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", figures.INK, figures.MUTED)
LINE_FONT = 9.0
_DPI, _MOST_PIXELS = 200, 32_000


def inches(characters: int, font: float) -> float:
    """Estimate the width of text; digits and letters are about 0.62 of the font's size wide."""
    return 0.62 * characters * font / 72


def wrapped(text: str, width: float, font: float) -> str:
    """Break lines at `width` inches."""
    most = max(1, int(width / inches(1, font)))
    return "\n".join(fill(line, most, break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))


def start(width: float, height: float) -> Any:
    """Start a picture of a size in inches."""
    if max(width, height) * _DPI > _MOST_PIXELS:
        raise DataError(
            f"The picture would be {width * _DPI:,.0f} x {height * _DPI:,.0f} pixels; {_MOST_PIXELS:,} are allowed. "
            "Draw less in one picture, or shorten the names."
        )
    canvas = figures.optional("matplotlib.backends.backend_agg").FigureCanvasAgg
    picture = figures.optional("matplotlib.figure").Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    canvas(picture)
    return picture


def head(axes: Any, text: str, font: float, width: float) -> None:
    """Write a line above a plot that is so many inches wide."""
    axes.set_title(wrapped(text, width, font), fontsize=font, color=figures.INK, parse_math=False)


def name_axes(axes: Any, across: str, up: str) -> None:
    """Name the axes of a plot, and colour them."""
    axes.set_xlabel(across, color=figures.INK, parse_math=False)
    axes.set_ylabel(up, color=figures.INK, parse_math=False)
    axes.tick_params(labelsize=8, colors=figures.INK)
    for side in axes.spines.values():
        side.set_color(figures.MUTED)


def legend_width(names: Iterable[str]) -> float:
    """Estimate the width of a legend in inches."""
    return 0.6 + inches(max(map(len, names)), LINE_FONT)


def legend(axes: Any, drawn: Sequence[Any], names: Iterable[str]) -> None:
    """Name the colours beside the plot, where nothing is covered."""
    texts = list(names)
    # Names come in afterwards: some versions of matplotlib leave out those that start with an underscore.
    box = axes.legend(
        drawn, ["-"] * len(texts), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=LINE_FONT, frameon=False
    )
    for text, name in zip(box.get_texts(), texts, strict=True):
        text.set(text=name, parse_math=False, color=figures.INK)


def write(path: str | Path, picture: Any) -> None:
    """Write a picture as PNG; what was there is replaced once all is written."""
    data = io.BytesIO()
    picture.savefig(data, format="png")
    write_bytes(Path(path), data.getvalue())
