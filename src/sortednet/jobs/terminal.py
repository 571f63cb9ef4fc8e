"""What is printed on the terminal: as it is, for paths and names may look like markup."""

from __future__ import annotations

from ..imports.packages import needs

with needs("A command", "cli"):
    from rich.console import Console

__all__ = ["error_console", "output_console"]


def error_console() -> Console:
    """Return where progress, notes and errors go: the standard error."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def output_console(least_width: int = 0) -> Console:
    """Return where results go: the standard output.

    Args:
        least_width: Columns that a table needs at least, whatever the terminal has.
    """
    made = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    made.width = max(made.width, least_width)
    return made
