import sys

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, default_data_collator

from sortednet.data.text import packed, train_tokenizer
from sortednet.errors import ConfigError, DataError

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "the cat saw the dog"] * 5


def test_trained_tokenizer_gives_any_text_back():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    for text in ("the cat", " öß 猫\n\t🙂 ", "<b>{x}</b>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_trained_tokenizer_learns_frequent_words():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    assert len(tokenizer("the cat sat", add_special_tokens=False)["input_ids"]) == 3
    assert 259 < len(tokenizer) <= 300


def test_trained_tokenizer_has_its_special_tokens():
    tokenizer = train_tokenizer(TEXTS, vocab_size=259, max_length=77)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert (len(tokenizer), tokenizer.model_max_length) == (259, 77)
    assert tokenizer.decode(tokenizer("a", "b")["input_ids"]) == "<|bos|>a<|eos|>b"


def test_training_a_tokenizer_twice_gives_the_same():
    first, second = (train_tokenizer(iter(TEXTS), vocab_size=300).get_vocab() for _ in range(2))
    assert first == second


def test_trained_tokenizer_is_saved_and_opened_by_transformers(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened("the cat\nsat")["input_ids"] == tokenizer("the cat\nsat")["input_ids"]
    assert opened.pad_token_id == 2


def test_blocks_are_the_texts_in_order_each_ended_once():
    tokenizer = train_tokenizer(["a"], vocab_size=259)
    blocks = packed(["abc", "de", "fgh"], tokenizer, length=5)
    assert [tokenizer.decode(one) for one in blocks["input_ids"]] == ["<|bos|>abc<|eos|>", "<|bos|>de<|eos|><|bos|>"]
    assert blocks["labels"][:] == blocks["input_ids"][:]
    assert blocks.cache_files == []


def test_blocks_run_on_across_batches_of_texts():
    tokenizer = train_tokenizer(["a"], vocab_size=259)
    blocks = packed((chr(97 + i % 26) for i in range(2500)), tokenizer, length=7)
    assert blocks.num_rows == 2500 * 3 // 7
    joined = "".join(tokenizer.decode(one, skip_special_tokens=True) for one in blocks["input_ids"])
    assert joined == ("abcdefghijklmnopqrstuvwxyz" * 97)[: len(joined)]


def test_blocks_train_a_language_model():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    batch = default_data_collator(list(packed(TEXTS, tokenizer, length=16)))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=16))
    assert batch["input_ids"].shape[1] == 16
    assert model(**batch).loss.isfinite()


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ("one text", r"texts is one str of 8 characters. Give a list of texts"),
        ([], r"There are no texts"),
        (["a", "\n"], r"Text 1 is '\\n'. Every text must be a str that is not empty"),
        (["a", None], r"Text 1 is None"),
    ],
)
def test_unfit_texts_are_refused(texts, match):
    with pytest.raises(DataError, match=match):
        train_tokenizer(texts, vocab_size=300)
    tokenizer = train_tokenizer(["a"], vocab_size=259)
    with pytest.raises(DataError, match=match):
        packed(texts, tokenizer, length=4)


def test_unfit_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"vocab_size=258 is not possible. Give a whole number of at least 259"):
        train_tokenizer(TEXTS, vocab_size=258)
    with pytest.raises(ConfigError, match=r"min_frequency=0 is not possible"):
        train_tokenizer(TEXTS, vocab_size=300, min_frequency=0)
    tokenizer = train_tokenizer(["a"], vocab_size=259)
    with pytest.raises(ConfigError, match=r"length=1 is not possible"):
        packed(["a"], tokenizer, length=1)
    with pytest.raises(DataError, match=r"The texts give 3 tokens, less than one block of length=4"):
        packed(["a"], tokenizer, length=4)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"no end token"):
        packed(["a"], tokenizer, length=2)


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "sortednet\[transformers\]"'):
        train_tokenizer(TEXTS, vocab_size=300)
