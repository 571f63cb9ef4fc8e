"""Thresholds for early exit, chosen on held-out text for a wanted agreement with the full model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .adapters import Decoder, decoder_of
from .engine import Engine
from .generation import prompts_of
from .policies import EarlyExit, exits_within
from .processing import Confidence, confidence_of
from .statistics import Statistics
from .sub_models import sorted_decoder

__all__ = ["calibrate", "thresholds_for"]

_CHUNK = 256  # positions read at once


def calibrate(
    model: Any,
    texts: Iterable[Any],
    agreement: float = 0.99,
    *,
    exits: int | Sequence[int] | None = None,
    confidence: Confidence = "probability",
    certainty: float = 0.9,
) -> EarlyExit:
    """Choose the thresholds of early exit on held-out text.

    At each exit in turn, the lowest threshold is taken at which the tokens that leave there agree with the full model's
    often enough. An exit that never does is left out.

    Args:
        model: A `SortedNet` of a causal language model, or such a model.
        texts: Batches of token ids, shape (B, T), or mappings with `input_ids` and `attention_mask`; a thousand tokens
            or more.
        agreement: Share of tokens that shall be the full model's own, in (0, 1).
        exits: Depths to try; those of the network's support, or an eighth to a half of a plain model's layers.
        confidence: How sure an exit is: the top `probability`, its `margin` to the second, or the `entropy`.
        certainty: How certain the agreement shall be, given so few tokens, in [0.5, 1): a one-sided bound.

    Returns:
        The policy.

    Raises:
        ConfigError: If the agreement or the certainty is outside its range, or no exit agrees so often.
        DataError: If there is no token to learn from.
        SettingError: If an exit is not inside the model.

    Source:
        Schuster et al. (2022), arXiv:2207.07061v2, Sec. 4, choose one threshold for a sequence's risk; we choose one
        for each exit, for the share of tokens, with the bound of Wilson (1927).

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        ...                      num_attention_heads=4, num_key_value_heads=2)
        >>> model, texts = LlamaForCausalLM(config).eval(), [torch.randint(50, (8, 64))]
        >>> calibrate(model, texts, agreement=0.5, exits=[3]).thresholds_at(depth=4).keys()
        dict_keys([3])
    """
    if not 0 < agreement < 1 or not 0.5 <= certainty < 1:
        raise ConfigError(f"agreement={agreement} must be in (0, 1), and certainty={certainty} in [0.5, 1).")
    if hasattr(model, "space"):
        at = sorted_decoder(model, model.space.full)
        decoder, chosen = at.decoder, exits_within(exits, at.depths)
    else:
        decoder = decoder_of(model)
        chosen = list(EarlyExit(exits=exits).thresholds_at(decoder.depth))
    found = [_compared(decoder, batch, chosen, confidence) for batch in texts]
    if not sum(len(sure) for sure, _ in found):
        raise DataError("There is no token to choose thresholds by. Give batches of about a thousand tokens in all.")
    sure, agreed = (torch.cat(parts) for parts in zip(*found, strict=True))
    thresholds = thresholds_for(sure, agreed, agreement, certainty)
    kept = {exit_: level for exit_, level in zip(chosen, thresholds, strict=True) if level is not None}
    if not kept:
        raise ConfigError(
            f"No exit of {chosen} agrees with the full model for {agreement:.1%} of the tokens that it is sure of, by "
            f"{len(sure)} tokens. Ask for less, give more text, or train longer."
        )
    return EarlyExit(exits=list(kept), thresholds=list(kept.values()), confidence=confidence)


def thresholds_for(confidence: Tensor, agreed: Tensor, agreement: float, certainty: float = 0.9) -> list[float | None]:
    """Choose the lowest threshold of each exit at which what leaves there agrees often enough.

    Args:
        confidence: How sure each exit is of each token. Shape (N, E).
        agreed: Whether its token is the full model's. Shape (N, E), bool.
        agreement: The share wanted, in (0, 1).
        certainty: Of the bound, in [0.5, 1).

    Returns:
        A threshold in (0, 1] for each exit; None where there is none.

    Example:
        >>> sure = torch.tensor([[0.9], [0.8], [0.7], [0.2]])
        >>> [round(level, 2) for level in thresholds_for(sure, sure > 0.5, 0.9, certainty=0.5)]
        [0.7]
    """
    deviation = math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * certainty - 1, dtype=torch.float64)))
    left = torch.ones(len(confidence), dtype=torch.bool)
    thresholds: list[float | None] = []
    for sure, right in zip(confidence.T, agreed.T, strict=True):
        order = sure[left].argsort(descending=True)
        levels, hits = sure[left][order], right[left][order].double().cumsum(0)
        count = torch.arange(1, len(levels) + 1, dtype=torch.float64)
        share = hits / count
        spread = deviation / count
        centre = share + deviation * spread / 2
        width = deviation * ((share * (1 - share) + deviation * spread / 4) / count).sqrt()
        enough = (centre - width) / (1 + deviation * spread) >= agreement
        # Tokens that are equally sure leave together, so that only the last of them may end the set.
        enough[:-1] &= levels[:-1] > levels[1:]
        places = enough.nonzero()[:, 0]
        if not len(places) or levels[places[-1]] <= 0:
            thresholds.append(None)
            continue
        level = float(levels[places[-1]])
        thresholds.append(min(level, 1.0))
        left &= sure < level
    return thresholds


@torch.no_grad()
def _compared(decoder: Decoder, batch: Any, exits: Sequence[int], measure: Confidence) -> tuple[Tensor, Tensor]:
    """Return how sure each exit is of each token of a batch and whether it agrees with the full model. Both (N, E)."""
    ids, mask = (batch, None) if isinstance(batch, Tensor) else (batch["input_ids"], batch.get("attention_mask"))
    prompts, lengths = prompts_of(ids, mask)
    prompts = prompts.to(decoder.device)
    engine = Engine(decoder, [*exits, decoder.depth], [decoder.depth] * len(lengths), prompts.shape[1], Statistics())
    engine.push(prompts, lengths)
    engine.complete()
    own = torch.arange(prompts.shape[1])[None] < torch.tensor(lengths)[:, None]
    states = [engine.advanced(depth)[own.to(decoder.device)] for depth in engine.exits]  # (N, W) each
    sure, agreed = [], []
    for chunk in torch.split(torch.stack(states), _CHUNK, 1):  # (E + 1, n, W)
        logits = decoder.logits(chunk)
        chosen = logits.argmax(-1)
        sure.append(confidence_of(logits[:-1], measure).T.cpu())
        agreed.append((chosen[:-1] == chosen[-1]).T.cpu())
    return torch.cat(sure), torch.cat(agreed)
