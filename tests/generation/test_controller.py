"""The controller drafts where that is faster, as long as it pays, and never more than is left."""

import sys
import threading
from itertools import product

import pytest
import torch

from sortednet.generation.controller import Controller, Plan

DEPTH, EXITS = 12, (2, 4, 6)
SECONDS = 1e-3  # of a layer


def controller(most: int = 16, growth: float = 0.0, reading: float = 0.1) -> Controller:
    """Return one that has measured its machine: how much dearer more positions are, and what a reading takes."""
    made = Controller(DEPTH, EXITS, most)
    for _ in range(3):
        layers = {count: (SECONDS * (1 + growth * (count - 1)), 1) for count in (1, 2, 4, 8, 16, 17)}
        read = dict.fromkeys((1, 17), (SECONDS * reading, 1))
        made.timed(layers, read, (SECONDS * reading, 1))
    return made


def seen(made: Controller, agreement: tuple[float, ...], confidence: float = 0.9, positions: int = 200) -> Controller:
    made.observe(torch.full((positions, len(EXITS)), confidence), torch.tensor(agreement).repeat(positions, 1))
    return made


def test_nothing_is_drafted_where_exits_never_agree() -> None:
    assert seen(controller(), (0.0, 0.0, 0.0)).plan(1, 100) == Plan()


def test_a_long_draft_at_the_first_exit_where_it_always_agrees() -> None:
    plan = seen(controller(), (1.0, 1.0, 1.0)).plan(1, 100)
    assert plan.exits == (2,)
    assert plan.length >= 12


def test_the_exit_that_agrees_is_chosen() -> None:
    plan = seen(controller(), (0.0, 1.0, 1.0)).plan(1, 100)
    assert plan.exits == (4,)
    assert plan.length >= 8


def test_less_agreement_gives_shorter_drafts() -> None:
    lengths = [seen(controller(), (share,) * 3).plan(1, 100).length for share in (1.0, 0.9, 0.75, 0.5)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_nothing_is_drafted_where_positions_are_as_dear_as_layers() -> None:
    """Where judging eight tokens takes eight times as long, no draft can pay."""
    assert seen(controller(growth=1.0), (0.8, 0.8, 0.8)).plan(1, 100) == Plan()


def test_dear_readings_are_counted() -> None:
    cheap, dear = (seen(controller(reading=one), (0.8, 0.8, 0.8)).plan(1, 100) for one in (0.1, 30.0))
    assert cheap.length > dear.length


def test_sure_tokens_alone_are_drafted_where_they_alone_agree() -> None:
    made = controller()
    sure = torch.tensor([[0.95] * 3, [0.1] * 3]).repeat(100, 1)
    made.observe(sure, (sure > 0.5).float())
    plan = made.plan(1, 100)
    assert plan.exits
    assert 0.1 < plan.thresholds[0] <= 0.95
    assert set(made.plan(4, 100).thresholds) <= {0.0}, "rows of a batch draft together"


@pytest.mark.parametrize("most", [1, 3, 16, 64])
@pytest.mark.parametrize("agreement", [(0.0, 0.0, 0.0), (0.5, 0.7, 0.9), (1.0, 1.0, 1.0)])
def test_never_more_is_drafted_than_is_left_or_allowed(most: int, agreement: tuple[float, ...]) -> None:
    made = controller(most)
    for left, rows in product((1, 2, 3, 5, 9, 17, 100), (1, 4)):
        assert made.plan(rows, left).length <= min(most, left - 1)
    seen(made, agreement)
    for left, rows in product((1, 2, 3, 5, 9, 17, 100), (1, 4)):
        assert made.plan(rows, left).length <= min(most, left - 1)


def test_the_first_plan_tries_a_short_draft() -> None:
    plan = Controller(DEPTH, EXITS, 16).plan(1, 100)
    assert plan == Plan((2,), (0.0,), 4)
    assert Controller(DEPTH, EXITS, 2).plan(1, 100).length == 2


def test_the_last_token_is_not_drafted() -> None:
    assert seen(controller(), (1.0, 1.0, 1.0)).plan(1, 1) == Plan()
    assert Controller(DEPTH, EXITS, 16).plan(1, 1) == Plan()


def test_what_was_seen_long_ago_is_forgotten() -> None:
    made = seen(seen(controller(), (0.0, 0.0, 0.0)), (1.0, 1.0, 1.0))
    assert made.plan(1, 100).length >= 12


def test_one_slow_measurement_changes_nothing() -> None:
    made = seen(controller(), (0.9, 0.9, 0.9))
    before = made.plan(1, 100)
    made.timed({1: (1.0, 1), 17: (9.0, 1)}, {1: (5.0, 1)}, (5.0, 1))
    assert made.plan(1, 100) == before


def test_drafting_starts_again_only_for_a_clear_gain() -> None:
    """A plan that is hardly faster is kept where drafting goes on, and not begun where it rests."""
    share = _break_even()
    drafting = seen(controller(), (1.0, 0.0, 0.0))
    assert drafting.plan(1, 100).exits
    assert seen(drafting, (share, 0.0, 0.0)).plan(1, 100).exits
    resting = seen(controller(), (0.0, 0.0, 0.0))
    assert not resting.plan(1, 100).exits
    assert not seen(resting, (share, 0.0, 0.0)).plan(1, 100).exits


def _break_even() -> float:
    """Return the least agreement, a little above, at which drafting goes on."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        made = seen(controller(), (1.0, 0.0, 0.0))
        made.plan(1, 100)
        drafts = bool(seen(made, (middle, 0.0, 0.0)).plan(1, 100).exits)
        low, high = (low, middle) if drafts else (middle, high)
    return high + 1e-3


def test_plans_know_costs_between_and_beyond_what_was_measured() -> None:
    made = Controller(DEPTH, EXITS, 16)
    made.timed({2: (2.0, 1), 6: (4.0, 1)}, {}, (0.0, 0))
    costs = [made._cost(made._layer, count) for count in (1, 2, 4, 6)]
    assert costs == [2.0, 2.0, 3.0, 4.0]
    assert made._cost(made._layer, 10) > 4.0


def test_one_thread_plans_while_others_measure() -> None:
    """What is planned with belongs together: what was observed is seen whole, and so is how long things took."""
    made, failures, ended = controller(), [], threading.Event()

    def measures() -> None:
        for count in range(1, 400):
            made.timed({count: (1.0, 1)}, {count: (1.0, 1)}, (0.1, 1))
            made.observe(torch.rand(count % 7 + 1, len(EXITS)), torch.rand(count % 7 + 1, len(EXITS)))

    def plans() -> None:
        while not ended.is_set():
            try:
                made.plan(1, 100)
            except Exception as error:
                failures.append(error)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as often as can be, so that threads meet
    planning = [threading.Thread(target=plans) for _ in range(3)]
    for thread in planning:
        thread.start()
    measures()
    ended.set()
    for thread in planning:
        thread.join()
    sys.setswitchinterval(interval)
    assert not failures
