"""Parts of a batch: a trial notices where examples are not what the shapes say."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import DataError, TrainingError

WIDTHS = sn.Space(width=[2, 4])
HALVES = {"settings": ["width=2", "width=4"], "split": True}


class TimeFirst(nn.Module):
    """Takes steps of time first, and returns the last, or each of them."""

    def __init__(self, width, last=False):
        super().__init__()
        self.recurrent, self.head, self.last = nn.RNN(3, width), nn.Linear(width, 2), last

    def forward(self, x):
        states, _ = self.recurrent(x)
        return self.head(states[-1] if self.last else states)


class Contrastive(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.other = nn.Linear(3, width), nn.Linear(3, width)

    def forward(self, x):
        return self.one(x) @ self.other(x).T


class Masked(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x, mask):
        return self.last(mask @ self.first(x))


class Drawing(nn.Module):
    """Draws in evaluation too, as a variational autoencoder may."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + torch.randn_like(x))


class PerImage(nn.Module):
    """Takes and returns a list with an item for each example, as detectors do."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, images):
        return [{"boxes": self.last(self.first(image))} for image in images]


def net(build, **more):
    torch.manual_seed(0)
    return sn.SortedNet(lambda width: build(width, **more), WIDTHS)


@pytest.mark.parametrize("last", [True, False])
def test_as_many_steps_as_examples_are_not_taken_for_examples(last):
    one, x = net(TimeFirst, last=last), torch.randn(4, 4, 3)
    with pytest.raises(DataError, match=r"Halves of a batch do not give what the batch gives.*batch_axis=1"):
        one(x, **HALVES)
    found = one(x, **HALVES, batch_axis=1)
    for setting, output, part in zip(HALVES["settings"], found, x.split(2, dim=1), strict=True):
        torch.testing.assert_close(output, one.at(setting)(part))


def test_a_model_that_compares_examples_is_refused_and_takes_whole_batches():
    one, x = net(Contrastive), torch.randn(4, 3)
    with pytest.raises(DataError, match=r"outputs have shape \(4, 4\).*split=False"):
        one(x, **HALVES)
    objective = sn.Stochastic(sn.Cycle(WIDTHS, ["width=2", "width=4"]), draws=2, split=False)
    loss = objective(one, (x, torch.arange(4)), functional.cross_entropy)
    loss.backward()


def test_a_mask_between_as_many_examples_is_noticed():
    one, x = net(Masked), torch.randn(4, 3)
    with pytest.raises(DataError, match="Halves of a batch"):
        one(x, torch.rand(4, 4), **HALVES)


def test_what_a_model_draws_is_no_difference():
    assert len(net(Drawing)(torch.randn(4, 3), **HALVES)) == 2


def test_lists_of_images_of_any_size_are_parted():
    one = net(PerImage)
    images = [torch.randn(count, 3) for count in (1, 2, 3, 5)]
    found = one(images, **HALVES)
    assert [len(output) for output in found] == [2, 2]
    torch.testing.assert_close(found[1][1]["boxes"], one.at("width=4")([images[3]])[0]["boxes"])


def test_a_network_of_another_type_is_watched_as_it_is():
    one = net(TimeFirst).double()
    one(torch.randn(2, 3, 3, dtype=torch.float64))
    assert one.cuts.known


def test_another_kind_of_call_has_a_trial_of_its_own():
    class Either(Masked):
        def forward(self, x, mask=None):
            x = self.first(x)
            return self.last(x if mask is None else mask @ x)

    one, x = net(Either), torch.randn(4, 3)
    assert len(one(x, **HALVES)) == 2
    with pytest.raises(DataError, match="Halves of a batch"):
        one(x, torch.rand(4, 4), **HALVES)
    with pytest.raises(DataError, match="Halves of a batch"):
        one(x, mask=torch.rand(4, 4), **HALVES)


def test_the_trial_leaves_no_trace():
    torch.manual_seed(0)

    def build(width):
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2))

    one = sn.SortedNet(build, WIDTHS, example=torch.randn(4, 3))
    other, x = copy.deepcopy(one), torch.randn(8, 3)
    other(x, **HALVES)  # tried
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        torch.manual_seed(1)
        each.outputs = each(x, **HALVES)
    for ours, theirs in zip(one.outputs, other.outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


# --- in training ----------------------------------------------------------------------------------------------------


def plain():
    torch.manual_seed(0)
    return sn.SortedNet(lambda width: nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 4)), WIDTHS)


def draws(count, **more):
    return sn.Stochastic(sn.Stratified(WIDTHS, seed=0), draws=count, **more)


def test_every_example_meets_its_own_target_whatever_that_is():
    one, seen = plain(), []
    x = torch.eye(4, 3) * torch.arange(1, 5).view(4, 1)

    def loss(output, targets):
        seen.extend(zip(output.detach(), targets, strict=True))
        return output.sum()

    optimizer = torch.optim.SGD(one.parameters(), 0.0)
    sn.step(one, draws(2), optimizer, (x, ["0", "1", "2", "3"]), loss)
    assert [target for _, target in seen] == ["0", "1", "2", "3"]
    for place, (output, _) in enumerate(seen):
        part = [one.at(setting)(x[place]) for setting in WIDTHS]
        assert any(torch.allclose(output, expected) for expected in part)


def test_a_loss_that_is_constant_on_parts_is_reported():
    one, x = plain(), torch.randn(2, 3)

    def contrastive(output, _):
        return functional.cross_entropy(output @ output.T, torch.arange(len(output)))

    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    with pytest.warns(UserWarning, match=r"the loss is 0\.0, whatever the model gives.*split=False"):
        sn.step(one, draws(2), optimizer, (x, torch.arange(2)), contrastive)
    sn.step(one, draws(2, split=False), optimizer, (x, torch.arange(2)), contrastive)


def test_equal_losses_of_a_model_that_begins_at_zero_are_no_constant():
    one = plain()
    nn.init.zeros_(one.full[2].weight)
    nn.init.zeros_(one.full[2].bias)
    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    sn.step(one, draws(2), optimizer, (torch.randn(4, 3), torch.arange(4)), functional.cross_entropy)


@pytest.mark.parametrize(("size", "count"), [(12, 8), (5, 4), (3, 3), (2, 2), (7, 2)])
@pytest.mark.parametrize("per_example", [True, False])
def test_with_batch_norm_no_part_has_fewer_than_two_examples(size, count, per_example):
    space = sn.Space(width=[2, 3, 4, 5, 6, 7, 8, 9])
    torch.manual_seed(0)
    one = sn.SortedNet(
        lambda width: nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2)), space
    )
    sampler = sn.Stratified(space, seed=0)
    objective = sn.PerExample(sampler) if per_example else sn.Stochastic(sampler, draws=count)
    sizes = []

    def loss(output, targets):
        sizes.append(len(targets))
        return functional.cross_entropy(output, targets)

    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    sn.step(one, objective, optimizer, (torch.randn(size, 3), torch.zeros(size, dtype=torch.long)), loss)
    assert sum(sizes) == size
    assert min(sizes) >= 2


def later(first, then):
    def both(*args, **kwargs):
        output = first(*args, **kwargs)
        then(output)
        return output

    return both


@pytest.mark.parametrize("fails", ["loss", "backward", "forward", "second batch"])
def test_after_any_exception_nothing_has_changed(fails, monkeypatch):
    torch.manual_seed(0)
    one = sn.SortedNet(
        lambda width: nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2)), WIDTHS
    )
    optimizer = torch.optim.AdamW(one.parameters(), 0.1)
    batch = torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
    sn.step(one, draws(2), optimizer, batch, functional.cross_entropy)
    before, held = copy.deepcopy(one.state_dict()), copy.deepcopy(optimizer.state_dict())
    calls = []

    def loss(output, targets):
        calls.append(output)
        if fails == "loss" or (fails == "second batch" and len(calls) > 2):
            raise KeyError("mine")
        return functional.cross_entropy(output, targets)

    def backward(value):
        value.backward()
        if fails == "backward":
            raise KeyError("mine")

    def forward(output):
        if fails == "forward" and output.shape[1] == 2 and output.requires_grad:  # behind the norm, in training
            raise KeyError("mine")

    monkeypatch.setattr(functional, "linear", later(functional.linear, forward))
    with pytest.raises(KeyError, match="mine"):
        sn.step(one, draws(2), optimizer, [batch, batch], loss, accumulate=True, backward=backward)
    monkeypatch.undo()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    now = optimizer.state_dict()
    for key, state in held["state"].items():
        assert all(torch.equal(now["state"][key][name], value) for name, value in state.items())
    assert all(parameter.grad is None for parameter in one.parameters())


def test_an_optimiser_that_lacks_a_parameter_is_refused():
    one = plain()
    optimizer = torch.optim.SGD(one.full[0].parameters(), 0.1)
    batch = torch.randn(4, 3), torch.arange(4)
    with pytest.raises(TrainingError, match=r"holds no full\.2\.weight, full\.2\.bias\. Make it over net.parameters"):
        sn.step(one, draws(2), optimizer, batch, functional.cross_entropy)
    one.full[2].requires_grad_(False)
    sn.step(one, draws(2), optimizer, batch, functional.cross_entropy)
    private = sn.SortedNet(lambda width: nn.Sequential(nn.Linear(3, width)), WIDTHS, private="0.bias")
    early = torch.optim.SGD(private.full.parameters(), 0.1)
    with pytest.raises(TrainingError, match="private"):
        sn.step(private, draws(2), early, batch, lambda output, _: output.sum())


def test_an_optimiser_that_needs_a_closure_and_a_wrapped_network_are_refused():
    one, batch = plain(), (torch.randn(4, 3), torch.arange(4))
    with pytest.raises(TrainingError, match="LBFGS evaluates the loss several times"):
        sn.step(one, draws(2), torch.optim.LBFGS(one.parameters()), batch, functional.cross_entropy)
    with pytest.raises(TrainingError, match=r"net is a DataParallel. Give net=wrapped.module, model=wrapped"):
        sn.step(nn.DataParallel(one), draws(2), torch.optim.SGD(one.parameters(), 0.1), batch, functional.cross_entropy)


def test_statistics_are_measured_where_the_last_batch_is_one_example():
    def build(width):
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))

    one = sn.SortedNet(build, WIDTHS, buffers="reestimated")
    one.reestimate([torch.randn(4, 3), torch.randn(1, 3)])
