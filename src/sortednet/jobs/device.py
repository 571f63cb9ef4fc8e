"""Where a job runs: on the accelerator, if there is one that works."""

import torch

__all__ = ["usable_device"]


def usable_device() -> torch.device:
    """Return the accelerator of this machine, or the CPU.

    `torch.accelerator.current_accelerator` alone says what torch was built for: a CUDA build answers `cuda` on a
    machine without a GPU.

    Example:
        >>> torch.zeros(2, device=usable_device()).sum().item()
        0.0
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")
