"""Simple forms that are always tried: planes, polynomials, one function of one variable, waves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from ..constants import Points, least_squares_of
from ..expressions import Poly, Skeleton, parse, read_skeleton
from .parts import power_text

__all__ = ["skeletons", "waves"]

_MOST_TERMS = 20
_MOST_FORMS = 6  # variables, up to which forms of each are tried
_FEW = 2  # variables, up to which longer forms are tried too
_DEGREE = 6
_PER_RANGE = 200  # the most periods in the range of a variable
_FINE = 4  # frequencies tried for each period
_WAVES = 2
_FORMS = (
    "C*sin(C*{0}+C)+C", "C*exp(C*{0})+C", "C*log({0}+C)+C", "C*sqrt({0}+C)+C", "C*({0}+C)**-1+C",
    "C*exp(C*{0}**2)+C", "C*exp(C*{0})+C*{0}+C", "C*sin(C*{0}+C)+C*{0}+C", "C*{0}*exp(C*{0})+C",
)  # fmt: skip
_FORMS_ALONE = (
    "C*exp(C*{0}**2+C*{0})+C", "C*(exp(C*{0})+C)**-1+C", "C*exp(C*{0})+C*exp(C*{0})+C", "C*sqrt({0}**2+C*{0}+C)+C",
    "C*{0}**3*(exp(C*{0})+C)**-1+C", "C*({0}**2+C*{0}+C)**-1+C", "C*(C*{0}+{0}**-1)**-1+C",
)  # fmt: skip
_FORMS_POSITIVE = ("C*exp(C*log({0}))+C", "C*exp(C*{0}**-1)+C", "C*log({0})+C*{0}+C", "C*exp(C*log({0}))*exp(C*{0})+C")


def skeletons(points: Points) -> Iterator[Skeleton]:
    """Yield forms of few constants for so many points, the shortest first.

    Args:
        points: Scaled.

    Example:
        >>> from sortednet.symbolic.expressions import to_text
        >>> x = np.linspace(1, 2, 12)
        >>> [to_text(one) for one in skeletons(Points([x], x, np.ones(12)))][:3]
        ['C*x1+C', 'C*x1+C*x1**2+C', 'C*x1+C*x1**2+C*x1**3+C']
    """
    count, variables = len(points.y), len(points.columns)
    names = [f"x{place}" for place in range(1, variables + 1)]
    yield _sum(names)
    for degree in range(2, _DEGREE + 1):
        terms = ["*".join(_powers(one)) for size in range(1, degree + 1)
                 for one in combinations_with_replacement(names, size)]  # fmt: skip
        if len(terms) > _MOST_TERMS or len(terms) + 2 > count / 2:
            break
        yield _sum(terms)
    if variables > _MOST_FORMS:
        return
    for name, column in zip(names, points.columns, strict=True):
        for degree in range(2, _DEGREE + 1) if variables > 1 else ():
            if degree + 2 <= count / 2:
                yield _sum([power_text(name, power) for power in range(1, degree + 1)])
        for power in (-2, -1):
            if (column != 0).all():
                yield _sum([power_text(name, power)])
        forms = _FORMS + (_FORMS_ALONE if variables <= _FEW else ()) + (_FORMS_POSITIVE if (column > 0).all() else ())
        for form in forms:
            if form.count("C") + 2 <= count:
                yield read_skeleton(form.format(name))


def _powers(names: tuple[str, ...]) -> list[str]:
    return [power_text(name, names.count(name)) for name in dict.fromkeys(names)]


def _sum(terms: list[str]) -> Skeleton:
    return read_skeleton("+".join(f"C*{one}" for one in terms) + "+C")


def waves(points: Points) -> Iterator[Poly]:
    """Yield waves along one variable, beside a line, of the frequencies that leave the least.

    Args:
        points: Scaled.
    """
    for place, column in enumerate(points.columns):
        low, width = float(column.min()), float(np.ptp(column))
        steps = min(_PER_RANGE, len(np.unique(column)) // 2) * _FINE
        if not width or steps < _FINE:
            continue
        base = np.column_stack([np.ones_like(column), column]) * points.roots[:, None]
        left = least_squares_of(base, points.y * points.roots)[1]
        frequencies = 2 * np.pi * np.arange(2, steps + 1) / _FINE / width
        angles = np.outer(column - low, frequencies)
        gains = np.zeros(len(frequencies))
        for number, (sine, cosine) in enumerate(zip(np.sin(angles).T, np.cos(angles).T, strict=True)):
            pair = np.column_stack([sine, cosine]) * points.roots[:, None]
            gains[number] = float((left**2).sum() - (least_squares_of(pair, left)[1] ** 2).sum())
        name = f"x{place + 1}"
        for best in _peaks(gains):
            own: Any = float(frequencies[best])
            pair = np.column_stack([np.sin(angles[:, best]), np.cos(angles[:, best])]) * points.roots[:, None]
            sine, cosine = least_squares_of(pair, left)[0].tolist()
            size, phase = float(np.hypot(sine, cosine)), float(np.arctan2(cosine, sine)) - own * low
            wave = f"sin({own!r}*{name}+({phase!r}))"
            for form in (f"{size!r}*{wave}", f"{size!r}*{wave}+0.1*{name}", f"{size!r}*{name}*{wave}",
                         f"{size!r}*exp(-0.1*{name})*{wave}"):  # fmt: skip
                yield parse(form)


def _peaks(gains: Any) -> list[int]:
    """Return where the largest values are that are larger than their neighbours."""
    padded = np.concatenate([[-np.inf], gains, [-np.inf]])
    tops = np.flatnonzero((gains >= padded[:-2]) & (gains >= padded[2:]))
    return [int(place) for place in tops[np.argsort(-gains[tops], kind="stable")][:_WAVES]]
