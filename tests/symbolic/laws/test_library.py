"""The forms that are always tried, and waves."""

import numpy as np
import pytest

from sortednet.symbolic.constants import Points, fit_constants
from sortednet.symbolic.expressions import constants_of, to_text, with_values
from sortednet.symbolic.laws import skeletons, waves


def points(x: np.ndarray, y: np.ndarray) -> Points:
    return Points(list(x.T), y, np.ones(len(y)))


def test_a_plane_comes_first_for_any_number_of_columns() -> None:
    for variables in (1, 3, 15):
        x = np.random.default_rng(0).normal(size=(40, variables))
        first = next(iter(skeletons(points(x, x[:, 0]))))
        assert to_text(first) == "+".join(f"C*x{place}" for place in range(1, variables + 1)) + "+C"


@pytest.mark.parametrize("count", [3, 6, 12, 30])
def test_no_polynomial_has_as_many_constants_as_half_of_the_points(count) -> None:
    x = np.linspace(1, 2, count)[:, None]
    polynomials = [one for one in skeletons(points(x, x[:, 0])) if "x1**3" in to_text(one)]
    assert all(constants_of(one) <= count / 2 for one in polynomials if "exp" not in to_text(one))


@pytest.mark.parametrize("periods", [1.5, 5, 20.25, 60])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_a_wave_of_any_frequency_is_found_beside_a_line(periods, slope) -> None:
    x = np.sort(np.random.default_rng(0).uniform(0, 3, 300))
    y = np.sin(2 * np.pi * periods * x / 3 + 0.7) + slope * x
    held = points(x[:, None], y)
    errors = []
    for poly in waves(held):
        skeleton, values = with_values(poly)
        found = fit_constants(skeleton, held, np.random.default_rng(0), known=values, starts=1, kept=1, exact=True)
        errors.append(found.error)
    assert min(errors) < 1e-12
