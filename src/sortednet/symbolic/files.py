"""Models as files: float16 weights and all else in one safetensors file, which holds no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError, ConfigError
from ..files import records
from ..files.writing import write_bytes
from ..network import checkpoint
from .expressions import GeneratorConfig
from .familiarity import Familiarity
from .model import ModelConfig, SymbolicGPT

__all__ = ["FORMAT", "Pretrained", "load_model", "save_model", "shipped"]

FORMAT = 1
"""Of the file; others are refused."""

_REMEDY = "Make it again with sortednet symbolic train, or leave it out to use the one that comes with sortednet."
_Config = TypeVar("_Config", ModelConfig, GeneratorConfig, Familiarity)


@dataclass(frozen=True)
class Pretrained:
    """A trained model and what is known of its training.

    Attributes:
        model: In evaluation mode.
        generator: What drew its problems.
        familiarity: Tells problems like those from others.
        about: What else was written beside it, plain JSON values.
    """

    model: SymbolicGPT
    generator: GeneratorConfig
    familiarity: Familiarity
    about: Mapping[str, Any]

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretrained:
        return self  # nothing of it is ever changed


def save_model(path: str | Path, pretrained: Pretrained) -> None:
    """Write a model to one file.

    Args:
        path: Ending in .safetensors.
        pretrained: The model. Its weights are rounded to float16.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    tensors = {f"model.{name}": one.half() for name, one in pretrained.model.state_dict().items()}
    gpt: Any = pretrained.model.decoder.network
    for tied in gpt.all_tied_weights_keys:
        tensors.pop(f"model.decoder.network.{tied}", None)
    described = {
        "format": FORMAT,
        "model": asdict(pretrained.model.config),
        "generator": asdict(pretrained.generator),
        "familiarity": asdict(pretrained.familiarity),
        "about": dict(pretrained.about),
    }
    write_bytes(Path(path), checkpoint.to_bytes(tensors, {"sortednet.symbolic": json.dumps(described)}))


def load_model(path: str | Path) -> Pretrained:
    """Read a model.

    Raises:
        CheckpointError: If there is no such file, or it is damaged or of another version.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"There is no file {path}. {_REMEDY}")
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path} is no model of sortednet symbolic. {_REMEDY}")
    tensors, metadata = checkpoint.read_file(Path(path))
    try:
        described = dict(records.parse(metadata["sortednet.symbolic"]))
    except (KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path} is no model of sortednet symbolic. {_REMEDY}") from None
    if described.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {described.get('format')}, and this version of sortednet reads {FORMAT}. {_REMEDY}"
        )
    try:
        most = max(len(tensors), *(max(one.shape, default=0) for one in tensors.values()))
        if any(isinstance(value, (int, float)) and value > 10 * most for value in described["model"].values()):
            raise ValueError("it is said to be far larger than it is")
        model = SymbolicGPT(_read(ModelConfig, described["model"]))
        generator = _read(GeneratorConfig, described["generator"])
        own = {name.removeprefix("model."): one.float() for name, one in tensors.items()}
        gpt: Any = model.decoder.network
        for tied, source in gpt.all_tied_weights_keys.items():
            own[f"decoder.network.{tied}"] = own[f"decoder.network.{source}"]
        model.load_state_dict(own)
        familiarity = _read(Familiarity, described["familiarity"])
    except Exception as error:  # whatever is made of its description
        why = " ".join(str(error).split())
        raise CheckpointError(f"{path} is damaged or of another version: {why}. {_REMEDY}") from None
    return Pretrained(model.eval().requires_grad_(False), generator, familiarity, described.get("about", {}))


def shipped() -> Pretrained:
    """Return the model that comes with the package."""
    with as_file(files("sortednet.symbolic") / "pretrained.safetensors") as path:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. Install sortednet again, or give a model of your own.")
        return load_model(path)


def _read(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    names = {one.name for one in fields(kind)}
    unknown = set(dict(values)) - names
    if unknown:
        raise ConfigError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return tuple(map(plain, value)) if isinstance(value, list) else value

    return kind(**{name: plain(value) for name, value in values.items()})
