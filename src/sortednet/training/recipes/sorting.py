"""Recipes of sorted training: as the papers have it, and the default of this library."""

from __future__ import annotations

from typing import Literal

from ...errors import ConfigError
from ...imports.names import Reduction
from ...space import Space
from ..distillation import Distillation
from ..objectives import Objective, Stochastic
from ..sampling import Sampler, Stratified, Uniform, WithLargest
from .recipe import Recipe, Stage
from .recipe import norms as norms_of

__all__ = ["sorted_", "sortednet"]


def sortednet(space: Space, accumulation: Reduction = "mean") -> Recipe:
    """Train one uniformly drawn sub-model on every batch: SortedNet as the papers have it.

    Several draws for an update are had by accumulating batches (`training.accumulate`, g_acc in the papers).

    Args:
        space: The sub-models.
        accumulation: Whether the gradients of accumulated batches are averaged or summed, which the papers leave open;
            with SGD a sum of n is n times the rate.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3, Algorithm 1: stochastic loss, uniform sampling.
    """
    stage = Stage(lambda net, seed, teacher: Stochastic(Uniform(space, seed=seed)), accumulation=accumulation)
    return Recipe("sortednet", space, (stage,), options={"accumulation": accumulation})


def sorted_(
    space: Space,
    draws: int = 8,
    largest: bool | None = None,
    distillation: float = 0.0,
    reduction: Reduction = "mean",
    accumulation: Reduction = "mean",
    norms: Literal["shared", "private"] = "shared",
) -> Recipe:
    """Split every batch among several sub-models, all drawn once before any is drawn again: this library's default.

    An update costs less than one of the full model. With batch norm that is shared, measure the statistics anew
    afterwards (`SortedNet.reestimate`); `sortednet train` does.

    Args:
        space: The sub-models.
        draws: Sub-models that a batch is split among, at least 1, and 2 with the largest.
        largest: Whether the largest is among them at every batch. Where left out, it is where its turn would come less
            than once in eight batches.
        distillation: Weight of the full model's outputs as targets, at least 0.
        reduction: Whether the mean losses of the draws are averaged or summed; with SGD a sum of n is n times the rate.
        accumulation: The same of the gradients of accumulated batches.
        norms: Whether sub-models share the normalisation layers, or have them for themselves, which is better where all
            are drawn at every batch, and worse for many, each then trained by its own few draws.

    Raises:
        ConfigError: If `norms` is neither.

    Source:
        Ours, on Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3; the statistics as Yu & Huang (2019),
        arXiv:1903.05134, Sec. 3.3, the norms as Yu et al. (2018), arXiv:1812.08928.
    """
    always = len(space) > 8 * draws if largest is None else largest
    if norms not in ("shared", "private"):
        raise ConfigError(f"norms={norms!r} is unknown. Choose shared or private.")

    def objective(net: object, seed: int, teacher: object) -> Objective:
        drawn: Sampler = Stratified(space, seed=seed)
        following = Distillation(distillation) if distillation else None
        return Stochastic(WithLargest(drawn) if always else drawn, draws, following, reduction=reduction)

    options = {
        "draws": draws, "largest": always, "distillation": distillation, "reduction": reduction,
        "accumulation": accumulation, "norms": norms,
    }  # fmt: skip
    stage = Stage(objective, accumulation=accumulation)
    if norms == "private":
        return Recipe("sorted", space, (stage,), buffers="private", private=norms_of, options=options)
    return Recipe("sorted", space, (stage,), buffers="reestimated", options=options)
