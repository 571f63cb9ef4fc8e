"""What may be sorted of an adapter: what cannot be cut to a rank is refused by name, before anything is trained."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ..errors import BuildError, ConfigError, SpaceError

__all__ = ["check_config", "check_layers", "lora_layers"]

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
    for alpha in (config.lora_alpha, *config.alpha_pattern.values()):
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha) or not alpha:
            raise ConfigError(
                f"lora_alpha={alpha!r} is no finite number other than 0. Choose another, such as that of r."
            )
    start = config.init_lora_weights
    if start not in _INITS or (start == "eva" and getattr(config.eva_config, "rho", 1) != 1):
        raise ConfigError(
            f"init_lora_weights={start!r} cannot be cut to a rank: it changes the model's own weights or the ranks of "
            f"its layers by what the largest rank needs. Choose one of {', '.join(map(repr, _INITS))}."
        )
    for rank in (config.r, *config.rank_pattern.values()):
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise SpaceError(f"The rank r={rank!r} of the config is no rank. Choose a whole number of at least 1.")


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
