"""Tiny causal language models that decoding is proved over, and what transformers itself makes of a text."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

import sortednet as sn
from sortednet.network.cache_names import cache_name

from . import cases

VOCABULARY = 61
DEPTH = 6
WEAK_FROM = 2  # the layers behind it add little to the weak models, so that drafts are mostly accepted
WEAKNESS = 0.1
CACHE = cache_name(hf.generation.GenerateDecoderOnlyOutput)
"""The name by which the installed transformers gives a text's cache back, and takes it."""

_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 96}
_WIDTHS = {**_SIZES, "intermediate_size": 48, "num_hidden_layers": DEPTH}
_GROUPS = {**_WIDTHS, "num_key_value_heads": 2}
_TOKENS = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 96}
_OPT = {**_SIZES, "ffn_dim": 48, "num_hidden_layers": DEPTH, "word_embed_proj_dim": 32}


@dataclass(frozen=True)
class DecoderCase:
    """A family: its classes, where its layers, its final norm and what a layer adds are.

    `adds` are the modules of a layer whose output is added to the hidden states.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    layers: str = "model.layers"
    norm: str = "model.norm"
    adds: Sequence[str] = ("self_attn.o_proj", "mlp.down_proj")
    class_name: str = ""

    def make(self, depth: int = DEPTH, attention: str = "sdpa", **own: Any) -> nn.Module:
        """Make the model with transformers' own first weights."""
        config = getattr(hf, f"{self.kind}Config")(**{**self.config, **_TOKENS, **self._depth(depth), **own})
        return getattr(hf, self.class_name or f"{self.kind}ForCausalLM")._from_config(
            config, attn_implementation=attention
        )

    def _depth(self, depth: int) -> dict[str, int]:
        return {"n_layer" if "n_layer" in self.config else "num_hidden_layers": depth}


DECODERS = [
    DecoderCase("llama", "Llama", _GROUPS),
    DecoderCase("mistral", "Mistral", {**_GROUPS, "sliding_window": None}),
    DecoderCase("qwen2", "Qwen2", _GROUPS),
    DecoderCase("qwen3", "Qwen3", {**_GROUPS, "head_dim": 8}),
    DecoderCase("phi3", "Phi3", _GROUPS),
    DecoderCase("gpt2", "GPT2", _GPT2, "transformer.h", "transformer.ln_f", ("attn.c_proj", "mlp.c_proj"),
                "GPT2LMHeadModel"),
    DecoderCase("gpt_neox", "GPTNeoX", _WIDTHS, "gpt_neox.layers", "gpt_neox.final_layer_norm",
                ("attention.dense", "mlp.dense_4h_to_h")),
    DecoderCase("opt", "OPT", _OPT, "model.decoder.layers", "model.decoder.final_layer_norm",
                ("self_attn.out_proj", "fc2")),
    DecoderCase("opt_projected", "OPT", {**_OPT, "word_embed_proj_dim": 12}, "model.decoder.layers",
                "model.decoder.final_layer_norm", ("self_attn.out_proj", "fc2")),
    DecoderCase("opt_post_norm", "OPT", {**_OPT, "word_embed_proj_dim": 12, "do_layer_norm_before": False},
                "model.decoder.layers", "", ("self_attn.out_proj", "fc2")),
]  # fmt: skip
NAMES = [case.name for case in DECODERS]


def case_of(name: str) -> DecoderCase:
    return next(case for case in DECODERS if case.name == name)


@cache
def decoder(name: str = "llama", weak: bool = True, attention: str = "sdpa") -> Any:
    """Return a model of a family, shared by all tests, which may not change it."""
    return spread(case_of(name), case_of(name).make(attention=attention), weak)


def fresh(name: str = "llama", weak: bool = True) -> Any:
    """Return a model of one's own."""
    return copy.deepcopy(decoder(name, weak))


@cache
def small(name: str = "llama", width: int = 16) -> Any:
    """Return a model of another width, which knows nothing of the others."""
    sizes = {"n_embd": width} if name == "gpt2" else {"hidden_size": width}
    if name == "qwen3":
        sizes["head_dim"] = 4
    if name.startswith("opt"):
        sizes["word_embed_proj_dim"] = width
    return spread(case_of(name), case_of(name).make(2, **sizes), weak=False, seed=9)


@cache
def first_layers(name: str = "llama", depth: int = 2, weak: bool = True) -> Any:
    """Return a copy of a model's first layers, as one that drafts or as a sub-model."""
    case, whole = case_of(name), decoder(name, weak)
    model = case.make(depth)
    weights = {key: value for key, value in whole.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(weights)
    return model.eval().to(cases.DEVICE)


def spread(case: DecoderCase, model: Any, weak: bool, seed: int = 3, gain: float = 1.6) -> Any:
    """Draw weights that make logits far from flat, and nearly the same behind every deep layer where `weak`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                norm = name.endswith("weight")
                parameter.copy_(norm + 0.1 * noise)
            else:
                table = parameter.shape[0] == VOCABULARY
                parameter.copy_(noise * (0.45 if table else gain / noise.shape[-1] ** 0.5))
        for place, layer in enumerate(model.get_submodule(case.layers)):
            for path in case.adds if weak and place >= WEAK_FROM else ():
                for parameter in layer.get_submodule(path).parameters():
                    parameter.mul_(WEAKNESS if case.norm else WEAKNESS / 5)
            if weak and place >= WEAK_FROM and not case.norm:
                _plain_norms(layer)
    return model.eval().to(cases.DEVICE)


def _plain_norms(layer: nn.Module) -> None:
    for module in layer.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.fill_(0.0)


# Prompts of different lengths; none holds the padding, 0, or an end, 2 or 3.
LENGTHS = (7, 3, 1, 5)
PROMPT = torch.randint(4, VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(5))


@cache
def prompts(lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(4, VOCABULARY, (length,), generator=generator).to(cases.DEVICE) for length in lengths]


def padded(texts: Sequence[Tensor], side: str = "left") -> dict[str, Tensor]:
    """Return prompts as one batch, with the mask."""
    longest = max(len(one) for one in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long, device=texts[0].device)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(texts):
        place = slice(longest - len(one), None) if side == "left" else slice(0, len(one))
        ids[row, place], mask[row, place] = one, 1
    return {"input_ids": ids, "attention_mask": mask}


def ragged() -> dict[str, Tensor]:
    return padded(prompts())


def single() -> dict[str, Tensor]:
    return {"input_ids": PROMPT.to(cases.DEVICE)}


def new_tokens(output: Tensor, given: Mapping[str, Tensor], end: Sequence[int] = ()) -> list[list[int]]:
    """Return what was generated in each row, without what is behind its end."""
    found = []
    for row in output[:, given["input_ids"].shape[1] :].tolist():
        places = [place for place, token in enumerate(row) if token in end]
        found.append(row[: places[0] + 1] if places else row)
    return found


def greedy(model: Any, given: Mapping[str, Tensor], policy: Any = None, **asked: Any) -> Any:
    """Generate as users do, by transformers' own loop or by a policy."""
    asked = {"max_new_tokens": 12, **asked}
    extra = {} if policy is None else {"custom_generate": policy}
    return model.generate(**given, do_sample=False, **extra, **asked)


_PLAIN: dict[Any, Tensor] = {}


def plain(name: str, weak: bool, given: Mapping[str, Tensor], **asked: Any) -> Tensor:
    """Return transformers' own greedy text, made once."""
    key = (name, weak, repr(given), repr(sorted(asked.items())))
    if key not in _PLAIN:
        _PLAIN[key] = greedy(decoder(name, weak), given, **asked)
    return _PLAIN[key]


def _speculating(name: str, weak: bool, **own: Any) -> Any:
    return sn.SelfSpeculative(adaptive=False, **own)


SHORTLIST = tuple(range(3, VOCABULARY, 2))

EXACT = {
    "fixed_depth": lambda name, weak: sn.FixedDepth(),
    "one_exit": partial(_speculating, exits=2),
    "one_exit_unsure": partial(_speculating, exits=1, draft_tokens=6, thresholds=0.3),
    "several_exits": partial(_speculating, exits=[1, 2, 4], thresholds=0.4, confidence="margin"),
    "several_exits_last_always": partial(_speculating, exits=[1, 3, 5], thresholds=[0.6, 0.5, None], draft_tokens=5),
    "adaptive": lambda name, weak: sn.SelfSpeculative(),
    "adaptive_exits": lambda name, weak: sn.SelfSpeculative(exits=[1, 2, 4], confidence="entropy", draft_tokens=3),
    "draft_of_first_layers": lambda name, weak: sn.SelfSpeculative(
        draft=first_layers(name, 2, weak), adaptive=False, draft_tokens=3
    ),
    "draft_adaptive": lambda name, weak: sn.SelfSpeculative(draft=first_layers(name, 3, weak)),
    "draft_narrower": lambda name, weak: sn.SelfSpeculative(draft=small(name), adaptive=False, thresholds=0.2),
    "shortlist_of_first": partial(_speculating, exits=2, shortlist=20),
    "shortlist_of_ids": lambda name, weak: sn.SelfSpeculative(
        exits=2, adaptive=False, shortlist=torch.tensor(SHORTLIST)
    ),
    "early_exit_never_sure": lambda name, weak: sn.EarlyExit(exits=[2, 4], thresholds=1.0),
    "early_exit_never_sure_entropy": lambda name, weak: sn.EarlyExit(
        exits=[1, 5], thresholds=1.0, confidence="entropy", max_waiting=2
    ),
}
"""Policies that promise the full model's greedy text, made for a model."""


def held(cache: Any, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return a copy of the keys and values that a cache of ours holds of the first positions, by layers."""
    return [(key[:, :, :length].clone(), value[:, :, :length].clone()) for key, value in filter(None, cache._held)]


@contextmanager
def counting(model: Any, name: str = "llama") -> Iterator[list[int]]:
    """Count the layers that run, each by its index."""
    ran: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(model.get_submodule(case_of(name).layers))
    ]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()
