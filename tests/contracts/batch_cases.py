"""Forms of a batch: what holds examples, in what it lies, where it is given; each is made of any choice of examples."""

from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

COUNT = 4
Make = Callable[[Sequence[int]], Any]
Pair = namedtuple("Pair", "one other")


@dataclasses.dataclass
class Record:
    """A batch, or a part of one, as some data loaders make it."""

    held: Any
    beside: Any
    scale: float = 0.5


TENSOR = torch.arange(COUNT * 3).view(COUNT, 3).float()

HOLDERS: dict[str, Make] = {
    "tensor": lambda of: TENSOR[list(of)],
    "tensor of numbers": lambda of: torch.arange(COUNT)[list(of)],
    "array": lambda of: np.arange(COUNT * 2).reshape(COUNT, 2)[list(of)],
    "array of texts": lambda of: np.array(["a", "b", "c", "d"])[list(of)],
    "list of texts": lambda of: ["abcd"[one] for one in of],
    "tuple of texts": lambda of: tuple("abcd"[one] for one in of),
    "list of numbers": lambda of: [10 * one for one in of],
    "list of paths": lambda of: [Path(f"{one}.png") for one in of],
    "list of mixed things": lambda of: [[None, 1.5, "c", b"d"][one] for one in of],
    "list of ragged tensors": lambda of: [torch.full((3, one + 5), float(one)) for one in of],
    "list of ragged lists": lambda of: [[one] * (one + 1) for one in of],
    "list of mappings": lambda of: [{"boxes": torch.full((one, 4), 1.0 * one), "labels": [one]} for one in of],
    "list of arrays": lambda of: [np.full((2, one + 1), one) for one in of],
    "list of modules' names": lambda of: [nn.Linear if one % 2 else nn.Conv2d for one in of],
}
PLACES: dict[str, Callable[[Make], Make]] = {
    "plain": lambda make: make,
    "in a mapping": lambda make: lambda of: {"held": make(of), "beside": TENSOR[list(of)], "mode": "mean"},
    "in a mapping of one's own": lambda make: lambda of: UserDict(held=make(of), scale=0.5),
    "in a tuple": lambda make: lambda of: (make(of), TENSOR[list(of)], None),
    "in a list": lambda make: lambda of: [TENSOR[list(of)], make(of), 2],
    "in a named tuple": lambda make: lambda of: Pair(make(of), TENSOR[list(of)]),
    "in a data class": lambda make: lambda of: Record(make(of), TENSOR[list(of)]),
    "nested": lambda make: lambda of: {"a": Pair((make(of), 1), {"b": TENSOR[list(of)]})},
}
SHARED: dict[str, Any] = {
    "one row": torch.ones(1, 7),
    "a scalar": torch.tensor(2.0),
    "a number": 3,
    "a text": "mean",
    "nothing": None,
    "a shape": (224, 224),
    "a list of numbers": [7, 7, 7],
    "a type": torch.float32,
    "a function": torch.relu,
    "an empty list": [],
}

REFUSED: dict[str, tuple[Any, ...]] = {
    "a generator": (TENSOR, (one for one in range(COUNT)), torch.arange(COUNT)),
    "an iterator": (TENSOR, iter(range(COUNT)), torch.arange(COUNT)),
    "a packed sequence": (pack_padded_sequence(torch.ones(3, COUNT, 2), [3, 2, 2, 1]), torch.arange(COUNT)),
    "a sparse tensor": (TENSOR.to_sparse(), torch.arange(COUNT)),
    "an object that holds tensors": (type("Graph", (), {})(), torch.arange(COUNT)),
    "texts of another number": (TENSOR, ["a", "b", "c"], torch.arange(COUNT)),
    "lists of another number": (TENSOR, [[1, 2], [3]], torch.arange(COUNT)),
    "targets of another number": (TENSOR, [0, 1, 2]),
    "text targets of another number": (TENSOR, ["a", "b", "c"]),
    "tensors of another number": (TENSOR, torch.ones(3, 2), torch.arange(COUNT)),
    "arrays of another number": (TENSOR, np.ones((5, 2)), torch.arange(COUNT)),
    "a mask between positions": (TENSOR, torch.ones(7, 7), torch.arange(COUNT)),
    "time first": (torch.ones(9, COUNT, 2), torch.arange(COUNT)),
    "the edges of a graph": (TENSOR, torch.zeros(2, 11), torch.arange(COUNT)),
    "as many tensors of as many rows": ([torch.ones(COUNT, 5)] * COUNT, torch.arange(COUNT)),
    "as many numbers, in a tuple": (TENSOR, (1, 2, 3, 4), torch.arange(COUNT)),
}
"""Batches that cannot be parted, or that could be in two ways."""
REFUSED["an object that holds tensors"][0].edges = torch.ones(2, 5)


def forms() -> Iterator[tuple[str, Make, str]]:
    """Yield the name of a form, what makes it of some examples, and where it is given."""
    for where in ("positional", "keyword", "targets"):
        for name, make in HOLDERS.items():
            for place, within in PLACES.items():
                yield f"{name}, {place}, {where}", within(make), where


def batch_of(make: Make, where: str, of: Sequence[int]) -> Any:
    """Return a batch of some examples that holds a form in a place."""
    labels = torch.arange(COUNT)[list(of)]
    if where == "positional":
        return make(of), TENSOR[list(of)], labels
    if where == "keyword":
        return {"x": TENSOR[list(of)], "form": make(of), "labels": labels}
    return TENSOR[list(of)], make(of)


def same(one: Any, other: Any) -> bool:
    """Whether two values are of one type and hold the same; mappings of any type are one."""
    if isinstance(one, (dict, UserDict)) and isinstance(other, (dict, UserDict)):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    return bool(one == other)
