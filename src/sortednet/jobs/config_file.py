"""A configuration read from a YAML or JSON file: what is wrong with one is told with its line and column."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigError, SortedNetError
from ..files import records
from ..imports.packages import needs

with needs("A configuration", "cli"):
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

__all__ = ["Document", "detail_of", "read", "read_document"]

_MOST_BYTES, _MOST_NODES, _MOST_LEVELS = 1_000_000, 20_000, 64
_NUMBER = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
# What the parser says of a section that may be null, such as `adapter`: what is wrong with it stands furthest inside.
_OPTIONAL = re.compile(
    r'Parser key "run\.(?P<section>\w+)":\n.*?Problem with given class_path .*?:\n(?P<problem>(?: {8}[^\n]*\n)+)',
    re.DOTALL,
)
# What it says of a value that may be of several types.
_UNION = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s+Does not validate against any of the Union subtypes\n'
    r"(?P<errors>.*?)Given value: (?P<value>[^\n]*)",
    re.DOTALL,
)
# An error of a section's own among them.
_OWN_ERROR = re.compile(r"^\s+- (?!Expected |Problem |Not a valid )(?P<text>\w.*)$", re.MULTILINE)
_KEY_OF_PARSER = re.compile(r'Parser key "(?:run\.)?(?P<key>[\w.]+)"')
_KEY_OF_ERROR = re.compile(r"^(?P<key>\w+(?:\.\w+)*)[=\[]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")  # of a terminal
_CLASS = "class_path"  # jsonargparse calls what it names
_Config = TypeVar("_Config")
Keys: TypeAlias = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's plain values, with the numbers of its version 1.2 (`1e-3` is one) and without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in held if not tag.endswith((":timestamp", ":float"))]
    for first, held in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))


@dataclass(frozen=True)
class Document:
    """What a file holds.

    Attributes:
        path: The file.
        values: Its keys and values.
        places: By the keys and indices that lead to it, the line and the column of each value or its key, from 1.
    """

    path: Path
    values: dict[str, Any]
    places: Mapping[Keys, tuple[int, int]]

    def where(self, key: str) -> str:
        """Return the place of a dotted key, or of the last part of it that the file has, as text; empty if of none."""
        parts: Keys = tuple(key.split("."))
        while parts and parts not in self.places:
            parts = parts[:-1]
        return " (line {}, column {})".format(*self.places[parts]) if parts else ""


def read_document(path: str | Path, example: str = "configs/digits.yaml") -> Document:
    """Read a file's keys and values.

    Args:
        path: A YAML file, or a JSON file if it ends with `.json`.
        example: A file that an error names.

    Raises:
        ConfigError: If the file is missing, empty, no text, no YAML or JSON, too large, or no mapping of keys to
            values.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{path} is a folder. Give a YAML file, such as {example}.")
    if not file.is_file():
        raise ConfigError(f"There is no configuration at {path}. Give a YAML file, such as {example}.")
    try:
        with open(file, "rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Give a YAML file, such as {example}.") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path} is larger than {_MOST_BYTES:,} bytes, which is no configuration. Give a YAML file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        raise ConfigError(
            f"{path} cannot be used{_place_of(before)}: it is no text in UTF-8. Save it as such."
        ) from None
    values, places = (_json if file.suffix == ".json" else _yaml)(text, str(path))
    if values is None:
        raise ConfigError(f"{path} cannot be used: it is empty. Write keys and values, as in {example}.")
    if not isinstance(values, dict):
        kind = {"list": "a list", "str": "a text"}.get(type(values).__name__, f"a {type(values).__name__}")
        raise ConfigError(
            f"{path} cannot be used (line 1, column 1): it is {kind}, no mapping of keys to values. Write keys and "
            f"values, as in {example}."
        )
    return Document(file, values, places)


def _place_of(before: str) -> str:
    """Return the place behind a text."""
    return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"


def _json(text: str, name: str) -> tuple[Any, Mapping[Keys, tuple[int, int]]]:
    try:
        return (records.parse(text) if text.strip() else None), {}
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{name} cannot be used (line {error.lineno}, column {error.colno}): {error.msg}. Correct it there."
        ) from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{name} cannot be used: {_said(error)}. Correct it.") from None


def _yaml(text: str, name: str) -> tuple[Any, Mapping[Keys, tuple[int, int]]]:
    """Read a text as YAML.

    Args:
        text: The text.
        name: What errors call it.

    Returns:
        Its value, None where it is empty; and the places of all parts.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        places: dict[Keys, tuple[int, int]] = {}
        _check_size(node, name)
        for path, mark in _places(node, (), name):
            places[path] = (mark.line + 1, mark.column + 1)
        return loader.construct_document(node), places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        said = ", ".join(str(one) for one in (error.context, error.problem) if one)
        raise ConfigError(f"{name} cannot be used{place}: it is no YAML: {said}. Correct it there.") from None
    except yaml.reader.ReaderError as error:
        place = _place_of(text[: error.position])
        raise ConfigError(
            f"{name} cannot be used{place}: the character {error.character!r} is not allowed in YAML. Remove it."
        ) from None
    except SortedNetError:
        raise
    except (RecursionError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} cannot be used: {_said(error)}. Correct it.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _said(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error).rstrip(".")


def _check_size(root: Any, name: str) -> None:
    """Refuse what is nested too deep, holds itself, or is too much once its aliases are followed."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: Any, level: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        mark = node.start_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})"
        if id(node) in open_:
            raise ConfigError(f"{name} cannot be used{place}: an alias stands inside of what it names. Write it out.")
        if level > _MOST_LEVELS:
            raise ConfigError(f"{name} cannot be used{place}: it is nested more than {_MOST_LEVELS} levels deep.")
        open_.add(id(node))
        parts = node.value if isinstance(node.value, list) else []
        count = 1 + sum(
            sum(size(one, level + 1) for one in part) if isinstance(part, tuple) else size(part, level + 1)
            for part in parts
        )
        open_.discard(id(node))
        if count > _MOST_NODES:
            raise ConfigError(
                f"{name} cannot be used{place}: it holds more than {_MOST_NODES:,} values once aliases are followed."
            )
        sizes[id(node)] = count
        return count

    size(root, 0)


def _places(node: Any, path: Keys, name: str) -> Iterator[tuple[Keys, Any]]:
    """Yield the mark of every key and item, and refuse a key that stands twice."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen and key.value != "<<":
                mark = key.start_mark
                raise ConfigError(
                    f"{name} cannot be used (line {mark.line + 1}, column {mark.column + 1}): "
                    f"{'.'.join(map(str, (*path, key.value)))} stands in line {seen[key.value]} already. Keep one."
                )
            seen[key.value] = key.start_mark.line + 1
            yield (*path, key.value), key.start_mark
            yield from _places(value, (*path, key.value), name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark
            yield from _places(item, (*path, index), name)


def read(document: Document, kind: type[_Config], changes: Sequence[str] = ()) -> _Config:
    """Make a configuration of what a file holds.

    Args:
        document: What the file holds.
        kind: The dataclass.
        changes: Values to change, such as `training.updates=100`.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or is not allowed.
    """
    values, changed = _changed(document.values, kind, changes)

    def told(error: Exception, key: str, text: str) -> str:
        given = next(
            (one for one in changed if f"{one}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one}.")), None
        )
        place = f" ({given}=... on the command line)" if given else document.where(key)
        return f"{document.path} cannot be used{place}: {text}"

    try:
        _check_keys(values, kind, ())
        _refuse_code(values, ())
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--run", type=kind)
        aside: dict[tuple[str, ...], Any] = {}
        shown = _without(values, kind, (), aside)
        with contextlib.redirect_stderr(io.StringIO()):
            made = _made(kind, parser.parse_object({"run": shown})["run"], (), aside)
    except _UnknownKeyError as error:
        raise ConfigError(told(error, error.key, str(error))) from None
    except SortedNetError as error:
        key = _KEY_OF_ERROR.search(str(error))
        raise type(error)(told(error, key["key"] if key else "", str(error))) from None
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(told(error, _key_of(str(error)), f"{detail_of(error)}.")) from None
    configuration: _Config = made
    return configuration


def _changed(values: dict[str, Any], kind: type[Any], changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values with changes made to them, and the keys that were changed."""
    found, keys = dict(values), []
    for change in changes:
        key, equals, text = change.partition("=")
        parts = key.split(".")
        if not equals or not all(part.isidentifier() for part in parts):
            raise ConfigError(f"{change!r} changes nothing. Write key=value, such as training.updates=100.")
        value, _ = _yaml(text, repr(change))
        if (value is None and not text.strip()) or (
            _takes_text_only(kind, parts) and value is not None and not isinstance(value, str)
        ):
            value = text
        inside = found
        for part in parts[:-1]:
            held = inside.get(part)
            inside[part] = dict(held) if isinstance(held, dict) else {}
            inside = inside[part]
        inside[parts[-1]] = value
        keys.append(key)
    return found, keys


def _takes_text_only(kind: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        section = _section_of(kind)
        kind = None if section is None else get_type_hints(section).get(part)
    return kind in (str, str | None)


def _without(values: Any, hint: Any, path: tuple[str, ...], aside: dict[tuple[str, ...], Any]) -> Any:
    """Return the values of a section without those of which the parser has nothing to check.

    It would read a text among them as YAML once more, call what that names, and copy a list for each of its entries.

    Args:
        values: Of the section.
        hint: What it is.
        path: Its keys.
        aside: What is left out is put here, by its keys.

    Raises:
        _UnknownKeyError: If a text stands where none is meant, which the parser would read as something else.
    """
    section = _section_of(hint)
    if section is None or not isinstance(values, Mapping):
        return values
    hints, kept = get_type_hints(section), {}
    for key, value in values.items():
        name, meant = ".".join((*path, key)), hints[key]
        if not _texts_fit(value, meant):
            raise _UnknownKeyError(name, f"{name}: Expected {_kind_of(meant)}. Got value: {value!s:.80}")
        inner = _entry_of(meant)
        if _section_of(meant) is not None:
            kept[key] = _without(value, meant, (*path, key), aside)
        elif inner is not None and isinstance(value, list):
            kept[key] = [_without(one, inner, (*path, key, str(place)), aside) for place, one in enumerate(value)]
        elif _is_taken_as_it_is(value, meant):
            aside[(*path, key)] = value
        else:
            kept[key] = value
    for one in fields(section):
        if (*path, one.name) in aside and one.default is MISSING and one.default_factory is MISSING:
            kept[one.name] = type(aside[(*path, one.name)])()
    return kept


def _entry_of(hint: Any) -> Any:
    """Return what the entries of a list of sections are; None of anything else."""
    return next((one for one in get_args(hint) if get_origin(hint) is list and _section_of(one) is not None), None)


def _is_taken_as_it_is(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if isinstance(value, str):
        return len(kinds) > 1 and str in kinds
    held = dict[str, Any] if isinstance(value, dict) else list[Any] if isinstance(value, list) else None
    return held in kinds and (isinstance(value, list) or all(isinstance(key, str) for key in value))


def _texts_fit(value: Any, hint: Any) -> bool:
    """Whether texts stand only where texts may, or a section, which is looked at by itself."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or _section_of(hint) is not None:
        return True
    if origin in (Union, UnionType):
        return any(_texts_fit(value, one) for one in args)
    if isinstance(value, str):
        return hint is str or (origin is Literal and any(isinstance(one, str) for one in args))
    if origin is list and isinstance(value, list):
        return all(_texts_fit(one, args[0]) for one in value)
    if origin is dict and isinstance(value, Mapping):
        return all(_texts_fit(one, args[1]) for one in value.values())
    return True


def _kind_of(hint: Any) -> str:
    names = {dict: "dict", list: "list", bool: "bool", int: "int", float: "float"}
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    known = (names.get(get_origin(one) or one, "") for one in kinds)
    return " or ".join(filter(None, known)) or "another value"


def _made(hint: Any, held: Any, path: tuple[str, ...], aside: Mapping[tuple[str, ...], Any]) -> Any:
    """Make a section of what the parser has checked and what was set aside."""
    section = _section_of(hint)
    if section is None:
        inner = _entry_of(hint)
        if inner is None or not isinstance(held, list):
            return held
        return [_made(inner, one, (*path, str(place)), aside) for place, one in enumerate(held)]
    if held is None:
        return None
    held = held.get("init_args", held) if "class_path" in held else held
    hints = get_type_hints(section)
    given = {
        one.name: aside.get((*path, one.name), _made(hints[one.name], held[one.name], (*path, one.name), aside))
        for one in fields(section)
        if one.init
    }
    return section(**given)


def _section_of(hint: Any) -> type[Any] | None:
    """Return the dataclass that a hint stands for, also that of `AdapterConfig | None`."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type)), None)


class _UnknownKeyError(Exception):
    """A key that a section does not have, or a section that is none."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def _check_keys(values: Any, hint: Any, path: tuple[str, ...]) -> None:
    """Refuse unknown keys of a section and of those inside it, and sections that are no mapping."""
    section = _section_of(hint)
    if section is None or (values is None and type(None) in get_args(hint)):
        return
    known = [one.name for one in fields(section)]
    if not isinstance(values, Mapping):
        name = ".".join(path)
        raise _UnknownKeyError(name, f"{name}={values!r} is no section. Give it keys, such as {', '.join(known[:3])}.")
    hints = get_type_hints(section)
    for key, value in values.items():
        if key not in known:
            name = ".".join((*path, str(key)))
            raise _UnknownKeyError(name, f"It does not accept option '{name}'.{_meant(name, section, path)}")
        _check_keys(value, hints[key], (*path, key))


def _refuse_code(values: Any, path: tuple[str, ...]) -> None:
    """Refuse what the parser takes for a class to import and call, at any depth: a file may come from a stranger."""
    if isinstance(values, str) and _CLASS in values:
        raise _UnknownKeyError(".".join(path), f"{'.'.join(path)} holds {_CLASS!r}, which names code. Leave it out.")
    if isinstance(values, str) and _CONTROL.search(values):
        raise _UnknownKeyError(".".join(path), f"{'.'.join(path)} holds a control character. Leave it out.")
    inside = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        _refuse_code(str(key), path)
        _refuse_code(value, (*path, str(key)))


def _meant(name: str, section: type[Any], path: tuple[str, ...]) -> str:
    """Suggest the key that a misspelt one was meant to be."""
    known = []
    for field, hint in get_type_hints(section).items():
        inner = _section_of(hint)
        known.append(".".join((*path, field)))
        known += [".".join((*path, field, one.name)) for one in (fields(inner) if inner else ())]
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else f" The keys are {', '.join(known)}."


def detail_of(error: Exception) -> str:
    """Keep of a parser's message the lines that say what is wrong."""
    inner = _OPTIONAL.search(str(error))
    message = str(error) if inner is None else f"{inner['section']}: {inner['problem'].strip()}"
    own = _OWN_ERROR.search(message)
    if own is not None and inner is None and "Union subtypes" in message:
        return own["text"].rstrip(".")
    union = _UNION.search(message)
    if union is not None:
        kinds = re.findall(r"Expected (.+)", union["errors"])
        message = f'Parser key "{union["key"]}": Expected {" or ".join(kinds)}. Got value: {union["value"]}'
    lines = [line.strip(" -\n") for line in message.splitlines()]
    kept = [line for line in lines if line and not re.match(r'Parser key "run":|Unable to load config', line)]
    text = _KEY_OF_PARSER.sub(r"\g<key>", " ".join(kept).replace("run.", ""))
    text = re.sub(r"(?:a )?typing\.Literal\[(.*?)\]", r"one of \1", text)
    return re.sub(r"(?:a )?<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null").rstrip(".")


def _key_of(message: str) -> str:
    """Return the dotted key that a parser's message is about."""
    inner = _OPTIONAL.search(message)
    own = _KEY_OF_ERROR.search(detail_of(ValueError(message))) if "Union subtypes" in message else None
    if own is not None:
        return own["key"]
    found = _KEY_OF_PARSER.search(message if inner is None else inner["problem"])
    if found is None:
        missing = re.search(r"required: (?:run\.)?([\w.]+)", message)
        return missing[1].rpartition(".")[0] if missing else ""
    return found["key"] if inner is None else f"{inner['section']}.{found['key']}"
