"""Objectives: which sub-models a batch trains, and how their losses add up."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Union, final, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError, TrainingError
from ..imports.names import Reduction
from ..imports.privates.torch import BatchNorm
from ..space import Setting, Space
from ..views.batches import call_with, inputs_and_targets, tensors_of_batch
from ..views.examples import BatchAxis, batch_size, split_targets
from .distillation import Distillation
from .sampling import Sampler

__all__ = [
    "Distillation",
    "Objective",
    "Penalised",
    "PerExample",
    "Stochastic",
    "StochasticSummation",
    "Summation",
    "Term",
    "total",
]

LossFunction = Callable[[Any, Any], Tensor]
Batch = Union[tuple[Any, ...], list[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Term:
    """What one sub-model adds to the loss of a batch.

    Attributes:
        setting: The sub-model.
        loss: Its own loss on its part of the batch, distillation included. Shape ().
        weight: Its share of the sum.
    """

    setting: Setting
    loss: Tensor
    weight: float


class Objective(ABC):
    """The loss of a batch: the sum, over the sub-models it trains, of their weighted losses.

    Args:
        space: The sub-models.
        distillation: Adds the full model's outputs, or another teacher's, as targets.
        settings_weight: The weight of each sub-model's loss before weights are normalised; 1 where left out.
        reduction: Whether the mean losses of the sub-models are averaged or summed.
        batch_axis: Where the examples of a batch are that is split: an axis of all tensors that have it, or by name or
            place of an argument (`targets` too) one, None for what all examples share. Found out where left out.

    Raises:
        ConfigError: If the reduction is unknown.
    """

    def __init__(
        self,
        space: Space,
        distillation: Distillation | None = None,
        settings_weight: Callable[[Setting], float] | None = None,
        reduction: Reduction = "mean",
        batch_axis: BatchAxis = None,
    ) -> None:
        if reduction not in get_args(Reduction):
            raise ConfigError(f"reduction={reduction!r} is unknown. Choose one of {', '.join(get_args(Reduction))}.")
        self.space = space
        self.distillation = distillation
        self.settings_weight = settings_weight
        self.reduction = reduction
        self.batch_axis = batch_axis
        self._checked_losses = False

    @abstractmethod
    def choose(self, size: int) -> tuple[list[Setting], list[int] | None]:
        """Choose the sub-models for the next batch of `size` examples.

        Returns:
            The settings, and how many examples each gets for its own; None if each gets the whole batch.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; empty where nothing is drawn."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on where `state_dict` was taken."""

    def shares(
        self, net: nn.Module, batch: Batch, *, whole: bool = False
    ) -> tuple[list[Setting], list[int] | None, list[float]]:
        """Choose the sub-models of a batch.

        Args:
            net: The `SortedNet`, or a wrapper of it. In training with batch norm, no part has fewer than two examples.
            batch: As for `terms`.
            whole: Whether all sub-models that are drawn get the whole batch, whose rows belong together.

        Returns:
            The settings; how many examples each gets for its own, None if each gets the whole batch; and the weights of
            their losses.

        Raises:
            DataError: If the batch is empty or holds no examples.
        """
        unknown = None
        try:
            size = batch_size(batch, self.batch_axis)
        except DataError as error:  # which does not matter where each gets the whole batch
            unknown, size = error, next((len(one) for one in tensors_of_batch(batch) if one.dim()), 0)
            if not size:
                raise
        if size == 0:
            raise DataError("The batch is empty: it holds no example. Leave empty batches out.")
        settings, sizes = self.choose(size)
        if whole:
            settings, sizes = list(dict.fromkeys(settings)), None
        if sizes and unknown is not None:
            raise unknown
        if sizes and _takes_statistics(net):
            settings, sizes = _pairs(settings, sizes)
        return settings, sizes, self._weights(settings, sizes)

    def terms(self, net: nn.Module, batch: Batch, loss_fn: LossFunction) -> list[Term]:
        """Run the chosen sub-models in one call of the network and return their losses.

        Args:
            net: The `SortedNet`, or a distributed wrapper of it.
            batch: `(inputs, ..., targets)`, or a mapping of keyword arguments: tensors, arrays and lists of B examples,
                in tuples, mappings, named tuples and data classes; what has no row or item for each is for all.
            loss_fn: Mean loss of an output and the targets (with a mapping, and the mapping). Returns shape ().

        Returns:
            One term for each sub-model; the weights add up to 1, or if they are summed, to the number of sub-models.

        Raises:
            DataError: If the batch is empty or holds no examples, or it cannot be told how to split it.
        """
        settings, sizes, weights = self.shares(net, batch)
        inputs, targets = inputs_and_targets(batch)
        distillation = self.distillation if self.distillation is not None and self.distillation.is_active else None
        asked = inputs if distillation is None else distillation.ask(inputs)
        outputs = list(
            _call_at(net, asked, settings, split=sizes or False, batch_axis=self.batch_axis, weights=weights)
        )
        guides = self._guides(net, asked, settings, outputs, sizes)
        parts = split_targets(targets, sizes, self.batch_axis) if sizes else [targets] * len(settings)
        terms = []
        for setting, output, part, guide, weight in zip(settings, outputs, parts, guides, weights, strict=True):
            loss = loss_fn(output, part)
            if not isinstance(loss, Tensor) or loss.dim() != 0:
                given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
                raise TrainingError(f"loss_fn returned {given}. Return the mean loss, a tensor of shape ().")
            if guide is not None and distillation is not None:
                loss = distillation.labels * loss + distillation(output, guide, part)
            terms.append(Term(setting, loss, weight))
        if sizes and not self._checked_losses:
            self._checked_losses = True
            _warn_if_constant(terms, outputs)
        return terms

    def _guides(
        self, net: nn.Module, inputs: Any, settings: Sequence[Setting], outputs: Sequence[Any], sizes: list[int] | None
    ) -> Sequence[Any]:
        """Return what each sub-model follows of a teacher, for its examples; None where it follows none."""
        distillation = self.distillation
        if distillation is None or not distillation.is_active:
            return [None] * len(settings)
        guide = distillation.taught(inputs)
        full = None if guide is not None else self.space.full
        if full in settings and sizes is None:
            guide = distillation.kept(outputs[settings.index(full)])
        elif guide is None:
            # In evaluation mode, so that the teacher neither drops units nor moves the running statistics.
            with torch.no_grad():
                guide = distillation.kept(_call_at(net, inputs, None, inference=True))
        guides = split_targets(guide, sizes, self.batch_axis) if sizes else [guide] * len(settings)
        return [None if setting == full else one for setting, one in zip(settings, guides, strict=True)]

    def _weights(self, settings: Sequence[Setting], sizes: Sequence[int] | None) -> list[float]:
        """Return each setting's share of the loss: its weight times its examples."""
        weights = [1.0 if self.settings_weight is None else self.settings_weight(one) for one in settings]
        if not all(weight >= 0 and math.isfinite(weight) for weight in weights) or not sum(weights):
            raise ConfigError(
                f"settings_weight gives {dict(zip(map(str, settings), weights, strict=True))}. "
                "A weight must be finite and at least 0, and not all of an update may be 0."
            )
        if sizes:
            weights = [weight * size for weight, size in zip(weights, sizes, strict=True)]
        shared = sum(weights) / (len(weights) if self.reduction == "sum" else 1)
        return [weight / shared for weight in weights]

    def __call__(self, net: nn.Module, batch: Batch, loss_fn: LossFunction) -> Tensor:
        """Return the loss of a batch, ready for `backward`. Shape (). See `terms` for the arguments."""
        return total(self.terms(net, batch, loss_fn))


def total(terms: Iterable[Term]) -> Tensor:
    """Add the weighted losses up. Shape ()."""
    return torch.stack([term.loss * term.weight for term in terms]).sum()


@final
class Stochastic(Objective):
    """Train the drawn sub-models: the papers' stochastic loss, and its split batches.

    Args:
        sampler: Draws the settings.
        draws: Sub-models a batch is split among; 1 is the papers' form. Eight at equal cost learn far more than one. A
            batch smaller than this is split among as many as it has examples.
        distillation: Adds the full model's outputs as targets.
        settings_weight: The weight of each sub-model's loss before weights are normalised.
        split: Whether the batch is split among them; else each gets all of it, as a loss needs that compares the
            examples of a batch: a contrastive one finds only the negatives that are in its part.
        reduction: Whether the mean losses of the sub-models are averaged or summed.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: stochastic loss. Splitting the batch is ours.

    Example:
        >>> from sortednet import SortedNet, Space
        >>> from sortednet.training.sampling import Uniform
        >>> from torch.nn import functional
        >>> space = Space(out_features=[2, 4])
        >>> net = SortedNet(lambda out_features: nn.Linear(3, out_features), space)
        >>> batch = torch.ones(6, 3), torch.zeros(6, dtype=torch.long)
        >>> loss = Stochastic(Uniform(space, seed=0), draws=2)(net, batch, functional.cross_entropy)
        >>> loss.backward(); net.full.weight.grad.shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        sampler: Sampler,
        draws: int = 1,
        distillation: Distillation | None = None,
        settings_weight: Callable[[Setting], float] | None = None,
        *,
        split: bool = True,
        reduction: Reduction = "mean",
        batch_axis: BatchAxis = None,
    ) -> None:
        super().__init__(_checked(sampler).space, distillation, settings_weight, reduction, batch_axis)
        if not isinstance(draws, int) or draws < sampler.least:
            raise ConfigError(
                f"draws={draws} is too few for {type(sampler).__name__}. "
                f"Draw at least {sampler.least} settings a batch."
            )
        self.sampler = sampler
        self.draws = draws
        self.split = split

    def choose(self, size: int) -> tuple[list[Setting], list[int] | None]:
        if not self.split:
            return list(dict.fromkeys(self.sampler.draw(self.draws))), None
        drawn = self.sampler.draw(max(self.sampler.least, min(self.draws, size)))
        return _parts(drawn, size)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state_dict(state)


@final
class PerExample(Objective):
    """Draw a sub-model for every example of the batch.

    Examples of the same sub-model run together. Along a dimension with exits (`SortedNet.exits`, such as the depth of a
    transformer) all run in one forward, in which the batch shrinks at every exit, so that a step costs less than one of
    the full model. Along other dimensions every distinct sub-model has a forward of its own.

    Args:
        sampler: Draws the settings.
        distillation: Adds the full model's outputs as targets.
        settings_weight: The weight of each sub-model's loss before weights are normalised.

    Source:
        Ours. The expected gradient is that of the stochastic loss of Valipour et al. (2023), arXiv:2309.00255v3,
        Sec. 3, with as many draws for an update as it has examples.

    Example:
        >>> from sortednet import Space
        >>> from sortednet.training.sampling import Stratified
        >>> PerExample(Stratified(Space(depth=[1, 2]), seed=0)).choose(6)
        ([Setting('depth=2'), Setting('depth=1')], [3, 3])
    """

    def __init__(
        self,
        sampler: Sampler,
        distillation: Distillation | None = None,
        settings_weight: Callable[[Setting], float] | None = None,
        *,
        batch_axis: BatchAxis = None,
    ) -> None:
        super().__init__(_checked(sampler).space, distillation, settings_weight, batch_axis=batch_axis)
        self.sampler = sampler

    def choose(self, size: int) -> tuple[list[Setting], list[int] | None]:
        drawn = self.sampler.draw(max(self.sampler.least, size))
        return _parts(drawn[:size], size)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state_dict(state)


def _parts(drawn: Sequence[Setting], size: int) -> tuple[list[Setting], list[int] | None]:
    """Return the distinct settings among the draws, and how many of the batch's examples each gets."""
    if len(drawn) == 1:
        return list(drawn), None
    sizes: dict[Setting, int] = {}
    for place, setting in enumerate(drawn[:size]):  # what would get no example has no mean loss
        sizes[setting] = sizes.get(setting, 0) + size // len(drawn) + (place < size % len(drawn))
    return (list(sizes), list(sizes.values())) if len(sizes) > 1 else (list(sizes), None)


@final
class StochasticSummation(Objective):
    """Train the drawn sub-model and the targeted ones inside it, each on the whole batch.

    Args:
        sampler: Draws the setting.
        inside: Which sub-models inside it: those `along` each dimension (the papers), or `all` it contains.
        distillation: Adds the full model's outputs as targets.
        settings_weight: The weight of each sub-model's loss before weights are normalised.
        reduction: Whether the losses are averaged or summed.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: stochastic summation, there the sum.
    """

    def __init__(
        self,
        sampler: Sampler,
        inside: Literal["along", "all"] = "along",
        distillation: Distillation | None = None,
        settings_weight: Callable[[Setting], float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(_checked(sampler).space, distillation, settings_weight, reduction)
        if inside not in ("along", "all"):
            raise ConfigError(f"inside={inside!r} is unknown. Choose 'along' or 'all'.")
        if sampler.least > 1:
            raise ConfigError(f"{type(sampler).__name__} draws several settings, of which a sum starts from one.")
        self.sampler = sampler
        self.inside = inside

    def choose(self, size: int) -> tuple[list[Setting], list[int] | None]:
        (drawn,) = self.sampler.draw()
        return list(self.space.along(drawn) if self.inside == "along" else self.space.inside(drawn)), None

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sampler.load_state_dict(state)


@final
class Summation(Objective):
    """Train every sub-model of the space on the whole batch. The cost grows with the space.

    Args:
        space: The sub-models.
        distillation: Adds the full model's outputs as targets.
        settings_weight: The weight of each sub-model's loss before weights are normalised.
        reduction: Whether the losses are averaged or summed.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: summation, there the sum.
    """

    def __init__(
        self,
        space: Space,
        distillation: Distillation | None = None,
        settings_weight: Callable[[Setting], float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(space, distillation, settings_weight, reduction)

    def choose(self, size: int) -> tuple[list[Setting], list[int] | None]:
        return list(self.space), None


@final
class Penalised(Objective):
    """Add a penalty on the weights to another objective's loss.

    Args:
        inner: The objective.
        penalty: Returns the penalty, of shape (), of the full model.

    Example:
        >>> from sortednet import SortedNet
        >>> space = Space(out_features=[2, 4])
        >>> net = SortedNet(lambda out_features: nn.Linear(3, out_features), space)
        >>> objective = Penalised(Summation(space), lambda full: full.weight.square().sum())
        >>> objective.choose(4) == Summation(space).choose(4)
        True
    """

    def __init__(self, inner: Objective, penalty: Callable[[nn.Module], Tensor]) -> None:
        super().__init__(inner.space, inner.distillation, inner.settings_weight, inner.reduction, inner.batch_axis)
        self.inner, self.penalty = inner, penalty

    def choose(self, size: int) -> tuple[list[Setting], list[int] | None]:
        return self.inner.choose(size)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)

    def terms(self, net: nn.Module, batch: Batch, loss_fn: LossFunction) -> list[Term]:
        found = self.inner.terms(net, batch, loss_fn)
        network: Any = getattr(net, "module", net)
        added = self.penalty(network.full) / sum(term.weight for term in found)
        return [Term(term.setting, term.loss + added, term.weight) for term in found]


def _checked(sampler: Sampler) -> Sampler:
    if not isinstance(sampler, Sampler):
        raise ConfigError(f"{sampler!r} is no sampler. Give one, such as Stratified(space, seed=0).")
    return sampler


def _call_at(net: nn.Module, inputs: Any, settings: Sequence[Setting] | None, **how: Any) -> Any:
    return call_with(partial(net, settings=settings, **how), inputs)


def _takes_statistics(net: Any) -> bool:
    """Whether a network in training takes the statistics of a batch, of which one example has none."""
    module = net if isinstance(net, nn.Module) else net.model  # of what calls it without labels
    return bool(module.training) and any(isinstance(one, BatchNorm) for one in module.modules())


def _pairs(settings: Sequence[Setting], sizes: Sequence[int]) -> tuple[list[Setting], list[int] | None]:
    """Give the examples of parts of one to others of one, or else to the smallest part: none has fewer than two."""
    chosen = {setting: size for setting, size in zip(settings, sizes, strict=True) if size > 1}
    single = [setting for setting, size in zip(settings, sizes, strict=True) if size == 1]
    chosen |= dict.fromkeys(single[: len(single) // 2], 2)
    if len(single) % 2:
        least = min(chosen, key=lambda one: chosen[one], default=single[-1])
        chosen[least] = chosen.get(least, 0) + 1
    return list(chosen), list(chosen.values()) if len(chosen) > 1 else None


def _warn_if_constant(terms: Sequence[Term], outputs: Sequence[Any]) -> None:
    """Warn where the loss of every part is one number whatever the model does: it compares examples."""
    first = terms[0].loss.detach()
    if len(terms) < 2 or any(not torch.equal(term.loss.detach(), first) for term in terms):
        return
    for term, output in zip(terms, outputs, strict=True):
        read = [one for one in tensors_of_batch(output) if one.requires_grad]
        if not read or not term.loss.requires_grad:
            return
        found = torch.autograd.grad(term.loss, read, retain_graph=True, allow_unused=True)
        if any(one is not None and bool(one.any()) for one in found):
            return
    warnings.warn(
        f"On every part of the batch the loss is {float(first)}, whatever the model gives: nothing is learnt. A loss "
        "that compares the examples of a batch needs them all: Stochastic(..., split=False).",
        stacklevel=3,
    )
