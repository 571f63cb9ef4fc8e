"""Folders that are saved: all or none of the files, nothing of anybody else's, one writer at a time."""

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from sortednet.errors import CheckpointError
from sortednet.files.locks import locked
from sortednet.files.manifest import MANIFEST, Manifest, check_unchanged
from sortednet.files.saving import adopt, check_place, remove_own, saving, set_aside, settle


class _NoText(str):
    def encode(self, *_: object) -> None:
        return None


def save(folder: Path, kind: str = "network", adds: bool = False, **files: str) -> None:
    with saving(folder, kind, adds=adds) as under_way:
        for name, text in files.items():
            under_way.write(name, text.encode())


def held(folder: Path) -> dict[str, str]:
    return {one.name: one.read_text() for one in folder.iterdir() if one.name != MANIFEST}


def test_a_save_replaces_the_one_before_and_what_it_does_not_write_again(tmp_path: Path) -> None:
    save(tmp_path / "new" / "folder", a="1", b="1")
    save(tmp_path / "new" / "folder", a="2", c="2")
    assert held(tmp_path / "new" / "folder") == {"a": "2", "c": "2"}


def test_a_save_that_adds_leaves_the_others(tmp_path: Path) -> None:
    save(tmp_path, a="1", b="1")
    save(tmp_path, a="2", c="2", adds=True)
    assert held(tmp_path) == {"a": "2", "b": "1", "c": "2"}


@pytest.mark.parametrize("adds", [False, True])
def test_files_of_others_are_neither_overwritten_nor_removed(tmp_path: Path, adds: bool) -> None:
    (tmp_path / "theirs").write_text("x")
    (tmp_path / "a").write_text("x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "deep").write_text("x")
    with pytest.raises(CheckpointError, match=r"a was not written by this library, and would be overwritten\. Move it"):
        save(tmp_path, a="1", b="1", adds=adds)
    save(tmp_path, b="1", adds=adds)
    remove_own(tmp_path, "network")
    assert not (tmp_path / "b").exists()
    assert (tmp_path / "a").read_text() == (tmp_path / "theirs").read_text() == "x"
    assert (tmp_path / "inner" / "deep").read_text() == "x"


def test_a_file_that_was_changed_is_somebody_elses(tmp_path: Path) -> None:
    save(tmp_path, a="1", b="1")
    (tmp_path / "a").write_text("mine")
    with pytest.raises(CheckpointError, match=r"a has been changed since this library wrote it"):
        save(tmp_path, a="2")
    with pytest.raises(CheckpointError, match="a has been changed"):
        remove_own(tmp_path, "network")
    save(tmp_path, b="2")  # which does not write it, and lets it stay
    assert held(tmp_path) == {"a": "mine", "b": "2"}


def test_the_same_file_of_somebody_else_is_no_hindrance_and_stays_theirs(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    save(tmp_path, a="same", b="1")
    remove_own(tmp_path, "network")
    assert held(tmp_path) == {"a": "same"}


@pytest.mark.parametrize("there", [True, False])
def test_links_are_not_followed(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "elsewhere"
    if there:
        target.write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to(target)
    with pytest.raises(CheckpointError, match=r"a is a link, and links are not followed"):
        save(tmp_path / "folder", a="1")
    assert target.exists() == there
    assert not there or target.read_text() == "x"


def test_a_folder_in_the_way_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match=r"a is a folder, where a file is to be written"):
        save(tmp_path, a="1")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path, kind="network", a="1")
    with pytest.raises(CheckpointError, match=r"holds files of the kind 'network', and 'extracted model' would be put"):
        save(tmp_path, kind="extracted model", a="2")
    with pytest.raises(CheckpointError, match="of the kind 'network'"):
        check_place(tmp_path, "extracted model", ["b"])
    assert held(tmp_path) == {"a": "1"}


def test_an_error_leaves_what_was_there_and_no_rubbish(tmp_path: Path) -> None:
    save(tmp_path, a="1")
    with pytest.raises(TypeError, match="bytes"):
        save(tmp_path, a="2", b=_NoText())
    assert held(tmp_path) == {"a": "1"}


def test_what_a_killed_save_left_beside_is_removed_by_the_next(tmp_path: Path) -> None:
    save(tmp_path, a="1")
    (tmp_path / ".sortednet-new").mkdir()
    (tmp_path / ".sortednet-new" / "a").write_text("half")
    save(tmp_path, a="2")
    assert held(tmp_path) == {"a": "2"}


@pytest.mark.parametrize("moved", [(), ("a",), ("a", "b")])
def test_a_save_that_counts_is_ended_by_whoever_opens_the_folder(tmp_path: Path, moved: tuple[str, ...]) -> None:
    save(tmp_path, a="1", old="1")
    (tmp_path / "foreign").write_text("x")
    _commit_only(tmp_path, a="2", b="2")
    for name in moved:
        (tmp_path / ".sortednet-new" / name).rename(tmp_path / name)
    settle(tmp_path)
    assert held(tmp_path) == {"a": "2", "b": "2", "foreign": "x"}
    settle(tmp_path)
    save(tmp_path, a="3")
    assert held(tmp_path) == {"a": "3", "foreign": "x"}


@pytest.mark.parametrize("inside", [False, True])
def test_a_strangers_manifest_moves_nothing_from_elsewhere(tmp_path: Path, inside: bool) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    folder = tmp_path / "strange"
    folder.mkdir()
    save(folder, a="1")
    _commit_only(folder, a="2")
    (folder / ".sortednet-new" / "a").unlink()
    if inside:
        (folder / ".sortednet-new" / "a").symlink_to(tmp_path / "mine" / "a")
    else:
        (folder / ".sortednet-new").rmdir()
        (folder / ".sortednet-new").symlink_to(tmp_path / "mine")
    with pytest.raises(CheckpointError):
        settle(folder)
    assert (tmp_path / "mine" / "a").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_the_place_of_a_manifest_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(CheckpointError, match="is damaged"):
        settle(tmp_path)


def test_a_save_that_counts_and_is_gone_is_said(tmp_path: Path) -> None:
    save(tmp_path, a="1")
    _commit_only(tmp_path, a="2")
    (tmp_path / ".sortednet-new" / "a").unlink()
    with pytest.raises(CheckpointError, match=r"a is neither as it was nor as it should be after a save that was cut"):
        settle(tmp_path)


def _commit_only(folder: Path, **files: str) -> None:
    """Leave what a process leaves that is killed as soon as its save counts."""
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(folder, files))
    process.start()
    process.join()
    assert process.exitcode == 9


def _killed(folder: Path, files: dict[str, str]) -> None:
    replace = os.replace

    def once(source, target) -> None:
        replace(source, target)
        os._exit(9)

    os.replace = once
    save(folder, **files)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "null", "{}", '{"kind": "network", "files": {"../a": [1, ""]}, "pending": {}, "dropped": []}',
     '{"kind": "network", "files": {}, "pending": {}, "dropped": ["/etc/passwd"]}',
     '{"kind": "network", "files": {"a/b": [1, ""]}, "pending": {}, "dropped": []}',
     '{"kind": "network", "files": {"..": [1, ""]}, "pending": {}, "dropped": []}'],
)  # fmt: skip
def test_a_manifest_that_is_damaged_or_names_what_lies_elsewhere_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_text("x")
    (tmp_path / "folder" / MANIFEST).write_text(text)
    for act in (settle, lambda folder: remove_own(folder, "network"), lambda folder: save(folder, a="1")):
        with pytest.raises(CheckpointError, match=r"is damaged .* which files this library may replace"):
            act(tmp_path / "folder")
    assert (tmp_path / "a").read_text() == "x"


def test_a_flipped_bit_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, a="1")
    data = (tmp_path / MANIFEST).read_bytes()
    before = Manifest.read(tmp_path)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / MANIFEST).write_bytes(changed)
        try:
            assert Manifest.read(tmp_path) == before
        except CheckpointError:
            continue


def test_files_are_compared_with_what_was_written(tmp_path: Path) -> None:
    save(tmp_path, a="1", b="1")
    check_unchanged(tmp_path, ["a", "b", "c"])
    (tmp_path / "b").write_text("2")
    with pytest.raises(CheckpointError, match=r"b is damaged: it is not as it was written\. .* verify=False"):
        check_unchanged(tmp_path, ["a", "b"])


def test_files_of_others_can_be_adopted_and_files_may_grow(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "log").write_text("1")
    adopt(tmp_path, "network", ["a"], grows=["log"])
    (tmp_path / "log").write_text("12")
    remove_own(tmp_path, "network")
    assert not tmp_path.exists()


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    save(tmp_path, a="1")
    (tmp_path / "a").write_text("damaged")
    assert set_aside(tmp_path / "a").read_text() == "damaged"
    save(tmp_path, a="2")
    assert held(tmp_path) == {"a": "2", "a.damaged": "damaged"}


# Writers


def test_a_second_writer_waits(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        save(tmp_path, a="2")
        order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_writer_that_keeps_a_folder_is_named(tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(CheckpointError, match=r"Another process writes in .*\. Wait for it, or give another"):
            locked(tmp_path, patience_s=0.05).__enter__()
        refused.append(True)

    refused: list[bool] = []
    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused == [True]


def test_saves_of_many_processes_are_each_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_saves, args=(tmp_path, str(number))) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = held(tmp_path)
    assert found.keys() == {"a", "b"}
    assert found["a"] == found["b"]


def _saves(folder: Path, text: str) -> None:
    for _ in range(10):
        save(folder, a=text, b=text)


def test_the_lock_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert not list(tmp_path.iterdir())
    assert json.dumps(sorted(os.listdir(tmp_path))) == "[]"
