"""Checkpoints on disk: written whole or not at all, read without unpickling, in part where a part suffices."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import CheckpointError, SpaceError
from .files.weights import ADAPTER, WEIGHTS, weights_file
from .files.writing import write_bytes
from .layouts import Cut

__all__ = [
    "corners",
    "described",
    "fitting",
    "read_file",
    "read_metadata",
    "read_private",
    "read_weights",
    "to_bytes",
    "write",
]

METADATA = "sortednet.json"
VERSION = 1


def write(
    path: str | Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    private: Mapping[tuple[str, str], Tensor],
    *,
    is_adapter: bool = False,
) -> None:
    """Write a checkpoint: the weights, a JSON file beside them, and the private tensors if there are any.

    The weights' file carries the metadata too, and putting it in its place is the moment at which the new checkpoint
    counts; until then the old one is whole.

    Args:
        path: Folder.
        state: The full model's state dictionary.
        metadata: What describes the network; plain JSON values.
        private: The private tensors by setting and name.
        is_adapter: Whether the weights are those of an adapter, which has a file name of its own.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    folder = Path(path)
    described: dict[str, Any] = {"format": VERSION, **metadata}
    own = {f"{setting}|{name}": tensor for (setting, name), tensor in private.items()}
    if own:
        data = save(_savable(own))
        described["private_file"] = f"private-{_digest(data)}.safetensors"
        write_bytes(folder / described["private_file"], data)
    text = json.dumps(described, indent=1)
    write_bytes(folder / (ADAPTER if is_adapter else WEIGHTS), to_bytes(state, {"sortednet": text}))
    write_bytes(folder / METADATA, text.encode())
    for stale in folder.glob("private-*.safetensors"):
        if stale.name != described.get("private_file"):
            stale.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the safetensors file of some tensors."""
    return save(_savable(tensors), {"format": "pt", **(metadata or {})})


def _savable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every name a tensor of its own, since safetensors refuses shared memory."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        found[name] = plain.clone() if plain.data_ptr() in seen or plain.data_ptr() == tensor.data_ptr() else plain
        seen.add(found[name].data_ptr())
    return found


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read what describes the network.

    Raises:
        CheckpointError: If there is no checkpoint, it is damaged, or of a later format.
    """
    with _weights(path) as file:
        text = (file.metadata() or {}).get("sortednet")
    try:
        if text is None:
            text = (Path(path) / METADATA).read_text()
        held: dict[str, Any] = json.loads(text)
        version = held["format"]
        if version == VERSION:
            held["space"], held["buffers"], held["private"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} holds weights but no {METADATA}, so its space is not known. "
            "Save it with SortedNet.save_pretrained."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{Path(path) / METADATA} is damaged ({error!r}). Restore it or save again.") from None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format {version}; this version reads format {VERSION}. "
            "Update sortednet, or save again with it."
        )
    return held


@contextmanager
def described(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a description is taken up into a `CheckpointError`."""
    try:
        yield
    except (SpaceError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{Path(path) / METADATA} is damaged ({error}). Restore it or save again.") from None


@contextmanager
def _weights(path: str | Path) -> Iterator[Any]:
    file = weights_file(path)
    if not file.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}: {file.name} is missing. Give the folder it was saved to."
        )
    with fitting(file), safe_open(file, framework="pt") as opened:
        yield opened


@contextmanager
def fitting(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a `CheckpointError`."""
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}). Restore it from a copy, or take an earlier checkpoint."
        ) from None
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the builder: {error}") from None


def read_file(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata of one safetensors file.

    Raises:
        CheckpointError: If it is damaged.
    """
    with fitting(file), safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the full model's state dictionary.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    with _weights(path):
        return read_file(weights_file(path))[0]


def read_private(path: str | Path) -> dict[tuple[str, str], Tensor]:
    """Read the private tensors by setting and name.

    Raises:
        CheckpointError: If the file that the checkpoint names is missing or damaged.
    """
    name = read_metadata(path).get("private_file")
    if name is None:
        return {}
    file = Path(path) / name
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing, which holds the private tensors of {path}. Restore it, or save again."
        )
    if f"private-{_digest(file.read_bytes())}.safetensors" != name:
        raise CheckpointError(f"{file} is damaged: its bytes are not those that were saved. Restore it, or save again.")
    entries = {tuple(key.split("|")): tensor for key, tensor in read_file(file)[0].items()}
    return {(setting, name): tensor for (setting, name), tensor in entries.items()}


@contextmanager
def corners(
    path: str | Path,
) -> Iterator[tuple[dict[str, torch.dtype], Callable[[str, Cut, Sequence[int]], Tensor]]]:
    """Open the weights for reading in part.

    The stretches of a corner are read one by one. (`safetensors` maps the file into memory, and the system then reads
    far ahead of each row.)

    Yields:
        The types of the stored tensors, and a function of a name, a cut and the shape of the full tensor that reads
        that part only.

    Raises:
        CheckpointError: If the file is missing or damaged, or does not hold a tensor as large as the cut.
    """
    with _weights(path) as checked:  # its header and size have been checked by safetensors
        names = set(checked.keys())
    with open(weights_file(path), "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        length = int.from_bytes(_read(file, 0, 8), "little")
        header = json.loads(_read(file, 8, length))
        unknown = {header[name]["dtype"] for name in names} - _DTYPES.keys()
        if unknown:
            raise CheckpointError(f"{path} holds numbers of type {unknown}. Save it in types of {list(_DTYPES)}.")
        types = {name: _DTYPES[header[name]["dtype"]] for name in names}

        def read(name: str, cut: Cut, full_shape: Sequence[int]) -> Tensor:
            if name not in names:
                raise CheckpointError(f"{path} holds no {name}. Load it with the builder that it was saved with.")
            stored = header[name]
            shape, dtype = stored["shape"], _DTYPES[stored["dtype"]]
            if list(shape) != list(full_shape):
                raise CheckpointError(
                    f"{path} does not fit the builder: {name} is {tuple(shape)} in it and {tuple(full_shape)} in the "
                    "builder's full model. Load it with the builder that it was saved with."
                )
            part = torch.empty(cut.shape, dtype=dtype)
            if part.numel():
                begin = 8 + length + stored["data_offsets"][0]
                data = bytearray(part.numel() * dtype.itemsize)
                view, filled = memoryview(data), 0
                for start, count in cut.runs(shape):
                    size = count * dtype.itemsize
                    _fill(file, begin + start * dtype.itemsize, view[filled : filled + size])
                    filled += size
                part = torch.frombuffer(data, dtype=dtype).view(cut.shape)
            return part

        yield types, read


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _read(file: io.FileIO, start: int, size: int) -> bytes:
    data = bytearray(size)
    _fill(file, start, memoryview(data))
    return bytes(data)


def _fill(file: io.FileIO, start: int, view: memoryview) -> None:
    file.seek(start)
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointError(f"{file.name} ends early. Restore it from a copy, or take an earlier checkpoint.")
        view = view[count:]
