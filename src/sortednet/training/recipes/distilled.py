"""Recipes that train the full model first and let sub-models follow it: once-for-all and DynaBERT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch import nn

from ...errors import ConfigError
from ...network.sorted_net import SortedNet
from ...space import Setting, Space
from ..distillation import Distillation
from ..importance import reorder
from ..objectives import LossFunction, Objective, Stochastic, Summation
from ..sampling import Cycle, Weighted
from .recipe import Recipe, Stage, depth_of, full_only

__all__ = ["dynabert", "once_for_all"]


def once_for_all(space: Space, depth: str | None = None, order: bool = True) -> Recipe:
    """Shrink progressively: train the full model, then fewer blocks too, then narrower ones too, following the full.

    With batch norm, measure the statistics anew afterwards (`SortedNet.reestimate`); `sortednet train` does.

    Args:
        space: The sub-models, of several depths and widths.
        depth: The dimension that counts blocks; it may be left out where its name holds "layer" or "depth".
        order: Whether to order the units by the size of their weights before the widths are trained.

    Raises:
        ConfigError: If the space has one sub-model alone, no dimension counts blocks, or there are no units to order.

    Source:
        Cai et al. (2019), arXiv:1908.09791, Sec. 3.3: two sub-models a batch while the depth shrinks, four when the
        width does too, each learning from the labels and from the full model as it was trained first. There is no
        elastic kernel size, and a sub-model has one width and keeps its first blocks.
    """
    name = _depth(space, depth)
    if order and not _has_widths(space, name):
        raise ConfigError(f"{space!r} sorts {name} alone, whose blocks have no units to order. Give order=False.")
    shallow = [one for one in space if all(one[n] == v for n, v in space.full.items() if n != name)]

    def shrink(settings: Sequence[Setting], draws: int, net: Any, seed: int, teacher: nn.Module | None) -> Objective:
        sampler = Weighted(space, dict.fromkeys(settings, 1.0), seed=seed)
        return Stochastic(sampler, draws, Distillation(teacher=teacher), split=False, reduction="sum")

    stages = (
        Stage(full_only(space), 0.4),
        Stage(partial(shrink, shallow, 2), 0.3),
        Stage(partial(shrink, list(space), 4), 0.3, prepare=_by_magnitude if order else None),
    )
    return Recipe("once_for_all", space, stages, buffers="reestimated", options={"depth": name, "order": order})


def dynabert(space: Space, depth: str | None = None, hidden: float = 0.1) -> Recipe:
    """Fine-tune the full model, order its units by importance, then train narrower and shallower ones to follow it.

    Args:
        space: The sub-models, of several depths, heads and feed-forward widths at one hidden size.
        depth: The dimension that counts blocks; it may be left out where its name holds "layer" or "depth".
        hidden: Weight of the hidden states while the width alone shrinks; 0 follows the logits alone, in every stage.

    Raises:
        ConfigError: If the space has one sub-model alone, or no dimension counts blocks; in training, if hidden states
            are to be followed of a model that returns none.

    Source:
        Hou et al. (2020), arXiv:2004.04037, Sec. 2 and Alg. 1: the full model fine-tuned, its heads and feed-forward
        units ordered by importance, widths trained to follow its logits and hidden states (weights 1 and 0.1), then
        widths and depths (1 and 1), then all of them on the labels. There blocks are dropped evenly; our sub-models
        keep the first.
    """
    name = _depth(space, depth)
    if not _has_widths(space, name):
        raise ConfigError(
            f"{space!r} sorts {name} alone, and DynaBERT shrinks widths first. Sort heads or feed-forward widths too, "
            "or use once_for_all with order=False."
        )
    narrow = [one for one in space if one[name] == space.full[name]]

    def widths(weight: float, net: Any, seed: int, teacher: nn.Module | None) -> Objective:
        if weight and not hasattr(net.full, "config"):
            raise ConfigError(
                f"hidden={weight} follows hidden states, which {type(net.full).__name__} does not return as a Hugging "
                "Face model does. Give hidden=0."
            )
        following = Distillation(labels=0.0, hidden=weight, teacher=teacher)
        return Stochastic(Cycle(space, narrow), len(narrow), following, split=False, reduction="sum")

    def everything(weight: float, net: Any, seed: int, teacher: nn.Module | None) -> Objective:
        return Summation(space, Distillation(labels=0.0, hidden=weight, teacher=teacher), reduction="sum")

    stages = (
        Stage(full_only(space), 0.25),
        Stage(partial(widths, hidden), 0.25, prepare=_by_importance),
        Stage(partial(everything, 1.0 if hidden else 0.0), 0.25),
        Stage(lambda net, seed, teacher: Summation(space, reduction="sum"), 0.25),
    )
    return Recipe("dynabert", space, stages, options={"depth": name, "hidden": hidden})


def _depth(space: Space, depth: str | None) -> str:
    """Return the dimension that counts blocks, of a space that has something to shrink.

    Raises:
        ConfigError: If it has one sub-model alone, or no such dimension.
    """
    if len(space) < 2:
        raise ConfigError(f"{space!r} has one sub-model, and there is nothing to shrink. Give several.")
    return depth_of(space, depth)


def _has_widths(space: Space, depth: str) -> bool:
    return any(len(support.values) > 1 for name, support in space.supports.items() if name != depth)


def _by_magnitude(net: SortedNet, batches: Iterable[Any], loss_fn: LossFunction) -> None:
    reorder(net, batches, loss_fn, kind="magnitude")


def _by_importance(net: SortedNet, batches: Iterable[Any], loss_fn: LossFunction) -> None:
    reorder(net, batches, loss_fn, kind="taylor")
