"""Open a saved network, whole or one corner of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from . import checkpoint
from .checkpoint import read_weights
from .errors import CheckpointError, SortedNetError
from .families import is_causal, read_builder
from .files import records
from .files.manifest import check_unchanged
from .files.weights import CONFIGS, open_weights
from .layouts import Layout, cuts, tensors_of
from .lora import adapter_state, load_adapter_state, read_config
from .names import BufferPolicy
from .network import SortedNet
from .outlines import call_builder, check_size, outline
from .rank_space import RANK
from .ranks import builder_of_ranks, reopened
from .space import Number, Setting, Space
from .token_loss import ChunkedHead
from .views import Slot, build_skeleton

__all__ = ["load"]

_MOST_SETTINGS, _MOST_PRIVATE = 10**6, 10**4


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
    if "adapter" in stored:
        return _load_ranks(path, stored, build, model, at, space, verify)
    if model is not None:
        raise CheckpointError(f"{path} holds a whole network and no adapter. Leave model= out.")
    pretrained = build is None and "class" in stored
    if pretrained:
        build = _builder(path, stored)
    if build is None:
        raise CheckpointError(f"{path} holds a plain module, which needs its builder: sn.load(path, build=build).")
    with checkpoint.described(path):
        found = Space.from_json(stored["space"])
        if stored["buffers"] not in get_args(BufferPolicy):
            raise TypeError(f"{stored['buffers']!r} is no policy")
    if space is not None and space != found:
        raise CheckpointError(f"{path} holds {found!r}, not {space!r}. Load it with its own space, or train again.")
    with checkpoint.described(path):
        layouts = _stored_layouts(path, stored.get("layouts", []), None if layouts is None else list(layouts))
    if pretrained and stored["sizes"] != dict(found.full):
        raise CheckpointError(
            f"{path} is damaged: its sizes, {stored['sizes']}, are not those of {found!r}. Restore it."
        )
    _check_size(path, build, found)
    if stored["private"] or stored["buffers"] == "private":
        _check_settings(path, found, verify)
    weights: dict[str, Tensor]
    if at is None:
        with checkpoint.described(path):
            full = call_builder(build, found.full)
            if pretrained:
                layouts = [*build.layouts(full), *layouts]  # type: ignore[attr-defined]
            net = SortedNet(
                build, found, model=full, layouts=layouts, buffers=stored["buffers"], private=stored["private"]
            )
        if pretrained:
            net.head = ChunkedHead() if is_causal(full) else None
        weights = read_weights(path, verify=verify)
        for name, other in _other_names(net.full).items():
            if name not in weights and other in weights:
                weights[name] = weights[other]
        _take_types(net.full, {name: tensor.dtype for name, tensor in weights.items()})
        with checkpoint.fitting(path):
            net.full.load_state_dict(weights)
        net.private.restore(checkpoint.read_private(path, verify=verify))
        return net
    setting = found.setting(**(Setting.parse(at) if isinstance(at, str) else at))
    # The full model is never made: its outline stands in for it, and the cuts say what to read.
    full = outline(build, found.full)
    if pretrained:
        layouts = [*build.layouts(full), *layouts]  # type: ignore[attr-defined]
    other_names = _other_names(full)
    private = checkpoint.read_private(path, verify=verify)
    with checkpoint.corners(path, verify=verify) as (types, read):
        _take_types(full, types)
        with checkpoint.described(path):
            skeleton = build_skeleton(build, setting, full, layouts)

        def read_slot(slot: Slot, held: Tensor) -> Tensor:
            own = private.get((str(setting), slot.path))
            name = slot.path if slot.path in types else other_names.get(slot.path, slot.path)
            return read(name, slot.cut, held.shape) if own is None else own.detach()

        return skeleton.fill(read_slot)


def _builder(path: str | Path, stored: Mapping[str, Any]) -> Any:
    """Return the builder of a pretrained network."""
    try:
        return read_builder(path, stored["class"], stored["sizes"], stored["readout"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not say which model it holds ({error!r}). Restore it, or save again."
        ) from None


def _check_size(path: str | Path, build: Callable[..., nn.Module], space: Space) -> None:
    """Refuse a space whose full model is far larger than what is stored, before any of it is made.

    Raises:
        CheckpointError: If it is.
    """
    tensors = [one for header in open_weights(path).headers for one in header.tensors.values()]
    numbers = sum(math.prod(one["shape"]) for one in tensors)
    # Tied parameters are stored once, and have several names.
    fits = check_size(build, space.full, 64 + 2 * len(tensors), 2**20 + 2 * numbers, 2**27 + 8 * numbers)
    if not fits or len(space) > _MOST_SETTINGS:
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


def _check_ranks(path: str | Path, space: Space) -> None:
    """Refuse ranks that no stored tensor has.

    Raises:
        CheckpointError: If one is larger.
    """
    sizes = [size for header in open_weights(path).headers for one in header.tensors.values() for size in one["shape"]]
    config = read_config(path)
    ranks = [*space.supports[RANK].values, config.r, *config.rank_pattern.values()]
    if len(space) > _MOST_SETTINGS or not all(rank <= max(sizes, default=0) for rank in ranks):
        raise CheckpointError(
            f"{path} is damaged: it says that it holds ranks up to {max(ranks)}, and its largest tensor has "
            f"{max(sizes, default=0)} rows. Restore it from a copy, or save again."
        )


def _load_ranks(
    path: str | Path,
    stored: Mapping[str, Any],
    build: Callable[..., nn.Module] | None,
    model: nn.Module | str | Path | None,
    at: Mapping[str, Number] | str | None,
    space: Space | None,
    verify: bool,
) -> Any:
    """Open the adapter of a network that `dylora` has made, on its pretrained model."""
    with checkpoint.described(path):
        found, adapter = Space.from_json(stored["space"]), stored["adapter"]
        adapter["pattern"], adapter["scaling"], adapter["base"], adapter["identity"]["shapes"]
        adapter["identity"]["values"].items()
    if space is not None and space != found:
        raise CheckpointError(f"{path} holds {found!r}, not {space!r}. Load it with its own space, or train again.")
    if build is not None:
        raise CheckpointError(f"{path} holds an adapter. Give the model that it was trained on, as model=.")
    try:
        _check_ranks(path, found)
        if at is None:
            return reopened(path, found, adapter, model, read_weights(path, verify=verify))
        net = reopened(path, found, adapter, model)
        part = net.extract(found.setting(**(Setting.parse(at) if isinstance(at, str) else at)))
        load_adapter_state(part, builder_of_ranks(net).adapter, _adapter_corner(path, net, part, verify), path)
        return part
    except records.MALFORMED as error:
        if isinstance(error, SortedNetError):
            raise
        raise CheckpointError(
            f"The adapter at {path} is damaged, or its config of another version of PEFT ({error}). Restore it, or "
            "save again."
        ) from error


def _adapter_corner(path: str | Path, net: SortedNet, part: Any, verify: bool) -> dict[str, Tensor]:
    """Read no more of an adapter's weights than a sub-model has."""
    adapter = builder_of_ranks(net).adapter
    state = net.full.state_dict()
    paths = {id(tensor): name for name, tensor in state.items()}
    saved = {name: paths[id(tensor)] for name, tensor in adapter_state(net.full, adapter, state).items()}
    found = cuts(net.full, part, [*builder_of_ranks(net).layouts(net.full), *net.layouts])
    with checkpoint.corners(path, verify=verify) as (_, read):
        return {name: read(name, found[saved[name]], state[saved[name]].shape) for name in adapter_state(part, adapter)}


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


def _take_types(model: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Give a model's tensors the types that they are stored in, so that loading rounds nothing.

    Raises:
        CheckpointError: If what has a gradient is stored as whole numbers, or the other way round.
    """
    held = tensors_of(model)
    for name in held.keys() & types.keys():
        if _has_gradient(types[name]) != _has_gradient(held[name].dtype):
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


def _has_gradient(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex
