"""The training mode of a model, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


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
