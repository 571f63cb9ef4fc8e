"""A page of HTML that holds all it needs: its look and script, its figures, its tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from ..files.writing import write_bytes
from .svg import PAGE_WIDTH, Figure, colour_of_page, svg_of

__all__ = ["breakable", "copied", "download", "facts", "section", "write"]

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


def section(name: str, heading: str, caption: str, figure: Figure, narrow: Figure | None = None) -> str:
    """Return a heading, a caption, and a figure with the choice that it offers.

    Args:
        name: Of letters, digits and hyphens, one on its page.
        heading: Its heading.
        caption: A text below that.
        figure: For wide screens, and for narrow ones where there is no other.
        narrow: The same choices as a phone shows them.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    texts: dict[tuple[str, ...], int] = {}
    drawn = [(figure, "broad", name), *([(narrow, "slim", f"{name}-slim")] if narrow else [])]
    shown, marks = "", []
    for one, kind, prefix in drawn:
        least = 0 if kind == "slim" else round(_PIXELS_PER_INCH * min(one.least_width, PAGE_WIDTH))
        for place, choice in enumerate(one.choices):
            picture, told = svg_of(choice, f"{prefix}-{place}", f"{name}-heading", texts)
            marks.append(told)
            attributes = f' class="{kind}"' if narrow else ""
            attributes += f' style="min-width:{least}px"' if least else ""
            shown += f"<div{attributes}{' hidden' if place else ''}>{picture}</div>"
    choose = ""
    if len(figure.choices) > 1:
        entries = "".join(f"<option>{escape(choice.label)}</option>" for choice in figure.choices)
        choose = f'<label class="choose">{escape(figure.choose)} <select autocomplete="off">{entries}</select></label>'
    if figure.rest:
        choose += (
            f'<label class="choose"><input type="checkbox" autocomplete="off" data-rest> {escape(figure.rest)}</label>'
        )
    data = _inert(json.dumps({"texts": list(texts), "marks": marks}, allow_nan=False, separators=(",", ":")))
    return (
        f'<section><h2 id="{name}-heading">{escape(heading)}</h2><p>{escape(caption)}</p><figure id="{name}">{choose}'
        f'{_legend(figure)}<div class="scroll">{shown}</div><script type="application/json">{data}</script></figure>'
        "</section>"
    )


def _legend(figure: Figure) -> str:
    entries = "".join(
        f'<li><i style="background:{colour_of_page(colour)}"></i>{breakable(text)}</li>'
        for colour, text in figure.legend
    )
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def copied(name: str, heading: str, text: str) -> str:
    """Return a text with a button that copies it.

    Args:
        name: As that of a section.
        heading: What it is.
        text: What is copied.
    """
    return (
        f'<div class="copy"><div><b>{escape(heading)}</b><button type="button" data-copy="{name}">Copy</button></div>'
        f'<pre id="{name}">{breakable(text)}</pre></div>'
    )


def download(name: str, text: str, kind: str) -> str:
    """Return a link that saves a text as a file, which the page itself holds.

    Args:
        name: Of the file.
        text: What it holds.
        kind: Its media type, such as `text/csv`.
    """
    held = quote(text, safe="/,=:;+*()!$@~ -_.").replace(" ", "%20")
    return f'<a class="button" download="{escape(name)}" href="data:{kind};charset=utf-8,{held}">{escape(name)}</a>'


def facts(shown: Iterable[tuple[str, str, str]], *, small: bool = False) -> str:
    """List facts: a name, a value, and a note on it."""
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{breakable(note)}</small></dd></div>"
        for name, value, note in shown
    )
    return f"<dl{' class=small' if small else ''}>{''.join(items)}</dl>"


def breakable(text: str) -> str:
    """Let a long setting wrap between its dimensions only."""
    return escape(text).replace(",", ",<wbr>")
