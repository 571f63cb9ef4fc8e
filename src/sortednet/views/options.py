"""How the full model is set in what is neither a weight nor a size: what a person changes there, sub-models have too.

A model reads more than its weights: fields of a config, a dropout rate, whether an adapter is switched on. Where such a
value is another in the full model than when the network was made, it takes the place of the sub-model's own, unless
that depends on the setting; and what is set back is set back. Sub-models follow at each use, so that it makes no
difference whether one was used before. Values are compared each time and copied only where one has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from operator import is_, itemgetter
from typing import Any, NamedTuple

from torch import nn

from ..errors import BuildError
from ..imports.privates.transformers import CHECKPOINTING
from ..space import Setting

__all__ = ["Changes", "Follower", "Held", "Merge", "Options"]

Merge = Callable[[Any, Any, Any], Any]
"""Makes a sub-model's value of its own, of the full model's at first, and of the full model's now; or refuses it."""

_PLAIN = (bool, int, float, str, type(None))
_SWITCHES = (bool, str, type(None))  # by which a model takes another way, and not only other numbers


class Held(NamedTuple):
    """Values that a person may set on a module, or on something that it holds.

    Attributes:
        where: What holds them, by its name in the module; empty for the module itself.
        values: All that it holds by name, as it is now.
        names: Which of them are to be followed.
        merge: By name, how, where it is not the full model's value that a sub-model gets.
        holder: What holds the object itself, and under which name, if it is not the module.
    """

    where: str
    values: dict[str, Any]
    names: tuple[str, ...]
    merge: Mapping[str, Merge] = {}
    holder: tuple[Mapping[str, Any], str] | None = None


class _Gone:
    """Stands for a value that is not there."""

    def __repr__(self) -> str:
        return "missing"

    def __copy__(self) -> _Gone:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Gone:
        return self

    def __reduce__(self) -> str:
        return "_GONE"


_GONE = _Gone()


class _Change(NamedTuple):
    """A value of the full model: what it was at first, what it is now, and how sub-models get it."""

    was: Any
    now: Any
    merge: Merge | None


Key = tuple[str, str]  # a module's path, and what it holds
Changes = Mapping[Key, Mapping[str, _Change]]
_Values = tuple[Key, dict[str, Any], Mapping[str, Any]]  # what there is now, and what was built
HeldBy = Callable[[nn.Module], Iterable[Held]]


class Options:
    """How a full model was set when its network was made, and what is different now.

    Args:
        held_by: Returns what may be set on a module, beside what torch's own layers were made with.
        full: The full model.

    Attributes:
        state: What of the changes may let the model take another way, the same for the same.
    """

    def __init__(self, held_by: HeldBy, full: nn.Module) -> None:
        self._held_by = held_by
        self._base = {
            key: {name: _copied(held.values[name]) for name in held.names if name in held.values}
            for key, held in self._found(full).items()
        }
        self._forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> Options:
        return _restored(copy.deepcopy(self._held_by, memo), copy.deepcopy(self._base, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._held_by, self._base)  # a copy has other modules

    def _forget(self) -> None:
        self._full: nn.Module | None = None
        self._changes: Changes = {}
        self.state: Hashable = ()

    def _found(self, model: nn.Module) -> dict[Key, Held]:
        """Return what may be set on a model; what several modules share, under the name of each."""
        return {
            (path, held.where): held
            for path, module in model.named_modules()
            for held in (*_of_layer(module), *self._held_by(module))
        }

    def changes(self, full: nn.Module) -> Changes:
        """Return what is set otherwise in the full model now; the same object as long as nothing changes."""
        if self._full is not full or not self._holds():
            self._look(full)
        return self._changes

    def _holds(self) -> bool:
        """Whether nothing has changed since the last look. It runs at each use, so it compares whole lists."""
        try:
            return (
                all(map(is_, [values.get(name) for values, name in self._holders], self._objects))
                and list(map(len, self._values)) == self._counts
                and [read(values) for read, values in zip(self._reads, self._values, strict=True)] == self._seen
            )
        except (KeyError, RuntimeError, ValueError):  # one is gone, or of a kind that does not compare
            return False

    def _look(self, full: nn.Module) -> None:
        found = self._found(full)
        self._holders = [held.holder for held in found.values() if held.holder is not None]
        self._objects = [values.get(name) for values, name in self._holders]
        single = {id(held.values): held for held in found.values()}.values()
        known = [(held.values, [name for name in held.names if name in held.values]) for held in single]
        self._values = [values for values, _ in known]
        self._counts = list(map(len, self._values))
        self._reads = [_reader(names) for _, names in known]
        self._seen = [_copied(read(values)) for read, values in zip(self._reads, self._values, strict=True)]
        changes: dict[Key, dict[str, _Change]] = {}
        for key, held in found.items():
            base = self._base.get(key, {})
            for name in dict.fromkeys((*held.names, *base)) if key in self._base else ():
                was, now = base.get(name, _GONE), held.values.get(name, _GONE)
                if not _same(was, now):
                    changes.setdefault(key, {})[name] = _Change(was, _copied(now), held.merge.get(name))
        if not _alike(changes, self._changes):
            self._changes = changes
            self.state = tuple(
                (key, name, change.now if isinstance(change.now, Hashable) else id(change.now))
                for key, changed in sorted(changes.items())
                for name, change in sorted(changed.items())
                if isinstance(change.now, _SWITCHES) or callable(change.now)
            )
        self._full = full

    def follower(self, made: nn.Module, setting: Setting) -> Follower:
        """Return what lets a model that the builder has made be set as the full model is."""
        return Follower(self, self._found(made), setting)

    def give(self, changes: Changes, made: nn.Module, setting: Setting) -> None:
        """Let a model that the builder has made be set as the full model was, but for what depends on the setting."""
        if changes:
            self.follower(made, setting).apply(changes, strict=False)


def _restored(held_by: HeldBy, base: dict[Key, dict[str, Any]]) -> Options:
    made = Options.__new__(Options)
    made._held_by, made._base = held_by, base
    made._forget()
    return made


class Follower:
    """Lets one sub-model be set as the full model is.

    Args:
        options: Of the network.
        held: What may be set on the sub-model, as it was built.
        setting: Of the sub-model.
    """

    def __init__(self, options: Options, held: Mapping[Key, Held], setting: Setting) -> None:
        self._options, self._setting = options, setting
        # What several modules share goes by the first of them.
        single = {id(one.values): (key, one) for key, one in reversed(list(held.items()))}
        self._held = [
            (key, one.values, {name: _copied(one.values[name]) for name in one.names if name in one.values})
            for key, one in single.values()
        ]
        # Some models write into their configs as they run, and would then not do the same twice.
        objects = {key for key, one in held.items() if one.holder is not None}
        self._written = [one for one in self._held if one[0] in objects]
        self._given: dict[Key, set[str]] = {}  # what was ever set
        self._left: list[Any] = []
        self._done: Changes | None = None

    def __call__(self, full: nn.Module) -> None:
        """Follow the full model as it is now.

        Raises:
            BuildError: If something was changed that depends on the setting.
        """
        changes = self._options.changes(full)
        if changes is not self._done:
            self.apply(changes)
        elif self._now() != self._left:
            self._apply(self._written, changes, strict=True)
        else:
            return
        self._left, self._done = _copied(self._now()), changes

    def _now(self) -> list[list[Any]]:
        return [list(map(values.get, built)) for _, values, built in self._written]

    def apply(self, changes: Changes, *, strict: bool = True) -> None:
        """Set what is changed, and all else as it was built.

        Args:
            changes: Of the full model.
            strict: Whether to refuse what depends on the setting; else it stays as it was built.

        Raises:
            BuildError: If something was changed that depends on the setting.
        """
        for key, changed in changes.items():
            self._given.setdefault(key, set()).update(changed)
        self._apply(self._held, changes, strict)

    def _apply(self, held: Iterable[_Values], changes: Changes, strict: bool) -> None:
        for key, values, built in held:
            wanted = {**dict.fromkeys(self._given.get(key, ()), _GONE), **built}
            for name, change in changes.get(key, {}).items():
                with nullcontext() if strict else suppress(BuildError):
                    wanted[name] = self._wanted(key, name, wanted[name], change)
            for name, one in wanted.items():
                if one is _GONE:
                    values.pop(name, None)
                elif name not in values or not _same(values[name], one):
                    values[name] = _copied(one)

    def _wanted(self, key: Key, name: str, built: Any, change: _Change) -> Any:
        if change.merge is not None:
            return change.merge(built, change.was, change.now)
        if _same(built, change.was) or _same(built, change.now):
            return change.now
        where = ".".join(part for part in (*key, name) if part)
        raise BuildError(
            f"{where} of the full model was set from {change.was!r} to {change.now!r}, and the sub-model at "
            f"{self._setting} has one of its own, {built!r}. Set it back, or give the changed model to a new SortedNet."
        )


def _of_layer(module: nn.Module) -> Iterator[Held]:
    """Yield what one of torch's own layers was made with, such as a dropout rate."""
    if type(module).__module__.startswith("torch.nn.modules"):
        values = vars(module)
        names = [name for name, one in values.items() if isinstance(one, _PLAIN) and _is_option(name)]
        yield Held("", values, tuple(names))


def _is_option(name: str) -> bool:
    return name != "training" and name not in CHECKPOINTING and not name.startswith("_")


def _reader(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Any]:
    """Return what reads the values of some names as a tuple."""
    # The first once more, as of one name alone it would be no tuple.
    return itemgetter(*names, names[0]) if names else lambda values: ()


def _copied(value: Any) -> Any:
    """Return a value whose lists and mappings do not change with those of the given one; all else is the same."""
    if type(value) is dict:
        return {name: _copied(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return copy.copy(value) if type(value) is set else value


def _alike(some: Changes, others: Changes) -> bool:
    """Whether changes set the same."""
    ours, theirs = (
        {(key, name): change.now for key, changed in changes.items() for name, change in changed.items()}
        for changes in (some, others)
    )
    return ours.keys() == theirs.keys() and all(_same(now, theirs[place]) for place, now in ours.items())


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except Exception:  # of kinds that do not compare
        return False
