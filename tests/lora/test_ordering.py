"""The ranks of an adapter in order of importance: its best approximations."""

import copy

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import sortednet as sn
from sortednet.errors import BuildError
from sortednet.lora import order_by_singular_values

from ..contracts.adapter_cases import ADAPTERS, QUIET, ROWS, Pictures, plain, spread

pytestmark = QUIET

_layers = {
    "linear": (lambda: nn.Linear(7, 6), torch.float64),
    "linear_few_outputs": (lambda: nn.Linear(7, 2), torch.float64),
    "linear_few_inputs": (lambda: nn.Linear(2, 7), torch.float64),
    "linear_single": (lambda: nn.Linear(6, 5), torch.float32),
    "embedding": (lambda: nn.Embedding(9, 6), torch.float64),
    "embedding_small": (lambda: nn.Embedding(3, 2), torch.float64),
    "convolution": (lambda: nn.Conv2d(3, 6, 3, padding=1), torch.float64),
    "convolution_few_outputs": (lambda: nn.Conv2d(3, 2, 3), torch.float64),
    "convolution_1d": (lambda: nn.Conv1d(3, 6, 3), torch.float64),
}
each_layer = pytest.mark.parametrize(("make", "dtype"), _layers.values(), ids=_layers)


def network(make, dtype=torch.float64, alpha: float = 6, **own) -> sn.SortedNet:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["0"], **own)
    return spread(sn.dylora(nn.Sequential(make()), config, ranks=[1, 2, 3, 4])).to(dtype).eval()


def change(net: sn.SortedNet, rank: int) -> Tensor:
    """Return what a rank adds to the weight, as a matrix. Shape (outputs, inputs)."""
    model = net.extract(r=rank)
    delta = model.base_model.model[0].get_delta_weight("default")
    if isinstance(model.base_model.model[0].get_base_layer(), nn.Embedding):
        delta = delta.T
    return delta.detach().flatten(1)


def best(delta: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


@each_layer
def test_each_rank_is_the_best_approximation_of_the_largest(make, dtype):
    net = network(make, dtype)
    whole = change(net, 4)
    ordered = sn.order_ranks(net)
    for rank in (1, 2, 3, 4):
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(change(ordered, rank), best(whole, rank), rtol=0, atol=tolerance)


@each_layer
def test_the_singular_values_are_those_of_the_change(make, dtype):
    net = network(make, dtype)
    expected = torch.linalg.svdvals(change(net, 4))[:4]
    layer = next(iter(net.builder.layers(net.full).values()))
    found = order_by_singular_values(layer, "default")
    assert found.shape == (4,)
    torch.testing.assert_close(found[: len(expected)], expected.double(), rtol=1e-4, atol=1e-5)
    assert not found[len(expected) :].any()


@pytest.mark.parametrize("name", ["adapter_plain", "adapter_words", "adapter_pictures", "adapter_gpt2", "adapter_bert"])
def test_the_full_model_gives_what_it_gave(name):
    case = next(case for case in ADAPTERS if case.name == name)
    net = case.net().eval()
    before = case.run(net)
    after = case.run(sn.order_ranks(net))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [6, -6])
def test_any_scaling_keeps_what_the_full_model_gives(alpha):
    net = network(lambda: nn.Linear(7, 6), alpha=alpha)
    before = net(ROWS.double())
    torch.testing.assert_close(sn.order_ranks(net)(ROWS.double()), before)


def test_rank_stabilised_adapters_are_ordered_too():
    net = network(lambda: nn.Linear(7, 6), use_rslora=True)
    whole = change(net, 4)
    ordered = sn.order_ranks(net)
    for rank in (1, 2, 3, 4):
        torch.testing.assert_close(change(ordered, rank), best(whole, rank), rtol=0, atol=1e-10)


def test_layers_of_several_ranks_are_ordered_by_the_largest_scaling():
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["0", "2"], rank_pattern={"2": 2}, alpha_pattern={"2": 3})
    net = spread(sn.dylora(plain(), config, ranks=[1, 2, 3, 4])).double().eval()
    before = net.full.base_model.model[2].get_delta_weight("default").detach()
    ordered = sn.order_ranks(net)
    found = ordered.extract(r=1).base_model.model[2].get_delta_weight("default").detach()
    torch.testing.assert_close(found, best(before, 1), rtol=0, atol=1e-10)


def test_ordered_ranks_are_partial_sums():
    ordered = sn.order_ranks(network(lambda: nn.Linear(7, 6)))
    assert ordered.builder.scaling == "constant"


def test_ordering_twice_is_ordering_once():
    once = sn.order_ranks(network(lambda: nn.Linear(7, 6)))
    first = [change(once, rank) for rank in (1, 2, 3, 4)]
    twice = sn.order_ranks(once)
    for rank, one in zip((1, 2, 3, 4), first, strict=True):
        torch.testing.assert_close(change(twice, rank), one, rtol=0, atol=1e-10)


def test_both_factors_share_the_singular_values():
    net = sn.order_ranks(network(lambda: nn.Linear(7, 6)))
    layer = net.full.base_model.model[0]
    rows = layer.lora_A["default"].weight.norm(dim=1)
    columns = layer.lora_B["default"].weight.norm(dim=0)
    torch.testing.assert_close(rows, columns)


def test_weights_in_another_memory_format_are_ordered_too():
    torch.manual_seed(0)
    net = spread(sn.dylora(Pictures(), LoraConfig(r=4, target_modules=["first", "second"]))).double().eval()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    before = net(x)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(sn.order_ranks(net)(x), before)


def test_an_adapter_of_zeros_stays_so():
    net = sn.dylora(plain(), LoraConfig(r=4, target_modules=["0"])).eval()
    before = net(ROWS)
    assert torch.equal(sn.order_ranks(net)(ROWS), before)


def test_bfloat16_is_ordered_to_its_precision():
    net = network(lambda: nn.Linear(7, 6))
    whole = change(net, 4)
    half = sn.order_ranks(copy.deepcopy(net).bfloat16())
    torch.testing.assert_close(change(half, 2).double(), best(whole, 2), rtol=0, atol=0.1 * float(whole.abs().max()))


def test_an_ordered_network_shares_the_weights_of_the_one_before():
    net = network(lambda: nn.Linear(7, 6))
    assert sn.order_ranks(net).full is net.full


def test_a_network_without_adapters_is_refused():
    with pytest.raises(BuildError, match=r"A SortedNet without adapters has no ranks\. Make it by sortednet\.dylora"):
        sn.order_ranks(sn.SortedNet(lambda width: nn.Linear(3, width), sn.Space(width=[1, 2])))
