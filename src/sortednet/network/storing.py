"""The files of a network, written together: its weights, what describes it, and what its builder keeps beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import BuildError
from ..files.saving import saving
from ..files.weights import NETWORK, recognised
from ..views.layouts import Layout
from ..views.modes import is_sharded
from . import checkpoint
from .builders import PLAIN, Builder

__all__ = ["refuse_sharded", "write_network"]


def write_network(
    path: str | Path,
    builder: Builder,
    full: nn.Module,
    state: Mapping[str, Tensor],
    described: Mapping[str, Any],
    layouts: Sequence[Layout],
    private: Mapping[tuple[str, str], Tensor],
    *,
    cuts: Mapping[str, Any] | None = None,
    max_shard_size: int | str = checkpoint.SHARD_SIZE,
    kind: str = NETWORK,
) -> None:
    """Write a network; all of its files take their places, or none does.

    Args:
        path: The folder.
        builder: Of the network.
        full: Its full model.
        state: The full model's state dictionary.
        described: What describes the network beside its builder and layouts; plain JSON values.
        layouts: Of the network.
        private: The private tensors by setting and name.
        cuts: Where the tensors of sub-models lie, as `Cuts.to_json` returns it; None where layouts and shapes tell.
        max_shard_size: Most bytes of one file of weights.
        kind: What the folder will hold.

    Raises:
        CheckpointError: If the folder cannot be written, a file of somebody else's is in the way, or another process
            writes there.
        ConfigError: If `max_shard_size` is no size.
    """
    own = recognised(path) if kind == NETWORK else ()
    with saving(path, kind, recognised=own) as save:
        held = dict(described)
        held |= {**({} if builder.kind == PLAIN else {"kind": builder.kind}), **builder.to_json(full, state)}
        known = builder.layouts(full)
        state = builder.before_saving(full, save.beside, state)
        held["layouts"] = [one.to_json() for one in layouts if one not in known]
        if cuts is not None:
            held["cuts"] = dict(cuts)
        checkpoint.write(save, state, held, private, name=builder.weights, max_shard_size=max_shard_size)


def refuse_sharded(full: nn.Module, method: str) -> None:
    """Refuse what needs whole parameters, where they are sharded over processes.

    Raises:
        BuildError: If they are.
    """
    if is_sharded(full):
        raise BuildError(
            f"{method} needs whole parameters, and these are sharded over processes. Gather them first with "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict(net, options=StateDictOptions("
            "full_state_dict=True)), and load them into a SortedNet that is not sharded."
        )
