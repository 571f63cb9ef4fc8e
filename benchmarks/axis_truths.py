"""Models whose cuts are known: each with how its axes lie in the full model, by hand. The rest are plain corners.

An axis is written as its units are made up: `8/16 + 8/16` for the first 8 of each of two blocks of 16 behind each
other, `4 x 2/8` for the first 2 of 8 units in each of 4 blocks. `axis_truths_sequences` and `axis_truths_layers` hold
the models; `any_model.py` counts them, and `tests/views/alignment/test_truths.py` tries each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sortednet import SortedNet, Space
from sortednet.views.layouts import Cut

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VECTOR = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
SEQUENCE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Parts and a function that runs them."""

    def __init__(self, run: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


@dataclass(frozen=True)
class Truth:
    """A model and where the axes of its parameters lie.

    Attributes:
        name: What it is.
        build: Makes it.
        sizes: By argument, its small and its full value.
        inputs: Of its forward.
        axes: By name of a parameter and axis, such as `up.weight[0]`, how it is made up; None where the pad test alone
            tells.
        padded: Whether the pad test holds: not where the small model is another function of its units, as with blocks
            left out that hand nothing on.
        cuttable: Whether some cut is right.
    """

    name: str
    build: Callable[..., nn.Module]
    sizes: Mapping[str, tuple[Any, Any]]
    inputs: tuple[Tensor, ...]
    axes: Mapping[str, str] | None
    padded: bool = True
    cuttable: bool = True

    @property
    def space(self) -> Space:
        """Its two settings."""
        return Space([{name: values[place] for name, values in self.sizes.items()} for place in (0, 1)])

    def net(self) -> SortedNet:
        """Sort it, with nothing declared."""
        torch.manual_seed(0)
        return SortedNet(self.build, self.space, example=self.inputs)

    def faults(self, cuts: Mapping[str, Cut]) -> list[str]:
        """Return where cuts are not as they should be."""
        if self.axes is None:
            return []
        expected = dict(self.axes)
        found = []
        for name, cut in cuts.items():
            for axis, pieces in enumerate(cut.pieces):
                wanted = places_of(expected.pop(f"{name}[{axis}]", "")) or list(range(cut.shape[axis]))
                places = [place for start, length in pieces for place in range(start, start + length)]
                if places != wanted:
                    found.append(f"{name}[{axis}]: {places}, not {wanted}")
        return [*found, *(f"{axis}: there is none" for axis in expected)]


TRUTHS: list[Truth] = []


def truth(
    name: str, sizes: Mapping[str, tuple[Any, Any]], inputs: Tensor | tuple[Tensor, ...], axes: str | None = "",
    padded: bool = True, cuttable: bool = True,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:  # fmt: skip
    """Register the builder of a model.

    Args:
        name: What it is.
        sizes: By argument, its small and its full value.
        inputs: Of its forward.
        axes: Lines such as `up.weight[0] up.bias[0]: 4/8 + 4/8`; None where the pad test alone tells.
        padded: Whether the pad test holds.
        cuttable: Whether some cut is right.
    """

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        made = None if axes is None else {}
        for line in (axes or "").strip().splitlines():
            names, _, text = line.partition(": ")
            made.update(dict.fromkeys(names.split(), text))
        TRUTHS.append(Truth(name, build, sizes, given, made, padded, cuttable))
        return build

    return register


class _Units:
    """Units of an axis: how many there are, and which of them the small model has."""

    def __init__(self, size: int, places: list[int]) -> None:
        self.size, self.places = size, places

    def __add__(self, other: _Units) -> _Units:
        return _Units(self.size + other.size, self.places + [self.size + place for place in other.places])

    def __mul__(self, other: _Units) -> _Units:
        places = [outer * other.size + inner for outer in self.places for inner in other.places]
        return _Units(self.size * other.size, places)


def places_of(text: str) -> list[int]:
    """Return the places of the small model's units in the full axis, which is written as its parts.

    Example:
        >>> places_of("2/4 + 1/2"), places_of("2 x 1/3")
        ([0, 1, 4], [0, 3])
    """

    def leaf(match: re.Match[str]) -> str:
        small, _, full = match[0].partition("/")
        return f"units({full or small}, list(range({small})))"

    if not text:
        return []
    sums = re.sub(r"\d+(/\d+)?", leaf, text).replace(" x ", " * ")
    return eval(sums, {"units": _Units, "list": list, "range": range}).places


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """Return a convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
