"""Whether more of a metric is better, as far as it says so itself or its name tells."""

from __future__ import annotations

import functools
import re
from typing import Any

__all__ = ["direction_of", "is_better", "name_of"]

_HIGHER = frozenset({
    "acc", "accuracy", "agreement", "ap", "auc", "aupr", "auprc", "auroc", "bertscore", "bleu", "chrf", "comet",
    "cosine", "dice", "elbo", "em", "f1", "f2", "fbeta", "fscore", "gleu", "hit", "hits", "iou", "jaccard",
    "kappa", "likelihood", "map", "matthews", "mcc", "meteor", "miou", "mrr", "ndcg", "pass", "pearson",
    "pearsonr", "precision", "psnr", "r2", "r2score", "recall", "recovery", "reward", "roc", "rouge", "rouge1",
    "rouge2", "rougel", "sensitivity", "similarity", "spearman", "spearmanr", "specificity", "ssim", "success",
    "throughput", "win",
})  # fmt: skip
_LOWER = frozenset({
    "bce", "bits", "bpb", "bpc", "brier", "cer", "cost", "deviance", "discrepancy", "distance", "divergence",
    "epe", "error", "errors", "fid", "kid", "kl", "kld", "latency", "loss", "lpips", "mae", "mape", "mse", "msle",
    "nats", "nll", "nllloss", "penalty", "perplexity", "ppl", "regret", "residual", "rmse", "rmsle", "smape",
    "ter", "wer", "wmape",
})  # fmt: skip
_KNOWN = _HIGHER | _LOWER
_PHRASES = {
    ("cross", "entropy"): False,
    ("exact", "match"): True,
    ("explained", "variance"): True,
    ("kl", "div"): False,
    ("log", "prob"): True,
    ("log", "loss"): False,
}
# What follows the noun without changing what it means.
_NEUTRAL = frozenset({
    "average", "averaged", "avg", "binary", "coefficient", "corr", "corrcoef", "correlation", "fn", "func", "function",
    "macro", "masked", "mean", "metric", "micro", "multiclass", "normalised", "normalized", "rate", "ratio",
    "score", "scores", "smooth", "smoothed", "sum", "top", "topk", "weighted",
})  # fmt: skip
_NEGATIONS = frozenset({"d2", "neg", "negative", "negated", "minus"})
_PREPOSITIONS = frozenset({"at", "by", "for", "from", "in", "of", "on", "over", "per", "to", "under", "vs", "with"})
_PIECE = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+\d*|[A-Z]+\d*|\d+")
_NAMELESS = frozenset({"", "<lambda>", "forward", "__call__", "compute", "wrapper", "inner"})


def name_of(metric: Any) -> str:
    """Return what a metric is called; `quality` where it has no name.

    Args:
        metric: A function, a method, a partial one, or an object that is called.

    Example:
        >>> name_of(direction_of), name_of(lambda output, targets: 0), name_of(functools.partial(is_better, ""))
        ('direction_of', 'quality', 'is_better')
    """
    while isinstance(metric, functools.partial):
        metric = metric.func
    name = str(
        getattr(metric, "__name__", "" if callable(getattr(metric, "__func__", None)) else type(metric).__name__)
    )
    if name not in _NAMELESS:
        return name
    owner = getattr(metric, "__self__", None)
    return "quality" if owner is None else type(owner).__name__


def direction_of(metric: Any, name: str | None = None) -> bool | None:
    """Say whether more of a metric is better.

    Args:
        metric: A function or an object. One that has `higher_is_better`, as those of torchmetrics, says it itself; else
            its name tells, as `mse_loss` does, `nn.L1Loss()`, `f1_score` or `negative_log_likelihood`.
        name: Another name that it was given.

    Returns:
        True or False; None where nothing is known, or both names say the opposite.

    Example:
        >>> import torch
        >>> direction_of(torch.nn.functional.mse_loss), direction_of(torch.nn.KLDivLoss()), direction_of(max)
        (False, False, None)
    """
    while isinstance(metric, functools.partial):
        metric = metric.func
    said = getattr(metric, "higher_is_better", None)
    if isinstance(said, bool):
        return said
    known = {found for one in (name_of(metric), name or "") if (found := is_better(one)) is not None}
    return known.pop() if len(known) == 1 else None


def is_better(name: str) -> bool | None:
    """Say by the name of a metric whether more of it is better; None where the name does not tell.

    The noun decides, which is the last word: an `accuracy_loss` is a loss. `negative` before it turns it round.

    Example:
        >>> [is_better(one) for one in ("top5_accuracy", "word error rate", "neg_mean_squared_error", "drop in F1")]
        [True, False, True, None]
    """
    words: list[str] = []
    for chunk in re.findall(r"[A-Za-z0-9]+", re.sub(r"^\s*1\s*-", "minus ", name)):
        words += [chunk.lower()] if chunk.lower() in _KNOWN else map(str.lower, _PIECE.findall(chunk))
    cut = next((place for place, word in enumerate(words) if place and word in _PREPOSITIONS), len(words))
    cut = len(words) if words[-1:] == ["loss"] else cut
    words = words[:cut]
    while len(words) > 1 and (words[-1] in _NEUTRAL or words[-1].isdigit()):
        words.pop()
    if not words:
        return None
    two = tuple(words[-2:])
    found = _PHRASES.get(two) if len(two) == 2 else None
    if found is None and words[-1] in _KNOWN:
        found = words[-1] in _HIGHER
    if found is None:
        return None
    turns = sum(word in _NEGATIONS for word in words[:-1])
    return found if turns % 2 == 0 else not found
