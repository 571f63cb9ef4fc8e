"""Fused parameters: which axes are made of several blocks, so that each block is cut at its own corner.

A parameter that joins several roles along an axis (query, key and value in one matrix; the gates of an LSTM) must be
cut per block. `Layout` declares it; torch's own fused modules are known; an axis that looks fused and is not declared
is reported, never cut silently.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from torch import Tensor, nn

from ..errors import BuildError, LayoutError
from ..imports.privates.torch import Convolution, persistent_buffers
from .cut import Cut

__all__ = ["Layout", "blocks_of", "cuts_by_shape", "refuse_misfits", "shared_tensors", "suspicion", "tensors_of"]

Blocks = Union[int, Callable[[nn.Module], Sequence[int]]]

_FUSED_NAME = re.compile(r"qkv|\bkv\b|in_proj|c_attn|gate_up|up_gate|kv_proj|w12|fused", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How an axis of some parameters is made up.

    Args:
        pattern: Shell pattern of the parameters' full names, such as `*.attention.qkv.*`.
        axis: The axis made of blocks.
        blocks: Number of equal blocks; 1 says that the axis is not fused and is to be cut at its corner. Or a function
            that takes a model (the full one, or one built at a setting) and returns the sizes of its blocks.

    Heads are blocks too: where the size of each head shrinks instead of their number, a corner mixes heads. Sort the
    number of heads.

    Example:
        >>> Layout("*.qkv.weight", axis=0, blocks=3)
        Layout(pattern='*.qkv.weight', axis=0, blocks=3)
    """

    pattern: str
    axis: int = 0
    blocks: Blocks = 3

    def __post_init__(self) -> None:
        if not callable(self.blocks) and (not isinstance(self.blocks, int) or self.blocks < 1):
            raise LayoutError(f"blocks={self.blocks!r} of {self.pattern!r} is no number of blocks. Give 1, 2, ...")
        if self.axis < 0:
            raise LayoutError(f"axis={self.axis} of {self.pattern!r} is negative. Count axes from the front, from 0.")

    def covers(self, name: str, axis: int) -> bool:
        """Whether it is of this axis of the parameter of this name."""
        return axis == self.axis and fnmatch.fnmatchcase(name, self.pattern)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain values; blocks that are a function are left out."""
        return {"pattern": self.pattern, "axis": self.axis, "blocks": None if callable(self.blocks) else self.blocks}

    def sizes(self, model: nn.Module, name: str, size: int) -> list[int]:
        """Return the sizes of the blocks that make up `size` units of parameter `name` of `model`."""
        if callable(self.blocks):
            sizes = [int(one) for one in self.blocks(model)]
        elif self.blocks >= 1 and size % self.blocks == 0:
            sizes = [size // self.blocks] * self.blocks
        else:
            raise LayoutError(
                f"Axis {self.axis} of {name} has {size} units, which {self} does not divide. Correct its blocks."
            )
        if sum(sizes) != size:
            raise LayoutError(
                f"The blocks {sizes} of {self} add up to {sum(sizes)}, but axis {self.axis} of {name} has {size} units."
                " Correct its blocks."
            )
        return sizes


def refuse_misfits(full: nn.Module, small: nn.Module, layouts: Iterable[Layout] = ()) -> None:
    """Refuse a smaller model that is no part of the full one, and layouts of nothing.

    Raises:
        BuildError: If a name is missing in the full model, or larger than there.
        LayoutError: If a layout matches no axis.
    """
    theirs, ours = tensors_of(full), tensors_of(small)
    for given in layouts:
        if not any(given.covers(name, given.axis) and given.axis < tensor.dim() for name, tensor in theirs.items()):
            raise LayoutError(
                f"{given} matches no axis of a parameter. Correct its pattern; parameters are {list(theirs)[:4]}..."
            )
    for name, tensor in ours.items():
        if name not in theirs:
            raise BuildError(
                f"{name} of the sub-model has no counterpart in the full model. Build both from the same class, "
                "so that every parameter of the smaller one has the same name in the larger one."
            )
        big = theirs[name]
        if tensor.dim() != big.dim() or any(s > f for s, f in zip(tensor.shape, big.shape, strict=True)):
            raise BuildError(
                f"{name} has shape {tuple(tensor.shape)} in the sub-model and {tuple(big.shape)} in the full model. "
                "A sub-model's parameter must have as many axes and be nowhere larger."
            )


def blocks_of(
    full: nn.Module, small: nn.Module, layouts: Iterable[Layout] = ()
) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """Return the sizes of the blocks of each declared axis that changes, in the full model and in the smaller one.

    Args:
        full: The full model.
        small: The same class built at a setting; its tensors may be on the meta device.
        layouts: Declared layouts; the last that matches a parameter and axis counts, and all count before torch's own.

    Raises:
        LayoutError: If a layout does not fit.
    """
    theirs, ours = tensors_of(full), tensors_of(small)
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for (name, axis), layout in _declared(full, small, layouts).items():
        if name not in ours or name not in theirs or theirs[name].shape[axis] == ours[name].shape[axis]:
            continue
        in_full = layout.sizes(full, name, theirs[name].shape[axis])
        in_small = layout.sizes(small, name, ours[name].shape[axis])
        if len(in_full) != len(in_small) or any(s > f for s, f in zip(in_small, in_full, strict=True)):
            raise LayoutError(
                f"The blocks of {name} along axis {axis} are {in_full} in the full model and {in_small} in the "
                f"sub-model. {layout} must give as many blocks for both, none of them larger in the sub-model."
            )
        found[name, axis] = in_full, in_small
    return found


def cuts_by_shape(full: nn.Module, small: nn.Module, layouts: Iterable[Layout] = ()) -> dict[str, Cut]:
    """Cut every parameter and persistent buffer of a smaller model by blocks where declared, else at the corner.

    Args:
        full: The full model.
        small: The same class built at a setting, a part of the full one; its tensors may be on the meta device.
        layouts: As `blocks_of`.

    Returns:
        The cut of each name of `small`; of a buffer that is not stored only where the full model has it too.

    Raises:
        LayoutError: If a layout does not fit.
    """
    blocks = blocks_of(full, small, layouts)
    return {
        name: Cut(
            tuple(tensor.shape),
            tuple(
                _pieces(*blocks[name, axis]) if (name, axis) in blocks else ((0, size),)
                for axis, size in enumerate(tensor.shape)
            ),
        )
        for name, tensor in shared_tensors(small, full).items()
    }


def suspicion(full: nn.Module, small: nn.Module, layouts: Iterable[Layout] = ()) -> LayoutError | None:
    """Say which axis looks fused by its shape though no layout covers it; None where none does."""
    try:
        _report_undeclared(full, tensors_of(full), tensors_of(small), _declared(full, small, layouts))
    except LayoutError as found:
        return found
    return None


def _declared(full: nn.Module, small: nn.Module, layouts: Iterable[Layout]) -> dict[tuple[str, int], Layout]:
    given = tuple(layouts)
    return {
        **_torch_layouts(full, small),
        **{(name, one.axis): one for name, big in tensors_of(full).items() for one in given
           if one.axis < big.dim() and one.covers(name, one.axis)},
    }  # fmt: skip


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones under each of their names."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, buffer in persistent_buffers(module):
            found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def shared_tensors(model: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model that another one may share: parameters, and buffers of one rank, stored or not."""
    theirs = {name: buffer.dim() for name, buffer in other.named_buffers(remove_duplicate=False)}
    more = {
        name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if theirs.get(name) == buffer.dim()
    }
    return {**more, **tensors_of(model)}


def _pieces(in_full: Sequence[int], in_small: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Join the corners of all blocks into as few pieces as possible."""
    pieces: list[tuple[int, int]] = []
    start = 0
    for whole, size in zip(in_full, in_small, strict=True):
        if pieces and sum(pieces[-1]) == start:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + size)
        elif size:
            pieces.append((start, size))
        start += whole
    return tuple(pieces) or ((0, 0),)


def _torch_layouts(full: nn.Module, small: nn.Module) -> dict[tuple[str, int], Layout]:
    """Return the layouts of torch's own fused modules."""
    found: dict[tuple[str, int], Layout] = {}
    others = dict(small.named_modules(remove_duplicate=False))
    for prefix, module in full.named_modules(remove_duplicate=False):
        if isinstance(module, nn.MultiheadAttention):
            # Heads that are fewer go from the end; as many heads of fewer units each lose some in every one.
            other = others.get(prefix)
            heads = module.num_heads if isinstance(other, nn.MultiheadAttention) and _as_many(module, other) else 1
            at = f"{prefix}." if prefix else ""
            for name, axis, blocks in (
                ("in_proj_weight", 0, 3 * heads), ("in_proj_bias", 0, 3 * heads), ("q_proj_weight", 0, heads),
                ("k_proj_weight", 0, heads), ("v_proj_weight", 0, heads), ("out_proj.weight", 1, heads),
                ("bias_k", 2, heads), ("bias_v", 2, heads),
            ):  # fmt: skip
                if blocks > 1:
                    found[at + name, axis] = Layout(at + name, axis, blocks)
        for name, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(module, nn.RNNBase):
                gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
                if name.startswith("weight_hr"):
                    found.update({(path, axis): Layout(path, axis, 1) for axis in (0, 1)})
                else:
                    found[path, 0] = Layout(path, 0, gates)
                if module.bidirectional and name.startswith("weight_ih_l") and not name.startswith("weight_ih_l0"):
                    found[path, 1] = Layout(path, 1, 2)
    return found


def _as_many(one: nn.MultiheadAttention, other: nn.MultiheadAttention) -> bool:
    return bool(one.num_heads == other.num_heads and one.embed_dim != other.embed_dim)


def _report_undeclared(
    full: nn.Module,
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    fused: Mapping[tuple[str, int], Layout],
) -> None:
    """Refuse to cut an axis that looks fused and has no layout.

    An axis looks fused if it shrinks in proportion to another, smaller axis of the model and no other matrix produces
    or takes in as many units: the width of a plain hidden layer is produced by one matrix and taken in by another, that
    of a joined query, key and value is only produced.
    """
    changing = {
        (name, axis): (big.shape[axis], ours[name].shape[axis])
        for name, big in theirs.items()
        if name in ours
        for axis in range(big.dim())
        if big.shape[axis] != ours[name].shape[axis]
    }
    sizes = set(changing.values())
    partners: dict[tuple[int, int, int], int] = {}
    for (name, axis), pair in changing.items():
        if theirs[name].dim() >= 2 and axis < 2:
            partners[(*pair, axis)] = partners.get((*pair, axis), 0) + 1
    gone = [name for name, big in theirs.items() if name not in ours and big.dim() >= 2]
    counts = Counter(pair for (name, axis), pair in changing.items() if theirs[name].dim() >= 2 and axis < 2)
    # Layers that the sub-model does not have take in or produce units too.
    beyond = {
        (big.shape[axis], axis)
        for name, big in theirs.items()
        if name not in ours and big.dim() >= 2
        for axis in (0, 1)
    }
    convolutions = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in full.named_modules()
        if isinstance(module, Convolution)
    }
    for (name, axis), (whole, size) in changing.items():
        tensor = theirs[name]
        stacked = tensor.dim() == 3 and name not in convolutions  # matrices, one for each expert
        if axis > 1 + stacked or (name, axis) in fused:
            continue
        missing = next((other for other in gone if theirs[other].shape[0] == size), None) if axis == 0 else None
        if missing is not None and not _FUSED_NAME.search(name) and tensor.dim() >= 2 and counts[whole, size] == 1:
            raise LayoutError(
                f"{name} goes from {whole} to {size} outputs, as many as {missing} has, which the sub-model lacks: the "
                "name of a layer seems to move with the depth. Give every layer the same name at every setting (in an "
                f'nn.Sequential the last ones move), or accept it with layouts=[Layout("{name}", axis=0, blocks=1)].'
            )
        if tensor.dim() == 1:
            weight = name.rpartition(".")[0] + ".weight"
            alone = any((weight, a) in fused and fused[weight, a].blocks != 1 for a in (0, 1))
        elif axis == 2:
            alone = not any(pair == (whole, size) and other[1] < 2 for other, pair in changing.items())
        else:
            partner = partners.get((whole, size, 1 - axis)) or (whole, 1 - axis) in beyond
            alone = not partner or _FUSED_NAME.search(name) is not None
        if not alone:
            continue
        fixed = next((f for f, s in sorted(sizes) if f < whole and whole - f == size - s), None)
        part = next((f for f, s in sorted(sizes) if f < whole and whole * s == size * f), None)
        if part is None and fixed is not None:
            raise LayoutError(
                f"Axis {axis} of {name} goes from {whole} to {size} units, {whole - fixed} more than an axis of "
                f"{fixed} does: it may join units that shrink with units that do not. Say which come first, such as "
                f'layouts=[Layout("{name}", axis={axis}, blocks=lambda model: [..., {whole - fixed}])]; '
                "if it is one block, say so with blocks=1."
            )
        if part is not None:
            raise LayoutError(
                f"Axis {axis} of {name} goes from {whole} to {size} units, in proportion to an axis of {part} units, "
                f"and may hold several blocks ({whole} / {part} = {whole / part:g}). If it does, declare them: "
                f'layouts=[Layout("{name}", axis={axis}, blocks={max(2, round(whole / part))})]; '
                f"if it is one block, say so with blocks=1. "
                "(Channels flattened before their pixels, N x C x H x W, are one.)"
            )
    for prefix, module in full.named_modules():
        if isinstance(module, Convolution) and module.groups > 1:
            name = f"{prefix}.weight" if prefix else "weight"
            if (name, 1) in changing and (name, 1) not in fused:
                raise LayoutError(
                    f"{name} belongs to a convolution of {module.groups} groups whose groups shrink from "
                    f"{theirs[name].shape[1]} to {ours[name].shape[1]} channels, so a group would hold other channels' "
                    "weights. Let the number of groups shrink instead, or accept the corner with "
                    f'layouts=[Layout("{name}", axis=1, blocks=1)].'
                )
