"""Columns chosen by the fit."""

import numpy as np
import pytest

from sortednet.symbolic.laws import relevant

LAWS = [
    (lambda x: x[:, 3] + 2 * x[:, 17], {3, 17}),
    (lambda x: x[:, 3] * x[:, 17], {3, 17}),
    (lambda x: np.exp(x[:, 8]) / x[:, 2], {2, 8}),
    (lambda x: np.full(len(x), 1.0) * x[:, 30] ** 2, {30}),
]


@pytest.mark.parametrize(("law", "expected"), LAWS)
def test_those_that_matter_are_among_the_first(law, expected) -> None:
    x = np.random.default_rng(0).uniform(1, 4, (150, 40))
    assert expected <= set(relevant(x, law(x), 5))


def test_of_500_columns_few_are_kept() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 500))
    found = relevant(x, x[:, 400] - x[:, 3] + 0.1 * rng.normal(size=300), 20)
    assert {3, 400} <= set(found)
    assert len(found) < 10


def test_there_is_always_one() -> None:
    assert relevant(np.zeros((10, 3)), np.ones(10), 2) == [0]
