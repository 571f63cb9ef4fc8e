"""What a module runs: its class's forward, or another that was put on the module itself."""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from ..errors import BuildError

__all__ = ["GIVEN_BLOCK", "follow_forward", "own_forward", "runs", "take_forward"]

GIVEN_BLOCK = "_runs_given_block"
"""The mark of a block whose forward takes another block to run, as sharded ones do; it is no change of a person's."""


def runs(module: nn.Module) -> bool:
    """Whether a module can be called; lists and dictionaries of modules cannot, what lies in them is."""
    return type(module).forward is not nn.Module.forward or "forward" in module.__dict__


def own_forward(module: nn.Module) -> Any:
    """Return the forward that was put on a module itself; None where it runs its class's."""
    held = module.__dict__
    return None if GIVEN_BLOCK in held else held.get("forward")


def follow_forward(target: nn.Module, source: nn.Module) -> str | None:
    """Let a sub-model's module run what the full model's module runs.

    What the builder puts there, each of its models has for itself. A method that a person has put on the full model
    since is taken over, where it reaches the model through `self` alone.

    Args:
        target: The sub-model's module.
        source: The full model's module of the same path.

    Returns:
        What stands against it; None where both run the same now.
    """
    ours, theirs = own_forward(target), own_forward(source)
    if ours is theirs or (ours is not None and theirs is not None and _code(ours) == _code(theirs)):
        return None
    if theirs is None:
        return "the builder gives it a forward of its own, which the full model does not have"
    if isinstance(theirs, MethodType) and theirs.__self__ is source and _is_free(theirs.__func__, set()):
        target.__dict__["forward"] = MethodType(theirs.__func__, target)
        return None
    return "the full model was given a forward of its own, which reaches it by more than self"


def take_forward(target: nn.Module, source: nn.Module, path: str) -> None:
    """Let a sub-model's module run what the full model's module of the path runs; see `follow_forward`.

    Raises:
        BuildError: If it cannot.
    """
    problem = follow_forward(target, source)
    if problem is not None:
        raise BuildError(
            f"The forward of {path or 'the model'}: {problem}. Let the builder put it there, so that each sub-model "
            "has its own, or give the full model a method that reaches it by self alone (types.MethodType)."
        )


def _code(forward: Any) -> Any:
    """Return what tells one function from another: its code, whatever it is bound to."""
    while isinstance(forward, (MethodType, functools.partial)):
        forward = forward.__func__ if isinstance(forward, MethodType) else forward.func
    return getattr(forward, "__code__", type(forward))


def _is_free(value: Any, seen: set[int]) -> bool:
    """Whether a value holds no module or tensor, which would be the full model's."""
    if id(value) in seen or isinstance(value, (type, BuiltinFunctionType)):
        return True
    seen.add(id(value))
    if isinstance(value, (nn.Module, Tensor, MethodType, functools.partial)):
        return False
    if isinstance(value, dict):
        return all(_is_free(one, seen) for one in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_free(one, seen) for one in value)
    if not isinstance(value, FunctionType):
        return True
    held = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
    held += [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
    return all(_is_free(one, seen) for one in (*held, value.__defaults__ or (), value.__kwdefaults__ or {}))


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _names(code: CodeType) -> set[str]:
    """Return the names that a function and those written inside of it read."""
    return set(code.co_names).union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))
