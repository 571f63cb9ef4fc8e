"""What a sub-model costs: parameters, floating point operations, latency and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError
from ..imports.privates.torch import FakeTensorMode, TorchDispatchMode, tree_leaves
from ..network.sorted_net import SortedNet
from ..space import Number, Setting
from ..views.batches import call_with, map_tensors, tensors_of_batch, to_device
from ..views.examples import pick_inputs, size_of_inputs
from ..views.modes import evaluating
from ..views.skeletons import Slot

__all__ = [
    "MEASUREMENTS",
    "Measurement",
    "count_flops",
    "count_parameters",
    "examples_of",
    "measure_costs",
    "measure_latency",
    "measure_memory",
]

Measurement = Literal["flops", "latency", "memory"]
MEASUREMENTS: dict[Measurement, str] = {"flops": "flops", "latency": "latency_ms", "memory": "memory_bytes"}
"""The columns of what may be measured."""
_MOST_REASON = 300
_Sizes = WeakKeyDictionary[torch.UntypedStorage, int]


def examples_of(net: SortedNet, inputs: Any, count: int) -> Any:
    """Return the first examples of a batch, or all of it as it is where they cannot be told apart.

    A batch has no single examples where its tensors have different numbers of rows, as the nodes and the edges of a
    graph, or where the full model takes no part of it.

    Args:
        net: The network.
        inputs: Of its model, on its device.
        count: How many examples, at least 1.
    """
    named = isinstance(inputs, Mapping)
    several = isinstance(inputs, (tuple, list))
    call: Any = ((), inputs) if named else (tuple(inputs) if several else (inputs,), {})
    try:
        if size_of_inputs(call) <= count:
            return inputs
        args, kwargs = pick_inputs(call, slice(0, count))
        some = kwargs if named else args if several else args[0]
        on_cpu = all(tensor.device.type == "cpu" for tensor in tensors_of_batch(some))
        # An index beyond the rows that are left, as an edge's, is an error on the CPU and ends the process on a GPU.
        model = net.submodel(net.space.full) if on_cpu else net.extract(net.space.full).eval().cpu()
        with torch.no_grad():
            call_with(model, to_device(some, torch.device("cpu")))
    except Exception:
        # Whatever the model says of a part, the batch itself is what it takes.
        return inputs
    return some


def measure_costs(
    net: SortedNet, setting: Setting, example: Any, examples: Any, measure: Collection[Measurement]
) -> tuple[dict[str, float], dict[str, str]]:
    """Measure costs of a sub-model as it would be shipped.

    Args:
        net: The network.
        setting: The sub-model.
        example: Inputs that FLOPs are counted on.
        examples: Inputs that latency and memory are measured on.
        measure: Which costs.

    Returns:
        The costs by their columns, and for each column that stays empty the reason.
    """
    # A sub-model may put fused parameters together at each call; the extracted one does not.
    module = cache(lambda: net.extract(setting).eval())
    ways: dict[Measurement, Callable[[], float]] = {
        "flops": lambda: count_flops(net, setting, example),
        "latency": lambda: measure_latency(module(), examples),
        "memory": lambda: measure_memory(module(), examples),
    }
    found, reasons = {}, {}
    for name, way in ways.items():
        if name in measure:
            try:
                found[MEASUREMENTS[name]] = way()
            except Exception as error:
                reason = " ".join(f"{type(error).__name__} at {setting}: {error}".split())
                reasons[MEASUREMENTS[name]] = reason[:_MOST_REASON]
    return found, reasons


def count_parameters(net: SortedNet, setting: Mapping[str, Number] | str) -> int:
    """Count the parameters of a sub-model, without making any.

    Args:
        net: The network.
        setting: A setting or its text form.

    Returns:
        Number of parameters, those included that the sub-model has for itself; a tied parameter counts once.

    Raises:
        SettingError: If the setting is not in the space.

    Example:
        >>> from sortednet.space import Space
        >>> net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]))
        >>> count_parameters(net, "width=2"), count_parameters(net, "width=4")
        (8, 16)
    """
    return sum({slot.tie: math.prod(slot.cut.shape) for slot in net.skeleton(setting).parameters}.values())


def count_flops(net: SortedNet, setting: Mapping[str, Number] | str, inputs: Any) -> int:
    """Count the floating point operations of one forward of a sub-model in evaluation mode, without computing it.

    A multiply-add counts 2. Matrix products, convolutions and attention count; additions and activations do not. All of
    it happens on the meta device, on a sub-model of its own, so that nothing of the network changes.

    Args:
        net: The network.
        setting: A setting or its text form.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments; only shapes and dtypes are read, so
            that tensors on the meta device serve as well.

    Returns:
        Floating point operations of the whole batch.

    Raises:
        SettingError: If the setting is not in the space.
        ConfigError: If the model's forward does not run on the meta device.

    Source:
        `torch.utils.flop_counter.FlopCounterMode`. Attention is counted as its two matrix products over all pairs of
        tokens, masked or not, whichever kernel a device would choose: the default CPU kernel is not counted there.

    Example:
        >>> from sortednet.space import Space
        >>> net = SortedNet(lambda width: nn.Linear(3, width), Space(width=[2, 4]))
        >>> count_flops(net, "width=2", torch.ones(5, 3))  # 2 x 5 x 3 x 2
        60
    """
    checked = net.space.setting(setting)

    def empty(slot: Slot, held: Tensor) -> Tensor:
        return torch.empty(slot.cut.shape, dtype=held.dtype, device="meta")

    # What a forward gives back of its parameters, such as a view, would ask for a gradient.
    module = net.skeleton(checked, new=True).fill(empty).to("meta").eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    # Fake tensors on the meta device: from them a model can tell that it must not ask for values, such as a mask's.
    # What the forward makes itself, such as positions, goes to the meta device too.
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        torch.device("meta"),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        counter,
    ):
        try:
            call_with(module, map_tensors(lambda tensor: fake.from_tensor(tensor.to("meta")), inputs))
        except Exception as error:
            raise ConfigError(
                f"The forward of the sub-model at {checked} failed on the meta device: {type(error).__name__}: {error}."
                " Operations are counted without values: check the inputs' shapes, register tensors as buffers, and let"
                " no value of a tensor decide what is computed."
            ) from error
    return int(counter.get_total_flops())


def measure_latency(
    module: nn.Module, inputs: Any, *, min_run_seconds: float = 0.1, threads: int | None = None
) -> float:
    """Measure how long one forward takes, in evaluation and inference mode.

    Args:
        module: The model, on the device to measure; such as `net.submodel(...)`. Its training mode is put back.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments, on the same device.
        min_run_seconds: Repeat for at least so long, in seconds, above 0.
        threads: Number of CPU threads, at least 1; as many as torch uses now where left out.

    Returns:
        Median time of a forward, in milliseconds. On CUDA the device is waited for.

    Raises:
        ConfigError: If `min_run_seconds` or `threads` is out of range.

    Example:
        >>> measure_latency(nn.Linear(3, 2), torch.ones(1, 3), min_run_seconds=0.001) > 0
        True
    """
    if not min_run_seconds > 0:
        raise ConfigError(f"min_run_seconds={min_run_seconds} is not above 0. Give a time in seconds, such as 0.1.")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads} is below 1. Give at least one thread, or None for torch's own number.")
    timer = Timer(
        "call(module, inputs)",
        globals={"call": call_with, "module": module, "inputs": inputs},
        num_threads=torch.get_num_threads() if threads is None else threads,
    )
    with evaluating(module), torch.inference_mode():
        return float(timer.blocked_autorange(min_run_time=min_run_seconds).median) * 1000


def measure_memory(module: nn.Module, inputs: Any) -> int:
    """Measure the most memory that one forward holds at once, in evaluation mode and without gradients.

    What counts: parameters, buffers, and every tensor that the forward makes, from its making until it is freed. A view
    counts nothing beside its storage, and a tied parameter counts once. A parameter that shows only a part of a larger
    storage counts as that part, so that a sub-model costs what it would cost extracted.

    What does not count: the inputs, which the caller holds; the memory that a kernel takes and frees inside one
    operation (the columns of a convolution, the tiles of a fused attention); what an allocator adds by rounding.

    Args:
        module: The model; on any device, the meta device included. Its training mode is put back.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments, on the same device.

    Returns:
        Bytes at the peak.

    Example:
        >>> measure_memory(nn.Linear(3, 2), torch.ones(5, 3))  # 4 x (6 weights + 2 biases + 10 outputs)
        72
    """
    held: _Sizes = WeakKeyDictionary()
    for tensor in {id(one): one for one in (*module.parameters(), *module.buffers())}.values():
        storage = tensor.untyped_storage()
        held[storage] = min(held.get(storage, 0) + tensor.nbytes, storage.nbytes())
    at_rest = sum(held.values())
    for tensor in tensors_of_batch(inputs):
        held.setdefault(tensor.untyped_storage(), 0)
    live = _LiveStorages(held)
    with evaluating(module), torch.no_grad(), live:
        call_with(module, inputs)
    return at_rest + live.peak


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of the tensors that operations make, each for as long as it lives."""

    def __init__(self, known: _Sizes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = known
        self._live: _Sizes = WeakKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    # Again at every operation: one that writes to `out` may enlarge a storage seen before.
                    self._live[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self._live.values()))
        return made
