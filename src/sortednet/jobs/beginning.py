"""Write a commented first configuration."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import ConfigError
from ..files.writing import write_bytes
from ..imports.packages import needs

with needs("A command", "cli"):
    from rich.console import Console

__all__ = ["FIRST", "begin", "first_text"]

FIRST = ("images", "text", "adapters", "formulas")
"""What there is a first configuration for."""


def first_text(kind: str) -> str:
    """Return a commented first configuration as text.

    Args:
        kind: One of `FIRST`.
    """
    return (files("sortednet.jobs") / "first" / f"{kind}.yaml").read_text(encoding="utf-8")


def begin(kind: str, output: str | None, console: Console) -> Path:
    """Write a commented first configuration, and say how it is used.

    Args:
        kind: One of `FIRST`.
        output: The file; `KIND.yaml` where left out. A file that is there is never written over.
        console: Where it is told.

    Returns:
        The file.

    Raises:
        ConfigError: If the file is there already.
    """
    path = Path(output or f"{kind}.yaml")
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} is there already and is not written over. Give another file: --output FILE.yaml.")
    name = f'"{path}"' if " " in str(path) else str(path)
    write_bytes(path, first_text(kind).replace("THIS_FILE", name).encode())
    command = "symbolic train" if kind == "formulas" else "train"
    console.print(f"Wrote {path}. Read it, change what is yours, then: sortednet {command} {name}")
    return path
