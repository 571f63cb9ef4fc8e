"""Recipes for networks of several depths: early exit, extracted fine-tuning, LayerDrop, LayerSkip."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ...errors import BuildError, ConfigError
from ...network.sorted_net import SortedNet
from ...space import Setting, Space
from ..layer_dropout import drop_layers, growing_rates
from ..objectives import Stochastic, Summation
from ..sampling import Cycle, WithLargest
from .recipe import Prepare, Recipe, Stage, depth_of, full_only, head_of

__all__ = ["early_exit", "extracted", "layer_drop", "layer_skip", "sft_ict"]


def early_exit(space: Space, head: str | None = None) -> Recipe:
    """Train a head for every exit of a model that is trained already, and nothing else.

    Args:
        space: The depths of the exits.
        head: Shell pattern of the head's parameters; where left out, the first of `classifier.*`, `score.*`,
            `lm_head.*`, `head.*` and `fc.*` that the model has.

    Source:
        Xin et al. (2020), arXiv:2004.12993, Sec. 3.1, second stage. There the last head stays as it is; we go on
        training it with the others.
    """
    return Recipe(
        "early_exit",
        space,
        (_heads(space, head),),
        private=lambda model: (head_of(model, head),),
        options={"head": head},
    )


def sft_ict(space: Space, head: str | None = None, heads_share: float = 1 / 3) -> Recipe:
    """Fine-tune the full model, then train a head for every exit on the frozen rest.

    Args:
        space: The depths of the exits.
        head: Shell pattern of the head's parameters; where left out, the first of `classifier.*`, `score.*`,
            `lm_head.*`, `head.*` and `fc.*` that the model has.
        heads_share: Share of the updates that train the heads, in (0, 1).

    Raises:
        ConfigError: If the share is outside (0, 1).

    Source:
        Valipour (2024), PhD thesis, Sec. 5.3: SFT+ICT, two epochs and one. The method is that of Xin et al. (2020),
        arXiv:2004.12993.
    """
    if not 0 < heads_share < 1:
        raise ConfigError(f"heads_share={heads_share} is outside (0, 1). Give a share of the updates, such as 0.33.")
    stages = (Stage(full_only(space), 1 - heads_share), _heads(space, head, heads_share, _from_the_full))
    options = {"head": head, "heads_share": heads_share}
    return Recipe("sft_ict", space, stages, private=lambda model: (head_of(model, head),), options=options)


def extracted(space: Space) -> Recipe:
    """Cut every sub-model out first and train it on its own, all on the same batches.

    Nothing is shared: the network holds the weights of all sub-models beside one another. The baseline of extracted
    fine-tuning. Clipping (`max_norm`) takes the gradients of all together.

    Args:
        space: The sub-models.

    Source:
        Valipour (2024), PhD thesis, Sec. 5.3: extracted fine-tuning.
    """
    stage = Stage(lambda net, seed, teacher: Summation(space, reduction="sum"))
    return Recipe("extracted", space, (stage,), buffers="private", private=lambda model: ("*",))


def layer_drop(space: Space, rate: float = 0.2) -> Recipe:
    """Train the full model alone, every block passed by at random.

    Args:
        space: The depths that are read afterwards. Their blocks must be one list (`SortedNet.exits`).
        rate: Chance that a batch passes a block by, in [0, 1).

    Source:
        Fan et al. (2019), arXiv:1909.11556, Sec. 3. There every other block is pruned afterwards; our sub-models are
        the first blocks.
    """
    stage = Stage(full_only(space), setup=partial(_drop, rate=rate))
    return Recipe("layer_drop", space, (stage,), options={"rate": rate})


def layer_skip(
    space: Space, rate: float = 0.1, loss_scale: float = 1.0, exits: int = 1, depth: str | None = None
) -> Recipe:
    """Train the full model and some exits in turn, deeper exits weighing more, deeper blocks dropped more often.

    Args:
        space: The depths. Their blocks must be one list (`SortedNet.exits`).
        rate: Chance that an example passes the last block by, in [0, 1); it grows from 0 at the first.
        loss_scale: Weight of the exits beside the last block, at least 0.
        exits: Exits trained on a batch beside the last block; they take turns.
        depth: The dimension that counts blocks; it may be left out where its name holds "layer" or "depth".

    Raises:
        ConfigError: If `exits` is below 1 or above the number of smaller depths, or the scale negative.

    Source:
        Elhoushi et al. (2024), arXiv:2404.16710, Sec. 4.1: layer dropout that grows exponentially with depth, the same
        at all times (their choice for fine-tuning), the early-exit loss and its rotational curriculum.
    """
    name = depth_of(space, depth)
    others = [setting for setting in space.ordered() if setting != space.full]
    if not 1 <= exits <= len(others) or not loss_scale >= 0:
        raise ConfigError(
            f"exits={exits} must be from 1 to the {len(others)} smaller sub-models, and loss_scale={loss_scale} at "
            "least 0."
        )
    last = int(space.full[name]) - 1

    def weight(setting: Setting) -> float:
        """Return e(l) of the source for the exit behind layer l, counted from 0."""
        layer = int(setting[name]) - 1
        below = loss_scale * math.comb(layer + 1, 2)
        return last + loss_scale * math.comb(last, 2) if layer == last else below

    def objective(net: object, seed: int, teacher: object) -> Stochastic:
        return Stochastic(WithLargest(Cycle(space, others)), exits + 1, settings_weight=weight, split=False)

    stage = Stage(objective, setup=partial(_drop, rate=rate, growing=True, name=name))
    options = {"rate": rate, "loss_scale": loss_scale, "exits": exits, "depth": name}
    return Recipe("layer_skip", space, (stage,), options=options)


def _heads(space: Space, head: str | None, share: float = 1.0, prepare: Prepare | None = None) -> Stage:
    def trained(model: nn.Module) -> tuple[str, ...]:
        return (head_of(model, head),)

    return Stage(lambda net, seed, teacher: Summation(space), share, trained=trained, prepare=prepare)


@torch.no_grad()
def _from_the_full(net: SortedNet, batches: object, loss_fn: object) -> None:
    """Let the head of every exit start from the full model's, which is trained by now."""
    for setting in net.space:
        for name, corner in net.skeleton(setting).own_tensors(net.private).items():
            own = net.private.find(setting, name)
            if own is not None:
                own.copy_(corner)


def _drop(net: SortedNet, *, rate: float, growing: bool = False, name: str | None = None) -> Callable[[], object]:
    """Attach layer dropout to the blocks of the one list that a dimension shortens; return what takes it off."""
    paths = list(net.exits.values()) if name is None else [net.exits[one] for one in net.exits if one == name]
    if len(paths) != 1:
        raise BuildError(
            f"Layer dropout needs one list of blocks that the depth shortens; the network has {net.exits or 'none'}. "
            "Sort the depth of a model whose blocks are one nn.ModuleList or nn.Sequential."
        )
    blocks = len(list(net.full.get_submodule(paths[0]).children()))
    if growing:
        drop_layers(net.full, paths[0], growing_rates(blocks, rate), unit="example")
    else:
        drop_layers(net.full, paths[0], rate)
    return partial(drop_layers, net.full, paths[0], 0.0)
