"""The README and the pages: their links lead somewhere, their code can be read, and what it imports is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from sortednet.cli import _parser

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MOST_LINES = 200
ids = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made of them on the web."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(page.read_text()))
    return {one.strip().replace(" ", "-") for one in plain}


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text())
    return ["\n".join(line.removeprefix(indent) for line in code.splitlines()) for indent, one, code in found
            if one == language]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_code_can_be_read_and_imports_what_is_there(page: Path) -> None:
    for code in blocks(page, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sortednet"):
                exec(compile(ast.Module([node], []), str(page), "exec"), {})
        for name in re.findall(r"\bsn\.([\w.]+)", code):
            found = __import__("sortednet")
            for part in name.split("."):
                found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_are_there(page: Path) -> None:
    known = _parser().format_help()
    for code in blocks(page, "bash"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["sortednet"] and len(words) > 1:
                assert re.search(rf"\b{re.escape(words[1])}\b", known), line


def test_the_readme_is_one_that_a_stranger_finishes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


def test_every_page_is_reached_from_the_readme() -> None:
    reached, open_ = set(), [ROOT / "README.md"]
    while open_:
        page = open_.pop()
        reached.add(page)
        for link in LINK.findall(page.read_text()):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                open_.append(target)
    assert reached >= set(PAGES)
