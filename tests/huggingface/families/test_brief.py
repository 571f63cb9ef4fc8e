"""Fewer tokens of a text, for trials."""

import pytest
import torch

from sortednet.huggingface.families.examples import brief

IDS = torch.arange(80).view(2, 40)
LEFT = (torch.arange(40) >= 10).long().expand(2, -1)


@pytest.mark.parametrize("mask", [LEFT, LEFT.flip(1)], ids=["left", "right"])
def test_the_first_and_the_last_tokens_stay_and_padding_with_them(mask):
    given = {"input_ids": IDS, "attention_mask": mask, "labels": torch.tensor([0, 1]), "use_cache": False}
    args, found = brief(((), given))
    assert args == ()
    assert found["input_ids"][0].tolist() == [*range(8), *range(32, 40)]
    assert set(found["attention_mask"].flatten().tolist()) == {0, 1}
    assert found["labels"] is given["labels"]
    assert found["use_cache"] is False


@pytest.mark.parametrize(
    "more",
    [
        {"attention_mask": torch.ones(2, 1, 40, 40)},
        {"decoder_input_ids": IDS[:, :30]},
        {"cache_position": torch.arange(40)},
        {"inputs_embeds": torch.zeros(2, 40, 40)},
    ],
    ids=lambda one: next(iter(one)),
)
def test_what_is_no_row_of_tokens_leaves_the_inputs_as_they_are(more):
    inputs = (), {"input_ids": IDS, **more}
    assert brief(inputs) is inputs


@pytest.mark.parametrize("inputs", [((IDS,), {}), ((), {"pixel_values": IDS}), ((), {"input_ids": IDS[:, :16]})])
def test_other_inputs_stay_as_they_are(inputs):
    assert brief(inputs) is inputs


def test_positions_of_one_row_and_embeddings_are_cut_alike():
    _, found = brief(((), {"inputs_embeds": torch.zeros(2, 40, 5), "position_ids": torch.arange(40)[None]}))
    assert found["inputs_embeds"].shape == (2, 16, 5)
    assert found["position_ids"].shape == (1, 16)
