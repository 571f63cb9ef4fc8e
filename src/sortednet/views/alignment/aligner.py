"""Alignment: one call of the full and one of the small model, laid side by side, tell where every tensor lies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from . import losses, matrices, mixing, moving
from .rules import RULES, Rule, Terms, Unknown, size
from .siblings import ask_siblings
from .tape import Operation, Ref, Tape, pairs_of
from .terms import Conflict, Leaf, Solver, Stretches, Sum, Term, is_fixed, leaves_of, size_of, stretches_of, text_of

__all__ = ["Alignment", "Trouble", "align"]

_PARTS = frozenset(
    ("view", "slice", "select", "transpose", "permute", "unsqueeze", "squeeze", "expand", "narrow", "split")
)
_CHANNEL_WISE = frozenset(
    ("native_batch_norm", "_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm",
     "_fused_rms_norm")
)  # fmt: skip
_WHICH = frozenset(("dim", "dims", "dim0", "dim1", "dim2", "dimension", "step"))
_RULED = losses, matrices, mixing, moving  # whose import fills the table of rules


@dataclass(frozen=True)
class Trouble:
    """Where no cut is right, or none can be told.

    Attributes:
        where: The module's path and the operation.
        what: What happens there.
        axes: The axes of parameters that it leaves undecided, as (name, axis), in the model's order.
    """

    where: str
    what: str
    axes: tuple[tuple[str, int], ...]


@dataclass
class Alignment:
    """What was found about one small model.

    Attributes:
        terms: By name of a parameter or buffer of the small model, of each axis.
        outputs: Of the axes of each tensor that the models return; None where they have different ranks.
        conflicts: Where no cut is right.
        doubts: Where an operation without a rule, or one that only the small model does, leaves axes undecided.
        untouched: Axes of what neither model read, which no other axis of its kind tells either.
        alone: How often the small model alone puts tensors together, by place: it is another function there.
        statistics: How often numbers are put together along a changing axis, by place: norms, pooling over channels.
    """

    terms: dict[str, Terms] = field(default_factory=dict)
    outputs: list[Terms | None] = field(default_factory=list)
    conflicts: list[Trouble] = field(default_factory=list)
    doubts: list[Trouble] = field(default_factory=list)
    untouched: dict[str, tuple[int, ...]] = field(default_factory=dict)
    alone: Counter[str] = field(default_factory=Counter)
    statistics: Counter[str] = field(default_factory=Counter)

    def stretches(self, name: str) -> tuple[Stretches, ...]:
        """Return for each axis of a tensor the stretches of the full one that make it up."""
        return tuple(map(stretches_of, self.terms[name]))


def align(
    small: Tape, full: Tape, declared: Mapping[tuple[str, int], Term] | None = None, *, groups: bool = False
) -> Alignment:
    """Find where every tensor of the small model lies in the full one.

    Args:
        small: What the small model did.
        full: What the full one did on the same example.
        declared: Terms of axes that are known.
        groups: Whether the groups of a group norm are to hold the units of the full model's where nothing contradicts
            it, as a pretrained model was trained; else they are units that only a statistic joins.
    """
    return _Walk(small, full, declared or {}).run(groups)


class _Walk:
    """Goes along both tapes, and carries terms from operation to operation."""

    def __init__(self, small: Tape, full: Tape, declared: Mapping[tuple[str, int], Term]) -> None:
        self.small, self.full = small, full
        self.solver, self.origin, self.found = Solver(), "", Alignment()
        self._terms: dict[int, Terms] = {}
        self._other_terms: dict[int, Terms] = {}  # of what only the small model puts together
        self._wishes: list[tuple[str, Term, Term]] = []
        self._doubts: list[tuple[str, str, Term]] = []
        self._conflicts: list[tuple[str, str, list[Term]]] = []
        self._read: set[int] = set()
        self._unwritten: set[int] = set()
        self._seen_through: dict[int, int] = {}  # of a part of a tensor that is to be written, that tensor
        self._pairs = pairs_of(small, full)
        self._same: dict[int, int] = {}  # by a tensor of the full model, that of the small one
        self._counted: dict[int, Term] = {}  # by a tensor of numbers of places, the axis that these are of
        self._made = [{ref.key: one for one in tape.operations[::-1] for ref in one.outputs} for tape in (small, full)]
        self._weights = set(small.keys.values())
        self._alike: dict[tuple[int, int], Terms] = {}
        self._carried: dict[int, dict[int, Terms]] = {}
        for name, shape in small.names.items():
            big = full.names.get(name)
            if big is not None and len(big) == len(shape):
                sizes = zip(shape, big, strict=True)
                self._terms.setdefault(small.keys[name], [Leaf(a, b, name) for a, b in sizes])
        for (name, axis), term in declared.items():
            self.origin = name
            own = self._terms[small.keys[name]][axis]
            try:
                with self.solver.attempt():
                    self.meet(own, term)
            except Conflict as conflict:
                self._conflicts.append((name, str(conflict), [own]))

    # What rules ask

    def terms(self, ours: Ref, theirs: Ref) -> Terms:
        """Return the terms of a tensor's axes; an axis whose sizes are not those noted begins anew."""
        if len(ours.shape) != len(theirs.shape):
            raise Unknown(f"{len(ours.shape)} axes, and {len(theirs.shape)} in the full model")
        pairs = list(zip(ours.shape, theirs.shape, strict=True))
        known = self._terms.get(ours.key)
        if known is None or len(known) != len(pairs):
            known = self._terms[ours.key] = [self.leaf(*pair) for pair in pairs]
            self._same.setdefault(theirs.key, ours.key)
        other = self._other_terms.get(ours.key, known)
        if [size(term) for term in other] == pairs:  # what the full model has of what only the small one puts together
            return other
        if [size(term) for term in known] == pairs or self._same.get(theirs.key) == ours.key:
            return [term if size(term) == pair else self.leaf(*pair) for term, pair in zip(known, pairs, strict=True)]
        for other in (self._carriers(ours.key).get(theirs.key, known), self._made_alike(ours, theirs)):
            if [size(term) for term in other] == pairs:
                return other
        found = []
        told = self._are_of_layers(ours, theirs)
        for term, (small, full) in zip(known, pairs, strict=True):
            found.append(term if size(term) == (small, full) else self.leaf(small, full))
            if found[-1] is not term and small != full and not told:
                what = f"reads {small} units, and in the full model {full} of another tensor"
                self._doubts.append((self.origin, what, found[-1]))
        return found

    def _made_alike(self, ours: Ref, theirs: Ref) -> Terms:
        """Follow what made two tensors, where that is the same operation and without weights, as if it were a pair.

        Deeper blocks join more of the same tensors, or tensors of other levels; what the smaller model does last is
        then paired with what the full one does before.
        """
        pair = ours.key, theirs.key
        if pair not in self._alike:
            self._alike[pair] = []
            made, other = self._made[0].get(ours.key), self._made[1].get(theirs.key)
            if made is not None and other is not None and made.name == other.name:
                rule = _rule_of(made, other)
                if rule is not None and not any(ref.key in self._weights for ref in made.inputs):
                    place = [ref.key for ref in made.outputs].index(ours.key)
                    with suppress(Conflict, Unknown, IndexError, ValueError, RecursionError), self.solver.attempt():
                        self._alike[pair] = (rule(self, made, other) or [])[place]
        return self._alike[pair]

    def _are_of_layers(self, ours: Ref, theirs: Ref) -> bool:
        """Whether both are units of a layer, though of another one in the full model, such as of a deeper level."""
        for ref, made, weights in (
            (ours, self._made[0], self._weights),
            (theirs, self._made[1], set(self.full.keys.values())),
        ):
            place: Ref | None = ref
            while place is not None:
                one = made.get(place.key)
                if one is None:
                    return False
                if any(other.key in weights for other in one.inputs):
                    break
                passed = one.pointwise or one.name in _CHANNEL_WISE
                shape = place.shape
                place = next((other for other in one.inputs if other.shape == shape), None) if passed else None
            else:
                return False
        return True

    def _carriers(self, key: int) -> dict[int, Terms]:
        """Return the tensors that the full model alone makes of one that the small model has too, by key.

        Deeper blocks may join it to their own, before it or behind: the small model has none of these.
        """
        if key not in self._carried:
            found = {other: self._terms[key] for other, own in self._same.items() if own == key}
            paired = {id(theirs) for _, theirs in self._pairs}
            for operation in self.full.operations if found else ():
                held = [found.get(ref.key) for ref in operation.inputs]
                terms = next((one for one in held if one is not None), None)
                if terms is None or id(operation) in paired:
                    continue
                shape = operation.outputs[0].shape
                if operation.name == "cat" and sum(one is not None for one in held) == 1:
                    dim = operation["dim"] % len(shape)
                    parts = [
                        self.leaf(0, ref.shape[dim]) if one is None else one[dim]
                        for ref, one in zip(operation.inputs, held, strict=True)
                    ]
                    found[operation.outputs[0].key] = [*terms[:dim], Sum(parts), *terms[dim + 1 :]]
                elif operation.name in ("permute", "transpose", "t"):
                    found[operation.outputs[0].key] = moving.permuted(operation, terms)
                elif (operation.name in _CHANNEL_WISE or operation.pointwise) and len(terms) == len(shape):
                    found.setdefault(operation.outputs[0].key, terms)
            self._carried[key] = found
        return self._carried[key]

    def meet(self, one: Term, other: Term) -> None:
        """Make two axes one."""
        self.solver.unify(one, other, self.origin)

    def leaf(self, small: int, full: int, *, pinned: bool = False) -> Leaf:
        """Return a new axis without structure; a pinned one gets none, as its units are the first ones."""
        return Leaf(small, full, self.origin, pinned=pinned)

    def wish(self, one: Term, other: Term) -> None:
        """Make two axes one in the end, where nothing contradicts it."""
        self._wishes.append((self.origin, one, other))

    def count(self, numbers: Ref, term: Term) -> None:
        """Note that numbers are those of places of an axis."""
        self._counted[numbers.key] = term

    def counted(self, numbers: Ref) -> Term | None:
        """Return the axis of whose places these are the numbers; None where the model did not find them itself."""
        return self._counted.get(numbers.key)

    def doubt(self, *terms: Term) -> None:
        """Note that what happens along these axes is not known."""
        self._doubts += [(self.origin, "takes places of a changing axis by numbers", term) for term in terms]

    def statistic(self, *terms: Term) -> None:
        """Note that numbers along these axes are put together, whatever units they are of."""
        if not all(map(is_fixed, terms)):
            self.found.statistics[self.origin] += 1

    # The walk

    def run(self, groups: bool) -> Alignment:
        """Walk to the end, and read off what was found."""
        for ours, theirs in self._pairs:
            self.origin = f"{ours.module[0] or 'forward'}: {ours.name}"
            if ours.writes and ours.inputs:
                self._note_written(ours.inputs[0].key)
            if theirs is None:
                self._alone(ours)
                continue
            self._read.update(ref.key for ref in ours.inputs)
            if ours.name in _PARTS and (counted := self.counted(ours.inputs[0])) is not None:
                for ref in ours.outputs:
                    self.count(ref, counted)
            self._watch_memory(ours, theirs)
            self._step(ours, theirs)
        if groups:
            self._grant_wishes()
        self._conclude()
        return self.found

    def _alone(self, ours: Operation) -> None:
        """Follow what only the small model does.

        Pointwise operations can be: axes of one size in both models are one; where they are not, the full model could
        not do it, such as a shortcut between two widths that only the small model has equal.
        """
        if ours.name == "slice" and self._alone_slice(ours):
            return
        rank = len(ours.outputs[0].shape)
        known = [self._terms[ref.key] for ref in ours.inputs if ref.key in self._terms]
        if not ours.pointwise or not known or any(len(terms) != rank for terms in known):
            self._doubts += [
                (self.origin, "is done by the smaller model only", term)
                for ref in ours.inputs
                for term in self._terms.get(ref.key, ())
            ]
            return
        self.found.alone[self.origin] += 1
        # Of an axis of size 1 that grows, those of the others.
        first = self._terms[ours.outputs[0].key] = [
            next((one for one in axes if size(one)[0] == count), axes[0])
            for count, axes in zip(ours.outputs[0].shape, zip(*known, strict=True), strict=True)
        ]
        for terms in known:
            if [size(one)[0] for one in terms] == list(ours.outputs[0].shape) and terms != first:
                self._other_terms[ours.outputs[0].key] = terms
            for one, other in zip(first, terms, strict=True):
                if size(one) == size(other):
                    with suppress(Conflict), self.solver.attempt():
                        self.meet(one, other)

    def _alone_slice(self, ours: Operation) -> bool:
        """Follow a slice that the full model has no need of, as it takes all of an axis that nothing changes."""
        source, shape = ours.inputs[0], ours.outputs[0].shape
        if source.key in self.small.given and source.key not in self._terms:
            self._terms[source.key] = [self.leaf(count, count) for count in source.shape]
        terms = self._terms.get(source.key)
        dim = ours["dim"] % max(1, len(shape))
        if terms is None or len(terms) != len(shape) or ours["step"] != 1 or not is_fixed(terms[dim]):
            return False
        whole, start = size(terms[dim])[0], ours["start"] or 0
        start = max(0, min(whole, start + whole if start < 0 else start))
        part: Term = self.leaf(shape[dim], whole, pinned=True)
        if start:
            part = Sum([Leaf(0, start), Leaf(shape[dim], shape[dim]), Leaf(0, whole - start - shape[dim])])
        self._terms[ours.outputs[0].key] = [*terms[:dim], part, *terms[dim + 1 :]]
        return True

    def _watch_memory(self, ours: Operation, theirs: Operation) -> None:
        """Doubt what reads memory that no operation wrote, or tensors made elsewhere: a kernel behind torch's back."""
        if ours.name in _PARTS and ours.inputs[0].key in self._unwritten:
            self._unwritten.update(ref.key for ref in ours.outputs)
            self._seen_through.update(dict.fromkeys((ref.key for ref in ours.outputs), ours.inputs[0].key))
        elif not ours.writes and not ours.name.endswith("like"):
            for ref, big in zip(ours.inputs, theirs.inputs, strict=False):
                elsewhere = ref.key not in self._terms and ref.key not in self.small.given
                if ref.shape != big.shape and (ref.key in self._unwritten or elsewhere):
                    what = "reads memory that no operation of torch wrote"
                    if ref.key not in self._unwritten:
                        name = self.small.attributes.get(ref.key, "a tensor that no operation made")
                        what = f"reads {name}, which is no buffer. Register it: register_buffer(name, tensor)"
                    self._doubts += [(self.origin, what, t) for t in self._terms_or_none(ref, big)]
        if ours.name.startswith(("empty", "new_empty")):
            self._unwritten.update(ref.key for ref in ours.outputs)

    def _note_written(self, key: int) -> None:
        """Note that a tensor is written, or a part of it: what of it is not, nobody is to read."""
        while key in self._unwritten:
            self._unwritten.discard(key)
            key = self._seen_through.get(key, key)

    def _terms_or_none(self, ours: Ref, theirs: Ref) -> Terms:
        return self.terms(ours, theirs) if len(ours.shape) == len(theirs.shape) else []

    def _step(self, ours: Operation, theirs: Operation) -> None:
        terms: Sequence[Terms] | None = None
        why, lost = "has no rule", None
        rule = _rule_of(ours, theirs)
        if rule is not None:
            try:
                _refuse_other_axes(ours, theirs)
                with self.solver.attempt():
                    terms = rule(self, ours, theirs)
            except (Conflict, RecursionError) as conflict:
                inputs = [
                    term for a, b in zip(ours.inputs, theirs.inputs, strict=False) for term in self._terms_or_none(a, b)
                ]
                lost = inputs
                self._conflicts.append((self.origin, str(conflict), lost))
                terms = []
            except (Unknown, KeyError, IndexError, TypeError, ValueError) as error:
                why = f"cannot be followed: {error if isinstance(error, Unknown) else _difference(ours, theirs)}"
        if terms is None and ours.inputs:
            pairs = [*zip(ours.inputs, theirs.inputs, strict=False)]
            changing = any(a.shape != b.shape for a, b in [*pairs, *zip(ours.outputs, theirs.outputs, strict=False)])
            if changing:
                self._doubts += [(self.origin, why, term) for a, b in pairs for term in self._terms_or_none(a, b)]
            self._note(ours, theirs, [])
            pairs = [*zip(ours.outputs, theirs.outputs, strict=False)]
            self._doubts += [(self.origin, why, term) for a, b in pairs for term in self._terms_or_none(a, b)]
            return
        self._note(ours, theirs, terms or [])
        if lost is not None:  # what comes out begins anew, and is no more certain than what went in
            lost += [term for ref in ours.outputs for term in self._terms.get(ref.key, ())]

    def _note(self, ours: Operation, theirs: Operation, terms: Sequence[Terms]) -> None:
        """Note the terms of what comes out; where they do not have its sizes, it begins anew."""
        for place, (ref, big) in enumerate(zip(ours.outputs, theirs.outputs, strict=False)):
            given = terms[place] if place < len(terms) else None
            if (given is None and ref.key in self._terms) or len(ref.shape) != len(big.shape):
                continue  # written in place; or of no use
            fresh: Terms = [self.leaf(a, b) for a, b in zip(ref.shape, big.shape, strict=True)]
            if given is None or len(given) != len(fresh):
                given = fresh
            self._same.setdefault(big.key, ref.key)
            self._terms[ref.key] = [
                term if size(term) == size_of(new) else new for term, new in zip(given, fresh, strict=True)
            ]

    def _grant_wishes(self) -> None:
        for origin, one, other in self._wishes:
            try:
                with self.solver.attempt():
                    self.solver.unify(one, other, origin)
                    if any(leaf.small > leaf.full for leaf in leaves_of(one)):
                        raise Conflict("some would grow")
            except (Conflict, RecursionError):
                self.found.statistics[f"{origin}: of other groups"] += 1

    # The end

    def _conclude(self) -> None:
        found = self.found
        if len(self.small.output) == len(self.full.output):
            for ref, big in zip(self.small.output, self.full.output, strict=True):
                self._compare_outputs(ref, big)
                found.outputs.append(self.terms(ref, big) if len(ref.shape) == len(big.shape) else None)
        for name in self.small.names:
            key = self.small.keys[name]
            if key in self._terms and name in self.full.names:
                found.terms[name] = self._terms[key]
                open_axes = tuple(axis for axis, term in enumerate(self._terms[key]) if not is_fixed(term))
                if key not in self._read and open_axes:
                    found.untouched[name] = open_axes
        ask_siblings(found.terms, found.untouched)
        by_leaf: dict[int, dict[tuple[str, int], None]] = defaultdict(dict)
        growing: dict[tuple[str, int, int], dict[tuple[str, int], None]] = defaultdict(dict)
        for name, terms in found.terms.items():
            for axis, term in enumerate(terms):
                for leaf in leaves_of(term):
                    if leaf.small != leaf.full:
                        by_leaf[id(leaf)][name, axis] = None
                    if leaf.small > leaf.full:
                        growing[leaf.origin, leaf.small, leaf.full][name, axis] = None

        order = {(name, axis): None for name, terms in found.terms.items() for axis in range(len(terms))}

        def axes_of(terms: Sequence[Term]) -> tuple[tuple[str, int], ...]:
            reached = {axis for term in terms for leaf in leaves_of(term) for axis in by_leaf.get(id(leaf), ())}
            return tuple(axis for axis in order if axis in reached)

        for where, what, terms in self._conflicts:
            found.conflicts.append(Trouble(where, what, axes_of(terms)))
            if not found.conflicts[-1].axes:  # no matter of cuts, such as padding by other counts
                found.alone[where] += 1
        for (where, small, full), axes in growing.items():
            what = f"has an axis of {small} units in the smaller model, and of only {full} in the full one"
            found.conflicts.append(Trouble(where, what, tuple(axes)))
        grouped: dict[tuple[str, str], list[Term]] = defaultdict(list)
        for where, what, term in self._doubts:
            grouped[where, what].append(term)
        for (where, what), terms in grouped.items():
            if left := axes_of(terms):
                found.doubts.append(Trouble(where, what, left))

    def _compare_outputs(self, ours: Ref, theirs: Ref) -> None:
        """Doubt what the small model returns and the full one does not, such as a head whose name moves."""
        known = self._terms.get(ours.key, [])
        for term, pair in zip(known, zip(ours.shape, theirs.shape, strict=False), strict=False):
            if size(term) != pair:
                what = (
                    f"is what the smaller model returns, {text_of(term)}, and not what the full one does, {pair[1]}. "
                    "Where a layer's name moves with depth, such as that of a head at the end of a list, keep it out "
                    "of the list"
                )
                self._doubts.append(("forward: output", what, term))


def _difference(ours: Operation, theirs: Operation) -> str:
    """Say in what two operations differ that no rule holds for both."""
    for what, here, there in (("takes", ours.inputs, theirs.inputs), ("makes", ours.outputs, theirs.outputs)):
        if len(here) != len(there):
            return f"it {what} {_tensors(len(here))}, and {len(there)} in the full model"
        for one, other in zip(here, there, strict=True):
            if len(one.shape) != len(other.shape):
                return f"it {what} a tensor of {len(one.shape)} axes, and of {len(other.shape)} in the full model"
    return "it is called in a way that its rule does not know"


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _refuse_other_axes(ours: Operation, theirs: Operation) -> None:
    """Refuse to follow what each model does along axes of its own.

    Raises:
        Unknown: If they differ.
    """
    for name in (one for one in ours.arguments if one in _WHICH):
        here, there = ours[name], theirs.arguments.get(name)
        if here != there:
            raise Unknown(f"with {name}={here} and {name}={there} in the full model")


def _rule_of(ours: Operation, theirs: Operation) -> Rule | None:
    alike = ours.pointwise or _keeps_shape(ours, theirs)
    return RULES.get(ours.name) or (mixing.pointwise if alike else None)


def _keeps_shape(ours: Operation, theirs: Operation) -> bool:
    """Whether all that goes in and comes out has one shape, which is not the full model's."""
    shapes = {ref.shape for ref in (*ours.inputs, *ours.outputs)}
    return bool(ours.inputs and ours.outputs) and len(shapes) == 1 and ours.outputs[0].shape != theirs.outputs[0].shape
