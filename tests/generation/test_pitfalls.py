"""What goes wrong in other implementations, as listed in part B.11 of the survey of decoding peers, one test each."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import sortednet as sn
from sortednet.generation import policies
from sortednet.generation.adapters import Decoder, decoder_of
from sortednet.generation.cache import Cache
from sortednet.generation.chance import judge_sampled
from sortednet.generation.engine import Engine
from sortednet.generation.statistics import Statistics

from ..contracts import decoding_cases as decoders
from ..contracts import enumeration
from .test_generate import StopsAt, Streamed
from .test_sampling import EXACT, Scripted, error, speculative

DRAFTS = [
    sn.SelfSpeculative(exits=3, adaptive=False),
    sn.SelfSpeculative(exits=[1, 3], thresholds=[0.5, None], adaptive=False, draft_tokens=6),
    sn.SelfSpeculative(),
]
EVERY = [*DRAFTS, sn.EarlyExit(exits=[2, 4], thresholds=1.0), sn.FixedDepth()]


def same_as_plain(given: dict[str, Tensor], chosen: list[Any] = EVERY, name: str = "llama", **asked: Any) -> None:
    plain = decoders.greedy(decoders.decoder(name), given, **asked).tolist()
    for one in chosen:
        assert decoders.greedy(decoders.decoder(name), given, one, **asked).tolist() == plain


def test_pitfall_01_config_is_never_changed() -> None:
    model = decoders.fresh()
    before = copy.deepcopy((model.config.to_dict(), model.generation_config.to_dict()))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    layers = list(model.model.layers)
    for one in [*EVERY, sn.FixedDepth(depth=2)]:
        decoders.greedy(model, decoders.ragged(), one)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    assert list(model.model.layers) == layers
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_pitfall_02_rolling_back_keeps_what_was_accepted_and_no_more() -> None:
    """A cut to a final length is no cut by a number of positions."""
    engine = Engine(decoder_of(decoders.decoder()), [2, 6], [6, 6], 32, Statistics())
    with torch.no_grad():
        engine.push(decoders.PROMPT.repeat(2, 1))
        engine.complete()
    before = decoders.held(engine.cache, 6)
    engine.roll_back([4, 2])
    assert engine.filled == [[4, 2]] * 3
    assert all(
        torch.equal(ours[0], theirs[0]) for ours, theirs in zip(decoders.held(engine.cache, 6), before, strict=True)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pitfall_03_several_positions_behind_a_cache_have_a_mask(monkeypatch: Any, attention: str) -> None:
    masks: list[tuple[int, Tensor | None]] = []
    given = Decoder.given

    def kept(self: Decoder, positions: Tensor, mask: Tensor | None, cache: Cache) -> dict[str, Any]:
        masks.append((positions.shape[1], mask))
        return given(self, positions, mask, cache)

    monkeypatch.setattr(Decoder, "given", kept)
    model = decoders.decoder(attention=attention)
    found = decoders.greedy(model, decoders.ragged(), DRAFTS[0])
    assert found.tolist() == decoders.plain("llama", True, decoders.ragged()).tolist()
    assert any(count > 1 for count, _ in masks[1:])
    assert all(mask is not None for count, mask in masks if count > 1)


def test_pitfall_04_masks_are_added_and_not_boolean(monkeypatch: Any) -> None:
    """Eager attention adds what it gets: a boolean mask as 0 and 1."""
    masks: list[Tensor] = []
    model = decoders.fresh()
    for layer in model.model.layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
    decoders.greedy(model, decoders.ragged(), DRAFTS[1])
    assert {mask.dtype for mask in masks if mask is not None} == {torch.float32}
    same_as_plain(decoders.ragged(), DRAFTS)


def test_pitfall_05_the_mask_of_deep_layers_is_as_wide_as_their_keys() -> None:
    widths: list[tuple[int, int, int]] = []
    model = decoders.fresh()

    def kept(layer: int, kwargs: dict[str, Any]) -> None:
        mask, positions = kwargs["attention_mask"], kwargs["position_ids"]
        if mask is not None:
            widths.append((layer, mask.shape[-1], int(positions.max()) + 1))

    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda _, args, kwargs, index=index: kept(index, kwargs), with_kwargs=True)
    decoders.greedy(model, decoders.single(), sn.SelfSpeculative(exits=[1, 4], thresholds=[0.5, None], adaptive=False))
    assert {layer for layer, _, _ in widths} == set(range(6))
    assert all(width == end for _, width, end in widths)


def test_pitfall_06_drafts_are_judged_by_what_they_were_drawn_from(monkeypatch: Any) -> None:
    model = enumeration.tiny(4)
    assert error(monkeypatch, speculative(exits=1), model, temperature=0.6, top_k=2) <= EXACT


def test_pitfall_07_no_drawn_token_is_thrown_away(monkeypatch: Any) -> None:
    make = speculative(exits=1, thresholds=0.45)
    assert error(monkeypatch, make, enumeration.tiny(4)) <= EXACT


def test_pitfall_08_nothing_is_left_of_the_target() -> None:
    target = torch.tensor([[[0.0, 1.0, 0.0]]]).repeat(1, 2, 1)
    chance = Scripted([1], [[False]])
    _, behind = judge_sampled(torch.tensor([[1]]), target[:, :1], target, chance)
    assert behind.tolist() == [1]
    assert chance.asked[1].isfinite().all()
    assert chance.asked[1].sum() == 1


def test_pitfall_09_nothing_comes_behind_an_end() -> None:
    text = decoders.plain("llama", True, decoders.single())[0, 6:].tolist()
    for end in text[:7]:
        same_as_plain(decoders.single(), eos_token_id=end, pad_token_id=0)
    same_as_plain(decoders.ragged(), eos_token_id=[text[2], 34], pad_token_id=0)


def test_pitfall_10_a_stop_inside_of_a_block_cuts_the_block() -> None:
    text = decoders.plain("llama", True, decoders.single())[0].tolist()
    for token in set(text[6:]):
        for one in EVERY:
            found = decoders.greedy(decoders.decoder(), decoders.single(), one, stopping_criteria=[StopsAt(token)])
            assert found[0].tolist() == text[: text.index(token, 6) + 1]


def test_pitfall_11_processors_get_each_position_with_its_own_text() -> None:
    """Every text that a processor sees at a position is the prompt and what was chosen from what it returned."""
    seen: list[list[int]] = []

    def processor(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids[0].tolist())
        penalty = torch.zeros_like(scores)
        penalty[0, (sum(seen[-1]) * 7) % decoders.VOCABULARY] = 9.0  # what follows depends on the whole text
        return scores + penalty

    asked = {"logits_processor": [processor]}
    plain = decoders.greedy(decoders.decoder(), decoders.single(), **asked)[0].tolist()
    texts = seen[:]
    for one in EVERY:
        seen.clear()
        assert decoders.greedy(decoders.decoder(), decoders.single(), one, **asked)[0].tolist() == plain
        assert all(text in seen for text in texts)


@pytest.mark.parametrize("new", [1, 2, 3, 4, 5, 6, 7, 8])
def test_pitfall_12_as_many_tokens_as_asked_for(new: int) -> None:
    for one in EVERY:
        found = decoders.greedy(decoders.decoder(), decoders.ragged(), one, max_new_tokens=new)
        assert found.shape == (4, 7 + new)
    same_as_plain(decoders.ragged(), max_new_tokens=new)


def test_pitfall_13_one_new_token_is_not_drafted() -> None:
    for one in DRAFTS:
        asked = {"max_new_tokens": 1, "return_dict_in_generate": True}
        found = decoders.greedy(decoders.decoder(), decoders.single(), one, **asked)
        assert found.sequences.tolist() == decoders.plain("llama", True, decoders.single())[:, :7].tolist()
        assert (found.statistics.drafted, found.statistics.rounds, found.statistics.layer_calls) == (0, 0, 6)


def test_pitfall_14_prompt_of_one_token() -> None:
    for name in ("llama", "gpt2", "opt"):
        same_as_plain({"input_ids": torch.tensor([[7]])}, name=name)
        same_as_plain({"input_ids": torch.tensor([[7], [8], [7]])}, name=name)


@pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("asked", [{}, {"eos_token_id": 34, "pad_token_id": 0}], ids=["length", "end"])
def test_pitfall_15_the_returned_cache_is_of_the_returned_text(one: Any, asked: Any) -> None:
    model = decoders.decoder()
    found = decoders.greedy(model, decoders.single(), one, return_dict_in_generate=True, **asked)
    cache, text = found[decoders.CACHE], found.sequences
    assert type(cache).__name__ == "DynamicCache"
    assert cache.get_seq_length() == text.shape[1] - 1
    assert len(cache.layers) == decoders.DEPTH
    longer = with_more(text)
    whole = decoders.greedy(model, longer)
    assert decoders.greedy(model, longer, **{decoders.CACHE: cache}).tolist() == whole.tolist()


def with_more(text: Tensor) -> dict[str, Tensor]:
    """Return a text and two more tokens. Its mask says that the padding in it is a token like others."""
    ids = torch.cat([text, torch.tensor([[9, 8]])], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)
def test_pitfall_15_a_returned_cache_is_taken_up_again(one: Any) -> None:
    model = decoders.decoder()
    first = decoders.greedy(model, decoders.single(), one, return_dict_in_generate=True)
    longer = with_more(first.sequences)
    asked = {decoders.CACHE: first[decoders.CACHE], "return_dict_in_generate": True}
    second = decoders.greedy(model, longer, one, **asked)
    assert second.sequences.tolist() == decoders.greedy(model, longer).tolist()
    assert second[decoders.CACHE].get_seq_length() == second.sequences.shape[1] - 1


class BrokenError(Exception):
    """Of what a user gave."""


@pytest.mark.parametrize("one", [DRAFTS[1], DRAFTS[2], EVERY[3]], ids=["fixed", "adaptive", "early_exit"])
@pytest.mark.parametrize("where", ["processor", "streamer", "criterion", "observe", "layer"])
def test_pitfall_16_an_exception_leaves_everything_as_it_was(one: Any, where: str) -> None:
    model = decoders.fresh()
    net = sn.SortedNet.from_pretrained(model, num_hidden_layers=[1, 2, 3, 4, 6]).eval()
    before = copy.deepcopy((model.config.to_dict(), model.generation_config.to_dict()))
    plain = decoders.greedy(model, decoders.single()).tolist()
    calls = [0]

    def breaks(*_: Any) -> Any:
        calls[0] += 1
        if calls[0] > (4 if where == "layer" else 15):
            raise BrokenError(where)
        return _[1] if where == "processor" else False

    asked: dict[str, Any] = {"do_sample": False, "max_new_tokens": 24}
    streamer = Streamed()
    hook = model.model.layers[4].register_forward_hook(lambda *_: breaks() or None) if where == "layer" else None
    chosen = policies.replace(one, observe=breaks) if where == "observe" else one
    if where == "processor":
        asked["logits_processor"] = [breaks]
    elif where == "criterion":
        asked["stopping_criteria"] = [breaks]
    elif where == "streamer":
        streamer.put = breaks  # type: ignore[method-assign]
    with pytest.raises(BrokenError, match=where):
        net.generate(decoders.PROMPT, decoding=chosen, streamer=streamer, **asked)
    if hook is not None:
        hook.remove()
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    assert not model.training
    assert all(not layer._forward_hooks for layer in model.model.layers)
    assert decoders.greedy(model, decoders.single()).tolist() == plain
    assert decoders.greedy(model, decoders.single(), one).tolist() == plain


def test_pitfall_17_two_threads_at_two_depths() -> None:
    """One speculates at the full depth while the other decodes at a third, with one policy object each and shared."""
    model, shared, found = decoders.decoder(), sn.SelfSpeculative(exits=2), {}
    jobs: dict[str, Any] = {
        "speculates": shared,
        "too": shared,
        "shallow": sn.FixedDepth(depth=2),
        "deep": sn.FixedDepth(),
    }

    def run(name: str) -> None:
        found[name] = [decoders.greedy(model, decoders.ragged(), jobs[name]).tolist() for _ in range(3)]

    threads = [threading.Thread(target=run, args=(name,)) for name in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain = decoders.plain("llama", True, decoders.ragged()).tolist()
    shallow = decoders.greedy(decoders.first_layers("llama", 2), decoders.ragged()).tolist()
    assert found == {"speculates": [plain] * 3, "too": [plain] * 3, "shallow": [shallow] * 3, "deep": [plain] * 3}


@torch.no_grad()
def test_pitfall_18_the_state_of_an_exit_waits_without_the_final_norm() -> None:
    engine = Engine(decoder_of(decoders.decoder()), [2, 6], [6], 32, Statistics())
    engine.push(decoders.PROMPT)
    engine.advance(2)
    engine.decoder.logits(engine.hidden(2))
    states = decoders.decoder()(decoders.PROMPT, output_hidden_states=True).hidden_states
    assert torch.allclose(engine.advanced(2), states[2], atol=1e-5)
    assert engine._waiting[1] is not None
    assert torch.allclose(engine._waiting[1], states[2], atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "opt_projected"])
def test_pitfall_19_resuming_does_not_embed_again(name: str) -> None:
    """Learned positions and projections are added once, before the first layer."""
    model, ran = decoders.fresh(name), [0]
    table = model.get_input_embeddings()
    table.register_forward_hook(lambda _, args, out: ran.__setitem__(0, ran[0] + args[0].numel()))
    asked = {"return_dict_in_generate": True}
    found = decoders.greedy(model, decoders.single(), DRAFTS[1], **asked)
    assert found.sequences.tolist() == decoders.plain(name, True, decoders.single()).tolist()
    counts = found.statistics
    assert ran[0] == decoders.PROMPT.shape[1] + counts.drafted + counts.rounds


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_pitfall_20_padding_before_the_prompts_is_taken_out(name: str) -> None:
    texts = decoders.prompts()
    for one in EVERY:
        found = decoders.greedy(decoders.decoder(name), decoders.ragged(), one)
        for row, text in zip(decoders.new_tokens(found, decoders.ragged()), texts, strict=True):
            given = {"input_ids": text[None]}
            assert [row] == decoders.new_tokens(decoders.plain(name, True, given), given)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_pitfall_21_rows_that_ended_write_nowhere(name: str) -> None:
    """One row ends at once, and the others go on up to the last position of the table."""
    text = decoders.plain(name, True, decoders.ragged())[:, 7:].tolist()
    ends = [text[1][0], text[2][2]]
    beside = sn.SelfSpeculative(draft=decoders.first_layers(name, 3), adaptive=False)
    some = [DRAFTS[1], EVERY[3], beside]
    same_as_plain(decoders.ragged(), some, name, eos_token_id=ends, pad_token_id=0, max_new_tokens=89)


def test_pitfall_22_drafts_are_drawn_and_judged_in_float32(monkeypatch: Any) -> None:
    """Of a model in half precision, what was drawn from is what is judged, bit for bit."""
    drawn: list[Tensor] = []
    judged: list[tuple[Tensor, Tensor]] = []
    pick = policies.Drawn.pick

    def picked(self: Any, probabilities: Tensor) -> Tensor:
        drawn.append(probabilities)
        return pick(self, probabilities)

    def judge(drafted: Tensor, draft: Tensor, target: Tensor, chance: Any) -> Any:
        judged.append((draft, target))
        assert torch.equal(draft, torch.stack(drawn[-drafted.shape[1] :], 1))
        return judge_sampled(drafted, draft, target, chance)

    monkeypatch.setattr(policies.Drawn, "pick", picked)
    monkeypatch.setattr("sortednet.generation.speculation.judge_sampled", judge)
    model = decoders.fresh().to(torch.bfloat16)
    chosen = sn.SelfSpeculative(exits=3, adaptive=False, generator=torch.Generator().manual_seed(1))
    model.generate(**decoders.ragged(), do_sample=True, top_p=0.9, max_new_tokens=16, custom_generate=chosen)
    assert judged
    assert all(one.dtype == torch.float32 for pair in judged for one in pair)
    assert all(torch.allclose(one.sum(-1), torch.ones(1), atol=1e-5) for pair in judged for one in pair)
