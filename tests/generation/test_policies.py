"""Policies say what is wrong with them when they are made."""

import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, SettingError
from sortednet.generation import policies

from ..contracts import decoding_cases as decoders

NETWORK = sn.SortedNet.from_pretrained(decoders.fresh(), num_hidden_layers=[2, 6])
WRONG: dict[str, tuple[type[sn.generation.Policy], dict[str, Any], str]] = {
    "measure": (sn.EarlyExit, {"confidence": "certainty"},
                "confidence='certainty' is unknown. Choose one of probability, margin, entropy."),
    "measure_of_drafts": (sn.SelfSpeculative, {"confidence": "logit"}, "confidence='logit' is unknown."),
    "kv": (sn.EarlyExit, {"kv": "copy"}, "kv='copy' is unknown. Choose 'exact' or 'propagate'."),
    "waiting": (sn.EarlyExit, {"max_waiting": 0}, "max_waiting=0 must be at least 1."),
    "word": (sn.EarlyExit, {"thresholds": "high"},
             "thresholds='high' is unknown. Give numbers in (0, 1], or 'papers'."),
    "zero": (sn.EarlyExit, {"thresholds": 0.0}, "A threshold of 0.0 is outside (0, 1]."),
    "above": (sn.EarlyExit, {"thresholds": 1.01}, "A threshold of 1.01 is outside (0, 1]."),
    "nan": (sn.EarlyExit, {"thresholds": float("nan")}, "A threshold of nan is outside (0, 1]."),
    "bool": (sn.EarlyExit, {"thresholds": [True]}, "A threshold of True is outside (0, 1]."),
    "none": (sn.EarlyExit, {"thresholds": None}, "A threshold of None is outside (0, 1]."),
    "some_none": (sn.EarlyExit, {"exits": [1, 2], "thresholds": [0.5, None]}, "A threshold of None is outside (0, 1]."),
    "number": (sn.EarlyExit, {"exits": [1, 2], "thresholds": [0.5]}, "thresholds=[0.5] are 1 for the exits [1, 2]."),
    "draft_threshold": (sn.SelfSpeculative, {"thresholds": 2, "adaptive": False}, "A threshold of 2 is outside"),
    "draft_number": (sn.SelfSpeculative, {"exits": [1, 2], "thresholds": [0.5, 0.5, None], "adaptive": False},
                     "thresholds=[0.5, 0.5, None] are 3 for the exits [1, 2]."),
    "adaptive_thresholds": (sn.SelfSpeculative, {"thresholds": 0.5},
                            "thresholds=0.5 are chosen by what is measured. Leave them out, or set adaptive=False."),
    "whole_network": (sn.SelfSpeculative, {"draft": NETWORK},
                      "A whole network cannot draft. Give one of its sub-models: draft=net.submodel(...)."),
    "no_draft": (sn.SelfSpeculative, {"draft_tokens": 0}, "draft_tokens=0 is no whole number in [1, 64]."),
    "long_draft": (sn.SelfSpeculative, {"draft_tokens": 65}, "draft_tokens=65 is no whole number in [1, 64]."),
    "shortlist": (sn.SelfSpeculative, {"shortlist": 0}, "shortlist=0 leaves nothing to draft. Give at least 1."),
    "negative_shortlist": (sn.SelfSpeculative, {"shortlist": torch.tensor([4, -1])},
                           "are no ids. Give whole numbers of at least 0, or how many."),
    "floating_shortlist": (sn.SelfSpeculative, {"shortlist": [1.0, 2.0]}, "are no ids. Give whole numbers"),
    "empty_shortlist": (sn.SelfSpeculative, {"shortlist": torch.tensor([], dtype=torch.long)},
                        "leaves nothing to draft. Give at least 1."),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused(name: str) -> None:
    make, asked, message = WRONG[name]
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(**asked)


def test_exits_and_a_model_that_drafts_are_refused() -> None:
    message = "Give exits=2 or a model that drafts, not both."
    with pytest.raises(ConfigError, match=message):
        sn.SelfSpeculative(exits=2, draft=decoders.first_layers())


def test_a_model_that_drafts_must_be_of_a_known_family() -> None:
    with pytest.raises(BuildError, match="Linear is of the family None"):
        sn.SelfSpeculative(draft=torch.nn.Linear(2, 2))


def test_errors_are_those_of_python_too() -> None:
    with pytest.raises(ValueError, match="kv='copy'"):
        sn.EarlyExit(kv="copy")  # type: ignore[arg-type]


def test_policies_are_values() -> None:
    assert sn.EarlyExit(exits=[1], thresholds=0.5) == sn.EarlyExit(exits=[1], thresholds=0.5)
    assert sn.SelfSpeculative(exits=1) != sn.SelfSpeculative(exits=2)
    with pytest.raises(FrozenInstanceError):
        sn.FixedDepth().depth = 3  # type: ignore[misc]


def test_exits_of_a_network_are_those_of_its_support() -> None:
    assert policies.exits_within(None, [6, 2, 4]) == [2, 4]
    assert policies.exits_within(4, [2, 4, 6]) == [4]
    with pytest.raises(SettingError, match=re.escape("Exit 6 is outside the depth support [2, 4, 6]. Choose from")):
        policies.exits_within([2, 6], [2, 4, 6])


def test_exits_below_the_shallowest_row_alone_may_draft() -> None:
    assert sn.SelfSpeculative().within([2, 4, 6], 4).exits == [2]
    assert sn.EarlyExit().within([2, 4, 6], 4).exits == [2, 4]


def test_what_was_learned_stays_with_the_policy() -> None:
    policy = sn.SelfSpeculative(exits=[1, 3])
    decoders.greedy(decoders.decoder(), decoders.single(), policy)
    (learned,) = policy._learned.values()
    seen = len(learned._observed[0])
    decoders.greedy(decoders.decoder(), decoders.single(), policy.within([1, 3, 6], 6))
    assert list(policy._learned.values()) == [learned]
    assert len(learned._observed[0]) > seen
