"""What cannot be decoded is refused by name, before any layer runs."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, DataError, SettingError
from sortednet.generation.adapters import decoder_of
from sortednet.generation.generation import prompts_of
from sortednet.huggingface.network import PretrainedNet

from ..contracts import decoding_cases as decoders
from .test_generate import Streamed

SIZES = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
DRAFT = sn.SelfSpeculative(exits=2, adaptive=False)


def refused(error: type[Exception], message: str, run: Callable[[Any], Any], name: str = "llama") -> None:
    """Check that a call raises before any layer of a model runs."""
    model = decoders.fresh(name)
    with decoders.counting(model, name) as ran, pytest.raises(error, match=re.escape(message)):
        run(model)
    assert not ran


def generated(model: Any, policy: Any = DRAFT, ids: Any = decoders.PROMPT, **asked: Any) -> Any:
    return model.generate(ids, custom_generate=policy, **{"max_new_tokens": 6, "do_sample": False, **asked})


# Models.

T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "encoder": (
        lambda: hf.BertModel(hf.BertConfig(**SIZES)),
        "BertModel is of the family 'bert', which is not decoded layer by layer. Supported are llama, mistral, qwen2, "
        "qwen3, phi3, gpt2, gpt_neox, opt; use its own generate, or generate from an extracted sub-model.",
    ),
    "encoder_decoder": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
        "T5ForConditionalGeneration is an encoder and a decoder. Only models of a decoder alone are decoded layer by "
        "layer (llama, mistral,",
    ),
    "other_family": (
        lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=1)),
        "Gemma2ForCausalLM is of the family 'gemma2', which is not decoded layer by layer.",
    ),
    "no_transformers": (lambda: torch.nn.Linear(2, 2), "Linear is of the family None, which is not decoded"),
    "body": (
        lambda: hf.LlamaModel(hf.LlamaConfig(**SIZES)),
        "LlamaModel is no causal language model, so that there is nothing to generate. Give one.",
    ),
    "classifier": (
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**SIZES, pad_token_id=0)),
        "LlamaForSequenceClassification is no causal language model",
    ),
    "sliding_window": (
        lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=4)),
        "MistralForCausalLM has sliding windows (sliding_window=4), whose cache cannot be rolled back. Make "
        "its config with sliding_window=None (Qwen: use_sliding_window=False), or use its own generate.",
    ),
    "sliding_layers": (
        lambda: hf.Qwen2ForCausalLM(
            hf.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)
        ),
        "Qwen2ForCausalLM has sliding windows (sliding_attention), whose cache cannot be rolled back.",
    ),
    "dynamic_rope": (
        lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
        ),
        "LlamaForCausalLM has rope_type='dynamic', whose frequencies change with the length, so that a position does "
        "not keep its keys. Use its own generate.",
    ),
    "cross_attention": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=1, n_head=2, add_cross_attention=True)),
        "GPT2LMHeadModel has cross-attention, for which there is no encoder here. Use its own generate.",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_not_decoded(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(BuildError, match=re.escape(message)):
        decoder_of(make().eval())


def test_attention_without_a_mask_of_ours_is_refused() -> None:
    model = decoders.fresh()
    model.config._attn_implementation = "flex_attention"
    message = "runs attn_implementation='flex_attention', which takes no mask of ours. Open it with"
    with pytest.raises(BuildError, match=message):
        decoder_of(model)


def test_training_mode_is_refused() -> None:
    message = "LlamaForCausalLM is in training mode, in which dropout changes every token. Call eval() first."
    refused(BuildError, message, lambda model: generated(model.train()))


def test_sliding_windows_that_are_off_are_no_obstacle() -> None:
    config = hf.Qwen2Config(**SIZES, use_sliding_window=False, sliding_window=4)
    assert decoder_of(hf.Qwen2ForCausalLM(config).eval()).depth == 2


# What is asked of generate.

CALLS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "beams": (ConfigError, "num_beams=3 is not decoded here. Use num_beams=1, or plain generate.", {"num_beams": 3}),
    "scores": (ConfigError, "output_scores=True is not done here. Leave it out, or use plain generate.",
               {"output_scores": True, "return_dict_in_generate": True}),
    "logits": (ConfigError, "output_logits=True is not", {"output_logits": True, "return_dict_in_generate": True}),
    "attentions": (ConfigError, "output_attentions=True is not",
                   {"output_attentions": True, "return_dict_in_generate": True}),
    "states": (ConfigError, "output_hidden_states=True is not",
               {"output_hidden_states": True, "return_dict_in_generate": True}),
    "contrastive": (ConfigError, "penalty_alpha=0.6 is not done here.", {"penalty_alpha": 0.6, "top_k": 4}),
    "dola": (ConfigError, "dola_layers=low is not done here.", {"dola_layers": "low"}),
    "static_cache": (ConfigError, "cache_implementation='static' is not used here. Leave it out.",
                     {"cache_implementation": "static"}),
    "guidance": (ConfigError, "guidance_scale=1.5 runs the model twice. Use plain generate.", {"guidance_scale": 1.5}),
    "hole": (DataError, "attention_mask hides tokens in the middle of row 0. Padding may be before or behind a prompt.",
             {"attention_mask": torch.tensor([[1, 1, 0, 1, 1, 1]])}),
    "empty_row": (DataError, "The prompt of row 0 is empty. Give at least one token for each text.",
                  {"attention_mask": torch.zeros(1, 6, dtype=torch.long)}),
    "other_positions": (ConfigError, "position_ids are others than 0, 1, 2, ... of each text. Leave them out.",
                        {"position_ids": torch.arange(6)[None] * 3}),
    "long_mask": (DataError, "attention_mask has 9 positions, and input_ids 6. Give one for each.",
                  {"attention_mask": torch.ones(1, 9, dtype=torch.long)}),
    "no_policy_depth": (SettingError, "There are 3 depths for 1 texts. Give one for each.", {"depths": [1, 2, 3]}),
    "depth_outside": (SettingError, "Depth 7 is outside 1 to 6, the layers of the model.", {"depths": [7]}),
    "depth_of_none": (SettingError, "Depth True is outside 1 to 6, the layers of the model.", {"depths": [True]}),
}  # fmt: skip


@pytest.mark.parametrize("policy", [DRAFT, sn.EarlyExit(), sn.FixedDepth()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:.*guidance_scale.*")
def test_calls_that_are_not_decoded(name: str, policy: Any) -> None:
    error, message, asked = CALLS[name]
    refused(error, message, lambda model: generated(model, policy, **asked))


def test_a_forward_of_ones_own_is_refused() -> None:
    class Kept(hf.LlamaForCausalLM):
        pass

    class Changed(hf.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    config = hf.LlamaConfig(**SIZES, num_key_value_heads=1)
    assert decoder_of(Kept(config).eval()).depth == 2
    with pytest.raises(BuildError, match="Changed has a forward of its own"):
        decoder_of(Changed(config).eval())


def test_int32_ids_are_taken() -> None:
    model, ids = decoders.fresh(), torch.tensor([[5, 6, 7]])
    asked = {"max_new_tokens": 4, "do_sample": False, "custom_generate": DRAFT}
    assert model.generate(ids.int(), **asked).tolist() == model.generate(ids, **asked).tolist()


@pytest.mark.parametrize("name", ["assistant_model", "custom_generate", "streamed_to", "depths"])
def test_what_a_policy_takes_the_place_of_is_refused(name: str) -> None:
    net = sn.SortedNet.from_pretrained(decoders.fresh(), num_hidden_layers=[2, 6])
    with pytest.raises(ConfigError, match=f"{name} is not for decoding=SelfSpeculative"):
        net.generate(torch.tensor([[5]]), decoding=sn.SelfSpeculative(), **{name: 3})


def test_processors_with_a_state_are_refused() -> None:
    asked = {"watermarking_config": hf.SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3), "do_sample": True}
    message = "A watermark that keeps a state from token to token is not done here"
    refused(ConfigError, message, lambda model: generated(model, **asked))


def test_embeddings_instead_of_tokens_are_refused() -> None:
    embedded = torch.zeros(1, 3, 32)

    def run(model: Any) -> Any:
        return model.generate(inputs_embeds=embedded, custom_generate=DRAFT, do_sample=False, max_new_tokens=3)

    with pytest.raises((ConfigError, DataError), match=r"Give input_ids|Give at least one token"):
        run(decoders.fresh())


def test_types_of_tokens_are_refused() -> None:
    message = "token_type_ids are not read here. Give input_ids alone, or use plain generate."
    types = torch.ones_like(decoders.PROMPT)
    refused(ConfigError, message, lambda model: generated(model, token_type_ids=types), "gpt2")


def test_prompts_longer_than_the_model_are_refused() -> None:
    message = "A prompt has 97 tokens, and the model 96 positions. Shorten the prompt."
    for name in ("llama", "gpt2"):
        refused(DataError, message, lambda model: generated(model, ids=torch.full((1, 97), 5)), name)


def test_texts_longer_than_the_table_of_positions_are_refused() -> None:
    message = (
        "A prompt of 90 tokens and 8 new ones are more than the model's 96 positions. Give max_new_tokens of at most 7."
    )
    for name in ("gpt2", "opt"):
        refused(DataError, message, lambda model: generated(model, ids=torch.full((1, 90), 5), max_new_tokens=8), name)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_texts_as_long_as_the_table_of_positions_are_decoded(name: str) -> None:
    ids = torch.randint(4, 61, (1, 90), generator=torch.Generator().manual_seed(0))
    asked = {"max_new_tokens": 7}
    found = decoders.greedy(decoders.decoder(name), {"input_ids": ids}, DRAFT, **asked)
    assert found.tolist() == decoders.greedy(decoders.decoder(name), {"input_ids": ids}, **asked).tolist()


def test_caches_that_do_not_fit_are_refused() -> None:
    static = hf.StaticCache(config=decoders.decoder().config, max_cache_len=20)
    refused(ConfigError, f"{decoders.CACHE} is a StaticCache, and only a DynamicCache is taken. Leave it out.",
            lambda model: generated(model, **{decoders.CACHE: static}))  # fmt: skip
    shallow = decoders.greedy(decoders.first_layers(), decoders.single(), return_dict_in_generate=True)
    longer = torch.cat([shallow.sequences, torch.tensor([[9]])], 1)
    message = (
        f"{decoders.CACHE} holds 17 positions of 1 texts in 2 layers. It must hold fewer than the 19 positions of "
        "input_ids, its 1 texts without padding, and all 6 layers. Leave it out."
    )
    given = {decoders.CACHE: shallow[decoders.CACHE]}
    refused(ConfigError, message, lambda model: generated(model, ids=longer, **given))


def test_caches_of_other_rows_are_refused() -> None:
    two = decoders.greedy(
        decoders.decoder(), {"input_ids": decoders.PROMPT.repeat(2, 1)}, max_new_tokens=2, return_dict_in_generate=True
    )
    longer = torch.cat([two.sequences[:1], torch.tensor([[9]])], 1)
    message = f"{decoders.CACHE} holds 7 positions of 2 texts in 6 layers."
    given = {decoders.CACHE: two[decoders.CACHE]}
    refused(ConfigError, message, lambda model: generated(model, ids=longer, **given))


def test_streamer_of_a_batch_is_refused() -> None:
    message = "A streamer takes one text, and there are 4. Use observe= for a batch."
    refused(
        ConfigError, message, lambda model: generated(model, ids=decoders.PROMPT.repeat(4, 1), streamed_to=Streamed())
    )


def test_a_policy_that_is_called_without_generate_is_refused() -> None:
    for policy in (DRAFT, sn.EarlyExit(), sn.FixedDepth()):
        message = f"{type(policy).__name__} is called by generate. Use model.generate(ids, custom_generate=...)"
        refused(ConfigError, message, lambda model, policy=policy: policy(model, decoders.PROMPT))


def test_shapes_of_prompts() -> None:
    with pytest.raises(
        DataError, match=re.escape("input_ids are of shape (0,). Give at least one token for each text.")
    ):
        prompts_of(torch.zeros(0, dtype=torch.long), None)
    with pytest.raises(DataError, match=re.escape("input_ids are of shape (2, 0).")):
        prompts_of(torch.zeros(2, 0, dtype=torch.long), None)
    with pytest.raises(DataError, match=re.escape("attention_mask is of shape (1, 3), input_ids of (1, 2).")):
        prompts_of(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 3))


def test_prompts_are_moved_to_the_left() -> None:
    ids, mask = torch.tensor([[0, 0, 5], [6, 7, 0], [1, 2, 3]]), torch.tensor([[0, 0, 1], [1, 1, 0], [1, 1, 1]])
    prompts, lengths = prompts_of(ids, mask)
    assert lengths == [1, 2, 3]
    assert [row[:length] for row, length in zip(prompts.tolist(), lengths, strict=True)] == [[5], [6, 7], [1, 2, 3]]


# Exits of a model, known at the call.


@pytest.mark.parametrize("exit_", [0, 6, 7, -1, True, 2.0])
def test_exits_outside_of_the_model_are_refused(exit_: Any) -> None:
    message = f"Exit {exit_!r} is not inside the model of 6 layers. Choose depths of 1 to 5."
    for make in (sn.EarlyExit, sn.SelfSpeculative):
        refused(SettingError, message, lambda model, make=make: generated(model, make(exits=[exit_])))


@pytest.mark.parametrize("exits", [[2, 2], [3, 1]])
def test_exits_that_do_not_increase_are_refused(exits: list[int]) -> None:
    message = f"exits={exits} must increase, each depth once."
    for make in (sn.EarlyExit, sn.SelfSpeculative):
        refused(SettingError, message, lambda model, make=make: generated(model, make(exits=exits)))


def test_depths_outside_of_the_model_are_refused() -> None:
    for depth in (0, 7):
        message = f"Depth {depth} is outside 1 to 6, the layers of the model."
        refused(SettingError, message, lambda model, depth=depth: generated(model, sn.FixedDepth(depth=depth)))


def test_thresholds_that_are_not_one_for_each_exit_are_refused() -> None:
    message = "thresholds=[0.5] are 1 for the exits [1, 2, 3]."  # those of a plain model that nobody names
    refused(ConfigError, message, lambda model: generated(model, sn.EarlyExit(thresholds=[0.5])))


def test_vocabularies_that_differ_are_refused() -> None:
    other = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, "vocab_size": 50})).eval()
    message = "The model that drafts has a vocabulary of 50, the one that judges of 61."
    refused(ConfigError, message, lambda model: generated(model, sn.SelfSpeculative(draft=other)))


@pytest.mark.parametrize("listed", [62, torch.tensor([3, 61])])
def test_shortlists_beyond_the_vocabulary_are_refused(listed: Any) -> None:
    message = "The shortlist goes up to 62 tokens, and the vocabulary has 61."
    policy = sn.SelfSpeculative(exits=2, adaptive=False, shortlist=listed)
    refused(ConfigError, message, lambda model: generated(model, policy))


# Networks.


@pytest.fixture(scope="module")
def net() -> sn.SortedNet:
    supports = {"num_hidden_layers": [2, 4, 6], "intermediate_size": [24, 48]}
    return sn.SortedNet.from_pretrained(decoders.fresh(), **supports).eval()


def at(depth: int, width: int = 48) -> dict[str, int]:
    return {"num_hidden_layers": depth, "intermediate_size": width}


NETWORK: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "policy": (ConfigError, "decoding='fast' is no policy. Give SelfSpeculative(), EarlyExit() or FixedDepth().",
               {"decoding": "fast"}),
    "both": (SettingError, "not both.", {"setting": at(2), "settings": [at(2)]}),
    "none": (SettingError, "settings is empty. Give one for each text.", {"settings": []}),
    "widths": (SettingError, "num_hidden_layers=2,intermediate_size=24 and num_hidden_layers=6,intermediate_size=48 "
               "differ in more than the depth, so that no batch holds both. Decode them apart.",
               {"settings": [at(2, 24), at(6)]}),
    "fewer": (SettingError, "There are 2 depths for 1 texts. Give one for each.", {"settings": [at(2), at(6)]}),
    "depth_and_settings": (SettingError, "or settings=", {"settings": [at(6)], "decoding": sn.FixedDepth(depth=2)}),
    "exit": (SettingError, "Exit 3 is outside the depth support [2, 4, 6]. Choose from [2, 4].",
             {"decoding": sn.SelfSpeculative(exits=3)}),
    "early_exit": (SettingError, "Exit 6 is outside the depth support [2, 4, 6]. Choose from [2, 4].",
                   {"decoding": sn.EarlyExit(exits=[2, 6])}),
    "deeper_exit": (SettingError, "Exit 4 is outside the depth support [2, 4]. Choose from [2].",
                    {"setting": at(4), "decoding": sn.EarlyExit(exits=4)}),
    "depth": (SettingError, "depth=3 is outside its support [2, 4, 6]. Choose one of these.",
              {"decoding": sn.FixedDepth(depth=3)}),
    "setting": (SettingError, "3", {"setting": at(3), "decoding": DRAFT}),
    "stop": (ConfigError, "stop_strings=['a'] need the tokenizer. Give tokenizer=... too.",
             {"decoding": DRAFT, "stop_strings": ["a"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORK)
def test_calls_of_networks_that_are_refused(net: sn.SortedNet, name: str) -> None:
    error, message, asked = NETWORK[name]
    with decoders.counting(net.full) as ran, pytest.raises(error, match=re.escape(message)):
        net.generate(decoders.PROMPT, do_sample=False, max_new_tokens=4, **asked)
    assert not ran


def test_networks_without_generate_are_refused() -> None:
    class Model(torch.nn.Module):
        def __init__(self, hidden: int) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(3, hidden), torch.nn.Linear(hidden, 2)

        def forward(self, x: Any) -> Any:
            return self.last(self.first(x))

    net = PretrainedNet(Model, sn.Space(hidden=[2, 4]))
    with pytest.raises(BuildError, match="Model has no generate"):
        net.generate(decoders.PROMPT)
