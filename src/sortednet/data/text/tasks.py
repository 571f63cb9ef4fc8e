"""Well-known tasks: what their columns mean, where their files are, and how other rows are made into such columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...errors import DataError
from .examples import TextTask

__all__ = ["TASKS", "Place", "Rows"]

Columns: TypeAlias = dict[str, list[Any]]


@dataclass(frozen=True)
class Rows:
    """Rows of another form than the task's.

    Args:
        columns: Those that hold the task's texts.
        make: Makes the task's columns of these; given where they come from, for messages.
    """

    columns: tuple[str, ...]
    make: Callable[[Columns, str], Columns]


@dataclass(frozen=True)
class Place:
    """Where a named task is found: files of a folder, and a data set of the Hub.

    Args:
        train_file: File of the training examples.
        evaluation_file: File of the evaluation examples; None where they are held out from training.
        hub: The data set of the Hub, and its configuration.
        hub_evaluation: Its split to evaluate on.
        hub_label: Its column of labels, where that has another name.
        held_out: Examples held out from training, where nothing else is said.
        splits: Other splits to evaluate on by name: the file, and the split of the Hub.
        rows: How the files' rows are made into the task's.
        hub_rows: The same for the Hub's.
    """

    train_file: str
    evaluation_file: str | None
    hub: tuple[str, str | None]
    hub_evaluation: str | None
    hub_label: str | None = None
    held_out: int | None = None
    splits: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    rows: Rows | None = None
    hub_rows: Rows | None = None


def _texts(value: Any, name: str, row: int, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DataError(f"Row {row} of {where} has {name}={value!r}, which is no list of texts. Correct it.")
    return value


def _facts(triples: list[str], row: int, where: str) -> str:
    """Write triples such as `Aarhus_Airport | cityServed | Aarhus` in one line."""
    parts = [triple.split(" | ", 2) for triple in triples]
    if not parts or any(len(one) != 3 for one in parts):
        raise DataError(f"Row {row} of {where} has the triples {triples}. Write each as 'subject | property | object'.")
    return " | ".join(" : ".join(one) for one in parts)


def _webnlg(columns: Columns, where: str) -> Columns:
    """Make a row of every reference; triples without any are left out."""
    found: Columns = {"triples": [], "text": []}
    for row, (triples, references) in enumerate(zip(columns["triples"], columns["refs"], strict=True), 1):
        for one in _texts(references, "refs", row, where):
            found["triples"].append(_facts(_texts(triples, "triples", row, where), row, where))
            found["text"].append(one)
    return found


def _webnlg_of_the_hub(columns: Columns, where: str) -> Columns:
    """The same of rows that hold one text to train on, and all references to evaluate on."""
    pairs = zip(columns["references"], columns["target"], strict=True)
    return _webnlg({"triples": columns["input"], "refs": [list(many or [one]) for many, one in pairs]}, where)


_E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


def _e2e(columns: Columns, where: str) -> Columns:
    """Give the columns names that say what they hold."""
    return {"meaning": columns["mr"], "text": columns["ref"]}


def _e2e_of_the_hub(columns: Columns, where: str) -> Columns:
    """Write `name[Alimentum], eatType[pub]` as the files do: `name : Alimentum | Type : pub`."""
    found = []
    for row, meaning in enumerate(columns["meaning_representation"], 1):
        parts = re.findall(r"\s*([^\[\],]+)\[([^\]]*)\]", meaning if isinstance(meaning, str) else "")
        if not parts:
            raise DataError(f"Row {row} of {where} has meaning_representation={meaning!r}. Write it as name[value].")
        found.append(" | ".join(f"{_E2E_NAMES.get(name, name)} : {value}" for name, value in parts))
    return {"meaning": found, "text": columns["human_reference"]}


_GLUE, _PAIR = "nyu-mll/glue", ("sentence1", "sentence2")
_ALPACA = (
    "Below is an instruction that describes a task{context}. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{{instruction}}\n\n{input}### Response:{{output}}"
)
TASKS: dict[str, tuple[TextTask, Place]] = {
    "sst2": (
        TextTask("classification", ("sentence",), "label", ("negative", "positive")),
        Place("glue_sst2_train.tsv", "glue_sst2_dev.tsv", (_GLUE, "sst2"), "validation"),
    ),
    "mrpc": (
        TextTask("classification", _PAIR, "label", ("not_equivalent", "equivalent"), "f1"),
        Place("glue_mrpc_train.tsv", "glue_mrpc_test.tsv", (_GLUE, "mrpc"), "validation"),
    ),
    "rte": (
        TextTask("classification", _PAIR, "label", ("entailment", "not_entailment")),
        Place("glue_rte_train.tsv", "glue_rte_dev.tsv", (_GLUE, "rte"), "validation"),
    ),
    "stsb": (
        TextTask("regression", _PAIR, "score"),
        Place("glue_stsb_train.tsv", "glue_stsb_dev.tsv", (_GLUE, "stsb"), "validation", "label"),
    ),
    "gsm8k": (
        TextTask(
            "causal", ("question",), "answer", metric="exact_match", template="Question: {question}\nAnswer: {answer}"
        ),
        Place("gsm8k_train.jsonl", "gsm8k_test_a.jsonl", ("openai/gsm8k", "main"), "test"),
    ),
    "alpaca": (
        TextTask(
            "causal",
            ("instruction", "input"),
            "output",
            template=_ALPACA.format(
                context=", paired with an input that provides further context", input="### Input:\n{input}\n\n"
            ),
            short_template=_ALPACA.format(context="", input=""),
            drop_empty=True,
        ),
        Place("alpaca_random9k.jsonl", None, ("tatsu-lab/alpaca", None), None, held_out=500),
    ),
    "webnlg": (
        TextTask("causal", ("triples",), "text", template="Facts: {triples}\nText: {text}"),
        Place(
            "webnlg_v1.6_en_train.jsonl",
            "webnlg_v1.6_en_test.jsonl",
            ("GEM/web_nlg", "en"),
            "test",
            splits={"dev": ("webnlg_v1.6_en_dev.jsonl", "validation"), "test": ("webnlg_v1.6_en_test.jsonl", "test")},
            rows=Rows(("triples", "refs"), _webnlg),
            hub_rows=Rows(("input", "target", "references"), _webnlg_of_the_hub),
        ),
    ),
    "e2e": (
        TextTask("causal", ("meaning",), "text", template="Facts: {meaning}\nText: {text}"),
        Place(
            "e2e_valid.jsonl",
            "e2e_test.jsonl",
            ("tuetschek/e2e_nlg", "default"),
            "test",
            rows=Rows(("mr", "ref"), _e2e),
            hub_rows=Rows(("meaning_representation", "human_reference"), _e2e_of_the_hub),
        ),
    ),
}
