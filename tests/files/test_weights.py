import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from sortednet.errors import CheckpointError
from sortednet.files.weights import ADAPTER, WEIGHTS, digest, is_adapter, is_there

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    names = ('b.ü"\\ \n/', "a", "empty", "😀\x7f")
    return dict(zip(names, (torch.ones(3, 5), torch.tensor(3.0), torch.zeros(0, 4), torch.ones(2)), strict=True))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_digest_is_of_each_tensor_as_safetensors_writes_it_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    held = {name: one.to(dtype) for name, one in tensors(dtype).items()}
    (tmp_path / WEIGHTS).write_bytes(save(held, {"format": "pt"}))
    expected = hashlib.sha256()
    for name, one in sorted(held.items()):
        expected.update(save({name: one}))
    assert digest(tmp_path) == expected.hexdigest()[:16]


def test_the_digest_does_not_see_the_order_of_a_file(tmp_path: Path) -> None:
    found = []
    for metadata in ({"a": "1", "b": "2"}, {"b": "2"}, None):
        (tmp_path / WEIGHTS).write_bytes(save({"x": torch.ones(2), "y": torch.zeros(3)}, metadata))
        found.append(digest(tmp_path))
    assert len(set(found)) == 1


@pytest.mark.parametrize("change", ["value", "name", "shape", "type"])
def test_the_digest_sees_every_change(tmp_path: Path, change: str) -> None:
    other = {"value": {"x": torch.zeros(4)}, "name": {"y": torch.ones(4)}, "shape": {"x": torch.ones(2, 2)},
             "type": {"x": torch.ones(4, dtype=torch.float16)}}  # fmt: skip
    (tmp_path / WEIGHTS).write_bytes(save({"x": torch.ones(4)}))
    before = digest(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(save(other[change]))
    assert digest(tmp_path) != before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    data = save({"x": torch.ones(100)})
    header = json.dumps({"x": {"dtype": "F32"}}).encode()
    for broken in (b"", data[:4], data[:20], data[:-8], b"\xff" * 40, len(header).to_bytes(8, "little") + header,
                   b"\x02\0\0\0\0\0\0\0[]"):  # fmt: skip
        (tmp_path / WEIGHTS).write_bytes(broken)
        with pytest.raises(CheckpointError, match="is damaged or cut short"):
            digest(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint at .*: model\.safetensors is missing"):
        digest(tmp_path)
    assert not is_there(tmp_path)


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / ADAPTER).write_bytes(save({"x": torch.ones(1)}))
    assert is_there(tmp_path)
    assert is_adapter(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(save({"x": torch.ones(1)}))
    assert not is_adapter(tmp_path)
