"""Losses that a trainer computes itself, for every sub-model that the objective asks for.

A `compute_loss` or `training_step` of a user, or of a trainer such as TRL's for preferences, is handed a model and a
batch: each sub-model, with its part of the batch, and its gradient counts as much as the objective says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError, TrainingError
from ..network.sorted_net import SortedNet
from ..space import Setting
from ..training.objectives import Objective
from ..views.examples import split_inputs

__all__ = ["SubModule", "check_objective", "defines", "train_each"]


class SubModule(nn.Module):
    """A sub-model, as code that was written for a model is handed it.

    Calls run the network, or what wraps it, at the setting; everything else is asked of the sub-model's own module.

    Args:
        model: The network, or a wrapper of it.
        net: The network.
        setting: The setting.
    """

    def __init__(self, model: nn.Module, net: SortedNet, setting: Setting) -> None:
        super().__init__()
        self.__dict__.update(_model=model, _net=net, setting=setting, calls=0)
        self.training = model.training

    @property
    def module_at(self) -> nn.Module:
        """The sub-model's own module, its weights bound."""
        skeleton = self._net.skeleton(self.setting)
        skeleton.bind(self._net.private)
        module: nn.Module = skeleton.module
        return module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the sub-model."""
        self.__dict__["calls"] += 1
        return self._model(*args, setting=self.setting, **kwargs)

    def train(self, mode: bool = True) -> SubModule:
        """Set the mode of the network."""
        self._model.train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return getattr(self.module_at, name)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yield the weights of the sub-model, of which a loss may take a penalty."""
        return self.module_at.named_parameters(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with the sub-model."""
        return self._net.generate(*args, setting=self.setting, **kwargs)


def defines(trainer: Any, name: str, base: type, *known: type) -> bool:
    """Whether a trainer has a method of its own, beside those of classes whose way of it is known.

    Args:
        trainer: The trainer.
        name: The method.
        base: The class of the trainer that has all methods, such as `Trainer`.
        known: Further classes whose method does what that of `base` does.
    """
    for kind in type(trainer).__mro__:
        if name in vars(kind) and kind not in known:
            return kind is not base
    return False


def check_objective(objective: Objective) -> None:
    """Refuse what a trainer's own loss does not show.

    Raises:
        ConfigError: If the objective follows a teacher, or changes the terms of its loss.
    """
    if objective.distillation is not None and objective.distillation.is_active:
        raise ConfigError(
            "Distillation follows the outputs of sub-models, and this trainer computes its loss itself. Leave "
            "distillation out, or give the loss as compute_loss_func."
        )
    if type(objective).terms is not Objective.terms:
        raise ConfigError(
            f"{type(objective).__name__} changes the loss of a batch, and this trainer computes it itself. Take "
            "another objective, or give the loss as compute_loss_func."
        )


def train_each(
    trainer: Any,
    net: SortedNet,
    model: nn.Module,
    inputs: Mapping[str, Any],
    step: Callable[[SubModule, Any], Tensor],
    whole: bool,
) -> list[tuple[Setting, Tensor, float]]:
    """Let a trainer add the gradients of its own loss for every sub-model that the objective asks for.

    Args:
        trainer: The trainer.
        net: Its network.
        model: The network, or a wrapper of it.
        inputs: The batch.
        step: Adds the gradient of one, and returns its loss.
        whole: Whether each gets the whole batch, whose rows belong together.

    Returns:
        Of each its setting, its loss, and the weight of it.

    Raises:
        TrainingError: If the loss does not come from the sub-model.
    """
    settings, sizes, weights = trainer.objective.shares(net, inputs, whole=whole)
    rows = split_inputs(((), inputs), sizes, trainer.objective.batch_axis) if sizes else [((), inputs)] * len(settings)
    found = []
    for setting, (_, part), weight in zip(settings, rows, weights, strict=True):
        handed = SubModule(model, net, setting)
        with _weighted(trainer.accelerator, weight) as counted:
            loss = step(handed, part)
        if not handed.calls:
            raise TrainingError(
                f"{type(trainer).__name__} did not call the model that it was given for {setting}, so that no "
                "sub-model is trained. Call the argument `model`, not self.model."
            )
        if not counted() and weight != 1:
            raise TrainingError(
                f"{type(trainer).__name__}.training_step does not call self.accelerator.backward, so that the loss of "
                f"{setting} does not count as it should. Call it in place of loss.backward()."
            )
        found.append((setting, loss, weight))
    return found


@contextmanager
def _weighted(accelerator: Any, weight: float) -> Iterator[Callable[[], int]]:
    """Let losses count so much inside; yield what says how often one was taken."""
    original, held, calls = accelerator.backward, vars(accelerator).get("backward"), list[float]()

    def backward(loss: Tensor, **kwargs: Any) -> None:
        calls.append(weight)
        original(loss * weight, **kwargs)

    accelerator.backward = backward
    try:
        yield lambda: len(calls)
    finally:
        del accelerator.backward
        if held is not None:
            accelerator.backward = held
