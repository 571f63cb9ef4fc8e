"""Random programs: networks of random steps over axes that join, part, nest and change places.

Where a network accepts one, the pad test must hold; where no cut is right, it must refuse. `any_model.py` runs 5,000
with a cut, and `tests/views/alignment/test_programs.py` a few.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pad_test
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sortednet import SortedNet, Space
from sortednet.errors import LayoutError

Size = tuple[int, int]
"""In the small and in the full model."""
INPUT = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
_MOST = 80  # units of an axis
_FIXED: Size = (1, 1)


@dataclass(frozen=True)
class Step:
    """One step of a program.

    Attributes:
        kind: What it does.
        inputs: The numbers of the values that it takes; 0 is the input.
        size: Of the axis that comes out.
        more: Other sizes that it needs.
    """

    kind: str
    inputs: tuple[int, ...]
    size: Size
    more: tuple[Size, ...] = ()


class Program(nn.Module):
    """A network of steps.

    Args:
        steps: In their order.
        place: 0 for the small one, 1 for the full one.
    """

    def __init__(self, steps: tuple[Step, ...], place: int) -> None:
        super().__init__()
        self.steps, self.place = steps, place
        self.layers = nn.ModuleDict()
        sizes = [(8, 8), *(step.size for step in steps)]
        for number, step in enumerate(steps):
            taken = sizes[step.inputs[0]][place]
            layer = _layer(step, taken, place)
            if layer is not None:
                self.layers[str(number)] = layer

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for number, step in enumerate(self.steps):
            layer = dict(self.layers.items()).get(str(number))
            sizes = [pair[self.place] for pair in step.more]
            values.append(_RUN[step.kind](layer, [values[one] for one in step.inputs], sizes))
        return values[-1]


def _layer(step: Step, taken: int, place: int) -> nn.Module | None:
    size, more = step.size[place], [pair[place] for pair in step.more]
    if step.kind == "linear":
        return nn.Linear(taken, size)
    if step.kind == "groups":
        return nn.Conv1d(taken, size, 1, groups=more[0])
    if step.kind == "heads":
        return nn.Linear(more[0], more[1], bias=False)
    if step.kind == "norm":
        return nn.BatchNorm1d(size)
    if step.kind == "lstm":
        return nn.LSTM(taken, size, batch_first=True)
    return nn.Linear(1, size, bias=False) if step.kind == "scale" else None


_RUN: dict[str, Callable[[Any, list[Tensor], list[int]], Tensor]] = {
    "linear": lambda layer, x, _: layer(x[0]),
    "norm": lambda layer, x, _: layer(x[0]),
    "groups": lambda layer, x, _: layer(x[0][:, :, None])[:, :, 0],
    "heads": lambda layer, x, n: layer(x[0].view(len(x[0]), -1, n[0])).flatten(1),
    "lstm": lambda layer, x, _: layer(x[0][:, None])[0][:, 0],
    "scale": lambda layer, x, _: x[0] * layer.weight[:, 0],
    "relu": lambda _, x, __: x[0].relu(),
    "tanh": lambda _, x, __: x[0].tanh(),
    "join": lambda _, x, __: torch.cat(x, 1),
    "add": lambda _, x, __: x[0] + x[1],
    "multiply": lambda _, x, __: x[0] * x[1],
    "gate": lambda _, x, __: torch.mul(*x[0].chunk(2, 1)),
    "first half": lambda _, x, __: x[0].chunk(2, 1)[0],
    "second half": lambda _, x, __: x[0].chunk(2, 1)[1],
    "shuffle": lambda _, x, n: x[0].view(len(x[0]), n[0], -1).transpose(1, 2).reshape(len(x[0]), -1),
    "sum of blocks": lambda _, x, n: x[0].view(len(x[0]), -1, n[0]).sum(1),
    "sum in blocks": lambda _, x, n: x[0].view(len(x[0]), n[0], -1).sum(2),
    "outer": lambda _, x, __: (x[0][:, :, None] * x[1][:, None]).flatten(1),
    "pad": lambda _, x, n: F.pad(x[0], (n[0], n[1])),
    "first": lambda _, x, n: x[0][:, : n[0]],
    "drop": lambda _, x, n: x[0][:, n[0] :],
    "repeat": lambda _, x, n: x[0].repeat(1, n[0]),
    "repeat each": lambda _, x, n: x[0].repeat_interleave(n[0], 1),
    "every second": lambda _, x, __: x[0][:, ::2],
    "pixels": lambda _, x, __: F.pixel_shuffle(x[0][:, :, None, None], 2).sum((2, 3)),
}
_LIKELY = ("linear", "linear", "join", "join", "add", "add", "gate", "gate", *_RUN)
_SHORTENING = ("linear", "gate", "first half", "second half", "sum of blocks", "first")


class _Writer:
    """Writes one program."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.steps: list[Step] = []
        self.sizes: list[Size] = [(8, 8)]
        self.width: Size = draw.choice([(2, 4), (4, 8), (4, 6), (3, 4), (2, 6)])

    def add(self, kind: str, inputs: tuple[int, ...], size: Size, *more: Size) -> None:
        self.steps.append(Step(kind, inputs, size, more))
        self.sizes.append(size)

    def new(self) -> Size:
        """Draw the size of a new axis."""
        small, full = self.width
        times = [self.draw.choice([1, 2, 3, 4])] * 2
        fixed = self.draw.choice([4, 6, 8])
        return self.draw.choice([(times[0] * small, times[1] * full), (2 * small, 2 * full), (fixed, fixed)])

    def step(self) -> None:
        """Write one more step, if the one drawn fits the value drawn."""
        draw, width = self.draw, self.width
        value = draw.randrange(max(1, len(self.sizes) - 4), len(self.sizes))
        other = draw.randrange(1, len(self.sizes))
        size, more = self.sizes[value], self.sizes[other]
        kind = draw.choice(_LIKELY)
        if size[1] > 60 and kind not in _SHORTENING:
            kind = "linear"
        if kind in ("relu", "tanh", "norm", "scale"):
            self.add(kind, (value,), size)
        elif kind == "linear":
            self.add(kind, (value,), self.new())
        elif kind == "lstm":
            self.add(kind, (value,), width)
        elif kind == "join":
            self.add(kind, (value, other), (size[0] + more[0], size[1] + more[1]))
        elif kind == "outer":
            if size[1] * more[1] <= _MOST:
                self.add(kind, (value, other), (size[0] * more[0], size[1] * more[1]))
        elif kind in ("add", "multiply"):
            alike = [one for one in range(1, len(self.sizes)) if self.sizes[one] == size and one != value]
            if alike:
                self.add(kind, (value, draw.choice(alike)), size)
        else:
            self._of_one(kind, value, size)

    def _of_one(self, kind: str, value: int, size: Size) -> None:
        draw, width = self.draw, self.width
        blocks = draw.choice([(2, 2), (4, 4), width, (3, 3)])
        part = _divided(size, blocks)
        shrinks = part is not None and part[0] <= part[1]
        if kind in ("gate", "first half", "second half", "every second", "pixels"):
            count = 4 if kind == "pixels" else 2
            if (less := _divided(size, (count, count))) is not None:
                self.add(kind, (value,), less)
        elif kind == "shuffle":
            count = draw.choice([2, 3, 4])
            if _divided(size, (count, count)) is not None:
                self.add(kind, (value,), size, (count, count))
        elif kind == "heads" and shrinks:
            inner = draw.choice([(3, 3), width])
            self.add(kind, (value,), (part[0] * inner[0], part[1] * inner[1]), blocks, inner)
        elif kind in ("sum of blocks", "sum in blocks") and shrinks:
            self.add(kind, (value,), blocks, blocks)
        elif kind == "groups" and shrinks and blocks != (3, 3):
            times = (2, 2) if draw.random() < 0.5 else width
            self.add(kind, (value,), (blocks[0] * times[0], blocks[1] * times[1]), blocks)
        elif kind == "pad":
            before, after = draw.choice([_FIXED, width, (0, 0)]), draw.choice([(2, 2), width])
            self.add(kind, (value,), (size[0] + before[0] + after[0], size[1] + before[1] + after[1]), before, after)
        elif kind in ("first", "drop") and size[0] > 2:
            self.add(kind, (value,), (2, 2) if kind == "first" else (size[0] - 2, size[1] - 2), (2, 2))
        elif kind in ("repeat", "repeat each"):
            count = draw.choice([2, 3])
            if size[1] * count <= _MOST:
                self.add(kind, (value,), (size[0] * count, size[1] * count), (count, count))


def _divided(size: Size, by: Size) -> Size | None:
    return None if size[0] % by[0] or size[1] % by[1] else (size[0] // by[0], size[1] // by[1])


def program(seed: int) -> tuple[Step, ...]:
    """Write the program of a seed: a layer, 4 to 12 steps, and a layer that reads the last three values."""
    writer = _Writer(random.Random(seed))
    writer.add("linear", (0,), writer.new())
    for _ in range(writer.draw.randint(4, 12)):
        writer.step()
    last = tuple(range(max(1, len(writer.sizes) - 3), len(writer.sizes)))
    writer.add("join", last, (sum(writer.sizes[one][0] for one in last), sum(writer.sizes[one][1] for one in last)))
    writer.add("linear", (len(writer.sizes) - 1,), (3, 3))
    return tuple(writer.steps)


def outcome(seed: int) -> str:
    """Sort the program of a seed, and return `right`, `refused`, or what is wrong."""
    steps = program(seed)

    def build(place: int) -> nn.Module:
        return Program(steps, place)

    torch.manual_seed(seed)
    try:
        net = SortedNet(build, Space(place=[0, 1]), example=INPUT)
    except LayoutError:
        return "refused"
    verdict = pad_test.verdict(net, net.space.smallest, ((INPUT,), {}))
    exact = pad_test.exactness(net, net.space.smallest, ((INPUT,), {}))
    if verdict.right and exact <= pad_test.EXACT:
        return "right"
    return f"wrong: pad test {verdict.error:.1e}, exactness {exact:.1e}"
