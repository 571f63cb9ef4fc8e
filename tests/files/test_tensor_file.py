"""Files of tensors: any reader opens them, every flipped bit is noticed, absurd headers cost nothing."""

import io
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sortednet.errors import CheckpointError
from sortednet.files.tensor_file import PAGE, digest_of, hash_of, read_header
from sortednet.network.checkpoint import read_file, to_bytes, write_tensors

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 5, generator=generator)
    held = {str(dtype): numbers.to(dtype) for dtype in TYPES}
    large = torch.randn(70, 70, generator=generator)
    return {**held, "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4), "large": large, "turned": large.T}


def written(path: Path, held: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    path.write_bytes(to_bytes(held or tensors(), metadata))
    return path


def test_any_reader_opens_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", text="héllo")
    found = load_file(path)
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].to(torch.complex64), tensor.to(torch.complex64))
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata()["text"] == "héllo"


def test_the_same_tensors_give_the_same_bytes_in_whatever_order(tmp_path: Path) -> None:
    held = tensors()
    turned = dict(reversed(held.items()))
    assert to_bytes(held, {"b": "1", "a": "2"}) == to_bytes(turned, {"a": "2", "b": "1"})


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    one = torch.arange(4.0)
    found = load_file(written(tmp_path / "a.safetensors", {"a": one, "b": one, "c": one[1:3]}))
    assert found["c"].tolist() == [1, 2]
    assert torch.equal(found["a"], found["b"])


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """Each byte once, another of its bits each time."""
    path = written(tmp_path / "a.safetensors", {"a": torch.randn(9, 9), "b": torch.arange(5)}, text="what it is")
    data, (before, described), named = path.read_bytes(), read_file(path), []
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found, text = read_file(path)
        except CheckpointError as error:
            named.append(str(path) in str(error))
            continue
        assert found.keys() == before.keys(), place
        assert all(torch.equal(found[name], before[name]) for name in before), place
        assert text.items() >= described.items(), place
    assert all(named)
    assert len(named) > 0.9 * len(data)


def test_without_the_check_values_are_taken_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"a": torch.zeros(4)})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="its values are not those that were written"):
        read_file(path)
    assert read_file(path, verify=False)[0]["a"].count_nonzero() == 1


def test_files_of_others_have_no_digest_and_open(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "a.safetensors", {"sortednet": "x"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.digest is None
    assert header.pages is None
    assert read_file(tmp_path / "a.safetensors")[1] == {"sortednet": "x"}


def test_the_digest_is_of_names_types_shapes_and_values() -> None:
    def of(held: dict[str, torch.Tensor]) -> str:
        return digest_of(write_tensors(io.BytesIO(), held))

    base = of({"a": torch.zeros(2, 3), "b": torch.ones(1)})
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.int32)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1) * 2},
    ]
    assert len({base, *map(of, others)}) == 5
    assert base == of({"b": torch.ones(1), "a": torch.zeros(2, 3)})
    assert hash_of(b"") != hash_of(b"0")


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 20 * PAGE + 5])
def test_pages_are_checked_one_by_one(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "a.safetensors", {"a": torch.arange(size, dtype=torch.int64).to(torch.uint8)})
    header = read_header(path)
    assert len(header.pages) == -(-size // PAGE)
    data = bytearray(path.read_bytes()[header.start :])
    header.check_pages(0, memoryview(data))
    if size:
        data[-1] ^= 1
        last = (size - 1) // PAGE
        with pytest.raises(CheckpointError, match=rf"its bytes from {header.start + PAGE * last:,} on are not those"):
            header.check_pages(last, memoryview(data)[last * PAGE :])


def header_of(text: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
ABSURD = {
    "nothing": b"",
    "short": b"abc",
    "a header longer than the file": header_of("{}", length=1 << 40),
    "the longest length": header_of("{}", length=(1 << 64) - 1),
    "no JSON": header_of("{"),
    "no text": header_of(b"\xff\xfe"),
    "a list": header_of("[]"),
    "deep": header_of("[" * 100_000),
    "a name twice": header_of('{"a": 1, "a": 2}'),
    "no offsets": header_of('{"a": {}}'),
    "no mapping": header_of('{"a": 5}'),
    "metadata of numbers": header_of('{"__metadata__": {"a": 5}}'),
    "metadata of another kind": header_of('{"__metadata__": [5]}'),
    "too short": header_of(json.dumps({"a": ENTRY}), b"123"),
    "too long": header_of(json.dumps({"a": ENTRY}), b"12345"),
    "a shape of another size": header_of(json.dumps({"a": {**ENTRY, "shape": [2]}}), b"1234"),
    "an absurd shape": header_of(json.dumps({"a": {**ENTRY, "shape": [1 << 60, 1 << 60]}}), b"1234"),
    "a long number": header_of(
        '{"a": {"dtype": "F32", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 4]}}', b"1234"
    ),
    "negative": header_of(json.dumps({"a": {**ENTRY, "shape": [-1], "data_offsets": [0, -4]}})),
    "over one another": header_of(json.dumps({"a": ENTRY, "b": ENTRY}), b"1234"),
    "texts": header_of(json.dumps({"a": {**ENTRY, "data_offsets": ["0", "4"]}}), b"1234"),
    "no pages": header_of(json.dumps({"__metadata__": {"sortednet.pages": "?"}, "a": ENTRY}), b"1234"),
}


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD)
def test_absurd_headers_are_one_error_with_the_files_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or cut short \("):
        read_header(path).check_pages(0, memoryview(b"1234"))
