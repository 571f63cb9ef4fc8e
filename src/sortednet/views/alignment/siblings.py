"""Siblings: what no model read is cut like what stands for the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from .rules import Terms, size
from .tape import pattern_of
from .terms import Stretches, Term, stretches_of

__all__ = ["ask_siblings"]


def ask_siblings(terms_of: dict[str, Terms], untouched: dict[str, tuple[int, ...]]) -> None:
    """Cut what was not read like what stands for the same.

    An expert that no token chose is cut like that of the same name but for numbers; a token that only training puts
    in, like what lies beside it in its module along the same axis; else all axes of its sizes must agree.

    Args:
        terms_of: By name of a tensor, of each axis; those of siblings take their place.
        untouched: The axes of what was not read; what a sibling tells is taken out.
    """
    known: dict[tuple[object, ...], str] = {}
    beside: dict[tuple[object, ...], dict[Stretches, Term]] = defaultdict(dict)
    ends: dict[tuple[int, int], dict[Stretches, Term]] = defaultdict(dict)
    for name, terms in terms_of.items():
        if name not in untouched:
            known[pattern_of(name), *map(size, terms)] = name
            for axis, term in enumerate(terms):
                ends[size(term)][stretches_of(term)] = term
                beside[_place(name, axis, terms)][stretches_of(term)] = term
    for name in list(untouched):
        terms = terms_of[name]
        sizes = [size(term) for term in terms]
        sibling = known.get((pattern_of(name), *sizes))
        near = [beside[_place(name, axis, terms)] for axis in range(len(terms))]
        if sibling is not None:
            terms_of[name] = terms_of[sibling]
        elif all(small == full or len(own) == 1 for (small, full), own in zip(sizes, near, strict=True)):
            terms_of[name] = _taken(terms, near)
        elif all(small == full or len(ends[small, full]) == 1 for small, full in sizes):
            terms_of[name] = _taken(terms, [ends[pair] for pair in sizes])
        else:
            continue
        del untouched[name]


def _place(name: str, axis: int, terms: Terms) -> tuple[object, ...]:
    """Return what an axis has in common with others of tensors beside it: the module, the rank, the axis, its sizes."""
    return name.rpartition(".")[0], len(terms), axis, size(terms[axis])


def _taken(terms: Terms, others: Sequence[Mapping[Stretches, Term]]) -> Terms:
    """Return terms, of which those that change are the one term of others."""
    pairs = zip(terms, others, strict=True)
    return [next(iter(own.values())) if size(term)[0] != size(term)[1] else term for term, own in pairs]
