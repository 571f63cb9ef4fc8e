"""Objectives and samplers made of their names, in Python and in a configuration alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import ConfigError, SortedNetError
from ..imports.names import OBJECTIVES, SAMPLERS
from ..network.sorted_net import SortedNet
from ..space import Setting, Space
from .config import ObjectiveConfig, SamplerConfig
from .distillation import Distillation
from .objectives import Objective, PerExample, Stochastic, StochasticSummation, Summation
from .sampling import Sampler, Sandwich, WithLargest

__all__ = ["DEFAULT_OBJECTIVE", "DEFAULT_SAMPLER", "call", "make_objective", "make_sampler", "objective_of"]

DEFAULT_OBJECTIVE = "per_example"
DEFAULT_SAMPLER = "stratified"


def make_sampler(name: str, space: Space, seed: int, options: Mapping[str, Any] | None = None) -> Sampler:
    """Return a sampler by its name.

    Args:
        name: One of `sortednet list samplers`.
        space: What it draws from.
        seed: Of what it draws, where the options give none; `cycle` draws nothing.
        options: Its further arguments.

    Raises:
        ConfigError: If the name or an option is unknown, or an option is missing.

    Example:
        >>> make_sampler("cycle", Space(depth=[1, 2]), 0, {"settings": ["depth=2", "depth=1"]}).draw(3)
        [Setting('depth=2'), Setting('depth=1'), Setting('depth=2')]
    """
    given = dict(options or {})
    kind = SAMPLERS[SAMPLERS.check(name, "sampler.name")]
    if name != "cycle":
        given.setdefault("seed", seed)
    made: Sampler = call(kind, "sampler.options", given, space)
    return made


def make_objective(one: ObjectiveConfig, sampler: SamplerConfig, space: Space, seed: int) -> Objective:
    """Return the objective that a configuration describes.

    Args:
        one: The objective.
        sampler: How it draws, if it does.
        space: The sub-models.
        seed: Of the sampler, where its options give none.

    Raises:
        ConfigError: If an option is unknown.
    """
    distillation = Distillation(one.distillation, one.temperature) if one.distillation else None
    weight = partial(_weight, full=space.full, full_weight=one.full_weight) if one.full_weight != 1 else None
    if one.name == "summation":
        return Summation(space, distillation, weight)
    drawn = make_sampler(sampler.name, space, seed, sampler.options)
    if sampler.always is not None:
        drawn = WithLargest(drawn) if sampler.always == "largest" else Sandwich(drawn)
    if one.name == "stochastic_summation":
        return StochasticSummation(drawn, distillation=distillation, settings_weight=weight)
    if one.name == "per_example":
        return PerExample(drawn, distillation, weight)
    return Stochastic(drawn, one.draws, distillation, weight)


def _weight(setting: Setting, full: Setting, full_weight: float) -> float:
    return full_weight if setting == full else 1.0


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
    name = OBJECTIVES.check(DEFAULT_OBJECTIVE if objective is None else objective, also="; or give an Objective")
    drawn = DEFAULT_SAMPLER if sampler is None else sampler
    if isinstance(drawn, str):
        SAMPLERS.check(drawn, also="; or give a Sampler")
        drawn = make_sampler(drawn, net.space, seed)
    if not isinstance(drawn, Sampler):
        raise ConfigError(f"sampler={drawn!r} is no sampler. Give a Sampler, or one of {', '.join(SAMPLERS)}.")
    _check_space("sampler", drawn, net)
    made: Objective = OBJECTIVES[name](drawn.space if name == "summation" else drawn)
    return made


def _check_space(what: str, one: Any, net: SortedNet) -> None:
    space = getattr(one, "space", None)
    if space is not None and space != net.space:
        raise ConfigError(f"The {what} is of {space!r}, the network of {net.space!r}. Make it of net.space.")


def call(function: Callable[..., Any], what: str, options: Mapping[str, Any], *args: Any) -> Any:
    """Call a function with options from a file, and say which option it does not take.

    Args:
        function: What to call.
        what: The options' key, for messages.
        options: The options.
        args: What it takes before them.

    Raises:
        ConfigError: If the options do not fit.
    """
    try:
        return function(*args, **options)
    except SortedNetError:
        raise
    except TypeError as error:
        raise ConfigError(f"{what}={dict(options)} do not fit: {error}. Correct the names or the values.") from error
