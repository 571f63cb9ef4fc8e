"""The builder of a pretrained model: its own class, at its own config with some fields smaller."""

from __future__ import annotations

import copy
import fnmatch
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ...errors import BuildError, SpaceError
from ...network.builders import Builder
from ...space import Number
from ...views.examples import Inputs
from ...views.layouts import Layout
from ...views.options import Held
from ..chunked_loss import ChunkedHead
from ..readouts import Readout, attach, attached
from .elsewhere import REMEDY, read_otherwise, say_when_saved
from .examples import brief, example_of
from .layers import follow_depth
from .options import options_of
from .table import Family, Heads, family_of

__all__ = ["PretrainedBuilder", "canonical", "head_size", "holder", "is_causal", "last_block", "text_config"]

# Sizes that a person changes in a trained model.
_FOLLOWED = ("vocab_size", "max_position_embeddings", "type_vocab_size", "id2label", "label2id")
_GROUPS = ("num_key_value_heads", "num_kv_heads")


@dataclass(frozen=True)
class PretrainedBuilder(Builder):
    """Builds a Hugging Face model at smaller fields of its config.

    Args:
        model_class: The class of the pretrained model.
        config: Its config, which is read at every call and not changed.
        sizes: The value of every dimension in the full model.
        readout: What a classifier reads at the end of the blocks; its own where None.
        generation: The model's generation config, if it has one.
    """

    kind: ClassVar[str] = "pretrained"

    model_class: type[nn.Module]
    config: Any
    sizes: Mapping[str, Number]
    readout: Readout | None = None
    generation: Any = None

    def __call__(self, **setting: Number) -> nn.Module:
        """Build the model at a setting; dimensions left out keep the full model's size."""
        family = family_of(self.config)
        config = copy.deepcopy(self.config)
        names = {canonical(config, name): value for name, value in setting.items()}
        heads = self._set_fields(config, family, names)
        model = self.model_class(config)
        if heads is not None and family.heads is not None:
            _narrow(model, family.heads, *heads)
        for name, (change, _) in family.changes.items():
            if name in names:
                change(model, int(names[name]))
        if self.readout is not None:
            attach(model, last_block(model, text_config(config)), self.readout)
        if self.generation is not None:
            model.generation_config = copy.deepcopy(self.generation)
        say_when_saved(model)
        return model

    def check(self, setting: Mapping[str, Number]) -> None:
        """Refuse a setting that the config cannot take.

        Raises:
            SpaceError: If a size does not fit the others.
        """
        config = copy.deepcopy(self.config)
        names = {canonical(config, name): value for name, value in setting.items()}
        self._set_fields(config, family_of(config), names)

    @contextmanager
    def reading(self, full: nn.Module) -> Iterator[None]:
        """Let the full model read what sub-models read, and again what it read before if an error ends the context."""
        former = next((found for found in map(attached, full.modules()) if found is not None), None)
        if former is None and self.readout is None:
            yield
            return
        block = last_block(full, text_config(self.config))
        attach(full, block, self.readout)
        try:
            yield
        except BaseException:
            attach(full, block, former)
            raise

    def layouts(self, full: nn.Module) -> tuple[Layout, ...]:
        """Return the layouts of the family's fused parameters that the full model has."""
        names = [name for name, _ in full.named_parameters(remove_duplicate=False)]
        return tuple(one for one in family_of(self.config).layouts if fnmatch.filter(names, one.pattern))

    def example(self, full: nn.Module) -> dict[str, Tensor] | None:
        """Return inputs made up from the config."""
        return example_of(full)

    def brief(self, inputs: Inputs) -> Inputs:
        """Return the first and the last tokens of a text."""
        return brief(inputs)

    def head(self, full: nn.Module) -> ChunkedHead | None:
        """Return what reads the exits of a causal language model."""
        return ChunkedHead() if is_causal(full) else None

    def follow(self, full: Any) -> bool:
        """Take over from the model's config how many symbols, positions and labels there are now."""
        changed = False
        configs = self.config, full.config
        for ours, theirs in (configs, tuple(map(text_config, configs))):
            for name in _FOLLOWED:
                new = getattr(theirs, name, None)
                if new != getattr(ours, name, None):
                    setattr(ours, name, copy.deepcopy(new))
                    changed = True
        return changed

    def options(self, module: nn.Module) -> Iterator[Held]:
        """Return the fields of the configs of a module, and its loss."""
        return options_of(module, [canonical(self.config, name) for name in self.sizes])

    def to_json(self, full: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what a checkpoint needs beside the config to make this builder again, as plain values."""
        name = None if self.readout is None else self.readout.name
        return {"class": self.model_class.__name__, "sizes": dict(self.sizes), "readout": name}

    def before_saving(self, full: Any, path: str | Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write the config beside the weights, and leave out the second name of tied ones, as transformers does.

        What it reads otherwise is said.
        """
        if self.readout is not None:
            warnings.warn(f"{read_otherwise(self.readout)} {REMEDY}", stacklevel=5)  # where the network is saved
        config = copy.deepcopy(full.config)
        config.architectures = [self.model_class.__name__]
        if self.readout is not None:
            config.readout = self.readout.name
        tensors = [next((t for t in state.values() if t.is_floating_point()), None)]
        if tensors[0] is not None:
            config.dtype = tensors[0].dtype
        config.save_pretrained(path)
        if self.generation is not None and full.can_generate():
            full.generation_config.save_pretrained(path)
        tied = getattr(full, "all_tied_weights_keys", None) or {}
        return {name: tensor for name, tensor in state.items() if tied.get(name) not in state}

    def _set_fields(self, config: Any, family: Family, names: Mapping[str, Number]) -> tuple[int, int] | None:
        """Set the fields of a setting and those tied to them.

        Returns:
            Where projections are to be made narrower, the number of heads and their size.
        """
        full, part = text_config(self.config), text_config(config)
        for name, value in names.items():
            if name in family.changes:
                continue
            held = holder(config, name)
            if name in family.shares:
                for tied in (name, *family.tied_shares):
                    setattr(config, tied, _share(tied, getattr(self.config, tied), value))
            elif name in family.caps:
                setattr(config, name, [min(int(value), depth) for depth in getattr(self.config, name)])
            else:
                size = getattr(held, name, None)
                if isinstance(size, bool) or (not isinstance(size, (int, float)) and name not in family.defaults):
                    raise SpaceError(f"{name} is no size in the config of {self.model_class.__name__}: it is {size!r}.")
                setattr(held, name, value)
                for other in family.follows.get(name, ()):
                    if getattr(full, other, None) == getattr(full, name):
                        setattr(held, other, value)
        for name, default in family.defaults.items():
            if name not in names and getattr(config, name, None) is None:
                setattr(config, name, default(self.config))
        depth = canonical(full, "num_hidden_layers")
        if depth in names:
            follow_depth(full, part, depth, int(names[depth]), family.per_layer)
        return _set_heads(full, part, family, names)


def _set_heads(full: Any, part: Any, family: Family, names: Mapping[str, Number]) -> tuple[int, int] | None:
    """Keep the size of a head whatever else changes, and the number of query heads to each key and value head."""
    heads, hidden = (canonical(full, one) for one in ("num_attention_heads", "hidden_size"))
    groups = next((one for one in map(partial(canonical, full), _GROUPS) if getattr(full, one, None)), "")
    if not {heads, hidden, groups} & names.keys() or not isinstance(getattr(full, heads, None), int):
        return None
    size, count = head_size(full), int(getattr(full, heads))
    width = int(names.get(hidden, getattr(full, hidden)))
    if not family.head_size and width % size:
        raise SpaceError(
            f"{hidden}={width} is no multiple of the head size, {size}. Choose multiples of {size}, so that no head is "
            "cut in two."
        )
    wanted = int(names.get(heads, count if family.head_size else width // size))
    if groups:
        _set_groups(part, groups, int(getattr(full, groups)), names.get(groups), heads, count, wanted)
    if family.head_size:
        setattr(part, heads, wanted)
        setattr(part, canonical(full, "head_dim"), size)
        return None
    setattr(part, heads, width // size)
    if wanted != width // size and family.heads is None:
        raise SpaceError(
            f"{heads}={wanted} cannot be had from {type(full).__name__}: it gives the size of a head only as "
            f"{hidden} / {heads}, so that fewer heads would be larger ones. Sort {hidden} together with {heads}, "
            f"keeping {hidden} / {heads} = {size}, or add the family to sortednet.huggingface.families.FAMILIES."
        )
    return (wanted, size) if wanted != width // size else None


def _set_groups(part: Any, groups: str, shared: int, given: Number | None, heads: str, count: int, wanted: int) -> None:
    """Set the number of key and value heads so that every query head reads the one that it reads in the full model."""
    if shared == 1 and given in (None, 1):
        return
    if given is None and wanted * shared % count:
        raise SpaceError(
            f"{heads}={wanted} does not divide: the model has {count} heads for {shared} key and value heads, so it "
            f"must be a multiple of {count // shared}. Choose such numbers."
        )
    kept = wanted * shared // count if given is None else int(given)
    if kept * count != wanted * shared:
        raise SpaceError(
            f"{groups}={kept} does not go with {heads}={wanted}: in the model {count // shared} heads share a key and "
            f"value head, and they would read others. Leave {groups} out, which then follows {heads}."
        )
    setattr(part, groups, kept)


def head_size(config: Any) -> int:
    """Return the size of an attention head."""
    given = getattr(config, canonical(config, "head_dim"), None)
    if given:
        return int(given)
    return int(config.hidden_size) // int(config.num_attention_heads)


def _narrow(model: nn.Module, where: Heads, heads: int, size: int) -> None:
    """Make the projections of the attention as narrow as the heads that are kept."""
    attention: dict[str, nn.Module] = {}
    for name, _ in list(model.named_modules()):
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


def is_causal(model: nn.Module) -> bool:
    """Whether a Hugging Face model predicts the next token at each token, by a head on its hidden states."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    names = {name for one in CAUSAL.values() for name in ((one,) if isinstance(one, str) else one)}
    return type(model).__name__.removeprefix("FSDP") in names and not getattr(
        model.config, "output_router_logits", False
    )


def canonical(config: Any, name: str) -> str:
    """Return the name that a config itself has for a field."""
    return str(getattr(config, "attribute_map", {}).get(name, name))


def text_config(config: Any) -> Any:
    """Return the part of a composed config that describes the language model; the config itself elsewhere."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def holder(config: Any, name: str) -> Any:
    """Return the config that has a field: the config itself, or the language model's part of it."""
    return config if hasattr(config, name) else text_config(config)


def _share(name: str, sizes: Any, share: Number) -> Any:
    """Return the given share of a size or of each size in a list."""
    many = isinstance(sizes, (list, tuple))
    kept = [size * share for size in (sizes if many else [sizes])]
    if any(one < 1 or abs(one - round(one)) > 1e-6 for one in kept):
        raise SpaceError(f"A share of {share} of {name}={sizes} is {kept}. Choose shares that give whole numbers.")
    whole = [round(one) for one in kept]
    return whole if many else whole[0]
