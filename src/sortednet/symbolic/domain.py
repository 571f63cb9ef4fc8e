"""Where a formula has values: nowhere in the box of the data may it have a pole or be undefined."""

from __future__ import annotations

from itertools import product
from typing import Any, final

import numpy as np

from .expressions import Atom, Sum, evaluate

__all__ = ["Domain"]

_DRAWN = 2000
_MOST_CORNERS = 6  # variables, up to which all corners of the box are looked at


@final
class Domain:
    """The box of the data, as many points in it: the data, their box's corners, and drawn ones.

    Args:
        columns: The data. Each of shape (N,).
        seed: Of the drawn points.

    Example:
        >>> from sortednet.symbolic.expressions import freeze, parse
        >>> domain = Domain([np.array([-1.0, 2.0])])
        >>> [domain.holds(freeze(parse(text))) for text in ("x1**2", "(x1-1)**-1", "log(x1)", "log(x1+1.5)")]
        [True, False, False, True]
    """

    def __init__(self, columns: Any, seed: int = 0) -> None:
        data = np.stack(list(columns), 1)
        if len(data) > _DRAWN:
            data = data[np.random.default_rng(seed).permutation(len(data))[:_DRAWN]]
        low, high = np.stack(list(columns), 1).min(0), np.stack(list(columns), 1).max(0)
        parts = [data, np.random.default_rng(seed).uniform(low, high, (_DRAWN, len(low)))]
        if len(low) <= _MOST_CORNERS:
            parts.append(np.array(list(product(*zip(low, high, strict=True)))))
        self.columns = list(np.concatenate(parts).T)

    def holds(self, formula: Sum) -> bool:
        """Whether a formula is finite at all of the points, and no denominator changes its sign among them.

        Args:
            formula: With values.
        """
        with np.errstate(all="ignore"):
            return not self._breaks(formula) and bool(np.isfinite(evaluate(formula, self.columns)).all())

    def _breaks(self, formula: Sum) -> bool:
        for monomial, _ in formula:
            for (kind, inner), exponent in monomial:
                if kind != "x" and self._breaks(inner):
                    return True
                if kind == "log" and (
                    not (evaluate(inner, self.columns) > 0).all()
                    or (len(inner) == 1 and any(self._has_zero(atom) for atom, _ in inner[0][0]))  # of even powers
                ):
                    return True
                if exponent < 0 and self._has_zero((kind, inner)):
                    return True
        return False

    def _has_zero(self, atom: Atom) -> bool:
        values = evaluate(((((atom, 1),), 1.0),), self.columns)
        return not ((values > 0).all() or (values < 0).all())
