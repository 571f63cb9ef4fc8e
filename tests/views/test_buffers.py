"""Whose the statistics are: shared, private or estimated again; and private parameters."""

import copy

import pytest
import torch
from torch import nn

from sortednet import SortedNet, Space, Stochastic, Uniform, load
from sortednet.errors import BuildError, SortedNetError
from sortednet.training.steps import step

SPACE = Space(width=[2, 3, 4])


class Norms(nn.Module):
    """A batch norm and a dropout between two linear layers."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.first(x))))


def network(**options):
    torch.manual_seed(0)
    return SortedNet(Norms, SPACE, **options).double()


def batches(count=3, size=6):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, dtype=torch.float64, generator=generator) for _ in range(count)]


def loss_fn(output, target):
    return (output - target).square().mean()


# --- shared ---------------------------------------------------------------------------------------------------------


def test_shared_statistics_land_in_the_corner():
    net = network()
    (x,) = batches(1)
    net.at(width=2)(x)
    hidden = nn.functional.linear(x, net.full.first.weight[:2], net.full.first.bias[:2])
    norm = net.full.norm
    torch.testing.assert_close(norm.running_mean[:2], 0.1 * hidden.mean(0).detach())
    torch.testing.assert_close(norm.running_var[:2], 0.9 + 0.1 * hidden.var(0).detach())
    assert norm.running_mean[2:].tolist() == [0, 0]
    assert norm.running_var[2:].tolist() == [1, 1]
    assert norm.num_batches_tracked == 1


def test_shared_statistics_are_read_at_the_corner():
    net = network().eval()
    net.full.norm.running_mean.copy_(torch.tensor([1.0, 2, 3, 4]))
    assert net.extract(width=3).norm.running_mean.tolist() == [1, 2, 3]
    (x,) = batches(1)
    assert torch.equal(net.at(width=3)(x), net.extract(width=3)(x))


def test_statistics_do_not_change_in_evaluation():
    net = network().eval()
    before = copy.deepcopy(net.full.norm.state_dict())
    net.at(width=2)(batches(1)[0])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.full.norm.state_dict().items())


# --- private --------------------------------------------------------------------------------------------------------


def test_private_statistics_belong_to_one_sub_model():
    net = network(buffers="private")
    net.at(width=2)(batches(1)[0])
    assert net.extract(width=2).norm.num_batches_tracked == 1
    for other in (3, 4):
        assert net.extract(width=other).norm.num_batches_tracked == 0
        assert not net.extract(width=other).norm.running_mean.any()
    net(batches(1)[0])
    assert net.full.norm.num_batches_tracked == 1
    assert net.extract(width=2).norm.num_batches_tracked == 1


def test_private_statistics_survive_saving_and_loading(tmp_path):
    net = network(buffers="private").float()
    for one in SPACE:
        [net.at(one)(x.float() + one["width"]) for x in batches()]
    net.eval().save_pretrained(tmp_path)
    again = load(tmp_path, Norms).eval()
    assert again.private.policy == "private"
    x = batches(1)[0].float()
    for one in SPACE:
        expected = net.at(one)(x)
        assert torch.equal(again.at(one)(x), expected)
        assert torch.equal(load(tmp_path, Norms, at=one).eval()(x), expected)
        assert torch.equal(again.extract(one)(x), expected)
        assert torch.equal(again.submodel(one)(x), expected)


def test_private_statistics_follow_a_change_of_type():
    net = network(buffers="private").float()
    net.at(width=2)(batches(1)[0].float())
    assert net.extract(width=2).norm.running_mean.dtype == torch.float32


# --- estimated again ------------------------------------------------------------------------------------------------


def by_hand(net, width, inputs):
    """Average the batch statistics of the norm's input over batches."""
    first = net.full.first
    hidden = [nn.functional.linear(x, first.weight[:width], first.bias[:width]).detach() for x in inputs]
    return torch.stack([h.mean(0) for h in hidden]).mean(0), torch.stack([h.var(0) for h in hidden]).mean(0)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_reestimated_statistics_are_plain_averages_over_batches(width):
    net = network(buffers="reestimated")
    net.reestimate(batches())
    mean, variance = by_hand(net, width, batches())
    found = net.extract(width=width).norm
    torch.testing.assert_close(found.running_mean, mean)
    torch.testing.assert_close(found.running_var, variance)
    assert found.num_batches_tracked == 3
    assert found.momentum == 0.1


def test_reestimating_twice_replaces_the_first_estimate():
    net = network(buffers="reestimated")
    net.reestimate([x + 5 for x in batches()])
    net.reestimate(batches())
    mean, _ = by_hand(net, 2, batches())
    torch.testing.assert_close(net.extract(width=2).norm.running_mean, mean)


def test_reestimating_a_sub_model_leaves_the_shared_statistics_and_other_sub_models_alone():
    net = network(buffers="reestimated")
    net.at(width=3)(batches(1)[0])
    before = copy.deepcopy(net.full.norm.state_dict())
    net.reestimate(batches(), settings=["width=2"])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.full.norm.state_dict().items())
    assert torch.equal(net.extract(width=3).norm.running_mean, before["running_mean"][:3])


def test_reestimating_changes_no_weight_and_no_training_flag():
    net = network(buffers="reestimated")
    before = {name: parameter.clone() for name, parameter in net.full.named_parameters()}
    net.reestimate(batches())
    assert all(torch.equal(before[name], parameter) for name, parameter in net.full.named_parameters())
    assert all(module.training for module in net.full.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_dropout_stays_off_while_statistics_are_estimated():
    class Dropped(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.drop, self.norm = nn.Dropout(0.9), nn.BatchNorm1d(width)
            self.width = width

        def forward(self, x):
            return self.norm(self.drop(x[:, : self.width]))

    net = SortedNet(Dropped, Space(width=[2, 3]), buffers="reestimated")
    x = torch.arange(12.0).reshape(4, 3)
    net.reestimate([x])
    torch.testing.assert_close(net.extract(width=2).norm.running_mean, x[:, :2].mean(0))


def test_reestimated_statistics_count_in_evaluation_only():
    net = network(buffers="reestimated")
    net.reestimate(batches())
    own = net.extract(width=2).norm.running_mean
    net.at(width=2)(batches(1)[0])
    assert torch.equal(net.extract(width=2).norm.running_mean, own)
    assert net.full.norm.num_batches_tracked == 4  # three of the full model's own estimate, and one shared update


def test_an_estimated_sub_model_is_the_same_extracted_bound_and_frozen():
    net = network(buffers="reestimated")
    net.reestimate(batches())
    net.eval()
    (x,) = batches(1)
    expected = net.at(width=2)(x)
    assert torch.equal(net.extract(width=2)(x), expected)
    assert torch.equal(net.submodel(width=2)(x), expected)


def test_estimates_survive_saving_and_loading(tmp_path):
    net = network(buffers="reestimated").float()
    net.reestimate([x.float() for x in batches()], settings=["width=2"])
    net.eval().save_pretrained(tmp_path)
    again, x = load(tmp_path, Norms).eval(), batches(1)[0].float()
    for one in SPACE:
        assert torch.equal(again.at(one)(x), net.at(one)(x))
        assert torch.equal(load(tmp_path, Norms, at=one).eval()(x), net.at(one)(x))


@pytest.mark.parametrize("as_inputs", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}])
def test_batches_may_be_tensors_tuples_or_mappings(as_inputs):
    net = network(buffers="reestimated")
    net.reestimate(map(as_inputs, batches()))
    torch.testing.assert_close(net.extract(width=2).norm.running_mean, by_hand(net, 2, batches())[0])


@pytest.mark.parametrize("policy", ["shared", "private"])
def test_reestimating_under_another_policy_is_refused(policy):
    with pytest.raises(
        BuildError, match=rf"buffers='{policy}' keeps statistics as trained\. Use buffers='reestimated'"
    ):
        network(buffers=policy).reestimate(batches())


def test_reestimating_without_a_batch_is_refused():
    net = network(buffers="reestimated")
    net(batches(1)[0])
    with pytest.raises(SortedNetError, match="batch"):
        net.reestimate([])


# --- private parameters ---------------------------------------------------------------------------------------------


def test_private_parameters_start_as_the_corner_and_train_alone():
    net = network(private="head.*")
    before = {one: net.extract(one).head.weight.clone() for one in SPACE}
    assert all(torch.equal(before[one], net.full.head.weight[:, : one["width"]]) for one in SPACE)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.at(width=2)(batches(1)[0]).square().mean().backward()
    assert net.full.head.weight.grad is None
    optimizer.step()
    changed = {one["width"]: not torch.equal(net.extract(one).head.weight, before[one]) for one in SPACE}
    assert changed == {2: True, 3: False, 4: False}


def test_the_full_setting_uses_the_full_models_own_head():
    net = network(private="head.*")
    net(batches(1)[0]).square().mean().backward()
    assert net.full.head.weight.grad.any()
    assert all(parameter.grad is None for parameter in net.private.parameters())
    assert torch.equal(net.extract().head.weight, net.full.head.weight)


def test_private_parameters_are_parameters_of_the_network_once_per_smaller_setting():
    net = network(private=["head.weight", "norm.*"])
    own = {name for _, name in net.private.tensors()}
    assert own == {f"{prefix}" for prefix in ("head.weight", "norm.weight", "norm.bias")} | {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    assert len(list(net.private.parameters())) == 2 * 3


def test_private_parameters_survive_saving_and_loading(tmp_path):
    net = network(private="head.*").float().eval()
    with torch.no_grad():
        for i, parameter in enumerate(net.private.parameters()):
            parameter.fill_(i)
    net.save_pretrained(tmp_path)
    again, x = load(tmp_path, Norms).eval(), batches(1)[0].float()
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in net.named_parameters()}
    for one in SPACE:
        assert torch.equal(again.at(one)(x), net.at(one)(x))
        assert torch.equal(load(tmp_path, Norms, at=one).eval()(x), net.at(one)(x))
        assert torch.equal(again.submodel(one)(x), net.at(one)(x))


@pytest.mark.parametrize("update", ["standard", "touched", "unique"])
def test_no_update_rule_moves_the_private_parameters_of_sub_models_not_drawn(update):
    net = network(private="head.*")
    optimizer = torch.optim.AdamW(net.parameters(), 0.1, weight_decay=0.5)
    objective = Stochastic(Uniform(SPACE, seed=0))
    for x in batches(6):
        before = {key: tensor.clone() for key, tensor in net.private.tensors().items()}
        result = step(net, objective, optimizer, (x, torch.ones(6, 2).double()), loss_fn, update=update)
        drawn = {str(one) for one, _ in result.terms}
        for (setting, name), tensor in net.private.tensors().items():
            assert torch.equal(tensor, before[setting, name]) == (setting not in drawn)


def test_a_frozen_private_parameter_stays_frozen_when_loaded(tmp_path):
    net = network(private="head.*")
    net.requires_grad_(False).save_pretrained(tmp_path)

    def frozen(width):
        return Norms(width).requires_grad_(False)

    assert not any(parameter.requires_grad for parameter in load(tmp_path, frozen).parameters())


def test_a_private_pattern_that_matches_nothing_is_refused():
    with pytest.raises(BuildError, match="haed"):
        network(private="haed.*")
