"""What sub-models follow: logits, hidden states and labels, of the full model or another teacher."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sortednet import Cycle, Distillation, SortedNet, Space, Stochastic, Summation
from sortednet.errors import ConfigError, DataError
from sortednet.models import MLP

SPACE = Space(depth=[1, 2], width=[2, 4])
SMALL, FULL = "depth=1,width=2", "depth=2,width=4"


def network() -> SortedNet:
    torch.manual_seed(0)
    return SortedNet(lambda depth, width: MLP(depth, width, inputs=3, classes=3), SPACE).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, dtype=torch.float64, generator=generator), torch.arange(6) % 3


def both(distillation: Distillation) -> Stochastic:
    """Train the smallest and the full model on the whole batch."""
    return Stochastic(Cycle(SPACE, [SMALL, FULL]), 2, distillation, split=False)


def losses(
    objective: Any, net: SortedNet, given: Any = None, loss_fn: Any = functional.cross_entropy
) -> dict[str, Tensor]:
    terms = objective.terms(net, batch() if given is None else given, loss_fn)
    return {str(term.setting): term.loss for term in terms}


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.softmax(-1)
    return (p * (p.log() - student.log_softmax(-1))).sum(-1).mean()


# --- in place -------------------------------------------------------------------------------------------------------


def test_in_place_the_full_models_own_output_of_the_batch_is_followed() -> None:
    net, (x, y) = network(), batch()
    found = losses(both(Distillation(0.7)), net)
    student, teacher = net.extract(SMALL)(x), net.extract()(x)
    torch.testing.assert_close(found[SMALL], functional.cross_entropy(student, y) + 0.7 * divergence(student, teacher))


def test_in_place_the_full_model_is_not_run_once_more() -> None:
    calls, net = [], network()

    class Spy(nn.Module):
        def forward(self, *args: Any, **how: Any) -> Any:
            calls.append(how["settings"])
            return net(*args, **how)

    both(Distillation()).terms(Spy(), batch(), functional.cross_entropy)
    assert len(calls) == 1


def test_in_place_the_output_of_the_mode_of_training_is_followed() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 3))

    torch.manual_seed(0)
    space = Space(width=[2, 4])
    net, (x, _) = SortedNet(build, space).double(), batch()
    student, teacher = net.extract(width=2)(x), net.extract()(x)
    found = losses(Summation(space, Distillation(labels=0.0)), net)
    torch.testing.assert_close(found["width=2"], divergence(student, teacher))


def test_in_place_the_full_model_follows_nothing() -> None:
    net, (x, y) = network(), batch()
    found = losses(both(Distillation(5.0, labels=0.0)), net)
    torch.testing.assert_close(found[FULL], functional.cross_entropy(net.extract()(x), y))


def test_in_place_the_teacher_gets_no_gradient() -> None:
    net = network()
    losses(both(Distillation(labels=0.0)), net)[SMALL].backward()
    assert net.full.hidden[1].weight.grad is None or not net.full.hidden[1].weight.grad.any()
    assert not net.full.hidden[0].weight.grad[2:].any()


def test_in_place_and_run_once_more_are_the_same_without_dropout_and_norms() -> None:
    net = network()
    alone = Stochastic(Cycle(SPACE, [SMALL]), 1, Distillation())
    torch.testing.assert_close(losses(alone, net)[SMALL], losses(both(Distillation()), net)[SMALL])


def test_in_a_split_batch_the_full_model_is_run_on_all_of_it() -> None:
    net, (x, y) = network(), batch()
    found = losses(Stochastic(Cycle(SPACE, [SMALL, FULL]), 2, Distillation(labels=0.0)), net)
    torch.testing.assert_close(found[SMALL], divergence(net.extract(SMALL)(x[:3]), net.extract()(x[:3])))
    torch.testing.assert_close(found[FULL], functional.cross_entropy(net.extract()(x[3:]), y[3:]))


# --- labels, and another teacher ------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [0.0, 0.3, 1.0])
def test_labels_weigh_the_ordinary_loss_of_what_follows(labels: float) -> None:
    net, (x, y) = network(), batch()
    student = net.extract(SMALL)(x)
    expected = labels * functional.cross_entropy(student, y) + divergence(student, net.extract()(x))
    torch.testing.assert_close(losses(both(Distillation(labels=labels)), net)[SMALL], expected)


def other() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).double()


@pytest.mark.parametrize("split", [True, False])
def test_another_teacher_is_followed_by_all_the_full_model_too(split: bool) -> None:
    net, (x, _) = network(), batch()
    objective = Stochastic(Cycle(SPACE, [SMALL, FULL]), 2, Distillation(labels=0.0, teacher=other()), split=split)
    parts = {SMALL: slice(0, 3), FULL: slice(3, 6)} if split else {SMALL: slice(6), FULL: slice(6)}
    for setting, loss in losses(objective, net).items():
        part = x[parts[setting]]
        torch.testing.assert_close(loss, divergence(net.extract(setting)(part), other().eval()(part)))


def test_another_teacher_gets_no_gradient() -> None:
    teacher = other()
    losses(both(Distillation(teacher=teacher)), network())[SMALL].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_another_teacher_gets_a_mapping_by_name() -> None:
    class Named(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.mlp = MLP(1, width, inputs=3, classes=3)

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.mlp(x)

    torch.manual_seed(0)
    net, teacher, (x, y) = SortedNet(Named, Space(width=[2, 4])).double(), Named(5).double(), batch()
    objective = Summation(net.space, Distillation(labels=0.0, teacher=teacher))
    found = losses(objective, net, {"x": x, "labels": y}, lambda output, held: output.sum())
    torch.testing.assert_close(found["width=2"], divergence(net.extract(width=2)(x, y), teacher(x, y)))


def test_what_follows_nothing_needs_no_teacher() -> None:
    assert not Distillation(0.0, hidden=0.0, labels=0.0).is_active
    net, (x, y) = network(), batch()
    found = losses(both(Distillation(0.0, labels=0.0)), net)
    torch.testing.assert_close(found[SMALL], functional.cross_entropy(net.extract(SMALL)(x), y))


def test_a_single_number_is_followed_by_its_squared_difference() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    assert Distillation(0.5)(student, teacher).item() == pytest.approx(0.5 * 2)


# --- language models ------------------------------------------------------------------------------------------------


def causal(logits: Tensor) -> Any:
    return pytest.importorskip("transformers.modeling_outputs").CausalLMOutputWithPast(logits=logits)


STUDENT = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])  # (1, 3, 2)
TEACHER = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])


def test_a_language_model_is_followed_before_tokens_with_a_label() -> None:
    labels = torch.tensor([[-100, -100, 1]])  # the last one is predicted at the second token
    found = Distillation()(causal(STUDENT), causal(TEACHER), {"labels": labels})
    torch.testing.assert_close(found, Distillation()(STUDENT[:, 1], TEACHER[:, 1]))


@pytest.mark.parametrize("targets", [None, torch.tensor([1]), {"input_ids": torch.ones(1, 3)}])
def test_every_token_is_followed_where_no_labels_are_told(targets: object) -> None:
    found = Distillation()(causal(STUDENT), causal(TEACHER), targets)
    torch.testing.assert_close(found, Distillation()(STUDENT, TEACHER))


def test_a_batch_without_any_label_adds_nothing() -> None:
    logits = STUDENT.clone().requires_grad_()
    loss = Distillation()(causal(logits), causal(TEACHER), {"labels": torch.full((1, 3), -100)})
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


# --- hidden states --------------------------------------------------------------------------------------------------


def bert() -> SortedNet:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=6,
        max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    return SortedNet.from_pretrained(model, num_hidden_layers=[2, 4], intermediate_size=[3, 6]).double().eval()


def sentences() -> dict[str, Tensor]:
    ids = torch.randint(0, 12, (4, 5), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(4) % 3}


def own_loss(output: Any, held: Mapping[str, Tensor]) -> Tensor:
    return output.loss


@pytest.mark.parametrize("teacher", ["own", "another"])
def test_hidden_states_section_2_1_of_2004_04037_follow_those_at_the_same_share_of_the_depth(teacher: str) -> None:
    net, held = bert(), sentences()
    guide = net.extract() if teacher == "own" else bert().extract()
    if teacher == "another":
        torch.nn.init.normal_(guide.bert.encoder.layer[0].output.dense.bias)
    distillation = Distillation(0.0, labels=0.0, hidden=0.5, teacher=None if teacher == "own" else guide)
    found = losses(Summation(net.space, distillation), net, held, own_loss)
    followed = guide(**held, output_hidden_states=True).hidden_states
    for setting in net.space:
        if teacher == "own" and setting == net.space.full:
            continue
        states = net.extract(setting)(**held, output_hidden_states=True).hidden_states
        step = 4 // setting["num_hidden_layers"]
        expected = sum((state - followed[step * place]).square().mean() for place, state in enumerate(states))
        torch.testing.assert_close(found[str(setting)], 0.5 * expected)


def test_hidden_states_are_followed_beside_logits_and_labels() -> None:
    net, held = bert(), sentences()
    weighed = (
        Distillation(1.0, labels=0.0),
        Distillation(0.0, labels=0.0, hidden=1.0),
        Distillation(0.0),
        Distillation(0.5, hidden=0.1, labels=2.0),
    )
    small = str(net.space.smallest)
    parts = [losses(Summation(net.space, one), net, held, own_loss)[small] for one in weighed]
    torch.testing.assert_close(parts[3], 0.5 * parts[0] + 0.1 * parts[1] + 2 * parts[2])


def test_hidden_states_of_a_split_batch_are_followed_example_by_example() -> None:
    net, held = bert(), sentences()
    small = {"num_hidden_layers": 4, "intermediate_size": 3}
    whole, split = (
        Stochastic(Cycle(net.space, [small]), draws, Distillation(0.0, labels=0.0, hidden=1.0)) for draws in (1, 2)
    )
    one, two = (losses(objective, net, held, own_loss) for objective in (whole, split))
    torch.testing.assert_close(*one.values(), *two.values())


# --- errors ---------------------------------------------------------------------------------------------------------


def test_hidden_states_of_a_model_that_gets_its_inputs_by_position_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"hidden=0\.1 follows hidden states, which a model that gets its inputs by pos"
    ):
        losses(both(Distillation(hidden=0.1)), network())


def test_hidden_states_of_another_size_are_refused() -> None:
    class Output:
        def __init__(self, size: int) -> None:
            self.logits, self.hidden_states = torch.ones(2, 3), (torch.ones(2, size), torch.ones(2, size))

    with pytest.raises(
        DataError, match=r"Hidden states of shape \(2, 4\) cannot follow those of shape \(2, 8\)\. Sort"
    ):
        Distillation(hidden=1.0)(Output(4), Output(8))


def test_an_output_without_hidden_states_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"returns Tensor without hidden states to follow\. Give hidden=0, or a Hugging"
    ):
        Distillation(hidden=1.0)(torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, r"weight=-1\.0 must be at least 0, and temperature=1\.0 above 0\."),
        ({"temperature": 0.0}, r"weight=1\.0 must be at least 0, and temperature=0\.0 above 0\."),
        ({"labels": -1.0}, r"labels=-1\.0 and hidden=0\.0 must be at least 0\."),
        ({"hidden": float("nan")}, r"labels=1\.0 and hidden=nan must be at least 0\."),
    ],
)
def test_a_number_outside_its_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Distillation(**options)
