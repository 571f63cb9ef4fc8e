"""Random draws that leave torch's own generators alone, which belong to the process and so to all its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["OwnDraws", "draws", "own_draws", "undrawn"]

Made = TypeVar("Made")

_SEED = 0
_KNOWN: WeakValueDictionary[int, Any] = WeakValueDictionary()  # builders that draw

_DRAWING = {
    "bernoulli", "bernoulli_", "binomial", "cauchy_", "exponential_", "geometric_", "kaiming_normal_",
    "kaiming_uniform_", "log_normal_", "multinomial", "normal", "normal_", "poisson", "rand", "rand_like", "randint",
    "randn", "randn_like", "random_", "randperm", "uniform_",
}  # fmt: skip
_LIKE: dict[str, Callable[..., Tensor]] = {"rand_like": torch.rand, "randn_like": torch.randn}


class OwnDraws(TorchFunctionMode):
    """Lets what this thread draws inside come from generators of its own, the same for the same seed.

    To seed torch's generators, or to put them back, would change what other threads draw meanwhile. It is not for
    dropout, which takes no generator.

    Args:
        seed: Of the generators. The draws are those after `torch.manual_seed(seed)`.

    Example:
        >>> before = torch.get_rng_state()
        >>> with OwnDraws(0):
        ...     drawn = torch.rand(2)
        >>> torch.equal(torch.get_rng_state(), before)
        True
        >>> torch.equal(torch.rand(2, generator=torch.Generator().manual_seed(0)), drawn)
        True
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    @property
    def has_drawn(self) -> bool:
        """Whether anything has been drawn."""
        return bool(self._generators)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in _DRAWING:  # nearly always
            return func(*args, **kwargs) if kwargs else func(*args)
        named = dict(kwargs or {})
        if any(isinstance(one, torch.Generator) for one in (*args, *named.values())):
            return func(*args, **named)
        like = next((one for one in (*args, *named.values()) if isinstance(one, Tensor)), None)
        chosen = named.get("device")
        device = torch.device(
            chosen if chosen is not None else torch.get_default_device() if like is None else like.device
        )
        if device.type == "meta":  # of which nothing is drawn
            return func(*args, **named)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        named["generator"] = self._generators[device]
        if func.__name__ in _LIKE and like is not None:  # which take no generator in older versions
            named = {"dtype": like.dtype, "device": device, **named}
            named.pop("memory_format", None)
            return _LIKE[func.__name__](like.shape, **named)
        return func(*args, **named)


def undrawn(make: Callable[[], Made], builder: Callable[..., Any]) -> Made:
    """Return what a builder makes, without any trace of what it draws.

    That is the same each time, in every thread, and torch's generator is left to all others. To watch what is drawn
    takes half as long again as most builders do, which draw nothing of parameters without memory: so each is believed
    to be of those until the generator has moved.

    Args:
        make: Calls the builder; it is called a second time where the generator has moved meanwhile.
        builder: What is found to draw is remembered of it, so that torch's generator moves for it only once.
    """
    if _KNOWN.get(id(builder)) is builder:
        with own_draws():
            return make()
    before = torch.get_rng_state()
    try:
        made = make()
    except BaseException:
        torch.set_rng_state(before)
        raise
    now = torch.get_rng_state()
    if torch.equal(now, before):
        return made
    if _is_seeded(now):
        torch.set_rng_state(before)
    with own_draws() as drawn:
        made = make()
    if drawn():  # else it was another thread
        torch.set_rng_state(before)
        with suppress(TypeError):  # of what takes no weak reference
            _KNOWN[id(builder)] = builder
    return made


def draws(builder: Callable[..., Any]) -> bool:
    """Whether a builder was found to draw anything but initial values of parameters."""
    return _KNOWN.get(id(builder)) is builder


@contextmanager
def own_draws(seed: int = _SEED) -> Iterator[Callable[[], bool]]:
    """Let this thread draw from generators of its own, always the same, and undo seeds that it gives to torch's.

    Where torch's generator of the CPU has only moved on, and was not seeded, other threads have drawn.

    Args:
        seed: Of these generators.

    Returns:
        What says, behind the context, whether anything was drawn or seeded.
    """
    before, drawn, seeded = torch.get_rng_state(), OwnDraws(seed), False
    try:
        with drawn:
            yield lambda: drawn.has_drawn or seeded
    finally:
        now = torch.get_rng_state()
        seeded = _is_seeded(now) and not torch.equal(now, before)
        if seeded:
            torch.set_rng_state(before)


def _is_seeded(state: Tensor) -> bool:
    """Whether nothing has been drawn since torch's generator of the CPU, whose state it is, was seeded."""
    return torch.equal(state, torch.Generator().manual_seed(torch.initial_seed()).get_state())
