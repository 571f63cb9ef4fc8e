"""Formulas in canonical form, and the algebra that keeps them so.

A formula is a sum of terms; a term is a coefficient times a product of powers of atoms; an atom is a variable, a
function of a sum, or a sum in brackets. Sums are multiplied out while they stay short, equal terms are added, constants
are moved out of functions where an identity allows it. So two formulas that differ by such steps are equal tuples, and
nothing here parses, prints or asks a computer algebra system.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "FUNCTIONS",
    "MAX_TERMS",
    "Atom",
    "Coefficient",
    "Monomial",
    "NoFormulaError",
    "Poly",
    "Sum",
    "add",
    "apply",
    "divide",
    "freeze",
    "multiply",
    "number",
    "power",
    "rebuild",
    "scale",
    "subtract",
    "variable",
    "variables_of",
]

FUNCTIONS = ("sin", "cos", "exp", "log", "sqrt", "asin")
"""Functions of one argument. `log` and `sqrt` are real: no number where the argument has none."""

MAX_TERMS = 12
"""Products and powers of sums that would have more terms stay in brackets."""

_MAX_EXPONENT = 12
_SMALL = 1e-12  # of the largest coefficient: what is left of terms that cancel

Coefficient = float | int  # a float is a value; an int is the number of a constant that is still to be found
Atom = tuple[str, Any]  # ("x", number of the variable from 1), (function, Sum) or ("group", Sum)
Monomial = tuple[tuple[Atom, int], ...]  # atoms with their powers, sorted; empty for the number 1
Sum = tuple[tuple[Monomial, Coefficient], ...]
Poly = dict[Monomial, float]


class NoFormulaError(ValueError):
    """What an operation gives is no finite formula, such as the logarithm of a negative number."""


def number(value: float) -> Poly:
    """Return a constant."""
    if not math.isfinite(value):
        raise NoFormulaError(f"{value} is no finite number")
    return {(): float(value)} if value else {}


def variable(index: int) -> Poly:
    """Return the variable of a number, from 1."""
    return {((("x", index), 1),): 1.0}


def freeze(poly: Poly) -> Sum:
    """Return a formula as a tuple: terms in order, the constant last."""
    return tuple(sorted(poly.items(), key=_order))


def _order(item: tuple[Monomial, Coefficient]) -> Any:
    monomial, coefficient = item
    return (not monomial, len(monomial), monomial, coefficient)


def add(first: Poly, second: Poly) -> Poly:
    """Return the sum; terms that cancel are dropped."""
    total = dict(first)
    for monomial, coefficient in second.items():
        before = total.get(monomial, 0.0)
        after = before + coefficient
        if abs(after) <= _SMALL * max(abs(before), abs(coefficient)):
            total.pop(monomial, None)
        else:
            total[monomial] = after
    return _finite(total)


def scale(poly: Poly, factor: float) -> Poly:
    """Return a formula times a number."""
    return _finite({monomial: coefficient * factor for monomial, coefficient in poly.items()}) if factor else {}


def subtract(first: Poly, second: Poly) -> Poly:
    """Return the difference."""
    return add(first, scale(second, -1.0))


def multiply(first: Poly, second: Poly) -> Poly:
    """Return the product, multiplied out where that gives at most `MAX_TERMS` terms."""
    if len(first) * len(second) > MAX_TERMS and len(first) > 1 and len(second) > 1:
        product = _product(first, second)
        if len(product) <= MAX_TERMS:
            return product
        return _product(_group(first, 1), _group(second, 1))
    return _product(first, second)


def divide(first: Poly, second: Poly) -> Poly:
    """Return the quotient."""
    return multiply(first, power(second, -1))


def power(poly: Poly, exponent: float) -> Poly:
    """Return a power: multiplied out where it is short, of a sum in brackets elsewhere.

    A power that is no whole number nor half of one is exp(exponent * log(formula)).

    Raises:
        NoFormulaError: For 0 to a negative power, or powers beyond 12.
    """
    if exponent != round(exponent):
        if 2 * exponent == round(2 * exponent):
            whole = math.floor(exponent)
            return multiply(power(poly, whole), apply("sqrt", poly))
        return apply("exp", scale(apply("log", poly), exponent))
    count = int(exponent)
    if abs(count) > _MAX_EXPONENT:
        raise NoFormulaError(f"a power of {exponent:g} is beyond {_MAX_EXPONENT}")
    if count == 0:
        return number(1.0)
    if not poly:
        if count < 0:
            raise NoFormulaError("0 has no inverse")
        return {}
    if len(poly) == 1:
        ((monomial, coefficient),) = poly.items()
        try:
            factor = coefficient**count
        except (OverflowError, ZeroDivisionError):
            raise NoFormulaError("a power is no finite number") from None
        return scale(_monomial({atom: times * count for atom, times in monomial}), factor)
    if count == 1:
        return dict(poly)
    if count > 0 and math.comb(len(poly) + count - 1, count) <= 4 * MAX_TERMS:
        product = dict(poly)
        for _ in range(count - 1):
            product = _product(product, poly)
        if len(product) <= MAX_TERMS:
            return product
    return _group(poly, count)


def apply(function: str, poly: Poly) -> Poly:
    """Return a function of a formula.

    Identities that are used: exp(a + b) = exp(a) exp(b) for a number b, log(c a) = log(c) + log(a) and
    sqrt(c a) = sqrt(c) sqrt(a) for c > 0, log(exp(a)) = a, exp(k log(a)) = a^k for whole 2 k,
    sin(-a) = -sin(a), cos(-a) = cos(a), and
    cos(a + b) = sin(a + b + pi/2) for a number b other than 0.

    Raises:
        NoFormulaError: If the argument is a number outside the function's domain.
        KeyError: If there is no such function.
    """
    bias = poly.get((), 0.0)
    if len(poly) == bool(bias):
        return number(_value(function, bias))
    if function == "exp":
        rest = {monomial: value for monomial, value in poly.items() if monomial}
        if len(rest) == 1 and (found := _power_of_logarithm(rest)) is not None:
            return scale(found, _value("exp", bias))
        return scale(_monomial({("exp", freeze(rest)): 1}), _value("exp", bias))
    if function in ("log", "sqrt"):
        return _of_positive(function, poly)
    if function in ("sin", "cos"):
        sign = -1.0 if _lead(poly) < 0 else 1.0
        argument = scale(poly, sign)
        if function == "cos":
            if not bias:
                return _monomial({("cos", freeze(argument)): 1})
            argument, sign = add(argument, number(math.pi / 2)), 1.0
        return scale(_monomial({("sin", freeze(argument)): 1}), sign)
    return _monomial({(function, freeze(poly)): 1})


def rebuild(formula: Sum, variables: Callable[[int], Poly]) -> Poly:
    """Return a formula with its variables replaced, in canonical form again.

    Args:
        formula: With values for all constants.
        variables: What stands for the variable of a number.
    """
    total: Poly = {}
    for monomial, coefficient in formula:
        term = number(float(coefficient))
        for (kind, inner), exponent in monomial:
            if kind == "x":
                factor = variables(inner)
            elif kind == "group":
                factor = rebuild(inner, variables)
            else:
                factor = apply(kind, rebuild(inner, variables))
            term = multiply(term, power(factor, exponent))
        total = add(total, term)
    return total


def variables_of(formula: Sum) -> set[int]:
    """Return the numbers of the variables in a formula."""
    found: set[int] = set()
    for monomial, _ in formula:
        for (kind, inner), _ in monomial:
            found |= {inner} if kind == "x" else variables_of(inner)
    return found


def _value(function: str, argument: float) -> float:
    try:
        return float(getattr(math, function)(argument))
    except (ValueError, OverflowError):
        raise NoFormulaError(f"{function}({argument}) is no finite number") from None


def _lead(poly: Mapping[Monomial, float]) -> float:
    """Return the coefficient of the first term that is no number."""
    return min((item for item in poly.items() if item[0]), key=_order)[1]


def _power_of_logarithm(poly: Poly) -> Poly | None:
    """Return a^k for k log(a), where k or 2 k is whole; None for anything else."""
    ((monomial, coefficient),) = poly.items()
    if len(monomial) != 1 or monomial[0][0][0] != "log" or monomial[0][1] != 1 or 2 * coefficient % 1:
        return None
    return power(_thaw(monomial[0][0][1]), coefficient) if abs(coefficient) <= _MAX_EXPONENT else None


def _unit(poly: Poly, signed: bool) -> tuple[float, Poly]:
    """Return a factor, and the formula without it: the first term has coefficient 1, or -1 if not signed."""
    first, lead = min((item for item in poly.items() if item[0]), key=_order)
    factor = lead if signed else abs(lead)
    return factor, {**scale(poly, 1 / factor), first: lead / factor}


def _of_positive(function: str, poly: Poly) -> Poly:
    """Return the logarithm or the root of a formula, a positive factor in front of it."""
    if function == "log" and len(poly) == 1:
        ((monomial, coefficient),) = poly.items()
        if len(monomial) == 1 and monomial[0][0][0] == "exp" and coefficient > 0:
            return add(_thaw(monomial[0][0][1]), number(math.log(coefficient)))
    size, unit = _unit(poly, signed=False)
    atom = _monomial({(function, freeze(unit)): 1})
    return add(atom, number(math.log(size))) if function == "log" else scale(atom, math.sqrt(size))


def _group(poly: Poly, exponent: int) -> Poly:
    """Return the power of a sum in brackets, the coefficient of its first term in front."""
    if len(poly) == 1:
        return power(poly, exponent)
    lead, unit = _unit(poly, signed=True)
    try:
        factor = lead**exponent
    except (OverflowError, ZeroDivisionError):
        raise NoFormulaError("a power is no finite number") from None
    return scale(_monomial({("group", freeze(unit)): exponent}), factor)


def _thaw(formula: Sum) -> Poly:
    return {monomial: float(coefficient) for monomial, coefficient in formula}


def _product(first: Poly, second: Poly) -> Poly:
    total: Poly = {}
    for left, one in first.items():
        for right, other in second.items():
            powers = dict(left)
            for atom, exponent in right:
                powers[atom] = powers.get(atom, 0) + exponent
            total = add(total, scale(_monomial(powers), one * other))
    return total


def _monomial(powers: Mapping[Atom, int]) -> Poly:
    """Return a product of powers of atoms, with exponentials joined and roots of even power taken out."""
    kept: dict[Atom, int] = {}
    exponent: Poly = {}
    factors: list[Poly] = []
    for atom, times in powers.items():
        kind, inner = atom
        if not times:
            continue
        if kind == "exp":
            exponent = add(exponent, scale(_thaw(inner), float(times)))
        elif kind == "sqrt" and abs(times) > 1:
            whole = int(times / 2)
            factors.append(power(_thaw(inner), whole))
            if times - 2 * whole:
                kept[atom] = times - 2 * whole
        else:
            kept[atom] = times
        if abs(times) > _MAX_EXPONENT:
            raise NoFormulaError(f"a power of {times:g} is beyond {_MAX_EXPONENT}")
    if exponent:
        kept[("exp", freeze(exponent))] = 1
    product: Poly = {tuple(sorted(kept.items())): 1.0}
    for factor in factors:
        product = _product(product, factor)
    return product


def _finite(poly: Poly) -> Poly:
    for coefficient in poly.values():
        if not math.isfinite(coefficient):
            raise NoFormulaError("a coefficient is no finite number")
    return poly
