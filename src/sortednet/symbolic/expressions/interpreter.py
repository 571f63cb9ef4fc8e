"""The values of a formula at many points, for many values of its constants at once, and its exact derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .algebra import Monomial, Sum

__all__ = ["evaluate", "term_values", "term_values_and_derivatives"]

Array = Any  # numpy's, or torch's where `functions` is torch


def evaluate(formula: Sum, columns: Sequence[Array], constants: Array | None = None, functions: Any = np) -> Array:
    """Evaluate a formula.

    Args:
        formula: The formula.
        columns: The values of each variable. Each of a shape that broadcasts, such as (N,).
        constants: The values of its constants by number, along the first axis, of shapes that broadcast with the
            columns, such as (K, 1) for K values each; none where the formula has only numbers.
        functions: numpy or torch.

    Returns:
        The values; not finite where the formula has none.

    Example:
        >>> from sortednet.symbolic.expressions import freeze, parse
        >>> evaluate(freeze(parse("x1**2 + 1")), [np.array([1.0, 2.0])])
        array([2., 5.])
    """
    total: Any = 0.0
    for monomial, coefficient in formula:
        own = constants[coefficient] if isinstance(coefficient, int) else coefficient  # type: ignore[index]
        total = total + (own * _product(monomial, columns, constants, functions) if monomial else own)
    return total + functions.zeros_like(columns[0]) if not isinstance(total, type(columns[0])) else total


def term_values(formula: Sum, columns: Sequence[Array], constants: Array) -> list[Array]:
    """Return the values of each term without its coefficient, the number 1 for the constant term."""
    return [_product(monomial, columns, constants, np) if monomial else np.ones(()) for monomial, _ in formula]


def _product(monomial: Monomial, columns: Sequence[Array], constants: Array | None, functions: Any) -> Array:
    product: Any = None
    for (kind, inner), exponent in monomial:
        if kind == "x":
            value = columns[inner - 1]
        else:
            value = evaluate(inner, columns, constants, functions)
            if kind != "group":
                value = _function(functions, kind)(value)
        value = _power(value, exponent)
        product = value if product is None else product * value
    return product


def _function(functions: Any, kind: str) -> Callable[[Array], Array]:
    found: Callable[[Array], Array] = getattr(functions, "arcsin" if kind == "asin" else kind)
    return found


def _power(value: Array, exponent: int) -> Array:
    """Return a whole power by multiplication, which is exact in sign and many times faster than `**`."""
    if exponent == 1:
        return value
    if exponent < 0:
        return 1.0 / _power(value, -exponent)
    half = _power(value, exponent // 2)
    return half * half * value if exponent % 2 else half * half


Derivatives = dict[int, Any]  # by the number of a constant


def term_values_and_derivatives(
    formula: Sum, columns: Sequence[Array], constants: Array
) -> list[tuple[Array, Derivatives]]:
    """Return the value of each term without its coefficient, and its derivatives by the constants inside of it.

    Args:
        formula: A skeleton.
        columns: The values of each variable. Each of shape (N,).
        constants: Their values. Shape (C,).

    Returns:
        For each term its values, shape (N,), and for each number of a constant inside of it the derivatives, (N,).
    """
    return [
        _product_and_derivatives(monomial, columns, constants) if monomial else (np.ones(()), {})
        for monomial, _ in formula
    ]


def _product_and_derivatives(
    monomial: Monomial, columns: Sequence[Array], constants: Array
) -> tuple[Array, Derivatives]:
    values: list[Array] = []
    parts: list[Derivatives] = []
    for (kind, inner), exponent in monomial:
        if kind == "x":
            values.append(_power(columns[inner - 1], exponent))
            parts.append({})
            continue
        argument, slopes = _sum_and_derivatives(inner, columns, constants)
        value = argument if kind == "group" else _function(np, kind)(argument)
        slope = 1.0 if kind == "group" else _SLOPES[kind](argument, value)
        if exponent != 1:
            slope = slope * exponent * (_power(value, exponent - 1) if exponent != 1 else 1.0)
            value = _power(value, exponent)
        values.append(value)
        parts.append({number: slope * one for number, one in slopes.items()})
    product = values[0]
    for value in values[1:]:
        product = product * value
    derivatives: Derivatives = {}
    for place, slopes in enumerate(parts):
        if slopes:
            others: Any = 1.0
            for other, value in enumerate(values):
                others = others if other == place else others * value
            for number, one in slopes.items():
                derivatives[number] = one * others
    return product, derivatives


def _sum_and_derivatives(formula: Sum, columns: Sequence[Array], constants: Array) -> tuple[Array, Derivatives]:
    total: Any = 0.0
    derivatives: Derivatives = {}
    for monomial, coefficient in formula:
        own = constants[coefficient] if isinstance(coefficient, int) else coefficient
        if not monomial:
            total = total + own
            if isinstance(coefficient, int):
                derivatives[coefficient] = 1.0
            continue
        value, slopes = _product_and_derivatives(monomial, columns, constants)
        total = total + own * value
        for number, one in slopes.items():
            derivatives[number] = own * one
        if isinstance(coefficient, int):
            derivatives[coefficient] = value
    return total, derivatives


_SLOPES: Mapping[str, Callable[[Array, Array], Array]] = {
    "sin": lambda argument, value: np.cos(argument),
    "cos": lambda argument, value: -np.sin(argument),
    "exp": lambda argument, value: value,
    "log": lambda argument, value: 1.0 / argument,
    "sqrt": lambda argument, value: 0.5 / value,
    "asin": lambda argument, value: 1.0 / np.sqrt(1.0 - argument * argument),
}
