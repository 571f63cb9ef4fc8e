"""A full model that was given: whether it computes what the builder's model does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import BuildError
from ..space import Setting
from ..views.alignment.watching import is_plain
from ..views.buffers import Private
from ..views.examples import Inputs
from ..views.modes import is_sharded, is_traced
from ..views.skeletons import Skeleton
from .exits import random_state_kept
from .trials import equal

__all__ = ["Given"]

_PLAIN = (bool, int, float, str, type(None))


class Given:
    """Compares a given model with the builder's once there are inputs: names and shapes do not tell how it was made.

    Another number of heads, activation, dilation or slope changes no tensor; sub-models are made by the builder.

    Args:
        made: Returns a skeleton of the full setting, which is not compiled.
        private: The network's private tensors.
        setting: The full setting.
        asked: Whether a model was given.
    """

    def __init__(self, made: Callable[[], Skeleton], private: Private, setting: Setting, asked: bool) -> None:
        self._made, self._private, self._setting, self._asked = made, private, setting, asked

    def compare(self, full: nn.Module, inputs: Inputs) -> None:
        """Run both on inputs, the first time that there are any.

        Args:
            full: The given model.
            inputs: Positional and keyword arguments.

        Raises:
            BuildError: If they return other things.
        """
        if not self._asked or not is_plain(inputs) or is_traced() or is_sharded(full):
            return
        args, kwargs = inputs
        with torch.no_grad(), random_state_kept(inputs):
            try:
                given = copy.deepcopy(full).eval()  # whatever its forward writes
                theirs = given(*args, **kwargs)
            except Exception:  # of inputs that do not fit, as the caller is about to see
                return
            self._asked = False
            skeleton = self._made()
            skeleton.bind(self._private, inference=True)
            made = skeleton.module
            if not equal(made(*args, **kwargs), theirs) and equal(given(*args, **kwargs), theirs):
                raise BuildError(
                    f"The given model returns something else than what the builder makes at {self._setting}"
                    f"{_difference(full, made)}. Sub-models are made by the builder: let it make the given model, with "
                    "the same arguments."
                )


def _difference(full: nn.Module, made: nn.Module) -> str:
    """Say which module was made otherwise, if that can be told."""
    others = dict(made.named_modules(remove_duplicate=False))
    for path, module in full.named_modules(remove_duplicate=False):
        other = others.get(path)
        if other is None:
            continue
        ours, theirs = module.extra_repr(), other.extra_repr()
        if ours != theirs:
            return f": {path or 'it'} is {type(module).__name__}({ours}), and there {type(other).__name__}({theirs})"
        for name, value in vars(module).items():
            there: Any = vars(other).get(name)
            is_function = callable(value) and not isinstance(value, nn.Module) and hasattr(value, "__name__")
            if (isinstance(value, _PLAIN) or is_function) and name != "training" and value != there:
                shown = [getattr(one, "__name__", one) for one in (value, there)]
                return f": {path + '.' if path else ''}{name} is {shown[0]}, and there {shown[1]}"
    return ""
