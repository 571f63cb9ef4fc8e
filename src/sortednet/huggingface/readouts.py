"""What a classifier reads at the end of the blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..views.hooks import BlockHook, drop, of, put

__all__ = ["READOUTS", "MeanReadout", "Readout", "attach", "attached", "marks", "readout_of"]

_MARK = "readout_"


class Readout(BlockHook):
    """A change of the last block's output before the model's own pooler and head read it.

    It is a forward hook of the last block, so that a sub-model of every depth has it, and an extracted one too.
    """

    name: str

    @abstractmethod
    def read(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Change the hidden states.

        Args:
            hidden: Output of the last block. Shape (B, T, W).
            mask: Which tokens count, boolean; all where None. Shape (B, T).

        Returns:
            What the model's own head reads. Shape (B, T, W).
        """

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Apply it as a forward hook."""
        is_tuple = isinstance(output, (tuple, list))
        hidden = output[0] if is_tuple else output
        given = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        changed = self.read(hidden, _tokens(given, hidden))
        return (changed, *output[1:]) if is_tuple else changed


@final
class MeanReadout(Readout):
    """Let a classifier that reads the first token read the mean over the tokens instead.

    A first token gathers the sentence only over many layers, so that shallow exits that read it stay at chance.

    Example:
        >>> hidden = torch.tensor([[[0.0], [2.0], [9.0]]])
        >>> MeanReadout().read(hidden, torch.tensor([[True, True, False]]))[:, 0]
        tensor([[1.]])
    """

    name = "mean"

    def read(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mean = hidden.mean(1, keepdim=True)  # (B, 1, W)
        else:
            weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
            mean = (hidden * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp_min(1)
        return torch.cat([mean, hidden[:, 1:]], 1)


READOUTS: dict[str, Readout] = {"mean": MeanReadout()}


def readout_of(readout: str | Readout | None) -> Readout | None:
    """Return a readout by its name; None for the model's own.

    Raises:
        ConfigError: If there is none of that name.
    """
    if readout is None or readout == "own" or isinstance(readout, Readout):
        return None if readout == "own" else readout  # type: ignore[return-value]
    if readout not in READOUTS:
        raise ConfigError(f"readout={readout!r} is unknown. Choose one of {[*READOUTS, 'own']}, or give a Readout.")
    return READOUTS[readout]


def attach(model: nn.Module, block: nn.Module, readout: Readout | None) -> None:
    """Let a model read what its last block returns through a readout, in place; None takes a former one off.

    An empty buffer of the model marks it, so that whoever opens its weights without the readout is told of a key too
    many, instead of reading something else unawares.

    Args:
        model: The model.
        block: Its last block.
        readout: The readout.
    """
    drop(block, lambda hook: isinstance(hook, Readout))
    for name in marks(model):
        delattr(model, name)
    if readout is not None:
        put(block, readout)
        model.register_buffer(f"{_MARK}{readout.name}", torch.empty(0))


def marks(model: nn.Module) -> list[str]:
    """Return the names of the buffers that tell of a readout."""
    return [name for name, _ in model.named_buffers(recurse=False) if name.startswith(_MARK)]


def attached(block: nn.Module) -> Readout | None:
    """Return the readout of a last block; None where it has none."""
    return next(iter(of(block, Readout)), None)


def _tokens(mask: Any, hidden: Tensor) -> Tensor | None:
    """Return which tokens count, from the mask that a block gets. Shape (B, T)."""
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.dim() == 4:  # (B or 1, 1, T, T): boolean, or added to the scores
        allowed = (mask >= 0 if mask.is_floating_point() else mask.bool())[:, 0].any(1)
    elif isinstance(mask, Tensor) and mask.dim() == 2:
        allowed = mask.bool()
    else:
        allowed = None
    if allowed is None or allowed.shape[-1] != hidden.shape[1] or allowed.shape[0] not in (1, hidden.shape[0]):
        given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ConfigError(
            f"The mask that the last block gets ({given}) does not tell which of the {hidden.shape[1]} tokens count. "
            "Give readout='own', or a Readout of your own that reads it."
        )
    return allowed.expand(hidden.shape[0], -1)
