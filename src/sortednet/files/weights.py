"""The files of a network's weights: which they are, and what they hold. They are read without torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError, ConfigError
from . import records
from .manifest import MANIFEST
from .saving import settle
from .tensor_file import Header, damaged, read_header

__all__ = [
    "ADAPTER",
    "ADAPTER_CONFIG",
    "CONFIGS",
    "EXTRACTED",
    "METADATA",
    "NETWORK",
    "SETTING",
    "WEIGHTS",
    "Weights",
    "digest",
    "index_of",
    "is_adapter",
    "is_there",
    "network_in",
    "open_weights",
    "recognised",
    "shard_name",
    "weights_file",
]

WEIGHTS = "model.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
METADATA, SETTING = "sortednet.json", "setting.json"
NETWORK, EXTRACTED = "network", "extracted model"  # what a folder with weights holds
CONFIGS = ("config.json", "generation_config.json", ADAPTER_CONFIG)
_CHUNK = 1 << 22  # bytes that are read at a time
_SHARD = re.compile(r"(model|adapter_model)-\d{5}-of-\d{5}\.safetensors")
_OF_TRAINER = re.compile(
    r"sortednet.*\.json|(adapter_)?model.*\.safetensors(\.index\.json)?|private-.*\.safetensors|(config|"
    r"generation_config|adapter_config|trainer_state|tokenizer.*|special_tokens_map|vocab|added_tokens)\.json|"
    r"(optimizer|scheduler|scaler)\.(pt|bin)|rng_state.*\.pth|training_args\.bin|vocab\.txt|merges\.txt|README\.md"
)
_PRIVATE = re.compile(r"private-([0-9a-f]{12})\.safetensors")


@dataclass(frozen=True)
class Weights:
    """The headers of all files that hold the weights of a checkpoint.

    Attributes:
        path: The file that stands for them: the only one, or the index of several.
        headers: Of each file.
        described: What is said of them beside digests.
        digest: Of all tensors, as it was written; None where it was not.
    """

    path: Path
    headers: tuple[Header, ...]
    described: Mapping[str, str]
    digest: str | None


def weights_file(path: str | Path) -> Path:
    """Return the file of the weights of a checkpoint, a model's or an adapter's; where there are several, the index."""
    folder = Path(path)
    model, adapter = (
        next((one for one in (folder / name, folder / index_of(name)) if one.is_file()), folder / name)
        for name in (WEIGHTS, ADAPTER)
    )
    described = (folder / ADAPTER_CONFIG).is_file()
    return adapter if described or (adapter.is_file() and not model.is_file()) else model


def index_of(name: str) -> str:
    """Return the name of the file that says which of several files holds each tensor, as transformers has it."""
    return f"{name}.index.json"


def shard_name(name: str, number: int, count: int) -> str:
    """Return the name of one of several files, counted from 1, as transformers has it."""
    stem = name.removesuffix(".safetensors")
    return name if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.safetensors"


def is_there(path: str | Path) -> bool:
    """Return whether a folder holds weights, a model's or an adapter's."""
    return weights_file(path).is_file()


def is_adapter(path: str | Path) -> bool:
    """Return whether a folder holds the weights of an adapter alone."""
    return weights_file(path).name in (ADAPTER, index_of(ADAPTER))


def open_weights(path: str | Path) -> Weights:
    """Read and check what the files of a checkpoint's weights say of them; no value is read.

    Raises:
        CheckpointError: If one is missing or damaged.
    """
    settle(path)
    file = weights_file(path)
    if not file.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}: {file.name} is missing. Give the folder it was saved to."
        )
    if file.suffix != ".json":
        header = read_header(file)
        return Weights(file, (header,), header.described, header.digest)
    try:
        held = records.read(file)
        places: dict[str, str] = held["weight_map"]
        about = held.get("metadata", {})
        names = sorted(set(places.values()))
        if not all(_SHARD.fullmatch(name) for name in names):
            raise ValueError(f"{names[:3]} are no names of its files")
        described = {key: text for key, text in about.items() if isinstance(text, str)}
    except (OSError, *records.MALFORMED) as error:
        raise damaged(file, str(error)) from None
    headers = tuple(read_header(file.with_name(name)) for name in names)
    found = {name: header.path.name for header in headers for name in header.tensors}
    if found != places:
        raise damaged(file, "it names other tensors than its files hold")
    stored = described.pop("sortednet.digest", None)
    return Weights(file, headers, described, stored)


def recognised(path: str | Path, trained: bool = False) -> set[str]:
    """Return the files of a folder that this library wrote before it kept a manifest.

    The weights say so themselves; what belongs to them does by its name.

    Args:
        path: The folder.
        trained: Whether it is known to be written by a trainer, though it may lack its weights.
    """
    folder = Path(path)
    file = weights_file(folder)
    if (folder / MANIFEST).exists() or not folder.is_dir():
        return set()
    if trained or (folder / "training_args.bin").is_file():
        more = {one.name for one in folder.iterdir() if one.is_file() and _OF_TRAINER.fullmatch(one.name)}
        if trained:
            return more
    else:
        more = set()
    try:
        text = read_header(file).metadata.get("sortednet") if file.is_file() else None
        if text is None:
            text = (folder / METADATA).read_text(encoding="utf-8")
        held = records.parse(text)
        if not {"format", "space", "private"} <= held.keys():
            return set()
    except (OSError, CheckpointError, *records.MALFORMED):
        return set()
    own = {file.name, METADATA, *CONFIGS, *more}
    own |= {one.name for one in folder.glob("private-*.safetensors") if _is_private(one)}
    return {name for name in own if (folder / name).is_file()}


def _is_private(file: Path) -> bool:
    """Return whether a file of private tensors is ours: its name says what it holds."""
    found = _PRIVATE.fullmatch(file.name)
    return bool(found) and hashlib.sha256(file.read_bytes()).hexdigest()[:12] == found[1]  # type: ignore[index]


def network_in(run: str | Path) -> Path:
    """Return the folder of a network: that of a run, or the one that was given.

    Args:
        run: The folder of a run, or of a saved network.

    Raises:
        ConfigError: If it holds no network, or none yet.
    """
    if (Path(run) / "model").is_symlink():
        raise ConfigError(f"{Path(run) / 'model'} is a link, and links in a run are not followed. Give its own folder.")
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

    It is the digest that was written with them, so that no value is read. Of files of version 0.1, which have none, it
    is of each tensor's name, type, shape and values, in the order of the names, as safetensors writes a file of that
    tensor alone.

    Args:
        path: The folder of the checkpoint.

    Returns:
        16 hexadecimal digits.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    weights = open_weights(path)
    if weights.digest is not None:
        return weights.digest[:16]
    found = hashlib.sha256()
    try:
        for header in weights.headers:
            with open(header.path, "rb") as opened:
                for name in sorted(header.tensors):
                    _add(found, name, header.tensors[name], opened, header.start)
    except (OSError, ValueError) as error:
        raise damaged(weights.path, str(error)) from None
    return found.hexdigest()[:16]


def _add(found: Any, name: str, stored: Mapping[str, Any], file: BinaryIO, data: int) -> None:
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
