"""Models taken apart: embedding, layers and reading are those of the whole forward pass."""

from typing import Any

import pytest
import torch
import transformers as hf

from sortednet.generation.adapters import ADAPTERS, decoder_of
from sortednet.generation.cache import Cache, causal_mask

from ..contracts import decoding_cases as decoders

every_family = pytest.mark.parametrize("name", decoders.NAMES)


@torch.no_grad()
def read_through(model: Any, ids: torch.Tensor, shortlist: Any = None) -> torch.Tensor:
    """Run embedding, layers and head one after the other, and return the logits."""
    decoder = decoder_of(model)
    rows, count = ids.shape
    positions = torch.arange(count).repeat(rows, 1)
    cache = Cache(decoder.depth, rows, count)
    cache.aim([0] * rows, count, decoder.device)
    mask = causal_mask([0] * rows, count, decoder.device, decoder.dtype)
    given = decoder.given(positions, mask, cache)
    hidden = decoder.embed(ids, positions)
    for depth in range(decoder.depth):
        hidden = decoder.run(depth, depth + 1, hidden, given)
    return decoder.logits(hidden, shortlist)


def test_every_family_has_a_case() -> None:
    assert {case.make().config.model_type for case in decoders.DECODERS} == set(ADAPTERS)


@every_family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_parts_are_the_whole(name: str, attention: str) -> None:
    model = decoders.decoder(name, False, attention)
    ids = torch.cat([decoders.PROMPT, decoders.PROMPT.flip(1)])
    assert torch.allclose(read_through(model, ids), model(ids).logits, atol=1e-4)


@every_family
def test_a_shortlist_scores_its_own_tokens_alone(name: str) -> None:
    model = decoders.decoder(name)
    whole = model(decoders.PROMPT).logits
    for listed, chosen in ((7, list(range(7))), (torch.tensor([1, 5, 44]), [1, 5, 44])):
        found = read_through(model, decoders.PROMPT, listed)
        others = [token for token in range(decoders.VOCABULARY) if token not in chosen]
        assert torch.allclose(found[..., chosen], whole[..., chosen], atol=1e-4)
        assert found[..., others].eq(-torch.inf).all()


@every_family
def test_depth_and_positions(name: str) -> None:
    decoder = decoder_of(decoders.decoder(name))
    assert (decoder.depth, decoder.positions) == (6, 96)
    assert decoder.learned_positions == (name[:3] in ("gpt", "opt") and name != "gpt_neox")


@every_family
@torch.no_grad()
def test_writing_leaves_the_keys_of_running(name: str) -> None:
    """What is written of states that go no deeper is what the layers themselves would have written of them."""
    decoder = decoder_of(decoders.decoder(name))
    count, held = 4, []
    positions = torch.arange(count)[None]
    hidden = decoder.embed(decoders.PROMPT[:, :count], positions)
    for written in (True, False):
        cache = Cache(1, 1, count)
        cache.aim([0], count, decoder.device)
        given = decoder.given(positions, causal_mask([0], count, decoder.device, decoder.dtype), cache)
        with decoders.counting(decoder.model, name) as ran:
            if written:
                decoder.write(0, 1, hidden, given, cache)
            else:
                decoder.run(0, 1, hidden, given)
        assert ran == [0]
        held += decoders.held(cache, count)
    assert torch.equal(held[0][0], held[1][0])
    assert torch.equal(held[0][1], held[1][1])


@pytest.mark.parametrize(
    "own",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 12},
        {"num_key_value_heads": 1},
    ],
    ids=["linear_rope", "tied", "biases", "one_key"],
)
def test_other_llamas_are_decoded_as_well(own: dict[str, Any]) -> None:
    case = decoders.case_of("llama")
    model = decoders.spread(case, case.make(**own), weak=True)
    for policy in ("several_exits", "early_exit_never_sure"):
        found = decoders.greedy(model, decoders.ragged(), decoders.EXACT[policy]("llama", True))
        assert found.tolist() == decoders.greedy(model, decoders.ragged()).tolist()


@pytest.mark.parametrize(
    "own", [{"scale_attn_by_inverse_layer_idx": True}, {"reorder_and_upcast_attn": True}, {"n_inner": 20}]
)
def test_other_gpt2s_are_decoded_as_well(own: dict[str, Any]) -> None:
    case = decoders.case_of("gpt2")
    model = decoders.spread(case, case.make(attention="eager", **own), weak=True)
    found = decoders.greedy(model, decoders.ragged(), decoders.EXACT["several_exits"]("gpt2", True))
    assert found.tolist() == decoders.greedy(model, decoders.ragged()).tolist()


def test_parallel_and_serial_neox_blocks_are_decoded() -> None:
    case = decoders.case_of("gpt_neox")
    for parallel in (True, False):
        model = decoders.spread(case, case.make(use_parallel_residual=parallel), weak=True)
        found = decoders.greedy(model, decoders.ragged(), decoders.EXACT["several_exits"]("gpt_neox", True))
        assert found.tolist() == decoders.greedy(model, decoders.ragged()).tolist()


def test_nothing_of_the_model_is_changed() -> None:
    model = decoders.fresh()
    before = dict(vars(model)), {name: id(one) for name, one in model.named_modules()}
    decoder_of(model)
    assert (dict(vars(model)), {name: id(one) for name, one in model.named_modules()}) == before
    assert isinstance(model, hf.LlamaForCausalLM)
