"""Formulas as text: how they are printed, and how text is read, without ever evaluating it as code."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from ...errors import DataError
from .algebra import (
    FUNCTIONS,
    Monomial,
    NoFormulaError,
    Poly,
    Sum,
    add,
    apply,
    divide,
    multiply,
    number,
    power,
    scale,
    subtract,
    variable,
)

__all__ = ["CONSTANT", "complexity", "parse", "read_number", "readable", "to_text"]

CONSTANT = "C"
"""Stands for a constant whose value is still to be found."""

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([^\W\d]\w*)|(\*\*|[-+*/()^]))")
_NAMED = {"pi": math.pi, "e": math.e, "E": math.e}
_ALIASES = {"ln": "log", "arcsin": "asin"}
_GENERIC = 0.7390851332151607  # constants are read as 1.739..., 2.478...: numbers that no identity knows
_MOST_NESTED = 50
_MOST_DOUBLED = 8
_DENOMINATOR = 12


def parse(text: str, names: Sequence[str] | None = None, constants: Sequence[float] | None = None) -> Poly:
    """Read a formula in the usual notation: + - * / ** ^, brackets, sin cos exp log sqrt asin tan tanh, pi and e.

    Args:
        text: The formula.
        names: Names of the variables in order; x1, x2, ... where left out.
        constants: Values of `C`, in the order of the text; numbers without particulars where left out.

    Returns:
        The formula in canonical form.

    Raises:
        DataError: If the text is no formula, or none with finite values.

    Example:
        >>> from sortednet.symbolic.expressions import freeze, to_text
        >>> to_text(freeze(parse("x1*(x1 + 2) - 2*x1")))
        'x1**2'
    """
    return _Parser(text, names, constants).read()


def to_text(formula: Sum, names: Sequence[str] | None = None, values: Sequence[float] | None = None) -> str:
    """Print a formula so that `parse`, Python and sympy read it.

    Args:
        formula: The formula; constants without a value are printed as `C`.
        names: Names of the variables in order; x1, x2, ... where left out.
        values: Values of the constants by their number; `C` where left out.
    """
    return "".join(_sum(formula, names, values)) or "0"


def readable(formula: Sum, names: Sequence[str] | None = None) -> str:
    """Print a formula for people: quotients as quotients, powers as powers. `parse`, Python and sympy read it too.

    Args:
        formula: With values.
        names: Names of the variables in order; x1, x2, ... where left out.

    Example:
        >>> from sortednet.symbolic.expressions import freeze
        >>> [readable(freeze(parse(text))) for text in ("8.28*x1**-1*x2", "x1**-1*x2**-2", "exp(0.25*log(x1))/2")]
        ['8.28*x2/x1', '1/(x1*x2**2)', '0.5*x1**0.25']
    """
    shown = ""
    for place, (monomial, coefficient) in enumerate(formula):
        above: list[str] = []
        below: list[str] = []
        size = read_number(abs(float(coefficient)))
        for (kind, inner), exponent in monomial:
            base, times = _base(kind, inner, names, exponent)
            (above if times > 0 else below).append(base if abs(times) == 1 else f"{base}**{_exponent(abs(times))}")
        if size != "1" or not above:
            above.insert(0, size)
        sign = "-" if coefficient < 0 else "+" if place else ""
        under = "" if not below else f"/{below[0]}" if len(below) == 1 else f"/({'*'.join(below)})"
        shown += sign + "*".join(above) + under
    return shown or "0"


def _base(kind: str, inner: Any, names: Sequence[str] | None, exponent: int) -> tuple[str, float]:
    """Return what a power is of, and the power; of exp(k*log(u)), u and k."""
    if kind == "x":
        return (f"x{inner}" if names is None else names[inner - 1]), exponent
    if kind == "group":
        return f"({readable(inner, names)})", exponent
    if kind == "exp" and exponent == 1 and len(inner) == 1:
        ((monomial, power),) = inner
        if len(monomial) == 1 and monomial[0][0][0] == "log" and monomial[0][1] == 1:
            base = readable(monomial[0][0][1], names)
            return (base if base.isidentifier() else f"({base})"), float(power)
    return f"{kind}({readable(inner, names)})", exponent


def _exponent(value: float) -> str:
    """Print a power, as a fraction where it is one that has no short decimals."""
    text, near = read_number(float(value)), Fraction(value).limit_denominator(_DENOMINATOR)
    return f"({near})" if float(near) == value and len(text) > len(str(near)) + 2 else text


def read_number(value: float) -> str:
    """Print a number in as few digits as say it to 12 digits."""
    text = f"{value:.12g}"
    return text if len(text) < len(repr(value)) else repr(value)


def complexity(formula: Sum) -> int:
    """Count the nodes of a formula's tree: variables, constants, operators and functions."""
    total = 0
    for monomial, coefficient in formula:
        factors = 0
        if not monomial or isinstance(coefficient, int) or coefficient not in (1.0, -1.0):
            factors += 1
            total += 1
        for (kind, inner), exponent in monomial:
            factors += 1
            total += 1 if kind == "x" else complexity(inner) + (kind != "group")
            total += 0 if exponent == 1 else 2 if exponent != -1 else 1
        total += max(0, factors - 1)
    return total + max(0, len(formula) - 1)


def _sum(formula: Sum, names: Sequence[str] | None, values: Sequence[float] | None) -> Iterator[str]:
    for place, (monomial, coefficient) in enumerate(formula):
        if isinstance(coefficient, int):
            if values is None:
                yield "+" if place else ""
                yield f"{CONSTANT}*" if monomial else CONSTANT
                yield from _product(monomial, names, values)
                continue
            coefficient = float(values[coefficient])
        text = read_number(abs(coefficient))
        yield "-" if coefficient < 0 else "+" if place else ""
        if not monomial or text != "1":
            yield f"{text}*" if monomial else text
        yield from _product(monomial, names, values)


def _product(monomial: Monomial, names: Sequence[str] | None, values: Sequence[float] | None) -> Iterator[str]:
    for place, ((kind, inner), exponent) in enumerate(monomial):
        yield "*" if place else ""
        if kind == "x":
            yield f"x{inner}" if names is None else names[inner - 1]
        else:
            yield "(" if kind == "group" else f"{kind}("
            yield from _sum(inner, names, values)
            yield ")"
        if exponent != 1:
            yield f"**{exponent}"


class _Parser:
    """Reads by recursive descent: sums of products of powers of what is in brackets."""

    def __init__(self, text: str, names: Sequence[str] | None, constants: Sequence[float] | None) -> None:
        self._text = text
        self._names: Mapping[str, int] | None = None
        if names is not None:
            self._names = {name: place for place, name in enumerate(names, 1)}
        self._constants = None if constants is None else iter(constants)
        self._count = 0
        self._depth = 0
        self._doubled = 0
        self._tokens = self._split()
        self._place = 0

    def read(self) -> Poly:
        try:
            found = self._sum()
        except NoFormulaError as error:
            raise DataError(f"{self._text!r} has no finite value: {error}.") from None
        if self._place < len(self._tokens):
            raise self._wrong(f"{self._tokens[self._place]!r} is not expected there")
        return found

    def _wrong(self, why: str) -> DataError:
        names = "x1, x2, ..." if self._names is None else ", ".join(self._names)
        return DataError(
            f"{self._text!r} is no formula: {why}. Use numbers, {names}, + - * / **, brackets, {', '.join(FUNCTIONS)}."
        )

    def _split(self) -> list[str]:
        tokens, place = [], 0
        text = self._text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise self._wrong(f"{text[place:].strip()[0]!r} is not understood")
            tokens.append(match.group().strip())
            place = match.end()
        return tokens

    def _next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._place += 1
        return token

    def _sum(self) -> Poly:
        total = self._term()
        while self._next() in ("+", "-"):
            total = (add if self._take() == "+" else subtract)(total, self._term())
        return total

    def _term(self) -> Poly:
        total = self._signed()
        while self._next() in ("*", "/"):
            total = (multiply if self._take() == "*" else divide)(total, self._signed())
        return total

    def _signed(self) -> Poly:
        sign = 1.0
        while self._next() in ("-", "+"):
            sign = -sign if self._take() == "-" else sign
        return scale(self._power(), sign)

    def _power(self) -> Poly:
        base = self._atom()
        if self._next() not in ("**", "^"):
            return base
        self._take()
        self._deeper()
        exponent = self._signed()
        self._depth -= 1
        if exponent.keys() <= {()}:
            return power(base, exponent.get((), 0.0))
        return apply("exp", multiply(exponent, apply("log", base)))

    def _atom(self) -> Poly:
        token = self._take()
        if token == "(":
            return self._bracketed()
        if token[:1].isdigit() or token[:1] == ".":
            return number(float(token))
        if self._next() == "(" and token:
            return self._function(_ALIASES.get(token, token))
        if self._names is not None and token in self._names:
            return variable(self._names[token])
        if token == CONSTANT:
            return number(self._constant())
        if self._names is None and re.fullmatch(r"x[1-9]\d?", token):
            return variable(int(token[1:]))
        if token in _NAMED:
            return number(_NAMED[token])
        raise self._wrong(f"{token!r} is unknown" if token else "it ends too early")

    def _constant(self) -> float:
        if self._constants is None:
            self._count += 1
            return 1.0 + self._count * _GENERIC
        try:
            return float(next(self._constants))
        except StopIteration:
            raise self._wrong("it has more constants than values") from None

    def _bracketed(self) -> Poly:
        self._deeper()
        found = self._sum()
        if self._take() != ")":
            raise self._wrong("a bracket is not closed")
        self._depth -= 1
        return found

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise self._wrong(f"it is nested more than {_MOST_NESTED} deep")

    def _function(self, name: str) -> Poly:
        self._take()
        argument = self._bracketed()
        if name in FUNCTIONS:
            return apply(name, argument)
        self._doubled += name in ("tan", "tanh")
        if self._doubled > _MOST_DOUBLED:
            raise self._wrong(f"it has more than {_MOST_DOUBLED} of tan and tanh, which are written out")
        if name == "tan":
            return divide(apply("sin", argument), apply("cos", argument))
        if name == "tanh":
            square = apply("exp", scale(argument, 2.0))
            return divide(subtract(square, number(1.0)), add(square, number(1.0)))
        if name == "acos":
            return subtract(number(math.pi / 2), apply("asin", argument))
        raise self._wrong(f"the function {name!r} is unknown")
