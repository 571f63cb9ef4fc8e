"""`generate` of a network: which module decodes at which setting, and where it may exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BuildError, ConfigError, SettingError
from ..space import Number, Setting
from .adapters import Decoder, decoder_of
from .policies import FixedDepth, Policy

__all__ = ["SortedDecoder", "depths_of", "generate", "module_at", "sorted_decoder"]

Given = Mapping[str, Number] | str | None


@dataclass(frozen=True)
class SortedDecoder:
    """A sub-model taken apart, and its place in the space.

    Attributes:
        decoder: Of the sub-model.
        dimension: The one that only adds layers to the list that is decoded, if there is one.
        depths: Those that the space has up to the sub-model's own, its other sizes being as there, increasing.
    """

    decoder: Decoder
    dimension: str | None
    depths: Sequence[int]


def sorted_decoder(net: Any, setting: Setting) -> SortedDecoder:
    """Take the sub-model of a setting apart.

    Raises:
        BuildError: If it cannot be decoded layer by layer.
    """
    whole = _whole(net, setting)
    decoder = decoder_of(_inner(whole))
    for name, path in net.exits.items():
        if list(whole.get_submodule(path)) == decoder.layers:
            values = [one for one in net.space.supports[name].values if one <= setting[name]]
            depths = [int(one) for one in values if Setting({**setting, name: one}) in net.space]
            return SortedDecoder(decoder, str(name), depths)
    return SortedDecoder(decoder, None, [])


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
    for name in ("assistant_model", "custom_generate", "streamed_to", "depths", "decoder"):
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
    differing = [name for name in net.space.supports if len({one[name] for one in chosen}) > 1]
    at = sorted_decoder(net, max(chosen, key=lambda one: [one[name] for name in differing]))
    dimension = at.dimension
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
        policy = policy.within(at.depths, min(own))
    words = kwargs.pop("tokenizer", None), kwargs.pop("stop_strings", None)
    if words[1] is not None:
        kwargs["stopping_criteria"] = [*kwargs.get("stopping_criteria", ()), _stop_strings(*words)]
    depths = own if settings is not None and dimension else None
    given = {"streamed_to": streamer, "depths": depths, "decoder": at.decoder}
    model: Any = at.decoder.model
    return model.generate(*args, custom_generate=policy, **given, **kwargs)


def module_at(net: Any, setting: Setting) -> Any:
    """Return the module of a setting, in evaluation mode and without a copy."""
    return _inner(_whole(net, setting))


def _whole(net: Any, setting: Setting) -> Any:
    return net.full if setting == net.space.full and not net.full.training else net.submodel(setting)


def _inner(whole: Any) -> Any:
    # PEFT puts an adapter into the layers of the model itself.
    return whole.get_base_model() if hasattr(whole, "peft_config") else whole


def depths_of(net: Any, setting: Setting) -> Sequence[int]:
    """Return the depths that the space has up to a setting's own; see `SortedDecoder`."""
    return sorted_decoder(net, setting).depths


def _stop_strings(tokenizer: Any, strings: Any) -> Any:
    if tokenizer is None:
        raise ConfigError(f"stop_strings={strings!r} need the tokenizer. Give tokenizer=... too.")
    from transformers import StopStringCriteria

    return StopStringCriteria(tokenizer=tokenizer, stop_strings=strings)
