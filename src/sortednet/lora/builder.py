"""The builder of an adapted model: PEFT's own model, its adapter built with a smaller rank."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn

from ..errors import BuildError, ConfigError, SettingError
from ..files.weights import ADAPTER
from ..huggingface.families.options import options_of
from ..imports.names import RankPattern, Scaling
from ..imports.privates.torch import persistent_buffers
from ..network.builders import PLAIN, Builder, SharedForward, as_builder
from ..space import Number, Setting
from ..views.buffers import Private
from ..views.examples import Inputs
from ..views.layouts import Layout
from ..views.options import Held
from ..views.outlines import is_quantised
from ..views.skeletons import Skeleton
from .checks import lora_layers
from .forward import GatedForward
from .making import base_of, without_old_names
from .rank_space import RANK, largest_rank, rank_at
from .saving import adapter_state, identity_of, load_adapter_state, write_config
from .switches import switches_of

__all__ = ["AdapterBuilder", "Outline", "adapted", "adapter_layouts"]

_OURS = (
    Layout("*.lora_A.*.weight", axis=0, blocks=1),
    Layout("*.lora_B.*.weight", axis=1, blocks=1),
    Layout("*.lora_embedding_A.*", axis=0, blocks=1),
    Layout("*.lora_embedding_B.*", axis=1, blocks=1),
)


@dataclass(frozen=True)
class AdapterBuilder(Builder):
    """Builds a model with an adapter of a rank: what PEFT makes with `r` of that value defines what is right.

    Args:
        base: Builds the model that is adapted from the other dimensions.
        config: The adapter's `LoraConfig` at the largest rank, which is read at every call and not changed.
        pattern: The rank of layers that `rank_pattern` names, at smaller ranks.
        scaling: What a smaller rank is multiplied by: its own scaling, or the largest rank's.
        adapter: The adapter's name.
    """

    kind: ClassVar[str] = "adapter"
    weights: ClassVar[str] = ADAPTER
    unwatchable: ClassVar[str] = "what an adapter is cut along is known"

    base: Callable[..., nn.Module]
    config: Any
    pattern: RankPattern = "clip"
    scaling: Scaling = "rank"
    adapter: str = "default"
    largest: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", as_builder(self.base))
        object.__setattr__(self, "largest", largest_rank(self.config, self.pattern))
        if self.scaling not in get_args(Scaling):
            raise ConfigError(f"scaling={self.scaling!r} is unknown. Choose one of {', '.join(get_args(Scaling))}.")
        ranks, alphas = self.config.rank_pattern, self.config.alpha_pattern
        if self.scaling == "constant" and ranks and alphas and ranks.keys() != alphas.keys():
            raise ConfigError(
                f"scaling='constant' with rank_pattern of {list(ranks)} and alpha_pattern of {list(alphas)}: it is not "
                "clear which goes with which. Name the same layers in both, or use scaling='rank'."
            )

    def __call__(self, **setting: Number) -> nn.Module:
        """Build the adapted model at a setting. At rank 0 the adapter does nothing; all else it holds is in place.

        Raises:
            SettingError: If the rank is above the largest one, or below 0.
        """
        rank = int(setting.pop(RANK, self.largest))
        if not 0 <= rank <= self.largest:
            raise SettingError(f"{RANK}={rank} is no rank of this adapter. Choose one from 0 to {self.largest}.")
        model = adapted(self.base(**setting), self.config_at(max(rank, 1)), self.adapter)
        if rank == 0:
            for layer in self.layers(model).values():
                for held in (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B):
                    if self.adapter in held:
                        del held[self.adapter]
        return model

    def config_at(self, rank: int) -> Any:
        """Return the config of the adapter of a rank, 1 to the largest."""
        config = copy.deepcopy(self.config)
        config.r = self.rank_of(rank, self.config.r)
        config.rank_pattern = {name: self.rank_of(rank, own) for name, own in self.config.rank_pattern.items()}
        if self.scaling == "constant":  # PEFT divides by the smaller rank, or by its root
            config.lora_alpha = self._alpha(self.config.lora_alpha, rank, self.config.r)
            config.alpha_pattern = {
                name: self._alpha(
                    self.config.alpha_pattern.get(name, self.config.lora_alpha),
                    rank,
                    self.config.rank_pattern.get(name, self.config.r),
                )
                for name in self.config.rank_pattern | self.config.alpha_pattern
            }
        return config

    def _alpha(self, alpha: float, rank: int, own: int) -> float:
        found = alpha / self.gate(rank, own)
        return int(found) if found == int(found) else found

    def gate(self, rank: int, own: int) -> float:
        """Return the scaling that PEFT gives a layer where the adapter has a rank, over that of its full rank `own`."""
        share = own / self.rank_of(rank, own)
        return math.sqrt(share) if self.config.use_rslora else share

    def rank_of(self, rank: int, own: int) -> int:
        """Return the rank of a layer whose full rank is `own`, where the adapter has a rank."""
        return rank_at(rank, own, self.largest, self.pattern)

    def layers(self, model: nn.Module) -> dict[str, Any]:
        """Return the adapted layers of a model that this has built, by name."""
        return lora_layers(model, self.adapter)

    def shares(self, name: str) -> bool:
        """Whether a trained parameter of the full model belongs to all ranks alike, such as a classifier's."""
        return "lora_" not in name

    def refuse_merged(self, full: nn.Module, merged: Setting | None) -> None:
        """Refuse a model into whose weights an adapter was added, so that any rank would be added on top; or another.

        Raises:
            SettingError: If `merged` is a setting, or PEFT has merged the full model itself.
            BuildError: If it holds other adapters than the one that is sorted.
        """
        names = list(getattr(full, "peft_config", (self.adapter,)))
        if names != [self.adapter]:
            raise BuildError(
                f"The full model holds the adapters {', '.join(names) or 'none'}, and sub-models have {self.adapter} "
                "alone. Keep the others on a model of their own, such as net.extract(...), or take them off: "
                "net.full.delete_adapter(name). Without any adapter: with net.disable_adapter()."
            )
        by_peft = any(getattr(module, "merged_adapters", None) for module in full.modules())
        if merged is not None or by_peft:
            remedy = "net.full.unmerge_adapter()" if by_peft else "sortednet.unmerge(net)"
            raise SettingError(
                f"The adapter is merged into the weights at {merged or 'its largest rank'}, so that any rank would be "
                f"added on top. Use the merged module, or call {remedy} first."
            )

    def layouts(self, full: nn.Module) -> tuple[Layout, ...]:
        """Return the layouts of the fused parameters that are known: the adapter's, and those of the family."""
        return adapter_layouts(full, as_builder(self.base).layouts(full))

    def follow(self, full: nn.Module) -> bool:
        """Let the model that is adapted be as it is now."""
        return as_builder(self.base).follow(base_of(full))

    def options(self, module: nn.Module) -> Iterator[Held]:
        """Return what may be set on the model that is adapted, and PEFT's switches."""
        base = as_builder(self.base)
        yield from options_of(module) if base.kind == PLAIN else base.options(module)
        yield from switches_of(module)

    def brief(self, inputs: Inputs) -> Inputs:
        """Return inputs of the model that is adapted, with fewer positions."""
        return as_builder(self.base).brief(inputs)

    def inner(self, full: nn.Module) -> Any:
        """Return the model without what PEFT has put around it."""
        return base_of(full)

    def shared_forward(
        self, private: Private, prepared: Callable[[Setting], Skeleton], plain: Callable[[Setting], Skeleton]
    ) -> SharedForward:
        """Return how several ranks share a forward, each on examples of its own."""
        return GatedForward(self, private, prepared, plain)

    def restore(self, full: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
        """Put an adapter's stored weights into the adapted model."""
        load_adapter_state(full, self.adapter, weights, path)

    def to_json(self, full: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what a checkpoint needs beside PEFT's config to make this builder again, as plain values."""
        base = as_builder(self.base).to_json(full, state) or None
        return {
            "adapter": {
                "pattern": self.pattern,
                "scaling": self.scaling,
                "base": base,
                "identity": identity_of(full, state),
            }
        }

    def before_saving(self, full: nn.Module, path: str | Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write the adapter's config beside its weights, and leave out the model's own."""
        write_config(path, cast(Any, full).peft_config[self.adapter])  # as PEFT has completed it
        return adapter_state(full, self.adapter, state)


def adapted(base: nn.Module, config: Any, adapter: str = "default", *, initial: bool = False) -> nn.Module:
    """Put an adapter into a model, in place.

    Args:
        base: The model.
        config: The `LoraConfig`.
        adapter: The adapter's name.
        initial: Whether its weights get their initial values; sub-models look at those that there are.

    Returns:
        PEFT's model.

    Raises:
        BuildError: If PEFT refuses.
    """
    from peft import get_peft_model

    given = copy.deepcopy(config)
    if not initial:
        given.init_lora_weights = False
    given.base_model_name_or_path = None  # PEFT warns where it is not the model's own
    try:
        with without_old_names():
            model: Any = get_peft_model(base, given, adapter_name=adapter)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise BuildError(f"PEFT cannot put this adapter into {type(base).__name__}: {error}") from error
    _let_checkpoints_start(base_of(model))
    model.peft_config[adapter].init_lora_weights = config.init_lora_weights
    model.peft_config[adapter].base_model_name_or_path = config.base_model_name_or_path
    return cast(nn.Module, model)


def _let_checkpoints_start(model: Any) -> None:
    """Let the embedding's output ask for a gradient where activations are checkpointed.

    All before the first adapter is frozen, and a reentrant checkpoint of a block gives no gradient at all where nothing
    that enters it asks for one.
    """
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return
    if isinstance(embedding, nn.Module):
        embedding.gradient_checkpointing = False  # type: ignore[assignment]  # transformers sets it where it is found
        embedding.register_forward_hook(_ask_for_gradient)


def _ask_for_gradient(module: Any, args: Any, output: Any) -> None:
    asked = module.training and torch.is_grad_enabled() and module.gradient_checkpointing
    if asked and isinstance(output, Tensor) and not output.requires_grad:
        output.requires_grad_(True)


class Outline:
    """Builds a model again from itself: the same modules, without memory for its parameters.

    Where only the rank is sorted, nothing of the adapted model is cut, so that no constructor is needed. Quantised
    modules are the model's own in every copy.

    Args:
        model: The model, before any adapter is put into it.
    """

    def __init__(self, model: nn.Module) -> None:
        memo = _kept(model)
        for parameter in model.parameters():
            if id(parameter) not in memo:
                stand_in = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
                memo[id(parameter)] = stand_in
        self._template = copy.deepcopy(model, memo)

    def __call__(self) -> nn.Module:
        memo = _kept(self._template)
        memo |= {id(parameter): parameter for parameter in self._template.parameters()}
        return copy.deepcopy(self._template, memo)


def _kept(model: nn.Module) -> dict[int, Any]:
    """Return what every copy of a model shares: quantised modules, and buffers that are bound to the model's own."""
    kept: dict[int, Any] = {}
    for module in model.modules():
        if is_quantised(module):
            kept[id(module)] = module
        # The others are each copy's own, as a constructor would make them.
        kept |= {id(one): one for _, one in persistent_buffers(module)}
    return kept


def adapter_layouts(full: nn.Module, layouts: Iterable[Layout]) -> tuple[Layout, ...]:
    """Return the layouts of an adapted model: those of its adapter, and those of the model under their new names.

    Args:
        full: The adapted model.
        layouts: Those of the model's fused parameters, by the names before it was adapted.
    """
    names = [name for name, _ in full.named_parameters(remove_duplicate=False)]
    former = {name.replace(".base_layer.", "."): name for name in names if ".base_layer." in name}
    found = [one for one in (*_OURS, *layouts) if fnmatch.filter(names, one.pattern)]
    for one in layouts:
        matched = fnmatch.filter(former, one.pattern)
        if not matched:
            continue
        stem, _, leaf = one.pattern.rpartition(".")
        found.append(replace(one, pattern=f"{stem}.base_layer.{leaf}"))
        held = full.get_submodule(former[matched[0]].rpartition(".")[0])
        if leaf == "weight" and one.axis == (1 if type(held).__name__ == "Conv1D" else 0):
            found.append(replace(one, pattern=f"{stem}.lora_B.*.weight", axis=0))
        elif leaf == "weight":
            found.append(replace(one, pattern=f"{stem}.lora_A.*.weight", axis=1))
    return tuple(found)
