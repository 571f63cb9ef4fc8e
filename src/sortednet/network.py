"""`SortedNet`: one set of weights and the sub-models that look at it."""

from __future__ import annotations

import fnmatch
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from . import checkpoint
from .buffers import BufferPolicy, Private, estimate_statistics
from .compilation import Compilation
from .errors import BuildError, DataError, SettingError
from .layouts import Layout, tensors_of
from .space import Number, Setting, Space
from .views import Skeleton, build_skeleton, call_builder

__all__ = ["SortedNet", "SubModel", "call_with", "inputs_and_targets", "split_batch"]


@dataclass(frozen=True)
class SubModel:
    """The sub-model at one setting, for training: calling it runs it, and gradients land in the network's weights.

    Attributes:
        net: The network.
        setting: The setting, the same for life.
    """

    net: nn.Module
    setting: Setting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the sub-model's own `forward`."""
        return self.net(*args, setting=self.setting, **kwargs)


class _Skeletons(threading.local):
    """The skeletons used last. Each thread has its own, so that threads cannot rebind each other's.

    A skeleton takes half a megabyte of modules or so; those of a large space would not fit, and are built again in
    milliseconds.
    """

    most = 512

    def __init__(self) -> None:
        self._of: OrderedDict[Setting, Skeleton] = OrderedDict()

    def get(self, setting: Setting) -> Skeleton | None:
        """Return the skeleton of a setting if it is held and still fits the full model."""
        found = self._of.get(setting)
        if found is None or not found.fits():
            return None
        self._of.move_to_end(setting)
        return found

    def keep(self, skeleton: Skeleton) -> Skeleton:
        """Hold a skeleton; the one unused for longest goes where there are too many."""
        self._of[skeleton.setting] = skeleton
        self._of.move_to_end(skeleton.setting)
        if len(self._of) > self.most:
            self._of.popitem(last=False)
        return skeleton

    def __len__(self) -> int:
        return len(self._of)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Skeletons:
        return _Skeletons()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Skeletons, ()


class SortedNet(nn.Module):
    """A many-in-one network: the full model, and every sub-model of a space inside its weights.

    A sub-model is the builder's own class, built smaller without memory and bound to the corner of each full parameter.
    Its forward costs what the small model costs.

    Args:
        build: Makes the model from one keyword argument per dimension, such as `build(depth=4, width=32)`. The same
            layers must have the same names at every setting.
        space: The settings to train.
        model: The full model if it exists already, such as a pretrained one; `build` at the full setting otherwise.
        layouts: Layouts of fused parameters that torch's own modules do not explain.
        buffers: Whose the running statistics are: `shared`, `private` or `reestimated`.
        private: Shell patterns of parameters and buffers that every sub-model has for itself, such as `classifier.*`.
            These are made at once for every setting of the space.

    A sub-model is built by `build`; what is done by hand to `full` afterwards (forward hooks, another dropout rate)
    does not reach it, but its weights, statistics, `requires_grad` and training mode do.

    Attributes:
        full: The full model, an ordinary module; its parameters are all there are but the private ones.
        space: The space.

    Raises:
        BuildError: If the builder fails, or the smallest sub-model is no corner of the full model.
        LayoutError: If a parameter looks fused and no layout covers it.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Eq. 1: truncation keeps the indices 1..b_j along each dimension.

    Example:
        >>> def build(depth, width):
        ...     hidden = [layer for i in range(depth) for layer in (nn.Linear(width if i else 8, width), nn.ReLU())]
        ...     return nn.ModuleDict({"body": nn.Sequential(*hidden), "head": nn.Linear(width, 3)})
        >>> class Net(nn.Module):
        ...     def __init__(self, depth, width):
        ...         super().__init__()
        ...         self.parts = build(depth, width)
        ...     def forward(self, x):
        ...         return self.parts["head"](self.parts["body"](x))
        >>> net = SortedNet(Net, Space(depth=[1, 2, 3], width=[4, 8, 16]))
        >>> net.at(depth=2, width=8)(torch.ones(5, 8)).shape
        torch.Size([5, 3])
        >>> sum(p.numel() for p in net.extract(depth=1, width=4).parameters())
        51
    """

    def __init__(
        self,
        build: Callable[..., nn.Module],
        space: Space,
        *,
        model: nn.Module | None = None,
        layouts: Layout | Iterable[Layout] = (),
        buffers: BufferPolicy = "shared",
        private: str | Sequence[str] = (),
    ) -> None:
        super().__init__()
        if buffers not in get_args(BufferPolicy):
            raise BuildError(f"buffers={buffers!r} is no policy. Choose 'shared', 'private' or 'reestimated'.")
        if not isinstance(space, Space):
            raise BuildError(f"The space is {space!r}. Give a Space, such as Space(depth=[2, 4], width=[16, 32]).")
        self.space = space
        self._build = build
        self._layouts = (layouts,) if isinstance(layouts, Layout) else tuple(layouts)
        self._compilation: Compilation | None = None
        self._skeletons = _Skeletons()
        self.full = call_builder(build, space.full) if model is None else model
        patterns = (private,) if isinstance(private, str) else tuple(private)
        trainable = {name: p.requires_grad for name, p in self.full.named_parameters(remove_duplicate=False)}
        self.private = Private(patterns, buffers, space.full, trainable)
        names = tensors_of(self.full)
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise BuildError(
                    f"private={pattern!r} matches no parameter or buffer. Those of the model are {list(names)[:4]}..."
                )
            refuse_tied(self.full, pattern)
        for setting in (space.full, space.smallest if space.smallest in space else space[0]):
            skeleton = self._skeletons.keep(self._skeleton(setting))
            if model is not None and setting == space.full:
                _check_given(model, skeleton)
        if patterns or buffers == "private":
            self._make_private()

    def forward(
        self,
        *args: Any,
        setting: Mapping[str, Number] | str | None = None,
        settings: Sequence[Mapping[str, Number]] | None = None,
        split: bool = False,
        inference: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run one sub-model, or several in one call.

        Several in one call is what distributed wrappers need: each wraps one forward and one backward.

        Args:
            args: Inputs of the model's own `forward`.
            setting: The sub-model to run; the full model where left out.
            settings: Or several sub-models; then a list of outputs is returned.
            split: Whether each of `settings` gets its own part of the batch, instead of all of it.
            inference: Whether to run in evaluation mode, whatever mode the network is in.
            kwargs: Inputs of the model's own `forward`.

        Returns:
            The sub-model's output, or the list of outputs.

        Raises:
            SettingError: If a setting is not in the space.
        """
        if settings is None:
            return self._run(self.space.setting(setting), args, kwargs, inference)
        if setting is not None:
            raise SettingError(f"Give setting={setting} or settings={list(settings)}, not both.")
        inputs = split_batch((args, kwargs), len(settings)) if split else [(args, kwargs)] * len(settings)
        return [
            self._run(self.space.setting(one), part[0], part[1], inference)
            for one, part in zip(settings, inputs, strict=True)
        ]

    def _run(self, setting: Setting, args: Sequence[Any], kwargs: Mapping[str, Any], inference: bool) -> Any:
        skeleton = self._bound(setting, inference)
        with nullcontext() if self._compilation is None else self._compilation.active():
            output = skeleton.module(*args, **kwargs)
        skeleton.write_back()
        return output

    def _bound(self, setting: Setting, inference: bool = False) -> Skeleton:
        skeleton = self._skeletons.get(setting)
        if skeleton is None:
            skeleton = self._skeletons.keep(self._skeleton(setting))
            if self._compilation is not None:
                self._compilation.prepare(skeleton.module)
        skeleton.bind(self.private, inference)
        return skeleton

    def _skeleton(self, setting: Setting) -> Skeleton:
        return build_skeleton(self._build, setting, self.full, self._layouts)

    def at(self, setting: Mapping[str, Number] | str | None = None, /, **values: Number) -> SubModel:
        """Choose a sub-model for training. Its gradients land in this network's weights.

        Args:
            setting: A setting or its text form.
            values: Or the values of some dimensions; the others take their largest.

        Returns:
            A callable with the sub-model's own arguments.

        Raises:
            SettingError: If the setting is not in the space.
        """
        return SubModel(self, self.space.setting(setting, **values))

    def submodel(self, setting: Mapping[str, Number] | str | None = None, /, **values: Number) -> nn.Module:
        """Return a sub-model as an ordinary module for inference, without a copy of any weight.

        Its parameters share the full model's storage, so it follows further training, until the network is moved to
        another device or type. It adds nothing to a call. (A
        fused parameter cut in several pieces is put together for each call; `extract` avoids that.)

        Args:
            setting: A setting or its text form.
            values: Or the values of some dimensions; the others take their largest.

        Returns:
            A module of the builder's class, in evaluation mode, its parameters without gradients.

        Raises:
            SettingError: If the setting is not in the space.
        """
        self._refuse_sharded("submodel")
        return self._skeleton(self.space.setting(setting, **values)).freeze(self.private)

    def extract(self, setting: Mapping[str, Number] | str | None = None, /, **values: Number) -> nn.Module:
        """Copy a sub-model out as a plain, independent model of the builder's class.

        Args:
            setting: A setting or its text form.
            values: Or the values of some dimensions; the others take their largest.

        Returns:
            The model, in the training mode of this network, with weights of its own.

        Raises:
            SettingError: If the setting is not in the space.
        """
        self._refuse_sharded("extract")
        return self._skeleton(self.space.setting(setting, **values)).copy(self.private)

    def skeleton(self, setting: Mapping[str, Number] | str) -> Skeleton:
        """Build the skeleton of a setting: names, shapes and cuts without any memory. For cost and update rules."""
        checked = self.space.setting(setting)
        return self._skeletons.get(checked) or self._skeleton(checked)

    def compile(self, *, backend: str | Callable[..., object] = "inductor", mode: str | None = None) -> None:
        """Compile every sub-model per block, so that one small set of graphs serves all settings.

        Args:
            backend: Of `torch.compile`.
            mode: Of `torch.compile`.
        """
        self._compilation = Compilation(backend, mode)
        self._skeletons = _Skeletons()

    def reestimate(self, batches: Iterable[Any], settings: Iterable[Mapping[str, Number] | str] | None = None) -> None:
        """Measure the running statistics of sub-models anew, after training. Needs `buffers="reestimated"`.

        Args:
            batches: Batches of inputs only, no targets: a tensor, a tuple of positional or a mapping of keyword
                arguments. About 2,000 examples suffice. They are held while all sub-models are measured.
            settings: Sub-models to measure; every one of the space where left out.

        Raises:
            BuildError: If the policy is another.
            DataError: If there is no batch.

        Source:
            Yu & Huang (2019), arXiv:1903.05134, Sec. 3.3.
        """
        if self.private.policy != "reestimated":
            raise BuildError(f"buffers={self.private.policy!r} keeps statistics as trained. Use buffers='reestimated'.")
        held = list(batches)
        if not held:
            raise DataError("There is no batch to measure statistics on. Give about 2,000 examples in batches.")
        for one in self.space if settings is None else settings:
            setting = self.space.setting(one)
            skeleton = self._skeleton(setting)
            skeleton.bind(self.private)
            for slot in skeleton.buffers:
                slot.module._buffers[slot.name] = slot.module.get_buffer(slot.name).clone()
            estimate_statistics(skeleton.module, held, call_with)
            found = {slot.path: slot.module.get_buffer(slot.name) for slot in skeleton.buffers}
            if setting == self.space.full:
                for slot in skeleton.buffers:
                    slot.source.get_buffer(slot.name).copy_(found[slot.path])
            else:
                self.private.add(setting, found)

    def _make_private(self) -> None:
        for setting in self.space:
            if setting == self.space.full:
                continue
            skeleton = self._skeleton(setting)
            own: dict[str, Tensor] = {}
            for slot in (*skeleton.parameters, *skeleton.buffers):
                is_buffer = slot.name in slot.module._buffers
                if self.private.covers(slot.path, is_buffer):
                    source = (slot.source._buffers if is_buffer else slot.source._parameters)[slot.name]
                    assert source is not None
                    part = slot.cut.of(source).detach().clone()
                    own[slot.path] = part if is_buffer else nn.Parameter(part, source.requires_grad)
            self.private.add(setting, own)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the full model's ordinary checkpoint, and the space beside it.

        The weights load with plain `load_state_dict`, without this library. A save that is cut short leaves the last
        good checkpoint whole.

        Args:
            path: Folder; made if it is not there.

        Raises:
            CheckpointError: If the folder cannot be written.
        """
        self._refuse_sharded("save_pretrained")
        checkpoint.write(
            path,
            self.full.state_dict(),
            {
                "space": self.space.to_json(),
                "buffers": self.private.policy,
                "private": list(self.private.patterns),
                "layouts": [one.to_json() for one in self._layouts],
            },
            self.private.tensors(),
        )

    def _refuse_sharded(self, method: str) -> None:
        if any(hasattr(parameter, "device_mesh") for parameter in self.full.parameters()):
            raise BuildError(
                f"{method} needs whole parameters, and these are sharded over processes. Gather them first with "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict(net, options=StateDictOptions("
                "full_state_dict=True)), and load them into a SortedNet that is not sharded."
            )

    def extra_repr(self) -> str:
        return f"space={self.space!r}"


def refuse_tied(model: nn.Module, pattern: str) -> None:
    """Refuse to make a parameter private that is tied to another: they would no longer be one.

    Raises:
        BuildError: If a name that matches the pattern has another name too.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for tied in names.values():
        matching = fnmatch.filter(tied, pattern)
        if len(tied) > 1 and matching:
            raise BuildError(
                f"{matching[0]} is tied to {next(n for n in tied if n != matching[0])}, so that no sub-model can have "
                "one of its own. Untie them in the builder, or leave them shared."
            )


def _check_given(model: nn.Module, full: Skeleton) -> None:
    """Refuse a given model that is larger than what the builder makes at the full setting."""
    ours = {slot.path: slot.cut.shape for slot in (*full.parameters, *full.buffers)}
    for name, tensor in tensors_of(model).items():
        if ours.get(name) != tuple(tensor.shape):
            raise BuildError(
                f"The given model is not the full model: {name} is {tuple(tensor.shape)} in it and "
                f"{ours.get(name, 'missing')} in build({full.setting}). Let the builder make the given model at the "
                "full setting, or give the space its sizes."
            )


def call_with(module: Callable[..., Any], inputs: Any) -> Any:
    """Call a model on the inputs of a batch: a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """Part a batch: `(inputs, ..., targets)` into a tuple of inputs and the targets; a mapping serves as both."""
    return (batch, batch) if isinstance(batch, Mapping) else (tuple(batch[:-1]), batch[-1])


def split_batch(values: Any, parts: int) -> list[Any]:
    """Split a batch along its first axis.

    Args:
        values: Tensors of shape (B, ...), in tuples, lists and mappings; anything else goes to every part.
        parts: How many parts; their sizes differ by one at most.

    Returns:
        `parts` values of the same structure.
    """
    if isinstance(values, Tensor) and values.dim() > 0:
        return list(torch.tensor_split(values, parts))
    if isinstance(values, Mapping):
        split = {name: split_batch(value, parts) for name, value in values.items()}
        return [{name: split[name][i] for name in split} for i in range(parts)]
    if isinstance(values, (tuple, list)):
        columns = [split_batch(value, parts) for value in values]
        rows = [[column[i] for column in columns] for i in range(parts)]
        return [type(values)(*row) if hasattr(values, "_fields") else type(values)(row) for row in rows]
    return [values] * parts
