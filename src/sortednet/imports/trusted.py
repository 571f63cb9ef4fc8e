"""What a configuration may name: the library's own, and functions and modules of your own; the rest only if trusted.

A configuration, or the run folder that holds one, may come from a stranger. Whatever it names is called with what it
says, so that it names no code of the standard library or of installed packages unless the user says so.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["check_module", "check_object", "is_trusted"]

_OWN = __name__.partition(".")[0]
_MODELS = f"{_OWN}.models"


def is_trusted(name: str, trust: Iterable[str]) -> bool:
    """Return whether a module or `module:attribute` is one of those trusted, or lies within one."""
    return any(name == one or name.startswith((f"{one}.", f"{one}:")) for one in trust if one)


def check_module(name: str, trust: Sequence[str] = ()) -> None:
    """Refuse what lies in a module of the standard library or of an installed package; it is not imported.

    Args:
        name: Such as `package.module:function`.
        trust: Modules that are trusted, and what lies within them.

    Raises:
        ConfigError: If it does, and is not trusted.
    """
    module = name.partition(":")[0]
    top = module.partition(".")[0]
    if module == _MODELS or module.startswith(f"{_MODELS}.") or is_trusted(name, trust):
        return
    kind = _foreign(top)
    if kind:
        raise ConfigError(
            f"{name!r} names {kind}, and a configuration may name code of your own alone, since it may come from a "
            f"stranger. If you know it, say so: --trust {module} on the command line, trust=[{module!r}] in Python."
        )


def check_object(found: Any, name: str, trust: Sequence[str] = ()) -> None:
    """Refuse what is no function and no class of a `torch.nn.Module` of the module that was named.

    Args:
        found: What was named.
        name: Its name, such as `package.module:function`.
        trust: Modules that are trusted, and what lies within them.

    Raises:
        ConfigError: If it is something else, or was imported there from a module that may not be named.
    """
    if is_trusted(name, trust):
        return
    inner = found
    while isinstance(inner, functools.partial):
        inner = inner.func
    is_module = inspect.isclass(inner) and any(
        (base.__module__, base.__qualname__) == ("torch.nn.modules.module", "Module") for base in inner.__mro__
    )
    is_function = inspect.isfunction(inner) and inner.__module__.partition(".")[0] != _OWN
    if not (is_module or is_function):
        raise ConfigError(
            f"{name!r} names {inner!r:.80}, which is no function of your own and no torch.nn.Module. Name one that "
            f"is; or if you know it: --trust {name} on the command line, trust=[{name!r}] in Python."
        )
    check_module(f"{inner.__module__}:{inner.__qualname__}", trust)


def _foreign(top: str) -> str:
    """Return what a top-level module belongs to if it is not the user's own; empty if it is, or is not there."""
    if top == _OWN:
        return f"{top!r}, of which only {_MODELS} may be named"
    if top in ("__main__", "__mp_main__"):
        return f"{top!r}, the program that runs"
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return f"{top!r}, a module of the standard library"
    if top in importlib.metadata.packages_distributions():
        return f"{top!r}, an installed package"
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ""
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    paths = sysconfig.get_paths()
    installed = {Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for place in filter(None, places):
        if place in ("built-in", "frozen") or installed & {*Path(place).resolve().parents}:
            return f"{top!r}, an installed package"
    return ""
