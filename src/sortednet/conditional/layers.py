"""Which layers get a control, and what their outputs look like."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..imports.privates.torch import Convolution, RunningNorm

__all__ = ["choose", "outputs_of", "parts"]

_PLAIN = (nn.Dropout, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU)


def choose(network: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Find the layers that patterns name.

    Args:
        network: The network.
        patterns: Shell patterns of full names, which have as many dots as the names.

    Returns:
        The layers by name, in the network's order.

    Raises:
        ConfigError: If a pattern names nothing, or a layer cannot have a control.
    """
    names = {name: one for name, one in network.named_modules(remove_duplicate=False) if name}
    if not patterns:
        raise ConfigError("layers=() names no layer. Give at least one pattern, such as 'transformer.h.*'.")
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(_matches(name, pattern) for name in names):
            raise ConfigError(
                f"layers={pattern!r} matches no module of {type(network).__name__}. A * stands for one part of a name, "
                f"between two dots; modules are {list(names)[:6]}..."
            )
    chosen = {name: one for name, one in names.items() if any(_matches(name, pattern) for pattern in patterns)}
    known: dict[int, str] = {}
    for name, layer in chosen.items():
        if known.setdefault(id(layer), name) != name:
            raise ConfigError(
                f"{known[id(layer)]} and {name} are one module, which gets one control. Name one of them only."
            )
        if isinstance(layer, (nn.ModuleList, nn.ModuleDict)):
            raise ConfigError(f"{name} is a list of modules and is never called. Name its elements, '{name}.*'.")
        around = [one for _, part in parts(network, name) for one in (part, *part.children())]
        for one in (*around, *layer.modules()):
            if getattr(one, "batch_first", None) is False:
                raise ConfigError(
                    f"{type(one).__name__} at {name} has batch_first=False, so that its examples are not on axis 0, as "
                    "the rows of a condition are. Make it with batch_first=True."
                )
    return chosen


def _matches(name: str, pattern: str) -> bool:
    own, wanted = name.split("."), pattern.split(".")
    return len(own) == len(wanted) and all(map(fnmatchcase, own, wanted))


def parts(network: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return the modules from below the network down to a layer, with their names."""
    own = name.split(".")
    paths = [".".join(own[: end + 1]) for end in range(len(own))]
    return [(path, network.get_submodule(path)) for path in paths]


def outputs_of(
    network: nn.Module, name: str, layer: nn.Module, features: int | None, axis: int | None
) -> tuple[int, int]:
    """Find how many features a layer returns, and on which axis.

    Args:
        network: The network, whose config may say it.
        name: The layer's name.
        layer: The layer.
        features: What the user says.
        axis: What the user says.

    Returns:
        The number and the axis.

    Raises:
        ConfigError: If it is not known.
    """
    if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int) or axis == 0):
        raise ConfigError(f"axis={axis!r} is no axis of features. Give 1, -1 or another; the examples are on axis 0.")
    own = _own(layer)
    if own is not None:
        return features or own[0], own[1] if axis is None else axis
    found = features or _hidden_size(network)
    if found is None:
        raise ConfigError(
            f"How many features {name}, {type(layer).__name__}, returns is not known. Say it with features=, or name "
            "layers that have out_features or the like."
        )
    if axis is None and any(isinstance(one, Convolution) for one in layer.modules()):
        raise ConfigError(
            f"{name}, {type(layer).__name__}, has convolutions inside, so that the axis of its {found} features is not "
            "known. Give axis=1 for outputs of shape (B, C, H, W), or axis=-1 for (B, T, W)."
        )
    return found, -1 if axis is None else axis


def _own(layer: nn.Module) -> tuple[int, int] | None:
    """Return the features and their axis as the layer itself says."""
    if isinstance(layer, nn.Sequential):
        last = next((one for one in reversed(layer) if not isinstance(one, _PLAIN)), None)
        return None if last is None else _own(last)
    if isinstance(layer, RunningNorm):
        return layer.num_features, 1
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels, 1
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return layer.normalized_shape[-1], -1
    if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return layer.self_attn.embed_dim, -1
    for attribute, axis in (("out_channels", 1), ("out_features", -1), ("embedding_dim", -1), ("nf", -1)):
        found = getattr(layer, attribute, None)
        if isinstance(found, int) and not isinstance(found, bool):
            return found, axis
    return None


def _hidden_size(network: nn.Module) -> int | None:
    """Return the width of a Hugging Face model's blocks."""
    config: Any = getattr(network, "config", None)
    found = getattr(config, "hidden_size", None)
    if found is None and hasattr(config, "get_text_config"):
        found = getattr(config.get_text_config(), "hidden_size", None)
    return found if isinstance(found, int) else None
