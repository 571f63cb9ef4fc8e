import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from sortednet.data.text import (
    TextTask,
    check_labels,
    check_tokenizer,
    encode,
    from_columns,
    prompts,
    train_tokenizer,
)
from sortednet.errors import ConfigError, DataError

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"]
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTIONS = TextTask("causal", ("question",), "answer", template="Question: {question}\nAnswer: {answer}")
ADDITIONS = {"question": ["1 + 1?", "2 {x} 2?"], "answer": ["<<1+1=2>>2", "4"]}


@pytest.fixture(scope="module")
def words():
    """A tokenizer like BERT's, a letter a token."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture
def bytes_only():
    """A tokenizer of single bytes, which begins a text with `<|bos|>`."""
    return train_tokenizer(["a"], vocab_size=259)


def data_of(rows, task, **options):
    return from_columns(rows, rows, task=task, **options)


def trained(tokenizer, example):
    """Return the whole text, and what is trained on."""
    labels = [one for one in example["labels"] if one != -100]
    return tokenizer.decode(example["input_ids"]), tokenizer.decode(labels)


def test_single_text_is_encoded_as_the_tokenizer_does(words):
    data = data_of({"text": ["a b", "c"], "label": [1, 0]}, TextTask("classification", ("text",), "label"))
    assert encode(data, words, max_length=8).train[0] == {
        "input_ids": [1, 4, 5, 2],
        "token_type_ids": [0, 0, 0, 0],
        "attention_mask": [1, 1, 1, 1],
        "labels": 1,
    }


def test_pair_is_encoded_as_the_tokenizer_does(words):
    data = data_of({"x": ["a b"], "y": ["c"], "score": [2.5]}, TextTask("regression", ("x", "y"), "score"))
    made = encode(data, words, max_length=8).evaluation[0]
    assert (made["input_ids"], made["token_type_ids"]) == ([1, 4, 5, 2, 6, 2], [0, 0, 0, 0, 1, 1])
    assert made["labels"] == 2.5


def test_long_pair_is_cut_and_counted(words):
    rows = {"x": ["a b c d e", "a"], "y": ["f g", "b"], "label": [0, 1]}
    encoded = encode(data_of(rows, TextTask("classification", ("x", "y"), "label")), words, max_length=7)
    assert encoded.train["input_ids"][:] == [[1, 4, 5, 2, 9, 10, 2], [1, 4, 2, 5, 2]]
    assert [len(one) for one in encoded.train["token_type_ids"]] == [7, 5]
    assert encoded.truncated == {"train": 1, "evaluation": 1}
    assert encoded.dropped == {"train": 0, "evaluation": 0}


def test_more_than_one_batch_of_texts_keeps_the_order(words):
    rows = {"text": [WORDS[4 + i % 8] for i in range(2500)], "label": [i % 2 for i in range(2500)]}
    train = encode(data_of(rows, TextTask("classification", ("text",), "label")), words, max_length=4).train
    assert train["input_ids"][:] == [[1, 4 + i % 8, 2] for i in range(2500)]
    assert train["labels"][:] == rows["label"]
    assert train.cache_files == []


def test_a_batch_goes_through_the_collator_and_a_classifier(words):
    rows = {"x": ["a b c", "a"], "y": ["f g", "b"], "label": [0, 1]}
    data = data_of(rows, TextTask("classification", ("x", "y"), "label"))
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    check_tokenizer(words, config, max_length=16)
    check_labels(data, config)
    batch = DataCollatorWithPadding(words)(list(encode(data, words, max_length=16).train))
    assert batch["input_ids"].shape == (2, 8)
    assert BertForSequenceClassification(config)(**batch).loss.isfinite()


def test_a_batch_goes_through_the_collator_and_a_language_model(bytes_only):
    encoded = encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=64)
    batch = DataCollatorForSeq2Seq(bytes_only, label_pad_token_id=-100)(list(encoded.train))
    assert batch["labels"].shape == batch["input_ids"].shape
    assert torch.equal(batch["labels"] == bytes_only.pad_token_id, torch.zeros_like(batch["labels"]).bool())
    config = GPT2Config(vocab_size=len(bytes_only), n_embd=8, n_layer=1, n_head=2, n_positions=64)
    check_tokenizer(bytes_only, config, kind="causal", max_length=64)
    assert GPT2LMHeadModel(config)(**batch).loss.isfinite()


def test_answer_and_end_are_trained_on_and_the_prompt_is_not(bytes_only):
    example = encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=64).train[0]
    assert trained(bytes_only, example) == ("<|bos|>Question: 1 + 1?\nAnswer: <<1+1=2>>2<|eos|>", " <<1+1=2>>2<|eos|>")
    assert len(example["labels"]) == len(example["input_ids"]) == len(example["attention_mask"])


def test_prompt_is_trained_on_if_asked(bytes_only):
    example = encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=64, train_on_prompt=True).train[0]
    assert example["labels"] == example["input_ids"]


def test_calculator_marks_are_taken_out_if_asked(bytes_only):
    data = data_of(ADDITIONS, QUESTIONS)
    example = encode(data, bytes_only, max_length=64, strip_calculations=True).train[0]
    assert trained(bytes_only, example)[1] == " 2<|eos|>"
    assert prompts(data, strip_calculations=True)[0] == ("Question: 1 + 1?\nAnswer:", " 2")


def test_braces_in_a_text_are_kept():
    assert prompts(data_of(ADDITIONS, QUESTIONS), "train")[1] == ("Question: 2 {x} 2?\nAnswer:", " 4")


def test_spaces_of_the_prompt_itself_stay_with_the_prompt():
    task = TextTask("causal", ("question",), "answer", template="{question}{answer}")
    assert prompts(data_of({"question": ["a "], "answer": ["b"]}, task)) == [("a ", "b")]


def test_short_template_is_taken_where_its_column_is_empty():
    task = TextTask("causal", ("a", "b"), "c", template="{a} with {b}: {c}", short_template="{a}: {c}")
    rows = {"a": ["x", "y"], "b": ["", "z"], "c": ["1", "2"]}
    assert prompts(data_of(rows, task)) == [("x:", " 1"), ("y with z:", " 2")]


def test_prompt_has_the_same_tokens_as_when_one_generates_from_it():
    tokenizer = train_tokenizer(["ab ab ab"], vocab_size=280)
    assert len(tokenizer("ab", add_special_tokens=False)["input_ids"]) == 1  # a token spans the border
    task = TextTask("causal", ("question",), "answer", template="{question}{answer}")
    rows = {"question": ["a", "x"], "answer": ["b", "y"]}
    for example, question in zip(
        encode(data_of(rows, task), tokenizer, max_length=9).train, rows["question"], strict=True
    ):
        head = tokenizer(question)["input_ids"]
        assert example["input_ids"][: len(head)] == head
        assert example["labels"][: len(head)] == [-100] * len(head)
        assert -100 not in example["labels"][len(head) :]


def test_long_answer_is_cut_and_never_given_an_end(bytes_only):
    task = TextTask("causal", ("question",), "answer", template="{question}{answer}")
    encoded = encode(data_of({"question": ["abc"], "answer": ["defg"]}, task), bytes_only, max_length=8)
    assert trained(bytes_only, encoded.train[0]) == ("<|bos|>abcdefg", "defg")
    assert encoded.truncated == {"train": 1, "evaluation": 1}


def test_example_of_whose_answer_nothing_is_left_is_left_out_with_a_warning(bytes_only):
    task = TextTask("causal", ("question",), "answer", template="{question}{answer}")
    long = {"question": ["abc", "abcdefgh", "abcd"], "answer": ["d", "e", "f"]}
    data = from_columns(long, {"question": ["a"], "answer": ["b"]}, task=task)
    with pytest.warns(UserWarning, match=r"2 of 3 train examples of columns have no answer within max_length=5; they"):
        encoded = encode(data, bytes_only, max_length=5)
    assert (encoded.train.num_rows, encoded.dropped) == (1, {"train": 2, "evaluation": 0})


def test_data_of_which_nothing_is_left_are_refused(bytes_only):
    with pytest.raises(DataError, match=r"2 of 2 train examples .* max_length=4, so none is left. Raise max_length"):
        encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=4)


def test_plain_text_is_trained_on_whole(bytes_only):
    example = encode(data_of({"text": ["abc"]}, TextTask("causal", ("text",))), bytes_only, max_length=9).train[0]
    assert trained(bytes_only, example)[0] == "<|bos|>abc<|eos|>"
    assert trained(bytes_only, example)[1] in ("abc<|eos|>", "<|bos|>abc<|eos|>")  # the first label is never used


def test_a_tokenizer_that_adds_an_end_gives_one_end(bytes_only):
    bytes_only.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|eos|>", special_tokens=[("<|eos|>", 1)]
    )
    example = encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=64).train[1]
    assert trained(bytes_only, example) == ("Question: 2 {x} 2?\nAnswer: 4<|eos|>", " 4<|eos|>")


def test_chat_writes_turns_of_user_and_assistant(bytes_only):
    bytes_only.chat_template = CHAT
    data = data_of(ADDITIONS, QUESTIONS)
    example = encode(data, bytes_only, max_length=64, chat=True).train[1]
    assert trained(bytes_only, example) == ("<user>2 {x} 2?<|eos|>\n<assistant>4<|eos|>", "4<|eos|>")
    assert prompts(data, tokenizer=bytes_only, chat=True)[1] == ("<user>2 {x} 2?<|eos|>\n<assistant>", "4")


def test_chat_leaves_empty_columns_out_of_the_users_turn(bytes_only):
    bytes_only.chat_template = CHAT
    task = TextTask("causal", ("a", "b"), "c", template="{a}{b}{c}", short_template="{a}{c}")
    data = data_of({"a": ["x", "y"], "b": ["", "z"], "c": ["1", "2"]}, task)
    written = [prompt for prompt, _ in prompts(data, tokenizer=bytes_only, chat=True)]
    assert written == ["<user>x<|eos|>\n<assistant>", "<user>y\n\nz<|eos|>\n<assistant>"]


def test_chat_template_that_changes_the_prompt_is_refused(bytes_only):
    bytes_only.chat_template = "{{ messages | length }}{% if add_generation_prompt %}<assistant>{% endif %}"
    with pytest.raises(ConfigError, match=r"which does not begin like it. Give the tokenizer a chat_template"):
        encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=64, chat=True)


@pytest.mark.parametrize("max_length", [1, 0, 8.0, True, None])
def test_max_length_that_is_not_possible_is_refused(bytes_only, max_length):
    with pytest.raises(ConfigError, match=r"max_length=.* is not possible. Give a whole number of tokens, at least 2"):
        encode(data_of(ADDITIONS, QUESTIONS), bytes_only, max_length=max_length)


def test_options_that_do_not_fit_are_refused(bytes_only):
    classes = data_of({"text": ["a", "b"], "label": [0, 1]}, TextTask("classification", ("text",), "label"))
    with pytest.raises(ConfigError, match=r"train_on_prompt=True, chat=True needs prompts with answers, which columns"):
        encode(classes, bytes_only, max_length=8, train_on_prompt=True, chat=True)
    with pytest.raises(ConfigError, match=r"columns is classification without answers"):
        prompts(classes)
    data = data_of(ADDITIONS, QUESTIONS)
    with pytest.raises(ConfigError, match=r"chat=True needs a tokenizer with a chat_template"):
        prompts(data, chat=True)
    with pytest.raises(ConfigError, match=r"part='test' is unknown. Choose 'train' or 'evaluation'"):
        prompts(data, "test")


def test_tokenizer_without_an_end_is_refused(words):
    with pytest.raises(ConfigError, match=r"no end token. Set tokenizer.eos_token"):
        encode(data_of(ADDITIONS, QUESTIONS), words, max_length=8)


def test_tokenizer_larger_than_the_model_is_refused(bytes_only):
    with pytest.raises(
        ConfigError, match=r"token ids up to 258, but the model's vocab_size is 258.*resize_token_embedd"
    ):
        check_tokenizer(bytes_only, GPT2Config(vocab_size=258), kind="causal")
    check_tokenizer(bytes_only, GPT2Config(vocab_size=259), kind="causal")


def test_missing_or_different_padding_token_is_refused(bytes_only):
    config = GPT2Config(vocab_size=300)
    with pytest.raises(ConfigError, match=r"pad_token_id is None, the tokenizer's 2. Set model.config.pad_token_id"):
        check_tokenizer(bytes_only, config)
    check_tokenizer(bytes_only, config, batch_size=1)
    check_tokenizer(bytes_only, config, kind="causal")
    config.pad_token_id = 2
    check_tokenizer(bytes_only, config)
    bytes_only.pad_token = None
    with pytest.raises(ConfigError, match=r"no padding token, which batches of 8 need. Set tokenizer.pad_token"):
        check_tokenizer(bytes_only, config, kind="causal", batch_size=8)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (BertConfig(max_position_embeddings=12, pad_token_id=2), 12),
        (RobertaConfig(max_position_embeddings=15, pad_token_id=2), 12),
        (GPT2Config(n_positions=12, pad_token_id=2), 12),
    ],
)
def test_more_tokens_than_the_model_has_positions_are_refused(bytes_only, config, most):
    check_tokenizer(bytes_only, config, max_length=most)
    with pytest.raises(ConfigError, match=rf"max_length={most + 1} is beyond the model's {most} positions"):
        check_tokenizer(bytes_only, config, max_length=most + 1)


def test_outputs_that_do_not_fit_the_labels_are_refused():
    classes = data_of({"text": ["a", "b", "c"], "label": [0, 1, 2]}, TextTask("classification", ("text",), "label"))
    numbers = data_of({"text": ["a"], "score": [0.5]}, TextTask("regression", ("text",), "score"))
    with pytest.raises(
        ConfigError, match=r"num_labels is 2, but columns has 3 classes, 0 to 2. Build the model with num_la"
    ):
        check_labels(classes, BertConfig(num_labels=2))
    with pytest.raises(
        ConfigError, match=r"num_labels is 2, but columns has numbers. Build the model with num_labels=1"
    ):
        check_labels(numbers, BertConfig(num_labels=2))
    with pytest.raises(
        ConfigError, match=r"problem_type is 'multi_label_classification', but columns is classification"
    ):
        check_labels(classes, BertConfig(num_labels=3, problem_type="multi_label_classification"))
    check_labels(numbers, BertConfig(num_labels=1))
    check_labels(data_of(ADDITIONS, QUESTIONS), GPT2Config())
