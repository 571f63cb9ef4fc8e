"""Order units by importance before sorted training, so that corners hold what matters.

The weights of a pretrained model are permuted in place; what the full model computes stays the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import BuildError, ConfigError, DataError, TrainingError
from ..network.sorted_net import SortedNet
from ..space import Setting
from ..views.batches import call_with, inputs_and_targets
from ..views.modes import evaluating, is_sharded
from .units import Axis, Outputs, Units, find_units, inputs_read, tracked

__all__ = ["Kind", "UnitOrder", "reorder", "score"]

Kind = Literal["taylor", "activation", "magnitude"]
"""How units are scored; see `score`."""

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class UnitOrder:
    """The order of units that share one permutation, such as the heads of one layer.

    Attributes:
        dimension: The dimension that counts them.
        parameters: Full names of the parameters and buffers they lie in.
        scores: Importance of each unit, at least 0, as they lay before. Shape (units,), float64, on the CPU.
        order: The unit that belongs at each place, the most important first. Shape (units,), int64, on the CPU.
    """

    dimension: str
    parameters: tuple[str, ...]
    scores: Tensor
    order: Tensor


def score(
    net: SortedNet,
    batches: Iterable[Any],
    loss_fn: LossFunction | None = None,
    *,
    dimensions: str | Iterable[str] | None = None,
    kind: Kind = "taylor",
    units: Mapping[str, int] | None = None,
) -> list[UnitOrder]:
    """Score the units of dimensions, such as heads and feed-forward units, in the full model.

    A unit is what can change places with another without a trace: one index of a feed-forward width; a head with all
    its rows; with grouped-query attention a key/value head together with the query heads that share it; one index of
    the hidden size, through the whole model. Scores compare the units of one entry.

    `taylor` is the first-order change of the loss if the unit were dropped: abs(sum of weight x gradient) over the
    weights that read the unit, which equals abs(sum over tokens of activation x its gradient). It is taken for each
    batch and added up, so that many small batches tell more than one large. `activation` is the mean absolute
    activation times the norm of the weights that read it, added up over the unit's indices and readers. `magnitude` is
    the norm of these weights and learns nothing from the batches. Where no layer is known to read the units, as in a
    module that holds bare parameters, `taylor` and `magnitude` count all weights of the unit.

    Args:
        net: The network, before training. It runs in evaluation mode and is left as it was.
        batches: Batches as for training, `(inputs, ..., targets)` or a mapping of keyword arguments, on the network's
            device; at least one. By the first it is also found out what the units are.
        loss_fn: Mean loss of an output and the targets (with a mapping, and the mapping). Needed by `taylor` alone.
        dimensions: Dimensions to score; every one that has units where left out.
        kind: How to score.
        units: Number of units by dimension, at least 2, in place of the number found.

    Returns:
        One entry for each group of units that share a permutation, by dimension.

    Raises:
        SettingError: If a dimension is unknown or has no units, such as a depth.
        BuildError: If the order of a dimension's units is not free, the kind cannot score them, or parameters are
            sharded.
        ConfigError: If the kind or a number of units cannot be used, or `taylor` gets no loss.
        DataError: If there is no batch, or the loss does not depend on the units.
        TrainingError: If the loss or a score is not finite.

    Source:
        Molchanov et al. (2019), arXiv:1906.10771, for the first-order score; they square it. Michel et al. (2019),
        arXiv:1905.10650, for heads; they take the absolute value for each example. Sun et al. (2023), arXiv:2306.11695,
        for activations times weights; they score each weight by itself.

    Example:
        >>> from functools import partial
        >>> from sortednet import Space
        >>> from sortednet.models import MLP
        >>> net = SortedNet(partial(MLP, inputs=3, classes=2), Space(depth=[1], width=[2, 4]))
        >>> net.full.head.weight.data = torch.tensor([[0.0, 3.0, 0.0, 1.0], [0.0, 4.0, 2.0, 0.0]])
        >>> score(net, [(torch.ones(5, 3), torch.zeros(5))], kind="magnitude")[0].scores
        tensor([0., 5., 2., 1.], dtype=torch.float64)
    """
    return [found for _, found in _rank(net, batches, loss_fn, dimensions, kind, units)[1]]


def reorder(
    net: SortedNet,
    batches: Iterable[Any],
    loss_fn: LossFunction | None = None,
    *,
    dimensions: str | Iterable[str] | None = None,
    kind: Kind = "taylor",
    units: Mapping[str, int] | None = None,
) -> list[UnitOrder]:
    """Permute weights in place so that the most important units come first, where every sub-model has them.

    The full model computes what it did before. This is verified on the first batch, and all is undone where it fails;
    it sees the less, the coarser the weights' type, so reorder in float32 and convert afterwards. Make the optimiser
    afterwards too: the state of an earlier one stays in the old order. Private tensors of sub-models are read anew from
    their corners.

    Args:
        net: The network, before training.
        batches: As for `score`.
        loss_fn: As for `score`.
        dimensions: As for `score`.
        kind: As for `score`.
        units: As for `score`.

    Returns:
        What was done: the scores and the order of each group of units that share a permutation.

    Raises:
        SettingError: If a dimension is unknown or has no units, such as a depth.
        BuildError: If the order of a dimension's units is not free (a norm over groups of units, a corner that cuts
            through heads), the kind cannot score them, parameters are sharded, or private tensors are trained already.
            The weights are as before then.
        ConfigError: If the kind or a number of units cannot be used, or `taylor` gets no loss.
        DataError: If there is no batch, or the loss does not depend on the units.
        TrainingError: If the loss or a score is not finite.

    Source:
        Hou et al. (2020), arXiv:2004.04037: heads and feed-forward units are rewired by importance before training. We
        find the units of any model, and order its hidden size too where that is free.

    Example:
        >>> from functools import partial
        >>> from sortednet import Space
        >>> from sortednet.models import MLP
        >>> net = SortedNet(partial(MLP, inputs=3, classes=2), Space(depth=[1], width=[2, 4]))
        >>> net.full.head.weight.data = torch.tensor([[0.0, 3.0, 0.0, 1.0], [0.0, 4.0, 2.0, 0.0]])
        >>> reorder(net, [(torch.ones(5, 3), torch.zeros(5))], kind="magnitude")[0].order
        tensor([1, 2, 3, 0])
        >>> net.full.head.weight.data
        tensor([[3., 0., 1., 0.],
                [4., 2., 0., 0.]])
    """
    outputs, ranked = _rank(net, batches, loss_fn, dimensions, kind, units)
    private = _private_corners(net, {name for _, found in ranked for name in found.parameters})
    for one, found in ranked:
        one.permute(found.order)
    change = outputs.change()
    if not change <= outputs.tolerance:
        for one, found in ranked:
            one.permute(found.order.argsort())
        raise BuildError(
            f"The new order of {sorted({found.dimension for _, found in ranked})} changed the full model's output by "
            f"{change:.1e} of its largest number, where {outputs.tolerance:.1e} is allowed, and was undone. Give fewer "
            "dimensions=, or the number of units=."
        )
    with torch.no_grad():
        for own, corner in private:
            own.copy_(corner())
    return [found for _, found in ranked]


def _rank(
    net: SortedNet,
    batches: Iterable[Any],
    loss_fn: LossFunction | None,
    dimensions: str | Iterable[str] | None,
    kind: Kind,
    counts: Mapping[str, int] | None,
) -> tuple[Outputs, list[tuple[Units, UnitOrder]]]:
    """Find the units and their order; return them with what the full model puts out for the first batch."""
    if not isinstance(net, SortedNet):
        raise BuildError(f"{type(net).__name__} is no SortedNet. Give the SortedNet itself, before it is wrapped.")
    if is_sharded(net.full) or any(parameter.is_meta for parameter in net.full.parameters()):
        raise BuildError(
            "The parameters are sharded over processes or on the meta device, and units are ordered in whole ones. "
            "Order them before fully_shard, and let every process load the result."
        )
    if kind not in get_args(Kind):
        raise ConfigError(f"kind={kind!r} is unknown. Choose one of {list(get_args(Kind))}.")
    if kind == "taylor" and loss_fn is None:
        raise ConfigError("kind='taylor' needs a loss. Give loss_fn=, or choose kind='activation' or 'magnitude'.")
    stream = iter(() if isinstance(batches, (Mapping, Tensor)) else batches)
    first = next(stream, None)
    if not isinstance(first, (Mapping, tuple, list)):
        raise DataError(
            f"batches={batches!r:.80} holds no batch to score units on. Give a list or a loader of at least one, each "
            "(inputs, ..., targets) or a mapping of keyword arguments."
        )
    held = itertools.chain([first], stream)
    outputs = Outputs(net, inputs_and_targets(first)[0])
    found = find_units(net, outputs, [dimensions] if isinstance(dimensions, str) else dimensions, counts)
    if kind == "magnitude":
        scores = [_magnitude(units) for units in found]
    elif kind == "activation":
        scores = _activation(net, found, held)
    else:
        assert loss_fn is not None
        scores = _taylor(net, found, held, loss_fn)
    ranked = []
    for units, values in zip(found, scores, strict=True):
        if not values.isfinite().all():
            raise TrainingError(
                f"The scores of {units.dimension} at {units.names[0]} are not finite: {values.tolist()[:4]}... Look "
                "for a batch or a weight that is not, or hold the weights in float32."
            )
        order = values.argsort(descending=True, stable=True)
        ranked.append((units, UnitOrder(units.dimension, units.names, values, order)))
    return outputs, ranked


def _scored(units: Units) -> list[Axis]:
    """Return the axes along which units are read; all of them where no layer is known to read them."""
    axes = [axis for axis in units.axes if isinstance(axis.tensor, nn.Parameter)]
    return [axis for axis in axes if axis.is_read] or axes


def _magnitude(units: Units) -> Tensor:
    """Return the norm of the weights of each unit. Shape (units,)."""
    squares = torch.zeros(units.count, dtype=torch.float64)
    for axis in _scored(units):
        squares += axis.by_unit(axis.reduced(_precise(axis.tensor).square()), units.count)
    return squares.sqrt()


def _activation(net: SortedNet, found: list[Units], batches: Iterable[Any]) -> list[Tensor]:
    """Return the mean absolute activation of each unit times the norm of the weights that read it, group by group."""
    readers = {module: axis for units in found for axis in units.axes for module in axis.readers}
    totals: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}
    with evaluating(net.full), torch.no_grad():
        for batch in batches:
            with inputs_read(readers) as read:
                call_with(net.full, inputs_and_targets(batch)[0])
            for module, activation in read:
                # The features of a linear layer come last, the channels of a convolution before the pixels.
                channels = activation.movedim(1 - readers[module].tensor.dim(), 0).flatten(1)  # (units, B * ...)
                total = _precise(channels).abs().sum(1).cpu().double()
                totals[module] = totals.get(module, 0) + total
                counts[module] = counts.get(module, 0) + channels.shape[1]
    scores = []
    for units in found:
        values = torch.zeros(units.count, dtype=torch.float64)
        read_by = [(axis, module) for axis in units.axes for module in axis.readers if module in totals]
        if not read_by:
            raise BuildError(
                f"kind='activation' cannot score {units.dimension}: no layer that was called is known to read the "
                f"units of {units.names[0]}. Choose kind='taylor'."
            )
        for axis, module in read_by:
            norms = axis.reduced(_precise(axis.tensor).square()).sqrt()
            values += axis.by_unit(totals[module] / counts[module] * norms, units.count)
        scores.append(values)
    return scores


def _taylor(net: SortedNet, found: list[Units], batches: Iterable[Any], loss_fn: LossFunction) -> list[Tensor]:
    """Return abs(sum of weight x gradient) of each unit, added up over batches, group by group."""
    scores = [torch.zeros(units.count, dtype=torch.float64) for units in found]
    weights = {id(axis.tensor): axis.tensor for units in found for axis in _scored(units)}
    for batch in batches:
        inputs, targets = inputs_and_targets(batch)
        with evaluating(net.full), tracked(weights.values()), torch.enable_grad(), _recurrent_backward(net.full):
            loss = loss_fn(call_with(net.full, inputs), targets)
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise DataError(
                    f"loss_fn gave {loss!r:.80}, which is no single number that depends on the weights. Return the "
                    "mean loss of an output and its targets, with its graph."
                )
            if not loss.isfinite():
                raise TrainingError(f"The loss is {loss.item()}. Look for a batch or a weight that is not finite.")
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise DataError("The loss depends on none of the weights to score. Give dimensions= that this loss sees.")
        products = {
            name: _precise(weight) * _precise(gradient)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }
        for units, total in zip(found, scores, strict=True):
            change = torch.zeros_like(total)
            for axis in _scored(units):
                if id(axis.tensor) in products:
                    change += axis.by_unit(axis.reduced(products[id(axis.tensor)]), units.count)
            total += change.abs()
    return scores


@contextmanager
def _recurrent_backward(model: nn.Module) -> Iterator[None]:
    """Leave cuDNN out for recurrent layers, of which it has no backward in evaluation mode."""
    enabled = torch.backends.cudnn.enabled
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


def _precise(values: Tensor) -> Tensor:
    """Detach and leave half precision, in which sums drop what is small."""
    return values.detach() if values.dtype == torch.float64 else values.detach().float()


def _private_corners(net: SortedNet, names: Set[str]) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Return the private tensors of these names, each with what reads its corner.

    Raises:
        BuildError: If one is no longer what its corner holds.
    """
    found: list[tuple[Tensor, Callable[[], Tensor]]] = []
    for (text, name), own in net.private.tensors().items():
        if name not in names:
            continue
        skeleton = net.skeleton(Setting.parse(text))
        slot = next(one for one in (*skeleton.parameters, *skeleton.buffers) if one.path == name)
        corner = partial(slot.cut.of, slot.full())
        if not torch.equal(own, corner()):
            raise BuildError(
                f"{name} of the sub-model {text} is private and no longer equals its corner, so that it does not "
                "follow a new order. Reorder before training, and before statistics are measured again."
            )
        found.append((own, corner))
    return found
