"""transformers, as the commands use it: silent, and with errors that say what to do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import CheckpointError, SortedNetError
from ..imports.packages import needs

with needs("A pretrained model", "cli,transformers"):
    from transformers.utils import logging

__all__ = ["first_line", "opening", "quiet"]


@contextmanager
def opening(what: str, remedy: str) -> Iterator[None]:
    """Say what cannot be opened, and what to do.

    Args:
        what: What is opened inside, as the beginning of a sentence.
        remedy: What to do where it cannot be, as a sentence.

    Raises:
        CheckpointError: If anything but an error of ours is raised inside.
    """
    try:
        yield
    except (SortedNetError, ImportError):
        raise
    except Exception as error:  # the package tokenizers raises plain exceptions
        raise CheckpointError(f"{what} cannot be opened: {first_line(error)} {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Let the command speak alone: transformers prints progress bars, warnings and reports of its own.

    What plain transformers makes of a saved network is said where a part of it is extracted.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Plain transformers ", UserWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Return the first line of an error's text as a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") + "." if lines else f"{type(error).__name__}."
