"""The builder of a pretrained model: its own class, at its own config with some fields smaller."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import BuildError, CheckpointError, SpaceError
from ..layouts import Layout
from ..readouts import MeanReadout, Readout, readout_of
from ..space import Number
from .table import Family, Heads, family_of

__all__ = ["PretrainedBuilder", "builder_of", "open_pretrained", "read_builder"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "num_experts_per_tok")


@dataclass(frozen=True)
class PretrainedBuilder:
    """Builds a Hugging Face model at smaller fields of its config.

    Args:
        model_class: The class of the pretrained model.
        config: Its config, which is read at every call and not changed.
        sizes: The value of every dimension in the full model.
        readout: What a classifier reads at the end of the blocks; its own where None.
        generation: The model's generation config, if it has one.
    """

    model_class: type[nn.Module]
    config: Any
    sizes: Mapping[str, Number]
    readout: Readout | None = None
    generation: Any = None

    def __call__(self, **setting: Number) -> nn.Module:
        """Build the model at a setting; dimensions left out keep the full model's size."""
        family = family_of(self.config)
        config = copy.deepcopy(self.config)
        names = {_canonical(config, name): value for name, value in setting.items()}
        heads = self._set_fields(config, family, names)
        model = self.model_class(config)
        if heads is not None and family.heads is not None:
            _narrow(model, family.heads, *heads)
        for name, (change, _) in family.changes.items():
            if name in names:
                change(model, int(names[name]))
        if self.readout is not None:
            last_block(model, _text(config)).register_forward_hook(self.readout, with_kwargs=True)
        if self.generation is not None:
            model.generation_config = copy.deepcopy(self.generation)  # type: ignore[assignment]
        return model

    def layouts(self, full: nn.Module) -> tuple[Layout, ...]:
        """Return the layouts of the family's fused parameters that the full model has."""
        names = [name for name, _ in full.named_parameters(remove_duplicate=False)]
        return tuple(one for one in family_of(self.config).layouts if fnmatch.filter(names, one.pattern))

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the config to make this builder again, as plain values."""
        name = None if self.readout is None else self.readout.name
        return {"class": self.model_class.__name__, "sizes": dict(self.sizes), "readout": name}

    def before_saving(self, full: Any, path: str | Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write the config beside the weights, and leave out the second name of tied ones, as transformers does."""
        config = copy.deepcopy(self.config)
        config.architectures = [self.model_class.__name__]
        if self.readout is not None:
            config.readout = self.readout.name
        tensors = [next((t for t in state.values() if t.is_floating_point()), None)]
        if tensors[0] is not None:
            config.dtype = tensors[0].dtype
        try:
            config.save_pretrained(path)
            if self.generation is not None and full.can_generate():
                full.generation_config.save_pretrained(path)
        except OSError as error:
            raise CheckpointError(f"{path} could not be written ({error}). Correct the path, or free space.") from error
        tied = getattr(full, "all_tied_weights_keys", None) or {}
        return {name: tensor for name, tensor in state.items() if tied.get(name) not in state}

    def _set_fields(self, config: Any, family: Family, names: Mapping[str, Number]) -> tuple[int, int] | None:
        """Set the fields of a setting and those tied to them.

        Returns:
            Where projections are to be made narrower, the number of heads and their size.
        """
        full, part = _text(self.config), _text(config)
        for name, value in names.items():
            if name in family.changes:
                continue
            held = _holder(config, name)
            if name in family.shares:
                for tied in (name, *family.tied_shares):
                    setattr(config, tied, _share(tied, getattr(self.config, tied), value))
            elif name in family.caps:
                setattr(config, name, [min(int(value), depth) for depth in getattr(self.config, name)])
            else:
                setattr(held, name, value)
        for name, default in family.defaults.items():
            if name not in names and getattr(config, name, None) is None:
                setattr(config, name, default(self.config))
        depth = _canonical(full, "num_hidden_layers")
        if depth in names:
            for name in family.per_layer:
                entries = getattr(full, name, None)
                if isinstance(entries, (list, tuple)):
                    setattr(part, name, list(entries[: int(names[depth])]))
        return _set_heads(full, part, family, names)


def _set_heads(full: Any, part: Any, family: Family, names: Mapping[str, Number]) -> tuple[int, int] | None:
    """Keep the size of a head whatever else changes, and the number of query heads to each key and value head."""
    heads, hidden, groups = (
        _canonical(full, one) for one in ("num_attention_heads", "hidden_size", "num_key_value_heads")
    )
    if not (heads in names or hidden in names) or not hasattr(full, heads):
        return None
    size = head_size(full)
    count = int(getattr(full, heads))
    wanted = int(names[heads]) if heads in names else count
    shared = getattr(full, groups, None)
    if shared and groups not in names:
        if wanted * shared % count:
            raise SpaceError(
                f"{heads}={wanted} does not divide: the model has {count} heads for {shared} key and value heads, so "
                f"it must be a multiple of {count // shared}. Choose such numbers, or give {groups} too."
            )
        setattr(part, groups, wanted * shared // count)
    if family.head_size:
        name = _canonical(full, "head_dim")
        setattr(part, heads, wanted)
        setattr(part, name, size)
        return None
    width = int(names.get(hidden, getattr(full, hidden)))
    if width % size:
        raise SpaceError(
            f"{hidden}={width} is no multiple of the head size, {size}. Choose multiples of {size}, so that no head is "
            "cut in two."
        )
    if heads not in names:
        wanted = width // size
    setattr(part, heads, width // size)
    if wanted != width // size and family.heads is None:
        raise SpaceError(
            f"{heads}={wanted} cannot be had from {type(full).__name__}: it gives the size of a head only as "
            f"{hidden} / {heads}, so that fewer heads would be larger ones. Sort {hidden} together with {heads}, "
            f"keeping {hidden} / {heads} = {size}, or add the family to sortednet.families.FAMILIES."
        )
    return (wanted, size) if wanted != width // size else None


def head_size(config: Any) -> int:
    """Return the size of an attention head."""
    given = getattr(config, _canonical(config, "head_dim"), None)
    if given:
        return int(given)
    return int(config.hidden_size) // int(config.num_attention_heads)


def _narrow(model: nn.Module, where: Heads, heads: int, size: int) -> None:
    """Make the projections of the attention as narrow as the heads that are kept."""
    attention: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        parent = model.get_submodule(name.rpartition(".")[0])
        for pattern, joined in where.outputs.items():
            if fnmatch.fnmatchcase(name, pattern):
                _resize(model, name, outputs=heads * size * joined)
                attention[name.rpartition(".")[0]] = parent
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in where.inputs):
            _resize(model, name, inputs=heads * size)
    for module in attention.values():
        for attribute in where.counts:
            if hasattr(module, attribute):
                setattr(module, attribute, heads)
        for attribute in where.sizes:
            if hasattr(module, attribute):
                setattr(module, attribute, heads * size)


def _resize(model: nn.Module, name: str, inputs: int | None = None, outputs: int | None = None) -> None:
    """Replace a linear layer by one of another size; `Conv1D` holds its weight the other way round."""
    old: Any = model.get_submodule(name)
    if isinstance(old, nn.Linear):
        new: Any = nn.Linear(inputs or old.in_features, outputs or old.out_features, bias=old.bias is not None)
    else:
        new = type(old)(outputs or old.nf, inputs or old.nx)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def builder_of(model: nn.Module, supports: Mapping[str, Sequence[Number]], readout: str | Readout | None) -> Any:
    """Return the builder of a pretrained model, after checking what is to be sorted.

    Args:
        model: The model, a Hugging Face one.
        supports: The values by dimension.
        readout: The readout, by name or as an object.

    Raises:
        BuildError: If it is no such model, or quantised, or a dimension makes no sense for it.
        SpaceError: If a support does not fit the model's sizes.
    """
    config = getattr(model, "config", None)
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
    _check_layers(_text(config), family_of(config))
    sizes = {name: _full_size(model, config, name) for name in supports}
    for name, values in supports.items():
        if not values:
            raise SpaceError(f"{name}=[] is empty. Give at least the model's own size, {sizes[name]}.")
        if max(values) != sizes[name]:
            side = "larger than the pretrained size" if max(values) > sizes[name] else "smaller than it"
            raise SpaceError(
                f"The largest value of {name}={list(values)} is {max(values)}, {side}: the model has {sizes[name]}. "
                f"Let {sizes[name]} be the largest value."
            )
    chosen = _default_readout(model) if readout == "default" else readout_of(readout)
    builder = PretrainedBuilder(type(model), config, sizes, chosen, getattr(model, "generation_config", None))
    if builder.readout is not None:
        last_block(model, _text(config)).register_forward_hook(builder.readout, with_kwargs=True)
    return builder


def _default_readout(model: nn.Module) -> Readout | None:
    """Return the mean over the tokens for a classifier of sequences by an encoder whose first token is read."""
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    return MeanReadout() if is_classifier and family_of(model.config).reads_first_token else None


def _full_size(model: nn.Module, config: Any, name: str) -> Number:
    """Return the value of a dimension in the full model."""
    family, canonical = family_of(config), _canonical(config, name)
    if canonical in family.changes:
        return family.changes[canonical][1](model)
    if canonical in _EXPERTS:
        raise BuildError(
            f"{name} of {type(model).__name__} cannot be sorted: the router chooses among all experts. Sort the depth, "
            "or the width of an expert."
        )
    value = getattr(_holder(config, canonical), canonical, None)
    if canonical in family.shares:
        return 1.0
    if canonical in family.caps and isinstance(value, (list, tuple)):
        return max(value)
    if value is None and canonical in family.defaults:
        return family.defaults[canonical](config)
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


def last_block(model: nn.Module, config: Any) -> nn.Module:
    """Find the last of the blocks that a model repeats.

    Raises:
        BuildError: If there is no such list, or more than one.
    """
    depth = config.num_hidden_layers
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == depth]
    found = [one for one in lists if not any(one is not other and one in set(other.modules()) for other in lists)]
    if len(found) != 1:
        raise BuildError(
            f"{type(model).__name__} has {len(found)} lists of {depth} blocks, so that it is not clear what a readout "
            "reads. Give readout='own'."
        )
    return found[0][-1]


def _canonical(config: Any, name: str) -> str:
    return str(getattr(config, "attribute_map", {}).get(name, name))


def _text(config: Any) -> Any:
    """Return the part of a composed config that describes the language model; the config itself elsewhere."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _holder(config: Any, name: str) -> Any:
    """Return the config that has a field: the config itself, or the language model's part of it."""
    return config if hasattr(config, name) else _text(config)


def _share(name: str, sizes: Any, share: Number) -> Any:
    """Return the given share of a size or of each size in a list."""
    many = isinstance(sizes, (list, tuple))
    kept = [size * share for size in (sizes if many else [sizes])]
    if any(one < 1 or abs(one - round(one)) > 1e-6 for one in kept):
        raise SpaceError(f"A share of {share} of {name}={sizes} is {kept}. Choose shares that give whole numbers.")
    whole = [round(one) for one in kept]
    return whole if many else whole[0]


def read_builder(path: str | Path, class_name: str, sizes: Mapping[str, Number], readout: str | None) -> Any:
    """Return the builder of a saved network.

    Args:
        path: The folder, with a `config.json`.
        class_name: The class of the model, in transformers.
        sizes: The full model's sizes.
        readout: The name of the readout.

    Raises:
        CheckpointError: If transformers does not know the class.
    """
    transformers = _transformers()
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise CheckpointError(
            f"{path} holds a {class_name}, which transformers {transformers.__version__} does not have. Update it, or "
            "give build=."
        )
    config = transformers.AutoConfig.from_pretrained(path)
    generation = None
    if (Path(path) / "generation_config.json").is_file():
        generation = transformers.GenerationConfig.from_pretrained(path)
    return PretrainedBuilder(model_class, config, sizes, readout_of(readout), generation)


def open_pretrained(path: str | Path) -> nn.Module:
    """Open a pretrained model by its folder or its name, as the class that its config names.

    Raises:
        CheckpointError: If its config names no class.
    """
    transformers = _transformers()
    config = transformers.AutoConfig.from_pretrained(path)
    names = config.architectures or []
    model_class = getattr(transformers, names[0], None) if names else None
    if model_class is None:
        raise CheckpointError(
            f"The config of {path} names no class of transformers (architectures={config.architectures}). Open the "
            "model yourself, such as AutoModelForCausalLM.from_pretrained(...), and give it."
        )
    model: nn.Module = model_class.from_pretrained(path, config=config)
    return model


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            'Pretrained models need transformers, which is not installed: pip install "sortednet[transformers]".'
        ) from error
    return transformers
