"""A figure of a page: pictures as SVG that hold all they need, and what is told where the pointer is."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from .style import ACCENT, INK, LINE, MUTED, optional

__all__ = ["NARROW_WIDTH", "PAGE_WIDTH", "Cells", "Choice", "Figure", "Line", "Points", "colour_of_page", "svg_of"]

PAGE_WIDTH = 10.8  # inches; the page shows 96 pixels of them each
NARROW_WIDTH = 3.8  # inches, of a phone
# What the page colours itself, so that it is dark where the reader's screen is.
_COLOURS = {
    INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)", "#ffffff": "var(--page)",
}  # fmt: skip
_COLOUR = re.compile("|".join(_COLOURS))
_POINTS_PER_INCH = 72.0
_REACH = 14.0  # how far from a mark the pointer may be, in points
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"#([\w.-]+)")
_FONT = re.compile(r"font-family: [^;]*;? ?")
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")


@dataclass(frozen=True)
class Points:
    """Texts of points; the nearest one is told.

    Args:
        axes: Where they are drawn.
        across: Their places, N of them; a point outside of what is drawn tells nothing.
        up: Likewise.
        texts: One for each; the first line is the heading.
        readings: Names under which the places themselves are told, across and upwards; empty ones are not.
    """

    axes: Any
    across: Sequence[float]
    up: Sequence[float]
    texts: Sequence[str]
    readings: tuple[str, str] = ("", "")

    def told(self, place: _Place, name: str, texts: dict[tuple[str, ...], int]) -> dict[str, Any]:
        """Return what the page's script reads."""
        shown = [
            (x, y, text)
            for (x, y), text in zip(place.of(self.axes, self.across, self.up), self.texts, strict=True)
            if place.holds(self.axes, x, y)
        ]
        at = [round(value, 1) for x, y, _ in shown for value in (x, y)]
        number = texts.setdefault(tuple(text for *_, text in shown), len(texts))
        return {"at": at, "texts": number, "readings": place.readings(self.axes, self.readings)}


@dataclass(frozen=True)
class Cells:
    """Texts of the cells of a heat map.

    Args:
        axes: Where it is drawn, cell (x, y) about x and y.
        texts: A row for each line of cells; an empty one tells nothing.
        rows: Heading of each line, told first.
        columns: Told for each column, next.
        name: Of what the texts are.
    """

    axes: Any
    texts: Sequence[Sequence[str]]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    name: str = ""

    def told(self, place: _Place, name: str, texts: dict[tuple[str, ...], int]) -> dict[str, Any]:
        """Return what the page's script reads."""
        across = place.of(self.axes, range(len(self.texts[0])), [0] * len(self.texts[0]))
        up = place.of(self.axes, [0] * len(self.texts), range(len(self.texts)))
        (left, top), (right, bottom) = place.of(self.axes, [-0.5, 0.5], [0.5, -0.5])
        return {
            "reach": [round((right - left) / 2, 2), round((bottom - top) / 2, 2)],
            "x": [round(x, 1) for x, _ in across],
            "y": [round(y, 1) for _, y in up],
            "rows": self.rows,
            "columns": self.columns,
            "name": self.name,
            "texts": texts.setdefault(tuple(text for line in self.texts for text in line), len(texts)),
        }


@dataclass(frozen=True)
class Line:
    """The text of a whole line, which is told and lit up where the pointer is near.

    Args:
        artist: A line of matplotlib.
        text: Its first line is the heading.
        across: Name under which the place across is told; empty tells none.
        up: Likewise, upwards.
        rest: Whether it is shown on demand only.
    """

    artist: Any
    text: str
    across: str = ""
    up: str = ""
    rest: bool = False

    def told(self, place: _Place, name: str, texts: dict[tuple[str, ...], int]) -> dict[str, Any]:
        """Return what the page's script reads."""
        return {
            "line": name,
            "texts": texts.setdefault((self.text,), len(texts)),
            "readings": place.readings(self.artist.axes, (self.across, self.up)),
        }


@dataclass(frozen=True)
class Choice:
    """One picture of a figure.

    Args:
        label: Under which it is chosen.
        picture: A figure of matplotlib.
        tips: What is told where.
    """

    label: str
    picture: Any
    tips: Sequence[Points | Cells | Line]


@dataclass(frozen=True)
class Figure:
    """Pictures of which one is shown at a time.

    Args:
        choices: At least one; the first is shown at first.
        choose: What is chosen.
        least_width: In inches, below which the page scrolls instead of shrinking it.
        rest: The name of the switch that shows what is shown on demand only; empty where there is nothing.
        legend: Colours and what they mean.
    """

    choices: Sequence[Choice]
    choose: str = ""
    least_width: float = 6.5
    rest: str = ""
    legend: Sequence[tuple[str, str]] = ()


class _Place:
    """Where things stand in the SVG of a picture, in points from its upper left corner."""

    def __init__(self, picture: Any) -> None:
        self._scale = _POINTS_PER_INCH / picture.dpi
        self._height = picture.get_figheight() * _POINTS_PER_INCH

    def of(self, axes: Any, across: Sequence[float], up: Sequence[float]) -> list[tuple[float, float]]:
        if not len(across):
            return []
        found = axes.transData.transform(list(zip(across, up, strict=True)))
        return [(x * self._scale, self._height - y * self._scale) for x, y in found.tolist()]

    def holds(self, axes: Any, x: float, y: float) -> bool:
        box = axes.bbox
        return (
            math.isfinite(x)
            and math.isfinite(y)
            and box.x0 - 1 <= x / self._scale <= box.x1 + 1
            and box.y0 - 1 <= (self._height - y) / self._scale <= box.y1 + 1
        )

    def readings(self, axes: Any, names: tuple[str, str]) -> list[Mapping[str, Any] | None]:
        """Say how places along both axes are turned back into values: `low + share * (high - low)`, or its power."""
        corners = [axes.bbox.x0, self._height / self._scale - axes.bbox.y0]
        ends = [axes.bbox.x1, self._height / self._scale - axes.bbox.y1]
        found: list[Mapping[str, Any] | None] = []
        for name, axis, limits, first, last in zip(
            names, (axes.xaxis, axes.yaxis), (axes.get_xlim(), axes.get_ylim()), corners, ends, strict=True
        ):
            log = axis.get_scale() == "log"
            low, high = (math.log10(limit) if log else float(limit) for limit in limits)
            place = {"from": round(first * self._scale, 2), "to": round(last * self._scale, 2)}
            found.append({"name": name, "low": low, "high": high, "log": log, **place} if name else None)
        return found


def svg_of(choice: Choice, name: str, heading: str, texts: dict[tuple[str, ...], int]) -> tuple[str, list[Any]]:
    """Draw a picture for a page.

    Args:
        choice: What is drawn.
        name: Of letters, digits and hyphens, one on its page: ids of the picture begin with it.
        heading: The id of the heading that those are told who cannot see it.
        texts: The texts told so far, by the number under which the page keeps them; more are added.

    Returns:
        The element, and for each of its tips what the page's script reads.
    """
    for place, tip in enumerate(choice.tips):
        if isinstance(tip, Line):
            tip.artist.set_gid(f"{name}-{place}")
    data = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with optional("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        choice.picture.savefig(data, format="svg", metadata=nothing)
    root = _plain(ElementTree.fromstring(data.getvalue()), name)
    rest = {f"{name}-{place}" for place, tip in enumerate(choice.tips) if isinstance(tip, Line) and tip.rest}
    for one in root.iter():
        if one.get("id") in rest:
            one.set("class", "rest")
    root.set("role", "img")
    root.set("aria-labelledby", heading)
    place_of = _Place(choice.picture)
    told = [tip.told(place_of, f"{name}-{place}", texts) for place, tip in enumerate(choice.tips)]
    return ElementTree.tostring(root, encoding="unicode"), told


def _plain(root: ElementTree.Element, name: str) -> ElementTree.Element:
    """Leave what HTML and this page need: no names of spaces, no ids that nobody asks for, no digits beyond sight."""
    asked = {found for one in root.iter() for value in one.attrib.values() for found in _REFERENCE.findall(value)}
    for parent in list(root.iter()):
        parent.tag = _local(parent.tag)
        parent.attrib = {_local(key): value for key, value in parent.attrib.items()}
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
        if parent.get("id", "") not in asked and not parent.get("id", "").startswith(f"{name}-"):
            parent.attrib.pop("id", None)
        for key in ("d", "x", "y", "transform", "width", "height", "points"):
            if key in parent.attrib:
                short = _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", parent.attrib[key])
                parent.attrib[key] = " ".join(_NO_TURN.sub("", short).split())
        if parent.get("transform") == "":
            del parent.attrib["transform"]
        if "style" in parent.attrib:
            parent.attrib["style"] = _FONT.sub("", parent.attrib["style"])
        if parent.text is not None and not parent.text.strip():
            parent.text = None
        parent.tail = None
        looks = {child.get("style", "") for child in parent if _local(child.tag) == "use"}
        if len(looks) == 1 and all(_local(child.tag) == "use" for child in parent):
            parent.set("style", looks.pop())  # the marks of a line look alike
            for child in parent:
                child.attrib.pop("style", None)
    for one in root.iter():
        if "style" in one.attrib:
            one.attrib["style"] = colour_of_page(one.attrib["style"])
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}"}
    return root


def colour_of_page(style: str) -> str:
    """Return a style with the page's own names of its colours."""
    return _COLOUR.sub(lambda found: _COLOURS[found[0]], style)


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]
