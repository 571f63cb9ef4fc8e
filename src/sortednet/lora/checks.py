"""What may be sorted of an adapter: what cannot be cut to a rank is refused by name, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import nn

from ..errors import BuildError, ConfigError, SpaceError

__all__ = ["RankPattern", "check_config", "check_layers", "check_ranks", "largest_rank", "lora_layers", "rank_at"]

RankPattern = Literal["clip", "proportional"]
"""The rank of a layer whose own rank r_l a pattern names, at rank b: min(b, r_l), or b r_l / r rounded up."""

_INITS = (True, False, "gaussian", "orthogonal", "eva")

# By field of `LoraConfig` why a smaller rank is no corner of a larger one.
_UNCUT = {
    "use_dora": "DoRA has one magnitude for all ranks together",
    "lora_bias": "the bias is multiplied by the scaling of a rank, so that it means something else at each",
    "target_parameters": "tensors of experts hold the ranks of all experts side by side",
    "trainable_token_indices": "PEFT keeps a copy of rows of a matrix that is not cut",
    "layer_replication": "replicated layers are other layers than the model has",
    "alora_invocation_tokens": "aLoRA adds to some tokens only",
    "use_qalora": "QA-LoRA groups inputs to fit quantised weights",
    "velora_config": "VeLoRA projects activations",
    "monteclora_config": "MonteCLoRA draws its weights at random",
    "use_bdlora": "BD-LoRA is block-diagonal along the rank",
    "arrow_config": "Arrow routes among several adapters",
    "kasa_config": "KaSA changes the weights it adapts",
    "megatron_config": "Megatron's layers are sharded",
    "ensure_weight_tying": "tied adapters are one tensor in two roles",
}


def check_config(config: Any) -> None:
    """Refuse a `LoraConfig` that asks for what cannot be cut to a rank.

    Raises:
        ConfigError: If it is none, or such an option is set; the message names it.
    """
    if type(config).__name__ != "LoraConfig":
        raise ConfigError(
            f"The adapter's config is a {type(config).__name__}. Give a peft.LoraConfig(r=8, target_modules=[...])."
        )
    for name, reason in _UNCUT.items():
        if getattr(config, name, None):
            raise ConfigError(
                f"{name}={getattr(config, name)!r} cannot be cut to a rank: {reason}. Leave it out, or train this "
                "adapter at one rank with peft alone."
            )
    if not config.lora_alpha or not all(config.alpha_pattern.values()):
        raise ConfigError("lora_alpha=0 multiplies the adapter by 0. Choose another, such as that of r.")
    start = config.init_lora_weights
    if start not in _INITS or (start == "eva" and getattr(config.eva_config, "rho", 1) != 1):
        raise ConfigError(
            f"init_lora_weights={start!r} cannot be cut to a rank: it changes the model's own weights or the ranks of "
            f"its layers by what the largest rank needs. Choose one of {', '.join(map(repr, _INITS))}."
        )
    for rank in (config.r, *config.rank_pattern.values()):
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise SpaceError(f"The rank r={rank!r} of the config is no rank. Choose a whole number of at least 1.")


def largest_rank(config: Any, pattern: RankPattern) -> int:
    """Return the rank at which every layer has all the rank that the config gives it.

    Raises:
        ConfigError: If `pattern` is unknown.
    """
    if pattern not in get_args(RankPattern):
        raise ConfigError(f"rank_pattern={pattern!r} is unknown. Choose one of {', '.join(get_args(RankPattern))}.")
    found: int = max(config.r, *config.rank_pattern.values()) if pattern == "clip" and config.rank_pattern else config.r
    return found


def rank_at(rank: int, own: int, largest: int, pattern: RankPattern) -> int:
    """Return the rank of a layer where the adapter has a rank.

    Args:
        rank: The adapter's rank, 1 to `largest`.
        own: The layer's full rank, at least 1.
        largest: The adapter's largest rank.
        pattern: `clip` or `proportional`.

    Example:
        >>> rank_at(4, own=2, largest=8, pattern="clip"), rank_at(4, own=2, largest=8, pattern="proportional")
        (2, 1)
    """
    return min(rank, own) if pattern == "clip" else -(-rank * own // largest)


def check_ranks(ranks: Sequence[int] | None, largest: int) -> list[int]:
    """Return the ranks to sort, increasing: those given, or the powers of two up to the largest and the largest.

    Raises:
        SpaceError: If one is no whole number from 1 to the largest, or the largest is not among them.
    """
    if ranks is None:
        return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]
    try:
        given = list(ranks)
    except TypeError:
        raise SpaceError(f"ranks={ranks!r} is no list of ranks. Give such as [1, 2, 4, 8], or range(1, 9).") from None
    for rank in given:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
            raise SpaceError(
                f"ranks={given} holds {rank!r}; the ranks of this adapter are whole numbers from 1 to {largest}. "
                "Choose among them, or give the LoraConfig a larger r."
            )
    if largest not in given:
        raise SpaceError(
            f"ranks={given} does not hold the largest rank {largest} of the LoraConfig (r, or a larger one in "
            "rank_pattern), which is the adapter that is saved. Add it, or give the LoraConfig smaller ranks."
        )
    return sorted(set(given))


def lora_layers(model: nn.Module, adapter: str) -> dict[str, Any]:
    """Return the layers of a PEFT model that an adapter is part of, by name."""
    from peft.tuners.lora import LoraLayer

    return {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer) and adapter in module.r
    }


def check_layers(model: nn.Module, adapter: str) -> None:
    """Refuse layers of a PEFT model whose adapter cannot be cut to a rank.

    Raises:
        BuildError: If one is a grouped convolution, a tensor of experts, or of a variant of LoRA.
    """
    found = lora_layers(model, adapter)
    if not found:
        raise BuildError("The adapter is part of no layer. Give target_modules that name some layers of the model.")
    for name, layer in found.items():
        groups = getattr(layer.get_base_layer(), "groups", 1)
        if groups != 1:
            raise BuildError(
                f"{name} is a convolution of {groups} groups, whose adapter lays the rank out by group. Leave it out "
                "of target_modules, by exclude_modules."
            )
        if type(layer).__name__ == "ParamWrapper":
            raise BuildError(f"{name} adapts a tensor of experts, which holds their ranks side by side. Leave it out.")
        if getattr(layer, "lora_variant", {}).get(adapter) is not None:
            kind = type(layer.lora_variant[adapter]).__name__
            raise BuildError(f"{name} has the variant {kind} of LoRA, which cannot be cut to a rank. Leave it out.")
