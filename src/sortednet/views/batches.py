"""Batches: their parts, calls of models on them, and their tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from ..errors import DataError

__all__ = [
    "IGNORED",
    "arguments_of",
    "call_with",
    "fields_of",
    "inputs_and_targets",
    "map_tensors",
    "next_labels",
    "rebuilt",
    "tensors_of_batch",
    "to_device",
]

IGNORED = -100  # label of tokens that do not count, as torch's losses and transformers have it


def call_with(module: Callable[..., Any], inputs: Any) -> Any:
    """Call a model on the inputs of a batch: a tensor, a tuple of arguments or a mapping of keyword arguments.

    Raises:
        DataError: If a mapping holds a name that the model's forward does not take.
    """
    args, kwargs = arguments_of(module, inputs)
    try:
        return module(*args, **kwargs)
    except TypeError as error:
        unknown = [name for name in kwargs if not _takes(module, name)]
        if not unknown:
            raise
        raise DataError(
            f"The batch holds {', '.join(map(repr, unknown))}, which the model's forward does not take. Leave it out, "
            "or give (inputs, targets)."
        ) from error


def arguments_of(module: Callable[..., Any], inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that the inputs of a batch are for a model.

    A mapping beside targets, `({"x": x}, y)`, holds keyword arguments where the model's forward takes its names.
    """
    if isinstance(inputs, (tuple, list)) and fields_of(inputs) is None:
        only = inputs[0] if len(inputs) == 1 else None
        if isinstance(only, Mapping) and all(isinstance(name, str) and _takes(module, name) for name in only):
            return (), dict(only)
        return tuple(inputs), {}
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else ((inputs,), {})


def _takes(module: Callable[..., Any], name: str) -> bool:
    """Whether a model's forward has an argument of a name."""
    inner: Any = module
    while True:
        inner = getattr(inner, "func", inner)  # of a partial
        further = next((one for one in ("full", "net", "module") if hasattr(inner, one)), None)
        if further is None or getattr(inner, further) is inner:
            break
        inner = getattr(inner, further)
    try:
        taken = signature(getattr(inner, "forward", inner)).parameters
    except (TypeError, ValueError):
        return True
    named = taken.get(name)
    if named is not None:
        return named.kind is not Parameter.POSITIONAL_ONLY
    return any(one.kind is Parameter.VAR_KEYWORD for one in taken.values())


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """Part a batch: `(inputs, ..., targets)` into a tuple of inputs and the targets; a mapping serves as both.

    Raises:
        DataError: If it is neither.
    """
    if isinstance(batch, Mapping):
        return batch, batch
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and not isinstance(batch, PackedSequence):
        return tuple(batch[:-1]), batch[-1]
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        held = {one.name: getattr(batch, one.name) for one in dataclasses.fields(batch)}
        return held, held
    raise DataError(
        f"A batch is (inputs, ..., targets) or a mapping, and this is a {type(batch).__name__}. Give (inputs, "
        "targets); where the inputs are the targets, (inputs, inputs)."
    )


def _is_record(value: Any) -> bool:
    return hasattr(value, "_fields") or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a mapping, a named tuple or a data class; None of anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    names: Any = getattr(value, "_fields", None)
    if names is not None and isinstance(value, tuple):
        return dict(zip(names, value, strict=True))
    if _is_record(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
    return None


def rebuilt(value: Any, fields: Mapping[str, Any]) -> Any:
    """Return a mapping, named tuple or data class like another, with other fields."""
    if isinstance(value, Mapping):
        return dict(fields)
    if hasattr(value, "_fields"):
        return type(value)(**fields)
    return dataclasses.replace(value, **fields)


def map_tensors(function: Callable[[Tensor], Any], values: Any) -> Any:
    """Return the same structure with each tensor replaced by what a function makes of it.

    Args:
        function: Of a tensor.
        values: Tensors in tuples, lists, mappings, named tuples and data classes; anything else stays as it is.

    Example:
        >>> map_tensors(len, {"a": torch.ones(3), "b": (torch.ones(2), "x")})
        {'a': 3, 'b': (2, 'x')}
    """
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, PackedSequence):
        return values
    fields = fields_of(values)
    if fields is not None:
        changed = {name: map_tensors(function, value) for name, value in fields.items()}
        is_same = not isinstance(values, Mapping) and all(changed[name] is fields[name] for name in fields)
        return values if is_same else rebuilt(values, changed)
    if isinstance(values, (tuple, list)):
        return type(values)(map_tensors(function, value) for value in values)
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
    if isinstance(batch, Tensor):
        yield batch
        return
    fields = fields_of(batch)
    for value in fields.values() if fields is not None else batch if isinstance(batch, (tuple, list)) else ():
        yield from tensors_of_batch(value)
