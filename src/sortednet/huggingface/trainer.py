"""Sorted fine-tuning with Hugging Face's `Trainer`, and with trainers made of it, such as TRL's `SFTTrainer`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..imports.names import UpdateRule
from ..imports.packages import needs
from ..imports.privates.trl import evaluation_metrics, holds_pairs, loss_is_the_models, unsortable
from ..network.cache_names import uncached
from ..network.sorted_net import SortedNet
from ..space import Number, Setting
from ..training.names import objective_of
from ..training.objectives import Objective, Term, total
from ..training.sampling import Sampler
from ..training.steps import Held, check_rule, held_back, mask_gradients, put_back
from . import resuming
from .network import PretrainedNet
from .own_losses import SubModule, check_objective, defines, train_each
from .wrapping import At, Unlabelled, check_data, check_model, decayed, parts_unnamed

with needs("Fine-tuning", "transformers"):
    from transformers import Trainer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils.generic import can_return_loss, find_labels

__all__ = ["SortedTrainer", "SortedTrainerMixin"]


class SortedTrainerMixin:
    """Makes a `Trainer` of Hugging Face, or one derived from it, train every sub-model of a network at once.

    Put it first: `class SortedSFTTrainer(SortedTrainerMixin, SFTTrainer): pass`. All that the trainer does stays: its
    schedule, clipping, precision, activation checkpointing, logging, DDP and FSDP2. What changes:

    - The loss of a training batch is the objective's: a mean over its examples, divided by the accumulation steps.
      Where sub-models differ in depth alone, they share one forward.
    - Evaluation runs every sub-model. `eval_loss` and all other ordinary names are the full model's;
      `eval_num_hidden_layers=2_loss` is a sub-model's, and `eval_mean_loss` the mean over them.
    - A `compute_loss` or `training_step` of your own, or of a trainer such as TRL's for preferences, is called for each
      sub-model that the objective asks for: the model that it is handed is the sub-model, with its part of the batch.
    - Logs also hold each sub-model's training loss since the last log, such as `loss_num_hidden_layers=2`.
    - A checkpoint is what plain `from_pretrained` opens as the full model, and `sortednet.load` as the network. It
      holds what was drawn, so that a resumed run draws what an uninterrupted one would have drawn.

    Distillation follows logits, so that exits of a language model are read whole then (`net.head` is None).
    To compile, call `net.compile()` first: `torch_compile` of the arguments compiles the network as one, anew for each
    sub-model until it gives up.

    Args:
        args: Those of the trainer. Its model must be a `SortedNet`.
        objective: Which sub-models a batch trains, or its name as `sortednet list objectives` shows it; `per_example`.
        sampler: What an objective given by name draws from, or its name as `sortednet list samplers` shows it, seeded
            by the training arguments' `seed`; `stratified`.
        eval_settings: The sub-models to evaluate beside the full model; every one of the space where left out.
        update: What a step of the optimiser may change; see `sortednet.step`.
        kwargs: Those of the trainer, by name.

    Raises:
        ConfigError: If the model is no `SortedNet`, a name is unknown, the objective is of another space, or the
            training arguments ask for what sub-models cannot do.
        SettingError: If one of `eval_settings` is not in the space.
        DataError: If the training data are empty.

    Source:
        Kavehzadeh et al. (2024), "Sorted LLaMA", Findings of EACL 2024; Valipour (2024), PhD thesis, ch. 5, Eq. 5.1:
        Sorted Fine-Tuning (SoFT), the mean of the losses of all sub-models, here `summation`. The default is ours.

    Example:
        >>> import tempfile
        >>> from sortednet import SortedNet
        >>> from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
        >>> config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        ...                      num_attention_heads=2)
        >>> net = SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=[1, 2])
        >>> data = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 4
        >>> args = TrainingArguments(tempfile.mkdtemp(), max_steps=1, report_to="none", save_strategy="no",
        ...                          use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True)
        >>> trainer = SortedTrainer(net, args, train_dataset=data, eval_dataset=data)
        >>> result = trainer.train()
        {'train_runtime': ...
        >>> [name for name in trainer.evaluate() if name.endswith("loss")]
        {'eval_loss': ...
        ['eval_loss', 'eval_num_hidden_layers=1_loss', 'eval_num_hidden_layers=2_loss', 'eval_mean_loss']
    """

    # Those of the trainer.
    accelerator: Any
    args: Any
    model: Any
    state: Any
    is_fsdp_enabled: bool
    label_names: list[str]
    label_smoother: Any
    compute_loss_func: Any
    _signature_columns: list[str] | None

    # The objective returns the mean over a batch; the trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        objective: Objective | str | None = None,
        sampler: Sampler | str | None = None,
        eval_settings: Iterable[Mapping[str, Number] | str] | None = None,
        update: UpdateRule = "standard",
        **kwargs: Any,
    ) -> None:
        given = dict(zip(("model", "args", "data_collator", "train_dataset"), args, strict=False)) | kwargs
        if given.get("model") is not None:
            check_model(given["model"])
        if reason := unsortable(type(self)):
            raise ConfigError(f"Sub-models cannot be trained by {reason}.")
        check_data(given.get("train_dataset"))
        parent: Any = super()
        parent.__init__(*args, **kwargs)
        check_model(self.model)
        net = self.net
        known = (SortedTrainerMixin, *loss_is_the_models(self))
        self._own_loss = any(defines(self, name, Trainer, *known) for name in ("compute_loss", "training_step"))
        self._check_arguments()
        default = "stochastic" if self._own_loss and holds_pairs(self) else None
        self.objective = objective_of(objective or default, sampler, net, self.args.seed)
        wanted = [net.space.setting(one) for one in (net.space if eval_settings is None else eval_settings)]
        self.eval_settings = (*dict.fromkeys(one for one in wanted if one != net.space.full), net.space.full)
        self.model_accepts_loss_kwargs = False
        if self.args.label_names is None:
            self.label_names = find_labels(type(net.builder.inner(net.full)))
        self.can_return_loss = can_return_loss(type(net.builder.inner(net.full)))
        if self._own_loss:
            check_objective(self.objective)
            if holds_pairs(self):  # its batches have no labels
                self.label_names, self.can_return_loss = [], True
            self.__dict__["training_step"] = self._train_each  # in place of what its class has
        check_rule(net, update)
        self.update = update
        distils = self.objective.distillation is not None and self.objective.distillation.is_active
        self._losses: dict[str, tuple[Tensor, int]] = {}
        self._drawn: list[Setting] = []
        self._fixed = uncached(net.builder.inner(net.full).forward)
        if isinstance(net, PretrainedNet):
            net.adopt_fused_head()
            net.head = None if distils else net.head

    @property
    def net(self) -> SortedNet:
        """The network that is trained."""
        net = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        assert isinstance(net, SortedNet)
        return net

    @property
    def _class_name(self) -> str:
        return type(self.net.builder.inner(self.net.full)).__name__

    def _check_arguments(self) -> None:
        """Refuse what would train or measure something else than the sub-models, without saying so."""
        args, several = self.args, self.args.world_size > 1
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        for asked, name, remedy in (
            (args.n_gpu > 1, f"{args.n_gpu} GPUs in one process", "Launch with torchrun or accelerate launch"),
            (args.neftune_noise_alpha, "neftune_noise_alpha", "It would reach the full model alone; leave it out"),
            (args.use_liger_kernel, "use_liger_kernel", "It would reach the full model alone; leave it out"),
            (getattr(self, "is_deepspeed_enabled", False), "DeepSpeed", "Use DDP or FSDP2"),
            (plugin and plugin.fsdp_version == 1, "FSDP1", "Set fsdp_config['version'] to 2"),
            (
                plugin and plugin.activation_checkpointing,
                "fsdp_config['activation_checkpointing']",
                "It would reach the full model alone; set gradient_checkpointing of the arguments",
            ),
            (
                several and plugin is None and _reentrant(args),
                "use_reentrant=True under DDP",
                "It marks parameters ready twice where some are not used; set use_reentrant to False",
            ),
            (
                several and not args.accelerator_config.even_batches,
                "accelerator_config.even_batches=False",
                "All processes must draw the same sub-models, for batches of the same size; leave it True",
            ),
            (several and self._own_loss, "A loss of the trainer's own in several processes", "Give compute_loss_func"),
            (
                self.compute_loss_func is not None and not hasattr(Trainer, "loss_is_scaled_for_ga"),
                "compute_loss_func with this version of transformers",
                "Update to 5.19 or later, which averages the losses of accumulated batches",
            ),
        ):
            if asked:
                raise ConfigError(f"{name} cannot be used with sub-models. {remedy}.")

    # Training

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch: the objective's in training, one sub-model's in evaluation.

        Args:
            model: The network, or a wrapper of it.
            inputs: The batch. Tensors of shape (B, ...). In evaluation its `setting` names the sub-model.
            return_outputs: Whether to return the outputs too; in training these are the sub-models' losses.
            num_items_in_batch: Not used in training.
        """
        smoothed = self.label_smoother is not None and self.compute_loss_func is None and "labels" in inputs
        alone = isinstance(model, SubModule) or not model.training
        if alone and not smoothed:
            parent: Any = super()
            return parent.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if alone:
            outputs = Unlabelled(model)(**inputs)
            loss = self._loss_of(outputs, inputs)
            return (loss, outputs) if return_outputs else loss
        if self.label_names and not any(inputs.get(name) is not None for name in self.label_names):
            raise DataError(
                f"The batch has no labels: it holds {', '.join(inputs)}, and {self._class_name} takes "
                f"{' or '.join(self.label_names)}. Give the data such a column, or a data_collator that makes it."
            )
        own = smoothed or self.compute_loss_func is not None
        terms = self.objective.terms(
            Unlabelled(model) if own else model,  # type: ignore[arg-type]
            {**inputs, **self._fixed},
            self._loss_of,
        )
        self._count(terms)
        self._drawn += [term.setting for term in terms] if self.update != "standard" else []
        loss = total(terms)
        losses = {"loss": loss, "losses": {str(term.setting): term.loss.detach() for term in terms}}
        return (loss, losses) if return_outputs else loss

    def _train_each(self, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Add the gradient of a batch where the loss is the trainer's own: that of each sub-model."""
        step, pairs = type(self).training_step, holds_pairs(self)
        steps: Any = self
        found = train_each(self, self.net, model, inputs, lambda one, part: step(self, one, part, None), pairs)
        scale = 1 if self.loss_is_scaled_for_ga else steps.current_gradient_accumulation_steps
        self._count([Term(setting, scale * loss, weight) for setting, loss, weight in found])
        self._drawn += [setting for setting, *_ in found] if self.update != "standard" else []
        if self.accelerator.sync_gradients:
            mask_gradients(self.net, self._drawn, self.update)
        return sum((loss * weight for _, loss, weight in found), torch.zeros((), device=found[0][1].device))

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Add the gradient of a batch; of the last one before a step, only what the update rule lets it change."""
        parent: Any = super()
        loss = parent.training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients and not isinstance(model, SubModule):
            mask_gradients(self.net, self._drawn, self.update)
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimiser. Each of its steps obeys the update rule."""
        parent: Any = super()
        optimizer = parent.create_optimizer(*args, **kwargs)
        if self.update != "standard" and not getattr(optimizer, "obeys_rule", False):
            held: Held = {}

            def before(one: Any, *_: Any) -> None:
                held.update(held_back(self.net, one, self._drawn, self.update))

            def after(one: Any, *_: Any) -> None:
                put_back(one, held)
                held.clear()
                self._drawn = []

            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)
            optimizer.obeys_rule = True
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of parameters with weight decay; a private one has it where the full model's has."""
        parent: Any = super()
        return decayed(self.net, parent.get_decay_parameter_names(model))

    def _loss_of(self, output: Any, batch: Mapping[str, Any]) -> Tensor:
        """Return the mean loss of one sub-model: the model's own, the given function's, or a smoothed one."""
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(output, batch.get("labels"), num_items_in_batch=None)
        elif self.label_smoother is not None and "labels" in batch:
            causal = self._class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
            loss = self.label_smoother(output, batch["labels"], shift_labels=causal)
        else:
            loss = getattr(output, "loss", None)
        if not isinstance(loss, Tensor):
            raise DataError(
                f"{self._class_name} returned no loss for a batch that holds {', '.join(batch)}. Give what "
                "its forward computes a loss from, or compute_loss_func."
            )
        return loss

    def _count(self, terms: Iterable[Term]) -> None:
        """Add losses up for the next log, without waiting for the device."""
        for term in terms:
            sum_, count = self._losses.get(str(term.setting), (0.0, 0))
            self._losses[str(term.setting)] = sum_ + term.loss.detach().float(), count + 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, the training losses with those of each sub-model."""
        if "loss" in logs and self._losses:
            held, self._losses = sorted(self._losses.items()), {}
            means = torch.stack([sum_ / count for _, (sum_, count) in held])
            # All processes have trained the same sub-models.
            means = self.accelerator.gather(means.unsqueeze(0)).mean(0)
            logs.update({f"loss_{setting}": mean for (setting, _), mean in zip(held, means.tolist(), strict=True)})
        parent: Any = super()
        parent.log(logs, *args, **kwargs)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        with parts_unnamed(self.net) if self.is_fsdp_enabled else nullcontext():
            return parent._prepare_for_training(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that the full model takes."""
        parent: Any = super()
        parent._set_signature_columns_if_needed()
        if {"args", "kwargs"} <= set(self._signature_columns or ()):  # those of the network's forward
            taken = inspect.signature(self.net.builder.inner(self.net.full).forward).parameters
            self._signature_columns = list(dict.fromkeys([*taken, "label", "label_ids", *self.label_names]))

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate every sub-model, the full model last; or predict with one.

        Returns:
            The full model's output, with the metrics of all.
        """
        parent: Any = super()
        if description != "Evaluation":
            return parent.evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        examples, table = 0, {}
        for setting in self.eval_settings:
            output = parent.evaluation_loop(
                At(dataloader, setting, self._settled),
                description,
                prediction_loss_only,
                ignore_keys,
                metric_key_prefix,
            )
            examples += output.num_samples
            output.metrics.update(self._other_metrics(metric_key_prefix))
            found = {name.removeprefix(f"{metric_key_prefix}_"): value for name, value in output.metrics.items()}
            found.pop("model_preparation_time", None)
            table[setting] = found
        metrics = dict(output.metrics)
        for setting, found in table.items():
            metrics |= {f"{metric_key_prefix}_{setting}_{name}": value for name, value in found.items()}
        for name, value in found.items():
            values = [one[name] for one in table.values() if name in one]
            if isinstance(value, (int, float)) and len(values) == len(table):
                metrics[f"{metric_key_prefix}_mean_{name}"] = sum(values) / len(values)
        return output._replace(metrics=metrics, num_samples=examples)

    @property
    def _settled(self) -> Mapping[str, Any]:
        """What is fixed in evaluation; what generates keeps its cache."""
        return {} if getattr(self.args, "predict_with_generate", False) else self._fixed

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; a loss of the trainer's own is handed the sub-model."""
        if self._own_loss and "setting" in inputs:
            model = SubModule(model, self.net, self.net.space.setting(inputs["setting"]))
            inputs = {name: value for name, value in inputs.items() if name != "setting"}
        parent: Any = super()
        return parent.prediction_step(model, inputs, *args, **kwargs)

    def _other_metrics(self, prefix: str) -> dict[str, float]:
        """Take what TRL's trainers have gathered on the side, and would average over sub-models."""
        held = evaluation_metrics(self)
        taken = {name: values for name, values in held.items() if values and name != "num_tokens"}  # of training
        held.clear()
        return {f"{prefix}_{name}": sum(values) / len(values) for name, values in taken.items()}

    def predict(
        self,
        test_dataset: Any,
        *args: Any,
        setting: Mapping[str, Number] | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Predict with one sub-model, the full model where `setting` is left out. See `Trainer.predict`."""
        parent: Any = super()
        return parent.predict(At(test_dataset, self.net.space.setting(setting), self._settled), *args, **kwargs)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        parent: Any = super()
        if isinstance(test_dataset, At):
            return replace(test_dataset, held=parent.get_test_dataloader(test_dataset.held))
        return parent.get_test_dataloader(test_dataset)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        with resuming.pinned_where_it_helps(self.args):
            return parent._get_dataloader(*args, **kwargs)

    # Checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train. See `Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint to go on from; True for the last one in the output folder, leaving out
                those that a killed run has not finished.
            args: Further arguments of the trainer.
            kwargs: The same by name.

        Raises:
            CheckpointError: If there is no checkpoint, or it is of another space or objective.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = resuming.last_checkpoint(Path(self.args.output_dir))
        if resume_from_checkpoint:
            self.objective.load_state_dict(resuming.read_draws(Path(resume_from_checkpoint), self._identity()))
        self._losses = {}
        parent: Any = super()
        return parent.train(resume_from_checkpoint, *args, **kwargs)

    def _identity(self) -> dict[str, Any]:
        return {"space": self.net.space.to_json(), "objective": type(self.objective).__name__}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        parent: Any = super()
        output = Path(parent._get_output_dir(trial=trial))
        folder = output / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            resuming.write_draws(folder, self._identity(), self.objective.state_dict())
        with resuming.without_rotation(self.args) as keep:
            parent._save_checkpoint(model, trial)
        if self.args.should_save:
            resuming.seal(folder)
            resuming.rotate(output, keep, self.state.best_model_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        parent: Any = super()
        parent._save_rng_state(output_dir)
        # What says that a checkpoint is finished comes next, and must not come before another process has written.
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None) -> None:
        """Write the network, the tokenizer and the training arguments, on the process that writes."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        if state_dict is None:
            self.net.save_pretrained(folder)
        else:
            resuming.write_gathered(self.net, folder, state_dict)
        resuming.write_beside(folder, self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            parent: Any = super()
            parent._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            resuming.restore(self.net, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            parent: Any = super()
            parent._load_best_model()
        else:
            resuming.restore(self.net, Path(self.state.best_model_checkpoint))


@final
class SortedTrainer(SortedTrainerMixin, Trainer):  # type: ignore[misc]
    """Hugging Face's `Trainer` for every sub-model of a network at once. See `SortedTrainerMixin`."""


def _reentrant(args: Any) -> bool:
    """Whether activations are checkpointed in the reentrant way; the arguments have two names, by version."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if getattr(args, name, False):
            return bool((getattr(args, f"{name}_kwargs", None) or {}).get("use_reentrant", False))
    return False
