"""Names that are imported when they are first used: the same for Python, for type checkers and for `__all__`."""

import ast
import importlib
from pathlib import Path

import pytest

PACKAGES = ("sortednet", "sortednet.symbolic")


def declared(package: str) -> dict[str, list[str]]:
    """Return what the block for type checkers imports, by module; `` for modules themselves."""
    tree = ast.parse(Path(importlib.import_module(package).__file__ or "").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        (node.module or ""): sorted(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_and_python_see_the_same_names(package: str) -> None:
    module = importlib.import_module(package)
    found = declared(package)
    found.pop("", None)
    found.pop("training", None)  # modules, by names of the top
    assert found == {name: sorted(held) for name, held in module._HOMES.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_listed(package: str) -> None:
    module = importlib.import_module(package)
    names = {name for held in declared(package).values() for name in held} | ({"__version__"} & set(module.__all__))
    assert set(module.__all__) == names
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert names <= set(dir(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_is_that_of_its_module(package: str) -> None:
    module = importlib.import_module(package)
    for home, names in module._HOMES.items():
        inner = importlib.import_module(f"{package}.{home}")
        assert all(getattr(module, name) is getattr(inner, name) for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Nothing'") as raised:
        module.Nothing  # noqa: B018
    assert (raised.value.name, raised.value.obj) == ("Nothing", module)


def test_star_import_gives_all_names() -> None:
    held: dict[str, object] = {}
    exec("from sortednet import *", held)
    assert set(importlib.import_module("sortednet").__all__) <= set(held)
