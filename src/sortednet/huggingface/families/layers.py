"""What a config says of single layers follows the depth: lists by layer, numbers of layers, names of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

__all__ = ["follow_depth"]

_Follow = Callable[[Any, int], Any]
_FEWEST = 3  # layers of a class's own config that tell a list by layer from one that has as many entries by chance


def follow_depth(full: Any, part: Any, field: str, depth: int, named: Iterable[str]) -> None:
    """Let what a config says of single layers be of those that it has.

    Which fields these are is found by watching the config's class: they change with the depth there too.

    Args:
        full: The config of the full model.
        part: The config of the smaller one, changed in place.
        field: The field of the depth.
        depth: How many layers there are.
        named: Fields that are known to hold one entry for each layer.
    """
    kind: Any = type(full)
    for name, follow in _watched(kind, field):
        held = getattr(full, name, None)
        if held and isinstance(held, (list, tuple)):
            setattr(part, name, follow(held, depth))
    for name in named:
        if _is_list(full, name):
            setattr(part, name, list(getattr(full, name)[:depth]))
    stages, read = getattr(full, "stage_names", None), getattr(full, "out_indices", None)
    if stages and read and len(part.stage_names) < len(stages):
        # The last stage stays the last.
        last, places = len(part.stage_names) - 1, [one % len(stages) for one in read]
        kept = {last if one == len(stages) - 1 else one for one in places if one <= last or one == len(stages) - 1}
        part.out_indices = sorted(kept or {last})  # and the names with them


def _is_list(config: Any, name: str) -> bool:
    """Whether a field is a list, and no property that computes one."""
    held = getattr(config, name, None)
    return isinstance(held, (list, tuple)) and not isinstance(getattr(type(config), name, None), property)


@cache
def _watched(kind: Callable[..., Any], field: str) -> tuple[tuple[str, _Follow], ...]:
    """Find the lists of a class of configs that change with the depth, and how, by its own config of one layer less."""
    try:
        more = kind()
        size = int(getattr(more, field))
        less = kind(**{field: size - 1})
    except Exception:  # what a class makes of one layer less, or of no sizes at all
        return ()
    found: list[tuple[str, _Follow]] = []
    for name, ours in vars(more).items():
        theirs = vars(less).get(name)
        if size < _FEWEST or not (isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple))):
            continue
        if len(ours) == len(theirs):
            continue
        if set(ours) <= set(range(size)) and sorted(set(ours)) == list(ours):
            found.append((name, _numbers))
        elif len(theirs) == len(ours) - 1 and len(ours) >= size:
            found.append((name, _entries(len(ours) - size)))
    return tuple(found)


def _numbers(held: Any, depth: int) -> Any:
    """Keep the numbers of the layers that there are."""
    return type(held)(one for one in held if one < depth)


def _entries(before: int) -> _Follow:
    """Keep the first entries, one for each layer and some before them."""
    return lambda held, depth: type(held)(held[: depth + before])
