"""The constants of a skeleton: linear ones by least squares, the others by BFGS with exact gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy.optimize import least_squares, minimize

from .expressions import Skeleton, constants_of, term_values, term_values_and_derivatives

__all__ = ["Fitted", "Points", "fit_constants", "held_out_error", "least_squares_of"]

_BEYOND = 1e6  # the error of constants that give no finite value
_RIDGE = 1e-10
_REACH = 3.0


@final
@dataclass(frozen=True)
class Points:
    """What constants are fitted to.

    Attributes:
        columns: The values of each variable. Each of shape (N,).
        y: Their values. Shape (N,).
        roots: Roots of the weights of the points, whose mean square is 1. Shape (N,).
    """

    columns: Sequence[Any]
    y: Any
    roots: Any

    def few(self, most: int, generator: np.random.Generator) -> Points:
        """Return at most so many of the points."""
        if len(self.y) <= most:
            return self
        chosen = generator.choice(len(self.y), most, replace=False)
        roots = self.roots[chosen]
        size = np.sqrt((roots**2).mean())
        return Points([one[chosen] for one in self.columns], self.y[chosen], roots / size if size else roots)


@final
@dataclass(frozen=True)
class Fitted:
    """A skeleton with values.

    Attributes:
        skeleton: The skeleton.
        values: Of its constants. Shape (C,).
        error: Weighted mean of the squared differences.
        size: Root of the mean square of the largest term but the constant.
    """

    skeleton: Skeleton
    values: Any
    error: float
    size: float = 0.0


def fit_constants(
    skeleton: Skeleton,
    points: Points,
    generator: np.random.Generator,
    *,
    starts: int = 24,
    kept: int = 2,
    steps: int = 30,
    known: Any | None = None,
    exact: bool = False,
) -> Fitted | None:
    """Find constants that bring a skeleton close to points.

    For values of the constants inside of functions, those in front of terms follow by least squares (variable
    projection), and the gradient of the error that is left is exact. Many starts are compared at once, and the best are
    followed.

    Args:
        skeleton: The skeleton.
        points: The points.
        generator: Of the starts; the first is all ones, as in the papers.
        starts: How many, at least 1.
        kept: How many of them are followed, at least 1.
        steps: Of BFGS for each.
        known: Values of all constants to start from, beside the others. Shape (C,).
        exact: Whether to go on to the last digits by Levenberg and Marquardt.

    Returns:
        The best; None if no start has finite values at all points.
    """
    linear = [coefficient for _, coefficient in skeleton if isinstance(coefficient, int)]
    inner = [number for number in range(constants_of(skeleton)) if number not in set(linear)]
    with np.errstate(all="ignore"):
        if not inner:
            values = np.zeros(len(linear))
            columns = _matrix(term_values(skeleton, points.columns, values), len(points.y))
            return _finished(skeleton, points, values, linear, columns)
        values = _starts(len(inner), starts, generator)
        if known is not None:
            values = np.concatenate([np.asarray(known)[inner][:, None], values], 1)
        error = _Error(skeleton, points, linear, inner)
        ranked = _screened(error, values)
        if not len(ranked):
            return None
        best: Any = None
        for place in ranked[:kept]:
            found = minimize(error, values[:, place], jac=True, method="BFGS", options={"maxiter": steps, "gtol": 1e-9})
            if best is None or found.fun < best[0]:
                best = found.fun, found.x
            if best[0] < 1e-20:
                break
        inside = error.polished(best[1]) if exact else best[1]
        whole = np.zeros(len(linear) + len(inner))
        whole[inner] = inside
        columns = _matrix(term_values(skeleton, points.columns, whole), len(points.y))
        return _finished(skeleton, points, whole, linear, columns)


def held_out_error(fitted: Fitted, points: Points) -> float:
    """Return the error at points left out, one at a time: what is left of y over what the fit does not draw to it.

    Args:
        fitted: A fit to these points.
        points: The points.

    Returns:
        Weighted mean of the squared differences; infinite where there are as many constants as points.
    """
    linear = [coefficient for _, coefficient in fitted.skeleton if isinstance(coefficient, int)]
    values, count = np.asarray(fitted.values, float), len(points.y)
    with np.errstate(all="ignore"):
        slopes = np.zeros((count, len(values)))
        total = np.zeros(count)
        for (_, own), (value, derivatives) in zip(
            fitted.skeleton, term_values_and_derivatives(fitted.skeleton, points.columns, values), strict=True
        ):
            coefficient = values[own] if isinstance(own, int) else own
            total = total + coefficient * value
            for number, slope in derivatives.items():
                slopes[:, number] += coefficient * slope
        for number, value in zip(linear, term_values(fitted.skeleton, points.columns, values), strict=False):
            slopes[:, number] = value
        slopes *= points.roots[:, None]
        slopes = slopes[:, np.abs(slopes).max(0) > 0]
        if slopes.shape[1] >= count or not np.isfinite(slopes).all():
            return np.inf
        vectors, sizes, _ = np.linalg.svd(slopes / np.sqrt((slopes**2).sum(0)), full_matrices=False)
        drawn = (vectors[:, sizes > 1e-10 * sizes[0]] ** 2).sum(1) if len(sizes) else np.zeros(count)
        left = (points.y - total) * points.roots / np.maximum(1 - drawn, 1e-9)
        error = float((left**2).mean())
    return error if np.isfinite(error) else np.inf


def least_squares_of(columns: Any, y: Any) -> tuple[Any, Any]:
    """Return the coefficients of columns, shape (N, P), that come closest to y, and what is left of y."""
    sizes = np.sqrt((columns * columns).sum(0))
    sizes = np.where(sizes > 0, sizes, 1.0)
    scaled = columns / sizes
    found = np.linalg.lstsq(scaled, y, rcond=1e-13)[0]
    return (found.T / sizes).T, y - scaled @ found


def _finished(skeleton: Skeleton, points: Points, values: Any, linear: Sequence[int], columns: Any) -> Fitted | None:
    if not np.isfinite(columns).all():
        return None
    coefficients, left = least_squares_of(columns * points.roots[:, None], points.y * points.roots)
    values[list(linear)] = coefficients
    sizes = [
        abs(coefficient) * float(np.sqrt((column * column).mean()))
        for (monomial, _), coefficient, column in zip(skeleton, coefficients, columns.T, strict=True)
        if monomial
    ]
    return Fitted(skeleton, values, float((left * left).mean()), max(sizes, default=0.0))


def _matrix(terms: Sequence[Any], count: int) -> Any:
    return np.stack([np.broadcast_to(one, (count,)) for one in terms], 1)


def _starts(count: int, starts: int, generator: np.random.Generator) -> Any:
    """Draw values of either sign: half of them most between 0.1 and 3, half equally often up to the largest x.

    Shape (count, starts).
    """
    sizes = np.exp(generator.normal(-0.2, 1.0, size=(count, starts)))
    near = sizes * np.where(generator.random((count, starts)) < 0.35, -1.0, 1.0)
    anywhere = generator.uniform(-_REACH, _REACH, size=(count, starts))
    values = np.where(generator.random((count, starts)) < 0.5, near, anywhere)
    values[:, 0] = 1.0
    return values


def _screened(error: _Error, values: Any) -> Any:
    """Return the numbers of the starts with finite values, the best first."""
    starts, count = values.shape[1], len(error.points.y)
    whole = np.zeros((len(error.linear) + len(error.inner), starts, 1))
    whole[error.inner] = values[:, :, None]
    terms = term_values(error.skeleton, error.points.columns, whole)
    columns = np.stack([np.broadcast_to(one, (starts, count)) for one in terms], 2) * error.points.roots[:, None]
    good = np.isfinite(columns).all((1, 2))
    sizes = np.sqrt((columns * columns).sum(1, keepdims=True))
    good &= np.isfinite(sizes).all((1, 2))
    if not good.any():
        return np.array([], int)
    scaled = columns[good] / np.where(sizes[good] > 0, sizes[good], 1.0)
    y = error.points.y * error.points.roots
    gram = scaled.transpose(0, 2, 1) @ scaled + _RIDGE * np.eye(scaled.shape[2])
    found = np.linalg.solve(gram, (scaled.transpose(0, 2, 1) @ y)[..., None])
    left = y - (scaled @ found)[..., 0]
    return np.flatnonzero(good)[np.argsort((left * left).mean(1), kind="stable")]


@final
class _Error:
    """The error that least squares leave, and its gradient by the constants inside of functions.

    Where the coefficients are the best, their own change with those constants has no part in the gradient.
    """

    def __init__(self, skeleton: Skeleton, points: Points, linear: list[int], inner: list[int]) -> None:
        self.skeleton, self.points, self.linear, self.inner = skeleton, points, linear, inner
        self._places = {number: place for place, number in enumerate(inner)}
        self._whole = np.zeros(len(linear) + len(inner))

    def __call__(self, values: Any) -> tuple[float, Any]:
        found = self._left(values)
        if found is None:
            return _BEYOND, np.zeros(len(values))
        left, slopes = found
        gradient = -2.0 * (slopes @ left) / len(left)
        if not np.isfinite(gradient).all():
            return _BEYOND, np.zeros(len(values))
        return float((left * left).mean()), gradient

    def _left(self, values: Any, projected: bool = False) -> tuple[Any, Any] | None:
        """Return what is left of y, and the slopes of what is fitted; projected: less what the terms take back.

        Shapes (N,) and (inner, N).
        """
        self._whole[self.inner] = values
        terms = term_values_and_derivatives(self.skeleton, self.points.columns, self._whole)
        count, roots = len(self.points.y), self.points.roots
        columns = _matrix([value for value, _ in terms], count) * roots[:, None]
        if not np.isfinite(columns).all():
            return None
        coefficients, left = least_squares_of(columns, self.points.y * roots)
        slopes = np.zeros((len(self.inner), count))
        for coefficient, (_, derivatives) in zip(coefficients, terms, strict=True):
            for number, slope in derivatives.items():
                slopes[self._places[number]] += coefficient * slope * roots
        if not projected:
            return left, slopes
        return left, least_squares_of(columns, slopes.T)[1].T if np.isfinite(slopes).all() else slopes

    def polished(self, values: Any) -> Any:
        """Return better values from near ones."""

        def residual(inside: Any) -> Any:
            found = self._left(inside)
            return np.full(len(self.points.y), _BEYOND) if found is None else found[0]

        def slopes(inside: Any) -> Any:
            found = self._left(inside, projected=True)
            return np.zeros((len(self.points.y), len(inside))) if found is None else -found[1].T

        if len(values) > len(self.points.y):
            return values
        start = residual(values)
        try:
            found = least_squares(
                residual, values, jac=slopes, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=60
            )
        except ValueError:  # not finite on the way
            return values
        return found.x if (found.fun**2).sum() < (start**2).sum() else values
