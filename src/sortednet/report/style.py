"""What every picture shares: its canvas, colours and fonts, heat maps, and how axes and numbers are named."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from ..errors import DataError
from ..files.writing import write_bytes
from ..imports.packages import needs

__all__ = [
    "ACCENT",
    "COLOURS",
    "INK",
    "LINE",
    "LINE_FONT",
    "MUTED",
    "SMALL_FONT",
    "drawable",
    "head",
    "heatmap",
    "inches",
    "legend",
    "legend_width",
    "name_axes",
    "optional",
    "place_ticks",
    "rule",
    "span",
    "start",
    "ticks_of",
    "wrapped",
    "write",
    "write_cells",
]

ACCENT, INK, MUTED, LINE = "#0b62a8", "#1f2933", "#9aa8b8", "#e4e8ee"
# On the cells of heat maps, whose colours are the same on a light and on a dark page.
_DARK_INK, _LIGHT_INK = "#1f2934", "#fefefe"
# Of Okabe and Ito, told apart by colour-blind people, without the yellow that vanishes on white; then shapes.
COLOURS = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK, MUTED)
LINE_FONT, SMALL_FONT = 9.0, 7.5
_DPI, _MOST_PIXELS = 200, 32_000
_LARGEST = 1e100
_MOST_GAPS = 64


def optional(module: str) -> Any:
    """Import a module of the extra `report`.

    Raises:
        ImportError: If its package is not installed.
    """
    with needs("A report", "report"):
        return importlib.import_module(module)


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
    canvas = optional("matplotlib.backends.backend_agg").FigureCanvasAgg
    picture = optional("matplotlib.figure").Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    canvas(picture)
    return picture


def head(axes: Any, text: str, font: float, width: float) -> None:
    """Write a line above a plot that is so many inches wide."""
    axes.set_title(wrapped(text, width, font), fontsize=font, color=INK, parse_math=False)


def name_axes(axes: Any, across: str, up: str) -> None:
    """Name the axes of a plot, and colour them."""
    axes.set_xlabel(across, color=INK, parse_math=False)
    axes.set_ylabel(up, color=INK, parse_math=False)
    axes.tick_params(labelsize=8, colors=INK)
    for side in axes.spines.values():
        side.set_color(MUTED)


def rule(axes: Any, axis: str = "both") -> None:
    """Draw light lines at the numbers of a plot, behind all that is drawn."""
    axes.grid(axis=axis, color=LINE)
    axes.set_axisbelow(True)


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
        text.set(text=name, parse_math=False, color=INK)


def heatmap(
    axes: Any,
    values: Sequence[Sequence[float]],
    columns: Sequence[str],
    lines: Sequence[str],
    norm: Any,
    *,
    higher_is_better: bool = True,
    most_ticks: int = 16,
) -> Any:
    """Draw values as colours, the first line below: dark is bad, light is good, grey has no value.

    Args:
        axes: Where.
        values: A row for each line; those that are not finite stay grey.
        columns: Names along the axis across.
        lines: Names along the axis upwards, likewise.
        norm: Matplotlib's, from values to [0, 1].
        higher_is_better: Whether high values are light.
        most_ticks: How many names fit along an axis.

    Returns:
        What a colour bar describes.
    """
    shown = [[value if math.isfinite(value) else math.nan for value in line] for line in values]
    colours = "viridis" if higher_is_better else "viridis_r"
    axes.set_facecolor(LINE)
    # "none" keeps one pixel a cell in SVG, where the browser enlarges it.
    image = axes.imshow(shown, aspect="auto", origin="lower", cmap=colours, norm=norm, interpolation="none")
    for names, draw, mark in (
        (columns, axes.axvline, axes.set_xticks),
        (lines, axes.axhline, axes.set_yticks),
    ):
        for edge in range(1, len(names) if len(names) <= _MOST_GAPS else 0):
            draw(edge - 0.5, color="white", linewidth=0.8)
        every = math.ceil(len(names) / most_ticks)
        mark(range(0, len(names), every), names[::every], parse_math=False)
    axes.tick_params(length=0)
    return image


def write_cells(
    axes: Any,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    norm: Any,
    *,
    higher_is_better: bool = True,
    align: str = "center",
    font: float = SMALL_FONT,
) -> None:
    """Write a text on each cell of a heat map, in the ink that can be read on its colour.

    Args:
        axes: Of the heat map.
        values: Those that were drawn.
        texts: For each cell; empty where there is none.
        norm: As it was drawn with.
        higher_is_better: As it was drawn with.
        align: Where the text stands on the line through the middle: `center`, `bottom` (above it) or `top` (below it).
        font: Its size in points.
    """
    for y, (line, written) in enumerate(zip(values, texts, strict=True)):
        for x, (value, text) in enumerate(zip(line, written, strict=True)):
            if text:
                place = float(norm(value)) if math.isfinite(value) else 1.0
                light = place > 0.5 if higher_is_better or not math.isfinite(value) else place < 0.5
                ink = _DARK_INK if light else _LIGHT_INK
                axes.text(x, y, text, ha="center", va=align, fontsize=font, color=ink, parse_math=False)


def place_ticks(axis: Any, values: Sequence[float], names: Sequence[str]) -> None:
    """Write these numbers along an axis, and no others."""
    axis.set_ticks(values, names)
    axis.set_minor_locator(optional("matplotlib.ticker").NullLocator())


def drawable(value: float) -> float:
    """Return a number of a size that can be drawn; NaN and infinite ones stay."""
    return max(-_LARGEST, min(_LARGEST, value)) if math.isfinite(value) else value


def span(values: Iterable[float]) -> tuple[float, float]:
    """Return the range of the finite values with a margin."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    margin = 0.05 * (max(finite) - min(finite)) or 0.05 * abs(max(finite)) or 1.0
    return min(finite) - margin, max(finite) + margin


def ticks_of(values: Sequence[float]) -> list[float]:
    """Choose round ticks for a logarithmic axis, at most about eight."""
    low, high = min(values), max(values)
    ticks: list[float] = []
    for steps in ([1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 6, 8]):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 4:
            return ticks
    return ticks if len(ticks) > 1 else sorted({low, high})


def write(path: str | Path, picture: Any) -> None:
    """Write a picture as PNG; what was there is replaced once all is written."""
    data = io.BytesIO()
    picture.savefig(data, format="png")
    write_bytes(Path(path), data.getvalue())
