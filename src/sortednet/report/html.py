"""A page of HTML that holds all it needs: its look, its figures with their hovers and choices, its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ..files.writing import write_bytes
from . import plotly_style as plots

__all__ = ["breakable", "facts", "section", "write"]

# The browser itself then refuses to load anything from elsewhere.
_OFFLINE = (
    '<meta http-equiv="Content-Security-Policy" content="'
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    '">'
)
_STYLE = """
:root { color-scheme: light; --accent: #0b62a8; --ink: #1f2933; --soft: #52606d; --line: #e4e8ee; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 18px; }
h2 { font-size: 18px; margin: 44px 0 2px; }
h2::first-letter { text-transform: uppercase; }
p { margin: 0 0 12px; color: var(--soft); max-width: 75ch; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px 28px; margin: 0; }
dl div { border-left: 3px solid var(--accent); padding-left: 12px; overflow-wrap: anywhere; }
dt, th { color: var(--soft); font-size: 13px; font-weight: 500; }
dd { margin: 0; font-size: 20px; line-height: 1.3; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: 13px; color: var(--soft); }
.scroll { overflow: auto; }
.tall { max-height: 70vh; border-bottom: 1px solid var(--line); }
.choose { display: inline-block; max-width: 100%; margin: 0 0 8px; color: var(--soft); }
select { font: inherit; color: var(--ink); padding: 3px 8px; border: 1px solid #9aa8b8; border-radius: 4px;
  background: #fff; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
.name { text-align: left; white-space: normal; min-width: 90px; }
thead th { position: sticky; top: 0; background: #fff; }
th button { all: unset; cursor: pointer; }
th button:hover, th[aria-sort] button { color: var(--accent); }
th button:focus-visible, select:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
tr.front td { font-weight: 600; }
.formula { font-size: 24px; padding: 14px 0 18px; }
.formula math { margin: 0; text-align: left; width: max-content; }
.note { border-left: 3px solid #d55e00; background: #fdf3ec; color: var(--ink); padding: 8px 12px; max-width: none; }
.copy { margin: 10px 0; }
.copy div { display: flex; gap: 12px; align-items: baseline; color: var(--soft); font-size: 13px; }
.copy button { font: inherit; color: var(--accent); background: none; border: 0; padding: 0; cursor: pointer; }
.copy button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.wide { width: 100%; }
pre, .code { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { margin: 4px 0 0; padding: 10px 12px; background: #f5f7fa; border-radius: 4px; white-space: pre-wrap; }
@media (max-width: 600px) { main { padding: 18px 12px 40px; } h1 { font-size: 21px; } h2 { margin-top: 32px; }
  dl { grid-template-columns: 1fr 1fr; } dd { font-size: 17px; } }
"""
_SCRIPT = """
const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
for (const data of document.querySelectorAll("script[type='application/json']")) {
  const figure = JSON.parse(data.textContent);
  const place = document.getElementById(data.id.replace("-data", ""));
  const options = figure.layout.meta.options;
  const show = (value) => Plotly.update(
    place, { visible: figure.data.map((trace) => trace.meta === undefined || trace.meta === value) },
    options[value].layout);
  Plotly.newPlot(place, figure.data, figure.layout, config).then(() => {
    if (Object.keys(options).length) show(Object.keys(options)[0]);
  });
  const select = document.querySelector(`select[data-figure="${place.id}"]`);
  if (select) select.addEventListener("change", () => show(select.value));
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it with the keyboard";
  });
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const value = (row) => parseFloat(row.cells[head.cellIndex].dataset.value);
    const order = (a, b) => isNaN(value(a)) - isNaN(value(b)) || sign * (value(a) - value(b)) || 0;
    body.append(...[...body.rows].sort(order));
  });
}
"""


def write(path: str | Path, title: str, body: Iterable[str], drawn: Mapping[str, Any]) -> None:
    """Write a page.

    Args:
        path: File; what was there is replaced once all is written.
        title: Of the window; the body has a heading of its own.
        body: Parts in HTML, with a `section` for each figure.
        drawn: Figures by the name of their section.

    Raises:
        CheckpointError: If the file cannot be written.
        ImportError: If plotly is not installed.
    """
    data = "".join(
        f'<script type="application/json" id="{name}-data">{_inert(figure.to_json())}</script>'
        for name, figure in drawn.items()
    )
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{_OFFLINE}<style>{_STYLE}</style>'
        f"<script>{plots.plotly_source()}</script></head>\n<body><main>{''.join(body)}</main>\n"
        f"{data}<script>{_SCRIPT}</script></body></html>\n"
    )
    write_bytes(Path(path), page.encode())


def _inert(data: str) -> str:
    """Keep JSON from ending the script element that holds it."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def section(name: str, heading: str, caption: str, figure: Any) -> str:
    """Return a heading, a caption, the choice that a figure offers, and the place of the figure."""
    options = figure.layout.meta["options"]
    select = ""
    if len(options) > 1:
        entries = "".join(f'<option value="{escape(v)}">{escape(o["label"])}</option>' for v, o in options.items())
        what = escape(figure.layout.meta["choose"])
        select = f'<label class="choose">{what} <select data-figure="{name}">{entries}</select></label>'
    least = figure.layout.meta["least_width"]
    return (
        f'<section><h2>{escape(heading)}</h2><p>{escape(caption)}</p>{select}<div class="scroll">'
        f'<div id="{name}" style="height:{figure.layout.height}px;min-width:{least}px"></div></div></section>'
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
