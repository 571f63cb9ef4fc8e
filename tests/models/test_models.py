import math
import sys

import pytest
import torch

import sortednet as sn
from sortednet.errors import ConfigError
from sortednet.imports.names import MODELS
from sortednet.models import MLP, PreResNet, Transformer, resolve


def images(channels=1, size=8):
    return torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))


def token_ids():
    return torch.randint(16, (3, 7), generator=torch.Generator().manual_seed(0))


def small_preresnet(norm):
    def build(depth, width):
        return PreResNet(depth, width, stages=2, norm=norm, channels=1)

    return build


def small_bottlenecks(norm):
    def build(depth, width):
        return PreResNet(depth, width, stages=2, norm=norm, channels=1, bottleneck=True, norm_scale=0.5)

    return build


def small_transformer(**sizes):
    return Transformer(**{"depth": 2, "width": 24, "heads": 4, "hidden": 16, **sizes}, head_size=4, vocabulary=16)


def small_classifier(**sizes):
    return Transformer(**sizes, head_size=4, vocabulary=16, classes=3, causal=False)


TRANSFORMER_SPACE = sn.Space(depth=[1, 2], width=[8, 24], heads=[1, 2, 4], hidden=[8, 16])

CASES = {
    "mlp": (MLP, sn.Space(depth=[1, 2, 3], width=[8, 16, 64]), images),
    "preresnet-batch": (small_preresnet("batch"), sn.Space(depth=[1, 2], width=[3, 4, 8]), images),
    "preresnet-instance": (small_preresnet("instance"), sn.Space(depth=[1, 2], width=[3, 4, 8]), images),
    "preresnet-group": (small_preresnet("group"), sn.Space(depth=[1, 2], width=[3, 4, 8]), images),
    "bottleneck-batch": (small_bottlenecks("batch"), sn.Space(depth=[1, 2], width=[3, 4, 8]), images),
    "bottleneck-group": (small_bottlenecks("group"), sn.Space(depth=[1, 2], width=[3, 4, 8]), images),
    "transformer": (small_transformer, TRANSFORMER_SPACE, token_ids),
    "classifier": (small_classifier, TRANSFORMER_SPACE, token_ids),
}


@pytest.fixture(params=CASES)
def case(request):
    build, space, inputs = CASES[request.param]
    torch.manual_seed(0)
    return sn.SortedNet(build, space).eval(), inputs()


def test_sub_model_equals_extracted_model(case):
    net, x = case
    for setting in net.space:
        assert torch.equal(net.at(setting)(x), net.extract(setting)(x)), setting


def test_largest_setting_is_the_full_model(case):
    net, x = case
    assert torch.equal(net.at(net.space.full)(x), net.full(x))


@pytest.mark.parametrize("sizes", [{"heads": 2}, {"width": 8}])
def test_transformer_sub_model_equals_the_full_model_with_dropped_units_zeroed(sizes):
    torch.manual_seed(0)
    net = sn.SortedNet(small_transformer, sn.Space(heads=[2, 4], width=[8, 24])).double().eval()
    found = net.at(**sizes)(token_ids())
    with torch.no_grad():
        for block in net.full.blocks:
            block.attention.output.weight[:, 4 * sizes.get("heads", 4) :] = 0
            block.down.weight[:, sizes.get("width", 24) :] = 0
    torch.testing.assert_close(found, net.full(token_ids()))


def test_attention_equals_eq_1_of_1706_03762_by_hand():
    from sortednet.models.transformer import Attention

    layer = Attention(hidden=2, heads=1, head_size=2, causal=False).double()
    with torch.no_grad():
        for one in (layer.query, layer.key, layer.value, layer.output):
            one.weight.copy_(torch.eye(2))
            one.bias.zero_()
    # Two orthogonal tokens: scores 1 / sqrt(2) with itself and 0 with the other.
    own = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + 1)
    expected = torch.tensor([[[own, 1 - own], [1 - own, own]]], dtype=torch.float64)
    torch.testing.assert_close(layer(torch.eye(2, dtype=torch.float64)[None]), expected)


def test_causal_transformer_does_not_see_later_tokens():
    model, ids = small_transformer().eval(), token_ids()
    changed = ids.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 16
    assert torch.equal(model(ids)[:, :4], model(changed)[:, :4])


def test_classifier_sees_every_token():
    model, ids = small_classifier(depth=1, width=8, heads=1, hidden=8).eval(), token_ids()
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 16
    assert not torch.equal(model(ids), model(changed))


def test_preresnet20_has_20_layers_of_weights():
    found = [m for n, m in PreResNet().named_modules() if hasattr(m, "weight") and "norm" not in n]
    assert len([m for m in found if m.weight.dim() == 2 or m.kernel_size == (3, 3)]) == 20


def test_cpreresnet20_has_20_layers_of_weights():
    model = PreResNet(depth=2, width=16, bottleneck=True)
    layers = [n for n, m in model.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == 20


def test_a_bottleneck_is_1_x_1_3_x_3_1_x_1_with_a_quarter_of_the_channels_inside():
    block = PreResNet(depth=2, width=16, bottleneck=True).stages[1][0]
    convolutions = (block.conv1, block.conv2, block.conv3)
    assert [tuple(one.weight.shape) for one in convolutions] == [(32, 64, 1, 1), (32, 32, 3, 3), (128, 32, 1, 1)]
    assert [one.stride for one in convolutions] == [(1, 1), (2, 2), (1, 1)]


def test_a_bottleneck_is_the_identity_plus_its_branch():
    block = PreResNet(depth=2, width=1, bottleneck=True).stages[0][1].eval()
    torch.nn.init.zeros_(block.conv3.weight)
    x = images(channels=4)
    assert torch.equal(block(x), x)


def test_bottlenecks_halve_the_image_at_each_further_stage():
    seen = []
    model = PreResNet(depth=1, width=4, bottleneck=True)
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model(images(channels=3, size=32))
    assert seen == [(4, 64, 8, 8)]


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_every_norm_starts_with_the_scale_given(norm, bottleneck):
    model = PreResNet(depth=1, width=4, norm=norm, bottleneck=bottleneck, norm_scale=0.5)
    scales = [one for name, one in model.named_parameters() if "norm" in name and name.endswith("weight")]
    assert len(scales) == 3 * (3 if bottleneck else 2) + 1
    assert all(bool((one == 0.5).all()) for one in scales)


def test_preresnet_halves_the_image_at_each_further_stage():
    seen = []
    model = PreResNet(depth=1, width=4)
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model(images(channels=3, size=32))
    assert seen == [(4, 16, 8, 8)]


def test_preresnet_block_is_the_identity_plus_its_branch():
    block = PreResNet(depth=2, width=4).stages[0][1].eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = images(channels=4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_one_stage_preresnet_takes_digits_of_any_width(norm):
    for width in (1, 5, 8):
        model = PreResNet(depth=1, width=width, stages=1, norm=norm, channels=1)
        assert model(images()).shape == (4, 10)


@pytest.mark.parametrize("build", [MLP, PreResNet, Transformer])
@pytest.mark.parametrize("size", [{"depth": 0}, {"width": 0}, {"width": 2.5}, {"depth": True}])
def test_a_bad_size_is_refused(build, size):
    ((name, value),) = size.items()
    with pytest.raises(ValueError, match=rf"{name}={value}\) cannot be built: {name} is a whole number of at least 1"):
        build(**size)


@pytest.mark.parametrize("name", ["heads", "hidden", "head_size", "vocabulary", "positions", "classes"])
def test_transformer_refuses_every_size_of_zero(name):
    with pytest.raises(ConfigError, match=rf"Transformer\({name}=0\) cannot be built.*Give such a number"):
        Transformer(**{name: 0})


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match=r"norm='layer' is unknown. Choose one of \['batch', 'instance', 'group'\]"):
        PreResNet(norm="layer")


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match=r"7 tokens, but there are 4 positions.*positions=7"):
        Transformer(depth=1, positions=4)(token_ids())


@pytest.mark.parametrize("name", ["mlp", "preresnet", "transformer"])
def test_resolve_finds_the_named_builders(name):
    assert resolve(name).__name__ == MODELS.places[name].partition(":")[2]


def test_resolve_finds_a_builder_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text("def build(depth):\n    return depth\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert resolve("my_models:build")(depth=3) == 3
    finally:
        sys.modules.pop("my_models", None)


@pytest.mark.parametrize("name", ["resnet", "torch.nn", ":build", "torch.nn:", ""])
def test_resolve_refuses_an_unknown_name(name):
    with pytest.raises(
        ConfigError, match=rf"model='{name}' is unknown. (Did.*)?Choose one of mlp, .*package.module:funct"
    ):
        resolve(name)


def test_resolve_refuses_a_module_that_cannot_be_imported():
    with pytest.raises(ConfigError, match=r"importing 'no_such_module' failed with ModuleNotFoundError.*PYTHONPATH"):
        resolve("no_such_module:build")


def test_resolve_refuses_a_module_that_fails(tmp_path, monkeypatch):
    (tmp_path / "broken_models.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"importing 'broken_models' failed with ZeroDivisionError: division by zero"):
        resolve("broken_models:build")


def test_resolve_refuses_a_missing_attribute():
    with pytest.raises(ConfigError, match=r"sortednet.models.mlp has no 'Mlp'.*Name one of its.*MLP"):
        resolve("sortednet.models.mlp:Mlp")


def test_resolve_refuses_what_cannot_be_called():
    with pytest.raises(ConfigError, match=r"_SHOWN is int and cannot be called.*Name a function or a class"):
        resolve("sortednet.models:_SHOWN")


@pytest.mark.parametrize("autocast", [False, True])
def test_an_instance_norm_with_the_channels_last_gives_what_torchs_gives_in_bfloat16(autocast):
    torch.manual_seed(0)
    norm = PreResNet(1, 8, stages=1, norm="instance").norm
    assert isinstance(norm, torch.nn.InstanceNorm2d)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = torch.randn(4, len(norm.weight), 5, 6).bfloat16()
    found = []
    for order in (torch.channels_last, torch.contiguous_format):
        given = x.clone(memory_format=order).requires_grad_()
        norm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = norm(given)
        assert output.is_contiguous(memory_format=order)
        output.backward(torch.cos(torch.arange(x.numel())).view(x.shape).bfloat16())
        found.append((output, given.grad, norm.weight.grad, norm.bias.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
