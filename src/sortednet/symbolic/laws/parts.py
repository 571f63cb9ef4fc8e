"""What simple laws are made of: arguments, functions of them, monomials; as text, with their values at points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations, product
from typing import Any, NamedTuple, final

import numpy as np

__all__ = ["Part", "arguments", "factors", "monomials", "power_text", "terms"]

_MOST_TRIPLES = 6  # variables, up to which arguments of three are looked at
_MOST_QUADRUPLES = 7
_FLAT = 1e-9  # a logarithm that varies less is that of a constant


@final
class Part(NamedTuple):
    """A formula without constants.

    Attributes:
        text: The formula.
        values: At the points. Shape (N,).
    """

    text: str
    values: Any


_FUNCTIONS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("sin({})", np.sin),
    ("cos({})", np.cos),
    ("exp({})", np.exp),
    ("log({})", np.log),
    ("tanh({})", np.tanh),
    ("sin(0.5*{})", lambda u: np.sin(u / 2)),
    ("exp(-0.5*{}**2)", lambda u: np.exp(-u * u / 2)),
    ("(exp({})-1)", np.expm1),
    ("(1-{}**2)", lambda u: 1 - u * u),
    ("(1+{}**2)", lambda u: 1 + u * u),
    ("(1-{})", lambda u: 1 - u),
    ("(1+{})", lambda u: 1 + u),
    ("(1-cos({}))", lambda u: 1 - np.cos(u)),
    ("(1+cos({}))", lambda u: 1 + np.cos(u)),
)
_IN_SUMS = ("sin({})", "cos({})", "exp({})", "log({})")


def power_text(base: str, exponent: float) -> str:
    """Print a power; empty for the power 0."""
    if not exponent:
        return ""
    if exponent == 1:
        return base
    return f"{base}**{int(exponent) if exponent == int(exponent) else f'({float(exponent)!r})'}"


def _monomial(x: Any, powers: Sequence[tuple[int, int]]) -> Part:
    text = "*".join(power_text(f"x{place + 1}", exponent) for place, exponent in powers)
    values: Any = 1.0
    for place, exponent in powers:
        values = values * x[:, place] ** float(exponent)
    return Part(f"({text})", values)


def arguments(x: Any) -> Iterator[Part]:
    """Yield what functions are taken of: variables, products of powers, sums and differences of two.

    Args:
        x: Points. Shape (N, D). Values need not be finite where a variable is 0.
    """
    count = x.shape[1]
    for place in range(count):
        yield Part(f"x{place + 1}", x[:, place])
    for i, j in combinations(range(count), 2):
        for first, second in ((1, 1), (1, -1), (-1, 1), (1, 2), (2, 1), (1, -2), (-2, 1)):
            yield _monomial(x, [(i, first), (j, second)])
        yield from _sums(x, i, j)
    if count <= _MOST_TRIPLES:
        for places in combinations(range(count), 3):
            for signs in product((1, -1), repeat=3):
                if 1 in signs:
                    yield _monomial(x, list(zip(places, signs, strict=True)))
        for i, j, k in permutations(range(count), 3):
            if i < j:
                difference = x[:, i] - x[:, j]
                yield Part(f"((x{i + 1}-x{j + 1})*x{k + 1})", difference * x[:, k])
                yield Part(f"((x{i + 1}-x{j + 1})*x{k + 1}**-1)", difference / x[:, k])
    if count <= _MOST_QUADRUPLES:
        for four in combinations(range(count), 4):
            for signs in product((1, -1), repeat=3):
                yield _monomial(x, list(zip(four, (1, *signs), strict=True)))


def _sums(x: Any, i: int, j: int) -> Iterator[Part]:
    a, b = x[:, i], x[:, j]
    yield Part(f"(x{i + 1}-x{j + 1})", a - b)
    yield Part(f"(x{i + 1}+x{j + 1})", a + b)
    yield Part(f"(x{i + 1}**2-x{j + 1}**2)", a * a - b * b)
    yield Part(f"(x{i + 1}**2+x{j + 1}**2)", a * a + b * b)


def factors(x: Any) -> list[Part]:
    """Return functions of arguments that a law may be a product of; their logarithms are finite and vary.

    Args:
        x: Points. Shape (N, D).
    """
    found: list[Part] = []
    with np.errstate(all="ignore"):
        for argument in arguments(x):
            if "+" in argument.text or "-x" in argument.text:
                found += _usable([argument])
            found += _usable(
                Part(text.format(argument.text), function(argument.values)) for text, function in _FUNCTIONS
            )
    return found


def _usable(parts: Any) -> Iterator[Part]:
    for part in parts:
        sizes = np.abs(part.values)
        if np.isfinite(sizes).all() and sizes.min() > 1e-12 * max(1e-300, sizes.max()) and np.log(sizes).std() > _FLAT:
            yield part


def monomials(x: Any, degree: int, lowest: int = -2) -> list[Part]:
    """Return products of at most three powers of variables, those that are finite.

    Args:
        x: Points. Shape (N, D).
        degree: Of the whole at most: the sum of the sizes of the powers.
        lowest: The lowest power of a variable.
    """
    found: list[Part] = []
    exponents = [one for one in range(lowest, degree + 1) if one]
    with np.errstate(all="ignore"):
        for count in range(1, min(3, x.shape[1]) + 1):
            for places in combinations(range(x.shape[1]), count):
                for powers in product(exponents, repeat=count):
                    if sum(map(abs, powers)) <= degree:
                        part = _monomial(x, list(zip(places, powers, strict=True)))
                        if np.isfinite(part.values).all():
                            found.append(part)
    return found


def terms(x: Any, degree: int) -> list[Part]:
    """Return what a law may be a sum of: monomials, functions of small arguments, and these times a variable.

    Args:
        x: Points. Shape (N, D).
        degree: Of the monomials.
    """
    count = x.shape[1]
    found = monomials(x, degree)
    with np.errstate(all="ignore"):
        inner = [Part(f"x{place + 1}", x[:, place]) for place in range(count)]
        inner += [Part(f"x{place + 1}**2", x[:, place] ** 2) for place in range(count)]
        for i, j in combinations(range(count), 2):
            inner += [_monomial(x, [(i, 1), (j, 1)]), _monomial(x, [(i, 1), (j, -1)]), _monomial(x, [(i, -1), (j, 1)])]
            inner += _sums(x, i, j)
        for argument in inner:
            if "(" in argument.text and ("+" in argument.text or "-x" in argument.text):
                found.append(Part(f"{argument.text}**-1", 1 / argument.values))
            own = [
                *(Part(text.format(argument.text), function(argument.values))
                  for text, function in _FUNCTIONS if text in _IN_SUMS),
                Part(f"sqrt({argument.text})", np.sqrt(argument.values)),
                Part(f"exp(-{argument.text})", np.exp(-argument.values)),
                Part(f"log(1+{argument.text})", np.log1p(argument.values)),
                Part(f"(1+{argument.text})**-1", 1 / (1 + argument.values)),
            ]  # fmt: skip
            found += own
            if count <= 4:
                beside = [_monomial(x, [(place, 1)]) for place in range(count)]
                beside += [_monomial(x, [(i, 1), (j, 1)]) for i, j in combinations(range(count), 2)]
                beside += [Part(f"sqrt{one.text}", np.sqrt(one.values)) for one in beside[count:]]
                found += [
                    Part(f"{one.text}*{other.text}", one.values * other.values) for other in own for one in beside
                ]
    unique: dict[str, Part] = {}
    for part in found:
        if np.isfinite(part.values).all() and np.ptp(part.values) > 0:
            unique.setdefault(part.text, part)
    return list(unique.values())
