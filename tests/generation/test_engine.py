"""The engine computes nothing twice, and the statistics are what was counted by hand."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import sortednet as sn
from sortednet.generation import Emitted, Statistics
from sortednet.generation.adapters import decoder_of
from sortednet.generation.engine import Engine

from ..contracts import decoding_cases as decoders

Evaluated = tuple[int, int, tuple[int, ...]]  # a layer, a position, and the text up to it

POLICIES = {
    "one_exit": lambda **own: sn.SelfSpeculative(exits=2, adaptive=False, **own),
    "one_exit_rejected": lambda **own: sn.SelfSpeculative(exits=1, adaptive=False, draft_tokens=7, **own),
    "several_exits": lambda **own: sn.SelfSpeculative(exits=[1, 2, 4], thresholds=0.4, adaptive=False, **own),
    "adaptive": lambda **own: sn.SelfSpeculative(**own),
    "early_exit": lambda **own: sn.EarlyExit(exits=[1, 2, 4], thresholds=0.6, **own),
    "early_exit_filled_often": lambda **own: sn.EarlyExit(exits=[1, 2, 4], thresholds=0.6, max_waiting=2, **own),
    "fixed_depth": sn.FixedDepth,
}


@contextmanager
def watched(model: Any, monkeypatch: Any) -> Iterator[list[Evaluated]]:
    """Keep every position that passes a layer, with the text that it belongs to."""
    found: list[Evaluated] = []
    pushed: list[list[int]] = []
    texts: dict[int, list[list[int]]] = {}

    def embedded(module: Any, inputs: Any, output: Any) -> None:
        pushed[:] = inputs[0].tolist()

    def passed(layer: int, kwargs: Any) -> None:
        places = kwargs["position_ids"].tolist()
        rows = texts.setdefault(0, [[] for _ in pushed])
        if layer == 0:
            for row, (tokens, positions) in enumerate(zip(pushed, places, strict=True)):
                for token, position in zip(tokens, positions, strict=True):
                    rows[row][position:] = [token]
        for row, positions in enumerate(places):
            found.extend((layer, position, tuple(rows[row][: position + 1])) for position in positions)

    def kept(self: Engine, rows: Any, keep: Any = Engine.keep) -> None:
        texts[0] = [texts[0][row] for row in rows]
        keep(self, rows)

    monkeypatch.setattr(Engine, "keep", kept)
    hooks = [model.get_input_embeddings().register_forward_hook(embedded)]
    for index, layer in enumerate(model.model.layers):
        hooks.append(
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, index=index: passed(index, kwargs), with_kwargs=True
            )
        )
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("weak", [True, False], ids=["weak", "strong"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_position_passes_a_layer_twice(monkeypatch: Any, policy: str, weak: bool) -> None:
    model = decoders.fresh(weak=weak)
    with watched(model, monkeypatch) as found:
        asked = {"return_dict_in_generate": True, "max_new_tokens": 20}
        output = decoders.greedy(model, decoders.single(), POLICIES[policy](), **asked)
    text = tuple(output.sequences[0].tolist())
    assert len(found) == len(set(found)) == output.statistics.layer_rows
    kept = {(layer, place) for layer, place, prefix in found if prefix == text[: place + 1]}
    assert kept == {(layer, place) for layer in range(decoders.DEPTH) for place in range(len(text) - 1)}


@pytest.mark.parametrize("policy", POLICIES)
def test_no_position_of_a_batch_passes_a_layer_twice(monkeypatch: Any, policy: str) -> None:
    model = decoders.fresh()
    texts = [torch.cat([torch.tensor([40 + row]), one[:3]]) for row, one in enumerate(decoders.prompts((3, 3, 3)))]
    with watched(model, monkeypatch) as found:
        asked = {"return_dict_in_generate": True, "max_new_tokens": 12}
        output = decoders.greedy(model, decoders.padded(texts), POLICIES[policy](), **asked)
    assert len(found) == len(set(found))
    assert output.statistics.layer_rows == len(found)


def test_layer_calls_and_rows_of_plain_decoding() -> None:
    """6 layers for a prompt of 6 tokens and for each of the 11 tokens that follow the first new one."""
    statistics = counts(sn.FixedDepth(), new=12)
    assert statistics.prompt_layer_calls == 6
    assert statistics.layer_calls == 6 * 12
    assert statistics.layer_rows == 6 * (6 + 11)
    assert statistics.by_exit == {6: 12}
    assert (statistics.tokens, statistics.rounds, statistics.drafted, statistics.accepted) == (12, 0, 0, 0)
    assert math.isnan(statistics.acceptance)
    assert statistics.layer_calls_per_token == 6
    assert statistics.share_of_layers == 1


def counts(policy: Any, new: int = 12, given: Any = None, weak: bool = True) -> Statistics:
    asked = {"return_dict_in_generate": True, "max_new_tokens": new}
    model = decoders.decoder(weak=weak)
    return decoders.greedy(model, given or decoders.single(), policy, **asked).statistics


@pytest.mark.parametrize("exit_", [1, 2, 5])
@pytest.mark.parametrize("weak", [True, False], ids=["weak", "strong"])
def test_statistics_of_drafts_are_those_counted_by_hand(exit_: int, weak: bool) -> None:
    """Replay the rounds: drafts from the first layers alone, judged by transformers' greedy text."""
    new, most, prompt = 20, 4, decoders.PROMPT[0].tolist()
    text = decoders.plain("llama", weak, decoders.single(), max_new_tokens=new)[0].tolist()
    wanted = Statistics(depth=6, texts=1, tokens=new, prompt_layer_calls=6, layer_calls=6, layer_rows=6 * len(prompt))
    wanted.by_exit[6] += 1
    length = len(prompt) + 1
    while length < len(text):
        count = min(most, len(text) - length - 1)
        draft = drafted(exit_, text[:length], count, weak)
        accepted = next((at for at in range(count) if draft[at] != text[length + at]), count)
        # Each drafted token passes the first layers alone; the last one with what is judged. All pass the rest at once.
        wanted.layer_calls += exit_ * (count + 1) + 6 - exit_
        wanted.layer_rows += 6 * (count + 1)
        wanted.rounds += 1
        wanted.drafted += count
        wanted.accepted += accepted
        wanted.by_exit[exit_] += accepted
        wanted.by_exit[6] += 1
        length += accepted + 1
    found = counts(sn.SelfSpeculative(exits=exit_, adaptive=False, draft_tokens=most), new, weak=weak)
    found.seconds = 0.0
    assert found == wanted
    assert found.acceptance == wanted.accepted / wanted.drafted
    assert found.rejection_ratio == pytest.approx(1 - found.acceptance)
    assert found.mean_exit == pytest.approx(sum(one * number for one, number in wanted.by_exit.items()) / new)


@torch.no_grad()
def drafted(exit_: int, text: list[int], count: int, weak: bool) -> list[int]:
    """Continue a text greedily with the first layers."""
    longer = list(text)
    for _ in range(count):
        scores = decoders.first_layers("llama", exit_, weak)(torch.tensor([longer])).logits[0, -1]
        longer.append(int(scores.argmax()))
    return longer[len(text) :]


def test_accepted_tokens_are_those_told_as_drafted() -> None:
    told: list[Emitted] = []
    policy = sn.SelfSpeculative(exits=[1, 3], thresholds=[0.5, None], adaptive=False, observe=told.append)
    found = counts(policy, 20, decoders.ragged())
    assert found.tokens == len(told) == 80
    assert found.accepted == sum(one.drafted for one in told) > 0
    for depth in (1, 3, 6):
        assert found.by_exit[depth] == sum(one.exit == depth for one in told) > 0


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5])
def test_statistics_of_early_exit_are_those_counted_by_hand(threshold: float) -> None:
    """At most `max_waiting` positions wait, so that all that ran is what exits asked for and what was filled."""
    told: list[Emitted] = []
    found = counts(sn.EarlyExit(exits=[2], thresholds=threshold, max_waiting=3, observe=told.append), 16)
    calls, rows, waiting = 6, 6 * 6, 0
    for one in told[1:]:  # the first token is of the prompt
        waiting += 1
        calls, rows = calls + 2, rows + 2
        if one.exit == 6 or waiting >= 3:
            calls, rows, waiting = calls + 4, rows + 4 * waiting, 0
    ended = 4 * bool(waiting), 4 * waiting  # what still waits is run for the cache that is returned, or not at all
    assert [found.by_exit[depth] for depth in (2, 6)] == [sum(one.exit == depth for one in told) for depth in (2, 6)]
    assert (found.layer_calls, found.layer_rows) in [(calls, rows), (calls + ended[0], rows + ended[1])]


# The engine itself.


def engine_of(depths: list[int], exits: list[int]) -> Engine:
    return Engine(decoder_of(decoders.decoder()), exits, depths, 32, Statistics())


@torch.no_grad()
def test_states_behind_an_exit_are_those_of_a_forward_pass() -> None:
    engine = engine_of([6], [2, 4, 6])
    engine.push(decoders.PROMPT)
    engine.complete()
    states = decoders.decoder()(decoders.PROMPT, output_hidden_states=True).hidden_states
    for depth in (2, 4):
        assert torch.allclose(engine.advanced(depth), states[depth], atol=1e-5)
    head, norm = decoders.decoder().lm_head, decoders.decoder().model.norm
    assert torch.allclose(head(norm(engine.advanced(6))), head(states[-1]), atol=1e-4)


@torch.no_grad()
def test_what_waits_is_taken_along() -> None:
    engine, ids = engine_of([6], [2, 4, 6]), decoders.PROMPT
    for place, depth in enumerate((2, 4, 2, 2, 6, 2)):
        engine.push(ids[:, place : place + 1])
        engine.advance(depth)
    engine.complete()
    whole = engine_of([6], [6])
    whole.push(ids)
    whole.complete()
    assert engine.waiting == 0
    assert torch.allclose(engine.advanced(6), whole.advanced(6), atol=1e-5)
    for ours, theirs in zip(decoders.held(engine.cache, 6), decoders.held(whole.cache, 6), strict=True):
        assert torch.allclose(ours[0], theirs[0], atol=1e-5)


@torch.no_grad()
def test_rolling_back_forgets_what_was_pushed_behind() -> None:
    engine, ids = engine_of([6, 6], [2, 6]), decoders.PROMPT.repeat(2, 1)

    def run(tokens: Tensor) -> Tensor:
        engine.forget()
        engine.push(tokens)
        engine.complete()
        return engine.final()

    right = run(ids)[:, 3:]
    engine.roll_back([3, 3])
    run(ids[:, :3] + 1)
    engine.roll_back([3, 3])
    assert torch.allclose(run(ids[:, 3:]), right, atol=1e-5)


@torch.no_grad()
def test_rows_that_are_kept_go_on_as_before() -> None:
    ids = torch.stack([decoders.PROMPT[0], decoders.PROMPT[0].flip(0), decoders.PROMPT[0].roll(1)])
    whole, engine = engine_of([6, 6, 3], [2, 3, 6]), engine_of([6, 6, 3], [2, 3, 6])
    for one in (whole, engine):
        one.push(ids[:, :4])
        one.complete()
        one.forget()
    engine.keep([0, 2])
    for one, tokens in ((whole, ids), (engine, ids[[0, 2]])):
        one.push(tokens[:, 4:])
        one.complete()
    assert torch.allclose(engine.final(), whole.final()[[0, 2]], atol=1e-5)
    engine.keep([1])
    assert (engine.depths, engine.exits) == ([3], [2, 3])
