"""Samplers against their definitions."""

import math
from collections import Counter

import pytest

from sortednet import (
    Cycle,
    Geometric,
    PerDimension,
    Sandwich,
    Setting,
    Space,
    Stratified,
    Support,
    Uniform,
    Weighted,
    WithLargest,
)
from sortednet.errors import SettingError, SpaceError

PRODUCT = Space(depth=[1, 2, 4], width=Support([8, 16], weights=[1, 3]))
LISTED = Space([{"depth": 1, "width": 16}, {"depth": 2, "width": 8}, {"depth": 4, "width": 8}])

MAKERS = {
    "uniform": lambda seed: Uniform(PRODUCT, seed=seed),
    "uniform_list": lambda seed: Uniform(LISTED, seed=seed),
    "stratified": lambda seed: Stratified(PRODUCT, seed=seed),
    "stratified_list": lambda seed: Stratified(LISTED, seed=seed),
    "weighted": lambda seed: Weighted(PRODUCT, {"depth=1,width=8": 1, "depth=4,width=16": 2}, seed=seed),
    "per_dimension": lambda seed: PerDimension(PRODUCT, seed=seed),
    "geometric": lambda seed: Geometric(PRODUCT, p=0.4, seed=seed),
    "with_largest": lambda seed: WithLargest(Uniform(PRODUCT, seed=seed)),
    "sandwich": lambda seed: Sandwich(Stratified(PRODUCT, seed=seed)),
    "cycle": lambda seed: Cycle(PRODUCT, [PRODUCT[(i * (seed + 1)) % 6] for i in range(5)]),
}
each_sampler = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def sizes(sampler):
    return [max(size, sampler.least) for size in (1, 3, 1, 4, 2, 5, 1)]


def chi_square(drawn, expected):
    """Return the statistic and the bound it exceeds about once in 10,000 (Wilson-Hilferty)."""
    count, total = Counter(drawn), len(drawn)
    assert set(count) <= set(expected)
    found = sum((count[key] - total * p) ** 2 / (total * p) for key, p in expected.items())
    freedom = len(expected) - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    return found, bound


# --- every sampler --------------------------------------------------------------------------------------------------


@each_sampler
def test_only_settings_of_the_space_are_drawn(make):
    sampler = make(0)
    for size in sizes(sampler):
        drawn = sampler.draw(size)
        assert len(drawn) == size
        assert all(one in sampler.space and isinstance(one, Setting) for one in drawn)


@each_sampler
def test_the_same_seed_draws_the_same(make):
    one, other = make(5), make(5)
    assert [one.draw(size) for size in sizes(one)] == [other.draw(size) for size in sizes(one)]


@each_sampler
def test_another_seed_draws_otherwise(make):
    assert make(0).draw(40) != make(1).draw(40)


@each_sampler
def test_a_run_resumes_exactly_in_the_middle(make):
    sampler = make(7)
    for size in sizes(sampler)[:4]:
        sampler.draw(size)
    state = sampler.state_dict()
    rest = [sampler.draw(size) for size in sizes(sampler)]
    again = make(7)
    again.draw(3)
    again.load_state_dict(state)
    assert [again.draw(size) for size in sizes(again)] == rest


@pytest.mark.parametrize("make", [make for name, make in MAKERS.items() if name != "cycle"])  # it has no seed
def test_a_run_resumes_though_the_new_sampler_has_another_seed(make):
    sampler = make(7)
    sampler.draw(5)
    again = make(8)
    again.draw(3)
    again.load_state_dict(sampler.state_dict())
    assert [again.draw(size) for size in sizes(again)] == [sampler.draw(size) for size in sizes(again)]


@each_sampler
def test_the_state_is_plain_json(make):
    import json

    sampler = make(3)
    sampler.draw(4)
    assert json.loads(json.dumps(sampler.state_dict())) == sampler.state_dict()


@each_sampler
def test_taking_the_state_draws_nothing(make):
    one, other = make(3), make(3)
    one.state_dict()
    assert one.draw(6) == other.draw(6)


@each_sampler
@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_draw_is_refused(make, count):
    with pytest.raises(SettingError, match=rf"count={count} settings cannot be drawn\. Draw at least {make(0).least}"):
        make(0).draw(count)


@each_sampler
def test_the_state_of_another_sampler_is_refused(make):
    kind = type(make(0)).__name__
    with pytest.raises(SettingError, match=rf"The state is that of 'Other', this sampler is {kind}\. Continue with"):
        make(0).load_state_dict({"sampler": "Other", "seed": 0, "count": 0})


@each_sampler
def test_the_caller_s_random_numbers_are_left_alone(make):
    import random

    import torch

    before, theirs = random.getstate(), torch.get_rng_state()
    make(0).draw(5)
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), theirs)


def test_two_samplers_without_a_seed_differ():
    assert Uniform(PRODUCT).seed != Uniform(PRODUCT).seed


# --- frequencies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [PRODUCT, LISTED], ids=["product", "list"])
def test_uniform_draws_every_setting_equally_often(space):
    found, bound = chi_square(Uniform(space, seed=0).draw(3000), {one: 1 / len(space) for one in space})
    assert found < bound


def test_weighted_draws_in_proportion_and_nothing_else():
    weights = {"depth=1,width=8": 1, "depth=2,width=16": 2.5, Setting.parse("depth=4,width=8"): 6.5}
    expected = {PRODUCT.setting(key): weight / 10 for key, weight in weights.items()}
    found, bound = chi_square(Weighted(PRODUCT, weights, seed=0).draw(3000), expected)
    assert found < bound


def test_a_weight_of_zero_is_never_drawn():
    weights = {"depth=1,width=8": 0, "depth=4,width=16": 1}
    assert set(Weighted(PRODUCT, weights, seed=0).draw(200)) == {PRODUCT.full}


def test_per_dimension_draws_by_the_weights_of_each_support():
    expected = {one: (1 / 3) * {8: 0.25, 16: 0.75}[one["width"]] for one in PRODUCT}
    found, bound = chi_square(PerDimension(PRODUCT, seed=0).draw(3000), expected)
    assert found < bound


def test_geometric_section_5_3_gives_the_ith_value_p_times_one_minus_p_to_the_i():
    p = 0.4
    depth = [p * (1 - p) ** i for i in range(3)]
    width = [p * (1 - p) ** i for i in range(2)]
    expected = {
        Setting({"depth": d, "width": w}): depth[i] / sum(depth) * width[j] / sum(width)
        for i, d in enumerate([1, 2, 4])
        for j, w in enumerate([8, 16])
    }
    found, bound = chi_square(Geometric(PRODUCT, p=p, seed=0).draw(3000), expected)
    assert found < bound


def test_geometric_ignores_the_weights_of_supports():
    space = Space(width=Support([1, 2], weights=[0, 1]))
    assert set(Geometric(space, p=0.5, seed=0).draw(50)) == set(space)


# --- stratified -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [[1] * 24, [5] * 5, [4] * 6, [6] * 4, [13, 11], [1, 3, 1, 4, 2, 5, 1] * 2])
def test_stratified_draws_all_settings_before_any_again(groups):
    sampler = Stratified(PRODUCT, seed=0)
    drawn = [one for size in groups for one in sampler.draw(size)]
    for start in range(0, len(drawn) - 5, 6):
        assert set(drawn[start : start + 6]) == set(PRODUCT)


def test_stratified_takes_another_order_at_each_turn():
    sampler = Stratified(PRODUCT, seed=0)
    assert len({tuple(sampler.draw(6)) for _ in range(5)}) > 1


# --- fixed settings first -------------------------------------------------------------------------------------------


def test_with_largest_puts_the_full_setting_first_and_the_rest_as_the_inner_one_draws():
    sampler, inner = WithLargest(Uniform(PRODUCT, seed=2)), Uniform(PRODUCT, seed=2)
    for size in (2, 4, 3):
        assert sampler.draw(size) == [PRODUCT.full, *inner.draw(size - 1)]


def test_sandwich_draws_largest_smallest_and_the_rest_as_the_inner_one_draws():
    sampler, inner = Sandwich(Uniform(PRODUCT, seed=2)), Uniform(PRODUCT, seed=2)
    for size in (3, 4):
        assert sampler.draw(size) == [PRODUCT.full, PRODUCT.smallest, *inner.draw(size - 2)]


def test_sandwich_of_a_list_draws_its_smallest_listed_setting():
    assert Sandwich(Uniform(LISTED, seed=0)).draw(3)[1] == {"depth": 1, "width": 16}


def test_a_group_without_room_for_a_draw_is_refused():
    with pytest.raises(SettingError, match=r"count=2 settings cannot be drawn\. Draw at least 3 from Sandwich"):
        Sandwich(Uniform(PRODUCT, seed=0)).draw(2)


def test_fixed_settings_cost_the_stratified_inner_sampler_no_turn():
    sampler = WithLargest(Stratified(PRODUCT, seed=0))
    rest = [one for _ in range(3) for one in sampler.draw(3)[1:]]
    assert set(rest) == set(PRODUCT)


def test_sandwich_does_not_enumerate_a_product(monkeypatch):
    def refuse(self, cost=None):
        raise AssertionError("the space was enumerated")

    monkeypatch.setattr(Space, "ordered", refuse)
    assert Sandwich(Uniform(PRODUCT, seed=0)).draw(3)[:2] == [PRODUCT.full, PRODUCT.smallest]


def test_sandwich_of_a_single_setting_draws_it_once_first():
    sampler = Sandwich(Cycle(Space(depth=[2]), ["depth=2"]))
    sampler.draw(2)
    assert sampler.inner.count == 1


def test_cycle_goes_through_its_list_in_order():
    texts = ["depth=4,width=8", "depth=1,width=8", "depth=4,width=8"]
    assert [str(one) for one in Cycle(PRODUCT, texts).draw(7)] == [texts[i % 3] for i in range(7)]


def test_a_large_space_is_drawn_from_without_being_listed():
    space = Space(depth=range(1, 13), width=range(1, 769))
    for sampler in (Uniform(space, seed=0), PerDimension(space, seed=0), WithLargest(Uniform(space, seed=0))):
        assert all(one in space for one in sampler.draw(20))


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PerDimension, Geometric])
def test_the_dimensions_of_a_list_cannot_be_drawn_apart(kind):
    with pytest.raises(SpaceError, match=r"is an explicit list, whose dimensions cannot be drawn apart\. Use Uniform"):
        kind(LISTED)


@pytest.mark.parametrize("p", [0, 1, -0.1, 1.5, math.nan])
def test_geometric_refuses_p_outside_zero_and_one(p):
    with pytest.raises(SpaceError, match=rf"p={p} is outside \(0, 1\)\. Choose a probability between"):
        Geometric(PRODUCT, p=p)


@pytest.mark.parametrize("weights", [{}, {"depth=1,width=8": 0}, {"depth=1,width=8": -1, "depth=2,width=8": 3}])
def test_weighted_refuses_weights_that_are_no_distribution(weights):
    with pytest.raises(SpaceError, match=r"must be finite, at least 0 and not all 0"):
        Weighted(PRODUCT, weights)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_weighted_refuses_weights_that_are_not_finite(weight):
    with pytest.raises(SpaceError, match=r"must be finite, at least 0 and not all 0"):
        Weighted(PRODUCT, {"depth=1,width=8": weight})


def test_weighted_refuses_a_setting_outside_the_space():
    with pytest.raises(SettingError, match=r"depth=3 is outside its support \[1, 2, 4\]"):
        Weighted(PRODUCT, {"depth=3,width=8": 1})


def test_cycle_refuses_an_empty_list_and_settings_outside():
    with pytest.raises(SettingError, match=r"The list of settings to cycle through is empty"):
        Cycle(PRODUCT, [])
    with pytest.raises(SettingError, match=r"width=9 is outside its support \[8, 16\]"):
        Cycle(PRODUCT, ["depth=1,width=9"])


def test_a_count_that_is_no_whole_number_is_refused_in_words():
    with pytest.raises(SettingError, match=r"count=2\.5"):
        Uniform(PRODUCT, seed=0).draw(2.5)
