"""A folder's files saved together: all of them take their places, or none does.

The new files are written into a folder of their own beside the old ones. When all are on the disk, the manifest is
replaced by one that names them: from then on the save counts, and whoever opens the folder next ends what a killed
process has begun. Until then the old files are untouched.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError
from .locks import locked
from .manifest import MANIFEST, Entry, Manifest
from .writing import not_written, synced, write_bytes

__all__ = ["Saving", "adopt", "check_place", "remove_own", "saving", "set_aside", "settle"]

_NEW = ".sortednet-new"


@dataclass(frozen=True)
class Saving:
    """A save that is under way.

    Attributes:
        folder: Where the files will be.
        beside: Where they are written first.
    """

    folder: Path
    beside: Path

    def write(self, name: str, data: bytes) -> None:
        """Write one of the files."""
        (self.beside / name).write_bytes(data)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """Open one of the files for writing, and reading again."""
        with open(self.beside / name, "w+b") as file:
            yield file


@contextmanager
def saving(folder: str | Path, kind: str, *, adds: bool = False, recognised: Iterable[str] = ()) -> Iterator[Saving]:
    """Save some files of a folder: all or none.

    Args:
        folder: The folder; made if it is not there.
        kind: What it holds. A folder of another kind is refused.
        adds: Whether files of an earlier save that are not written again stay.
        recognised: Files that are known to be ours without standing in the manifest: of earlier versions.

    Yields:
        What writes the files.

    Raises:
        CheckpointError: If a file that this library did not write is in the way, another process writes there, or the
            disk is full. What was there before is unchanged.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from error
    with locked(folder):
        settle(folder)
        manifest = _manifest(folder, kind, recognised if adds else ())
        beside = folder / _NEW
        try:
            _discard(beside)
            beside.mkdir()
            yield Saving(folder, beside)
            for new in beside.iterdir():
                if new.name not in manifest.files and _is_same(new, folder / new.name):
                    new.unlink()  # somebody else's, and stays theirs
            names = sorted(one.name for one in beside.iterdir())
            manifest.check_free(names, recognised)
            for name in names:
                synced(beside / name)
            synced(beside)
            manifest.kind = kind
            manifest.pending = {name: Entry.of(beside / name) for name in names}
            stale = () if adds else {*manifest.files, *recognised} - {*names}
            manifest.dropped = tuple(sorted(name for name in stale if _is_own(manifest, name)))
            write_bytes(folder / MANIFEST, manifest.to_text().encode())
        except BaseException as error:
            with suppress(OSError, CheckpointError):
                if not Manifest.read(folder).pending:
                    _discard(beside)
            if isinstance(error, OSError):
                raise not_written(folder, error) from error
            raise
        settle(folder)


def check_place(folder: str | Path, kind: str, names: Iterable[str], recognised: Iterable[str] = ()) -> None:
    """Refuse a place that a later save would refuse; nothing is written.

    Args:
        folder: The folder, which need not be there.
        kind: What it will hold.
        names: Of the files that will be written.
        recognised: As for `saving`.

    Raises:
        CheckpointError: If something is in the way.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file, where a folder is to be. Give another folder.")
    if folder.is_dir():
        settle(folder)
        _manifest(folder, kind).check_free(names, recognised)


def settle(folder: str | Path) -> None:
    """End what a save has begun that was killed while its files took their places.

    Raises:
        CheckpointError: If the folder cannot be written, or the files of the save are gone.
    """
    folder = Path(folder)
    if not Manifest.read(folder).pending:
        return
    with locked(folder):
        manifest = Manifest.read(folder)  # another process may have done it meanwhile
        if not manifest.pending:
            return
        beside = folder / _NEW
        _refuse_link(beside)
        try:
            for name, entry in manifest.pending.items():
                new, there = beside / name, folder / name
                if new.is_file() and not new.is_symlink():
                    os.replace(new, there)
                elif not there.is_file() or not entry.fits(there):
                    raise CheckpointError(
                        f"{there} is neither as it was nor as it should be after a save that was cut short. Restore "
                        "the folder from a copy, or take an earlier checkpoint."
                    )
            for name in manifest.dropped:
                (folder / name).unlink(missing_ok=True)
            synced(folder)
            kept = {name: entry for name, entry in manifest.files.items() if name not in manifest.dropped}
            manifest.files, manifest.pending, manifest.dropped = {**kept, **manifest.pending}, {}, ()
            write_bytes(folder / MANIFEST, manifest.to_text().encode())
            _discard(beside)
        except OSError as error:
            raise CheckpointError(
                f"A save to {folder} was cut short while its files took their places ({error.strerror}). Open it once "
                "where it can be written."
            ) from error


def adopt(folder: str | Path, kind: str, names: Iterable[str], grows: Iterable[str] = ()) -> None:
    """Note files that another library has written here for us as they are now.

    Args:
        folder: The folder.
        kind: What it holds.
        names: Of the files.
        grows: Those among them that are appended to.
    """
    folder, growing = Path(folder), set(grows)
    with locked(folder):
        settle(folder)
        manifest = _manifest(folder, kind)
        manifest.kind = kind
        for name in (*names, *growing):
            manifest.files[name] = Entry.of(folder / name, grows=name in growing)
        write_bytes(folder / MANIFEST, manifest.to_text().encode())


def remove_own(
    folder: str | Path, kind: str, names: Iterable[str] | None = None, recognised: Iterable[str] = ()
) -> None:
    """Remove files that this library wrote, and the folder if nothing else is in it.

    Args:
        folder: The folder.
        kind: What it holds.
        names: Those to remove; all where left out.
        recognised: Those that are known to be ours without standing in the manifest: of earlier versions.

    Raises:
        CheckpointError: If one has been changed since, or the folder is of another kind; nothing is removed then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    with locked(folder):
        settle(folder)
        manifest = _manifest(folder, kind, recognised)
        stale = sorted(manifest.files if names is None else manifest.files.keys() & {*names})
        manifest.check_free(stale)
        manifest.kind = kind
        _discard(folder / _NEW)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
            manifest.files.pop(name, None)
        if manifest.files:
            write_bytes(folder / MANIFEST, manifest.to_text().encode())
        else:
            (folder / MANIFEST).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()  # only where nothing is left in it


def set_aside(path: Path) -> Path:
    """Give a damaged file of ours another name, so that it is in nobody's way, and return the name."""
    aside = path.with_name(f"{path.name}.damaged")
    with locked(path.parent):
        manifest = Manifest.read(path.parent)
        manifest.files.pop(path.name, None)
        if aside.is_symlink() or aside.is_dir():
            raise CheckpointError(f"{aside} is in the way of {path}, which is damaged. Remove it.")
        os.replace(path, aside)
        write_bytes(path.parent / MANIFEST, manifest.to_text().encode())
    return aside


def _manifest(folder: Path, kind: str, recognised: Iterable[str] = ()) -> Manifest:
    """Read a manifest of this kind, and take up what is known to be ours."""
    manifest = Manifest.read(folder)
    if manifest.kind and manifest.kind != kind:
        raise CheckpointError(
            f"{folder} holds files of the kind '{manifest.kind}', and '{kind}' would be put among them. "
            "Give another folder."
        )
    for name in recognised:
        if name not in manifest.files and (folder / name).is_file():
            manifest.files[name] = Entry.of(folder / name)
    return manifest


def _is_same(new: Path, there: Path) -> bool:
    return there.is_file() and not there.is_symlink() and filecmp.cmp(new, there, shallow=False)


def _is_own(manifest: Manifest, name: str) -> bool:
    """Return whether a file may be removed: it is as it was written."""
    file, entry = manifest.folder / name, manifest.files.get(name)
    return file.is_file() and not file.is_symlink() and (entry is None or entry.fits(file))


def _discard(beside: Path) -> None:
    """Remove what a save that was killed has left before it counted."""
    _refuse_link(beside)
    if beside.is_dir():
        shutil.rmtree(beside)  # it is a folder of our own, and links in it are removed, not followed


def _refuse_link(beside: Path) -> None:
    if beside.is_symlink():
        raise CheckpointError(f"{beside} is a link, and links are not followed. Remove it.")
