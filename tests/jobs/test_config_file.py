"""Configurations read from files: right values, and for what is wrong one error with its line and column."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sortednet.errors import ConfigError
from sortednet.jobs.config_file import read, read_document


@dataclass(frozen=True)
class Inner:
    rank: int = 1
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"inner.rank={self.rank} is below 1. Give at least 1.")


@dataclass(frozen=True)
class Outer:
    space: dict[str, Any] | list[Any]
    inner: Inner = field(default_factory=Inner)
    perhaps: Inner | None = None
    name: str = "x"
    rate: float = 0.1
    sizes: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def written(folder: Path, text: str | bytes, name: str = "c.yaml") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def made(folder: Path, text: str, *changes: str, name: str = "c.yaml") -> Outer:
    return read(read_document(written(folder, text, name)), Outer, changes)


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    text = "space: {depth: [1, 2]}\nrate: 1e-3\nsizes: [1, 2]\nperhaps: {rank: 3}\n"
    text += "options: {when: 2026-01-01, ok: yes}\n"
    assert made(tmp_path, text) == Outer(
        {"depth": [1, 2]}, rate=1e-3, sizes=(1, 2), perhaps=Inner(3), options={"when": "2026-01-01", "ok": True}
    )


def test_json_and_yaml_give_the_same(tmp_path: Path) -> None:
    values = {"space": [{"a": 1}], "rate": 1e-05, "perhaps": None, "options": {"a": [1, "b", None, 2.5]}}
    text = json.dumps(values, indent=1)
    assert made(tmp_path, text, name="c.json") == made(tmp_path, text)
    assert made(tmp_path, text.replace(" ", "\t"), name="c.json") == made(tmp_path, text)


def test_aliases_and_merges_are_followed(tmp_path: Path) -> None:
    text = "space: &s {a: [1]}\noptions: {<<: *s, b: *s}\n"
    assert made(tmp_path, text).options == {"a": [1], "b": {"a": [1]}}


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ("inner.rank=5", "inner", Inner(5)),
        ("perhaps.rank=5", "perhaps", Inner(5)),
        ("perhaps=null", "perhaps", None),
        ("name=5", "name", "5"),
        ("name=", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("rate=1e-3", "rate", 1e-3),
        ("space={a: [1, 2]}", "space", {"a": [1, 2]}),
        ("options.new.inner=[1]", "options", {"new": {"inner": [1]}}),
    ],
)
def test_changes_replace_values(tmp_path: Path, change: str, name: str, value: object) -> None:
    assert getattr(made(tmp_path, "space: {a: [1]}\n", change), name) == value


WRONG = {
    "a key that is unknown": ("space: {}\ninner:\n  ranks: 5\n", r"line 3, column 3.*'inner.ranks'. Did you mean"),
    "one at the top": ("space: {}\nrat: 5\n", r"line 2, column 1.*'rat'. Did you mean rate"),
    "one that is like none": ("space: {}\nzzzz: 5\n", r"line 2, column 1.*'zzzz'. The keys are space, inner"),
    "one in a section that may be null": ("space: {}\nperhaps: {rnk: 1}\n", r"line 2, column 11.*'perhaps.rnk'"),
    "a key that is missing": ("rate: 1\n", r"arguments are required: space"),
    "a key twice": ("space: {}\nrate: 1\nrate: 2\n", r"line 3, column 1.*rate stands in line 2 already"),
    "a wrong type": ("space: {}\ninner: {rank: many}\n", r"line 2, column 9.*inner.rank: Expected int. Got value"),
    "a wrong choice": ("space: {}\ninner:\n kind: c\n", r"line 3, column 2.*Expected one of 'a', 'b'. Got value: c"),
    "a wrong type of several": ("space: 5\n", r"line 1, column 1.*space: Expected dict or list. Got value: 5"),
    "a wrong item": ("space: {}\nsizes: [1, b]\n", r"line 2, column 1\).*sizes"),
    "a value out of range": ("space: {}\ninner:\n  rank: 0\n", r"line 3, column 3.*inner.rank=0 is below 1"),
    "a section that is none": ("space: {}\ninner: 5\n", r"line 2, column 1.*inner=5 is no section. Give it keys"),
    "no brace": ("space: {a: [1]\nrate: 1\n", r"line 2, column \d+.*no YAML"),
    "a tab": ("space:\n\ta: 1\n", r"line 2, column 1.*no YAML"),
    "colons": ("a: b: c\n", r"line 1, column 5.*mapping values are not allowed here"),
    "a quote that does not end": ('space: "a\n', r"line \d, column \d.*no YAML"),
    "NUL": ("space: a\0b\n", r"line 1, column 9.*character.*not allowed"),
    "a tag of Python": ("space: !!python/object/apply:os.getcwd []\n", r"line 1, column 8.*no YAML"),
    "an unknown tag": ("space: !thing 5\n", r"line 1, column 8.*no YAML"),
    "an unknown alias": ("space: *a\n", r"line 1, column 8.*no YAML"),
    "an alias in itself": ("space: &a [*a]\n", r"line 1, column 8.*inside of what it names"),
    "two documents": ("space: {}\n---\nspace: {}\n", r"line 2, column 1.*no YAML"),
    "a list": ("- a\n", r"line 1, column 1.*it is a list, no mapping"),
    "a text": ("hello\n", r"it is a text, no mapping"),
    "a number": ("5\n", r"it is a int, no mapping"),
    "nothing": ("", r"it is empty"),
    "comments alone": ("# a\n\n# b\n", r"it is empty"),
    "null": ("null\n", r"it is empty"),
    "many levels": ("space: " + "[" * 200 + "]" * 200, r"line 1, column \d+.*more than 64 levels"),
    "very many levels": ("space: " + "[" * 100_000, r"nested too deep|no YAML"),
    "many aliases": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
        r"line \d+, column \d+.*more than 20,000 values once aliases are followed",
    ),
    "a long number": ("space: {}\nrate: " + "9" * 5000, r"cannot be used"),
    "a class path": ("space: {}\nperhaps: {class_path: os.system, init_args: {}}\n", r"line 2.*'perhaps.class_path'"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_error_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        made(tmp_path, text)
    assert "c.yaml cannot be used" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe\x00\x81", r"line 1, column 1\): it is no text in UTF-8"),
        (b"space: {}\nname: \xe4\n", r"line 2, column 7\): it is no text in UTF-8"),
        (b"x" * 1_000_001, r"larger than 1,000,000 bytes"),
    ],
)
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_document(written(tmp_path, data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"space": {},\n "rate": }', r"line 2, column 10\)"),
        ("[" * 100_000, r"nested deeper than 64 levels"),
        ("[1]", r"it is a list"),
        ("", r"it is empty"),
        ('{"space": {}, "rat": 1}', r"'rat'. Did you mean rate"),
    ],
)
def test_json_that_is_wrong_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, text, name="c.json")


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder. Give a YAML file"):
        read_document(tmp_path)
    with pytest.raises(ConfigError, match="There is no configuration at"):
        read_document(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rate", "'rate' changes nothing. Write key=value"),
        ("=5", "changes nothing"),
        ("a b=5", "changes nothing"),
        ("rat=5", r"\(rat=... on the command line\).*Did you mean rate"),
        ("inner.ranks=5", r"\(inner.ranks=... on the command line\).*Did you mean inner.rank"),
        ("inner.rank=x", r"\(inner.rank=... on the command line\).*Expected int. Got value: x"),
        ("inner.rank=0", r"\(inner.rank=... on the command line\).*is below 1"),
        ("inner=5", r"inner=5 is no section"),
        ("space={a: [1", r"'space=\{a: \[1' cannot be used \(line 1, column"),
    ],
)
def test_a_wrong_change_is_told_to_be_one(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, "space: {a: [1]}\n", change)


PIECES = st.sampled_from(
    ["space", "inner", "rank", "kind", ": ", ":", "\n", "  ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!str ",
     "|", ">", '"', "'", "#", "1", "1e9", "null", "~", "a", "\t", "?", "%", "@", "`", "---", "..."]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=25))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, pieces: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        made(folder, "".join(pieces))
    except ConfigError as error:
        assert "cannot be used" in str(error)  # noqa: PT017
