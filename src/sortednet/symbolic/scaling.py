"""Variables and values brought to the scale that the model was trained at, and formulas mapped back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .expressions import Poly, Sum, add, freeze, number, rebuild, scale, variable

__all__ = ["LARGEST", "Scaling", "standardise"]

LARGEST = 3.0
"""The size of the largest coordinate of each variable after scaling: the end of the interval of the papers."""


_ROUNDING = 1e-14  # a spread below this share of the mean is that of rounding


@dataclass(frozen=True)
class Scaling:
    """How a problem was scaled.

    Variables are divided by a number, and not moved: so powers of a variable stay powers of it. A skeleton has a
    constant in each term, so that it is the same before and after.

    Attributes:
        factors: Of each variable. Shape (D,).
        mean: Of y.
        spread: Standard deviation of y, or 1 where y is constant.
    """

    factors: Any
    mean: float
    spread: float

    def back(self, formula: Sum) -> Poly:
        """Return the formula of the problem as it was, given one of the scaled problem."""

        def original(index: int) -> Poly:
            return scale(variable(index), float(self.factors[index - 1]))

        return add(scale(rebuild(formula, original), self.spread), number(self.mean))

    def forth(self, formula: Poly) -> Poly:
        """Return the formula of the scaled problem, given one of the problem as it was."""

        def scaled(index: int) -> Poly:
            return scale(variable(index), 1 / float(self.factors[index - 1]))

        return scale(add(rebuild(freeze(formula), scaled), number(-self.mean)), 1 / self.spread)


def standardise(x: Any, y: Any, weights: Any | None = None) -> tuple[Any, Any, Any, Any, Any]:
    """Scale problems.

    Args:
        x: Points. Shape (..., N, D).
        y: Their values. Shape (..., N).
        weights: Of the points, for the mean and the spread of y; equal where left out. Shape (..., N).

    Returns:
        Scaled x and y, the factors of shape (..., D), and means and spreads of shape (...).
    """
    largest = np.abs(x).max(-2)
    factors = LARGEST / np.where(largest > 0, largest, 1.0)
    share = np.ones_like(y) if weights is None else weights
    share = share / share.sum(-1, keepdims=True)
    mean = (share * y).sum(-1)
    centred = y - mean[..., None]
    spread = np.sqrt((share * centred**2).sum(-1))
    constant = spread <= _ROUNDING * np.abs(mean)
    spread = np.where(constant | (spread == 0), 1.0, spread)
    scaled = np.where(constant[..., None], 0.0, centred / spread[..., None])
    return x * factors[..., None, :], scaled, factors, mean, spread
