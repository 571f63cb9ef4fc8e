"""Rounds of drafting and judging: how much is drafted, from where, in which precision, and on which cache."""

import copy
from typing import Any

import pytest
import torch

import sortednet as sn
from sortednet.generation import Emitted
from sortednet.generation.controller import Plan
from sortednet.generation.speculation import Speculation

from ..contracts import decoding_cases as decoders

NEAR_TIE = 0.25  # logits, whose spread is about 2.5; half precision keeps 8 bits of each


def asked_of(policy: Any, given: Any = None, **asked: Any) -> Any:
    given = given or decoders.single()
    return decoders.greedy(decoders.decoder(), given, policy, return_dict_in_generate=True, **asked)


# Half precision.


@pytest.mark.parametrize(
    ("name", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("opt", "eager")]
)
@pytest.mark.parametrize("policy", ["one_exit", "several_exits", "draft_of_first_layers", "early_exit_never_sure"])
@torch.no_grad()
def test_half_precision_first_differs_at_a_near_tie(name: str, policy: str, attention: str) -> None:
    model = _half(name, attention)
    given = decoders.ragged()
    plain = decoders.greedy(model, given, max_new_tokens=16)
    found = decoders.greedy(model, given, decoders.EXACT[policy](name, True), max_new_tokens=16)
    for row, (ours, theirs) in enumerate(zip(found.tolist(), plain.tolist(), strict=True)):
        differing = [place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        if differing:
            text = torch.tensor([theirs[7 - decoders.LENGTHS[row] : differing[0]]])
            best = model(text).logits[0, -1].float().topk(2).values
            assert float(best[0] - best[1]) < NEAR_TIE


_HALF: dict[Any, Any] = {}


def _half(name: str, attention: str) -> Any:
    if (name, attention) not in _HALF:
        _HALF[name, attention] = copy.deepcopy(decoders.decoder(name, True, attention)).to(torch.bfloat16)
    return _HALF[name, attention]


def test_half_precision_is_no_other_text_altogether() -> None:
    """Near ties are rare: else the test above would prove little."""
    model = _half("llama", "sdpa")
    plain = decoders.greedy(model, decoders.ragged(), max_new_tokens=16)
    found = decoders.greedy(model, decoders.ragged(), sn.SelfSpeculative(exits=2, adaptive=False), max_new_tokens=16)
    assert (plain == found).float().mean() > 0.8


# Rounds.


def agreeing() -> Any:
    """Return a model of which the layers behind the second add nothing at all."""
    model = decoders.fresh()
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


@pytest.mark.parametrize("asked", [{}, {"repetition_penalty": 3.0}, {"no_repeat_ngram_size": 1}])
def test_an_exit_that_always_agrees_drafts_all_that_is_accepted(asked: Any) -> None:
    """Drafts are processed as what they are judged by: each with the tokens drafted before it."""
    model = agreeing()
    policy = sn.SelfSpeculative(exits=2, adaptive=False, draft_tokens=4)
    found = decoders.greedy(model, decoders.single(), policy, max_new_tokens=16, return_dict_in_generate=True, **asked)
    counts = found.statistics
    assert (counts.rounds, counts.drafted, counts.accepted) == (3, 12, 12)  # 1 + 3 * 5 tokens
    assert found.sequences.tolist() == decoders.greedy(model, decoders.single(), max_new_tokens=16, **asked).tolist()


def test_exits_that_are_never_sure_draft_nothing() -> None:
    counts = asked_of(sn.SelfSpeculative(exits=[1, 3], thresholds=1.0, adaptive=False)).statistics
    assert (counts.drafted, counts.accepted, counts.rounds) == (0, 0, 11)
    assert counts.layer_calls == 6 * 12, "no layer ran more often than in plain decoding"


def test_the_last_exit_drafts_where_the_others_are_unsure() -> None:
    told: list[Emitted] = []
    policy = sn.SelfSpeculative(exits=[1, 3], thresholds=[1.0, None], adaptive=False, observe=told.append)
    asked_of(policy)
    assert {one.exit for one in told if one.drafted} == {3}


def test_half_of_the_rows_that_are_sure_decide_for_all() -> None:
    from sortednet.generation.drafting import _is_sure

    sure, unsure = [9.0, 0, 0], [0.0, 0, 0]
    for rows, wanted in (([sure], True), ([unsure], False), ([sure, unsure], True), ([sure, unsure, unsure], False)):
        assert _is_sure(torch.tensor(rows)[:, None], 0.5, "probability") is wanted


@pytest.mark.parametrize("new", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("given", [decoders.single(), decoders.ragged()], ids=["one", "batch"])
def test_no_more_is_drafted_than_is_left(monkeypatch: Any, new: int, given: Any) -> None:
    rounds: list[tuple[int, int]] = []
    right = Speculation._round

    def round_(self: Speculation, newest: Any, plan: Plan) -> Any:
        rounds.append((plan.length, self._sequences.left))
        return right(self, newest, plan)

    monkeypatch.setattr(Speculation, "_round", round_)
    for adaptive in (True, False):
        asked_of(sn.SelfSpeculative(exits=3, adaptive=adaptive, draft_tokens=64), given, max_new_tokens=new)
    assert all(length <= max(0, left - 1) for length, left in rounds)


def test_a_draft_ends_with_an_end() -> None:
    """Two tokens are left of the draft, but behind the end nothing can be accepted."""
    text = decoders.plain("llama", True, decoders.single())[0, 6:].tolist()
    told = asked_of(sn.SelfSpeculative(exits=5, adaptive=False, draft_tokens=11))
    ended = asked_of(sn.SelfSpeculative(exits=5, adaptive=False, draft_tokens=11), eos_token_id=text[3], pad_token_id=0)
    assert ended.statistics.drafted < told.statistics.drafted
    assert ended.statistics.accepted <= ended.statistics.tokens == text.index(text[3]) + 1


def test_tokens_outside_of_a_shortlist_are_never_drafted() -> None:
    for shortlist, kept in ((20, set(range(20))), (torch.tensor(decoders.SHORTLIST), set(decoders.SHORTLIST))):
        told: list[Emitted] = []
        policy = sn.SelfSpeculative(exits=4, adaptive=False, shortlist=shortlist, observe=told.append)
        asked_of(policy, max_new_tokens=30)
        drafted = {one.token for one in told if one.drafted}
        assert drafted
        assert drafted <= kept
        assert {one.token for one in told} - kept, "the full model chooses from all"


def test_a_shortlist_of_all_tokens_drafts_as_none_does() -> None:
    counts = []
    for shortlist in (None, decoders.VOCABULARY, torch.arange(decoders.VOCABULARY)):
        found = asked_of(sn.SelfSpeculative(exits=3, adaptive=False, shortlist=shortlist)).statistics
        counts.append((found.drafted, found.accepted, found.rounds))
    assert counts[0] == counts[1] == counts[2]


def test_the_full_model_as_its_own_draft_is_always_right() -> None:
    policy = sn.SelfSpeculative(draft=decoders.decoder(), adaptive=False)
    counts = asked_of(policy, decoders.ragged()).statistics
    assert counts.acceptance == 1
    assert counts.by_exit == {0: counts.accepted, 6: 48 - counts.accepted}


def test_the_first_layers_as_a_model_draft_what_the_exit_drafts() -> None:
    exit_ = asked_of(sn.SelfSpeculative(exits=3, adaptive=False), max_new_tokens=20).statistics
    beside = asked_of(sn.SelfSpeculative(draft=decoders.first_layers("llama", 3), adaptive=False), max_new_tokens=20)
    for name in ("drafted", "accepted", "rounds", "tokens"):
        assert getattr(exit_, name) == getattr(beside.statistics, name)


# Caches.


@pytest.mark.parametrize("depths", [[6, 3], [3, 6]])
def test_a_cache_of_mixed_depths_keeps_its_rows(depths: list[int]) -> None:
    model = decoders.decoder(weak=False)
    ids = torch.cat([decoders.PROMPT, decoders.PROMPT.flip(1)])
    first = decoders.greedy(model, _seen(ids), return_dict_in_generate=True, max_new_tokens=4)
    longer = _seen(torch.cat([first.sequences, torch.tensor([[9, 8], [7, 6]])], 1))
    policy = sn.FixedDepth(depth=depths)
    found = decoders.greedy(model, longer, policy, **{decoders.CACHE: copy.deepcopy(first[decoders.CACHE])})
    assert found.tolist() == decoders.greedy(model, longer, policy).tolist()


@pytest.mark.parametrize("policy", ["one_exit", "several_exits", "adaptive", "draft_of_first_layers",
                                    "early_exit_never_sure", "fixed_depth"])  # fmt: skip
def test_a_cache_of_transformers_is_taken_up_and_left_as_it_was(policy: str) -> None:
    model = decoders.decoder()
    ids = torch.cat([decoders.PROMPT, decoders.PROMPT.flip(1)])
    first = decoders.greedy(model, _seen(ids), return_dict_in_generate=True, max_new_tokens=4)
    cache, longer = first[decoders.CACHE], _seen(torch.cat([first.sequences, torch.tensor([[9, 8], [7, 6]])], 1))
    before = [layer.keys.clone() for layer in cache.layers]
    with decoders.counting(model) as ran:
        found = decoders.greedy(model, longer, decoders.EXACT[policy]("llama", True), **{decoders.CACHE: cache})
    assert ran
    assert found.tolist() == decoders.greedy(model, longer).tolist()
    assert all(torch.equal(one, layer.keys) for one, layer in zip(before, cache.layers, strict=True))


def _seen(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
