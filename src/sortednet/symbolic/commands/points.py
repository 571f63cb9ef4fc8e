"""Points of a table, read from a text file of columns: CSV or TSV."""

from __future__ import annotations

import csv
import io
import math
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from ...errors import DataError
from ...files.records import is_shown
from ...imports.packages import needs

with needs("Reading points", "symbolic"):
    import numpy as np

__all__ = ["PointsFile", "read_points"]

_MOST_BYTES, _MOST_LINES = 1 << 28, 10**6
_LARGEST, _SMALLEST = 1e30, 1e-30  # of a column's largest number; powers of others overflow or vanish


@final
@dataclass(frozen=True)
class PointsFile:
    """Points of a file.

    Attributes:
        columns: Names of the variables' columns.
        target: Name of the column of their values.
        x: Finite. Shape (N, D).
        y: Finite. Shape (N,).
    """

    columns: tuple[str, ...]
    target: str
    x: Any
    y: Any


def read_points(path: str | Path, target: str | None = None, columns: Sequence[str] | None = None) -> PointsFile:
    r"""Read numbers in columns, with their names in the first line.

    Args:
        path: In UTF-8. The columns are separated by commas, semicolons or tabs, whichever the first line has most of.
        target: Name of the column of the values; the last one where left out.
        columns: Names of the variables' columns; all others where left out.

    Raises:
        DataError: If the file is missing or no such text, has no such column, or holds anything but finite numbers in
            the columns that are read, or fewer than two points.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "fall.csv")
        ...     _ = file.write_text("time,height\n0,20\n1,15.1\n")
        ...     points = read_points(file)
        >>> points.columns, points.target, points.y.tolist()
        (('time',), 'height', [20.0, 15.1])
    """
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} is empty. Give a line of names, such as x,y, and below it a line for each point.")
    names = [name.strip() for name in rows[0][1]]
    places = _chosen(path, names, target, columns)
    values = np.array([_numbers(path, names, row, line, places) for line, row in rows[1:]], float)
    if len(values) < 2:
        raise DataError(f"{path} has too few points below its line of names: {len(values)}. Give 2, better 20.")
    for place, column in zip(places, np.abs(values).max(0), strict=True):
        if column > _LARGEST or 0 < column < _SMALLEST:
            raise DataError(
                f"The largest size in column {names[place]!r} of {path} is {column:.3g}, outside {_SMALLEST:g} to "
                f"{_LARGEST:g}. Give it in another unit."
            )
    shown = tuple(names[place] for place in places)
    return PointsFile(shown[:-1], shown[-1], values[:, :-1], values[:, -1])


def _rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Return the lines that are not blank, by their number."""
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode) and not str(path).startswith("/dev/"):
            raise DataError(f"{path} is a pipe, which may never end. Give a CSV file.")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DataError(f"{path} is larger than {_MOST_BYTES:,} bytes. Give a CSV file of fewer points.")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is no text in UTF-8 (line {line}, byte {error.object[error.start]:#04x}). Save it as CSV in UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}). Give a CSV file.") from None
    head = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    found = []
    try:
        for row in lines:
            if any(cell.strip() for cell in row):
                found.append((lines.line_num, row))
            if len(found) > _MOST_LINES:
                raise DataError(f"{path} has more than {_MOST_LINES:,} lines. Give a part of the points.")
    except csv.Error as error:
        raise DataError(f"Line {lines.line_num} of {path} is no CSV: {error}. Save it as CSV in UTF-8.") from None
    return found


def _chosen(path: str | Path, names: Sequence[str], target: str | None, columns: Sequence[str] | None) -> list[int]:
    """Return the places of the variables, then that of the target."""
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path} begins with the numbers {', '.join(names[:5])}, not with names. Put a line of names "
            "first, such as x,y."
        )
    counts = Counter(names)
    for name in names:
        if name and counts[name] > 1:
            first, second = [place + 1 for place, other in enumerate(names) if other == name][:2]
            raise DataError(f"{path} has two columns {name!r}, number {first} and {second}. Rename one.")
        if not is_shown(name):
            raise DataError(f"The column {name!r:.80} of {path} has characters that are not shown. Rename it.")
    for name in [*(columns or ()), *([] if target is None else [target])]:
        if name not in names:
            raise DataError(f"{path} has no column {name!r}. Choose from {', '.join(filter(None, names))}.")
    target = names[-1] if target is None else target
    if columns is not None and (target in columns or len(set(columns)) < len(columns)):
        raise DataError(
            f"columns={' '.join(columns)} must be different ones, without the target {target!r}. Leave out what stands "
            "twice, or choose another --target."
        )
    chosen = [name for name in names if name != target] if columns is None else list(columns)
    if not chosen:
        raise DataError(f"{path} has only the column {target!r}. Give at least one more, which it depends on.")
    if "" in [*chosen, target]:
        place = names.index("") + 1
        raise DataError(
            f"Column {place} of {path} has no name. Name it, or if it only numbers the lines, choose others: --columns."
        )
    return [names.index(name) for name in [*chosen, target]]


def _numbers(
    path: str | Path, names: Sequence[str], row: Sequence[str], line: int, places: Sequence[int]
) -> list[float]:
    if len(row) != len(names):
        raise DataError(
            f"Line {line} of {path} has {len(row)} columns, and the first line {len(names)}. Correct the line; what "
            "holds a separator stands in quotes."
        )
    found = []
    for place in places:
        cell = row[place].strip()
        if not cell:
            raise DataError(f"Column {names[place]!r} of {path} is empty at line {line}. Fill it, or remove the line.")
        if not _is_number(cell):
            shown = cell if len(cell) <= 40 else f"{cell[:37]}..."
            raise DataError(
                f"Column {names[place]!r} of {path} holds the text {shown!r} at line {line}. Give numbers with a "
                "decimal point, or leave the column out by choosing others: --columns."
            )
        value = float(cell)
        if not math.isfinite(value):
            raise DataError(
                f"Column {names[place]!r} of {path} holds {cell} at line {line}, which is no finite number. Remove the "
                "line, or correct it."
            )
        found.append(value)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
