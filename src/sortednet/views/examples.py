"""What an example is: how the examples of a batch are counted, parted, picked and joined.

A batch holds examples in tensors, arrays, lists, tuples, mappings, named tuples and data classes, one in the other.
What has one row, or one item, for each example is parted; what has not is handed to all. Nobody says which is which:
the number of examples is the one that fits everything, and what fits in two ways is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, Literal, NamedTuple, Union

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..errors import DataError
from .batches import fields_of, inputs_and_targets, rebuilt

__all__ = [
    "BatchAxis",
    "Inputs",
    "batch_size",
    "is_joinable",
    "join_batch",
    "pick_inputs",
    "size_of_inputs",
    "size_of_targets",
    "split_inputs",
    "split_targets",
]

TARGETS = "targets"
BatchAxis = Union[int, Mapping[Union[str, int], Union[int, None]], None]
"""Where examples are: an axis of all tensors that have it, or of some arguments by name or place (`targets` too); None
for what all examples share, and 0 for a list of examples."""
Inputs = tuple[Sequence[Any], Mapping[str, Any]]
"""The positional and keyword arguments of a call."""

_Kind = Literal["rows", "items", "all", "either", "none"]
_REMEDY = (
    "Say where its examples are with batch_axis=, such as batch_axis={'mask': None} for what all examples share, or "
    "give each sub-model the whole batch: Stochastic(..., split=False)."
)


class _Argument(NamedTuple):
    """One argument of a model, or the targets.

    Attributes:
        name: Its name or place.
        value: What is given.
        axis: Where its examples are: an axis, or None where nothing has been said.
        shared: Whether all examples share it.
        items: Whether it is known to hold one item for each example.
    """

    name: Any
    value: Any
    axis: int | None = None
    shared: bool = False
    items: bool = False


def _checked(arguments: list[_Argument], batch_axis: BatchAxis) -> list[_Argument]:
    """Refuse to look for examples where there is nothing.

    Raises:
        DataError: If `batch_axis` names no argument, or no axis.
    """
    if batch_axis is None:
        return arguments
    known = [one.name for one in arguments]
    given = batch_axis if isinstance(batch_axis, Mapping) else {TARGETS: batch_axis}
    if any(not isinstance(one, (int, type(None))) or isinstance(one, bool) for one in given.values()):
        raise DataError(f"batch_axis={batch_axis!r} is no axis. Give a whole number, or a mapping by name or place.")
    if strange := [name for name in given if name not in known and name != TARGETS]:
        raise DataError(f"batch_axis names {strange[0]!r}, and the batch has {known}. Name one of these, or 'targets'.")
    held = [one for one in arguments if one.axis is not None and not one.items]
    if isinstance(batch_axis, Mapping):
        lacking = [one for one in held if not any(_has_axis(leaf, one.axis) for leaf in _arrays(one.value))]
    else:
        found = any(_has_axis(leaf, batch_axis) for one in held for leaf in _arrays(one.value))
        lacking = [] if found else held[:1]
    for one in lacking:
        raise DataError(f"batch_axis says axis {one.axis}, and {_named(one)} is {_described(one.value)}.")
    return arguments


def _has_axis(array: Any, axis: Any) -> bool:
    return bool(-len(array.shape) <= axis < len(array.shape))


def _arrays(value: Any) -> Iterator[Any]:
    if _is_array(value):
        yield value
        return
    fields = fields_of(value)
    for one in fields.values() if fields is not None else value if isinstance(value, (list, tuple)) else ():
        yield from _arrays(one)


def _argument(name: Any, value: Any, batch_axis: BatchAxis) -> _Argument:
    if not isinstance(batch_axis, Mapping):
        return _Argument(name, value, batch_axis)
    if name not in batch_axis:
        return _Argument(name, value)
    axis = batch_axis[name]
    return _Argument(name, value, axis, shared=axis is None, items=axis == 0 and isinstance(value, (list, tuple)))


def _of_batch(batch: Any, batch_axis: BatchAxis) -> list[_Argument]:
    """Take a batch apart: `(inputs, ..., targets)`, or a mapping."""
    inputs, targets = inputs_and_targets(batch)
    if inputs is targets:
        return _checked([_argument(name, value, batch_axis) for name, value in inputs.items()], batch_axis)
    places = [_argument(name, value, batch_axis) for name, value in enumerate(inputs)]
    return _checked([*places, _argument(TARGETS, targets, batch_axis)], batch_axis)


def _of_call(inputs: Inputs, batch_axis: BatchAxis) -> list[_Argument]:
    """Take the arguments of a call apart."""
    args, kwargs = inputs
    return _checked(
        [_argument(name, value, batch_axis) for name, value in (*enumerate(args), *kwargs.items())], batch_axis
    )


def _is_array(value: Any) -> bool:
    """Whether it is a tensor, or an array or table of another library.

    Raises:
        DataError: If it is a tensor that does not tell its sizes.
    """
    if isinstance(value, Tensor):
        if value.is_nested and value.layout == torch.strided:
            raise DataError("A nested tensor of layout=torch.strided tells no sizes. Make it with layout=torch.jagged.")
        return True
    return (
        isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "__getitem__") and hasattr(value, "__len__")
    )


def _axis_of(value: Any, axis: int | None) -> int:
    """Return the axis of an array that its examples are on; its first where it has no such axis."""
    wanted, rank = axis or 0, len(value.shape)
    return wanted % rank if -rank <= wanted < rank else 0


def _obstacle(value: Any) -> str:
    """Say why something that holds examples cannot be parted; nothing where it can, or holds none."""
    if isinstance(value, PackedSequence):
        return "a packed sequence"
    if isinstance(value, Tensor):
        return "" if value.layout is torch.strided else f"a tensor of layout {value.layout}"
    if isinstance(value, Iterator):
        return "a generator or iterator"
    if _is_array(value) or fields_of(value) is not None or isinstance(value, type) or callable(value):
        return ""
    held = getattr(value, "__dict__", {})
    if isinstance(held, dict) and any(isinstance(one, Tensor) for one in held.values()):
        return f"a {type(value).__name__}, which holds tensors"
    return ""


def _kind(value: Any, size: int, axis: int | None, items: bool = False) -> _Kind:
    """Say what a value holds for batches of a size.

    Returns:
        `rows` or fields that have rows; `items`, one for each example; `all`, nothing that is an example's; `either` of
        rows and items; `none`, as it fits another number of examples, or cannot be parted.
    """
    if _obstacle(value):
        return "none"
    if _is_array(value):
        if not len(value.shape):
            return "all"
        rows = value.shape[_axis_of(value, axis)]
        return "rows" if rows == size else "all" if rows == 1 else "none"
    fields = fields_of(value)
    if fields is not None:
        return _together(_kind(one, size, axis) for one in fields.values())
    if not isinstance(value, (list, tuple)):
        return "all"
    if items:
        return "items" if len(value) == size else "none"
    inside = _together(_kind(one, size, axis) for one in value)
    if len(value) == size and size > 1:
        is_shape = isinstance(value, tuple) and all(isinstance(one, Number) for one in value)
        return "either" if is_shape or (inside == "rows" and any(True for _ in _arrays(value))) else "items"
    if inside == "all" and len(value) == size:
        return "items"
    if inside == "all" and any(isinstance(one, (str, bytes, list)) for one in value):
        return "none"  # texts, or sequences, of another number
    return inside


def _kind_of(one: _Argument, size: int) -> _Kind:
    """Say what an argument holds. Targets that are a list are of the examples."""
    kind = "all" if one.shared else _kind(one.value, size, one.axis, one.items)
    listed = one.name == TARGETS and isinstance(one.value, (list, tuple)) and len(one.value) > 0
    return "none" if listed and kind == "all" and not one.shared else kind


def _together(kinds: Iterable[_Kind]) -> _Kind:
    found = set(kinds)
    if "none" in found:
        return "none"
    if "either" in found:
        return "either"
    return "rows" if found & {"rows", "items"} else "all"


def _candidates(value: Any, axis: int | None, *, top: bool = True) -> Iterator[tuple[int, int]]:
    """Yield numbers of examples that a value may hold, each with how sure that is: 0 is surest."""
    if _is_array(value):
        if len(value.shape):
            yield 0 if top else 1, int(value.shape[_axis_of(value, axis)])
        return
    fields = fields_of(value)
    if fields is not None:
        for one in fields.values():
            yield from _candidates(one, axis, top=top)
    elif isinstance(value, (list, tuple)):
        yield 2, len(value)
        for one in value:
            yield from _candidates(one, axis, top=False)


def _size(arguments: Sequence[_Argument], strict: bool = True) -> int:
    """Return the number of examples that fits all arguments.

    Raises:
        DataError: If there is none.
    """
    held = [one for one in arguments if not one.shared]
    found = [
        pair for one in held for pair in ([(0, len(one.value))] if one.items else _candidates(one.value, one.axis))
    ]
    # One row may be one example, or what all share.
    sizes = list(dict.fromkeys(size for _, size in sorted(found, key=lambda pair: (pair[0], pair[1] == 1))))
    for size in sizes:
        kinds = [_kind_of(one, size) for one in held]
        if "none" not in kinds and set(kinds) != {"all"}:
            return size
    if sizes and not strict:
        return sizes[0]
    if sizes:
        raise _unfit(held, sizes[0])
    for one in held:
        if obstacle := _obstacle(one.value):
            raise DataError(f"{_named(one)} is {obstacle}, of which no parts can be taken. {_REMEDY}")
    raise DataError(
        "The batch holds no tensor, array or list of examples, but "
        f"{', '.join(_described(one.value) for one in held) or 'nothing'}. Give (inputs, targets) or a mapping."
    )


def _unfit(arguments: Sequence[_Argument], size: int) -> DataError:
    for one in arguments:
        if _kind_of(one, size) == "none":
            obstacle = _obstacle(one.value)
            if obstacle:
                return DataError(f"{_named(one)} is {obstacle}, of which no parts can be taken. {_REMEDY}")
            return DataError(
                f"{_named(one)} is {_described(one.value)}, and the batch has {size} examples by what else it holds. "
                f"Give one row or item for each example, or one row for all. {_REMEDY}"
            )
    return DataError(f"Nothing in the batch has a row or an item for each of {size} examples. {_REMEDY}")


def _named(one: _Argument) -> str:
    if one.name == TARGETS:
        return "The targets"
    return f"Argument {one.name}" if isinstance(one.name, int) else f"{one.name!r}"


def _described(value: Any) -> str:
    if _is_array(value):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def batch_size(batch: Any, batch_axis: BatchAxis = None) -> int:
    """Return the number of examples of a batch.

    Args:
        batch: `(inputs, ..., targets)`, or a mapping.
        batch_axis: Where examples are, where that is not on the first axis.

    Raises:
        DataError: If no number of examples fits all that it holds.

    Example:
        >>> batch_size((torch.ones(3, 2), ["a", "b", "c"])), batch_size({"x": torch.ones(5, 4), "scale": 0.5})
        (3, 5)
    """
    return _size(_of_batch(batch, batch_axis))


def size_of_inputs(inputs: Inputs, batch_axis: BatchAxis = None) -> int:
    """Return the number of examples of the arguments of a call.

    Args:
        inputs: Positional and keyword arguments.
        batch_axis: As for `batch_size`.

    Raises:
        DataError: As `batch_size`.
    """
    return _size(_of_call(inputs, batch_axis))


def size_of_targets(targets: Any) -> int:
    """Return the number of examples that targets are of.

    Args:
        targets: Of any structure.

    Raises:
        DataError: As `batch_size`.

    Example:
        >>> size_of_targets(["a", "b", "c"]), size_of_targets({"boxes": torch.ones(2, 4)})
        (3, 2)
    """
    return _size([_argument(TARGETS, targets, None)])


# --- parting, picking, joining ---------------------------------------------------------------------------------------


def split_inputs(inputs: Inputs, parts: int | Sequence[int], batch_axis: BatchAxis = None) -> list[Inputs]:
    """Part the arguments of a call by examples.

    Args:
        inputs: Positional and keyword arguments.
        parts: How many parts, whose sizes differ by one at most; or their sizes.
        batch_axis: As for `batch_size`.

    Returns:
        As many positional and keyword arguments.

    Raises:
        DataError: If no number of examples fits everything, or it cannot be told what an argument holds.

    Example:
        >>> for args, kwargs in split_inputs(((["a", "b", "c"],), {"x": torch.arange(3), "scale": 0.5}), [1, 2]):
        ...     print(args, kwargs)
        (['a'],) {'x': tensor([0]), 'scale': 0.5}
        (['b', 'c'],) {'x': tensor([1, 2]), 'scale': 0.5}
    """
    if isinstance(parts, int):
        size = size_of_inputs(inputs, batch_axis)
        parts = [size // parts + (place < size % parts) for place in range(parts)]
    return [pick_inputs(inputs, one, batch_axis, sum(parts)) for one in _ranges(parts)]


def pick_inputs(
    inputs: Inputs,
    chosen: slice | Sequence[int],
    batch_axis: BatchAxis = None,
    size: int | None = None,
    *,
    strict: bool = True,
) -> Inputs:
    """Return the arguments of a call for some of its examples, in an order.

    Args:
        inputs: Positional and keyword arguments.
        chosen: The examples; numbers beyond the last begin again with the first.
        batch_axis: As for `batch_size`.
        size: The number of examples, where it is known.
        strict: Whether what does not fit is refused; else it stays as it is.

    Raises:
        DataError: As `split_inputs`.
    """
    arguments = _of_call(inputs, batch_axis)
    size = _size(arguments, strict) if size is None else size
    if not isinstance(chosen, slice):
        chosen = [place % max(1, size) for place in chosen]
    values = [_picked(one, chosen, size, strict) for one in arguments]
    count = len(inputs[0])
    return tuple(values[:count]), dict(zip(inputs[1], values[count:], strict=True))


def split_targets(targets: Any, sizes: Sequence[int], batch_axis: BatchAxis = None) -> list[Any]:
    """Part targets, or the outputs of a model, by examples; of a mapping that is a batch, each of its values.

    Args:
        targets: Of any structure.
        sizes: The numbers of examples of the parts.
        batch_axis: As for `batch_size`.

    Raises:
        DataError: As `split_inputs`.

    Example:
        >>> split_targets(["a", "b", "c"], [1, 2])
        [['a'], ['b', 'c']]
    """
    if isinstance(targets, Mapping):
        return [kwargs for _, kwargs in split_inputs(((), targets), sizes, batch_axis)]
    argument = _argument(TARGETS, targets, batch_axis)
    return [_picked(argument, one, sum(sizes)) for one in _ranges(sizes)]


def _ranges(sizes: Sequence[int]) -> list[slice]:
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [slice(start, start + count) for start, count in zip(starts, sizes, strict=True)]


def _picked(one: _Argument, chosen: slice | Sequence[int], size: int, strict: bool = True) -> Any:
    kind = _kind_of(one, size)
    if kind in ("none", "either") and not strict:
        return one.value
    if kind == "none":
        raise _unfit([one], size)
    if kind == "either":
        raise DataError(
            f"{_named(one)} is or holds a list or tuple of {size}, and the batch has {size} examples: it may have an "
            f"item for each of them, or not. {_REMEDY} Where it is a list of examples, batch_axis={{{one.name!r}: 0}}; "
            "else put what it holds into a mapping."
        )
    return one.value if kind == "all" else _pick(one.value, chosen, size, one.axis, one.items)


def _pick(value: Any, chosen: slice | Sequence[int], size: int, axis: int | None, items: bool = False) -> Any:
    kind = _kind(value, size, axis, items)
    if kind == "all":
        return value
    if _is_array(value):
        return _rows(value, chosen, _axis_of(value, axis))
    fields = fields_of(value)
    if fields is not None:
        return rebuilt(value, {name: _pick(field, chosen, size, axis) for name, field in fields.items()})
    if kind == "items":
        return value[chosen] if isinstance(chosen, slice) else type(value)(value[place] for place in chosen)
    return type(value)(_pick(one, chosen, size, axis) for one in value)


def _rows(value: Any, chosen: slice | Sequence[int], axis: int) -> Any:
    if isinstance(value, Tensor):
        if isinstance(chosen, slice):
            return value.narrow(axis, chosen.start, chosen.stop - chosen.start)
        return value.index_select(axis, torch.tensor(chosen, device=value.device))
    table = getattr(value, "iloc", value)
    return table[(*[slice(None)] * axis, chosen if isinstance(chosen, slice) else list(chosen))]


def is_joinable(inputs: Inputs, size: int, batch_axis: BatchAxis = None) -> bool:
    """Whether the arguments of a call are joined again as tensors along the first axis.

    Args:
        inputs: Positional and keyword arguments.
        size: The number of examples.
        batch_axis: As for `batch_size`.
    """

    def plain(value: Any) -> bool:
        kind, fields = _kind(value, size, None), fields_of(value)
        if kind == "all" or isinstance(value, Tensor):
            return kind != "none"
        if fields is None and not isinstance(value, (list, tuple)):
            return False
        return kind == "rows" and all(map(plain, value if fields is None else fields.values()))

    return batch_axis is None and all(plain(one.value) for one in _of_call(inputs, None))


def join_batch(parts: Sequence[Any]) -> Any:
    """Join what was parted along the first axis of tensors (`is_joinable`), in any order of the parts."""
    first = parts[0]
    if all(part is first for part in parts):
        return first
    if isinstance(first, Tensor) and first.dim() > 0:
        return torch.cat(list(parts))
    fields = fields_of(first)
    if fields is not None:
        held = [fields_of(part) or {} for part in parts]
        return rebuilt(first, {name: join_batch([one[name] for one in held]) for name in fields})
    if isinstance(first, (tuple, list)):
        return type(first)(join_batch(column) for column in zip(*parts, strict=True))
    return first
