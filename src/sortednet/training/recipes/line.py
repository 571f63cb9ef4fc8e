"""A line between two sets of weights: every sub-model reads its own point of it (LCS-l)."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...errors import ConfigError
from ...imports.privates.torch import parameters_of
from ...space import Number, Space

__all__ = ["Line", "on_a_line", "plain", "similarity"]


@final
class Line(nn.Module):
    """A model of which some parameters lie between two ends, as far along as the model is large.

    Args:
        model: The model at a setting; its weights are the ends at which the smallest sub-model lies.
        position: Where it lies: 0 for the smallest, 1 for the largest.
        patterns: Shell patterns of the parameters that have two ends.
        other: Another model like it, whose weights are the other ends at first; the same weights where left out.

    Attributes:
        model: The model.
        ends: The other ends, at which the largest sub-model lies, by name with "/" for ".".

    Raises:
        ConfigError: If no parameter matches.

    Source:
        Nunez et al. (2021), arXiv:2110.04252, Sec. 3: a line, of which the width chooses the point.

    Example:
        >>> line = Line(nn.Linear(2, 2), position=0.5, patterns=("bias",))
        >>> _ = line.model.bias.data.fill_(0.0), line.ends["bias"].data.fill_(1.0)
        >>> line.merged().bias
        Parameter containing:
        tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __init__(
        self, model: nn.Module, position: float, patterns: tuple[str, ...], other: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model, self.position = model, position
        ends = dict((model if other is None else other).named_parameters())
        names = [name for name in ends if any(fnmatch.fnmatchcase(name, one) for one in patterns)]
        if not patterns:
            raise ConfigError(
                "The model has no normalisation layers, which lie on the line by default. Give lines=[...]."
            )
        if not names:
            raise ConfigError(
                f"No parameter matches {', '.join(patterns)}, so none lies on a line. The model's first are "
                f"{list(ends)[:3]}; give patterns of these."
            )
        self.ends = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(ends[name].detach().clone()) for name in names}
        )

    def points(self) -> dict[str, Tensor]:
        """Return the parameters on the line, by name, where this model reads them."""
        return {
            name: torch.lerp(_parameter(self.model, name), end, self.position)
            for name, end in self.other_ends().items()
        }

    def other_ends(self) -> dict[str, Tensor]:
        """Return the ends at which the largest sub-model lies, by name."""
        return {entry.replace("/", "."): end for entry, end in parameters_of(self.ends).items() if end is not None}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.model, self.points(), args, kwargs)

    def merged(self) -> nn.Module:
        """Return a copy of the model alone, with the weights that it reads."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, point in self.points().items():
                model.get_parameter(name).copy_(point)
        return model


def _parameter(model: nn.Module, name: str) -> Tensor:
    """Return a parameter, or in a sub-model the corner that takes its place."""
    path, _, leaf = name.rpartition(".")
    found: Tensor = parameters_of(model.get_submodule(path))[leaf]
    return found


def plain(model: nn.Module) -> nn.Module:
    """Return the plain model of a sub-model that was cut out: that of a line where it lies on one, else itself."""
    return model.merged() if isinstance(model, Line) else model


def on_a_line(
    build: Callable[..., nn.Module], space: Space, dimension: str, patterns: tuple[str, ...]
) -> Callable[..., Line]:
    """Return a builder of models of which some parameters lie on a line, both ends drawn by the model's own builder.

    Args:
        build: The model's own builder.
        space: The sub-models.
        dimension: The dimension whose value chooses the point, from its smallest to its largest.
        patterns: Shell patterns of the parameters that have two ends.
    """
    values = space.supports[dimension].values
    return partial(_build, build, dimension, (float(min(values)), float(max(values))), patterns)


def _build(
    build: Callable[..., nn.Module],
    dimension: str,
    limits: tuple[float, float],
    patterns: tuple[str, ...],
    **setting: Number,
) -> Line:
    low, high = limits
    position = 1.0 if high == low else (float(setting[dimension]) - low) / (high - low)
    return Line(build(**setting), position, patterns, build(**setting))


def similarity(model: nn.Module) -> Tensor:
    """Return the squared cosine between the two ends of a line, which keeps them apart when it is added to the loss.

    Args:
        model: The full model.

    Returns:
        The squared cosine, in [0, 1]. Shape ().

    Source:
        Nunez et al. (2021), arXiv:2110.04252, Eq. 3, with weight 1.
    """
    assert isinstance(model, Line)
    pairs = [(_parameter(model.model, name), end) for name, end in model.other_ends().items()]
    product = torch.stack([(one * other).sum() for one, other in pairs]).sum()
    first, second = (torch.stack([pair[place].square().sum() for pair in pairs]).sum() for place in (0, 1))
    return product.square() / (first * second).clamp_min(torch.finfo(product.dtype).tiny)
