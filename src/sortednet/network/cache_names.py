"""By which name a model, a layer or an output takes its keys and values of earlier positions.

transformers has several, which change from class to class and from release to release. So whoever hands a cache over
asks the signature of what takes it, and whoever is handed one looks for all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BuildError

__all__ = ["cache_among", "cache_name", "uncached"]

_NAMES = ("cache", "past_key_values", "layer_past", "cache_params")


def cache_name(*takers: Callable[..., Any]) -> str:
    """Return the name by which a function, a method or a class takes its cache.

    Args:
        takers: What is asked, one after the other: where one hands on whatever it gets, the next is what it calls.
            Behind a decorator it is asked what is decorated.

    Raises:
        BuildError: If none of them takes one by a name that is known.

    Example:
        >>> cache_name(lambda hidden, layer_past=None, **others: hidden)
        'layer_past'
    """
    for taker in takers:
        parameters = inspect.signature(taker).parameters
        for name in _NAMES:
            if name in parameters:
                return name
    asked = getattr(takers[0], "__qualname__", repr(takers[0]))
    raise BuildError(
        f"{asked} takes no cache by a name that is known ({', '.join(_NAMES)}), so that it is not decoded layer by "
        "layer. Use the model's own generate."
    )


def cache_among(arguments: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the cache among arguments, with the name by which it is given.

    Args:
        arguments: By name.

    Returns:
        The name and the cache; None where none is given.

    Example:
        >>> cache_among({"use_cache": True, "past_key_values": "keys"})
        ('past_key_values', 'keys')
    """
    return next(((name, arguments[name]) for name in _NAMES if arguments.get(name) is not None), None)


def uncached(taker: Callable[..., Any]) -> dict[str, bool]:
    """Return the arguments that keep a callable from making a cache: none where it makes none.

    Example:
        >>> uncached(lambda input_ids, use_cache=None: input_ids)
        {'use_cache': False}
    """
    return {"use_cache": False} if "use_cache" in inspect.signature(taker).parameters else {}
