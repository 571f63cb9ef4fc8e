"""Pictures of experiments as PNG files: heat maps side by side, lines, grouped bars, and images in a grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, DataError
from ..evaluation.table import Row, Table
from ..space import Number
from .figures import draw_cells, norm_of, worth_title
from .style import (
    COLOURS,
    INK,
    LINE_FONT,
    MUTED,
    SMALL_FONT,
    head,
    inches,
    legend,
    legend_width,
    name_axes,
    rule,
    start,
    ticks_of,
    wrapped,
    write,
)

__all__ = ["write_bars", "write_heatmaps", "write_images", "write_lines"]

_MARKERS = ("o", "s", "^", "D", "v", "<", ">")
_ERROR_BARS = {"elinewidth": 1, "capsize": 2.5}
# In inches.
_CELL_HEIGHT, _LINES_WIDTH, _LEGEND_LINE, _WIDEST_FLAT = 0.3, 5.6, 0.22, 14.0
_GROUP_SHARE = 0.82  # of a group's width that its bars take


def write_heatmaps(path: str | Path, panels: Mapping[str, Table], *, x: str, y: str, title: str) -> None:
    """Write a PNG of heat maps side by side: quality over two dimensions, by colour and as a number.

    All panels have the same rows, columns and colours: dark is bad, light is good. A setting that a panel's table lacks
    is an empty cell.

    Args:
        path: File; what was there is replaced once all is written.
        panels: What was measured, by heading, at least one; all of one metric.
        x: Dimension across.
        y: Dimension upwards.
        title: Line above all.

    Raises:
        ConfigError: If a table lacks `x` or `y`, or both are the same.
        DataError: If there is no panel, the metrics differ, two rows of a table fall into one cell, or the picture
            would be too large.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> from sortednet.space import Setting
        >>> rows = [Row(Setting({"depth": d, "width": w}), d * w / 10, d * w) for d in (1, 2) for w in (2, 4)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_heatmaps(f"{folder}/a.png", {"sorted": Table(rows)}, x="width", y="depth", title="Digits")
        ...     Path(folder, "a.png").read_bytes()[1:4]
        b'PNG'
    """
    if not panels:
        raise DataError("There is no table to draw. Give at least one panel.")
    cells = {name: _cells(name, table, x, y) for name, table in panels.items()}
    tables = list(panels.values())
    if len({(table.metric, table.higher_is_better) for table in tables}) > 1:
        raise DataError(
            f"The tables are of {', '.join(map(worth_title, tables))}. One colour scale needs one metric: draw "
            "them one by one."
        )
    columns = sorted({place[0] for found in cells.values() for place in found})
    lines = sorted({place[1] for found in cells.values() for place in found})
    texts = [table.text(row, "quality") for table in tables for row in table]
    cell = inches(max(map(len, [*texts, *map(str, columns)])), SMALL_FONT) + 0.12
    panel = max(2.0, len(columns) * cell)
    width = len(panels) * (panel + 0.15) + 1.7
    picture = start(width, max(2.0, len(lines) * _CELL_HEIGHT) + 1.3)
    picture.suptitle(wrapped(title, width - 0.4, 12), fontsize=12, color=INK, parse_math=False)
    norm = norm_of(row.quality for table in tables for row in table)
    names = [str(value) for value in columns], [str(value) for value in lines]
    axes = list(picture.subplots(1, len(panels), squeeze=False)[0])
    for one, (name, table) in zip(axes, panels.items(), strict=True):
        grid = [[cells[name].get((across, up)) for across in columns] for up in lines]
        image = draw_cells(one, table, grid, names, norm, most_ticks=max(map(len, names)))
        name_axes(one, x, y if one is axes[0] else "")
        head(one, name, 10, panel)
        if one is not axes[0]:
            one.tick_params(labelleft=False)
    bar = picture.colorbar(image, ax=axes, pad=0.01, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label(worth_title(tables[0]), color=INK, parse_math=False)
    write(path, picture)


def _cells(name: str, table: Table, x: str, y: str) -> dict[tuple[Number, Number], Row]:
    if x == y or not {x, y} <= set(table.dimensions):
        raise ConfigError(
            f"x={x!r} and y={y!r} are no two dimensions of the table {name!r}. Choose two of {list(table.dimensions)}."
        )
    found: dict[tuple[Number, Number], Row] = {}
    for row in table:
        place = (row.setting[x], row.setting[y])
        if place in found:
            raise DataError(
                f"{found[place].setting} and {row.setting} of the table {name!r} fall into one cell at {x}={place[0]}, "
                f"{y}={place[1]}. Give a table whose other dimensions have one value each."
            )
        found[place] = row
    return found


def write_lines(
    path: str | Path,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    title: str,
    errors: Mapping[str, Sequence[float]] | None = None,
    log: bool = False,
) -> None:
    """Write a PNG of lines with markers, named beside the plot.

    Args:
        path: File; what was there is replaced once all is written.
        curves: Points (x, y) by the name of their line, joined in the order given. A y that is not finite leaves a gap.
        x: Name of the axis across.
        y: Name of the axis upwards.
        title: Line above the plot.
        errors: Half the length of each error bar, at least 0, one for each point, for as many of the curves as you
            like.
        log: Whether the axis across is logarithmic.

    Raises:
        ConfigError: If `log` meets an x of 0 or below.
        DataError: If there is no point, an x is not finite, or errors do not fit the curves.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> curves = {"split among 4": [(1, 60.5), (2, 71.0)], "one setting": [(1, 52.0), (2, 63.5)]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_lines(f"{folder}/a.png", curves, x="epoch", y="accuracy (%)", title="Digits")
        ...     Path(folder, "a.png").read_bytes()[1:4]
        b'PNG'
    """
    _check_lines(curves, errors or {}, log)
    picture = start(_LINES_WIDTH + 0.9 + legend_width(curves), max(4.2, 0.8 + _LEGEND_LINE * len(curves)))
    axes = picture.subplots()
    look = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6, "linewidth": 1.6, **_ERROR_BARS}
    drawn = [
        axes.errorbar(
            [across for across, _ in points],
            [up for _, up in points],
            # nan, where matplotlib would draw the ends of a bar of no length.
            yerr=[length or math.nan for length in (errors or {}).get(name, ())] or None,
            color=COLOURS[place % len(COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            **look,
        )
        for place, (name, points) in enumerate(curves.items())
    ]
    _number_across([across for points in curves.values() for across, _ in points], axes, log)
    rule(axes)
    name_axes(axes, f"{x} (log scale)" if log else x, y)
    head(axes, title, 12, _LINES_WIDTH)
    legend(axes, drawn, curves)
    write(path, picture)


def _number_across(values: Sequence[float], axes: Any, log: bool) -> None:
    """Choose the numbers along the axis: round ones if it is logarithmic, whole ones if all values are."""
    if log:
        axes.set_xscale("log")
        marks = ticks_of(values)
        axes.set_xticks(marks, [f"{mark:.10g}" if 1e-4 <= mark < 1e6 else f"{mark:.3g}" for mark in marks])
        axes.minorticks_off()
    elif all(value == int(value) for value in values):
        axes.xaxis.get_major_locator().set_params(integer=True)


def _check_lines(
    curves: Mapping[str, Sequence[tuple[float, float]]], errors: Mapping[str, Sequence[float]], log: bool
) -> None:
    if not any(math.isfinite(point[1]) for points in curves.values() for point in points):
        raise DataError(f"There is no finite point to draw in the curves {list(curves)}. Give at least one.")
    for name, points in curves.items():
        for across, up in points:
            if not math.isfinite(across):
                raise DataError(f"The curve {name!r} has a point at x={across}, y={up}. Give every point a finite x.")
            if log and across <= 0:
                raise ConfigError(
                    f"The curve {name!r} has a point at x={across}, which a logarithmic axis cannot show. "
                    "Leave the point out, or give log=False."
                )
    for name, lengths in errors.items():
        if name not in curves:
            raise DataError(f"There are errors of {name!r}, which is no curve. Choose from {list(curves)}.")
        if len(lengths) != len(curves[name]):
            raise DataError(
                f"The curve {name!r} has {len(curves[name])} points, but {len(lengths)} errors. Give one for each."
            )
        for length in lengths:
            _check_error(length, f"the curve {name!r}")


def _check_error(length: float, what: str) -> None:
    if not (math.isfinite(length) and length >= 0):
        raise DataError(f"An error of {what} is {length}. Give a finite number of at least 0; 0 draws none.")


def write_bars(
    path: str | Path,
    groups: Mapping[str, Mapping[str, float]],
    *,
    y: str,
    title: str,
    errors: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write a PNG of grouped bars with the value above each.

    Args:
        path: File; what was there is replaced once all is written.
        groups: Values by group, which stand side by side, and within it by series, which have a colour each. A series
            that a group lacks leaves its place empty; a value that is not finite is written without a bar.
        y: Name of the axis upwards.
        title: Line above the plot.
        errors: Half the length of each error bar, at least 0, for as many of the bars as you like.

    Raises:
        DataError: If there is no value, or errors do not fit the bars.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> groups = {"SST-2": {"sorted": 91.2, "alone": 90.8}, "MRPC": {"sorted": 84.0, "alone": 85.1}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bars(f"{folder}/a.png", groups, y="accuracy (%)", title="MiniLM at depth 4")
        ...     Path(folder, "a.png").read_bytes()[1:4]
        b'PNG'
    """
    _check_bars(groups, errors or {})
    series = list(dict.fromkeys(one for values in groups.values() for one in values))
    bars = _bars(groups, series, errors or {})
    group_width, upright = _group_width(groups, len(series), max(len(bar.text) for bar in bars))
    height = max(4.2, 0.8 + _LEGEND_LINE * len(series))
    picture = start(len(groups) * group_width + 0.9 + legend_width(series), height)
    axes = picture.subplots()
    drawn = []
    for place, one in enumerate(series):
        own = [bar for bar in bars if bar.series == one]
        width = 0.92 * _GROUP_SHARE / len(series)
        colour = COLOURS[place % len(COLOURS)]
        drawn.append(axes.bar([bar.x for bar in own], [bar.height for bar in own], width, color=colour))
    for bar in bars:
        _label_bar(axes, bar, upright)
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.margins(y=0.2 if upright else 0.09)
    rule(axes, "y")
    name_axes(axes, "", y)
    axes.tick_params(axis="x", length=0, labelsize=LINE_FONT)
    names = [wrapped(group, group_width - 0.1, LINE_FONT) for group in groups]
    axes.set_xticks(range(len(groups)), names, parse_math=False)
    head(axes, title, 12, len(groups) * group_width)
    legend(axes, drawn, series)
    write(path, picture)


def write_images(
    path: str | Path,
    panels: Mapping[str, Sequence[Sequence[Sequence[float]]]],
    *,
    columns: int,
    title: str,
) -> None:
    """Write a PNG of small grey images in grids side by side: 0 is white, 1 is black.

    Args:
        path: File; what was there is replaced once all is written.
        panels: Images by heading, row by row of their grid, each as rows of numbers in [0, 1]; all of one size.
        columns: Images in a row of a grid, at least 1.
        title: Line above all.

    Raises:
        ConfigError: If there is no column.
        DataError: If there is no image, or they are not of one size.
        CheckpointError: If the file cannot be written.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_images(f"{folder}/a.png", {"crosses": [[[1, 0], [0, 1]]] * 4}, columns=2, title="Drawn")
        ...     Path(folder, "a.png").read_bytes()[1:4]
        b'PNG'
    """
    if columns < 1:
        raise ConfigError(f"columns={columns} is below 1. Give how many images stand in a row.")
    sizes = {(len(image), *map(len, image)) for images in panels.values() for image in images}
    if len(sizes) != 1 or not all(panels.values()) or any(len(set(one[1:])) != 1 for one in sizes):
        raise DataError(f"The images have the sizes {sorted(sizes)}. Give every panel images, all of one size.")
    rows = max(-(-len(images) // columns) for images in panels.values())
    width, (down, across, *_) = max(2.6, 0.3 * columns), sizes.pop()
    picture = start(len(panels) * (width + 0.2), rows * width / columns * down / across + 1.5)
    picture.suptitle(wrapped(title, len(panels) * width, 12), fontsize=12, color=INK, parse_math=False)
    for axes, (name, images) in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, image in enumerate(images):
            line, column = divmod(place, columns)
            left, top = column * (across + 1), line * (down + 1)
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1, extent=(left, left + across, top + down, top))
        axes.set_xlim(-0.5, columns * (across + 1) - 0.5)
        axes.set_ylim(rows * (down + 1) - 0.5, -0.5)
        axes.set_axis_off()
        head(axes, name, LINE_FONT, width)
    write(path, picture)


class _Bar(NamedTuple):
    series: str
    x: float
    height: float
    error: float
    text: str


def _bars(
    groups: Mapping[str, Mapping[str, float]], series: Sequence[str], errors: Mapping[str, Mapping[str, float]]
) -> list[_Bar]:
    found = []
    for middle, (group, values) in enumerate(groups.items()):
        for place, one in enumerate(series):
            if one in values:
                x = middle + (place - (len(series) - 1) / 2) * _GROUP_SHARE / len(series)
                finite = math.isfinite(values[one])
                height, error = (values[one], errors.get(group, {}).get(one, 0.0)) if finite else (0.0, 0.0)
                found.append(_Bar(one, x, height, error, _three_digits(values[one])))
    return found


def _check_bars(groups: Mapping[str, Mapping[str, float]], errors: Mapping[str, Mapping[str, float]]) -> None:
    if not any(groups.values()):
        raise DataError(f"There is no bar to draw in the groups {list(groups)}. Give at least one value.")
    for group, lengths in errors.items():
        for one, length in lengths.items():
            if one not in groups.get(group, {}):
                raise DataError(
                    f"There is an error of {one!r} in {group!r}, which is no bar. Leave it out, or give its value."
                )
            _check_error(length, f"{one!r} in {group!r}")


def _group_width(groups: Iterable[str], series: int, characters: int) -> tuple[float, bool]:
    """Find the width of a group in inches, and whether the values must stand upright to keep the picture narrow."""
    names = list(groups)
    word = max(len(word) for name in names for word in (name.split() or [""]))
    least = max(inches(word, LINE_FONT) + 0.15, 3.6 / len(names))
    flat = max(least, series * (inches(characters, SMALL_FONT) + 0.08) / _GROUP_SHARE)
    upright = flat * len(names) > _WIDEST_FLAT
    return (max(least, series * 0.17 / _GROUP_SHARE) if upright else flat), upright


def _label_bar(axes: Any, bar: _Bar, upright: bool) -> None:
    if bar.error:
        axes.errorbar(bar.x, bar.height, yerr=bar.error, fmt="none", ecolor=INK, **_ERROR_BARS)
    side = -1 if bar.height < 0 else 1
    axes.annotate(
        bar.text,
        (bar.x, bar.height + side * bar.error),
        xytext=(0, 3 * side),
        textcoords="offset points",
        ha="center",
        va="bottom" if side > 0 else "top",
        rotation=90 if upright else 0,
        fontsize=SMALL_FONT,
        color=INK,
    )


def _three_digits(value: float) -> str:
    if not math.isfinite(value) or abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
