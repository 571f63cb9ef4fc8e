"""The page and the pictures of what was measured."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from .report import write_picture, write_report

__all__ = [
    "write_picture",
    "write_report",
]

_HOMES = {
    "report": ["write_picture", "write_report"],
}

__getattr__, __dir__ = attach(__name__, _HOMES)
