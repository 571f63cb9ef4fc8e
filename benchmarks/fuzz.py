"""Open damaged files of every kind: a clear error, or the right result, and nothing else. `make fuzz`.

    python benchmarks/fuzz.py --count 2000 --seed 0

Half of the files and more are changed in their structure, and their digests are written anew, so that what stands
behind that check is reached. A failure is an exception that is none of the library's, more than 5 seconds, memory above
twice the file and 200 MB, or a value of another kind that was accepted and changed what was read; each is printed with
the number that makes it again: `--only KIND:NUMBER`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stored import KINDS

from sortednet.errors import SortedNetError
from sortednet.files import records, tensor_file
from sortednet.files.manifest import MANIFEST, Entry, Manifest
from sortednet.files.tensor_file import Stored, read_header

SECONDS, MEMORY = 5, 200 << 20
_NUMBERS = [0, -1, 1, 2, 3, 10**9, 10**18, 2**63, -(2**63), 1e308, -1e308, float("inf"), float("nan"), 0.5]
_VALUES = [
    None, True, False, "", "x", "../../etc/passwd", "/etc/passwd", "a" * 5000, "<script>", "\x00", "é", [], {}, [[]],
    {"": {}}, [None], "subprocess:Popen", "1", "[1]", "depth=1", "nan",
]  # fmt: skip
_TEXTS = [
    b"\x00", b"\xff\xfe", b"{", b"}", b"[", b"]", b'"', b"\t", b"\n", b": ", b"- ", b"&a ", b"*a",
    b"!!python/object:x ", b"!!python/object/apply:os.system ['x'] ", b"<<: *a", b"? ", b"| ", b"%YAML 9\n", b"---\n",
    b"...\n", b"#", b"[" * 3000, b"{a: " * 500, b"9" * 5000, b"1e400", b"x" * 70000, b", , ,", b"\xef\xbb\xbf", b"\r",
    b"null", b"~", b"-",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a damaged file.

    Attributes:
        kind: Its kind.
        number: Of the mutation.
        file: Its name.
        how: What was done to it.
        failure: What went wrong; empty where nothing did.
        refused: Whether it was refused with an error of the library.
    """

    kind: str
    number: int
    file: str
    how: str
    failure: str
    refused: bool


_TYPED = ("table", "similarity", "selection", "formula")
"""Kinds of which the library reads each value itself: one of another kind may not be taken for something near to it."""


# What is done to a file


def mutated(file: Path, draw: random.Random) -> str:
    """Change a file in place, and return what was done."""
    if draw.random() < 0.02:
        return _odd(file, draw)
    structural = draw.random() < 0.65
    if structural and file.suffix == ".npz":
        return _arrays(file, draw)
    if structural and file.suffix == ".json":
        return _json(file, draw)
    if structural and file.suffix == ".jsonl":
        return _jsonl(file, draw)
    if structural and file.suffix == ".safetensors":
        return _tensors(file, draw)
    if structural and file.suffix in (".yaml", ".csv"):
        return _text(file, draw)
    return _bytes(file, draw)


def _odd(file: Path, draw: random.Random) -> str:
    """Put something in a file's place that is none, or none of its own."""
    how = draw.choice(
        ["hole", "link to nothing", "link to itself", "link to a device", "link to a text", "pipe", "folder"]
    )
    if how == "hole":
        os.truncate(file, draw.choice([1 << 30, 1 << 33, 1 << 36]))
        return how
    file.unlink()
    if how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    else:
        places = {"nothing": "/no/such/file", "itself": file.name, "a device": "/dev/zero", "a text": __file__}
        file.symlink_to(places[how.removeprefix("link to ")])
    return how


def _arrays(file: Path, draw: random.Random) -> str:
    """Write arrays whose headers say something else."""
    with zipfile.ZipFile(file) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    name = draw.choice(sorted(members))
    how = draw.choice(["shape", "shape", "type", "drop", "zeros", "name", "raw"])
    if how in ("shape", "type"):
        begin = 10 + int.from_bytes(members[name][8:10], "little")
        head, data = ast.literal_eval(members[name][10:begin].decode()), members[name][begin:]
        if how == "shape":
            one = draw.choice(
                [(10**12,), (1 << 40, 1 << 40), (-4,), (0,), (), (3,), (10**30,), (6, 4, 4), ("a",), (1.5,)]
            )
            head["shape"] = draw.choice([one, one, tuple(reversed(head["shape"])), (*head["shape"], 1)])
        else:
            head["descr"] = draw.choice(["|O", "<f8", "<U100000", "|V0", "<i8", "|u1", "", "x", [("a", "|u1")], "<c16"])
        text = repr(head).encode() + b"\n"
        members[name] = members[name][:8] + len(text).to_bytes(2, "little") + text + data
    elif how == "drop":
        del members[name]
    elif how == "zeros":
        members[name] = members[name][:128] + bytes(draw.choice([1 << 10, 1 << 26]))
    elif how == "name":
        members[draw.choice(["x", "../x.npy", "train_images", f"{name}.npy"])] = members.pop(name)
    else:
        members[name] = draw.randbytes(draw.choice([0, 5, 200]))
    with zipfile.ZipFile(file, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as out:
        for one, data in members.items():
            out.writestr(one, data)
    return f"arrays: {how} of {name}"


def _bytes(file: Path, draw: random.Random) -> str:
    data = bytearray(file.read_bytes())
    how = draw.choice(["flip", "cut", "append", "delete", "repeat", "random", "zero", "insert", "empty"])
    start = draw.randrange(len(data) + 1)
    length = min(draw.choice([1, 2, 8, 64, 512]), len(data) - start)
    if how == "flip" and data:
        for _ in range(draw.choice([1, 1, 2, 8])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[start:]
    elif how == "append":
        data += draw.randbytes(draw.choice([1, 8, 100]))
    elif how == "delete":
        del data[start : start + length]
    elif how == "repeat":
        data[start:start] = data[start : start + length]
    elif how == "random":
        data[start : start + length] = draw.randbytes(length)
    elif how == "zero":
        data[start : start + length] = bytes(length)
    elif how == "insert":
        data[start:start] = draw.choice(_TEXTS)
    else:
        data.clear()
    file.write_bytes(data)
    return f"bytes: {how} at {start}"


def _text(file: Path, draw: random.Random) -> str:
    lines = file.read_bytes().split(b"\n")
    place = draw.randrange(len(lines))
    how = draw.choice(["token", "token", "swap", "drop", "double", "indent", "value"])
    if how == "token":
        start = draw.randrange(len(lines[place]) + 1)
        lines[place] = lines[place][:start] + draw.choice(_TEXTS) + lines[place][start:]
    elif how == "swap":
        other = draw.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    elif how == "drop":
        del lines[place]
    elif how == "double":
        lines.insert(place, lines[place])
    elif how == "indent":
        lines[place] = b" " * draw.randrange(1, 5) + lines[place]
    else:
        key, colon, _ = lines[place].partition(b":")
        lines[place] = key + colon + b" " + json.dumps(draw.choice([*_NUMBERS, *_VALUES])).encode()
    file.write_bytes(b"\n".join(lines))
    return f"text: {how} in line {place + 1}"


def _changed(held: Any, draw: random.Random) -> tuple[Any, str]:
    """Return plain values with one of them changed."""
    held = json.loads(json.dumps(held))
    places = list(_places(held))
    if not places:
        return draw.choice(_VALUES), "whole"
    inside, key = draw.choice(places)
    before = inside[key]
    how = draw.choice(["number", "value", "delete", "rename", "many", "deep", "swap", "wrap", "near"])
    if how == "number":
        inside[key] = draw.choice(_NUMBERS)
    elif how == "value":
        inside[key] = draw.choice(_VALUES)
    elif how == "delete":
        del inside[key]
    elif how == "rename" and isinstance(inside, dict):
        inside[draw.choice(["x", "", key + "_", "__class__", key.upper()])] = inside.pop(key)
    elif how == "many":
        inside[key] = [inside[key]] * draw.choice([2, 100, 5000])
    elif how == "deep":
        for _ in range(draw.choice([3, 70, 400])):
            inside[key] = [inside[key]]
    elif how == "wrap":
        inside[key] = {"a": inside[key]}
    elif how == "near" and isinstance(inside[key], (int, float)) and not isinstance(inside[key], bool):
        inside[key] += draw.choice([1, -1, 0.5, 10, 1e6])
    else:
        other, place = draw.choice(places)
        with contextlib.suppress(LookupError, TypeError):
            inside[key], other[place] = other[place], inside[key]
        return held, f"{how} of {key!s:.30}"
    after = inside.get(key) if isinstance(inside, dict) else before if how == "delete" else inside[key]
    kinds = {_kind(before), _kind(after)}
    return held, f"{how} of {key!s:.30}{_OTHER if len(kinds) == 2 and None not in kinds else ''}"


_OTHER = " to another kind"


def _kind(value: Any) -> str | None:
    """Return the kind of a plain value; None of what stands for nothing."""
    return "number" if type(value) in (int, float) else None if value is None else type(value).__name__


def _places(held: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(held) if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ():
        yield held, key
        yield from _places(held[key])


def _rewritten(held: Any) -> bytes:
    """Return JSON with its digest anew; some values have no digest, and some cannot be written."""
    try:
        return records.to_text(held).encode() if isinstance(held, dict) else json.dumps(held).encode()
    except (TypeError, ValueError, RecursionError):
        return b"{}"


def _json(file: Path, draw: random.Random) -> str:
    text = file.read_bytes()
    held = json.loads(text)
    had = held.pop("digest", None) if isinstance(held, dict) else None
    found, how = _changed(held, draw)
    file.write_bytes(_rewritten(found) if had is not None else json.dumps(found).encode())
    _forget(file)
    return f"JSON: {how}"


def _jsonl(file: Path, draw: random.Random) -> str:
    lines = file.read_bytes().splitlines()
    place = draw.randrange(len(lines))
    held = json.loads(lines[place])
    held.pop("digest", None)
    found, how = _changed(held, draw)
    lines[place] = _rewritten(found).replace(b"\n", b"")
    file.write_bytes(b"\n".join(lines) + b"\n")
    return f"JSON lines: {how}"


def _tensors(file: Path, draw: random.Random) -> str:
    """Write tensors, or what is said of them, in another way, with digests that fit."""
    header = read_header(file)
    data = file.read_bytes()[header.start :]
    entries = {name: dict(one) for name, one in header.tensors.items()}
    described = dict(header.described)
    blocks = {name: data[slice(*one["data_offsets"])] for name, one in entries.items()}
    name = draw.choice(sorted(entries))
    how = draw.choice(["metadata", "metadata", "metadata", "drop", "rename", "type", "shape", "values", "add", "raw"])
    if how == "metadata" and described:
        key = draw.choice(sorted(described))
        try:
            held, what = _changed(json.loads(described[key]), draw)
            described[key] = json.dumps(held)
        except ValueError:
            what, described[key] = "text", str(draw.choice(_VALUES))
        how = f"metadata {key}, {what}"
    elif how == "raw":
        return _raw(file, entries, header.metadata, data, draw)
    elif how == "drop":
        del entries[name]
    elif how == "rename":
        other = draw.choice(["x", "", name + ".", name.upper(), "|", "a|b|c", name.replace("|", "")])
        entries[other], blocks[other] = entries.pop(name), blocks.pop(name)
    elif how == "type":
        same = {"F32": ["I32"], "F64": ["I64"], "F16": ["BF16", "I16"], "I64": ["F64", "C64"]}
        entries[name]["dtype"] = draw.choice(same.get(entries[name]["dtype"], [entries[name]["dtype"]]))
    elif how == "shape":
        shape = list(entries[name]["shape"])
        entries[name]["shape"] = draw.choice([shape[::-1], [*shape, 1], [1, *shape], [_product(shape)]])
    elif how == "values":
        blocks[name] = draw.choice([draw.randbytes(len(blocks[name])), b"\xff" * len(blocks[name])])
    else:
        entries["more"], blocks["more"] = dict(entries[name]), blocks[name]
    out = io.BytesIO()
    tensors = [
        Stored(one, held["dtype"], tuple(held["shape"]), lambda one=one: blocks[one]) for one, held in entries.items()
    ]
    tensor_file.write(out, tensors, described)
    file.write_bytes(out.getvalue())
    _forget(file)
    return f"tensors: {how} of {name!s:.30}"


def _raw(file: Path, entries: dict[str, Any], metadata: Any, data: bytes, draw: random.Random) -> str:
    """Write a header as no writer would."""
    kept = {key: text for key, text in metadata.items() if key != "sortednet.header"}
    held, how = _changed({"__metadata__": kept, **entries}, draw)
    text = json.dumps(held).encode()
    length = draw.choice([len(text)] * 8 + [0, 1 << 40, (1 << 64) - 1, len(text) + 8])
    file.write_bytes(length.to_bytes(8, "little") + text + data)
    _forget(file)
    return f"header: {how}"


def _product(shape: list[int]) -> int:
    found = 1
    for one in shape:
        found *= one
    return found


def _forget(file: Path) -> None:
    """Write the manifest anew, as whoever changes a file on purpose would."""
    path = file.parent / MANIFEST
    if file.name == MANIFEST or not path.is_file():
        return
    manifest = Manifest.read(file.parent)
    if file.name in manifest.files:
        manifest.files[file.name] = Entry.of(file)
        path.write_text(manifest.to_text())


# What comes of it


class _SlowError(BaseException):
    pass


def _ring(*_: Any) -> None:
    raise _SlowError


def attempt(opening: Callable[[Path], Any], folder: Path, size: int) -> tuple[str, bool]:
    """Open a folder; return what went wrong, and whether it was refused."""
    refused, before, began = False, _peak(), time.monotonic()
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            opening(folder)
    except SortedNetError as error:
        refused = True
        if not str(error).strip():
            return "an error without a word", refused
    except _SlowError:
        return f"more than {2 * SECONDS} s", refused
    except BaseException as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = "" if place is None else f" in {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        return f"{type(error).__name__}: {str(error)[:120]!r}{where}", refused
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, more = time.monotonic() - began, _peak() - before
    if seconds > SECONDS:
        return f"{seconds:.1f} s", refused
    return (f"{more >> 20} MB of memory" if more > 2 * size + MEMORY else ""), refused


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def files_of(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a kind in a folder."""
    return sorted(one for one in folder.glob(pattern) if one.is_file())


def one(name: str, number: int, seed: int, made: Path) -> Outcome:
    """Damage one file of a kind, and open it."""
    kind, draw = KINDS[name], random.Random(f"{seed}-{name}-{number}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(made / name, Path(place) / "it"))
        file = draw.choice(files_of(folder, kind.files))
        how = mutated(file, draw)
        size = sum(other.stat().st_size for other in folder.rglob("*") if other.is_file())
        found: list[Any] = []
        failure, refused = attempt(lambda place: found.append(kind.open(place)), folder, size)
        if found and not failure and name in _TYPED and how.endswith(_OTHER):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                right = kind.open(Path(shutil.copytree(made / name, Path(place) / "whole")))
            failure = "" if repr(found[0]) == repr(right) else "accepted, and something else was read"
        return Outcome(name, number, file.name, how, failure, refused)


def make_all(made: Path) -> None:
    """Write a folder of every kind, and open it once."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for name, kind in KINDS.items():
            kind.write(made / name, 1)
            kind.open(Path(shutil.copytree(made / name, made / "opened" / name)))


def _several(given: tuple[list[tuple[str, int]], int, str]) -> list[Outcome]:
    import torch

    torch.set_num_threads(1)
    chosen, seed, made = given
    return [one(name, number, seed, Path(made)) for name, number in chosen]


def run(count: int, seed: int, workers: int) -> list[Outcome]:
    """Damage and open so many files, the kinds in turn.

    Args:
        count: How many.
        seed: Of all that is drawn.
        workers: Processes.
    """
    names = list(KINDS)
    chosen = [(names[place % len(names)], place // len(names)) for place in range(count)]
    with tempfile.TemporaryDirectory() as made:
        make_all(Path(made))
        parts = [(chosen[start : start + 200], seed, made) for start in range(0, count, 200)]
        with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=20) as pool:
            return [outcome for part in pool.imap_unordered(_several, parts) for outcome in part]


def main() -> None:
    """Parse the arguments, run, and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", help="KIND:NUMBER, one mutation again")
    given = parser.parse_args()
    if given.only:
        name, _, number = given.only.rpartition(":")
        with tempfile.TemporaryDirectory() as made:
            make_all(Path(made))
            print(one(name, int(number), given.seed, Path(made)))
        return
    found = run(given.count, given.seed, given.workers)
    failed = [outcome for outcome in found if outcome.failure]
    for outcome in failed:
        print(f"{outcome.kind}:{outcome.number} {outcome.file} ({outcome.how}): {outcome.failure}")
    refused = Counter(outcome.kind for outcome in found if outcome.refused)
    print(f"{len(found):,} files, {sum(refused.values()):,} refused, {len(failed)} failures")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
