from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, DataError, SettingError
from sortednet.models import MLP, PreResNet, Transformer
from sortednet.training.units import Outputs, find_units

from ..contracts.cases import TorchEncoder


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def units_of(net, inputs, dimensions=None, **counts):
    return find_units(net, Outputs(net, inputs), dimensions, counts)


def short(units):
    """Names without the layer numbers' surroundings, for comparison by eye."""
    return [set(one.names) for one in units]


class Experts(nn.Module):
    """Layers that hold bare parameters, of which a batch shows nothing to a hook."""

    class Layer(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.up = nn.Parameter(torch.randn(2, width, 4))
            self.down = nn.Parameter(torch.randn(2, 4, width))

        def forward(self, x):
            hidden = torch.einsum("bh,ewh->ebw", x, self.up).relu()
            return x + torch.einsum("ebw,ehw->bh", hidden, self.down)

    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList(self.Layer(width) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Normed(nn.Module):
    """Channels between two layers, under a norm over groups of them."""

    def __init__(self, width, groups=2):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(3, width), nn.GroupNorm(groups, width), nn.Linear(width, 2)
        nn.init.normal_(self.norm.weight)

    def forward(self, x):
        return self.down(self.norm(self.up(x)))


class GroupedQuery(nn.Module):
    """Attention in which two query heads share each key and value head."""

    def __init__(self, heads, size=4):
        super().__init__()
        self.size = size
        self.q, self.o = nn.Linear(6, heads * size), nn.Linear(heads * size, 6)
        self.k, self.v = nn.Linear(6, heads // 2 * size), nn.Linear(6, heads // 2 * size)

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(3 * q, k, v, enable_gqa=True)
        return self.o(mixed.transpose(1, 2).flatten(2))


def test_a_head_is_all_of_its_rows():
    build = partial(Transformer, depth=2, width=5, hidden=8, head_size=4, vocabulary=9, positions=4)
    units = units_of(sn.SortedNet(build, sn.Space(heads=[1, 3])), torch.arange(4)[None])
    assert [one.count for one in units] == [3, 3]
    assert {axis.tensor.shape[axis.axis] for axis in units[0].axes} == {12}
    assert short(units)[0] == {
        *(f"blocks.0.attention.{name}.{kind}" for name in ("query", "key", "value") for kind in ("weight", "bias")),
        "blocks.0.attention.output.weight",
    }


def test_with_grouped_queries_a_unit_is_a_key_and_value_head_with_its_queries():
    (units,) = units_of(sn.SortedNet(GroupedQuery, sn.Space(heads=[2, 8])), torch.randn(2, 5, 6))
    assert units.count == 4
    assert set(units.names) == {"q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias", "o.weight"}


def test_the_hidden_size_is_one_permutation_through_the_whole_model():
    build = partial(Transformer, depth=2, width=5, heads=2, head_size=4, vocabulary=9, positions=4)
    (units,) = units_of(sn.SortedNet(build, sn.Space(hidden=[4, 8])), torch.arange(4)[None])
    assert units.count == 8
    assert {"token.weight", "blocks.1.norm2.weight", "blocks.0.down.bias", "head.weight"} <= set(units.names)


def test_hidden_layers_in_a_row_have_a_permutation_each():
    units = units_of(
        sn.SortedNet(partial(MLP, inputs=3, classes=2), sn.Space(depth=[3], width=[2, 6])), torch.ones(1, 3)
    )
    assert short(units) == [
        {"hidden.0.weight", "hidden.0.bias", "hidden.1.weight"},
        {"hidden.1.weight", "hidden.1.bias", "hidden.2.weight"},
        {"hidden.2.weight", "hidden.2.bias", "head.weight"},
    ]


def test_channels_around_a_shortcut_share_a_permutation_and_statistics_go_with_them():
    build = partial(PreResNet, depth=2, stages=2, channels=1)
    units = units_of(sn.SortedNet(build, sn.Space(width=[2, 4])), torch.randn(2, 1, 8, 8))
    assert [one.count for one in units] == [4, 4, 4, 8, 8, 8]
    assert {"stem.weight", "stages.0.1.conv2.weight", "stages.1.0.norm1.running_mean"} <= set(units[0].names)
    inside = {"stages.0.0.conv1.weight", *(f"stages.0.0.norm2.{n}" for n in ("weight", "bias"))}
    inside |= {f"stages.0.0.norm2.running_{n}" for n in ("mean", "var")}
    assert set(units[1].names) == {*inside, "stages.0.0.conv2.weight"}


def test_bare_parameters_of_one_layer_share_a_permutation():
    units = units_of(sn.SortedNet(Experts, sn.Space(width=[3, 6])), torch.randn(5, 4))
    assert short(units) == [{f"layers.{i}.up", f"layers.{i}.down"} for i in range(2)]
    assert [one.count for one in units] == [6, 6]


def test_the_blocks_of_a_fused_parameter_are_permuted_alike():
    class Gated(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.gate_up, self.down = nn.Linear(3, 2 * width, bias=False), nn.Linear(width, 2)

        def forward(self, x):
            gate, up = self.gate_up(x).chunk(2, -1)
            return self.down(gate.sigmoid() * up)

    net = sn.SortedNet(Gated, sn.Space(width=[1, 3]), layouts=sn.Layout("gate_up.weight", 0, 2))
    (units,) = units_of(net, torch.randn(4, 3))
    before = net.full.gate_up.weight.detach().clone()
    units.permute(torch.tensor([2, 0, 1]))
    assert torch.equal(net.full.gate_up.weight, before[[2, 0, 1, 5, 3, 4]])


def test_a_setting_that_the_space_does_not_list_serves_to_find_units():
    space = sn.Space([{"depth": 1, "width": 2}, {"depth": 2, "width": 4}])
    assert len(units_of(sn.SortedNet(partial(MLP, inputs=3), space), torch.ones(1, 3), ["width"])) == 2


def test_finding_units_leaves_the_network_as_it_was():
    net = sn.SortedNet(partial(PreResNet, depth=1, stages=2, channels=1), sn.Space(width=[2, 4])).train()
    net.full.stages[0].eval()
    net.full.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    units_of(net, torch.randn(2, 1, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert (net.training, net.full.stages[0].training, net.full.stages[1].training) == (True, False, True)
    assert not net.full.stem.weight.requires_grad
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_number_of_units_can_be_given():
    net = sn.SortedNet(partial(MLP, inputs=3), sn.Space(depth=[1], width=[2, 6]))
    assert units_of(net, torch.ones(1, 3), width=3)[0].count == 3
    with pytest.raises(ConfigError, match=r"units=\{'width': 4\} do not part hidden.0.weight.* Give one of \[3, 6\]"):
        units_of(net, torch.ones(1, 3), width=4)
    heads = sn.SortedNet(GroupedQuery, sn.Space(heads=[2, 8]))
    with pytest.raises(BuildError, match=r"No order of the units of heads is free: permuting \[8\] units"):
        units_of(heads, torch.randn(2, 5, 6), heads=8)


def test_one_group_of_a_norm_is_free_and_two_are_refused():
    x = torch.randn(4, 3)
    assert units_of(sn.SortedNet(partial(Normed, groups=1), sn.Space(width=[2, 6])), x)[0].count == 6
    net = sn.SortedNet(Normed, sn.Space(width=[4, 6]))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(BuildError, match=r"No order of the units of width is free.*norm over groups.*Leave width out"):
        units_of(net, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_corners_that_cut_through_heads_are_refused():
    net = sn.SortedNet(TorchEncoder, sn.Space(hidden=[4, 8], depth=[2]))
    with pytest.raises(
        BuildError, match=r"hidden=4 makes heads smaller \(head_dim of layers.0.self_attn goes from 4 to 2"
    ):
        units_of(net, torch.randn(2, 4, 5))


def test_axes_that_shrink_by_different_shares_are_refused():
    class Uneven(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.one, self.two, self.both = nn.Linear(3, width), nn.Linear(3, width + 1), nn.Linear(2 * width + 1, 2)

        def forward(self, x):
            return self.both(torch.cat([self.one(x), self.two(x)], -1))

    net = sn.SortedNet(Uneven, sn.Space(width=[2, 4]))
    with pytest.raises(BuildError, match=r"do not shrink by one share of equal units"):
        units_of(net, torch.ones(1, 3))


def test_what_has_no_units_is_refused_by_name_and_left_out_otherwise():
    net = sn.SortedNet(partial(MLP, inputs=3), sn.Space(depth=[1, 2], width=[2, 4]))
    assert {one.dimension for one in units_of(net, torch.ones(1, 3))} == {"width"}
    with pytest.raises(SettingError, match=r"depth has no units to order: depth=1 drops whole layers.* Leave it out"):
        units_of(net, torch.ones(1, 3), ["depth"])
    with pytest.raises(SettingError, match=r"'heads' is none of the dimensions \['depth', 'width'\]"):
        units_of(net, torch.ones(1, 3), ["heads"])
    single = sn.SortedNet(partial(MLP, inputs=3), sn.Space(depth=[2], width=[4]))
    with pytest.raises(
        SettingError, match=r"None of the dimensions \['depth', 'width'\] has units.*2 is its one value"
    ):
        units_of(single, torch.ones(1, 3))


def test_two_dimensions_of_one_axis_are_refused():
    class Both(nn.Module):
        def __init__(self, width, share):
            super().__init__()
            self.up, self.down = nn.Linear(3, width * share), nn.Linear(width * share, 2)

        def forward(self, x):
            return self.down(self.up(x))

    net = sn.SortedNet(Both, sn.Space(width=[2, 4], share=[1, 2]))
    with pytest.raises(ConfigError, match=r"Both width and share shrink axis 0 of up.weight.*one after the other"):
        units_of(net, torch.ones(1, 3))
    assert units_of(net, torch.ones(1, 3), ["width"])[0].count == 8


def test_outputs_that_are_no_numbers_are_refused():
    net = sn.SortedNet(partial(MLP, inputs=3), sn.Space(depth=[1], width=[2, 4]))
    with pytest.raises(DataError, match="one whose numbers are not finite"):
        Outputs(net, torch.full((1, 3), torch.nan))
