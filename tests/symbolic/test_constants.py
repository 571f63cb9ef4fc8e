"""Constants of skeletons: linear ones exactly, the others found, weights respected, and no start ever raises."""

from typing import Any

import numpy as np
import pytest

from sortednet.symbolic import GeneratorConfig, make_pool
from sortednet.symbolic.constants import Fitted, Points, fit_constants, least_squares_of
from sortednet.symbolic.expressions import constants_of, evaluate, read_skeleton

from .cases import ALL_OPERATORS, columns


def points(y: Any, x: Any, weights: Any = None) -> Points:
    share = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    return Points(list(x), np.asarray(y, float), np.sqrt(share / share.mean()))


def fitted(text: str, y: Any, x: Any, weights: Any = None, seed: int = 0, **own: Any) -> Fitted:
    found = fit_constants(read_skeleton(text), points(y, x, weights), np.random.default_rng(seed), **own)
    assert found is not None
    return found


def values_of(found: Fitted, x: Any) -> Any:
    return evaluate(found.skeleton, list(x), found.values)


X = columns(60)

LINEAR = [
    ("C*x1+C", [3.0, -1.5]),
    ("C*x1**2+C", [-0.2, 7.0]),
    ("C*x1+C*x2**3+C", [1.0, 2.0, 3.0]),
    ("C*x1*x2+C", [0.5, 1e-3]),
    ("C*x1+C*x1**2+C*x1**3+C*x1**4+C", [1.0, -2.0, 3.0, -4.0, 5.0]),
]


@pytest.mark.parametrize(("text", "values"), LINEAR)
def test_linear_constants_are_exact(text: str, values: list[float]) -> None:
    y = evaluate(read_skeleton(text), list(X), np.array(values))
    found = fitted(text, y, X)
    assert found.values == pytest.approx(values, rel=1e-9, abs=1e-11)
    assert found.error < 1e-20 * y.var()


def test_linear_constants_are_exact_whatever_the_scale_of_terms() -> None:
    y = 1e-8 * X[0] ** 6 + 1e6 * X[1] + 3
    assert fitted("C*x1**6+C*x2+C", y, X).values == pytest.approx([1e-8, 1e6, 3], rel=1e-3)


def test_linear_constants_need_no_start() -> None:
    one, other = (fitted("C*x1+C", 2 * X[0] + 1, X, seed=seed).values for seed in (0, 1))
    assert np.array_equal(one, other)


NONLINEAR = [
    ("C*sin(C*x1+C)+C", [1.5, 2.0, 0.4, 1.0]),
    ("C*sin(C*x1)+C*x2+C", [-1.2, 1.7, 0.5, 2.0]),
    ("C*cos(C*x1)+C", [2.0, 1.3, 0.1]),
    ("C*exp(C*x1)+C", [0.7, 0.9, -1.0]),
    ("C*exp(C*x1**2)+C", [2.0, -0.5, 0.3]),
    ("C*log(x1**2+C)+C", [1.4, 0.5, -2.0]),
    ("C*sqrt(x1**2+C)+C", [2.0, 1.5, 0.1]),
    ("C*(x1**2+C)**-1+C", [3.0, 1.2, 0.5]),
    ("C*exp(C*x1)*sin(C*x2)+C", [1.0, 0.5, 1.5, 0.2]),
    ("C*asin(C*x1)+C", [1.3, 0.25, 0.5]),
]


@pytest.mark.parametrize(("text", "values"), NONLINEAR)
def test_nonlinear_constants_are_recovered(text: str, values: list[float]) -> None:
    skeleton = read_skeleton(text)
    y = evaluate(skeleton, list(X), np.array(values))
    found = fitted(text, y, X, exact=True)
    assert found.error < 1e-12 * y.var()
    assert np.allclose(values_of(found, X), y, rtol=1e-5, atol=1e-5)


def test_the_last_digits_are_found_where_asked_for() -> None:
    y = 1.5 * np.sin(2.3 * X[0] + 0.4) + 1
    found = fitted("C*sin(C*x1+C)+C", y, X, exact=True)
    assert found.error < 1e-24
    assert abs(found.values[1]) == pytest.approx(2.3, rel=1e-10)


def test_known_values_are_a_start() -> None:
    y = np.sin(37.0 * X[0])
    known = np.array([1.0, 36.98, 0.0])
    assert fitted("C*sin(C*x1)+C", y, X, known=known).error < 1e-10
    assert fitted("C*sin(C*x1)+C", y, X, starts=4, kept=1).error > 0.1


def test_constants_of_noisy_data_are_those_of_least_error() -> None:
    noise = np.random.default_rng(3).normal(0, 0.1, 60)
    y = 1.5 * np.sin(2 * X[0]) + 1 + noise
    found = fitted("C*sin(C*x1)+C", y, X)
    assert found.error <= (noise**2).mean()
    assert abs(found.values[1]) == pytest.approx(2, abs=0.05)


def test_one_seed_gives_one_answer() -> None:
    y = np.sin(2 * X[0]) + np.random.default_rng(0).normal(size=60)
    one, other = (fitted("C*sin(C*x1+C)+C", y, X, seed=5) for _ in range(2))
    assert np.array_equal(one.values, other.values)


# Weights.


@pytest.mark.parametrize("text", ["C*x1+C", "C*sin(C*x1)+C"])
def test_a_weight_of_three_is_the_point_three_times(text: str) -> None:
    generator = np.random.default_rng(0)
    y = np.sin(1.5 * X[0]) + generator.normal(0, 0.3, 60)
    weights = generator.integers(1, 4, 60)
    repeated = fitted(text, np.repeat(y, weights), np.repeat(X, weights, axis=1), exact=True)
    weighted = fitted(text, y, X, weights, exact=True)
    assert weighted.error == pytest.approx(repeated.error, rel=1e-9)
    assert np.abs(values_of(weighted, X)) == pytest.approx(np.abs(values_of(repeated, X)), rel=1e-5, abs=1e-6)


def test_points_without_weight_are_not_counted() -> None:
    y = 2 * X[0] + 1
    y[:20] = 1e6
    weights = np.r_[np.zeros(20), np.ones(40)]
    found = fitted("C*x1+C", y, X, weights)
    assert found.values == pytest.approx([2, 1], rel=1e-9)
    assert found.error < 1e-15


def test_the_error_is_the_weighted_mean_of_squares() -> None:
    generator = np.random.default_rng(0)
    y, weights = generator.normal(size=60), generator.uniform(0, 2, 60)
    found = fitted("C*x1+C", y, X, weights)
    squares = (values_of(found, X) - y) ** 2
    assert found.error == pytest.approx((weights * squares).sum() / weights.sum(), rel=1e-9)


def test_few_points_keep_the_mean_weight_of_one() -> None:
    weights = np.random.default_rng(0).uniform(0, 2, 60)
    some = points(X[1], X, weights).few(10, np.random.default_rng(0))
    assert len(some.y) == 10
    assert (some.roots**2).mean() == pytest.approx(1)


def test_points_are_all_kept_where_there_are_few() -> None:
    own = points(X[1], X)
    assert own.few(60, np.random.default_rng(0)) is own


# Least squares.


def test_least_squares_give_coefficients_and_what_is_left() -> None:
    matrix = np.random.default_rng(0).normal(size=(20, 3))
    coefficients, left = least_squares_of(matrix, matrix @ [1.0, 2.0, 3.0] + 5)
    assert np.allclose(matrix @ coefficients + left, matrix @ [1.0, 2.0, 3.0] + 5)
    assert np.allclose(matrix.T @ left, 0, atol=1e-12)


def test_a_column_of_zeros_gets_no_coefficient() -> None:
    matrix = np.stack([np.zeros(5), np.ones(5)], 1)
    assert least_squares_of(matrix, np.full(5, 3.0))[0] == pytest.approx([0, 3])


def test_equal_columns_share_their_coefficient() -> None:
    matrix = np.ones((5, 2))
    assert least_squares_of(matrix, np.full(5, 3.0))[0].sum() == pytest.approx(3)


# What cannot be fitted.


@pytest.mark.parametrize(
    "text", ["C*log(-x1**2)+C", "C*sqrt(-x1**2)+C", "C*log(log(log(-x1**2)+C)+C)+C", "C*x1**-1*log(x1)+C"]
)
def test_skeletons_without_values_at_the_points_give_none(text: str) -> None:
    x = X.copy()
    x[0, 0] = 0.0 if "x1**-1" in text else x[0, 0]
    assert fit_constants(read_skeleton(text), points(X[1], x), np.random.default_rng(0)) is None


def test_more_constants_than_points_are_no_error() -> None:
    x = X[:, :3]
    assert fitted("C*sin(C*x1+C)+C*sin(C*x2+C)+C*x1**2+C", x[2], x, exact=True).error < 1e-6


def test_a_constant_alone_is_the_mean() -> None:
    found = fitted("C", X[1], X)
    assert (found.values[0], found.error) == (pytest.approx(X[1].mean()), pytest.approx(X[1].var()))


POOL = make_pool(GeneratorConfig(variables=(1, 2, 3), operators=ALL_OPERATORS), 200, 11, None)
WILD = [text for texts, _ in POOL.skeletons.values() for text in texts]


def test_there_are_enough_skeletons_to_try() -> None:
    assert len(WILD) >= 300


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", ["normal", "huge", "positive"])
def test_random_skeletons_never_raise_nor_warn(kind: str, exact: bool) -> None:
    """Warnings are errors here. What is found is never worse than the mean, and what is said of it is true."""
    generator = np.random.default_rng(0)
    x = {"normal": generator.normal(size=(3, 12)), "huge": generator.normal(size=(3, 12)) * 1e3}.get(
        kind, generator.uniform(1, 5, (3, 12))
    )
    y = generator.normal(size=12)
    own = points(y, x)
    for text in WILD[:: 4 if exact else 2]:
        skeleton = read_skeleton(text)
        found = fit_constants(skeleton, own, generator, starts=4, kept=1, steps=6, exact=exact)
        if found is not None:
            assert len(found.values) == constants_of(skeleton)
            assert found.error <= y.var() * (1 + 1e-6), text
            with np.errstate(all="ignore"):
                left = ((values_of(found, x) - y) ** 2).mean()
            assert left == pytest.approx(found.error, rel=1e-3, abs=1e-6), text
