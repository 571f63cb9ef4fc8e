"""A configuration read from a YAML or JSON file, and what is wrong with one, in a line."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from .errors import ConfigError, SortedNetError

__all__ = ["detail_of", "read", "read_keys"]

# What the parser says of a section that may be null, such as `adapter`: what is wrong with it stands furthest inside.
_OPTIONAL = re.compile(
    r'Parser key "run\.(?P<section>\w+)":\n.*?Problem with given class_path .*?:\n(?P<problem>(?: {8}[^\n]*\n)+)',
    re.DOTALL,
)
_Config = TypeVar("_Config")


def read_keys(path: str | Path, example: str) -> set[str]:
    """Read the outermost keys of a file.

    Args:
        path: The file.
        example: A file that an error names.

    Raises:
        ConfigError: If the file is missing, or is no mapping.
    """
    if not Path(path).is_file():
        raise ConfigError(f"There is no configuration at {path}. Give a YAML file, such as {example}.")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return set(_parser_of(dict).parse_args(["--run", str(path)]).run)
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be used: {detail_of(error)}.") from None


def read(path: str | Path, kind: type[_Config], changes: Sequence[str] = ()) -> _Config:
    """Read a file into a dataclass.

    Args:
        path: The file, which exists.
        kind: The dataclass.
        changes: Values to change, such as `training.updates=100`.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type.
    """
    words = ["--run", str(path)]
    for one in changes:
        key, equals, value = one.partition("=")
        if not equals:
            raise ConfigError(f"{one!r} changes nothing. Write key=value, such as training.updates=100.")
        words += [f"--run.{key}", value]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parser = _parser_of(kind)
            return parser.instantiate(parser.parse_args(words)).run  # type: ignore[no-any-return]
    except SortedNetError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be used: {detail_of(error)}.{_meant(str(error), kind)}") from None


def _parser_of(kind: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--run", type=kind, **({"sub_configs": True} if kind is dict else {}))
    return parser


def detail_of(error: Exception) -> str:
    """Keep of a parser's message the lines that say what is wrong."""
    inner = _OPTIONAL.search(str(error))
    message = str(error) if inner is None else f"{inner['section']}: {inner['problem'].strip()}"
    lines = [line.strip(" -\n") for line in message.splitlines()]
    kept = [line for line in lines if line and not re.match(r'Parser key "run":|Unable to load config', line)]
    text = " ".join(kept).replace("run.", "").replace("Group 'run'", "It").rstrip(".")
    return text or "it is empty, or no mapping of keys to values"


def _meant(message: str, kind: type[Any]) -> str:
    """Suggest the key that a misspelt one was meant to be."""
    found = re.search(r"(?:option '|arguments: --run\.)([\w.]+)", message)
    inner = _OPTIONAL.search(message)
    if inner is not None and (other := re.match(r"\s*Option '(\w+)'", inner["problem"])):
        found, name = other, f"{inner['section']}.{other[1]}"
    elif found:
        name = found[1]
    else:
        return ""
    types = get_type_hints(kind)
    known = [
        one
        for field in fields(kind)
        for one in (field.name, *(f"{field.name}.{part}" for part in _parts(types[field.name])))
    ]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else f" The keys are {', '.join(known)}."


def _parts(kind: Any) -> list[str]:
    held = next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)  # also `AdapterConfig | None`
    return [] if held is None else [part.name for part in fields(held)]
