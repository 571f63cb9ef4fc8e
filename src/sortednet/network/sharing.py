"""Which sub-models share one forward, and that forward.

Nothing in a model's code says that its blocks run one after the other and that no more than what they return reaches
its head. So it is tried before an exit is first used: a few examples, with noise added behind every block (blocks that
begin as the identity would hide what is wrong), must give what they give in a forward of the sub-model alone.

Shapes: S sub-models get either the same B examples each, so that a forward of B rows is read S times; or parts of n_1
... n_S examples, which are joined to one batch of n_1 + ... + n_S rows, the deepest sub-model's first, and shrink on
the way.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import BuildError, SortedNetError
from ..imports.privates.torch import BatchNorm
from ..space import Setting, Space
from ..views.buffers import Private
from ..views.examples import Inputs, join_batch, size_of_inputs
from ..views.layouts import tensors_of
from ..views.options import Options
from ..views.outlines import outline
from ..views.skeletons import Skeleton, Skeletons
from .builders import Builder, SharedForward
from .cache_names import cache_among, uncached
from .exits import Reader, Trunk, block_list, disturbed, prefix_of, random_state_kept
from .trials import Axes, Scope, Unshareable, equal, some_rows

__all__ = ["Sharing"]

_TRIALS = threading.RLock()


@dataclass
class _Way:
    """What trying has shown of the exits of one list of blocks.

    Attributes:
        axes: Where the examples are.
        every: Whether an exit reads what every block returned, such as with shortcuts outside of the blocks.
        tried: The numbers of blocks that have been tried.
        whole: Whether each is read whole, as the model's own loss is not the one of the head.
        like: The exit that others are compared with, which must make the same of the same hidden states.
        problems: Why there are no exits, by the scope of the reason.
        warned: The scopes that have been warned of.
    """

    axes: Axes = field(default_factory=Axes)
    every: bool = False
    whole: bool = False
    like: Setting | None = None
    tried: set[int] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def refuse(self, scopes: Sequence[Scope]) -> None:
        """Raise what speaks against exits in any of the scopes."""
        for scope in scopes:
            if scope in self.problems:
                raise Unshareable(self.problems[scope], scope)


class Sharing:
    """Which sub-models of a network share one forward, and that forward.

    Args:
        build: The network's builder.
        space: Its settings.
        private: Its private tensors.
        prepared: Makes a new skeleton of a setting, compiled where the network is.
        plain: The same, never compiled.
        options: How the full model is set, by which it may take another way.

    Attributes:
        head: How exits are read in chunks; None to read them whole.
        gated: A way of the builder's own to share a forward; None where it has none.
    """

    def __init__(
        self,
        build: Builder,
        space: Space,
        private: Private,
        prepared: Callable[[Setting], Skeleton],
        plain: Callable[[Setting], Skeleton],
        options: Options,
    ) -> None:
        self.head: Any = None
        self._build, self._space, self._private = build, space, private
        self._prepared, self._plain = prepared, plain
        self._paths: dict[str, str] | None = None
        self._options = options
        self._ways: dict[tuple[str, Hashable], _Way] = {}
        self._parts = Skeletons()
        self.gated = build.shared_forward(private, prepared, plain)

    def forget(self) -> None:
        """Build all skeletons anew."""
        self._parts = Skeletons()
        if self.gated is not None:
            self.gated.forget()

    def exits(self, full: nn.Module) -> dict[str, str]:
        """Return the dimensions that only add blocks at the end of one list, with the path of that list."""
        if self._paths is None:
            self._paths = {}
            for name, support in self._space.supports.items():
                smaller = {**self._space.full, name: support.values[0]}
                if smaller == self._space.full:
                    continue
                try:
                    path = block_list(full, outline(self._build, Setting(smaller)))
                except BuildError:
                    continue  # a list of settings may have none that differs in this dimension alone
                if path is not None:
                    self._paths[name] = path
        return {
            name: path
            for name, path in self._paths.items()
            if "ever" not in self._way(path).problems and not self._is_private(full, path)
        }

    def _way(self, path: str) -> _Way:
        return self._ways.setdefault((path, self._options.state), _Way())

    def _is_private(self, full: nn.Module, path: str) -> bool:
        """Whether sub-models have tensors of their own in the blocks, so that they cannot share them."""
        private, prefix = self._private, prefix_of(path)
        if not private.patterns and private.policy == "shared" and not private.owners:
            return False
        inside = [name for name in tensors_of(full) if name.startswith(prefix)]
        parameters = {name for name, _ in full.named_parameters(remove_duplicate=False)}
        return (
            any(private.covers(name, name not in parameters) for name in inside)
            or (private.policy != "shared" and any(name not in parameters for name in inside))
            or any(name.startswith(prefix) for _, name in private.tensors())
        )

    def groups(
        self, full: nn.Module, settings: Sequence[Setting], kwargs: Mapping[str, Any], split: bool, inference: bool
    ) -> list[tuple[str | SharedForward | None, Sequence[int]]]:
        """Group settings that can share a forward.

        Args:
            full: The full model.
            settings: The settings.
            kwargs: Inputs of the model by name.
            split: Whether each has examples of its own.
            inference: Whether the forward is one in evaluation mode, whatever mode the network is in.

        Returns:
            The path of the blocks they share, or what runs their ranks in one forward, None if they share none; and
            the places of the settings.
        """
        alone: list[tuple[str | SharedForward | None, Sequence[int]]] = [(None, range(len(settings)))]
        if len(settings) < 2 or len(set(settings)) < len(settings) or _asks_for_more(full, kwargs):
            return alone
        if full.training and not inference and any(isinstance(module, BatchNorm) for module in full.modules()):
            return alone  # its statistics would be those of all sub-models' examples together
        ranks = self.gated.groups(settings) if self.gated is not None and split else []
        for name, path in self.exits(full).items():
            way = self._way(path)
            if any(scope in way.warned for scope in _scopes(full, split, inference)):
                continue
            if split and way.every:
                continue  # what goes on beside the blocks would go on with all examples
            groups: dict[Any, list[int]] = {}
            for place, setting in enumerate(settings):
                rest = tuple(value for other, value in setting.items() if other != name)
                groups.setdefault(rest, []).append(place)
            if len(groups) < len(ranks or settings):
                return [(path if len(group) > 1 else None, group) for group in groups.values()]
        if ranks and len(ranks) < len(settings):
            return [(self.gated if len(group) > 1 else None, group) for group in ranks]
        return alone

    def outputs(
        self,
        full: nn.Module,
        settings: Sequence[Setting],
        inputs: Sequence[Inputs],
        split: bool,
        weights: Sequence[float] | None,
        inference: bool,
        whole: bool,
        one_by_one: Callable[[Sequence[Setting], Sequence[Inputs]], list[Any]],
    ) -> Iterable[Any]:
        """Run several sub-models, those together that can share a forward.

        Args:
            full: The full model.
            settings: The sub-models.
            inputs: The inputs of each.
            split: Whether each has examples of its own.
            weights: In what proportion their losses will be added up; equal where left out.
            inference: Whether to run in evaluation mode, whatever mode the network is in.
            whole: Whether to read every exit whole, when it is asked for.
            one_by_one: Runs sub-models by themselves.

        Returns:
            The output of each, in a list; where they are read whole, as an iterator.
        """
        ways: dict[int, Iterator[Any]] = {}
        for path, group in self.groups(full, settings, inputs[0][1] if inputs else {}, split, inference):
            own = [settings[place] for place in group], [inputs[place] for place in group]
            found: Iterable[Any]
            if path is None:
                found = one_by_one(*own)
            else:
                shares = [1.0 if weights is None else weights[place] for place in group]
                found = self.run(full, path, *own, split, shares, inference, whole, partial(one_by_one, *own))
            ways |= dict.fromkeys(group, iter(found))
        outputs = (next(ways[place]) for place in range(len(settings)))
        return outputs if whole else list(outputs)

    def run(
        self,
        full: nn.Module,
        path: str | SharedForward,
        settings: Sequence[Setting],
        inputs: Sequence[Inputs],
        split: bool,
        weights: Sequence[float],
        inference: bool,
        whole: bool,
        alone: Callable[[], list[Any]],
    ) -> Iterable[Any]:
        """Run sub-models that differ in depth alone in one forward of the deepest, or in rank alone behind gates.

        Where it turns out that they share no forward, a warning says so once, and they run one by one.

        Args:
            full: The full model.
            path: The blocks they share, or what runs their ranks in one forward.
            settings: The sub-models.
            inputs: The inputs of each of the S sub-models: (B, ...) where they are the same, (n_s, ...) where they are
                parts of a batch.
            split: Whether each has examples of its own.
            weights: In what proportion their losses will be added up. S numbers.
            inference: Whether to run in evaluation mode, whatever mode the network is in.
            whole: Whether to read every exit whole, when it is asked for.
            alone: Runs them one by one.

        Returns:
            Their S outputs, each of as many rows as its inputs.
        """
        if not isinstance(path, str):
            found = path.run(full, settings, inputs, inference)
            return alone() if found is None else found
        way, scopes, tried, problem = self._way(path), _scopes(full, split, inference), False, ""
        fixed = uncached(self._build.inner(full).forward)  # an exit has no keys and values of its own
        inputs = [(args, {**fixed, **kwargs}) for args, kwargs in inputs]
        try:
            readers, trunk = self._made(full, way, path, settings, inputs[0])
            tried = True
            way.refuse(scopes)
            if not (split and way.every):
                return self._read(way, readers, trunk, inputs, split, weights, inference, whole)
        except SortedNetError:
            raise
        except Unshareable as reason:
            # What has been tried, in evaluation, and fails only now does so in training.
            late = reason.scope == "ever" and tried and "training" in scopes
            self._give_up(full, way, "training" if late else reason.scope, str(reason))
        except Exception as error:  # of the model: its own, or because something stands in for its blocks
            problem = f"it fails where they share its blocks ({type(error).__name__}: {error})"
        outputs = alone()  # first, so that an error of the model's own is the caller's to see
        if problem:
            scope: Scope = next((one for one in ("parts", "training") if tried and one in scopes), "ever")
            self._give_up(full, way, scope, problem)
        return outputs

    def _made(
        self, full: nn.Module, way: _Way, path: str, settings: Sequence[Setting], inputs: Inputs
    ) -> tuple[list[Reader], Trunk]:
        """Return what reads each of the exits, and what runs the blocks of the deepest, after trying what is new.

        Raises:
            Unshareable: If exits give something else than the sub-models.
        """
        readers: list[Reader] = [self._part(full, Reader, setting, path) for setting in settings]
        depths = {reader.blocks for reader in readers}
        if len(depths) < len(readers) or 0 in depths:
            raise Unshareable("what lies in its list does not run by itself")
        deepest = max(range(len(settings)), key=lambda place: readers[place].blocks)
        trunk: Trunk = self._part(full, Trunk, settings[deepest], path)
        if not way.tried.issuperset(depths):
            # One trial at a time: it puts the random state back, and another thread may have tried the same.
            with _TRIALS, torch.no_grad():
                untried = [reader for reader in readers if reader.blocks not in way.tried]
                if untried:
                    with random_state_kept(inputs):
                        self._try(full, way, path, trunk, untried, inputs)
        return readers, trunk

    def _read(
        self,
        way: _Way,
        readers: Sequence[Reader],
        trunk: Trunk,
        inputs: Sequence[Inputs],
        split: bool,
        weights: Sequence[float],
        inference: bool,
        whole: bool,
    ) -> Iterable[Any]:
        """Run the blocks once, and read what every sub-model makes of what they return."""
        order = sorted(range(len(readers)), key=lambda place: -readers[place].blocks)
        for skeleton in (trunk.skeleton, *(reader.skeleton for reader in readers)):
            skeleton.bind(self._private, inference)
        args, kwargs = join_batch([inputs[place] for place in order]) if split else inputs[0]
        found = trunk.run(
            {readers[place].blocks: size_of_inputs(inputs[place]) if split else None for place in order},
            args,
            kwargs,
            every=way.every,
            axes=way.axes if split else None,
        )
        values = [found[reader.blocks] for reader in readers]
        head = self.head  # which a trial in another thread may take away
        if head is not None and not whole and not way.whole and head.takes(args, kwargs, values):
            last, batches = [held[-1] for held in values], [one[1] for one in inputs]
            return list(head.losses(readers, last, batches, weights, self._private))
        read = (reader.read(held, *given) for reader, held, given in zip(readers, values, inputs, strict=True))
        return read if whole else list(read)

    def _give_up(self, full: nn.Module, way: _Way, scope: Scope, problem: str) -> None:
        """Keep in mind why there are no exits, and say it once."""
        way.problems[scope] = problem
        way.warned.add(scope)
        where = {"ever": "", "parts": " for parts of a batch", "training": " in training"}[scope]
        warnings.warn(
            f"{type(full).__name__} has no exits{where}: {problem}. Its sub-models run one by one, with the same "
            "results in more time.",
            stacklevel=3,
        )

    def _part(self, full: nn.Module, kind: type[Any], setting: Setting, path: str) -> Any:
        found = self._parts.get((kind, setting, path), full)
        if found is None:
            found = kind(self._prepared(setting), path)
            self._parts.keep((kind, setting, path), found.skeleton, found)
        return found

    def _try(
        self, full: nn.Module, way: _Way, path: str, trunk: Trunk, readers: Sequence[Reader], inputs: Inputs
    ) -> None:
        """Compare exits with forwards of the sub-models alone.

        Raises:
            Unshareable: If they differ.
        """
        inputs = self._build.brief(inputs)
        two, three = (some_rows(inputs, count) for count in (2, 3))
        own: dict[int, Any] = {}
        for reader in readers:
            alone = self._plain(reader.skeleton.setting)
            alone.bind(self._private, inference=True)
            own[reader.blocks] = disturbed(alone, path, *two)
        for skeleton in (trunk.skeleton, *(reader.skeleton for reader in readers)):
            skeleton.bind(self._private, inference=True)
        fewer: list[dict[str, Any]] = []
        more: list[dict[str, Any]] = []
        leaving = dict.fromkeys(own)
        try:
            values = trunk.run(leaving, *two, every=True, disturbed=True, record=fewer)
            trunk.run(leaving, *three, every=True, disturbed=True, record=more)
            for reader in readers:
                held, expected = values[reader.blocks], own[reader.blocks]
                if equal(reader.read(held[-1:], *two), expected):
                    continue
                if not equal(reader.read(held, *two), expected):
                    raise Unshareable(f"after {reader.blocks} of its blocks it gives something else than its sub-model")
                way.every = True
                if reader.draws(held, *two):
                    way.problems["training"] = "it draws random numbers between its blocks"
        except Unshareable:
            raise
        except Exception as error:
            raise Unshareable(f"it fails without its blocks ({type(error).__name__}: {error})") from error
        try:
            way.axes.learn(fewer, more)
        except Unshareable as reason:
            way.problems[reason.scope] = str(reason)
        way.like = way.like or readers[0].skeleton.setting
        like: Reader = self._part(full, Reader, way.like, path)
        like.skeleton.bind(self._private, inference=True)
        if self.head is not None and not all(
            self.head.agrees(reader, values[reader.blocks][-1], inputs[1], self._private, like) for reader in readers
        ):
            way.whole = True
            self.head = self.head if self._options.state else None
        way.tried.update(own)


def _scopes(full: nn.Module, split: bool, inference: bool) -> list[Scope]:
    """Return the scopes that a forward belongs to."""
    trains = full.training and not inference
    found: list[Scope] = ["ever"]
    return found + (["parts"] if split else []) + (["training"] if trains else [])


def _asks_for_more(full: nn.Module, kwargs: Mapping[str, Any]) -> bool:
    """Whether a forward is to return what lies inside of the blocks, or to go on from it."""
    config = getattr(full, "config", None)
    return (
        any(kwargs.get(name, getattr(config, name, False)) for name in ("output_hidden_states", "output_attentions"))
        or bool(kwargs.get("use_cache"))
        or cache_among(kwargs) is not None
    )
