"""The configuration of training: a loop, by which optimiser and schedule; which sub-models; and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import ConfigError
from ..imports.names import SAMPLERS, Precision, UpdateRule
from ..imports.packages import check_installed

__all__ = ["ObjectiveConfig", "SamplerConfig", "TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained.

    Args:
        updates: Optimiser steps.
        batch_size: Examples in a batch, over all processes.
        accumulate: Batches per update (g_acc in the papers), each with draws of its own.
        optimizer: `adamw` or `sgd` (with Nesterov-free momentum 0.9).
        learning_rate: Its largest value, above 0.
        weight_decay: At least 0.
        schedule: From the largest value to 0 along a half `cosine` or a `linear` line, or `constant`.
        warmup_share: Share of the updates over which the learning rate rises linearly from 0, in [0, 1).
        max_norm: Largest norm of the gradient, above 0; none where null.
        update: What a step may change: `standard`, `touched`, `unique` or `reference`.
        precision: `float32`, `bf16` (autocast), or `auto`: `bf16` where the processor has instructions for it, and
            then images with the channels last.
        compile: Whether to compile the blocks.
        channels_last: Whether images and convolutions lie in memory with the channels last, which is often faster.
        checkpoint_every: Updates between checkpoints.
        keep: Checkpoints kept, at least 1.
        log_every: Updates averaged in a line of `metrics.jsonl`.
        tensorboard: Whether to write TensorBoard events too.
        seed: Of the data's order, the augmentation and dropout.

    Raises:
        ConfigError: If a value is outside its range.
        MissingPackageError: If TensorBoard is wanted and not installed.
    """

    updates: int = 1000
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = 0.1
    max_norm: float | None = 1.0
    update: UpdateRule = "standard"
    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = False
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 10
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision == "no":  # as the first version wrote it
            object.__setattr__(self, "precision", "float32")
        for field_, allowed in _CHOICES.items():
            if getattr(self, field_) not in allowed:
                raise ConfigError(f"training.{field_}={getattr(self, field_)!r} is unknown. Choose one of {allowed}.")
        for name in ("updates", "batch_size", "accumulate", "checkpoint_every", "keep", "log_every"):
            if not isinstance(getattr(self, name), int):
                raise ConfigError(
                    f"training.{name}={getattr(self, name)!r} is no whole number. Give one of at least 1."
                )
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name}={getattr(self, name)} is below 1. Give at least 1.")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"training.seed={self.seed} does not fit 64 bits. Give a smaller number.")
        if not 0 < self.learning_rate < math.inf or self.weight_decay < 0 or not 0 <= self.warmup_share < 1:
            raise ConfigError(
                f"training.learning_rate={self.learning_rate} must be above 0, weight_decay={self.weight_decay} at "
                f"least 0 and warmup_share={self.warmup_share} in [0, 1)."
            )
        if self.tensorboard:
            check_installed("training.tensorboard", "tensorboard", "tensorboard")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ConfigError(f"training.max_norm={self.max_norm} must be above 0, or null for no clipping.")

    def rate_at(self, update: int) -> float:
        """Return the learning rate of an update, 0 to `updates` - 1."""
        warmup = round(self.warmup_share * self.updates)
        if update < warmup:
            return self.learning_rate * (update + 1) / warmup
        done = (update - warmup) / max(1, self.updates - warmup)
        shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}
        return self.learning_rate * shape[self.schedule]


_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear", "constant"),
    "update": get_args(UpdateRule),
    "precision": get_args(Precision),
}


@dataclass(frozen=True)
class SamplerConfig:
    """How settings are drawn.

    Args:
        name: `uniform`, `stratified`, `weighted`, `per_dimension`, `geometric` or `cycle`.
        options: Further arguments of the sampler.
        always: Settings in every draw: `largest`, or `sandwich` for the largest and the smallest.

    Raises:
        ConfigError: If the name is unknown.
    """

    name: str = "stratified"
    options: dict[str, Any] = field(default_factory=dict)
    always: Literal["largest", "sandwich"] | None = None

    def __post_init__(self) -> None:
        SAMPLERS.check(self.name, "sampler.name")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which sub-models a batch trains.

    Args:
        name: `stochastic`, `per_example`, `stochastic_summation` or `summation`.
        draws: Sub-models that a batch is split among, for `stochastic`.
        distillation: Weight of the full model's outputs as targets; 0 for none.
        temperature: Of the distillation.
        full_weight: Weight of the full model's loss where the others have 1, above 0; weights are normalised.

    Raises:
        ConfigError: If a value is outside its range.
    """

    name: Literal["stochastic", "per_example", "stochastic_summation", "summation"] = "stochastic"
    draws: int = 8
    distillation: float = 0.0
    temperature: float = 1.0
    full_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.distillation < 0 or self.temperature <= 0 or self.full_weight <= 0:
            raise ConfigError(
                f"objective.draws={self.draws} must be at least 1, distillation={self.distillation} at least 0, "
                f"temperature={self.temperature} and full_weight={self.full_weight} above 0."
            )
