"""What a fine-tuning run goes on from: its last finished checkpoint, what it had drawn, and its weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import records
from ..files.manifest import MANIFEST, Manifest, check_unchanged
from ..files.run_folder import refuse_links, refuse_other_run
from ..files.saving import adopt, remove_own, saving
from ..files.weights import NETWORK, recognised
from ..files.writing import write_bytes
from ..network import checkpoint
from ..network.sorted_net import SortedNet
from ..views.buffers import Private

__all__ = [
    "last_checkpoint",
    "pinned_where_it_helps",
    "read_draws",
    "remove_checkpoint",
    "restore",
    "rotate",
    "seal",
    "without_rotation",
    "write_beside",
    "write_draws",
    "write_gathered",
]

DRAWS = "sortednet_objective.json"
_LAST = "trainer_state.json"  # that transformers writes


def last_checkpoint(output: Path) -> str:
    """Return the folder of the last checkpoint that was written to its end.

    Raises:
        CheckpointError: If there is none.
    """
    for folder in reversed(_checkpoints(output)):
        try:
            records.whole(records.read(folder / _LAST)["global_step"])
        except (OSError, *records.MALFORMED):
            warnings.warn(f"{folder} was not finished when its run was killed; an earlier one is taken.", stacklevel=3)
            continue
        try:
            check_unchanged(folder, Manifest.read(folder).files, complete=True)
            checkpoint.read_weights(folder)
            checkpoint.read_private(folder)
        except CheckpointError as error:
            warnings.warn(f"{error} An earlier checkpoint is taken.", stacklevel=3)
            continue
        return str(folder)
    raise CheckpointError(f"There is no checkpoint in {output}. Give the folder of one, or start without resuming.")


def _checkpoints(output: Path) -> list[Path]:
    found = {int(one.name[11:]): one for one in output.glob("checkpoint-*") if one.name[11:].isdigit()}
    return [folder for _, folder in sorted(found.items())]


def write_beside(folder: Path, trainer: Any) -> None:
    """Write what a trainer keeps beside the network: its tokenizer or the like, and its arguments."""
    processors = (trainer.processing_class, getattr(trainer.data_collator, "tokenizer", None))
    with saving(folder, NETWORK, adds=True) as save:
        for one in [one for one in processors if one is not None][:1]:
            one.save_pretrained(save.beside, **_flat(one))
        torch.save(trainer.args, save.beside / "training_args.bin")


def _flat(processor: Any) -> dict[str, bool]:
    """Several chat templates of a tokenizer would be written into a folder of their own."""
    return {"save_jinja_files": False} if hasattr(processor, "chat_template") else {}


def seal(folder: Path) -> None:
    """Note all files of a finished checkpoint, those that transformers wrote too, so that damage is noticed later."""
    adopt(folder, NETWORK, sorted(one.name for one in folder.iterdir() if one.is_file() and one.name != MANIFEST))


def rotate(output: Path, keep: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints that this library wrote; folders of other tools beside them stay.

    Args:
        output: Where they are.
        keep: How many stay, the newest and the best always; all where None.
        best: The folder of the best.
    """
    own = [folder for folder in _checkpoints(output) if (folder / DRAWS).is_file()]
    kept = {own[-1], Path(best)} if own and best else {*own[-1:]}
    spare = [folder for folder in own if folder not in kept]
    for folder in spare[: len(own) - max(keep, len(kept))] if keep else []:
        remove_checkpoint(folder)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint of a fine-tuning run, and nothing else that lies in its folder."""
    refuse_links(folder)
    if (folder / DRAWS).is_file():
        remove_own(folder, NETWORK, recognised=recognised(folder, trained=True))


@contextmanager
def without_rotation(args: Any) -> Iterator[int | None]:
    """Keep transformers from removing checkpoints, which takes whatever is named like one.

    Args:
        args: Training arguments.

    Yields:
        How many they say are to be kept.
    """
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        yield limit
    finally:
        args.save_total_limit = limit


@contextmanager
def pinned_where_it_helps(args: Any) -> Iterator[None]:
    """Ask for pinned memory only where there is an accelerator to copy to; torch warns otherwise.

    Args:
        args: Training arguments.
    """
    given = args.dataloader_pin_memory
    args.dataloader_pin_memory = given and torch.accelerator.is_available()
    try:
        yield
    finally:
        args.dataloader_pin_memory = given


def write_draws(folder: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write what a run has drawn so far.

    Args:
        folder: The checkpoint.
        run: What must be equal for the run to be continued; plain JSON values.
        state: The objective's state.
    """
    refuse_links(folder, folder.parent)
    write_bytes(folder / DRAWS, records.to_text({**run, "state": state}).encode())


def read_draws(folder: Path, run: Mapping[str, Any]) -> Any:
    """Return what `write_draws` has written, the objective's state.

    Raises:
        CheckpointError: If it is missing, damaged or of another run.
    """
    try:
        held = records.read(folder / DRAWS)
        state = held.pop("state")
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no checkpoint of a sorted trainer: it has no {DRAWS}. Give one that is, or start from its "
            "weights: SortedNet.from_pretrained(...)."
        ) from None
    except (OSError, *records.MALFORMED) as error:
        raise CheckpointError(f"{folder / DRAWS} is damaged ({error!r}). Take an earlier checkpoint.") from None
    refuse_other_run(folder, {name: held.get(name) for name in run}, run, "Give the run its own, or start anew.")
    return state


def write_gathered(net: SortedNet, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write a sharded network whose state dictionary was gathered.

    Args:
        net: The network.
        folder: Where to.
        state: The whole network's state dictionary.
    """
    own = net.private
    private = Private(own.patterns, own.policy, own.full, own.trainable)
    private.load_state_dict(_below("private.", state))
    net.write(folder, _below("full.", state), private=private.tensors())


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def restore(net: SortedNet, folder: Path) -> None:
    """Put saved weights into a network, in place, so that an optimiser keeps its parameters.

    Raises:
        CheckpointError: If the weights are missing, damaged or of another network.
    """
    weights = checkpoint.read_weights(folder)
    net.builder.restore(net.full, weights, folder)
    own = net.private.tensors()
    for key, tensor in checkpoint.read_private(folder).items():
        if key in own:
            with torch.no_grad():
                own[key].copy_(tensor)
        else:
            net.private.restore({key: tensor})
