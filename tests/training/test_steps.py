"""One step against a hand-written loop, and what each update rule leaves alone."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sortednet import Cycle, SortedNet, Space, Stochastic, Summation, Uniform
from sortednet.errors import DataError, SortedNetError, TrainingError
from sortednet.models import MLP
from sortednet.training.steps import apply_update, step

from ..contracts.cases import Tied

SPACE = Space(depth=[1, 2], width=[2, 3, 5])
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.05, weight_decay=0.3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, 0.05, amsgrad=True),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def network(space=SPACE):
    torch.manual_seed(0)

    def build(depth=2, width=5):
        return MLP(depth, width, inputs=3, classes=2)

    return SortedNet(build, space).double()


def batch(seed=1, size=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 2, (size,), generator=generator)


def weights(net):
    return {name: parameter.detach().clone() for name, parameter in net.full.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def covered(net, *settings):
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in net.full.named_parameters()}
    for setting in settings:
        for name, cut in net.skeleton(setting).slots():
            cut.mark(masks[name], True)
    return masks


def moments(net, optimizer):
    """Return copies of the optimiser's tensors that are shaped like the weights."""
    return {
        (name, key): value.clone()
        for name, parameter in net.full.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
    }


def loss_fn(output, target):
    return functional.cross_entropy(output, target)


# --- step -----------------------------------------------------------------------------------------------------------


@each_optimizer
def test_algorithm_1_step_equals_a_hand_written_loop(make):
    net, other = network(), network()
    optimizer, by_hand = make(net.parameters()), make(other.parameters())
    objective, sampler = Stochastic(Uniform(SPACE, seed=0)), Uniform(SPACE, seed=0)
    for seed in range(5):
        result = step(net, objective, optimizer, batch(seed), loss_fn)
        (setting,) = sampler.draw()
        x, y = batch(seed)
        loss = loss_fn(other.at(setting)(x), y)
        loss.backward()
        by_hand.step()
        by_hand.zero_grad()
        assert result.loss == pytest.approx(loss.item())
        assert result.terms == ((setting, pytest.approx(loss.item())),)
        assert same(weights(net), weights(other))


def test_a_step_leaves_no_gradient():
    net = network()
    step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), batch(), loss_fn)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_step_names_every_sub_model_trained():
    net = network()
    result = step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), batch(), loss_fn)
    assert [setting for setting, _ in result.terms] == list(SPACE)
    assert result.loss == pytest.approx(sum(loss for _, loss in result.terms) / len(SPACE))


def test_accumulated_batches_are_averaged_each_with_its_own_draw():
    net, other = network(), network()
    settings = ["depth=1,width=2", "depth=2,width=5", "depth=2,width=3"]
    optimizer, by_hand = (torch.optim.SGD(one.parameters(), 0.1) for one in (net, other))
    batches = [batch(seed) for seed in range(3)]
    result = step(net, Stochastic(Cycle(SPACE, settings)), optimizer, batches, loss_fn, accumulate=True)
    losses = [loss_fn(other.at(one)(x), y) for one, (x, y) in zip(settings, batches, strict=True)]
    torch.stack(losses).mean().backward()
    by_hand.step()
    assert result.loss == pytest.approx(torch.stack(losses).mean().item())
    assert [str(one) for one, _ in result.terms] == settings
    for name, weight in weights(net).items():
        torch.testing.assert_close(weight, weights(other)[name])


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_the_gradient_is_clipped_to_the_largest_norm(max_norm):
    net, other = network(), network()
    result = step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 1.0), batch(), loss_fn, max_norm=max_norm)
    assert math.isfinite(result.loss)
    Summation(SPACE)(other, batch(), loss_fn).backward()
    gradients = {name: parameter.grad for name, parameter in other.full.named_parameters()}
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
    scale = min(1.0, max_norm / norm.item())
    for name, weight in weights(net).items():
        torch.testing.assert_close(weight, weights(other)[name] - scale * gradients[name], rtol=1e-4, atol=1e-9)


def test_the_wrapper_and_the_backward_given_are_used():
    net, calls = network(), []

    class Wrapper(nn.Module):
        def forward(self, *args, **kwargs):
            calls.append("model")
            return net(*args, **kwargs)

    def backward(loss):
        calls.append("backward")
        loss.backward()

    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    step(net, Summation(SPACE), optimizer, batch(), loss_fn, model=Wrapper(), backward=backward)
    assert calls == ["model", "backward"]


# --- losses that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("accumulate", [False, True])
@each_optimizer
def test_a_loss_that_is_not_finite_changes_nothing_and_names_the_sub_model(make, accumulate, value):
    net = network()
    optimizer = make(net.parameters())
    objective = Stochastic(Cycle(SPACE, ["depth=2,width=3", "depth=1,width=2"]))
    step(net, objective, optimizer, [batch(0), batch(1)], loss_fn, accumulate=True)
    before, state = weights(net), copy.deepcopy(optimizer.state_dict())
    x, y = batch(2)
    bad = [batch(3), (x * value, y)] if accumulate else (x * value, y)
    name = "depth=1,width=2" if accumulate else "depth=2,width=3"
    with pytest.raises(TrainingError, match=rf"The loss is nan, from {name} \(nan\)\. No weight was changed\. Lower"):
        step(net, objective, optimizer, bad, loss_fn, accumulate=accumulate)
    assert same(weights(net), before)
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    for key, entries in state["state"].items():
        for entry, held in entries.items():
            assert torch.equal(torch.as_tensor(now["state"][key][entry]), torch.as_tensor(held))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_only_the_sub_models_at_fault_are_named():
    net = network()
    with torch.no_grad():
        net.full.hidden[1].weight[4] = math.nan
    with pytest.raises(TrainingError) as caught:
        step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), batch(), loss_fn)
    assert "depth=2,width=5 (nan)" in str(caught.value)
    assert "depth=1" not in str(caught.value)
    assert "width=3" not in str(caught.value)


def test_a_gradient_that_is_not_finite_changes_nothing():
    net = network()
    before = weights(net)

    def root(output, target):
        return (output - output.detach()).square().sum().sqrt()  # 0, with gradient 0 / 0

    with pytest.raises(TrainingError, match="gradient"):
        step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), batch(), root, max_norm=1.0)
    assert same(weights(net), before)


@pytest.mark.parametrize("max_norm", [0.0, -1.0])
def test_a_norm_that_is_not_above_zero_is_refused(max_norm):
    net = network()
    with pytest.raises(SortedNetError, match="max_norm"):
        step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), batch(), loss_fn, max_norm=max_norm)


def test_accumulating_no_batches_is_refused():
    net = network()
    with pytest.raises(SortedNetError, match="batch"):
        step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), [], loss_fn, accumulate=True)


def test_an_error_in_the_middle_leaves_no_gradient():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    x, y = batch()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step(net, Summation(SPACE), optimizer, [(x, y), (x[:, :2], y)], loss_fn, accumulate=True)
    assert all(parameter.grad is None for parameter in net.parameters())


# --- update rules ---------------------------------------------------------------------------------------------------


def test_an_unknown_rule_is_refused():
    net = network()
    with pytest.raises(
        TrainingError, match=r"update='some' is no update rule\. Choose one of standard, touched, unique, ref"
    ):
        apply_update(net, torch.optim.SGD(net.parameters(), 0.1), [SPACE.full], "some")


def test_a_step_refused_for_its_rule_leaves_no_gradient():
    net = network()
    with pytest.raises(TrainingError, match="some"):
        step(net, Summation(SPACE), torch.optim.SGD(net.parameters(), 0.1), batch(), loss_fn, update="some")
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_standard_moves_weights_outside_the_drawn_corner(name):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    step(net, Stochastic(Cycle(SPACE, [SPACE.full])), optimizer, batch(), loss_fn)
    before, inside = weights(net), covered(net, SPACE.smallest)["head.weight"]
    step(net, Stochastic(Cycle(SPACE, [SPACE.smallest])), optimizer, batch(2), loss_fn)
    assert not torch.equal(weights(net)["head.weight"][~inside], before["head.weight"][~inside])


@pytest.mark.parametrize("update", ["touched", "unique"])
@each_optimizer
def test_equation_1_nothing_outside_what_is_drawn_changes(make, update):
    net = network()
    optimizer = make(net.parameters())
    step(net, Stochastic(Cycle(SPACE, [SPACE.full])), optimizer, batch(), loss_fn)
    drawn = ["depth=1,width=2", "depth=2,width=3", "depth=1,width=5", "depth=2,width=2"]
    for seed, setting in enumerate(drawn):
        before, state = weights(net), moments(net, optimizer)
        step(net, Stochastic(Cycle(SPACE, [setting])), optimizer, batch(seed), loss_fn, update=update)
        inside = covered(net, setting)
        for name, weight in weights(net).items():
            assert torch.equal(weight[~inside[name]], before[name][~inside[name]])
        for (name, key), tensor in moments(net, optimizer).items():
            assert torch.equal(tensor[~inside[name]], state[name, key][~inside[name]])


@each_optimizer
def test_equation_1_touched_from_the_first_step_starts_moments_at_zero_outside(make):
    net = network()
    optimizer = make(net.parameters())
    step(net, Stochastic(Cycle(SPACE, [SPACE.smallest])), optimizer, batch(), loss_fn, update="touched")
    inside = covered(net, SPACE.smallest)
    for (name, _), tensor in moments(net, optimizer).items():
        assert not tensor[~inside[name]].any()
        assert tensor[inside[name]].any()


@each_optimizer
def test_equation_1_inside_the_corner_touched_equals_the_standard_update(make):
    net, other = network(), network()
    one, two = make(net.parameters()), make(other.parameters())
    for seed in range(4):  # always the same corner, so that the histories inside it agree
        objective = Stochastic(Cycle(SPACE, ["depth=2,width=3"]))
        step(net, objective, one, batch(seed), loss_fn, update="touched")
        step(other, objective, two, batch(seed), loss_fn)
    inside, theirs = covered(net, "depth=2,width=3"), weights(other)
    for name, weight in weights(net).items():
        assert torch.equal(weight[inside[name]], theirs[name][inside[name]])


@each_optimizer
def test_touched_equals_standard_where_everything_is_covered(make):
    net, other = network(), network()
    one, two = make(net.parameters()), make(other.parameters())
    for seed in range(3):
        step(net, Summation(SPACE), one, batch(seed), loss_fn, update="touched")
        step(other, Summation(SPACE), two, batch(seed), loss_fn)
    assert same(weights(net), weights(other))
    assert all(torch.equal(t, moments(other, two)[key]) for key, t in moments(net, one).items())


def changed(net, setting, update="unique"):
    """Return where a step at a setting changes each parameter; every weight it may change has a gradient."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = weights(net)
    apply_update(net, optimizer, [net.space.setting(setting)], update)
    optimizer.zero_grad()
    return {name: (weight != before[name]).int().tolist() for name, weight in weights(net).items()}


def linear(width):
    return nn.Linear(2, width, bias=False)


@pytest.mark.parametrize(("width", "rows"), [(1, [1, 0, 0, 0]), (2, [0, 1, 0, 0]), (4, [0, 0, 1, 1])])
def test_dylora_equation_8_unique_changes_the_rows_beyond_the_next_smaller_width(width, rows):
    net = SortedNet(linear, Space(width=[1, 2, 4]))
    assert changed(net, {"width": width})["weight"] == [[row, row] for row in rows]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a=1,b=1", [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ("a=2,b=1", [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ("a=1,b=3", [[0, 0, 0], [1, 0, 0], [1, 0, 0]]),
        ("a=2,b=3", [[0, 0, 0], [0, 1, 0], [0, 1, 0]]),
        ("a=3,b=3", [[0, 0, 0], [0, 0, 1], [0, 0, 1]]),
    ],
)
def test_dylora_equation_8_unique_in_two_dimensions_leaves_out_both_smaller_sub_models(setting, expected):
    net = SortedNet(lambda a, b: nn.Linear(a, b, bias=False), Space(a=[1, 2, 3], b=[1, 3]))
    assert changed(net, setting)["weight"] == expected


def test_unique_of_several_drawn_is_what_each_has_of_its_own():
    net = SortedNet(linear, Space(width=[1, 2, 4]))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.full.weight.grad = torch.ones(4, 2)
    before = weights(net)["weight"]
    apply_update(net, optimizer, [net.space[0], net.space[2]], "unique")
    assert (weights(net)["weight"] != before).any(1).tolist() == [True, False, True, True]


def test_touched_of_several_drawn_is_all_that_any_covers():
    net = SortedNet(lambda a, b: nn.Linear(a, b, bias=False), Space(a=[1, 3], b=[1, 3]))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.full.weight.grad = torch.ones(3, 3)
    before = weights(net)["weight"]
    apply_update(net, optimizer, [net.space.setting("a=3,b=1"), net.space.setting("a=1,b=3")], "touched")
    assert (weights(net)["weight"] != before).int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_unique_changes_a_layer_that_only_the_deeper_sub_model_has():
    net = network(Space(depth=[1, 2]))
    found = changed(net, "depth=2")
    assert not torch.tensor(found["hidden.0.weight"]).any()
    assert not torch.tensor(found["head.weight"]).any()
    assert torch.tensor(found["hidden.1.weight"]).all()


@pytest.mark.parametrize("update", ["touched", "unique"])
def test_a_tied_parameter_is_changed_where_either_of_its_names_is_covered(update):
    net = SortedNet(Tied, Space(width=[1, 2]))
    assert changed(net, "width=1", update)["embed.weight"] == [[1, 0]] * 7


def test_unique_restores_the_moments_of_a_scalar_parameter():
    class Scale(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear, self.scale = nn.Linear(2, width), nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return self.linear(x) * self.scale

    net = SortedNet(Scale, Space(width=[2, 4]))
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    x = torch.ones(2, 2)
    step(net, Stochastic(Cycle(net.space, ["width=2"])), optimizer, (x, x), functional.mse_loss, update="unique")
    before = optimizer.state[net.full.scale]["exp_avg"].clone()
    y = torch.ones(2, 4)
    step(net, Stochastic(Cycle(net.space, ["width=4"])), optimizer, (x, y), functional.mse_loss, update="unique")
    assert torch.equal(optimizer.state[net.full.scale]["exp_avg"], before)


# --- what is easily given wrong ---------------------------------------------------------------------------------------


def easily_wrong():
    from sortednet.models import MLP

    space = Space(width=[2, 4])
    net = SortedNet(lambda width: MLP(1, width, inputs=3, classes=2), space)
    batch = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)
    return net, Stochastic(Uniform(space, seed=0)), torch.optim.SGD(net.parameters(), 0.1), batch


def test_an_optimiser_of_another_network_is_refused():
    net, objective, _, batch = easily_wrong()
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(TrainingError, match=r"holds no full.*net\.parameters"):
        step(net, objective, other, batch, nn.functional.cross_entropy)


def test_one_batch_in_place_of_a_list_is_refused():
    net, objective, optimizer, batch = easily_wrong()
    with pytest.raises(DataError, match=r"list of batches"):
        step(net, objective, optimizer, batch, nn.functional.cross_entropy, accumulate=True)


@pytest.mark.parametrize("wrong", [lambda o, y: o, lambda o, y: 1.0, lambda o, y: None])
def test_a_loss_that_is_no_mean_is_refused(wrong):
    net, objective, optimizer, batch = easily_wrong()
    with pytest.raises(TrainingError, match=r"loss_fn returned .*Return the mean loss"):
        step(net, objective, optimizer, batch, wrong)


@pytest.mark.parametrize("policy", ["shared", "private"])
def test_a_refused_step_leaves_the_running_statistics(policy):
    from sortednet.models import PreResNet

    space = Space(width=[2, 4])
    net = SortedNet(lambda width: PreResNet(1, width, stages=1, channels=1), space, buffers=policy)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    bad = torch.full((3, 1, 4, 4), math.nan), torch.arange(3)
    with pytest.raises(TrainingError, match="No weight was changed"):
        step(net, Summation(space), torch.optim.SGD(net.parameters(), 0.1), bad, functional.cross_entropy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
