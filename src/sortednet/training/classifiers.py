"""Classifiers of their own for trained sub-models."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import BuildError, TrainingError
from ..network.sorted_net import SortedNet
from ..space import Number
from ..views.batches import call_with, inputs_and_targets
from ..views.buffers import refuse_tied
from ..views.modes import evaluating
from .objectives import Batch, LossFunction

__all__ = ["adjust_classifiers"]


def adjust_classifiers(
    net: SortedNet,
    batches: Iterable[Batch],
    loss_fn: LossFunction,
    pattern: str,
    *,
    settings: Iterable[Mapping[str, Number] | str] | None = None,
    epochs: int = 5,
    learning_rate: float = 1e-3,
) -> None:
    """Train, for each sub-model, a classifier of its own on its frozen backbone, after the sorted training.

    The backbone runs as it does in use: in evaluation mode. Where the classifier comes last, so that its output is the
    model's, the backbone runs once for each batch, and its features are held for all epochs.

    The sub-model keeps it: `at`, `submodel`, `extract` and `save_pretrained` use it from then on. All other weights,
    statistics and the classifier of the full model stay as they are. An optimiser made before does not hold the new
    classifiers: make a new one to train on.

    Args:
        net: The trained network.
        batches: Batches `(inputs, ..., targets)` or mappings; held and gone through once an epoch.
        loss_fn: Mean loss of an output and the targets.
        pattern: Shell pattern of the classifier's parameters, such as `head.*`.
        settings: Sub-models to adjust; all of the space but the full one where left out.
        epochs: Times through the batches, at least 1.
        learning_rate: Of AdamW, above 0.

    Raises:
        BuildError: If no parameter matches the pattern, or one that does is tied to another.
        TrainingError: If a loss is not finite; that sub-model's classifier stays as it was.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Fig. 6: "classifier adjustment", 5 epochs for each sub-model.

    Example:
        >>> import sortednet as sn
        >>> net = sn.SortedNet(sn.models.MLP, sn.Space(width=[8, 16]))
        >>> batch = torch.randn(4, 64), torch.zeros(4, dtype=torch.long)
        >>> adjust_classifiers(net, [batch], nn.CrossEntropyLoss(), "head.*")
        >>> torch.equal(net.extract(width=8).head.weight, net.full.head.weight[:, :8])
        False
    """
    refuse_tied(net.full, pattern)
    names = [name for name, _ in net.full.named_parameters() if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise BuildError(
            f"No parameter matches {pattern!r}. The last of the full model are "
            f"{[name for name, _ in net.full.named_parameters()][-4:]}; give a pattern of these, such as 'head.*'."
        )
    held = list(batches)
    if held:
        call_with(net.observe, inputs_and_targets(held[0])[0])
    for one in net.space if settings is None else settings:
        setting = net.space.setting(one)
        if setting == net.space.full:
            continue
        module = net.submodel(setting)
        own = {name: nn.Parameter(p.detach().clone()) for name, p in module.named_parameters() if name in names}
        for name, parameter in own.items():
            path, _, last = name.rpartition(".")
            module.get_submodule(path).register_parameter(last, parameter)
        optimizer = torch.optim.AdamW(own.values(), learning_rate)
        with evaluating(module):
            outputs = _outputs(module, list(own), held)
            for _ in range(epochs):
                for output, batch in zip(outputs, held, strict=True):
                    loss = loss_fn(output(), inputs_and_targets(batch)[1])
                    if not torch.isfinite(loss):
                        raise TrainingError(
                            f"The loss of {setting} is {float(loss.detach())} while its classifier is adjusted, which "
                            f"stays as it was. Lower learning_rate={learning_rate}."
                        )
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
        net.private.add(setting, own)


def _outputs(module: nn.Module, own: Sequence[str], batches: Sequence[Batch]) -> list[Callable[[], Any]]:
    """Return what computes the model's output on each batch: its classifier on held features where it comes last."""
    path = os.path.commonpath([name.rpartition(".")[0].replace(".", "/") for name in own]).replace("/", ".")
    found: list[Callable[[], Any]] = []
    for batch in batches:
        inputs = inputs_and_targets(batch)[0]
        features = _features(module, module.get_submodule(path), inputs) if path else None
        if features is None:
            return [partial(call_with, module, inputs_and_targets(one)[0]) for one in batches]
        found.append(features)
    return found


@torch.no_grad()
def _features(module: nn.Module, classifier: nn.Module, inputs: Any) -> Callable[[], Any] | None:
    """Return a call of the classifier on what the model gives it; None where that is not all that follows."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    hook = classifier.register_forward_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    try:
        output = call_with(module, inputs)
    finally:
        hook.remove()
    if len(calls) != 1 or calls[0][2] is not output:
        return None
    args, kwargs, _ = calls[0]
    return partial(classifier, *args, **kwargs)
