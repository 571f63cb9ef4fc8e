"""Names of a package that are imported when they are first used (PEP 562): importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["attach"]


def attach(
    package: str, names: Mapping[str, Sequence[str]], modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`.

    Args:
        package: Its full name.
        names: By module of the package, the names that the package has from it.
        modules: Modules that the package shows, by the names that it shows them by.

    Returns:
        The two functions. A name is kept in the package once it was used.
    """
    homes = {name: module for module, held in names.items() for name in held}
    shown = dict(modules or {})

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name in homes:
            value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in shown:
            return importlib.import_module(f"{package}.{shown[name]}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])

    def __dir__() -> list[str]:  # noqa: N807
        return sorted(sys.modules[package].__all__)

    return __getattr__, __dir__
