"""The papers' theory as functions: how far a sub-model can drift from a network trained alone, and what it loses."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import BuildError, ConfigError
from ..network.sorted_net import SortedNet
from ..space import Number
from ..views.batches import call_with

__all__ = ["curvature", "distance_bound", "gradient_gap", "loss_bound", "parameter_distance"]

Batch = tuple[Any, Any]
LossFunction = Callable[[Any, Any], Tensor]


def parameter_distance(
    net: SortedNet, setting: Mapping[str, Number] | str, other: nn.Module, *, relative: bool = False
) -> float:
    """Measure how far a sub-model's parameters are from those of an identical network trained alone.

    Args:
        net: The network; theta are the parameters that its sub-model shares, without those it has for itself.
        setting: A setting or its text form.
        other: A network of the sub-model's class and size, with the same names; phi are its parameters.
        relative: Whether to divide by the norm of phi.

    Returns:
        The L2 distance ||theta - phi||, at least 0, or ||theta - phi|| / ||phi||. Summed in float64.

    Raises:
        SettingError: If the setting is not in the space.
        BuildError: If `other` has other parameters than the sub-model.
        ConfigError: If `relative` is set and all of phi is 0.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, App. B.1 and B.4: ||theta_t - phi_t||.

    Example:
        >>> from sortednet.space import Space
        >>> net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]))
        >>> parameter_distance(net, "width=2", net.extract(width=2))
        0.0
    """
    pairs = _pairs(net, net.extract(setting), other)
    distance = _norm(ours.to(theirs.device, torch.float64) - theirs.double() for ours, theirs in pairs)
    if not relative:
        return distance
    size = _norm(theirs.double() for _, theirs in pairs)
    if size == 0:
        raise ConfigError("All parameters of the other network are 0, so no distance is relative to them. Train it.")
    return distance / size


def distance_bound(previous: float, learning_rate: float, curvature: float, gradient_gap: float = 0.0) -> float:
    """Bound how far a sub-model and a network trained alone can be apart after one more step of gradient descent.

    It holds where both take a step of plain gradient descent on the same batch and loss, and `curvature` bounds that of
    the loss between their parameters. Whatever moves the sub-model beside its own gradient, such as the steps of other
    sub-models, is not in it.

    Args:
        previous: ||theta_t - phi_t||, at least 0.
        learning_rate: eta, at least 0.
        curvature: L, the Lipschitz constant of the gradient, at least 0.
        gradient_gap: C, at least 0; 0 where both have the same loss function on the same data.

    Returns:
        (1 + eta L) ||theta_t - phi_t|| + eta C, which bounds ||theta_(t+1) - phi_(t+1)||.

    Raises:
        ConfigError: If a value is below 0 or not a number.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, App. B.4; with C = 0, App. B.5.

    Example:
        >>> distance_bound(1.0, learning_rate=0.5, curvature=2.0, gradient_gap=1.0)
        2.5
    """
    _check_at_least_zero(previous=previous, learning_rate=learning_rate, curvature=curvature, gradient_gap=gradient_gap)
    return (1 + learning_rate * curvature) * previous + learning_rate * gradient_gap


def gradient_gap(
    net: SortedNet, setting: Mapping[str, Number] | str, other: nn.Module, batch: Batch, loss_fn: LossFunction
) -> float:
    """Measure how much the loss gradients of a sub-model and of a network trained alone differ on a batch.

    Both are taken on copies and from the same random state (dropout drops the same units), so that nothing changes.

    Args:
        net: The network.
        setting: A setting or its text form.
        other: A network of the sub-model's class and size, with the same names.
        batch: The inputs (a tensor, a tuple of positional or a mapping of keyword arguments) and the targets.
        loss_fn: Returns the scalar loss of an output and the targets.

    Returns:
        C = ||grad L(theta) - grad L(phi)|| over the shared parameters, each gradient at its own parameters; at least 0.

    Raises:
        SettingError: If the setting is not in the space.
        BuildError: If `other` has other parameters than the sub-model.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, App. B.4. The paper leaves open where both gradients are taken.
        At their own parameters the step alone gives ||theta_(t+1) - phi_(t+1)|| <= ||theta_t - phi_t|| + eta C, which
        is tighter than the paper's bound with the same C.

    Example:
        >>> from sortednet.space import Space
        >>> net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]))
        >>> batch = torch.ones(5, 3), torch.zeros(5, 2)
        >>> gradient_gap(net, "width=2", net.extract(width=2), batch, nn.functional.mse_loss)
        0.0
    """
    alone = copy.deepcopy(other)
    ours = net.extract(setting)
    pairs = _pairs(net, ours, alone)
    for module in (ours, alone):
        devices = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
        with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
            module.zero_grad()
            torch.autograd.backward(loss_fn(call_with(module, batch[0]), batch[1]))

    def gradient(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    return _norm(gradient(one).to(two.device, torch.float64) - gradient(two).double() for one, two in pairs)


def curvature(
    module: nn.Module,
    batch: Batch,
    loss_fn: LossFunction,
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
    generator: torch.Generator,
) -> float:
    """Estimate the largest absolute eigenvalue of the Hessian of the loss, by power iteration.

    It is the Lipschitz constant of the gradient near the module's parameters. The Hessian is never made, only its
    products with a vector. The estimates ||H v|| with ||v|| = 1 never fall and never exceed the true value.

    Args:
        module: A network whose parameters take gradients, such as `net.extract(...)`. A copy of it is used, in its own
            training mode.
        batch: The inputs (a tensor, a tuple of positional or a mapping of keyword arguments) and the targets.
        loss_fn: Returns the scalar loss of an output and the targets.
        iterations: Most products to take, at least 1.
        tolerance: Stop once the estimate grows by no more than this part of itself, at least 0.
        generator: Draws the first vector.

    Returns:
        L, at least 0. With a warning where the iterations ran out: it may then be noticeably too small.

    Raises:
        ConfigError: If no parameter takes a gradient, or a number is out of range.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, App. B.2 and B.6: the constant L, for which the paper gives no
        estimate; the power iteration is ours.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)  # the mean of (w x)^2 at x = 3 has the second derivative 18
        >>> batch = torch.tensor([[3.0]]), torch.zeros(1, 1)
        >>> round(curvature(line, batch, nn.functional.mse_loss, generator=torch.Generator().manual_seed(0)), 3)
        18.0
    """
    if iterations < 1:
        raise ConfigError(f"iterations={iterations} is below 1. Take at least one product, such as 50.")
    _check_at_least_zero(tolerance=tolerance)
    copied = copy.deepcopy(module)
    held = [parameter for parameter in copied.parameters() if parameter.requires_grad]
    if not held:
        raise ConfigError("No parameter of the module takes a gradient. Use net.extract(...), or unfreeze some.")
    # Only the math kernel of attention has second derivatives.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        loss = loss_fn(call_with(copied, batch[0]), batch[1])
        slopes = torch.autograd.grad(loss, held, create_graph=True, materialize_grads=True)
    # A slope without a graph is constant: its row of the Hessian is 0.
    curved = [place for place, slope in enumerate(slopes) if slope.requires_grad]
    vector = [
        torch.randn(one.shape, generator=generator, device=generator.device, dtype=one.dtype).to(one.device)
        for one in held
    ]
    estimate, size = 0.0, _norm(vector)
    for _ in range(iterations if curved else 0):
        vector = [one / size for one in vector]
        vector = list(
            torch.autograd.grad(
                [slopes[place] for place in curved],
                held,
                [vector[place] for place in curved],
                retain_graph=True,
                materialize_grads=True,
            )
        )
        before, estimate = estimate, _norm(vector)
        if estimate - before <= tolerance * estimate:
            return estimate
        size = estimate
    if curved:
        warnings.warn(
            f"The curvature {estimate:.4g} still grew by more than {tolerance:g} of itself after {iterations} "
            "iterations. Raise one of the two.",
            RuntimeWarning,
            stacklevel=2,
        )
    return estimate


def loss_bound(curvature: float, distance: float) -> float:
    """Bound how much worse a sub-model's loss is than at parameters a given distance away.

    It holds at a minimum of the sub-model's loss, where the gradient is 0, and to second order in the distance.

    Args:
        curvature: L, the Lipschitz constant of the gradient, at least 0.
        distance: ||delta theta||, the distance of the parameters, at least 0.

    Returns:
        L / 2 ||delta theta||^2.

    Raises:
        ConfigError: If a value is below 0 or not a number.

    Source:
        Valipour (2024), PhD thesis, Eq. 4.3; Valipour et al. (2023), arXiv:2309.00255v3, App. B.6.

    Example:
        >>> loss_bound(curvature=4.0, distance=0.5)
        0.5
    """
    _check_at_least_zero(curvature=curvature, distance=distance)
    return curvature * distance**2 / 2


def _pairs(net: SortedNet, ours: nn.Module, other: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Match the shared parameters of a sub-model with those of another network, by name."""
    mine, theirs = dict(ours.named_parameters()), dict(other.named_parameters())
    if {name: one.shape for name, one in mine.items()} != {name: one.shape for name, one in theirs.items()}:
        differing = sorted(
            name
            for name in mine.keys() | theirs.keys()
            if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape
        )
        raise BuildError(
            f"The other network's parameters {differing} are missing or of another shape than the sub-model's. "
            "Build it as the sub-model's class at the same setting, such as with net.extract(...)."
        )
    return [(one, theirs[name]) for name, one in mine.items() if not net.private.covers(name, is_buffer=False)]


def _norm(tensors: Iterable[Tensor]) -> float:
    """Return the L2 norm over all entries, summed in float64."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def _check_at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"{name}={value} is not at least 0. Norms, rates and curvatures are never negative.")
