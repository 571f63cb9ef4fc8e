"""Compilation per block, so that one small set of graphs serves every sub-model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Union

import torch
from torch import nn

from ..imports.privates.torch import uncompile as uncompile_call
from ..imports.privates.torch import unknown_sizes
from .forwards import runs

__all__ = ["Compilation", "blocks", "uncompile"]

_WRITTEN = "_forward_as_written"


@dataclass(frozen=True)
class Compilation:
    """How skeletons are compiled.

    Args:
        backend: Of `torch.compile`: a name, or a function of a graph and its inputs.
        mode: Of `torch.compile`.
    """

    backend: Union[str, Callable[..., object]] = "inductor"
    mode: str | None = None

    def __post_init__(self) -> None:
        # Bound views are no leaves; looking for their `.grad` while tracing is harmless. Said once, for the process: to
        # catch warnings at each forward would take those of other threads.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")

    def prepare(self, module: nn.Module) -> None:
        """Compile every block of a skeleton in place; nothing is traced before it is called."""
        for block in blocks(module):
            if type(block).__module__.startswith("torch.nn."):
                # The compiler enters torch's own layers only from a function of somebody else's.
                block.__dict__[_WRITTEN] = block.__dict__.get("forward")
                block.forward = torch.compile(
                    _calling(block.forward), dynamic=True, backend=self.backend, mode=self.mode
                )
            else:
                block.compile(dynamic=True, backend=self.backend, mode=self.mode)

    def active(self) -> AbstractContextManager[None]:
        """Return the context in which compiled blocks are called: a graph traced at one setting serves others."""
        return unknown_sizes()


def uncompile(module: nn.Module) -> None:
    """Let a module, but not what lies in it, run as it is written."""
    uncompile_call(module)
    if _WRITTEN in module.__dict__:
        written = module.__dict__.pop(_WRITTEN)
        del module.__dict__["forward"]
        if written is not None:
            module.__dict__["forward"] = written


def _calling(forward: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        return forward(*args, **kwargs)

    return call


def blocks(module: nn.Module) -> list[nn.Module]:
    """Find the blocks a model repeats: the elements of its outermost lists, or the model itself where there is none.

    torch's own layers do not count, which the compiler takes only as parts of a larger whole.
    """
    found = [one for one in _elements(module) if not type(one).__module__.startswith("torch.nn.")]
    return found or [module]


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from (_inside(child) if isinstance(child, (nn.ModuleList, nn.Sequential)) else _elements(child))


def _inside(holder: nn.Module) -> Iterator[nn.Module]:
    for element in holder.children():
        if isinstance(element, (nn.ModuleList, nn.Sequential)) or not runs(element):
            yield from _inside(element)
        else:
            yield element
