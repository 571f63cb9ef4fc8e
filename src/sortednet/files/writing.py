"""A file written whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import CheckpointError

__all__ = ["not_written", "synced", "write_bytes"]

_COUNT = itertools.count()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside it first, then in its place.

    Raises:
        CheckpointError: If the disk is full or the folder cannot be written; what was there stays.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{next(_COUNT)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise not_written(path, error, len(data)) from error


def not_written(path: Path, error: OSError, size: int | None = None) -> CheckpointError:
    """Return the error of a file that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    needed = "" if size is None else f"; {size:,} bytes are needed"
    return CheckpointError(
        f"{path} could not be written ({error.strerror or error}){needed}. "
        f"What was there before is unchanged. {'Free space' if full else 'Correct the path'}, or save elsewhere."
    )


def synced(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    if path.is_dir() and os.name == "nt":  # which opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Remove what processes that were killed have left beside a file, and nothing of those that live."""
    name = re.compile(re.escape(f".{path.name}.") + r"(\d+)(-\d+)?\.new")
    for stale in path.parent.glob(".*.new"):
        found = name.fullmatch(stale.name)
        if found and not _lives(int(found[1])) and stale.is_file() and not stale.is_symlink():
            stale.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # of another user
    return True
