import pytest
import torch
from torch import nn

import sortednet as sn
from sortednet.errors import BuildError, TrainingError
from sortednet.models import PreResNet

from ..contracts.cases import Tied


def build(width: int) -> nn.Module:
    return PreResNet(1, width, stages=1, channels=1, classes=3)


def make_net(**options: object) -> sn.SortedNet:
    torch.manual_seed(0)
    return sn.SortedNet(build, sn.Space(width=[2, 4, 6]), **options)


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, 1, 4, 4, generator=generator), torch.arange(12) % 3) for _ in range(2)]


def loss_of(net: sn.SortedNet, width: int) -> float:
    module = net.submodel(width=width)
    return float(sum(nn.functional.cross_entropy(module(x), y) for x, y in data()))


def test_adjustment_lowers_the_loss_of_every_sub_model_but_the_full_one() -> None:
    net = make_net()
    before = {width: loss_of(net, width) for width in (2, 4, 6)}
    sn.adjust_classifiers(net, data(), nn.CrossEntropyLoss(), "head.*", epochs=20, learning_rate=0.05)
    assert loss_of(net, 2) < before[2]
    assert loss_of(net, 4) < before[4]
    assert loss_of(net, 6) == before[6]


def test_adjustment_changes_no_shared_weight_and_no_statistic() -> None:
    net = make_net()
    before = {name: tensor.clone() for name, tensor in net.full.state_dict().items()}
    sn.adjust_classifiers(net, data(), nn.CrossEntropyLoss(), "head.*")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.full.state_dict().items())


def test_an_adjusted_classifier_is_used_everywhere_and_kept_on_disk(tmp_path) -> None:
    net = make_net().eval()
    sn.adjust_classifiers(net, data(), nn.CrossEntropyLoss(), "head.*", learning_rate=0.05)
    x = data()[0][0]
    expected = net.extract(width=2)(x)
    net.save_pretrained(tmp_path)
    assert not torch.equal(net.extract(width=2).head.weight, net.full.head.weight[:, :2])
    assert torch.equal(net.at(width=2)(x), expected)
    assert torch.equal(net.submodel(width=2)(x), expected)
    assert torch.equal(sn.load(tmp_path, build).eval().at(width=2)(x), expected)
    assert torch.equal(sn.load(tmp_path, build, at={"width": 2}).eval()(x), expected)


def test_the_backbone_runs_once_for_each_batch_however_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: runs.append(self) or forward(self, x))
    counts = []
    for epochs in (1, 4):
        net = make_net()
        net.observe(data()[0][0])
        runs.clear()
        sn.adjust_classifiers(net, data(), nn.CrossEntropyLoss(), "head.*", settings=["width=2"], epochs=epochs)
        counts.append(len(runs))
    assert counts[0] == counts[1] > 0


def test_held_features_and_whole_forwards_adjust_to_the_same_classifier() -> None:
    def last(width: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Dropout(), nn.ReLU(), nn.Linear(width, 3))

    def not_last(width: int) -> nn.Module:
        return nn.Sequential(*last(width), nn.Identity())

    found = []
    for build_one in (last, not_last):
        torch.manual_seed(0)
        net = sn.SortedNet(build_one, sn.Space(width=[2, 4]))
        sn.adjust_classifiers(net, data(), nn.CrossEntropyLoss(), "4.*", learning_rate=0.05)
        found.append(net.extract(width=2)[4].weight)
    assert torch.equal(*found)


def test_only_the_settings_asked_for_are_adjusted() -> None:
    net = make_net()
    sn.adjust_classifiers(net, data(), nn.CrossEntropyLoss(), "head.*", settings=[{"width": 4}])
    assert torch.equal(net.extract(width=2).head.weight, net.full.head.weight[:, :2])
    assert not torch.equal(net.extract(width=4).head.weight, net.full.head.weight[:, :4])


def test_a_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(BuildError, match=r"No parameter matches 'classifier.\*'.*'head.bias'.*such as 'head"):
        sn.adjust_classifiers(make_net(), data(), nn.CrossEntropyLoss(), "classifier.*")


def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    net = make_net()
    bad = [(torch.full((3, 1, 4, 4), float("nan")), torch.arange(3))]
    with pytest.raises(TrainingError, match=r"loss of width=2 is nan.*stays as it was"):
        sn.adjust_classifiers(net, bad, nn.CrossEntropyLoss(), "head.*")
    assert torch.equal(net.extract(width=2).head.weight, net.full.head.weight[:, :2])


@pytest.mark.parametrize("pattern", ["embed.*", "head.*", "*"])
def test_a_tied_parameter_cannot_be_private(pattern: str) -> None:
    with pytest.raises(BuildError, match=r"is tied to .*Untie them in the builder"):
        sn.SortedNet(Tied, sn.Space(width=[4, 8]), private=pattern)


def test_a_tied_classifier_cannot_be_adjusted() -> None:
    x = torch.arange(7)
    with pytest.raises(BuildError, match=r"head.weight is tied to embed.weight"):
        sn.adjust_classifiers(sn.SortedNet(Tied, sn.Space(width=[4, 8])), [(x, x)], nn.CrossEntropyLoss(), "head.*")
