"""A given model that names and shapes do not tell from the builder's."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import BuildError

SPACE = sn.Space(width=[4, 8])
X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads, self.joined, self.last = heads, nn.Linear(3, 3 * width), nn.Linear(width, 2)

    def forward(self, x):
        parts = self.joined(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.last(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Layers(nn.Module):
    def __init__(self, width, slope=0.01, act="relu", dilation=1, dropout=0.0):
        super().__init__()
        self.first = nn.Conv1d(5, width, 2, dilation=dilation, padding=1)
        self.leaky, self.act, self.dropout = nn.LeakyReLU(slope), getattr(functional, act), nn.Dropout(dropout)
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        return self.leaky(self.last(self.dropout(self.act(self.first(x))).mean(-1)))


@pytest.mark.parametrize(
    ("build", "options", "told"),
    [
        (Attention, {"heads": 4}, "heads is 4, and there 2"),
        (Layers, {"slope": 0.9}, "leaky is LeakyReLU"),
        (Layers, {"act": "gelu"}, "act is gelu, and there relu"),
        (Layers, {"dilation": 2}, r"dilation=\(2,\)"),
    ],
)
@pytest.mark.parametrize("first", [False, True], ids=["example", "first call"])
def test_a_model_that_computes_something_else_is_refused(build, options, told, first):
    torch.manual_seed(0)
    model = build(8, **options)

    def use():
        return sn.SortedNet(build, SPACE, model=model, example=None if first else X)(X)

    with pytest.raises(BuildError, match=f"returns something else than what the builder makes at width=8: .*{told}"):
        use()


def test_what_changes_nothing_in_evaluation_is_the_users():
    net = sn.SortedNet(Layers, SPACE, model=Layers(8, dropout=0.5), example=X)
    assert net.full.dropout.p == 0.5


class Drawing(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last, self.calls = nn.Linear(3, width), nn.Linear(width, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.last(self.first(x) + torch.randn(len(x), 1, 1)) * self.calls


def test_a_model_that_returns_something_else_each_time_is_not_compared():
    net = sn.SortedNet(Drawing, SPACE, model=Drawing(8), example=X)
    assert net(X).shape == (2, 5, 2)


def test_it_is_compared_once_and_leaves_the_random_state_alone():
    torch.manual_seed(0)
    net = sn.SortedNet(Layers, SPACE, model=Layers(8))
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(X)
        net.full.leaky.negative_slope = 0.5  # a person's own change, which stays the full model's
        net(X)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.full.training
