"""A forward that was put on a module itself is the builder's, or a method that sub-models can have too, or refused."""

import functools
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

from sortednet import SortedNet, Space
from sortednet.errors import BuildError
from sortednet.views.forwards import runs

SPACE = Space(width=[2, 4])
X = torch.ones(3, 5)


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(5, width), nn.Linear(width, 2), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def scaled(self: Net, x: Tensor, by: float = 3.0) -> Tensor:
    """Reach the model through `self` alone."""
    return by * self.down(torch.relu(self.up(x)))


def net(**options: object) -> SortedNet:
    torch.manual_seed(0)
    return SortedNet(Net, SPACE, **options)


def expected(net: SortedNet, width: int) -> Tensor:
    own = Net(width)
    own.load_state_dict(net.extract(width=width).state_dict())
    return scaled(own, X)


# --- what was put there by the builder ----------------------------------------------------------------------------


def closure(width: int) -> nn.Module:
    model = Net(width)
    model.forward = lambda x: 3.0 * model.down(torch.relu(model.up(x)))
    return model


def wrapping(width: int) -> nn.Module:
    model = Net(width)
    model.act.forward = torch.relu
    before = model.forward
    model.forward = functools.wraps(before)(lambda x: 3.0 * before(x))
    return model


def method(width: int) -> nn.Module:
    model = Net(width)
    model.forward = MethodType(scaled, model)
    return model


def partly(width: int) -> nn.Module:
    model = Net(width)
    model.forward = functools.partial(scaled, model)
    return model


BUILDERS = [closure, wrapping, method, partly]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("given", [True, False], ids=["given", "built"])
@pytest.mark.parametrize("example", [X, None], ids=["example", "no_example"])
def test_what_the_builder_puts_there_every_sub_model_has_for_itself(build, given, example):
    torch.manual_seed(0)
    net = SortedNet(build, SPACE, model=build(4) if given else None, example=example)
    for width in (4, 2):
        outputs = [net.at(width=width)(X), net.extract(width=width)(X), net.submodel(width=width)(X)]
        for output in outputs:
            torch.testing.assert_close(output, expected(net, width), rtol=0, atol=1e-6)
    assert torch.equal(net(X), net.full(X))


@pytest.mark.parametrize("build", BUILDERS)
def test_a_given_model_without_the_builders_forward_is_refused(build):
    with pytest.raises(BuildError, match=r"forward of .*: the builder gives it a forward of its own, which the full"):
        SortedNet(build, SPACE, model=Net(4))


# --- what a person has put on the full model ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False], ids=["given", "later"])
def test_a_method_that_reaches_the_model_by_self_alone_is_followed(given):
    torch.manual_seed(0)
    model = Net(4)
    if given:
        model.forward = MethodType(scaled, model)
    net = SortedNet(Net, SPACE, model=model)
    first = net.at(width=2)
    first(X)
    model.forward = MethodType(scaled, model)
    assert torch.equal(net(X), model(X))
    assert torch.equal(first(X), expected(net, 2))
    assert torch.equal(net.submodel(width=2)(X), expected(net, 2))


def test_a_method_that_is_taken_away_again_is_gone_from_sub_models():
    made = net()
    before = made.at(width=2)(X)
    made.full.forward = MethodType(scaled, made.full)
    assert not torch.equal(made.at(width=2)(X), before)
    del made.full.forward
    assert torch.equal(made.at(width=2)(X), before)


def test_a_method_of_an_inner_module_is_followed():
    made = net()
    made.at(width=2)(X)
    made.full.act.forward = MethodType(lambda self, x: x.sin(), made.full.act)
    assert torch.equal(made(X), made.full(X))
    assert torch.equal(made.at(width=2)(X), made.extract(width=2)(X))


def _over_itself(model):
    before = model.forward
    return lambda x: before(x) + 1


def _method_over_itself(model):
    before = model.forward
    return MethodType(lambda self, x: before(x) + 1, model)


def _method_with_a_default(model):
    return MethodType(lambda self, x, other=model: other.up(x), model)


def _method_of_another(model):
    return MethodType(scaled, Net(4))


def _with_a_list(model):
    held = [model.down]
    return MethodType(lambda self, x: held[0](self.up(x)), model)


OTHERS = [
    _over_itself,
    _method_over_itself,
    _method_with_a_default,
    _method_of_another,
    _with_a_list,
    lambda model: functools.partial(scaled, model),
]


@pytest.mark.parametrize("make", OTHERS)
def test_a_forward_that_holds_the_full_model_is_refused_before_any_use(make):
    model = Net(4)
    model.forward = make(model)
    with pytest.raises(BuildError, match=r"The forward of the model.*reaches it by more than self.*Let the builder"):
        SortedNet(Net, SPACE, model=model)


@pytest.mark.parametrize("make", OTHERS)
@pytest.mark.parametrize("use", ["at", "submodel", "extract", "skeleton"])
def test_a_forward_that_holds_the_full_model_is_refused_later(make, use):
    made = net()
    made.at(width=2)(X)
    made.full.forward = make(made.full)
    with pytest.raises(BuildError, match=r"forward of the model.*reaches it by more than self.*Let the builder"):
        made.at(width=2)(X) if use == "at" else getattr(made, use)("width=2")
    with pytest.raises(BuildError, match="reaches it by more than self"):
        made(X)
    del made.full.forward
    assert made.at(width=2)(X).shape == (3, 2)


def test_a_method_with_a_global_module_is_refused():
    space: dict[str, object] = {"held": nn.Linear(4, 2)}
    exec("def forward(self, x): return held(self.up(x))", space)
    made = net()
    made.full.forward = MethodType(space["forward"], made.full)
    with pytest.raises(BuildError, match="reaches it by more than self"):
        made(X)


def test_lists_and_dictionaries_of_modules_run_nothing_by_themselves():
    class Bare(nn.Module):
        pass

    assert not any(map(runs, [nn.ModuleList(), nn.ModuleDict(), nn.ParameterList(), Bare()]))
    patched = Bare()
    patched.forward = lambda x: x
    assert all(map(runs, [nn.Linear(1, 1), nn.Sequential(), patched]))
