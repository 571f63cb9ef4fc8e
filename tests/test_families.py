import sys

import pytest
import torch

import sortednet as sn
from sortednet.errors import ConfigError
from sortednet.families import mobilenet_v2
from sortednet.models import resolve


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def features(model, size):
    """Shape of the features before pooling."""
    with torch.no_grad():
        return tuple(model.eval().model.mobilenet_v2(images(size)).last_hidden_state.shape)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return sn.SortedNet(mobilenet_v2, sn.Space(depth=[1, 6, 13, 16], width=[0.1, 0.3, 1.0])).eval()


@pytest.fixture(scope="module")
def full_on_meta():
    with torch.device("meta"):
        return mobilenet_v2()


@pytest.mark.parametrize("depth", range(1, 17))
def test_every_sub_model_is_a_corner_of_the_full_model(full_on_meta, depth):
    full = full_on_meta.state_dict()
    for tenth in range(1, 11):
        with torch.device("meta"):
            small = mobilenet_v2(depth, tenth / 10)
        for name, tensor in small.state_dict().items():
            assert name in full, (tenth, name)
            assert tensor.dim() == full[name].dim(), (tenth, name)
            assert all(s <= f for s, f in zip(tensor.shape, full[name].shape, strict=True)), (tenth, name)


def test_sub_model_equals_extracted_model(net):
    x = images()
    with torch.no_grad():
        for setting in net.space:
            assert torch.equal(net.at(setting)(x), net.extract(setting)(x)), setting


def test_largest_setting_is_the_full_model(net):
    with torch.no_grad():
        assert torch.equal(net.at(net.space.full)(images()), net.full(images()))


def test_full_model_is_hugging_faces_own():
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(0)
    built = mobilenet_v2(base_multiplier=0.5, small_images=False).eval()
    plain = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=10, depth_multiplier=0.5)).eval()
    plain.load_state_dict(built.model.state_dict())
    with torch.no_grad():
        assert torch.equal(built(images()), plain(images()).logits)


def test_output_is_a_plain_tensor_of_logits():
    assert mobilenet_v2(depth=1, width=0.1, classes=7)(images()).shape == (2, 7)


def test_gradients_reach_every_parameter_of_a_truncated_model():
    model = mobilenet_v2(depth=3, width=0.2)
    model(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_depth_keeps_the_first_blocks(full_on_meta):
    with torch.device("meta"):
        small = mobilenet_v2(depth=5)
    full = dict(full_on_meta.model.mobilenet_v2.layer[:5].named_parameters())
    found = dict(small.model.mobilenet_v2.layer.named_parameters())
    assert {name: p.shape for name, p in found.items()} == {name: p.shape for name, p in full.items()}


def test_small_images_are_shrunk_by_8():
    assert features(mobilenet_v2(width=0.1), 32)[2:] == (4, 4)


def test_large_images_are_shrunk_by_32():
    assert features(mobilenet_v2(width=0.1, small_images=False), 64)[2:] == (2, 2)


def test_resolve_finds_it():
    assert resolve("mobilenet_v2") is mobilenet_v2


@pytest.mark.parametrize("depth", [0, 17, 2.0, True])
def test_a_depth_outside_1_to_16_is_refused(depth):
    with pytest.raises(
        ConfigError, match=rf"depth={depth}\): depth is a whole number from 1 to 16. Correct it, or drop"
    ):
        mobilenet_v2(depth)


@pytest.mark.parametrize("width", [0, -0.1, 1.1, float("nan")])
def test_a_width_outside_its_range_is_refused(width):
    with pytest.raises(ConfigError, match=rf"width={width}\): width is a share in \(0, 1\].*Correct it"):
        mobilenet_v2(width=width)


@pytest.mark.parametrize("name", ["classes", "image_size"])
def test_a_size_of_zero_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}=0\): {name} is a whole number of at least 1. Correct it"):
        mobilenet_v2(**{name: 0})


def test_a_multiplier_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"base_multiplier=0\): it is above 0, such as 1.4"):
        mobilenet_v2(base_multiplier=0)


def test_missing_transformers_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'need transformers: pip install "sortednet\[transformers\]"'):
        mobilenet_v2()
