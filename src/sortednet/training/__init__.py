"""What trains a network: which sub-models, which losses, one step, and a loop."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from . import importance, recipes
    from .classifiers import adjust_classifiers
    from .config import TrainingConfig
    from .distillation import Distillation
    from .layer_dropout import drop_layers, growing_rates
    from .objectives import Objective, Penalised, PerExample, Stochastic, StochasticSummation, Summation
    from .recipe_training import train_recipe
    from .sampling import (
        Cycle,
        Geometric,
        Held,
        PerDimension,
        Sampler,
        Sandwich,
        Stratified,
        Uniform,
        Weighted,
        WithLargest,
    )
    from .steps import StepResult, apply_update, step
    from .trainer import Trainer

__all__ = [
    "Cycle",
    "Distillation",
    "Geometric",
    "Held",
    "Objective",
    "Penalised",
    "PerDimension",
    "PerExample",
    "Sampler",
    "Sandwich",
    "StepResult",
    "Stochastic",
    "StochasticSummation",
    "Stratified",
    "Summation",
    "Trainer",
    "TrainingConfig",
    "Uniform",
    "Weighted",
    "WithLargest",
    "adjust_classifiers",
    "apply_update",
    "drop_layers",
    "growing_rates",
    "importance",
    "recipes",
    "step",
    "train_recipe",
]

_HOMES = {
    "classifiers": ["adjust_classifiers"],
    "config": ["TrainingConfig"],
    "distillation": ["Distillation"],
    "layer_dropout": ["drop_layers", "growing_rates"],
    "objectives": ["Objective", "Penalised", "PerExample", "Stochastic", "StochasticSummation", "Summation"],
    "recipe_training": ["train_recipe"],
    "sampling": [
        "Cycle",
        "Geometric",
        "Held",
        "PerDimension",
        "Sampler",
        "Sandwich",
        "Stratified",
        "Uniform",
        "Weighted",
        "WithLargest",
    ],
    "steps": ["StepResult", "apply_update", "step"],
    "trainer": ["Trainer"],
}
_MODULES = {
    "importance": "importance",
    "recipes": "recipes",
}

__getattr__, __dir__ = attach(__name__, _HOMES, _MODULES)
