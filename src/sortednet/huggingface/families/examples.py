"""Inputs that a pretrained model runs on, made up from its config."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...views.examples import Inputs

__all__ = ["brief", "example_of"]

_TOKENS, _IMAGE, _SOUND = 8, 64, 4000
_BRIEF = 16


def example_of(model: nn.Module) -> dict[str, Tensor] | None:
    """Return two examples for a Hugging Face model, by the names of its arguments.

    Returns:
        Token ids, pixels, sound or its features, by the model's main input; None where that is something else.
    """
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    if name == "input_ids":
        ids = _ids(config)
        return {"input_ids": ids, **({"decoder_input_ids": ids} if _is_encoder_decoder(config) else {})}
    if name == "pixel_values":
        size = _field(config, "image_size", _IMAGE)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return {name: torch.zeros(2, int(_field(config, "num_channels", 3)), int(height), int(width))}
    if name == "input_values":
        return {name: torch.zeros(2, _SOUND)}
    if name == "input_features":
        length = 2 * int(_field(config, "max_source_positions", _TOKENS))
        features = {name: torch.zeros(2, int(_field(config, "num_mel_bins", 80)), length)}
        return {**features, **({"decoder_input_ids": _ids(config)} if _is_encoder_decoder(config) else {})}
    return None


def brief(inputs: Inputs) -> Inputs:
    """Return fewer tokens of texts: the first and the last ones, so that padding on either side stays.

    Args:
        inputs: Inputs of a Hugging Face model, by name: `input_ids` or `inputs_embeds` of shape (B, T, ...).

    Returns:
        The inputs with T = 16 at most; as they are where something else than a row of T for each text is among them.

    Example:
        >>> _, found = brief(((), {"input_ids": torch.arange(40)[None], "labels": torch.tensor([1])}))
        >>> found["input_ids"].shape
        torch.Size([1, 16])
    """
    args, kwargs = inputs
    tensors = {name: one for name, one in kwargs.items() if isinstance(one, Tensor)}
    tokens = tensors.get("input_ids", tensors.get("inputs_embeds"))
    if args or tokens is None or tokens.dim() < 2 or tokens.shape[1] <= _BRIEF:
        return inputs
    batch, length = tokens.shape[:2]
    rows = {
        name for name, one in tensors.items() if one.dim() > 1 and one.shape[1] == length and len(one) in (1, batch)
    }
    others = [one for name, one in tensors.items() if name not in rows]
    if any(one.shape != (batch,) for one in others) or any(length in tensors[name].shape[2:] for name in rows):
        return inputs
    half = _BRIEF // 2
    return args, {
        name: torch.cat([one[:, :half], one[:, -half:]], 1) if name in rows else one for name, one in kwargs.items()
    }


def _field(config: Any, name: str, default: Any) -> Any:
    """Return a field of a config, or of the one of its text, vision or audio part."""
    parts = (getattr(config, part, None) for part in ("text_config", "vision_config", "audio_config"))
    for one in (config, *parts):
        found = getattr(one, name, None)
        if found is not None:
            return found
    return default


def _is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def _ids(config: Any) -> Tensor:
    """Return token ids of shape (2, T) that are in the vocabulary and not the padding."""
    length = min(_TOKENS, int(_field(config, "max_position_embeddings", _TOKENS) or _TOKENS))
    vocabulary = max(2, int(_field(config, "vocab_size", _TOKENS)))
    padding = _field(config, "pad_token_id", None)
    allowed = [one for one in range(min(vocabulary, 2 * _TOKENS + 1)) if one != padding]
    return torch.tensor([[allowed[(row + place) % len(allowed)] for place in range(length)] for row in range(2)])
