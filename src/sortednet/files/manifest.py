"""What this library has written in a folder, so that nothing else is ever overwritten or removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from . import records

__all__ = ["MANIFEST", "Entry", "Manifest", "check_unchanged"]

MANIFEST = ".sortednet-files.json"
_GROWS = -1


@dataclass(frozen=True)
class Entry:
    """A file as it was written.

    Attributes:
        size: Its bytes; -1 for one that grows.
        digest: Of its bytes; empty where the file has one of its own, or grows.
    """

    size: int
    digest: str = ""

    @classmethod
    def of(cls, file: Path, grows: bool = False) -> Entry:
        """Describe a file as it is."""
        if grows:
            return cls(_GROWS)
        size = file.stat().st_size
        if file.suffix == ".safetensors":
            return cls(size)
        with open(file, "rb") as opened:
            return cls(size, hashlib.file_digest(opened, "sha256").hexdigest()[:32])

    def fits(self, file: Path) -> bool:
        """Return whether a file is still as it was written, as far as can be told without reading much."""
        return self.size == _GROWS or (file.stat().st_size == self.size and self == Entry.of(file))


@dataclass
class Manifest:
    """The files of one folder that this library has written.

    Attributes:
        folder: The folder.
        kind: What it holds: `network`, `extracted model`, `run`, `checkpoints`; empty where nothing was written yet.
        files: Those that are there, by name.
        pending: Those of a save that is complete beside them, and about to take their places.
        dropped: Those that this save leaves no place for.
    """

    folder: Path
    kind: str = ""
    files: dict[str, Entry] = field(default_factory=dict)
    pending: dict[str, Entry] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it; an empty one where there is none.

        Raises:
            CheckpointError: If it is damaged.
        """
        path = folder / MANIFEST
        try:
            held = records.read(path)
            return cls(
                folder, records.text(held["kind"]), _entries(held["files"]), _entries(held["pending"]),
                tuple(_name(one) for one in records.items(held["dropped"])),
            )  # fmt: skip
        except (FileNotFoundError, NotADirectoryError):
            return cls(folder)
        except (OSError, *records.MALFORMED) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}). It says which files this library may replace: restore it, or save to "
                "another folder."
            ) from None

    def to_text(self) -> str:
        """Return its JSON text."""
        return records.to_text(
            {
                "format": 1, "kind": self.kind, "files": _plain(self.files), "pending": _plain(self.pending),
                "dropped": list(self.dropped),
            }
        )  # fmt: skip

    def check_free(self, names: Iterable[str], recognised: Iterable[str] = ()) -> None:
        """Refuse to take the place of what this library did not write.

        Args:
            names: Of the files that are to be written.
            recognised: Those that are known to be ours without standing in the manifest: of earlier versions.

        Raises:
            CheckpointError: If there is one, or a link or a folder in its place.
        """
        for name in names:
            file = self.folder / name
            if file.is_symlink():
                raise CheckpointError(
                    f"{file} is a link, and links are not followed. Remove it, or give another folder."
                )
            if not file.exists():
                continue
            if file.is_dir():
                raise CheckpointError(f"{file} is a folder, where a file is to be written. Give another folder.")
            entry = self.files.get(name)
            if entry is None and name not in recognised:
                raise CheckpointError(
                    f"{file} was not written by this library, and would be overwritten. Move it away, or give another "
                    "folder."
                )
            if entry is not None and not entry.fits(file):
                raise CheckpointError(
                    f"{file} has been changed since this library wrote it, and would be overwritten. Move it away, or "
                    "give another folder."
                )


def check_unchanged(folder: str | Path, names: Iterable[str], complete: bool = False) -> None:
    """Refuse files that are not as this library wrote them.

    Args:
        folder: The folder.
        names: Of the files; those of which nothing is known are passed over.
        complete: Whether those that are not there are refused too; passed over where not.

    Raises:
        CheckpointError: If one is another.
    """
    manifest = Manifest.read(Path(folder))
    for name in names:
        entry, file = manifest.files.get(name), Path(folder) / name
        if complete and entry is not None and not file.is_file():
            raise CheckpointError(f"{file} is missing, or no file. Restore it, or take an earlier checkpoint.")
        if entry is not None and file.is_file() and not entry.fits(file):
            raise CheckpointError(
                f"{file} is damaged: it is not as it was written. Restore it, or save again. If you have changed it "
                "yourself, load with verify=False."
            )


def _entries(held: Mapping[str, Any]) -> dict[str, Entry]:
    return {
        _name(name): Entry(records.whole(size, _GROWS), records.text(digest)) for name, (size, digest) in held.items()
    }


def _plain(entries: Mapping[str, Entry]) -> dict[str, Any]:
    return {name: [entry.size, entry.digest] for name, entry in sorted(entries.items())}


def _name(name: Any) -> str:
    """A manifest may come from a stranger, and names files that are removed."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in this folder")
    return name
