"""Measure every sub-model: quality and cost, one row each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, partial
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..network.sorted_net import SortedNet
from ..space import Number, Setting
from ..training.objectives import Batch
from ..views.batches import call_with, inputs_and_targets, tensors_of_batch, to_device
from . import cost
from .conditions import processor, versions
from .cost import MEASUREMENTS, Measurement
from .directions import direction_of, name_of
from .row import INTERVALS
from .scores import Collected, Scores, intervals, margins
from .table import Row, Table

__all__ = ["Meter", "accuracy", "evaluate", "qualities", "quality", "tabulate"]

Metric = Callable[[Any, Any], Any]


def accuracy(output: Any, targets: Any) -> Tensor:
    """Score each example 100 if the largest logit is its class, and 0 otherwise.

    Args:
        output: Logits, or an object or mapping that has `logits`. Shape (B, classes).
        targets: Class of each example. Shape (B,), int64. Of a mapping, its `labels`.

    Returns:
        Scores in per cent. Shape (B,).

    Example:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        tensor([100.,   0.])
    """
    if isinstance(targets, Mapping):
        targets = targets.get("labels")
    held = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    logits = output if isinstance(output, Tensor) else held
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
    measure: Collection[Measurement] = tuple(MEASUREMENTS),
    cost_batch: int = 1,
    metric_name: str | None = None,
    higher_is_better: bool | None = None,
    report: Iterable[Batch] | None = None,
    conditions: Mapping[str, str | Number] | None = None,
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
            in bytes of `cost_batch` examples. Of a batch that has no single examples, such as a graph, all three are
            those of the first batch as it is. Where one cannot be measured it stays empty, and `Table.notes` says why.
        cost_batch: Examples of the first batch that latency and memory are measured on, at least 1.
        metric_name: The name of the metric; the function's own where left out.
        higher_is_better: Whether a larger quality is the better one; where left out, the metric or its name tells
            (`direction_of`), and where they do not, `Table.select` asks.
        report: Batches to report on, of which nothing is chosen: the quality that is chosen by looks better than it is.
        conditions: More to keep with the table, such as `{"seed": 0, "split": "validation"}`.
        progress: Called with the number of sub-models done and their total.

    Returns:
        One row for each sub-model: quality, parameters, the costs measured, intervals that hold the true quality 19
        times of 20 where there are scores of examples or of several batches, and the recovery in per cent of the full
        model's quality, where more is better and it is above 0.

    Raises:
        ConfigError: If `measure` or `cost_batch` is out of range.
        DataError: If the loader is empty, or the metric gives no scores.
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
    if set(measure) - set(MEASUREMENTS) or cost_batch < 1:
        raise ConfigError(
            f"measure={list(measure)} may hold {', '.join(MEASUREMENTS)}, and cost_batch={cost_batch} is at least 1."
        )
    batches, held_out = (_batches(one) for one in (loader, report))
    first = next(iter(batches), None)
    if first is None or (report is not None and next(iter(held_out), None) is None):
        which = "evaluate" if first is None else "report"
        raise DataError(f"The data to {which} on are empty. Give at least one batch of (inputs, targets).")
    inputs = to_device(inputs_and_targets(first)[0], next(net.full.parameters()).device)
    call_with(net.observe, inputs)
    wanted = list(
        dict.fromkeys([*(net.space if settings is None else map(net.space.setting, settings)), net.space.full])
    )
    meter = partial(Collected, metric)
    return tabulate(
        net,
        qualities(net, batches, meter, wanted),
        inputs,
        measure=measure,
        cost_batch=cost_batch,
        metric=metric_name or name_of(metric),
        higher_is_better=direction_of(metric, metric_name) if higher_is_better is None else higher_is_better,
        reported={} if report is None else dict(qualities(net, held_out, meter, wanted)),
        conditions=conditions,
        progress=None if progress is None else lambda done: progress(done, len(wanted)),
    )


def _batches(loader: Iterable[Batch] | None) -> Iterable[Batch]:
    if isinstance(loader, tuple) and all(isinstance(one, Tensor) for one in loader):
        raise DataError("A single batch was given. Give a list of batches, such as [(inputs, targets)].")
    return list(loader or ()) if loader is None or isinstance(loader, Iterator) else loader


def tabulate(
    net: SortedNet,
    measured: Iterable[tuple[Setting, Scores]],
    inputs: Any,
    *,
    measure: Collection[Measurement],
    cost_batch: int,
    metric: str,
    higher_is_better: bool | None,
    reported: Mapping[Setting, Scores] | None = None,
    conditions: Mapping[str, str | Number] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Table:
    """Put the costs of sub-models beside their qualities.

    Args:
        net: The network.
        measured: Sub-models and their scores, as `qualities` yields them; the full model is among them.
        inputs: A batch of the model, on its device, that costs are measured on.
        measure: As for `evaluate`.
        cost_batch: As for `evaluate`.
        metric: Name of the quality.
        higher_is_better: Whether a larger quality is the better one; None where nobody has said.
        reported: The scores to report, by sub-model.
        conditions: As for `evaluate`.
        progress: Called with the number of sub-models done.
    """
    one, some = (cost.examples_of(net, inputs, count) if measure else inputs for count in (1, cost_batch))
    costs: dict[Setting, dict[str, float]] = {}
    scores: dict[Setting, Scores] = {}
    notes: dict[str, str] = {}
    for setting, score in measured:
        scores[setting] = score
        costs[setting], reasons = cost.measure_costs(net, setting, one, some, measure)
        notes = {**reasons, **notes}
        if progress is not None:
            progress(len(scores))
    whole = scores[net.space.full].quality
    recovers = bool(higher_is_better) and whole > 0
    ends = {"quality": intervals(scores), "reported": intervals(reported or {})}
    rows = []
    for setting, score in scores.items():
        more: dict[str, Any] = dict(costs[setting])
        if reported:
            more["reported"] = reported[setting].quality
        for column, found in ends.items():
            more |= dict(zip(INTERVALS[column], found.get(setting, (None, None)), strict=True))
        if recovers and not score.quality < 0:
            more["recovery"] = 100 * (score.quality / whole)  # exactly 100 of the full model's
        rows.append(Row(setting, score.quality, cost.count_parameters(net, setting), **more))
    parameter = next(net.full.parameters())
    told = {
        "examples": scores[net.space.full].examples,
        **({"reported examples": reported[net.space.full].examples} if reported else {}),
        **({"costs of": _batch_text(inputs, one, some, cost_batch)} if measure else {}),
        "processor": processor(parameter.device),
        "threads": torch.get_num_threads(),
        "precision": str(parameter.dtype).removeprefix("torch."),
        "versions": versions(),
        **(conditions or {}),
    }
    return Table(rows, metric, higher_is_better, conditions=told, notes=notes, margins=margins(scores))


def _batch_text(inputs: Any, one: Any, some: Any, count: int) -> str:
    if one is inputs or some is inputs:
        shapes = ", ".join("x".join(map(str, tensor.shape)) or "1" for tensor in tensors_of_batch(inputs))
        if one is inputs:
            return f"the first batch as it is ({shapes})"
    return "1 example" if count == 1 else f"FLOPs of 1 example, the others of {count}"


class Meter(Protocol):
    """Makes a quality of what one sub-model puts out, batch after batch."""

    def update(self, output: Any, targets: Any) -> object:
        """Take in the output of a batch."""

    def compute(self) -> Scores:
        """Return the scores of all batches."""


def qualities(
    net: SortedNet,
    batches: Iterable[Batch],
    meter: Callable[[], Meter],
    settings: Iterable[Setting],
    *,
    part: Callable[[Any], tuple[Any, Any]] = inputs_and_targets,
    losses_only: bool = False,
) -> Iterator[tuple[Setting, Scores]]:
    """Yield sub-models with their scores. Those that may share a forward do, and each is built once for all calls.

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
                if _may_share(net, inputs):
                    outputs = call_with(partial(net, settings=group, inference=True, whole=not losses_only), inputs)
                else:
                    outputs = (call_with(submodel(setting), inputs) for setting in group)
                for one, output in zip(meters, outputs, strict=True):
                    one.update(output, targets)
        yield from ((setting, one.compute()) for setting, one in zip(group, meters, strict=True))


def _may_share(net: SortedNet, inputs: Any) -> bool:
    """Whether one call of the network gives what its sub-models give, to the bit and with all that they return."""
    if net.is_compiled or not all(tensor.numel() for tensor in tensors_of_batch(inputs)):
        return False  # a sub-model as a module is not compiled; without an example no exit can be tried
    names = set(inputs) if isinstance(inputs, Mapping) else set()
    of_the_call = {name for name, one in signature(net.forward).parameters.items() if one.kind is one.KEYWORD_ONLY}
    return not names & of_the_call


def quality(module: Callable[..., Any], batches: Iterable[Batch], metric: Metric = accuracy) -> float:
    """Return the mean of a metric over all examples.

    Args:
        module: A model, in evaluation mode if that matters to it.
        batches: Batches `(inputs, ..., targets)` or mappings.
        metric: Scores of an output and the targets, one for each example or their mean.

    Returns:
        The mean over the examples.
    """
    mean = Collected(metric)
    device = next(module.parameters()).device if isinstance(module, torch.nn.Module) else None
    with torch.inference_mode():
        for batch in batches:
            inputs, targets = to_device(inputs_and_targets(batch), device)
            mean.update(call_with(module, inputs), targets)
    return mean.compute().quality
