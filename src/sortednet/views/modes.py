"""How a model is run: its training mode for a while, whether it is traced, or sharded over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating", "is_sharded", "is_traced"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own at the end.

    Args:
        model: The model.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Dropout().eval())
        >>> with evaluating(model):
        ...     model.training
        False
        >>> [one.training for one in model]
        [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def is_sharded(model: nn.Module) -> bool:
    """Whether no process holds the whole parameters of a model, as under FSDP2."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def is_traced() -> bool:
    """Whether what runs now becomes part of a graph, so that no trial may run beside it."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
