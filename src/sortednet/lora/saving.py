"""Adapters on disk: PEFT's own files, and which model they were trained on."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..files import records
from ..files.saving import saving
from ..files.weights import ADAPTER, ADAPTER_CONFIG, EXTRACTED
from ..network.checkpoint import to_bytes

__all__ = [
    "adapter_state",
    "baked",
    "check_base",
    "identity_of",
    "load_adapter_state",
    "read_config",
    "write_adapter",
    "write_config",
]

_COMPARED, _VALUES = 16, 4  # tensors of the model, and values of each, that tell it from others
# Patterns of strangers: those that may try more ways than there is time for are refused.
_MOST_PATTERN, _MOST_REPEATS = 1000, 4
_REPEATS, _NESTED = re.compile(r"[*+?{]"), re.compile(r"\)[*+?{]|\(\?(?!:)|\\[1-9]")  # of a group, of what was matched
_TOLERANCE = 0.02  # a model may be held in half precision


def adapter_state(full: Any, adapter: str, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return what PEFT saves of an adapter, by PEFT's names: its weights, and those of `modules_to_save`."""
    from peft import get_peft_model_state_dict

    given = full.state_dict() if state is None else state
    found: dict[str, Tensor] = get_peft_model_state_dict(
        full, state_dict=dict(given), adapter_name=adapter, save_embedding_layers=False
    )
    return found


def load_adapter_state(full: Any, adapter: str, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Put saved weights into an adapted model, in place.

    Args:
        full: The adapted model.
        adapter: The adapter's name.
        weights: By PEFT's names.
        path: Where they come from, for messages.

    Raises:
        CheckpointError: If the weights are not those of this adapter.
    """
    from peft import set_peft_model_state_dict

    own = adapter_state(full, adapter)
    held = full.state_dict()
    for name in [one for one in weights if one not in own and one in held]:
        # PEFT saves an adapted embedding itself too, in case it was changed.
        if not torch.equal(held[name].cpu(), weights[name].to(held[name].dtype).cpu()):
            raise CheckpointError(
                f"{path} holds {name}, which is another one in the model. Open it with the model it was trained with."
            )
    weights = {name: tensor for name, tensor in weights.items() if name in own or name not in held}
    for name in own.keys() | weights.keys():
        ours, theirs = own.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            given = "missing" if theirs is None else tuple(theirs.shape)
            wanted = "missing" if ours is None else tuple(ours.shape)
            raise CheckpointError(
                f"{path} does not fit the model: {name} is {given} in it and {wanted} in the model. Open it with the "
                "model and the config that it was trained with."
            )
    set_peft_model_state_dict(full, dict(weights), adapter_name=adapter)


def read_config(path: str | Path) -> Any:
    """Read the config of an adapter that PEFT has written.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    from peft import PeftConfig

    if not (Path(path) / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"There is no adapter at {path}: {ADAPTER_CONFIG} is missing. Give the folder it was saved to."
        )
    try:
        held = records.read(Path(path) / ADAPTER_CONFIG)
        _check_kinds(held)
        layers = held.get("layers_pattern") or ()
        texts = [held.get("target_modules"), held.get("exclude_modules"), *(held.get("rank_pattern") or {}),
                 *(held.get("alpha_pattern") or {}), *([layers] if isinstance(layers, str) else layers)]  # fmt: skip
        for text in filter(lambda one: isinstance(one, str), texts):
            if len(text) > _MOST_PATTERN or len(_REPEATS.findall(text)) > _MOST_REPEATS or _NESTED.search(text):
                raise ValueError(f"the pattern {text[:60]!r} may take for ever; name the modules instead")
        return PeftConfig.from_pretrained(str(path))
    except OSError as error:
        raise CheckpointError(f"{Path(path) / ADAPTER_CONFIG} cannot be read ({error}). Correct the path.") from None
    except records.MALFORMED as error:
        raise CheckpointError(
            f"{Path(path) / ADAPTER_CONFIG} is damaged ({error}). Restore it or save again."
        ) from error


def _check_kinds(held: Mapping[str, Any]) -> None:
    """Refuse values of other kinds than PEFT writes, which it would take for something near to them.

    Raises:
        TypeError: If there is one.
    """
    from peft import LoraConfig

    for one in fields(LoraConfig):
        value = held.get(one.name)
        if isinstance(one.default, bool) and one.name != "init_lora_weights":
            records.flag(one.default if value is None else value)
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        value = held.get(name)
        if not (value is None or isinstance(value, str) or all(isinstance(one, str) for one in records.items(value))):
            raise TypeError(f"{name} holds what is no name")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(held.get(name) or {}, dict):
            raise TypeError(f"{name} is no mapping")


def write_config(path: str | Path, config: Any) -> None:
    """Write the config of an adapter for inference, as PEFT does."""
    saved = copy.deepcopy(config)
    saved.inference_mode = True
    given = {name: sorted(one) if isinstance(one, set) else one for name, one in saved.to_dict().items()}
    try:
        (Path(path) / ADAPTER_CONFIG).write_text(json.dumps(given, indent=2, sort_keys=True))
    except TypeError as error:
        raise ConfigError(f"The LoraConfig holds what JSON cannot ({error}). Give plain values.") from error


def write_adapter(path: str | Path, config: Any, state: Mapping[str, Tensor]) -> None:
    """Write a plain adapter that PEFT opens: its config and its weights."""
    with saving(path, EXTRACTED) as save:
        save.write(ADAPTER, to_bytes(state))
        write_config(save.beside, config)


def baked(model: Any, adapter: str) -> tuple[Any, dict[str, Tensor]]:
    """Return an adapter whose scalings are multiplied into its weights, for servers that read only `r` and alpha.

    Args:
        model: The adapted model of one rank.
        adapter: The adapter's name.

    Returns:
        The config, of alpha = r in every layer and no patterns, and the weights by PEFT's names. Layers of lower rank
        are filled up with zeros.
    """
    config = copy.deepcopy(model.peft_config[adapter])
    state = adapter_state(model, adapter)
    layers = [(name, one) for name, one in model.named_modules() if adapter in (getattr(one, "r", None) or {})]
    rank = max(layer.r[adapter] for _, layer in layers)
    for name, layer in layers:
        missing = rank - layer.r[adapter]
        for first, second in (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")):
            if f"{name}.{second}" in state:
                left, right = state[f"{name}.{first}"], state[f"{name}.{second}"]
                scaled = (right.float() * float(layer.scaling[adapter])).to(right.dtype)
                state[f"{name}.{first}"] = torch.cat([left, left.new_zeros(missing, *left.shape[1:])])
                zeros = scaled.new_zeros(scaled.shape[0], missing, *scaled.shape[2:])
                state[f"{name}.{second}"] = torch.cat([scaled, zeros], dim=1)
    config.r = config.lora_alpha = rank
    config.rank_pattern, config.alpha_pattern, config.use_rslora = {}, {}, False
    return config, state


def _own_names(full: nn.Module) -> dict[str, tuple[str, nn.Parameter]]:
    """Return the adapted model's own weights and their names now, by their names before it was adapted."""
    found = {}
    for name, parameter in full.named_parameters():
        kept = "lora_" not in name and "modules_to_save" not in name
        if kept and parameter.is_floating_point():
            found[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = name, parameter
    return found


def identity_of(full: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what tells the model that an adapter was trained on from others: its shapes, and some of its weights.

    Args:
        full: The adapted model.
        state: Its state dictionary, gathered where the parameters are sharded.
    """
    held = _own_names(full)
    # What was replaced, such as a new classifier, may have had random values.
    names = sorted(name for name, (_, one) in held.items() if not one.requires_grad and ".original_module." not in name)
    chosen = names[:: max(1, len(names) // _COMPARED)]
    return {
        "shapes": _shapes(held),
        "values": {name: state[held[name][0]].detach().flatten()[:_VALUES].float().tolist() for name in chosen},
    }


def _shapes(held: Mapping[str, tuple[str, nn.Parameter]]) -> str:
    text = json.dumps(sorted((name, list(one.shape)) for name, (_, one) in held.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_base(full: nn.Module, identity: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a model that an adapter was not trained on.

    Args:
        full: The adapted model.
        identity: What `identity_of` has returned of the right one.
        path: The adapter's folder.

    Raises:
        CheckpointError: If its tensors have other names or shapes, or other values.
    """
    held = _own_names(full)
    advice = f"Open {path} with the pretrained model that it was trained on"
    if _shapes(held) != identity["shapes"]:
        raise CheckpointError(
            f"The model is not the one that {path} was trained on: its tensors have other names or shapes. {advice}, "
            "as the same class, such as model=AutoModelForSequenceClassification.from_pretrained(...)."
        )
    for name, values in identity["values"].items():
        try:
            theirs = torch.tensor([float(one) for one in values])
            ours = held[name][1].detach().flatten()[:_VALUES].float().cpu()
            same = theirs.shape == ours.shape and torch.allclose(ours, theirs, rtol=_TOLERANCE, atol=1e-4)
        except records.MALFORMED as error:
            raise CheckpointError(
                f"{path} is damaged: it does not say which model it was trained on ({error!r}). Restore it."
            ) from None
        if not same:
            raise CheckpointError(
                f"The model is not the one that {path} was trained on: {name} begins with {ours.tolist()} and not with "
                f"{values}. {advice}, before any other training."
            )
