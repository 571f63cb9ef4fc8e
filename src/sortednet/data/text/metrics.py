"""Metrics of predictions on text, in points of 0 to 100, as the Hugging Face Trainer takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import ConfigError, DataError, TrainingError

__all__ = [
    "METRICS",
    "Prediction",
    "compute_metrics",
]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1"),
    "regression": ("pearson", "spearman"),
    "causal": ("loss", "exact_match"),
}
"""The metrics of each kind of text data, the usual one first."""


class Prediction(Protocol):
    """What the Trainer gives: transformers' `EvalPrediction`."""

    @property
    def predictions(self) -> Any: ...
    @property
    def label_ids(self) -> Any: ...


def compute_metrics(metric: str) -> Callable[[Prediction], dict[str, float]]:
    """Return the function that the Hugging Face Trainer calls as `compute_metrics`.

    | metric | the function returns | for |
    | --- | --- | --- |
    | `accuracy` | `accuracy` | classification: SST-2, RTE |
    | `f1` | `accuracy` and `f1` of class 1 | two classes: MRPC |
    | `pearson`, `spearman` | `pearson` and `spearman` | regression: STS-B |

    Accuracy and F1 are 0 to 100; F1 is 0 where no example is or was called class 1. Correlations are -100 to 100, and 0
    where all predictions or all labels are equal (there, the correlation is not defined), so that a sub-model that has
    learnt nothing yet counts as one that knows nothing.

    Args:
        metric: `accuracy`, `f1`, `pearson` or `spearman`.

    Returns:
        A function of a prediction with `predictions`, logits of shape (N, classes), or values of shape (N,) or (N, 1),
        and `label_ids` of shape (N,). Where `predictions` is a tuple, its first entry counts. It raises DataError if
        the shapes do not fit, and TrainingError if a prediction is not finite.

    Raises:
        ConfigError: If the metric is unknown, or none of predictions.

    Source:
        Wang et al. (2019), "GLUE", arXiv:1804.07461v3, Sec. 2: the metrics of each task. Fractional ranks for ties in
        Spearman's correlation, as in scipy.

    Example:
        >>> from types import SimpleNamespace
        >>> logits, labels = [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 1, 1]
        >>> compute_metrics("f1")(SimpleNamespace(predictions=logits, label_ids=labels))
        {'accuracy': 75.0, 'f1': 80.0}
    """
    if metric in METRICS["causal"]:
        raise ConfigError(
            f"metric={metric!r} is none of predictions. For 'loss', give the Trainer no compute_metrics: it reports "
            "eval_loss itself. For 'exact_match', generate answers and judge them with sortednet.evaluation.judging."
        )
    if metric in METRICS["regression"]:
        return _correlations
    if metric == "f1":
        return _accuracy_and_f1
    if metric == "accuracy":
        return _accuracy
    known = [*METRICS["classification"], *METRICS["regression"]]
    raise ConfigError(f"metric={metric!r} is unknown. Choose one of {known}.")


def _accuracy(prediction: Prediction) -> dict[str, float]:
    called, labels, _ = _classes(prediction)
    return {"accuracy": 100 * (called == labels).double().mean().item()}


def _accuracy_and_f1(prediction: Prediction) -> dict[str, float]:
    called, labels, classes = _classes(prediction)
    if classes != 2:
        raise DataError(f"f1 is for two classes, and the logits have {classes}. Choose the metric 'accuracy'.")
    right = int(((called == 1) & (labels == 1)).sum())
    either = int((called == 1).sum() + (labels == 1).sum())
    return {"accuracy": 100 * (called == labels).double().mean().item(), "f1": 200 * right / either if either else 0.0}


def _correlations(prediction: Prediction) -> dict[str, float]:
    values, labels = _tensors(prediction)
    values = values.squeeze(1) if values.dim() == 2 and values.shape[1] == 1 else values
    if values.shape != labels.shape or values.dim() != 1 or not len(values):
        raise _misfit(values, labels, "(N,) or (N, 1)")
    labels = labels.double()
    return {
        "pearson": 100 * _correlation(values, labels),
        "spearman": 100 * _correlation(_ranks(values), _ranks(labels)),
    }


def _classes(prediction: Prediction) -> tuple[Tensor, Tensor, int]:
    """Return the class called and the class of each example, and the number of classes."""
    logits, labels = _tensors(prediction)
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise _misfit(logits, labels, "(N, classes)")
    return logits.argmax(1), labels.long(), logits.shape[1]


def _tensors(prediction: Prediction) -> tuple[Tensor, Tensor]:
    given = prediction.predictions
    values = torch.as_tensor(given[0] if isinstance(given, tuple) else given).double()
    bad = int((~values.isfinite()).sum())
    if bad:
        raise TrainingError(
            f"{bad} of {values.numel()} predictions are not finite, so they have no metric. Train with a lower "
            "learning rate, with gradient clipping, or in a wider number format."
        )
    return values, torch.as_tensor(prediction.label_ids)


def _misfit(values: Tensor, labels: Tensor, expected: str) -> DataError:
    return DataError(
        f"The predictions have shape {tuple(values.shape)} and the labels {tuple(labels.shape)}. Give predictions of "
        f"shape {expected} and labels of shape (N,), N at least 1."
    )


def _correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation, -1 to 1; 0 where one side is constant."""
    if bool((first == first[0]).all()) or bool((second == second[0]).all()):
        return 0.0
    return torch.corrcoef(torch.stack([first, second]))[0, 1].item()


def _ranks(values: Tensor) -> Tensor:
    """Rank the values from 1, equal values by the mean of their ranks. Shape (N,), float64."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()  # the last rank of each value
    ranks: Tensor = (last - (counts - 1) / 2)[inverse]
    return ranks
