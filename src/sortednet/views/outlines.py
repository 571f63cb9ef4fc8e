"""The class built at a setting without memory for its parameters."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.utils.parametrize import ParametrizationList

from ..errors import BuildError, SortedNetError
from ..imports.privates.torch import buffers_of, children_of, parameters_of
from ..imports.privates.transformers import keep_weights
from ..space import Number, Setting
from .draws import own_draws, undrawn

__all__ = ["call_builder", "check_size", "is_quantised", "outline", "redrawn"]


class _ReadsNumbers(BuildError):  # noqa: N818
    """A builder needs numbers of parameters."""


class _Building(threading.local):
    """The stand-ins made while this thread builds a sub-model; None while it does not."""

    made: dict[int, tuple[nn.Parameter, nn.Parameter]] | None = None
    budget: list[int] | None = None
    """How many parameters, numbers in them, and bytes of buffers may still be made; None for any."""


_BUILDING = _Building()
_ONE_AT_A_TIME = threading.RLock()  # two threads that put back what they have seeded would undo each other


def _to_meta(_: nn.Module, __: str, parameter: nn.Parameter) -> nn.Parameter | None:
    """Put a stand-in on the meta device in a parameter's place, where this thread builds a sub-model."""
    if _BUILDING.budget is not None and parameter is not None and not nn.parameter.is_lazy(parameter):
        _BUILDING.budget[0] -= 1
        _BUILDING.budget[1] -= parameter.numel()
        if min(_BUILDING.budget) < 0:
            raise BuildError("The builder makes more than it may.")
    if _BUILDING.made is None or parameter is None or parameter.is_meta:
        return None
    if nn.parameter.is_lazy(parameter):
        raise BuildError("The builder makes lazy modules, whose sizes are not known. Give every layer its sizes.")
    stand_in = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    keep_weights(stand_in)  # on the meta device, to draw some would take most of the time
    # One stand-in for each, so that tied parameters stay tied.
    return _BUILDING.made.setdefault(id(parameter), (parameter, stand_in))[1]


def _counted(_: nn.Module, __: str, buffer: Tensor | None) -> None:
    """Count a buffer where this thread builds a model that may not be too large."""
    if _BUILDING.budget is not None and buffer is not None and not nn.parameter.is_lazy(buffer):
        _BUILDING.budget[2] -= buffer.numel() * buffer.element_size()
        if min(_BUILDING.budget) < 0:
            raise BuildError("The builder makes more than it may.")


@functools.cache
def _watch() -> None:
    """Watch what modules register, from the first sub-model on and for good: it does nothing but where one is built.

    To add and remove the hooks at each build would disturb other threads that build modules.
    """
    register_module_parameter_registration_hook(_to_meta)  # type: ignore[arg-type]
    register_module_buffer_registration_hook(_counted)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Register parameters on the meta device, in this thread only; buffers stay real."""
    before, _BUILDING.made = _BUILDING.made, {}
    try:
        yield
    finally:
        _BUILDING.made = before


def outline(build: Callable[..., nn.Module], setting: Setting, beside: nn.Module | None = None) -> nn.Module:
    """Build the model at a setting with its parameters on the meta device and its buffers real.

    Args:
        build: Makes the model.
        setting: The setting.
        beside: A model that it shall share no module with. A module without tensors may be the same one at every call,
            such as the activation that is the default of an argument: the outline gets one of its own.

    Raises:
        BuildError: If the builder fails or returns no module.
    """
    with _ONE_AT_A_TIME:
        _watch()
        module = undrawn(partial(_without_memory, build, setting), build)
    _fill_buffers(module, build, setting)
    if beside is not None:
        _part(module, beside)
    return module


def _without_memory(build: Callable[..., nn.Module], setting: Setting) -> nn.Module:
    """Build the model at a setting with its parameters on the meta device.

    A builder that reads numbers of them, or puts what it computes from them into a buffer, gets real ones first.
    """
    with suppress(_ReadsNumbers), _parameters_on_meta():
        module = call_builder(build, setting)
        if not _lacks_buffers(module):
            return module
    module = call_builder(build, setting)
    with _parameters_on_meta():
        for one in module.modules():
            for name, parameter in parameters_of(one).items():
                stand_in = None if parameter is None else _to_meta(one, name, parameter)
                parameters_of(one)[name] = parameter if stand_in is None else stand_in
    return module


def _lacks_buffers(module: nn.Module) -> bool:
    """Whether a parametrization has left a buffer empty: torch hides that it could not compute it without numbers."""
    return any(
        buffer is None
        for one in module.modules()
        if isinstance(one, ParametrizationList)
        for inner in one.modules()
        for buffer in buffers_of(inner).values()
    )


def _part(module: nn.Module, other: nn.Module) -> None:
    """Copy the modules without tensors that two models share."""
    theirs = set(map(id, other.modules()))
    for parent in list(module.modules()):
        for name, child in children_of(parent).items():
            if child is not None and id(child) in theirs and not [*child.parameters(), *child.buffers()]:
                with suppress(Exception):  # whatever it holds; then it is refused as it is
                    children_of(parent)[name] = copy.deepcopy(child)


def redrawn(build: Callable[..., nn.Module], setting: Setting, seed: int) -> dict[str, Tensor]:
    """Return the buffers of the model at a setting by name, as its constructor makes them with another seed."""
    with _ONE_AT_A_TIME:
        _watch()
        with own_draws(seed):
            module = _without_memory(build, setting)
    _fill_buffers(module, build, setting, seed)
    return dict(module.named_buffers(remove_duplicate=False))


def _fill_buffers(module: nn.Module, build: Callable[..., nn.Module], setting: Setting, seed: int = 0) -> None:
    """Give buffers that were made like a parameter, and so without memory, what they hold beside real ones."""
    empty = [name for name, buffer in module.named_buffers(remove_duplicate=False) if buffer.is_meta]
    if not empty:
        return
    with _ONE_AT_A_TIME, own_draws(seed):
        real = dict(call_builder(build, setting).named_buffers(remove_duplicate=False))
    for name in empty:
        path, _, own = name.rpartition(".")
        if name in real and not real[name].is_meta:
            buffers_of(module.get_submodule(path))[own] = real[name]


def check_size(
    build: Callable[..., nn.Module], setting: Mapping[str, Number], parameters: int, numbers: int, buffers: int
) -> bool:
    """Return whether the model at a setting is no larger than it may be; what is too large is never made.

    Args:
        build: The builder.
        setting: The setting.
        parameters: Most parameters of the model.
        numbers: Most numbers in all of them.
        buffers: Most bytes of buffers.

    Raises:
        BuildError: If the builder fails.
    """
    before, _BUILDING.budget = _BUILDING.budget, [parameters, numbers, buffers]
    try:
        with _ONE_AT_A_TIME, own_draws(), torch.device("meta"):
            _watch()
            call_builder(build, setting)
    except BuildError as error:
        if min(_BUILDING.budget) < 0:
            return False
        if "meta" not in str(error).lower():  # some builders read numbers, which they must not do as sub-models
            raise
    finally:
        _BUILDING.budget = before
    return True


def call_builder(build: Callable[..., nn.Module], setting: Mapping[str, Number]) -> nn.Module:
    """Call the builder at a setting and say what went wrong in words.

    Raises:
        BuildError: If it fails or returns no module.
    """
    try:
        module = build(**setting)
    except SortedNetError:
        raise
    except Exception as error:
        if "meta" in str(error):
            raise _ReadsNumbers(
                f"The builder reads the value of a tensor at {setting} ({error}). Sub-models are built without memory: "
                "compute such values from the arguments, or keep them in buffers."
            ) from error
        arguments = ", ".join(f"{name}={value!r}" for name, value in setting.items())
        raise BuildError(
            f"build({arguments}) failed with {type(error).__name__}: {str(error).rstrip('.')}. "
            "Every value of a support must be one that the builder takes as a keyword argument."
        ) from error
    if not isinstance(module, nn.Module):
        raise BuildError(f"build(...) at {setting} returned {type(module).__name__}. Return a torch.nn.Module.")
    return module


def is_quantised(module: nn.Module) -> bool:
    """Whether a module holds parameters that are more than their numbers, so that no other module can look at them."""
    return any(
        type(one) is not nn.Parameter or not (one.is_floating_point() or one.is_complex())
        for one in module.parameters(recurse=False)
    )
