"""The privates of torch. ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import graph
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as RunningNorm
from torch.nn.modules.conv import _ConvNd as Convolution
from torch.nn.modules.conv import _ConvTransposeNd as TransposedConvolution
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import (
    keystr,
    register_pytree_node,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_map_with_path,
    tree_unflatten,
)

__all__ = [
    "BatchNorm",
    "Convolution",
    "FakeTensorMode",
    "RunningNorm",
    "TorchDispatchMode",
    "TransposedConvolution",
    "backward_pass",
    "buffers_of",
    "checkpointed_inputs",
    "children_of",
    "convolve",
    "drop_hook",
    "forward_hooks",
    "forward_pre_hooks",
    "is_checkpointed",
    "keystr",
    "parameters_of",
    "persistent_buffers",
    "register_pytree_node",
    "schema_of",
    "storage_key",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_leaves",
    "tree_map",
    "tree_map_with_path",
    "tree_unflatten",
    "uncompile",
    "unknown_sizes",
    "version_of",
]

# Each is looked up for every tensor whenever a sub-model is bound, so none is a function of Python's.
parameters_of: Callable[[nn.Module], dict[str, Any]] = attrgetter("_parameters")
"""The parameters that a module itself has, by name; what is put there may be a plain tensor, as a view is."""
buffers_of: Callable[[nn.Module], dict[str, Tensor | None]] = attrgetter("_buffers")
"""The buffers that a module itself has, by name."""
children_of: Callable[[nn.Module], dict[str, nn.Module | None]] = attrgetter("_modules")
"""The modules that a module itself has, by name, one that stands in two places under both."""
forward_hooks: Callable[[nn.Module], dict[int, Callable[..., Any]]] = attrgetter("_forward_hooks")
"""The forward hooks of a module, by key."""
forward_pre_hooks: Callable[[nn.Module], dict[int, Callable[..., Any]]] = attrgetter("_forward_pre_hooks")
"""The hooks before the forward of a module, by key."""
schema_of: Callable[[Any], Any] = attrgetter("_schema")
"""The schema of an operator: its name, the names of its arguments, whether it writes."""


def drop_hook(module: nn.Module, key: int) -> None:
    """Take a forward hook off a module, where whoever put it there has kept no handle."""
    del module._forward_hooks[key]
    module._forward_hooks_with_kwargs.pop(key, None)


def persistent_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that a module itself has and that are saved, by name."""
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name, buffer


def uncompile(module: nn.Module) -> None:
    """Let a module that was compiled in place run as it is written."""
    module._compiled_call_impl = None


def convolve(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a convolution makes of its inputs without its bias, its padding as it is."""
    convolution: Any = layer
    convolved: Tensor = convolution._conv_forward(inputs, convolution.weight, None)
    return convolved


def backward_pass() -> int:
    """Return the number of the backward pass that this thread is in; -1 outside of any."""
    number: int = torch._C._current_graph_task_id()
    return number


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor has been changed in place."""
    return tensor._version


def storage_key(storage: torch.UntypedStorage) -> int:
    """Return what tells a storage from all others that are held now, such as those of no memory."""
    key: int = storage._cdata
    return key


def is_checkpointed(below: Callable[..., Any] | None = None) -> bool:
    """Whether the caller runs inside of an activation checkpoint, which calls it again later.

    There is no flag that says so, and the frames of the calls do. Where the compiler traces, there are none.

    Args:
        below: Look no further than to the call of this function.
    """
    end = None if below is None else below.__code__
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not end:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def checkpointed_inputs() -> Iterator[list[Any]]:
    """Yield what each activation checkpoint around the caller holds, the innermost first, up to the backward pass."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename != graph.__file__:
        if frame.f_code.co_filename == checkpoint.__file__:
            yield list(frame.f_locals.values())
        frame = frame.f_back


@contextmanager
def unknown_sizes() -> Iterator[None]:
    """Return the context in which the compiler takes sizes as unknown.

    Those of weights and integers of modules count as unknown, and equal ones as equal by chance, so that a graph traced
    at one setting serves others.
    """
    # Imported when compiling, since it takes a second.
    from torch._dynamo import config as dynamo_config
    from torch.fx.experimental import _config as shape_config

    with (
        dynamo_config.patch(
            force_nn_module_property_static_shapes=False,
            force_parameter_static_shapes=False,
            allow_unspec_int_on_nn_module=True,
        ),
        shape_config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
    ):
        yield
