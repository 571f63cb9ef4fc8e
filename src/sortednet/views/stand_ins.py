"""The settings that stand for all: whose models are watched at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from ..space import Setting, Space
from .alignment.tape import pattern_of
from .layouts import tensors_of
from .outlines import outline

__all__ = ["StandIns", "is_shallower", "stand_ins"]


class StandIns(NamedTuple):
    """The models that stand for all.

    Attributes:
        models: By setting, without memory.
        whole: That of them which the others are held against.
        idle: Settings that only leave out layers, and change no shape.
        deeper: Settings whose like only shallower ones stand for.
    """

    models: dict[Setting, nn.Module]
    whole: Setting
    idle: list[Setting]
    deeper: list[Setting]


def stand_ins(build: Callable[..., nn.Module], space: Space) -> StandIns:
    """Choose the full setting, the smallest, and those smallest in one dimension alone; shallow ones where they serve.

    A dimension that alone leaves out whole layers, and changes no shape, is a depth. Where the layers that are left
    stand for all, models that have no others are watched; deeper ones are when they are first used.

    Args:
        build: Makes the model from one keyword argument for each dimension.
        space: The settings.
    """
    full = space.full
    smallest = space.smallest if space.smallest in space else space[0]
    alone = [one for one in (Setting({**full, name: space.smallest[name]}) for name in space.supports)
             if one in space and one != full]  # fmt: skip
    outlines = {one: outline(build, one) for one in (full, smallest, *alone)}
    idle = [one for one in alone if is_shallower(outlines[one], outlines[full])]
    shallow = {name: one[name] for one in idle for name in one if one[name] != full[name]}
    whole = Setting({**full, **shallow})
    if idle and whole in space and all(smallest[name] == value for name, value in shallow.items()):
        outlines[whole] = outlines.get(whole) or outline(build, whole)
        if _stands_for(outlines[whole], outlines[full]):
            narrow = [Setting({**one, **shallow}) for one in alone if one not in idle]
            chosen = [whole, smallest, *(one for one in narrow if one in space)]
            return StandIns({one: outlines.get(one) or outline(build, one) for one in chosen}, whole, idle, alone)
    return StandIns({one: outlines[one] for one in (full, smallest, *alone)}, full, [], [])


def is_shallower(small: nn.Module, full: nn.Module) -> bool:
    """Whether a model is the full model without some layers: fewer tensors, and each of the same shape."""
    ours, theirs = ({name: one.shape for name, one in tensors_of(model).items()} for model in (small, full))
    return len(ours) < len(theirs) and all(theirs.get(name) == shape for name, shape in ours.items())


def _stands_for(shallow: nn.Module, full: nn.Module) -> bool:
    """Whether every layer that a model lacks has its like among those that it has, of the same name but for numbers."""

    def kinds(model: nn.Module) -> set[tuple[object, ...]]:
        types = {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}
        found: set[tuple[object, ...]] = set()
        for name, tensor in tensors_of(model).items():
            steps = name.split(".")
            above = tuple(types[".".join(steps[:count])] for count in range(len(steps)))
            found.add((pattern_of(name), tuple(tensor.shape), above))
        return found

    return kinds(full) == kinds(shallow)
