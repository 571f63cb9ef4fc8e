"""Products in one way whatever their sizes: torch takes others where an axis has size 1, or memory lies otherwise.

A contraction over an axis of size 1 is a pointwise product there, and a linear layer on a tensor that lies densely in
memory another product than on one that does not. Two models of different sizes would then do different operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["SteadyProducts", "einsum", "inner", "linear", "matmul", "tensordot"]

_SPARE = [chr(code) for code in range(0x3B1, 0x3C9)]  # letters for the axes of an ellipsis


def _are_plain(*tensors: Any) -> bool:
    """Whether all are dense tensors of one type of floating-point or complex numbers."""
    return (
        all(isinstance(one, Tensor) and one.layout == torch.strided and not one.is_quantized for one in tensors)
        and len({one.dtype for one in tensors}) == 1
        and (tensors[0].is_floating_point() or tensors[0].is_complex())
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """Multiply the rows of x by a matrix. Returns None where torch is to do it."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if not _are_plain(*given) or weight.dim() != 2 or not x.dim() or (bias is not None and bias.dim() != 1):
        return None
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    found = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    return found.view(*x.shape[:-1], len(weight))


def matmul(one: Tensor, other: Tensor) -> Tensor | None:
    """Multiply matrices, or batches of them that meet from the right. Returns None where torch is to do it."""
    if not _are_plain(one, other) or max(one.dim(), other.dim()) < 3 or min(one.dim(), other.dim()) < 1:
        return None
    if other.dim() < 3:
        rows = one.reshape(math.prod(one.shape[:-1]), one.shape[-1])
        found = torch.mv(rows, other) if other.dim() == 1 else torch.mm(rows, other)
        return found.view(*one.shape[:-1], *other.shape[1:])
    if one.dim() == 1:
        return None
    batch = torch.Size(torch.broadcast_shapes(one.shape[:-2], other.shape[:-2]))  # type: ignore[no-untyped-call]
    left, right = (x.expand(*batch, *x.shape[-2:]).reshape(math.prod(batch), *x.shape[-2:]) for x in (one, other))
    return torch.bmm(left, right).view(*batch, one.shape[-2], other.shape[-1])


def tensordot(one: Tensor, other: Tensor, dims: Any = 2, out: Tensor | None = None) -> Tensor | None:
    """Sum over pairs of axes. Returns None where torch is to do it."""
    if isinstance(dims, Tensor) or out is not None or not _are_plain(one, other):
        return None
    if isinstance(dims, int):
        dims = list(range(one.dim() - dims, one.dim())), list(range(dims))
    pairs = [[axes] if isinstance(axes, int) else list(axes) for axes in dims]
    names: list[Any] = list(range(one.dim()))
    others: list[Any] = [names[-1] + 1 + place if names else place for place in range(other.dim())]
    for a, b in zip(*pairs, strict=True):
        if one.shape[a] != other.shape[b]:
            return None
        others[b] = names[a]
    summed = {names[a] for a in pairs[0]}
    found, made = _contracted(one, names, other, others, [name for name in names + others if name not in summed])
    return found.permute([made.index(name) for name in names + others if name not in summed])


def inner(one: Tensor, other: Tensor) -> Tensor | None:
    """Sum over the last axis of both. Returns None where torch is to do it."""
    return tensordot(one, other, ([-1], [-1])) if one.dim() and other.dim() else None


def einsum(equation: Any, *operands: Any) -> Tensor | None:
    """Sum over letters, two tensors after another from the left. Returns None where torch is to do it."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) < 2 or not _are_plain(*operands):
        return None
    letters = _letters(equation.replace(" ", ""), [one.dim() for one in operands])
    if letters is None:
        return None
    *axes, wanted = letters
    sizes: dict[str, int] = {}
    for names, one in zip(axes, operands, strict=True):
        if len(set(names)) < len(names) or any(
            sizes.setdefault(*pair) != pair[1] for pair in zip(names, one.shape, strict=True)
        ):
            return None  # a diagonal, or an axis of size 1 that grows
    found: Tensor = operands[0]
    made: list[Any] = list(axes[0])
    for number in range(1, len(operands)):
        later = {name for names in [*axes[number + 1 :], wanted] for name in names}
        found, made = _contracted(found, made, operands[number], axes[number], later)
    return found.permute([made.index(name) for name in wanted])


def _letters(equation: str, ranks: Sequence[int]) -> list[list[str]] | None:
    """Read the names of the axes of each tensor and of what comes out; None where that is beyond these few lines."""
    inputs, arrow, output = equation.partition("->")
    parts = inputs.split(",")
    if len(parts) != len(ranks):
        return None
    more = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True)]
    if any(count and "..." not in part for part, count in zip(parts, more, strict=True)):
        return None
    most = max(more)
    if min(more) < 0 or most > len(_SPARE):
        return None
    found = [
        list(part.replace("...", "".join(_SPARE[most - count : most]))) for part, count in zip(parts, more, strict=True)
    ]
    if arrow:
        return [*found, list(output.replace("...", "".join(_SPARE[:most])))]
    flat = [name for names in found for name in names]
    return [*found, [*_SPARE[:most], *sorted(n for n in set(flat) if flat.count(n) == 1 and n not in _SPARE)]]


def _contracted(
    one: Tensor, names: Sequence[Any], other: Tensor, others: Sequence[Any], kept: Any
) -> tuple[Tensor, list[Any]]:
    """Multiply two tensors and sum over those axes that are not kept; as batches of matrices, always."""
    if gone := [place for place, name in enumerate(names) if name not in kept and name not in others]:
        one, names = one.sum(gone), [name for place, name in enumerate(names) if place not in gone]
    if gone := [place for place, name in enumerate(others) if name not in kept and name not in names]:
        other, others = other.sum(gone), [name for place, name in enumerate(others) if place not in gone]
    shared = [name for name in names if name in others]
    batch, summed = [name for name in shared if name in kept], [name for name in shared if name not in kept]
    left, right = [name for name in names if name not in shared], [name for name in others if name not in shared]
    size = dict(zip([*names, *others], [*one.shape, *other.shape], strict=True))

    def matrices(tensor: Tensor, axes: Sequence[Any], order: Sequence[Sequence[Any]]) -> Tensor:
        flat = [axes.index(name) for group in order for name in group]
        return tensor.permute(flat).reshape([math.prod(size[name] for name in group) for group in order])

    found = torch.bmm(matrices(one, names, (batch, left, summed)), matrices(other, others, (batch, summed, right)))
    made = [*batch, *left, *right]
    return found.view([size[name] for name in made]), made


_STEADY: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: linear,
    torch.matmul: matmul,
    Tensor.matmul: matmul,
    Tensor.__matmul__: matmul,
    torch.einsum: einsum,
    torch.inner: inner,
    torch.tensordot: tensordot,
}


class SteadyProducts(TorchFunctionMode):
    """Takes the products of this module in place of torch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        steady = _STEADY.get(func)
        found = None
        if steady is not None:
            try:
                found = steady(*args, **(kwargs or {}))
            except (TypeError, RuntimeError, IndexError, ValueError):
                found = None  # names of arguments that are not ours, or shapes that do not fit: torch tells
        return func(*args, **(kwargs or {})) if found is None else found
