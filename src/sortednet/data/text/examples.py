"""What text data are: examples in memory, and what their columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from ...errors import ConfigError, DataError
from ...imports.packages import needs
from .metrics import METRICS

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "Kind",
    "TextData",
    "TextTask",
    "check_columns",
    "from_columns",
    "in_memory",
]

Kind: TypeAlias = Literal["classification", "regression", "causal"]


@dataclass(frozen=True)
class TextTask:
    r"""What the columns of a data set mean.

    Args:
        kind: `classification`; `regression`; or `causal`, to continue a prompt by an answer, or plain text.
        text_columns: The columns of text: one or two for classification and regression, any number for a prompt, one
            for plain text.
        label_column: The column of labels, or of answers. None for plain text.
        label_names: Name of each class, in the order of their numbers. Left out, they are found: the data set's own,
            the numbers of the training labels, or their names in alphabetical order.
        metric: The metric to choose a model by; left out, `accuracy`, `pearson` or `loss`. See `metrics.METRICS`.
        template: Of a prompt and its answer, with the columns' names in braces, the answer's at the end, such as
            `"Question: {question}\nAnswer: {answer}"`. Left out, the columns, one a line. Spaces before the answer are
            counted with the answer, since most tokenizers join a space with the word that follows.
        short_template: The template of rows in which a column that it leaves out is empty; such a column may be empty.
        drop_empty: Whether to leave out rows with an empty text instead of raising an error. `TextData.dropped` counts
            them.

    Raises:
        ConfigError: If these do not fit together.

    Example:
        >>> TextTask("causal", ("question",), "answer").template
        '{question}\n{answer}'
    """

    kind: Kind
    text_columns: tuple[str, ...]
    label_column: str | None = None
    label_names: tuple[str, ...] = ()
    metric: str = ""
    template: str = ""
    short_template: str = ""
    drop_empty: bool = False

    def __post_init__(self) -> None:
        if self.kind not in METRICS:
            raise ConfigError(f"kind={self.kind!r} is unknown. Choose one of {list(METRICS)}.")
        for name in ("text_columns", "label_names"):
            given = getattr(self, name)
            if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) for one in given):
                raise ConfigError(f"{name}={given!r} is no list of names. Give names, such as ('sentence',).")
            object.__setattr__(self, name, tuple(given))  # a list from a YAML file
            if len(set(given)) < len(given):
                raise ConfigError(f"{name}={given!r} holds a name twice. Give each once.")
        count, causal = len(self.text_columns), self.kind == "causal"
        if not causal and (self.label_column is None or count not in (1, 2)):
            raise ConfigError(
                f"text_columns={self.text_columns}, label_column={self.label_column!r} do not fit "
                f"kind={self.kind!r}. Give one or two columns of text, and the column of labels."
            )
        if causal and (count < 1 or (self.label_column is None and count != 1)):
            raise ConfigError(
                f"text_columns={self.text_columns}, label_column={self.label_column!r} do not fit kind='causal'. "
                "Give one column of plain text; or the prompt's columns, and the answer's as label_column."
            )
        if self.label_column in self.text_columns:
            raise ConfigError(f"label_column={self.label_column!r} is a text column too. Give another.")
        if not self.metric:
            object.__setattr__(self, "metric", METRICS[self.kind][0])
        if self.metric not in METRICS[self.kind]:
            raise ConfigError(f"metric={self.metric!r} is none of {self.kind}. Choose one of {METRICS[self.kind]}.")
        self._check_templates()

    def _check_templates(self) -> None:
        if self.kind != "causal" or self.label_column is None:
            if self.template or self.short_template:
                raise ConfigError(
                    f"template={self.template or self.short_template!r} needs kind='causal' and a label_column. "
                    "Leave it out, or name the answers' column."
                )
            return
        ending = f"{{{self.label_column}}}"
        if not self.template:
            object.__setattr__(self, "template", "".join(f"{{{name}}}\n" for name in self.text_columns) + ending)
        for name in ("template", "short_template"):
            template = getattr(self, name)
            if not template and name == "short_template":
                continue
            try:
                named = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
            except ValueError as error:
                raise ConfigError(
                    f"{name}={template!r} is no template: {error}. Double braces meant literally."
                ) from None
            plain = all(conversion is None and not form for _, form, conversion in named)
            columns = [column or "" for column, _, _ in named]
            if not plain or not template.endswith(ending) or columns.count(self.label_column) != 1:
                raise ConfigError(f"{name}={template!r} does not end with its answer. Let it end with {ending}.")
            unknown = sorted(set(columns) - {*self.text_columns, self.label_column})
            if unknown:
                raise ConfigError(
                    f"{name}={template!r} names {unknown}. Name only {[*self.text_columns, self.label_column]}."
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns: those of text, and the labels' if there is one."""
        return self.text_columns if self.label_column is None else (*self.text_columns, self.label_column)

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """The columns that may be empty: those that the short template leaves out."""
        if not self.short_template:
            return ()
        named = {part[1] for part in Formatter().parse(self.short_template)}
        return tuple(name for name in self.text_columns if name not in named)


@dataclass(frozen=True, eq=False)
class TextData:
    """Text for training and for evaluation, in memory.

    Attributes:
        name: Of the data.
        train: Examples to train on, with the text columns (str) and the label column: classes 0 to num_labels - 1
            (int64), numbers (float64), or answers (str).
        evaluation: Examples to evaluate on, with the same columns.
        task: What the columns mean, with the names of the classes.
        dropped: How many rows with an empty text were left out, where the task says so.
    """

    name: str
    train: Dataset
    evaluation: Dataset
    task: TextTask
    dropped: int = 0

    @property
    def kind(self) -> Kind:
        return self.task.kind

    @property
    def text_columns(self) -> tuple[str, ...]:
        return self.task.text_columns

    @property
    def label_column(self) -> str | None:
        return self.task.label_column

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.task.label_names

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def num_labels(self) -> int:
        """The model's `num_labels`: the number of classes, 1 for regression, 0 for causal data."""
        return {"classification": len(self.label_names), "regression": 1, "causal": 0}[self.kind]

    def overlap(self) -> int:
        """Count the evaluation examples whose texts occur, word for word, in the training data as well.

        Some public data sets have a few; it is no error. For causal data, the prompt counts.
        """

        def texts(part: Dataset) -> Iterator[tuple[str, ...]]:
            return zip(*(part[name][:] for name in self.text_columns), strict=True)

        seen = set(texts(self.train))
        return sum(one in seen for one in texts(self.evaluation))


def from_columns(
    train: Mapping[str, Sequence[Any]],
    evaluation: Mapping[str, Sequence[Any]] | None = None,
    *,
    task: TextTask,
    name: str = "columns",
    train_examples: int | None = None,
    evaluation_examples: int | None = None,
    seed: int = 0,
) -> TextData:
    """Check columns in memory and make data of them; all loaders end here.

    Args:
        train: The columns of the training examples by name, each of N values. Classes are numbers from 0 on, also as
            text, or names. Of a `datasets.Dataset`, give `to_dict()`.
        evaluation: The columns of the evaluation examples. Left out, `evaluation_examples` are held out from training.
        task: What the columns mean.
        name: Of the data, for messages.
        train_examples: How many training examples to draw at random; all if left out.
        evaluation_examples: The same for evaluation.
        seed: Of the random draws. The same seed draws the same examples.

    Returns:
        The data, with no other columns.

    Raises:
        DataError: If there are no rows or not enough, a column is missing, a text is empty or no str, or a label is
            missing or none of the classes, or no number.
        ImportError: If the package datasets is not installed.

    Example:
        >>> task = TextTask("classification", ("text",), "label")
        >>> rows = {"text": ["fine", "poor"], "label": ["good", "bad"]}
        >>> data = from_columns(rows, rows, task=task)
        >>> data.label_names, data.train[0]
        (('bad', 'good'), {'text': 'fine', 'label': 1})
        >>> data.overlap()
        2
    """
    if evaluation is None and evaluation_examples is None:
        raise DataError(
            f"{name} has no evaluation data. Give some, or hold out examples with evaluation_examples=500, say."
        )
    parts, dropped = {}, 0
    for part, columns in (("training", train), ("evaluation", evaluation)):
        if columns is not None:
            parts[part], left_out = _checked_texts(columns, task, f"the {part} data of {name}")
            dropped += left_out
    if task.kind == "classification":
        names = task.label_names or _label_names(parts["training"][task.columns[-1]], name)
        if len(names) < 2:
            raise DataError(
                f"{name} has the classes {list(names)} only. Give data with at least two, or all label_names."
            )
        task = replace(task, label_names=names)
    if task.kind != "causal":
        label = task.columns[-1]
        for part, columns in parts.items():
            columns[label] = _labels(columns[label], task, f"the {part} data of {name}")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed!r} is no seed. Give a whole number of at least 0.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(_rows(parts["training"]), generator=generator).tolist()
    if evaluation is None:
        held_out = _first(order, evaluation_examples, "evaluation_examples", name, spare=1)
        order = order[len(held_out) :]
        parts["evaluation"] = parts["training"]
    else:
        held_out = torch.randperm(_rows(parts["evaluation"]), generator=generator).tolist()
        held_out = _first(held_out, evaluation_examples, "evaluation_examples", name)
    kept = {"training": _first(order, train_examples, "train_examples", name), "evaluation": held_out}
    made = {
        part: in_memory([{one: [values[i] for i in sorted(kept[part])] for one, values in columns.items()}])
        for part, columns in parts.items()
    }
    return TextData(name, made["training"], made["evaluation"], task, dropped)


def in_memory(batches: Iterable[Mapping[str, Sequence[Any]]]) -> Dataset:
    """Join batches of columns to a data set in memory, with no file and no progress bar.

    Args:
        batches: At least one, with the same columns.

    Returns:
        The data set.

    Raises:
        ImportError: If the package datasets is not installed.
    """
    with needs("Reading text data", "text"):
        from datasets import Dataset, concatenate_datasets
    return concatenate_datasets([Dataset.from_dict(dict(one)) for one in batches])


def check_columns(held: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """Raise DataError if a column is missing."""
    held = list(held)
    missing = [name for name in wanted if name not in held]
    if missing:
        raise DataError(
            f"{where} lacks the columns {missing}; it holds {held}. Correct text_columns or label_column, or the data."
        )


def _listed(values: Any) -> list[Any]:
    """Turn a column into a list, arrays and tensors into plain numbers."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _rows(columns: Mapping[str, Sequence[Any]]) -> int:
    return len(next(iter(columns.values())))


def _checked_texts(
    columns: Mapping[str, Sequence[Any]], task: TextTask, where: str
) -> tuple[dict[str, list[Any]], int]:
    """Return the columns that the task names, and how many rows were left out for an empty text."""
    check_columns(columns, task.columns, where)
    chosen = {name: _listed(columns[name]) for name in task.columns}
    counts = {name: len(values) for name, values in chosen.items()}
    if len(set(counts.values())) > 1 or not min(counts.values()):
        raise DataError(f"The columns of {where} have {counts} rows. Give at least one row, and every column as many.")
    empty: set[int] = set()
    for name in task.columns if task.kind == "causal" else task.text_columns:
        for i, value in enumerate(chosen[name]):
            if not isinstance(value, str):
                raise DataError(
                    f"Row {i + 1} of {where} has {name}={value!r} of type {type(value).__name__}. Texts must be str: "
                    "convert the column, or remove the row."
                )
            if name not in task.optional_columns and not value.strip():
                empty.add(i)
    if empty and not task.drop_empty:
        raise DataError(
            f"{len(empty)} rows of {where} have an empty text, the first is row {min(empty) + 1}. Remove them, or "
            "leave them out with drop_empty=True."
        )
    if len(empty) == _rows(chosen):
        raise DataError(
            f"Every row of {where} has an empty text. Check that {list(task.columns)} are the columns meant."
        )
    if empty:
        chosen = {name: [one for i, one in enumerate(values) if i not in empty] for name, values in chosen.items()}
    return chosen, len(empty)


def _is_unlabelled(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> int | None:
    """Read a class number, also one written as text."""
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _label_names(values: Sequence[Any], name: str) -> tuple[str, ...]:
    """Find the classes' names where none are given: their numbers, or the names in alphabetical order."""
    labelled = [one for one in values if not _is_unlabelled(one) and _number(one) != -1]
    numbers = {_number(one) for one in labelled}
    if None not in numbers:
        present = {one for one in numbers if one is not None}
        if present != set(range(len(present))):
            shown = sorted(present)
            raise DataError(
                f"The training labels of {name} are {shown[:10]}{' and more' * (len(shown) > 10)}. Number the classes "
                "from 0 without a gap, or give label_names."
            )
        return tuple(str(one) for one in sorted(present))
    odd = [one for one in labelled if not isinstance(one, str)]
    if odd:
        raise DataError(
            f"A training label of {name} is {odd[0]!r} of type {type(odd[0]).__name__}. Give the classes all as "
            "numbers from 0 on, or all as names."
        )
    return tuple(sorted(set(labelled)))


def _labels(values: Sequence[Any], task: TextTask, where: str) -> list[int] | list[float]:
    """Turn labels into classes, 0 to the number of classes - 1, or into finite numbers."""
    read = _class_index if task.kind == "classification" else _finite
    found = [None if _is_unlabelled(one) else read(one, task, f"Row {i} of {where}") for i, one in enumerate(values, 1)]
    if all(one == -1 for one in found):
        found = [None] * len(found)  # a hidden score is -1 too
    unlabelled = [i for i, one in enumerate(found, 1) if one is None]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} rows of {where} have no {task.label_column} (nothing, or -1), the first is row "
            f"{unlabelled[0]}. Remove them, or choose a split with labels: GLUE's test splits have none."
        )
    return found  # type: ignore[return-value]


def _class_index(value: Any, task: TextTask, where: str) -> int | None:
    """Return the class; None for -1, which stands for no label."""
    names = task.label_names
    if isinstance(value, str) and value in names:
        return names.index(value)
    number = _number(value)
    if number == -1:
        return None
    if number is None or not 0 <= number < len(names):
        raise DataError(
            f"{where} has {task.label_column}={value!r}, which is none of the classes {names[:10]}, 0 to "
            f"{len(names) - 1}. Correct it, or give all classes as label_names."
        )
    return number


def _finite(value: Any, task: TextTask, where: str) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{where} has {task.label_column}={value!r}, which is no finite number. Give numbers for regression, or "
            "kind='classification' for classes."
        )
    return number


def _first(order: list[int], count: int | None, what: str, name: str, spare: int = 0) -> list[int]:
    """Take the first of a random order; all if the count is None."""
    if count is None:
        return order
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(order) - spare:
        raise DataError(
            f"{what}={count!r} is not possible: {name} has {len(order)} examples to draw from"
            f"{', and one must be left to train on' * bool(spare)}. Give 1 to {len(order) - spare}."
        )
    return order[:count]
