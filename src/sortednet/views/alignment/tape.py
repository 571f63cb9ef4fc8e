"""Tapes: what a model does on an example, operation by operation, with the tensors that go in and come out."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from ...imports.privates.torch import TorchDispatchMode, schema_of, tree_flatten, tree_map
from ..batches import tensors_of_batch
from .products import SteadyProducts

__all__ = ["Operation", "Ref", "Tape", "pairs_of", "pattern_of", "record", "with_gradients"]

# What a model does at one size and not at another: a reshape copies or does not.
_SAME = {
    **dict.fromkeys(("_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy"), "view"),
    "unsafe_split": "split",
    "unsafe_split_with_sizes": "split_with_sizes",
}
_MOST_NUMBERS = 64
_IN_PLACES = frozenset(
    ("view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "native_batch_norm", "native_layer_norm",
     "_native_batch_norm_legit_no_training", "native_group_norm", "_fused_rms_norm", "_prelu_kernel")
)  # fmt: skip
_COPIES = frozenset(
    ("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "detach_copy", "alias_copy", "lift_fresh_copy")
)


@dataclass(frozen=True)
class Ref:
    """A tensor on a tape.

    Attributes:
        key: The same for all copies of it.
        shape: Its sizes.
        numbers: Of a few whole numbers that the code itself gives, such as those of a list that it indexes by; else
            None.
    """

    key: int
    shape: tuple[int, ...]
    numbers: tuple[int, ...] | None = None


class Operation:
    """One operation.

    Attributes:
        name: Of the operator, without its namespace, overload, and the mark of those that work in place.
        arguments: By the names of its schema, tensors as `Ref`.
        inputs: The tensors among them.
        outputs: The tensors it returns.
        module: The path of the module that it happens in, and the number of the call.
        pointwise: Whether each number of its output depends on those at its own place.
        writes: Whether it changes any of its tensors.
        written: The keys of those that it changes.
        shape: What it is compared by: its name, and what made its tensors.
        roots: Of its tensors what made them, seen through what leaves units in their places: `relu(a(x))` is of `a`.
    """

    def __init__(
        self,
        operator: Any,
        arguments: tuple[Sequence[Any], Mapping[str, Any]],
        outputs: Sequence[Ref],
        module: tuple[str, int],
        producers: Mapping[int, str],
        roots: Mapping[int, str],
    ) -> None:
        schema = schema_of(operator)
        positional, named = arguments
        given = dict(zip([one.name for one in schema.arguments], positional, strict=False)) | dict(named)
        self.arguments: dict[str, Any] = {one.name: given.get(one.name, one.default_value) for one in schema.arguments}
        name = schema.name.split("::")[1]
        if schema.is_mutable and name.endswith("_"):
            name = name[:-1]
        self.name = _SAME.get(name, name)
        self.pointwise = torch.Tag.pointwise in operator.tags
        self.outputs, self.module, self.writes = list(outputs), module, bool(schema.is_mutable)
        self.written = [
            found.key
            for one in schema.arguments
            if one.alias_info is not None and one.alias_info.is_write
            for found in tree_flatten(self.arguments[one.name])[0]
            if isinstance(found, Ref)
        ]
        self.inputs = [one for one in tree_flatten(list(self.arguments.values()))[0] if isinstance(one, Ref)]
        self.shape = self.name, *(producers.get(one.key, "") for one in self.inputs)
        self.roots = [roots.get(one.key, "") for one in self.inputs]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of a model.

    Attributes:
        operations: In the order they happened.
        names: The shapes of the model's parameters and buffers, tied ones under each of their names.
        keys: Their keys.
        attributes: Names of tensors that are attributes of its modules and no parameters or buffers, by key.
        given: Keys of the inputs.
        output: The tensors of what the model returned.
        iterated: Names of buffers that it changed by its weights alone, whatever the inputs: such as the vectors of a
            power iteration.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        held: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self.names = {name: tuple(tensor.shape) for name, tensor in held.items()}
        self.keys = {name: id(tensor) for name, tensor in held.items()}
        self.attributes = {
            id(value): f"{path}.{name}".lstrip(".")
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Tensor)
        }
        self.given: set[int] = set()
        self.output: list[Ref] = []
        self.iterated: list[str] = []
        self._alive: list[Any] = [held]  # an id stays a tensor's own only while the tensor lives
        self._copied: dict[int, int] = {}
        self._producers: dict[int, str] = {}
        self._roots: dict[int, str] = {}
        self._numbers: dict[int, tuple[int, ...]] = {}
        self._stack: list[tuple[str, int]] = [("", 0)]
        self._calls: Counter[str] = Counter()
        for name, key in self.keys.items():
            self._producers.setdefault(key, name)
            self._roots.setdefault(key, name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        made = [one for one in tree_flatten(found)[0] if isinstance(one, Tensor)]
        if not made:
            return found
        self._alive.append((found, args, kwargs))
        if schema_of(func).name.split("::")[1] in _COPIES and made[0].shape == args[0].shape:
            self._note_numbers(args[0])
            self._copied[id(made[0])] = self._copied.get(id(args[0]), id(args[0]))
            return found
        positional, named, outputs = tree_map(self._ref, (list(args), dict(kwargs), made))
        module = self._stack[-1]
        made_by = Operation(func, (positional, named), outputs, module, self._producers, self._roots)
        self.operations.append(made_by)
        label = f"{module[0]}:{made_by.name}"
        passed = made_by.pointwise or made_by.name in _IN_PLACES
        for one in outputs:
            self._producers.setdefault(one.key, label)
            self._roots.setdefault(one.key, next(filter(None, made_by.roots), label) if passed else label)
        return found

    def _ref(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        key = self._copied.get(id(value), id(value))
        return Ref(key, tuple(value.shape), self._numbers.get(key))

    def _note_numbers(self, tensor: Tensor) -> None:
        """Note the numbers of a tensor that no operation made: the code's own."""
        plain = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.dtype == torch.int64
        key = self._copied.get(id(tensor), id(tensor))
        if plain and tensor.dim() == 1 and len(tensor) <= _MOST_NUMBERS and key not in self._producers | self._numbers:
            self._numbers[key] = tuple(tensor.tolist())

    def _changed_by_weights(self, model: nn.Module) -> list[str]:
        """Follow the inputs, and the weights, to the buffers that were changed or replaced."""
        now = {name: self._ref(tensor).key for name, tensor in model.named_buffers(remove_duplicate=False)}
        buffers = {name: self.keys[name] for name in now if name in self.keys}
        of_inputs, of_weights = set(self.given), set(self.keys.values()) - set(buffers.values())
        changed: set[int] = set()
        for one in self.operations:
            sources, made = {ref.key for ref in one.inputs}, {ref.key for ref in one.outputs} | set(one.written)
            changed |= set(one.written)
            for held in (of_inputs, of_weights):
                if sources & held:
                    held |= made
        return [
            name
            for name, key in buffers.items()
            if (key in changed or now[name] != key) and now[name] in of_weights and now[name] not in of_inputs
        ]

    @contextmanager
    def _within(self, model: nn.Module) -> Iterator[None]:
        """Note which module each operation happens in."""

        def enter(path: str) -> Any:
            def hook(*_: Any) -> None:
                self._stack.append((path, self._calls[path]))
                self._calls[path] += 1

            return hook

        def leave(*_: Any) -> None:
            self._stack.pop()

        handles = []
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(enter(path), prepend=True))
                handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Run a model, which is to be in evaluation mode, and record it."""
        self.given = {id(one) for one in tensors_of_batch((tuple(args), dict(kwargs)))}
        with self._within(model), SteadyProducts(), self:
            output = model(*args, **kwargs)
        self.output = [self._ref(one) for one in tensors_of_batch(output)]
        self.iterated = self._changed_by_weights(model)
        self._alive.clear()


_GRADIENTS: ContextVar[bool] = ContextVar("_GRADIENTS", default=False)


@contextmanager
def with_gradients() -> Iterator[None]:
    """Let models that are recorded inside take gradients themselves."""
    token = _GRADIENTS.set(True)
    try:
        yield
    finally:
        _GRADIENTS.reset(token)


def record(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, training: bool = False) -> Tape:
    """Run a model once, and return what it did.

    It runs in evaluation mode unless asked otherwise. Its modes and the random state stay as they were, and so do its
    buffers, but for what its forward itself writes.
    """
    tape, modes = Tape(model), [(module, module.training) for module in model.modules()]
    # With gradients torch's own attention runs what it consists of, and no kernel of its own.
    whole = _GRADIENTS.get() or any(isinstance(module, nn.MultiheadAttention) for module, _ in modes)
    try:
        with ExitStack() as held:
            held.enter_context(torch.random.fork_rng(devices=[]))
            held.enter_context(torch.set_grad_enabled(whole))
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    held.enter_context(torch.autocast(device, enabled=False))
            for module, _ in modes:
                module.training = training
            tape.run(model, args, kwargs)
    finally:
        for module, mode in modes:
            module.training = mode
    return tape


def pairs_of(small: Tape, full: Tape) -> list[tuple[Operation, Operation | None]]:
    """Lay two tapes side by side: for each operation of the small model the full one's, or None.

    They are compared call by call of each module. Calls that only the full model makes, such as those of deeper blocks,
    drop out.
    """
    calls: list[dict[tuple[str, int], list[Operation]]] = []
    for tape in (small, full):
        calls.append(defaultdict(list))
        for operation in tape.operations:
            calls[-1][operation.module].append(operation)
    partner: dict[int, Operation] = {}
    for call, ours in calls[0].items():
        _pair(ours, calls[1].get(call, []), partner)
    _pair_elsewhere(calls[0], calls[1], partner)
    return [(one, partner.get(id(one))) for one in small.operations]


def _pair(ours: Sequence[Operation], theirs: Sequence[Operation], partner: dict[int, Operation]) -> None:
    """Lay the operations of one call side by side."""
    if [one.name for one in ours] == [one.name for one in theirs]:
        partner.update(zip(map(id, ours), theirs, strict=True))
        return
    shapes = SequenceMatcher(None, [one.shape for one in ours], [one.shape for one in theirs], autojunk=False)
    for tag, first, last, start, end in shapes.get_opcodes():
        a, b = ours[first:last], theirs[start:end]
        if tag == "equal":
            partner.update(zip(map(id, a), b, strict=True))
        elif tag == "replace":  # what made their tensors differs, such as more of them to join
            names = SequenceMatcher(None, [one.name for one in a], [one.name for one in b], autojunk=False)
            for x, y, count in names.get_matching_blocks():
                partner.update(zip(map(id, a[x : x + count]), b[y : y + count], strict=True))


def _pair_elsewhere(
    ours: Mapping[tuple[str, int], Sequence[Operation]],
    theirs: Mapping[tuple[str, int], Sequence[Operation]],
    partner: dict[int, Operation],
) -> None:
    """Pair what is done in the last block, whichever that is: look in calls of blocks that the small model lacks."""
    taken = set(map(id, partner.values()))
    for (path, _), operations in ours.items():
        alone = [one for one in operations if id(one) not in partner]
        if not alone:
            continue
        for (other, _), others in reversed(list(theirs.items())):
            left = [one for one in others if id(one) not in taken]
            if not left or pattern_of(other) != pattern_of(path):
                continue
            keys, other_keys = ([tuple(map(pattern_of, one.shape)) for one in side] for side in (alone, left))
            blocks = SequenceMatcher(None, keys, other_keys, autojunk=False).get_matching_blocks()
            if sum(count for *_, count in blocks) == len(alone):
                for x, y, count in blocks:
                    partner.update(zip(map(id, alone[x : x + count]), left[y : y + count], strict=True))
                    taken.update(map(id, left[y : y + count]))
                break


def pattern_of(name: str) -> str:
    """Return a name, or a path, without its numbers: the same for what stands for the same in every block."""
    return re.sub(r"\d+", "*", name)
