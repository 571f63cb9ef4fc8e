"""Formulas that were found: readable and callable in every form alike, and data scaled there and back."""

import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

from sortednet.errors import DataError
from sortednet.symbolic import Formula
from sortednet.symbolic.expressions import evaluate, freeze, parse, scale_free, skeleton_of, to_text
from sortednet.symbolic.formula import tidy
from sortednet.symbolic.scaling import LARGEST, Scaling, standardise

X = np.random.default_rng(0).uniform(0.2, 0.9, (50, 3))

TEXTS = [
    "2*x1**2+1",
    "-1.5*sin(0.3*x1+2)*x2**-2",
    "exp(-0.5*x1**2)/x2-sqrt(x3+1)",
    "log(x1+2)*cos(3*x2)",
    "asin(0.5*x1)",
    "(x1+x2+x3+1)**5",
    "3",
    "1e-7*x1+12345678*x2",
]
every_text = pytest.mark.parametrize("text", TEXTS)
# Where the factor beside a logarithm has constants of its own, no skeleton is free of scale.
SETTLED = [text for text in TEXTS if (free := scale_free(skeleton_of(parse(text)))) == scale_free(free)]


def formula(text: str) -> Formula:
    return Formula.of(parse(text), ["x1", "x2", "x3"], 0.0)


def plain(text: str) -> Any:
    names = {name: getattr(np, name) for name in ("sin", "exp", "sqrt", "log", "cos")} | {"asin": np.arcsin}
    found = eval(text, names, {f"x{place + 1}": X[:, place] for place in range(3)})
    return np.broadcast_to(found, (50,))


@every_text
def test_values_are_those_of_the_text(text: str) -> None:
    assert formula(text)(X) == pytest.approx(plain(text), rel=1e-9)


@every_text
def test_sympy_has_the_same_values(text: str) -> None:
    import sympy

    theirs = sympy.lambdify(sympy.symbols("x1 x2 x3"), formula(text).sympy(), "numpy")(*X.T)
    assert formula(text)(X) == pytest.approx(np.broadcast_to(theirs, (50,)), rel=1e-12)


@every_text
def test_sympy_reads_the_text_to_the_same_values(text: str) -> None:
    import sympy

    theirs = sympy.lambdify(sympy.symbols("x1 x2 x3"), sympy.sympify(str(formula(text))), "numpy")(*X.T)
    assert formula(text)(X) == pytest.approx(np.broadcast_to(theirs, (50,)), rel=1e-9)


@every_text
def test_torch_has_the_same_values(text: str) -> None:
    found = formula(text)(torch.tensor(X))
    assert isinstance(found, torch.Tensor)
    assert found.numpy() == pytest.approx(formula(text)(X), rel=1e-12)


@every_text
def test_latex_is_that_of_the_expression(text: str) -> None:
    import sympy

    assert formula(text).latex() == sympy.latex(formula(text).sympy())


@every_text
def test_complexity_is_that_of_the_terms(text: str) -> None:
    assert formula(text).complexity >= len(re.findall(r"x\d", text.replace("exp", "")))


def test_latex_is_readable() -> None:
    assert formula("2*sqrt(x1)/x2 - 1").latex() == r"\frac{2 \sqrt{x_{1}}}{x_{2}} - 1"


def test_gradients_pass_through_tensors() -> None:
    x = torch.tensor(X, requires_grad=True)
    formula("sin(2*x1)*x2")(x).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].numpy() == pytest.approx(2 * np.cos(2 * X[:, 0]) * X[:, 1], rel=1e-12)
    assert not x.grad[:, 2].any()


def test_tensors_keep_their_type() -> None:
    assert formula("2*x1+1")(torch.ones(2, 3)).dtype == torch.float32


def test_where_a_formula_has_no_value_it_is_not_finite() -> None:
    assert np.isnan(formula("log(x1)")(np.array([[-1.0, 0, 0]])))[0]


def test_names_are_those_of_the_columns() -> None:
    found = Formula.of(parse("x1*x3"), ["speed", "mass", "height"], 0.0)
    assert (str(found), found.variables()) == ("speed*height", ("speed", "height"))
    assert {str(symbol) for symbol in found.sympy().free_symbols} == {"speed", "height"}


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 4), (2, 5, 3)])
def test_columns_of_another_number_are_an_error(shape: tuple[int, ...]) -> None:
    message = rf"x has the shape {re.escape(str(shape))}\. Give 3 columns, x1, x2, x3\."
    with pytest.raises(DataError, match=message):
        formula("x1")(np.zeros(shape))


def test_a_formula_without_variables_has_a_value_at_each_point() -> None:
    assert formula("3")(X).tolist() == [3.0] * 50


def test_a_formula_can_be_pickled() -> None:
    found = formula(TEXTS[2])
    assert pickle.loads(pickle.dumps(found)) == found


# Tidying.


def tidied(text: str, target: str) -> str:
    y, columns = formula(target)(X), list(X.T)

    def error_of(terms: Any) -> float:
        return float(((evaluate(terms, columns) - y) ** 2).mean() / y.var())

    return to_text(freeze(tidy(parse(text), error_of)))


@pytest.mark.parametrize(
    ("text", "target", "printed"),
    [
        ("3.00000000001*x1**2-0.99999999999", "3*x1**2-1", "3*x1**2-1"),
        ("1.2345000000001*x1", "1.2345*x1", "1.2345*x1"),
        ("2*x1+1e-13*x2", "2*x1", "2*x1"),
    ],
)
def test_numbers_are_rounded_as_far_as_the_error_allows(text: str, target: str, printed: str) -> None:
    assert tidied(text, target) in (printed, printed.replace("2*x1", "2*x1+1e-13*x2"))


def test_digits_that_the_data_need_are_kept() -> None:
    assert tidied("3.14159265359*x1", "3.14159265359*x1") in ("3.14159265359*x1", "3.141593*x1", "3.1415927*x1")


# Scaling.


def test_scaled_data_have_the_largest_coordinate_and_the_spread_of_training() -> None:
    y = 100 * X[:, 0] + 7
    x, scaled, *_ = standardise(50 * X, y)
    assert np.abs(x).max(0) == pytest.approx([LARGEST] * 3)
    assert (scaled.mean(), scaled.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_a_formula_of_scaled_data_is_mapped_back() -> None:
    y = 5 * (50 * X[:, 0]) ** 2 + 3
    x, scaled, factors, mean, spread = standardise(50 * X, y)
    coefficients = np.polyfit(x[:, 0] ** 2, scaled, 1)
    back = Scaling(factors, float(mean), float(spread)).back(
        freeze(parse(f"{coefficients[0]}*x1**2+({coefficients[1]})"))
    )
    assert evaluate(freeze(back), list((50 * X).T)) == pytest.approx(y, rel=1e-9)


@pytest.mark.parametrize("text", SETTLED)
def test_scaling_gives_the_skeleton_that_is_free_of_scale(text: str) -> None:
    _, _, *kept = standardise(50 * X, 7 * X[:, 0] + 2)
    back = Scaling(kept[0], float(kept[1]), float(kept[2])).back(freeze(parse(text)))
    assert to_text(skeleton_of(back)) == to_text(scale_free(skeleton_of(parse(text))))


def test_weights_decide_mean_and_spread() -> None:
    weights = np.random.default_rng(0).integers(1, 5, 50)
    y = X[:, 0]
    weighted = standardise(X, y, weights)[3:]
    repeated = standardise(np.repeat(X, weights, 0), np.repeat(y, weights))[3:]
    assert weighted == (pytest.approx(repeated[0]), pytest.approx(repeated[1]))


def test_constant_columns_and_targets_are_no_error() -> None:
    x, y, *kept = standardise(np.zeros((5, 2)), np.full(5, 3.0))
    assert not x.any()
    assert not y.any()
    assert (float(kept[1]), float(kept[2])) == (pytest.approx(3.0), 1.0)
