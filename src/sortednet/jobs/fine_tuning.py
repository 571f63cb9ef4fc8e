"""What the commands do with a pretrained model: fine-tune it as a network, and measure its sub-models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor

from ..data.text import EncodedText, TextData, compute_metrics
from ..errors import DataError
from ..evaluation import evaluator
from ..evaluation.comparison import compare_submodels
from ..evaluation.cost import MEASUREMENTS, Measurement
from ..evaluation.scores import Scores
from ..evaluation.similarity import Measure
from ..evaluation.table import Table
from ..files.processes import alone
from ..files.run_folder import KIND, SIMILARITIES, of_earlier_version, writing
from ..files.saving import remove_own
from ..network.loading import load
from ..network.sorted_net import SortedNet
from ..space import Number, Setting
from ..training.device import usable_device
from ..views.batches import IGNORED, next_labels
from . import fine_tuning_parts
from .fine_tuning_config import FineTuningConfig
from .fine_tuning_stages import Batch, Progress, Run, collator, fine_tune, moved
from .pretrained import quiet

__all__ = ["Opened", "evaluate", "inputs_of", "open_run", "qualities", "train"]

COMPARED, POSITIONS = 200, 64  # examples, and output positions of each, that sub-models are compared on


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
    data, recipe = fine_tuning_parts.load_data(config), fine_tuning_parts.make_recipe(config)
    fine_tuning_parts.make_arguments(config, Path(config.output))  # refuses what is wrong before the model is opened
    with quiet():
        tokenizer = fine_tuning_parts.make_tokenizer(config)
        net = fine_tuning_parts.make_network(config, data, tokenizer)
        encoded = _encoded(config, data, tokenizer, say)
        run = Run(config, net, data, tokenizer, encoded, progress, say)
        with alone(run.output):
            fine_tune(run, recipe, resume)
    return net


def _encoded(
    config: FineTuningConfig, data: TextData, tokenizer: Any, say: Callable[[str], object] | None = None
) -> EncodedText:
    """Turn the text into tokens, and say what is cut or left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoded = fine_tuning_parts.encoded(config, data, tokenizer)
    cut = encoded.truncated["train"]
    if say is not None:
        for one in caught:
            say(str(one.message))
        if cut:
            say(f"{cut} of {len(encoded.train)} training examples are cut to text.max_length={config.text.max_length}.")
    return encoded


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
        return moved(collator(self.data, self.tokenizer)(list(examples)), self.net)

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
    data = fine_tuning_parts.load_data(config)
    with quiet():
        own = replace(config, pretrained=replace(config.pretrained, path=str(run / "model")))
        tokenizer = fine_tuning_parts.make_tokenizer(own)
        base = None if config.adapter is None else fine_tuning_parts.make_base(config, data, tokenizer)
        net = load(run / "model", space=config.make_space(), model=base)
        examples = list(_encoded(config, data, tokenizer).evaluation)
    return Opened(config, data, tokenizer, net.to(usable_device()).eval(), examples)


def evaluate(
    run: Opened,
    folder: Path,
    *,
    measure: Collection[Measurement] = tuple(MEASUREMENTS),
    batch_size: int = 32,
    cost_batch: int = 1,
    report: Sequence[Mapping[str, Any]] = (),
    conditions: Mapping[str, str | Number] | None = None,
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
        report: Examples that are reported on, and nothing is chosen by.
        conditions: More to keep with the table.
        progress: Called with the number of sub-models done and their total.

    Returns:
        One row for each sub-model. The quality is the task's metric in points, or for causal language models the mean
        loss over answer tokens in nats, where lower is better.
    """
    net, causal = run.net, run.data.kind == "causal"
    with quiet():
        middle = max(0, min(len(run.examples) // 2, len(run.examples) - cost_batch))
        typical = sorted(run.examples, key=_tokens)[middle : middle + cost_batch]
        table = evaluator.tabulate(
            net,
            _scores(run, batch_size),
            inputs_of(run.batch(typical)),
            measure=measure,
            cost_batch=cost_batch,
            metric="loss" if causal else run.data.metric,
            higher_is_better=not causal,
            reported=dict(_scores(replace(run, examples=report), batch_size)) if report else None,
            conditions=conditions,
            progress=None if progress is None else lambda done: progress(done, len(net.space)),
        )
        _compare(run, folder, batch_size)
    return table


def qualities(run: Opened, batch_size: int = 32) -> dict[Setting, float]:
    """Measure the quality of every sub-model.

    Args:
        run: The run.
        batch_size: Examples in a batch.

    Returns:
        The task's metric in points, or for causal language models the mean loss over answer tokens in nats.
    """
    with quiet():
        return {setting: score.quality for setting, score in _scores(run, batch_size)}


def _scores(run: Opened, batch_size: int) -> Iterator[tuple[Setting, Scores]]:
    batches = list(run.batches(run.examples, batch_size))
    if not batches:
        raise DataError("The text has no example to evaluate on. Give at least one.")
    if run.data.kind == "causal":
        return evaluator.qualities(run.net, batches, _TokenLoss, run.net.space, losses_only=True)
    meter = partial(_Score, run.data.metric)
    return evaluator.qualities(run.net, batches, meter, run.net.space, part=_without_labels)


@final
class _Score:
    """The metric of a task, NaN where a prediction is not finite."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, output: Any, targets: Batch) -> None:
        self._logits.append(output.logits.float().cpu())
        self._labels.append(targets["labels"].cpu())

    def compute(self) -> Scores:
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        if not bool(logits.isfinite().all()):
            return Scores(math.nan, examples=len(labels))
        predicted = SimpleNamespace(predictions=logits, label_ids=labels)
        value = compute_metrics(self._metric)(predicted)[self._metric]
        if self._metric != "accuracy":
            return Scores(value, examples=len(labels))
        return Scores(value, evaluator.accuracy(logits, labels), torch.ones(len(labels)), len(labels))


@final
class _TokenLoss:
    """The mean loss over answer tokens, in nats."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._tokens: list[int] = []
        self._examples = 0

    def update(self, output: Any, targets: Batch) -> None:
        tokens = int((next_labels(targets["labels"]) != IGNORED).sum())
        self._examples += len(targets["labels"])
        if tokens:
            self._losses.append(float(output.loss))
            self._tokens.append(tokens)

    def compute(self) -> Scores:
        if not self._tokens:
            raise DataError("No example to evaluate on has an answer token. Give texts with answers.")
        mean = sum(loss * count for loss, count in zip(self._losses, self._tokens, strict=True)) / sum(self._tokens)
        losses, tokens = torch.tensor(self._losses), torch.tensor(self._tokens, dtype=torch.float32)
        return Scores(mean, losses, tokens, self._examples, whole_batches=True)


def _compare(run: Opened, folder: Path, batch_size: int) -> None:
    """Write how close sub-models are to the full model, where outputs are distributions."""
    remove_own(folder, KIND, [one.name for one in folder.glob(SIMILARITIES)], of_earlier_version(folder))
    if run.data.kind == "regression" or len(run.net.space) == 1:
        return
    configs: list[Any] = [run.net.skeleton(setting).module.config for setting in run.net.space]
    widths = {getattr(one.get_text_config(), "hidden_size", None) for one in configs}
    measures: tuple[Measure, ...] = ("kl", "cosine") if len(widths) == 1 else ("kl",)
    batches = list(run.batches(run.examples[:COMPARED], batch_size))
    found = compare_submodels(run.net, batches, measures=measures, max_positions=POSITIONS)
    with writing(folder) as save:
        for name, one in found.items():
            one.to_json(save.beside / f"similarity-{name}.json")


def _tokens(example: Mapping[str, Any]) -> int:
    return len(example["input_ids"])


def _without_labels(batch: Batch) -> tuple[Batch, Batch]:
    return inputs_of(batch), batch


def inputs_of(batch: Batch) -> Batch:
    """Return a batch without its labels."""
    return {name: one for name, one in batch.items() if name != "labels"}
