import math

import pytest
import torch

from sortednet.errors import DataError
from sortednet.evaluation.scores import Collected, Scores, examples_in, intervals, margins
from sortednet.space import Setting

ONE, TWO = Setting({"width": 1}), Setting({"width": 2})


def of(units, weights=None, **more):
    held = torch.tensor(units, dtype=torch.float32)
    weights = torch.ones(len(held)) if weights is None else torch.tensor(weights, dtype=torch.float32)
    return Scores(float((held * weights).sum() / weights.sum()), held, weights, len(held), **more)


def test_the_interval_of_a_share_is_wilsons():
    # 9 of 10: (0.9 + z²/20 ± z sqrt(0.09/10 + z²/400)) / (1 + z²/10) with z = 1.96
    assert intervals({ONE: of([100.0] * 9 + [0.0])})[ONE] == pytest.approx((59.585, 98.212), abs=1e-3)


def test_all_right_does_not_mean_certain():
    low, high = intervals({ONE: of([100.0] * 20)})[ONE]
    assert (low, high) == pytest.approx((83.887, 100.0), abs=1e-3)


def test_the_interval_of_a_mean_is_students():
    # The scores 1, 2, 3, 6: mean 3, deviation sqrt(14/3), t of 3 degrees 3.182
    assert intervals({ONE: of([1.0, 2.0, 3.0, 6.0])})[ONE] == pytest.approx((3 - 3.437, 3 + 3.437), abs=0.03)


def test_batches_count_by_their_examples():
    # Of 3 and 1 examples: mean 2.5; residuals times weights -1.5 and 1.5; their squares doubled over 16; t of 1 degree
    low, high = intervals({ONE: of([2.0, 4.0], [3.0, 1.0], whole_batches=True)})[ONE]
    assert (high - low) / 2 == pytest.approx(12.706 * math.sqrt(2 * 2 * 1.5**2 / 16), rel=1e-3)


@pytest.mark.parametrize("scores", [of([0.3]), of([0.5, 0.5, 0.5]), of([0.1, math.nan]), Scores(0.5)])
def test_there_is_no_interval_where_nothing_tells(scores):
    assert intervals({ONE: scores}) == {}


def test_pairs_of_shares_differ_by_agresti_and_min():
    # 2 of 10 differ, both to the same side: z sqrt(2 + 1 - 4/12) / 10
    first, second = of([1.0] * 8 + [0.0] * 2), of([1.0] * 10)
    assert margins({ONE: first, TWO: second}).of(ONE, TWO) == pytest.approx(1.96 * math.sqrt(3 - 1 / 3) / 10, abs=1e-4)


def test_what_is_hard_for_both_drops_out_of_a_difference():
    noise = [0.0, 5.0, 10.0, 15.0, 21.0]
    first, second = of(noise), of([one + 1 + 0.01 * place for place, one in enumerate(noise)])
    margin = margins({ONE: first, TWO: second}).of(TWO, ONE)
    assert margin == pytest.approx(2.776 * 0.01 * math.sqrt(2.5 / 5), rel=0.01)


@pytest.mark.parametrize("other", [Scores(1.0), of([1.0, 2.0])])
def test_there_are_no_margins_without_the_same_scores_of_all(other):
    assert margins({ONE: of([1.0, 2.0, 3.0]), TWO: other}) is None


@pytest.mark.parametrize(
    "given", ["good", None, {"f1": 1.0}, ["a", "b"], torch.ones(2, dtype=torch.complex64), object(), b"1"]
)
def test_what_is_no_score_is_refused_by_the_name_of_the_metric(given):
    def graded(output, targets):
        return given

    with pytest.raises(DataError, match=r"(?s)The metric graded gave .* is no score. Let it return numbers"):
        Collected(graded).update(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize(
    "given", [0.5, [0.25, 0.75], (0.25, 0.75), torch.tensor([0.25, 0.75]), torch.tensor([[0.25], [0.75]]), True and 0.5]
)
def test_numbers_and_lists_are_scores(given):
    collected = Collected(lambda output, targets: given)
    collected.update(torch.ones(2), torch.ones(2))
    assert collected.compute().quality == 0.5


def test_arrays_of_numpy_are_scores():
    numpy = pytest.importorskip("numpy")
    for given in (numpy.array([0.25, 0.75]), numpy.float32(0.5)):
        collected = Collected(lambda output, targets, given=given: given)
        collected.update(torch.ones(2), torch.ones(2))
        assert collected.compute().quality == 0.5


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (torch.ones(3), 3), (torch.tensor(1.0), 1), (["a", "b"], 2), ((torch.ones(3), torch.ones(3)), 3), ([], 0),
        ({"x": torch.ones(4, 2), "labels": torch.ones(4)}, 4), ({"text": ["a", "b"]}, 2), ({}, 1), ("a text", 1),
    ],
)  # fmt: skip
def test_examples_are_counted_by_the_targets(targets, count):
    assert examples_in(targets) == count
