"""`SortedNet`: one set of weights and the sub-models that look at it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from ..errors import BuildError, DataError, SettingError
from ..imports.names import BufferPolicy
from ..space import Number, Setting, Space
from ..views.alignment.watching import example_of
from ..views.buffers import Private, check_patterns
from ..views.compilation import Compilation
from ..views.cuts import Cuts, StoredCuts
from ..views.examples import BatchAxis, Inputs
from ..views.layouts import Layout
from ..views.likeness import Likeness, refuse_unlike
from ..views.options import Options
from ..views.outlines import call_builder
from ..views.skeletons import Skeleton, Skeletons, build_skeleton
from . import checkpoint
from .builders import PLAIN, SharedForward, as_builder, module_of
from .given import Given
from .parting import Parting
from .sharing import Sharing
from .storing import refuse_sharded, write_network
from .sub_model import SubModel

__all__ = ["SortedNet"]


class SortedNet(nn.Module):
    """A many-in-one network: the full model, and every sub-model of a space inside its weights.

    A sub-model is the builder's own class, built smaller without memory and bound to the corner of each full parameter.
    Its forward costs what the small model costs.

    Args:
        build: Makes the model from one keyword argument per dimension, such as `build(depth=4, width=32)`. The same
            layers must have the same names at every setting.
        space: The settings to train.
        model: The full model if it exists already, such as a pretrained one; `build` at the full setting otherwise.
        layouts: What axes are made up of, where a person wants to say it; what the model does must not contradict it.
        buffers: Whose the running statistics are: `shared`, `private` or `reestimated`.
        private: Shell patterns of parameters and buffers that every sub-model has for itself, such as `classifier.*`.
            These are made at once for every setting of the space.
        example: Inputs of the model, of two examples or so: a tensor, a tuple of positional or a mapping of keyword
            arguments. The models run on it once, without memory, and what they do tells where each of their tensors
            lies in the full one (`cuts`). Left out, the first forward serves.
        stored: How a saved network was cut; nothing is watched then.

    A sub-model is built by `build`, and has of `full`, at each use, its weights, statistics, `requires_grad`, training
    mode and what its layers were made with, such as a dropout rate; of pretrained models the config too. Other things
    that are done by hand to `full` (forward hooks) do not reach it. Where its layers, sizes or forwards are changed so
    that `build` makes others, sub-models are refused.

    Attributes:
        full: The full model, an ordinary module; its parameters are all there are but the private ones.
        space: The space.
        builder: What builds a sub-model.
        layouts: Of its fused parameters, given and known.
        cuts: Where the tensors of sub-models lie; printed, it shows every axis that is not cut at its corner, and why.
        merged: The setting whose adapter was added to the model's own weights, if one was.
        unmerged: Those weights before, by name.

    Raises:
        BuildError: If the builder fails, the smallest sub-model is no part of the full model, or the model does not run
            on the example.
        LayoutError: If an axis cannot be cut, or a layout contradicts what the model does. Where no example has run yet
            it is raised when a sub-model is first used, if its shapes look as if blocks were joined.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Eq. 1: truncation keeps the indices 1..b_j along each dimension.

    Example:
        >>> import torch
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
        example: Any = None,
        stored: StoredCuts | None = None,
    ) -> None:
        super().__init__()
        if buffers not in get_args(BufferPolicy):
            raise BuildError(f"buffers={buffers!r} is no policy. Choose 'shared', 'private' or 'reestimated'.")
        if not isinstance(space, Space):
            raise BuildError(f"The space is {space!r}. Give a Space, such as Space(depth=[2, 4], width=[16, 32]).")
        self.space = space
        self.builder = as_builder(build)
        self.layouts = (layouts,) if isinstance(layouts, Layout) else tuple(layouts)
        self.merged: Setting | None = None
        self.unmerged: dict[str, Tensor] = {}
        self._compilation: Compilation | None = None
        self._skeletons = Skeletons()
        self.full = call_builder(self.builder, space.full) if model is None else model
        self._likeness = Likeness(self.builder, space.full, self.full)
        self._options = Options(self.builder.options, self.full)
        self.cuts = Cuts(
            self.builder,
            space,
            self.layouts,
            known=self.builder.layouts(self.full),
            unwatchable=self.builder.unwatchable,
            groups=self.builder.kind != PLAIN,
            trained=model is not None,
            options=self._options,
        )
        patterns = (private,) if isinstance(private, str) else tuple(private)
        trainable = {name: p.requires_grad for name, p in self.full.named_parameters(remove_duplicate=False)}
        self.private = Private(patterns, buffers, space.full, trainable)
        asked = model is not None and stored is None and self.builder.kind == PLAIN
        self._given = Given(partial(self._skeleton, space.full), self.private, space.full, asked)
        self._parting = Parting(partial(self._skeleton, space.full), self.private, self.builder.brief)
        self._sharing = Sharing(self.builder, space, self.private, self._prepared, self._skeleton, self._options)
        check_patterns(self.full, patterns)
        if stored is not None:
            self.cuts.take(stored, self.full)
        elif example is not None:
            self.cuts.watch(example, self.full)
        elif (likely := self.builder.example(self.full)) is not None:
            self.cuts.watch_likely(((), likely), self.full)
        for setting in (space.full, space.smallest if space.smallest in space else space[0]):
            skeleton = self._skeleton(setting)
            self._skeletons.keep(setting, skeleton, skeleton)
            if model is not None and setting == space.full:
                refuse_unlike(model, skeleton.module, setting)
        if patterns or buffers == "private":
            self._make_private()
        if example is not None and stored is None:
            args, kwargs = example_of(example)
            self.observe(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module | str | Path,
        /,
        *,
        space: Space | None = None,
        readout: Any = "default",
        layouts: Layout | Iterable[Layout] = (),
        buffers: BufferPolicy = "shared",
        private: str | Sequence[str] = (),
        example: Any = None,
        **supports: Sequence[Number],
    ) -> SortedNet:
        """Make a pretrained Hugging Face model many-in-one, with its own weights as the full model.

        Args:
            model: The model, or the folder or name of one, opened as the class that its config names. Its head is its
                own: for classification, open it by `AutoModelForSequenceClassification.from_pretrained(...)`.
            space: The settings, where they are a list; else give `supports`.
            readout: What is read at the end of the blocks: `own`, or `mean`, the mean over the tokens, for a classifier
                that reads the first token. `default` is `mean` for classifiers of sequences whose first token is read,
                and `own` for all else. Or a `Readout`.
            layouts: Layouts of fused parameters, beside those known of the family.
            buffers: Whose the running statistics are: `shared`, `private` or `reestimated`.
            private: Shell patterns of parameters that every sub-model has for itself, such as `classifier.*`.
            example: Inputs that it runs on, in place of those that are made up from its config.
            supports: By field of the config (`num_hidden_layers`, `intermediate_size`, `num_attention_heads`,
                `hidden_size`, ...) the values that it may take. The largest is the model's own. Key and value heads
                follow the heads, entries per layer follow the depth, and a head keeps its size.

        Returns:
            The network. Fields and methods of the model that it lacks, such as `config`, are the full model's.

        Raises:
            BuildError: If the model is none of Hugging Face's or quantised, a dimension makes no sense for it, or a
                sub-model is no corner of it.
            SpaceError: If a support does not fit the model's sizes.
            LayoutError: If a parameter looks fused and no layout covers it.

        Example:
            >>> from transformers import LlamaConfig, LlamaForCausalLM
            >>> config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
            ...                      num_attention_heads=4, num_key_value_heads=2)
            >>> net = SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=[2, 4])
            >>> net.exits
            {'num_hidden_layers': 'model.layers'}
            >>> net.extract(num_hidden_layers=2).config.num_hidden_layers
            2
        """
        return module_of("pretrained").from_pretrained(  # type: ignore[no-any-return]
            model, space=space, readout=readout, layouts=layouts, buffers=buffers, private=private, example=example,
            **supports,
        )  # fmt: skip

    def forward(
        self,
        *args: Any,
        setting: Mapping[str, Number] | str | None = None,
        settings: Sequence[Mapping[str, Number]] | None = None,
        split: bool | Sequence[int] = False,
        batch_axis: BatchAxis = None,
        weights: Sequence[float] | None = None,
        inference: bool = False,
        whole: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run one sub-model, or several in one call.

        Several in one call is what distributed wrappers need: each wraps one forward and one backward. Those that
        differ only in how many blocks of one list they have share one forward, and with parts of a batch of their own,
        the batch shrinks on the way (`exits`). Outputs read at exits hold no keys and values to go on from.

        Args:
            args: Inputs of the model's own `forward`.
            setting: The sub-model to run; the full model where left out.
            settings: Or several sub-models; then a list of outputs is returned.
            split: Whether each of `settings` gets a part of the batch instead of all of it; or the sizes of the parts.
            batch_axis: Where the examples of what is parted are; see `Objective`.
            weights: In what proportion the losses of `settings` will be added up; needed where a model computes them
                itself and they are not equal.
            inference: Whether to run in evaluation mode, whatever mode the network is in.
            whole: Whether to return an iterator that reads each output when it is asked for; where a causal language
                model gets labels, its exits otherwise hold the loss alone, computed in chunks.
            kwargs: Inputs of the model's own `forward`.

        Returns:
            The sub-model's output, or the list of outputs.

        Raises:
            SettingError: If a setting is not in the space.
            DataError: If it cannot be told how to part the batch.
        """
        self.builder.refuse_merged(self.full, self.merged)
        self.observe(*args, **kwargs)
        if settings is None:
            return self._run(self.space.setting(setting), (args, kwargs), inference)
        if setting is not None:
            raise SettingError(f"Give setting={setting} or settings={list(settings)}, not both.")
        chosen = [self.space.setting(one) for one in settings]
        for name, given in (("weights", weights), ("split", None if isinstance(split, bool) else split)):
            if given is not None and len(given) != len(chosen):
                message = f"{name}={list(given)} are {len(given)} for {len(chosen)} settings. Give one for each."
                raise SettingError(message)
        parts = len(chosen) if split is True else split
        inputs, joinable = self._parting.parts(self.full, (args, kwargs), parts, batch_axis, len(chosen))
        if not joinable:
            return self._one_by_one(inference, chosen, inputs)
        self._options.changes(self.full)
        with self._compiled():
            return self._sharing.outputs(
                self.full, chosen, inputs, bool(parts), weights, inference, whole, partial(self._one_by_one, inference)
            )

    def observe(self, *args: Any, **kwargs: Any) -> None:
        """Find where sub-models lie on first inputs of the model's own `forward`, where no example was given.

        The first forward does so by itself. What uses sub-models on their own, such as `evaluate`, asks for it before.
        """
        inputs = args, kwargs
        self._given.compare(self.full, inputs)
        self.cuts.note(inputs)
        if self.cuts.awaits and self.cuts.watch_first(inputs, self.full):
            self._sharing.forget()

    def _one_by_one(self, inference: bool, settings: Sequence[Setting], inputs: Sequence[Inputs]) -> list[Any]:
        return [self._run(setting, given, inference) for setting, given in zip(settings, inputs, strict=True)]

    def _run(self, setting: Setting, inputs: tuple[Sequence[Any], Mapping[str, Any]], inference: bool) -> Any:
        args, kwargs = inputs
        if self._compilation is not None and self.gated is not None:
            with self._compiled():  # behind gates all ranks run the same graph
                found = self.gated.run(self.full, [setting], [inputs], inference)
            if found is not None:
                return found[0]
        skeleton = self._bound(setting, inference)
        with self._compiled():
            output = skeleton.module(*args, **kwargs)
        skeleton.write_back()
        return output

    def _compiled(self) -> AbstractContextManager[None]:
        return nullcontext() if self._compilation is None else self._compilation.active()

    @property
    def exits(self) -> dict[str, str]:
        """The dimensions that only add blocks at the end of one list, with the path of that list.

        Sub-models that differ in one of these alone share a forward; parts of a batch only if nothing but what the
        blocks return goes on from one to the next. That they may is tried before an exit is first used; where they may
        not, the dimension is gone from here, and a warning says why.
        """
        return self._sharing.exits(self.full)

    @property
    def gated(self) -> SharedForward | None:
        """How sub-models share a forward in a way of the builder's own; None where it has none."""
        return self._sharing.gated

    @property
    def is_compiled(self) -> bool:
        """Whether sub-models run compiled."""
        return self._compilation is not None

    def _bound(self, setting: Setting, inference: bool = False) -> Skeleton:
        skeleton = self._held(setting)
        skeleton.bind(self.private, inference)
        return skeleton

    def _held(self, setting: Setting) -> Skeleton:
        skeleton: Skeleton | None = self._skeletons.get(setting, self.full)
        if skeleton is None:
            skeleton = self._prepared(setting)
            self._skeletons.keep(setting, skeleton, skeleton)
        return skeleton

    def _prepared(self, setting: Setting) -> Skeleton:
        skeleton = self._skeleton(setting)
        if self._compilation is not None:
            self._compilation.prepare(skeleton.module)
        return skeleton

    def _skeleton(self, setting: Setting) -> Skeleton:
        self.builder.refuse_merged(self.full, self.merged)
        if self._likeness.changed(self.full) and self._likeness.check(self.full, self.builder.follow):
            self._forget()
            gc.collect()  # they refer to themselves, and while their views live torch takes gradients of the old sizes
            self.cuts.renew(self.full)
        return build_skeleton(self.builder, setting, self.full, self.cuts, self._options)

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
        another device or type. (A fused parameter cut in several pieces is put together for each call.)

        Args:
            setting: A setting or its text form.
            values: Or the values of some dimensions; the others take their largest.

        Returns:
            A module of the builder's class, in evaluation mode, its parameters without gradients.

        Raises:
            SettingError: If the setting is not in the space.
        """
        refuse_sharded(self.full, "submodel")
        chosen = self.space.setting(setting, **values)
        self.cuts.warn_if_untold(chosen)
        return self._skeleton(chosen).freeze(self.private)

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
        refuse_sharded(self.full, "extract")
        chosen = self.space.setting(setting, **values)
        self.cuts.warn_if_untold(chosen)
        return self._skeleton(chosen).copy(self.private)

    def skeleton(self, setting: Mapping[str, Number] | str, *, new: bool = False) -> Skeleton:
        """Build the skeleton of a setting: names, shapes and cuts without any memory. For cost and update rules.

        Args:
            setting: A setting or its text form.
            new: Whether it is to be one that nobody else uses.
        """
        checked = self.space.setting(setting)
        return self._skeleton(checked) if new else self._held(checked)

    def compile(self, *, backend: str | Callable[..., object] = "inductor", mode: str | None = None) -> None:
        """Compile every sub-model per block, so that one small set of graphs serves all settings.

        Args:
            backend: Of `torch.compile`.
            mode: Of `torch.compile`.
        """
        self._compilation = Compilation(backend, mode)
        self._forget()

    def _forget(self) -> None:
        self._skeletons = Skeletons()
        self._sharing.forget()

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
            found = skeleton.measure(self.private, held)
            if setting == self.space.full:
                for slot in skeleton.buffers:
                    slot.source.get_buffer(slot.name).copy_(found[slot.path])
            else:
                self.private.add(setting, found)

    def _make_private(self) -> None:
        for setting in self.space:
            if setting == self.space.full:
                continue
            self.private.add(setting, self._skeleton(setting).own_tensors(self.private))

    def save_pretrained(self, path: str | Path, *, max_shard_size: int | str = checkpoint.SHARD_SIZE) -> None:
        """Write the full model's ordinary checkpoint, and the space beside it.

        The weights load with plain `load_state_dict`, without this library. All files take their places together: a
        save that is cut short leaves the last good checkpoint whole. The same network gives the same bytes.

        Args:
            path: Folder; made if it is not there. What this library did not write there is never overwritten.
            max_shard_size: Most bytes of one file of weights, as a number or such as "5GB".

        Raises:
            CheckpointError: If the folder cannot be written, a file of somebody else's is in the way, or another
                process writes there.
            ConfigError: If `max_shard_size` is no size.
        """
        refuse_sharded(self.full, "save_pretrained")
        self.builder.refuse_merged(self.full, self.merged)
        self.cuts.warn_if_untold()
        self.write(path, self.full.state_dict(), max_shard_size=max_shard_size)

    def write(
        self,
        path: str | Path,
        state: Mapping[str, Tensor],
        private: Mapping[tuple[str, str], Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Write what `save_pretrained` does, of tensors that were gathered elsewhere; see `storing.write_network`."""
        held, policy = self.private, self.private.policy
        described = {"space": self.space.to_json(), "buffers": policy, "private": list(held.patterns)}
        tensors = held.tensors() if private is None else private
        options = {"cuts": self.cuts.to_json(self.full), **options}
        write_network(path, self.builder, self.full, state, described, self.layouts, tensors, **options)

    def extra_repr(self) -> str:
        return f"space={self.space!r}"
