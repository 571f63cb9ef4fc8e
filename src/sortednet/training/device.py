"""Where a network is trained, in which precision, and in which order its images lie in memory."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import nn

from ..errors import ConfigError
from ..imports.names import Precision

__all__ = ["has_bfloat16", "lies_channels_last", "mixed_precision", "usable_device"]

_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")


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


def has_bfloat16(device: torch.device) -> bool:
    """Whether a processor computes in bfloat16 itself; others emulate it, slower than float32.

    Args:
        device: Where a network is to be trained.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told = getattr(torch.cpu, "get_capabilities", None) if device.type == "cpu" else None  # since torch 2.11
    return told is not None and any(told().get(name, False) for name in _INSTRUCTIONS)


def mixed_precision(precision: Precision, device: torch.device) -> Literal["no", "bf16"]:
    """Return in what a network is trained, as Accelerate calls it; a warning says where that is not what it seems.

    Args:
        precision: What is asked for.
        device: Where.

    Returns:
        `bf16`, by autocast, or `no` for float32.
    """
    native = has_bfloat16(device)
    if precision == "bf16" and not native:
        warnings.warn(
            f"precision: bf16 is emulated on this {device.type}, slower than float32. Take precision: auto or float32.",
            stacklevel=3,
        )
    if precision == "auto" and not native:
        warnings.warn(
            f"precision: auto is float32 here, since this {device.type} has no instructions for bfloat16.", stacklevel=3
        )
    return "bf16" if precision == "bf16" or (precision == "auto" and native) else "no"


def lies_channels_last(wanted: bool, precision: Precision, mixed: str, model: nn.Module) -> bool:
    """Whether the weights of convolutions, and so images, are to lie in memory with the channels last.

    Args:
        wanted: Whether it is asked for.
        precision: What is asked for; `auto` takes this order with bfloat16, in which it is the faster one.
        mixed: What `mixed_precision` returned.
        model: The model.

    Raises:
        ConfigError: If it is asked for, and the model has convolutions of another kind.
    """
    solid = [name for name, one in model.named_parameters() if one.dim() == 5]
    if wanted and solid:
        raise ConfigError(
            f"training.channels_last is for convolutions of images, and {solid[0]} has 5 axes. Leave it out."
        )
    flat = any(isinstance(one, (nn.Conv2d, nn.ConvTranspose2d)) for one in model.modules())
    return wanted or (precision == "auto" and mixed == "bf16" and flat and not solid)
