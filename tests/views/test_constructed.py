"""Whose a buffer is: a part of the full model's, the small model's own, or vectors that follow from the weights."""

import threading
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import sortednet as sn
from sortednet.errors import BuildError, LayoutError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
SPACE = sn.Space(width=[2, 4])


class Base(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 2)


class Features(Base):
    """Random features, for which the last layer is trained."""

    persistent = True

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("features", torch.randn(4, width), persistent=self.persistent)

    def forward(self, x):
        return self.last((x @ self.features).cos() + self.first(x))


class Unsaved(Features):
    persistent = False


class Order(Base):
    """A random order of the inputs."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("order", torch.randperm(4))

    def forward(self, x):
        return self.last(self.first(x[:, self.order]).relu())


class Scale(Base):
    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("scale", torch.tensor(width**-0.5))

    def forward(self, x):
        return self.last(self.first(x).relu() * self.scale)


class Index(Base):
    """Places that depend on the width; those of the full model would lie outside."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("places", torch.arange(width - 1, -1, -1) // 2)

    def forward(self, x):
        return self.last(self.first(x)) + x[:, self.places].sum(-1, keepdim=True)


class Alike(Base):
    """Buffers made like a weight, as timm's Swin does."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("one", torch.ones(width, device=self.first.weight.device) * 2, persistent=False)
        self.register_buffer("two", torch.zeros_like(self.first.weight[:, 0]) + 3, persistent=False)

    def forward(self, x):
        return self.last(self.first(x) * self.one + self.two)


class Copied(Base):
    """What is computed where the weights are goes into a buffer that is elsewhere, as in timm's Swin V2."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("table", torch.zeros(width), persistent=False)
        self.table.copy_(torch.arange(width, device=self.first.weight.device) / width)

    def forward(self, x):
        return self.last(self.first(x) + self.table)


class Reads(Base):
    """A number that is read off the weights."""

    def __init__(self, width):
        super().__init__(width)
        nn.init.ones_(self.first.weight)
        self.register_buffer("norm", torch.tensor(self.first.weight.norm().item()))

    def forward(self, x):
        return self.last(self.first(x) / self.norm)


class Anchored(Base):
    """The initial weights are kept."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("anchor", self.first.weight.detach().clone())

    def forward(self, x):
        return self.last(self.first(x) + x @ self.anchor.T)


class Statistics(Base):
    """Statistics of one's own."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, x):
        x = self.first(x)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.5)
        return self.last(x - self.mean)


@pytest.mark.parametrize("example", [None, X], ids=["first forward", "example"])
@pytest.mark.parametrize("build", [Features, Unsaved, Order, Scale, Index, Alike, Copied, Reads, Anchored, Statistics])
def test_a_sub_model_is_the_same_in_every_place_and_thread(build, example):
    net = sn.SortedNet(build, SPACE, example=example)
    net(X)
    net.eval()
    expected, found = net.at(width=2)(X), []
    thread = threading.Thread(target=lambda: found.append(net.at(width=2)(X)))
    thread.start()
    thread.join()
    for other in (net.submodel(width=2)(X), net.extract(width=2)(X), found[0]):
        torch.testing.assert_close(other, expected, rtol=0, atol=0)
    torch.testing.assert_close(net.at(SPACE.full)(X), net.full(X), rtol=0, atol=0)


@pytest.mark.parametrize("build", [Features, Unsaved])
def test_what_is_drawn_is_the_full_models(build):
    net = sn.SortedNet(build, SPACE, example=X)
    assert torch.equal(net.extract(width=2).features, net.full.features[:, :2])


def test_initial_weights_that_are_kept_are_the_full_models():
    net = sn.SortedNet(Anchored, SPACE, example=X)
    assert torch.equal(net.extract(width=2).anchor, net.full.anchor[:2])


def test_what_is_read_off_the_weights_is_the_small_models_own():
    assert sn.SortedNet(Reads, SPACE, example=X).extract(width=2).norm == pytest.approx(8**0.5)
    assert sn.SortedNet(Copied, SPACE, example=X).extract(width=2).table.tolist() == [0, 0.5]


class Shared(Base):
    """One activation for all models, as the default of an argument makes it."""

    def __init__(self, width, act=nn.Sequential(nn.GELU(), nn.Dropout(0.5))):  # noqa: B008
        super().__init__(width)
        self.act = act

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def test_a_module_without_tensors_may_be_one_for_all_models():
    net = sn.SortedNet(Shared, SPACE, example=X)
    assert net.submodel(width=2).act is not net.full.act
    assert net.full.training
    assert net.full.act[1].training
    assert not net.submodel(width=2).act[1].training
    with pytest.raises(BuildError, match="is the same module at every call"):
        sn.SortedNet(partial(Shared, act=nn.BatchNorm1d(4)), sn.Space(width=[4]))


# As wide as its inputs at most, the layer holds its weight the other way round, which is refused before.
DRAWN = r"is drawn at random for a parametrization.*use_trivialization=False|first\.parametrizations\.weight\.original"


class Orthogonal(nn.Module):
    def __init__(self, width, **options):
        super().__init__()
        self.first, self.last = parametrizations.orthogonal(nn.Linear(4, width), **options), nn.Linear(width, 2)

    def forward(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize("widths", [[2, 4], [4, 8], [5, 8]])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, DRAWN),
        ({"orthogonal_map": "cayley"}, DRAWN),
        ({"orthogonal_map": "matrix_exp"}, DRAWN),
        ({"orthogonal_map": "householder", "use_trivialization": False}, r"first\.parametrizations\.weight\.original"),
    ],
)
def test_an_orthogonal_layer_whose_parts_are_not_orthogonal_is_refused_in_words(widths, options, why):
    with pytest.raises(LayoutError, match=why):
        sn.SortedNet(partial(Orthogonal, **options), sn.Space(width=widths), example=X)


@pytest.mark.parametrize("orthogonal_map", ["cayley", "matrix_exp"])
def test_an_orthogonal_layer_of_which_every_part_is_orthogonal_is_sorted(orthogonal_map):
    build = partial(Orthogonal, orthogonal_map=orthogonal_map, use_trivialization=False)
    net = sn.SortedNet(build, sn.Space(width=[4, 6, 8]), example=X)
    for setting in net.space:
        weight = net.extract(setting).first.weight
        assert torch.allclose(weight.T @ weight, torch.eye(4), atol=1e-5)
        assert torch.equal(net.at(setting)(X), net.extract(setting)(X))


def test_a_drawn_order_of_constant_size_is_the_full_models():
    net = sn.SortedNet(Order, SPACE, example=X)
    assert torch.equal(net.extract(width=2).order, net.full.order)


def test_what_is_computed_from_the_size_is_the_small_models_own():
    assert sn.SortedNet(Scale, SPACE, example=X).extract(width=2).scale == pytest.approx(2**-0.5)
    assert sn.SortedNet(Index, SPACE, example=X).extract(width=2).places.tolist() == [0, 0]


def test_statistics_of_ones_own_are_shared():
    net = sn.SortedNet(Statistics, SPACE, example=X)
    net.at(width=2)(X)
    assert (net.full.mean[:2] != 0).all()
    assert (net.full.mean[2:] == 0).all()


def test_what_is_computed_survives_saving(tmp_path):
    net = sn.SortedNet(Scale, SPACE, example=X).eval()
    net.save_pretrained(tmp_path / "net")
    expected = net.at(width=2)(X)
    torch.testing.assert_close(sn.load(tmp_path / "net", Scale).eval().at(width=2)(X), expected, rtol=0, atol=0)
    torch.testing.assert_close(sn.load(tmp_path / "net", Scale, at="width=2")(X), expected, rtol=0, atol=0)


class Power(nn.Module):
    """Spectral norm by hand."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 4))
        self.register_buffer("u", functional.normalize(torch.randn(width), dim=0))
        self.last = nn.Linear(width, 2)

    def normed(self):
        if self.training:
            with torch.no_grad():
                v = functional.normalize(self.weight.t() @ self.u, dim=0)
                self.u.copy_(functional.normalize(self.weight @ v, dim=0))
        v = functional.normalize(self.weight.t() @ self.u, dim=0)
        return self.weight / torch.dot(self.u, self.weight @ v)

    def forward(self, x):
        return self.last(functional.linear(x, self.normed()))


def normed(norm):
    class Normed(Base):
        def __init__(self, width):
            super().__init__(width)
            self.first = norm(self.first)

        def forward(self, x):
            return self.last(self.first(x).relu())

    return Normed


def norm_of(model):
    model(X)
    weight = model.normed() if isinstance(model, Power) else model.first.weight
    return torch.linalg.svdvals(weight.detach())[0].item()


@pytest.mark.parametrize("buffers", ["shared", "private", "reestimated"])
@pytest.mark.parametrize(
    "build", [normed(parametrizations.spectral_norm), normed(spectral_norm), Power], ids=["new", "old", "by hand"]
)
def test_every_sub_model_has_the_spectral_norm_that_it_is_to_have(build, buffers):
    torch.manual_seed(0)
    space = sn.Space(width=[2, 4, 8, 16])
    net = sn.SortedNet(build, space, buffers=buffers, example=X)
    for _ in range(20):
        for setting in space:
            net.at(setting)(X)
    net.eval()
    for setting in space:
        expected = net.at(setting)(X)
        torch.testing.assert_close(net.submodel(setting)(X), expected, rtol=0, atol=0)
        extracted = net.extract(setting).eval()
        torch.testing.assert_close(extracted(X), expected, rtol=0, atol=0)
        assert norm_of(extracted) == pytest.approx(1, abs=1e-3)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, weight_norm], ids=["new", "old"])
def test_weight_norm_is_cut_with_its_lengths(norm):
    net = sn.SortedNet(normed(norm), SPACE, example=X).eval()
    expected = net.at(width=2)(X)
    torch.testing.assert_close(net.submodel(width=2)(X), expected, rtol=0, atol=0)
    torch.testing.assert_close(net.extract(width=2)(X), expected, rtol=0, atol=0)


@pytest.mark.parametrize("build", [normed(parametrizations.spectral_norm), Power], ids=["new", "by hand"])
def test_a_loaded_network_with_spectral_norm_is_extracted_after_any_call(build, tmp_path):
    net = sn.SortedNet(build, SPACE, example=X)
    net.save_pretrained(tmp_path)
    again = sn.load(tmp_path, build)
    again(X)
    again.eval()
    torch.testing.assert_close(again.extract(width=2)(X), again.submodel(width=2)(X), rtol=0, atol=0)
    with pytest.warns(UserWarning, match="follows from the weights by iteration"):
        part = sn.load(tmp_path, build, at="width=2")
    assert part(X).shape == net.at(width=2)(X).shape


def test_complex_weights_survive_saving(tmp_path):
    class Complex(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first = nn.Linear(4, width, dtype=torch.complex64)
            self.last = nn.Linear(width, 2, dtype=torch.complex64)

        def forward(self, x):
            return self.last(self.first(x.to(torch.complex64))).abs()

    net = sn.SortedNet(Complex, SPACE, example=X)
    net.save_pretrained(tmp_path / "net")
    expected = net.submodel(width=2)(X)
    assert torch.equal(sn.load(tmp_path / "net", Complex).submodel(width=2)(X), expected)
    assert torch.equal(sn.load(tmp_path / "net", Complex, at="width=2")(X), expected)
