"""How each family of causal language models embeds tokens, runs one layer, and reads logits. A new one is an entry.

Nothing else of transformers is relied on while decoding: the cache, the mask and the loop are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import BuildError
from ..imports.privates.transformers import attention_of
from ..network.cache_names import cache_name
from .cache import Cache

__all__ = ["ADAPTERS", "Adapter", "Decoder", "decoder_of"]

_ATTENTION = ("eager", "sdpa")
_CHANGING_ROPE = ("dynamic", "longrope")


def _rotary(body: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
    return {"position_embeddings": body.rotary_emb(hidden, position_ids=positions), "position_ids": positions}


def _positions_only(body: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
    return {"position_ids": positions}


def _embed(body: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    embedded: Tensor = body.embed_tokens(tokens)
    return embedded


def _embed_gpt2(body: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    embedded: Tensor = body.wte(tokens) + body.wpe(positions)
    return embedded


def _embed_gpt_neox(body: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    embedded: Tensor = body.embed_in(tokens)
    return embedded


def _embed_opt(body: Any, tokens: Tensor, positions: Tensor) -> Tensor:
    embedded: Tensor = body.embed_tokens(tokens)
    if body.project_in is not None:
        embedded = body.project_in(embedded)
    places: Tensor = body.embed_positions(None, position_ids=positions)
    return embedded + places


def _finish_opt(body: Any, hidden: Tensor) -> Tensor:
    if body.final_layer_norm is not None:
        hidden = body.final_layer_norm(hidden)
    finished: Tensor = hidden if body.project_out is None else body.project_out(hidden)
    return finished


@dataclass(frozen=True)
class Adapter:
    """Where a family keeps what decoding needs.

    Args:
        body: Path of the module that holds the layers.
        layers: Name of their list in it.
        finish: Name of the final norm in the body, or a function of the body and the hidden states.
        embed: From the body, tokens and positions, both (B, T), to hidden states (B, T, W).
        shared: From the body, hidden states and positions to what every layer gets.
        learned_positions: Whether there is a table of positions, which ends.
    """

    body: str = "model"
    layers: str = "layers"
    finish: str | Callable[[Any, Tensor], Tensor] = "norm"
    embed: Callable[[Any, Tensor, Tensor], Tensor] = _embed
    shared: Callable[[Any, Tensor, Tensor], dict[str, Any]] = _rotary
    learned_positions: bool = False


ADAPTERS: Mapping[str, Adapter] = {
    "llama": Adapter(),
    "mistral": Adapter(),
    "qwen2": Adapter(),
    "qwen3": Adapter(),
    "phi3": Adapter(),
    "gpt2": Adapter("transformer", "h", "ln_f", _embed_gpt2, _positions_only, learned_positions=True),
    "gpt_neox": Adapter("gpt_neox", finish="final_layer_norm", embed=_embed_gpt_neox),
    "opt": Adapter("model.decoder", "layers", _finish_opt, _embed_opt, _positions_only, learned_positions=True),
}
"""By `config.model_type`. Others are refused, for a wrong mask or position gives wrong text and no error."""


class Decoder:
    """A causal language model, taken apart: what is before its layers, its layers, and what is behind them.

    Args:
        model: The model; nothing of it is ever changed.
        adapter: Of its family.
    """

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        self.model = model
        self.config: Any = model.config
        self._adapter = adapter
        self._body: Any = model.get_submodule(adapter.body)
        self.layers = list(getattr(self._body, adapter.layers))
        self._cache = cache_name(*(module.forward for module in self.layers[0].modules()))
        self._head: Any = model.get_output_embeddings()  # type: ignore[operator]
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @property
    def depth(self) -> int:
        """The number of layers, L."""
        return len(self.layers)

    @property
    def positions(self) -> int:
        """The most positions of a text."""
        return int(self.config.max_position_embeddings)

    @property
    def learned_positions(self) -> bool:
        """Whether there is a table of positions, which ends."""
        return self._adapter.learned_positions

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the hidden states before the first layer. Shape (B, T, W)."""
        return self._adapter.embed(self._body, tokens, positions)

    def given(self, positions: Tensor, mask: Tensor | None, cache: Cache) -> dict[str, Any]:
        """Return what every layer gets beside the hidden states. Positions (B, T), additive mask (B or 1, 1, T, S)."""
        # Rotary embeddings ask the hidden states for their type and device alone.
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        shared = self._adapter.shared(self._body, like, positions)
        return {**shared, "attention_mask": mask, self._cache: cache, "use_cache": True}

    def run(self, first: int, last: int, hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
        """Run the layers from `first` to before `last`. Shape (B, T, W)."""
        for layer in self.layers[first:last]:
            output = layer(hidden, **given)
            hidden = output if isinstance(output, Tensor) else output[0]
        return hidden

    def write(self, first: int, last: int, hidden: Tensor, given: dict[str, Any], cache: Cache) -> None:
        """Write the keys and values that layers would make of these states, and run nothing else of them."""
        for layer in self.layers[first:last]:
            cache.write_only(layer, hidden, given)

    def logits(self, hidden: Tensor, shortlist: Tensor | int | None = None) -> Tensor:
        """Read hidden states through the final norm and the head.

        Args:
            hidden: States behind any layer. Shape (B, T, W).
            shortlist: Ids of the only tokens to score, or how many of the first ids; the others get minus infinity.

        Returns:
            Shape (B, T, V), float32.
        """
        finish = self._adapter.finish
        hidden = getattr(self._body, finish)(hidden) if isinstance(finish, str) else finish(self._body, hidden)
        if shortlist is None:
            whole: Tensor = self._head(hidden).float()
            return whole
        weight = self._head.weight
        chosen = slice(shortlist) if isinstance(shortlist, int) else shortlist
        scored = functional.linear(hidden, weight[chosen]).float()
        whole = scored.new_full((*hidden.shape[:-1], weight.shape[0]), -torch.inf)
        whole[..., chosen] = scored
        return whole


def decoder_of(model: nn.Module) -> Decoder:
    """Take a causal language model apart, after checking that it can be decoded layer by layer.

    Raises:
        BuildError: If it is no causal language model of a family in `ADAPTERS`, is in training mode, or has sliding
            windows, changing rotary frequencies or an attention that takes no mask.
    """
    config: Any = getattr(model, "config", None)
    kind, name = getattr(config, "model_type", None), type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise BuildError(
            f"{name} is an encoder and a decoder. Only models of a decoder alone are decoded layer by layer "
            f"({', '.join(ADAPTERS)}); use its own generate."
        )
    if not isinstance(kind, str) or kind not in ADAPTERS:
        raise BuildError(
            f"{name} is of the family {kind!r}, which is not decoded layer by layer. Supported are "
            f"{', '.join(ADAPTERS)}; use its own generate, or generate from an extracted sub-model."
        )
    head = getattr(model, "get_output_embeddings", lambda: None)()
    kinds: list[Any] = [one for one in type(model).__mro__ if one.__name__.endswith(("ForCausalLM", "LMHeadModel"))]
    if kinds and type(model).forward is not kinds[-1].forward:
        raise BuildError(
            f"{name} has a forward of its own, which is not run where layers are called one by one. Use its own "
            "generate."
        )
    if head is None or not kinds:
        raise BuildError(f"{name} is no causal language model, so that there is nothing to generate. Give one.")
    windows = [one for one in getattr(config, "layer_types", None) or () if one != "full_attention"]
    window = getattr(config, "sliding_window", None)
    if windows or (window is not None and getattr(config, "use_sliding_window", True)):
        raise BuildError(
            f"{name} has sliding windows ({windows[0] if windows else f'sliding_window={window}'}), whose cache cannot "
            "be rolled back. Make its config with sliding_window=None (Qwen: use_sliding_window=False), or use its own "
            "generate."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in _CHANGING_ROPE:
        raise BuildError(
            f"{name} has rope_type={rope!r}, whose frequencies change with the length, so that a position does not "
            "keep its keys. Use its own generate."
        )
    attention = attention_of(config)
    if attention not in _ATTENTION:
        raise BuildError(
            f"{name} runs attn_implementation={attention!r}, which takes no mask of ours. Open it "
            "with attn_implementation='sdpa' or 'eager'."
        )
    if getattr(config, "add_cross_attention", False):
        raise BuildError(f"{name} has cross-attention, for which there is no encoder here. Use its own generate.")
    if model.training:
        raise BuildError(f"{name} is in training mode, in which dropout changes every token. Call eval() first.")
    return Decoder(model, ADAPTERS[kind])
