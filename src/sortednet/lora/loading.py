"""Open the saved adapter of every rank, whole or one rank of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, SortedNetError
from ..files import records
from ..files.weights import open_weights
from ..network import checkpoint
from ..network.checkpoint import read_weights
from ..network.loading import MOST_SETTINGS
from ..network.sorted_net import SortedNet
from ..space import Setting, Space
from ..views.layouts import cuts_by_shape
from .rank_space import RANK
from .ranks import builder_of_ranks, reopened
from .saving import adapter_state, load_adapter_state, read_config

__all__ = ["load"]


def load(
    path: str | Path,
    stored: Mapping[str, Any],
    *,
    build: Any,
    model: Any,
    at: Any,
    space: Space | None,
    layouts: Any,
    verify: bool,
) -> Any:
    """Open the adapter of a network that `dylora` has made, on its pretrained model; see `loading.load`.

    Args:
        path: The folder.
        stored: What describes the network.
        build: Nothing, which is for whole networks.
        model: The pretrained model, its folder or name; the one that the adapter names where None.
        at: As `loading.load`.
        space: As `loading.load`.
        layouts: Of no use: an adapter's are known.
        verify: As `loading.load`.
    """
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
    found = cuts_by_shape(net.full, part, [*builder_of_ranks(net).layouts(net.full), *net.layouts])
    with checkpoint.corners(path, verify=verify) as (_, read):
        return {name: read(name, found[saved[name]], state[saved[name]].shape) for name in adapter_state(part, adapter)}


def _check_ranks(path: str | Path, space: Space) -> None:
    """Refuse ranks that no stored tensor has.

    Raises:
        CheckpointError: If one is larger.
    """
    sizes = [size for header in open_weights(path).headers for one in header.tensors.values() for size in one["shape"]]
    config = read_config(path)
    ranks = [*space.supports[RANK].values, config.r, *config.rank_pattern.values()]
    if len(space) > MOST_SETTINGS or not all(rank <= max(sizes, default=0) for rank in ranks):
        raise CheckpointError(
            f"{path} is damaged: it says that it holds ranks up to {max(ranks)}, and its largest tensor has "
            f"{max(sizes, default=0)} rows. Restore it from a copy, or save again."
        )
