"""A tokenizer trained on local text, and blocks of tokens to train a small language model from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DataError
from ...imports.packages import needs
from .examples import in_memory

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["packed", "train_tokenizer"]

_BEGIN, _END, _PAD = "<|bos|>", "<|eos|>", "<|pad|>"
_SMALLEST = 256 + 3  # the bytes, and the special tokens
_BATCH = 1000


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, max_length: int | None = None
) -> Any:
    """Train a byte-level BPE tokenizer. It takes any text, and decodes to that text again.

    Args:
        texts: At least one text to learn from.
        vocab_size: Most tokens, at least 259: the 256 bytes and `<|bos|>`, `<|eos|>` and `<|pad|>` with the ids 0, 1
            and 2. Few texts give fewer tokens: build the model with `vocab_size=len(tokenizer)`.
        min_frequency: How often a pair must occur to become a token, at least 1.
        max_length: The tokenizer's `model_max_length`, in tokens.

    Returns:
        A `transformers.PreTrainedTokenizerFast`. It begins a text with `<|bos|>`, puts `<|eos|>` between the texts of a
        pair, and adds no end.

    Raises:
        ConfigError: If vocab_size or min_frequency is too small.
        DataError: If there is no text, or one is no str.
        ImportError: If transformers is not installed.

    Source:
        Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", Sec. 2.2.

    Example:
        >>> tokenizer = train_tokenizer(["hello world, hello there"], vocab_size=300)
        >>> tokenizer.decode(tokenizer("hello wörld")["input_ids"])
        '<|bos|>hello wörld'
    """
    with needs("Training a tokenizer", "transformers"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast
    for name, value, least in (("vocab_size", vocab_size, _SMALLEST), ("min_frequency", min_frequency, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}={value!r} is not possible. Give a whole number of at least {least}.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[_BEGIN, _END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(_checked(texts)), trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_END} $B:1", special_tokens=[(_BEGIN, 0), (_END, 1)]
    )
    options = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_BEGIN, eos_token=_END, pad_token=_PAD, **options
    )


def packed(texts: Iterable[str], tokenizer: Any, length: int) -> Dataset:
    """Join texts and cut them into blocks of equal length, to train a causal model from scratch without any padding.

    Each text is begun as the tokenizer begins one and ended by one end token. What is left after the last whole block
    is left out, fewer than `length` tokens.

    Args:
        texts: At least one text, none of them empty, such as a column of `TextData.train`.
        tokenizer: A tokenizer of Hugging Face.
        length: Tokens of a block, at least 2.

    Returns:
        Blocks with `input_ids` and the same as `labels`, each of `length` tokens, in memory. Any collator stacks them,
        such as transformers' `default_data_collator`.

    Raises:
        ConfigError: If the length is not possible, or the tokenizer has no end token.
        DataError: If a text is empty or no str, or all give fewer tokens than one block.
        ImportError: If the package datasets is not installed.

    Example:
        >>> texts = ["hello world", "hello there"]
        >>> tokenizer = train_tokenizer(texts, vocab_size=300)
        >>> blocks = packed(texts, tokenizer, length=4)
        >>> blocks.num_rows, tokenizer.decode(blocks[0]["input_ids"])
        (4, '<|bos|>hello w')
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise ConfigError(f"length={length!r} is not possible. Give a whole number of tokens, at least 2.")
    if tokenizer.eos_token_id is None:
        raise ConfigError("The tokenizer has no end token. Set tokenizer.eos_token, which divides the texts.")
    batches: list[dict[str, list[list[int]]]] = []
    rest: list[int] = []
    for batch in _batches(_checked(texts)):
        for ids in tokenizer(batch, verbose=False)["input_ids"]:
            rest += ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
        blocks = [rest[start : start + length] for start in range(0, len(rest) - length + 1, length)]
        rest = rest[len(blocks) * length :]
        if blocks:
            batches.append({"input_ids": blocks, "labels": blocks})
    if not batches:
        raise DataError(
            f"The texts give {len(rest)} tokens, less than one block of length={length}. Give more, or a "
            "shorter length."
        )
    return in_memory(batches)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise DataError(f"texts is one str of {len(texts)} characters. Give a list of texts.")
    i = -1
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"Text {i} is {text!r}. Every text must be a str that is not empty: correct or remove it.")
        yield text
    if i < 0:
        raise DataError("There are no texts. Give at least one.")


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
