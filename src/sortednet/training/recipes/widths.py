"""Recipes for networks of several widths: slimmable, universally slimmable, LCS, MatFormer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ...errors import ConfigError
from ...space import Space
from ..distillation import Distillation
from ..objectives import Penalised, Stochastic, Summation
from ..sampling import Sandwich, Uniform
from .line import on_a_line, similarity
from .recipe import Recipe, Stage, norms

__all__ = ["lcs_l", "lcs_p", "matformer", "slimmable", "universally_slimmable"]


def slimmable(space: Space) -> Recipe:
    """Train all sub-models on every batch, their losses summed, each with normalisation layers of its own.

    A model without normalisation layers is trained on the sum alone.

    Args:
        space: The sub-models; the source has four widths.

    Source:
        Yu et al. (2018), arXiv:1812.08928, Alg. 1: switchable batch normalization. We give a sub-model every kind of
        normalisation layer for itself, scale and shift included, and sort any dimension, not widths alone.
    """
    stage = Stage(lambda net, seed, teacher: Summation(space, reduction="sum"))
    return Recipe("slimmable", space, (stage,), buffers="private", private=norms)


def universally_slimmable(space: Space, draws: int = 4) -> Recipe:
    """Train the largest, the smallest and some random sub-models on every batch; all but the largest follow it.

    With batch norm, measure the statistics anew afterwards (`SortedNet.reestimate`); `sortednet train` does.

    Args:
        space: The sub-models; the source draws any width, so give many.
        draws: Sub-models trained on a batch, at least 3.

    Source:
        Yu & Huang (2019), arXiv:1903.05134, Sec. 3: the sandwich rule, in-place distillation (the largest alone sees
        the labels) and post-statistics. Our draws are from the values of the space, not from a continuous range.
    """

    def objective(net: object, seed: int, teacher: object) -> Stochastic:
        sampler = Sandwich(Uniform(space, seed=seed))
        return Stochastic(sampler, draws, Distillation(labels=0.0), split=False, reduction="sum")

    return Recipe("universally_slimmable", space, (Stage(objective),), buffers="reestimated", options={"draws": draws})


def lcs_p(space: Space, draws: int = 4) -> Recipe:
    """Train the largest, the smallest and some random sub-models on every batch, their losses summed.

    The source uses instance or group norm, whose statistics need no care; with batch norm they are those of all.

    Args:
        space: The sub-models; the source draws any width, so give many.
        draws: Sub-models trained on a batch, at least 3.

    Source:
        Nunez et al. (2021), arXiv:2110.04252, Sec. 3: a point, for structured sparsity. Our draws are from the values
        of the space, not from a continuous range.
    """

    def objective(net: object, seed: int, teacher: object) -> Stochastic:
        return Stochastic(Sandwich(Uniform(space, seed=seed)), draws, split=False, reduction="sum")

    return Recipe("lcs_p", space, (Stage(objective),), options={"draws": draws})


def lcs_l(space: Space, draws: int = 4, dimension: str | None = None, lines: Sequence[str] | None = None) -> Recipe:
    """Train as `lcs_p`, with parameters that lie on a line between two ends, as far along as the sub-model is large.

    The model of every sub-model is a `Line`; `Line.merged()` is the plain model.

    Args:
        space: The sub-models; the source draws any width, so give many.
        draws: Sub-models trained on a batch, at least 3.
        dimension: The one that chooses the point; it may be left out where one alone has several values.
        lines: Shell patterns of the parameters that have two ends; those of the normalisation layers where left out,
            as in the source.

    Raises:
        ConfigError: If no dimension is given and there are several, or it is not in the space.

    Source:
        Nunez et al. (2021), arXiv:2110.04252, Sec. 3, Eq. 3: a line, for structured sparsity; the penalty on the
        ends' similarity has weight 1.
    """
    names = list(space.supports)
    several = [name for name, support in space.supports.items() if len(support.values) > 1]
    chosen = several[0] if dimension is None and len(several) == 1 else dimension
    if chosen is None:
        raise ConfigError(
            f"{space!r} has {len(several)} dimensions of several values. Say which of them chooses the point of the "
            f"line: dimension='{(several or names)[0]}'."
        )
    if chosen not in names:
        raise ConfigError(f"dimension={dimension!r} is none of {', '.join(names)}. Give one of these.")

    def objective(net: object, seed: int, teacher: object) -> Penalised:
        inner = Stochastic(Sandwich(Uniform(space, seed=seed)), draws, split=False, reduction="sum")
        return Penalised(inner, similarity)

    def wrap(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        patterns = norms(build(**space.full)) if lines is None else lines
        return on_a_line(build, space, chosen, tuple(patterns))

    options = {"draws": draws, "dimension": chosen, "lines": None if lines is None else list(lines)}
    return Recipe("lcs_l", space, (Stage(objective),), wrap=wrap, options=options)


def matformer(space: Space) -> Recipe:
    """Train all sub-models on every batch, the mean of their losses: nested feed-forward widths.

    Args:
        space: The sub-models; the source has the widths h, h/2, h/4 and h/8 of the feed-forward layers.

    Source:
        Devvrit et al. (2023), arXiv:2310.07707, Eq. 4, with equal weights. Its mixed widths, a different one in each
        layer, are not in a space of uniform sub-models.
    """
    return Recipe("matformer", space, (Stage(lambda net, seed, teacher: Summation(space)),))
