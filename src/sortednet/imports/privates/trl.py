"""The privates of TRL. ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["evaluation_metrics", "holds_pairs", "loss_is_the_models", "unsortable"]

_GENERATES = "it generates with the model that it trains, which are many here"
_UNSORTABLE = {
    "GRPOTrainer": _GENERATES,
    "RLOOTrainer": _GENERATES,
    "OnlineDPOTrainer": _GENERATES,
    "NashMDTrainer": _GENERATES,
    "XPOTrainer": _GENERATES,
    "PPOTrainer": _GENERATES,
    "DistillationTrainer": "it distils itself; give distillation to the objective",
    "GKDTrainer": "it distils itself; give distillation to the objective",
}


def unsortable(kind: type) -> str:
    """Say why a trainer of TRL cannot train sub-models; nothing where it may."""
    return next(
        (f"{one.__name__}: {_UNSORTABLE[one.__name__]}" for one in kind.__mro__ if one.__name__ in _UNSORTABLE), ""
    )


def loss_is_the_models(trainer: Any) -> tuple[type, ...]:
    """Return the classes of a trainer whose own loss is what the model returns, with figures gathered beside it."""
    found = getattr(sys.modules.get("trl.trainer.sft_trainer"), "SFTTrainer", None)
    return () if found is None or getattr(trainer.args, "loss_type", "") == "dft" else (found,)


def holds_pairs(trainer: Any) -> bool:
    """Whether the rows of a batch belong together in pairs, the first half with the second."""
    return "Preference" in type(getattr(trainer, "data_collator", None)).__name__


def evaluation_metrics(trainer: Any) -> dict[str, list[float]]:
    """Return what a trainer of TRL has gathered beside the loss in an evaluation, which whoever reads it empties."""
    held: dict[str, list[float]] = getattr(trainer, "_metrics", {}).get("eval", {})
    return held
