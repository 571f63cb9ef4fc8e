"""Where the tensors of every sub-model lie: found by watching the models run, declared, or read off their shapes.

An example is all that it takes: the full and a smaller model run once each on it, without memory, and what they do to
every axis tells what its units are (`alignment`). Where nothing has run yet, declared and known layouts serve, and the
corner; an axis whose shape looks like several blocks is then not cut before an example has told.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import BuildError, LayoutError
from ..space import Setting, Space
from .alignment.aligner import Alignment, Trouble, align
from .alignment.tape import Tape
from .alignment.terms import Leaf, Stretches, Sum, Term, is_fixed, leaves_of, stretches_of, text_of
from .alignment.watching import WAYS, Inputs, Unwatchable, copied, example_of, is_plain, watch
from .layouts import Cut, Layout, blocks_of, cuts_by_shape, refuse_misfits, suspicion
from .outlines import outline

__all__ = ["Cuts", "Found"]

_MOST_SHOWN = 8


class Found(NamedTuple):
    """Where the tensors of one sub-model lie.

    Attributes:
        cuts: By name.
        undecided: Why some of them must not be used; None where all are known.
    """

    cuts: Mapping[str, Cut]
    undecided: LayoutError | None = None


class Cuts:
    """Where the tensors of the sub-models of one network lie in those of the full model.

    Args:
        build: Makes the model from one keyword argument for each dimension.
        space: The settings.
        layouts: Layouts of fused parameters, the known ones among them.
        known: Those that a person did not give: the models themselves are believed instead.
        unwatchable: Why the models cannot be watched, so that layouts and shapes serve; empty where they can.
        groups: Whether the groups of group norms are to stay those of the full model where they can: as a pretrained
            model was trained.

    Attributes:
        layouts: As given.
        unwatchable: Why the models cannot be watched; empty where they can, or it was not tried.
        traces: How often a model was watched so far.
    """

    def __init__(
        self,
        build: Callable[..., nn.Module],
        space: Space,
        layouts: Iterable[Layout] = (),
        *,
        known: Iterable[Layout] = (),
        unwatchable: str = "",
        groups: bool = False,
    ) -> None:
        self.layouts = tuple(layouts)
        believed = tuple(known)
        self._given = [one for one in self.layouts if one not in believed]
        self.traces = 0
        self.unwatchable = unwatchable
        self._build, self._space, self._groups = build, space, groups
        self._example: Inputs | None = None
        self._way = ""
        self._full: Tape | None = None
        self._aligned: dict[Setting, Alignment] = {}

    @property
    def watched(self) -> bool:
        """Whether the models were watched, so that nothing rests on their shapes."""
        return self._full is not None

    def watch(self, example: Any, full: nn.Module) -> None:
        """Find the cuts by watching models run on an example.

        The full model and the settings that stand for all are watched at once: the smallest of each dimension alone,
        and of all together. The others are when they are first used.

        Args:
            example: A tensor, a tuple of positional or a mapping of keyword arguments; two examples of a batch suffice.
            full: The full model.

        Raises:
            BuildError: If the model does not run on it.
            LayoutError: If an axis cannot be cut, or a declared layout is not what the model does.
        """
        inputs = example_of(example)
        if not is_plain(inputs):
            raise BuildError("The example holds more than tensors and plain values. Give inputs as a data loader does.")
        self._watch(inputs, full)

    def _watch(self, inputs: Inputs, full: nn.Module) -> None:
        outlines = {setting: outline(self._build, setting) for setting in self._stand_ins()}
        before = self._example, self._way, self._full, self._aligned
        failure: BuildError | LayoutError | None = None
        for way in WAYS:  # a dearer one may run, or tell, what a cheaper one did not
            try:
                tapes = {setting: self._watched(setting, module, inputs, way) for setting, module in outlines.items()}
            except Unwatchable as error:
                if not isinstance(failure, LayoutError):
                    failure = BuildError(
                        f"The model does not run on the example: {error}. Give example= as its forward takes it: a "
                        "tensor, a tuple of positional or a mapping of keyword arguments."
                    )
                continue
            self._example, self._way, self._full = inputs, way, tapes.pop(self._space.full)
            self._aligned = {setting: self._align(tape, full, outlines[setting]) for setting, tape in tapes.items()}
            found = (self._read(setting, one, full, outlines[setting]) for setting, one in self._aligned.items())
            refused = next((one.undecided for one in found if one.undecided is not None), None)
            if refused is None:
                return
            failure = refused
        self._example, self._way, self._full, self._aligned = before
        assert failure is not None
        raise failure

    def awaits(self, inputs: Inputs) -> bool:
        """Whether these inputs would be the first that tell anything."""
        return (
            self._full is None
            and not self.unwatchable
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and is_plain(inputs)
        )

    def watch_likely(self, inputs: Inputs, full: nn.Module) -> None:
        """Watch models run on inputs that were made up, if they do; else the first real ones serve.

        Raises:
            LayoutError: If an axis cannot be cut, or a declared layout is not what the model does.
        """
        if not self.unwatchable:
            with suppress(BuildError):
                self._watch(inputs, full)

    def watch_first(self, inputs: Inputs, full: nn.Module) -> bool:
        """Watch models run on inputs that nobody gave as an example; return whether they did.

        Raises:
            LayoutError: If an axis cannot be cut, or a declared layout is not what the model does.
        """
        try:
            self._watch(inputs, full)
        except BuildError as error:
            self.unwatchable = str(error)  # so that what is known without serves
        return not self.unwatchable

    def _stand_ins(self) -> list[Setting]:
        """Return the full setting, the smallest, and those smallest in one dimension alone."""
        space = self._space
        alone = [Setting({**space.full, name: value}) for name, value in space.smallest.items()]
        smallest = space.smallest if space.smallest in space else space[0]
        return list(dict.fromkeys([space.full, smallest, *(one for one in alone if one in space)]))

    def _watched(self, setting: Setting, module: nn.Module, inputs: Inputs, way: str) -> Tape:
        self.traces += 1
        return watch(lambda: copied(module, partial(outline, self._build, setting)), inputs, way)

    def of(self, setting: Setting, full: nn.Module, small: nn.Module) -> Found:
        """Find where the tensors of the sub-model at a setting lie.

        Args:
            setting: The setting.
            full: The full model.
            small: The model at the setting, with parameters on the meta device.

        Raises:
            BuildError: If a name is missing in the full model, or larger than there.
            LayoutError: If a declared layout fits no parameter, or not its sizes.
        """
        refuse_misfits(full, small, self.layouts)
        if setting == self._space.full:
            return Found(cuts_by_shape(full, small, self.layouts))
        if self._example is None:
            return Found(cuts_by_shape(full, small, self.layouts), suspicion(full, small, self.layouts))
        if setting not in self._aligned:
            try:
                tape = self._watched(setting, small, self._example, self._way)
            except Unwatchable as failure:
                refused = LayoutError(f"At {setting} the model does not run on the example: {failure}.")
                return Found(cuts_by_shape(full, small, self.layouts), refused)
            self._aligned[setting] = self._align(tape, full, small)
        return self._read(setting, self._aligned[setting], full, small)

    def _align(self, tape: Tape, full: nn.Module, small: nn.Module) -> Alignment:
        """Align a sub-model, with the declared layouts where it cannot be told without them."""
        assert self._full is not None
        found = align(tape, self._full, groups=self._groups)
        undecided = _undecided(found)
        declared: dict[tuple[str, int], Term] = {
            axis: Sum([Leaf(*sizes) for sizes in zip(ours, theirs, strict=True)])
            for axis, (theirs, ours) in blocks_of(full, small, self.layouts).items()
            if axis in undecided
        }
        return align(tape, self._full, declared, groups=self._groups) if declared else found

    def _read(self, setting: Setting, found: Alignment, full: nn.Module, small: nn.Module) -> Found:
        by_shape, declared = cuts_by_shape(full, small, self.layouts), blocks_of(full, small, self.layouts)
        troubles = _undecided(found)
        cuts: dict[str, Cut] = {}
        for name, cut in by_shape.items():
            traced = found.stretches(name) if name in found.terms else cut.pieces
            pieces = zip(cut.pieces, traced, strict=True)
            cuts[name] = Cut(
                cut.shape,
                tuple(own if (name, axis) in troubles else run for axis, (own, run) in enumerate(pieces)),
            )
            for axis in range(len(cut.shape)):
                said = next((one for one in reversed(self._given) if one.covers(name, axis)), None)
                if said is not None and cuts[name].pieces[axis] != cut.pieces[axis]:
                    return Found(cuts, _contradiction(setting, said, name, found.terms[name][axis], cut.pieces[axis]))
        left = {axis: one for axis, one in troubles.items() if axis[0] in by_shape and axis not in declared}
        return Found(cuts, _refusal(setting, left) if left else None)

    def __str__(self) -> str:
        if not self.watched:
            return f"By layouts and shapes: {self.unwatchable or 'no example has run yet'}."
        lines = []
        for setting, found in self._aligned.items():
            groups: dict[tuple[str, str, str], int] = defaultdict(int)
            for name, terms in found.terms.items():
                for axis, (term, piece) in enumerate(zip(terms, found.stretches(name), strict=True)):
                    if len(piece) > 1 or piece[0][0]:
                        groups[f"{_pattern(name)}[{axis}]", text_of(term), _origin(term)] += 1
            lines.append(f"At {setting}: {'plain corners' if not groups else ''}".rstrip())
            lines += [
                f"  {where}: {text} ({why}{f', {n} axes' if n > 1 else ''})" for (where, text, why), n in groups.items()
            ]
            lines += [f"  only the smaller model does it: {where} ({count})" for where, count in found.alone.items()]
            lines += [f"  only a statistic joins units: {where} ({count})" for where, count in found.statistics.items()]
        return "\n".join(lines)


def _undecided(found: Alignment) -> dict[tuple[str, int], Trouble]:
    """Return the axes of parameters that cannot be cut, with the reason of each."""
    troubles = {axis: trouble for trouble in (*found.doubts, *found.conflicts) for axis in trouble.axes}
    for name, axes in found.untouched.items():
        for axis in axes:
            troubles.setdefault((name, axis), Trouble("forward", "does not read it", frozenset([(name, axis)])))
    return troubles


def _contradiction(setting: Setting, said: Layout, name: str, term: Term, pieces: Stretches) -> LayoutError:
    return LayoutError(
        f"At {setting}, {said} cuts axis {said.axis} of {name} at {_said(pieces)}. But as the model runs on the "
        f"example, it is {text_of(term)}, which is {_said(stretches_of(term))}. Leave the layout out, or correct it."
    )


def _refusal(setting: Setting, undecided: Mapping[tuple[str, int], Trouble]) -> LayoutError:
    groups: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for axis, trouble in undecided.items():
        groups[_pattern(trouble.where), trouble.what].append(axis)
    lines = []
    for (where, what), axes in list(groups.items())[:_MOST_SHOWN]:
        names = list(dict.fromkeys(f"{_pattern(name)}[{axis}]" for name, axis in axes))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"\n- {', '.join(names[:4])}{more}: {where} {what}")
    more = f"\n- and {len(groups) - _MOST_SHOWN} more" if len(groups) > _MOST_SHOWN else ""
    first, place = next(iter(undecided))
    return LayoutError(
        f"At {setting} these axes cannot be cut, as no part of them does what the smaller model's do:{''.join(lines)}"
        f"{more}\nSort another size, or say how an axis is made up: "
        f'layouts=[Layout("{first}", axis={place}, blocks=...)].'
    )


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _origin(term: Term) -> str:
    origins = dict.fromkeys(_pattern(leaf.origin) for leaf in leaves_of(term) if leaf.origin and not is_fixed(leaf))
    return ", ".join(list(origins)[:2])


def _said(pieces: Stretches) -> str:
    shown = ", ".join(f"{start}:{start + length}" for start, length in pieces[:4])
    return shown + (", ..." if len(pieces) > 4 else "")
