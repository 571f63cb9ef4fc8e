"""Whether data are like those that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

__all__ = ["Familiarity", "statistics_of"]

_QUANTILE = 0.995
_LEAST = {
    "roughness": 0.0,
    "repeats": 0.8,
    "outlier": 0.0,
    "remoteness": 0.0,
}  # a grid gives an even function each value twice or more
_REASONS = {
    "roughness": "neighbouring points have values as different as points far apart, as in noise or fast changes",
    "repeats": "many points share their values, as in steps or categories",
    "outlier": "one value is far from all others",
    "remoteness": "a variable is far from 0 compared with its range, as years are",
}


@dataclass(frozen=True)
class Familiarity:
    """What was usual among the problems of training.

    Attributes:
        limits: By statistic, the value that 99.5 % of problems with unseen skeletons were below, for problems of one
            variable, of two, and so on.
        fewest: Points of the smallest problem.

    Example:
        >>> familiarity = Familiarity({"roughness": (0.4,)}, fewest=20)
        >>> x = np.linspace(0, 1, 50)[:, None]
        >>> familiarity.why_not(x, np.sin(x[:, 0])) is None
        True
        >>> familiarity.why_not(x, np.random.default_rng(0).normal(size=50))
        'neighbouring points have values as different as points far apart, as in noise or fast changes'
    """

    limits: Mapping[str, tuple[float, ...]]
    fewest: int = 2

    @classmethod
    def learn(cls, problems: Iterable[tuple[Any, Any]]) -> Familiarity:
        """Learn what is usual.

        Args:
            problems: Scaled points, shape (N, D), and their values, (N,); some hundred for each number of variables.
        """
        found: dict[int, list[dict[str, float]]] = {}
        fewest = 0
        for x, y in problems:
            found.setdefault(x.shape[1], []).append(statistics_of(x, y))
            fewest = min(fewest or len(y), len(y))
        limits = {}
        for name, least in _LEAST.items():
            values = [[one[name] for one in found.get(variables, ())] for variables in range(1, max(found) + 1)]
            limits[name] = tuple(max(least, float(np.quantile(own, _QUANTILE))) if own else np.inf for own in values)
        return cls(limits, fewest)

    def why_not(self, x: Any, y: Any) -> str | None:
        """Return in words how scaled data are unlike those of training; None if they are not.

        Args:
            x: Shape (N, D).
            y: Shape (N,).
        """
        if len(y) < self.fewest:
            return f"there are {len(y)} distinct points, fewer than the {self.fewest} of the smallest problem"
        statistics = statistics_of(x, y)
        for name, limits in self.limits.items():
            if x.shape[1] <= len(limits) and statistics[name] > limits[x.shape[1] - 1]:
                return _REASONS[name]
        return None


def statistics_of(x: Any, y: Any) -> dict[str, float]:
    """Return what tells data apart whatever their formula.

    Args:
        x: Scaled points, at least two. Shape (N, D).
        y: Their values. Shape (N,).

    Returns:
        `roughness`: half the mean squared difference of y between each point and its nearest, y as ranks with variance
        1: 0 for a smooth function, 1 for noise. `repeats`: 1 less the number of distinct y over that of points.
        `outlier`: the
        largest distance of y from its mean, as a share of the most that so many points can have. `remoteness`: the
        logarithm of the largest size of a variable over its range, the largest of all variables.
    """
    ranks = rankdata(y)
    ranks = (ranks - ranks.mean()) / max(float(ranks.std()), 1e-12)
    _, nearest = cKDTree(x).query(x, k=2)
    apart = np.abs(y - y.mean()).max() / max(float(y.std()), 1e-300)
    ranges = np.ptp(x, axis=0)
    sizes = np.abs(x).max(0)
    far = [size / width for size, width in zip(sizes, ranges, strict=True) if width > 0]
    return {
        "roughness": float(((ranks - ranks[nearest[:, 1]]) ** 2).mean() / 2),
        "repeats": float(1 - len(np.unique(y)) / len(y)),
        "outlier": float(apart / np.sqrt(len(y))),
        "remoteness": float(np.log(max(far, default=1.0))),
    }
