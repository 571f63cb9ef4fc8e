"""DyLoRA: one training, an adapter for every rank."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import BuildError, CheckpointError, ConfigError, SettingError, SpaceError
from ..files.weights import METADATA
from ..huggingface.families import open_pretrained
from ..huggingface.network import PretrainedNet
from ..imports.names import RankPattern, Scaling
from ..network.checkpoint import read_weights
from ..network.sorted_net import SortedNet
from ..space import Number, Space
from ..views.outlines import outline
from .builder import AdapterBuilder, Outline, adapted, adapter_layouts
from .checks import check_config, check_layers
from .ordering import order_by_singular_values
from .rank_space import RANK, check_ranks, with_ranks
from .saving import adapter_state, baked, check_base, load_adapter_state, read_config, write_adapter

__all__ = [
    "builder_of_ranks",
    "dylora",
    "load_adapter",
    "merge",
    "order_ranks",
    "reopened",
    "save_adapter",
    "unmerge",
]

# What PEFT adds to modules_to_save by the task, whichever of them a model has.
_HEADS = {"classifier", "score", "qa_outputs"}
# The ranks that a server has slots of; an adapter of another is filled up with zeros.
SERVERS = {"vllm": (1, 8, 16, 32, 64, 128, 256, 320, 512)}


def dylora(
    model: nn.Module | str | Path,
    config: Any,
    *,
    ranks: Sequence[int] | None = None,
    rank_pattern: RankPattern = "clip",
    scaling: Scaling = "rank",
    **supports: Sequence[Number],
) -> SortedNet:
    """Put an adapter into a model whose every rank works: the rank `r` is a sorted dimension.

    The model's own weights are frozen and exist once. The sub-model of rank b is what PEFT builds with `r=b`: the first
    b rows of each A and columns of each B, scaled by alpha / b (alpha / sqrt(b) with `use_rslora`). In training,
    examples of one batch may have ranks of their own in one forward (`PerExample`); a batch of one rank costs what
    that rank costs. `modules_to_save`, such as a classifier, are shared by all ranks and trained at every step.

    Args:
        model: A model of any class, which is changed in place; or the folder or name of a Hugging Face one; or a
            `SortedNet`, whose dimensions are sorted together with the rank.
        config: The `peft.LoraConfig` of the largest rank.
        ranks: The ranks to train, whole numbers from 1 to the largest, which must be among them: a list, or
            `range(1, 9)`. The powers of two and the largest where left out.
        rank_pattern: The rank of layers that the config's `rank_pattern` names, at rank b: `clip`, min(b, r_l), where
            the largest rank is the largest of all; or `proportional`, b r_l / r rounded up.
        scaling: What a smaller rank b is multiplied by: `rank`, alpha / b as in the paper, or `constant`, alpha / r for
            all, which makes the smaller ranks partial sums of the largest.
        supports: By field of a Hugging Face config the values it may take, to sort these together with the rank; see
            `SortedNet.from_pretrained`.

    Returns:
        The network; its full model is PEFT's.

    Raises:
        ConfigError: If the config asks for what cannot be cut to a rank; the message names it.
        BuildError: If the model holds adapters already, or an adapted layer cannot be cut.
        SpaceError: If a rank is none of this adapter's.

    Source:
        Valipour et al. (2022), arXiv:2210.07558v2, Eq. 5 to 7 and Algorithm 1. A rank for each example is ours.

    Example:
        >>> import torch
        >>> from peft import LoraConfig
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> net = dylora(model, LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"]), ranks=[1, 2, 4])
        >>> net.at(r=2)(torch.ones(3, 8)).shape
        torch.Size([3, 2])
        >>> net.extract(r=2).peft_config["default"].r
        2
    """
    check_config(config)
    _check_model(model)
    if "rank" in supports or RANK in supports:
        raise SpaceError(f"{'rank' if 'rank' in supports else RANK} is given by the name ranks. Give ranks=[...].")
    largest = AdapterBuilder(nn.Module, config, rank_pattern, scaling).largest
    chosen = check_ranks(ranks, largest)
    opened: Any = open_pretrained(model) if isinstance(model, (str, Path)) else model
    if supports:
        opened = PretrainedNet.from_pretrained(opened, readout="own", space=Space(**supports))
    net = opened if isinstance(opened, SortedNet) else None
    base: nn.Module = opened if net is None else net.full
    build = Outline(base) if net is None else net.builder
    # A copy: what the caller does to the config later must not tell older sub-models from newer ones.
    own = copy.deepcopy(config)
    names = [name for name, _ in base.named_modules()]
    for one in set(config.modules_to_save or ()) - _HEADS:
        if not any(name == one or name.endswith(f".{one}") for name in names):
            raise BuildError(
                f"modules_to_save names {one!r}, which {type(base).__name__} does not have. Choose among "
                f"{', '.join(name for name, _ in base.named_children())}, or other names of its modules."
            )
    own.base_model_name_or_path = own.base_model_name_or_path or getattr(base, "name_or_path", None) or None
    builder = AdapterBuilder(build, own, rank_pattern, scaling)
    space = with_ranks(None if net is None else net.space, chosen)
    check_layers(outline(builder, space.full), builder.adapter)  # before the model itself is touched
    full: Any = adapted(base, builder.config_at(largest), initial=True)
    try:
        return PretrainedNet(
            builder, space, model=full, layouts=adapter_layouts(full, () if net is None else net.layouts)
        )
    except BaseException:
        full.unload()
        raise


def load_adapter(
    model: nn.Module | str | Path,
    path: str | Path,
    *,
    ranks: Sequence[int] | None = None,
    order: Literal["singular_values", "given"] = "singular_values",
) -> SortedNet:
    """Open an adapter of plain LoRA, which was trained at one rank, as a network of all ranks.

    At the largest rank it is the adapter. Its smaller ranks were never trained: this is what DyLoRA is compared with,
    and a start for training.

    Args:
        model: The pretrained model, as for `dylora`.
        path: The folder of the adapter, as PEFT has saved it.
        ranks: The ranks, as for `dylora`.
        order: `singular_values`, each layer's basis turned so that its first b ranks are its best approximation of rank
            b, with the scaling of the largest rank; or `given`, the ranks as they are, each with its own scaling.

    Returns:
        The network.

    Raises:
        CheckpointError: If there is no such adapter, or it does not fit the model.
        ConfigError: If its config holds what cannot be cut to a rank, or `order` is unknown.
    """
    if order not in ("singular_values", "given"):
        raise ConfigError(f"order={order!r} is unknown. Choose 'singular_values' or 'given'.")
    if (Path(path) / METADATA).is_file():
        raise CheckpointError(
            f"{path} holds the ranks of a network that dylora has made, which this would reorder. Open it by "
            "sortednet.load(path, model=model)."
        )
    config = read_config(path)
    config.inference_mode = False
    net = dylora(model, config, ranks=ranks, scaling="rank" if order == "given" else "constant")
    load_adapter_state(net.full, "default", read_weights(path), path)
    return net if order == "given" else order_ranks(net)


def reopened(
    path: str | Path,
    space: Space,
    stored: Mapping[str, Any],
    model: Any,
    weights: Mapping[str, Tensor] | None = None,
) -> SortedNet:
    """Return the network of an adapter that `SortedNet.save_pretrained` wrote.

    Args:
        path: Its folder.
        space: Its space.
        stored: What its builder's `to_json` had returned.
        model: The model that it was trained on, or its folder or name; or a `SortedNet` of it.
        weights: Its weights, by PEFT's names; those that PEFT begins with where left out.

    Raises:
        CheckpointError: If no model is given or named, or it is another one.
    """
    config = read_config(path)
    config.inference_mode = False
    opened = model if model is not None else config.base_model_name_or_path
    if not opened:
        raise CheckpointError(f"{path} does not say which model it was trained on. Give it: sn.load(path, model=...).")
    base: Any = open_pretrained(opened) if isinstance(opened, (str, Path)) else opened
    own = [{name: value for name, value in setting.items() if name != RANK} for setting in space]
    if own[0] and not isinstance(base, SortedNet):
        described = stored["base"] or {}
        if not described:
            raise CheckpointError(
                f"{path} has the dimensions {', '.join(own[0])} of a builder. Give model= as the SortedNet of them."
            )
        inner = Space([dict(one) for one in {str(one): one for one in own}.values()])
        if space.is_product:
            inner = Space(**{name: one for name, one in space.supports.items() if name != RANK})
        base = PretrainedNet.from_pretrained(base, space=inner, readout=described["readout"])
    net = dylora(
        base,
        config,
        ranks=[int(rank) for rank in space.supports[RANK].values],
        rank_pattern=stored["pattern"],
        scaling=stored["scaling"],
    )
    if net.space != space:
        raise CheckpointError(f"{path} holds {space!r}, and the model makes {net.space!r}. Give the model it is of.")
    check_base(net.full, stored["identity"], path)
    if weights is not None:
        load_adapter_state(net.full, builder_of_ranks(net).adapter, weights, path)
    return net


def order_ranks(net: SortedNet) -> SortedNet:
    """Turn the basis of an adapter so that its first b ranks are its best approximation of rank b, in place.

    The full model gives what it gave. Smaller ranks get the scaling of the largest, of which they are partial sums.

    Args:
        net: A network of `dylora`.

    Returns:
        A network of the same weights, with that scaling.

    Raises:
        BuildError: If it is none of `dylora`.
    """
    builder = builder_of_ranks(net)
    builder.refuse_merged(net.full, net.merged)
    for layer in builder.layers(net.full).values():
        order_by_singular_values(layer, builder.adapter)
    if builder.scaling == "constant":
        return net
    constant = replace(builder, scaling="constant")
    return PretrainedNet(constant, net.space, model=net.full, layouts=net.layouts)


def builder_of_ranks(net: SortedNet) -> AdapterBuilder:
    """Return the builder of a network whose rank is sorted.

    Raises:
        BuildError: If it is none of `dylora`.
    """
    if not isinstance(net, SortedNet) or not isinstance(net.builder, AdapterBuilder):
        raise BuildError(f"A {type(net).__name__} without adapters has no ranks. Make it by sortednet.dylora.")
    return net.builder


def save_adapter(
    net: SortedNet,
    path: str | Path,
    setting: Mapping[str, Number] | str | None = None,
    /,
    *,
    form: Literal["plain", "baked"] = "plain",
    server: str | None = None,
    **values: Number,
) -> Path:
    """Write the adapter of one rank as a plain adapter of PEFT, which opens without this library.

    Args:
        net: A network of `dylora`.
        path: The folder; made if it is not there.
        setting: A setting or its text form.
        form: `plain`, with the config that PEFT would have made for this rank; or `baked`, every scaling multiplied
            into the weights, with alpha = r and no patterns, for serving stacks that do not read these.
        server: `vllm`, to be warned where its slots have no such rank.
        values: Or the values of some dimensions, such as `r=4`; the others take their largest. An adapter of fewer
            layers is for a model of as many.

    Returns:
        The folder.

    Raises:
        BuildError: If the network is none of `dylora`.
        ConfigError: If `form` or `server` is unknown.
        SettingError: If the setting is not in the space.
        CheckpointError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, PeftModel
        >>> def model(): return nn.Sequential(nn.Linear(8, 2))
        >>> net = dylora(model(), LoraConfig(r=4, target_modules=["0"]))
        >>> folder = save_adapter(net, tempfile.mkdtemp(), r=2)
        >>> PeftModel.from_pretrained(model(), folder).peft_config["default"].r
        2
    """
    builder = builder_of_ranks(net)
    if form not in ("plain", "baked"):
        raise ConfigError(f"form={form!r} is unknown. Choose 'plain' or 'baked'.")
    if server is not None and server not in SERVERS:
        raise ConfigError(f"server={server!r} is unknown. Choose one of {', '.join(SERVERS)}, or leave it out.")
    chosen = net.space.setting(setting, **values)
    model: Any = net.submodel(chosen)
    config, state = model.peft_config[builder.adapter], adapter_state(model, builder.adapter)
    if form == "baked":
        config, state = baked(model, builder.adapter)
    highest = max([config.r, *config.rank_pattern.values()])
    if server is not None and highest not in SERVERS[server]:
        larger = next((one for one in SERVERS[server] if one > highest), None)
        held = f"in a slot of {larger}, as large as that of an adapter of rank {larger}" if larger else "in none"
        warnings.warn(
            f"{server} holds an adapter of rank {highest} {held}: its slots are of {SERVERS[server]}. Choose among "
            "these ranks, so that none of the memory is wasted.",
            stacklevel=2,
        )
    write_adapter(path, config, state)
    return Path(path)


def merge(net: SortedNet, setting: Mapping[str, Number] | str | None = None, /, **values: Number) -> nn.Module:
    """Add the adapter of one rank to the model's own weights, in place, for inference without the adapter's cost.

    Until `unmerge`, only the returned module can be used: the network refuses to run, to train and to be saved, since
    every other rank would be added on top, and so it would be in a sub-model that was taken before. A copy of the
    adapted weights is kept, so that `unmerge` gives back the same.

    Args:
        net: A network of `dylora`.
        setting: A setting or its text form.
        values: Or the values of some dimensions, such as `r=4`; the others take their largest.

    Returns:
        The sub-model, merged, in evaluation mode.

    Raises:
        BuildError: If the network is none of `dylora`, its model is quantised, or a weight is tied or cut in pieces.
        SettingError: If the setting is not in the space, or the network is merged already.
    """
    builder = builder_of_ranks(net)
    model: Any = net.submodel(setting, **values)
    uses = Counter(id(one) for _, one in net.full.named_parameters(remove_duplicate=False))
    for name, layer in builder.layers(net.full).items():
        if any(uses[id(one)] > 1 for one in layer.get_base_layer().parameters()):
            raise BuildError(
                f"{name} is tied to another layer, which merging would change too. Merge what you extract."
            )
    for name, layer in builder.layers(model).items():
        weight = layer.get_base_layer()
        if not all(one.is_floating_point() for one in weight.parameters()):
            raise BuildError(f"{name} is quantised, and merging would round it again. Merge what you extract.")
        if hasattr(weight, "parametrizations"):
            raise BuildError(
                f"{name} is cut in several pieces, into which nothing can be added. Merge what you extract."
            )
    # Taking it out again by subtraction would leave what rounding has changed.
    before = {f"{name}.{part}": one.detach().clone() for name, layer in builder.layers(net.full).items()
              for part, one in layer.get_base_layer().named_parameters()}  # fmt: skip
    model.merge_adapter()
    net.merged, net.unmerged = net.space.setting(setting, **values), before
    return cast(nn.Module, model)


@torch.no_grad()
def unmerge(net: SortedNet) -> None:
    """Give the model the weights again that it had before `merge`.

    The module that `merge` returned is of no use from then on.

    Raises:
        SettingError: If none is merged.
    """
    if net.merged is None:
        raise SettingError("No adapter is merged into this network. Call merge(net, r=...) first.")
    builder = builder_of_ranks(net)
    for name, layer in builder.layers(net.full).items():
        for part, one in layer.get_base_layer().named_parameters():
            one.copy_(net.unmerged[f"{name}.{part}"])
    net.merged, net.unmerged = None, {}


def _check_model(model: Any) -> None:
    net = model if isinstance(model, SortedNet) else None
    base = model if net is None else net.full
    if not isinstance(base, (nn.Module, str, Path)):
        raise BuildError(f"The model is {base!r}. Give a module, or the folder or name of a pretrained model.")
    if hasattr(base, "peft_config"):
        raise BuildError(
            f"{type(base).__name__} holds an adapter already. Give the model without it (model.unload()); an adapter "
            "of plain LoRA is opened by load_adapter(model, folder)."
        )
    if net is not None and RANK in net.space.supports:
        raise SpaceError(f"The network has a dimension {RANK} already. Rename it.")
    if net is not None and (net.private.patterns or net.private.policy != "shared"):
        raise BuildError(
            f"private={net.private.patterns} and buffers={net.private.policy!r} of the network do not go with an "
            "adapter, whose model is frozen. Make the network without them."
        )
