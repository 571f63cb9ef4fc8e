"""Where, with what and on how much something was measured."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch

from .._version import __version__

__all__ = ["processor", "versions"]


def processor(device: torch.device) -> str:
    """Return the name of the processor that a device is.

    Args:
        device: Of the model.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _central() if device.type == "cpu" else f"{device.type} of {_central()}"


def versions() -> str:
    """Return the versions that what is measured depends on."""
    return f"sortednet {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


@cache
def _central() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
