"""Laws found without a model: products of powers and factors, sums, and these under a transform of y."""

import numpy as np
import pytest

from sortednet.symbolic.constants import Points
from sortednet.symbolic.expressions import evaluate, freeze
from sortednet.symbolic.laws import find_laws


def error_of(law, variables: int, count: int = 100, noise: float = 0.0, low: float = 1.0, high: float = 5.0) -> float:
    """Return the smallest error, at fresh points, of what is found for a law."""
    rng = np.random.default_rng(variables)
    x, fresh = rng.uniform(low, high, (count, variables)), rng.uniform(low, high, (500, variables))
    y = law(*x.T)
    y = y + noise * np.sqrt((y * y).mean()) * rng.normal(size=count)
    errors = []
    for found in find_laws(Points(list(x.T), y, np.ones(count))):
        with np.errstate(all="ignore"):
            values = evaluate(freeze(found.formula), list(fresh.T))
        if not np.isfinite(values).all():
            continue
        slope, offset = np.polyfit(values, law(*fresh.T), 1)  # these are fitted in any case
        errors.append(float(((slope * values + offset - law(*fresh.T)) ** 2).mean() / law(*fresh.T).var()))
    return min(one for one in errors if np.isfinite(one))


PRODUCTS = [
    (3, lambda a, b, c: 0.4 * a**-2 * b**-2 / c),
    (2, lambda a, b: 7.1 * a ** (1 / 3) * b**-1.5),
    (4, lambda a, b, c, d: a * b**2.5 / c**3 / d),
    (3, lambda a, b, c: a * b * np.sin(c) ** 2),
    (3, lambda a, b, c: a * np.exp(-b / c)),
    (2, lambda a, b: np.exp(-0.5 * (a / b) ** 2) / b),
    (3, lambda a, b, c: a / (b**2 + c**2)),
    (4, lambda a, b, c, d: a * np.log(b / c) * d),
    (3, lambda a, b, c: np.cos(a * b) ** 2 * c / (b**2 + c**2)),
]
SUMS = [
    (6, lambda a, b, c, d, e, f: a * b + c * d + e * f),
    (3, lambda a, b, c: a * (1 + b * np.cos(c))),
    (2, lambda a, b: np.sqrt(a**2 + 3 * b)),
    (2, lambda a, b: 1 / (1 / a + 2 / b)),
    (3, lambda a, b, c: 1.5 * a - b + 0.5 * c * a),
    (1, lambda a: a**5 - 2 * a**3 + a),
    (2, lambda a, b: 1 / (1 + a**2) + b),
]


@pytest.mark.parametrize(("variables", "law"), PRODUCTS)
def test_products_of_powers_and_factors_are_found_exactly(variables, law) -> None:
    assert error_of(law, variables) < 1e-18


@pytest.mark.parametrize(("variables", "law"), SUMS)
def test_sums_are_found_exactly_under_transforms_of_y(variables, law) -> None:
    assert error_of(law, variables) < 1e-18


@pytest.mark.parametrize(("variables", "law"), PRODUCTS[:3])
def test_noise_does_not_hide_a_power_law(variables, law) -> None:
    assert error_of(law, variables, noise=0.02) < 1e-4


def test_columns_that_do_not_matter_do_no_harm() -> None:
    assert error_of(lambda *columns: 3 * columns[1] ** 2 / columns[6], 8) < 1e-18


@pytest.mark.parametrize("scale", [1e-29, 1e-8, 1e8, 1e29])
def test_units_do_not_matter(scale) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 5, (60, 2)) * scale
    found = find_laws(Points(list(x.T), x[:, 0] ** 2 / x[:, 1], np.ones(60)))
    assert found[0].error < 1e-18


@pytest.mark.parametrize("y", [np.zeros(20), np.full(20, -3.0), np.arange(20.0) % 2])
def test_values_without_a_law_give_no_error(y) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    x[3] = 0
    assert all(np.isfinite(one.error) for one in find_laws(Points(list(x.T), y, np.ones(20))))
