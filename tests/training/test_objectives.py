"""The loss of each objective by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sortednet import (
    Cycle,
    Distillation,
    PerExample,
    Sandwich,
    SortedNet,
    Space,
    Stochastic,
    StochasticSummation,
    Stratified,
    Summation,
    Uniform,
)
from sortednet.errors import DataError, SortedNetError
from sortednet.models import MLP
from sortednet.training.objectives import Penalised

SPACE = Space(depth=[1, 2], width=[2, 4])
SMALL, WIDE = "depth=1,width=2", "depth=1,width=4"
DEEP, FULL = "depth=2,width=2", "depth=2,width=4"


def network():
    torch.manual_seed(0)
    return SortedNet(lambda depth, width: MLP(depth, width, inputs=3, classes=3), SPACE).double()


def batch(size=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 3, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (size,), generator=generator)


def mean_loss(net, setting, part=slice(None)):
    x, y = batch()
    return functional.cross_entropy(net.extract(setting)(x[part]), y[part])


def texts(objective, size=6):
    return [str(one) for one in objective.choose(size)[0]]


# --- by hand --------------------------------------------------------------------------------------------------------


def test_stochastic_loss_section_3_is_the_drawn_sub_models_loss():
    net = network()
    loss = Stochastic(Cycle(SPACE, [DEEP]))(net, batch(), functional.cross_entropy)
    torch.testing.assert_close(loss, mean_loss(net, DEEP))


@pytest.mark.parametrize(
    ("inside", "drawn", "expected"),
    [
        ("along", FULL, [WIDE, DEEP, FULL]),
        ("along", DEEP, [SMALL, DEEP]),
        ("along", SMALL, [SMALL]),
        ("all", FULL, [SMALL, WIDE, DEEP, FULL]),
        ("all", WIDE, [SMALL, WIDE]),
    ],
)
def test_stochastic_summation_section_3_is_the_mean_over_the_sub_models_inside(inside, drawn, expected):
    net = network()
    objective = StochasticSummation(Cycle(SPACE, [drawn]), inside=inside)
    assert sorted(texts(objective)) == sorted(expected)
    loss = objective(net, batch(), functional.cross_entropy)
    torch.testing.assert_close(loss, torch.stack([mean_loss(net, one) for one in expected]).mean())


def test_summation_section_3_is_the_mean_over_the_whole_space():
    net = network()
    loss = Summation(SPACE)(net, batch(), functional.cross_entropy)
    torch.testing.assert_close(loss, torch.stack([mean_loss(net, one) for one in SPACE]).mean())


def test_settings_weights_are_normalised():
    net = network()
    objective = Summation(Space(depth=[1, 2], width=[2, 4]), settings_weight=lambda one: one["width"] / 2)
    terms = objective.terms(net, batch(), functional.cross_entropy)
    assert {str(term.setting): term.weight for term in terms} == pytest.approx(
        {SMALL: 1 / 6, WIDE: 2 / 6, DEEP: 1 / 6, FULL: 2 / 6}
    )


def test_a_summation_that_is_summed_is_the_papers_sum():
    net = network()
    loss = Summation(SPACE, reduction="sum")(net, batch(), functional.cross_entropy)
    torch.testing.assert_close(loss, torch.stack([mean_loss(net, one) for one in SPACE]).sum())


def test_sub_models_that_get_the_whole_batch_each_have_their_own_mean_loss():
    net = network()
    objective = Stochastic(Cycle(SPACE, [SMALL, FULL]), draws=2, split=False)
    terms = objective.terms(net, batch(), functional.cross_entropy)
    assert [(str(term.setting), term.weight) for term in terms] == [(SMALL, 0.5), (FULL, 0.5)]
    for term in terms:
        torch.testing.assert_close(term.loss, mean_loss(net, term.setting))


def test_examples_that_cannot_be_counted_matter_only_where_the_batch_is_parted():
    class Sequence(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.recurrent, self.head = nn.RNN(3, width), nn.Linear(width, 2)

        def forward(self, steps):
            return self.head(self.recurrent(steps)[0]).mean(0)

    net = SortedNet(Sequence, Space(width=[2, 4]))
    steps, targets = torch.randn(7, 5, 3), torch.tensor([0, 1, 0, 1, 1])  # 7 steps of 5 examples
    for draws in (1, 2):
        objective = Stochastic(Uniform(net.space, seed=0), draws=draws, split=False)
        objective(net, (steps, targets), functional.cross_entropy).backward()
    Summation(net.space)(net, (steps, targets), functional.cross_entropy).backward()
    with pytest.raises(DataError, match=r"batch_axis="):
        Stochastic(Cycle(net.space, ["width=2", "width=4"]), draws=2)(net, (steps, targets), functional.cross_entropy)


@pytest.mark.parametrize("form", [list, tuple, torch.stack])
def test_one_batch_given_as_a_pair_of_tensors(form):
    net = network()
    x = torch.randn(6, 3, dtype=torch.float64)
    objective = Stochastic(Uniform(net.space, seed=0), draws=2)
    pair = form([x, x]) if form is torch.stack else form((x, x))

    def loss(outputs, targets):
        return outputs.mean() + targets.mean()

    if form is torch.stack:
        with pytest.raises(DataError, match=r"Give \(inputs, targets\)"):
            objective(net, pair, loss)
    else:
        objective(net, pair, loss).backward()


def test_a_sub_model_drawn_twice_for_the_whole_batch_is_trained_once():
    objective = Stochastic(Cycle(SPACE, [SMALL, FULL, SMALL]), draws=3, split=False)
    assert [str(one) for one in objective.choose(6)[0]] == [SMALL, FULL]


def test_a_penalty_is_added_once_whatever_the_reduction():
    net = network()
    for reduction in ("mean", "sum"):
        inner = Summation(SPACE, reduction=reduction)
        loss = Penalised(inner, lambda full: full.head.weight.square().sum())(net, batch(), functional.cross_entropy)
        expected = inner(net, batch(), functional.cross_entropy) + net.full.head.weight.square().sum()
        torch.testing.assert_close(loss, expected)


# --- split batches --------------------------------------------------------------------------------------------------


def test_a_split_batch_gives_each_draw_its_own_examples():
    net = network()
    terms = Stochastic(Cycle(SPACE, [SMALL, FULL]), draws=2).terms(net, batch(), functional.cross_entropy)
    torch.testing.assert_close(terms[0].loss, mean_loss(net, SMALL, slice(3)))
    torch.testing.assert_close(terms[1].loss, mean_loss(net, FULL, slice(3, 6)))


@pytest.mark.parametrize("draws", [1, 2, 4, 5, 6, 9])
def test_a_split_batch_of_one_repeated_setting_has_the_whole_batchs_mean_loss(draws):
    net = network()
    objective = Stochastic(Cycle(SPACE, [DEEP]), draws=draws)
    (term,) = objective.terms(net, batch(), functional.cross_entropy)
    assert term.weight == 1
    torch.testing.assert_close(term.loss, mean_loss(net, DEEP))


@pytest.mark.parametrize(
    ("drawn", "size", "expected"),
    [
        ([SMALL, FULL, SMALL], 6, {SMALL: 4, FULL: 2}),
        ([SMALL, FULL, SMALL], 7, {SMALL: 5, FULL: 2}),
        ([FULL, SMALL, DEEP, SMALL], 6, {FULL: 2, SMALL: 3, DEEP: 1}),
        ([FULL, FULL], 5, {FULL: 5}),
    ],
)
def test_equal_draws_are_run_together_on_all_their_examples(drawn, size, expected):
    objective = Stochastic(Cycle(SPACE, drawn), draws=len(drawn))
    settings, sizes = objective.choose(size)
    assert dict(zip(map(str, settings), sizes or [size], strict=True)) == expected
    net, start = network(), 0
    terms = Stochastic(Cycle(SPACE, drawn), draws=len(drawn)).terms(net, batch(size), functional.cross_entropy)
    x, y = batch(size)
    for term in terms:
        part = slice(start, start := start + expected[str(term.setting)])
        torch.testing.assert_close(
            term.loss, functional.cross_entropy(net.extract(term.setting)(x[part]), y[part]), rtol=0, atol=1e-12
        )
        assert term.weight == pytest.approx(expected[str(term.setting)] / size)


def test_a_batch_too_small_for_all_that_must_be_drawn_has_a_loss():
    objective = Stochastic(Sandwich(Uniform(SPACE, seed=0)), draws=3)
    (term,) = objective.terms(network(), batch(1), functional.cross_entropy)
    assert torch.isfinite(term.loss)


def test_uneven_parts_weigh_as_many_examples_as_they_hold():
    terms = Stochastic(Cycle(SPACE, [SMALL, WIDE, DEEP, FULL]), draws=4).terms(
        network(), batch(), functional.cross_entropy
    )
    assert [term.weight for term in terms] == pytest.approx([2 / 6, 2 / 6, 1 / 6, 1 / 6])


def test_settings_weights_multiply_the_weights_of_uneven_parts():
    objective = Stochastic(Cycle(SPACE, [SMALL, FULL]), draws=2, settings_weight=lambda one: one["depth"])
    terms = objective.terms(network(), batch(5), functional.cross_entropy)
    assert [term.weight for term in terms] == pytest.approx([3 / 7, 4 / 7])


def test_a_batch_smaller_than_the_draws_costs_the_sampler_no_more_than_it_uses():
    sampler = Stratified(SPACE, seed=0)
    Stochastic(sampler, draws=8)(network(), batch(3), functional.cross_entropy)
    assert sampler.count == 3


@pytest.mark.parametrize(
    "objective",
    [
        Stochastic(Uniform(SPACE, seed=0), draws=4),
        PerExample(Uniform(SPACE, seed=0)),
        PerExample(Stratified(SPACE, seed=0), settings_weight=lambda one: one["width"]),
        StochasticSummation(Uniform(SPACE, seed=0)),
        StochasticSummation(Uniform(SPACE, seed=0), inside="all"),
        Summation(SPACE),
        Summation(SPACE, Distillation(0.5), lambda one: one["width"] ** 2),
    ],
)
def test_weights_add_up_to_one(objective):
    for _ in range(4):
        terms = objective.terms(network(), batch(5), functional.cross_entropy)
        assert sum(term.weight for term in terms) == pytest.approx(1)


# --- a sub-model for each example -----------------------------------------------------------------------------------


def test_every_example_has_a_draw_of_its_own():
    sampler = Stratified(SPACE, seed=0)
    settings, sizes = PerExample(sampler).choose(8)
    assert sampler.count == 8
    assert sizes == [2, 2, 2, 2]
    assert set(settings) == set(SPACE)


def test_the_loss_of_one_sub_model_for_each_example_is_the_mean_over_the_examples():
    net, (x, y) = network(), batch()
    settings, sizes = PerExample(Uniform(SPACE, seed=1)).choose(6)
    own = [setting for setting, size in zip(settings, sizes, strict=True) for _ in range(size)]
    expected = torch.stack(
        [functional.cross_entropy(net.extract(one)(x[place, None]), y[place, None]) for place, one in enumerate(own)]
    ).mean()
    torch.testing.assert_close(PerExample(Uniform(SPACE, seed=1))(net, (x, y), functional.cross_entropy), expected)


def test_no_place_in_the_batch_belongs_to_one_sub_model():
    # Where the loader puts like examples in like places, each sub-model must still see all of them.
    objective, seen = PerExample(Stratified(SPACE, seed=0)), [set(), set()]
    for _ in range(60):
        settings, _ = objective.choose(4)
        seen[0].add(settings[0])
        seen[1].add(settings[-1])
    assert seen == [set(SPACE)] * 2


def test_a_batch_of_one_example_draws_one_sub_model():
    settings, sizes = PerExample(Uniform(SPACE, seed=0)).choose(1)
    assert (len(settings), sizes) == (1, None)


def test_a_sampler_that_is_none_is_refused():
    with pytest.raises(
        SortedNetError, match=r"Space\(.*\) is no sampler\. Give one, such as Stratified\(space, seed=0\)"
    ):
        PerExample(SPACE)


@pytest.mark.parametrize("make", [Stochastic, StochasticSummation, PerExample])
def test_an_objective_resumes_where_its_state_was_taken(make):
    objective, again = make(Uniform(SPACE, seed=3)), make(Uniform(SPACE, seed=4))
    [objective.choose(6) for _ in range(3)]
    again.load_state_dict(objective.state_dict())
    assert [texts(again) for _ in range(8)] == [texts(objective) for _ in range(8)]


def test_a_summation_has_no_state():
    assert Summation(SPACE).state_dict() == {}
    Summation(SPACE).load_state_dict({})


# --- mappings -------------------------------------------------------------------------------------------------------


class Labelled(nn.Module):
    """Takes keyword arguments and returns a mapping with its own loss, as Hugging Face's models do."""

    def __init__(self, width):
        super().__init__()
        self.mlp = MLP(1, width, inputs=3, classes=3)

    def forward(self, x: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        logits = self.mlp(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def labelled():
    torch.manual_seed(0)
    return SortedNet(Labelled, Space(width=[2, 4])).double()


@pytest.mark.parametrize("draws", [1, 4])
def test_a_mapping_goes_to_the_model_by_name_and_to_the_loss_whole(draws):
    net, (x, y) = labelled(), batch()
    seen = []

    def loss_fn(output, part):
        seen.append(len(part["labels"]))
        return output["loss"]

    loss = Stochastic(Cycle(net.space, ["width=2"]), draws=draws)(net, {"x": x, "labels": y}, loss_fn)
    assert seen == [6]
    torch.testing.assert_close(loss, net.extract(width=2)(x, y)["loss"])


def test_several_inputs_come_before_the_targets():
    class Sum(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.mlp = MLP(1, width, inputs=3, classes=3)

        def forward(self, x, y):
            return self.mlp(x + y)

    net, (x, y) = SortedNet(Sum, Space(width=[2, 4])).double(), batch()
    loss = Stochastic(Cycle(net.space, ["width=2"]))(net, [x, 2 * x, y], functional.cross_entropy)
    torch.testing.assert_close(loss, functional.cross_entropy(net.extract(width=2)(x, 2 * x), y))


# --- distillation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_from_the_softened_full_model(temperature):
    net, (x, y) = network(), batch()
    objective = Stochastic(Cycle(SPACE, [SMALL]), distillation=Distillation(0.7, temperature))
    student, teacher = net.extract(SMALL)(x), net.extract(FULL)(x)
    p = (teacher / temperature).softmax(-1)
    divergence = (p * (p.log() - (student / temperature).log_softmax(-1))).sum(-1).mean()
    expected = functional.cross_entropy(student, y) + 0.7 * temperature**2 * divergence
    torch.testing.assert_close(objective(net, (x, y), functional.cross_entropy), expected)


def test_split_distillation_compares_each_part_with_the_full_models_own_part():
    net = network()
    whole = Stochastic(Cycle(SPACE, [SMALL]), distillation=Distillation())
    split = Stochastic(Cycle(SPACE, [SMALL]), draws=4, distillation=Distillation())
    one, other = (objective(net, batch(), functional.cross_entropy) for objective in (whole, split))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("draws", [1, 2])
def test_the_teacher_gets_no_gradient(draws):
    net = network()
    objective = Stochastic(Cycle(SPACE, [SMALL]), draws=draws, distillation=Distillation(2.0))
    objective(net, batch(), functional.cross_entropy).backward()
    for name, parameter in net.full.named_parameters():
        corner = dict(net.skeleton(SMALL).slots()).get(name)
        outside = torch.ones_like(parameter, dtype=torch.bool)
        if corner is None:
            assert parameter.grad is None
        else:
            corner.mark(outside, False)
            assert not parameter.grad[outside].any()
            assert parameter.grad[~outside].any()


def test_the_full_model_distilled_from_itself_adds_nothing():
    net = network()
    plain, distilled = (
        Stochastic(Cycle(SPACE, [FULL]), distillation=one)(net, batch(), functional.cross_entropy)
        for one in (None, Distillation())
    )
    torch.testing.assert_close(plain, distilled)


def test_a_distillation_of_weight_zero_does_not_run_the_teacher():
    calls = []
    net = network()
    objective = Stochastic(Cycle(SPACE, [SMALL]), distillation=Distillation(0.0))

    class Spy(nn.Module):
        def forward(self, *args, **kwargs):
            calls.append(kwargs.get("settings"))
            return net(*args, **kwargs)

    objective(Spy(), batch(), functional.cross_entropy)
    assert len(calls) == 1


def test_a_loss_of_ones_own_replaces_the_divergence():
    net, (x, y) = network(), batch()
    distillation = Distillation(0.5, loss=functional.mse_loss)
    loss = Stochastic(Cycle(SPACE, [SMALL]), distillation=distillation)(net, (x, y), functional.cross_entropy)
    expected = mean_loss(net, SMALL) + 0.5 * functional.mse_loss(net.extract(SMALL)(x), net.extract(FULL)(x))
    torch.testing.assert_close(loss, expected)


@dataclass
class Output:
    logits: Tensor


class WithOutput(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = MLP(1, width, inputs=3, classes=3)

    def forward(self, x):
        return Output(self.mlp(x))


def _output_loss(output, target):
    return functional.cross_entropy(output.logits, target)


@pytest.mark.parametrize("draws", [1, 3])
def test_outputs_with_logits_are_distilled_by_them(draws):
    net = SortedNet(WithOutput, Space(width=[2, 4])).double()
    objective = Stochastic(Cycle(net.space, ["width=2"]), draws=draws, distillation=Distillation())
    (x, y), student, teacher = batch(), net.extract(width=2), net.extract()
    expected = _output_loss(student(x), y) + Distillation()(student(x), teacher(x))
    torch.testing.assert_close(objective(net, (x, y), _output_loss), expected)


@pytest.mark.parametrize(
    "draws",
    [
        1,
        pytest.param(2),
    ],
)
def test_a_loss_of_ones_own_gets_logits_whether_split_or_not(draws):
    net = SortedNet(WithOutput, Space(width=[2, 4])).double()
    kinds = []

    def follow(output, teacher):
        kinds.append(type(teacher))
        return output.sum() * 0

    objective = Stochastic(Cycle(net.space, ["width=2"]), draws=draws, distillation=Distillation(loss=follow))
    objective(net, batch(), _output_loss)
    assert kinds == [Tensor]


def test_an_output_without_logits_is_refused_in_words():
    net, (x, y) = labelled(), batch()
    objective = Stochastic(Cycle(net.space, ["width=2"]), distillation=Distillation())
    with pytest.raises(SortedNetError, match="logits"):
        objective(net, {"x": x, "labels": y}, lambda output, _: output["loss"])


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": -1.0}, {"weight": -1.0}])
def test_a_distillation_outside_its_bounds_is_refused(options):
    with pytest.raises(SortedNetError, match=next(iter(options))):
        Distillation(**options)


def test_distillation_does_not_change_the_statistics():
    def norms(width):
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 3))

    found = []
    for distillation in (None, Distillation()):
        torch.manual_seed(0)
        net = SortedNet(norms, Space(width=[2, 4])).double()
        Stochastic(Cycle(net.space, ["width=2"]), distillation=distillation)(net, batch(), functional.cross_entropy)
        found.append(net.full[1].num_batches_tracked.item())
    assert found[0] == found[1]


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nothing", [(), {}, ("text", 3), (torch.tensor(1.0), torch.tensor(2)), torch.ones(2, 3), "text"]
)
def test_a_batch_without_examples_or_targets_is_refused(nothing):
    with pytest.raises(DataError, match=r"Give \(inputs, targets\)"):
        Summation(SPACE)(network(), nothing, functional.cross_entropy)


def test_a_batch_without_examples_is_refused():
    with pytest.raises(DataError, match=r"empty|no example"):
        Stochastic(Uniform(SPACE, seed=0))(network(), batch(0), functional.cross_entropy)


@pytest.mark.parametrize("draws", [0, -2])
def test_fewer_than_one_draw_is_refused(draws):
    with pytest.raises(SortedNetError, match=f"draws={draws}"):
        Stochastic(Uniform(SPACE, seed=0), draws=draws).choose(6)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_settings_weights_that_are_no_weights_are_refused(weight):
    objective = Stochastic(Cycle(SPACE, [SMALL]), settings_weight=lambda one: weight)
    with pytest.raises(SortedNetError, match="weight"):
        objective(network(), batch(), functional.cross_entropy)


def test_an_unknown_choice_of_sub_models_inside_is_refused():
    with pytest.raises(SortedNetError, match="alnog"):
        StochasticSummation(Uniform(SPACE, seed=0), inside="alnog").choose(6)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(SortedNetError, match=r"reduction='max' is unknown\. Choose one of mean, sum\."):
        Summation(SPACE, reduction="max")
