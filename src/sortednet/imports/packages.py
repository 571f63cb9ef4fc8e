"""Optional packages: what one is needed for, and how to install it where it is missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MissingPackageError, SortedNetError

__all__ = [
    "check_installed",
    "is_installed",
    "needs",
]

_OWN = __name__.partition(".")[0]
_INSTALLED_AS = {"sklearn": "scikit-learn", "PIL": "Pillow", "yaml": "PyYAML"}


@contextmanager
def needs(purpose: str, extra: str) -> Iterator[None]:
    """Say how to install a package whose import fails inside.

    Args:
        purpose: What needs it, as the beginning of a sentence.
        extra: The extra of this library that has it; several separated by commas.

    Raises:
        MissingPackageError: If an import inside fails for another package than this one.

    Example:
        >>> with needs("Loading these data", "data"):
        ...     import a_package_that_nobody_has
        Traceback (most recent call last):
        sortednet.errors.MissingPackageError: Loading these data needs a_package_that_nobody_has, which is not
        installed: pip install "sortednet[data]".
    """
    try:
        yield
    except SortedNetError:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == _OWN:
            raise
        name = _INSTALLED_AS.get(package, package) or "a package"
        remedy = f'pip install "sortednet[{extra}]".'
        if isinstance(error, ModuleNotFoundError) and not is_installed(package):
            raise MissingPackageError(f"{purpose} needs {name}, which is not installed: {remedy}") from error
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise MissingPackageError(
            f"{purpose} needs {name}, which cannot be imported ({reason}). Install it anew: {remedy}"
        ) from error


def check_installed(purpose: str, extra: str, *packages: str) -> None:
    """Refuse to go on where a package is missing, without importing any.

    Args:
        purpose: What needs them, as the beginning of a sentence.
        extra: The extra of this library that has them.
        packages: The packages by the names that are imported.

    Raises:
        MissingPackageError: If one is not installed.
    """
    with needs(purpose, extra):
        for package in packages:
            if not is_installed(package):
                raise ModuleNotFoundError(name=package)


def is_installed(package: str) -> bool:
    """Return whether Python finds a package; it is not imported."""
    if package in sys.modules:
        return sys.modules[package] is not None  # None where its import is blocked
    try:
        return bool(package) and importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, such as one of a test
        return True
