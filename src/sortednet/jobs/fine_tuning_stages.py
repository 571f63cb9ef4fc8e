"""The stages of a fine-tuning run, trained one after another with Hugging Face's trainer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ..data.text import EncodedText, TextData, compute_metrics
from ..errors import CheckpointError, ConfigError, TrainingError
from ..files import records
from ..files.processes import interruptible
from ..files.run_folder import (  # fmt: skip
    CHECKPOINTS,
    CONFIG,
    METRICS,
    STAGES,
    claim,
    clear_folder,
    metrics_text,
    refuse_finished,
    refuse_other_run,
    stages_of,
    writing,
)
from ..files.weights import is_there
from ..huggingface.resuming import remove_checkpoint, restore
from ..huggingface.trainer import SortedTrainer
from ..imports.packages import needs
from ..lora import base_of
from ..network.sorted_net import SortedNet
from ..training import importance
from ..training.objectives import Objective
from ..training.recipes import Recipe
from ..training.recipes.recipe import Part
from ..training.stages import train_stages
from ..views.batches import IGNORED
from .fine_tuning_config import FineTuningConfig
from .training_arguments import make_training_arguments, of_stage, that_matter

with needs("Fine-tuning", "cli,transformers,text"):
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, PrinterCallback, TrainerCallback

__all__ = [
    "Batch",
    "Progress",
    "Run",
    "collator",
    "fine_tune",
    "identity",
    "moved",
]

Batch = dict[str, Tensor]
Progress = Callable[[int, int, float | None], object]
Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What the stages of a run share.

    Attributes:
        config: What to do. Its paths are absolute.
        net: The network.
        data: The text.
        tokenizer: The tokenizer.
        encoded: The text as tokens.
        progress: Called with the updates of a stage that are done, their number, and the last loss logged.
        say: Called with what a user should know.
    """

    config: FineTuningConfig
    net: SortedNet
    data: TextData
    tokenizer: Any
    encoded: EncodedText
    progress: Progress | None
    say: Callable[[str], object]

    @property
    def output(self) -> Path:
        """Folder for all that the run writes."""
        return Path(self.config.output)


def fine_tune(run: Run, recipe: Recipe, resume: bool) -> None:
    """Train every stage of a recipe, and write the network and the tokenizer to `output/model`.

    A stage has an optimiser and a schedule of its own. All but the last keep their checkpoints, their metrics and the
    network as it was at their end under `output/stages`; `read_curves` joins the metrics.

    Args:
        run: The run.
        recipe: The method.
        resume: Whether to go on from what is in the run's folder; else it is removed.

    Raises:
        CheckpointError: If a checkpoint is damaged or of another run.
        ConfigError: If the stages cannot be trained as the run says.
        TrainingError: If a loss is not finite.
        KeyboardInterrupt: If the run was interrupted; what was trained is saved.
    """
    updates = _updates(run.config, recipe)

    def trainer_of(part: Part, objective: Objective) -> _StageTrainer:
        trainer = _trainer(run, recipe, part, objective, updates[part.number - 1])
        if part.teacher is not None:
            part.teacher.to(trainer.args.device)
        return _StageTrainer(run, part, trainer, f"Stage {part.number} of {len(updates)}" if len(updates) > 1 else "")

    def begin(first: _StageTrainer) -> None:
        _begin(run, first, resume)

    train_stages(recipe, run.net, run.output, trainer_of, begin=begin, seed=run.config.seed, resume=resume)


def _updates(config: FineTuningConfig, recipe: Recipe) -> list[int | None]:
    """Return the updates of each stage; None where the run counts epochs."""
    total = config.training.get("max_steps", -1)
    return [*recipe.updates(int(total))] if total > 0 else [None] * len(recipe.stages)


def _trainer(run: Run, recipe: Recipe, part: Part, objective: Objective, updates: int | None) -> SortedTrainer:
    config, several = run.config, len(recipe.stages) > 1
    training = of_stage(config.training, part.number, part.share, updates) if several else config.training
    trainer = SortedTrainer(
        run.net, make_training_arguments(training, part.folder / "checkpoints"), train_dataset=run.encoded.train,
        eval_dataset=run.encoded.evaluation, objective=objective, update=config.update, processing_class=run.tokenizer,
        data_collator=collator(run.data, run.tokenizer),
        compute_metrics=None if run.data.kind == "causal" else compute_metrics(run.data.metric),
    )  # fmt: skip
    if several and trainer.is_fsdp_enabled:
        raise ConfigError(
            f"recipe={recipe.name} has {len(recipe.stages)} stages, which need whole parameters in between, and FSDP "
            "shards them. Leave FSDP out, or choose a recipe of one stage."
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def collator(data: TextData, tokenizer: Any) -> Any:
    """Return what makes a batch of examples."""
    if data.kind == "causal":
        return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)


def moved(batch: Mapping[str, Tensor], net: SortedNet) -> Batch:
    """Return a batch on the network's device."""
    device = next(net.parameters()).device
    return {name: one.to(device) for name, one in batch.items()}


# What is there already


def _begin(run: Run, first: _StageTrainer, resume: bool) -> None:
    """Make a folder ready for a run, whose first stage is given."""
    config, output, trainer = run.config, run.output, first.trainer
    claim(output, [CONFIG, METRICS])
    going_on, order = resume and _to_go_on(config, output), trainer.args.train_sampling_strategy
    if going_on and order != "random":
        run.say(
            f"transformers draws the order of training.train_sampling_strategy={order} anew, so that the rest "
            "of this run may not be what it would have been without the interruption."
        )
    if not going_on and trainer.is_world_process_zero():
        _clear(output)
    if config.importance.kind != "none" and not going_on:
        _order_units(run, first)
    if trainer.is_world_process_zero():
        with writing(output) as save:
            save.write(CONFIG, records.to_text(asdict(config)).encode())


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("checkpoint-*/trainer_state.json"))


def _to_go_on(config: FineTuningConfig, output: Path) -> bool:
    """Return whether there is something to go on from, of the same run."""
    if not _has_checkpoint(output):
        refuse_finished(output)
        stages = list((output / STAGES).glob("*"))
        if not any(_has_checkpoint(stage) or is_there(stage / "model") for stage in stages):
            return False
    try:
        held = identity(records.read(output / CONFIG))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{output} holds checkpoints, but its {CONFIG} cannot be read ({error}). Restore it, give another output "
            "folder, or start anew without resuming."
        ) from None
    refuse_other_run(output, held, identity(json.loads(json.dumps(asdict(config)))))
    return True


def _clear(output: Path) -> None:
    """Leave nothing of an earlier run behind a fresh start."""
    for folder in (output, *stages_of(output)):
        claim(folder, ())
        for checkpoint in (folder / CHECKPOINTS).glob("checkpoint-*"):
            remove_checkpoint(checkpoint)
        clear_folder(folder)
        for below in (folder / CHECKPOINTS, folder):
            with suppress(OSError):
                below.rmdir()  # where nothing is left in it


# One stage


@final
class _StageTrainer:
    """Trains a stage with Hugging Face's trainer, and saves its metrics and the network.

    Args:
        run: The run.
        part: The stage.
        trainer: Its trainer.
        title: What is said when it starts.
    """

    def __init__(self, run: Run, part: Part, trainer: SortedTrainer, title: str) -> None:
        self.trainer, self.loss_fn = trainer, _own_loss
        self._run, self._part, self._title = run, part, title

    @property
    def has_begun(self) -> bool:
        """Whether there is a checkpoint to go on from, or the network as it was at the stage's end."""
        return self._is_done or _has_checkpoint(self._part.folder)

    @property
    def _is_done(self) -> bool:
        return not self._part.is_last and is_there(self._part.folder / "model")

    def first_batches(self, count: int) -> list[Batch]:
        """Return batches of training examples drawn at random."""
        rows, size = self._run.encoded.train, self.trainer.args.train_batch_size
        generator = torch.Generator().manual_seed(self._run.config.seed)
        order = torch.randperm(len(rows), generator=generator)[: count * size]
        make = self.trainer.data_collator
        return [moved(make([rows[int(i)] for i in part]), self._run.net) for part in torch.split(order, size)]

    def train(self, resume: bool) -> None:
        """Train the stage from its start or from its last checkpoint, or take up what it has left at its end."""
        if self._title:
            self._run.say(self._title)
        if resume and self._is_done:
            restore(self._run.net, self._part.folder / "model")
        else:
            self._train(resume and _has_checkpoint(self._part.folder))

    def _train(self, resumed: bool) -> None:
        trainer, part = self.trainer, self._part
        _give_head_its_rate(self._run.config, trainer)
        with interruptible() as interrupted:
            trainer.add_callback(_Watch(interrupted, self._run.progress))
            trainer.train(resume_from_checkpoint=resumed or None)
        state = trainer.state
        if trainer.is_world_process_zero():
            _write_lines(_lines(state.log_history), part.folder / METRICS)
        is_done = state.global_step >= state.max_steps
        if is_done:
            trainer.save_model(str(part.folder / "model"))
        if not is_done or (interrupted and not part.is_last):
            where = "" if part.is_last and part.number == 1 else f" of stage {part.number}"
            raise KeyboardInterrupt(f"interrupted after update {state.global_step}{where}, which is saved")


def _own_loss(output: Any, batch: Any) -> Tensor:
    loss: Tensor = output.loss
    return loss


def _order_units(run: Run, first: _StageTrainer) -> None:
    given = run.config.importance
    batches = first.first_batches(given.batches)
    found = importance.reorder(run.net, batches, _own_loss, kind=given.kind)  # type: ignore[arg-type]
    names = ", ".join(sorted({one.dimension for one in found}))
    run.say(f"Ordered the units of {names} by {given.kind}, on {len(batches)} batches.")


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
    names = {name for name, one in full.named_parameters() if id(one) in body}
    body |= {id(one) for (_, name), one in trainer.net.private.tensors().items() if name in names}
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


# Metrics


def _lines(history: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return what was logged in training as other runs write it, so that the report shows it."""
    found = []
    for one in history:
        if "loss" in one:
            terms = {name.removeprefix("loss_"): value for name, value in one.items() if name.startswith("loss_")}
            line = {"update": one["step"], "loss": one["loss"], "learning_rate": one.get("learning_rate")}
            found.append({**line, "terms": terms})
    return found


def _write_lines(lines: Sequence[Line], path: Path) -> None:
    with writing(path.parent) as save:
        save.write(path.name, metrics_text(lines))


def identity(described: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a described configuration what must be equal for a run to be continued."""
    since: dict[str, Any] = {
        "update": "standard",
        "recipe": None,
        "recipe_options": {},
    }  # of runs before there were these
    kept = since | {name: value for name, value in described.items() if name != "output"}
    training = dict(kept.pop("training", {}))
    return {**kept, "training": that_matter(training)}
