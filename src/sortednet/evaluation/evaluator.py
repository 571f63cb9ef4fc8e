"""Measure every sub-model: quality and cost, one row each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from inspect import signature
from operator import itemgetter
from typing import Any, Literal, Protocol, final

import torch
from torch import Tensor

from ..errors import DataError
from ..network.sorted_net import SortedNet
from ..space import Number, Setting
from ..training.objectives import Batch
from ..views.batches import call_with, inputs_and_targets, map_tensors, tensors_of_batch, to_device
from . import cost
from .table import Row, Table

__all__ = ["Meter", "accuracy", "evaluate", "qualities", "quality", "tabulate"]

Measurement = Literal["flops", "latency", "memory"]
Metric = Callable[[Any, Any], Tensor]


def accuracy(output: Any, targets: Any) -> Tensor:
    """Score each example 100 if the largest logit is its class, and 0 otherwise.

    Args:
        output: Logits, or an object that has `logits`. Shape (B, classes).
        targets: Class of each example. Shape (B,), int64. Of a mapping, its `labels`.

    Returns:
        Scores in per cent. Shape (B,).

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor([100.,   0.])
    """
    if isinstance(targets, Mapping):
        targets = targets.get("labels")
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor) or logits.shape[:-1] != targets.shape:
        raise DataError(
            "accuracy compares logits of shape (B, classes) with the class of each example, and this batch or output "
            "has none. Give metric=, a function of an output and the targets (of a mapping, the mapping)."
        )
    right = 100.0 * (logits.argmax(-1) == targets).float()
    return right.masked_fill(logits.isnan().any(-1), torch.nan)  # a network that diverged is not right by chance


def evaluate(
    net: SortedNet,
    loader: Iterable[Batch],
    metric: Metric = accuracy,
    *,
    settings: Iterable[Mapping[str, Number] | str] | None = None,
    measure: Collection[Measurement] = ("flops", "latency", "memory"),
    cost_batch: int = 1,
    metric_name: str | None = None,
    higher_is_better: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Measure sub-models as they are, without any further training.

    Those that differ in depth alone share a forward where that gives the same (`SortedNet.exits`).

    Args:
        net: The network; nothing of it is changed.
        loader: Batches `(inputs, ..., targets)` or mappings, the same each time it is iterated.
        metric: Scores of an output and the targets (with a mapping, and the mapping): one for each example, shape
            (B,), or their mean, shape ().
        settings: Which sub-models; all of the space where left out. The full model is always among them.
        measure: Which costs beside the parameters: FLOPs of one example, median latency in milliseconds and peak memory
            in bytes of `cost_batch` examples.
        cost_batch: Examples of the first batch that latency and memory are measured on, at least 1.
        metric_name: The name of the metric; the function's own where left out.
        higher_is_better: Whether a larger quality is the better one.
        progress: Called with the number of sub-models done and their total.

    Returns:
        One row for each sub-model: quality, parameters, the costs measured, and the recovery in per cent of the full
        model's quality.

    Raises:
        DataError: If the loader is empty.
        SettingError: If a setting is not in the space.

    Example:
        >>> import sortednet as sn
        >>> net = sn.SortedNet(sn.models.MLP, sn.Space(depth=[1, 2], width=[8, 16]))
        >>> table = evaluate(net, [(torch.randn(4, 64), torch.zeros(4, dtype=torch.long))], measure=())
        >>> len(table), table.row({"depth": 1, "width": 8}).params
        (4, 610)
    """
    if not isinstance(net, SortedNet):
        raise DataError(f"evaluate measures a SortedNet, not a {type(net).__name__}. Use quality(module, batches).")
    if isinstance(loader, tuple) and all(isinstance(one, Tensor) for one in loader):
        raise DataError("A single batch was given. Give a list of batches, such as [(inputs, targets)].")
    batches = list(loader) if isinstance(loader, Iterator) else loader
    first = next(iter(batches), None)
    if first is None:
        raise DataError("The data to evaluate on are empty. Give at least one batch of (inputs, targets).")
    inputs = to_device(inputs_and_targets(first)[0], next(net.full.parameters()).device)
    call_with(net.observe, inputs)
    wanted = list(
        dict.fromkeys([*(net.space if settings is None else map(net.space.setting, settings)), net.space.full])
    )
    return tabulate(
        net,
        qualities(net, batches, partial(_Mean, metric), wanted),
        map_tensors(itemgetter(slice(1)), inputs),
        map_tensors(itemgetter(slice(cost_batch)), inputs),
        measure=measure,
        metric=metric_name or str(getattr(metric, "__name__", "quality")),
        higher_is_better=higher_is_better,
        progress=None if progress is None else lambda done: progress(done, len(wanted)),
    )


def tabulate(
    net: SortedNet,
    measured: Iterable[tuple[Setting, float]],
    example: Any,
    examples: Any,
    *,
    measure: Collection[Measurement],
    metric: str,
    higher_is_better: bool,
    recovers: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Table:
    """Put the costs of sub-models beside their qualities.

    Args:
        net: The network.
        measured: Sub-models and their qualities, as `qualities` yields them; the full model is among them.
        example: Inputs of the model, on its device: the one example that FLOPs are counted on.
        examples: Those that latency and memory are measured on.
        measure: As for `evaluate`.
        metric: Name of the quality.
        higher_is_better: Whether a larger quality is the better one.
        recovers: Whether the quality can be said in per cent of the full model's.
        progress: Called with the number of sub-models done.
    """
    rows = []
    for setting, value in measured:
        # Costs are those of the model that is shipped; a sub-model may put fused parameters together at each call.
        module = net.extract(setting).eval() if {"latency", "memory"} & set(measure) else None
        rows.append(
            (
                setting,
                value,
                cost.count_parameters(net, setting),
                cost.count_flops(net, setting, example) if "flops" in measure else None,
                cost.measure_latency(module, examples) if module is not None and "latency" in measure else None,
                cost.measure_memory(module, examples) if module is not None and "memory" in measure else None,
            )
        )
        if progress is not None:
            progress(len(rows))
    whole = next(row[1] for row in rows if row[0] == net.space.full)
    return Table(
        [Row(*row, recovery=100 * row[1] / whole if whole and recovers else None) for row in rows],
        metric=metric,
        higher_is_better=higher_is_better,
    )


class Meter(Protocol):
    """Makes a quality of what one sub-model puts out, batch after batch."""

    def update(self, output: Any, targets: Any) -> object:
        """Take in the output of a batch."""

    def compute(self) -> float:
        """Return the quality over all batches."""


@final
class _Mean:
    """The mean of a metric over all examples."""

    def __init__(self, metric: Metric) -> None:
        self._metric, self._sum, self._count = metric, 0.0, 0

    def update(self, output: Any, targets: Any) -> None:
        score = self._metric(output, targets)
        size = score.numel() if score.dim() else _length(targets)
        self._sum += float(score.double().sum()) * (1 if score.dim() else size)
        self._count += size

    def compute(self) -> float:
        if self._count == 0:
            raise DataError("The batches hold no example. Give at least one.")
        return self._sum / self._count


def qualities(
    net: SortedNet,
    batches: Iterable[Batch],
    meter: Callable[[], Meter],
    settings: Iterable[Setting],
    *,
    part: Callable[[Any], tuple[Any, Any]] = inputs_and_targets,
    losses_only: bool = False,
) -> Iterator[tuple[Setting, float]]:
    """Yield sub-models with their qualities. Those that may share a forward do.

    Outputs of a shared forward are held together, one for each depth.

    Args:
        net: The network; nothing of it is changed.
        batches: As for `evaluate`, the same each time they are iterated: once for each group that shares a forward.
        meter: Makes what measures one sub-model.
        settings: The sub-models.
        part: Parts a batch into the model's inputs and the targets.
        losses_only: Whether the meter reads no more than an output's `loss`, so that exits of a language model may
            compute it in chunks.
    """
    device = next(net.full.parameters()).device
    groups: dict[tuple[Number, ...], list[Setting]] = defaultdict(list)
    for setting in settings:
        groups[tuple(value for name, value in setting.items() if name not in net.exits)].append(setting)
    for group in groups.values():
        meters, submodel = [meter() for _ in group], cache(net.submodel)
        with torch.no_grad():
            for batch in batches:
                inputs, targets = to_device(part(batch), device)
                if len(group) > 1 and _may_share(net, inputs, losses_only):
                    outputs = call_with(partial(net, settings=group, inference=True), inputs)
                else:
                    outputs = (call_with(submodel(setting), inputs) for setting in group)
                for one, output in zip(meters, outputs, strict=True):
                    one.update(output, targets)
        yield from ((setting, one.compute()) for setting, one in zip(group, meters, strict=True))


def _may_share(net: SortedNet, inputs: Any, losses_only: bool) -> bool:
    """Whether one call of the network gives what its sub-models give, to the bit and with all that they return."""
    if net.is_compiled or not all(tensor.numel() for tensor in tensors_of_batch(inputs)):
        return False  # a sub-model as a module is not compiled; without an example no exit can be tried
    names = set(inputs) if isinstance(inputs, Mapping) else set()
    of_the_call = {name for name, one in signature(net.forward).parameters.items() if one.kind is one.KEYWORD_ONLY}
    return not names & of_the_call and (losses_only or not (net.chunks_losses and "labels" in names))


def quality(module: Callable[..., Any], batches: Iterable[Batch], metric: Metric = accuracy) -> float:
    """Return the mean of a metric over all examples.

    Args:
        module: A model, in evaluation mode if that matters to it.
        batches: Batches `(inputs, ..., targets)` or mappings.
        metric: Scores of an output and the targets, one for each example or their mean.

    Returns:
        The mean over the examples.
    """
    mean = _Mean(metric)
    device = next(module.parameters()).device if isinstance(module, torch.nn.Module) else None
    with torch.inference_mode():
        for batch in batches:
            inputs, targets = to_device(inputs_and_targets(batch), device)
            mean.update(call_with(module, inputs), targets)
    return mean.compute()


def _length(targets: Any) -> int:
    value = (
        next((v for v in targets.values() if isinstance(v, Tensor)), None) if isinstance(targets, Mapping) else targets
    )
    return len(value) if isinstance(value, Tensor) and value.dim() else 1
