"""Forward hooks of blocks that sub-models take over: what a hook by hand on the full model would not be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from ..imports.privates.torch import drop_hook, forward_hooks

__all__ = ["BlockHook", "drop", "follow", "of", "put", "take"]


class BlockHook(ABC):
    """A forward hook of a block that belongs to the block wherever it stands.

    Attributes:
        follows: Whether a sub-model's block has, at each binding, those that the full model's block of the same name
            has then. The others are there because the builder puts them there, and whoever stands in for the block
            takes them over.
    """

    follows: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return what takes the place of the block's output."""


def of(block: nn.Module, kind: type[Any] = BlockHook) -> list[Any]:
    """Return the hooks of a kind that a block has."""
    return [hook for hook in forward_hooks(block).values() if isinstance(hook, kind)]


def put(block: nn.Module, hook: BlockHook, first: bool = False) -> None:
    """Give a block a hook, behind those that it has, or before them."""
    block.register_forward_hook(hook, prepend=first, with_kwargs=True)


def drop(block: nn.Module, wanted: Callable[[BlockHook], bool]) -> list[BlockHook]:
    """Take hooks off a block, and return them."""
    taken: list[BlockHook] = []
    for key, hook in list(forward_hooks(block).items()):
        if isinstance(hook, BlockHook) and wanted(hook):
            taken.append(hook)
            drop_hook(block, key)
    return taken


def take(block: nn.Module) -> list[BlockHook]:
    """Take off a block, or off what it stands in for, the hooks that its builder has put there, and return them."""
    return [hook for module in block.modules() for hook in drop(module, lambda hook: not hook.follows)]


def follow(block: nn.Module, source: nn.Module) -> None:
    """Let a block have the hooks that follow the full model as the full model's block has them now."""
    if not (forward_hooks(block) or forward_hooks(source)):
        return
    wanted = [hook for hook in of(source) if hook.follows]
    if [hook for hook in of(block) if hook.follows] != wanted:
        drop(block, lambda hook: hook.follows)
        for hook in reversed(wanted):  # before all others, which read what the block was given where it is passed by
            put(block, hook, first=True)
