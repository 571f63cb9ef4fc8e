"""A module imports only from lower layers, and each third-party package has one owner: ARCHITECTURE.md is the table."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "sortednet"
ROW = re.compile(r"^\| (\d+) \| (.+?) \|", re.MULTILINE)
OWNER = re.compile(r"^\| `([\w.]+)` \| (.+?) \|", re.MULTILINE)


def layers() -> dict[str, int]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    return {name: int(layer) for layer, row in ROW.findall(text) for name in re.findall(r"`(\w+)`(?: \(| ·|$)", row)}


def owners() -> dict[str, set[str]]:
    text = (ROOT / "ARCHITECTURE.md").read_text().split("## Who owns which package")[1]
    return {package: set(re.findall(r"`(\w+)`", row)) for package, row in OWNER.findall(text)}


def module_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Return the project's modules and the third-party packages that a file imports."""
    ours, theirs = set(), set()
    inside = len(path.relative_to(SOURCE).parts) - 1
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            theirs |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            theirs.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == inside + 1:
            ours |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return ours, theirs - set(sys.stdlib_module_names)


FILES = sorted(SOURCE.rglob("*.py"))


def test_the_table_lists_every_module() -> None:
    assert {module_of(path) for path in FILES} - {"__init__"} == set(layers())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downwards_only(path: Path) -> None:
    name = module_of(path)
    if name == "__init__":
        return
    table = layers()
    upwards = {other for other in imports(path)[0] if other != name and table[other] >= table[name]}
    assert not upwards, f"{name} (layer {table[name]}) imports {upwards}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_package_is_imported_by_its_owners_only(path: Path) -> None:
    table = owners()
    foreign = {package for package in imports(path)[1] if module_of(path) not in table.get(package, set())}
    assert not foreign - {"torch", "sortednet"}, f"{module_of(path)} imports {foreign}"


def test_importing_the_library_needs_torch_and_safetensors_only() -> None:
    optional = ("accelerate", "jsonargparse", "matplotlib", "onnx", "PIL", "plotly", "rich", "sklearn", "transformers")
    blocked = f"import sys\nfor name in {optional}: sys.modules[name] = None\nimport sortednet"
    subprocess.run([sys.executable, "-W", "ignore", "-c", blocked], check=True)


def test_files_stay_under_500_lines() -> None:
    assert not [path.name for path in FILES if len(path.read_text().splitlines()) > 500]
