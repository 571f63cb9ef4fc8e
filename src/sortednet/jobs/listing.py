"""Show what may be named: each name with what it is and what else it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from ..imports.names import EXPERIMENTS, IMAGES, MODELS, OBJECTIVES, RECIPES, SAMPLERS, Names, TextFormat
from ..imports.packages import needs
from .terminal import output_console

with needs("A command", "cli"):
    from rich.table import Table as RichTable

__all__ = ["LISTED", "rows_of", "show"]

_REGISTRIES: Mapping[str, tuple[Names, str]] = {
    "models": (MODELS, "model.name"),
    "data": (IMAGES, "data.name"),
    "recipes": (RECIPES, "recipe"),
    "samplers": (SAMPLERS, "sampler.name"),
    "objectives": (OBJECTIVES, "objective.name"),
    "experiments": (EXPERIMENTS, "sortednet reproduce NAME"),
}
LISTED = tuple(_REGISTRIES)
"""What can be listed."""

_ELSEWHERE = {"self", "space", "sampler", "kwargs", "args"}  # arguments that a configuration gives by other keys


def show(what: str) -> None:
    """Print what may be named.

    Args:
        what: One of `LISTED`.
    """
    shown = RichTable(title=f"{what}, named by {_REGISTRIES[what][1]}", title_justify="left")
    for heading in ("name", "what it is", "options and their defaults"):
        shown.add_column(heading, overflow="fold")
    for row in rows_of(what):
        shown.add_row(*row)
    output_console(100).print(shown, soft_wrap=False)


def rows_of(what: str) -> Iterator[tuple[str, str, str]]:
    """Yield each name with what it is and what else it takes.

    Args:
        what: One of `LISTED`.
    """
    registry, _ = _REGISTRIES[what]
    for name, value in registry.items():
        title = getattr(value, "title", None) if what == "experiments" else None
        yield name, title or _first_line(value), "" if title else _options(value)
    if what == "data":
        yield from _texts()


def _texts() -> Iterator[tuple[str, str, str]]:
    """Yield the text data, which a configuration names by `text.name`."""
    from ..data.text.tasks import TASKS

    for name, (task, _) in TASKS.items():
        yield name, f"Text, by text.name: a known task ({task.kind}).", "train_examples, evaluation_examples, seed"
    for name in get_args(TextFormat):
        yield name, "Text, by text.name: files of your own.", "train, evaluation, kind, text_columns, label_column"


def _first_line(value: Callable[..., Any]) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0]


def _options(value: Callable[..., Any]) -> str:
    """Return the arguments of a function or class with their defaults."""
    found = []
    for one in inspect.signature(value).parameters.values():
        if one.name in _ELSEWHERE:
            continue
        has_default = one.default is not inspect.Parameter.empty
        found.append(f"{one.name}={one.default!r}" if has_default else one.name)
    return ", ".join(found)
