"""The quality of an adapter at every rank: the curve, the area under it, the smallest rank that suffices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, SettingError
from ..evaluation.cost import Measurement
from ..evaluation.evaluator import accuracy, evaluate
from ..evaluation.table import Table
from ..network.sorted_net import SortedNet
from ..space import Number, Setting, Space
from ..training.objectives import Batch
from .rank_space import RANK
from .ranks import builder_of_ranks

__all__ = ["RankCurve", "evaluate_ranks"]


@dataclass(frozen=True)
class RankCurve:
    """What an adapter is worth at every rank.

    Attributes:
        table: One row for each rank, rank 0 included where it was measured: the model without the adapter, but with
            what else was trained, such as a classifier.

    Example:
        >>> from sortednet import Row, Setting
        >>> rows = [Row(Setting({"r": r}), quality=q, params=r) for r, q in [(0, 50), (1, 80), (2, 90), (3, 91)]]
        >>> curve = RankCurve(Table(rows))
        >>> curve.best, curve.smallest_within(1.5), curve.area()
        (3, 2, 87.75)
    """

    table: Table

    @property
    def qualities(self) -> dict[int, float]:
        """The quality at each rank from 1 on, increasing in rank."""
        found = {int(row.setting[RANK]): row.quality for row in self.table if row.setting[RANK] > 0}
        return dict(sorted(found.items()))

    @property
    def base(self) -> float | None:
        """The quality at rank 0, if it was measured."""
        return next((row.quality for row in self.table if row.setting[RANK] == 0), None)

    @property
    def best(self) -> int:
        """The rank of the best quality, the smaller one where two are equal."""
        sign = 1 if self.table.direction() else -1
        return max(self.qualities, key=lambda rank: (sign * self.qualities[rank], -rank))

    def smallest_within(self, tolerance: float) -> int:
        """Return the smallest rank whose quality is within a tolerance of the best one.

        Args:
            tolerance: In the metric's own unit, at least 0.

        Raises:
            ConfigError: If the tolerance is negative.
        """
        if not tolerance >= 0:
            raise ConfigError(f"tolerance={tolerance} must be at least 0, in the unit of {self.table.metric}.")
        best = self.qualities[self.best]
        return next(rank for rank, quality in self.qualities.items() if abs(best - quality) <= tolerance)

    def area(self, *, log: bool = False) -> float:
        """Return the area under the quality over the ranks from 1 on, over the width of the axis: a mean quality.

        Args:
            log: Whether the axis is the logarithm of the rank, so that doubling it counts alike everywhere.

        Source:
            AURAC of MatryoshkaLoRA (2026), by the trapezoid rule; we divide by the width of the axis.
        """
        points = [(math.log2(rank) if log else rank, quality) for rank, quality in self.qualities.items()]
        if len(points) == 1:
            return points[0][1]
        width = points[-1][0] - points[0][0]
        pairs = itertools.pairwise(points)
        return sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairs) / width

    def __str__(self) -> str:
        return str(self.table)


def evaluate_ranks(
    net: SortedNet,
    loader: Iterable[Batch],
    metric: Callable[[Any, Any], Any] = accuracy,
    *,
    at: Mapping[str, Number] | None = None,
    base: bool = True,
    measure: Collection[Measurement] = (),
    metric_name: str | None = None,
    higher_is_better: bool | None = None,
) -> RankCurve:
    """Measure an adapter at every rank of its space, and without it.

    Args:
        net: A network of `dylora`.
        loader: As for `evaluate`.
        metric: As for `evaluate`.
        at: The values of the other dimensions; their largest where left out.
        base: Whether to measure rank 0 too: the model without the adapter.
        measure: Which costs beside the parameters, as for `evaluate`.
        metric_name: The name of the metric; the function's own where left out.
        higher_is_better: As for `evaluate`.

    Returns:
        The curve.

    Raises:
        BuildError: If the network is none of `dylora`.
        SettingError: If `at` is not in the space, or an adapter is merged into the weights.

    Example:
        >>> import torch
        >>> from peft import LoraConfig
        >>> from sortednet import dylora
        >>> net = dylora(torch.nn.Sequential(torch.nn.Linear(4, 2)), LoraConfig(r=2, target_modules=["0"]))
        >>> batch = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
        >>> sorted(evaluate_ranks(net, [batch]).qualities)
        [1, 2]
    """
    builder = builder_of_ranks(net)
    builder.refuse_merged(net.full, net.merged)
    rest = {name: value for name, value in net.space.full.items() if name != RANK} | dict(at or {})
    if RANK in rest:
        raise SettingError(f"at={dict(at or {})} fixes the rank, and all ranks are measured. Leave {RANK} out.")
    net.space.setting(**rest, **{RANK: net.space.full[RANK]})
    settings = [one for one in net.space if all(one[name] == value for name, value in rest.items())]
    without = [Setting({**settings[0], RANK: 0})] if base else []
    # The same weights, seen with one more rank; the full model is always part of it.
    space = Space([dict(one) for one in dict.fromkeys([*without, *settings, net.space.full])])
    seen = SortedNet(builder, space, model=net.full, layouts=net.layouts)
    table = evaluate(
        seen,
        loader,
        metric,
        settings=[*without, *settings],
        measure=measure,
        metric_name=metric_name,
        higher_is_better=higher_is_better,
    )
    rows = [row for row in table if all(row.setting[name] == value for name, value in rest.items())]
    return RankCurve(table.with_rows(rows))
