"""Rules of losses inside a model: two tensors meet, and all units of an axis become one number."""

from __future__ import annotations

from .mixing import pointwise
from .rules import Terms, Walk, rule
from .tape import Operation, Ref

__all__ = ["by_class", "by_label", "loss", "pairwise", "renormed", "verdict"]


@rule("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy", "kl_div",
      "binary_cross_entropy_with_logits", "dist")  # fmt: skip
def loss(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Axes meet from the right; a sum or mean leaves none."""
    met = pointwise(walk, ours, theirs)
    if ours.outputs[0].shape:
        return met
    walk.statistic(*met[0])
    return [[]]


@rule("nll_loss_forward", "nll_loss2d_forward", "multi_margin_loss")
def by_class(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """The class of each example, by its number; classes lie along the second axis, or are the only one."""
    terms, targets = (walk.terms(ours[name], theirs[name]) for name in ("self", "target"))
    place = min(1, len(terms) - 1)
    rest = [*terms[:place], *terms[place + 1 :]]
    for one, other in zip(rest, targets, strict=False):
        walk.meet(one, other)
    if isinstance(ours["weight"], Ref):
        walk.meet(walk.terms(ours["weight"], theirs["weight"])[0], terms[place])
    walk.statistic(terms[place])
    return [rest if ours.outputs[0].shape else [], []]


@rule("multilabel_margin_loss_forward")
def by_label(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """The classes of each example, by their numbers."""
    terms = walk.terms(ours["self"], theirs["self"])
    walk.statistic(terms[-1])
    return [terms[:-1] if ours.outputs[0].shape else [], terms]


@rule("_is_all_true", "_is_any_true")
def verdict(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """A check of all numbers, such as of the arguments of a distribution; nothing is made of them."""
    return [[]]


@rule("embedding_renorm", "renorm")
def renormed(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Rows are scaled by their norm."""
    terms = walk.terms(ours["self"], theirs["self"])
    kept = ours["dim"] % len(terms) if "dim" in ours.arguments else 0
    walk.statistic(*(term for place, term in enumerate(terms) if place != kept))
    return [terms]


@rule("_pdist_forward")
def pairwise(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """The distance of each row to each behind it, all one behind the other."""
    walk.statistic(*walk.terms(ours["self"], theirs["self"]))
    return [[walk.leaf(*sizes) for sizes in zip(ours.outputs[0].shape, theirs.outputs[0].shape, strict=True)]]
