"""The methods that the papers compare with, and sorted training itself, as parts of this library put together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ...errors import ConfigError
from ...imports.names import RECIPES
from ...space import Space
from .depths import early_exit, extracted, layer_drop, layer_skip, sft_ict
from .distilled import dynabert, once_for_all
from .line import Line, plain
from .recipe import Recipe, Stage
from .sorting import sorted_, sortednet
from .widths import lcs_l, lcs_p, matformer, slimmable, universally_slimmable

__all__ = [
    "Line",
    "Recipe",
    "Stage",
    "check_options",
    "dynabert",
    "early_exit",
    "extracted",
    "layer_drop",
    "layer_skip",
    "lcs_l",
    "lcs_p",
    "matformer",
    "once_for_all",
    "plain",
    "recipe_of",
    "sft_ict",
    "slimmable",
    "sorted_",
    "sortednet",
    "universally_slimmable",
]


def recipe_of(name: str, space: Space, options: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe by its name.

    Args:
        name: One of `sortednet list recipes`.
        space: The sub-models.
        options: Its further arguments.

    Raises:
        ConfigError: If the name or an option is unknown.

    Example:
        >>> [stage.share for stage in recipe_of("once_for_all", Space(depth=[1, 2], width=[4, 8])).stages]
        [0.4, 0.3, 0.3]
    """
    if not isinstance(space, Space):
        raise ConfigError(f"The space is {space!r}. Give a Space, such as Space(depth=[2, 4], width=[16, 32]).")
    check_options(name, options or {})
    made: Recipe = RECIPES[name](space, **(options or {}))
    return made


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a recipe or an option of it that is unknown, or an option of another type than it takes.

    Raises:
        ConfigError: If it is so.
    """
    make = RECIPES[RECIPES.check(name)]
    taken = [one for one in inspect.signature(make).parameters if one != "space"]
    unknown = [one for one in options if one not in taken]
    if unknown:
        allowed = f"It takes {', '.join(taken)}" if taken else "It takes none"
        raise ConfigError(f"Recipe {name} takes no option {', '.join(unknown)}. {allowed}.")
    hints = get_type_hints(make)
    for one, value in options.items():
        if not _fits(value, hints[one]):
            kind = str(getattr(hints[one], "__name__", hints[one])).replace("typing.", "")
            raise ConfigError(f"recipe_options.{one}={value!r} is of the wrong kind for {name}. Give {kind}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind that an annotation says."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Sequence:
        return not isinstance(value, str) and isinstance(value, Sequence) and all(_fits(x, parts[0]) for x in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
