"""Open a saved network, whole or one corner of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files.manifest import check_unchanged
from ..files.tensor_file import damaged
from ..files.weights import CONFIGS, open_weights, weights_file
from ..imports.names import BufferPolicy
from ..space import Number, Setting, Space
from ..views.buffers import Private
from ..views.cuts import Cuts, StoredCuts
from ..views.layouts import Layout, tensors_of
from ..views.outlines import call_builder, check_size, outline
from ..views.skeletons import Slot, build_skeleton
from . import checkpoint
from .builders import PLAIN, Builder, as_builder, kind_of, module_of
from .checkpoint import read_weights
from .sorted_net import SortedNet

__all__ = ["MOST_SETTINGS", "load", "open_network", "space_of"]

MOST_SETTINGS, _MOST_PRIVATE = 10**6, 10**4


def load(
    path: str | Path,
    build: Callable[..., nn.Module] | None = None,
    *,
    at: Mapping[str, Number] | str | None = None,
    space: Space | None = None,
    layouts: Iterable[Layout] | None = None,
    model: nn.Module | str | Path | None = None,
    verify: bool = True,
) -> Any:
    """Open what `SortedNet.save_pretrained` wrote.

    Args:
        path: The folder.
        build: The builder of the network; a pretrained Hugging Face model needs none.
        at: Open this sub-model only, reading no more than its corner from the disk. Dimensions left out take their
            largest value.
        space: The space that the checkpoint must have; any where left out.
        layouts: Layouts the network was made with; needed only where their blocks are a function, which is not stored.
        model: The pretrained model of an adapter that `dylora` has made, which is not stored with it; or its folder or
            name; the one that the adapter's config names where left out.
        verify: Whether what is read is compared with the digests that were written with it, in one pass; files of
            version 0.1 have none.

    Returns:
        The `SortedNet`; with `at`, the sub-model as a plain module.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, of another space, or does not fit the builder.
        SettingError: If `at` is not in the space.
    """
    stored = checkpoint.read_metadata(path)
    if verify:
        check_unchanged(path, CONFIGS)
    options = {"at": at, "space": space, "layouts": layouts, "verify": verify}
    kind = kind_of(stored, path)
    if kind != PLAIN:
        return module_of(kind).load(path, stored, build=build, model=model, **options)
    if model is not None:
        raise CheckpointError(f"{path} holds a whole network and no adapter. Leave model= out.")
    if build is None:
        raise CheckpointError(f"{path} holds a plain module, which needs its builder: sn.load(path, build=build).")
    return open_network(path, stored, as_builder(build), **options)  # type: ignore[arg-type]


def open_network(
    path: str | Path,
    stored: Mapping[str, Any],
    build: Builder,
    *,
    at: Mapping[str, Number] | str | None,
    space: Space | None,
    layouts: Iterable[Layout] | None,
    verify: bool,
    make: type[SortedNet] = SortedNet,
) -> Any:
    """Open a network by its builder.

    Args:
        path: The folder.
        stored: What describes it.
        build: The builder.
        at: As `load`.
        space: As `load`.
        layouts: As `load`.
        verify: As `load`.
        make: The class of the network.

    Raises:
        CheckpointError: As `load`.
        SettingError: As `load`.
    """
    found = space_of(path, stored)
    with checkpoint.described(path):
        if stored["buffers"] not in get_args(BufferPolicy):
            raise TypeError(f"{stored['buffers']!r} is no policy")
    if space is not None and space != found:
        raise CheckpointError(f"{path} holds {found!r}, not {space!r}. Load it with its own space, or train again.")
    with checkpoint.described(path):
        given = _stored_layouts(path, stored.get("layouts", []), None if layouts is None else list(layouts))
    _check_size(path, build, found)
    if stored["private"] or stored["buffers"] == "private":
        _check_settings(path, found, verify)
    weights: dict[str, Tensor]
    if at is None:
        with checkpoint.described(path):
            full = call_builder(build, found.full)
            known = [*build.layouts(full), *given]
            net = make(
                build, found, model=full, layouts=known, buffers=stored["buffers"], private=stored["private"],
                stored=StoredCuts(stored.get("cuts")),
            )  # fmt: skip
        weights = read_weights(path, verify=verify)
        for name, other in _other_names(net.full).items():
            if name not in weights and other in weights:
                weights[name] = weights[other]
        _take_types(net.full, {name: tensor.dtype for name, tensor in weights.items()})
        with checkpoint.fitting(path):
            net.full.load_state_dict(weights)
        private = checkpoint.read_private(path, verify=verify)
        _check_private(path, net, private)
        net.private.restore(private)
        return net
    setting = found.setting(**(Setting.parse(at) if isinstance(at, str) else at))
    # The full model is never made: its outline stands in for it, and the cuts say what to read.
    full = outline(build, found.full)
    known = [*build.layouts(full), *given]
    other_names = _other_names(full)
    private = checkpoint.read_private(path, verify=verify)
    with checkpoint.corners(path, verify=verify) as (types, read):
        _take_types(full, types)
        with checkpoint.described(path):
            cuts = Cuts(build, found, known)
            cuts.take(StoredCuts(stored.get("cuts")), full)
            skeleton = build_skeleton(build, setting, full, cuts)

        if cuts.iterated and setting != found.full:
            warnings.warn(
                f"{sorted(cuts.iterated)[0]} follows from the weights by iteration, and is not yet that of the part "
                "that is read. Run it on some batches in training mode first, or extract the part before saving.",
                stacklevel=2,
            )
        own_ones = Private(stored["private"], stored["buffers"], found.full, {})

        def read_slot(slot: Slot, held: Tensor) -> Tensor:
            own = private.get((str(setting), slot.path)) if setting != found.full else None
            if own is None and setting != found.full and own_ones.covers(slot.path, slot.is_buffer):
                raise damaged(weights_file(path), f"it has no {slot.path} of {setting}")
            if own is not None and not _is_like(own, slot.cut.shape, held.dtype):
                raise damaged(weights_file(path), f"its {slot.path} of {setting} has shape {tuple(own.shape)}")
            name = slot.path if slot.path in types else other_names.get(slot.path, slot.path)
            return read(name, slot.cut, held.shape) if own is None else own.detach()

        return skeleton.fill(read_slot)


def space_of(path: str | Path, stored: Mapping[str, Any]) -> Space:
    """Return the space that a checkpoint describes.

    Raises:
        CheckpointError: If it describes none.
    """
    with checkpoint.described(path):
        return Space.from_json(stored["space"])


def _check_size(path: str | Path, build: Callable[..., nn.Module], space: Space) -> None:
    """Refuse a space whose full model is far larger than what is stored, before any of it is made.

    Raises:
        CheckpointError: If it is.
    """
    tensors = [one for header in open_weights(path).headers for one in header.tensors.values()]
    numbers = sum(math.prod(one["shape"]) for one in tensors)
    # Tied parameters are stored once, and have several names.
    fits = check_size(build, space.full, 64 + 2 * len(tensors), 2**20 + 2 * numbers, 2**27 + 8 * numbers)
    if not fits or len(space) > MOST_SETTINGS:
        raise CheckpointError(
            f"{path} does not fit the builder: it holds {len(tensors):,} tensors of {numbers:,} numbers together, and "
            f"says that its full model is {space.full}, one of {len(space):,} settings. Restore it from a copy, or "
            "load it with the builder that it was saved with."
        )


def _check_settings(path: str | Path, space: Space, verify: bool) -> None:
    """Refuse a space of far more settings than have tensors of their own stored.

    Raises:
        CheckpointError: If it has.
    """
    if len(space) > _MOST_PRIVATE and len(space) > 1 + len(checkpoint.read_private(path, verify=verify)):
        raise CheckpointError(
            f"{path} says that each of its {len(space):,} settings has tensors of its own, and holds those of fewer. "
            "Restore it from a copy, or save again."
        )


def _other_names(model: nn.Module) -> dict[str, str]:
    """Return, for every name of a tied parameter but its first, the first; and for the first, the second."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {
        name: tied[0] if place else tied[1]
        for tied in names.values()
        if len(tied) > 1
        for place, name in enumerate(tied)
    }


def _stored_layouts(path: str | Path, stored: list[dict[str, Any]], given: list[Layout] | None) -> list[Layout]:
    """Return the layouts a network was saved with; what is given must agree with them."""
    if given is None and all(one["blocks"] is not None for one in stored):
        return [Layout(**one) for one in stored]
    shown = ", ".join(str(one) for one in stored) or "none"
    if given is None:
        raise CheckpointError(
            f"{path} was saved with layouts whose blocks are a function ({shown}). Give layouts= again."
        )
    if [one.to_json() for one in given] != stored:
        raise CheckpointError(f"{path} was saved with other layouts ({shown}) than {given}. Give the same, or none.")
    return given


def _check_private(path: str | Path, net: SortedNet, tensors: Mapping[tuple[str, str], Tensor]) -> None:
    """Refuse tensors of single sub-models that are not exactly those that the network has.

    Raises:
        CheckpointError: If one is missing, unknown, or of another shape or type.
    """
    file, held, shapes = weights_file(path), net.private.tensors(), dict[tuple[str, str], Sequence[int]]()
    types = {name: tensor.dtype for name, tensor in tensors_of(net.full).items()}
    missing = sorted(set(held) - set(tensors))
    if missing:
        raise damaged(file, "it has no {1} of {0}".format(*missing[0]))
    for text, name in sorted(set(tensors) - set(held)):
        setting = Setting.parse(text)
        if str(setting) != text or setting not in net.space or setting == net.space.full:
            raise damaged(file, f"it has a tensor {name[:60]!r} of {text[:60]!r}, which the network has not")
        if not any(key[0] == text for key in shapes):  # given to it later, such as a classifier that was adjusted
            skeleton = net.skeleton(setting)
            shapes |= {(text, slot.path): slot.cut.shape for slot in (*skeleton.parameters, *skeleton.buffers)}
        if (text, name) not in shapes:
            raise damaged(file, f"it has a tensor {name[:60]!r} of {text[:60]!r}, which the network has not")
    for key, tensor in tensors.items():
        if not _is_like(tensor, held[key].shape if key in held else shapes[key], types[key[1]]):
            raise damaged(file, f"its {key[1]} of {key[0]} has shape {tuple(tensor.shape)} and type {tensor.dtype}")


def _is_like(tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> bool:
    return tuple(tensor.shape) == tuple(shape) and _kind_of(tensor.dtype) == _kind_of(dtype)


def _take_types(model: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Give a model's tensors the types that they are stored in, so that loading rounds nothing.

    Raises:
        CheckpointError: If floating-point numbers are stored as whole or complex ones, or the other way round.
    """
    held = tensors_of(model)
    for name in held.keys() & types.keys():
        if _kind_of(types[name]) != _kind_of(held[name].dtype):
            raise CheckpointError(
                f"{name} is stored as {types[name]}, and the builder makes it as {held[name].dtype}. Load it with the "
                "builder that it was saved with."
            )
    floating = {dtype for dtype in types.values() if dtype.is_floating_point}
    if len(floating) == 1:
        model.to(floating.pop())  # buffers that are not stored follow
        return
    for name in held.keys() & types.keys():
        held[name].data = held[name].data.to(types[name])


def _kind_of(dtype: torch.dtype) -> str:
    return "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "whole"
