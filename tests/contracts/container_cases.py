"""Ways in which a model may hold and call its blocks. A new way is one more entry of `WAYS`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sortednet import Space

SPACE = Space(depth=[1, 2, 3], width=[3, 6])


class _Layer(nn.Module):
    """A block with a shortcut inside, an attribute, and layers that some models call themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(4, width), nn.Linear(width, 4), 0.5

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + scale * self.down(self.up(x).tanh())


class _Gated(_Layer):
    """Another class of block, which its model tells by its class."""

    def forward(self, x: Tensor, gate: Any = None) -> Tensor:
        return x + self.down(self.up(x).tanh()) * (1 if gate is None else gate)


class _Parts(nn.Module):
    """A block that cannot be called: its model calls what lies in it, and reads a parameter of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down, self.gain = nn.Linear(4, width), nn.Linear(width, 4), nn.Parameter(torch.full((4,), 0.5))


def _list(width: int) -> nn.Module:
    return nn.ModuleList([_Layer(width), nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 4))])


def _dict(width: int) -> nn.Module:
    parts: list[nn.Module] = list(_list(width))  # type: ignore[call-overload]
    return nn.ModuleDict({"attend": parts[0], "feed": parts[1], "norm": nn.LayerNorm(4)})


def _nested(width: int) -> nn.Module:
    return nn.ModuleList([_dict(width), nn.ModuleList([_Layer(width)])])


def _chain(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4))


class Blocks(nn.Module):
    """A stem, blocks held and called in some way, and a head."""

    def __init__(
        self, make: Callable[[int], nn.Module], run: Callable[[Any, Tensor], Tensor], depth: int, width: int
    ) -> None:
        super().__init__()
        self.stem, self.head, self.run = nn.Linear(5, 4), nn.Linear(4, 3), run
        self.layers = self.hold([make(width) for _ in range(depth)])

    def hold(self, blocks: list[nn.Module]) -> nn.Module:
        return nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, self.stem(x)))


class Named(Blocks):
    """Its blocks have names."""

    def hold(self, blocks: list[nn.Module]) -> nn.Module:
        return nn.ModuleDict({f"layer_{place}": block for place, block in enumerate(blocks)})


class Same(Blocks):
    """One block stands in all places."""

    def hold(self, blocks: list[nn.Module]) -> nn.Module:
        return nn.ModuleList(blocks[:1] * len(blocks))


def _pairs(model: Any, x: Tensor) -> Tensor:
    for attend, feed in model.layers:
        x = attend(x)
        x = x + feed(x)
    return x


def _keys(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:  # in another order than they were made
        x = block["attend"](block["norm"](x))
        x = x + block["feed"](x)
    return x


def _deep(model: Any, x: Tensor) -> Tensor:
    for one, (last,) in model.layers:
        x = last(x + one["feed"](one["attend"](one["norm"](x))))
    return x


def _plain(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = block(x)
    return x


def _values(model: Any, x: Tensor) -> Tensor:
    for block in model.layers.values():
        x = block(x)
    return x


def _numbered(model: Any, x: Tensor) -> Tensor:
    for place in range(len(model.layers)):
        x = model.layers[place](x)
    return x


def _sliced(model: Any, x: Tensor) -> Tensor:
    for block in (model.layers[0], *model.layers[1:]):
        x = block(x)
    return x


def _zipped(model: Any, x: Tensor) -> Tensor:
    for (place, block), other in zip(enumerate(model.layers), reversed(model.layers), strict=True):
        x = block(x) + place + other.scale
    return x


def _backwards(model: Any, x: Tensor) -> Tensor:
    for block in reversed(model.layers):
        x = block(x)
    return x


def _passed_on(model: Any, x: Tensor) -> Tensor:
    return nn.Sequential(*model.layers)(x)


def _attribute(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = block(x * block.scale, block.scale)
    return x


def _inner(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = x + block.down(block.up(x).relu()) * getattr(block, "gain", 1.0)
    return x


def _elements(model: Any, x: Tensor) -> Tensor:
    for up, down in model.layers:
        x = x + down(up(x).relu())
    return x


def _places(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = x + block[1](block[0](x).relu()) * len(block)
    return x


def _by_class(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = block(x, x.sigmoid()) if isinstance(block, _Gated) else block(x)
    return x


def _by_exact_class(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = block(x, x.sigmoid()) if type(block) is _Gated else block(x)
    return x


def _only_in_training(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = block[1](block[0](x)) if model.training else block(x)
    return x


def _twice(model: Any, x: Tensor) -> Tensor:
    for block in model.layers:
        x = block(block(x))
    return x


def _again(model: Any, x: Tensor) -> Tensor:
    for block in (*model.layers, *model.layers):
        x = block(x)
    return model.stem(torch.cat([x, x[:, :1]], 1))


def _closed(depth: int, width: int) -> nn.Module:
    """Give the model a forward that is a closure over it."""
    model: Any = Blocks(_Layer, _plain, depth, width)
    before = model.forward
    model.forward = lambda x: before(x).sin()
    for block in model.layers:
        block.forward = partial(type(block).forward, block, scale=0.25)
    return model  # type: ignore[no-any-return]


def _bound(depth: int, width: int) -> nn.Module:
    """Give the model a forward that is a method of another function."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(_plain(self, self.stem(x)).cos())  # type: ignore[no-any-return]

    model: Any = Blocks(_Layer, _plain, depth, width)
    model.forward = MethodType(forward, model)
    return model  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Way:
    """A builder, and whether its sub-models of several depths share a forward: of whole batches, and of parts."""

    build: Callable[..., nn.Module]
    whole: bool = True
    parts: bool = True


def _way(make: Callable[[int], nn.Module], run: Callable[[Any, Tensor], Tensor], *shared: bool) -> Way:
    return Way(partial(Blocks, make, run), *shared)


WAYS = {
    "lists": _way(_list, _pairs, True, False),  # with shortcuts outside of what runs
    "dicts": _way(_dict, _keys, True, False),
    "nested": _way(_nested, _deep),
    "parts": _way(_Parts, _inner, True, False),
    "values": Way(partial(Named, _Layer, _values)),
    "numbered": _way(_Layer, _numbered),
    "sliced": _way(_Layer, _sliced),
    "zipped": _way(_Layer, _zipped),
    "backwards": _way(_Layer, _backwards, False, False),
    "passed_on": _way(_Layer, _passed_on),
    "attribute": _way(_Layer, _attribute),
    "inner": _way(_Layer, _inner, False, False),
    "elements": _way(_chain, _elements, False, False),
    "places": _way(_chain, _places, False, False),
    "by_class": _way(_Gated, _by_class),
    "by_exact_class": _way(_Gated, _by_exact_class, False, False),
    "only_in_training": _way(_chain, _only_in_training, False, False),
    "twice": _way(_Layer, _twice, False, False),
    "again": _way(_Layer, _again, False, False),
    "same": Way(partial(Same, _Layer, _plain)),
    "closed": Way(_closed),
    "bound": Way(_bound),
    "lambda": Way(lambda depth, width: Blocks(_Layer, _plain, depth, width)),
}
