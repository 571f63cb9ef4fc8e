"""What a trial of a shared forward needs: a few examples, where they are in what the blocks take, equal outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..imports.privates.torch import keystr, tree_flatten_with_path, tree_leaves, tree_map_with_path
from ..views.examples import Inputs, pick_inputs

__all__ = ["Axes", "Scope", "Unshareable", "equal", "some_rows"]

Scope = Literal["ever", "parts", "training"]


def some_rows(inputs: Inputs, count: int) -> Any:
    """Return the inputs for some examples of a batch, again from the first one where it has fewer."""
    return pick_inputs(inputs, range(count), strict=False)


def equal(one: Any, other: Any) -> bool:
    """Whether two outputs hold the same tensors, up to rounding."""
    ours, theirs = _tensors(one), _tensors(other)
    if not theirs or [leaf.shape for leaf in ours] != [leaf.shape for leaf in theirs]:
        return False
    for less, more in zip(ours, theirs, strict=True):
        exact = more.dtype.itemsize >= 4 and not torch.is_autocast_enabled(more.device.type)
        tolerance = 1e-3 if exact else 5e-2
        size = float(more.float().nan_to_num(posinf=0, neginf=0).abs().max()) if more.numel() else 0.0
        if not torch.allclose(less.float(), more.float(), rtol=0, atol=tolerance * size, equal_nan=True):
            return False
    return True


def _tensors(output: Any) -> list[Tensor]:
    """Return the tensors of an output, those among the attributes of an object included."""
    found: list[Tensor] = []
    for leaf in tree_leaves(output):
        held = [leaf] if isinstance(leaf, Tensor) else list(getattr(leaf, "__dict__", {}).values())
        found += [one for one in tree_leaves(held) if isinstance(one, Tensor)]
    return found


class Unshareable(Exception):  # noqa: N818
    """Says why sub-models cannot share a forward.

    Args:
        reason: The reason.
        scope: Where they cannot: "ever", for "parts" of a batch that leave on the way, or in "training".
    """

    def __init__(self, reason: str, scope: Scope = "ever") -> None:
        super().__init__(reason)
        self.scope = scope


@dataclass(frozen=True)
class _Axis:
    """Which axis of a tensor has a row for each example; none where None, and whether it could have been a 1 there."""

    batch: int | None
    stretches: bool


class Axes:
    """Where, in what blocks take and return, the examples of a batch are.

    A tensor's first size may equal the number of examples by chance (as many tokens, or heads), and the examples need
    not be on the first axis. So it is not guessed from one batch: what changes when an example is added tells it.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, int], _Axis] = {}

    def learn(self, fewer: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]) -> None:
        """Compare what the blocks took and returned for some examples and for one more.

        Args:
            fewer: By block, what it took and returned, by "args", "kwargs" and "output".
            more: The same with one more example.

        Raises:
            Unshareable: If anything depends on the number of examples in another way than having a row for each.
        """
        for one, other in zip(fewer, more, strict=True):
            for place in one:
                before, _ = tree_flatten_with_path(one[place])
                after, _ = tree_flatten_with_path(other[place])
                if [path for path, _ in before] != [path for path, _ in after]:
                    raise Unshareable(f"what its blocks take as {place} changes with the number of examples", "parts")
                for (path, less), (_, greater) in zip(before, after, strict=True):
                    name = keystr(path)
                    if isinstance(less, Tensor):
                        self._add((place, name, less.dim()), _axis(less, greater, f"{place}{name}"))
                    elif isinstance(less, (bool, int, float, str)) and less != greater:
                        raise Unshareable(f"{place}{name} of its blocks changes with the number of examples", "parts")

    def _add(self, key: tuple[str, str, int], found: _Axis) -> None:
        held = self._of.setdefault(key, found)
        if held.batch is None and held.stretches:
            self._of[key] = found
        elif held.batch != found.batch and not (found.batch is None and found.stretches):
            raise Unshareable(
                f"{key[0]}{key[1]} of its blocks has its examples now on one axis and now on another", "parts"
            )

    def unknown(self, **places: Any) -> bool:
        """Whether there is a tensor that nothing has been learnt of."""
        return any(
            isinstance(leaf, Tensor) and (place, keystr(path), leaf.dim()) not in self._of
            for place, values in places.items()
            for path, leaf in tree_flatten_with_path(values)[0]
        )

    def rows(self, place: str, values: Any, sizes: Iterable[int], start: int, end: int) -> Any:
        """Return the rows of some examples in whatever has a row for each.

        Args:
            place: "args", "kwargs" or "output".
            values: What a block takes or returns.
            sizes: The numbers of examples that there have been so far.
            start: The first example.
            end: The example behind the last.

        Raises:
            Unshareable: If nothing has been learnt of one of the tensors.
        """

        def cut(path: Any, leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            held = self._of.get((place, keystr(path), leaf.dim()))
            if held is None:
                raise Unshareable(f"{place}{keystr(path)} of its blocks came up in one block only", "parts")
            axis = held.batch
            if axis is None and held.stretches and leaf.shape[0] in sizes:
                axis = 0  # what was one row for all examples before has a row for each now
            if axis is None or (start, end) == (0, leaf.shape[axis]) or leaf.shape[axis] == 1:
                return leaf
            return leaf.narrow(axis, start, end - start)

        return tree_map_with_path(cut, values)


def _axis(less: Tensor, greater: Tensor, name: str) -> _Axis:
    changed = [axis for axis in range(less.dim()) if less.shape[axis] != greater.shape[axis]]
    if not changed:
        return _Axis(None, less.dim() > 0 and less.shape[0] == 1)
    if len(changed) > 1 or greater.shape[changed[0]] != less.shape[changed[0]] + 1:
        raise Unshareable(
            f"{name} of its blocks grows from {tuple(less.shape)} to {tuple(greater.shape)} by an example", "parts"
        )
    return _Axis(changed[0], False)
