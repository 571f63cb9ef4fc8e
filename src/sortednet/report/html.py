"""A page of HTML that holds all it needs: its look and script, its figures, its tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path

from ..files.writing import write_bytes
from .svg import Figure, svg_of

__all__ = ["breakable", "facts", "section", "write"]

# The browser itself then refuses to load anything from elsewhere.
_OFFLINE = (
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    '">'
)
_PIXELS_PER_INCH = 96.0


def write(path: str | Path, title: str, body: Iterable[str]) -> None:
    """Write a page.

    Args:
        path: File; what was there is replaced once all is written.
        title: Of the window; the body has a heading of its own.
        body: Parts in HTML, with a `section` for each figure.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    files = resources.files(__package__)
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{_OFFLINE}<style>\n{style}</style>'
        f"</head>\n<body><main>{''.join(body)}</main>\n<script>\n{script}</script></body></html>\n"
    )
    write_bytes(Path(path), page.encode())


def _inert(data: str) -> str:
    """Keep JSON from ending the script element that holds it."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def section(name: str, heading: str, caption: str, figure: Figure) -> str:
    """Return a heading, a caption, and a figure with the choice that it offers.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    texts: dict[tuple[str, ...], int] = {}
    pictures, marks = zip(
        *(svg_of(choice, f"{name}-{place}", f"{name}-heading", texts) for place, choice in enumerate(figure.choices)),
        strict=True,
    )
    select = ""
    if len(pictures) > 1:
        entries = "".join(f"<option>{escape(choice.label)}</option>" for choice in figure.choices)
        select = f'<label class="choose">{escape(figure.choose)} <select autocomplete="off">{entries}</select></label>'
    width = figure.choices[0].picture.get_figwidth()
    least = round(_PIXELS_PER_INCH * min(figure.least_width, width))
    shown = "".join(
        f'<div style="min-width:{least}px"{" hidden" if place else ""}>{picture}</div>'
        for place, picture in enumerate(pictures)
    )
    data = _inert(json.dumps({"texts": list(texts), "marks": marks}, allow_nan=False, separators=(",", ":")))
    return (
        f'<section><h2 id="{name}-heading">{escape(heading)}</h2><p>{escape(caption)}</p><figure id="{name}">{select}'
        f'<div class="scroll">{shown}</div><script type="application/json">{data}</script></figure></section>'
    )


def facts(shown: Iterable[tuple[str, str, str]]) -> str:
    """List facts: a name, a value, and a note on it."""
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{breakable(note)}</small></dd></div>"
        for name, value, note in shown
    )
    return f"<dl>{''.join(items)}</dl>"


def breakable(text: str) -> str:
    """Let a long setting wrap between its dimensions only."""
    return escape(text).replace(",", ",<wbr>")
