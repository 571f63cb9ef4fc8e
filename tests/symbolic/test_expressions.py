"""Formulas: the algebra keeps values, equal writings are equal, text is read and never run, derivatives are exact."""

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from sortednet.errors import DataError
from sortednet.symbolic.expressions import (
    FUNCTIONS,
    complexity,
    evaluate,
    freeze,
    parse,
    read_skeleton,
    rebuild,
    skeleton_of,
    term_values,
    term_values_and_derivatives,
    to_text,
    variable,
)

from .cases import Tree, columns, few, trees

X = columns()


def values_of(formula: Any, points: Any = X) -> Any:
    with np.errstate(all="ignore"):
        return np.broadcast_to(evaluate(formula, list(points)), points[0].shape)


def perturbed(formula: Any, share: float) -> Any:
    """Return a formula whose coefficients are changed a little, to see how well it is conditioned."""
    found = []
    for place, (monomial, coefficient) in enumerate(formula):
        atoms = tuple(((kind, inner if kind == "x" else perturbed(inner, -share)), e) for (kind, inner), e in monomial)
        found.append((atoms, coefficient * (1 + share * (-1) ** place)))
    return tuple(found)


def well_conditioned(formula: Any, points: Any = X) -> Any:
    """Return what the values of a formula may be wrong by, where its coefficients are rounded."""
    value = values_of(formula, points)
    with np.errstate(all="ignore"):
        apart = [np.abs(values_of(perturbed(formula, share), points) - value) for share in (1e-11, -1e-11)]
        return 1e-9 * (1 + np.abs(value)) + 100 * np.maximum(*apart)


def assert_same_values(formula: Any, expected: Any, points: Any = X) -> None:
    """Where the expected values are finite, and the formula can be evaluated at all, both agree."""
    found, allowed = values_of(formula, points), well_conditioned(formula, points)
    usable = np.isfinite(expected) & (np.abs(expected) < 1e100) & np.isfinite(found) & np.isfinite(allowed)
    assert (np.abs(found - expected) <= allowed)[usable].all()


def rounded(formula: Any) -> Any:
    """Return a formula with coefficients of nine digits, so that another order of summing does not matter."""
    return tuple(
        (
            tuple(((kind, inner if kind == "x" else rounded(inner)), e) for (kind, inner), e in monomial),
            float(f"{coefficient:.9g}"),
        )
        for monomial, coefficient in formula
    )


def read(text: str) -> Any:
    return freeze(parse(text))


# The algebra.


@few
@given(trees)
def test_canonical_form_has_the_values_of_what_was_written(tree: Tree) -> None:
    with np.errstate(all="ignore"):
        expected = tree.values(X)
    try:
        formula = read(tree.text())
    except DataError as error:
        why = str(error)
    else:
        assert_same_values(formula, expected)
        return
    assert "beyond 12" in why or not (np.abs(expected) < 1e100).any()


@few
@given(trees)
def test_canonical_form_has_a_value_wherever_what_was_written_has(tree: Tree) -> None:
    with np.errstate(all="ignore"):
        expected = tree.values(X)
    try:
        formula = read(tree.text())
    except DataError:
        return
    plain = np.isfinite(expected) & (np.abs(expected) < 1e10) & (np.abs(expected) > 1e-10)
    missing = plain & ~np.isfinite(values_of(formula))
    assert missing.sum() <= 0.05 * len(expected)  # an edge of the domain, moved by rounding


@few
@given(trees)
def test_sympy_gives_the_values_of_the_canonical_form(tree: Tree) -> None:
    import sympy

    try:
        formula = read(tree.text())
    except DataError:
        return
    points = X[:, :4]
    symbols = sympy.symbols("x1 x2 x3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sympy.lambdify(symbols, sympy.sympify(tree.text(), evaluate=False), "mpmath")
    expected = []
    for point in points.T:
        try:
            value = complex(theirs(*point))
        except (ZeroDivisionError, OverflowError, ValueError):
            value = complex(math.nan)
        expected.append(value.real if value.imag == 0 else math.nan)
    assert_same_values(formula, np.array(expected), points)


@few
@given(trees)
def test_canonical_form_is_the_same_the_other_way_round(tree: Tree) -> None:
    try:
        formula, other = read(tree.text()), read(tree.text(flipped=True))
    except DataError:
        return
    assert rounded(other) == rounded(formula)


@few
@given(trees)
def test_canonical_form_is_idempotent(tree: Tree) -> None:
    try:
        formula = read(tree.text())
    except DataError:
        return
    assert_same_values(freeze(rebuild(formula, variable)), values_of(formula))
    assert complexity(freeze(rebuild(formula, variable))) <= complexity(formula)


EQUAL = [
    ("(x1 + 2)**2", "x1**2 + 4*x1 + 4"),
    ("(x1 + x2)*(x1 - x2)", "x1**2 - x2**2"),
    ("x2*x1", "x1*x2"),
    ("x3 + x1 + x2", "x2 + x3 + x1"),
    ("-(x1 - x2)", "x2 - x1"),
    ("x1 - (x2 - x3)", "x1 - x2 + x3"),
    ("x1/x2", "x1*x2**-1"),
    ("1/(x1*x2)", "x1**-1/x2"),
    ("x1/x1", "1"),
    ("x1**3/x1", "x1**2"),
    ("x1 - x1", "0"),
    ("exp(x1)*exp(x2)", "exp(x1 + x2)"),
    ("exp(x1)/exp(x2)", "exp(x1 - x2)"),
    ("exp(x1 + 2)", "7.38905609893065*exp(x1)"),
    ("exp(2*x1)", "exp(x1)**2"),
    ("log(2*x1)", "log(x1) + log(2)"),
    ("log(exp(x1))", "x1"),
    ("exp(2*log(x1))", "x1**2"),
    ("exp(0.5*log(x1))", "sqrt(x1)"),
    ("sqrt(4*x1)", "2*sqrt(x1)"),
    ("sqrt(x1)**2", "x1"),
    ("sqrt(x1)**3", "x1*sqrt(x1)"),
    ("x1**0.5", "sqrt(x1)"),
    ("x1**-1.5", "x1**-2*sqrt(x1)"),
    ("sin(-x1)", "-sin(x1)"),
    ("cos(-x1)", "cos(x1)"),
    ("cos(x1 - x2)", "cos(x2 - x1)"),
    ("cos(x1 + 1)", "sin(x1 + 1 + pi/2)"),
    ("(2*x1 + 4*x2)**-1", "0.5*(x1 + 2*x2)**-1"),
    ("(x1 + x2)**5*(x1 + x2)**2", "(x1 + x2)**7"),
    ("x1^2", "x1**2"),
    ("ln(x1)", "log(x1)"),
    ("arcsin(x1)", "asin(x1)"),
    ("tan(x1)", "sin(x1)/cos(x1)"),
    ("2**x1", "exp(x1*log(2))"),
    ("x1**x2", "exp(x2*log(x1))"),
    ("2*3 + 4/8", "6.5"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equivalent_writings_are_equal(one: str, other: str) -> None:
    assert rounded(read(one)) == rounded(read(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x1 + x2", "x1 - x2"),
        ("x1**2", "x1**-2"),
        ("sqrt(x1**2)", "x1"),  # |x1|
        ("log(x1**2)", "2*log(x1)"),  # of negative numbers too
        ("asin(sin(x1))", "x1"),
        ("sin(x1)", "cos(x1)"),
        ("log(-x1)", "log(x1)"),
        ("x1*x2", "x1*x3"),
    ],
)
def test_different_functions_stay_different(one: str, other: str) -> None:
    assert rounded(read(one)) != rounded(read(other))


def test_long_products_stay_in_brackets() -> None:
    assert to_text(read("(x1 + x2 + x3 + 1)**5")) == "(x1+x2+x3+1)**5"


# Text.


@few
@given(trees)
def test_text_is_read_back(tree: Tree) -> None:
    try:
        formula = read(tree.text())
    except DataError:
        return
    assert_same_values(read(to_text(formula)), values_of(formula))
    assert to_text(skeleton_of(read(to_text(formula)))) == to_text(skeleton_of(rebuild(formula, variable)))


@few
@given(trees)
def test_sympy_reads_the_text(tree: Tree) -> None:
    import sympy

    try:
        formula = read(tree.text())
    except DataError:
        return
    theirs = sympy.lambdify(sympy.symbols("x1 x2 x3"), sympy.sympify(to_text(formula), evaluate=False), "numpy")
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(np.asarray(theirs(*X), float), X[0].shape)
    assert_same_values(formula, expected)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("x1*(x1 + 2) - 2*x1", "x1**2"),
        ("0*x1", "0"),
        ("-x1", "-x1"),
        ("x1 - 1.5", "x1-1.5"),
        ("-2*sin(x1)/x2", "-2*sin(x1)*x2**-1"),
        ("1e-20*x1", "1e-20*x1"),
        ("x1/3", "0.333333333333*x1"),
    ],
)
def test_text_is_short(text: str, printed: str) -> None:
    assert to_text(read(text)) == printed


def test_text_takes_the_names_of_columns() -> None:
    names = ["speed", "mass of it"]
    formula = freeze(parse("speed**2 + 1", ["speed", "mass"]))
    assert to_text(formula, names) == "speed**2+1"


def test_values_are_printed_in_the_place_of_constants() -> None:
    skeleton = read_skeleton("C*sin(C*x1)+C")
    assert to_text(skeleton, values=[2.0, -1.5, 0.25]) == "2*sin(-1.5*x1)+0.25"


def test_constants_are_read_in_the_order_of_the_text() -> None:
    assert to_text(freeze(parse("C*x1+C", constants=[2.0, 3.0]))) == "2*x1+3"


def test_too_few_values_of_constants_are_an_error() -> None:
    with pytest.raises(DataError, match=r"'C\*x1\+C' is no formula: it has more constants than values\."):
        parse("C*x1+C", constants=[1.0])


REFUSED = [
    ("", "it ends too early"),
    ("   ", "it ends too early"),
    ("x1 +", "it ends too early"),
    ("(", "it ends too early"),
    ("(x1", "a bracket is not closed"),
    ("sin(x1", "a bracket is not closed"),
    ("sin(x1*(x1+1)", "a bracket is not closed"),
    ("x1)", r"'\)' is not expected there"),
    ("x1 x2", "'x2' is not expected there"),
    ("0x10", "'x10' is not expected there"),
    ("1_000", "'_000' is not expected there"),
    ("2e5x1", "'x1' is not expected there"),
    ("x0", "'x0' is unknown"),
    ("y", "'y' is unknown"),
    ("sin", "'sin' is unknown"),
    ("sin()", r"'\)' is unknown"),
    ("gamma(x1)", "the function 'gamma' is unknown"),
    ("x1(2)", "the function 'x1' is unknown"),
    ("eval(x1)", "the function 'eval' is unknown"),
    ("__import__(x1)", "the function '__import__' is unknown"),
    ("__import__('os').system('true')", '"\'" is not understood'),
    ("().__class__", r"'\.' is not understood"),
    ("x1.real", r"'\.' is not understood"),
    ("lambda x1: x1", "':' is not understood"),
    ("x1; x2", "';' is not understood"),
    ("x1 $ 2", r"'\$' is not understood"),
    ("x1 = 2", "'=' is not understood"),
    ("[x1]", r"'\[' is not understood"),
    ("sin(x1, x2)", "',' is not understood"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_text_that_is_no_formula_is_refused(text: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"is no formula: {why}\. Use numbers, x1, x2, \.\.\., \+ - \* / \*\*, bra"):
        parse(text)


def test_a_refusal_names_the_columns() -> None:
    with pytest.raises(DataError, match=r"'x1' is unknown\. Use numbers, speed, mass, \+"):
        parse("x1", names=["speed", "mass"])


WITHOUT_VALUE = [
    ("1e999", "inf is no finite number"),
    ("9" * 400, "inf is no finite number"),
    ("1/0", "0 has no inverse"),
    ("x1/(x2 - x2)", "0 has no inverse"),
    ("log(0)", r"log\(0\.0\) is no finite number"),
    ("log(-x1/x1)", r"log\(-1\.0\) is no finite number"),
    ("sqrt(-1)", r"sqrt\(-1\.0\) is no finite number"),
    ("asin(2)", r"asin\(2\.0\) is no finite number"),
    ("exp(1000)", r"exp\(1000\.0\) is no finite number"),
    ("1e300*x1*1e300", "a coefficient is no finite number"),
    ("(1e-300*x1 + x2 + x3)**-12", "a power is no finite number"),
    ("x1**13", "a power of 13 is beyond 12"),
    ("x1**12*x1", "a power of 13 is beyond 12"),
    ("(x1**6)**6", "a power of 36 is beyond 12"),
]


@pytest.mark.parametrize(("text", "why"), WITHOUT_VALUE)
def test_text_without_a_finite_value_is_refused(text: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"has no finite value: {why}\."):
        parse(text)


def test_a_huge_power_is_refused_in_few_words() -> None:
    with pytest.raises(DataError, match="beyond 12") as caught:
        parse("x1**1e308")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    ["(" * 51 + "x1" + ")" * 51, "sin(" * 51 + "x1" + ")" * 51, "(" * 100_000, "1" + "**1" * 2000, "x1**-" * 2000],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="it is nested more than 50 deep"):
        parse(text)


@pytest.mark.parametrize("text", ["(" * 50 + "x1" + ")" * 50, "-" * 5000 + "x1", "+".join(["x1"] * 5000)])
def test_long_but_flat_text_is_read(text: str) -> None:
    assert len(read(text)) == 1


@pytest.mark.parametrize("function", ["tan", "tanh"])
def test_functions_that_double_their_argument_end_soon(function: str) -> None:
    began = time.process_time()
    with pytest.raises(DataError):
        parse(f"{function}(" * 30 + "x1" + ")" * 30)
    assert time.process_time() - began < 5


def test_text_is_never_run(tmp_path: Path) -> None:
    file = tmp_path / "made"
    for text in (f"open('{file}', 'w')", f"__import__('pathlib').Path('{file}').touch()", "exec('1')", "print(x1)"):
        with pytest.raises(DataError, match="is no formula"):
            parse(text)
    assert not file.exists()


# Values.


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_those_of_python(name: str) -> None:
    points = np.linspace(0.01, 0.99, 9)
    expected = [getattr(math, name)(value) for value in points]
    assert evaluate(read(f"{name}(x1)"), [points]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("exponent", [*range(-12, 0), *range(1, 13)])
@pytest.mark.parametrize("value", [-2.166, 0.7, 3.0])
def test_powers_are_those_of_python(exponent: int, value: float) -> None:
    found = evaluate(read(f"x1**{exponent}"), [np.array([value])])
    assert found == pytest.approx([value**exponent], rel=1e-13)


def test_without_a_value_there_is_nan() -> None:
    found = values_of(read("log(x1) + sqrt(x1) + asin(10*x1)"), np.array([[-1.0]]))
    assert np.isnan(found).all()


def test_a_constant_formula_has_a_value_at_each_point() -> None:
    assert evaluate(read("2.5"), [np.zeros(3)]).tolist() == [2.5, 2.5, 2.5]


def test_many_values_of_constants_are_evaluated_at_once() -> None:
    skeleton = read_skeleton("C*sin(C*x1)+C")
    values = np.random.default_rng(0).normal(size=(3, 5, 1))
    together = evaluate(skeleton, [X[0]], values)
    alone = [evaluate(skeleton, [X[0]], values[:, place, 0]) for place in range(5)]
    assert together.shape == (5, 40)
    assert np.array_equal(together, np.stack(alone))


@few
@given(trees)
def test_torch_gives_the_values_of_numpy(tree: Tree) -> None:
    try:
        formula = read(tree.text())
    except DataError:
        return
    ours = evaluate(formula, [torch.tensor(column) for column in X], functions=torch)
    theirs = values_of(formula)
    found = np.broadcast_to(ours.numpy(), theirs.shape)
    same = np.isclose(found, theirs, rtol=1e-7, atol=1e-9, equal_nan=True)
    # Where rounding decides which side of an edge a point is on, the two may differ.
    assert (same | (np.abs(found - theirs) <= well_conditioned(formula)) | ~np.isfinite(theirs)).all()


# Derivatives.

DERIVED = [
    *(f"C*{name}(C*x1+C)+C" for name in FUNCTIONS),
    *(f"C*{name}(C*x1+C)**{exponent}+C" for name in FUNCTIONS for exponent in (2, 3, -1, -2) if name != "exp"),
    "C*(x1+C)**-1+C",
    "C*(x1+C*x2+C*x3+C)**-3+C",
    "C*sin(C*x1)*cos(C*x2)*x3**-2+C",
    "C*exp(C*sin(C*x1)*x2+C*x1**2)*log(x2+C)+C",
    "C*sin(C*sin(C*sin(C*x1+C)+C)+C)+C",
    "C*x1+C*x2**2+C",
]


@pytest.mark.parametrize("text", DERIVED)
def test_derivatives_are_finite_differences(text: str) -> None:
    skeleton = read_skeleton(text)
    points = list(np.random.default_rng(1).uniform(0.1, 0.4, (3, 6)))
    count = to_text(skeleton).count("C")
    values = np.random.default_rng(2).uniform(0.3, 0.9, count)
    terms = term_values_and_derivatives(skeleton, points, values)
    plain = term_values(skeleton, points, values)
    for place, (value, slopes) in enumerate(terms):
        assert np.allclose(value, plain[place], rtol=1e-12)
        for number in range(count):
            step = np.zeros(count)
            step[number] = 1e-6
            above, below = (term_values(skeleton, points, values + sign * step)[place] for sign in (1, -1))
            assert np.allclose(slopes.get(number, 0.0), (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


def test_a_constant_in_front_of_a_term_is_in_no_derivative() -> None:
    ((_, slopes), (_, none)) = term_values_and_derivatives(read_skeleton("C*sin(C*x1)+C"), [X[0]], np.ones(3))
    assert (set(slopes), none) == ({1}, {})


# Size.


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("x1", 1),
        ("2*x1", 3),
        ("x1+1", 3),
        ("x1**2", 3),
        ("1/x1", 2),
        ("sin(x1)", 2),
        ("2*sin(3*x1)+1", 8),
        ("x1*x2", 3),
    ],
)
def test_complexity_counts_the_nodes(text: str, nodes: int) -> None:
    assert complexity(read(text)) == nodes
