"""Objectives and samplers by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import ConfigError
from .network import SortedNet
from .objectives import Objective, PerExample, Stochastic, StochasticSummation, Summation
from .sampling import Geometric, PerDimension, Sampler, Stratified, Uniform

__all__ = ["DEFAULT_OBJECTIVE", "DEFAULT_SAMPLER", "OBJECTIVES", "SAMPLERS", "objective_of"]

DEFAULT_OBJECTIVE = "per_example"
DEFAULT_SAMPLER = "stratified"

OBJECTIVES: dict[str, Callable[[Sampler], Objective]] = {
    "per_example": PerExample,
    "stochastic": Stochastic,
    "stochastic_summation": StochasticSummation,
    "summation": lambda sampler: Summation(sampler.space),
}
SAMPLERS: dict[str, type[Sampler]] = {
    "stratified": Stratified,
    "uniform": Uniform,
    "per_dimension": PerDimension,
    "geometric": Geometric,
}


def objective_of(
    objective: Objective | str | None, sampler: Sampler | str | None, net: SortedNet, seed: int
) -> Objective:
    """Return the objective, made of the names given.

    Args:
        objective: An objective or its name; the default where left out.
        sampler: What an objective given by name draws from, or its name; the default where left out.
        net: The network.
        seed: Of a sampler given by name.


    Raises:
        ConfigError: If a name is unknown, or what is given is of another space.
    """
    if isinstance(objective, Objective):
        if sampler is not None:
            raise ConfigError(f"sampler={sampler!r} has no use: the objective has its own. Leave one of them out.")
        _check_space("objective", objective, net)
        return objective
    name = DEFAULT_OBJECTIVE if objective is None else objective
    if name not in OBJECTIVES:
        raise ConfigError(f"objective={name!r} is unknown. Give an Objective, or one of {list(OBJECTIVES)}.")
    drawn = DEFAULT_SAMPLER if sampler is None else sampler
    if isinstance(drawn, str):
        if drawn not in SAMPLERS:
            raise ConfigError(f"sampler={drawn!r} is unknown. Give a Sampler, or one of {list(SAMPLERS)}.")
        drawn = SAMPLERS[drawn](net.space, seed=seed)
    if not isinstance(drawn, Sampler):
        raise ConfigError(f"sampler={drawn!r} is no sampler. Give a Sampler, or one of {list(SAMPLERS)}.")
    _check_space("sampler", drawn, net)
    return OBJECTIVES[name](drawn)


def _check_space(what: str, one: Any, net: SortedNet) -> None:
    space = getattr(one, "space", None)
    if space is not None and space != net.space:
        raise ConfigError(f"The {what} is of {space!r}, the network of {net.space!r}. Make it of net.space.")
