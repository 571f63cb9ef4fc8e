"""Where the tensors of every sub-model lie: found by watching the models run, declared, or read off their shapes.

An example is all that it takes: the full and a smaller model run once each on it, without memory, and what they do to
every axis tells what its units are (`alignment`). Where nothing has run yet, declared and known layouts serve, and the
corner; an axis whose shape looks like several blocks is then not cut before an example has told.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import BuildError, LayoutError
from ..imports.privates.torch import RunningNorm, persistent_buffers
from ..space import Setting, Space
from .alignment.aligner import Alignment, Trouble, align
from .alignment.structure import Axis, Structure, solved
from .alignment.tape import Tape
from .alignment.terms import Leaf, Stretches, Sum, Term, size_of, stretches_of
from .alignment.watching import WAYS, Unwatchable, copied, example_of, is_plain, kept, runs, take_types, watch
from .batches import tensors_of_batch
from .constructed import Constructed
from .cut import Cut
from .examples import Inputs
from .explaining import contradiction, described, notes, undecidable
from .forwards import follow_forward
from .layouts import Layout, blocks_of, cuts_by_shape, refuse_misfits, shared_tensors, suspicion, tensors_of
from .modes import is_traced
from .options import Changes, Options
from .outlines import outline
from .stand_ins import is_shallower, stand_ins

__all__ = ["Cuts", "Found", "StoredCuts"]


class Found(NamedTuple):
    """Where the tensors of one sub-model lie.

    Attributes:
        cuts: By name, of parameters and all buffers that the full model has too.
        undecided: Why some of them must not be used; None where all are known.
    """

    cuts: Mapping[str, Cut]
    undecided: LayoutError | None = None


class StoredCuts(NamedTuple):
    """How a saved network was cut.

    Attributes:
        found: What `Cuts.to_json` returned; None if it was cut by layouts and shapes, or an earlier version wrote it.
    """

    found: Mapping[str, Any] | None


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
        trained: Whether the weights are more than initial ones.
        options: How the full model is set: what is watched is set as it was when the first models were.

    Attributes:
        layouts: As given.
        unwatchable: Why the models cannot be watched; empty where they can, or it was not tried.
        trained: As given.
        traces: How often a model was watched so far.
        constructed: The full model's buffers as its constructor makes them.
        iterated: Names of buffers that a model in training changes by its weights alone, such as the vectors of
            spectral norm: each sub-model has its own.
        rested: These, by setting and name.
        version: How often the cuts were found; a skeleton of another version looks elsewhere.
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
        trained: bool = False,
        options: Options | None = None,
    ) -> None:
        self.layouts = tuple(layouts)
        for one in self.layouts:
            if not isinstance(one, Layout):
                raise LayoutError(f'{one!r} is no layout. Give such as Layout("*.qkv.*", axis=0, blocks=3).')
        believed = tuple(known)
        self._given = [one for one in self.layouts if one not in believed]
        self.traces = 0
        self.unwatchable = unwatchable
        self.constructed = Constructed(build, space.full)
        self.iterated: frozenset[str] = frozenset()
        self.rested: dict[tuple[Setting, str], Tensor] = {}
        self.version = 0
        self._build, self._space, self._groups, self.trained = build, space, groups, trained
        self._options = options
        self._set: Changes = {}
        self._example: Inputs | None = None
        self._noted: Inputs | None = None  # of a loaded network, which is not watched
        self._way = ""
        # By setting, of models without a narrower axis: what others are held against.
        self._wholes: dict[Setting, Tape] = {}
        self._warned = False
        self._misfits: set[Any] = set()  # sizes of inputs that the full model does not run on
        self._deeper: list[Setting] = []  # that stand for all, of whose like only shallower ones were watched
        # Those of the settings that stand for all, and of others that these do not tell.
        self._structures: dict[Setting, Structure] | None = None
        self._checked: set[Setting] = set()
        self._depths: set[str] = set()  # the dimensions that alone leave out layers, and change no shape
        self._notes: dict[Setting, list[str]] = {}

    @property
    def known(self) -> bool:
        """Whether the models were watched, here or before they were saved, so that nothing rests on their shapes."""
        return self._structures is not None

    def watch(self, example: Any, full: nn.Module) -> None:
        """Find the cuts by watching models run on an example.

        The settings that stand for all are watched at once: the smallest of each dimension alone, and of all together,
        as shallow as they come where depth only repeats what its blocks do. The others are when they are first used.

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

    def watch_likely(self, inputs: Inputs, full: nn.Module) -> None:
        """Watch models run on inputs that were made up, if they do; else the first real ones serve.

        Raises:
            LayoutError: If an axis cannot be cut, or a declared layout is not what the model does.
        """
        if not self.unwatchable:
            with suppress(BuildError):
                self._watch(inputs, full)

    def note(self, inputs: Inputs) -> None:
        """Keep the first inputs of a loaded network, for vectors that have to come to rest before they are used."""
        if self.iterated and self.example is None and is_plain(inputs):
            self._noted = kept(inputs)

    def watch_first(self, inputs: Inputs, full: nn.Module) -> bool:
        """Watch models run on inputs that nobody gave as an example; return whether they did.

        Raises:
            LayoutError: If an axis cannot be cut, or a declared layout is not what the model does.
        """
        if not is_plain(inputs):
            self._warn("the inputs hold more than tensors and plain values")
            return False
        sizes = tuple(tuple(one.shape) for one in tensors_of_batch((tuple(inputs[0]), dict(inputs[1]))))
        if sizes in self._misfits:  # such as those of a smaller model alone
            return False
        try:
            self._watch(inputs, full)
        except BuildError as error:
            if runs(full, inputs):  # else the inputs are wrong, as the caller is about to see
                self.unwatchable = str(error)  # so that what is known without serves
                self._warn(self.unwatchable)
            self._misfits.add(sizes)
            return False
        return True

    def _warn(self, why: str) -> None:
        """Say once that the models were not watched."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"The models were not watched: {why.rstrip('.')}. So sub-models are cut by layouts and shapes. Where "
                "an axis holds several blocks, declare it with layouts=[...].",
                stacklevel=5,
            )

    def warn_if_untold(self, setting: Setting | None = None) -> None:
        """Warn before parts of a trained model are used that only shapes tell how to cut, as nothing has run yet."""
        if self.trained and not self.known and not self.unwatchable and setting != self._space.full:
            warnings.warn(
                "Nothing has run yet that tells how axes are made up: sub-models are cut by layouts and shapes. Give "
                "the network an example: SortedNet(..., example=inputs), or net.observe(inputs) before.",
                stacklevel=3,
            )

    def renew(self, full: nn.Module) -> None:
        """Watch the models again on the same example, as they have other sizes now.

        Raises:
            LayoutError: If an axis cannot be cut.
        """
        self.constructed, self.rested = Constructed(self._build, self._space.full), {}
        if self._example is not None and self.known:
            self._watch(self._example, full)

    @property
    def awaits(self) -> bool:
        """Whether the next inputs would be the first that tell anything."""
        return not self.known and not self.unwatchable and not is_traced()

    def _watch(self, inputs: Inputs, full: nn.Module) -> None:
        outlines, whole, idle, self._deeper = stand_ins(self._build, self._space)
        before, self._set = self._set, {} if self._options is None else self._options.changes(full)
        failure: BuildError | LayoutError | None = None
        for way in WAYS:  # a dearer one may run, or tell, what a cheaper one did not
            try:
                tapes = {one: self._watched(one, module, full, inputs, way) for one, module in outlines.items()}
            except Unwatchable as error:
                if not isinstance(failure, LayoutError):
                    failure = BuildError(
                        f"The model does not run on the example: {error}. Give example= as its forward takes it: a "
                        "tensor, a tuple of positional or a mapping of keyword arguments."
                    )
                continue
            against = tapes.pop(whole)
            found = {setting: self._align(tape, against, full, outlines[setting]) for setting, tape in tapes.items()}
            refusals = (self._refusal(setting, one, full, outlines[setting]) for setting, one in found.items())
            refused = next((one for one in refusals if one is not None), None)
            if refused is None:
                self._example, self._way, self._wholes = kept(inputs, way), way, {whole: against}
                self.version += 1
                self._structures = {setting: Structure(frozenset(self._changed(setting)), {}) for setting in idle}
                self._depths = {name for one in idle for name in self._changed(one)}
                self._structures |= {setting: self._structure(setting, one) for setting, one in found.items()}
                self._checked, self._notes = set(found), {setting: notes(one) for setting, one in found.items()}
                self._find_iterated(full)
                return
            failure = refused
        self._set = before
        assert failure is not None
        raise failure

    def _find_iterated(self, full: nn.Module) -> None:
        """Ask the full model in training which buffers its weights alone change; most models have none to ask of."""
        asked = any(True for one in full.modules() if not isinstance(one, RunningNorm) for _ in persistent_buffers(one))
        if self._example is not None and asked:
            module = outline(self._build, self._space.full)
            with suppress(Unwatchable):
                tape = self._watched(self._space.full, module, full, self._example, self._way, training=True)
                self.iterated = frozenset(tape.iterated)

    def _watched(
        self, setting: Setting, module: nn.Module, full: nn.Module, inputs: Inputs, way: str, *, training: bool = False
    ) -> Tape:
        self.traces += 1

        def made() -> nn.Module:
            model = copied(module, partial(outline, self._build, setting))
            sources = dict(full.named_modules(remove_duplicate=False))
            for path, target in model.named_modules(remove_duplicate=False):
                if path in sources:
                    follow_forward(target, sources[path])  # what cannot be followed is refused where it is used
            take_types(model, full)
            if self._options is not None:
                self._options.give(self._set, model, setting)
            return model

        return watch(made, inputs, way, training=training)

    def _whole(self, full: nn.Module) -> Tape:
        """Return what the full model does on the example; it is watched once."""
        setting = self._space.full
        if setting not in self._wholes:
            module = outline(self._build, setting)
            assert self._example is not None
            self._wholes[setting] = self._watched(setting, module, full, self._example, self._way)
        return self._wholes[setting]

    def _changed(self, setting: Setting) -> list[str]:
        return [name for name, value in setting.items() if value != self._space.full[name]]

    def _structure(self, setting: Setting, found: Alignment) -> Structure:
        return Structure.of(self._changed(setting), found.terms)

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
            return Found(cuts_by_shape(full, small))
        if self._structures is None:
            suspected = suspicion(full, small, self.layouts)
            if suspected is not None and not self.unwatchable:
                remedy = "Or show the network an example, which tells: SortedNet(..., example=inputs)."
                suspected = LayoutError(f"{suspected} {remedy}")
            return Found(cuts_by_shape(full, small, self.layouts), suspected)
        refused = self._check(setting, full, small)
        cuts, missing = self._solve(setting, full, small)
        if missing and refused is None:
            refused = LayoutError(
                f"What was watched of the network before it was saved does not tell how {missing[0]} is cut at "
                f"{setting}. Show it an example: net.cuts.watch(inputs, net.full)."
            )
        return Found(cuts, refused)

    @property
    def example(self) -> Inputs | None:
        """The inputs that the models were watched on, if they were; without numbers where these did not matter."""
        return self._noted if self._example is None else self._example

    def follows(self, setting: Setting, name: str, made: Tensor, cut: Cut, stored: bool) -> bool:
        """Whether a buffer of a sub-model is the part of the full model's, and not as its own constructor made it.

        Args:
            setting: The sub-model's.
            name: Its name.
            made: What the constructor made.
            cut: Where it would lie.
            stored: Whether it is saved with the model.

        Raises:
            LayoutError: If a parametrization has drawn the full model's: what it asks of it, such as that it is
                orthogonal, a part need not be.
        """
        if name in self.iterated:
            return setting == self._space.full
        if stored and self.constructed.is_part(name, made, cut):
            return True
        drawn = self.constructed.is_drawn(name)
        if drawn and ".parametrizations." in f".{name}" and made.shape != self.constructed.shape_of(name):
            raise LayoutError(
                f"{name} is drawn at random for a parametrization, which a part of it need not fit. Make it without, "
                "such as orthogonal(..., orthogonal_map='cayley', use_trivialization=False)."
            )
        return drawn

    def _check(self, setting: Setting, full: nn.Module, small: nn.Module) -> LayoutError | None:
        """Watch a setting when it is first used: what those that stand for all tell of it need not be right."""
        assert self._structures is not None
        if self._example is None or setting in self._checked:
            return None
        if self._depths.issuperset(self._changed(setting)) and is_shallower(small, full):
            return None  # nothing is cut
        try:
            tape, whole = self._watched(setting, small, full, self._example, self._way), self._whole(full)
        except Unwatchable as failure:
            return LayoutError(f"At {setting} the model does not run on the example: {failure}.")
        found = self._align(tape, whole, full, small)
        refused = self._refusal(setting, found, full, small)
        if refused is None:
            told, missing = self._solve(setting, full, small)
            if missing or any(cut.pieces != found.stretches(name) for name, cut in told.items() if name in found.terms):
                self._structures[setting] = self._structure(setting, found)
                self._notes[setting] = notes(found)
            self._checked.add(setting)
        return refused

    def _solve(self, setting: Setting, full: nn.Module, small: nn.Module) -> tuple[dict[str, Cut], list[str]]:
        """Return the cuts that the structures tell, and the names of tensors that they do not tell."""
        assert self._structures is not None
        ours = {name: tuple(tensor.shape) for name, tensor in shared_tensors(small, full).items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in shared_tensors(full, small).items()}
        stored = tensors_of(small).keys()
        pieces: Mapping[Axis, Stretches] = {}
        own = self._structures.get(setting)
        if own is not None:
            pieces = {
                (name, axis): stretches_of(term)
                for (name, axis), term in own.terms.items()
                if name in ours and size_of(term)[0] == ours[name][axis]
            }
        elif self._structures:
            pieces = solved(list(self._structures.values()), self._changed(setting), ours, theirs)
        cuts: dict[str, Cut] = {}
        missing: list[str] = []
        for name, shape in ours.items():
            for axis, size in enumerate(shape):
                told = size == theirs[name][axis] or (name, axis) in pieces
                if self._structures and not told and name in stored:
                    missing.append(f"axis {axis} of {name}")
            cuts[name] = Cut(shape, tuple(pieces.get((name, axis), ((0, size),)) for axis, size in enumerate(shape)))
        return cuts, missing

    def _align(self, tape: Tape, whole: Tape, full: nn.Module, small: nn.Module) -> Alignment:
        """Align a sub-model, with the declared layouts where it cannot be told without them."""
        found = align(tape, whole, groups=self._groups)
        undecided = _undecided(found)
        declared: dict[Axis, Term] = {
            axis: Sum([Leaf(*sizes) for sizes in zip(ours, theirs, strict=True)])
            for axis, (theirs, ours) in blocks_of(full, small, self.layouts).items()
            if axis in undecided
        }
        return align(tape, whole, declared, groups=self._groups) if declared else found

    def _refusal(self, setting: Setting, found: Alignment, full: nn.Module, small: nn.Module) -> LayoutError | None:
        """Say what cannot be cut at a setting, or is declared otherwise than the model does; None where all is well."""
        troubles = _undecided(found)
        by_shape, declared = cuts_by_shape(full, small, self.layouts), blocks_of(full, small, self.layouts)
        for name, cut in by_shape.items():
            for axis, pieces in enumerate(cut.pieces if name in found.terms else ()):
                said = next((one for one in reversed(self._given) if one.covers(name, axis)), None)
                term = found.terms[name][axis]
                if said is not None and (name, axis) not in troubles and stretches_of(term) != pieces:
                    return contradiction(setting, said, name, term, pieces)
        conflicting = {axis for trouble in found.conflicts for axis in trouble.axes}
        conflicting -= {axis for axis in conflicting if any(one.covers(*axis) for one in self._given)}
        made = dict(small.named_buffers(remove_duplicate=False))
        stored = tensors_of(small).keys()
        left = {
            axis: one
            for axis, one in troubles.items()
            if axis[0] in stored
            and (axis not in declared or axis in conflicting)
            and (axis[0] not in made or self.follows(setting, axis[0], made[axis[0]], by_shape[axis[0]], stored=True))
        }
        return undecidable(setting, left) if left else None

    def to_json(self, full: nn.Module) -> dict[str, Any] | None:
        """Return what was found as plain values, from which no trace is needed; None where it cannot be watched.

        What stands for all is watched at full depth before, where only shallow models were: afterwards, nobody can.
        """
        if self._structures is None:
            return None if self.unwatchable else {}  # nothing has run yet
        for setting in self._deeper:
            self._check(setting, full, outline(self._build, setting))
        self._deeper = []
        moved = any(
            len(pieces) > 1 or pieces[0][0]
            for structure in self._structures.values()
            for pieces in map(stretches_of, structure.terms.values())
        )
        told = {str(one): structure.to_json() for one, structure in self._structures.items()} if moved else {}
        return {"structures": told, "iterated": sorted(self.iterated)}

    def take(self, stored: StoredCuts, full: nn.Module) -> None:
        """Take up how a saved network was cut; nothing is watched then.

        Raises:
            LayoutError: If it is not of this network.
        """
        if stored.found is None:
            self.unwatchable = "it was not watched before it was saved"
        if not stored.found:
            return
        shapes = {name: tuple(tensor.shape) for name, tensor in full.named_parameters(remove_duplicate=False)}
        shapes |= {name: tuple(tensor.shape) for name, tensor in full.named_buffers(remove_duplicate=False)}
        try:
            told = stored.found["structures"].items()
            found = {self._space.setting(one): Structure.from_json(held) for one, held in told}
            iterated = frozenset(name for name in stored.found["iterated"] if name in shapes)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise LayoutError(f"What is stored of the cuts cannot be read: {error}.") from None
        for structure in found.values():
            for (name, axis), term in structure.terms.items():
                if name not in shapes or not 0 <= axis < len(shapes[name]) or size_of(term)[1] != shapes[name][axis]:
                    raise LayoutError(f"What is stored of the cuts is of another model: axis {axis} of {name}.")
        self._structures, self.iterated = found, iterated

    def __str__(self) -> str:
        if self._structures is None:
            return f"By layouts and shapes: {self.unwatchable or 'no example has run yet'}."
        return "\n".join(described(self._structures, self._notes))


def _undecided(found: Alignment) -> dict[tuple[str, int], Trouble]:
    """Return the axes of parameters that cannot be cut, with the reason of each."""
    troubles = {axis: trouble for trouble in (*found.doubts, *found.conflicts) for axis in trouble.axes}
    for name, axes in found.untouched.items():
        for axis in axes:
            troubles.setdefault((name, axis), Trouble("forward", "does not read it", ((name, axis),)))
    return troubles
