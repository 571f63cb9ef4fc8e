"""Where a condition holds: in one thread, in one call; and in what the backward pass runs again of that call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import DataError
from ..imports.privates.torch import (
    backward_pass,
    checkpointed_inputs,
    forward_pre_hooks,
    storage_key,
    tree_leaves,
    version_of,
)

__all__ = ["Begin", "Scope", "Scopes"]


@dataclass(eq=False)
class Scope:
    """Where a condition holds.

    Attributes:
        rows: The condition. Shape (B or 1, size).
        given: The tensor that was given.
        version: How often that had been changed in place by then.
        task: The backward pass inside of which it was given; -1 outside of any.
        used: Whether a control has read it.
    """

    rows: Tensor
    given: Tensor
    version: int
    task: int
    used: bool = False

    def is_of(self, other: Scope) -> bool:
        """Whether both hold the same condition."""
        return self.given is other.given and self.version == other.version


class _Stack(threading.local):
    def __init__(self) -> None:
        self.scopes: list[Scope] = []


@dataclass(frozen=True)
class _Remembered:
    """An input, by a weak reference to its memory, and its condition; None where there were several."""

    reference: StorageWeakRef
    scope: Scope | None

    @property
    def is_held(self) -> bool:
        return not self.reference.expired()  # type: ignore[no-untyped-call]


class Scopes:
    """The conditions of a network: those that hold now, by thread, and those that a recomputation will ask for.

    Activation checkpointing runs parts of a network again in the backward pass, maybe in another thread, and by then
    another condition may hold. What it has kept, and passes on again, is the input of the part. So the condition is
    remembered by the memory of that input, for as long as that memory is held: no other gets its address before.
    """

    def __init__(self) -> None:
        self._stack = _Stack()
        self._lock = threading.Lock()
        self._remembered: dict[tuple[Any, ...], _Remembered] = {}
        self._left = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Scopes:
        return Scopes()

    def __reduce__(self) -> tuple[Any, ...]:
        return Scopes, ()

    def push(self, scope: Scope) -> None:
        """Let a condition hold from now on in this thread."""
        self._stack.scopes.append(scope)

    def pop(self, scope: Scope) -> None:
        """Let it hold no longer."""
        self._stack.scopes.remove(scope)
        with self._lock:
            self._prune()

    def now(self) -> Scope:
        """Return the scope that holds.

        Raises:
            DataError: If there is none.
        """
        scope = self._find()
        if scope is None and backward_pass() != -1:
            raise DataError(
                "A layer runs again in the backward pass, and the condition of its forward is not known. Let "
                "torch.utils.checkpoint begin at a module that is or contains a layer with a control, and give an "
                "input to one condition only (x.clone() is another input)."
            )
        if scope is None:
            raise DataError(
                "The network runs without a condition. Call the Conditioned with condition=..., or call the network "
                "inside of `with conditioned.given(...):`."
            )
        return scope

    def _find(self) -> Scope | None:
        scopes, task = self._stack.scopes, backward_pass()
        # One that was given before a backward pass says nothing of what that pass runs again.
        if scopes and scopes[-1].task == task:
            return scopes[-1]
        return None if task == -1 else self._recalled()

    def watch(self, part: nn.Module) -> None:
        """Remember the condition of whatever a part of the network gets from now on."""
        if not any(isinstance(hook, Begin) and hook.scopes is self for hook in forward_pre_hooks(part).values()):
            part.register_forward_pre_hook(Begin(self), with_kwargs=True, prepend=True)

    def remember(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Remember the condition of the inputs of a part that begins."""
        if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
            return
        scope = self._find()
        if scope is None:
            return
        with self._lock:
            for key, storage in _memory((args, dict(kwargs))):
                found = self._remembered.get(key)
                if found is None or not found.is_held:
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self._remembered[key] = _Remembered(reference, scope)
                elif found.scope is None or not found.scope.is_of(scope):
                    self._remembered[key] = _Remembered(found.reference, None)
                break  # the hidden states come first
            if len(self._remembered) > 2 * self._left + 64:
                self._prune()

    def _prune(self) -> None:
        self._remembered = {one: held for one, held in self._remembered.items() if held.is_held}
        self._left = len(self._remembered)

    def _recalled(self) -> Scope | None:
        """Return the condition of what runs again."""
        for inputs in checkpointed_inputs():
            with self._lock:
                found = [self._remembered.get(key) for key, _ in _memory(inputs)]
            held = [one.scope for one in found if one is not None and one.is_held]
            if not held:
                continue
            scope = held[0]
            if scope is None or any(one is None or not one.is_of(scope) for one in held):
                return None
            if version_of(scope.given) != scope.version:
                raise DataError(
                    "The condition has been changed in place since the forward that runs again in this backward pass. "
                    "Give a copy of it, condition.clone()."
                )
            return scope
        return None


def _memory(inputs: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield where each tensor lies, and its storage."""
    for one in tree_leaves(inputs):
        if isinstance(one, Tensor):
            try:
                storage = one.untyped_storage()
            except (NotImplementedError, RuntimeError):  # torch.func's tensors have none
                continue
            yield (storage_key(storage), one.storage_offset(), tuple(one.shape)), storage


@dataclass(eq=False)
class Begin:
    """A forward pre-hook: a part of the network begins."""

    scopes: Scopes

    def __call__(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember."""
        self.scopes.remember(args, kwargs)
