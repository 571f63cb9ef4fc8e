"""Files of tensors in the format of safetensors, written in one pass, with digests of what they hold.

The header carries, beside what is said of the tensors, three digests: of their names, types, shapes and values, which
is the same for the same tensors in whatever files; of each page of the data, so that a part can be checked as it is
read; and of the header itself. Any reader of safetensors opens such a file. Nothing here needs torch.

Source:
    https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from . import records

__all__ = [
    "DIGEST",
    "PAGE",
    "Header",
    "Stored",
    "damaged",
    "digest_of",
    "hash_of",
    "read_header",
    "write",
]

PAGE = 4096  # bytes, the system's own: a part that is checked reads no more of the disk
DIGEST, _PAGES, _HEADER = "sortednet.digest", "sortednet.pages", "sortednet.header"
_MOST_HEADER = 100_000_000  # bytes, as safetensors has it
_ALIGNED_FROM = 16 * PAGE
_CHUNK = 1 << 22
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor of a file.

    Args:
        name: Its name.
        dtype: Its type, by the name that safetensors has for it.
        shape: Its shape.
        data: Returns its values as bytes, row by row. Called once, when they are written.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], Any]

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * _BITS[self.dtype] // 8


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors.

    Attributes:
        path: The file.
        tensors: By name the `dtype`, `shape` and `data_offsets` of each.
        metadata: What else it says.
        start: Where the values begin, in bytes.
    """

    path: Path
    tensors: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]
    start: int

    @property
    def digest(self) -> str | None:
        """The digest of the tensors that was written with them; None in files that have none."""
        return self.metadata.get(DIGEST)

    @cached_property
    def pages(self) -> Sequence[int] | None:
        """The check sum of every page of the values; None in files that have none."""
        if _PAGES not in self.metadata:
            return None
        try:
            data = base64.b64decode(self.metadata[_PAGES], validate=True)
            sums = array("I", data)
        except ValueError:
            raise damaged(self.path, "the check sums of its pages cannot be read") from None
        return sums

    @property
    def described(self) -> dict[str, str]:
        """What it says beside digests."""
        return {key: text for key, text in self.metadata.items() if key not in (DIGEST, _PAGES, _HEADER)}

    def check_pages(self, first: int, data: memoryview) -> None:
        """Compare pages that were read with their check sums.

        Args:
            first: The number of the first page.
            data: Whole pages; the last of the file may be shorter.

        Raises:
            CheckpointError: If one is not as it was written.
        """
        if self.pages is None:
            return
        for place, begin in enumerate(range(0, len(data), PAGE), first):
            if place >= len(self.pages) or zlib.crc32(data[begin : begin + PAGE]) != self.pages[place]:
                raise damaged(self.path, f"its bytes from {self.start + PAGE * place:,} on are not those written")


def damaged(path: Path, why: str) -> CheckpointError:
    """Return the error of a file that is not as it was written."""
    return CheckpointError(
        f"{path} is damaged or cut short ({why}). Restore it from a copy, or take an earlier checkpoint."
    )


def hash_of(data: Any) -> str:
    """Return the digest of the values of one tensor."""
    return hashlib.sha256(data).hexdigest()


def digest_of(tensors: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """Return the digest of tensors from the name, type, shape and `hash_of` the values of each.

    Returns:
        32 hexadecimal digits, the same in whatever order.
    """
    lines = sorted(json.dumps([name, dtype, list(shape), found]) for name, dtype, shape, found in tensors)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def write(file: BinaryIO, tensors: Iterable[Stored], metadata: Mapping[str, str]) -> list[tuple[str, str, Any, str]]:
    """Write a file, a tensor at a time. The same tensors and metadata give the same bytes.

    Args:
        file: Opened for writing and reading, and empty.
        tensors: What it is to hold.
        metadata: What else it is to say.

    Returns:
        For `digest_of`, the name, type, shape and digest of each tensor.
    """
    ordered = sorted(tensors, key=lambda one: (-_BITS[one.dtype], one.name))
    total = sum(one.size for one in ordered)
    aligned = PAGE if total >= _ALIGNED_FROM else 8
    blank = {DIGEST: "0" * 32, _HEADER: "0" * 32, _PAGES: _written([0] * -(-total // PAGE))}
    described, begin = {}, 0
    for one in ordered:
        described[one.name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [begin, begin + one.size]}
        begin += one.size
    length = len(_header({**metadata, **blank}, described, aligned))
    file.seek(8 + length)
    pages, hashes = _Pages(), []
    for one in ordered:
        found = hashlib.sha256()
        data = memoryview(one.data()).cast("B") if one.size else memoryview(b"")
        if len(data) != one.size:
            raise CheckpointError(f"{one.name} has {len(data)} bytes, and {one.dtype}{list(one.shape)} has {one.size}.")
        for place in range(0, len(data), _CHUNK):
            part = data[place : place + _CHUNK]
            found.update(part)
            pages.add(part)
            file.write(part)
        hashes.append((one.name, one.dtype, one.shape, found.hexdigest()))
    filled = {**metadata, **blank, DIGEST: digest_of(hashes), _PAGES: _written(pages.ended())}
    header = _header(filled, described, aligned)
    header = _header({**filled, _HEADER: _header_digest(header)}, described, aligned)
    file.seek(0)
    file.write(len(header).to_bytes(8, "little") + header)
    file.seek(0, os.SEEK_END)
    return hashes


class _Pages:
    """Check sums of pages, from pieces of any length."""

    def __init__(self) -> None:
        self._sums, self._rest = array("I"), b""

    def add(self, data: memoryview) -> None:
        if self._rest:
            missing = PAGE - len(self._rest)
            self._rest += bytes(data[:missing])
            data = data[missing:]
            if len(self._rest) < PAGE:
                return
            self._sums.append(zlib.crc32(self._rest))
        whole = len(data) - len(data) % PAGE
        self._sums.extend(zlib.crc32(data[begin : begin + PAGE]) for begin in range(0, whole, PAGE))
        self._rest = bytes(data[whole:])

    def ended(self) -> array[int]:
        if self._rest:
            self._sums.append(zlib.crc32(self._rest))
        return self._sums


def _written(sums: Sequence[int]) -> str:
    return base64.b64encode(array("I", sums).tobytes()).decode()


def _header(metadata: Mapping[str, str], described: Mapping[str, Any], aligned: int) -> bytes:
    held = {"__metadata__": dict(sorted(metadata.items())), **described}
    text = json.dumps(held, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-(8 + len(text)) % aligned)


def _header_digest(header: bytes, given: str = "0" * 32) -> str:
    """Return the digest of a header in which its own, as given, is blank."""
    blank, own = (f'"{_HEADER}":"{digits}"'.encode() for digits in ("0" * 32, given))
    return hashlib.sha256(header.replace(own, blank, 1)).hexdigest()[:32]


def read_header(path: str | Path) -> Header:
    """Read and check what a file says of its tensors; the values are not read.

    Raises:
        CheckpointError: If it is missing, damaged, cut short, or of an absurd size.
    """
    file = Path(path)
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no file")  # a pipe would never end
        with open(file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if length > min(_MOST_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            text = opened.read(length)
        records.check_containers(text)
        held = json.loads(text, object_pairs_hook=records.unique)
        metadata = held.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that are no texts")
        end = _end_of(held)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing. Restore it from a copy, or save again.") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error}). Correct the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise damaged(file, str(error)[:200] or type(error).__name__) from None
    if 8 + length + end != size:
        raise damaged(file, f"it has {size:,} bytes, and its header speaks of {8 + length + end:,}")
    own = metadata.get(_HEADER)
    if own is not None and own != _header_digest(text, own):
        raise damaged(file, "its header is not as it was written")
    return Header(file, held, metadata, 8 + length)


def _end_of(tensors: Mapping[str, Any]) -> int:
    """Return where the last tensor ends; they follow one another without a gap."""
    place = 0
    for name, one in sorted(tensors.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        begin, end = one["data_offsets"]
        shape = one["shape"]
        if not all(type(number) is int and 0 <= number < 1 << 48 for number in (begin, end, *shape)):
            raise ValueError(f"{name[:60]} has no sizes")
        bits = _BITS.get(one["dtype"])
        if begin != place or (bits is not None and end - begin != math.prod(shape) * bits // 8):
            raise ValueError(f"{name[:60]} does not lie where it should")
        place = end
    return place
