"""Where text data come from: well-known tasks, files of your own, and the Hugging Face Hub."""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ...imports.names import TextFormat
from ...imports.packages import needs
from ..image_files import most_unpacked
from .examples import TextData, TextTask, check_columns, from_columns
from .tasks import TASKS, Columns

__all__ = ["load_files", "load_hub", "load_task", "load_text"]

_MOST_BYTES, _CHUNK = 1 << 32, 1 << 20
_FORMATS: dict[str, TextFormat] = {".jsonl": "jsonl", ".tsv": "tsv", ".csv": "csv", ".txt": "text"}


def load_text(name: str, source: str | Path | None = None, **options: Any) -> TextData:
    r"""Load the data that a configuration names.

    Args:
        name: A task, `sst2`, `mrpc`, `rte`, `stsb`, `gsm8k`, `alpaca`, `webnlg` or `e2e`; the format of your own files,
            `jsonl`, `tsv`, `csv` or `text`; or with `source="hub"` any data set of the Hugging Face Hub.
        source: For a task, the folder with its files, or `hub`; for a data set of the Hub, `hub`.
        options: The arguments of `load_task`, `load_files` or `load_hub`, with those of `TextTask` beside them.

    Returns:
        The data.

    Raises:
        DataError: If the data are missing or unfit.
        ConfigError: If the name or an option is unknown or left out, or the options do not fit together.
        ImportError: If the package datasets is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "mine.csv")
        ...     _ = path.write_text("review,stars\nfine,1\npoor,0\nnice,1\n")
        ...     options = {"kind": "classification", "text_columns": ["review"], "label_column": "stars"}
        ...     data = load_text("csv", train=path, evaluation_examples=1, **options)
        >>> data.train.num_rows, data.evaluation.num_rows, data.label_names
        (2, 1, ('0', '1'))
    """
    loader: Callable[..., TextData]
    given: dict[str, Any]
    if name in TASKS:
        loader, given = load_task, {"name": name}
    elif source == "hub":
        loader, given = load_hub, {"path": name}
    elif name in _FORMATS.values():
        loader, given = load_files, {"format": name}
    else:
        raise ConfigError(
            f"data={name!r} is unknown. Choose a task, one of {list(TASKS)}; a format, one of "
            f"{list(_FORMATS.values())}; or a data set of the Hugging Face Hub, with source='hub'."
        )
    if source is not None and loader is not load_hub:
        given["source"] = source
    given.update(options)
    if loader is not load_task:
        task: dict[str, Any] = {"kind": "causal", "text_columns": ("text",)} if name == "text" else {}
        task |= {one.name: given.pop(one.name) for one in fields(TextTask) if one.name in given}
        _check_options(TextTask, name, task)
        given["task"] = TextTask(**task)
    _check_options(loader, name, given)
    return loader(**given)


def load_task(
    name: str,
    source: str | Path,
    *,
    train_examples: int | None = None,
    evaluation_examples: int | None = None,
    seed: int = 0,
    cache_folder: str | Path | None = None,
    evaluation_split: str | None = None,
) -> TextData:
    """Load a well-known task.

    - `sst2` and `rte`, evaluated on GLUE's dev split by accuracy.
    - `mrpc`, by F1 and accuracy. From a folder: trained on the original 4,076 pairs, evaluated on the original test
      split. From the Hub: GLUE's train and dev splits of the same 4,076.
    - `stsb`, on GLUE's dev split by Pearson's and Spearman's correlation.
    - `gsm8k`, on the test split by exact match of the final answer; its calculator marks `<<...>>` are kept.
    - `alpaca`, by the loss on examples held out from training, 500 if `evaluation_examples` is left out. Rows without
      an output are left out.
    - `webnlg`, facts of DBpedia as text, and `e2e`, a restaurant's properties as text: each reference is an example,
      and facts are written `subject : property : object | ...`. By the loss on the test split. From a folder, `e2e` is
      trained on the 4,672 references of the validation split, in the tokenised text of LoRA's code.

    Args:
        name: The task.
        source: Folder of the files: `glue_<task>_train.tsv` and `glue_<task>_dev.tsv` (for `mrpc` `_test.tsv`), tab
            separated, with a header, quote marks being literal; `gsm8k_train.jsonl`, `gsm8k_test_a.jsonl`;
            `alpaca_random9k.jsonl`; `webnlg_v1.6_en_<split>.jsonl`, of `triples` and `refs`; `e2e_valid.jsonl`,
            `e2e_test.jsonl`. Each may be gzipped, with `.gz` at the end. Or `hub`, the Hugging Face Hub.
        train_examples: How many training examples to draw at random; all if left out.
        evaluation_examples: The same for evaluation.
        seed: Of the random draws.
        cache_folder: Where downloads are kept; left out, where `datasets` keeps them.
        evaluation_split: Split to evaluate on, for `webnlg` `dev` or `test`; left out, the one named above.

    Returns:
        The data.

    Raises:
        DataError: If the data are missing or unfit.
        ConfigError: If the task or the split is unknown.
        ImportError: If the package datasets is not installed.

    Source:
        Wang et al. (2019), "GLUE", arXiv:1804.07461v3; Cobbe et al. (2021), "Training Verifiers to Solve Math Word
        Problems", arXiv:2110.14168v2; Taori et al. (2023), "Stanford Alpaca", whose prompts are used word for word;
        Gardent et al. (2017), "The WebNLG Challenge", W17-3518; Novikova et al. (2017), "The E2E Dataset",
        arXiv:1706.09254v2; facts in one line as in Hu et al. (2021), "LoRA", arXiv:2106.09685v2, the prompt is ours.
    """
    if name not in TASKS:
        raise ConfigError(f"The task {name!r} is unknown. Choose one of {list(TASKS)}.")
    task, place = TASKS[name]
    if evaluation_examples is None:
        evaluation_examples = place.held_out
    evaluation_file, hub_evaluation = place.evaluation_file, place.hub_evaluation
    if evaluation_split is not None:
        if evaluation_split not in place.splits:
            known = f"Choose one of {list(place.splits)}" if place.splits else "It has no other split; leave it out"
            raise ConfigError(f"evaluation_split={evaluation_split!r} is no split of {name}. {known}.")
        evaluation_file, hub_evaluation = place.splits[evaluation_split]
    if source == "hub" and place.hub_rows is None:
        return load_hub(
            *place.hub,
            task=replace(task, label_column=place.hub_label or task.label_column),
            name=name,
            evaluation_split=hub_evaluation,
            cache_folder=cache_folder,
            train_examples=train_examples,
            evaluation_examples=evaluation_examples,
            seed=seed,
        )
    parts = []
    if source == "hub" and place.hub_rows is not None:
        for split in ("train", hub_evaluation):
            found = _hub_split(*place.hub, split, place.hub_rows.columns, cache_folder=cache_folder, exported=True)
            where = f"the split {split!r} of {place.hub[0]}"
            parts.append(place.hub_rows.make(found.select_columns(list(place.hub_rows.columns)).to_dict(), where))
    else:
        if not isinstance(source, (str, Path)) or not Path(source).is_dir():
            raise DataError(f"source={source!r} is no folder. Give the folder with {place.train_file}.gz, or 'hub'.")
        for file in (place.train_file, evaluation_file):
            if file is not None:
                path = _plain_or_gz(Path(source) / file)
                columns = _read(path, None, task.columns if place.rows is None else place.rows.columns)
                parts.append(columns if place.rows is None else place.rows.make(columns, str(path)))
    return from_columns(
        *parts, task=task, name=name, train_examples=train_examples, evaluation_examples=evaluation_examples, seed=seed
    )


def load_files(
    train: str | Path,
    evaluation: str | Path | None = None,
    *,
    task: TextTask,
    format: TextFormat | None = None,
    separator: str = "\n",
    name: str | None = None,
    train_examples: int | None = None,
    evaluation_examples: int | None = None,
    seed: int = 0,
) -> TextData:
    r"""Load files of your own, in UTF-8, plain or gzipped (`.gz`).

    Args:
        train: File of the training examples.
        evaluation: File of the evaluation examples. Left out, `evaluation_examples` are held out from training.
        task: What the columns mean.
        format: `jsonl`, one JSON object a line; `tsv`, with a header, quote marks being literal; `csv`, with a header,
            quoted as usual; `text`, whose only column is `text`. Left out, the file's ending says it (`.txt` for text).
        separator: What divides the examples of a `text` file: a line break, or such as `"\n\n"` or `"<|endoftext|>"`.
            Line breaks around an example are left out, and so are blank examples.
        name: Of the data; left out, the training file's.
        train_examples: How many training examples to draw at random; all if left out.
        evaluation_examples: The same for evaluation.
        seed: Of the random draws.

    Returns:
        The data.

    Raises:
        DataError: If a file is missing or damaged, a column is missing, a row is unfit, or there are not enough rows.
        ConfigError: If the format is unknown.
        ImportError: If the package datasets is not installed.
    """
    parts = [_read(Path(one), format, task.columns, separator) for one in (train, evaluation) if one is not None]
    return from_columns(
        *parts, task=task, name=name or Path(train).name, train_examples=train_examples,
        evaluation_examples=evaluation_examples, seed=seed,
    )  # fmt: skip


def load_hub(
    path: str,
    config: str | None = None,
    *,
    task: TextTask,
    train_split: str = "train",
    evaluation_split: str | None = "validation",
    revision: str | None = None,
    cache_folder: str | Path | None = None,
    name: str | None = None,
    train_examples: int | None = None,
    evaluation_examples: int | None = None,
    seed: int = 0,
) -> TextData:
    """Load a data set through `datasets.load_dataset`: of the Hugging Face Hub, or a local folder in its layout.

    Args:
        path: Of the data set, such as `nyu-mll/glue`.
        config: Its configuration, such as `sst2`.
        task: What the columns mean.
        train_split: Split to train on; slices such as `train[:10%]` work.
        evaluation_split: Split to evaluate on. None holds out `evaluation_examples` from training.
        revision: Commit or tag of the data set, so that it stays the same.
        cache_folder: Where downloads are kept; left out, where `datasets` keeps them.
        name: Of the data; left out, the path.
        train_examples: How many training examples to draw at random; all if left out.
        evaluation_examples: The same for evaluation.
        seed: Of the random draws.

    Returns:
        The data.

    Raises:
        DataError: If the data set cannot be loaded, a column is missing, or a row is unfit.
        ImportError: If the package datasets is not installed.
    """
    parts = []
    for split in (train_split, evaluation_split):
        if split is None:
            continue
        part = _hub_split(path, config, split, task.columns, revision=revision, cache_folder=cache_folder)
        if task.kind == "classification" and not task.label_names:
            found = getattr(part.features[task.label_column], "names", None) or ()
            task = replace(task, label_names=tuple(found))
        parts.append(part.select_columns(task.columns).to_dict())
    return from_columns(
        *parts, task=task, name=name or path, train_examples=train_examples,
        evaluation_examples=evaluation_examples, seed=seed,
    )  # fmt: skip


def _hub_split(
    path: str,
    config: str | None,
    split: str | None,
    columns: Sequence[str],
    *,
    revision: str | None = None,
    cache_folder: str | Path | None = None,
    exported: bool = False,
) -> Any:
    """Load a split of a data set of the Hub.

    Args:
        path: Of the data set.
        config: Its configuration.
        split: The split.
        columns: Those that it must have.
        revision: Commit or tag.
        cache_folder: Where downloads are kept.
        exported: Whether to read the files that the Hub has made of it, since it is a program, which is not run.
    """
    with needs("Reading text data", "text"):
        import datasets
    options: dict[str, Any] = {"revision": revision}
    if exported:
        options = {"revision": "refs/convert/parquet", "data_files": {split: f"{config}/{split}/*.parquet"}}
    cache = None if cache_folder is None else str(cache_folder)
    try:
        part = datasets.load_dataset(path, None if exported else config, split=split, cache_dir=cache, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"The split {split!r} of {path!r} (configuration {config!r}) cannot be loaded: {error}. Check the "
            "names and the network (with HF_HUB_OFFLINE=1 only what was loaded before is there), or load files."
        ) from error
    check_columns(part.column_names, columns, f"The split {split!r} of {path!r}")
    return part


def _check_options(function: Callable[..., Any], name: str, options: dict[str, Any]) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"The options {options} do not fit the data {name!r}: {error}. Give {', '.join(signature.parameters)}."
        ) from None


class _Bounded(io.RawIOBase):
    """A file that ends in an error where it unpacks to far more than it is, or to more than is held in memory."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path, self._left = file, path, _MOST_BYTES
        if path.suffix == ".gz":
            self._left = min(_MOST_BYTES, most_unpacked(path.stat().st_size))

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        count: int = self._file.readinto(view)
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._path} is larger than texts are that are held in memory, or unpacks to far more than it is. "
                "Divide it, and give a part."
            )
        return count


def _plain_or_gz(path: Path) -> Path:
    """Return the file as it is there, gzipped or not; gzipped if it is not there."""
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def _read(path: Path, format: str | None, names: Sequence[str], separator: str = "\n") -> Columns:
    """Read the columns of these names."""
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    format = format or _FORMATS.get(ending)
    if format is None or format not in _FORMATS.values():
        raise ConfigError(
            f"The format of {path} is unknown: format={format!r}. Choose one of {list(_FORMATS.values())}, or end the "
            f"file's name in one of {list(_FORMATS)}, with or without .gz."
        )
    if not path.is_file():
        raise DataError(f"There is no file {path}. Give the path of a file in the format {format}.")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as opened:
            # utf-8-sig leaves out the mark that some programs put in front; no line break is translated.
            bounded = io.BufferedReader(_Bounded(opened, path), _CHUNK)
            file = io.TextIOWrapper(bounded, encoding="utf-8-sig", newline="")
            if format == "text":
                return _plain_texts(file.read(), separator, names, path)
            rows = _json_rows(file, names, path) if format == "jsonl" else _table_rows(file, format, names, path)
            columns: Columns = {name: [] for name in names}
            for row in rows:
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as {format} in UTF-8: {error}. Write the file again, or name its format."
        ) from error
    return columns


def _plain_texts(text: str, separator: str, names: Sequence[str], path: Path) -> Columns:
    check_columns(["text"], names, str(path))
    if not separator:
        raise ConfigError("separator='' divides nothing. Give what stands between two texts, such as a line break.")
    pieces = (one.strip("\r\n") for one in text.replace("\r\n", "\n").split(separator))
    return {"text": [one for one in pieces if one.strip()]}


def _json_rows(lines: Iterator[str], names: Sequence[str], path: Path) -> Iterator[list[Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"Line {number} of {path} is no JSON: {error}. Write one JSON object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f"Line {number} of {path} is of type {type(row).__name__}. Write one JSON object a line.")
        check_columns(row, names, f"Line {number} of {path}")
        yield [row[name] for name in names]


def _table_rows(lines: Iterator[str], format: str, names: Sequence[str], path: Path) -> Iterator[list[str]]:
    if format == "tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    header: Sequence[str] = next(reader, [])
    check_columns(header, names, str(path))
    if len(set(header)) < len(header):
        raise DataError(f"{path} has a column twice: {list(header)}. Give every column a name of its own.")
    places = [header.index(name) for name in names]
    for row in reader:
        if not row:
            continue  # a blank line
        if len(row) != len(header):
            raise DataError(
                f"Line {reader.line_num} of {path} has {len(row)} fields, the header {len(header)}. Correct the "
                "line; in tsv, quote marks are literal and no field holds a tab or a line break."
            )
        yield [row[place] for place in places]
