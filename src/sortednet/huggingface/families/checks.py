"""What may be sorted of a pretrained model: checked before anything is trained."""

from __future__ import annotations

import copy
import re
from typing import Any

from torch import Tensor, nn

from ...errors import BuildError, SortedNetError, SpaceError
from ...imports.privates.torch import children_of
from ...space import Number, Setting, Space
from ...views.layouts import tensors_of
from ...views.outlines import outline
from ..readouts import MeanReadout, Readout, attached, readout_of
from .builder import PretrainedBuilder, canonical, holder, text_config
from .table import Family, family_of

__all__ = ["builder_of"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "num_experts_per_tok")
_HEAD_SIZE = re.compile(r"head_dim|head_size|(^|_)d_kv$|(^|_)d_head$|kv_channels")
_SIZES = ("head_dim", "attention_head_size", "head_size", "dim_per_head", "key_value_proj_dim")
_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_QUERY = re.compile(r"^(q|query|q_proj|q_lin|to_q|qkv|query_key_value|c_attn|Wqkv)$")


def builder_of(model: nn.Module, space: Space, readout: str | Readout | None) -> PretrainedBuilder:
    """Return the builder of a pretrained model, after checking what is to be sorted.

    Args:
        model: The model, a Hugging Face one.
        space: The settings.
        readout: The readout, by name or as an object; `default` for the one the model has, or that suits it.

    Raises:
        BuildError: If it is no such model, or quantised, or a dimension makes no sense for it.
        ConfigError: If there is no readout of that name.
        SpaceError: If a setting does not fit the model's sizes.
    """
    config = getattr(model, "config", None)
    if hasattr(model, "peft_config"):
        raise BuildError(
            f"{type(model).__name__} holds adapters of PEFT, which sub-models would lack. Merge them first "
            "(model.merge_and_unload()), or sort their rank by sortednet.dylora, on the model without them."
        )
    if config is None or not hasattr(config, "model_type"):
        raise BuildError(
            f"{type(model).__name__} has no Hugging Face config. Give a transformers model, or use "
            "SortedNet(build, space, model=model) with a builder of your own."
        )
    if getattr(model, "is_quantized", False) or getattr(config, "quantization_config", None):
        raise BuildError(
            f"{type(model).__name__} is quantised, and the corner of a quantised weight is no weight. Load it without "
            "quantization_config; quantise what you extract afterwards."
        )
    _check_layers(text_config(config), family_of(config))
    sizes = {name: _full_size(model, config, name) for name in space.supports}
    for name, support in space.supports.items():
        values = list(support.values)
        if min(values) <= 0:
            raise SpaceError(f"{name}={list(values)} holds {min(values)}. Every value must be above 0.")
        if max(values) != sizes[name]:
            side = "larger than the pretrained size" if max(values) > sizes[name] else "smaller than it"
            raise SpaceError(
                f"The largest value of {name}={values} is {max(values)}, {side}: the model has {sizes[name]}. "
                f"Let {sizes[name]} be the largest value."
            )
    former = next((one for one in map(attached, model.modules()) if one is not None), None)
    chosen = former or _default_readout(model) if readout == "default" else readout_of(readout)
    # A copy, so that what trainers change in the model's config later cannot tell older sub-models from newer ones.
    builder = PretrainedBuilder(
        type(model), copy.deepcopy(config), sizes, chosen, getattr(model, "generation_config", None)
    )
    _check_fields(builder, space)
    _check_dimensions(builder, space)
    return builder


def _check_fields(builder: PretrainedBuilder, space: Space) -> None:
    """Refuse settings that the config cannot take: every value once, and heads and hidden sizes in all combinations."""
    config = text_config(builder.config)
    related = {canonical(config, one) for one in ("num_attention_heads", "hidden_size", "num_key_value_heads")}
    together = [name for name in space.supports if canonical(config, name) in related]
    checked: set[tuple[str, Any]] = set()
    for setting in space:
        keys: list[tuple[str, Any]] = [(name, setting[name]) for name in space.supports if name not in together]
        keys.append(("", tuple(setting[name] for name in together)))
        if not checked.issuperset(keys):
            checked.update(keys)
            try:
                builder.check(setting)
            except SortedNetError:
                raise
            except Exception as error:  # what the config's own checks raise
                raise SpaceError(f"{type(config).__name__} refuses {setting}: {error} Choose other values.") from error


def _check_dimensions(builder: PretrainedBuilder, space: Space) -> None:
    """Refuse a dimension along which a smaller model is no part of a larger one.

    Raises:
        BuildError: If it changes nothing, drops more than blocks at the end of a list, or cuts through heads.
    """
    built: dict[Setting, nn.Module] = {}
    for name, support in space.supports.items():
        smaller = next((one for one in space if one[name] == support.values[0]), None)
        if smaller is None or len(support.values) < 2:
            continue
        alone = Setting({**smaller, name: support.values[-1]})
        larger = alone if alone in space else space.full
        less, more = (built.setdefault(one, outline(builder, one)) if one not in built else built[one]
                      for one in (smaller, larger))  # fmt: skip
        ours, theirs = tensors_of(less), tensors_of(more)
        if larger is alone and {key: one.shape for key, one in ours.items()} == {
            key: one.shape for key, one in theirs.items()
        }:
            raise BuildError(
                f"{name} changes no tensor of the model: it has the same {len(theirs)} at {smaller[name]} and at "
                f"{larger[name]}. Its layers may be one layer used again, or it is no size. Sort another field."
            )
        lost = next((one for one in theirs if one not in ours and not _is_behind(one, less)), None)
        if lost is not None:
            raise BuildError(
                f"At {name}={smaller[name]} the model has no {lost}, and only blocks at the end of a list may fall "
                f"away: what is left would be another function. Choose values of {name} at which it stays, or sort "
                "another field."
            )
        former, latter = _head_sizes(more), _head_sizes(less)
        for path in former.keys() & latter.keys():
            if former[path] != latter[path]:
                raise BuildError(
                    f"{name}={smaller[name]} changes the size of the heads of {path} from {former[path]:g} to "
                    f"{latter[path]:g}, so that a corner would mix them. Sort {name} together with the number of "
                    "heads, so that their size stays, or sort another field."
                )


def _is_behind(name: str, small: nn.Module) -> bool:
    """Whether a tensor belongs to a block behind those that a list of a smaller model has."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        try:
            held = small.get_submodule(".".join(parts[:place]))
        except AttributeError:
            return False
        if isinstance(held, (nn.ModuleList, nn.Sequential)) and part not in children_of(held):
            return True
    return False


def _head_sizes(model: nn.Module) -> dict[str, float]:
    """Return the size of the heads of every attention that tells it, or tells how many there are."""
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        sizes = [getattr(module, name, None) for name in _SIZES]
        counts = [getattr(module, name, None) for name in _COUNTS]
        size: float | None = next((one for one in sizes if isinstance(one, int)), None)
        count = next((one for one in counts if isinstance(one, int) and one), None)
        for name, child in module.named_children():
            weight = getattr(child, "weight", None)
            if size is None and count and _QUERY.search(name) and isinstance(weight, Tensor) and weight.dim() == 2:
                size = (weight.shape[0] if isinstance(child, nn.Linear) else weight.shape[1]) / count
        if size is not None:
            found[path] = size
    return found


def _default_readout(model: nn.Module) -> Readout | None:
    """Return the mean over the tokens for a classifier of sequences by an encoder whose first token is read."""
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    return MeanReadout() if is_classifier and family_of(model.config).reads_first_token else None


def _full_size(model: nn.Module, config: Any, name: str) -> Number:
    """Return the value of a dimension in the full model."""
    family, known_as = family_of(config), canonical(config, name)
    if known_as in family.changes:
        return family.changes[known_as][1](model)
    if _HEAD_SIZE.search(known_as):
        raise BuildError(
            f"{name} of {type(model).__name__} cannot be sorted: a corner of smaller heads would mix the heads. Sort "
            f"their number, {canonical(text_config(config), 'num_attention_heads')}."
        )
    if known_as in _EXPERTS:
        raise BuildError(
            f"{name} of {type(model).__name__} cannot be sorted: the router chooses among all experts. Sort the depth, "
            "or the width of an expert."
        )
    value = getattr(holder(config, known_as), known_as, None)
    if known_as in family.shares:
        return 1.0
    if known_as in family.caps and isinstance(value, (list, tuple)):
        return max(int(one) for one in value)
    if value is None and known_as in family.defaults:
        return family.defaults[known_as](config)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        known = [key for key, one in config.to_dict().items() if isinstance(one, int) and not isinstance(one, bool)]
        raise SpaceError(
            f"{name} is no size in the config of {type(model).__name__}: it is {value!r}. Choose among its fields: "
            f"{', '.join(key for key in known if not key.endswith('_id'))}."
        )
    return value


def _check_layers(config: Any, family: Family) -> None:
    depth = getattr(config, "num_hidden_layers", None)
    for name in family.per_layer:
        entries = getattr(config, name, None)
        if isinstance(entries, (list, tuple)) and depth is not None and len(entries) != depth:
            raise BuildError(
                f"{name} of the config has {len(entries)} entries for {depth} layers. Give one for each layer."
            )
