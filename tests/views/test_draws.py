"""Draws that leave torch's own generators, and so what other threads draw, alone."""

import threading

import pytest
import torch
from torch import nn

import sortednet as sn
from sortednet.views.draws import OwnDraws, own_draws, undrawn

DRAWS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn((3,), generator=None),
    "randint": lambda: torch.randint(9, (3,)),
    "randperm": lambda: torch.randperm(9),
    "normal": lambda: torch.normal(0.0, 1.0, (3,)),
    "normal of tensors": lambda: torch.normal(torch.zeros(3), torch.ones(3)),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 3),
    "poisson": lambda: torch.poisson(torch.full((9,), 5.0)),
    "rand_like": lambda: torch.rand_like(torch.ones(3)),
    "randn_like": lambda: torch.randn_like(torch.ones(3), dtype=torch.float64),
    "method": lambda: torch.empty(3).uniform_(1, 2),
    "exponential": lambda: torch.empty(3).exponential_(),
    "init": lambda: nn.init.xavier_normal_(torch.empty(3, 3)),
    "layer": lambda: nn.Linear(3, 3).weight.detach(),
    "default device": lambda: torch.get_default_device() and torch.rand(3, device=None),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_those_of_the_seed_and_move_no_generator_of_torch(draw) -> None:
    before = torch.get_rng_state()
    with OwnDraws(5):
        first, second = draw(), draw()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(draw(), first)
        assert torch.equal(draw(), second)


def test_a_given_generator_and_the_meta_device_stay() -> None:
    generator, same = (torch.Generator().manual_seed(1) for _ in range(2))
    with OwnDraws(5):
        assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=same))
        assert torch.rand(3, device="meta").is_meta
        with torch.device("meta"):
            assert torch.rand(3).is_meta


@pytest.mark.parametrize("before", [0, 7])
def test_a_seed_is_undone(before: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(before)
        torch.rand(1)
        state = torch.get_rng_state()
        with own_draws() as drawn:
            torch.manual_seed(7)
        assert drawn()
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.initial_seed() == before


def in_another_thread() -> None:
    thread = threading.Thread(target=torch.rand, args=(1,))
    thread.start()
    thread.join()


def test_what_others_have_drawn_is_not_undone() -> None:
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        with own_draws() as drawn:
            in_another_thread()
        assert not drawn()
        assert not torch.equal(torch.get_rng_state(), before)
        calls = []
        undrawn(lambda: calls.append(in_another_thread()), print)
        assert len(calls) == 2
        torch.manual_seed(0)
        undrawn(in_another_thread, print)
        found = torch.rand(1)
        torch.manual_seed(0)
        assert torch.equal(torch.rand(3)[2:], found)  # both draws of the other thread stay


def test_a_builder_that_draws_moves_the_generator_for_no_other_build() -> None:
    def build() -> torch.Tensor:
        return torch.rand(2)

    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        first = undrawn(build, build)
        assert torch.equal(torch.get_rng_state(), before)
        calls = []
        assert torch.equal(undrawn(lambda: calls.append(1) or build(), build), first)
        assert len(calls) == 1


def test_a_builder_that_fails_leaves_the_generator_too() -> None:
    def build() -> None:
        torch.rand(2)
        raise ValueError

    before = torch.get_rng_state()
    with pytest.raises(ValueError):
        undrawn(build, build)
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(nn.Module):
    """Draws in its constructor what it does not save."""

    def __init__(self, width: int, wait: threading.Barrier | None = None) -> None:
        super().__init__()
        if wait is not None:
            wait.wait(10)  # the other thread draws
            wait.wait(10)
        self.layer = nn.Linear(3, width)
        self.register_buffer("noise", torch.randn(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x + self.noise)


def test_what_a_constructor_draws_is_the_same_in_every_place_and_thread() -> None:
    net = sn.SortedNet(Noisy, sn.Space(width=[2, 4])).eval()
    x, found = torch.ones(2, 3), []
    calls = [lambda: net.at(width=2)(x), lambda: net.submodel(width=2)(x), lambda: net.extract(width=2)(x)]
    for call in calls:
        torch.rand(1)
        found.append(call())
        thread = threading.Thread(target=lambda call=call: found.append(call()))
        thread.start()
        thread.join()
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_sub_model_that_is_built_changes_nothing_of_what_another_thread_draws() -> None:
    wait: list[threading.Barrier | None] = [None]
    net = sn.SortedNet(lambda width: Noisy(width, wait[0]), sn.Space(width=[2, 3, 4]))
    wait[0] = threading.Barrier(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = torch.rand(4)
        torch.manual_seed(0)
        thread = threading.Thread(target=lambda: net.extract(width=3))
        thread.start()
        drawn = [torch.rand(1)]
        wait[0].wait(10)
        drawn.append(torch.rand(2))
        wait[0].wait(10)
        thread.join()
        drawn.append(torch.rand(1))
        assert torch.equal(torch.cat(drawn), expected)


def test_a_constructor_that_seeds_torch_seeds_it_for_nobody_else() -> None:
    def build(width: int) -> nn.Module:
        torch.manual_seed(3)
        return nn.Linear(3, width)

    net = sn.SortedNet(build, sn.Space(width=[2, 3, 4]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        torch.rand(1)
        before = torch.get_rng_state()
        net.extract(width=3)
        assert torch.equal(torch.get_rng_state(), before)
