"""What a watched setting tells of the others: terms whose leaves have numbers, solved for other sizes, kept as text.

The structure of an axis is the same at every setting; only the sizes of its leaves change. A leaf that several axes
share has one size in all of them, so that the shapes of a smaller model, which are known without running it, give the
sizes of the leaves, and these the cut. As text, `2/4@1 x 8` is 2 of 4 blocks of 8 units, of the leaf of number 1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .tape import pattern_of
from .terms import Leaf, Product, Stretches, Sum, Term, is_fixed, leaves_of, normal, size_of, stretches_of

__all__ = ["Axis", "Structure", "solved"]

Axis = tuple[str, int]
"""The name of a tensor and the place of one of its axes."""
Shapes = Mapping[str, Sequence[int]]

_TOKEN = re.compile(r"\s*(?:(\d{1,12})(?:/(\d{1,12})@(\d{1,9}))?|([x+()]))")
_AXIS = re.compile(r"(.+)\[(\d{1,3})\]")
_MOST_TOKENS, _MOST_DEPTH = 10_000, 20


@dataclass(frozen=True)
class Structure:
    """The terms of all axes that change at one setting.

    Attributes:
        changed: The dimensions that are not at their largest value there.
        terms: By axis; a leaf that several share is one object.
    """

    changed: frozenset[str]
    terms: Mapping[Axis, Term]

    @classmethod
    def of(cls, changed: Iterable[str], terms: Mapping[str, Sequence[Term]]) -> Structure:
        """Take the axes that change from the terms of all tensors."""
        found = {(name, axis): normal(t) for name, axes in terms.items() for axis, t in enumerate(axes)}
        return cls(frozenset(changed), {axis: term for axis, term in found.items() if not is_fixed(term)})

    def to_json(self) -> dict[str, Any]:
        """Return plain values: by text of a term the axes that it is of."""
        numbers: dict[int, int] = {}
        axes: dict[str, list[str]] = defaultdict(list)
        for (name, axis), term in self.terms.items():
            axes[_text(term, numbers)].append(f"{name}[{axis}]")
        return {"changed": sorted(self.changed), "axes": dict(axes)}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Structure:
        """Read what `to_json` returned.

        Raises:
            ValueError: If it is something else.
        """
        leaves: dict[int, Leaf] = {}
        terms: dict[Axis, Term] = {}
        if held.keys() != {"changed", "axes"} or not isinstance(held["axes"], dict):
            raise ValueError("a structure holds other things than axes")
        for text, axes in held["axes"].items():
            term = _parse(text, leaves)
            for axis in axes:
                found = _AXIS.fullmatch(axis)
                if found is None:
                    raise ValueError(f"{axis!r:.60} is no axis")
                terms[found[1], int(found[2])] = term
        if not all(isinstance(name, str) for name in held["changed"]):
            raise ValueError("a structure is of no dimensions")
        return cls(frozenset(held["changed"]), terms)

    def solve(self, small: Shapes, full: Shapes) -> dict[Axis, Stretches]:
        """Find the cuts at another setting from its shapes; axes whose leaves these do not tell are left out.

        Args:
            small: The shapes of its model's tensors by name.
            full: Those of the full model.
        """
        targets = {
            axis: small[axis[0]][axis[1]]
            for axis, term in self.terms.items()
            if axis[0] in small
            and axis[1] < len(small[axis[0]])
            and size_of(term)[1] == full[axis[0]][axis[1]]
            # Of units that are lacking there, nothing tells which a larger model has.
            and all(leaf.small or not leaf.full for leaf in leaves_of(term))
        }
        leaves = {axis: {id(leaf): leaf for leaf in leaves_of(self.terms[axis])} for axis in targets}
        sizes: dict[int, int] = {}
        left = dict(targets)
        while left:
            found = False
            for axis, target in list(left.items()):
                unknown = [leaf for key, leaf in leaves[axis].items() if key not in sizes and leaf.small != leaf.full]
                if len(unknown) > 1:
                    continue
                del left[axis]
                if unknown:
                    value = _value(self.terms[axis], unknown[0], sizes, target)
                    if value is not None:
                        sizes[id(unknown[0])] = value
                        found = True
            if not found:
                break
        return {
            axis: stretches_of(_with(self.terms[axis], sizes))
            for axis, target in targets.items()
            if all(leaf.small == leaf.full or key in sizes for key, leaf in leaves[axis].items())
            and size_of(_with(self.terms[axis], sizes))[0] == target
        }


def solved(
    structures: Sequence[Structure], changed: Iterable[str], small: Shapes, full: Shapes
) -> dict[Axis, Stretches]:
    """Find the cut of every axis that changes at a setting, from what was watched at others.

    Only settings at which at least the same dimensions change tell anything; those that alone change the size of
    nothing, such as a depth, do not count. Layers that they lack are cut like those of the same name but for numbers,
    where all of them are cut alike.

    Args:
        structures: What was watched.
        changed: The dimensions that are not at their largest value at the setting.
        small: The shapes of its model's tensors by name.
        full: Those of the full model.

    Returns:
        By axis; what cannot be told is left out.
    """
    wanted = {
        (name, axis)
        for name, shape in small.items()
        for axis, size in enumerate(shape)
        if name in full and axis < len(full[name]) and size != full[name][axis]
    }
    idle = frozenset(name for one in structures if len(one.changed) == 1 and not one.terms for name in one.changed)
    dimensions = frozenset(changed) - idle
    found: dict[Axis, Stretches] = {}
    for one in sorted((one for one in structures if one.changed >= dimensions), key=lambda one: len(one.changed)):
        found = {**one.solve(small, full), **found}
        if wanted <= found.keys():
            break
    alike: dict[tuple[str, int, int, int], set[Stretches]] = defaultdict(set)

    def kind(axis: Axis) -> tuple[str, int, int, int]:
        name, place = axis
        return pattern_of(name), place, small[name][place], full[name][place]

    for axis, pieces in found.items():
        alike[kind(axis)].add(pieces)
    for axis in wanted - found.keys():
        if len(alike[kind(axis)]) == 1:
            found[axis] = next(iter(alike[kind(axis)]))
    return {axis: pieces for axis, pieces in found.items() if axis in wanted}


def _with(term: Term, sizes: Mapping[int, int]) -> Term:
    """Return a term with other sizes of its leaves."""
    if isinstance(term, Leaf):
        return Leaf(sizes.get(id(term), term.small), term.full)
    return type(term)([_with(part, sizes) for part in term.parts])


def _value(term: Term, leaf: Leaf, sizes: Mapping[int, int], target: int) -> int | None:
    """Find the size of one leaf with which the axis has `target` units: it grows with it."""
    low, high = 0, leaf.full
    while low < high:
        middle = (low + high) // 2
        if size_of(_with(term, {**sizes, id(leaf): middle}))[0] < target:
            low = middle + 1
        else:
            high = middle
    return low if size_of(_with(term, {**sizes, id(leaf): low}))[0] == target else None


def _text(term: Term, numbers: dict[int, int]) -> str:
    if isinstance(term, Leaf):
        if term.small == term.full:
            return str(term.full)
        return f"{term.small}/{term.full}@{numbers.setdefault(id(term), len(numbers) + 1)}"
    texts = [_text(part, numbers) for part in term.parts]
    if isinstance(term, Sum):
        return " + ".join(texts)
    return " x ".join(
        f"({text})" if isinstance(part, Sum) else text for part, text in zip(term.parts, texts, strict=True)
    )


def _parse(text: Any, leaves: dict[int, Leaf]) -> Term:
    """Read a term: products of numbers, leaves and sums in brackets, and sums of these.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no term")
    tokens: list[tuple[str, ...]] = []
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None or len(tokens) == _MOST_TOKENS:
            raise ValueError(f"{text[:60]!r} is no term")
        tokens.append(tuple(part or "" for part in match.groups()))
        place = match.end()
    term = _parse_sum(tokens[::-1], leaves, _MOST_DEPTH)
    return normal(term)


def _parse_sum(tokens: list[tuple[str, ...]], leaves: dict[int, Leaf], depth: int, *, inner: bool = False) -> Term:
    parts: list[Term] = []
    while True:
        factors: list[Term] = [_parse_factor(tokens, leaves, depth)]
        while tokens and tokens[-1][3] == "x":
            tokens.pop()
            factors.append(_parse_factor(tokens, leaves, depth))
        parts.append(Product(factors))
        if not tokens or (inner and tokens[-1][3] == ")"):
            return Sum(parts)
        if tokens.pop()[3] != "+":
            raise ValueError("a term goes on without a sign")


def _parse_factor(tokens: list[tuple[str, ...]], leaves: dict[int, Leaf], depth: int) -> Term:
    if not tokens or depth == 0:
        raise ValueError("a term ends too early, or holds too many brackets")
    small, full, number, sign = tokens.pop()
    if sign == "(":
        term = _parse_sum(tokens, leaves, depth - 1, inner=True)
        if not tokens or tokens.pop()[3] != ")":
            raise ValueError("a bracket of a term is not closed")
        return term
    if sign:
        raise ValueError(f"a term has {sign!r} where a number is to stand")
    if not full:
        return Leaf(int(small), int(small))
    leaf = leaves.setdefault(int(number), Leaf(int(small), int(full)))
    if (leaf.small, leaf.full) != (int(small), int(full)):
        raise ValueError(f"the leaf {number} has two sizes")
    return leaf
