"""Where a formula has values: poles between the points are seen too."""

import numpy as np
import pytest

from sortednet.symbolic.domain import Domain
from sortednet.symbolic.expressions import freeze, parse

X = np.array([[-1.0, 1.0], [2.0, 3.0], [0.5, 2.0]])


@pytest.mark.parametrize(
    "text", ["x1**2", "x2**-1", "(x1+1.01)**-2", "log(x2)", "sqrt(x1+1)", "exp(x1)*x2", "(x1**2+1)**-1", "1.5"]
)
def test_a_formula_that_is_finite_in_the_box_holds(text) -> None:
    assert Domain(list(X.T)).holds(freeze(parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "x1**-1", "(x1-1.9)**-1", "(x1-1.23456789)**-2", "log(x1+0.9)", "sqrt(x1)", "sin(3*x1)**-1", "x2*(x1-x2)**-1",
        "exp((x1-0.7)**-1)", "asin(x2-1)", "log(x1**2)", "sin(sqrt(x1-1.99))",
    ],
)  # fmt: skip
def test_a_formula_with_a_pole_or_a_gap_does_not(text) -> None:
    assert not Domain(list(X.T)).holds(freeze(parse(text)))
