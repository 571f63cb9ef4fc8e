"""A formula that was found: readable, callable, as sympy and LaTeX."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

import numpy as np
import torch

from ..errors import DataError
from .expressions import (
    CONSTANT,
    FUNCTIONS,
    NoFormulaError,
    Poly,
    Sum,
    complexity,
    evaluate,
    freeze,
    readable,
    rebuild,
    variable,
    variables_of,
)

__all__ = ["Formula", "readable_names", "tidy"]


_DIGITS = 12
_DENOMINATOR = 6
_WORSE = 1e-3  # what rounding may add to an error, as a share of it
_EXACT = 1e-13  # and as a share of the variance of y


@final
@dataclass(frozen=True)
class Formula:
    r"""A formula of named columns.

    Attributes:
        terms: In canonical form, with values.
        names: Of the columns, in order.
        error: Weighted mean of the squared differences from the data, as a share of their variance.
        complexity: Nodes of its tree: variables, constants, operators and functions.

    Example:
        >>> from sortednet.symbolic.expressions import parse
        >>> formula = Formula.of(parse("2*x1**2 + 1"), ["speed"], 0.0)
        >>> str(formula), formula(np.array([[3.0]]))
        ('2*speed**2+1', array([19.]))
        >>> formula.latex()
        '2 \\cdot speed^{2} + 1'
    """

    terms: Sum
    names: tuple[str, ...]
    error: float
    complexity: int

    @classmethod
    def of(cls, poly: Poly, names: Sequence[str], error: float) -> Formula:
        """Make one from a formula in canonical form."""
        terms = freeze(poly)
        return cls(terms, tuple(names), error, complexity(terms))

    def __str__(self) -> str:
        # A minus sign at the beginning reads badly.
        ordered = sorted(self.terms, key=lambda term: (not term[0], term[1] < 0))
        return readable(tuple(ordered), self.names)

    def __call__(self, x: Any) -> Any:
        """Return its values, not finite where it has none.

        Args:
            x: Columns in the order of `names`, a numpy array or a tensor, through which gradients pass. Shape (N, D).

        Returns:
            Shape (N,), of the same kind.

        Raises:
            DataError: If there are not as many columns.
        """
        given = x if isinstance(x, torch.Tensor) else np.asarray(x, float)
        if given.ndim != 2 or given.shape[1] != len(self.names):
            raise DataError(
                f"x has the shape {tuple(given.shape)}. Give {len(self.names)} columns, {', '.join(self.names)}."
            )
        functions = torch if isinstance(x, torch.Tensor) else np
        columns = [given[:, place] for place in range(len(self.names))] or [given.sum(1)]
        with np.errstate(all="ignore"):
            return evaluate(self.terms, columns, functions=functions)

    def variables(self) -> tuple[str, ...]:
        """Return the names of the columns that it uses."""
        return tuple(self.names[number - 1] for number in sorted(variables_of(self.terms)))

    def sympy(self) -> Any:
        """Return it as an expression of sympy, its symbols named after the columns."""
        import sympy

        symbols = [sympy.Symbol(name) for name in self.names]

        def whole(terms: Sum) -> Any:
            return sympy.Add(*(_number(float(own)) * product(monomial) for monomial, own in terms))

        def product(monomial: Any) -> Any:
            factors = []
            for (kind, inner), exponent in monomial:
                if kind == "x":
                    base = symbols[inner - 1]
                else:
                    base = whole(inner) if kind == "group" else getattr(sympy, kind)(whole(inner))
                factors.append(base**exponent)
            return sympy.Mul(*factors)

        def _number(value: float) -> Any:
            return sympy.Integer(int(value)) if value == int(value) and abs(value) < 1e15 else sympy.Float(value)

        return whole(self.terms)

    def latex(self) -> str:
        """Return it in LaTeX, numbers in as many digits as the text has."""
        import sympy

        # The product of names of several letters would read as one word.
        dot = any(len(name.rstrip("0123456789_")) > 1 for name in self.variables())
        return str(sympy.latex(self.sympy(), mul_symbol="dot" if dot else None))


def readable_names(given: Sequence[object] | None, count: int) -> list[str]:
    """Return names that Python and sympy read, as near to those given as can be.

    Args:
        given: Names of columns; x1, x2, ... where None.
        count: How many columns.

    Example:
        >>> readable_names(["speed (m/s)", "I", "2nd", "speed m/s"], 4)
        ['speed_m_s', 'I_', 'x2nd', 'speed_m_s_']
    """
    if given is None:
        return [f"x{place}" for place in range(1, count + 1)]
    import sympy

    reserved = {*vars(sympy), *vars(builtins), *FUNCTIONS, CONSTANT}
    names: list[str] = []
    for one in given:
        name = re.sub(r"\W+", "_", str(one)).strip("_") or "x"
        if name[0].isdigit():
            name = f"x{name}"
        if keyword.iskeyword(name) or name in reserved:
            name += "_"
        while name in names:
            name += "_"
        names.append(name)
    return names


def tidy(poly: Poly, error_of: Callable[[Sum], float]) -> Poly:
    """Round the numbers of a formula as far as its error allows, and drop what that makes 0.

    Args:
        poly: The formula.
        error_of: The error of a formula, as a share of the variance of y.

    Returns:
        The formula with the fewest digits whose error is at most 0.1 % larger.
    """
    formula = freeze(poly)
    allowed = error_of(formula) * (1 + _WORSE) + _EXACT
    for term in formula:
        rest = tuple(one for one in formula if one is not term)
        if rest and error_of(rest) <= allowed:
            formula = rest
    for digits in range(1, _DIGITS + 1):
        try:
            rounded = rebuild(_rounded(formula, digits), variable)
        except NoFormulaError:
            continue
        if error_of(freeze(rounded)) <= allowed:
            return rounded
    return rebuild(formula, variable)


def _rounded(formula: Sum, digits: int) -> Sum:
    found = []
    for monomial, coefficient in formula:
        atoms = tuple(((kind, inner if kind == "x" else _rounded(inner, digits)), e) for (kind, inner), e in monomial)
        own = float(f"{coefficient:.{digits - 1}e}")
        is_power = len(monomial) == 1 and monomial[0][0][0] == "log" and monomial[0][1] == 1  # inside of exp
        found.append((atoms, _fraction(coefficient, digits) or own if is_power else own))
    return tuple(found)


def _fraction(value: float, digits: int) -> float | None:
    """Return the fraction of small numbers that a value is to so many digits, if it is one."""
    near = Fraction(value).limit_denominator(_DENOMINATOR)
    return float(near) if near and abs(float(near) - value) < 10.0**-digits * abs(value) else None
