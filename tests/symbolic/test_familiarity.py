"""Whether data are like those of training: each statistic by hand, each reason in words."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from sortednet.symbolic import Familiarity
from sortednet.symbolic.familiarity import statistics_of


def of(x: Any, y: Any) -> dict[str, float]:
    points = np.asarray(x, float)
    return statistics_of(points if points.ndim == 2 else points[:, None], np.asarray(y, float))


# Statistics.


def test_roughness_is_half_the_mean_square_of_ranks_apart() -> None:
    """Ranks 1 to 4 have the variance 1.25, and each point is one rank from its nearest: 1 / 1.25 / 2."""
    assert of([0, 1, 2.1, 3.3], [1, 2, 3, 4])["roughness"] == pytest.approx(0.4)


def test_roughness_takes_the_nearest_point_of_all_variables() -> None:
    """The nearest of each is the one with the other y: two ranks of variance 0.25, 1 / 0.25 / 2."""
    x = [[0, 0], [0.1, 0], [5, 5], [5.1, 5]]
    assert of(x, [1, 2, 1, 2])["roughness"] == pytest.approx(2.0)


def test_roughness_does_not_change_with_growing_functions_of_y() -> None:
    x, y = np.linspace(0, 1, 30), np.random.default_rng(0).normal(size=30)
    assert of(x, np.exp(3 * y))["roughness"] == pytest.approx(of(x, y)["roughness"])


def test_roughness_is_about_one_for_noise_and_zero_for_a_smooth_function() -> None:
    x = np.linspace(0, 1, 2000)
    assert of(x, np.random.default_rng(0).normal(size=2000))["roughness"] == pytest.approx(1, abs=0.1)
    assert of(x, np.sin(x))["roughness"] < 1e-4


@pytest.mark.parametrize(("y", "share"), [([1, 1, 2, 3], 0.25), ([1, 2, 3, 4], 0.0), ([1, 1, 2, 2], 0.5)])
def test_repeats_are_what_distinct_values_leave(y: list[float], share: float) -> None:
    assert of([0, 1, 2, 3], y)["repeats"] == share


def test_outlier_is_the_largest_distance_as_a_share_of_the_most() -> None:
    """Mean 1, variance 3: the largest distance is 3 / sqrt(3), and sqrt(4) the scale."""
    assert of([0, 1, 2, 3], [0, 0, 0, 4])["outlier"] == pytest.approx(np.sqrt(3) / 2)


def test_remoteness_is_the_logarithm_of_size_over_range() -> None:
    assert of([10, 11, 12], [1, 2, 3])["remoteness"] == pytest.approx(np.log(6))


def test_remoteness_is_that_of_the_most_remote_variable() -> None:
    assert of([[0, 1999], [1, 2001]], [1, 2])["remoteness"] == pytest.approx(np.log(2001 / 2))


def test_variables_that_do_not_vary_have_no_remoteness() -> None:
    assert of([[0, 7], [1, 7]], [1, 2])["remoteness"] == 0.0


def test_constant_data_have_statistics_too() -> None:
    assert all(np.isfinite(value) for value in of(np.ones((5, 2)), np.ones(5)).values())


# Reasons.

X = np.linspace(-3, 3, 40)[:, None]
SMOOTH = np.sin(X[:, 0])
NOISE = np.random.default_rng(0).normal(size=40)
STEPS = np.round(np.linspace(0, 3, 40))
OUTLIER = np.where(np.arange(40) == 7, 1000.0, SMOOTH)


@pytest.mark.parametrize(
    ("name", "x", "y", "reason"),
    [
        (
            "roughness",
            X,
            NOISE,
            "neighbouring points have values as different as points far apart, as in noise or fast",
        ),
        ("repeats", X, STEPS, "many points share their values, as in steps or categories"),
        ("outlier", X, OUTLIER, "one value is far from all others"),
        ("remoteness", X + 2000, SMOOTH, "a variable is far from 0 compared with its range, as years are"),
    ],
)
def test_what_is_beyond_a_limit_is_told_in_words(name: str, x: Any, y: Any, reason: str) -> None:
    familiarity = Familiarity({name: (0.9 if name == "outlier" else 0.6,)})
    assert (familiarity.why_not(x, y) or "").startswith(reason)
    assert familiarity.why_not(X, SMOOTH) is None


def test_too_few_points_are_told_with_their_number() -> None:
    assert Familiarity({}, 20).why_not(X[:5], SMOOTH[:5]) == (
        "there are 5 distinct points, fewer than the 20 of the smallest problem"
    )


def test_without_limits_everything_is_familiar() -> None:
    assert Familiarity({}).why_not(X, NOISE) is None


def test_each_number_of_variables_has_its_own_limit() -> None:
    familiarity = Familiarity({"roughness": (0.1, 5.0)})
    assert familiarity.why_not(X, NOISE) is not None
    assert familiarity.why_not(np.c_[X, X], NOISE) is None


def test_more_variables_than_were_learned_have_no_limit() -> None:
    assert Familiarity({"roughness": (0.1,)}).why_not(np.c_[X, X], NOISE) is None


# Learning.


def learned() -> Familiarity:
    generator = np.random.default_rng(0)
    problems = []
    for variables in (1, 3):
        for _ in range(50):
            x = generator.uniform(-3, 3, (int(generator.integers(12, 30)), variables))
            problems.append((x, np.sin(generator.uniform(0.2, 1) * x[:, 0])))
    return Familiarity.learn(problems)


def test_the_smallest_problem_is_remembered() -> None:
    assert 12 <= learned().fewest <= 15


def test_nearly_all_that_was_learned_from_is_familiar() -> None:
    generator = np.random.default_rng(1)
    familiarity = learned()
    found = 0
    for _ in range(50):
        x = generator.uniform(-3, 3, (20, 1))
        found += familiarity.why_not(x, np.sin(generator.uniform(0.2, 1) * x[:, 0])) is None
    assert found >= 45


def test_noise_is_not_familiar_to_what_learned_from_smooth_functions() -> None:
    assert learned().why_not(X, NOISE) is not None


def test_numbers_of_variables_that_were_not_seen_have_no_limit() -> None:
    assert all(own[1] == np.inf and len(own) == 3 for own in learned().limits.values())


def test_limits_allow_a_few_rounded_values() -> None:
    assert learned().limits["repeats"][0] == pytest.approx(0.8)


def test_what_was_learned_can_be_written_as_json() -> None:
    familiarity = learned()
    read = json.loads(json.dumps(asdict(familiarity)))
    limits = {name: tuple(own) for name, own in read["limits"].items()}
    assert Familiarity(limits, read["fewest"]) == familiarity
