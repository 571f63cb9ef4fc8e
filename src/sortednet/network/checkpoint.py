"""Checkpoints on disk: written whole or not at all, read without unpickling, in part where a part suffices."""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, ConfigError, LayoutError, SettingError, SpaceError
from ..files import records, tensor_file
from ..files.saving import Saving
from ..files.tensor_file import PAGE, Header, Stored, damaged, read_header
from ..files.weights import METADATA, WEIGHTS, index_of, open_weights, shard_name
from ..views.cut import Cut

__all__ = [
    "SHARD_SIZE",
    "corners",
    "described",
    "fitting",
    "read_file",
    "read_metadata",
    "read_private",
    "read_weights",
    "to_bytes",
    "write",
    "write_tensors",
]

VERSION = 1
SHARD_SIZE = "50GB"  # transformers' own
_PRIVATE = re.compile(r"private-[0-9a-f]{12}\.safetensors")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write(
    save: Saving,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    private: Mapping[tuple[str, str], Tensor],
    *,
    name: str = WEIGHTS,
    max_shard_size: int | str = SHARD_SIZE,
) -> None:
    """Write a checkpoint: the weights, a JSON file beside them, and the private tensors if there are any.

    The weights' file carries the metadata too; where there are several, their index does. Tensors are written one by
    one, so that no more of the memory is taken than one of them needs where it is not on the CPU.

    Args:
        save: The save that it is part of.
        state: The full model's state dictionary.
        metadata: What describes the network; plain JSON values.
        private: The private tensors by setting and name.
        name: Of the file of the weights.
        max_shard_size: Most bytes of one file, as a number or such as "5GB". A larger tensor has a file to itself.

    Raises:
        CheckpointError: If a type of numbers cannot be stored.
        ConfigError: If the size cannot be read.
    """
    described: dict[str, Any] = {"format": VERSION, **metadata}
    own = {f"{setting}|{name}": tensor for (setting, name), tensor in private.items()}
    if own:
        with save.opened("private") as file:
            found = write_tensors(file, own)
        described["private_file"] = f"private-{tensor_file.digest_of(found)[:12]}.safetensors"
        (save.beside / "private").rename(save.beside / described["private_file"])
    text = json.dumps(described, indent=1)
    shards = _shards(state, _bytes(max_shard_size))
    places, hashes = {}, []
    for number, names in enumerate(shards, 1):
        shard = shard_name(name, number, len(shards))
        with save.opened(shard) as file:
            hashes += write_tensors(file, {one: state[one] for one in names}, {"sortednet": text})
        places.update(dict.fromkeys(names, shard))
    if len(shards) > 1:
        about = {
            "total_size": sum(one.numel() * one.element_size() for one in state.values()),
            "sortednet": text,
            tensor_file.DIGEST: tensor_file.digest_of(hashes),
        }
        save.write(index_of(name), records.to_text({"metadata": about, "weight_map": places}).encode())
    save.write(METADATA, records.to_text(described).encode())


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> list[tuple[str, str, Any, str]]:
    """Write a safetensors file.

    Args:
        file: Opened for writing and reading, and empty.
        tensors: What it is to hold, by name. Tensors that share memory are written each.
        metadata: What else it is to say.

    Returns:
        The name, type, shape and digest of each tensor.

    Raises:
        CheckpointError: If a type of numbers cannot be stored.
    """
    unknown = {tensor.dtype for tensor in tensors.values()} - _NAMES.keys()
    if unknown:
        raise CheckpointError(f"Numbers of type {unknown} cannot be stored. Convert them to types of {list(_NAMES)}.")
    stored = [
        Stored(name, _NAMES[tensor.dtype], tuple(tensor.shape), partial(_data, tensor))
        for name, tensor in tensors.items()
    ]
    return tensor_file.write(file, stored, {"format": "pt", **(metadata or {})})


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the safetensors file of some tensors."""
    file = io.BytesIO()
    write_tensors(file, tensors, metadata)
    return file.getvalue()


def _data(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's numbers, where they are if they lie row by row on the CPU."""
    plain = tensor.detach().cpu().contiguous()
    if not plain.numel():
        return memoryview(b"")
    held: Any = (ctypes.c_ubyte * (plain.numel() * plain.element_size())).from_address(plain.data_ptr())
    held.tensor = plain  # which must live as long as its memory is looked at
    return memoryview(held)


def _bytes(size: int | str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?B)\s*", size.upper()) if isinstance(size, str) else None
    number = int(float(found[1]) * _UNITS[found[2]]) if found else size
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(f'max_shard_size={size!r} is no size. Give bytes as a whole number, or such as "5GB".')
    return number


def _shards(state: Mapping[str, Tensor], most: int) -> list[list[str]]:
    """Part the names of tensors, in their order, so that those of a part have no more bytes than allowed."""
    parts: list[list[str]] = [[]]
    held = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if parts[-1] and held + size > most:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    return parts


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read what describes the network.

    Raises:
        CheckpointError: If there is no checkpoint, it is damaged, or of a later format.
    """
    weights = open_weights(path)
    text = weights.described.get("sortednet")
    place = Path(path) / METADATA if text is None else weights.path
    try:
        held = records.read(place) if text is None else records.parse(text)
        version = records.whole(held["format"])
        if version == VERSION:
            _check(held)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} holds weights but no {METADATA}, so its space is not known. "
            "Save it with SortedNet.save_pretrained."
        ) from None
    except (OSError, *records.MALFORMED) as error:
        raise CheckpointError(f"{place} is damaged ({error!r}). Restore it or save again.") from None
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format {str(version)[:20]}; this version reads format {VERSION}. "
            "Update sortednet, or save again with it."
        )
    return dict(held)


def _check(held: Mapping[str, Any]) -> None:
    """Refuse a description of other types than those written."""
    wanted: dict[str, type] = {"space": dict, "buffers": str, "private": list, "layouts": list, "private_file": str,
                               "kind": str, "cuts": dict}  # fmt: skip
    for name, kind in wanted.items():
        if name in ("layouts", "private_file", "kind", "cuts") and name not in held:
            continue
        if not isinstance(held[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
    if not all(isinstance(one, str) for one in held["private"]):
        raise TypeError("private holds what is no text")
    for one in held.get("layouts", []):
        if not isinstance(one, dict) or one.keys() != {"pattern", "axis", "blocks"}:
            raise TypeError("layouts holds what is no layout")
        if not isinstance(one["pattern"], str) or type(one["axis"]) is not int:
            raise TypeError("a layout has no pattern and axis")
        if one["blocks"] is not None and type(one["blocks"]) is not int:
            raise TypeError("the blocks of a layout are no number")
    if "private_file" in held and not _PRIVATE.fullmatch(held["private_file"]):
        raise ValueError(f"{held['private_file']!r} is no name of a private file")


@contextmanager
def described(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a description is taken up into a `CheckpointError`."""
    try:
        yield
    except (SpaceError, SettingError, LayoutError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{Path(path) / METADATA} is damaged ({error}). Restore it or save again.") from None


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


def read_file(file: Path, *, verify: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata of one safetensors file.

    Args:
        file: The file.
        verify: Whether the tensors are compared with the digest that was written with them, if there is one.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    header = read_header(file)
    tensors = _tensors(header)
    if verify and header.digest not in (None, tensor_file.digest_of(_hashes([header], tensors))):
        raise _changed(file)
    return tensors, header.described


def _tensors(header: Header) -> dict[str, Tensor]:
    with fitting(header.path), safe_open(header.path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _hashes(headers: Sequence[Header], tensors: Mapping[str, Tensor]) -> list[tuple[str, str, Any, str]]:
    entries = [(name, held["dtype"], held["shape"]) for one in headers for name, held in one.tensors.items()]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda entry: tensor_file.hash_of(_data(tensors[entry[0]])), entries)
        return [(*entry, one) for entry, one in zip(entries, found, strict=True)]


def _changed(path: Path) -> CheckpointError:
    return damaged(path, "its values are not those that were written")


def read_weights(path: str | Path, *, verify: bool = True) -> dict[str, Tensor]:
    """Read the full model's state dictionary.

    Args:
        path: The folder.
        verify: Whether the tensors are compared with the digest that was written with them, if there is one.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    weights = open_weights(path)
    tensors = {name: tensor for header in weights.headers for name, tensor in _tensors(header).items()}
    if verify and weights.digest not in (None, tensor_file.digest_of(_hashes(weights.headers, tensors))):
        raise _changed(weights.path)
    return tensors


def read_private(path: str | Path, *, verify: bool = True) -> dict[tuple[str, str], Tensor]:
    """Read the private tensors by setting and name.

    Args:
        path: The folder.
        verify: Whether they are compared with the digest that was written with them.

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
    tensors, _ = read_file(file, verify=verify)
    if verify:
        found = read_header(file).digest
        # Of version 0.1 the name is of the bytes.
        given = hashlib.sha256(file.read_bytes()).hexdigest() if found is None else found
        if name != f"private-{given[:12]}.safetensors":
            raise _changed(file)
    entries = {tuple(key.split("|")): tensor for key, tensor in tensors.items()}
    if not all(len(key) == 2 for key in entries):
        raise damaged(file, "it holds tensors of no setting")
    return {(setting, name): tensor for (setting, name), tensor in entries.items()}


@contextmanager
def corners(
    path: str | Path, *, verify: bool = True
) -> Iterator[tuple[dict[str, torch.dtype], Callable[[str, Cut, Sequence[int]], Tensor]]]:
    """Open the weights for reading in part.

    The stretches of a corner are read one by one, in whole pages where they are compared with their check sums. (A
    mapped file would be read far ahead of each row by the system.)

    Args:
        path: The folder.
        verify: Whether what is read is compared with the check sums that were written with it, if there are any.

    Yields:
        The types of the stored tensors, and a function of a name, a cut and the shape of the full tensor that reads
        that part only.

    Raises:
        CheckpointError: If a file is missing or damaged, or does not hold a tensor as large as the cut.
    """
    weights = open_weights(path)
    unknown = {held["dtype"] for one in weights.headers for held in one.tensors.values()} - _TYPES.keys()
    if unknown:
        raise CheckpointError(f"{path} holds numbers of type {unknown}. Save it in types of {list(_TYPES)}.")
    types = {name: _TYPES[held["dtype"]] for one in weights.headers for name, held in one.tensors.items()}
    with ExitStack() as stack:
        parts = {}
        for header in weights.headers:
            file = stack.enter_context(open(header.path, "rb", buffering=0))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            parts.update(dict.fromkeys(header.tensors, _Part(header, file, verify)))

        def read(name: str, cut: Cut, full_shape: Sequence[int]) -> Tensor:
            if name not in parts:
                raise CheckpointError(f"{path} holds no {name}. Load it with the builder that it was saved with.")
            shape, dtype = parts[name].header.tensors[name]["shape"], types[name]
            if list(shape) != list(full_shape):
                raise CheckpointError(
                    f"{path} does not fit the builder: {name} is {tuple(shape)} in it and {tuple(full_shape)} in the "
                    "builder's full model. Load it with the builder that it was saved with."
                )
            size = dtype.itemsize
            runs = ((start * size, count * size) for start, count in cut.runs(shape))
            data = parts[name].read(name, runs, math.prod(cut.shape) * size)
            return torch.frombuffer(data, dtype=dtype).view(cut.shape) if data else torch.empty(cut.shape, dtype=dtype)

        yield types, read


class _Part:
    """A file of tensors that is read in part."""

    def __init__(self, header: Header, file: io.FileIO, verify: bool) -> None:
        self.header, self._file = header, file
        self._checks = verify and header.pages is not None
        self._end = sum(held["data_offsets"][1] - held["data_offsets"][0] for held in header.tensors.values())

    def read(self, name: str, runs: Iterable[tuple[int, int]], size: int) -> bytearray:
        """Return the stretches of a tensor one behind the other, each as its first byte and how many, increasing."""
        data = bytearray(size)
        view, filled = memoryview(data), 0
        begin = self.header.tensors[name]["data_offsets"][0]
        pages, first, last = memoryview(b""), 0, 0  # those read last, from one byte to another
        for start, count in runs:
            place, end = begin + start, begin + start + count
            if not self._checks:
                self._fill(place, view[filled : filled + count])
            else:
                if place < first or end > last:
                    first, last = place - place % PAGE, min(-(-end // PAGE) * PAGE, self._end)
                    pages = memoryview(bytearray(last - first))
                    self._fill(first, pages)
                    self.header.check_pages(first // PAGE, pages)
                view[filled : filled + count] = pages[place - first : end - first]
            filled += count
        return data

    def _fill(self, place: int, view: memoryview) -> None:
        self._file.seek(self.header.start + place)
        while view:
            count = self._file.readinto(view)
            if not count:
                raise damaged(self.header.path, "it ends early")
            view = view[count:]
