"""Text as tokens: single texts, pairs, and prompts with their answers; and whether tokenizer, labels and model fit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...errors import ConfigError, DataError
from .examples import Kind, TextData, in_memory

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["EncodedText", "check_labels", "check_tokenizer", "encode", "prompts"]

Columns: TypeAlias = dict[str, list[Any]]
_BATCH = 1000
_IGNORED = -100  # the label that losses leave out
_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
_POSITIONS_AFTER_PADDING = frozenset(
    {
        "camembert",
        "data2vec-text",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
"""Types of models that number their positions from pad_token_id + 1 on."""


@dataclass(frozen=True, eq=False)
class EncodedText:
    """Text data as tokens, in memory, ready for the Hugging Face Trainer.

    Attributes:
        train: Examples with `input_ids`, `attention_mask`, if the tokenizer makes them `token_type_ids`, and `labels`.
        evaluation: The same to evaluate on.
        truncated: How many examples were cut to max_length, by `train` and `evaluation`; those left out not counted.
        dropped: How many were left out because nothing of their answer was left, the same.
    """

    train: Dataset
    evaluation: Dataset
    truncated: Mapping[str, int]
    dropped: Mapping[str, int]


def encode(
    data: TextData,
    tokenizer: Any,
    *,
    max_length: int,
    train_on_prompt: bool = False,
    strip_calculations: bool = False,
    chat: bool = False,
) -> EncodedText:
    """Turn text data into tokens.

    Classification and regression: one text, or a pair as the tokenizer joins pairs; too long, the longer text of a pair
    is cut first. `labels` is the class or the number.

    Causal: the prompt as the tokenizer begins a text, the answer, and the end token. `labels` are `input_ids`, with
    -100 on the prompt. Too long, the end is cut, the end token included; an example of whose answer nothing is left is
    left out with a warning. Plain text: the text and the end token, all of it trained on.

    Nothing is padded. Let transformers' own collators do that, batch by batch: `DataCollatorWithPadding(tokenizer)` for
    classification and regression; `DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)` for causal data.

    Args:
        data: The data.
        tokenizer: A tokenizer of Hugging Face.
        max_length: Most tokens of an example, special ones included, at least 2. See `check_tokenizer`.
        train_on_prompt: Whether the prompt is trained on as well.
        strip_calculations: Whether to take GSM8K's calculator marks `<<...>>` out of the answers.
        chat: Whether prompt and answer become turns of user and assistant in the tokenizer's chat template, instead of
            the task's own template.

    Returns:
        The tokens, and how many examples were cut and left out.

    Raises:
        ConfigError: If max_length is not possible, an option needs causal data, the tokenizer has no end token, or it
            has no fitting chat template.
        DataError: If no example is left.

    Example:
        >>> from sortednet.data.text import TextTask, from_columns, train_tokenizer
        >>> rows = {"question": ["1 + 1?", "2 + 1?"], "answer": ["2", "3"]}
        >>> task = TextTask("causal", ("question",), "answer", template="{question} {answer}")
        >>> tokenizer = train_tokenizer(rows["question"], vocab_size=300)
        >>> encoded = encode(from_columns(rows, rows, task=task), tokenizer, max_length=32)
        >>> first = encoded.train[0]
        >>> tokenizer.decode(first["input_ids"])
        '<|bos|>1 + 1? 2<|eos|>'
        >>> tokenizer.decode([one for one in first["labels"] if one != -100])
        ' 2<|eos|>'
    """
    causal = data.kind == "causal"
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2:
        raise ConfigError(f"max_length={max_length!r} is not possible. Give a whole number of tokens, at least 2.")
    _check_options(data, tokenizer, train_on_prompt, strip_calculations, chat)
    made: dict[str, Dataset] = {}
    truncated: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for part, rows in (("train", data.train), ("evaluation", data.evaluation)):
        batches, cut, left_out = [], 0, 0
        for batch in _batches(rows):
            if causal:
                columns, cut_here, left_out_here = _causal(
                    _rendered(data, batch, tokenizer if chat else None, strip_calculations),
                    tokenizer, max_length, train_on_prompt, begun=chat,
                )  # fmt: skip
            else:
                columns, cut_here = _cut([batch[name] for name in data.text_columns], tokenizer, max_length)
                columns["labels"], left_out_here = batch[data.label_column or ""], 0
            cut, left_out = cut + cut_here, left_out + left_out_here
            if columns["labels"]:
                batches.append(columns)
        truncated[part], dropped[part] = cut, left_out
        if left_out:
            what = f"{left_out} of {rows.num_rows} {part} examples of {data.name} have no answer within max_length"
            if not batches:
                raise DataError(f"{what}={max_length}, so none is left. Raise max_length.")
            warnings.warn(f"{what}={max_length}; they are left out. Raise max_length to keep them.", stacklevel=2)
        made[part] = in_memory(batches)
    return EncodedText(made["train"], made["evaluation"], truncated, dropped)


def prompts(
    data: TextData,
    part: Literal["train", "evaluation"] = "evaluation",
    *,
    tokenizer: Any = None,
    strip_calculations: bool = False,
    chat: bool = False,
) -> list[tuple[str, str]]:
    """Return prompts and answers as text, as `encode` turns them into tokens: to generate from, or to read.

    Args:
        data: Causal data with answers.
        part: `train` or `evaluation`.
        tokenizer: A tokenizer of Hugging Face; needed for `chat` only.
        strip_calculations: As in `encode`.
        chat: As in `encode`. Such prompts hold their special tokens as text: turn them into tokens with
            `add_special_tokens=False`.

    Returns:
        Prompt and answer of each example, without the end token.

    Raises:
        ConfigError: If the data have no answers, there is no such part, or no fitting chat template.

    Example:
        >>> from sortednet.data.text import TextTask, from_columns
        >>> rows = {"question": ["1 + 1?"], "answer": ["2"]}
        >>> task = TextTask("causal", ("question",), "answer", template="{question} {answer}")
        >>> prompts(from_columns(rows, rows, task=task))
        [('1 + 1?', ' 2')]
    """
    if part not in ("train", "evaluation"):
        raise ConfigError(f"part={part!r} is unknown. Choose 'train' or 'evaluation'.")
    if data.kind != "causal" or data.label_column is None:
        raise ConfigError(f"{data.name} is {data.kind} without answers. Give causal data with a label_column.")
    _check_options(data, tokenizer, False, strip_calculations, chat)
    rows = data.train if part == "train" else data.evaluation
    return [
        one
        for batch in _batches(rows)
        for one in _rendered(data, batch, tokenizer if chat else None, strip_calculations)
    ]


def check_tokenizer(
    tokenizer: Any,
    model_config: Any,
    *,
    kind: Kind = "classification",
    max_length: int | None = None,
    batch_size: int = 2,
) -> None:
    """Raise an error if a tokenizer does not fit a model.

    Args:
        tokenizer: A tokenizer of Hugging Face.
        model_config: The model's Hugging Face config.
        kind: Of the data.
        max_length: Most tokens of an example; left out, it is not checked.
        batch_size: Examples in a batch, at least 1. More than 1 need a padding token.

    Raises:
        ConfigError: If the tokenizer has a token that the model does not, one of them lacks the padding token or they
            have different ones, or the model has fewer positions than max_length.

    Example:
        >>> from types import SimpleNamespace
        >>> from sortednet.data.text import train_tokenizer
        >>> tokenizer = train_tokenizer(["some text"], vocab_size=300)
        >>> check_tokenizer(tokenizer, SimpleNamespace(vocab_size=100, pad_token_id=2))
        Traceback (most recent call last):
        sortednet.errors.ConfigError: The tokenizer has token ids up to ... but the model's vocab_size is 100...
    """
    text_config = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    largest = max(tokenizer.get_vocab().values(), default=-1)
    vocab_size = getattr(text_config, "vocab_size", None)
    if vocab_size is not None and largest >= vocab_size:
        raise ConfigError(
            f"The tokenizer has token ids up to {largest}, but the model's vocab_size is {vocab_size}. Take the "
            "model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer)) before training."
        )
    if batch_size > 1:
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                f"The tokenizer has no padding token, which batches of {batch_size} need. Set "
                "tokenizer.pad_token = tokenizer.eos_token, or batch_size=1."
            )
        model_pad = getattr(text_config, "pad_token_id", None)
        if kind != "causal" and model_pad != tokenizer.pad_token_id:
            # A decoder reads the class at the last token that is not this one.
            raise ConfigError(
                f"The model's pad_token_id is {model_pad}, the tokenizer's {tokenizer.pad_token_id}. Set "
                "model.config.pad_token_id = tokenizer.pad_token_id."
            )
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None and getattr(text_config, "model_type", None) in _POSITIONS_AFTER_PADDING:
        positions -= (getattr(text_config, "pad_token_id", None) or 0) + 1
    if max_length is not None and positions is not None and max_length > positions:
        raise ConfigError(
            f"max_length={max_length} is beyond the model's {positions} positions. Give {positions} at most."
        )


def check_labels(data: TextData, model_config: Any) -> None:
    """Raise an error if a model's outputs do not fit the labels.

    Args:
        data: The data.
        model_config: The model's Hugging Face config.

    Raises:
        ConfigError: If a classifier has not as many outputs as there are classes, a regression model not one, or either
            is set to another kind of problem.

    Example:
        >>> from types import SimpleNamespace
        >>> from sortednet.data.text import TextTask, from_columns
        >>> rows = {"text": ["fine", "poor", "so so"], "label": [2, 0, 1]}
        >>> data = from_columns(rows, rows, task=TextTask("classification", ("text",), "label"))
        >>> check_labels(data, SimpleNamespace(num_labels=2))
        Traceback (most recent call last):
        sortednet.errors.ConfigError: The model's num_labels is 2, but columns has 3 classes, 0 to 2...
    """
    if data.kind == "causal":
        return
    count = getattr(model_config, "num_labels", None)
    if count != data.num_labels:
        classes = f"{data.num_labels} classes, 0 to {data.num_labels - 1}"
        has = classes if data.kind == "classification" else "numbers"
        raise ConfigError(
            f"The model's num_labels is {count}, but {data.name} has {has}. Build "
            f"the model with num_labels={data.num_labels}."
        )
    problem = getattr(model_config, "problem_type", None)
    fitting = {"classification": "single_label_classification", "regression": "regression"}[data.kind]
    if problem not in (None, fitting):
        raise ConfigError(
            f"The model's problem_type is {problem!r}, but {data.name} is {data.kind}. Set it to {fitting!r} or None."
        )


def _check_options(data: TextData, tokenizer: Any, train_on_prompt: bool, strip_calculations: bool, chat: bool) -> None:
    options = {"train_on_prompt": train_on_prompt, "strip_calculations": strip_calculations, "chat": chat}
    if any(options.values()) and (data.kind != "causal" or data.label_column is None):
        named = ", ".join(f"{name}=True" for name, value in options.items() if value)
        raise ConfigError(f"{named} needs prompts with answers, which {data.name} has not. Leave it out.")
    if data.kind == "causal" and tokenizer is not None and tokenizer.eos_token_id is None:
        raise ConfigError("The tokenizer has no end token. Set tokenizer.eos_token, so that a model can learn to stop.")
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "chat=True needs a tokenizer with a chat_template, which this one lacks. Set it, or leave chat out."
        )


def _batches(rows: Dataset) -> Iterator[Mapping[str, Any]]:
    for start in range(0, rows.num_rows, _BATCH):
        yield rows[start : start + _BATCH]


def _tokens(tokenizer: Any, *texts: Sequence[str], **options: Any) -> Columns:
    # Quiet about texts longer than the model takes: they are cut here.
    made = tokenizer(*texts, verbose=False, **options)
    return {name: list(made[name]) for name in _INPUTS if name in made}


def _cut(texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> tuple[Columns, int]:
    """Turn texts or pairs into tokens, and count those cut."""
    columns = _tokens(tokenizer, *texts)
    longer = [i for i, ids in enumerate(columns["input_ids"]) if len(ids) > max_length]
    if longer:
        chosen = [[part[i] for i in longer] for part in texts]
        shorter = _tokens(tokenizer, *chosen, truncation=True, max_length=max_length)
        for name, column in columns.items():
            for i, value in zip(longer, shorter[name], strict=True):
                column[i] = value
    return columns, len(longer)


def _rendered(data: TextData, batch: Mapping[str, Any], chat: Any, strip_calculations: bool) -> list[tuple[str, str]]:
    """Write each row as a prompt and what follows it; plain text follows an empty prompt."""
    task, answer_column = data.task, data.label_column
    if answer_column is None:
        return [("", text) for text in batch[task.text_columns[0]]]
    written = []
    for values in zip(*(batch[name] for name in task.columns), strict=True):
        row = dict(zip(task.columns, values, strict=True))
        if strip_calculations:
            row[answer_column] = re.sub(r"<<[^<>]*>>", "", row[answer_column])
        if chat is not None:
            written.append(_turns(row, answer_column, chat))
            continue
        short = any(not row[name].strip() for name in task.optional_columns)
        template = (task.short_template if short else task.template).removesuffix(f"{{{answer_column}}}")
        prompt = template.format_map(row)
        # Most tokenizers join a space with the word that follows.
        spaces = len(prompt) - len(prompt.rstrip(" ")) if template.endswith(" ") else 0
        written.append((prompt[: len(prompt) - spaces], " " * spaces + row[answer_column]))
    return written


def _turns(row: Mapping[str, str], answer_column: str, tokenizer: Any) -> tuple[str, str]:
    """Write a row in the tokenizer's chat template, without the end token."""
    asked = "\n\n".join(text for name, text in row.items() if name != answer_column and text.strip())
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": row[answer_column]}]
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    if not whole.startswith(prompt):
        raise ConfigError(
            f"The chat template writes the prompt as {prompt!r}, but prompt and answer as {whole!r}, which does not "
            "begin like it. Give the tokenizer a chat_template that does, or leave chat out."
        )
    answer, end, _ = whole[len(prompt) :].rpartition(tokenizer.eos_token)
    return prompt, answer if end else whole[len(prompt) :]


def _causal(
    written: Sequence[tuple[str, str]], tokenizer: Any, max_length: int, train_on_prompt: bool, *, begun: bool
) -> tuple[Columns, int, int]:
    """Turn prompts and what follows into tokens, and count those cut and those left out."""
    options = {"add_special_tokens": not begun}  # a chat template writes them itself
    heads = _tokens(tokenizer, [prompt for prompt, _ in written], **options)["input_ids"]
    wholes = _tokens(tokenizer, [prompt + answer for prompt, answer in written], **options)["input_ids"]
    columns: Columns = {"input_ids": [], "attention_mask": [], "labels": []}
    cut = left_out = 0
    for (_, answer), head, whole in zip(written, heads, wholes, strict=True):
        head, whole = _without_end(head, tokenizer), _without_end(whole, tokenizer)
        if whole[: len(head)] != head:
            # A token would span the border; the prompt must have the tokens that it has when one generates from it.
            whole = head + _tokens(tokenizer, [answer], add_special_tokens=False)["input_ids"][0]
        ids = [*whole, tokenizer.eos_token_id]
        if len(head) >= max_length:
            left_out += 1
            continue
        cut += len(ids) > max_length
        ids = ids[:max_length]
        columns["input_ids"].append(ids)
        columns["attention_mask"].append([1] * len(ids))
        columns["labels"].append(ids if train_on_prompt else [_IGNORED] * len(head) + ids[len(head) :])
    return columns, cut, left_out


def _without_end(ids: Sequence[int], tokenizer: Any) -> list[int]:
    """Take off the end or separator tokens that some tokenizers add."""
    ids = list(ids)
    while ids and ids[-1] in (tokenizer.eos_token_id, getattr(tokenizer, "sep_token_id", None)):
        ids.pop()
    return ids
