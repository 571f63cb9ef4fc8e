"""The quality at every rank."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, SettingError


def make(depths: bool = False) -> sn.SortedNet:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"])
    if depths:
        model: object = sn.SortedNet(sn.models.MLP, sn.Space(depth=[1, 2], width=[8]))
        config = LoraConfig(r=4, target_modules="all-linear")
    else:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net = sn.dylora(model, config)
    with torch.no_grad():
        for name, parameter in net.full.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return net


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(30, size, generator=generator), torch.randint(0, 3, (30,), generator=generator)


def test_every_rank_scores_what_its_extracted_model_scores() -> None:
    net, (x, y) = make(), batch()
    curve = sn.lora.evaluate_ranks(net, [(x, y)])
    expected = {r: float(sn.accuracy(net.extract(r=r).eval()(x), y).mean()) for r in (1, 2, 4)}
    assert curve.qualities == pytest.approx(expected)


def test_rank_0_is_the_model_without_the_adapter() -> None:
    net, (x, y) = make(), batch()
    curve = sn.lora.evaluate_ranks(net, [(x, y)])
    with net.full.disable_adapter():
        assert curve.base == pytest.approx(float(sn.accuracy(net.full(x), y).mean()))
    assert sn.lora.evaluate_ranks(net, [(x, y)], base=False).base is None


def test_a_depth_can_be_fixed() -> None:
    net, (x, y) = make(depths=True), batch(64)
    curve = sn.lora.evaluate_ranks(net, [(x, y)], at={"depth": 1})
    assert {row.setting["depth"] for row in curve.table} == {1}
    assert curve.qualities[2] == pytest.approx(float(sn.accuracy(net.extract(depth=1, r=2).eval()(x), y).mean()))


def test_what_cannot_be_measured_is_refused() -> None:
    net, data = make(), [batch()]
    with pytest.raises(SettingError, match="fixes the rank"):
        sn.lora.evaluate_ranks(net, data, at={"r": 2})
    with pytest.raises(BuildError, match=r"Make it by sortednet\.dylora"):
        sn.lora.evaluate_ranks(sn.SortedNet(sn.models.MLP, sn.Space(depth=[1, 2])), data)
    sn.merge(net, r=2)
    with pytest.raises(SettingError, match="merged into the weights at r=2"):
        sn.lora.evaluate_ranks(net, data)


def test_the_smallest_rank_within_a_tolerance_also_of_a_loss() -> None:
    rows = [sn.Row(sn.Setting({"r": r}), q, params=r) for r, q in [(1, 0.9), (2, 0.5), (4, 0.4), (8, 0.45)]]
    curve = sn.lora.RankCurve(sn.Table(rows, metric="loss", higher_is_better=False))
    assert (curve.best, curve.smallest_within(0), curve.smallest_within(0.1), curve.smallest_within(1)) == (4, 4, 2, 1)
    with pytest.raises(ConfigError, match="tolerance=-1 must be at least 0, in the unit of loss"):
        curve.smallest_within(-1)


def test_the_area_is_a_mean_quality() -> None:
    rows = [sn.Row(sn.Setting({"r": r}), q, params=r) for r, q in [(1, 10.0), (2, 20.0), (4, 40.0)]]
    curve = sn.lora.RankCurve(sn.Table(rows))
    assert curve.area() == pytest.approx((15 * 1 + 30 * 2) / 3)  # trapezoids over 1..4, by hand
    assert curve.area(log=True) == pytest.approx((15 + 30) / 2)


def test_accuracy_takes_the_labels_of_a_mapping_and_says_what_it_needs() -> None:
    logits, labels = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
    assert sn.accuracy(logits, {"labels": labels}).tolist() == [100.0, 0.0]
    with pytest.raises(ValueError, match="Give metric="):
        sn.accuracy(logits, {"input_ids": labels})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_gives_back_the_same_weights(dtype) -> None:
    net = make().to(dtype)
    before = [one.clone() for one in net.parameters()]
    sn.merge(net, r=2)
    assert not all(torch.equal(one, other) for one, other in zip(net.parameters(), before, strict=True))
    sn.unmerge(net)
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), before, strict=True))


class PackedLinear(nn.Linear):
    """A quantised layer: whole numbers, and a scale that only this module knows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        numbers = torch.randint(-9, 9, (outputs, inputs), dtype=torch.int8)
        self.weight = nn.Parameter(numbers, requires_grad=False)
        self.scale = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.scale = self.scale or 0.1  # state that belongs to the module, as of bitsandbytes
        return x @ (self.weight.float() * self.scale).T


def test_adapters_of_quantised_layers_work_at_every_rank() -> None:
    torch.manual_seed(0)
    net = sn.dylora(
        nn.Sequential(PackedLinear(4, 6), nn.ReLU(), PackedLinear(6, 3)), LoraConfig(r=2, target_modules=["0"])
    )
    with torch.no_grad():
        net.full.base_model.model[0].lora_B["default"].weight.normal_()
    x, _ = batch()
    assert torch.equal(net.at(r=2)(x), net.full(x))
    first, second = net(x, settings=["r=1", "r=2"], split=[10, 20])
    torch.testing.assert_close(first, net.extract(r=1)(x[:10]))
    torch.testing.assert_close(second, net.submodel(r=2)(x[10:]))
    extracted = net.extract(r=1)
    packed = net.full.base_model.model[0].base_layer.weight
    assert extracted.base_model.model[0].base_layer.weight.data_ptr() != packed.data_ptr()
    with pytest.raises(BuildError, match="is quantised, and merging would round it again"):
        sn.merge(net, r=1)
