"""How the full model is set is followed by sub-models at each use, and set back where it is set back."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sortednet import SortedNet, Space
from sortednet.errors import BuildError
from sortednet.network.builders import Builder
from sortednet.views.options import Held

SPACE = Space(width=[3, 6])
X = torch.ones(4, 5)


@dataclass
class Config:
    """Settings as a library of models holds them."""

    width: int
    factor: Any = 1.0
    shifts: list[float] | None = None
    doubled: int = 0


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = Config(width, shifts=[0.0, 0.0], doubled=2 * width)
        self.first, self.drop, self.last = nn.Linear(5, width), nn.Dropout(0.5), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.config.factor = float(self.config.factor)  # some models write into their configs
        return self.last(self.drop(self.first(x))) * self.config.factor + torch.tensor(self.config.shifts)


class Build(Builder):
    """A builder that says what may be set."""

    def __call__(self, **setting: Any) -> nn.Module:
        return Net(**setting)

    def options(self, module: nn.Module) -> Iterator[Held]:
        if isinstance(module, Net):
            values = vars(module.config)
            yield Held("config", values, tuple(values), holder=(vars(module), "config"))


@pytest.fixture
def net() -> SortedNet:
    torch.manual_seed(0)
    return SortedNet(Build(), SPACE).eval()


def outputs(net: SortedNet) -> list[Tensor]:
    return [net.at("width=3")(X), net.submodel("width=3")(X), net.extract("width=3")(X)]


def test_what_is_set_is_followed_at_each_use_and_set_back(net):
    before = net.at("width=3")(X)
    for _ in range(2):
        net.full.config.factor = 2
        assert all(torch.equal(one, 2 * before) for one in outputs(net))
        net.full.config.factor = 1.0
        assert all(torch.equal(one, before) for one in outputs(net))


def test_a_list_that_is_changed_in_place_is_followed(net):
    before = net.at("width=3")(X)
    net.full.config.shifts[0] = 1.0
    assert all(torch.equal(one, before + torch.tensor([1.0, 0.0])) for one in outputs(net))
    made = net.extract("width=3")
    made.config.shifts[0] = 5.0  # its own
    assert net.full.config.shifts == [1.0, 0.0]


def test_another_object_in_its_place_is_followed(net):
    before = net.at("width=3")(X)
    net.full.config = Config(6, 3.0, [0.0, 0.0], 12)
    assert all(torch.equal(one, 3 * before) for one in outputs(net))
    net.full.config.factor = 4.0
    assert all(torch.equal(one, 4 * before) for one in outputs(net))


def test_a_new_value_is_taken_away_again(net):
    net(X)
    net.full.config.new = True
    net.at("width=3")(X)
    assert net.skeleton("width=3").module.config.new
    del net.full.config.new
    net.at("width=3")(X)
    assert not hasattr(net.skeleton("width=3").module.config, "new")


def test_what_a_forward_writes_is_gone_at_the_next(net):
    net.full.config.factor = "2"
    net.at("width=3")(X)
    skeleton = net.skeleton("width=3")
    skeleton.bind(net.private)  # as the next call does
    assert skeleton.module.config.factor == "2"


def test_what_depends_on_the_size_stays_and_is_refused_where_it_is_changed(net):
    net.at("width=3")(X)
    assert net.extract("width=3").config == Config(3, shifts=[0.0, 0.0], doubled=6)
    net.full.config.doubled = 13
    for use in (net.at("width=3"), lambda x: net.extract("width=3")):
        with pytest.raises(BuildError, match=r"config\.doubled of the full model was set from 12 to 13, and the sub-"):
            use(X)
    net.full.config.doubled = 12
    net.at("width=3")(X)


def test_what_a_layer_of_torch_was_made_with_is_followed(net):
    net.train()
    net.full.drop.p = 1.0
    assert torch.equal(net.at("width=3")(X), net.full.last.bias.expand(4, 2))
    net.full.drop.p = 0.0
    assert torch.equal(net.at("width=3")(X), net.submodel("width=3")(X))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_follows_its_own_full_model(net, again):
    net.full.config.factor = 2.0
    net(X)
    other = again(net)
    before = other.at("width=3")(X)
    assert torch.equal(before, net.at("width=3")(X))
    other.full.config.factor = 4.0
    assert torch.equal(other.at("width=3")(X), 2 * before)
    assert torch.equal(net.at("width=3")(X), before)
    other.full.config.factor = 1.0
    assert torch.equal(other.at("width=3")(X), before / 2)


def test_nothing_is_copied_while_nothing_changes(net):
    net(X)
    changes = net._options.changes(net.full)
    assert net._options.changes(net.full) is changes
    net.full.config.factor = 2.0
    assert net._options.changes(net.full) is not changes
