"""Early exit: with exact filling the tokens and the exits are those of a model that runs all layers for every token."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import sortednet as sn
from sortednet.generation import Emitted
from sortednet.network.cache_names import cache_name

from ..contracts import decoding_cases as decoders

EXITS = [1, 2, 4]
THRESHOLDS = [0.15, 0.3, 0.5, 0.8, 1.0]

Choice = tuple[int, int]  # a token and its exit


def probability(logits: Tensor) -> float:
    return float(logits.softmax(-1).max())


def margin(logits: Tensor) -> float:
    best = logits.softmax(-1).sort(descending=True).values
    return float(best[0] - best[1])


def entropy(logits: Tensor) -> float:
    shares = logits.softmax(-1)
    return 1 + float((shares * shares.log()).sum()) / float(torch.tensor(len(shares)).log())


MEASURES = {"probability": probability, "margin": margin, "entropy": entropy}


def read(model: Any, hidden: Tensor, name: str) -> Tensor:
    """Read hidden states as transformers does, without anything of ours."""
    return model.get_output_embeddings()(model.get_submodule(decoders.case_of(name).norm)(hidden)).float()


@torch.no_grad()
def oracle(
    model: Any,
    prompt: Tensor,
    thresholds: dict[int, float],
    new: int,
    measure: Callable[[Tensor], float] = probability,
    name: str = "llama",
) -> list[Choice]:
    """Choose each token after a pass of all layers over the whole text."""
    text, found = prompt[None], []
    for _ in range(new):
        output = model(text, output_hidden_states=True)
        scores, exit_ = output.logits[0, -1].float(), decoders.DEPTH
        for depth, threshold in thresholds.items():
            early = read(model, output.hidden_states[depth], name)[0, -1]
            if measure(early) >= threshold:
                scores, exit_ = early, depth
                break
        token = int(scores.argmax())
        found.append((token, exit_))
        text = torch.cat([text, torch.tensor([[token]])], 1)
    return found


@torch.no_grad()
def propagating_oracle(model: Any, prompt: Tensor, thresholds: dict[int, float], new: int) -> list[Choice]:
    """Choose each token at its exit, and let the deeper layers see its state there, one position at a time.

    Of the prompt every position runs all layers.
    """
    from transformers import DynamicCache

    cache, body = DynamicCache(config=model.config), model.model
    held = {cache_name(body.layers[0].forward): cache}

    def run(depth: int, hidden: Tensor, place: int) -> Tensor:
        positions = torch.tensor([[place]])
        shared = {"position_embeddings": body.rotary_emb(hidden, positions), "position_ids": positions}
        return body.layers[depth](hidden, **held, use_cache=True, **shared)

    found: list[Choice] = []
    text = prompt.tolist()
    for place in range(len(text) + new - 1):
        hidden, exit_ = body.embed_tokens(torch.tensor([[text[place]]])), 0
        decides = place >= len(prompt) - 1
        early = 0  # the depth whose state stands for all that follow
        logits = None
        for depth in range(decoders.DEPTH):
            output = run(depth, hidden, place)
            if early:
                continue
            hidden = output
            known = thresholds.get(depth + 1)
            if decides and known is not None:
                logits = read(model, hidden, "llama")[0, -1]
                if probability(logits) >= known:
                    exit_ = depth + 1
                    early = exit_ if place >= len(prompt) else 0
                    chosen = logits
                    if place == len(prompt) - 1:
                        decides = False
        if decides or exit_:
            if not exit_:
                chosen, exit_ = read(model, hidden, "llama")[0, -1], decoders.DEPTH
            found.append((int(chosen.argmax()), exit_))
            text.append(found[-1][0])
    return found


def decoded(
    given: dict[str, Tensor], thresholds: float | Sequence[float], new: int, name: str = "llama", weak: bool = True,
    **own: Any,
) -> tuple[list[list[Choice]], Any]:  # fmt: skip
    """Return what each row got and at which exit, and the statistics."""
    told: list[Emitted] = []
    chosen = sn.EarlyExit(exits=EXITS, thresholds=thresholds, observe=told.append, **own)
    asked = {"max_new_tokens": new, "return_dict_in_generate": True}
    output = decoders.greedy(decoders.decoder(name, weak), given, chosen, **asked)
    rows = len(given["input_ids"])
    return [[(one.token, one.exit) for one in told if one.row == row] for row in range(rows)], output.statistics


def at(threshold: float) -> dict[int, float]:
    return dict.fromkeys(EXITS, threshold)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt_neox", "opt"])
def test_tokens_and_exits_are_those_of_all_layers(name: str) -> None:
    taken = set()
    for threshold in (0.5, 0.6, 0.8):
        wanted = [oracle(decoders.decoder(name), one, at(threshold), 10, name=name) for one in decoders.prompts()]
        assert decoded(decoders.ragged(), threshold, 10, name)[0] == wanted
        taken |= {exit_ for row in wanted for _, exit_ in row}
    assert len(taken) > 2, "the thresholds decide nothing"


@pytest.mark.parametrize("weak", [True, False], ids=["weak", "strong"])
@pytest.mark.parametrize("max_waiting", [1, 3, 32])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_row_of_a_batch_is_as_all_layers_alone(threshold: float, max_waiting: int, weak: bool) -> None:
    found, _ = decoded(decoders.ragged(), threshold, 10, weak=weak, max_waiting=max_waiting)
    assert found == wanted_rows(threshold, weak)


_WANTED: dict[Any, list[list[Choice]]] = {}


def wanted_rows(threshold: float, weak: bool) -> list[list[Choice]]:
    key = threshold, weak
    if key not in _WANTED:
        model = decoders.decoder(weak=weak)
        _WANTED[key] = [oracle(model, prompt, at(threshold), 10) for prompt in decoders.prompts()]
    return _WANTED[key]


@pytest.mark.parametrize("measure", MEASURES)
def test_how_sure_an_exit_is(measure: Any) -> None:
    levels = {1: 0.5, 2: 0.35, 4: 0.25}
    wanted = oracle(decoders.decoder(), decoders.PROMPT[0], levels, 16, MEASURES[measure])
    assert decoded(decoders.single(), list(levels.values()), 16, confidence=measure)[0] == [wanted]
    assert len({exit_ for _, exit_ in wanted}) > 1


def test_a_threshold_of_its_own_for_each_exit() -> None:
    levels = {1: 0.9, 2: 0.2, 4: 0.7}
    wanted = oracle(decoders.decoder(), decoders.PROMPT[0], levels, 16)
    assert decoded(decoders.single(), list(levels.values()), 16)[0] == [wanted]


def test_draws_come_from_the_exit_that_is_sure() -> None:
    """With a temperature near 0 the drawn tokens are the most likely ones of their exits."""
    told: list[Emitted] = []
    chosen = sn.EarlyExit(exits=EXITS, thresholds=0.4, observe=told.append, generator=torch.Generator().manual_seed(0))
    asked = {"do_sample": True, "temperature": 1e-4, "max_new_tokens": 12, "custom_generate": chosen}
    decoders.decoder().generate(decoders.PROMPT, **asked)
    wanted = oracle(decoders.decoder(), decoders.PROMPT[0], at(0.4), 12)
    assert [(one.token, one.exit) for one in told] == wanted


def test_rows_of_mixed_depths_leave_at_their_own() -> None:
    depths, told = (2, 6, 4, 6), []
    chosen = sn.EarlyExit(exits=[1, 3], thresholds=0.5, observe=told.append)
    decoders.greedy(decoders.decoder(), decoders.ragged(), chosen, depths=depths, max_new_tokens=8)
    for row, (depth, prompt) in enumerate(zip(depths, decoders.prompts(), strict=True)):
        alone: list[Emitted] = []
        exits = [one for one in (1, 3) if one < depth]
        lone = sn.EarlyExit(exits=exits, thresholds=0.5, observe=alone.append)
        decoders.greedy(decoders.first_layers("llama", depth), {"input_ids": prompt[None]}, lone, max_new_tokens=8)
        assert [(one.token, one.exit) for one in told if one.row == row] == [(one.token, one.exit) for one in alone]


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_propagation_is_that_of_the_oracle(threshold: float) -> None:
    for prompt in decoders.prompts():
        wanted = propagating_oracle(decoders.decoder(weak=False), prompt, at(threshold), 12)
        found, _ = decoded({"input_ids": prompt[None]}, threshold, 12, weak=False, kv="propagate")
        assert found == [wanted]


def test_propagation_changes_later_tokens() -> None:
    """Else the test above would prove nothing."""
    rows = [{"input_ids": prompt[None]} for prompt in decoders.prompts()]
    found = [[decoded(row, 0.6, 12, weak=False, kv=kv)[0] for row in rows] for kv in ("exact", "propagate")]
    assert found[0] != found[1]


def test_propagation_runs_fewer_layers_over_positions() -> None:
    _, exact = decoded(decoders.single(), 0.3, 24, max_waiting=4)
    _, propagated = decoded(decoders.single(), 0.3, 24, kv="propagate")
    assert propagated.layer_rows < exact.layer_rows
    assert propagated.layer_calls < exact.layer_calls


def test_exact_filling_runs_fewer_layer_calls_than_all_layers() -> None:
    _, found = decoded(decoders.single(), 0.3, 24)
    _, every = decoded(decoders.single(), 1.0, 24)
    assert found.layer_calls < every.layer_calls == decoders.DEPTH * 24
    assert found.mean_exit < every.mean_exit == decoders.DEPTH


@pytest.mark.parametrize("given", [decoders.single(), decoders.ragged()], ids=["one", "batch"])
def test_propagation_keeps_keys_at_every_layer(monkeypatch: Any, given: Any) -> None:
    from sortednet.generation.engine import Engine

    engines: list[Engine] = []
    made = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", lambda self, *args: (made(self, *args), engines.append(self))[0])
    told: list[Emitted] = []
    policy = sn.EarlyExit(exits=EXITS, thresholds=0.7, kv="propagate", observe=told.append)
    decoders.greedy(decoders.decoder(), given, policy, max_new_tokens=8)
    (engine,) = engines
    assert len({one.exit for one in told}) > 1
    assert len({tuple(filled) for filled in engine.filled}) == 1, "every layer is as far as the first"
    held = decoders.held(engine.cache, min(engine.filled[0]))
    assert len(held) == decoders.DEPTH
    for keys, values in held:
        assert keys.abs().sum(-1).min() > 0
        assert values.abs().sum(-1).min() > 0


def test_thresholds_of_the_papers() -> None:
    found = sn.EarlyExit(exits=[4, 16, 17, 24, 32, 33, 39]).thresholds_at(40)
    assert found == {4: 0.95, 16: 0.95, 17: 0.9, 24: 0.9, 32: 0.8, 33: 0.7, 39: 0.7}


def test_exits_where_nobody_names_them() -> None:
    assert list(sn.EarlyExit().thresholds_at(32)) == [4, 8, 12, 16]
    assert list(sn.EarlyExit().thresholds_at(2)) == [1]
    assert list(sn.EarlyExit().thresholds_at(1)) == []
