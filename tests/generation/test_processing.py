"""Logits are processed position by position, each with its own text before it."""

import math
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from sortednet.errors import ConfigError
from sortednet.generation.processing import Processing, confidence_of
from sortednet.generation.sequences import Ending, Sequences
from sortednet.generation.statistics import Emitted, Statistics


def texts(*rows: list[int], length: int = 12, **own: Any) -> Sequences:
    return Sequences(torch.tensor(rows), Ending(length, **own), Statistics())


def scores(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_confidence_by_hand() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    assert float(confidence_of(logits, "probability")) == pytest.approx(0.5)
    assert float(confidence_of(logits, "margin")) == pytest.approx(0.25)
    assert float(confidence_of(logits, "entropy")) == pytest.approx(1 - 1.75 / 2)
    with pytest.raises(ConfigError, match="confidence='luck' is unknown"):
        confidence_of(logits, "luck")  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", ["probability", "margin", "entropy"])
def test_confidence_is_between_zero_and_one(measure: Any) -> None:
    certain = torch.tensor([0.0, -torch.inf, -torch.inf])
    assert float(confidence_of(certain, measure)) == pytest.approx(1)
    flat = float(confidence_of(torch.zeros(8), measure))
    assert flat == pytest.approx(1 / 8 if measure == "probability" else 0, abs=1e-6)


PROCESSORS: dict[str, list[Any]] = {
    "none": [],
    "of_scores": [hf.TemperatureLogitsWarper(0.7), hf.TopKLogitsWarper(3)],
    "of_texts": [hf.RepetitionPenaltyLogitsProcessor(1.5), hf.NoRepeatNGramLogitsProcessor(2)],
    "of_both": [hf.RepetitionPenaltyLogitsProcessor(1.5), hf.TopPLogitsWarper(0.8)],
    "of_lengths": [hf.MinNewTokensLengthLogitsProcessor(3, 3, [2, 4]), hf.ForcedEOSTokenLogitsProcessor(6, 1)],
}


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("name", PROCESSORS)
def test_each_position_is_processed_as_alone(name: str, sample: bool) -> None:
    """Rows of different lengths, some of which have ended, with two drafted tokens behind each."""
    sequences = texts([1, 2, 3], [4, 4, 1], [2, 3, 2])
    sequences.extend([[5], [2, 4], [5, 1]], [[1], [1, 1], [1, 1]], [0, 0, 0])
    sequences.active = [0, 2]
    sequences.draft(0, torch.tensor([1, 2]))
    sequences.draft(1, torch.tensor([5, 5]))
    logits = scores(2, 3, 6)
    found = Processing(PROCESSORS[name], sample)(logits, sequences)
    wholes = [[1, 2, 3, 5, 1, 5], [2, 3, 2, 5, 1, 2, 5]]
    for row, whole in enumerate(wholes):
        for place in range(3):
            text = torch.tensor([whole[: len(whole) - 2 + place]])
            wanted = logits[row : row + 1, place].clone()
            for one in PROCESSORS[name]:
                wanted = one(text, wanted)
            wanted = wanted.softmax(-1) if sample else wanted
            assert torch.allclose(found[row, place], wanted[0], atol=1e-6)


def test_a_drafted_position_is_processed_at_its_place() -> None:
    sequences = texts([1, 2])
    sequences.draft(0, torch.tensor([5]))
    processing = Processing(PROCESSORS["of_texts"], sample=False)
    logits = scores(1, 2, 6)
    assert torch.equal(processing(logits, sequences)[:, 1:], processing(logits[:, 1:], sequences, place=1))


def test_logits_are_left_as_they_were() -> None:
    for processors in PROCESSORS.values():
        logits = scores(1, 2, 6)
        before = logits.clone()
        Processing(processors, sample=True)(logits, texts([1, 2]))
        Processing(processors, sample=True).roughly(logits)
        assert torch.equal(logits, before)


def test_an_estimate_is_processed_by_what_reads_scores_alone() -> None:
    logits = scores(2, 3, 6)
    found = Processing(PROCESSORS["of_scores"], sample=True).roughly(logits)
    wanted = Processing(PROCESSORS["of_scores"], sample=True)(logits, texts([1, 2], [3, 4]))
    assert torch.equal(found, wanted)
    assert torch.equal(Processing(PROCESSORS["of_texts"], sample=False).roughly(logits), logits)


# Texts while they grow.


def test_a_text_ends_with_its_first_end() -> None:
    sequences = texts([1], [1], ids=frozenset([3, 4]))
    assert sequences.extend([[5, 3, 6], [5, 6, 7]], [[2, 2, 6]] * 2, [2, 2]) == [1]
    assert sequences.result(0).tolist() == [[1, 5, 3, 0], [1, 5, 6, 7]]
    assert sequences.active == [1]


def test_a_text_is_no_longer_than_allowed() -> None:
    sequences = texts([1, 1], length=4)
    assert sequences.left == 2
    assert sequences.extend([[5, 6, 7]], [[1, 1, 1]], [2]) == []
    assert sequences.result(0).tolist() == [[1, 1, 5, 6]]


def test_criteria_see_the_text_up_to_each_token() -> None:
    asked: list[list[int]] = []

    def stops(text: Tensor, scores: Any) -> Tensor:
        asked.append(text[0].tolist())
        return torch.tensor([text.shape[1] == 3])

    sequences = texts([1], criteria=(stops,))
    sequences.extend([[5, 6, 7]], [[1, 1, 1]], [2])
    assert asked == [[1, 5], [1, 5, 6]]
    assert sequences.result(9).tolist() == [[1, 5, 6]]


def test_counts_and_those_told_are_of_accepted_tokens_alone() -> None:
    told: list[Emitted] = []
    statistics = Statistics()
    sequences = Sequences(torch.tensor([[1]]), Ending(9, frozenset([3])), statistics, told.append)
    sequences.draft(0, torch.tensor([8]))
    sequences.extend([[5, 3, 6]], [[2, 2, 4]], [2])
    assert told == [Emitted(0, 5, 2, True), Emitted(0, 3, 2, True)]
    assert (statistics.tokens, statistics.accepted, dict(statistics.by_exit)) == (2, 2, {2: 2})


def test_the_last_tokens_of_each_row() -> None:
    sequences = texts([1, 2, 3], [4, 5, 6])
    sequences.extend([[7], [8]], [[1], [1]], [0, 0])
    assert sequences.last([1, 3]).tolist() == [[7, 0, 0], [5, 6, 8]]


def test_statistics_by_hand() -> None:
    counts = Statistics(
        depth=8, texts=2, tokens=10, rounds=4, drafted=12, accepted=6, layer_calls=56, prompt_layer_calls=8
    )
    counts.by_exit.update({2: 6, 8: 4})
    counts.seconds = 2.0
    assert counts.acceptance == counts.rejection_ratio == 0.5
    assert counts.mean_exit == pytest.approx(4.4)
    assert counts.layer_calls_per_token == pytest.approx(6.0)
    assert counts.share_of_layers == pytest.approx(0.75)
    assert counts.tokens_per_second == 5.0
    nothing = Statistics()
    for name in ("acceptance", "mean_exit", "layer_calls_per_token", "share_of_layers", "tokens_per_second"):
        assert math.isnan(getattr(nothing, name))
