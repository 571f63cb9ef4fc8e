import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput

from sortednet.distillation import Distillation

STUDENT = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])  # (1, 3, 2)
TEACHER = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean divergence of rows by hand."""
    expected = teacher.softmax(-1)
    return (expected * (expected.log() - student.log_softmax(-1))).sum(-1).mean()


def test_numbers_are_followed_by_their_squared_difference() -> None:
    student = SequenceClassifierOutput(logits=torch.tensor([[1.0], [2.0]]))
    teacher = SequenceClassifierOutput(logits=torch.tensor([[0.0], [4.0]]))
    assert Distillation(weight=2.0)(student, teacher, {"labels": torch.tensor([0.0, 1.0])}).item() == 2 * (1 + 4) / 2


def test_a_language_model_is_followed_before_tokens_with_a_label() -> None:
    labels = torch.tensor([[-100, -100, 1]])  # the last one is predicted at the second token
    found = Distillation()(
        CausalLMOutputWithPast(logits=STUDENT), CausalLMOutputWithPast(logits=TEACHER), {"labels": labels}
    )
    torch.testing.assert_close(found, divergence(STUDENT[:, 1], TEACHER[:, 1]))


@pytest.mark.parametrize("targets", [None, torch.tensor([1]), {"input_ids": torch.ones(1, 3)}])
def test_every_token_is_followed_where_no_labels_are_told(targets: object) -> None:
    found = Distillation()(CausalLMOutputWithPast(logits=STUDENT), CausalLMOutputWithPast(logits=TEACHER), targets)
    torch.testing.assert_close(found, divergence(STUDENT, TEACHER))


def test_labels_of_classes_leave_nothing_out() -> None:
    student, teacher = (SequenceClassifierOutput(logits=one[0]) for one in (STUDENT, TEACHER))
    found = Distillation()(student, teacher, {"labels": torch.tensor([0, 1, 0])})
    torch.testing.assert_close(found, divergence(STUDENT, TEACHER))


def test_a_batch_without_any_label_adds_nothing() -> None:
    logits = STUDENT.clone().requires_grad_()
    output = CausalLMOutputWithPast(logits=logits)
    loss = Distillation()(output, CausalLMOutputWithPast(logits=TEACHER), {"labels": torch.full((1, 3), -100)})
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
