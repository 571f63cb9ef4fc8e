"""Distillation: sub-models follow the outputs of a larger model beside, or instead of, the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError, DataError
from ..views.batches import IGNORED, call_with, next_labels

__all__ = ["Distillation"]


@final
@dataclass(frozen=True)
class Distillation:
    """Let every sub-model follow a teacher, which gets no gradient from it: the full model, or another one.

    Logits of one number each, as for regression, are followed by their mean squared difference, and logits of causal
    language models at the tokens whose successor has a label.

    Where the full model is the teacher and trains on the same examples anyway, what it returns there is followed
    (in-place distillation); elsewhere it runs once more, in evaluation mode. It never follows itself.

    Args:
        weight: Weight of the distillation loss beside the ordinary one, at least 0.
        temperature: Of both softmaxes, above 0; the loss is multiplied by its square.
        loss: Replaces the Kullback-Leibler divergence: a function of the sub-model's logits and the teacher's.
        labels: Weight of the ordinary loss of whatever follows a teacher, at least 0.
        hidden: Weight of the mean squared difference of hidden states, at least 0. For Hugging Face models whose
            sub-models have the teacher's hidden size; those behind the blocks of a shallower one follow those at the
            same share of the teacher's depth.
        teacher: A model to follow instead of the full one, called with the same inputs, in evaluation mode.

    Raises:
        ConfigError: If a weight or the temperature is outside its range.

    Source:
        Yu & Huang (2019), arXiv:1903.05134, Sec. 3.4: in-place distillation, there with `labels=0`. Hinton et al.
        (2015), arXiv:1503.02531, Sec. 2, for the temperature. Hou et al. (2020), arXiv:2004.04037, Sec. 2.1, for the
        hidden states.
    """

    weight: float = 1.0
    temperature: float = 1.0
    loss: Callable[[Any, Any], Tensor] | None = None
    labels: float = 1.0
    hidden: float = 0.0
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "temperature", "labels", "hidden"):
            if not isinstance(getattr(self, name), (int, float)):
                raise ConfigError(f"{name}={getattr(self, name)!r} is no number. Give one of at least 0.")
        if not self.weight >= 0 or not self.temperature > 0:
            raise ConfigError(f"weight={self.weight} must be at least 0, and temperature={self.temperature} above 0.")
        if not self.labels >= 0 or not self.hidden >= 0:
            raise ConfigError(f"labels={self.labels} and hidden={self.hidden} must be at least 0.")

    @property
    def is_active(self) -> bool:
        """Whether anything is followed."""
        return bool(self.weight or self.hidden)

    def ask(self, inputs: Any) -> Any:
        """Return a model's inputs with what makes it return its hidden states, where they are followed.

        Raises:
            DataError: If they are wanted of a model that gets its inputs by position.
        """
        if not self.hidden:
            return inputs
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"hidden={self.hidden} follows hidden states, which a model that gets its inputs by position does not "
                "return. Give the batch as a mapping, as Hugging Face models take it, or hidden=0."
            )
        return {**inputs, "output_hidden_states": True}

    def taught(self, inputs: Any) -> Any:
        """Return what the teacher of its own returns; None where the full model is followed."""
        if self.teacher is None:
            return None
        self.teacher.eval()
        with torch.no_grad():
            return self.kept(call_with(self.teacher, inputs))

    def kept(self, output: Any) -> list[Tensor]:
        """Return what is followed of an output, without its graph: logits of shape (B, ...), then hidden states."""
        return [one.detach() for one in (_logits(output), *(_hidden(output) if self.hidden else ()))]

    def __call__(self, output: Any, teacher: Any, targets: Any = None) -> Tensor:
        """Return the distillation loss of one sub-model.

        Args:
            output: What it returns.
            teacher: What the teacher returns for the same examples, or what `kept` returned of that.
            targets: The batch's targets, or the batch itself if it is a mapping. What a causal language model puts out
                before tokens without a label, such as padding and prompts, is not followed.

        Returns:
            The weighted loss. Shape ().
        """
        student = _logits(output)
        guide = teacher if isinstance(teacher, list) else self.kept(teacher)
        loss = student.new_zeros(())
        if self.weight:
            counted = _counted(output, targets)
            followed = (student, guide[0]) if counted is None else (student[counted], guide[0][counted])
            loss = self.weight * self._divergence(*followed) if followed[0].numel() else student.sum() * 0.0
        if self.hidden:
            loss = loss + self.hidden * _difference(_hidden(output), guide[1:])
        return loss

    def _divergence(self, student: Tensor, target: Tensor) -> Tensor:
        if self.loss is not None:
            return self.loss(student, target)
        classes = student.shape[-1]
        if classes == 1:
            return functional.mse_loss(student, target)
        divergence = functional.kl_div(
            functional.log_softmax(student.reshape(-1, classes) / self.temperature, -1),
            functional.log_softmax(target.reshape(-1, classes) / self.temperature, -1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self.temperature**2


def _difference(states: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of hidden states, summed over the sub-model's layers as the source has it."""
    depth, deepest = len(states) - 1, len(target) - 1
    losses = []
    for layer, state in enumerate(states):
        followed = target[round(layer * deepest / depth)]
        if followed.shape != state.shape:
            raise DataError(
                f"Hidden states of shape {tuple(state.shape)} cannot follow those of shape {tuple(followed.shape)}. "
                "Sort dimensions that leave the hidden size as it is, or give hidden=0."
            )
        losses.append(functional.mse_loss(state, followed))
    return torch.stack(losses).sum()


def _hidden(output: Any) -> Sequence[Tensor]:
    states = getattr(output, "hidden_states", None)
    if not states:
        raise DataError(
            f"The model returns {type(output).__name__} without hidden states to follow. Give hidden=0, or a Hugging "
            "Face model, which returns them."
        )
    return tuple(states)


def _counted(output: Any, targets: Any) -> Tensor | None:
    """Return which tokens of a causal language model are followed, of shape (B, T); None for all of any other model."""
    labels = targets.get("labels") if isinstance(targets, Mapping) else None
    # Its class tells that the logits at one token are those of the next, whose label is one place further.
    if not isinstance(labels, Tensor) or "CausalLM" not in type(output).__name__:
        return None
    return next_labels(labels) != IGNORED


def _logits(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise DataError(
            f"The model returns {type(output).__name__}, which holds no logits to follow. "
            "Return a tensor or an object that has `logits`, or leave distillation out."
        )
    return logits
