"""Thresholds are chosen so that what leaves early agrees with the full model as often as asked."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, DataError, SettingError
from sortednet.generation.calibration import calibrate, thresholds_for

from ..contracts import decoding_cases as decoders

TEXTS = [torch.randint(4, 61, (8, 40), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def column(*values: Any) -> Tensor:
    return torch.tensor(values)[:, None]


def chosen(sure: Tensor, agreed: Tensor, agreement: float, certainty: float = 0.5) -> list[float | None]:
    return [level and round(level, 4) for level in thresholds_for(sure, agreed.bool(), agreement, certainty)]


# By hand. A certainty of 0.5 asks for no bound, so that shares are compared as they are.


def test_the_lowest_threshold_that_agrees_often_enough() -> None:
    sure, agreed = column(0.9, 0.8, 0.7, 0.6, 0.5), column(1, 1, 0, 1, 0)
    # Shares from the most sure: 1, 1, 2/3, 3/4, 3/5.
    assert chosen(sure, agreed, 0.99) == [0.8]
    assert chosen(sure, agreed, 0.7) == [0.6]
    assert chosen(sure, agreed, 0.6) == [0.5]


def test_the_order_of_the_tokens_is_of_no_account() -> None:
    sure, agreed = column(0.6, 0.9, 0.5, 0.7, 0.8), column(1, 1, 0, 0, 1)
    assert chosen(sure, agreed, 0.7) == [0.6]


def test_tokens_that_are_equally_sure_leave_together() -> None:
    sure, agreed = column(0.9, 0.8, 0.8, 0.8), column(1, 1, 0, 0)
    assert chosen(sure, agreed, 0.9) == [0.9]
    assert chosen(sure[1:], agreed[1:], 0.9) == [None]


def test_an_exit_that_never_agrees_is_left_out() -> None:
    sure = torch.tensor([[0.9, 0.8], [0.7, 0.6]])
    assert chosen(sure, torch.tensor([[0, 1], [0, 1]]), 0.9) == [None, 0.6]


def test_a_later_exit_is_judged_by_the_tokens_that_are_left() -> None:
    sure = torch.tensor([[0.9, 0.95], [0.8, 0.2], [0.3, 0.9], [0.2, 0.8]])
    agreed = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 0]])
    # Of all four the second exit agrees for one; of the two that are left for one of two, the surer one.
    assert chosen(sure, agreed, 0.9) == [0.8, 0.9]


def test_thresholds_are_of_no_more_than_one_and_above_zero() -> None:
    assert chosen(column(1.0, 1.0), column(1, 1), 0.9) == [1.0]
    assert chosen(column(0.0, 0.0), column(1, 1), 0.9) == [None]


def test_the_bound_of_wilson_by_hand() -> None:
    """With z the 90th percentile, n of n give a lower bound of n / (n + z^2): 0.9 needs n >= 9 z^2, that is 15."""
    z = 1.2815515655
    assert math.ceil(9 * z * z) == 15
    for count, found in ((14, None), (15, 0.8)):
        assert chosen(column(*[0.8] * count), column(*[1] * count), 0.9, certainty=0.9) == [found]


def test_more_certainty_asks_for_surer_exits() -> None:
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(2000, 1, generator=generator)
    agreed = torch.rand(2000, 1, generator=generator) < sure
    levels = [thresholds_for(sure, agreed, 0.9, certainty)[0] for certainty in (0.5, 0.9, 0.99)]
    assert None not in levels
    assert levels == sorted(levels)  # type: ignore[type-var]


# On models.


@torch.no_grad()
def agreeing(model: Any, policy: sn.EarlyExit, texts: list[Tensor]) -> tuple[float, float]:
    """Return the share of tokens that are the full model's, and of those that leave early, by plain forward passes."""
    same = early = count = 0
    for ids in texts:
        output = model(ids, output_hidden_states=True)
        whole = output.logits.argmax(-1)
        token, left = whole.clone(), torch.zeros_like(whole, dtype=torch.bool)
        for depth, threshold in policy.thresholds_at(decoders.DEPTH).items():
            logits = model.lm_head(model.model.norm(output.hidden_states[depth])).float()
            leaves = (logits.softmax(-1).amax(-1) >= threshold) & ~left
            token, left = torch.where(leaves, logits.argmax(-1), token), left | leaves
        same += int((token == whole).sum())
        early += int(left.sum())
        count += whole.numel()
    return same / count, early / count


@pytest.mark.parametrize("agreement", [0.8, 0.9, 0.97])
def test_agreement_on_the_text_is_at_least_what_was_asked(agreement: float) -> None:
    policy = calibrate(decoders.decoder(), TEXTS, agreement, exits=[2, 3, 4])
    same, early = agreeing(decoders.decoder(), policy, TEXTS)
    assert same >= agreement
    assert early > 0.02


def test_less_agreement_lets_more_leave_early() -> None:
    found = [calibrate(decoders.decoder(), TEXTS, level, exits=[2, 4]) for level in (0.7, 0.9, 0.97)]
    early = [agreeing(decoders.decoder(), policy, TEXTS)[1] for policy in found]
    assert early[0] > early[1] > early[2] > 0


def test_padding_is_no_token_of_the_text() -> None:
    ids, length = TEXTS[0], 25
    mask = torch.ones_like(ids)
    mask[:, length:] = 0
    noise = torch.cat([ids[:, :length], ids[:, length:].flip(0)], 1)
    asked = {"agreement": 0.8, "exits": [2, 4]}
    found = calibrate(decoders.decoder(), [{"input_ids": noise, "attention_mask": mask}], **asked)
    assert found == calibrate(decoders.decoder(), [ids[:, :length]], **asked)


def test_a_network_is_calibrated_at_the_depths_of_its_support() -> None:
    net = sn.SortedNet.from_pretrained(decoders.fresh(), num_hidden_layers=[2, 4, 6]).train()
    found = calibrate(net, TEXTS, 0.8)
    assert found == calibrate(decoders.decoder(), TEXTS, 0.8, exits=[2, 4])
    assert net.full.training


def test_what_is_calibrated_decodes_and_agrees() -> None:
    policy = calibrate(decoders.decoder(), TEXTS, 0.9, exits=[2, 4], confidence="margin")
    assert policy.confidence == "margin"
    found = decoders.greedy(decoders.decoder(), decoders.single(), policy)
    assert found.shape == (1, 18)


WRONG: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "agreement": (ConfigError, "agreement=1.0 must be in (0, 1), and certainty=0.9 in [0.5, 1).", {"agreement": 1.0}),
    "certainty": (ConfigError, "agreement=0.9 must be in (0, 1), and certainty=0.4 in [0.5, 1).",
                  {"agreement": 0.9, "certainty": 0.4}),
    "texts": (DataError, "There is no token to choose thresholds by. Give batches of about a thousand tokens in all.",
              {"texts": []}),
    "exit": (SettingError, "Exit 6 is not inside the model of 6 layers. Choose depths of 1 to 5.", {"exits": [2, 6]}),
    "measure": (ConfigError, "confidence='luck' is unknown.", {"confidence": "luck"}),
    "never": (ConfigError, "No exit of [1] agrees with the full model for 99.9% of the tokens that it is sure of, by "
              "40 tokens. Ask for less, give more text, or train longer.",
              {"exits": 1, "agreement": 0.999, "texts": [TEXTS[0][:1]]}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_calibrated_is_refused(name: str) -> None:
    error, message, asked = WRONG[name]
    with pytest.raises(error, match=re.escape(message)):
        calibrate(decoders.decoder(weak=False), **{"texts": TEXTS[:1], **asked})


def test_other_models_are_refused() -> None:
    with pytest.raises(BuildError, match="Linear is of the family None"):
        calibrate(torch.nn.Linear(2, 2), TEXTS)
