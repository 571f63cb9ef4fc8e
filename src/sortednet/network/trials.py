"""What a trial of a shared forward needs: a few examples, whether outputs are the same, whether it will run again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves, tree_map

from ..views.batches import batch_size

__all__ = ["equal", "is_checkpointed", "some_rows"]

Inputs = tuple[Sequence[Any], Mapping[str, Any]]


def some_rows(inputs: Inputs, count: int) -> Any:
    """Return the inputs for some examples of a batch, again from the first one where it has fewer."""
    size = batch_size(inputs)

    def some(one: Any) -> Any:
        if not isinstance(one, Tensor) or one.shape[:1] != (size,):
            return one
        return one[torch.arange(count, device=one.device) % size]

    return tree_map(some, inputs)


def equal(one: Any, other: Any) -> bool:
    """Whether two outputs hold the same tensors, up to rounding."""
    ours, theirs = _tensors(one), _tensors(other)
    if not theirs or [leaf.shape for leaf in ours] != [leaf.shape for leaf in theirs]:
        return False
    for less, more in zip(ours, theirs, strict=True):
        exact = more.dtype.itemsize >= 4 and not torch.is_autocast_enabled(more.device.type)
        tolerance = 1e-3 if exact else 5e-2
        size = float(more.float().nan_to_num(posinf=0, neginf=0).abs().max()) if more.numel() else 0.0
        if not torch.allclose(less.float(), more.float(), rtol=0, atol=tolerance * size, equal_nan=True):
            return False
    return True


def is_checkpointed(below: Callable[..., Any] | None = None) -> bool:
    """Whether the caller runs inside of an activation checkpoint, which calls it again later.

    Args:
        below: Look no further than to the call of this function.
    """
    end = None if below is None else below.__code__
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not end:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _tensors(output: Any) -> list[Tensor]:
    """Return the tensors of an output, those among the attributes of an object included."""
    found: list[Tensor] = []
    for leaf in tree_leaves(output):
        held = [leaf] if isinstance(leaf, Tensor) else list(getattr(leaf, "__dict__", {}).values())
        found += [one for one in tree_leaves(held) if isinstance(one, Tensor)]
    return found
