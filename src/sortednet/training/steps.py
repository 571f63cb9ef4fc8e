"""One training step, and the rule by which the optimiser treats weights outside the drawn corners."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..errors import DataError, TrainingError
from ..imports.names import Reduction, UpdateRule
from ..imports.privates.torch import RunningNorm
from ..network.sorted_net import SortedNet
from ..space import Setting
from ..views.modes import is_sharded
from .objectives import Batch, LossFunction, Objective, Term, total

__all__ = [
    "StepResult",
    "UpdateRule",
    "apply_update",
    "check_finite",
    "check_optimizer",
    "check_rule",
    "held_back",
    "mask_gradients",
    "put_back",
    "step",
]


@dataclass(frozen=True)
class StepResult:
    """What a step did.

    Attributes:
        loss: The mean loss over its batches.
        terms: The setting and the loss of every sub-model trained, in order.
    """

    loss: float
    terms: tuple[tuple[Setting, float], ...]


def step(
    net: SortedNet,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Batch | Sequence[Batch],
    loss_fn: LossFunction,
    *,
    accumulate: bool = False,
    accumulation: Reduction = "mean",
    update: UpdateRule = "standard",
    max_norm: float | None = None,
    model: nn.Module | None = None,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> StepResult:
    """Make one update of the weights, in anyone's loop.

    Args:
        net: The network.
        objective: Which sub-models each batch trains.
        optimizer: Any optimiser over `net.parameters()`. Its gradients are cleared at the end.
        batches: One batch; with `accumulate`, a list of batches whose gradients add up, each with draws of its
            own (the papers' g_acc).
        loss_fn: Mean loss of an output and the targets.
        accumulate: Whether `batches` is a list of batches.
        accumulation: Whether their gradients are averaged or summed.
        update: What the step may change.
        max_norm: Largest norm of the gradient; it is scaled down to it. Above 0.
        model: A distributed wrapper of `net` to call instead of it.
        backward: Computes the gradients of a loss, such as Accelerate's.

    Returns:
        The loss and what was trained.

    Raises:
        TrainingError: If a loss or the norm of the gradient is not finite, the rule is unknown, or the optimiser lacks
            parameters that are to be trained. Whatever fails before the optimiser's own step, no weight and no running
            statistic is changed, and no gradient left.
        DataError: If there is no batch, or it cannot be told how to split it.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Algorithm 1.

    Example:
        >>> import sortednet as sn
        >>> space = sn.Space(out_features=[2, 4])
        >>> net = sn.SortedNet(lambda out_features: nn.Linear(3, out_features), space)
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> batch = torch.ones(6, 3), torch.zeros(6, dtype=torch.long)
        >>> result = step(net, sn.Stochastic(sn.Uniform(space, seed=0)), optimizer, batch, nn.CrossEntropyLoss())
        >>> [str(setting) for setting, _ in result.terms]
        ['out_features=2']
    """
    _check_network(net)
    check_rule(net, update)
    if max_norm is not None and not max_norm > 0:
        raise TrainingError(f"max_norm={max_norm} must be above 0. Leave it out for no clipping.")
    held: list[Any] = list(batches) if accumulate else [batches]
    if accumulate and any(isinstance(one, Tensor) for one in held):
        raise DataError("accumulate=True takes a list of batches, each (inputs, targets). Give [batch, batch, ...].")
    check_optimizer(net, optimizer)
    if not held:
        raise DataError("There is no batch to accumulate. Give at least one.")
    statistics = [(buffer, buffer.clone()) for buffer in _statistics(net)]
    with net.private.remembering() as used:
        try:
            share = 1 / len(held) if accumulation == "mean" else 1.0
            result = _gradients(model or net, objective, held, loss_fn, backward, share)
            drawn = [setting for setting, _ in result.terms]
            mask_gradients(net, drawn, update)
            if max_norm is not None:
                _clip(net, max_norm)
            held_still = held_back(net, optimizer, drawn, update)
            optimizer.step()
            put_back(optimizer, held_still)
        except BaseException:
            with torch.no_grad():
                for buffer, before in (*statistics, *used):
                    buffer.copy_(before)
            raise
        finally:
            optimizer.zero_grad()
    return result


def _check_network(net: Any) -> None:
    if not isinstance(net, SortedNet):
        inner = getattr(net, "module", None)
        remedy = "net=wrapped.module, model=wrapped" if isinstance(inner, SortedNet) else "a SortedNet"
        raise TrainingError(f"step trains a SortedNet, and net is a {type(net).__name__}. Give {remedy}.")


def check_optimizer(net: SortedNet, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that would leave weights as they are which are to be trained.

    Raises:
        TrainingError: If it lacks a parameter of the network that takes gradients, or needs a closure.
    """
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    missing = [name for name, one in net.named_parameters() if one.requires_grad and id(one) not in held]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise TrainingError(
            f"The optimiser holds no {', '.join(missing[:3])}{more}. Make it over net.parameters(), after the network; "
            "what is not to be trained is frozen with requires_grad_(False)."
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TrainingError(
            f"{type(optimizer).__name__} evaluates the loss several times a step, and each batch draws its sub-models "
            "once. Take an optimiser whose step needs no closure, such as AdamW."
        )


def _statistics(net: SortedNet) -> Iterator[Tensor]:
    """Yield the running statistics of the norms that sub-models share."""
    for module in net.full.modules():
        if isinstance(module, RunningNorm):
            yield from module.buffers(recurse=False)


def _gradients(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Batch],
    loss_fn: LossFunction,
    backward: Callable[[Tensor], object],
    share: float,
) -> StepResult:
    """Add up the gradients of the batches' losses, each times its share."""
    terms: list[tuple[Setting, float]] = []
    losses: list[float] = []
    for batch in batches:
        found = objective.terms(model, batch, loss_fn)
        loss = total(found)
        losses.append(check_finite(loss, found))
        backward(loss * share)
        terms += [(term.setting, float(term.loss.detach())) for term in found]
    return StepResult(sum(losses) / len(losses), tuple(terms))


def _clip(net: nn.Module, max_norm: float) -> None:
    parameters = [parameter for parameter in net.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if not torch.isfinite(norm):
        raise TrainingError(
            f"The norm of the gradient is {float(norm)} although the loss is finite. No weight was changed. "
            "Look for a root or a logarithm of 0 in the model or the loss."
        )
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)


def check_finite(loss: Tensor, terms: Iterable[Term]) -> float:
    """Return the loss as a number.

    Raises:
        TrainingError: If it is not finite; the message names the sub-models whose loss is not.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        bad = [f"{term.setting} ({float(term.loss.detach())})" for term in terms if not torch.isfinite(term.loss)]
        raise TrainingError(
            f"The loss is {value}, from {'; '.join(bad) or 'the sum'}. No weight was changed. "
            "Lower the learning rate, clip the gradient (max_norm=1.0), or look for NaN in this batch."
        )
    return value


def apply_update(
    net: SortedNet, optimizer: torch.optim.Optimizer, settings: Iterable[Setting], update: UpdateRule = "standard"
) -> None:
    """Step the optimiser under an update rule.

    Args:
        net: The network whose parameters the optimiser holds.
        optimizer: The optimiser, its gradients in place.
        settings: The sub-models trained since the last step.
        update: What the step may change.

    Raises:
        TrainingError: If the rule is unknown.

    Source:
        `touched`: Valipour et al. (2023), arXiv:2309.00255v3, Eq. 1. `unique`: Valipour et al. (2022),
        arXiv:2210.07558v2, Eq. 8, made exact under momentum and weight decay.
    """
    mask_gradients(net, settings, update)
    held = held_back(net, optimizer, settings, update)
    optimizer.step()
    put_back(optimizer, held)


Held = dict[nn.Parameter, tuple[Tensor, Tensor, dict[str, Tensor]]]


def mask_gradients(net: SortedNet, settings: Iterable[Setting], update: UpdateRule) -> None:
    """Set the gradient to 0 where a rule lets a step change nothing, so that its norm is that of the rest.

    Args:
        net: The network, its gradients in place.
        settings: The sub-models trained since the last step.
        update: What the step may change.

    Raises:
        TrainingError: If the rule is unknown, or the parameters are sharded and it is not `standard`.
    """
    check_rule(net, update)
    if update in ("unique", "reference"):
        for parameter, mask in _changeable(net, set(settings), unique=True).items():
            if parameter.grad is not None:
                parameter.grad.mul_(mask)


def held_back(
    net: SortedNet, optimizer: torch.optim.Optimizer, settings: Iterable[Setting], update: UpdateRule
) -> Held:
    """Copy what a step must not change. See `apply_update` for the arguments.

    Returns:
        For `put_back`: by parameter where a step may change it, its weights and the optimiser's tensors.
    """
    check_rule(net, update)
    if update in ("standard", "reference"):
        return {}
    masks = _changeable(net, set(settings), unique=update == "unique")
    return {
        parameter: (mask, parameter.detach().clone(), _tensors(optimizer, parameter, copy=True))
        for parameter, mask in masks.items()
        if not bool(mask.all())
    }


@torch.no_grad()
def put_back(optimizer: torch.optim.Optimizer, held: Held) -> None:
    """Put back what a step must not have changed: weights, and the optimiser's tensors of one number for each."""
    for parameter, (mask, weights, state) in held.items():
        parameter.copy_(torch.where(mask, parameter, weights))
        for name, now in _tensors(optimizer, parameter).items():
            now.copy_(torch.where(mask, now, state.get(name, torch.zeros_like(now))))


def check_rule(net: SortedNet, update: str) -> None:
    """Refuse a rule that is unknown, or that the network cannot be trained by.

    Raises:
        TrainingError: If it is unknown, or the parameters are sharded and it is not `standard`.
    """
    if update not in get_args(UpdateRule):
        raise TrainingError(f"update={update!r} is no update rule. Choose one of {', '.join(get_args(UpdateRule))}.")
    if update != "standard" and is_sharded(net):
        raise TrainingError(f"update={update!r} needs whole parameters, and these are sharded. Use 'standard', or DDP.")


def _changeable(net: SortedNet, settings: set[Setting], unique: bool) -> dict[nn.Parameter, Tensor]:
    """Return, for each parameter of the full model that is trained, where a step may change it."""
    parameters = {name: one for name, one in net.full.named_parameters(remove_duplicate=False) if one.requires_grad}
    found: dict[nn.Parameter, Tensor] = {}
    for setting in settings:
        masks = _covered(net, parameters, setting)
        if unique:
            for smaller in net.space.predecessors(setting):
                for parameter, mask in _covered(net, parameters, smaller).items():
                    if parameter in masks:
                        masks[parameter] &= ~mask
        for parameter, mask in masks.items():
            found[parameter] = found[parameter] | mask if parameter in found else mask
    for name, parameter in parameters.items():
        if unique and net.builder.shares(name):
            found[parameter] = torch.ones_like(parameter, dtype=torch.bool)
        found.setdefault(parameter, torch.zeros_like(parameter, dtype=torch.bool))
    return found


def _covered(net: SortedNet, parameters: dict[str, nn.Parameter], setting: Setting) -> dict[nn.Parameter, Tensor]:
    """Return, for each parameter that a sub-model has, the corner that it covers."""
    masks: dict[nn.Parameter, Tensor] = {}
    for name, cut in net.skeleton(setting).slots():
        if name not in parameters:  # frozen
            continue
        parameter = parameters[name]
        if parameter not in masks:
            masks[parameter] = torch.zeros_like(parameter, dtype=torch.bool)
        cut.mark(masks[parameter], True)
    return masks


def _tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, copy: bool = False) -> dict[str, Tensor]:
    """Return the optimiser's tensors that hold one number for each weight of a parameter."""
    return {
        name: value.clone() if copy else value
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step"
    }
