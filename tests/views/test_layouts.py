"""Cuts by hand, and what is reported rather than cut."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sortednet import Layout, SortedNet, Space
from sortednet.errors import BuildError, LayoutError
from sortednet.views.cut import Cut
from sortednet.views.layouts import cuts_by_shape, refuse_misfits

settings.register_profile("few", max_examples=40, deadline=None, derandomize=True, database=None)
few = settings.get_profile("few")


class Holder(nn.Module):
    """Holds parameters of given shapes, such as Holder(weight=(4, 3))."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def cut_of(full, small, *layouts):
    models = Holder(weight=full), Holder(weight=small)
    refuse_misfits(*models, layouts)
    return cuts_by_shape(*models, layouts)["weight"]


def numbered(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def read(cut, full):
    """Read the runs of a cut from a tensor stored row by row, as a checkpoint is read."""
    flat = full.flatten()
    return torch.cat([flat[start : start + length] for start, length in cut.runs(full.shape)]).view(cut.shape)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_equal_blocks_are_cut_at_their_own_corners():
    cut = cut_of((6, 2), (3, 2), Layout("weight", blocks=3))
    assert cut.pieces == (((0, 1), (2, 1), (4, 1)), ((0, 2),))
    assert cut.of(numbered(6, 2)).tolist() == [[0, 1], [4, 5], [8, 9]]


def test_unequal_blocks_are_cut_at_their_own_corners():
    def grouped(model):  # four query heads share one key and one value head at half the size
        size = len(model.weight) // 4
        return [2 * size, size, size]

    cut = cut_of((16, 1), (8, 1), Layout("weight", blocks=grouped))
    assert cut.pieces[0] == ((0, 4), (8, 2), (12, 2))
    assert cut.of(numbered(16, 1)).flatten().tolist() == [0, 1, 2, 3, 8, 9, 12, 13]


def test_two_fused_axes_are_cut_along_both():
    cut = cut_of((4, 6), (2, 3), Layout("weight", 0, 2), Layout("weight", 1, 3))
    assert cut.of(numbered(4, 6)).tolist() == [[0, 2, 4], [12, 14, 16]]
    assert not cut.is_view


def test_the_last_matching_layout_counts():
    cut = cut_of((12, 1), (6, 1), Layout("weight", blocks=2), Layout("w*", blocks=3))
    assert len(cut.pieces[0]) == 3


def test_contiguous_blocks_are_merged_into_one_piece():
    cut = cut_of((6, 1), (5, 1), Layout("weight", blocks=lambda model: [4, len(model.weight) - 4]))
    assert cut.pieces[0] == ((0, 5),)
    assert cut.is_view


def test_a_whole_block_joins_the_corner_after_it_but_not_the_one_after_that():
    sizes = {9: [3, 3, 3], 7: [3, 2, 2]}
    cut = cut_of((9,), (7,), Layout("weight", blocks=lambda model: sizes[len(model.weight)]))
    assert cut.pieces == (((0, 5), (6, 2)),)


def test_a_block_that_vanishes_leaves_no_piece():
    sizes = {6: [2, 2, 2], 3: [2, 0, 1]}
    cut = cut_of((6,), (3,), Layout("weight", blocks=lambda model: sizes[len(model.weight)]))
    assert cut.of(numbered(6)).tolist() == [0, 1, 4]


def test_an_axis_of_full_size_is_one_piece_whatever_its_blocks():
    assert cut_of((6, 4), (6, 2), Layout("weight", 0, 3)).pieces == (((0, 6),), ((0, 2),))


def test_a_cut_without_blocks_is_a_view_of_the_full_tensor():
    full = numbered(4, 6)
    part = cut_of((4, 6), (2, 3), Layout("weight", 1, 1)).of(full)
    assert part.data_ptr() == full.data_ptr()
    assert part.tolist() == [[0, 1, 2], [6, 7, 8]]


def test_a_cut_at_full_size_is_another_tensor_on_the_same_memory():
    full = nn.Parameter(numbered(4, 6))
    part = cut_of((4, 6), (4, 6)).of(full)
    assert part is not full
    assert part.data_ptr() == full.data_ptr()


def test_a_scalar_is_cut_whole():
    cut = cut_of((), ())
    full = torch.tensor(3.0)
    assert cut.of(full).data_ptr() == full.data_ptr()
    mask = torch.zeros((), dtype=torch.bool)
    cut.mark(mask, True)
    assert mask.item()
    assert read(cut, full) == 3


# --- property: of, mark and read against plain indexing -------------------------------------------------------------


@st.composite
def random_cuts(draw):
    """Draw a cut together with the indices that it must take along every axis."""
    pieces, shape, index, whole = [], [], [], []
    for _ in range(draw(st.integers(1, 3))):
        start, axis, taken = 0, [], []
        for _ in range(draw(st.integers(1, 3))):
            length = draw(st.integers(1, 3))
            axis.append((start, length))
            taken += range(start, start + length)
            start += length + draw(st.integers(0, 2))
        pieces.append(tuple(axis))
        shape.append(len(taken))
        index.append(taken)
        whole.append(start + draw(st.integers(0, 2)))
    return Cut(tuple(shape), tuple(pieces)), index, whole


def indexed(full, index):
    for axis, taken in enumerate(index):
        full = full.index_select(axis, torch.tensor(taken))
    return full


@few
@given(random_cuts())
def test_of_equals_plain_indexing(drawn):
    cut, index, whole = drawn
    full = numbered(*whole)
    assert torch.equal(cut.of(full), indexed(full, index))
    assert tuple(cut.of(full).shape) == cut.shape


@few
@given(random_cuts())
def test_mark_covers_what_of_takes_and_nothing_else(drawn):
    cut, index, whole = drawn
    mask = torch.zeros(whole, dtype=torch.bool)
    cut.mark(mask, True)
    assert torch.equal(numbered(*whole)[mask], indexed(numbered(*whole), index).flatten())


@few
@given(random_cuts())
def test_runs_give_what_of_takes_and_no_more(drawn):
    cut, index, whole = drawn
    full = numbered(*whole)
    assert torch.equal(read(cut, full), indexed(full, index))
    assert sum(length for _, length in cut.runs(full.shape)) == cut.of(full).numel()


@few
@given(random_cuts())
def test_the_gradient_of_a_cut_lands_where_mark_says(drawn):
    cut, _, whole = drawn
    full = torch.zeros(whole, requires_grad=True)
    cut.of(full).sum().backward()
    mask = torch.zeros(whole)
    cut.mark(mask, 1)
    assert torch.equal(full.grad, mask)


@few
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=4))
def test_a_corner_equals_slicing(sizes):
    small = [size for size, _ in sizes]
    full = [size + more for size, more in sizes]
    layouts = [Layout("weight", axis, 1) for axis in range(len(sizes))]  # nothing is to be reported
    expected = numbered(*full)[tuple(slice(size) for size in small)]
    assert torch.equal(cut_of(full, small, *layouts).of(numbered(*full)), expected)


@few
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 4), st.integers(1, 3))
def test_equal_blocks_equal_slicing_every_chunk(blocks, small, more, other):
    full = numbered(blocks * (small + more), other)
    cut = cut_of(full.shape, (blocks * small, other), Layout("weight", 0, blocks))
    assert torch.equal(cut.of(full), torch.cat([part[:small] for part in full.chunk(blocks)]))


# --- torch's own fused modules --------------------------------------------------------------------------------------


def test_multihead_attention_is_cut_per_query_key_and_value():
    found = cuts_by_shape(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(4, 1))
    for name in ("in_proj_weight", "in_proj_bias"):
        assert found[name].pieces[0] == ((0, 4), (8, 4), (16, 4))
    assert found["out_proj.weight"].pieces == (((0, 4),), ((0, 4),))


def test_as_many_heads_of_fewer_units_are_cut_one_by_one_as_they_are_traced():
    def build(width):
        return nn.MultiheadAttention(width, 2, batch_first=True)

    found = cuts_by_shape(build(8), build(4))
    for name in ("in_proj_weight", "in_proj_bias"):
        assert found[name].pieces[0] == tuple((start, 2) for start in range(0, 24, 4))
    assert found["out_proj.weight"].pieces == (((0, 4),), ((0, 2), (4, 2)))
    x = torch.ones(1, 3, 8)

    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.attention, self.last = nn.Linear(8, width), build(width), nn.Linear(width, 8)

        def forward(self, x):
            x = self.first(x)
            return self.last(self.attention(x, x, x, need_weights=False)[0])

    net = SortedNet(Net, Space(width=[4, 8]), example=x)
    traced = {path.removeprefix("attention."): cut for path, cut in net.skeleton("width=4").slots() if "att" in path}
    assert traced == found


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_gates_are_cut_one_by_one(kind, gates):
    found = cuts_by_shape(kind(3, 5, num_layers=2), kind(3, 2, num_layers=2))
    for name, cut in found.items():
        assert cut.pieces[0] == tuple((5 * i, 2) for i in range(gates)), name
    assert found["weight_ih_l0"].pieces[1] == ((0, 3),)
    assert found["weight_ih_l1"].pieces[1] == ((0, 2),)


def test_the_second_layer_of_a_bidirectional_lstm_reads_the_corner_of_both_directions():
    found = cuts_by_shape(nn.LSTM(3, 5, 2, bidirectional=True), nn.LSTM(3, 2, 2, bidirectional=True))
    assert found["weight_ih_l1"].pieces[1] == ((0, 2), (5, 2))
    assert found["weight_ih_l1_reverse"].pieces[1] == ((0, 2), (5, 2))
    assert found["weight_ih_l0_reverse"].pieces[1] == ((0, 3),)


def test_the_projection_of_an_lstm_is_cut_at_its_plain_corner():
    found = cuts_by_shape(nn.LSTM(3, 6, proj_size=4), nn.LSTM(3, 3, proj_size=2))
    assert found["weight_hr_l0"].pieces == (((0, 2),), ((0, 3),))
    assert found["weight_hh_l0"].pieces == (((0, 3), (6, 3), (12, 3), (18, 3)), ((0, 2),))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_sub_model_equals_one_sliced_by_hand(kind):
    torch.manual_seed(0)
    net = SortedNet(lambda width: kind(3, width), Space(width=[2, 5])).double()
    by_hand = kind(3, 2).double()
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            gates = getattr(net.full, name).chunk(4 if kind is nn.LSTM else 3)
            columns = 3 if name == "weight_ih_l0" else 2
            parameter.copy_(torch.cat([gate[:2, :columns] if gate.dim() == 2 else gate[:2] for gate in gates]))
    x = torch.randn(4, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(net.at(width=2)(x)[0], by_hand(x)[0])


# --- what is reported -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.qkv = nn.Linear(12, 3 * 4 * heads)
        self.out = nn.Linear(4 * heads, 12)

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.out(functional.softmax(query @ key.transpose(-1, -2), -1) @ value)


class GatedFeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_up = nn.Linear(6, 2 * width, bias=False)
        self.down = nn.Linear(width, 6, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(functional.silu(gate) * up)


@pytest.mark.parametrize(
    ("build", "space", "remedy", "layouts"),
    [
        (Attention, Space(heads=[1, 2]), 'layouts=[Layout("qkv.weight", axis=0, blocks=3)]', "qkv.*"),
        (GatedFeedForward, Space(width=[4, 8]), 'layouts=[Layout("gate_up.weight", axis=0, blocks=2)]', "gate_up.*"),
    ],
)
def test_an_undeclared_fused_matrix_is_reported_with_the_remedy_to_paste(build, space, remedy, layouts):
    with pytest.raises(LayoutError, match=re.escape(remedy)) as caught:
        SortedNet(build, space).extract(space.smallest)
    assert "may hold several blocks" in str(caught.value)
    assert "if it is one block, say so with blocks=1" in str(caught.value)
    pasted = eval(remedy.removeprefix("layouts="), {"Layout": Layout})
    SortedNet(build, space, layouts=[*pasted, Layout(layouts, blocks=pasted[0].blocks)]).extract(space.smallest)


def test_a_declared_weight_with_an_undeclared_bias_is_reported():
    with pytest.raises(LayoutError, match=r"Axis 0 of qkv\.bias goes from 24 to 12 units.*blocks=3"):
        SortedNet(Attention, Space(heads=[1, 2]), layouts=[Layout("qkv.weight", blocks=3)]).submodel(heads=1)


@pytest.mark.parametrize(
    ("build", "space"), [(Attention, Space(heads=[1, 2])), (GatedFeedForward, Space(width=[4, 8]))]
)
def test_blocks_of_one_accept_the_plain_corner(build, space):
    net = SortedNet(build, space, layouts=[Layout("*.weight", blocks=1)])
    assert all(cut.is_view for _, cut in net.skeleton(space.smallest).slots())


def test_a_fused_matrix_of_constant_size_is_not_reported():
    class Deep(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.blocks = nn.Sequential(*(Attention(2) for _ in range(depth)))

    SortedNet(Deep, Space(depth=[1, 2])).extract(depth=1)


def grouped(width):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, groups=2), nn.Conv2d(width, 5, 1))


def test_groups_that_shrink_inside_are_reported():
    with pytest.raises(LayoutError, match=r"1\.weight belongs to a convolution of 2 groups .* from 6 to 4 channels"):
        SortedNet(grouped, Space(width=[8, 12])).extract(width=8)


def test_groups_that_shrink_inside_can_be_accepted_as_the_message_says():
    SortedNet(grouped, Space(width=[8, 12]), layouts=[Layout("1.weight", axis=1, blocks=1)]).extract(width=8)


@pytest.mark.filterwarnings("ignore:The models were not watched:UserWarning")  # inputs have the width too
def test_a_depthwise_convolution_is_a_plain_corner():
    net = SortedNet(lambda width: nn.Conv2d(width, width, 3, groups=width), Space(width=[2, 5]))
    x = torch.randn(1, 5, 4, 4)
    torch.testing.assert_close(net.at(width=2)(x[:, :2]), net(x)[:, :2])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (5, r"Axis 0 of qkv\.weight has 24 units, which Layout\(.*blocks=5\) does not divide\. Correct its blocks"),
        (0, r"blocks=0 of 'qkv\.\*' is no number of blocks"),
        (-3, r"blocks=-3 of 'qkv\.\*' is no number of blocks"),
        (lambda model: [8, 8, 7], r"The blocks \[8, 8, 7\] of .* add up to 23, but axis 0 of qkv\.weight has 24 units"),
        (
            lambda model: [8, 8, 8] if len(model.qkv.weight) == 24 else [6, 6],
            r"The blocks of qkv\.weight along axis 0 are \[8, 8, 8\] in the full model and \[6, 6\] in the sub-model",
        ),
        (
            lambda model: [8, 8, 8] if len(model.qkv.weight) == 24 else [10, 1, 1],
            r"must give as many blocks for both, none of them larger in the sub-model",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(blocks, message):
    with pytest.raises(LayoutError, match=message):
        SortedNet(Attention, Space(heads=[1, 2]), layouts=[Layout("qkv.*", blocks=blocks)])


def test_a_negative_axis_counts_from_the_end_or_is_refused():
    try:
        cut = cut_of((2, 6), (2, 3), Layout("weight", axis=-1, blocks=3))
    except LayoutError as error:
        assert "axis" in str(error)  # noqa: PT017
        assert "may hold" not in str(error)  # noqa: PT017
    else:
        assert len(cut.pieces[1]) == 3


def test_a_layout_that_matches_nothing_is_reported():
    with pytest.raises(LayoutError, match="qvk"):
        SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]), layouts=[Layout("qvk.*", blocks=3)])


def plain(*sizes):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))


PLAIN = {
    "mlp": (lambda width: plain(5, width, width, 3), Space(width=[2, 4])),
    "feed_forward_four_times_the_width": (lambda width: plain(5, width, 4 * width, width, 3), Space(width=[2, 4])),
    "bottleneck": (lambda width: plain(5, 4 * width, width, 4 * width, 3), Space(width=[2, 4])),
    "convolutions": (
        lambda width: nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 2 * width, 3), nn.Conv2d(2 * width, 5, 3)),
        Space(width=[2, 4]),
    ),
    "classes_grow": (lambda classes: nn.Linear(3, classes), Space(classes=[2, 4])),
    "embedding": (
        lambda width: nn.Sequential(nn.Embedding(9, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, 9)),
        Space(width=[2, 4]),
    ),
    "norms": (
        lambda width: nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.LayerNorm(width), nn.Linear(width, 2)
        ),
        Space(width=[2, 4]),
    ),
}


@pytest.mark.parametrize(("build", "space"), PLAIN.values(), ids=PLAIN)
def test_plain_models_are_not_reported(build, space):
    net = SortedNet(build, space)
    assert all(cut.is_view for one in space for _, cut in net.skeleton(one).slots())


def test_flattened_channels_are_reported_and_accepted_as_one_block():
    class Flat(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(1, channels, 3)
            self.head = nn.Linear(9 * channels, 2)

    space = Space(channels=[2, 4])
    with pytest.raises(LayoutError, match=r"say so with blocks=1\. \(Channels flattened before their pixels"):
        SortedNet(Flat, space).extract(channels=2)
    SortedNet(Flat, space, layouts=[Layout("head.weight", axis=1, blocks=1)]).extract(channels=2)


# --- what is no corner ----------------------------------------------------------------------------------------------


def test_a_parameter_without_counterpart_is_refused():
    with pytest.raises(BuildError, match=r"extra of the sub-model has no counterpart in the full model\. Build both"):
        refuse_misfits(Holder(weight=(4,)), Holder(weight=(2,), extra=(1,)))


@pytest.mark.parametrize(("small", "text"), [((5, 3), r"\(5, 3\)"), ((4, 4), r"\(4, 4\)"), ((4,), r"\(4,\)")])
def test_a_larger_parameter_or_one_of_another_rank_is_refused(small, text):
    with pytest.raises(BuildError, match=rf"weight has shape {text} in the sub-model and \(4, 3\) in the full model"):
        cut_of((4, 3), small)


# --- names that move, and axes that join what shrinks with what does not ---------------------------------------------


def stacked(depth, width):
    hidden = [layer for _ in range(depth) for layer in (nn.ReLU(), nn.Linear(width, width))]
    return nn.Sequential(nn.Linear(5, width), *hidden, nn.ReLU(), nn.Linear(width, 2))


def test_a_head_whose_name_moves_with_the_depth_is_reported():
    with pytest.raises(LayoutError, match=r"4\.weight goes from 8 to 2 outputs, as many as 6\.weight .* seems to move"):
        SortedNet(stacked, Space(depth=[1, 2], width=[4, 8])).extract(depth=1, width=4)


class Joined(nn.Module):
    """A head that reads a hidden layer and the input beside it."""

    def __init__(self, width):
        super().__init__()
        self.hidden = nn.Linear(5, width)
        self.head = nn.Linear(width + 5, 2)

    def forward(self, x):
        return self.head(torch.cat([self.hidden(x).relu(), x], -1))


def test_an_axis_that_joins_what_shrinks_with_what_does_not_is_reported():
    with pytest.raises(LayoutError, match=r"Axis 1 of head\.weight goes from 13 to 9 units, 5 more than an axis of 8"):
        SortedNet(Joined, Space(width=[4, 8])).extract(width=4)


def test_a_layout_of_unequal_blocks_cuts_such_an_axis_right():
    layout = Layout("head.weight", axis=1, blocks=lambda model: [model.hidden.out_features, 5])
    net = SortedNet(Joined, Space(width=[4, 8]), layouts=layout)
    small = net.extract(width=4)
    torch.testing.assert_close(small.head.weight[:, 4:], net.full.head.weight[:, 8:], rtol=0, atol=0)
    torch.testing.assert_close(small.head.weight[:, :4], net.full.head.weight[:, :4], rtol=0, atol=0)


def test_the_weight_of_a_sorted_output_is_not_taken_for_one_that_moved():
    class Net(nn.Module):
        def __init__(self, depth, outputs):
            super().__init__()
            self.body = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
            self.head = nn.Linear(4, outputs)

    SortedNet(Net, Space(depth=[1, 3], outputs=[2, 7])).extract(depth=1, outputs=2)
