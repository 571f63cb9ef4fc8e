"""Export of an extracted model to ONNX, checked against the original."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..imports.packages import needs
from ..imports.privates.torch import keystr, tree_flatten_with_path, tree_leaves
from .axes import Axes

__all__ = ["to_onnx"]

# How torch says that an axis of an input, by its place, has a fixed size.
_FIXED = re.compile(r"static shape of (\d+) for dimension inputs\['tensors'\]\[(\d+)\]\.shape\[(\d+)\]")


def to_onnx(
    module: nn.Module,
    inputs: Any,
    path: str | Path,
    *,
    tolerance: float = 1e-4,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> float:
    """Write a model as one ONNX file, and check that onnxruntime computes the same from it.

    The file appears whole or not at all: it is written and checked beside `path`, then renamed. The model is exported
    in evaluation mode and is not changed. It is checked at the sizes of `inputs`, with every dynamic axis at another
    size, alone and all together, and with a batch of one.

    Args:
        module: A model with weights of its own, such as `net.extract(...)`; in float32, float64 or float16.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments. Each tensor becomes an input of the
            file; everything else is fixed in it. Keys and values for later tokens are returned only if `use_cache` is
            given among them.
        path: The file, usually `*.onnx`; its folder is made if it is not there.
        tolerance: Largest absolute difference between any two outputs, at least 0.
        dynamic_axes: Which axes take any size in the file, by input, axis and name, such as
            `{"input_ids": {0: "batch", 1: "sequence"}}`. Axes of one name have one size. None of them in an empty
            mapping. Where left out, batch and length of inputs called as in transformers (`input_ids`,
            `attention_mask`, `input_values`, ...), and the first axis of every other tensor whose first axis is as long
            as the first tensor's.

    Returns:
        The largest absolute difference found.

    Raises:
        MissingPackageError: If `sortednet[onnx]` is not installed.
        ExportError: If parameters are views of larger storages, an axis is not there or is fixed in the model, the
            exporter fails, or the outputs differ by more than `tolerance`. No file is left then; one that was at `path`
            stays.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     difference = to_onnx(nn.Linear(3, 2), torch.ones(2, 3), Path(folder) / "small.onnx")
        >>> difference <= 1e-4
        True
    """
    runtime = _import_onnx()
    _refuse_views(module)
    frozen = _OfTensors(copy.deepcopy(module), inputs).eval()
    tensors = _named_tensors(module, inputs)
    _refuse_bfloat16(module, tensors)
    if not any(one.dim() for one in tensors.values()):
        raise ExportError("The inputs hold no tensor with an axis. Give the tensors that the model's forward takes.")
    axes = Axes.of(tensors, dynamic_axes)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        _export(frozen, axes.traced(tensors), written, axes)
        difference = _compare(runtime, frozen, axes.others(tensors), written, axes)
        # Written this way round, a difference that is not a number is refused.
        if not difference <= tolerance:
            raise ExportError(
                f"onnxruntime's output differs from the model's by {difference:.3g}, more than tolerance={tolerance:g}."
                " Nothing was written. Export in float64 to see whether it is rounding, or raise the tolerance; where "
                "texts are padded, give some without padding: a padded token that sees none differs and does not count."
            )
        os.replace(written, target)
    return difference


class _OfTensors(nn.Module):
    """A model as a function of its tensors alone, everything else fixed."""

    def __init__(self, module: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.module = module
        args, kwargs = _as_arguments(inputs)
        if "use_cache" in list(inspect.signature(module.forward).parameters)[len(args) :]:
            kwargs.setdefault("use_cache", False)
        self._args = tuple(None if isinstance(one, Tensor) else one for one in args)
        self._kwargs = {name: None if isinstance(one, Tensor) else one for name, one in kwargs.items()}
        self._places = [place for place, one in enumerate(args) if isinstance(one, Tensor)]
        self._names = [name for name, one in kwargs.items() if isinstance(one, Tensor)]

    def forward(self, *tensors: Tensor) -> Any:
        args, kwargs = list(self._args), dict(self._kwargs)
        for place, tensor in zip(self._places, tensors, strict=False):
            args[place] = tensor
        for name, tensor in zip(self._names, tensors[len(self._places) :], strict=True):
            kwargs[name] = tensor
        return self.module(*args, **kwargs)


def _import_onnx() -> Any:
    """Import what the export needs and return onnxruntime."""
    with needs("Exporting to ONNX", "onnx"):
        for name in ("onnx", "onnxscript", "onnxruntime"):
            package = importlib.import_module(name)
    return package


def _refuse_views(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        stored = parameter.untyped_storage().nbytes()
        if stored > parameter.nbytes:
            raise ExportError(
                f"{name} has {parameter.nbytes} bytes and is a view of a storage of {stored} bytes, all of which would "
                "go along. This is a sub-model inside a larger network: extract it first, with net.extract(...)."
            )


def _refuse_bfloat16(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    if any(one.dtype == torch.bfloat16 for one in (*module.parameters(), *tensors.values())):
        raise ExportError(
            "The model or its inputs are in bfloat16, whose outputs cannot be checked. Convert both with .float()."
        )


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}


def _named_tensors(module: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Name the tensors among the inputs as the model's forward does, in the order given."""
    args, kwargs = _as_arguments(inputs)
    names: list[str] = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}_{place}" for place in range(len(args) - len(names))]
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            names.append(name)
    named = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: one for name, one in named.items() if isinstance(one, Tensor)}


def _export(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, axes: Axes) -> None:
    names = _output_names(module, tensors)
    try:
        with _exporter_muted(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(tensors.values()),
                path,
                input_names=list(tensors),
                output_names=names,
                dynamo=True,
                dynamic_shapes=(tuple(axes.names.get(name) for name in tensors),) if axes.names else None,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        order = list(tensors)
        axes.refuse_fixed({(order[int(k)], int(axis)): int(size) for size, k, axis in _FIXED.findall(str(cause))})
        raise ExportError(
            f"torch.onnx.export cannot follow the model, {type(cause).__name__}: {_shortened(cause)} What depends on "
            "the values of a tensor, as `if x.sum() > 0` does, cannot be exported, nor operations that ONNX lacks; and "
            f"a model above 2 GB does not fit into one file. {axes.remedy()}".rstrip()
        ) from error


def _output_names(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str] | None:
    """Run the model, and name its outputs by the keys it returns them under; None where it returns no mapping.

    Raises:
        ExportError: If it does not run, or returns what no file holds.
    """
    try:
        with torch.no_grad():
            output = module(*tensors.values())
    except Exception as error:
        raise _does_not_run("The model", tensors, error) from error
    leaves = tree_flatten_with_path(output)[0]
    other = next((leaf for _, leaf in leaves if not isinstance(leaf, (Tensor, NoneType))), None)
    if other is not None:
        raise ExportError(
            f"Among what the model returns is {other!r:.60}, and a file holds tensors only. Let its forward return "
            "tensors, in tuples or dictionaries; give use_cache=False where it is a cache."
        )
    if not isinstance(output, Mapping):
        return None
    return [re.sub(r"\W+", "_", keystr(path)).strip("_") for path, leaf in leaves if isinstance(leaf, Tensor)]


def _does_not_run(what: str, tensors: Mapping[str, Tensor], error: Exception, remedy: str = "") -> ExportError:
    shapes = {name: tuple(one.shape) for name, one in tensors.items()}
    return ExportError(f"{what} does not run on inputs of shapes {shapes}: {_shortened(error)} {remedy}".strip())


def _shortened(error: BaseException) -> str:
    """Return what an error says first, as a sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = " ".join(lines)[:300].strip()
    return text if text.endswith((".", "!", "?")) else f"{text or 'it says no more'}."


def _compare(runtime: Any, module: nn.Module, batches: Iterable[Mapping[str, Tensor]], path: Path, axes: Axes) -> float:
    """Return the largest absolute difference between the model and the file over some batches."""
    session = runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    shapes = {(one.name, axis): size for one in session.get_inputs() for axis, size in enumerate(one.shape)}
    axes.refuse_fixed({place: size for place, size in shapes.items() if isinstance(size, int)})
    largest = 0.0
    for tensors in batches:
        feed = {name: one.detach().cpu().numpy() for name, one in tensors.items()}
        try:
            with torch.no_grad():
                expected = [one for one in tree_leaves(module(*tensors.values())) if isinstance(one, Tensor)]
            found = [torch.from_numpy(one) for one in session.run(None, feed)]
        except Exception as error:
            raise _does_not_run("The model or its file", tensors, error, axes.remedy()) from error
        if [one.shape for one in expected] != [one.shape for one in found]:
            raise ExportError(
                f"The model's outputs have shapes {[tuple(one.shape) for one in expected]}, onnxruntime's "
                f"{[tuple(one.shape) for one in found]}. Let the forward return tensors, in tuples or dictionaries."
            )
        for ours, theirs in zip(expected, found, strict=True):
            ours, theirs = ours.cpu().double(), theirs.double()
            # Equal infinities differ by nothing.
            difference = torch.where(ours == theirs, 0.0, (ours - theirs).abs())
            if difference.isnan().any():
                return math.nan
            if difference.numel():
                largest = max(largest, float(difference.max()))
    return largest


@contextmanager
def _exporter_muted() -> Iterator[None]:
    """Ignore what the exporter says and its caller can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message, category in (
                # Of the exporter's own use of torch.
                (r".*isinstance\(treespec, LeafSpec\)", FutureWarning),
                (r"_check_is_size will be removed", FutureWarning),
                # Several inputs share an axis, which can have one name only.
                (r"# The axis name: .* will not be used", UserWarning),
                # Recurrent layers renew their list of weights; the parameters themselves stay.
                (r"The tensor attributes? .*_flat_weights", UserWarning),
            ):
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
