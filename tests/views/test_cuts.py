"""Where the tensors of sub-models lie: what an example tells, when it is asked, what is refused, what a file keeps."""

import json
import threading
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import BuildError, CheckpointError, LayoutError
from sortednet.files import records


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """A skip connection: half of what `up` reads comes from `down`, whatever the width."""

    def __init__(self, width, depth=2):
        super().__init__()
        self.down = conv(3, width)
        self.middle = nn.ModuleList([conv(width, 2 * width), *(conv(2 * width, 2 * width) for _ in range(depth - 1))])
        self.across = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.up = conv(2 * width, width)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        left = self.down(x)
        x = functional.max_pool2d(left, 2)
        for one in self.middle:
            x = one(x)
        return self.out(self.up(torch.cat([left, self.across(x)], 1)))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(6, 2 * width)
        self.other = nn.Linear(6, 2 * width)
        self.mixed = nn.Linear(2 * width, 6)
        self.outer = nn.Linear(width, 6)

    def forward(self, x):
        value, gate = self.inner(x).chunk(2, -1)
        return self.outer(value * gate.sigmoid()) + self.mixed(self.other(x))


SPACE = sn.Space(width=[2, 3, 4], depth=[1, 2, 3])
X_ONE = torch.ones(2, 1)
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def unet(**more):
    torch.manual_seed(0)
    return sn.SortedNet(UNet, SPACE, **more)


def pieces(net, setting, name):
    return {path: cut.pieces for path, cut in net.skeleton(setting).slots()}[name]


def test_an_example_tells_where_the_units_of_a_joined_axis_are():
    net = unet(example=IMAGES)
    for setting in SPACE:
        width = setting["width"]
        expected = ((0, width), (4, width)) if width < 4 else ((0, 8),)
        assert pieces(net, setting, "up.0.weight")[1] == expected


@pytest.mark.parametrize(
    "example", [IMAGES, (IMAGES,), {"x": IMAGES}, [IMAGES]], ids=["tensor", "tuple", "mapping", "list"]
)
def test_an_example_is_given_as_inputs_are(example):
    assert unet(example=example).cuts.known


def test_the_first_forward_serves_where_no_example_is_given():
    given, waits = unet(example=IMAGES), unet()
    assert not waits.cuts.known
    assert "no example has run yet" in str(waits.cuts)
    waits.load_state_dict(given.state_dict())
    for net in (given, waits):
        net.eval()
    torch.testing.assert_close(waits.at(width=2)(IMAGES), given.at(width=2)(IMAGES), rtol=0, atol=0)
    assert waits.cuts.known
    assert pieces(waits, SPACE.smallest, "up.0.weight")[1] == ((0, 2), (4, 2))


def test_a_sub_model_made_by_shape_is_made_anew_once_an_example_has_told():
    net = unet()
    assert pieces(net, SPACE.smallest, "up.0.weight")[1] == ((0, 4),)
    net(IMAGES)
    assert pieces(net, SPACE.smallest, "up.0.weight")[1] == ((0, 2), (4, 2))


def test_what_looks_joined_is_not_used_before_an_example_has_told():
    class Joined(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.qkv = nn.Linear(6, 3 * width)
            self.out = nn.Linear(width, 6)

        def forward(self, x):
            query, key, value = self.qkv(x).chunk(3, -1)
            return self.out(query * key + value)

    net = sn.SortedNet(Joined, sn.Space(width=[2, 4]))
    for use in (net.extract, net.submodel):
        with pytest.raises(LayoutError, match=r"qkv\.weight goes from 12 to 6 units"):
            use(width=2)
    net(torch.ones(2, 6))
    assert net.extract(width=2).qkv.weight.shape == (6, 6)


def test_training_with_the_cuts_of_an_example_leaves_what_lies_outside_alone():
    net = unet(example=IMAGES)
    before = net.full.up[0].weight.detach().clone()
    net.at(width=2)(IMAGES).sum().backward()
    grad = net.full.up[0].weight.grad
    inside = torch.zeros_like(before, dtype=torch.bool)
    inside[:2, [0, 1, 4, 5]] = True
    assert (grad[~inside] == 0).all()
    assert (grad[inside] != 0).any()


def test_the_network_is_as_it_was_after_it_was_watched():
    torch.manual_seed(0)
    net = sn.SortedNet(UNet, SPACE)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random, modes = torch.get_rng_state(), [module.training for module in net.modules()]
    net.cuts.watch(IMAGES, net.full)
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == [module.training for module in net.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled()


def test_other_settings_are_watched_when_they_are_first_used_and_once():
    net = unet(example=IMAGES)
    assert net.cuts.traces == 4  # the full model, the smallest, and each dimension alone
    net.at(width=3, depth=2)(IMAGES)
    net.extract(width=3, depth=2)
    assert net.cuts.traces == 5


def test_a_plain_model_keeps_its_views():
    net = sn.SortedNet(
        lambda width: nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)),
        sn.Space(width=[2, 4]),
        example=torch.ones(2, 4),
    )
    assert all(cut.is_view for _, cut in net.skeleton("width=2").slots())
    assert str(net.cuts) == "At width=2: plain corners"
    assert net.cuts.to_json(net.full) == {"structures": {}, "iterated": []}


def test_the_cuts_are_shown_by_pattern_with_what_made_them():
    shown = str(unet(example=IMAGES).cuts)
    assert "At width=2,depth=1:\n  up.*.weight[1]: 2/4 + 2/4" in shown
    assert "At width=4,depth=1: plain corners" in shown


def test_statistics_over_changing_units_are_listed_as_such():
    net = sn.SortedNet(
        lambda width: nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 3)),
        sn.Space(width=[2, 4]),
        example=torch.ones(2, 4),
    )
    assert "only a statistic joins units: *: native_layer_norm (1)" in str(net.cuts)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_layout_that_the_model_contradicts_is_refused_with_both():
    with pytest.raises(
        LayoutError, match=r"Layout\(pattern='inner\.weight'.*at 0:4\. But .* it is 2/4 \+ 2/4, which is 0:2, 4:6"
    ):
        sn.SortedNet(Gated, sn.Space(width=[2, 4]), layouts=sn.Layout("inner.weight", 0, 1), example=torch.ones(2, 6))


def test_a_layout_that_the_model_confirms_is_taken():
    net = sn.SortedNet(Gated, sn.Space(width=[2, 4]), layouts=sn.Layout("inner.*", 0, 2), example=torch.ones(2, 6))
    assert pieces(net, "width=2", "inner.weight")[0] == ((0, 2), (4, 2))
    assert pieces(net, "width=2", "other.weight")[0] == ((0, 4),)


class Reordered(nn.Module):
    """Channels in an order that only numbers tell."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.last = nn.Linear(width, 3)
        self.register_buffer("order", torch.arange(width).flip(0), persistent=False)

    def forward(self, x):
        return self.last(self.first(x)[:, self.order])


def test_all_that_cannot_be_cut_is_said_at_once_with_a_remedy():
    with pytest.raises(LayoutError) as caught:
        sn.SortedNet(Reordered, sn.Space(width=[2, 4]), example=torch.ones(2, 4))
    text = str(caught.value)
    assert "At width=2 these axes cannot be cut" in text
    assert "first.weight[0]" in text
    assert "last.weight[1]" in text
    assert "index takes places of a changing axis by numbers" in text
    assert 'layouts=[Layout("' in text


def test_a_layout_says_what_cannot_be_told():
    layouts = [sn.Layout("first.*", 0, 1), sn.Layout("last.weight", 1, 1)]
    net = sn.SortedNet(Reordered, sn.Space(width=[2, 4]), layouts=layouts, example=torch.ones(2, 4))
    assert pieces(net, "width=2", "first.weight")[0] == ((0, 2),)


def test_the_first_forward_refuses_before_anything_was_trained():
    net = sn.SortedNet(Reordered, sn.Space(width=[2, 4]))
    with pytest.raises(LayoutError, match="these axes cannot be cut"):
        net.at(width=2)(torch.ones(2, 4))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_example_that_the_model_does_not_take_is_refused():
    with pytest.raises(BuildError, match=r"does not run on the example: RuntimeError.*Give example= as its forward"):
        unet(example=torch.ones(2, 5, 8, 8))
    with pytest.raises(BuildError, match="more than tensors and plain values"):
        unet(example=(object(),))


def test_a_setting_between_those_watched_that_turns_out_otherwise_is_refused_when_it_is_first_used():
    class Odd(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width
            self.first = nn.Linear(4, width)
            self.last = nn.Linear(width, 3)

        def forward(self, x):
            x = self.first(x)
            return self.last(x.flip(-1) if self.width == 3 else x)

    net = sn.SortedNet(Odd, sn.Space(width=[2, 3, 4]), example=torch.ones(2, 4))
    net.at(width=2)(torch.ones(2, 4))
    with pytest.raises(LayoutError, match="At width=3 these axes cannot be cut"):
        net.at(width=3)(torch.ones(2, 4))


def test_a_setting_whose_program_is_another_is_cut_alike_where_it_does_the_same():
    class Odd(nn.Module):
        """At the middle width its halves are taken by slices."""

        def __init__(self, width):
            super().__init__()
            self.first = nn.Linear(4, 2 * width)
            self.last = nn.Linear(width, 3)
            self.width = width

        def forward(self, x):
            x = self.first(x)
            one, other = (x.chunk(2, -1)) if self.width != 3 else (x[:, : self.width], x[:, self.width :])
            return self.last(one * other)

    net = sn.SortedNet(Odd, sn.Space(width=[2, 3, 4]), example=torch.ones(2, 4))
    assert pieces(net, "width=3", "first.weight")[0] == ((0, 3), (4, 3))


def test_a_head_whose_name_moves_with_the_depth_is_refused():
    def build(depth, width):
        hidden = [layer for _ in range(depth) for layer in (nn.ReLU(), nn.Linear(width, width))]
        return nn.Sequential(nn.Linear(5, width), *hidden, nn.ReLU(), nn.Linear(width, 2))

    with pytest.raises(LayoutError, match="is what the smaller model returns"):
        sn.SortedNet(build, sn.Space(depth=[1, 2], width=[4, 8]), example=torch.ones(2, 5))


class Decides(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(4, 2 * width)
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        value, gate = self.first(x).chunk(2, -1)
        return self.last(value * gate) * (2 if x.sum().item() > 0 else 1)


def test_control_flow_that_depends_on_data_runs_on_real_tensors():
    net = sn.SortedNet(Decides, sn.Space(width=[2, 4]), example=torch.ones(2, 4))
    assert pieces(net, "width=2", "first.weight")[0] == ((0, 2), (4, 2))


def test_inputs_that_a_trial_could_change_are_not_watched():
    class Cache:
        calls = 0

    class Counting(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)

        def forward(self, x, cache):
            cache.calls += 1
            return self.last(self.first(x))

    net, cache = sn.SortedNet(Counting, sn.Space(width=[2, 4])), Cache()
    with pytest.warns(UserWarning, match="The models were not watched: the inputs hold more than tensors"):
        net(torch.ones(2, 4), cache)
    net(torch.ones(2, 4), cache)  # said once
    assert (cache.calls, net.cuts.traces) == (2, 0)


# --- what a file keeps ----------------------------------------------------------------------------------------------


def test_a_saved_network_is_cut_as_it_was_without_being_watched(tmp_path):
    net = unet(example=IMAGES).eval()
    net.save_pretrained(tmp_path / "net")
    again = sn.load(tmp_path / "net", UNet).eval()
    for setting in SPACE:
        expected = net.submodel(setting)(IMAGES)
        torch.testing.assert_close(again.at(setting)(IMAGES), expected, rtol=0, atol=0)
        torch.testing.assert_close(sn.load(tmp_path / "net", UNet, at=setting).eval()(IMAGES), expected)
    assert again.cuts.traces == 0
    again.save_pretrained(tmp_path / "again")
    first, second = ((tmp_path / name / "sortednet.json").read_text() for name in ("net", "again"))
    assert json.loads(first)["cuts"] == json.loads(second)["cuts"]


def test_a_network_saved_before_anything_ran_waits_for_its_first_forward(tmp_path):
    unet().save_pretrained(tmp_path / "net")
    net = sn.load(tmp_path / "net", UNet)
    net(IMAGES)
    assert pieces(net, SPACE.smallest, "up.0.weight")[1] == ((0, 2), (4, 2))


def test_a_network_of_an_earlier_version_is_cut_by_its_shapes(tmp_path):
    unet().save_pretrained(tmp_path / "net")
    weights = tmp_path / "net" / "model.safetensors"
    described = records.read(tmp_path / "net" / "sortednet.json")
    del described["cuts"]
    save_file(load_file(weights), weights, {"sortednet": json.dumps(described)})
    net = sn.load(tmp_path / "net", UNet)
    net(IMAGES)
    assert net.cuts.traces == 0
    assert pieces(net, SPACE.smallest, "up.0.weight")[1] == ((0, 4),)


@pytest.mark.parametrize(
    "cuts",
    [
        {"width=9": {"changed": [], "axes": {}}},
        {"width=2,depth=1": {"changed": ["width"], "axes": {"1/3@1": ["up.0.weight[1]"]}}},
        {"width=2,depth=1": {"changed": ["width"], "axes": {"2/4@1": ["nothing[0]"]}}},
        {"width=2,depth=1": 3},
        {"width=2,depth=1": {"changed": ["width"], "axes": {"2/4@1 +": ["up.0.weight[1]"]}}},
    ],
)
def test_cuts_of_another_network_are_refused(tmp_path, cuts):
    unet(example=IMAGES).save_pretrained(tmp_path / "net")
    weights = tmp_path / "net" / "model.safetensors"
    described = {**records.read(tmp_path / "net" / "sortednet.json"), "cuts": {"structures": cuts, "iterated": []}}
    save_file(load_file(weights), weights, {"sortednet": json.dumps(described)})
    for more in ({}, {"at": SPACE.smallest}):
        with pytest.raises(CheckpointError, match=r"is damaged .*[Cc]uts"):
            sn.load(tmp_path / "net", UNet, **more)


def test_threads_that_come_first_at_once_find_the_same():
    net = unet().eval()
    expected = unet(example=IMAGES).eval().at(width=2, depth=1)(IMAGES)
    found = []

    def run():
        found.append(net.at(width=2, depth=1)(IMAGES))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 4
    for one in found:
        torch.testing.assert_close(one, expected, rtol=0, atol=0)


def test_no_numbers_of_the_example_are_kept():
    net = unet()
    net(IMAGES)
    args, _ = net.cuts.example
    assert args[0].is_meta
    assert args[0].shape == IMAGES.shape


def test_what_could_not_be_told_is_told_by_an_example(tmp_path):
    class Two(nn.Module):
        """The sizes of a joined axis do not tell those of its parts."""

        def __init__(self, a, b):
            super().__init__()
            self.table = nn.Parameter(torch.randn(a + b))
            self.register_buffer("a", torch.zeros(a), persistent=False)

        def forward(self, x):
            one, other = self.table[: len(self.a)], self.table[len(self.a) :]
            return x * (one.sum() - other.sum())

    space = sn.Space([{"a": 4, "b": 6}, {"a": 2, "b": 3}, {"a": 3, "b": 4}])
    net = sn.SortedNet(Two, space, example=X_ONE)
    expected = {setting: net.submodel(setting)(X_ONE) for setting in space}
    assert pieces(net, "a=3,b=4", "table")[0] == ((0, 3), (4, 4))
    fresh = sn.SortedNet(Two, space, example=X_ONE)
    fresh.load_state_dict(net.state_dict())
    fresh.save_pretrained(tmp_path / "net")
    again = sn.load(tmp_path / "net", Two)
    with pytest.raises(LayoutError, match=r"does not tell how axis 0 of table is cut .*net\.cuts\.watch\(inputs"):
        again.at("a=3,b=4")(X_ONE)
    again.cuts.watch(X_ONE, again.full)
    for setting in space:
        torch.testing.assert_close(again.at(setting)(X_ONE), expected[setting])


def test_a_shortcut_that_only_the_smaller_model_has_does_not_hide_what_the_other_branch_is():
    class Shortcut(nn.Module):
        """Where both widths are equal, as they are in the smaller model alone, there is a shortcut."""

        def __init__(self, width):
            super().__init__()
            self.first = nn.Linear(4, 4 if width == 2 else 2 * width - 1)
            self.left, self.right = (nn.Linear(self.first.out_features, width) for _ in range(2))
            self.last = nn.Linear(2 * width, 3)

        def forward(self, x):
            x = self.first(x)
            joined = torch.cat([self.left(x), self.right(x)], -1)
            return self.last(x + joined if x.shape == joined.shape else joined)

    net = sn.SortedNet(Shortcut, sn.Space(width=[2, 4]), example=torch.ones(2, 4))
    assert pieces(net, "width=2", "last.weight")[1] == ((0, 2), (4, 2))
    assert "only the smaller model does it: forward: add (1)" in str(net.cuts)


# --- depth: shallow models stand for deeper ones --------------------------------------------------------------------


class Halves(nn.Module):
    def __init__(self, width, gated):
        super().__init__()
        self.inner, self.outer, self.gated = nn.Linear(6, 2 * width), nn.Linear(2 * width, 6), gated
        self.own = nn.Linear(width, 6)

    def forward(self, x):
        x = self.inner(x)
        if self.gated:
            value, gate = x.chunk(2, -1)
            return self.outer(x) + self.own(value * gate)
        return self.outer(x) + self.own(x.flip(-1)[..., : self.own.in_features])


class Repeated(nn.Module):
    """Blocks of the same names and shapes; those after `alike` do something else."""

    def __init__(self, width, depth, alike=9):
        super().__init__()
        self.blocks = nn.ModuleList([Halves(width, place < alike) for place in range(depth)])

    def forward(self, x):
        for one in self.blocks:
            x = x + one(x)
        return x


DEEP = sn.Space(width=[2, 3, 4], depth=[1, 2, 6])


def deep(alike=9):
    torch.manual_seed(0)
    return sn.SortedNet(lambda width, depth: Repeated(width, depth, alike), DEEP, example=torch.ones(2, 6))


def test_blocks_that_repeat_are_watched_once():
    net = deep()
    assert net.cuts.traces == 2  # one block, of both widths
    assert pieces(net, "width=2,depth=1", "blocks.0.inner.weight")[0] == ((0, 2), (4, 2))
    assert pieces(net, "width=3,depth=6", "blocks.5.inner.weight")[0] == ((0, 3), (4, 3))


def test_what_only_leaves_out_blocks_is_not_watched_when_it_is_used():
    net = deep()
    net.at(width=2)(torch.ones(2, 6))
    watched = net.cuts.traces
    for depth in (1, 2):
        net.at(width=4, depth=depth)(torch.ones(2, 6))
    assert net.cuts.traces == watched
    net.at(width=3, depth=2)(torch.ones(2, 6))
    assert net.cuts.traces > watched


def test_a_deeper_block_that_does_something_else_is_found_before_it_is_used():
    net = deep(alike=1)
    with pytest.raises(LayoutError, match="blocks"):
        net.at(width=2, depth=6)(torch.ones(2, 6))


class Plain(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 2 * width), nn.Linear(2 * width, 6)
        self.own = nn.Linear(width, 6)

    def forward(self, x):
        x = self.inner(x)
        return self.outer(x) + self.own(x[..., ::2])


def test_what_is_saved_was_watched_at_full_depth(tmp_path):
    def build(width, depth):
        model = Repeated(width, depth)
        for block in model.blocks[1:]:
            block.forward = Plain.forward.__get__(block)  # pairs of units, in place of halves
        return model

    net = sn.SortedNet(build, DEEP, example=torch.ones(2, 6))
    net.save_pretrained(tmp_path)
    again = sn.load(tmp_path, build)
    for one in (again, net):
        assert pieces(one, "width=2,depth=6", "blocks.0.inner.weight")[0] == ((0, 2), (4, 2))
        assert pieces(one, "width=2,depth=6", "blocks.5.inner.weight")[0] == ((0, 4),)
    assert again.cuts.traces == 0


def test_a_kind_of_block_that_only_deeper_models_have_is_watched_at_once():
    def build(width, depth):
        return nn.Sequential(*(Halves(width, True) if place < 2 else Plain(width) for place in range(depth)))

    net = sn.SortedNet(build, DEEP, example=torch.ones(2, 6))
    assert net.cuts.traces == 4
    assert pieces(net, "width=2,depth=6", "5.inner.weight")[0] == ((0, 4),)


def test_heads_that_change_no_shape_are_no_depth():
    class Heads(nn.Module):
        def __init__(self, heads, width):
            super().__init__()
            self.first = nn.Linear(6, width)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

        def forward(self, x):
            x = self.first(x)
            return self.attention(x, x, x, need_weights=False)[0].mean(-1)

    with pytest.raises(LayoutError, match="cannot be cut"):
        sn.SortedNet(Heads, sn.Space(heads=[2, 4], width=[16]), example=torch.ones(2, 3, 6))


# --- what cannot be watched -----------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    """Two heads at every width, so that each keeps half of its units."""

    def __init__(self, width):
        super().__init__()
        self.first, self.value, self.last = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 1)

    def energy(self, x):
        value = self.value(self.first(x).relu()).unflatten(-1, (2, -1)).transpose(0, 1)
        return self.last((value.softmax(1) * value).transpose(0, 1).flatten(1))

    def forward(self, x):
        return self.energy(x)


class Forces(TwoHeads):
    def forward(self, x):
        x = x.clone().requires_grad_(True)
        energy = self.energy(x).sum()
        return energy, torch.autograd.grad(energy, x, create_graph=True)[0]


WIDTHS = sn.Space(width=[4, 8])
TWICE = ((0, 2), (4, 2))


@pytest.mark.parametrize("build", [TwoHeads, Forces])
def test_inputs_that_do_not_fit_do_not_end_all_watching(build):
    net = sn.SortedNet(build, WIDTHS)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(torch.ones(2, 7))
    net(torch.ones(2, 3))
    assert pieces(net, "width=4", "value.weight")[0] == TWICE


def test_a_model_that_takes_gradients_in_its_forward_is_watched():
    net = sn.SortedNet(Forces, WIDTHS, example=torch.ones(2, 3))
    assert pieces(net, "width=4", "value.weight")[0] == TWICE


def test_a_model_that_runs_and_cannot_be_watched_is_told():
    class Odd(TwoHeads):
        def forward(self, x):
            if type(x) is not torch.Tensor or x.is_meta or torch.utils._python_dispatch._get_current_dispatch_mode():
                raise ValueError("no others than mine")
            return self.energy(x)

    net = sn.SortedNet(Odd, WIDTHS)
    with pytest.warns(UserWarning, match="The models were not watched: .*no others than mine"):
        net(torch.ones(2, 3))
    assert net.cuts.unwatchable


@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_forward_that_is_patched_is_watched_anew(where):
    class Split(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 2 * width), nn.Linear(width, 3)

        def forward(self, x):
            one, other = self.inner(x).chunk(2, -1)
            return self.outer(one * other)

    def pairs(self, x):
        one, other = self.inner(x).unflatten(-1, (-1, 2)).unbind(-1)
        return self.outer(one * other)

    net = sn.SortedNet(Split, sn.Space(width=[2, 4]), example=torch.ones(2, 4))
    assert pieces(net, "width=2", "inner.weight")[0] == ((0, 2), (4, 2))
    if where == "class":
        Split.forward = pairs
    else:
        net.full.forward = types.MethodType(pairs, net.full)
    net.at(width=2)(torch.ones(2, 4))
    assert pieces(net, "width=2", "inner.weight")[0] == ((0, 4),)


def test_what_is_no_layout_is_refused():
    with pytest.raises(LayoutError, match=r"'o\.weight' is no layout\. Give such as Layout"):
        sn.SortedNet(TwoHeads, WIDTHS, layouts=["o.weight"])


# --- statistics of several pieces -----------------------------------------------------------------------------------


class Joined(nn.Module):
    """Norms over joined channels, as in DenseNet, and a mean of one's own."""

    def __init__(self, width):
        super().__init__()
        self.one, self.other, self.norm = nn.Linear(3, width), nn.Linear(3, width), nn.BatchNorm1d(2 * width)
        self.register_buffer("mean", torch.zeros(2 * width))

    def forward(self, x):
        x = torch.cat([self.one(x), self.other(x)], 1)
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.5)
        return self.norm(x - self.mean)


@pytest.mark.parametrize("private", [False, True])
def test_statistics_of_joined_channels_reach_the_full_model(private):
    torch.manual_seed(0)
    net = sn.SortedNet(
        Joined, sn.Space(width=[2, 4]), example=torch.ones(2, 3), buffers="private" if private else "shared"
    )
    alone, x = net.extract(width=2), torch.randn(8, 3) + 1
    for _ in range(3):
        torch.testing.assert_close(net.at(width=2)(x), alone(x))
    found = net.extract(width=2)
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(found.get_buffer(name), buffer)
    untouched = net.full.norm.running_mean[[2, 3, 6, 7]]
    assert torch.equal(untouched, torch.zeros(4))
    net.eval()
    before = net.full.norm.running_mean.clone()
    net.at(width=2)(x)
    assert torch.equal(net.full.norm.running_mean, before)


# --- before anything ran --------------------------------------------------------------------------------------------


def test_parts_of_a_trained_model_that_are_taken_before_anything_ran_come_with_a_warning(tmp_path):
    net = unet(model=UNet(4, 3))
    for take in (net.extract, net.submodel, lambda _: net.save_pretrained(tmp_path / "net")):
        with pytest.warns(UserWarning, match="Nothing has run yet"):
            take(SPACE.smallest)
    for one in (net, sn.load(tmp_path / "net", UNet)):
        one.observe(IMAGES)
        assert pieces(one, SPACE.smallest, "up.0.weight")[1] == ((0, 2), (4, 2))
        one.extract(SPACE.smallest)


def test_evaluation_observes_its_first_batch():
    net = unet()
    sn.evaluate(net, [(IMAGES, torch.zeros(2, 8, 8, dtype=torch.long))], lambda y, _: y.mean((1, 2, 3)), measure=())
    assert net.cuts.known
