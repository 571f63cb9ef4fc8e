"""Export of an extracted model to ONNX, checked against the original."""

from __future__ import annotations

import copy
import importlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .errors import ExportError

__all__ = ["to_onnx"]


def to_onnx(
    module: nn.Module, inputs: Any, path: str | Path, *, tolerance: float = 1e-4, dynamic_batch: bool = True
) -> float:
    """Write a model as one ONNX file, and check that onnxruntime computes the same from it.

    The file appears whole or not at all: it is written and checked beside `path`, then renamed. The model is exported
    in evaluation mode and is not changed.

    Args:
        module: A model with weights of its own, such as `net.extract(...)`; in float32, float64 or float16.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments. Each tensor becomes an input of the
            file; everything else is fixed in it.
        path: The file, usually `*.onnx`; its folder is made if it is not there.
        tolerance: Largest absolute difference between any two outputs, at least 0.
        dynamic_batch: Whether the file takes any batch size: the first axis of every tensor whose first axis is as long
            as the first tensor's. Then the check is made at a second batch size too. Otherwise the shapes are fixed.

    Returns:
        The largest absolute difference found.

    Raises:
        ExportError: If `sortednet[onnx]` is not installed, parameters are views of larger storages, the exporter fails,
            or the outputs differ by more than `tolerance`. No file is left then; one that was at `path` stays.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     difference = to_onnx(nn.Linear(3, 2), torch.ones(2, 3), Path(folder) / "small.onnx")
        >>> difference <= 1e-4
        True
    """
    runtime = _import_onnx()
    _refuse_views(module)
    args, kwargs = _as_arguments(inputs)
    _refuse_bfloat16(module, args, kwargs)
    first = next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor) and one.dim() > 0), None)
    if first is None:
        raise ExportError("The inputs hold no tensor with an axis. Give the tensors that the model's forward takes.")
    frozen = copy.deepcopy(module).eval()
    batch_size = first.shape[0]
    batches = [(args, kwargs)]
    if dynamic_batch:
        batches.append(_with_batch(args, kwargs, batch_size, batch_size + 1))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        _export(frozen, args, kwargs, written, batch_size if dynamic_batch else None)
        difference = _compare(runtime, frozen, batches, written)
        # Written this way round, a difference that is not a number is refused.
        if not difference <= tolerance:
            raise ExportError(
                f"onnxruntime's output differs from the model's by {difference:.3g}, more than tolerance={tolerance:g}."
                " Nothing was written. Export in float64 to see whether it is rounding, or raise the tolerance."
            )
        os.replace(written, target)
    return difference


def _import_onnx() -> Any:
    """Import what the export needs and return onnxruntime."""
    try:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            package = importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"Exporting to ONNX needs {name}, which cannot be imported ({error}). "
            "Install it with: pip install 'sortednet[onnx]'."
        ) from error
    return package


def _refuse_views(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        stored = parameter.untyped_storage().nbytes()
        if stored > parameter.nbytes:
            raise ExportError(
                f"{name} has {parameter.nbytes} bytes and is a view of a storage of {stored} bytes, all of which would "
                "go along. This is a sub-model inside a larger network: extract it first, with net.extract(...)."
            )


def _refuse_bfloat16(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    tensors = (*module.parameters(), *args, *kwargs.values())
    if any(isinstance(one, Tensor) and one.dtype == torch.bfloat16 for one in tensors):
        raise ExportError(
            "The model or its inputs are in bfloat16, whose outputs cannot be checked. Convert both with .float()."
        )


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}


def _has_batch(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size


def _with_batch(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int, new: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat the examples of a batch until there are `new` of them."""

    def fit(value: Any) -> Any:
        if not _has_batch(value, size):
            return value
        return value[torch.arange(new, device=value.device) % size]

    return tuple(fit(one) for one in args), {name: fit(one) for name, one in kwargs.items()}


def _export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path, batch_size: int | None
) -> None:
    shapes: Any = None
    if batch_size is not None:
        axis = {0: torch.export.Dim("batch")}
        shapes = {name: axis if _has_batch(one, batch_size) else None for name, one in kwargs.items()}
        shapes = shapes or tuple(axis if _has_batch(one, batch_size) else None for one in args)
        # A traced size of 1 would be taken for a constant.
        args, kwargs = _with_batch(args, kwargs, batch_size, max(2, batch_size))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            _ignore_own_warnings()
            torch.onnx.export(
                module,
                args,
                path,
                kwargs=kwargs,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"torch.onnx.export failed with {type(error).__name__}: {error}. Try dynamic_batch=False if a shape is "
            "fixed in the model; a model above 2 GB does not fit into one ONNX file."
        ) from error


def _compare(
    runtime: Any, module: nn.Module, batches: list[tuple[tuple[Any, ...], dict[str, Any]]], path: Path
) -> float:
    """Return the largest absolute difference between the model and the file over some batches."""
    session = runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    largest = 0.0
    for args, kwargs in batches:
        positional = [one for one in args if isinstance(one, Tensor)]
        tensors = {**dict(zip(names, positional, strict=False)), **kwargs}
        feed = {name: tensors[name].detach().cpu().numpy() for name in names if isinstance(tensors.get(name), Tensor)}
        with torch.no_grad():
            expected = [one for one in tree_leaves(module(*args, **kwargs)) if isinstance(one, Tensor)]
        try:
            found = [torch.from_numpy(one) for one in session.run(None, feed)]
        except Exception as error:
            raise ExportError(
                f"onnxruntime cannot run the exported model on inputs of shapes "
                f"{ {name: one.shape for name, one in feed.items()} }: {error}. Try dynamic_batch=False."
            ) from error
        if [one.shape for one in expected] != [one.shape for one in found]:
            raise ExportError(
                f"The model's outputs have shapes {[tuple(one.shape) for one in expected]}, onnxruntime's "
                f"{[tuple(one.shape) for one in found]}. Let the forward return tensors, in tuples or dictionaries."
            )
        for ours, theirs in zip(expected, found, strict=True):
            ours, theirs = ours.cpu().double(), theirs.double()
            # Equal infinities differ by nothing.
            difference = torch.where(ours == theirs, 0.0, (ours - theirs).abs())
            if difference.numel():
                worst = float(difference.max())
                largest = worst if worst != worst else max(largest, worst)
                if largest != largest:
                    return largest
    return largest


def _ignore_own_warnings() -> None:
    """Ignore what the exporter warns of and its caller can do nothing about."""
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
    # Recurrent layers renew their list of weights; the parameters themselves stay.
    warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
