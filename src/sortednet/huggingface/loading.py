"""Open a saved network of a Hugging Face model, whole or one corner of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..network.builders import as_builder
from ..network.loading import open_network, space_of
from .families import read_builder
from .network import PretrainedNet

__all__ = ["from_pretrained", "load"]

from_pretrained = PretrainedNet.from_pretrained


def load(path: str | Path, stored: Mapping[str, Any], *, build: Any, model: Any, **options: Any) -> Any:
    """Open what `SortedNet.save_pretrained` wrote of such a network; see `loading.load`.

    Args:
        path: The folder.
        stored: What describes the network.
        build: A builder of the user's own, if one was given.
        model: Nothing, which is for adapters.
        options: What else `loading.load` was given.
    """
    if model is not None:
        raise CheckpointError(f"{path} holds a whole network and no adapter. Leave model= out.")
    if build is not None:
        return open_network(path, stored, as_builder(build), **options)
    if stored.get("sizes") != dict(space_of(path, stored).full):
        raise CheckpointError(f"{path} is damaged: its sizes are not those of its space. Restore it, or save again.")
    try:
        builder = read_builder(path, stored["class"], stored["sizes"], stored["readout"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not say which model it holds ({error!r}). Restore it, or save again."
        ) from None
    return open_network(path, stored, builder, make=PretrainedNet, **options)
