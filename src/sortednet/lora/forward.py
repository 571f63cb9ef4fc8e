"""One forward for examples at several ranks.

The model runs once with the adapter of the largest rank behind gates. Where it computes a loss itself, which would be
one of all examples together, its inner model runs once, and each sub-model reads its own examples' part of what that
returned: its own head, at its own rank, and its own loss.

That the first axis of what an adapted layer takes goes with the examples is nowhere said. So it is tried before it is
first used, with noise for the adapter's weights (those that begin as 0 would hide what is wrong).
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BuildError, SettingError
from ..imports.privates.torch import tree_flatten, tree_unflatten
from ..network.cache_names import uncached
from ..network.exits import Kept, prefix_of, random_state_kept
from ..network.trials import Unshareable, equal, some_rows
from ..space import Setting
from ..views.buffers import Private
from ..views.examples import Inputs, join_batch, pick_inputs, size_of_inputs
from ..views.skeletons import Skeleton, Skeletons
from .gates import Gates, Ranked
from .making import base_of
from .rank_space import RANK

__all__ = ["GatedForward"]


class _Stop(Exception):  # noqa: N818
    """Ends a forward behind the inner model, with what it returned."""


class _Trunk:
    """A model with gates, whose forward may end behind its inner model."""

    def __init__(self, skeleton: Skeleton, builder: Ranked, inner: str | None) -> None:
        self.skeleton = skeleton
        self.gates = Gates(skeleton.module, builder)
        self._stops = False
        if inner is not None:
            skeleton.module.get_submodule(inner).register_forward_hook(self._stop)

    def _stop(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stops:
            raise _Stop(output)

    def run(self, ranks: Sequence[int], inputs: Inputs, inner: bool) -> Any:
        """Return the output of the model, or of its inner model, each example at its rank."""
        self._stops = inner
        try:
            with self.gates.at(ranks):
                output = self.skeleton.module(*inputs[0], **inputs[1])
        except _Stop as stop:
            return stop.args[0]
        finally:
            self.skeleton.write_back()
        if inner:
            raise Unshareable("it does not call its inner model")
        return output


class _Reader:
    """A sub-model without its inner model: what it makes of what that returned."""

    def __init__(self, skeleton: Skeleton, inner: str) -> None:
        self.skeleton = skeleton
        parent, _, leaf = inner.rpartition(".")
        holder = skeleton.module.get_submodule(parent)
        self._kept = Kept(skeleton.module.get_submodule(inner))
        holder.register_module(leaf, self._kept)
        skeleton.keep_only(lambda name: not name.startswith(prefix_of(inner)))

    def read(self, value: Any, inputs: Inputs) -> Any:
        """Return the sub-model's output on some examples, for which the inner model returned `value`."""
        self._kept.value = value
        try:
            return self.skeleton.module(*inputs[0], **inputs[1])
        finally:
            self._kept.value = None
            self.skeleton.write_back()


class GatedForward:
    """Which sub-models share a forward because they differ in their rank alone, and that forward.

    Args:
        builder: The network's builder.
        private: Its private tensors.
        prepared: Makes a new skeleton of a setting, compiled where the network is.
        plain: The same, never compiled.
    """

    def __init__(
        self,
        builder: Ranked,
        private: Private,
        prepared: Callable[[Setting], Skeleton],
        plain: Callable[[Setting], Skeleton],
    ) -> None:
        self._builder, self._private, self._prepared, self._plain = builder, private, prepared, plain
        self._parts = Skeletons()
        self._tried: set[tuple[Any, ...]] = set()
        self._problem: str | None = None

    def forget(self) -> None:
        """Build all skeletons anew."""
        self._parts = Skeletons()

    def groups(self, settings: Sequence[Setting]) -> list[list[int]]:
        """Group the places of settings that differ in their rank alone."""
        if self._problem is not None or self._private.owners:
            return [[place] for place in range(len(settings))]
        groups: dict[Any, list[int]] = {}
        for place, setting in enumerate(settings):
            groups.setdefault(self._rest(setting), []).append(place)
        return list(groups.values())

    def _rest(self, setting: Setting) -> tuple[Any, ...]:
        return tuple(value for name, value in setting.items() if name != RANK)

    def run(
        self, full: nn.Module, settings: Sequence[Setting], inputs: Sequence[Inputs], inference: bool
    ) -> list[Any] | None:
        """Run sub-models that differ in their rank alone, each on examples of its own, in one forward.

        Args:
            full: The full model.
            settings: The sub-models.
            inputs: The inputs of each.
            inference: Whether to run in evaluation mode, whatever mode the network is in.

        Returns:
            Their outputs; None if it turns out that they share no forward, which a warning says once.
        """
        if self._problem is not None:
            return None
        fixed = uncached(base_of(full).forward)
        inputs = [(args, {**fixed, **kwargs}) for args, kwargs in inputs]
        inner = _inner(full) if inputs[0][1].get("labels") is not None else None
        try:
            trunk, readers = self._made(full, settings, inner)
            self._try(full, trunk, settings, inner, inputs[0])
            for skeleton in (trunk.skeleton, *(reader.skeleton for reader in readers)):
                skeleton.bind(self._private, inference)
            return _run(trunk, readers, settings, inputs)
        except Unshareable as reason:
            self._problem = str(reason)
            warnings.warn(
                f"{type(base_of(full)).__name__} does not run examples of several ranks in one forward: {reason}. Its "
                "sub-models run one by one, with the same results in more time.",
                stacklevel=2,
            )
            return None

    def generate(
        self, full: nn.Module, settings: Sequence[Setting], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Continue each text with the sub-model of its own rank, in one batch.

        Args:
            full: The full model.
            settings: One for each text, which differ in their rank alone.
            args: What the model's own `generate` takes: the prompts. Shape (B, P).
            kwargs: The same by name.

        Raises:
            SettingError: If the settings differ in more, or are not as many as the texts.
            BuildError: If examples of several ranks share no forward.
        """
        if len(self.groups(settings)) > 1 and self._problem is None:
            raise SettingError(
                f"{', '.join(map(str, settings))} differ in more than {RANK}, so that no batch holds all. Decode apart."
            )
        prompts = args[0] if args else kwargs.get("input_ids")
        if not isinstance(prompts, Tensor) or len(prompts) != len(settings):
            given = len(prompts) if isinstance(prompts, Tensor) else "no"
            raise SettingError(f"There are {len(settings)} settings for {given} texts. Give one for each text.")
        trunk, _ = self._made(full, settings, None)
        try:
            if self._problem is None:
                self._try(full, trunk, settings, None, ((), {"input_ids": prompts, **uncached(base_of(full).forward)}))
        except Unshareable as reason:
            self._problem = str(reason)
        if self._problem is not None:
            raise BuildError(
                f"{type(base_of(full)).__name__} holds no texts of several ranks in a batch: {self._problem}."
            )
        trunk.skeleton.bind(self._private, inference=True)
        module: Any = trunk.skeleton.module
        with torch.no_grad(), trunk.gates.at([int(one[RANK]) for one in settings]):
            return module.generate(*args, **kwargs)

    def _made(self, full: nn.Module, settings: Sequence[Setting], inner: str | None) -> tuple[_Trunk, list[_Reader]]:
        top = Setting({**settings[0], RANK: self._builder.largest})
        trunk: _Trunk = self._part(full, (top, inner), top, lambda one: _Trunk(one, self._builder, inner))
        if inner is None:
            return trunk, []
        path = inner
        return trunk, [
            self._part(full, (one, inner, "reader"), one, lambda held: _Reader(held, path)) for one in settings
        ]

    def _part(self, full: nn.Module, key: Any, setting: Setting, make: Callable[[Skeleton], Any]) -> Any:
        found = self._parts.get(key, full)
        if found is None:
            found = make(self._prepared(setting))
            self._parts.keep(key, found.skeleton, found)
        return found

    def _try(
        self, full: nn.Module, trunk: _Trunk, settings: Sequence[Setting], inner: str | None, inputs: Inputs
    ) -> None:
        """Compare the gated forward with forwards of the sub-models alone.

        Raises:
            Unshareable: If they differ.
        """
        # Where the adapter is switched off, nothing would show what is wrong.
        off = all(one.disable_adapters for one in self._builder.layers(full).values())
        key = (self._rest(settings[0]), inner, tuple(sorted(inputs[1])), off)
        if key in self._tried or trunk.skeleton.units:  # of sharded blocks no weight can be set aside
            return
        largest = self._builder.largest
        # Three examples, so that no other axis is likely to be as long by chance.
        chosen = [Setting({**settings[0], RANK: rank}) for rank in (largest, (largest + 1) // 2, 1)]
        with torch.no_grad(), random_state_kept(inputs):
            three = some_rows(inputs, 3)
            rows = [pick_inputs(three, slice(place, place + 1), size=3, strict=False) for place in range(3)]
            expected = []
            for setting, row in zip(chosen, rows, strict=True):
                alone = self._plain(setting)
                self._disturb(full, alone)
                expected.append(alone.module(*row[0], **row[1]))
            # Not compiled: what is traced for a trial would count among the graphs that training may have.
            top = Setting({**settings[0], RANK: largest})
            held = _Trunk(self._plain(top), self._builder, inner)
            readers = [] if inner is None else [_Reader(self._plain(one), inner) for one in chosen]
            for skeleton in (held.skeleton, *(reader.skeleton for reader in readers)):
                self._disturb(full, skeleton)
            try:
                found = _run(held, readers, chosen, rows)
            except Unshareable:
                raise
            except Exception as error:
                raise Unshareable(f"it fails so ({type(error).__name__}: {error})") from error
        if not all(equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True)):
            raise Unshareable("it gives something else than each of its sub-models")
        self._tried.add(key)

    def _disturb(self, full: nn.Module, skeleton: Skeleton) -> None:
        """Bind a skeleton, with noise for the adapter's weights, the same for the same name.

        It is as large as the activations: a large scaling must not turn rounding into a difference.
        """
        skeleton.bind(self._private, inference=True)
        scaling = {name: layer.scaling[self._builder.adapter] for name, layer in self._builder.layers(full).items()}
        for slot in skeleton.parameters:
            layer, _, part = slot.path.rpartition(".lora_")
            if layer in scaling:
                held = slot.full()
                generator = torch.Generator().manual_seed(zlib.crc32(slot.path.encode()))
                size = {"A": held[0].numel() ** 0.5, "embedding_A": 1.0}.get(part.partition(".")[0])
                size = size or held[0].numel() ** 0.5 * abs(scaling[layer]) or 1.0
                noise = torch.randn(held.shape, generator=generator) / size
                slot.put(slot.cut.of(noise.to(held)))


def _run(trunk: _Trunk, readers: Sequence[_Reader], settings: Sequence[Setting], inputs: Sequence[Inputs]) -> list[Any]:
    sizes = [size_of_inputs(one) for one in inputs]
    ranks = [int(setting[RANK]) for setting, size in zip(settings, sizes, strict=True) for _ in range(size)]
    joined = inputs[0] if len(inputs) == 1 else join_batch(inputs)
    parts = _parted(trunk.run(ranks, joined, bool(readers)), sizes)
    if not readers:
        return parts
    return [reader.read(part, own) for reader, part, own in zip(readers, parts, inputs, strict=True)]


def _parted(output: Any, sizes: Sequence[int]) -> list[Any]:
    """Part an output among the sub-models, along the first axis of its tensors."""
    leaves, structure = tree_flatten(output)
    parted = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.shape[:1] != (sum(sizes),):
            raise Unshareable(f"its output holds a tensor of shape {tuple(leaf.shape)} for {sum(sizes)} examples")
        parted.append(torch.split(leaf, list(sizes)) if isinstance(leaf, Tensor) else [leaf] * len(sizes))
    return [tree_unflatten([one[place] for one in parted], structure) for place in range(len(sizes))]


def _inner(full: Any) -> str | None:
    """Return the path of the model below the head of a Hugging Face model, if it has one."""
    base = base_of(full)
    prefix = getattr(base, "base_model_prefix", "")
    has_one = bool(prefix) and isinstance(getattr(base, prefix, None), nn.Module)
    return f"base_model.model.{prefix}" if has_one else None
