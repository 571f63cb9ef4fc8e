"""Watching a model run: on tensors without numbers where it lets us, on real ones where it does not."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...imports.privates.torch import FakeTensorMode, buffers_of, forward_hooks, parameters_of, tree_leaves
from ..batches import map_tensors
from ..examples import Inputs, pick_inputs, size_of_inputs
from ..forwards import own_forward
from .tape import Tape, record, with_gradients

__all__ = ["WAYS", "Unwatchable", "copied", "example_of", "is_plain", "kept", "runs", "take_types", "watch"]

_INITIAL = 0.02  # standard deviation of the weights that a real run is given


class Unwatchable(Exception):  # noqa: N818
    """A model does not run on the example."""


def example_of(given: Any) -> Inputs:
    """Return the arguments of a call from an example: a tensor, a tuple of arguments, or a mapping of keywords."""
    if isinstance(given, Mapping):
        return (), dict(given)
    return (tuple(given), {}) if isinstance(given, (tuple, list)) else ((given,), {})


def is_plain(inputs: Inputs) -> bool:
    """Whether inputs are tensors and plain values alone, which a trial cannot change."""
    kinds = (Tensor, str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size)
    return all(isinstance(leaf, kinds) for leaf in tree_leaves(inputs))


def kept(inputs: Inputs, way: str = "meta") -> Inputs:
    """Return what has to be kept of an example: two examples of it, or nothing but its sizes."""
    if way == "real":
        args, kwargs = map_tensors(lambda tensor: tensor.detach().cpu().clone(), _few(inputs))
    else:
        args, kwargs = map_tensors(lambda tensor: tensor.detach().to("meta"), inputs)
    return args, kwargs


def watch(model: Callable[[], nn.Module], inputs: Inputs, way: str, *, training: bool = False) -> Tape:
    """Run a model on an example in one way, and return what it did.

    Args:
        model: Makes one whose parameters are on the meta device and whose buffers are real; it is used up.
        inputs: The example.
        way: One of `WAYS`.
        training: Whether it runs in training mode.

    Raises:
        Unwatchable: If it does not run so.
    """
    try:
        with torch.inference_mode(False):
            try:
                return WAYS[way](model(), inputs, training)
            except (RuntimeError, UserWarning) as error:  # or warnings, where they are errors
                if "grad" not in str(error):
                    raise
                with with_gradients():  # of a model that takes gradients in its forward, or checkpoints activations
                    return WAYS[way](model(), inputs, training)
    except Exception as error:  # of the user's code, on tensors of ours
        raise Unwatchable(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        ) from error


def runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model runs, in evaluation mode, on a few real examples."""
    args, kwargs = map_tensors(lambda tensor: tensor.detach().clone(), _few(inputs))
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(model).eval()(*args, **kwargs)  # whatever its forward writes
    except Exception:  # of the user's code
        return False
    return True


def _slots(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor, bool]]:
    """Yield where each parameter and buffer is held, its name there, and whether it is a parameter."""
    for module in model.modules():
        for held, is_parameter in ((parameters_of(module), True), (buffers_of(module), False)):
            for name, tensor in list(held.items()):
                if tensor is not None:
                    yield held, name, tensor, is_parameter


def _replace(model: nn.Module, change: Callable[[Tensor, bool], Tensor]) -> None:
    """Put other tensors in the places of parameters and buffers; tied ones stay tied."""
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for held, name, tensor, is_parameter in _slots(model):
        if id(tensor) not in made:
            new = change(tensor, is_parameter)
            made[id(tensor)] = tensor, nn.Parameter(new, new.is_floating_point()) if is_parameter else new
        held[name] = made[id(tensor)][1]


def take_types(model: nn.Module, full: nn.Module) -> None:
    """Give the tensors of a model without memory the types that those of the full model have now."""
    types = {name: one.dtype for name, one in full.named_parameters(remove_duplicate=False)}
    types |= {name: one.dtype for name, one in full.named_buffers(remove_duplicate=False)}
    ours = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    wanted = {id(one): types[name] for name, one in ours if name in types and types[name] != one.dtype}
    if wanted:
        _replace(model, lambda tensor, _: tensor.detach().to(wanted.get(id(tensor), tensor.dtype)))


def _on_meta(model: nn.Module, inputs: Inputs, training: bool) -> Tape:
    _replace(model, lambda tensor, _: tensor.detach().to("meta"))
    args, kwargs = map_tensors(lambda tensor: tensor.to("meta"), inputs)
    return record(model, args, kwargs, training=training)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from writing down what fails in this thread: another way is tried then."""
    logger, thread = logging.getLogger("torch._subclasses.fake_tensor"), threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


def _on_fakes(model: nn.Module, inputs: Inputs, training: bool) -> Tape:
    with _unlogged(), FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def fake(tensor: Tensor, is_parameter: bool = False) -> Tensor:
            if tensor.is_meta:  # a parameter, or an example that was kept
                return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            return mode.from_tensor(tensor.detach())

        _replace(model, fake)
        args, kwargs = map_tensors(fake, inputs)
        return record(model, args, kwargs, training=training)


def _on_real(model: nn.Module, inputs: Inputs, training: bool) -> Tape:
    generator = torch.Generator().manual_seed(0)

    def real(tensor: Tensor, is_parameter: bool) -> Tensor:
        if not tensor.is_meta:
            return tensor.detach().clone().cpu()
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.promote_types(tensor.dtype, torch.float32))
        return (_INITIAL * drawn).to(tensor.dtype)

    _replace(model, real)
    args, kwargs = map_tensors(lambda tensor: tensor.detach().clone().cpu(), _few(inputs))
    return record(model, args, kwargs, training=training)


def _few(inputs: Inputs) -> Inputs:
    """Return two examples of a batch; all where they cannot be told apart."""
    try:
        return pick_inputs(inputs, slice(0, 2), strict=False) if size_of_inputs(inputs) > 2 else inputs
    except DataError:
        return inputs


WAYS: Mapping[str, Callable[[nn.Module, Inputs, bool], Tape]] = {"meta": _on_meta, "fake": _on_fakes, "real": _on_real}
"""From the cheapest on."""


def copied(model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
    """Return a copy of a model without memory that may be used up; built anew where it cannot be copied."""
    if any(own_forward(module) is not None or forward_hooks(module) for module in model.modules()):
        return build()  # functions are not copied, and may hold the model itself
    try:
        return copy.deepcopy(model)
    except Exception:  # non-leaf tensors, locks, generators: whatever a user's module may hold
        return build()
