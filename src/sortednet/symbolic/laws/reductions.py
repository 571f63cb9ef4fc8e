"""Laws found without a model: products of powers and known factors, and sums of known terms, under a transform of y.

The logarithm of a product of powers is linear in the logarithms of the variables, so that one projection serves all
factors at once: what it leaves of the logarithm of y and of that of a factor tells how well the two go together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from ..constants import Points, least_squares_of
from ..expressions import Poly, evaluate, freeze, parse
from .parts import Part, factors, monomials, power_text, terms

__all__ = ["Law", "find_laws"]

_POWERS = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)  # of a factor
_GRIDS = (1.0, 2.0, 6.0)  # powers of variables are whole numbers over these
_NEAR = 0.12  # of a power from the grid
_KEPT_FACTORS = 8
_PAIRED = 150  # factors of each power that are tried two by two
_MOST_TERMS = 5
_HIGHEST_DEGREE = 6
_MOST_LEFT_OUT = 60
_ALMOST = 1e-12  # a share of the variance that nothing is looked for to explain
_NODES = 5.0  # what a term costs, about
_FLOOR = 1e-15


class Law(NamedTuple):
    """A law that was found.

    Attributes:
        formula: In the units of the points.
        error: Mean of the squared differences of y, as a share of its variance.
    """

    formula: Poly
    error: float


class _Transform(NamedTuple):
    """A function of y, and its inverse.

    Attributes:
        inverse: In text.
        forward: Of y.
        slope: The size of its derivative, by y.
    """

    inverse: str
    forward: Callable[[Any], Any]
    slope: Callable[[Any], Any]


_SAME = _Transform("{}", lambda y: y, np.ones_like)
_OF_PRODUCTS = (
    _SAME,
    _Transform("exp({})", np.log, lambda y: 1 / np.abs(y)),
    _Transform("log({})", np.exp, np.exp),
    _Transform("sin({})", np.arcsin, lambda y: 1 / np.sqrt(1 - y * y)),
    _Transform("cos({})", np.arccos, lambda y: 1 / np.sqrt(1 - y * y)),
)
_OF_SUMS = (
    _SAME,
    _Transform("({})**-1", lambda y: 1 / y, lambda y: 1 / y**2),
    _Transform("sqrt({})", lambda y: y * y, lambda y: 2 * np.abs(y)),
    _Transform("({})**2", np.sqrt, lambda y: 0.5 / np.sqrt(y)),
    _Transform("sqrt({})**-1", lambda y: y**-2.0, lambda y: 2 / np.abs(y) ** 3),
    _Transform("exp({})", np.log, lambda y: 1 / np.abs(y)),
    _Transform("log({})", np.exp, np.exp),
)


def find_laws(points: Points, most: int = 12) -> list[Law]:
    """Look for laws.

    Args:
        points: In their own units, not scaled.
        most: How many are returned at most.

    Returns:
        The best by error and length, of different forms, the best first.
    """
    x, y = np.stack(list(points.columns), 1), points.y
    if not np.ptp(y):
        return []
    found: dict[str, Law] = {}
    with np.errstate(all="ignore"):
        for text in _texts(x, y):
            if text in found:
                continue
            try:
                formula = parse(text)
            except DataError:  # beyond what floats or brackets hold
                continue
            error = _error_of(formula, points)
            if error is not None:
                found[text] = Law(formula, error)
    count = len(y) / 2

    def score(one: tuple[str, Law]) -> float:
        return count * float(np.log(one[1].error + _FLOOR)) + len(one[0]) / 2

    return [one for _, one in sorted(found.items(), key=score)[:most]]


def _error_of(formula: Poly, points: Points) -> float | None:
    """Return the error of a formula with the best coefficient and constant, as these are fitted in any case."""
    values = evaluate(freeze(formula), points.columns)
    if not np.isfinite(values).all():
        return None
    weights = points.roots**2 / (points.roots**2).mean()
    centred, y = values - (weights * values).mean(), points.y - (weights * points.y).mean()
    variance = float((weights * y * y).mean()) or 1.0
    size = float((weights * centred * centred).mean())
    if not np.isfinite(size) or not size:
        return None
    rest = y - centred * float((weights * centred * y).mean()) / size
    return float((weights * rest * rest).mean()) / variance


def _texts(x: Any, y: Any) -> Iterator[str]:
    usable = factors(x)
    for transform in _OF_PRODUCTS:
        yield from _products(x, y, transform, usable)
    sums = terms(x, 4 if x.shape[1] <= 3 else 3 if x.shape[1] <= 6 else 2)
    for transform in _OF_SUMS:
        yield from _polynomials(x, y, transform)
        yield from _sums(y, transform, sums, starts=10 if transform is _SAME else 4)
    yield from _recursive(x, y, usable, sums)


# Products


class _Logs:
    """Logarithms of y and of variables, less what one projection takes of each other."""

    def __init__(self, x: Any, z: Any, weights: Any, usable: Sequence[Part]) -> None:
        good = (z != 0) & (x != 0).all(1) & np.isfinite(weights)
        self.weights = weights[good] / max(1e-300, float(weights[good].max(initial=0.0)))
        self.good, self.x, self.z = good, x[good], z[good]
        self.log = np.log(np.abs(self.z))
        self.design = np.column_stack([np.ones(good.sum()), np.log(np.abs(self.x))])
        self.base = np.linalg.qr(self.design * self.weights[:, None])[0] if good.sum() else self.design
        self.factors = (
            np.log(np.abs(np.stack([one.values[good] for one in usable], 1)))
            if usable
            else np.zeros((int(good.sum()), 0))
        )
        self.left = self._without(self.log)
        self.left_of_factors = self._without(self.factors)

    def _without(self, values: Any) -> Any:
        weighted = values * (self.weights if values.ndim == 1 else self.weights[:, None])
        return weighted - self.base @ (self.base.T @ weighted)

    def enough(self) -> bool:
        return len(self.z) > self.design.shape[1] + 1 and len(self.z) > 0.8 * len(self.good)


def _products(x: Any, y: Any, transform: _Transform, usable: Sequence[Part]) -> Iterator[str]:
    """Yield laws whose transform is a product of powers, of them and a factor, and of them and two."""
    z = transform.forward(y)
    if not np.isfinite(z).all() or not np.ptp(z):
        return
    logs = _Logs(x, z, np.abs(z) / transform.slope(y), usable)
    if not logs.enough():
        return
    yield from _power_laws(logs, transform, [])
    if not usable:
        return
    ranked = _ranked(logs)
    for place, power in ranked[:_KEPT_FACTORS]:
        yield from _power_laws(logs, transform, [(usable[place], place, power)])
    if transform is _SAME:
        for one, other in _pairs(logs, ranked):
            chosen = [(usable[place], place, power) for place, power in (one, other)]
            yield from _power_laws(logs, transform, chosen)


def _ranked(logs: _Logs) -> list[tuple[int, float]]:
    """Return factors and their powers, those first that leave the least of y."""
    size, along = (logs.left**2).sum(), logs.left_of_factors.T @ logs.left
    sizes = (logs.left_of_factors**2).sum(0)
    rest = np.stack([size - 2 * power * along + power * power * sizes for power in _POWERS], 1)
    rest = np.where(sizes[:, None] > 1e-18, rest, np.inf)
    order = np.argsort(rest, axis=None)[: 4 * _PAIRED]
    return [(int(flat // len(_POWERS)), _POWERS[flat % len(_POWERS)]) for flat in order]


def _pairs(logs: _Logs, ranked: Sequence[tuple[int, float]]) -> list[Any]:
    columns = np.stack([power * logs.left_of_factors[:, place] for place, power in ranked], 1)
    rest = logs.left[:, None] - columns
    sizes = (rest**2).sum(0)[:, None] - 2 * rest.T @ columns + (columns**2).sum(0)[None]
    sizes[np.tril_indices(len(sizes))] = np.inf
    order = np.argsort(sizes, axis=None)[:4]
    return [(ranked[flat // len(ranked)], ranked[flat % len(ranked)]) for flat in order]


def _power_laws(logs: _Logs, transform: _Transform, chosen: Sequence[tuple[Part, int, float]]) -> Iterator[str]:
    """Yield products of powers of the variables and the chosen factors, the powers rounded to fractions."""
    target = logs.log - sum(power * logs.factors[:, place] for _, place, power in chosen)
    weighted = logs.design * logs.weights[:, None]
    found = least_squares_of(weighted, target * logs.weights)[0][1:]
    texts = [_factor_text(part.text, power) for part, _, power in chosen]
    seen: set[tuple[float, ...]] = set()
    for grid in _GRIDS:
        powers = np.round(found * grid) / grid
        if np.abs(powers - found).max() > _NEAR or np.abs(powers).max() > 8 or tuple(powers) in seen:
            continue
        seen.add(tuple(powers))
        own = [power_text(f"x{place + 1}", power) for place, power in enumerate(powers.tolist())]
        product = "*".join(filter(None, [*texts, *own]))
        if product:
            size = float(np.exp(np.median(target - logs.design[:, 1:] @ powers)))
            sign = float(np.sign(np.median(logs.z)))
            yield transform.inverse.format(f"({sign * size!r}*{product})")


def _factor_text(text: str, power: float) -> str:
    inside = text if text.startswith("(") else f"({text})"
    if abs(power) == 0.5:
        return f"sqrt{inside}" if power > 0 else f"sqrt{inside}**-1"
    return text if power == 1 else power_text(inside, power)


# Sums


def _sums(
    y: Any, transform: _Transform, parts: Sequence[Part], starts: int, weights: Any | None = None, outer: str = "{}"
) -> Iterator[str]:
    """Yield laws whose transform is a sum of terms, chosen one by one from several first ones."""
    z = transform.forward(y)
    roots = (1.0 if weights is None else weights) / transform.slope(y)
    if not parts or not np.isfinite(z).all() or not np.isfinite(roots).all() or not np.ptp(z) or not roots.any():
        return
    roots = np.broadcast_to(roots / np.sqrt((roots**2).mean()), z.shape)
    columns = np.stack([one.values for one in parts], 1) * roots[:, None]
    columns = columns / np.sqrt((columns**2).sum(0))
    columns[:, ~np.isfinite(columns).all(0)] = 0  # beyond what squares hold
    constant, target = roots / np.sqrt((roots**2).sum()), z * roots
    first = columns - np.outer(constant, constant @ columns)
    left = target - constant * (constant @ target)
    size = float((left**2).sum())
    if not size:
        return
    gains = _gains(first, left)
    best: list[tuple[float, tuple[int, ...]]] = []
    for start in np.argsort(-gains)[:starts]:
        best += _grown([int(start)], first, left, size)
    if transform is _SAME and best and min(best)[0] > len(left) / 2 * np.log(_ALMOST):
        for count in range(2, _MOST_TERMS + 1):
            _, places = min((one for one in best if len(one[1]) == count), default=(0.0, ()))
            best += _exchanged(places, first, left, size)
    for places in dict.fromkeys(tuple(sorted(places)) for _, places in sorted(best)[:4]):
        text = _sum_text([parts[place] for place in places], z, roots)
        if text is not None:
            yield outer.format(transform.inverse.format(f"({text})"))


def _sum_text(parts: Sequence[Part], z: Any, roots: Any) -> str | None:
    """Print a sum of terms with the coefficients that come closest to z; None beyond what squares hold."""
    design = np.column_stack([np.ones(len(z)), *(one.values for one in parts)]) * np.reshape(roots, (-1, 1))
    if not np.isfinite((design**2).sum()) or not np.isfinite(z).all():
        return None
    first, *found = least_squares_of(design, z * roots)[0].tolist()
    return "+".join([f"({first!r})", *(f"({own!r})*{one.text}" for own, one in zip(found, parts, strict=True))])


def _polynomials(x: Any, y: Any, transform: _Transform) -> Iterator[str]:
    """Yield laws whose transform is what is left of a polynomial when the terms least needed are taken out."""
    z, roots = transform.forward(y), 1 / transform.slope(y)
    if not np.isfinite(z).all() or not np.isfinite(roots).all() or not np.ptp(z) or not roots.any():
        return
    roots = roots / np.sqrt((roots**2).mean())
    for lowest, highest in ((1, _HIGHEST_DEGREE), (-2, 2)):
        for degree in range(2, highest + 1):
            parts = monomials(x, degree, lowest)
            if len(parts) > min(_MOST_LEFT_OUT, len(y) - 3):
                break
            kept = _needed(parts, z, roots)
            text = _sum_text(kept, z, roots) if kept else None
            if text is not None:
                yield transform.inverse.format(f"({text})")


def _needed(parts: Sequence[Part], z: Any, roots: Any) -> list[Part]:
    """Return the terms that are left of a sum where it is best for its length; none beyond what squares hold."""
    design = np.column_stack([np.ones(len(z)), *(one.values for one in parts)]) * roots[:, None]
    sizes, target = np.sqrt((design**2).sum(0)), z * roots
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        return []
    design, left = design / sizes, list(range(1, len(parts) + 1))
    size = float(((target - design[:, 0] * (design[:, 0] @ target)) ** 2).mean())
    best: tuple[float, list[int]] | None = None
    while left and size:
        vectors, spread, turned = np.linalg.svd(design[:, [0, *left]], full_matrices=False)
        good = spread > 1e-12 * spread[0]
        found = turned[good].T @ ((vectors[:, good].T @ target) / spread[good])
        error = float(((target - design[:, [0, *left]] @ found) ** 2).mean()) / size
        score = len(z) / 2 * float(np.log(error + _FLOOR)) + _NODES * len(left)
        if best is None or score < best[0]:
            best = score, list(left)
        worth = found**2 / ((turned[good] / spread[good, None]) ** 2).sum(0)
        left.pop(int(worth[1:].argmin()))
    return [] if best is None else [parts[place - 1] for place in best[1]]


def _gains(columns: Any, left: Any) -> Any:
    sizes = (columns**2).sum(0)
    return np.where(sizes > 1e-10, (columns.T @ left) ** 2 / np.where(sizes > 1e-10, sizes, 1), 0)


def _grown(
    first: Sequence[int], columns: Any, left: Any, size: float, most: int = _MOST_TERMS
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield the sums on the way from first terms to the longest, with what they are ranked by."""
    chosen: list[int] = []
    places = list(first)
    while len(chosen) < most:
        place = places[len(chosen)] if len(chosen) < len(places) else int(_gains(columns, left).argmax())
        length = float(np.sqrt((columns[:, place] ** 2).sum()))
        if not length:
            return
        direction = columns[:, place] / length
        left = left - direction * (direction @ left)
        columns = columns - np.outer(direction, direction @ columns)
        chosen.append(place)
        error = float((left**2).sum()) / size
        if len(chosen) >= len(places):
            yield len(left) / 2 * float(np.log(error + _FLOOR)) + _NODES * len(chosen), tuple(chosen)
        if error < 1e-13:
            return


def _exchanged(
    places: tuple[int, ...], columns: Any, left: Any, size: float
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield better sums of as many terms: one after the other is taken out, and the best one put in its place."""
    for _ in range(2 * len(places)):
        found = list(_grown(places[1:], columns, left, size, len(places)))
        if not found:
            return
        yield found[-1]
        places = found[-1][1]


def _recursive(x: Any, y: Any, usable: Sequence[Part], sums: Sequence[Part]) -> Iterator[str]:
    """Yield a factor times a sum: what is left of y by a factor is a problem of its own."""
    logs = _Logs(x, y, np.abs(y), usable)
    if not logs.enough() or not usable:
        return
    small = [one for one in sums if one.text.count("x") <= 2]
    for place, power in _ranked(logs)[:6]:
        part = usable[place]
        values = np.abs(part.values) ** power if power % 1 else part.values**power
        outer = _factor_text(part.text, power) + "*{}"
        yield from _sums(y / values, _SAME, small, 3, np.abs(values), outer)
