"""Skeletons as tokens: both kinds give back the text, and say what they cannot write."""

import pytest

from sortednet.errors import ConfigError, DataError
from sortednet.symbolic import GeneratorConfig, Tokenizer, make_pool
from sortednet.symbolic.expressions import END, PAD, START

from .cases import ALL_OPERATORS

POOL = make_pool(GeneratorConfig(variables=(1, 2, 3, 9), operators=ALL_OPERATORS), 300, 5, None)
TEXTS = [text for texts, _ in POOL.skeletons.values() for text in texts]
both_kinds = pytest.mark.parametrize("kind", ["operators", "characters"])


def test_there_are_enough_skeletons_to_try() -> None:
    assert len(TEXTS) >= 500


@both_kinds
def test_tokens_give_back_the_text(kind: str) -> None:
    tokenizer = Tokenizer(kind)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == TEXTS


@both_kinds
def test_tokens_stand_between_the_marks_of_start_and_end(kind: str) -> None:
    tokenizer = Tokenizer(kind)
    for text in TEXTS:
        first, *inside, last = tokenizer.encode(text)
        assert (first, last) == (START, END)
        assert min(inside) > END
        assert max(inside) < len(tokenizer.vocabulary)


@both_kinds
def test_the_vocabulary_has_nothing_twice(kind: str) -> None:
    """The papers' one depends on the files that were read, and may hold a duplicate."""
    vocabulary = Tokenizer(kind).vocabulary
    assert len(set(vocabulary)) == len(vocabulary)


@both_kinds
def test_padding_changes_nothing(kind: str) -> None:
    tokenizer = Tokenizer(kind)
    rows = tokenizer.pad([tokenizer.encode(text) for text in TEXTS[:20]])
    assert len({len(row) for row in rows}) == 1
    assert [tokenizer.decode(row) for row in rows] == TEXTS[:20]


def test_padding_stands_behind_the_end() -> None:
    assert Tokenizer().pad([[START, 5, END], [START, END]]) == [[START, 5, END], [START, END, PAD]]


def test_what_is_behind_the_end_is_not_read() -> None:
    tokenizer = Tokenizer()
    ids = tokenizer.encode("C*x1+C")
    assert tokenizer.decode([*ids, *ids]) == "C*x1+C"


def test_characters_are_a_token_each() -> None:
    assert len(Tokenizer("characters").encode("C*sin(C*x1)+C")) == 13 + 2


def test_operators_need_fewer_tokens_than_characters() -> None:
    operators, characters = (
        sum(len(Tokenizer(kind).encode(text)) for text in TEXTS) for kind in ("operators", "characters")
    )
    assert operators < 0.6 * characters


@both_kinds
@pytest.mark.parametrize("text", ["C*y+C", "C*x1 + C", "C*tan(x1)", "2*x1?", "C*x1=C"])
def test_unknown_text_is_refused(kind: str, text: str) -> None:
    if kind == "characters" and text == "C*tan(x1)":
        return  # each of its characters is known
    with pytest.raises(
        DataError, match=r"holds what is no token\. Write it as to_text does, such as C\*sin\(C\*x1\)\+C"
    ):
        Tokenizer(kind).encode(text)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer='words' is unknown\. Choose one of operators, characters\."):
        Tokenizer("words")  # type: ignore[arg-type]
