"""A folder imports only from rows above it, and a module from entries before it; each third-party package has owners.

What is private in one is used by one module alone. ARCHITECTURE.md has the tables.
"""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "sortednet"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
ROW = re.compile(r"^\| `([\w/]+)` \| .+? \| (.+?) \|$", re.MULTILINE)
MOST_ENTRIES, MOST_ARROWS, MOST_LINES = 20, 130, 500
FILES = sorted(SOURCE.rglob("*.py"))
OUTSIDE = {"__init__", "__main__", "_version"}  # of the house
PRIVATE = re.compile(r"_[A-Za-z]\w*")
PUBLIC = {"_fields", "_replace", "_make", "_asdict"}  # of every named tuple


def rows() -> dict[str, list[str]]:
    """Return the entries of each folder, from the ground up; of the whole those that stand alone have none."""
    text = TEXT.split("## Who may import whom")[1].split("## Who owns which package")[0]
    return {name: re.findall(r"`(\w+)`", entries) for name, entries in ROW.findall(text)}


def owners() -> dict[str, set[str]]:
    text = TEXT.split("## Who owns which package")[1]
    return {
        name: set(re.findall(r"`([\w/]+)`", row)) for name, row in re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.M)
    }


def place(path: Path) -> tuple[str, ...]:
    """Return where a module lies: the folders, and its name; of a package the folders alone."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


MODULES = {place(path) for path in FILES}


def imports(path: Path) -> tuple[set[tuple[str, ...]], set[str]]:
    """Return the project's modules and the third-party packages that a file imports."""
    ours, theirs = set(), set()
    inside = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            theirs |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            theirs.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] + tuple((node.module or "").split(".") if node.module else ())
            for alias in node.names:
                ours.add((*base, alias.name) if (*base, alias.name) in MODULES else base)
    return ours, theirs - set(sys.stdlib_module_names)


def ids(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_the_table_lists_every_folder_and_module() -> None:
    table = rows()
    tops = {
        one.name.removesuffix(".py")
        for one in SOURCE.iterdir()
        if one.suffix == ".py" or (one / "__init__.py").is_file()
    }
    assert tops - OUTSIDE == {name for name in table if "/" not in name}
    assert len(tops - OUTSIDE) <= MOST_ENTRIES
    for folder in {path.parent for path in FILES} - {SOURCE}:
        held = {one.stem for one in folder.iterdir() if one.suffix == ".py" and one.stem != "__init__"}
        held |= {one.name for one in folder.iterdir() if (one / "__init__.py").is_file()}
        assert held == set(table[str(folder.relative_to(SOURCE))]), folder


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_go_upwards_only(path: Path) -> None:
    own, table = place(path), rows()
    if own[0] in OUTSIDE:
        return
    tops = [name for name in table if "/" not in name]
    for other in imports(path)[0]:
        if not other or other[0] in OUTSIDE:
            continue
        if other[0] != own[0]:
            assert tops.index(other[0]) < tops.index(own[0]), f"{own} imports {other}"
            continue
        depth = next((at for at, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), None)
        if depth is not None:  # else one lies in the other
            entries = table["/".join(own[:depth])]
            assert entries.index(other[depth]) < entries.index(own[depth]), f"{own} imports {other}"


def test_few_arrows_go_from_folder_to_folder() -> None:
    arrows = {
        (place(path)[0], other[0])
        for path in FILES
        for other in imports(path)[0]
        if other and not {place(path)[0], other[0]} & OUTSIDE and place(path)[0] != other[0]
    }
    assert len(arrows) <= MOST_ARROWS


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_each_package_is_imported_by_its_owners_only(path: Path) -> None:
    table, own = owners(), "/".join(place(path))
    for package in imports(path)[1] - {"torch", "sortednet"}:
        assert any(f"{own}/".startswith(f"{one}/") for one in table.get(package, ())), f"{own} imports {package}"


def others() -> dict[str, set[str]]:
    """Return the privates of other packages by the module that may use them, and where that is."""
    text = TEXT.split("## Into other packages' privates")[1].split("\n## ")[0]
    found: dict[str, set[str]] = {}
    for names, where in re.findall(r"^\| \w+ \| (`.+?) \| [^|]+ \| `([\w.]+)` \|", text, re.MULTILINE):
        found.setdefault(where.replace(".", "/"), set()).update(re.findall(r"\b_[A-Za-z]\w*", names))
    return found


@functools.cache
def privates(path: Path) -> tuple[set[str], set[str]]:
    """Return the private names that a file makes, and those that it reads of anything but a `self` of its own."""
    made, used = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.Attribute) and own and isinstance(node.ctx, ast.Store):
            made.add(node.attr)
        elif isinstance(node, ast.Attribute):
            used |= {node.attr} if not own else set()
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0):
            module = getattr(node, "module", None) or ""
            used |= {part for name in (module, *(one.name for one in node.names)) for part in name.split(".")}
        elif isinstance(node, (ast.Call, ast.Subscript, ast.Compare)):  # `getattr(..., "_name")`, `__dict__["_name"]`
            texts = {
                one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
            }
            written = ast.unparse(node)
            if "__dict__" in written or written.startswith(("getattr(", "setattr(", "hasattr(", "delattr(", "vars(")):
                used |= texts
            elif written.startswith("object.__setattr__("):
                made |= texts
    return made, {name for name in used if PRIVATE.fullmatch(name)} - PUBLIC


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_privates_of_other_packages_are_used_where_the_table_says(path: Path) -> None:
    own, table = "/".join(place(path)), others()
    ours = {name for file in FILES for name in privates(file)[0]}
    listed = {name for names in table.values() for name in names}
    made, used = privates(path)
    strange = {name for name in used if name not in ours or (name in listed and name not in made)}
    assert strange <= table.get(own, set()), f"{own} reaches into {sorted(strange - table.get(own, set()))}"


def test_every_private_that_the_table_lists_is_used_there() -> None:
    for own, names in others().items():
        text = (SOURCE / f"{own}.py").read_text()
        assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == [], own


def test_importing_the_library_needs_torch_and_safetensors_only() -> None:
    optional = ("accelerate", "jsonargparse", "matplotlib", "onnx", "PIL", "rich", "sklearn", "transformers")
    blocked = f"import sys\nfor name in {optional}: sys.modules[name] = None\nimport sortednet"
    subprocess.run([sys.executable, "-W", "ignore", "-c", blocked], check=True)


def test_files_stay_under_500_lines() -> None:
    assert not [path.name for path in FILES if len(path.read_text().splitlines()) > MOST_LINES]
