"""Terms: how the units of an axis of the small model lie among those of the full model.

An axis is n units in the small model and N in the full one. Its term says which of the N the n are: a `Leaf` keeps the
first n; a `Sum` holds blocks one behind the other, as concatenation and slices make them; a `Product` holds blocks one
inside the other, as views make them (heads x units of a head). Sizes are always pairs (n, N), so that a term splits at
one place in both models at once.

Where two axes turn out to be the same axis, their terms are unified, as in the unification of logic: a leaf that has no
structure yet takes that of the other, and splits where the other does. A step that fails is undone whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Union

__all__ = [
    "Conflict",
    "Leaf",
    "Product",
    "Size",
    "Solver",
    "Stretches",
    "Sum",
    "Term",
    "is_fixed",
    "leaves_of",
    "normal",
    "quotient",
    "size_of",
    "stretches_of",
    "text_of",
]

Size = tuple[int, int]
"""Of an axis: in the small model, in the full one."""
Stretches = tuple[tuple[int, int], ...]

_NOTHING, _ONE = (0, 0), (1, 1)
_MOST_BLOCKS = 256  # of a product that is written as a sum


class Conflict(Exception):  # noqa: N818
    """Two axes meet that no one map serves."""


class Leaf:
    """Units without structure so far: the small model's are the first ones of the full model's.

    Attributes:
        small: Their number in the small model.
        full: In the full model.
        origin: Where it came up.
        pinned: Whether they are the first ones whatever it meets: a part of an axis that nothing changes.
        bound: What it turned out to be; None while nothing is known.
    """

    __slots__ = ("bound", "full", "origin", "pinned", "small")

    def __init__(self, small: int, full: int, origin: str = "", *, pinned: bool = False) -> None:
        self.small, self.full, self.origin, self.pinned = small, full, origin, pinned
        self.bound: Term | None = None


class Sum:
    """Blocks one behind the other."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Term]) -> None:
        self.parts = tuple(parts)


class Product:
    """Blocks one inside the other, the outermost first."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Term]) -> None:
        self.parts = tuple(parts)


Term = Union[Leaf, Sum, Product]


def normal(term: Term) -> Term:
    """Resolve what leaves turned out to be; flatten, without empty parts of sums and factors of one."""
    while isinstance(term, Leaf):
        if term.bound is None:
            return term
        term = term.bound
    kind, idle = type(term), _NOTHING if isinstance(term, Sum) else _ONE
    parts: list[Term] = []
    for part in map(normal, term.parts):
        if isinstance(part, kind):
            parts += part.parts
        elif size_of(part) != idle:
            parts.append(part)
    return Leaf(*idle) if not parts else parts[0] if len(parts) == 1 else kind(parts)


def size_of(term: Term) -> Size:
    """Return how many units there are in both models."""
    if isinstance(term, Leaf):
        return term.small, term.full
    sizes = [size_of(part) for part in term.parts]
    if isinstance(term, Sum):
        return sum(small for small, _ in sizes), sum(full for _, full in sizes)
    return math.prod(small for small, _ in sizes), math.prod(full for _, full in sizes)


def leaves_of(term: Term) -> list[Leaf]:
    """Return the leaves of a term, one that occurs twice twice."""
    term = normal(term)
    return [term] if isinstance(term, Leaf) else [leaf for part in term.parts for leaf in leaves_of(part)]


def is_fixed(term: Term) -> bool:
    """Whether nothing in it changes, so that it is the identity however it is grouped."""
    return all(leaf.small == leaf.full for leaf in leaves_of(term))


def quotient(size: Size, by: Size) -> Size | None:
    """Divide in both models; None where it leaves a rest."""
    if 0 in by or size[0] % by[0] or size[1] % by[1]:
        return None
    return size[0] // by[0], size[1] // by[1]


def text_of(term: Term) -> str:
    """Write a term: `2/4 x 8` for 2 of 4 blocks of 8 units, `2/4 + 3/6` for two blocks behind each other."""
    term = normal(term)
    if isinstance(term, Leaf):
        return str(term.full) if term.small == term.full else f"{term.small}/{term.full}"
    if isinstance(term, Sum):
        return " + ".join(map(text_of, term.parts))
    return " x ".join(f"({text_of(part)})" if isinstance(part, Sum) else text_of(part) for part in term.parts)


def stretches_of(term: Term) -> Stretches:
    """Read a term as the (start, length) of the stretches of the full axis that make up the small one, in order.

    Example:
        >>> stretches_of(Product([Leaf(2, 4), Leaf(3, 3)])), stretches_of(Product([Leaf(2, 2), Leaf(1, 3)]))
        (((0, 6),), ((0, 1), (3, 1)))
    """
    found = _stretches(normal(term))
    joined: list[tuple[int, int]] = []
    for start, length in found:
        if joined and sum(joined[-1]) == start:
            joined[-1] = joined[-1][0], joined[-1][1] + length
        elif length:
            joined.append((start, length))
    return tuple(joined) or ((0, 0),)


def _stretches(term: Term) -> list[tuple[int, int]]:
    if isinstance(term, Leaf):
        return [(0, term.small)]
    if isinstance(term, Sum):
        found, start = [], 0
        for part in term.parts:
            found += [(start + first, length) for first, length in _stretches(part)]
            start += size_of(part)[1]
        return found
    found = [(0, 1)]
    for part in term.parts:
        small, full = size_of(part)
        if small == full and is_fixed(part):
            found = [(start * full, length * full) for start, length in found]
        else:
            inner = _stretches(part)
            blocks = [block for start, length in found for block in range(start, start + length)]
            found = [(block * full + start, length) for block in blocks for start, length in inner]
    return found


class Solver:
    """Unifies terms, and can take back what it did."""

    def __init__(self) -> None:
        self._bound: list[Leaf] = []

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what was bound inside, if it ends with an exception."""
        mark = len(self._bound)
        try:
            yield
        except BaseException:
            self._undo(mark)
            raise

    def _undo(self, mark: int) -> None:
        while len(self._bound) > mark:
            self._bound.pop().bound = None

    def _bind(self, leaf: Leaf, term: Term) -> None:
        leaf.bound = term
        self._bound.append(leaf)

    def _opened(self, leaf: Leaf) -> Sum:
        """Write a pinned leaf as its first units, and none of those behind."""
        parts = Sum([Leaf(leaf.small, leaf.small, leaf.origin), Leaf(0, leaf.full - leaf.small, leaf.origin)])
        self._bind(leaf, parts)
        return parts

    def unify(self, one: Term, other: Term, origin: str = "") -> None:
        """Make two axes the same axis.

        Raises:
            Conflict: If they cannot be.
        """
        one, other = normal(one), normal(other)
        if one is other:
            return
        if size_of(one) != size_of(other):
            raise Conflict(f"{text_of(one)} meets {text_of(other)}")
        if is_fixed(one) and is_fixed(other):
            return
        if isinstance(one, Leaf) and (not one.pinned or (isinstance(other, Leaf) and other.pinned)):
            self._bind(one, other)
        elif isinstance(other, Leaf) and not other.pinned:
            self._bind(other, one)
        elif isinstance(one, Leaf) or isinstance(other, Leaf):
            one, other = (self._opened(term) if isinstance(term, Leaf) else term for term in (one, other))
            self._unify_sums(one, other, origin)
        elif isinstance(one, Product) and isinstance(other, Product):
            mark = len(self._bound)
            try:
                self._unify_products(one, other, origin)
            except Conflict:
                self._undo(mark)
                # A fixed number of equal blocks is also a sum of them, which splits anywhere.
                if not (is_fixed(one.parts[0]) and is_fixed(other.parts[0])):
                    raise
                self._unify_sums(_as_sum(one), _as_sum(other), origin)
        else:
            self._unify_sums(one, other, origin)

    def _unify_products(self, one: Product, other: Product, origin: str) -> None:
        """Walk both from the innermost factor outwards; the larger one becomes blocks of the smaller."""
        left, right = list(one.parts), list(other.parts)
        while left and right:
            x, y = normal(left.pop()), normal(right.pop())
            if isinstance(x, Product) or isinstance(y, Product):
                left += x.parts if isinstance(x, Product) else [x]
                right += y.parts if isinstance(y, Product) else [y]
                continue
            if _ONE in (size_of(x), size_of(y)):
                left += [x] if size_of(x) != _ONE else []
                right += [y] if size_of(y) != _ONE else []
                continue
            if size_of(x) == size_of(y):
                self.unify(x, y, origin)
                continue
            larger, smaller, rest = x, y, left
            count = quotient(size_of(x), size_of(y))
            if count is None:
                larger, smaller, rest = y, x, right
                count = quotient(size_of(y), size_of(x))
            if count is None:
                raise Conflict(
                    f"{text_of(one)} meets {text_of(other)}: {text_of(x)} and {text_of(y)} hold no whole number of "
                    "each other"
                )
            if count[0] > count[1] and size_of(larger)[0] <= size_of(larger)[1]:
                raise Conflict(
                    f"{text_of(larger)} cannot hold blocks of {text_of(smaller)}: they would be {count[0]}, and "
                    f"{count[1]} in the full model"
                )
            outer = Leaf(*count, origin)
            self.unify(larger, Product([outer, smaller]), origin)
            rest.append(outer)
        if size_of(normal(Product(left + right))) != _ONE:
            raise Conflict(f"{text_of(one)} meets {text_of(other)}")

    def _unify_sums(self, one: Term, other: Term, origin: str) -> None:
        """Walk both from the first block on; the longer one is parted where the shorter ends."""
        left, right = [one], [other]
        while left and right:
            x, y = normal(left.pop(0)), normal(right.pop(0))
            if isinstance(x, Sum) or isinstance(y, Sum):
                left[:0] = x.parts if isinstance(x, Sum) else [x]
                right[:0] = y.parts if isinstance(y, Sum) else [y]
                continue
            if _NOTHING in (size_of(x), size_of(y)):
                left[:0] = [x] if size_of(x) != _NOTHING else []
                right[:0] = [y] if size_of(y) != _NOTHING else []
                continue
            ours, theirs = size_of(x), size_of(y)
            if ours == theirs:
                self.unify(x, y, origin)
            elif ours[0] <= theirs[0] and ours[1] <= theirs[1]:
                y, more = self.part(y, ours, origin)
                right.insert(0, more)
                self.unify(x, y, origin)
            elif ours[0] >= theirs[0] and ours[1] >= theirs[1]:
                x, more = self.part(x, theirs, origin)
                left.insert(0, more)
                self.unify(x, y, origin)
            else:
                raise Conflict(
                    f"{text_of(one)} meets {text_of(other)}: the blocks {text_of(x)} and {text_of(y)} end at different "
                    "places"
                )

    def part(self, term: Term, at: Size, origin: str = "") -> tuple[Term, Term]:
        """Part an axis at a place given in both models.

        Raises:
            Conflict: If that is inside a block of one of them only, or one part would be larger in the small model.
        """
        term = normal(term)
        whole = size_of(term)
        if at == _NOTHING:
            return Leaf(0, 0), term
        if at == whole:
            return term, Leaf(0, 0)
        if not (0 <= at[0] <= whole[0] and 0 <= at[1] <= whole[1]):
            raise Conflict(f"{text_of(term)} is parted at {at[0]} of {at[1]}")
        if isinstance(term, Leaf):
            return self._part_leaf(term, at, origin)
        if isinstance(term, Sum):
            return self._part_sum(term, at, origin)
        outer, inner = term.parts[0], Product(term.parts[1:])
        inside = size_of(inner)
        if 0 in inside:
            raise Conflict(f"{text_of(term)} is parted at {at[0]} of {at[1]}, among blocks that one model lacks")
        (blocks_small, more_small), (blocks_full, more_full) = divmod(at[0], inside[0]), divmod(at[1], inside[1])
        before, after = self.part(outer, (blocks_small, blocks_full), origin)
        if (more_small, more_full) == _NOTHING:
            return Product([before, inner]), Product([after, inner])
        # Inside of a block, whose parts are then parts of every block.
        _, after = self.part(after, _ONE, origin)
        first, second = self.part(inner, (more_small, more_full), origin)
        return Sum([Product([before, inner]), first]), Sum([second, Product([after, inner])])

    def _part_leaf(self, leaf: Leaf, at: Size, origin: str) -> tuple[Term, Term]:
        if leaf.pinned:
            return self._part_sum(self._opened(leaf), at, origin)
        rest = leaf.small - at[0], leaf.full - at[1]
        if leaf.small <= leaf.full and (at[0] > at[1] or rest[0] > rest[1]):
            raise Conflict(
                f"{text_of(leaf)} is parted at {at[0]} of {at[1]}: one part would be larger in the small model"
            )
        parts = Leaf(*at, origin), Leaf(*rest, origin)
        self._bind(leaf, Sum(parts))
        return parts

    def _part_sum(self, term: Sum, at: Size, origin: str) -> tuple[Term, Term]:
        small, full = at
        for place, part in enumerate(term.parts):
            here = size_of(part)
            if small <= here[0] and full <= here[1]:
                first, second = self.part(part, (small, full), origin)
                return Sum([*term.parts[:place], first]), Sum([second, *term.parts[place + 1 :]])
            small, full = small - here[0], full - here[1]
            if small < 0 or full < 0:
                break
        raise Conflict(f"{text_of(term)} is parted at {at[0]} of {at[1]}, inside a block of one of the models only")


def _as_sum(term: Product) -> Sum:
    count, inner = size_of(term.parts[0])[0], Product(term.parts[1:])
    if count > _MOST_BLOCKS:
        raise Conflict(f"{text_of(term)} has more than {_MOST_BLOCKS} blocks")
    return Sum([inner] * count)
