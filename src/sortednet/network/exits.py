"""Exits: predictions at several depths from one forward.

Where a dimension only adds blocks at the end of one list, all its sub-models share their first blocks. So the blocks of
the deepest run once (`Trunk`), what they return is kept on the way, and every exit is read by its own sub-model with
stand-ins for its blocks that return what was kept (`Reader`): its own final norm, head and loss, exactly.

A model may call what lies inside of an entry of its list instead, where the entry is a list or a dictionary of modules
that runs nothing by itself. So a block is, in what follows, whatever runs: such an entry holds several.

Shapes: with B examples of T positions and width W, a block of a transformer takes and returns hidden states of shape
(B, T, W), and a block of a convolutional network features of shape (B, C, H, W). Where parts of a batch leave at
exits, the examples that go deepest come first: behind an exit at which n of B leave, what goes on has shape (B - n,
T, W), and what the exit reads, the last n rows, has shape (n, T, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..imports.privates.torch import (
    RunningNorm,
    children_of,
    is_checkpointed,
    tree_flatten,
    tree_map_with_path,
    tree_unflatten,
)
from ..views.compilation import uncompile
from ..views.forwards import runs
from ..views.hooks import put, take
from ..views.layouts import tensors_of
from ..views.skeletons import Skeleton
from .trials import Axes, Unshareable

__all__ = ["Kept", "Reader", "Trunk", "block_list", "disturbed", "prefix_of", "random_state_kept"]


def block_list(full: nn.Module, small: nn.Module) -> str | None:
    """Find the list of blocks that is all in which a shallower model differs from the full one.

    Args:
        full: The full model.
        small: The same class with a smaller value of one dimension.

    Returns:
        The path of the `ModuleList`, `Sequential` or `ModuleDict` whose first blocks are the shallower model's, empty
        for the model itself; None where the dimension changes anything else.
    """
    theirs, ours = tensors_of(full), tensors_of(small)
    if any(name not in theirs or theirs[name].shape != tensor.shape for name, tensor in ours.items()):
        return None
    found: list[str] = []
    for path, module in full.named_modules():
        inside = any(path.startswith(prefix_of(one)) for one in found)
        if isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict)) and not inside:
            try:
                other = small.get_submodule(path)
            except AttributeError:
                continue
            if len(children_of(other)) != len(children_of(module)):
                found.append(path)
    if len(found) != 1:
        return None
    kept = len(children_of(small.get_submodule(found[0])))
    names = list(children_of(full.get_submodule(found[0])))[kept:]
    dropped = tuple(f"{prefix_of(found[0])}{name}." for name in names)
    return found[0] if all(name in ours or name.startswith(dropped) for name in theirs) and kept else None


def prefix_of(path: str) -> str:
    """Return what the names of all inside a module begin with."""
    return f"{path}." if path else ""


class _Stop(Exception):  # noqa: N818
    """Ends the forward behind the last exit; nothing is left to compute."""


class _Unknown(Exception):  # noqa: N818
    """The blocks take something of which is not known where its examples are."""


@dataclass(frozen=True)
class _Place:
    """Where a block is held.

    Attributes:
        holder: The module that holds it: the list, or what lies in it.
        name: Its name there.
        path: Its full name in the model.
        block: The block.
        entry: The number of the list's entry that it is, or lies in.
    """

    holder: nn.Module
    name: str
    path: str
    block: nn.Module
    entry: int


def _places(module: nn.Module, path: str) -> list[_Place]:
    """Find the blocks of a list: its entries, or what runs inside of those that run nothing by themselves."""
    found: list[_Place] = []

    def look(holder: nn.Module, prefix: str, entry: int | None) -> None:
        for place, (name, inner) in enumerate(children_of(holder).items()):
            if inner is None:
                continue
            number = place if entry is None else entry
            if runs(inner):
                found.append(_Place(holder, name, f"{prefix}{name}", inner, number))
            else:
                look(inner, f"{prefix}{name}.", number)

    look(module.get_submodule(path), prefix_of(path), None)
    return found


@dataclass
class _Run:
    """One forward of a trunk.

    Attributes:
        entries: By block, the entry of the list that it belongs to; blocks of one entry may run in any order.
        leaving: By number of blocks, how many examples leave behind them; None if all leave and go on.
        axes: Where the examples are, if some leave for good.
        every: Whether to keep what every block returns, not only the last one before an exit.
        disturbed: Whether to add noise to what every block returns.
        record: Where to put what every block takes and returns, if anywhere.
        sizes: The numbers of examples that there have been so far, the present one last.
        kept: By block, what it returned.
        ends: By number of blocks, what was returned behind them.
        ran: The blocks that have run.
    """

    entries: Sequence[int]
    leaving: Mapping[int, int | None] = field(default_factory=dict)
    axes: Axes | None = None
    every: bool = False
    disturbed: bool = False
    record: list[dict[str, Any]] | None = None
    only_first: bool = False
    sizes: list[int] = field(default_factory=list)
    kept: dict[int, Any] = field(default_factory=dict)
    ends: dict[int, Any] = field(default_factory=dict)
    ran: set[int] = field(default_factory=set)

    def enter(self, index: int) -> None:
        """Refuse a block whose turn it is not."""
        count = len(self.ran)
        if index in self.ran or count >= len(self.entries) or self.entries[index] != self.entries[count]:
            raise Unshareable(f"it runs block {index} where block {count} is next")

    def call(self, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block, and return what goes on."""
        self.enter(index)
        if is_checkpointed(Trunk._call):
            raise Unshareable("it calls its blocks inside of torch.utils.checkpoint; let the blocks call it")
        if self.record is not None:
            self.record.append({"args": args, "kwargs": kwargs})
            if self.only_first:
                raise _Stop
        if self.axes is not None and not self.ran and self.axes.unknown(args=args, kwargs=kwargs):
            raise _Unknown
        if self.axes is not None and len(self.sizes) > 1:
            args, kwargs = (
                self.axes.rows(place, given, self.sizes, 0, self.sizes[-1])
                for place, given in (("args", args), ("kwargs", kwargs))
            )
        output = block(*args, **kwargs)
        if self.disturbed:
            output = _disturb(output, index)
        if self.record is not None:
            self.record[-1]["output"] = output
        self.ran.add(index)
        count = len(self.ran)
        if self.every:
            self.kept[index] = output
        if count in self.leaving:
            self.ends[count] = output
        if count == max(self.leaving):
            raise _Stop
        leave = self.leaving.get(count)
        if leave is None or self.axes is None:
            return output
        self.sizes.append(self.sizes[-1] - leave)
        return self.axes.rows("output", output, self.sizes, 0, self.sizes[-1])

    def found(self) -> dict[int, list[Any]]:
        """Return what each exit reads: by its number of blocks, what was kept of them for its examples."""
        found = {}
        end = self.sizes[0] if self.sizes else 0
        for blocks in sorted(self.leaving):
            held = [self.kept[index] for index in range(blocks)] if self.every else []
            held.append(self.ends[blocks])
            count = self.leaving[blocks]
            if count is not None and self.axes is not None:
                held = [self.axes.rows("output", one, self.sizes, end - count, end) for one in held]
                end -= count
            found[blocks] = held
        return found


def _uncompile(module: nn.Module, path: str) -> None:
    """Let all that lies around a list of blocks run as it is written; the blocks stay compiled."""
    parts = path.split(".") if path else []
    for place in range(len(parts) + 1):
        uncompile(module.get_submodule(".".join(parts[:place])))


def disturbed(skeleton: Skeleton, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return a sub-model's own output with noise behind each of its blocks; nothing stands in their places.

    Args:
        skeleton: A skeleton of the sub-model, not compiled and for this alone.
        path: Its list of blocks.
        args: Inputs of the model. Shapes (B, ...).
        kwargs: The same by name.

    Raises:
        Unshareable: If it does not run its blocks one after the other.
    """
    places = _places(skeleton.module, path)
    run = _Run([place.entry for place in places])
    turns: dict[nn.Module, list[int]] = {}  # a block may stand in several places
    for index, place in enumerate(places):
        turns.setdefault(place.block, []).append(index)

    def behind(block: nn.Module, _: Any, output: Any) -> Any:
        index = next((one for one in turns[block] if one not in run.ran), turns[block][0])
        run.enter(index)
        run.ran.add(index)
        return _disturb(output, index)

    for block in turns:
        own = take(block)
        block.register_forward_hook(behind)
        for hook in own:
            put(block, hook)
    output = skeleton.module(*args, **kwargs)
    if len(run.ran) != len(places):
        raise Unshareable(f"it ran {len(run.ran)} blocks of its list and not {len(places)}")
    return output


def _disturb(output: Any, index: int) -> Any:
    """Add noise as large as the values to the first tensor, the same for the same block and shape."""
    leaves, structure = tree_flatten(output)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(index))
            scale = leaf.float().std(unbiased=False)
            leaves[place] = leaf + (noise.to(leaf.device) * torch.where(scale > 0, scale, 1.0)).to(leaf.dtype)
            break
    return tree_unflatten(leaves, structure)


class _StandIn(nn.Module):
    """Stands in a block's place; a model that reads the block's attributes, or asks for its class, finds them."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "_like", like)  # no part of this one

    @property
    def __class__(self) -> type[Any]:  # models tell kinds of blocks by `isinstance`
        return type(self.__dict__["_like"]) if "_like" in self.__dict__ else type(self)

    @__class__.setter
    def __class__(self, kind: type[Any]) -> None:
        raise TypeError("What stands in a block's place has its class.")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # such as `attention_type`
            return getattr(self.__dict__["_like"], name)


class _Tap(_StandIn):
    """Calls the block as part of a trunk's run.

    It lies outside of the block's activation checkpointing, so that what it keeps is part of the graph, and recomputing
    a block calls no tap.
    """

    def __init__(self, block: nn.Module, index: int, run: Callable[[], _Run]) -> None:
        super().__init__(block)
        take(block)  # each exit's reader has its own
        self._block, self._index, self._of_run = block, index, run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._of_run().call(self._index, self._block, args, kwargs)


class Trunk:
    """The blocks of the deepest of several sub-models, to be run once for all of them.

    Args:
        skeleton: A skeleton of the deepest sub-model, for this alone.
        path: Its list of blocks.
    """

    def __init__(self, skeleton: Skeleton, path: str) -> None:
        self.skeleton = skeleton
        _uncompile(skeleton.module, path)
        places = _places(skeleton.module, path)
        self._entries = [place.entry for place in places]
        self._run = _Run(self._entries)
        for index, place in enumerate(places):
            place.holder.register_module(place.name, _Tap(place.block, index, lambda: self._run))

    def run(
        self,
        leaving: Mapping[int, int | None],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        every: bool = False,
        axes: Axes | None = None,
        disturbed: bool = False,
        record: list[dict[str, Any]] | None = None,
    ) -> dict[int, list[Any]]:
        """Run the blocks up to the last exit.

        Args:
            leaving: By number of blocks, how many examples leave behind them, the last ones of the batch first; None if
                all leave and go on. The counts add up to B.
            args: Inputs of the model, examples that go deepest first. Shapes (B, ...).
            kwargs: The same by name.
            every: Whether to return what every block returned.
            axes: Where the examples are; needed where they leave.
            disturbed: Whether to add noise to what every block returns.
            record: Where to put what every block takes and returns, if anywhere.

        Returns:
            By number of blocks, what the last of them returned, for the n examples that leave: a list of one value; or
            before it what each of them returned, in the order of the list. Their tensors have shapes (n, ...),
            (B, ...) where all leave and go on.

        Raises:
            Unshareable: If the model does not run its blocks one after the other.
        """
        sizes = [sum(count or 0 for count in leaving.values())] if axes is not None else []
        run = _Run(self._entries, leaving, axes, every, disturbed, record, sizes=sizes)
        random_states = _random_states(args, kwargs) if axes is not None else {}
        try:
            self._call(run, args, kwargs)
        except _Stop:
            self.skeleton.write_back()
            return run.found()
        except _Unknown:
            assert axes is not None
            for device, state in random_states.items():  # what comes before the blocks draws once for a batch
                torch.set_rng_state(state) if device.type == "cpu" else torch.cuda.set_rng_state(state, device)
            axes.learn(self._first(args, kwargs), self._first(*_one_more(args, kwargs, sizes[0])))
            return self.run(leaving, args, kwargs, every=every, axes=axes, disturbed=disturbed, record=record)
        raise Unshareable(f"it ran {len(run.ran)} blocks of its list and not {max(leaving)}")

    def _first(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what the first block takes; no block runs."""
        record: list[dict[str, Any]] = []
        with torch.no_grad(), random_state_kept(args, kwargs), suppress(_Stop):
            self._call(_Run(self._entries, record=record, only_first=True), args, kwargs)
        return record

    def _call(self, run: _Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._run = run
        try:
            return self.skeleton.module(*args, **kwargs)
        finally:
            self._run = _Run(self._entries)


def _random_states(*inputs: Any) -> dict[torch.device, Tensor]:
    """Return the states of the generators of the CPU and of where the inputs are."""
    devices = {leaf.device for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor) and leaf.is_cuda}
    return {torch.device("cpu"): torch.get_rng_state()} | {one: torch.cuda.get_rng_state(one) for one in devices}


@contextmanager
def random_state_kept(*inputs: Any) -> Iterator[None]:
    """Leave the random state of the caller as it was, on the CPU and where the inputs are."""
    devices = {leaf.device for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor) and leaf.is_cuda}
    with torch.random.fork_rng(devices=[one.index for one in devices]):
        yield


def _one_more(args: Sequence[Any], kwargs: Mapping[str, Any], batch: int) -> Any:
    """Return the inputs with the first example once more."""
    return tree_map_with_path(
        lambda _, one: torch.cat([one, one[:1]]) if isinstance(one, Tensor) and one.shape[:1] == (batch,) else one,
        (tuple(args), dict(kwargs)),
    )


class Kept(_StandIn):
    """Returns what the block returned before."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__(like)
        self.value: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.value


class Reader:
    """A sub-model without its blocks: what it makes of what they return.

    Args:
        skeleton: A skeleton of the sub-model, for this alone.
        path: Its list of blocks.

    Attributes:
        blocks: How many blocks the sub-model has.
    """

    def __init__(self, skeleton: Skeleton, path: str) -> None:
        self.skeleton = skeleton
        _uncompile(skeleton.module, path)
        self._kept = []
        inside: list[str] = []
        hooks: list[Any] = []
        for place in _places(skeleton.module, path):
            self._kept.append(Kept(place.block))
            hooks = take(place.block)
            place.holder.register_module(place.name, self._kept[-1])
            inside.append(f"{place.path}.")
        for hook in hooks:
            put(self._kept[-1], hook)
        self.blocks = len(self._kept)
        within = tuple(inside)
        skeleton.keep_only(lambda name: not name.startswith(within))

    def read(self, values: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the sub-model's output.

        Args:
            values: What the last block returned, and before it what each returned or nothing. Hidden states of shape
                (n, T, W).
            args: Inputs of the model, for the n examples of the values. Shapes (n, ...).
            kwargs: The same by name.
        """
        for place, kept in enumerate(self._kept):
            kept.value = values[place] if len(values) > 1 else values[-1]
        try:
            return self.skeleton.module(*args, **kwargs)
        finally:
            for kept in self._kept:
                kept.value = None
            self.skeleton.write_back()

    def draws(self, values: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the model draws random numbers in training before its last block, outside of its blocks."""
        device = next(
            (leaf.device for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor) and leaf.is_cuda), None
        )

        def state() -> Tensor:
            drawn = torch.get_rng_state()
            return drawn if device is None else torch.cat([drawn, torch.cuda.get_rng_state(device)])

        found: list[Tensor] = []
        handle = self._kept[-1].register_forward_pre_hook(lambda *_: found.append(state()))
        for module in self.skeleton.module.modules():
            module.training = not isinstance(module, RunningNorm)  # whose statistics must not move
        before = state()
        try:
            self.read(values, args, kwargs)
        finally:
            handle.remove()
        return any(not torch.equal(before, after) for after in found)
