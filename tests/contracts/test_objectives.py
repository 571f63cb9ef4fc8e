"""What every objective keeps to, over sizes and over the ranks of adapters. A new objective is one more entry here."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torch.nn import functional

import sortednet as sn
from sortednet.models import MLP
from sortednet.training.objectives import Penalised

from .adapter_cases import spread


def _penalty(full: torch.nn.Module) -> Tensor:
    return sum(parameter.square().sum() for parameter in full.parameters())


SIZES = sn.Space(depth=[1, 2], width=[4, 8])
RANKS = sn.Space(depth=[1, 2], r=[1, 2, 4])

OBJECTIVES: dict[str, Callable[[sn.Space], sn.Objective]] = {
    "stochastic": lambda space: sn.Stochastic(sn.Uniform(space, seed=0)),
    "split": lambda space: sn.Stochastic(sn.Stratified(space, seed=0), draws=3),
    "repeated": lambda space: sn.Stochastic(sn.Cycle(space, [space.smallest, space.full]), draws=5),
    "per_example": lambda space: sn.PerExample(sn.Stratified(space, seed=0)),
    "per_example_distilled": lambda space: sn.PerExample(sn.Uniform(space, seed=0), sn.Distillation(0.5)),
    "sandwich": lambda space: sn.Stochastic(sn.Sandwich(sn.Stratified(space, seed=0)), draws=3),
    "weighted": lambda space: sn.Stochastic(sn.Uniform(space, seed=0), draws=2, settings_weight=lambda s: s["depth"]),
    "along": lambda space: sn.StochasticSummation(sn.Uniform(space, seed=0)),
    "inside": lambda space: sn.StochasticSummation(sn.Uniform(space, seed=0), inside="all"),
    "summation": lambda space: sn.Summation(space),
    "distilled": lambda space: sn.Stochastic(
        sn.Uniform(space, seed=0), draws=2, distillation=sn.Distillation(0.5, 2.0)
    ),
    "whole": lambda space: sn.Stochastic(sn.Uniform(space, seed=0), draws=3, split=False),
    "whole_summed": lambda space: sn.Stochastic(
        sn.Sandwich(sn.Uniform(space, seed=0)), draws=3, split=False, reduction="sum"
    ),
    "split_summed": lambda space: sn.Stochastic(sn.Stratified(space, seed=0), draws=3, reduction="sum"),
    "inside_summed": lambda space: sn.StochasticSummation(sn.Uniform(space, seed=0), inside="all", reduction="sum"),
    "summed": lambda space: sn.Summation(space, reduction="sum"),
    "summed_weighted": lambda space: sn.Summation(space, settings_weight=lambda s: s["depth"], reduction="sum"),
    "in_place": lambda space: sn.Summation(space, sn.Distillation(labels=0.0), reduction="sum"),
    "penalised": lambda space: Penalised(
        sn.Stochastic(sn.Uniform(space, seed=0), draws=2, split=False, reduction="sum"), _penalty
    ),
}
each_space = pytest.mark.parametrize("space", [SIZES, RANKS], ids=["sizes", "ranks"])
each_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


def make_net(space: sn.Space) -> sn.SortedNet:
    torch.manual_seed(0)
    if space == SIZES:
        return sn.SortedNet(partial(MLP, inputs=5, classes=3), SIZES).double()
    plain = sn.SortedNet(partial(MLP, width=6, inputs=5, classes=3), sn.Space(depth=[1, 2]))
    return spread(sn.dylora(plain, LoraConfig(r=4, target_modules=r"hidden\.\d+|head"))).double()


def batch(size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 5, dtype=torch.float64, generator=generator), torch.arange(size) % 3


@each_space
@each_objective
def test_the_weights_add_up_to_one_or_if_summed_to_the_number_of_sub_models(make, space) -> None:
    objective = make(space)
    terms = objective.terms(make_net(space), batch(), functional.cross_entropy)
    expected = len(terms) if objective.reduction == "sum" else 1
    assert sum(term.weight for term in terms) == pytest.approx(expected)


@each_space
@each_objective
def test_the_loss_is_the_weighted_sum_of_its_terms(make, space) -> None:
    net = make_net(space)
    terms = make(space).terms(net, batch(), functional.cross_entropy)
    loss = make(space)(net, batch(), functional.cross_entropy)
    torch.testing.assert_close(loss, sum(term.weight * term.loss for term in terms))


@each_space
@each_objective
def test_only_settings_of_the_space_are_trained(make, space) -> None:
    assert all(term.setting in space for term in make(space).terms(make_net(space), batch(), functional.cross_entropy))


@each_space
@each_objective
def test_the_gradient_is_zero_outside_what_is_trained(make, space) -> None:
    net, objective = make_net(space), make(space)
    objective = objective.inner if isinstance(objective, Penalised) else objective  # which reaches all weights
    terms = objective.terms(net, batch(), functional.cross_entropy)
    sum(term.weight * term.loss for term in terms).backward()
    covered = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in net.full.named_parameters()}
    for term in terms:
        for name, cut in net.skeleton(term.setting).slots():
            cut.mark(covered[name], True)
    for name, parameter in net.full.named_parameters():
        assert parameter.grad is None or not parameter.grad[~covered[name]].any()


@each_space
@each_objective
def test_a_resumed_objective_trains_what_the_uninterrupted_one_does(make, space) -> None:
    net, whole, resumed = make_net(space), make(space), make(space)
    for _ in range(3):
        whole.terms(net, batch(), functional.cross_entropy)
    resumed.load_state_dict(whole.state_dict())
    for _ in range(3):
        one, other = (o.terms(net, batch(), functional.cross_entropy) for o in (whole, resumed))
        assert [term.setting for term in one] == [term.setting for term in other]


@each_objective
def test_a_mapping_gives_the_loss_of_the_tuple(make) -> None:
    class Named(torch.nn.Module):
        def __init__(self, depth: int, width: int) -> None:
            super().__init__()
            self.body = MLP(depth, width, inputs=5, classes=3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.body(x)

    torch.manual_seed(0)
    named = sn.SortedNet(Named, SIZES).double()
    x, y = batch()
    loss = make(SIZES)(named, {"x": x, "y": y}, lambda output, held: functional.cross_entropy(output, held["y"]))
    plain = make_net(SIZES)
    plain.full.load_state_dict(named.full.body.state_dict())
    torch.testing.assert_close(loss, make(SIZES)(plain, (x, y), functional.cross_entropy))


@each_space
@each_objective
def test_in_bfloat16_the_loss_and_its_gradient_are_those_of_float32_to_its_precision(make, space) -> None:
    found = []
    for half in (False, True):
        net = make_net(space).float()
        inputs = batch()[0].float(), batch()[1]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = make(space)(net, inputs, functional.cross_entropy)
        loss.backward()
        gradient = torch.cat([one.grad.flatten() for one in net.parameters() if one.grad is not None])
        found.append((loss.detach(), gradient))
    (whole, whole_gradient), (half, half_gradient) = found
    torch.testing.assert_close(half.float(), whole, rtol=3e-2, atol=3e-2)
    assert functional.cosine_similarity(half_gradient, whole_gradient, 0) > 0.98
