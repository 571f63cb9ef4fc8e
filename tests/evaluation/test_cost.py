"""Costs of sub-models, each count worked out by hand."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional

from sortednet import SortedNet, Space
from sortednet.errors import ConfigError, SettingError
from sortednet.evaluation.cost import count_flops, count_parameters, measure_latency, measure_memory

from ..contracts.cases import Tied


def linear_net():
    return SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        return functional.scaled_dot_product_attention(self.query(x), self.key(x), x)


class Masked(nn.Module):
    """Makes its own positions and takes a mask, as language models do."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(5, width)

    def forward(self, x, *, mask):
        positions = self.embed(torch.arange(x.shape[1]))
        return (x[..., None] * positions * mask[..., None]) @ self.embed.weight.T


class AsksForValues(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def test_parameters_of_a_linear_layer_are_counted_at_its_width():
    assert count_parameters(linear_net(), "width=2") == 3 * 2 + 2


def test_tied_parameters_count_once():
    assert count_parameters(SortedNet(Tied, Space(width=[2, 4])), "width=2") == 7 * 2


def test_tied_parameters_count_once_after_the_sub_model_ran():
    net = SortedNet(Tied, Space(width=[2, 4]))
    net.at(width=2)(torch.zeros(1, 3, dtype=torch.long))
    assert count_parameters(net, "width=2") == 7 * 2


def test_private_parameters_count_for_their_sub_model():
    net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]), private="bias")
    assert count_parameters(net, "width=2") == 3 * 2 + 2


def test_counted_parameters_are_those_of_the_extracted_model():
    net = SortedNet(lambda width: nn.MultiheadAttention(width, 2), Space(width=[4, 8]))
    assert count_parameters(net, "width=4") == sum(one.numel() for one in net.extract(width=4).parameters())


def test_flops_of_a_linear_layer_are_two_for_each_multiply_add():
    assert count_flops(linear_net(), "width=4", torch.ones(5, 3)) == 2 * 5 * 3 * 4


def test_flops_of_a_sliced_linear_layer_are_those_of_its_slice():
    assert count_flops(linear_net(), "width=2", torch.ones(5, 3)) == 2 * 5 * 3 * 2


def test_flops_of_a_convolution_are_counted_for_each_output_pixel():
    net = SortedNet(lambda width: nn.Conv2d(3, width, kernel_size=3), Space(width=[2, 4]))
    pixels = 2 * 6 * 6  # two images of 8 x 8, without padding
    assert count_flops(net, "width=2", torch.ones(2, 3, 8, 8)) == 2 * pixels * (3 * 3 * 3) * 2


def test_flops_of_attention_are_its_projections_and_two_products_over_all_pairs():
    net = SortedNet(Attention, Space(width=[4, 8]))
    projections = 2 * (2 * 5 * 4 * 4)  # query and key of 5 tokens
    products = 2 * (2 * 5 * 5 * 4)  # scores, and the weighted sum
    assert count_flops(net, "width=4", torch.ones(3, 5, 4)) == 3 * (projections + products)


@pytest.mark.parametrize("training", [True, False])
def test_flops_of_torch_encoder_layers_are_counted_in_either_mode(training):
    def build(depth):
        layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
        return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    net = SortedNet(build, Space(depth=[1, 2])).train(training)
    per_token = 2 * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    assert count_flops(net, "depth=1", torch.ones(3, 5, 8)) == 3 * (5 * per_token + 2 * (2 * 5 * 5 * 8))


def test_flops_of_an_lstm_are_those_of_its_four_gates():
    net = SortedNet(lambda width: nn.LSTM(3, width, batch_first=True), Space(width=[2, 4]))
    assert count_flops(net, "width=2", torch.ones(1, 5, 3)) == 2 * 5 * (3 * 8 + 2 * 8)


def test_flops_are_counted_from_keyword_arguments():
    net = SortedNet(Masked, Space(width=[2, 4]))
    inputs = {"x": torch.ones(2, 3), "mask": torch.ones(2, 3)}
    assert count_flops(net, "width=2", inputs) == 2 * (2 * 3) * 2 * 5


def test_flops_are_counted_from_inputs_on_the_meta_device():
    assert count_flops(linear_net(), "width=2", torch.ones(5, 3, device="meta")) == 60


def test_flops_are_counted_in_the_networks_own_dtype():
    net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4])).to(torch.bfloat16)
    assert count_flops(net, "width=2", torch.ones(5, 3, dtype=torch.bfloat16)) == 60


def test_counting_flops_changes_no_weight_statistic_mode_or_random_state():
    def build(width):
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(), nn.Linear(width, 2))

    net = SortedNet(build, Space(width=[2, 4]))
    net.full[1].eval()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    modes = [one.training for one in net.modules()]
    random = torch.get_rng_state()
    count_flops(net, "width=2", torch.ones(5, 3))
    assert torch.equal(torch.get_rng_state(), random)
    assert [one.training for one in net.modules()] == modes
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())


def test_sub_model_runs_as_before_after_counting_flops():
    net, x = linear_net(), torch.ones(5, 3)
    expected = net.at(width=2)(x)
    count_flops(net, "width=2", x)
    torch.testing.assert_close(net.at(width=2)(x), expected, rtol=0, atol=0)


def test_flops_at_a_setting_outside_the_space_are_refused():
    with pytest.raises(SettingError, match="width=3"):
        count_flops(linear_net(), "width=3", torch.ones(5, 3))


def test_forward_that_asks_for_values_is_refused_with_the_remedy():
    net = SortedNet(lambda width: AsksForValues(3, width), Space(width=[2, 4]))
    with pytest.raises(ConfigError, match=r"(?s)at width=2 failed on the meta device.*no value of a tensor decide"):
        count_flops(net, "width=2", torch.ones(5, 3))


def test_latency_is_a_positive_number_of_milliseconds():
    latency_ms = measure_latency(nn.Linear(3, 2), torch.ones(1, 3), min_run_seconds=0.001, threads=1)
    assert 0 < latency_ms < 1000


def test_latency_puts_the_mode_of_every_part_back():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).train()
    module[1].eval()
    measure_latency(module, torch.ones(2, 3), min_run_seconds=0.001)
    assert [one.training for one in module.modules()] == [True, True, False]


def test_latency_changes_no_statistics():
    module = nn.BatchNorm1d(3).train()
    measure_latency(module, torch.ones(2, 3), min_run_seconds=0.001)
    assert module.num_batches_tracked == 0


@pytest.mark.parametrize("arguments", [{"min_run_seconds": 0}, {"threads": 0}])
def test_latency_refuses_numbers_out_of_range(arguments):
    name = next(iter(arguments))
    with pytest.raises(ConfigError, match=f"{name}=0 is"):
        measure_latency(nn.Linear(3, 2), torch.ones(1, 3), **arguments)


def test_memory_of_a_chain_is_its_weights_and_its_two_largest_neighbours():
    chain = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 16, bias=False), nn.Linear(16, 2, bias=False))
    weights = 4 * (4 * 8 + 8 * 16 + 16 * 2)
    assert measure_memory(chain, torch.ones(3, 4)) == weights + 4 * 3 * (8 + 16)


def test_memory_of_float64_is_twice_that_of_float32():
    layer, x = nn.Linear(4, 8), torch.ones(3, 4)
    assert measure_memory(nn.Linear(4, 8).double(), x.double()) == 2 * measure_memory(layer, x)


def test_memory_counts_no_view_beside_its_storage():
    assert measure_memory(nn.Sequential(nn.Linear(4, 8, bias=False), nn.Flatten(0)), torch.ones(3, 4)) == 4 * (32 + 24)


def test_memory_counts_a_view_for_as_long_as_it_holds_its_storage():
    class Keeps(nn.Module):
        def forward(self, x):
            first = (x + 1)[:1]  # one row shows, four are held
            return first, x + 2

    assert measure_memory(Keeps(), torch.ones(4, 8)) == 4 * (32 + 32)


def test_memory_counts_no_input():
    assert measure_memory(nn.Flatten(), torch.ones(3, 4, 5)) == 0


def test_memory_counts_no_new_tensor_for_work_in_place():
    chain = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(inplace=True))
    assert measure_memory(chain, torch.ones(3, 4)) == 4 * (32 + 24)


def test_memory_counts_buffers():
    statistics = 4 * (3 + 3) + 8
    affine = 4 * (3 + 3)
    assert measure_memory(nn.BatchNorm1d(3), torch.ones(2, 3)) >= statistics + affine + 4 * 6


def test_memory_of_tied_parameters_counts_once():
    ids = torch.zeros(1, 1, dtype=torch.long)
    assert measure_memory(Tied(2), ids) == 4 * (7 * 2 + 2 + 7)


def test_memory_of_a_sub_model_is_that_of_the_extracted_model():
    net = SortedNet(Attention, Space(width=[4, 8]))
    x = torch.ones(3, 5, 4)
    assert measure_memory(net.submodel(width=4), x) == measure_memory(net.extract(width=4), x)


def test_memory_on_the_meta_device_is_that_on_the_cpu():
    chain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    on_cpu = measure_memory(chain, torch.ones(3, 4))
    assert measure_memory(chain.to("meta"), torch.ones(3, 4, device="meta")) == on_cpu


def test_memory_is_the_same_at_every_measurement():
    layer, x = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)), torch.ones(3, 4)
    gc.collect()
    assert len({measure_memory(layer, x) for _ in range(5)}) == 1
