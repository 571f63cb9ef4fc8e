"""A training loop on Accelerate: precision, schedule, clipping, checkpoints, exact resume, progress and metrics."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import CheckpointError, DataError, SortedNetError
from ..files import records
from ..files.processes import alone, interruptible
from ..files.run_folder import (
    CHECKPOINT,
    CHECKPOINTS,
    CONFIG,
    METRICS,
    MODEL,
    Log,
    checkpoints_of_earlier_version,
    claim,
    clear_folder,
    refuse_finished,
    refuse_other_run,
    writing,
)
from ..files.saving import remove_own, saving, set_aside
from ..files.tensor_file import damaged
from ..imports.names import Reduction
from ..imports.packages import needs
from ..network import checkpoint
from ..network.sorted_net import SortedNet
from .config import TrainingConfig
from .device import lies_channels_last, mixed_precision, usable_device
from .objectives import Batch, LossFunction, Objective
from .steps import step

with needs("A trainer", "train"):
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import send_to_device
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ..imports.privates.accelerate import own_state

__all__ = ["Trainer", "TrainingConfig"]


class Trainer:
    """Trains a network and keeps what is needed to go on after an interruption.

    All randomness of an update is a function of the seed and the update's number, so a resumed run takes the very steps
    an uninterrupted one would have taken, drawn settings included.

    Args:
        net: The network.
        objective: Which sub-models each batch trains.
        loss_fn: Mean loss of an output and the targets.
        data: A map-style data set of `(inputs, ..., target)` or mappings, or a tuple of tensors of equal length.
        config: How to train.
        output: Folder for metrics, checkpoints and the trained network.
        accumulation: Whether the gradients of accumulated batches are averaged or summed.
        title: What the progress bar says.
        transform: Changes a batch before use, given it and a seeded generator, such as random shifts.
        collate: Joins the examples of a batch, or takes what the data set's own `__getitems__` returned; torch's
            default where left out.
        workers: Processes that fetch batches beside this one, at least 0; the batches are the same.
        description: Whatever else must be the same for a run to be continued, such as its data; plain JSON values. It
            is written to `output/config.json`.
        console: Where progress is shown; standard error where left out.

    Raises:
        DataError: If the data are empty or hold fewer examples than a batch.
        ConfigError: If the network cannot lie in memory as is asked for.
    """

    def __init__(
        self,
        net: SortedNet,
        objective: Objective,
        loss_fn: LossFunction,
        data: Dataset[Any] | Sequence[Tensor],
        config: TrainingConfig,
        output: str | Path,
        *,
        accumulation: Reduction = "mean",
        title: str = "training",
        transform: Callable[[Any, torch.Generator], Batch] | None = None,
        collate: Callable[[Any], Batch] | None = None,
        workers: int = 0,
        description: Mapping[str, Any] | None = None,
        console: Console | None = None,
    ) -> None:
        self.net, self.objective, self.loss_fn, self.config = net, objective, loss_fn, config
        self.output = Path(output)
        if isinstance(data, DataLoader):
            raise DataError("A DataLoader has an order of its own. Give its data set; the Trainer makes the batches.")
        tensors = isinstance(data, (tuple, list)) and all(isinstance(one, Tensor) for one in data)
        held: Any = _Tensors(data) if tensors else data  # type: ignore[arg-type]
        self.description = json.loads(json.dumps(description or {}))
        self.data = held
        length = len(held)
        self._device = usable_device()
        self._mixed = mixed_precision(config.precision, self._device)
        self._channels_last = lies_channels_last(config.channels_last, config.precision, self._mixed, net)
        self.transform, self.accumulation, self.title = transform, accumulation, title
        self.collate, self.workers = collate, workers
        self._damaged: set[Path] = set()
        self.console = console or Console(stderr=True)
        if length < config.batch_size:
            raise DataError(
                f"The data hold {length} examples, fewer than a batch of {config.batch_size}. "
                "Lower training.batch_size, or give more data."
            )

    @property
    def has_begun(self) -> bool:
        """Whether there is a checkpoint in `output` to go on from."""
        return bool(self._found())

    def train(self, resume: bool = True) -> SortedNet:
        """Train to the end, write the network to `output/model`, and return it.

        Args:
            resume: Whether to go on from the last checkpoint in `output`; it starts anew where there is none. Starting
                anew removes the checkpoints, metrics and network of an earlier run there.

        Returns:
            The trained network.

        Raises:
            TrainingError: If a loss is not finite.
            CheckpointError: If a checkpoint is damaged or of another run, the disk is full, or another process trains
                in `output`.
        """
        with alone(self.output), own_state():
            claim(self.output, [METRICS, CONFIG])
            return self._train(resume)

    def _train(self, resume: bool) -> SortedNet:
        config = self.config
        accelerator = Accelerator(
            # Said outright: where there is no accelerator, Accelerate would take each process for a run of its own.
            cpu=self._device.type == "cpu",
            mixed_precision=self._mixed,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=str(self.output) if config.tensorboard else None,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if config.tensorboard:
            accelerator.init_trackers("tensorboard")
        if config.compile:
            self.net.compile()
        if self._channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model, optimizer = accelerator.prepare(self.net.train(), self._optimizer())
        if resume and not self._found():
            refuse_finished(self.output)
        start = self._resume(model, optimizer) if resume else 0
        if accelerator.is_main_process:
            self._begin(start)
        log = Log(self.output / METRICS, start, enabled=accelerator.is_main_process)
        batches = self._batches(start, accelerator.device, accelerator.process_index, accelerator.num_processes)
        with self._progress(accelerator.is_main_process) as progress, interruptible() as interrupted:
            task = progress.add_task(self.title, total=config.updates, completed=start, loss="-")
            for update in range(start, config.updates):
                held = [next(batches) for _ in range(config.accumulate)]
                torch.manual_seed(_seed(config.seed, "model", update, accelerator.process_index))
                for group in optimizer.param_groups:
                    group["lr"] = config.rate_at(update)
                result = step(
                    self.net, self.objective, optimizer, held, self.loss_fn, accumulate=True, update=config.update,
                    accumulation=self.accumulation, max_norm=config.max_norm, model=model,
                    backward=accelerator.backward,
                )  # fmt: skip
                log.add(result.terms, result.loss)
                done = update + 1
                if done % config.log_every == 0 or done == config.updates:
                    line = log.write(done, config.rate_at(update))
                    accelerator.log({"loss": line["loss"], "learning_rate": line["learning_rate"]}, step=done)
                    progress.update(task, completed=done, loss=f"{line['loss']:.4f}")
                if done % config.checkpoint_every == 0 or done == config.updates or interrupted:
                    self._save(model, optimizer, done, accelerator.is_main_process)
                if interrupted and done < config.updates:
                    raise KeyboardInterrupt(f"interrupted after update {done}, which is saved")
        for tracker in accelerator.trackers:
            tracker.finish()  # `end_training` would destroy the process group, which is the caller's
        if accelerator.is_main_process:
            self.net.save_pretrained(self.output / MODEL)
        return self.net

    def _begin(self, start: int) -> None:
        """Leave nothing of an earlier run behind a fresh start, and write what describes this one."""
        if start == 0:
            clear_folder(self.output)
        if self.description:
            with writing(self.output) as save:
                save.write(CONFIG, records.to_text(self.description).encode())

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        rate, decay = self.config.learning_rate, self.config.weight_decay
        if self.config.optimizer == "sgd":
            return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)

    def first_batches(self, count: int) -> list[Batch]:
        """Return the first batches that will be trained on, whole, where the network is.

        Args:
            count: How many, at least 1.
        """
        return list(islice(self._batches(0, next(self.net.parameters()).device), count))

    def _batches(self, start: int, device: torch.device, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
        """Yield a process's share of every batch from an update on."""
        config = self.config
        order = _Order(len(self.data), config.batch_size, config.seed, start * config.accumulate, rank, processes)
        collate = self.collate or (_as_is if isinstance(self.data, _Tensors) else default_collate)
        loader: Iterable[Any] = DataLoader(self.data, batch_sampler=order, collate_fn=collate, num_workers=self.workers)
        for number, batch in enumerate(loader, start * config.accumulate):
            if self.transform is not None:
                generator = torch.Generator().manual_seed(_seed(config.seed, "transform", number, rank))
                batch = self.transform(batch, generator)
            yield send_to_device(batch, device, non_blocking=True)

    def _progress(self, shown: bool) -> Progress:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        return Progress(*columns, console=self.console, disable=not shown)

    def _identity(self) -> dict[str, Any]:
        """Describe what must be equal for a run to be continued; how often it saves and logs may change."""
        free = {"checkpoint_every", "keep", "log_every", "tensorboard", "compile"}
        kept = {name: value for name, value in asdict(self.config).items() if name not in free}
        kept |= {"precision": self._mixed, "channels_last": self._channels_last}
        described = {name: value for name, value in self.description.items() if name not in ("training", "output")}
        return {"space": self.net.space.to_json(), "training": kept, "description": described}

    def _save(self, model: nn.Module, optimizer: torch.optim.Optimizer, update: int, main: bool) -> None:
        """Write one file that holds all that a resumed run needs; no pickle."""
        weights, state = get_state_dict(model, _inner(optimizer), options=_OPTIONS)
        if not main:
            return
        tensors: dict[str, Any] = {f"model|{name}": value for name, value in weights.items()}
        held: dict[str, Any] = dict(state)
        for name, values in held["state"].items():
            tensors.update({f"optimizer|{name}|{key}": torch.as_tensor(value) for key, value in values.items()})
        described = {
            "update": update,
            "objective": self.objective.state_dict(),
            "param_groups": held["param_groups"],
            **self._identity(),
        }
        folder, name = self._checkpoints(), f"update-{update:08d}.safetensors"
        if folder / name in self._damaged:
            set_aside(folder / name)
        known = checkpoints_of_earlier_version(self.output)
        with saving(folder, CHECKPOINT, adds=True, recognised=known) as save, save.opened(name) as file:
            checkpoint.write_tensors(file, tensors, {"run": json.dumps(described)})
        remove_own(folder, CHECKPOINT, [one.name for one in self._found()[: -self.config.keep]])

    def _resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Take over the last checkpoint and return the number of updates done."""
        taken = self._last()
        if taken is None:
            return 0
        file, weights, state, described = taken
        own = self._identity()
        refuse_other_run(file, {name: described[name] for name in own}, own)
        _refuse_other_precision(file, self.net, weights, state["state"])
        try:
            with checkpoint.fitting(file):
                set_model_state_dict(model, weights, options=_OPTIONS)
                # What had no gradient yet has no state either.
                set_optimizer_state_dict(model, _inner(optimizer), state, options=replace(_OPTIONS, strict=False))
            self.objective.load_state_dict(described["objective"])
        except (*records.MALFORMED, AssertionError) as error:
            if isinstance(error, SortedNetError):
                raise
            raise CheckpointError(f"{file} does not fit the run ({error!r}). Take an earlier checkpoint.") from None
        return int(described["update"])

    def _last(self) -> tuple[Path, dict[str, Any], dict[str, Any], dict[str, Any]] | None:
        """Return the last checkpoint that is as it was written, or None where there is none at all.

        Raises:
            CheckpointError: If all are damaged.
        """
        failure = None
        for path in reversed(self._found()):
            try:
                tensors, metadata = checkpoint.read_file(path)
                described = records.parse(metadata["run"])
                weights, state = _parted(tensors, described)
                if not all(isinstance(described[name], dict) for name in self._identity()):
                    raise TypeError("it does not say what it is of")
            except (CheckpointError, *records.MALFORMED) as error:
                failure = error if isinstance(error, CheckpointError) else damaged(path, repr(error))
                self._damaged.add(path)
                self.console.print(f"{failure} The one before is taken.", style="yellow", markup=False)
                continue
            return path, weights, state, described
        if failure is not None:
            raise failure
        return None

    def _checkpoints(self) -> Path:
        return self.output / CHECKPOINTS

    def _found(self) -> list[Path]:
        return sorted(self._checkpoints().glob("update-*.safetensors"))


def _parted(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state of the model and that of the optimiser.

    Raises:
        ValueError: If it is of another kind.
    """
    if type(described["update"]) is not int or described["update"] < 0 or not isinstance(described["objective"], dict):
        raise ValueError("it does not say which update it is of")
    weights: dict[str, Any] = {}
    groups = [dict(group) for group in described["param_groups"]]
    state: dict[str, Any] = {"state": defaultdict(dict), "param_groups": groups}
    for name, tensor in tensors.items():
        match name.split("|"):
            case ["model", path]:
                weights[path] = tensor
            case ["optimizer", path, key]:
                state["state"][path][key] = tensor
            case _:
                raise ValueError(f"it holds a tensor {name[:60]!r}")
    for group in groups:
        group.update({key: tuple(value) for key, value in group.items() if key == "betas"})
    return weights, state


def _refuse_other_precision(
    file: Path, net: SortedNet, weights: Mapping[str, Tensor], state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Refuse weights, and an optimiser's state, that loading would round or widen without a word.

    Raises:
        CheckpointError: If a tensor of the checkpoint is of another precision than the network's.
    """
    for name, own in net.state_dict().items():
        held = {name: weights.get(name, own)}
        held |= {f"the optimiser's {key} of {name}": one for key, one in state.get(name, {}).items() if key != "step"}
        for what, one in held.items():
            if one.dtype != own.dtype and one.shape == own.shape:
                raise CheckpointError(
                    f"{file} holds {what} in {_shown(one.dtype)}, and the network is in {_shown(own.dtype)}. Bring the "
                    "network into the precision that it was trained in, or start anew: resume=False."
                )


def _shown(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)


class _Tensors(Dataset[Any]):
    """Examples held as tensors of equal length, fetched a batch at a time."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        lengths = {len(tensor) for tensor in self.tensors}
        if len(lengths) != 1:
            raise DataError(f"The tensors have lengths {[len(t) for t in self.tensors]}. Give tensors of equal length.")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return tuple(tensor[indices] for tensor in self.tensors)


class _Order:
    """Indices of batch after batch, without end: each pass over the data in an order of its own."""

    def __init__(self, length: int, batch_size: int, seed: int, start: int, rank: int, processes: int) -> None:
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start
        self.rank, self.processes = rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        per_pass = self.length // self.batch_size
        first = self.start
        while True:
            turn, place = divmod(first, per_pass)
            generator = torch.Generator().manual_seed(_seed(self.seed, "order", turn))
            order = torch.randperm(self.length, generator=generator)
            for batch in order[: per_pass * self.batch_size].view(per_pass, -1)[place:]:
                yield batch[self.rank :: self.processes].tolist()
            first = (turn + 1) * per_pass


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def _as_is(batch: Any) -> Any:
    return batch


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]
