"""Batches: parting, joining and counting what a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import DataError

__all__ = [
    "IGNORED",
    "batch_size",
    "call_with",
    "inputs_and_targets",
    "join_batch",
    "map_tensors",
    "next_labels",
    "split_batch",
    "tensors_of_batch",
    "to_device",
]

IGNORED = -100  # label of tokens that do not count, as torch's losses and transformers have it


def call_with(module: Callable[..., Any], inputs: Any) -> Any:
    """Call a model on the inputs of a batch: a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """Part a batch: `(inputs, ..., targets)` into a tuple of inputs and the targets; a mapping serves as both."""
    return (batch, batch) if isinstance(batch, Mapping) else (tuple(batch[:-1]), batch[-1])


def split_batch(values: Any, parts: int | Sequence[int]) -> list[Any]:
    """Split a batch along its first axis.

    Args:
        values: Tensors of shape (B, ...), in tuples, lists and mappings. Anything else goes to every part, and so does
            a tensor of one row where the batch has more.
        parts: How many parts, whose sizes differ by one at most; or their sizes.

    Returns:
        As many values of the same structure.

    Raises:
        DataError: If a tensor has another number of rows than the batch, or there is no tensor.
    """
    if not isinstance(parts, int):
        return _split(values, list(parts))
    size = batch_size(values)
    return _split(values, [size // parts + (place < size % parts) for place in range(parts)])


def _split(values: Any, sizes: list[int]) -> list[Any]:
    count, size = len(sizes), sum(sizes)
    if isinstance(values, Tensor) and values.dim() > 0:
        if len(values) != size:
            if len(values) == 1:
                return [values] * count
            raise DataError(
                f"A tensor of shape {tuple(values.shape)} cannot be split among {count} sub-models: the batch has "
                f"{size} examples. Give tensors of shape ({size}, ...) or (1, ...), or train one sub-model a batch."
            )
        return list(torch.split(values, sizes))
    if isinstance(values, Mapping):
        split = {name: _split(value, sizes) for name, value in values.items()}
        return [{name: split[name][i] for name in split} for i in range(count)]
    if isinstance(values, (tuple, list)):
        columns = [_split(value, sizes) for value in values]
        rows = [[column[i] for column in columns] for i in range(count)]
        return [type(values)(*row) if hasattr(values, "_fields") else type(values)(row) for row in rows]
    return [values] * count


def join_batch(parts: Sequence[Any]) -> Any:
    """Join what `split_batch` split, in any order of the parts."""
    first = parts[0]
    if all(part is first for part in parts):
        return first
    if isinstance(first, Tensor) and first.dim() > 0:
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {name: join_batch([part[name] for part in parts]) for name in first}
    if isinstance(first, (tuple, list)):
        row = [join_batch(column) for column in zip(*parts, strict=True)]
        return type(first)(*row) if hasattr(first, "_fields") else type(first)(row)
    return first


def batch_size(batch: Any) -> int:
    """Return the number of examples: the length of the first axis of the first tensor that has not just one row.

    Raises:
        DataError: If there is no tensor.
    """
    rows = [len(leaf) for leaf in _leaves(batch) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    if not rows:
        raise DataError(f"A batch of type {type(batch).__name__} holds no tensor. Give (inputs, targets) or a mapping.")
    return next((count for count in rows if count != 1), 1)


def map_tensors(function: Callable[[Tensor], Any], values: Any) -> Any:
    """Return the same structure with each tensor replaced by what a function makes of it.

    Args:
        function: Of a tensor.
        values: Tensors in tuples, named ones too, lists and mappings; anything else stays as it is.

    Example:
        >>> map_tensors(len, {"a": torch.ones(3), "b": (torch.ones(2), "x")})
        {'a': 3, 'b': (2, 'x')}
    """
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, Mapping):
        return {name: map_tensors(function, value) for name, value in values.items()}
    if isinstance(values, (tuple, list)):
        row = [map_tensors(function, value) for value in values]
        return type(values)(*row) if hasattr(values, "_fields") else type(values)(row)
    return values


def next_labels(labels: Tensor, ignored: int = IGNORED) -> Tensor:
    """Return what a causal language model predicts at each token: the label of the next, of the last none.

    Args:
        labels: Shape (B, T).
        ignored: Label of tokens that do not count.

    Returns:
        Shape (B, T).

    Example:
        >>> next_labels(torch.tensor([[-100, 5, 6]]))
        tensor([[   5,    6, -100]])
    """
    return functional.pad(labels, (0, 1), value=ignored)[:, 1:]


def to_device(values: Any, device: torch.device | None) -> Any:
    """Return a batch with its tensors on a device; as it is where there is none."""
    return values if device is None else map_tensors(lambda tensor: tensor.to(device), values)


def tensors_of_batch(batch: Any) -> Iterator[Tensor]:
    """Yield every tensor of a batch."""
    return (leaf for leaf in _leaves(batch) if isinstance(leaf, Tensor))


def _leaves(batch: Any) -> Iterator[Any]:
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else None
    if values is None:
        yield batch
    else:
        for value in values:
            yield from _leaves(value)
