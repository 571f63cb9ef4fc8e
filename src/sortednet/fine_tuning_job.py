"""What the commands do with a pretrained model: fine-tune it as a network, and measure its sub-models."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, PrinterCallback, TrainerCallback
from transformers.utils import logging

from . import checkpoint, cost, importance
from .comparison import compare_submodels
from .errors import CheckpointError, ConfigError, TrainingError
from .evaluation import Measurement
from .fine_tuning import SortedTrainer
from .fine_tuning_config import FineTuningConfig
from .loading import load
from .lora import base_of
from .network import SortedNet
from .processes import alone, interruptible
from .similarity import Measure
from .space import Setting
from .table import Row, Table
from .text import EncodedText, TextData, compute_metrics
from .trainers import METRICS

__all__ = ["Opened", "evaluate", "inputs_of", "open_run", "quiet", "train"]

CONFIG = "config.json"
COMPARED, POSITIONS = 200, 64  # examples, and output positions of each, that sub-models are compared on
Batch = dict[str, Tensor]
Progress = Callable[[int, int, float | None], object]


# Training


def train(
    config: FineTuningConfig, *, resume: bool, progress: Progress | None = None, say: Callable[[str], object] = print
) -> SortedNet:
    """Fine-tune to the end, write the network and the tokenizer to `output/model`, and return the network.

    Args:
        config: What to do. Its paths are absolute.
        resume: Whether to go on from the last checkpoint in `output`; it starts anew where there is none. Starting anew
            removes the checkpoints, metrics and network of an earlier run there.
        progress: Called with the updates done, their number, and the last loss logged.
        say: Called with what a user should know.

    Raises:
        CheckpointError: If the model cannot be opened, or a checkpoint is damaged or of another run.
        ConfigError: If the configuration cannot be carried out.
        DataError: If the text is missing or unfit.
        TrainingError: If a loss is not finite.
        KeyboardInterrupt: If the run was interrupted; what was trained is saved.
    """
    output = Path(config.output)
    data = config.load_data()
    arguments = config.make_arguments(output / "checkpoints")
    with quiet():
        tokenizer = config.make_tokenizer()
        net = config.make_network(data, tokenizer)
        encoded = _encoded(config, data, tokenizer, say)
        with alone(output):
            trainer = SortedTrainer(
                net, arguments, train_dataset=encoded.train, eval_dataset=encoded.evaluation,
                objective=config.make_objective(net.space), update=config.update, processing_class=tokenizer,
                data_collator=_collator(data, tokenizer),
                compute_metrics=None if data.kind == "causal" else compute_metrics(data.metric),
            )  # fmt: skip
            going_on = resume and _to_go_on(config, output)
            order = arguments.train_sampling_strategy
            if going_on and order != "random":
                say(
                    f"transformers draws the order of training.train_sampling_strategy={order} anew, so that the rest "
                    "of this run may not be what it would have been without the interruption."
                )
            if not going_on and trainer.is_world_process_zero():
                _clear(output)
            if config.importance.kind != "none" and not going_on:
                _order_units(config, trainer, say)
            _give_head_its_rate(config, trainer)
            if trainer.is_world_process_zero():
                described = json.dumps(asdict(config), indent=1)
                checkpoint.write_bytes(output / CONFIG, described.encode())
            trainer.remove_callback(PrinterCallback)
            with interruptible() as interrupted:
                trainer.add_callback(_Watch(interrupted, progress))
                trainer.train(resume_from_checkpoint=going_on or None)
            if trainer.is_world_process_zero():
                _write_metrics(trainer.state.log_history, output / METRICS)
            if trainer.state.global_step < trainer.state.max_steps:
                raise KeyboardInterrupt(f"interrupted after update {trainer.state.global_step}, which is saved")
            trainer.save_model(str(output / "model"))
    return net


def _encoded(
    config: FineTuningConfig, data: TextData, tokenizer: Any, say: Callable[[str], object] | None = None
) -> EncodedText:
    """Turn the text into tokens, and say what is cut or left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoded = config.encode(data, tokenizer)
    cut = encoded.truncated["train"]
    if say is not None:
        for one in caught:
            say(str(one.message))
        if cut:
            say(f"{cut} of {len(encoded.train)} training examples are cut to text.max_length={config.text.max_length}.")
    return encoded


def _collator(data: TextData, tokenizer: Any) -> Any:
    if data.kind == "causal":
        return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
    return DataCollatorWithPadding(tokenizer)


def _to_go_on(config: FineTuningConfig, output: Path) -> bool:
    """Return whether there is a checkpoint to go on from, of the same run."""
    if not any((output / "checkpoints").glob("checkpoint-*/trainer_state.json")):
        if checkpoint.is_there(output / "model"):
            raise CheckpointError(
                f"{output / 'model'} holds a trained network, but no checkpoint is left to go on from. "
                "Give another output folder, or replace it by starting anew without resuming."
            )
        return False
    try:
        held = config.identity(json.loads((output / CONFIG).read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{output} holds checkpoints, but its {CONFIG} cannot be read ({error}). Restore it, give another output "
            "folder, or start anew without resuming."
        ) from None
    now = config.identity(json.loads(json.dumps(asdict(config))))
    changed = {name: (held.get(name), now.get(name)) for name in {*held, *now} if held.get(name) != now.get(name)}
    if changed:
        raise CheckpointError(
            f"{output} belongs to another run: (then, now) are {changed}. "
            "Give another output folder, restore the old configuration, or start anew without resuming."
        )
    return True


def _clear(output: Path) -> None:
    """Leave nothing of an earlier run behind a fresh start."""
    for stale in (output / "checkpoints").glob("checkpoint-*"):
        shutil.rmtree(stale)
    for stale in (output / METRICS, *(output / "model").glob("*")):
        stale.unlink(missing_ok=True)


def _order_units(config: FineTuningConfig, trainer: SortedTrainer, say: Callable[[str], object]) -> None:
    given, net, rows = config.importance, trainer.net, trainer.train_dataset
    generator = torch.Generator().manual_seed(config.seed)
    size = trainer.args.train_batch_size
    order = torch.randperm(len(rows), generator=generator)[: given.batches * size]
    parts = torch.split(order, size)
    batches = [_moved(trainer.data_collator([rows[int(i)] for i in part]), net) for part in parts]
    found = importance.reorder(net, batches, lambda output, _: output.loss, kind=given.kind)  # type: ignore[arg-type]
    names = ", ".join(sorted({one.dimension for one in found}))
    say(f"Ordered the units of {names} by {given.kind}, on {len(batches)} batches.")


def _give_head_its_rate(config: FineTuningConfig, trainer: SortedTrainer) -> None:
    """Part the optimiser's groups, so that the head has a learning rate of its own."""
    if config.head_learning_rate is None:
        return
    if trainer.is_fsdp_enabled:
        raise ConfigError("head_learning_rate cannot be used with FSDP, which makes the optimiser later. Leave it out.")
    full: Any = trainer.net.full
    if config.adapter is not None:
        full = base_of(full)
    base = getattr(full, full.base_model_prefix, None)
    inside = dict(base.named_parameters()) if isinstance(base, nn.Module) else {}
    body = {id(one) for name, one in inside.items() if "pooler" not in name.split(".")}
    optimizer = trainer.create_optimizer()
    for group in list(optimizer.param_groups):
        head = [one for one in group["params"] if id(one) not in body]
        group["params"] = [one for one in group["params"] if id(one) in body]
        if head:
            optimizer.add_param_group({**group, "params": head, "lr": config.head_learning_rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


@final
class _Watch(TrainerCallback):  # type: ignore[misc]
    """Shows progress, stops at a signal once the update is saved, and at a loss that is not finite."""

    def __init__(self, interrupted: Sequence[int], progress: Progress | None) -> None:
        self.interrupted, self.progress = interrupted, progress
        self.loss: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True
        if self.interrupted or state.global_step == state.max_steps:
            control.should_log = True
        self._show(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        self.loss = logs.get("loss", self.loss)
        if self.loss is not None and not math.isfinite(self.loss):
            raise TrainingError(
                f"The loss is {self.loss} at update {state.global_step}. Lower training.learning_rate, or set "
                "training.max_grad_norm."
            )
        self._show(state)

    def _show(self, state: Any) -> None:
        if self.progress is not None and state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps, self.loss)


def _write_metrics(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write what was logged as other runs do, so that the report shows it."""
    lines = []
    for one in history:
        if "loss" in one:
            terms = {name.removeprefix("loss_"): value for name, value in one.items() if name.startswith("loss_")}
            line = {"update": one["step"], "loss": one["loss"], "learning_rate": one.get("learning_rate")}
            lines.append(json.dumps({**line, "terms": terms}) + "\n")
    checkpoint.write_bytes(path, "".join(lines).encode())


# Measuring


@dataclass(frozen=True)
class Opened:
    """A trained run.

    Attributes:
        config: Its configuration.
        data: Its text.
        tokenizer: Its tokenizer.
        net: Its network, in evaluation mode.
        examples: The evaluation examples as tokens.
    """

    config: FineTuningConfig
    data: TextData
    tokenizer: Any
    net: SortedNet
    examples: Sequence[Mapping[str, Any]]

    def batch(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return examples as one batch, on the network's device."""
        return _moved(_collator(self.data, self.tokenizer)(list(examples)), self.net)

    def batches(self, examples: Sequence[Mapping[str, Any]], size: int) -> Iterator[Batch]:
        """Yield examples in batches of equally long ones."""
        ordered = sorted(examples, key=_tokens)
        for start in range(0, len(ordered), size):
            yield self.batch(ordered[start : start + size])


def open_run(config: FineTuningConfig, run: Path) -> Opened:
    """Open a trained run: its network, tokenizer and evaluation data.

    Raises:
        CheckpointError: If the network is missing or damaged.
        DataError: If the text is missing or unfit.
    """
    data = config.load_data()
    with quiet():
        own = replace(config, pretrained=replace(config.pretrained, path=str(run / "model")))
        tokenizer = own.make_tokenizer()
        base = None if config.adapter is None else config.make_base(data, tokenizer)
        net = load(run / "model", space=config.make_space(), model=base)
        examples = list(_encoded(config, data, tokenizer).evaluation)
    return Opened(config, data, tokenizer, net.to(torch.accelerator.current_accelerator() or "cpu").eval(), examples)


def evaluate(
    run: Opened,
    folder: Path,
    *,
    measure: Collection[Measurement] = ("flops", "latency", "memory"),
    batch_size: int = 32,
    cost_batch: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Table:
    """Measure every sub-model, and write how close each is to the full model beside the table.

    Args:
        run: The run.
        folder: Where `similarity-kl.json` and `similarity-cosine.json` go.
        measure: Which costs beside the parameters, on examples of median length: FLOPs of one example, latency and
            memory of `cost_batch` examples.
        batch_size: Examples in a batch.
        cost_batch: Examples that latency and memory are measured on.
        progress: Called with the number of sub-models done and their total.

    Returns:
        One row for each sub-model. The quality is the task's metric in points, or for causal language models the mean
        loss over answer tokens in nats, where lower is better.
    """
    net, causal = run.net, run.data.kind == "causal"
    with quiet():
        qualities = _losses(run, batch_size) if causal else _scores(run, batch_size)
        whole = qualities[net.space.full]
        middle = max(0, min(len(run.examples) // 2, len(run.examples) - cost_batch))
        typical = sorted(run.examples, key=_tokens)[middle : middle + cost_batch]
        rows = []
        for setting in net.space:
            recovery = 100 * qualities[setting] / whole if whole > 0 and not causal else None
            rows.append(
                Row(
                    setting,
                    qualities[setting],
                    cost.count_parameters(net, setting),
                    recovery=recovery,
                    **_costs(net, setting, inputs_of(run.batch(typical)), inputs_of(run.batch(typical[:1])), measure),
                )
            )
            if progress is not None:
                progress(len(rows), len(net.space))
        _compare(run, folder, batch_size)
    return Table(rows, metric="loss" if causal else run.data.metric, higher_is_better=not causal)


def _costs(
    net: SortedNet, setting: Setting, inputs: Batch, example: Batch, measure: Collection[Measurement]
) -> dict[str, Any]:
    """Return what the extracted model costs."""
    module = net.extract(setting).eval()
    return {
        "flops": cost.count_flops(net, setting, example) if "flops" in measure else None,
        "latency_ms": cost.measure_latency(module, inputs) if "latency" in measure else None,
        "memory_bytes": cost.measure_memory(module, inputs) if "memory" in measure else None,
    }


def _scores(run: Opened, batch_size: int) -> dict[Setting, float]:
    """Return the metric of every sub-model, NaN where a prediction is not finite."""
    settings, outputs, labels = list(run.net.space), defaultdict(list), []
    with torch.no_grad():
        for batch in run.batches(run.examples, batch_size):
            labels.append(batch["labels"].cpu())
            found = run.net(**inputs_of(batch), settings=settings, inference=True)
            for setting, output in zip(settings, found, strict=True):
                outputs[setting].append(output.logits.float().cpu())
    metric, given = compute_metrics(run.data.metric), torch.cat(labels)
    qualities = {}
    for setting in settings:
        logits = torch.cat(outputs[setting])
        predicted = SimpleNamespace(predictions=logits, label_ids=given)
        qualities[setting] = metric(predicted)[run.data.metric] if bool(logits.isfinite().all()) else math.nan
    return qualities


def _losses(run: Opened, batch_size: int) -> dict[Setting, float]:
    """Return the mean loss over answer tokens of every sub-model, in nats."""
    groups: dict[tuple[Any, ...], list[Setting]] = defaultdict(list)
    for setting in run.net.space:  # those that share a forward; not all at once, since some outputs hold logits
        groups[tuple(value for name, value in setting.items() if name not in run.net.exits)].append(setting)
    sums, count = dict.fromkeys(run.net.space, 0.0), 0
    with torch.no_grad():
        for batch in run.batches(run.examples, batch_size):
            tokens = int((batch["labels"][:, 1:] != -100).sum())
            count += tokens
            for settings in groups.values():
                for setting, output in zip(settings, run.net(**batch, settings=settings, inference=True), strict=True):
                    sums[setting] += float(output.loss) * tokens if tokens else 0.0
    return {setting: total / count for setting, total in sums.items()}


def _compare(run: Opened, folder: Path, batch_size: int) -> None:
    """Write how close sub-models are to the full model, where outputs are distributions."""
    for stale in folder.glob("similarity-*.json"):
        stale.unlink()
    if run.data.kind == "regression" or len(run.net.space) == 1:
        return
    configs: list[Any] = [run.net.skeleton(setting).module.config for setting in run.net.space]
    widths = {getattr(one.get_text_config(), "hidden_size", None) for one in configs}
    measures: tuple[Measure, ...] = ("kl", "cosine") if len(widths) == 1 else ("kl",)
    batches = list(run.batches(run.examples[:COMPARED], batch_size))
    found = compare_submodels(run.net, batches, measures=measures, max_positions=POSITIONS)
    for name, one in found.items():
        one.to_json(folder / f"similarity-{name}.json")


def _tokens(example: Mapping[str, Any]) -> int:
    return len(example["input_ids"])


def inputs_of(batch: Batch) -> Batch:
    """Return a batch without its labels."""
    return {name: one for name, one in batch.items() if name != "labels"}


def _moved(batch: Mapping[str, Tensor], net: SortedNet) -> Batch:
    device = next(net.parameters()).device
    return {name: one.to(device) for name, one in batch.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Let the command speak alone: transformers prints progress bars and reports of its own."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
