"""Generated problems: the papers' numbers, splits without a shape in common, exact counts, one seed one answer."""

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from sortednet.errors import ConfigError, DataError
from sortednet.symbolic import GeneratorConfig, ModelConfig, ProblemData, Tokenizer, collate_problems, make_pool
from sortednet.symbolic.expressions import (
    Pool,
    constants_of,
    draw_formula,
    draw_problems,
    evaluate,
    excluded,
    fingerprint,
    freeze,
    read_skeleton,
    skeleton_of,
    split_of,
    stream,
    to_text,
    variables_of,
)

from .cases import ALL_OPERATORS, SIMPLE, TINY, pool

CONFIG = GeneratorConfig(variables=(1, 2, 3))
SPLITS = ("train", "validation", "test")
WIDE = GeneratorConfig(variables=(1, 2, 3), validation_share=0.3, test_share=0.3)


def fingerprints(found: Pool) -> set[str]:
    return {fingerprint(read_skeleton(text)) for texts, _ in found.skeletons.values() for text in texts}


def same_problems(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) if name not in ("inside", "outside") else True
        for name in ("skeleton", "constants", "x", "y")
    )


# The papers' numbers.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("levels", (1, 2, 3)),
        ("operators", ("id", "add", "mul", "sin", "pow", "cos", "exp", "div", "sub", "log")),
        ("powers", (3, 4, 5, 6)),
        ("constant_share", 0.5),
        ("constants", (-2.1, 2.1)),
        ("inside", (-3.0, 3.0)),
        ("outside", (3.0, 5.0)),
        ("largest", 5000.0),
        ("narrow_share", 0.0),
        ("frequency", 1.0),
    ],
)
def test_defaults_are_those_of_the_papers_code(name: str, value: Any) -> None:
    assert getattr(GeneratorConfig(), name) == value


@pytest.mark.parametrize(("variables", "points"), [(1, 30), (2, 200), (3, 500)])
def test_points_of_a_problem_are_those_of_the_papers(variables: int, points: int) -> None:
    assert GeneratorConfig().points_of(variables) == (points, points)


@pytest.mark.parametrize("variables", [4, 5, 9])
def test_points_of_more_variables_are_drawn(variables: int) -> None:
    assert GeneratorConfig().points_of(variables) == (20, 250)


def test_the_papers_operators_are_all_drawn() -> None:
    random_ = random.Random(0)
    config = GeneratorConfig(levels=(1,), constant_share=0.0)
    texts = set()
    for _ in range(400):
        texts.add(to_text(freeze(draw_formula(config, 1, random_))))
    assert texts == {
        "x1", "2*x1", "x1**2", "sin(x1)", "x1**3", "x1**4", "x1**5", "x1**6", "cos(x1)", "exp(x1)", "1", "0", "log(x1)",
    }  # fmt: skip


def test_leaves_have_a_factor_and_a_bias_half_of_the_time() -> None:
    random_ = random.Random(0)
    config = GeneratorConfig(levels=(0,))
    formulas = [draw_formula(config, 1, random_) for _ in range(2000)]
    scaled = np.mean([formula[((("x", 1), 1),)] != 1 for formula in formulas])
    shifted = np.mean([() in formula for formula in formulas])
    assert (scaled, shifted) == (pytest.approx(0.5, abs=0.04), pytest.approx(0.5, abs=0.04))


def test_constants_of_trees_are_in_range() -> None:
    random_ = random.Random(0)
    config = GeneratorConfig(levels=(0,), constants=(0.5, 0.6), constant_share=1.0)
    for _ in range(100):
        assert all(0.5 <= value <= 0.6 for value in draw_formula(config, 1, random_).values())


def test_variables_are_drawn_from_all_that_there_are() -> None:
    random_ = random.Random(0)
    config = GeneratorConfig(levels=(0,), constant_share=0.0)
    found = {to_text(freeze(draw_formula(config, 9, random_))) for _ in range(300)}
    assert found == {f"x{number}" for number in range(1, 10)}


# Splits.


def test_splits_have_no_shape_in_common() -> None:
    found = [fingerprints(make_pool(WIDE, 80, seed, split)) for seed, split in enumerate(SPLITS)]
    assert all(found)
    assert len(set().union(*found)) == sum(map(len, found))


def test_splits_of_one_seed_are_all_that_was_drawn() -> None:
    parts = [make_pool(WIDE, 80, 0, split) for split in SPLITS]
    assert fingerprints(make_pool(WIDE, 80, 0, None)) == set().union(*map(fingerprints, parts))


def test_splits_have_the_shares_that_were_asked_for() -> None:
    texts = make_pool(GeneratorConfig(variables=(2,)), 800, 0, None).skeletons[2][0]
    config = GeneratorConfig(validation_share=0.1, test_share=0.2)
    found = [split_of(read_skeleton(text), config) for text in texts]
    assert found.count("test") / len(found) == pytest.approx(0.2, abs=0.06)
    assert found.count("validation") / len(found) == pytest.approx(0.1, abs=0.04)


def test_no_excluded_shape_is_in_a_pool() -> None:
    for split in (*SPLITS, None):
        assert not fingerprints(make_pool(WIDE, 80, 0, split)) & excluded()


def test_what_else_is_excluded_is_in_no_pool() -> None:
    line = frozenset({fingerprint(read_skeleton("C*x1+C"))})
    assert "C*x1+C" in make_pool(CONFIG, 100, 0, None, frozenset()).skeletons[1][0]
    assert "C*x1+C" not in make_pool(CONFIG, 100, 0, None, line).skeletons[1][0]


def test_excluded_shapes_are_fingerprints() -> None:
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in excluded())


# Pools.


def test_a_pool_is_the_same_for_the_same_seed() -> None:
    assert make_pool(CONFIG, 60, 5, "train") == make_pool(CONFIG, 60, 5, "train")


def test_a_pool_is_another_one_for_another_seed() -> None:
    assert make_pool(CONFIG, 60, 5, "train") != make_pool(CONFIG, 60, 6, "train")


def test_skeletons_of_a_number_of_variables_do_not_depend_on_the_other_numbers() -> None:
    alone = make_pool(GeneratorConfig(variables=(2,)), 60, 0, "train")
    assert make_pool(CONFIG, 60, 0, "train").skeletons[2] == alone.skeletons[2]


def test_a_pool_holds_only_variables_that_were_asked_for() -> None:
    for variables, (texts, _) in make_pool(CONFIG, 80, 0, None).skeletons.items():
        assert all(1 <= max(variables_of(read_skeleton(text))) <= variables for text in texts)


def test_no_skeleton_of_a_pool_is_longer_than_allowed() -> None:
    config = GeneratorConfig(longest=20, most_constants=4)
    for text in make_pool(config, 300, 0, None).skeletons[1][0]:
        assert len(text) <= 20
        assert constants_of(read_skeleton(text)) <= 4


def test_weights_are_how_often_trees_had_a_skeleton() -> None:
    found = make_pool(GeneratorConfig(), 400, 0, None, frozenset())
    weights = dict(zip(*found.skeletons[1], strict=True))
    random_, counted = random.Random("0 1"), 0
    for _ in range(400):
        try:
            counted += to_text(skeleton_of(draw_formula(GeneratorConfig(), 1, random_))) == "C*x1+C"
        except ValueError:
            continue
    assert weights["C*x1+C"] == counted > 10


def test_skeletons_are_drawn_equally_often_where_frequency_is_zero() -> None:
    assert set(make_pool(GeneratorConfig(frequency=0.0), 200, 0, None).skeletons[1][1]) == {1.0}


def test_skeletons_are_drawn_by_their_weights() -> None:
    own = Pool({1: (("C*x1+C", "C*sin(C*x1)+C"), (3.0, 1.0))})
    generator = np.random.default_rng(0)
    drawn = [own.draw(generator)[0] for _ in range(2000)]
    assert drawn.count("C*x1+C") / 2000 == pytest.approx(0.75, abs=0.03)


def test_bands_together_keep_the_weights() -> None:
    own = Pool({1: (("C*x1+C", "C*sin(C*x1)+C"), (3.0, 1.0))})
    generator = np.random.default_rng(0)
    drawn = [own.draw(generator, (generator.random(), 0.25))[0] for _ in range(4000)]
    assert drawn.count("C*x1+C") / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_pool_without_a_skeleton_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"20 trees of 1 variables have no skeleton for split='train'\. Draw more"):
        make_pool(GeneratorConfig(longest=3), 20, 0, "train")


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"split='dev' is unknown\. Choose one of train, validation, test\."):
        make_pool(CONFIG, 10, 0, "dev")  # type: ignore[arg-type]


# Problems.

TEXT = "C*sin(C*x1)+C*x2**2+C"


def problems(config: GeneratorConfig = CONFIG, text: str = TEXT, variables: int = 2, seed: int = 0, **own: Any) -> Any:
    found = draw_problems(text, variables, config, np.random.default_rng(seed), **own)
    assert found is not None
    return found


def test_values_are_those_of_the_skeleton_with_its_constants() -> None:
    found = problems(count=4)
    for constants, x, y in zip(found.constants, found.x, found.y, strict=True):
        assert np.allclose(evaluate(found.formula, list(x.T), constants), y, rtol=1e-12)


def test_constants_of_problems_are_in_range() -> None:
    found = problems(dataclasses.replace(CONFIG, constants=(1.0, 1.5)), count=50)
    assert found.constants.shape == (50, 4)
    assert found.constants.min() >= 1.0
    assert found.constants.max() <= 1.5


def test_training_points_are_inside() -> None:
    found = problems(count=20)
    assert found.x.shape == (20, 200, 2)
    assert 2.9 < np.abs(found.x).max() <= 3


def test_inner_test_points_are_from_where_training_points_are() -> None:
    x, y = problems(count=3, tests=True).inside
    assert (x.shape, y.shape) == ((3, 200, 2), (3, 200))
    assert np.abs(x).max() <= 3


def test_outer_test_points_are_outside_on_either_side() -> None:
    x, y = problems(count=3, tests=True).outside
    assert (x.shape, y.shape) == ((3, 200, 2), (3, 200))
    assert ((np.abs(x) >= 3) & (np.abs(x) <= 5)).all()
    assert 0.4 < (x > 0).mean() < 0.6


@pytest.mark.parametrize("text", ["C*exp(C*x1)+C", "C*x1**-3+C", "C*x1**3*x2**2+C", "C*log(x1+C)+C"])
def test_values_are_finite_and_at_most_the_largest(text: str) -> None:
    found = problems(text=text, count=3, tests=True)
    for y in (found.y, found.inside[1], found.outside[1]):
        assert np.abs(y).max() <= 5000


@pytest.mark.parametrize("count", [1, 3, 10])
def test_as_many_problems_and_points_as_asked_for(count: int) -> None:
    found = problems(count=count, points=17, text="C*log(x1+C)+C")
    assert (found.x.shape, found.y.shape) == ((count, 17, 2), (count, 17))


def test_points_are_drawn_between_the_fewest_and_the_most() -> None:
    config = dataclasses.replace(CONFIG, points=((5, 8),))
    sizes = {problems(config, seed=seed).y.shape[1] for seed in range(40)}
    assert sizes == {5, 6, 7, 8}


def test_what_has_no_value_anywhere_is_given_up() -> None:
    config = dataclasses.replace(CONFIG, inside=(1.0, 3.0))
    assert draw_problems("C*log(-x1**2)+C", 1, config, np.random.default_rng(0)) is None


def test_what_is_constant_is_given_up() -> None:
    assert draw_problems("C", 1, CONFIG, np.random.default_rng(0)) is None


def test_narrow_intervals_are_within_reach() -> None:
    found = problems(dataclasses.replace(CONFIG, narrow_share=1.0), count=200, text="C*x1+C*x2+C")
    widths = np.ptp(found.x, axis=1)
    assert np.abs(found.x).max() <= 6
    assert np.median(widths) < 4
    assert (found.x.min(1) >= 0).any()


def test_problems_draw_no_warning_and_raise_nothing() -> None:
    """Of all skeletons of a pool: warnings are errors here."""
    wild = make_pool(GeneratorConfig(variables=(1, 2), operators=ALL_OPERATORS), 300, 1, None)
    generator = np.random.default_rng(0)
    for variables, (texts, _) in wild.skeletons.items():
        for text in texts:
            draw_problems(text, variables, GeneratorConfig(), generator, 2, 10)


# Streams and batches.


def test_a_block_is_a_function_of_seed_and_number() -> None:
    one, other = (list(stream(pool(), SIMPLE, 3, 7, 12, 4)) for _ in range(2))
    assert all(same_problems(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize(("seed", "block"), [(4, 7), (3, 8)])
def test_another_seed_or_block_is_another_problem(seed: int, block: int) -> None:
    first = next(stream(pool(), SIMPLE, 3, 7, 1))
    assert not np.array_equal(first.constants, next(stream(pool(), SIMPLE, seed, block, 1)).constants)


@pytest.mark.parametrize(("count", "instances"), [(1, 1), (10, 4), (7, 3), (8, 100)])
def test_a_block_has_exactly_as_many_problems_as_asked_for(count: int, instances: int) -> None:
    parts = list(stream(pool(), SIMPLE, 0, 0, count, instances))
    assert sum(len(part.y) for part in parts) == count
    assert max(len(part.y) for part in parts) <= instances


def loaded(workers: int) -> list[Any]:
    data = ProblemData(pool(), SIMPLE, TINY, 24, seed=9)
    sampler = BatchSampler(SequentialSampler(data), 8, drop_last=False)
    loader = DataLoader(data, batch_sampler=sampler, num_workers=workers, collate_fn=collate_problems)
    return list(loader)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    alone, together = loaded(0), loaded(workers)
    assert len(together) == 3
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_an_example_alone_is_a_batch_of_one() -> None:
    data = ProblemData(pool(), SIMPLE, TINY, 24)
    assert all(torch.equal(one, batch[0]) for one, batch in zip(data[5], data.__getitems__([5]), strict=True))


def test_a_batch_holds_standardised_points_behind_a_mask() -> None:
    config = dataclasses.replace(SIMPLE, points=((10, 30),))
    data = ProblemData(pool(), config, TINY, 64, instances=1)
    points, mask, *_ = data.__getitems__(range(64))
    assert points.shape == (64, int(mask.sum(1).max()), 4)
    assert len(set(mask.sum(1).tolist())) > 5
    assert not points[mask == 0].any()
    assert points.abs().amax(1)[:, 0].tolist() == pytest.approx([3.0] * 64)
    for own, held in zip(points, mask, strict=True):
        y = own[held > 0, -1]
        assert (float(y.mean()), float(y.std(correction=0))) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-4))


def test_targets_are_the_tokens_behind_each_and_none_for_padding() -> None:
    _, _, tokens, targets = ProblemData(pool(), SIMPLE, TINY, 64, band=1.0, instances=1).__getitems__(range(64))
    tokenizer = Tokenizer()
    held = set(zip(*[iter(text for texts, _ in pool().skeletons.values() for text in texts)], strict=True))
    for own, behind in zip(tokens.tolist(), targets.tolist(), strict=True):
        kept = [one for one in behind if one != -100]
        assert (tokenizer.decode(kept),) in held
        assert own[1 : len(kept)] == kept[:-1]


def test_problems_are_shown_with_a_number_of_points_between_those_given() -> None:
    data = ProblemData(pool(), SIMPLE, TINY, 400, points=(3, 5))
    assert {data.__getitems__([place])[0].shape[1] for place in range(0, 60)} == {3, 4, 5}


def test_too_many_variables_for_the_model_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"Problems have up to 3 variables and the model 1\. Raise model\.variables"):
        ProblemData(pool(), SIMPLE, ModelConfig(variables=1), 10)


def test_skeletons_that_are_all_too_long_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"No skeleton of 1 variables is left\. Draw more, or allow longer ones\."):
        ProblemData(pool(), SIMPLE, ModelConfig(positions=3), 10)


# Configurations that cannot be.


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"variables": ()}, r"variables=\(\) must be numbers from 1 to 9"),
        ({"variables": (10,)}, r"variables=\(10,\) must be numbers from 1 to 9"),
        ({"levels": (7,)}, r"levels=\(7,\) must be depths from 0 to 6"),
        ({"operators": ("arcsin",)}, r"operators=\('arcsin',\) are not all known\. Choose some of id, sin"),
        ({"operators": ()}, r"operators=\(\) are not all known"),
        ({"powers": (1,)}, r"powers=\(1,\) must be exponents from 2 to 12"),
        ({"constants": (1.0, 1.0)}, r"constants=\(1\.0, 1\.0\) is no interval\. Give its lower end first"),
        ({"inside": (3.0, -3.0)}, r"inside=\(3\.0, -3\.0\) is no interval"),
        ({"outside": (5.0, 3.0)}, r"outside=\(5\.0, 3\.0\) is no interval"),
        ({"constant_share": 1.5}, r"constant_share=1\.5 must be in \[0, 1\]"),
        ({"narrow_share": -0.1}, r"narrow_share=-0\.1 must be in \[0, 1\]"),
        ({"frequency": 2.0}, r"frequency=2\.0 must be in \[0, 1\]"),
        ({"validation_share": 0.5, "test_share": 0.5}, r"leave nothing to train on\. Their sum must be below 1"),
        ({"points": ((1, 5),)}, r"points=\(\(1, 5\),\) must be pairs of the fewest, at least 2, and the most"),
        ({"points": ((9, 5),)}, r"points=\(\(9, 5\),\) must be pairs"),
    ],
)
def test_numbers_out_of_range_are_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GeneratorConfig(**own)


@pytest.mark.parametrize("name", ["largest", "test_points", "longest", "most_constants"])
def test_numbers_that_would_draw_forever_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}="):
        GeneratorConfig(**{name: 0})


def test_a_stream_without_drawable_skeletons_ends() -> None:
    with pytest.raises(DataError, match=r"largest|points"):
        next(stream(Pool({1: (("C*log(-x1**2)+C",), (1.0,))}), SIMPLE, 0, 0, 1))
