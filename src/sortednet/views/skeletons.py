"""Corner views: build the class smaller without memory, and let it look at the corner of the full weights.

Shapes: a full weight of shape (O, I) gives a sub-model whose own layer is (o, i) the view `full[:o, :i]`, of shape
(o, i), strides and storage of the full one. A fused axis of several blocks, such as (3 H, W) of queries, keys and
values, gives the first rows of each block, joined to (3 h, w): a copy for each forward, whose gradient lands in the
full weight again.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from ..errors import BuildError
from ..imports.privates.torch import RunningNorm, buffers_of, parameters_of
from ..imports.privates.transformers import CHECKPOINTING
from ..space import Setting
from .batches import map_tensors
from .buffers import Private, estimate_statistics
from .cut import Cut
from .cuts import Cuts
from .forwards import GIVEN_BLOCK, take_forward
from .hooks import follow, take
from .layouts import tensors_of
from .likeness import Snapshot
from .options import Options
from .outlines import is_quantised, outline
from .slots import Slot, bind_slot

__all__ = ["ShardedBlock", "Skeleton", "Skeletons", "Slot", "build_skeleton"]

_ITERATIONS = 30  # of a power iteration that begins anywhere


class Skeleton:
    """A sub-model without memory: the class built at a setting, every parameter a slot to bind a view to.

    It belongs to one setting for life. Binding always binds the same places, so that binding again, in any order and
    from any sub-model, changes nothing.

    Attributes:
        setting: The setting it was built at.
        module: The model of the user's own class.
        shared: Names of the tensors of quantised modules, which are the full model's own.
    """

    def __init__(
        self, setting: Setting, module: nn.Module, full: nn.Module, cuts: Cuts, options: Options | None = None
    ) -> None:
        self.setting = setting
        self.module = module
        self._full = full
        self._follower = None if options is None else options.follower(module, setting)
        where, self._undecided = cuts.of(setting, full, module)
        sources = dict(full.named_modules(remove_duplicate=False))
        stored = tensors_of(full).keys()
        self.parameters: list[Slot] = []
        self.buffers: list[Slot] = []
        self.units: list[ShardedBlock] = []
        self._own_buffers: list[tuple[nn.Module, str, nn.Module]] = []
        self._iterated: list[tuple[nn.Module, str, str]] = []
        self._cuts, self._version = cuts, cuts.version
        self._bound: list[tuple[Slot, Tensor, int | None]] = []  # with the version of what is a copy
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self.shared: set[str] = set()
        for prefix, target in module.named_modules(remove_duplicate=False):
            source = sources.get(prefix, full)
            if target is source and is_quantised(target):
                # It is more than its numbers, and nothing of it is cut.
                self.shared |= {f"{prefix}.{name}" for name in (*parameters_of(target), *buffers_of(target))}
                continue
            if target is source:
                raise BuildError(
                    f"{prefix or 'The model'} is the same module at every call of the builder. Make new modules at "
                    "each call, so that a sub-model has its own."
                )
            if getattr(target, "sparse", False) is True:  # as those of torch call it
                raise BuildError(
                    f"{prefix or type(target).__name__} makes sparse gradients, which no view of its weights can take. "
                    "Make it with sparse=False."
                )
            self._pairs.append((target, source))
            take_forward(target, source, prefix)
            for name, parameter in parameters_of(target).items():
                if parameter is not None:
                    path = f"{prefix}.{name}" if prefix else name
                    self.parameters.append(Slot(target, name, source, path, where[path], id(parameter)))
            for name, buffer in buffers_of(target).items():
                if buffer is None:
                    continue
                path = f"{prefix}.{name}" if prefix else name
                if path in where and (
                    isinstance(target, RunningNorm) or cuts.follows(setting, path, buffer, where[path], path in stored)
                ):
                    self.buffers.append(Slot(target, name, source, path, where[path], id(buffer), is_buffer=True))
                else:
                    self._own_buffers.append((target, name, source))
                    if path in cuts.iterated:
                        self._iterated.append((target, name, path))
        self._iterating = [one for one in self._iterated if (setting, one[2]) not in cuts.rested]
        for target, name, path in self._iterated:
            buffers_of(target)[name] = cuts.rested.get((setting, path), buffers_of(target)[name])
        for path, unit in _sharded_units(full):
            parent, _, leaf = path.rpartition(".")
            block = _submodule(module, path)
            if block is not None:
                inside = [slot for slot in self.parameters if slot.path.startswith(f"{path}.")]
                self.parameters = [slot for slot in self.parameters if not slot.path.startswith(f"{path}.")]
                self.units.append(ShardedBlock(setting, unit, block, inside))
                module.get_submodule(parent).register_module(leaf, self.units[-1])
        self._seen = Snapshot([full, *(source for _, source in self._pairs)])
        self.follow()

    def slots(self) -> Iterator[tuple[str, Cut]]:
        """Yield the full name and the cut of every parameter."""
        for slot in (*self.parameters, *(slot for unit in self.units for slot in unit.slots)):
            yield slot.path, slot.cut

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        """Bind only the tensors whose full names are wanted, where the others' modules have been removed."""
        self.parameters = [slot for slot in self.parameters if wanted(slot.path)]
        self.buffers = [slot for slot in self.buffers if wanted(slot.path)]
        present = set(self.module.modules())
        self._own_buffers = [one for one in self._own_buffers if one[0] in present]
        self._pairs = [one for one in self._pairs if one[0] in present]

    def fits(self, full: nn.Module) -> bool:
        """Whether the full model is the one that the slots look at, with the same modules and sizes there."""
        return self._version == self._cuts.version and self._full is full and self._seen.holds()

    def follow(self) -> None:
        """Let the module be set as the full model is now, in what is neither a weight nor a size."""
        if self._follower is not None:
            self._follower(self._full)

    def bind(self, private: Private, inference: bool = False) -> None:
        """Let every slot look at the full model's tensors as they are now.

        Args:
            private: Tensors that belong to this sub-model alone; they take the place of the corner.
            inference: Whether the module is to be in evaluation mode, whatever mode the full model is in.
        """
        self._refuse_undecided()
        self.follow()
        for slot in self.parameters:
            bind_slot(slot, private, self.setting)
        for unit in self.units:
            unit.private = private
        for target, source in self._pairs:
            training = source.training and not inference
            if target.training != training:  # to set an attribute of a module takes thirty times as long
                target.training = training
            follow(target, source)
            _checkpoint_as(target, source)
        for unit in self.units:  # the sharded block is checkpointed itself
            if "gradient_checkpointing" in unit.block.__dict__:
                unit.block.__dict__["gradient_checkpointing"] = False
        self._bind_buffers(private)
        if self._iterating:
            self._settle()

    def _refuse_undecided(self) -> None:
        """Refuse to look at the full weights before it is known where.

        Raises:
            LayoutError: If so.
        """
        if self._undecided is not None:
            raise self._undecided

    def _settle(self) -> None:
        """Let vectors that follow from the weights alone come to rest, before the sub-model is first used."""
        iterating, self._iterating = self._iterating, []
        if self._cuts.example is None:
            return
        like = next(iter(self.module.parameters()), None)
        device = torch.device("cpu") if like is None else like.device
        args, kwargs = map_tensors(
            # What the inputs are does not matter to what follows from the weights alone.
            lambda one: torch.zeros_like(one, device=device) if one.is_meta else one.to(device),
            self._cuts.example,
        )
        modes = [(one, one.training) for one in self.module.modules()]
        for one, _ in modes:
            one.training = any(one is owner for owner, *_ in iterating)
        try:
            with torch.no_grad():
                for _ in range(_ITERATIONS):
                    self.module(*args, **kwargs)
        finally:
            for one, mode in modes:
                one.training = mode
        for owner, name, path in iterating:
            self._cuts.rested[self.setting, path] = owner.get_buffer(name)

    def write_back(self) -> None:
        """Give the full model the buffers that the forward has replaced, or changed in a copy of several pieces."""
        for slot, bound, version in self._bound:
            now = slot.held()
            if now is None:
                continue
            # In training always: the kernels of norms change their statistics without counting it.
            changed = version is not None and (slot.module.training or version != now._version)
            if now is not bound or changed:
                with torch.no_grad():
                    bound.copy_(now) if version is None else slot.cut.write(slot.full(), now)

    def freeze(self, private: Private) -> nn.Module:
        """Make the skeleton an ordinary module for inference, whose parameters share the full model's storage.

        A fused parameter that is cut in several pieces cannot be one view; it is put together each time it
        is read, and dropped.

        Returns:
            The module, in evaluation mode, its parameters without gradients.
        """
        self._refuse_undecided()
        tied: dict[int, nn.Parameter] = {}
        for slot in self.parameters:
            own = private.find(self.setting, slot.path)
            if own is None and not slot.cut.is_view:
                slot.put(nn.Parameter(slot.full().detach(), requires_grad=False))
                register_parametrization(slot.module, slot.name, _Gather(slot.cut), unsafe=True)
                continue
            if slot.tie not in tied:
                held = slot.cut.of(slot.full()) if own is None else own
                tied[slot.tie] = nn.Parameter(held.detach(), requires_grad=False)
            slot.put(tied[slot.tie])
        self.module.eval()
        self._bind_buffers(private)
        if self._iterating:
            self._settle()
        return self.module

    def copy(self, private: Private) -> nn.Module:
        """Make the skeleton an independent model with tensors of its own, in the full model's training mode."""
        self._refuse_undecided()

        def read(slot: Slot, held: Tensor) -> Tensor:
            own = private.find(self.setting, slot.path)
            part = slot.cut.of(held) if own is None else own
            return part.detach().clone(memory_format=torch.contiguous_format)

        module = self.fill(read)
        for target, source in self._pairs:
            target.training = source.training
            _checkpoint_as(target, source)
        if self._iterating:
            self._settle()
        for target, name, _ in self._iterated:  # of its own from here on
            buffers_of(target)[name] = target.get_buffer(name).clone()
        return module

    def fill(self, read: Callable[[Slot, Tensor], Tensor]) -> nn.Module:
        """Make the skeleton an independent model.

        Args:
            read: Returns the new tensor of a slot, given the slot and the full model's tensor.

        Returns:
            The module, its parameters and persistent buffers as read; tied parameters stay tied.
        """
        tied: dict[int, nn.Parameter] = {}
        for slot in self.parameters:
            if slot.tie not in tied:
                held = slot.full()
                tied[slot.tie] = nn.Parameter(read(slot, held), held.requires_grad)
            slot.put(tied[slot.tie])
        for slot in self.buffers:
            slot.put(read(slot, slot.full()))
        self._place_own_buffers()
        return copy.deepcopy(self.module) if self.shared else self.module

    def measure(self, private: Private, batches: Iterable[Any]) -> dict[str, Tensor]:
        """Return the running statistics of the sub-model, measured anew on batches of inputs."""
        self.bind(private)
        for slot in self.buffers:
            slot.put(slot.module.get_buffer(slot.name).clone())
        estimate_statistics(self.module, batches)
        return {slot.path: slot.module.get_buffer(slot.name) for slot in self.buffers}

    def own_tensors(self, private: Private) -> dict[str, Tensor]:
        """Return copies of the corners that are to belong to this sub-model alone."""
        self._refuse_undecided()
        own: dict[str, Tensor] = {}
        for slot in (*self.parameters, *self.buffers):
            if private.covers(slot.path, slot.is_buffer):
                source = slot.full()
                part = slot.cut.of(source).detach().clone()
                own[slot.path] = part if slot.is_buffer else nn.Parameter(part, source.requires_grad)
        return own

    def _bind_buffers(self, private: Private) -> None:
        self._bound = []
        for slot in self.buffers:
            own = private.find(self.setting, slot.path, training=slot.module.training)
            bound = slot.cut.of(slot.full()) if own is None else own
            if own is not None and slot.module.training:
                private.remember(own)
            slot.put(bound)
            is_copy = own is None and not slot.cut.is_view and not bound.is_inference()
            self._bound.append((slot, bound, bound._version if is_copy else None))
        self._place_own_buffers()

    def _place_own_buffers(self) -> None:
        """Move the buffers that the skeleton computed itself to where the full model is."""
        for module, name, source in self._own_buffers:
            buffer, like = buffers_of(module)[name], buffers_of(source).get(name)
            if like is None:
                like = next(iter(source.parameters()), None)
            if buffer is not None and like is not None:
                dtype = like.dtype if buffer.is_floating_point() == like.is_floating_point() else buffer.dtype
                buffers_of(module)[name] = buffer.to(buffer.device if like.is_meta else like.device, dtype)


def _checkpoint_as(target: nn.Module, source: nn.Module) -> None:
    """Let a module checkpoint activations as the full model's does: it is switched like the mode."""
    for name in CHECKPOINTING:
        if name in source.__dict__:
            target.__dict__[name] = source.__dict__[name]


class ShardedBlock(nn.Module):
    """Stands in a skeleton for a block whose parameters are gathered for its own forward only (FSDP2 per block).

    The full block is called, so that its parameters are gathered and freed as ever. What it runs is the skeleton's
    block, given to it for this call, with the corners of the parameters it has just gathered.

    Args:
        setting: The sub-model.
        unit: The full model's block.
        block: The skeleton's.
        slots: The skeleton's parameters in it.
    """

    private: Private

    def __init__(self, setting: Setting, unit: nn.Module, block: nn.Module, slots: Iterable[Slot]) -> None:
        super().__init__()
        self.block, self.slots, self.setting = block, list(slots), setting
        object.__setattr__(self, "unit", unit)  # not a part of the skeleton
        object.__setattr__(self, "private", None)
        take(unit)  # the skeleton's block has its own
        if GIVEN_BLOCK not in unit.__dict__:
            object.__setattr__(unit, GIVEN_BLOCK, True)
            object.__setattr__(unit, "forward", _running_given_block(unit.forward))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "private":  # a module too, of the network
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models read attributes of their blocks, such as `attention_type`
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.unit(*args, given_block=self._run, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        for slot in self.slots:
            bind_slot(slot, self.private, self.setting)
        return self.block(*args, **kwargs)


def _running_given_block(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, given_block: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
        return (own if given_block is None else given_block)(*args, **kwargs)

    return forward


def _sharded_units(full: nn.Module) -> list[tuple[str, nn.Module]]:
    """Find the outermost blocks below the full model that FSDP2 shards on their own."""
    found: list[tuple[str, nn.Module]] = []
    for path, module in full.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        if path and not inside and any(one.__name__ == "FSDPModule" for one in type(module).__mro__):
            found.append((path, module))
    return found


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


class _Gather(nn.Module):
    """Puts a fused parameter together from the pieces of the full one, each time it is read."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, full: Tensor) -> Tensor:
        return self.cut.of(full)


class Skeletons(threading.local):
    """The skeletons used last. Each thread has its own, so that threads cannot rebind each other's.

    A skeleton takes half a megabyte of modules or so; those of a large space would not fit, and are built again in
    milliseconds.
    """

    most = 512

    def __init__(self) -> None:
        self._of: OrderedDict[Any, tuple[Skeleton, Any]] = OrderedDict()

    def get(self, key: Any, full: nn.Module) -> Any:
        """Return what is held for a key, if its skeleton still fits the full model."""
        found = self._of.get(key)
        if found is None or not found[0].fits(full):
            return None
        self._of.move_to_end(key)
        return found[1]

    def keep(self, key: Any, skeleton: Skeleton, value: Any) -> None:
        """Hold what was made of a skeleton; what was unused for longest goes where there is too much."""
        self._of[key] = skeleton, value
        self._of.move_to_end(key)
        if len(self._of) > self.most:
            self._of.popitem(last=False)

    def __len__(self) -> int:
        return len(self._of)

    def __deepcopy__(self, memo: dict[int, Any]) -> Skeletons:
        return Skeletons()

    def __reduce__(self) -> tuple[Any, ...]:
        return Skeletons, ()


def build_skeleton(
    build: Callable[..., nn.Module], setting: Setting, full: nn.Module, cuts: Cuts, options: Options | None = None
) -> Skeleton:
    """Build the model at a setting without memory for its parameters.

    Args:
        build: Makes the model from one keyword argument for each dimension.
        setting: The values to build with.
        full: The full model, whose weights the skeleton will look at.
        cuts: Of the network.
        options: How the full model is set, which the sub-model follows.

    Returns:
        The skeleton, not yet bound.

    Raises:
        BuildError: If the builder fails, returns no module, or makes a parameter that is no corner of the full one.
        LayoutError: If a layout does not fit.
    """
    module = outline(build, setting, full)
    try:
        return Skeleton(setting, module, full, cuts, options)
    except BuildError as error:
        raise BuildError(f"At {setting}: {error}") from None
