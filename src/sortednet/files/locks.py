"""One writer for a folder at a time, among processes and among threads. Nothing is left in the folder."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows, where threads alone are kept apart
    fcntl = None

__all__ = ["locked"]

_PATIENCE_S, _PAUSE_S = 60.0, 0.02
_HELD: dict[str, _Held] = defaultdict(lambda: _Held())
_CHANGING = threading.Lock()


class _Held:
    def __init__(self) -> None:
        self.lock, self.depth, self.descriptor = threading.RLock(), 0, -1


@contextmanager
def locked(folder: Path, patience_s: float = _PATIENCE_S, *, again: bool = True) -> Iterator[None]:
    """Hold a folder, which is there, while it is written.

    The system drops the lock of a process that dies.

    Args:
        folder: The folder.
        patience_s: Seconds to wait for another writer.
        again: Whether the thread that holds it already may hold it again.

    Raises:
        CheckpointError: If another writer keeps it longer, or it cannot be opened.
    """
    with _CHANGING:
        held = _HELD[os.path.realpath(folder)]
    ends = time.monotonic() + patience_s
    if not held.lock.acquire(timeout=max(patience_s, 0)):
        raise _busy(folder)
    try:
        if held.depth and not again:
            raise _busy(folder)
        if not held.depth:
            held.descriptor = _opened(folder, ends)
        held.depth += 1
        try:
            yield
        finally:
            held.depth -= 1
            if not held.depth and held.descriptor >= 0:
                os.close(held.descriptor)
                held.descriptor = -1
    finally:
        held.lock.release()


def _opened(folder: Path, ends: float) -> int:
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be opened ({error.strerror}). Give another folder.") from None
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= ends:
                os.close(descriptor)
                raise _busy(folder) from None
            time.sleep(_PAUSE_S)
        except OSError:  # a file system without locks
            return descriptor


def _busy(folder: Path) -> CheckpointError:
    return CheckpointError(f"Another process writes in {folder}. Wait for it, or give another folder.")
