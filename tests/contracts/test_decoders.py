"""Every policy over every family: what promises the full model's text gives transformers' own greedy text."""

from typing import Any

import pytest
import torch

import sortednet as sn

from . import decoding_cases as decoders

ENDS = [2, 3, 36]
NEW = 9
ON_STRONG = [
    "one_exit",
    "several_exits",
    "adaptive",
    "draft_of_first_layers",
    "draft_narrower",
    "early_exit_never_sure",
]
every_family = pytest.mark.parametrize("name", decoders.NAMES)
every_exact_policy = pytest.mark.parametrize("policy", decoders.EXACT)


def decoded(name: str, weak: bool, policy: str, given: Any, **asked: Any) -> Any:
    chosen = decoders.EXACT[policy](name, weak)
    return decoders.greedy(decoders.decoder(name, weak), given, chosen, max_new_tokens=NEW, **asked)


@every_exact_policy
@every_family
def test_one_text_is_the_greedy_text(name: str, policy: str) -> None:
    found = decoded(name, True, policy, decoders.single())
    assert found.tolist() == decoders.plain(name, True, decoders.single(), max_new_tokens=NEW).tolist()


@every_exact_policy
@every_family
def test_ragged_batch_is_the_greedy_batch(name: str, policy: str) -> None:
    asked = {"eos_token_id": ENDS, "repetition_penalty": 1.3}
    found = decoded(name, True, policy, decoders.ragged(), **asked)
    assert found.tolist() == decoders.plain(name, True, decoders.ragged(), max_new_tokens=NEW, **asked).tolist()


@pytest.mark.parametrize("policy", ON_STRONG)
@every_family
def test_ragged_batch_of_rejected_drafts_is_the_greedy_batch(name: str, policy: str) -> None:
    found = decoded(name, False, policy, decoders.ragged())
    assert found.tolist() == decoders.plain(name, False, decoders.ragged(), max_new_tokens=NEW).tolist()


@every_family
def test_weak_models_accept_drafts_and_strong_ones_reject_them(name: str) -> None:
    shares = []
    for weak in (True, False):
        policy = sn.SelfSpeculative(exits=4, adaptive=False)
        asked = {"return_dict_in_generate": True, "max_new_tokens": 24}
        found = decoders.greedy(decoders.decoder(name, weak), decoders.single(), policy, **asked)
        shares.append(found.statistics.acceptance)
    assert shares[0] > 0.4 > shares[1]


@every_family
def test_eager_attention_gives_the_text_of_sdpa(name: str) -> None:
    model = decoders.decoder(name, True, "eager")
    for policy in ("several_exits", "early_exit_never_sure"):
        chosen = decoders.EXACT[policy](name, True)
        found = decoders.greedy(model, decoders.ragged(), chosen, max_new_tokens=NEW)
        assert found.tolist() == decoders.plain(name, True, decoders.ragged(), max_new_tokens=NEW).tolist()


@every_family
def test_fixed_depth_is_the_model_of_the_first_layers(name: str) -> None:
    found = decoders.greedy(decoders.decoder(name), decoders.ragged(), sn.FixedDepth(depth=3))
    assert found.tolist() == decoders.greedy(decoders.first_layers(name, 3), decoders.ragged()).tolist()


@every_family
def test_mixed_depths_are_each_the_model_of_its_first_layers(name: str) -> None:
    depths = (3, 6, 1, 6)
    found = decoders.greedy(decoders.decoder(name, False), decoders.ragged(), sn.FixedDepth(depth=depths))
    rows = decoders.new_tokens(found, decoders.ragged())
    for row, depth, prompt in zip(rows, depths, decoders.prompts(), strict=True):
        given = {"input_ids": prompt[None]}
        alone = decoders.greedy(decoders.first_layers(name, depth, weak=False), given)
        assert [row] == decoders.new_tokens(alone, given)


@every_family
def test_sampling_draws_from_the_full_model(name: str) -> None:
    """With a temperature near 0 the only likely text is the greedy one, whatever was drafted."""
    model = decoders.decoder(name)
    policy = sn.SelfSpeculative(exits=2, adaptive=False, generator=torch.Generator().manual_seed(0))
    found = model.generate(
        **decoders.ragged(), custom_generate=policy, do_sample=True, temperature=1e-4, top_k=0, max_new_tokens=8
    )
    plain = decoders.plain(name, True, decoders.ragged(), max_new_tokens=8)
    assert found.tolist() == plain.tolist()
