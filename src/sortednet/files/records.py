"""JSON files: read within limits, and known to be as they were written."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError, SortedNetError

__all__ = [
    "DIGEST",
    "MALFORMED",
    "check_containers",
    "digest_of",
    "flag",
    "is_shown",
    "items",
    "number",
    "parse",
    "read",
    "read_format",
    "text",
    "to_text",
    "unique",
    "whole",
]

DIGEST = "digest"
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What is raised where values of a file are taken up that are of other kinds than those written."""
_MOST_BYTES = 1 << 26
_MOST_DEPTH = 64
_MOST_CONTAINERS = 10**6
_MOST_DIGITS = 20
Made = TypeVar("Made")


def to_text(held: Mapping[str, Any], indent: int | None = 1) -> str:
    """Return the JSON text of some plain values, with a digest of them as the last.

    Args:
        held: By name. `digest` is not among them.
        indent: Spaces for each level; everything on one line where None.
    """
    plain = json.loads(json.dumps(dict(held)))
    return json.dumps({**plain, DIGEST: digest_of(plain)}, indent=indent, ensure_ascii=False)


def digest_of(held: Mapping[str, Any]) -> str:
    """Return the digest of plain values: 16 hexadecimal digits, whatever their order."""
    text = json.dumps({name: value for name, value in held.items() if name != DIGEST}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(text: str | bytes, most_bytes: int = _MOST_BYTES) -> Any:
    """Return what a JSON text holds, without its digest.

    Args:
        text: The text; UTF-8 where it is bytes.
        most_bytes: Longer ones are refused before they are parsed.

    Raises:
        ValueError: If it is no JSON, larger, deeper or with longer numbers than any that this library writes, has a key
            twice, or is not as it was written. The message says which.
    """
    if len(text) > most_bytes:
        raise ValueError(f"it is {len(text):,} characters long, and no more than {most_bytes:,} are read")
    check_containers(text)
    try:
        held = json.loads(text, parse_int=_digits, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels") from None
    _check_depth(held)
    if isinstance(held, dict) and DIGEST in held:
        given = held.pop(DIGEST)
        if given != digest_of(held):
            raise ValueError(
                f"it is not as it was written: its {DIGEST} is that of other values. If you have changed it yourself, "
                f"remove its {DIGEST}"
            )
    return held


def check_containers(text: str | bytes) -> None:
    """Refuse a JSON text of so many lists and objects that they take far more of the memory than the text.

    Raises:
        ValueError: If it is one.
    """
    many = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if many > _MOST_CONTAINERS:
        raise ValueError(f"it has {many:,} lists and objects, and no more than {_MOST_CONTAINERS:,} are read")


def read(path: str | Path, most_bytes: int = _MOST_BYTES) -> Any:
    """Return what a JSON file holds, without its digest.

    Args:
        path: The file.
        most_bytes: Larger ones are refused before they are read.

    Raises:
        OSError: If it cannot be read.
        ValueError: As `parse`.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise IsADirectoryError(errno.EISDIR, "it is no file", str(path))  # a pipe would never end
    with open(path, "rb") as file:
        return parse(file.read(most_bytes + 1), most_bytes)


def read_format(
    path: str | Path,
    version: int,
    make: Callable[[Any], Made],
    *,
    writer: str,
    again: str,
    error: type[SortedNetError] = CheckpointError,
) -> Made:
    """Return what is made of a JSON file that says by its `format` which version of its kind it is.

    Args:
        path: The file.
        version: The one format that is read.
        make: Makes it of what the file holds; any of `MALFORMED` from it means that the file is damaged.
        writer: What writes such files, such as `Table.to_json`.
        again: How to have the file again, such as `evaluate again`.
        error: What is raised.

    Raises:
        SortedNetError: `error`, if the file is missing, damaged or of another format.
    """
    try:
        held = read(path)
        found = whole(held["format"])
        if found == version:
            return make(held)
    except OSError as failure:
        raise error(
            f"{path} cannot be read ({failure.strerror or failure}). Give the file that {writer} wrote."
        ) from None
    except MALFORMED as failure:
        raise error(f"{path} is damaged ({failure!r}). Restore it, or {again}.") from None
    raise error(f"{path} has format {found}; this version reads format {version}. Update sortednet, or {again}.")


def text(value: Any, most: int = 10_000) -> str:
    """Return a value of a file that is a text of one line, which may be shown on a terminal.

    Args:
        value: The value.
        most: Characters that it may have.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is longer, or holds characters that are not shown.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    if len(value) > most:
        raise ValueError(f"{value!r:.60} has more than {most:,} characters")
    if not is_shown(value):
        raise ValueError(f"{value!r:.60} has characters that are not shown")
    return value


def items(value: Any) -> list[Any]:
    """Return a value of a file that is a list; a text would be one of its letters.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.60} is no list")
    return value


def is_shown(value: str) -> bool:
    """Return whether a text is of one line, without characters that control a terminal."""
    return value.replace("\u00a0", " ").isprintable()


def number(value: Any) -> float:
    """Return a value of a file that is a number, NaN and infinite ones too.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.60} is no number")
    return value


def whole(value: Any, least: int = 0) -> int:
    """Return a value of a file that is a whole number.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is less than the least.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r:.60} is no whole number")
    if value < least:
        raise ValueError(f"{value} is less than {least}")
    return value


def flag(value: Any) -> bool:
    """Return a value of a file that is true or false.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.60} is neither true nor false")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the values of a JSON object by their keys.

    Raises:
        ValueError: If a key stands twice.
    """
    held = dict(pairs)
    if len(held) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the key {twice[:60]!r} twice")
    return held


def _digits(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits, and no more than {_MOST_DIGITS} are read")
    return int(text)


def _check_depth(held: Any) -> None:
    level = [held]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
