"""Units: what a dimension counts, such as heads or hidden units, and on which axes of a model each of them lies.

Nothing here knows an architecture. The axes that shrink where a dimension alone is smaller are its axes. Those whose
units meet in the forward share one order: they are found by following what each layer reads back to the parameters that
made it. How many units there are, such as heads of many rows each, is the largest number whose order proves free: where
permuting them at random leaves the full model's output as it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BuildError, ConfigError, DataError, SettingError
from ..imports.privates.torch import Convolution, TransposedConvolution
from ..network.sorted_net import SortedNet
from ..views.batches import call_with
from ..views.layouts import tensors_of
from ..views.modes import evaluating
from ..views.skeletons import Skeleton, build_skeleton

__all__ = ["Axis", "Outputs", "Units", "find_units", "inputs_read", "tracked"]

_HEAD_SIZE = re.compile(r"(attention_)?head_(dim|size)|key_value_proj_dim|dim_per_head")


@dataclass(eq=False)
class Axis:
    """An axis that shrinks with a dimension.

    Attributes:
        tensor: The full model's parameter or buffer.
        axis: The axis.
        blocks: (start, size, size kept at the smallest value) of each block that shrinks.
        names: All names of the tensor.
        owners: The modules that hold it.
        readers: Those of them that take their one input in along this axis.
    """

    tensor: Tensor
    axis: int
    blocks: tuple[tuple[int, int, int], ...]
    names: list[str] = field(default_factory=list)
    owners: list[nn.Module] = field(default_factory=list)
    readers: list[nn.Module] = field(default_factory=list)

    @property
    def is_read(self) -> bool:
        """Whether units are taken in along this axis, rather than put out or scaled."""
        fused = any(isinstance(owner, (nn.RNNBase, nn.MultiheadAttention)) for owner in self.owners)
        return bool(self.readers) or (fused and self.axis == 1)

    def reduced(self, values: Tensor) -> Tensor:
        """Add values of the tensor's shape up along all other axes. Shape (size of the axis,), float64."""
        others = [axis for axis in range(values.dim()) if axis != self.axis]
        return (values.sum(others) if others else values).cpu().double()

    def by_unit(self, values: Tensor, count: int) -> Tensor:
        """Add up what belongs to each unit. Shape (size of the axis,) to (count,)."""
        parts = [values[start : start + size].view(count, -1).sum(1) for start, size, _ in self.blocks]
        return torch.stack(parts).sum(0)

    def permute(self, order: Tensor) -> None:
        """Bring unit `order[i]` to place i, in every block, in place. Shape (count,)."""
        index = torch.arange(self.tensor.shape[self.axis])
        for start, size, _ in self.blocks:
            index[start : start + size] = index[start : start + size].view(len(order), -1)[order].flatten()
        with torch.no_grad():
            self.tensor.copy_(self.tensor.index_select(self.axis, index.to(self.tensor.device)))


@dataclass(frozen=True, eq=False)
class Units:
    """Units that share one order, such as the heads of one layer.

    Attributes:
        dimension: The dimension that counts them.
        axes: Where they lie.
        count: How many they are.
    """

    dimension: str
    axes: list[Axis]
    count: int

    @property
    def names(self) -> tuple[str, ...]:
        """The full names of the parameters and buffers they lie in."""
        return tuple(dict.fromkeys(name for axis in self.axes for name in axis.names))

    def permute(self, order: Tensor) -> None:
        """Bring unit `order[i]` to place i, in place. Shape (count,)."""
        for axis in self.axes:
            axis.permute(order)


class Outputs:
    """What the full model puts out for some inputs, to compare with later.

    Args:
        net: The network.
        inputs: A tensor, a tuple of arguments or a mapping of keyword arguments.

    Attributes:
        tolerance: Change, relative to the largest number, that passes for rounding: the square root of the rounding
            error of the model's coarsest type, or of float32, in which models compute norms whatever they are held in.

    Raises:
        DataError: If it puts out no tensor, or a number that is not finite.
    """

    def __init__(self, net: SortedNet, inputs: Any) -> None:
        self.net, self.inputs = net, inputs
        call_with(net.observe, inputs)
        self.tensors = self._run()
        if not self.tensors or any(one.isnan().any() or not one.isfinite().any() for one in self.tensors):
            raise DataError(
                "For the first batch the full model puts out no floating-point tensor, or one whose numbers are not "
                "finite. Give a batch that it handles, and let it return logits."
            )
        types = {one.dtype for one in (*self.tensors, *net.full.parameters()) if one.is_floating_point()}
        self.tolerance = math.sqrt(max(torch.finfo(one).eps for one in (*types, torch.float32)))

    def change(self) -> float:
        """Return by how much the output differs now, relative to its largest number; infinite where it is no number."""
        worst = 0.0
        for before, after in zip(self.tensors, self._run(), strict=True):
            scale = before[before.isfinite()].abs().max().item()
            gap = torch.where(before == after, 0.0, after - before).abs().max().item()
            worst = max(worst, math.inf if math.isnan(gap) else gap / (scale or 1.0))
        return worst

    def _run(self) -> list[Tensor]:
        with evaluating(self.net.full), torch.no_grad(), _in_full_precision():
            output = call_with(self.net.full, self.inputs)
        # Where there are logits, other outputs such as hidden states may be in the order of the units.
        output = getattr(output, "logits", output)
        if isinstance(output, Tensor):
            output = [output]
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, Iterable) else ()
        return [one for one in values if isinstance(one, Tensor) and one.is_floating_point() and one.numel()]


def find_units(
    net: SortedNet, outputs: Outputs, dimensions: Iterable[str] | None = None, counts: Mapping[str, int] | None = None
) -> list[Units]:
    """Find the units of dimensions.

    Args:
        net: The network; it is left as it was.
        outputs: What the full model puts out for a batch, by which an order proves free.
        dimensions: Dimensions; every one that has units where left out.
        counts: Number of units by dimension, in place of the number found.

    Returns:
        The units, in groups of one order each.

    Raises:
        SettingError: If a dimension is unknown or has no units, such as a depth.
        BuildError: If no order of the units is free.
        ConfigError: If a given count cannot be, or two dimensions shrink one axis.

    Example:
        >>> from functools import partial
        >>> from sortednet.models import MLP
        >>> from sortednet.space import Space
        >>> net = SortedNet(partial(MLP, inputs=3), Space(depth=[2], width=[2, 6]))
        >>> for units in find_units(net, Outputs(net, torch.ones(1, 3))):
        ...     print(units.count, *units.names)
        6 hidden.0.weight hidden.0.bias hidden.1.weight
        6 hidden.1.weight hidden.1.bias head.weight
    """
    given = counts or {}
    chosen = _chosen(net, dimensions, given)
    owner: dict[tuple[int, int], str] = {}
    for dimension, axes in chosen.items():
        for axis in axes:
            other = owner.setdefault((id(axis.tensor), axis.axis), dimension)
            if other != dimension:
                raise ConfigError(
                    f"Both {other} and {dimension} shrink axis {axis.axis} of {axis.names[0]}, and one order cannot "
                    f"serve both. Take one after the other: dimensions={other!r}, then dimensions={dimension!r}."
                )
    return [
        units
        for dimension, axes in chosen.items()
        for units in _counted(dimension, _coupled(axes, outputs), outputs, given.get(dimension))
    ]


def _chosen(net: SortedNet, dimensions: Iterable[str] | None, counts: Mapping[str, int]) -> dict[str, list[Axis]]:
    """Return the axes of each dimension that is given, or else of each that has any."""
    known = list(net.space.supports)
    given = None if dimensions is None else list(dimensions)
    for name in (*(given or ()), *counts):
        if name not in known:
            raise SettingError(f"{name!r} is none of the dimensions {known}. Name one of these.")
    chosen: dict[str, list[Axis]] = {}
    reasons: list[str] = []
    for name in known if given is None else given:
        axes, reason = _shrinking(net, name)
        if axes:
            chosen[name] = axes
        elif given is None:
            reasons.append(reason)
        else:
            raise SettingError(f"{name} has no units to order: {reason}. Leave it out of dimensions={given}.")
    if not chosen:
        raise SettingError(f"None of the dimensions {known} has units to order: {'; '.join(reasons) or 'none given'}.")
    return chosen


def _shrinking(net: SortedNet, dimension: str) -> tuple[list[Axis], str]:
    """Return the axes that shrink where a dimension alone takes its smallest value; and why there are none, if so."""
    value = net.space.supports[dimension].values[0]
    small = net.space.full.replace(**{dimension: value})
    if small == net.space.full:
        return [], f"{value} is its one value"
    # Built even where the space does not list the setting.
    skeleton = build_skeleton(net.builder, small, net.full, net.cuts)
    slots = (*skeleton.parameters, *skeleton.buffers)
    missing = tensors_of(net.full).keys() - {slot.path for slot in slots}
    if missing:
        return [], f"{dimension}={value} drops whole layers, such as that of {min(missing)}"
    found: dict[tuple[int, int], Axis] = {}
    for slot in slots:
        tensor = slot.full()
        for place, (size, pieces) in enumerate(zip(tensor.shape, slot.cut.pieces, strict=True)):
            blocks = _blocks(size, pieces)
            if blocks:
                axis = found.setdefault((id(tensor), place), Axis(tensor, place, blocks))
                axis.names.append(slot.path)
                axis.owners.append(slot.source)
                if _input_axis(slot.source, slot.name) == place:
                    axis.readers.append(slot.source)
    if found:
        _refuse_smaller_heads(net.full, skeleton, dimension)
    return list(found.values()), f"{dimension}={value} makes no parameter smaller"


def _blocks(size: int, pieces: Sequence[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Return (start, size, size kept) of the blocks of an axis that shrink."""
    pieces = pieces if pieces[0][0] == 0 else ((0, 0), *pieces)
    ends = [*(start for start, _ in pieces[1:]), size]
    spans = ((start, end - start, kept) for (start, kept), end in zip(pieces, ends, strict=True))
    return tuple((start, span, kept) for start, span, kept in spans if kept < span)


def _refuse_smaller_heads(full: nn.Module, skeleton: Skeleton, dimension: str) -> None:
    theirs = dict(full.named_modules())
    for path, module in skeleton.module.named_modules():
        for name, size in vars(module).items():
            if _HEAD_SIZE.fullmatch(name) and getattr(theirs.get(path), name, size) != size:
                raise BuildError(
                    f"{dimension}={skeleton.setting[dimension]} makes heads smaller ({name} of {path} goes from "
                    f"{getattr(theirs[path], name)} to {size}): corners cut through every head, and no order of units "
                    f"is free. Sort the number of heads instead, or leave {dimension} out of dimensions=."
                )


def _input_axis(module: nn.Module, name: str) -> int | None:
    """Return the axis along which a weight takes in the one input of its module; None where that is not known."""
    if name == "weight":
        # The Conv1D of transformers is a linear layer that holds its weight the other way round.
        if isinstance(module, TransposedConvolution) or type(module).__name__ == "Conv1D":
            return 0
        if isinstance(module, (nn.Linear, Convolution)):
            return 1
    return None


def _coupled(axes: list[Axis], outputs: Outputs) -> list[list[Axis]]:
    """Part axes into groups whose units meet in the forward.

    Every layer that reads units gets its input detached. So the graph behind that input leads to just the parameters
    that made what it reads, through norms and activations, and to none before another such layer.
    """
    group = list(range(len(axes)))
    linked: set[int] = set()

    def join(one: int, other: int) -> None:
        old, new = group[one], group[other]
        if old != new:
            group[:] = [new if label == old else label for label in group]

    makers: dict[int, list[int]] = {}
    readers: dict[nn.Module, int] = {}
    for index, axis in enumerate(axes):
        readers |= dict.fromkeys(axis.readers, index)
        if len(axis.readers) < len(axis.owners):
            makers.setdefault(id(axis.tensor), []).append(index)
    full = outputs.net.full
    tensors = [axis.tensor for axis in axes]
    with evaluating(full), tracked(tensors), torch.enable_grad(), inputs_read(readers, detached=True) as read:
        call_with(full, outputs.inputs)
    for module, given in read:
        for maker in (index for leaf in _leaves(given) for index in makers.get(leaf, ())):
            join(maker, readers[module])
            linked |= {maker, readers[module]}
    # Statistics, which are no part of the graph, go with the scale of their norm.
    scales = {owner: index for index in linked if not axes[index].readers for owner in axes[index].owners}
    for index, axis in enumerate(axes):
        if axis.owners[0] in scales and not isinstance(axis.tensor, nn.Parameter):
            join(index, scales[axis.owners[0]])
            linked.add(index)
    # What this batch did not show is taken to meet all of its layer, or of the model where it lies in none.
    for index in set(range(len(axes))) - linked:
        layer = _layer(axes[index].names[0])
        for other, axis in enumerate(axes):
            if layer in ("", _layer(axis.names[0])):
                join(other, index)
    return [[axes[i] for i in range(len(axes)) if group[i] == label] for label in dict.fromkeys(group)]


def _layer(name: str) -> str:
    """Return the path of the outermost numbered block that a parameter lies in; nothing where it lies in none."""
    found = re.match(r"(.*?\.)?\d+(?=\.)", name)
    return found.group() if found else ""


def _leaves(tensor: Tensor) -> set[int]:
    """Return the ids of the parameters in the graph behind a tensor."""
    found: set[int] = set()
    stack: list[Any] = [tensor.grad_fn]
    seen: set[Any] = {None}
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                found.add(id(node.variable))
            stack.extend(before for before, _ in node.next_functions)
    return found


def _counted(dimension: str, coupled: list[list[Axis]], outputs: Outputs, given: int | None) -> list[Units]:
    """Find how many units each group has: the most whose order is free. Groups of one make are tried together."""
    alike: dict[Any, list[list[Axis]]] = {}
    for axes in coupled:
        make = frozenset((re.sub(r"\d+", "", axis.names[0]), axis.axis, axis.blocks) for axis in axes)
        alike.setdefault(make, []).append(axes)
    found: dict[int, int] = {}
    for groups in alike.values():
        count = _count(dimension, groups, outputs, given)
        found |= {id(axes): count for axes in groups}
    return [Units(dimension, axes, found[id(axes)]) for axes in coupled]


def _count(dimension: str, groups: list[list[Axis]], outputs: Outputs, given: int | None) -> int:
    names = ", ".join(axis.names[0] for axis in groups[0][:3])
    possible = _possible(groups[0])
    if given is not None and given not in possible:
        raise ConfigError(
            f"units={{{dimension!r}: {given}}} do not part {names} evenly, or corners cut through them. Give one of "
            f"{possible}, or leave it out."
        )
    size = outputs.net.space.full[dimension]
    tried: dict[int, float] = {}
    # The finest first, then the dimension's own value: heads are coarser than the rows that make them up.
    for count in sorted(possible, key=lambda n: (n != max(possible), n != size, -n)) if given is None else [given]:
        tried[count] = _change_by_chance([Units(dimension, axes, count) for axes in groups], outputs)
        if tried[count] <= outputs.tolerance / 8:
            return count
    least = min(tried.values(), default=math.inf)
    if not least <= outputs.tolerance:
        what = (
            f"permuting {sorted(tried)} units of {names} and what goes with them changes the full model's output, by "
            f"{least:.1e} of its largest number at least"
            if tried
            else f"{names} and what goes with them do not shrink by one share of equal units"
        )
        raise BuildError(
            f"No order of the units of {dimension} is free: {what}. Something depends on a unit's place, such as a "
            f"norm over groups of units or a corner through heads. Leave {dimension} out of dimensions=, or give the "
            "number of its units=."
        )
    # The least change is the noise of adding in another order, in a model that makes much of it.
    return max(count for count, change in tried.items() if change <= 8 * least)


def _possible(axes: list[Axis]) -> list[int]:
    """Return the numbers of equal units, above 1, that every block divides into and the corner leaves whole."""
    blocks = [block for axis in axes for block in axis.blocks]
    _, size, kept = blocks[0]
    if any(one * size != kept * whole for _, whole, one in blocks):
        return []
    most = math.gcd(*(whole for _, whole, _ in blocks))
    return [count for count in range(2, most + 1) if most % count == 0 and kept * count % size == 0]


def _change_by_chance(groups: list[Units], outputs: Outputs) -> float:
    """Return by how much the output changes where the units of each group are permuted at random."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(2):
        orders = [torch.randperm(units.count, generator=generator) for units in groups]
        orders = [order if (order.diff() != 1).any() else order.roll(1) for order in orders]
        with ExitStack() as undo:
            for units, order in zip(groups, orders, strict=True):
                undo.callback(units.permute, order.argsort())
                units.permute(order)
            worst = max(worst, outputs.change())
    return worst


@contextmanager
def _in_full_precision() -> Iterator[None]:
    """Keep a GPU from rounding float32 to TensorFloat-32, which would hide what an order changes."""
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):
        exact: Any = "ieee"
        name, places = "fp32_precision", [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    else:  # torch 2.8 and before
        exact = False
        name, places = "allow_tf32", [backends.cuda.matmul, backends.cudnn]
    chosen = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, exact)
    try:
        yield
    finally:
        for place, precision in zip(places, chosen, strict=True):
            setattr(place, name, precision)


@contextmanager
def tracked(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let gradients flow to parameters that are frozen otherwise."""
    frozen = [one for one in tensors if isinstance(one, nn.Parameter) and one.is_floating_point()]
    frozen = [one for one in frozen if not one.requires_grad]
    for one in frozen:
        one.requires_grad_(True)
    try:
        yield
    finally:
        for one in frozen:
            one.requires_grad_(False)


@contextmanager
def inputs_read(modules: Iterable[nn.Module], detached: bool = False) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collect what modules read, call by call.

    Args:
        modules: Modules that take one tensor.
        detached: Whether to cut them off from what made it.
    """
    read: list[tuple[nn.Module, Tensor]] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or not isinstance(inputs[0], Tensor):
            return None
        read.append((module, inputs[0]))
        return (inputs[0].detach(), *inputs[1:]) if detached else None

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(hook).remove)
        yield read
