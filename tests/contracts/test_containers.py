"""However a model holds and calls its blocks, sub-models give in training what they give by themselves."""

import copy
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import sortednet as sn

from .container_cases import SPACE, WAYS
from .test_objectives import each_objective

each_way = pytest.mark.parametrize("name", WAYS)
one_by_one_is_said = pytest.mark.filterwarnings("ignore:.*run one by one.*:UserWarning")


def make_net(name: str) -> sn.SortedNet:
    torch.manual_seed(0)
    return sn.SortedNet(WAYS[name].build, SPACE).double()


def batch(size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 5, dtype=torch.float64, generator=generator), torch.arange(size) % 3


def alone(net: sn.SortedNet) -> sn.SortedNet:
    """Return a copy of a network whose sub-models share no forward."""
    other = copy.deepcopy(net)
    other._sharing.groups = lambda full, settings, *_: [(None, range(len(settings)))]
    return other


def gradients(net: sn.SortedNet) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in net.full.named_parameters() if parameter.grad is not None}


@one_by_one_is_said
@each_way
@each_objective
def test_losses_and_gradients_are_those_of_sub_models_by_themselves(make, name) -> None:
    net, objective = make_net(name), make(SPACE)
    other, expected = alone(net), copy.deepcopy(objective)
    for _ in range(2):  # what was tried is remembered
        one, two = (
            given(where, batch(), functional.cross_entropy) for given, where in ((objective, net), (expected, other))
        )
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
        one.backward()
        two.backward()
    found, wanted = gradients(net), gradients(other)
    assert found.keys() == wanted.keys()
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[parameter], rtol=1e-8, atol=1e-10, msg=parameter)


@one_by_one_is_said
@each_way
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("split", [True, False], ids=["parts", "whole"])
def test_outputs_are_those_of_the_sub_models(name, split, training) -> None:
    net = make_net(name).train(training)
    inputs, settings = batch()[0], list(SPACE)
    parts = inputs.split([2, 1, 1, 1, 1, 1]) if split else [inputs] * len(settings)
    outputs = net(inputs, settings=settings, split=split)
    for setting, part, output in zip(settings, parts, outputs, strict=True):
        for module in (net.at(setting), net.extract(setting).train(training)):
            torch.testing.assert_close(output, module(part), rtol=1e-10, atol=1e-12)
        if not training or name != "only_in_training":  # `submodel` is for inference
            torch.testing.assert_close(output, net.submodel(setting)(part), rtol=1e-10, atol=1e-12)


@each_way
@pytest.mark.parametrize("split", [True, False], ids=["parts", "whole"])
def test_they_share_a_forward_where_a_trial_allows_it_and_else_say_so(name, split, monkeypatch) -> None:
    net, shares = make_net(name), WAYS[name].parts if split else WAYS[name].whole
    runs = []
    monkeypatch.setattr(sn.SortedNet, "_one_by_one", lambda net, *given: runs.append(given) or _one_by_one(net, *given))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        net(batch()[0], settings=list(SPACE), split=split)
    assert bool(runs) is not shares
    assert bool(said) is (not WAYS[name].whole)  # with shortcuts, that parts of a batch cannot share is no surprise


_one_by_one = sn.SortedNet._one_by_one


@one_by_one_is_said
@each_way
def test_an_example_tells_the_cuts(name) -> None:
    torch.manual_seed(0)
    net = sn.SortedNet(WAYS[name].build, SPACE, example=torch.ones(2, 5)).double()
    assert net.cuts.known
    for setting in SPACE:
        assert torch.equal(net.at(setting)(batch()[0]), net.extract(setting)(batch()[0]))


@each_way
def test_an_error_of_the_models_own_is_the_callers_and_costs_no_exits(name) -> None:
    net = make_net(name)
    exits = net.exits
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(torch.ones(4, 6, dtype=torch.float64), settings=list(SPACE))
    assert net.exits == exits
