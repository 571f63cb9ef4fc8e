"""What alignment finds beside the models whose cuts are known."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sortednet import Layout, Setting, SortedNet, Space
from sortednet.errors import LayoutError

VECTOR, IMAGE = torch.ones(2, 8), torch.ones(2, 3, 8, 8)


def pieces(net: SortedNet, name: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    skeleton = net.skeleton(net.space.smallest)
    return next(slot.cut.pieces for slot in skeleton.parameters if slot.path == name)


class Masked(nn.Module):
    """Heads of a fixed number part the width, and one of two tokens is put in only in training."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.token, self.mask = nn.Parameter(torch.ones(1, 1, w)), nn.Parameter(torch.zeros(1, 1, w))
        self.embed, self.v, self.o = nn.Linear(8, w), nn.Linear(w, w), nn.Linear(w, w)
        self.up, self.down = nn.Linear(w, w), nn.Linear(w, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)[:, None] + self.token + (self.mask if self.training else 0)
        heads = self.v(x).view(len(x), 1, 2, -1)
        x = x + self.o((heads * heads.new_tensor([1.0, 2.0])[:, None]).flatten(2))
        return self.down(self.up(x).relu())


def test_what_only_training_reads_is_cut_like_what_lies_beside_it() -> None:
    net = SortedNet(Masked, Space(w=[4, 8]), example=VECTOR)
    assert pieces(net, "v.weight") == (((0, 2), (4, 2)), ((0, 4),))
    assert pieces(net, "mask") == pieces(net, "token")


class Standardised(nn.Conv2d):
    """A convolution whose weights have mean zero and variance one over what they read."""

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(self.weight.reshape(1, len(self.weight), -1), None, None, training=True)
        return F.conv2d(x, weight.view_as(self.weight), self.bias)


def test_weights_that_are_standardised_are_listed_as_a_statistic() -> None:
    def build(w: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, w, 1), Standardised(w, 4, 1))

    net = SortedNet(build, Space(w=[2, 4]), example=IMAGE)
    assert "only a statistic joins units: *: native_batch_norm" in str(net.cuts).replace("_legit", "")


class Paired(nn.Module):
    """An LSTM, whose parameters are known, and halves of a size that has none in one of the models."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(8, w, batch_first=True), nn.Linear(w, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cell(x[:, None])[0][:, 0].repeat_interleave(2, 1).chunk(2, 1)
        return self.head(first * second)


def test_a_known_layout_hides_no_conflict() -> None:
    with pytest.raises(LayoutError, match="is parted at 1 of 0"):
        SortedNet(Paired, Space(w=[3, 4]), example=VECTOR)


class Filled(nn.Module):
    """Memory is made like another tensor, and written in parts before it is read."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(8, w), nn.Linear(8, 2), nn.Linear(w + 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x), self.b(x)
        joined = first.new_empty(len(x), first.shape[1] + 2)
        joined[:, :2] = second
        joined[:, 2:] = first * first.new_ones(first.shape)
        return self.o(joined.relu())


def test_memory_that_is_written_in_parts_is_cut_in_parts() -> None:
    net = SortedNet(Filled, Space(w=[3, 6]), example=VECTOR)
    assert pieces(net, "o.weight")[1] == ((0, 5),)
    assert net.cuts.traces


def test_a_setting_between_those_watched_is_cut_like_them() -> None:
    net = SortedNet(Masked, Space(w=[4, 6, 8]), example=VECTOR)
    skeleton = net.skeleton(Setting({"w": 6}))
    assert next(slot.cut.pieces[0] for slot in skeleton.parameters if slot.path == "v.bias") == ((0, 3), (4, 3))


class Lost(nn.Module):
    """Blocks of four cut through what no parameter holds: the padding on both sides."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.w, self.o = w, nn.Linear(w // 2 + 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.w, self.w))
        return self.o(padded.view(len(x), -1, 4).sum(-1))


def test_a_conflict_that_no_parameter_led_to_refuses_those_behind_it() -> None:
    with pytest.raises(LayoutError, match=r"o\.weight\[1\]: forward: view"):
        SortedNet(Lost, Space(w=[2, 4]), example=VECTOR)


def test_a_layout_that_a_person_gives_decides_what_cannot_be_told() -> None:
    net = SortedNet(Lost, Space(w=[2, 4]), example=VECTOR, layouts=[Layout("o.weight", axis=1, blocks=1)])
    assert pieces(net, "o.weight")[1] == ((0, 3),)


class Scaled(nn.Module):
    """A tensor that is neither parameter nor buffer, and a part of the units for each two of them."""

    def __init__(self, w: int, *, parted: bool) -> None:
        super().__init__()
        self.a, self.o, self.parted = nn.Linear(8, w), nn.Linear(w, 2), parted
        self.scale = torch.arange(w).float()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.o(torch.cat(x.split(2, 1)[::-1], 1) if self.parted else x * self.scale)


def test_a_refusal_names_the_tensor_to_register_as_a_buffer() -> None:
    with pytest.raises(LayoutError, match=r"mul reads scale, which is no buffer. Register it: register_buffer"):
        SortedNet(lambda w: Scaled(w, parted=False), Space(w=[2, 4]), example=VECTOR)


def test_a_refusal_tells_how_many_parts_there_are() -> None:
    with pytest.raises(LayoutError, match="split cannot be followed: 2 parts, and 4 in the full model"):
        SortedNet(lambda w: Scaled(w, parted=True), Space(w=[4, 8]), example=VECTOR)


def test_a_refusal_says_to_keep_a_head_out_of_the_list() -> None:
    def build(depth: int) -> nn.Module:
        return nn.Sequential(*[nn.Linear(8, 8) for _ in range(depth)], nn.Linear(8, 3))

    with pytest.raises(LayoutError, match="a head at the end of a list, keep it out of the list"):
        SortedNet(build, Space(depth=[1, 2]), example=VECTOR)


def test_a_refusal_names_axes_in_the_order_of_the_model() -> None:
    with pytest.raises(LayoutError, match=r"- a\.weight\[0\], a\.bias\[0\], o\.weight\[1\]: forward: mul"):
        SortedNet(lambda w: Scaled(w, parted=False), Space(w=[2, 4]), example=VECTOR)
