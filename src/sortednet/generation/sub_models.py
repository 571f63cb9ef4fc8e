"""`generate` of a network: which module decodes at which setting, and where it may exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BuildError, ConfigError, SettingError
from ..space import Number, Setting
from .adapters import decoder_of
from .policies import FixedDepth, Policy

__all__ = ["depths_of", "generate", "module_at"]

Given = Mapping[str, Number] | str | None


def generate(
    net: Any,
    args: Sequence[Any],
    decoding: Policy | None,
    setting: Given,
    settings: Sequence[Given] | None,
    streamer: Any,
    kwargs: dict[str, Any],
) -> Any:
    """Decode with a sub-model of a `SortedNet`. See its `generate`."""
    if not hasattr(net.full, "generate"):
        raise BuildError(
            f"{type(net.full).__name__} has no generate. Make the network of a causal language model of transformers, "
            "by SortedNet.from_pretrained."
        )
    if decoding is not None and not isinstance(decoding, Policy):
        raise ConfigError(f"decoding={decoding!r} is no policy. Give SelfSpeculative(), EarlyExit() or FixedDepth().")
    for name in ("assistant_model", "custom_generate", "streamed_to", "depths"):
        if decoding is not None and kwargs.get(name) is not None:
            raise ConfigError(f"{name} is not for decoding={type(decoding).__name__}(). Leave it out.")
    if settings is not None and setting is not None:
        raise SettingError(f"Give setting={setting} or settings={list(settings)}, not both.")
    if isinstance(settings, str):
        raise SettingError(f"settings={settings!r} is one setting. Give a list of one for each text, or setting=.")
    chosen = [net.space.setting(one) for one in ([setting] if settings is None else settings)]
    if not chosen:
        raise SettingError("settings is empty. Give one for each text.")
    if decoding is None and settings is None:
        return module_at(net, chosen[0]).generate(*args, streamer=streamer, **kwargs)
    if decoding is None and net.gated is not None and len({one["r"] for one in chosen}) > 1:
        return net.gated.generate(net.full, chosen, args, {"streamer": streamer, **kwargs})
    dimension = _depth_dimension(net)
    own = [int(one[dimension]) if dimension else 0 for one in chosen]
    deepest = chosen[own.index(max(own))]
    for one in chosen:
        if any(one[name] != deepest[name] for name in net.space.supports if name != dimension):
            raise SettingError(
                f"{one} and {deepest} differ in more than the depth, so that no batch holds both. Decode them apart."
            )
    policy = decoding or FixedDepth()
    if settings is not None and isinstance(policy, FixedDepth) and policy.depth is not None:
        raise SettingError(f"Give {policy} or settings={list(settings)}, not both.")
    if dimension is not None:
        policy = policy.within(depths_of(net, deepest), min(own))
    model = module_at(net, deepest)
    words = kwargs.pop("tokenizer", None), kwargs.pop("stop_strings", None)
    if words[1] is not None:
        kwargs["stopping_criteria"] = [*kwargs.get("stopping_criteria", ()), _stop_strings(*words)]
    depths = own if settings is not None and dimension else None
    return model.generate(*args, custom_generate=policy, streamed_to=streamer, depths=depths, **kwargs)


def module_at(net: Any, setting: Setting) -> Any:
    """Return the module of a setting, in evaluation mode and without a copy."""
    module = net.full if setting == net.space.full and not net.full.training else net.submodel(setting)
    # PEFT puts an adapter into the layers of the model itself.
    return module.get_base_model() if hasattr(module, "peft_config") else module


def depths_of(net: Any, setting: Setting) -> list[int]:
    """Return the depths that the space has up to a setting's own, its other sizes being as there, increasing."""
    dimension = _depth_dimension(net)
    if dimension is None:
        return []
    values = [one for one in net.space.supports[dimension].values if one <= setting[dimension]]
    return [int(one) for one in values if Setting({**setting, dimension: one}) in net.space]


def _depth_dimension(net: Any) -> str | None:
    """Return the dimension that only adds layers to the list that is decoded, if there is one."""
    layers = decoder_of(module_at(net, net.space.full)).layers
    for name, path in net.exits.items():
        if len(net.full.get_submodule(path)) == len(layers):
            return str(name)
    return None


def _stop_strings(tokenizer: Any, strings: Any) -> Any:
    if tokenizer is None:
        raise ConfigError(f"stop_strings={strings!r} need the tokenizer. Give tokenizer=... too.")
    from transformers import StopStringCriteria

    return StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
