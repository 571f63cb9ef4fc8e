"""How good a formula is: the papers' error and its cumulative curve, R2, and whether it is the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ...symbolic import Formula
from ...symbolic.expressions import Monomial, Sum, complexity, evaluate, freeze, parse, rebuild, variable

__all__ = ["BINS", "CEILING", "FLOOR", "curve", "deviation", "is_recovered", "log_mse_n", "mse_n", "r2"]

FLOOR, CEILING = 1e-5, 1e5
"""The papers clip the error to these before they take its logarithm."""

BINS = 2000
_EPSILON = 1e-5
_TOLERANCE = 1e-3
_EQUAL = 1e-6  # 1 - R2 of formulas that may be the same
_MOST_NODES = 60  # of formulas that sympy is asked about


def r2(y: Any, predicted: Any) -> float:
    """Return the coefficient of determination; minus infinity if a prediction is not finite.

    Args:
        y: True values. Shape (N,).
        predicted: Shape (N,).

    Example:
        >>> r2(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
        0.5
    """
    if not np.isfinite(predicted).all():
        return -math.inf
    with np.errstate(over="ignore"):
        left = float(((y - predicted) ** 2).sum())
    return 1 - left / float(((y - y.mean()) ** 2).sum())


def mse_n(y: Any, predicted: Any) -> float:
    """Return the papers' error: the mean squared difference over the norm of y.

    It depends on the scale of y and on the number of points, so it compares methods on the same problems alone.

    Args:
        y: True values. Shape (N,).
        predicted: Shape (N,).

    Returns:
        At least 0; infinity if a prediction is not finite.

    Source:
        Valipour et al. (2021), arXiv:2106.14131, and the code published with it: the norm is of y + 1e-5.

    Example:
        >>> mse_n(np.array([3.0, 4.0]), np.array([3.0, 5.0]))
        0.0999...
    """
    if not np.isfinite(predicted).all():
        return math.inf
    with np.errstate(over="ignore"):
        return float(((y - predicted) ** 2).mean() / np.linalg.norm(y + _EPSILON))


def log_mse_n(error: float) -> float:
    """Return the natural logarithm of an error that is clipped as the papers clip it, in [-11.5, 11.5]."""
    return math.log(min(max(error, FLOOR), CEILING))


def curve(errors: Sequence[float], bins: int = BINS) -> list[tuple[float, float]]:
    """Return the papers' cumulative curve.

    Args:
        errors: MSE_N of each problem.
        bins: Thresholds, evenly spaced from the smallest to the largest logarithm that there can be.

    Returns:
        Thresholds of the logarithm, and the percentage of problems at or below each.

    Example:
        >>> curve([0.0, 1.0, 1.0, 1e9], bins=3)
        [(-11.51..., 25.0), (0.0, 75.0), (11.51..., 100.0)]
    """
    values = np.sort([log_mse_n(error) for error in errors])
    end = math.log(CEILING)
    at = np.linspace(-end, end, bins)
    below = np.searchsorted(values, at + 1e-9, side="right")
    return [(float(one), 100 * float(count) / len(values)) for one, count in zip(at, below, strict=True)]


def deviation(share: float, count: int) -> float:
    """Return the standard deviation of a share that was measured on so many independent problems."""
    return math.sqrt(share * (1 - share) / count)


def is_recovered(found: Sum | None, truth: Sum, tests: Sequence[tuple[Any, Any]]) -> bool:
    """Return whether a formula is the true one.

    It is if both agree on all test points but for rounding (1 - R2 below 1e-6), and they are equal as expressions:
    either their canonical forms have the same terms, with each number within 0.1 % of its counterpart (terms that
    matter less than 0.1 % of the largest one at the test points are left out), or sympy simplifies their difference to
    terms that small. Sympy is asked about short formulas alone (60 nodes in both).

    Args:
        found: In canonical form, with values; None for a method without a formula.
        truth: The same.
        tests: Test points and their values.
    """
    if found is None:
        return False
    with np.errstate(all="ignore"):
        for x, y in tests:
            if not 1 - r2(y, np.broadcast_to(evaluate(found, list(x.T)), y.shape)) < _EQUAL:
                return False
    columns = list(np.concatenate([x for x, _ in tests]).T)
    ours, own = (_relevant(freeze(rebuild(one, variable)), columns) for one in (found, truth))
    return _alike(ours, own) or _is_zero(ours, own, columns)


def _relevant(formula: Sum, columns: Sequence[Any]) -> Sum:
    """Leave out the terms that matter little at the points."""
    with np.errstate(all="ignore"):
        sizes = [float(np.nanmax(np.abs(np.atleast_1d(evaluate((term,), columns))))) for term in formula]
    least = _TOLERANCE * max(sizes, default=0.0)
    return tuple(term for term, size in zip(formula, sizes, strict=True) if size >= least)


def _alike(first: Sum, second: Sum) -> bool:
    """Return whether two sums have the same terms but for small differences of their numbers, in whatever order."""
    if len(first) != len(second):
        return False
    left = list(second)
    for monomial, coefficient in first:
        for place, (other, own) in enumerate(left):
            if _near(coefficient, own) and _alike_products(monomial, other):
                del left[place]
                break
        else:
            return False
    return True


def _alike_products(first: Monomial, second: Monomial) -> bool:
    if len(first) != len(second):
        return False
    left = list(second)
    for (kind, inner), exponent in first:
        for place, ((other, own), times) in enumerate(left):
            same = kind == other and exponent == times
            if same and (inner == own if kind == "x" else _alike(inner, own)):
                del left[place]
                break
        else:
            return False
    return True


def _near(first: float, second: float) -> bool:
    return abs(first - second) <= _TOLERANCE * max(abs(first), abs(second))


def _is_zero(first: Sum, second: Sum, columns: Sequence[Any]) -> bool:
    """Return whether sympy brings the difference to terms that matter little at the points."""
    if complexity(first) + complexity(second) > _MOST_NODES:
        return False
    import sympy

    names = tuple(f"x{place}" for place in range(1, len(columns) + 1))
    ours, own = (Formula(one, names, 0.0, 0).sympy() for one in (first, second))
    terms = sympy.Add.make_args(sympy.expand(sympy.simplify(ours - own)))
    with np.errstate(all="ignore"):
        largest = np.abs(evaluate(second, columns)).max()
        try:
            sizes = [np.abs(evaluate(freeze(parse(str(term))), columns)).max() for term in terms]
        except DataError:  # sympy has found something that is no formula of ours
            return False
    return bool(max(sizes) <= _TOLERANCE * largest)
