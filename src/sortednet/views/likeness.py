"""Whether the full model is still what its builder makes at the full setting.

A sub-model is built anew by the builder, so that what a person has replaced, resized or added in the full model since
would be missing there. It is noticed by comparing modules and shapes each time a sub-model is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..errors import BuildError
from ..imports.privates.torch import buffers_of, children_of, parameters_of, persistent_buffers
from ..space import Setting
from .forwards import follow_forward, own_forward
from .layouts import tensors_of
from .outlines import is_quantised, outline

__all__ = ["Likeness", "Snapshot", "difference", "refuse_unlike"]


class Snapshot:
    """What modules were like when they were looked at: their classes, what lies in them, the shapes of their tensors.

    Args:
        modules: The modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(dict.fromkeys(modules))
        self._classes = list(map(type, self.modules))
        self._kinds = list(dict.fromkeys(self._classes))
        self._forwards = self._forwards_now()
        self._inner = [held for held in map(children_of, self.modules) if held]
        self._were = [dict(one) for one in self._inner]
        self._held = list(map(parameters_of, self.modules))
        self._counts = list(map(len, self._held))
        self._shapes = [
            (held, name, tensor.shape)
            for module in self.modules
            for held, tensors in (
                (parameters_of(module), parameters_of(module).items()),
                (buffers_of(module), persistent_buffers(module)),
            )
            for name, tensor in tensors
            if tensor is not None and not nn.parameter.is_lazy(tensor)
        ]

    def _forwards_now(self) -> list[Any]:
        return [one.__dict__.get("forward") for one in self.modules] + [
            getattr(kind, "forward", None) for kind in self._kinds
        ]

    def is_patched(self) -> bool:
        """Whether a module, or its class, has another forward now."""
        return self._forwards_now() != self._forwards

    def holds(self) -> bool:
        """Whether nothing has changed since. It runs at each use of a sub-model, so it compares whole lists."""
        if (
            list(map(type, self.modules)) != self._classes
            or self._inner != self._were
            or list(map(len, self._held)) != self._counts
            or self.is_patched()
        ):
            return False
        for held, name, shape in self._shapes:
            tensor = held.get(name)
            if tensor is None or tensor.shape != shape:
                return False
        return True


class Likeness:
    """The full model of a network, compared with what its builder makes whenever it has changed.

    Args:
        build: The network's builder.
        setting: The full setting.
        full: The full model as it is at first.
    """

    def __init__(self, build: Callable[..., nn.Module], setting: Setting, full: nn.Module) -> None:
        self._build, self._setting = build, setting
        self._seen: Snapshot | None = Snapshot(full.modules())

    def __deepcopy__(self, memo: dict[int, Any]) -> Likeness:
        return _restored(copy.deepcopy(self._build, memo), self._setting)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._build, self._setting)  # a copy has other modules

    def changed(self, full: nn.Module) -> bool:
        """Whether the full model is another than when it was last compared."""
        seen = self._seen
        return seen is None or seen.modules[0] is not full or not seen.holds()

    def check(self, full: nn.Module, follow: Callable[[nn.Module], bool]) -> bool:
        """Compare the full model with what the builder makes now.

        Args:
            full: The full model.
            follow: Lets the builder make what the full model is now, if it can, and returns whether anything changed.

        Returns:
            Whether sub-models have other sizes than before, or do something else.

        Raises:
            BuildError: If they differ.
        """
        known = None if self._seen is None else set(self._seen.modules)
        is_patched = self._seen is not None and self._seen.is_patched()
        found, follows = difference(full, outline(self._build, self._setting), known), False
        if found is not None and follow(full):
            found, follows = difference(full, outline(self._build, self._setting), known), True
        if found is not None:
            raise BuildError(
                f"The full model was changed, and sub-models do not have it: {found}. Let the builder make it so, and "
                "give the changed model to a new SortedNet by model=; or change it back."
            )
        self._seen = Snapshot(full.modules())
        return follows or is_patched


def _restored(build: Callable[..., nn.Module], setting: Setting) -> Likeness:
    made = Likeness.__new__(Likeness)
    made._build, made._setting, made._seen = build, setting, None
    return made


def difference(full: nn.Module, made: nn.Module, known: set[nn.Module] | None = None) -> str | None:
    """Say in what a model differs from what its builder makes at the full setting.

    Args:
        full: The model.
        made: What the builder makes; its tensors may be on the meta device.
        known: The modules of the model that were there before. torch's own among the others are compared by all that
            they print; a person may have changed some of the known, such as a dropout rate.

    Returns:
        The first difference; None where there is none.
    """
    ours, theirs = (_modules_of(model) for model in (made, full))
    quantised = {path for path, module in ours.items() if theirs.get(path) is module and is_quantised(module)}
    shapes = [{name: tuple(one.shape) for name, one in tensors_of(model).items()} for model in (full, made)]
    for name in dict.fromkeys([*shapes[0], *shapes[1]]):
        in_full, in_made = (found.get(name, "missing") for found in shapes)
        if in_full != in_made and name.rpartition(".")[0] not in quantised:
            return f"{name} is {in_full} in it and {in_made} in what the builder makes"
    for path in dict.fromkeys([*theirs, *ours]):
        source, target = theirs.get(path), ours.get(path)
        where = path or "the model itself"
        if source is None or target is None:
            return f"{where} is {_named(source)} in it and {_named(target)} in what the builder makes"
        if source is target:
            continue
        if _kind(source) != _kind(target):
            return f"{where} is {_named(source)} in it and {_named(target)} in what the builder makes"
        problem = follow_forward(target, source) if own_forward(source) or own_forward(target) else None
        if problem is not None:
            return f"the forward of {where}: {problem}"
        new = known is not None and source not in known and type(source).__module__.startswith("torch.nn.")
        if new and source.extra_repr() != target.extra_repr():
            return f"{where} is {_printed(source)} in it and {_printed(target)} in what the builder makes"
    return None


def refuse_unlike(model: nn.Module, made: nn.Module, setting: Setting) -> None:
    """Refuse a given model that is not what the builder makes at the full setting.

    Args:
        model: The model.
        made: What the builder makes.
        setting: The full setting.

    Raises:
        BuildError: If it is another.
    """
    found = difference(model, made)
    if found is not None:
        raise BuildError(
            f"The given model is not the full model: {found} at {setting}. Let the builder make the given model at the "
            "full setting, or give the space its sizes."
        )


def _modules_of(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules(remove_duplicate=False))


def _kind(module: nn.Module) -> tuple[str, str]:
    """Return the name of a module's class, which a builder may define anew at each call; as it is without FSDP2."""
    kind = type(module)
    if len(kind.__bases__) == 2 and kind.__bases__[0].__name__ == "FSDPModule":
        kind = kind.__bases__[1]
    return kind.__module__, kind.__qualname__


def _named(module: nn.Module | None) -> str:
    return "missing" if module is None else type(module).__name__


def _printed(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"
