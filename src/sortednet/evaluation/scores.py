"""What a metric gave for one sub-model, example by example, and what that says of all examples of the kind."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ..errors import DataError
from ..space import Setting
from ..views.examples import size_of_targets
from .directions import name_of
from .margins import Margins

__all__ = ["Collected", "Scores", "examples_in", "intervals", "margins"]

_Z = 1.959963984540054  # 95 % of a normal variable lie within so many standard deviations
_MOST_SCORES = 20_000_000
_TWO_VALUED = ((0.0, 1.0), (0.0, 100.0))


@dataclass(frozen=True, eq=False)
class Scores:
    """What one sub-model is worth.

    Args:
        quality: The metric over all examples.
        units: Scores of single examples, or of whole batches where the metric gives no others, whose mean the quality
            is. Shape (N,), float32, on the CPU; none where it is no mean.
        weights: How much each counts. Shape (N,).
        examples: Number of examples.
        whole_batches: Whether the scores are those of batches.
    """

    quality: float
    units: Tensor | None = None
    weights: Tensor | None = None
    examples: int = 0
    whole_batches: bool = False


@final
class Collected:
    """Takes in the outputs of one sub-model, batch after batch, and scores them by a metric.

    Args:
        metric: Scores of an output and the targets: one for each example, or their mean.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._sum, self._count, self._examples, self._whole = 0.0, 0, 0, False
        self._units: list[Tensor] = []
        self._weights: list[Tensor] = []

    def update(self, output: Any, targets: Any) -> None:
        """Take in the output of a batch.

        Raises:
            DataError: If the metric gives no scores.
        """
        score = self._score(self._metric(output, targets))
        size = examples_in(targets)
        whole = score.dim() == 0 or (score.numel() == 1 and size > 1)
        count = size if whole else score.numel()
        self._whole |= whole and size > 1
        self._sum += float(score.double().sum()) * (size if whole else 1)
        self._count += count
        self._examples += size
        each = (score.reshape(1) if whole else score.flatten(1).mean(1) if score.dim() > 1 else score).float().cpu()
        self._units.append(each)
        self._weights.append(torch.full((len(each),), count / max(len(each), 1)))

    def compute(self) -> Scores:
        """Return the scores of all examples.

        Raises:
            DataError: If there was none.
        """
        if self._count == 0:
            raise DataError("The batches hold no example. Give at least one.")
        units, weights = torch.cat(self._units), torch.cat(self._weights)
        return Scores(self._sum / self._count, units, weights, self._examples, self._whole)

    def _score(self, given: Any) -> Tensor:
        """Return what the metric gave as a tensor; refuse what are no scores."""
        score: Any = given
        if (isinstance(given, (numbers.Real, Sequence)) and not isinstance(given, (str, bytes))) or (
            not isinstance(given, Tensor) and hasattr(given, "__array__")
        ):
            score = _tensor_of(given)
        if not isinstance(score, Tensor) or score.is_complex():
            shown = f"{given!r:.60}"
            raise DataError(
                f"The metric {name_of(self._metric)} gave {shown}, a {type(given).__name__}, which is no score. Let it "
                "return numbers: a tensor or a list of one for each example, shape (B,), or their mean."
            )
        return score.detach()


def _tensor_of(given: Any) -> Tensor | None:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        return None


def examples_in(targets: Any) -> int:
    """Count the examples of a batch by its targets: the rows of tensors, the entries of a list.

    Args:
        targets: A tensor, a list or tuple, or a mapping, of which the `labels` count where it has some.
    """
    if isinstance(targets, Mapping):
        values = [targets["labels"]] if targets.get("labels") is not None else list(targets.values())
        return next((size for one in values if (size := examples_in(one)) > 1), 1) if values else 1
    try:
        return size_of_targets(targets)
    except DataError:  # such as one number
        return 1


def intervals(found: Mapping[Setting, Scores]) -> dict[Setting, tuple[float, float]]:
    """Return the 95 % interval of each quality: where it would lie for any number of examples of the kind.

    Args:
        found: What was measured; one without scores of its examples has no interval.

    Returns:
        Both ends. Of scores with two values Wilson's interval, which holds for few examples and near both ends; else
        Student's t over the scores. None of a single score, or where all are equal.

    Source:
        Wilson (1927), JASA 22, 209-212. Weighted scores as a ratio estimator, Cochran (1977), "Sampling Techniques".
    """
    ends = _two_values(found.values())
    said = {}
    for setting, one in found.items():
        if one.units is None or one.weights is None or len(one.units) < (1 if ends else 2):
            continue
        if ends:
            low, high = ends
            said[setting] = tuple(low + (high - low) * part for part in _wilson(one.units, ends))
        elif (width := float(_spread(one.units[None], one.weights)[0, 0].sqrt())) > 0:
            width *= _student(len(one.units) - 1)
            said[setting] = (one.quality - width, one.quality + width)
    return {setting: (low, high) for setting, (low, high) in said.items() if math.isfinite(low + high)}


def margins(found: Mapping[Setting, Scores]) -> Margins | None:
    """Return by how much the qualities of each pair may differ by chance, from the differences example by example.

    Args:
        found: What was measured on the same examples.

    Returns:
        The margins; None where some sub-model has no scores, they are of a single unit, or there are too many.

    Source:
        The paired t interval. Of scores with two values Agresti and Min (2005), Statistics in Medicine 24, 729-740:
        half an example more in each of the four cells, without which a few differences of one sign look certain.
    """
    held = [(one.units, one.weights) for one in found.values() if one.units is not None and one.weights is not None]
    sizes = {len(units) for units, _ in held}
    if len(held) < len(found) or len(sizes) != 1 or not 1 < min(sizes) * len(held) <= _MOST_SCORES or min(sizes) < 2:
        return None
    units, weights, count = torch.stack([one for one, _ in held]), held[0][1], min(sizes)
    ends = _two_values(found.values())
    if ends:
        share = (units.double() - ends[0]) / (ends[1] - ends[0])  # (M, N) of 0, 1 and NaN
        right = share.sum(1)
        differ = right[:, None] + right[None] - 2 * share @ share.T
        spread = differ + 1 - (right[:, None] - right[None]) ** 2 / (count + 2)
        wide = _Z * spread.clamp_min(0).sqrt() / count * (ends[1] - ends[0])
    else:
        spread = _spread(units, weights)
        alone = spread.diagonal()
        wide = _student(count - 1) * (alone[:, None] + alone[None] - 2 * spread).clamp_min(0).sqrt()
    return Margins(list(found), [line[:place] for place, line in enumerate(wide.tolist())])


def _spread(units: Tensor, weights: Tensor) -> Tensor:
    """Return the covariances of weighted means of scores (M, N). Shape (M, M)."""
    weights = weights.double()
    each = units.double()
    rest = (each - (each @ weights / weights.sum())[:, None]) * weights
    return rest @ rest.T * len(weights) / (len(weights) - 1) / weights.sum() ** 2


def _two_values(found: Iterable[Scores]) -> tuple[float, float] | None:
    """Return both values of right and wrong, if all scores of single examples are one of them."""
    held = [one for one in found if one.units is not None and one.weights is not None]
    if not held or any(one.whole_batches or not _all_one(one.weights) for one in held):
        return None
    seen = {value for one in held for value in _first_values(one.units) if not math.isnan(value)}
    fitting = [ends for ends in _TWO_VALUED if seen <= {*ends}]
    return fitting[0] if seen and len(fitting) == 1 else None


def _all_one(weights: Tensor | None) -> bool:
    return weights is not None and bool(weights.eq(1).all())


def _first_values(units: Tensor | None) -> list[float]:
    return [] if units is None else torch.unique(units)[:4].tolist()  # NaN does not equal itself, and comes last


def _wilson(units: Tensor, ends: tuple[float, float]) -> tuple[float, float]:
    count = len(units)
    share = float((units.double() - ends[0]).mean()) / (ends[1] - ends[0])
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(max(0.0, share * (1 - share)) / count + _Z**2 / (4 * count**2))
    return min(share, middle - half), max(share, middle + half)


def _student(freedom: int) -> float:
    """Return within how many standard errors 95 % of Student's t lie: exactly for 1 and 2, else to 1 in 100.

    Source:
        Abramowitz and Stegun (1964), 26.7.5.
    """
    if freedom <= 2:
        return math.tan(0.475 * math.pi) if freedom == 1 else 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
