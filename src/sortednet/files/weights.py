"""The file of a network's weights: which one it is, and a name for what it holds. It is read without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError, ConfigError

__all__ = ["ADAPTER", "ADAPTER_CONFIG", "WEIGHTS", "digest", "is_adapter", "is_there", "network_in", "weights_file"]

WEIGHTS = "model.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
_CHUNK = 1 << 22  # bytes that are read at a time


def weights_file(path: str | Path) -> Path:
    """Return the file of the weights of a checkpoint, a model's or an adapter's."""
    model, adapter = Path(path) / WEIGHTS, Path(path) / ADAPTER
    described = (Path(path) / ADAPTER_CONFIG).is_file()
    return adapter if described or (adapter.is_file() and not model.is_file()) else model


def is_there(path: str | Path) -> bool:
    """Return whether a folder holds weights, a model's or an adapter's."""
    return weights_file(path).is_file()


def is_adapter(path: str | Path) -> bool:
    """Return whether a folder holds the weights of an adapter alone."""
    return weights_file(path).name == ADAPTER


def network_in(run: str | Path) -> Path:
    """Return the folder of a network: that of a run, or the one that was given.

    Args:
        run: The folder of a run, or of a saved network.

    Raises:
        ConfigError: If it holds no network, or none yet.
    """
    for folder in (Path(run) / "model", Path(run)):
        if is_there(folder):
            return folder
    config = Path(run) / "config.json"
    if config.is_file():
        raise ConfigError(f"{run} holds no trained network yet. Finish it first: sortednet train {config}")
    raise ConfigError(
        f"There is no network in {run}. Give the folder of a run; 'sortednet train' writes it, or one that "
        "SortedNet.save_pretrained wrote."
    )


def digest(path: str | Path) -> str:
    """Return a name for the weights of a checkpoint, the same for the same weights.

    It is of each tensor's name, type, shape and values, in the order of the names, as safetensors writes a file of
    that tensor alone.

    Args:
        path: The folder of the checkpoint.

    Returns:
        16 hexadecimal digits.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    file = weights_file(path)
    if not file.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}: {file.name} is missing. Give the folder it was saved to."
        )
    found = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header: dict[str, dict[str, Any]] = json.loads(opened.read(min(size, file.stat().st_size)))
            header.pop("__metadata__", None)
            for name in sorted(header):
                _add(found, name, header[name], opened, 8 + size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged or cut short ({error}). Restore it from a copy, or take an earlier checkpoint."
        ) from None
    return found.hexdigest()[:16]


def _add(found: Any, name: str, stored: dict[str, Any], file: BinaryIO, data: int) -> None:
    """Add the bytes that a file of one tensor would have."""
    begin, end = stored["data_offsets"]
    alone = {name: {"dtype": stored["dtype"], "shape": stored["shape"], "data_offsets": [0, end - begin]}}
    text = json.dumps(alone, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    found.update(len(text).to_bytes(8, "little") + text)
    file.seek(data + begin)
    while begin < end:
        part = file.read(min(_CHUNK, end - begin))
        if not part:
            raise ValueError("it ends early")
        found.update(part)
        begin += len(part)
