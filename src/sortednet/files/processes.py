"""One run for a folder, signals that wait for the end of an update, memory that a run keeps."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError
from .locks import locked

__all__ = ["alone", "interruptible", "keep_memory"]

_TRIM_THRESHOLD, _MMAP_MAX, _LARGEST = -1, -4, 2**31 - 1  # of malloc.h


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Let one run at a time train in a folder. The system drops the lock of a process that dies.

    Raises:
        CheckpointError: If another process trains there, or the folder cannot be written.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written ({error.strerror}). Give another output folder.") from None
    with locked(output, patience_s=0, again=False):
        yield


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that what is under way can end first. A second one interrupts at once.

    Yields:
        The signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_memory() -> None:
    """Let the C library keep what tensors give back, for a process that is to train and nothing else.

    Otherwise every step on a CPU gives large tensors back to the system and asks for them again, page by page. It does
    nothing where there is no glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _LARGEST)
