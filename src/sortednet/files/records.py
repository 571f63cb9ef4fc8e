"""JSON files: read within limits, and known to be as they were written."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["DIGEST", "MALFORMED", "digest_of", "parse", "read", "to_text"]

DIGEST = "digest"
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What is raised where values of a file are taken up that are of other kinds than those written."""
_MOST_BYTES = 1 << 26
_MOST_DEPTH = 64
_MOST_DIGITS = 20


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
        ValueError: If it is no JSON, larger, deeper or with longer numbers than any that this library writes, or not
            as it was written. The message says which.
    """
    if len(text) > most_bytes:
        raise ValueError(f"it is {len(text):,} characters long, and no more than {most_bytes:,} are read")
    try:
        held = json.loads(text, parse_int=_whole)
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


def _whole(text: str) -> int:
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
