"""Which columns of a table matter, chosen by the fit: forward, among simple functions of one and products of two."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["relevant"]

_POINTS = 2000
_PAIRED = 12  # columns whose products are looked at
_COST = 3.0  # of a term, in units of the logarithm of its likelihood
_MOST_TERMS = 40


def relevant(x: Any, y: Any, most: int) -> list[int]:
    """Return the columns that explain y, those first that explain most; at least one.

    Args:
        x: Shape (N, D).
        y: Shape (N,).
        most: How many columns at most.

    Returns:
        Numbers of columns, as long as each new term is worth its length.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(80, 6))
        >>> relevant(x, x[:, 4] * x[:, 1] + x[:, 1], 3)
        [1, 4]
    """
    if len(y) > _POINTS:
        chosen = np.random.default_rng(0).permutation(len(y))[:_POINTS]
        x, y = x[chosen], y[chosen]
    owners, columns = _features(x, range(x.shape[1]))
    alone = _forward(columns, y, _PAIRED, stops=False)
    first = list(dict.fromkeys(owner for place in alone for owner in owners[place]))[:_PAIRED]
    pairs, products = _pairs(x, first)
    found: list[int] = []
    for place in _forward(np.concatenate([columns, products], 1), y, _MOST_TERMS, stops=True):
        for owner in sorted((*owners, *pairs)[place]):
            if owner not in found and len(found) < most:
                found.append(owner)
    return found or first[:1] or [0]


def _features(x: Any, places: Any) -> tuple[list[tuple[int, ...]], Any]:
    owners: list[tuple[int, ...]] = []
    columns: list[Any] = []
    with np.errstate(all="ignore"):
        for place in places:
            own = x[:, place]
            scaled = own / (np.abs(own).max() or 1.0)
            for values in (scaled, scaled**2, 1 / scaled, np.log(scaled), np.sqrt(scaled), np.exp(2 * scaled),
                           np.sin(3 * scaled), np.cos(3 * scaled)):  # fmt: skip
                if np.isfinite(values).all() and np.ptp(values):
                    owners.append((place,))
                    columns.append(values)
    return owners, np.stack(columns, 1) if columns else np.zeros((len(x), 0))


def _pairs(x: Any, places: list[int]) -> tuple[list[tuple[int, ...]], Any]:
    owners: list[tuple[int, ...]] = []
    columns: list[Any] = []
    with np.errstate(all="ignore"):
        for number, i in enumerate(places):
            for j in places[:number]:
                a, b = (x[:, place] / (np.abs(x[:, place]).max() or 1.0) for place in (i, j))
                for values in (a * b, a / b, b / a, a * a * b, a * b * b):
                    if np.isfinite(values).all() and np.ptp(values):
                        owners.append((i, j))
                        columns.append(values)
    return owners, np.stack(columns, 1) if columns else np.zeros((len(x), 0))


def _forward(columns: Any, y: Any, most: int, stops: bool) -> list[int]:
    """Return the columns that leave the least of y, taken one by one."""
    columns, left = columns - columns.mean(0), y - y.mean()
    columns = columns / np.where(columns.std(0) > 0, columns.std(0), 1)
    whole = float((left**2).sum())
    chosen: list[int] = []
    error = whole
    for _ in range(min(most, columns.shape[1], len(y) // 2)):
        sizes = (columns**2).sum(0)
        gains = np.where(sizes > 1e-8, (columns.T @ left) ** 2 / np.where(sizes > 1e-8, sizes, 1), 0)
        best = int(gains.argmax())
        after = error - float(gains[best])
        if not gains[best] or after < 1e-14 * whole:
            return [*chosen, best] if gains[best] else chosen
        if stops and len(y) / 2 * np.log(error / after) < _COST + np.log(columns.shape[1]):
            return chosen
        chosen.append(best)
        direction = columns[:, best] / np.sqrt(sizes[best])
        columns, left = columns - np.outer(direction, direction @ columns), left - direction * (direction @ left)
        error = after
    return chosen
