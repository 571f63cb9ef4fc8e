"""What a rule is: how an operation carries the terms of its inputs on to its outputs, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, Union

from .tape import Operation, Ref
from .terms import Leaf, Size, Solver, Term, normal, quotient, size_of

__all__ = ["RULES", "UNIT", "Rule", "Terms", "Unknown", "Walk", "divided", "kept_where_equal", "rule", "size"]

Terms = list[Term]
"""Of the axes of one tensor."""
UNIT: Size = (1, 1)


class Unknown(Exception):  # noqa: N818
    """What an operation does along a changing axis is not known."""


class Walk(Protocol):
    """What a rule may ask of the walk along both tapes."""

    solver: Solver
    origin: str

    def terms(self, ours: Ref, theirs: Ref) -> Terms:
        """Return the terms of a tensor's axes."""

    def meet(self, one: Term, other: Term) -> None:
        """Make two axes one."""

    def leaf(self, small: int, full: int, *, pinned: bool = False) -> Leaf:
        """Return a new axis without structure; a pinned one gets none, as its units are the first ones."""

    def wish(self, one: Term, other: Term) -> None:
        """Make two axes one in the end, where nothing contradicts it."""

    def count(self, numbers: Ref, term: Term) -> None:
        """Note that numbers are those of places of an axis."""

    def counted(self, numbers: Ref) -> Term | None:
        """Return the axis of whose places these are the numbers; None where the model did not find them itself."""

    def doubt(self, *terms: Term) -> None:
        """Note that what happens along these axes is not known."""

    def statistic(self, *terms: Term) -> None:
        """Note that numbers along these axes are put together, whatever units they are of."""


Rule = Callable[[Walk, Operation, Operation], Union[list[Terms], None]]
"""Takes the operation of the small and of the full model; returns terms for each output, None without an answer."""
RULES: dict[str, Rule] = {}
_Rule = TypeVar("_Rule", bound=Rule)


def rule(*names: str) -> Callable[[_Rule], _Rule]:
    """Make a function the rule of some operations."""

    def add(function: _Rule) -> _Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def size(term: Term) -> Size:
    """Return the size of a term, whatever its leaves turned out to be."""
    return size_of(normal(term))


def kept_where_equal(walk: Walk, terms: Sequence[Term], ours: Sequence[int], theirs: Sequence[int]) -> Terms:
    """Keep the terms of those axes whose sizes stay; the others begin anew."""
    return [
        term if size(term) == pair else walk.leaf(*pair)
        for term, pair in zip(terms, zip(ours, theirs, strict=True), strict=True)
    ]


def divided(term: Term, by: Size) -> Size:
    """Divide the size of an axis.

    Raises:
        Unknown: If there is a rest.
    """
    found = quotient(size(term), by)
    if found is None:
        small, full = size(term)
        raise Unknown(f"{small} units, and {full} in the full model, are no whole number of {by[0]} and of {by[1]}")
    return found
