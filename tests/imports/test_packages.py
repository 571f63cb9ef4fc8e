"""Optional packages: wherever one is missing, the error is of one class and names the right `pip install`."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sortednet.errors import MissingPackageError, SortedNetError
from sortednet.imports.packages import check_installed, needs

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "sortednet"
IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
# By package, the extra that has it; a package that comes with another is here too.
COMES_WITH = {"tokenizers": "transformers", "sortednet": None, "safetensors": None, "torch": None}


def extras() -> dict[str, set[str]]:
    """Return by extra the packages that it installs, by the names that are imported."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def packages(extra: str) -> set[str]:
        found: set[str] = set()
        for one in asked[extra]:
            name, _, inner = re.match(r"([\w.-]+)(\[(.*?)\])?", one).groups()
            if name == "sortednet":
                found |= {package for part in inner.split(",") for package in packages(part)}
            else:
                found.add(IMPORTED_AS.get(name.lower(), name))
        return found

    return {extra: packages(extra) for extra in asked}


EXTRAS = extras()
OPTIONAL = sorted(set().union(*EXTRAS.values()) - {"uv", "hypothesis", "mypy", "pytest", "pytest-xdist", "ruff"})
FILES = sorted(SOURCE.rglob("*.py"))


def package_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {(node.module or "").split(".")[0]}
    return set()


def is_optional(package: str) -> bool:
    return package in OPTIONAL or COMES_WITH.get(package) in OPTIONAL


def is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any(
        isinstance(item.context_expr, ast.Call) and getattr(item.context_expr.func, "id", "") == "needs"
        for item in node.items
    )


def unguarded(tree: ast.Module) -> set[str]:
    """Return the optional packages that a module imports while it is itself imported, outside of `needs`."""
    found: set[str] = set()

    def walk(body: list[ast.stmt]) -> None:
        for node in body:
            if is_guard(node) or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
                continue
            found.update(filter(is_optional, package_of(node)))
            for part in ("body", "orelse", "finalbody"):
                walk(getattr(node, part, []))

    walk(tree.body)
    return found


def test_modules_import_optional_packages_inside_of_needs() -> None:
    bare = {str(path.relative_to(SOURCE)): unguarded(ast.parse(path.read_text())) for path in FILES}
    # The package `symbolic` refuses to be imported where one of these is missing, and with it all inside.
    of_symbolic = {"numpy", "scipy", "sklearn", "transformers"}
    of_experiments = {"numpy"}
    for path, packages in bare.items():
        if path.startswith("symbolic/"):
            packages -= of_symbolic
        if path.startswith("experiments/formulas") or path == "experiments/__init__.py":
            packages -= of_experiments
    assert not {path: packages for path, packages in bare.items() if packages}


def guarded_modules() -> list[tuple[str, str, str]]:
    """Return each package that a module imports inside of `needs`, with the module and the extra that it names."""
    found = []
    for path in FILES:
        module = ".".join(("sortednet", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if is_guard(node) and path.name != "packages.py":
                extra = node.items[0].context_expr.args[1].value
                for inner in ast.walk(node):
                    if isinstance(inner, ast.stmt):
                        found += [(module, package, extra) for package in package_of(inner) if is_optional(package)]
    return found


@pytest.mark.parametrize(("module", "package", "extra"), guarded_modules())
def test_the_extra_that_is_named_has_the_package(module: str, package: str, extra: str) -> None:
    package = COMES_WITH.get(package) or package
    assert any(package in EXTRAS[one] for one in extra.split(",")), f"{module}: {extra} has no {package}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of Unix")
def test_modules_say_what_is_missing() -> None:
    """Import each module where a package is missing that it imports; torch is loaded once, before processes part."""
    cases = sorted({(module, package) for module, package, _ in guarded_modules() if package in OPTIONAL})
    cases += [("sortednet.symbolic", package) for package in ("numpy", "scipy", "sklearn", "sympy", "transformers")]
    program = f"""
import importlib, os, sys
import torch, sortednet.network.sorted_net
from sortednet.errors import MissingPackageError
for module, package in {cases!r}:
    if os.fork():
        os.wait()
        continue
    sys.modules[package] = None
    try:
        importlib.import_module(module)
    except MissingPackageError as error:
        if "pip install \\"sortednet[" not in str(error): print(module, package, error)
    except ImportError as error:
        print(module, package, repr(error))
    sys.stdout.flush()
    os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


def test_the_command_line_alone_says_what_it_needs(tmp_path: Path) -> None:
    for package in ("jsonargparse", "yaml", "rich"):
        program = (
            f"import sys\nsys.modules[{package!r}] = None\n"
            "from sortednet.cli import main\nsys.exit(main(['list', 'models']))"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert ended.returncode == 2
        assert re.search(r'which (is not installed|cannot be .*): pip install "sortednet\[cli\]"', ended.stderr)
        assert len(ended.stderr.splitlines()) == 1


def test_a_missing_package_is_an_import_error_of_ours() -> None:
    assert issubclass(MissingPackageError, ImportError)
    assert issubclass(MissingPackageError, SortedNetError)


def test_a_package_that_cannot_be_imported_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a_broken_package.py").write_text("raise ImportError('libfoo.so is missing', name=__name__)\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = r"cannot be imported \(libfoo.so is missing\). Install it anew"
    with pytest.raises(MissingPackageError, match=told), needs("A test", "cli"):
        import a_broken_package  # noqa: F401


def test_errors_of_our_own_modules_pass() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'sortednet.nothing'") as raised, needs("A", "cli"):
        import sortednet.nothing  # noqa: F401
    assert not isinstance(raised.value, MissingPackageError)


def test_packages_are_looked_for_without_being_imported() -> None:
    check_installed("A test", "cli", "json")
    with pytest.raises(MissingPackageError, match=r"A test needs no_such_package, which is not installed: pip install"):
        check_installed("A test", "cli", "json", "no_such_package")


def test_runs_on_images_need_no_package_of_text_or_formulas() -> None:
    program = (
        "import sys\n"
        "for name in ('transformers', 'peft', 'datasets', 'onnx'): sys.modules[name] = None\n"
        "from sortednet.jobs import images\nfrom sortednet.report import report\n"
        "from sortednet.jobs import configurations, evaluation, extraction, reporting, selection, training\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_the_commands_on_images_need_the_extra_cli_alone(tmp_path: Path) -> None:
    config = ROOT / "configs" / "digits.yaml"
    commands = [
        ["--help"], ["symbolic", "fit", "--help"], ["list", "models"],
        ["train", str(config), "training.updates=2", "--output", "run"], ["evaluate", "run", "--measure", "flops"],
        ["select", "run", "min_quality=0", "--name", "small"], ["extract", "run", "small"], ["report", "run"],
    ]  # fmt: skip
    program = (
        "import sys\n"
        "for name in ('transformers', 'peft', 'datasets', 'tokenizers', 'trl', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        "from sortednet.cli import main\n"
        f"for words in {commands!r}:\n"
        "    try: status = main(words)\n"
        "    except SystemExit as end: status = end.code or 0\n"
        "    assert status == 0, words\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, cwd=tmp_path)
