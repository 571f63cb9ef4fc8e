"""Skeletons: formulas without the values of their constants."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, permutations
from typing import Any

from .algebra import (
    Atom,
    Coefficient,
    Monomial,
    NoFormulaError,
    Poly,
    Sum,
    freeze,
    rebuild,
    scale,
    variable,
    variables_of,
)
from .text import parse

__all__ = [
    "Skeleton",
    "constants_of",
    "fill",
    "fingerprint",
    "join",
    "read_skeleton",
    "scale_free",
    "shorter",
    "skeleton_of",
    "with_values",
]

Skeleton = Sum
"""A sum whose coefficients are the numbers of constants, in the order of the text, or 1 or -1."""

_WITH_LEAD = ("log", "sqrt", "group")


def skeleton_of(formula: Poly | Sum) -> Skeleton:
    """Replace the numbers of a formula by constants.

    Every term gets a constant, and the whole a constant term, so that the skeleton does not change with the scale of
    variables, nor with the scale and mean of y. Signs are the constants' own: `x1 - x2` is `C*x1+C*x2+C`. The first
    term inside of log, sqrt and brackets keeps its sign and has no constant, for a factor stands in front of them.

    Args:
        formula: In canonical form, with values.

    Example:
        >>> from sortednet.symbolic.expressions import to_text
        >>> to_text(skeleton_of(parse("2*sin(x1 - 1)/x2 + log(3*x1 + 1)")))
        'C*log(x1+C)+C*sin(C*x1+C)*x2**-1+C'
    """
    return with_values(formula)[0]


def with_values(formula: Poly | Sum) -> tuple[Skeleton, list[float]]:
    """Return the skeleton of a formula, and the values of its constants by their number."""
    terms = tuple(term for term in (freeze(formula) if isinstance(formula, dict) else formula) if term[0])
    bias = sum(own for monomial, own in (formula.items() if isinstance(formula, dict) else formula) if not monomial)
    values: list[float] = []
    whole = _numbered([part for _, part in _arranged(terms, lead=False)], values)
    return (*whole, ((), len(values))), [*values, float(bias)]


# A term as it will be printed: atoms, coefficient, and whether that is no constant but stays. Sorted by its skeleton.
_Part = tuple[list[tuple[str, Any, int]], float, bool]


def _arranged(formula: Sum, lead: bool) -> list[tuple[tuple[Monomial, float], _Part]]:
    found = []
    for place, (monomial, coefficient) in enumerate(formula):
        fixed = lead and not place
        if fixed and coefficient < 0:
            monomial, coefficient = _sign_taken_in(monomial, coefficient)
        atoms: list[tuple[tuple[Atom, int], tuple[str, Any, int]]] = []
        for (kind, inner), exponent in monomial:
            if kind == "x":
                atoms.append((((kind, inner), exponent), (kind, inner, exponent)))
                continue
            parts = _arranged(inner, lead=kind in _WITH_LEAD)
            bare = tuple(key for key, _ in parts)
            atoms.append((((kind, bare), exponent), (kind, [part for _, part in parts], exponent)))
        atoms.sort(key=lambda atom: atom[0])
        key = tuple(atom for atom, _ in atoms), coefficient if fixed else 0
        found.append((key, ([atom for _, atom in atoms], float(coefficient), fixed)))
    return sorted(found, key=lambda one: (not one[0][0], len(one[0][0]), one[0]))


def _sign_taken_in(monomial: Monomial, coefficient: Coefficient) -> tuple[Monomial, Coefficient]:
    """Move a minus sign into an odd function, whose constants may have any sign."""
    for place, ((kind, inner), exponent) in enumerate(monomial):
        if kind in ("sin", "asin") and exponent % 2:
            turned = (kind, tuple((one, -own) for one, own in inner))
            return (*monomial[:place], (turned, exponent), *monomial[place + 1 :]), -coefficient
    return monomial, coefficient


def _numbered(parts: Sequence[_Part], values: list[float]) -> Sum:
    found: list[tuple[Monomial, Coefficient]] = []
    for atoms, coefficient, fixed in parts:
        own: Coefficient = coefficient
        if not fixed:
            own = len(values)
            values.append(coefficient)
        monomial = tuple(((kind, inner if kind == "x" else _numbered(inner, values)), e) for kind, inner, e in atoms)
        found.append((monomial, own))
    return tuple(found)


def shorter(formula: Sum) -> Iterator[Sum]:
    """Yield a formula without one of its parts: a term of any sum inside of it, or a factor of a product.

    Args:
        formula: With values. What is yielded is in canonical form.
    """
    for reduced in _reduced(formula, top=True):
        with suppress(NoFormulaError):
            yield freeze(rebuild(reduced, variable))


def _reduced(formula: Sum, top: bool) -> Iterator[Sum]:
    for place, (monomial, coefficient) in enumerate(formula):
        before, behind = formula[:place], formula[place + 1 :]
        if len(formula) > 1 and not (top and not monomial):
            yield (*before, *behind)
        for number, ((kind, inner), exponent) in enumerate(monomial):
            others = (*monomial[:number], *monomial[number + 1 :])
            if others:
                yield (*before, (others, coefficient), *behind)
            if kind != "x":
                for less in _reduced(inner, top=False):
                    if any(part for part, _ in less):
                        changed = (*monomial[:number], ((kind, less), exponent), *monomial[number + 1 :])
                        yield (*before, (changed, coefficient), *behind)


def read_skeleton(text: str) -> Skeleton:
    """Read the text of a skeleton, in canonical form whatever was written.

    Raises:
        DataError: If it is no formula.
    """
    return skeleton_of(parse(text))


def scale_free(skeleton: Skeleton) -> Skeleton:
    """Return the skeleton that a formula has once its variables are multiplied by numbers.

    That is the skeleton itself, but where a logarithm is inside of a product or a function: log(2 x1) is log(x1) and a
    number, so that `C*log(x1)*x2+C` becomes `C*log(x1)*x2+C*x2+C`. Where the factor beside the logarithm has constants
    of its own, as in `C*log(x1)*cos(C*x2)+C`, there is none that does not change: the last of a few steps is returned.

    Example:
        >>> from sortednet.symbolic.expressions import to_text
        >>> to_text(scale_free(read_skeleton("C*log(x1)*x2+C")))
        'C*x2+C*log(x1)*x2+C'
    """
    for _ in range(_MOST_STEPS):
        generic = fill(skeleton, [1.0 + _GENERIC * place for place in range(1, constants_of(skeleton) + 1)])
        scaled = skeleton_of(rebuild(generic, lambda index: scale(variable(index), 1.5 + _GENERIC * index)))
        if scaled == skeleton:
            break
        skeleton = scaled
    return skeleton


_MOST_STEPS = 4
_GENERIC = 0.7390851332151607


def constants_of(skeleton: Sum) -> int:
    """Count the constants of a skeleton."""
    return sum(
        isinstance(coefficient, int) + sum(constants_of(inner) for (kind, inner), _ in monomial if kind != "x")
        for monomial, coefficient in skeleton
    )


def fill(skeleton: Skeleton, values: Sequence[float]) -> Sum:
    """Put values in place of the constants. The result is not simplified.

    Args:
        skeleton: The skeleton.
        values: By the constants' numbers.
    """
    found = []
    for monomial, coefficient in skeleton:
        own = float(values[coefficient]) if isinstance(coefficient, int) else coefficient
        atoms = (((kind, inner if kind == "x" else fill(inner, values)), e) for (kind, inner), e in monomial)
        found.append((tuple(atoms), own))
    return tuple(found)


def join(terms: Sequence[tuple[Monomial, Sequence[float]]]) -> tuple[Skeleton, list[float]]:
    """Make a skeleton of terms of others.

    Args:
        terms: Terms without their coefficients, and the values of all constants of the skeleton that each is from.

    Returns:
        The skeleton, and values of its constants: those inside of the terms as they were, 1 for the others.
    """
    values: list[float] = []

    def numbered(formula: Sum, held: Sequence[float]) -> Sum:
        found = []
        for monomial, coefficient in formula:
            own = coefficient
            if isinstance(coefficient, int):
                own = len(values)
                values.append(float(held[coefficient]))
            found.append((renumbered(monomial, held), own))
        return tuple(found)

    def renumbered(monomial: Monomial, held: Sequence[float]) -> Monomial:
        return tuple(((kind, inner if kind == "x" else numbered(inner, held)), e) for (kind, inner), e in monomial)

    whole: list[tuple[Monomial, int]] = []
    for monomial, held in sorted(terms, key=lambda term: (len(term[0]), _unnumbered(term[0]))):
        number = len(values)
        values.append(1.0)
        whole.append((renumbered(monomial, held), number))
    values.append(1.0)
    return (*whole, ((), len(values) - 1)), values


def _unnumbered(monomial: Monomial) -> Monomial:
    def bare(formula: Sum) -> Sum:
        return tuple((_unnumbered(inner), 0 if isinstance(own, int) else own) for inner, own in formula)

    return tuple(((kind, inner if kind == "x" else bare(inner)), e) for (kind, inner), e in monomial)


def fingerprint(skeleton: Skeleton) -> str:
    """Return 16 hexadecimal digits that stand for a skeleton, whatever its variables are called.

    Skeletons that differ by the order of their variables alone, or by signs, have the same one; with more than six
    variables, those that differ by a rotation of them.

    Example:
        >>> fingerprint(read_skeleton("C*x1*sin(C*x2)")) == fingerprint(read_skeleton("C*x3*sin(C*x1)"))
        True
    """
    numbers = sorted(variables_of(skeleton))
    orders = permutations(numbers) if len(numbers) <= _MOST_PERMUTED else _rotations(numbers)
    first = min(repr(_structure(skeleton, dict(zip(order, count(1))))) for order in orders)
    return hashlib.sha256(first.encode()).hexdigest()[:16]


_MOST_PERMUTED = 6


def _rotations(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return ((*numbers[first:], *numbers[:first]) for first in range(len(numbers)))


def _structure(formula: Sum, names: Mapping[int, int]) -> list[Any]:
    """Return what a skeleton is made of, in order, with other names of its variables and without its coefficients."""
    return sorted(
        sorted(
            [kind, str(names[inner]) if kind == "x" else repr(_structure(inner, names)), exponent]
            for (kind, inner), exponent in monomial
        )
        for monomial, _ in formula
    )
