"""Names that are imported when they are first used: the same for Python, for type checkers and for `__all__`."""

import ast
import importlib
from pathlib import Path

import pytest

import sortednet

SOURCE = Path(sortednet.__file__).parent
PACKAGES = (
    "sortednet", "sortednet.data", "sortednet.evaluation", "sortednet.experiments", "sortednet.generation",
    "sortednet.huggingface", "sortednet.lora", "sortednet.report", "sortednet.symbolic", "sortednet.training",
)  # fmt: skip
NAMESPACES = (
    "training", "evaluation", "huggingface", "lora", "generation", "recipes", "symbolic", "conditional", "report",
    "models", "data",
)  # fmt: skip
MOST_NAMES = 60
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name not in ("__main__.py", "_version.py"))


def declared(package: str) -> dict[str, set[str]]:
    """Return what the block for type checkers imports, by module; `` for modules themselves."""
    module = importlib.import_module(package)
    shown = set(getattr(module, "_MODULES", ()))
    tree = ast.parse(Path(module.__file__ or "").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found: dict[str, set[str]] = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found.setdefault("" if alias.name in shown else node.module or "", set()).add(alias.name)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_and_python_see_the_same_names(package: str) -> None:
    module = importlib.import_module(package)
    found = declared(package)
    assert found.pop("", set()) == set(getattr(module, "_MODULES", ()))
    assert found == {name: set(held) for name, held in module._HOMES.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_listed(package: str) -> None:
    module = importlib.import_module(package)
    names = set().union(*declared(package).values()) | ({"__version__"} & set(module.__all__))
    assert set(module.__all__) == names
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(dir(module)) == names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_is_that_of_its_module(package: str) -> None:
    module = importlib.import_module(package)
    for home, names in module._HOMES.items():
        inner = importlib.import_module(f"{package}.{home}")
        assert all(getattr(module, name) is getattr(inner, name) for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_that_of_a_module_beside_it(package: str) -> None:
    """Else it would depend on what was imported before whether the name or the module is found."""
    module = importlib.import_module(package)
    folder = Path(module.__file__ or "").parent
    beside = {one.stem for one in folder.iterdir() if one.suffix == ".py" or one.is_dir()}
    assert not beside & (set(module.__all__) - set(getattr(module, "_MODULES", ())))


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


def test_the_surface_is_small() -> None:
    assert len(dir(sortednet)) <= MOST_NAMES
    assert not [name for name in dir(sortednet) if name.startswith("_") and name != "__version__"]
    assert set(NAMESPACES) <= set(dir(sortednet))
    for name in NAMESPACES:
        assert getattr(sortednet, name).__all__
    assert sortednet.training.Trainer
    assert sortednet.training.TrainingConfig
    assert sortednet.huggingface.SortedTrainer
    assert sortednet.huggingface.SortedTrainerMixin


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_all_is_the_truth(path: Path) -> None:
    tree = ast.parse(path.read_text())
    public = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    parts = path.relative_to(SOURCE).with_suffix("").parts
    module = importlib.import_module(".".join(("sortednet", *(part for part in parts if part != "__init__"))))
    listed = getattr(module, "__all__", [])
    assert public <= set(listed)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert hasattr(module, name)
