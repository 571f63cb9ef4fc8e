"""Samplers: which sub-models the next update trains."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
import torch.distributed

from ..errors import SettingError, SpaceError
from ..space import Number, Setting, Space

__all__ = [
    "Cycle",
    "Geometric",
    "Held",
    "PerDimension",
    "Sampler",
    "Sandwich",
    "Stratified",
    "Uniform",
    "Weighted",
    "WithLargest",
]


class Sampler(ABC):
    """Draws settings, one after another.

    The n-th draw is a function of the seed and n alone. So a run continues where it stopped (`state_dict`), and all
    processes draw the same: at the first draw they agree on process 0's seed and count.

    Args:
        space: What to draw from.
        seed: Any integer; left out, process 0 picks one at random.

    Attributes:
        space: What is drawn from.
        seed: The seed.
        count: How many settings were drawn.
        least: How many settings must be drawn at once, at least.
    """

    least = 1

    def __init__(self, space: Space, seed: int | None = None) -> None:
        self.space = space
        self.seed = random.SystemRandom().getrandbits(48) if seed is None else int(seed)
        self.count = 0
        self._agreed = False

    def draw(self, count: int = 1) -> list[Setting]:
        """Draw the settings of one update.

        Args:
            count: How many, at least 1.

        Returns:
            The settings, in the order drawn; they may repeat.
        """
        if not isinstance(count, int) or count < self.least:
            raise SettingError(
                f"count={count} settings cannot be drawn. Draw at least {self.least} from {type(self).__name__}."
            )
        self._agree()
        drawn = self._group(self.count, count)
        self.count += len(drawn)
        return drawn

    def _group(self, start: int, count: int) -> list[Setting]:
        return [self._pick(index) for index in range(start, start + count)]

    @abstractmethod
    def _pick(self, index: int) -> Setting:
        """Return draw number `index`, the same whenever it is asked."""

    def _random(self, index: int, purpose: str = "draw") -> random.Random:
        return random.Random(f"{self.seed}:{purpose}:{index}")

    def _agree(self) -> None:
        if not self._agreed and torch.distributed.is_available() and torch.distributed.is_initialized():
            state = [self.seed, self.count]
            torch.distributed.broadcast_object_list(state, src=0)
            self.seed, self.count = state
        self._agreed = True

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on drawing where this sampler stands."""
        return {"sampler": type(self).__name__, "seed": self.seed, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where another sampler of this kind stood.

        Raises:
            SettingError: If the state is another kind of sampler's.
        """
        if state.get("sampler") != type(self).__name__:
            raise SettingError(
                f"The state is that of {state.get('sampler')!r}, this sampler is {type(self).__name__}. "
                "Continue with the sampler that the run was started with."
            )
        self.seed, self.count = int(state["seed"]), int(state["count"])


@final
class Uniform(Sampler):
    """Draw every setting of the space with equal probability.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3, with uniform P_B.

    Example:
        >>> sampler = Uniform(Space(depth=[1, 2], width=[8, 16]), seed=0)
        >>> [str(setting) for setting in sampler.draw(2)]
        ['depth=1,width=16', 'depth=1,width=16']
    """

    def _pick(self, index: int) -> Setting:
        return self.space[self._random(index).randrange(self.space.size)]


@final
class Stratified(Sampler):
    """Draw every setting of the space once, in random order, before any is drawn again."""

    def __init__(self, space: Space, seed: int | None = None) -> None:
        super().__init__(space, seed)
        self._order: tuple[int, int, list[int]] | None = None

    def _pick(self, index: int) -> Setting:
        turn, place = divmod(index, self.space.size)
        if self._order is None or self._order[:2] != (self.seed, turn):
            order = list(range(self.space.size))
            self._random(turn, "turn").shuffle(order)
            self._order = (self.seed, turn, order)
        return self.space[self._order[2][place]]


@final
class Weighted(Sampler):
    """Draw each setting with a probability in proportion to its weight.

    Args:
        space: What to draw from.
        weights: One weight of at least 0 for each setting, by setting or by its text; a setting left out is not drawn.
        seed: Any integer; left out, process 0 picks one at random.

    Raises:
        SpaceError: If a weight is negative or not finite, or all are 0.
        SettingError: If a setting is not in the space.
    """

    def __init__(
        self, space: Space, weights: Mapping[Setting, float] | Mapping[str, float], seed: int | None = None
    ) -> None:
        super().__init__(space, seed)
        if not isinstance(weights, Mapping):
            raise SpaceError(f"The weights {weights!r} are no mapping. Give one number by setting, {{'depth=4': 2.0}}.")
        given = {space.setting(setting): float(weight) for setting, weight in weights.items()}
        if not all(w >= 0 and math.isfinite(w) for w in given.values()) or not sum(given.values()):
            raise SpaceError(f"The weights {list(given.values())} must be finite, at least 0 and not all 0.")
        self._settings, self._weights = list(given), list(given.values())

    def _pick(self, index: int) -> Setting:
        return self._random(index).choices(self._settings, self._weights)[0]


@final
class PerDimension(Sampler):
    """Draw each dimension on its own, by the weights of its `Support`.

    Raises:
        SpaceError: If the space is an explicit list, whose dimensions cannot be drawn apart.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: b_j from P_Bj for every dimension j.
    """

    def __init__(self, space: Space, seed: int | None = None) -> None:
        super().__init__(_product(space), seed)

    def _pick(self, index: int) -> Setting:
        generator = self._random(index)
        return Setting(
            {name: generator.choices(one.values, one.weights)[0] for name, one in self.space.supports.items()}
        )


@final
class Geometric(Sampler):
    """Draw each dimension from a geometric distribution over its support, the smallest value first.

    Args:
        space: A product of supports.
        p: Probability of the smallest value before normalisation, in (0, 1); the i-th value has p (1 - p)^i.
        seed: Any integer; left out, process 0 picks one at random.

    Raises:
        SpaceError: If `p` is outside (0, 1), or the space is an explicit list.

    Source:
        Valipour et al. (2022), arXiv:2210.07558v2, Sec. 5.3, with p = 0.15.
    """

    def __init__(self, space: Space, p: float = 0.15, seed: int | None = None) -> None:
        super().__init__(_product(space), seed)
        if not 0 < p < 1:
            raise SpaceError(f"p={p} is outside (0, 1). Choose a probability between, such as 0.15.")
        self.p = p

    def _pick(self, index: int) -> Setting:
        generator = self._random(index)
        values: dict[str, Number] = {}
        for name, support in self.space.supports.items():
            weights = [(1 - self.p) ** place for place in range(len(support.values))]
            values[name] = generator.choices(support.values, weights)[0]
        return Setting(values)


@final
class Cycle(Sampler):
    """Go through an explicit list of settings in the order given, again and again.

    Args:
        space: The space that the settings belong to.
        settings: The list; a setting may stand in it more than once.

    Raises:
        SettingError: If the list is empty or a setting is not in the space.
    """

    def __init__(self, space: Space, settings: Iterable[Mapping[str, Number] | str]) -> None:
        super().__init__(space, seed=0)
        self._list = [space.setting(one) for one in settings]
        if not self._list:
            raise SettingError("The list of settings to cycle through is empty. Give at least one setting.")

    def _pick(self, index: int) -> Setting:
        return self._list[index % len(self._list)]


class _Around(Sampler):
    """Draws fixed settings first at every update, and the rest from another sampler."""

    def __init__(self, inner: Sampler, first: Sequence[Setting]) -> None:
        super().__init__(inner.space, inner.seed)
        self.inner = inner
        self._first = list(dict.fromkeys(first))
        self.least = len(self._first) + 1

    def _group(self, start: int, count: int) -> list[Setting]:
        return self._first + self.inner.draw(count - len(self._first))

    def _pick(self, index: int) -> Setting:
        raise AssertionError("drawn in groups only")

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.inner.load_state_dict(state["inner"])


@final
class WithLargest(_Around):
    """Draw the full model at every update, and the rest from another sampler.

    Example:
        >>> sampler = WithLargest(Uniform(Space(depth=[1, 2, 4]), seed=0))
        >>> str(sampler.draw(3)[0])
        'depth=4'
    """

    def __init__(self, inner: Sampler) -> None:
        super().__init__(inner, [inner.space.full])


@final
class Sandwich(_Around):
    """Draw the largest and the smallest setting at every update, and the rest from another sampler.

    Source:
        Yu & Huang (2019), arXiv:1903.05134, Sec. 3.2: the sandwich rule.
    """

    def __init__(self, inner: Sampler) -> None:
        space = inner.space
        super().__init__(inner, [space.full, space.smallest if space.is_product else space.ordered()[0]])


@final
class Held(Sampler):
    """Draw once for several batches in a row, such as those whose gradients one update accumulates.

    Args:
        inner: Draws.
        batches: For how many batches each draw is held, at least 1.

    Raises:
        SettingError: If `batches` is no whole number of at least 1.

    Source:
        Valipour et al. (2022), arXiv:2210.07558v2, Algorithm 1: one rank for each update.

    Example:
        >>> sampler = Held(Cycle(Space(depth=[1, 2]), ["depth=1", "depth=2"]), batches=2)
        >>> [str(sampler.draw()[0]) for _ in range(4)]
        ['depth=1', 'depth=1', 'depth=2', 'depth=2']
    """

    def __init__(self, inner: Sampler, batches: int) -> None:
        if not isinstance(inner, Sampler):
            raise SettingError(f"{inner!r} is no sampler. Give one, such as Uniform(space, seed=0).")
        super().__init__(inner.space, inner.seed)
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise SettingError(f"batches={batches!r} is no number of batches. Give a whole number of at least 1.")
        self.inner, self.batches, self.least = inner, batches, inner.least
        self._drawn: list[Setting] = []

    def draw(self, count: int = 1) -> list[Setting]:
        if self.count % self.batches == 0:
            self._drawn = self.inner.draw(count)
        self.count += 1
        return list(self._drawn)

    def _pick(self, index: int) -> Setting:
        raise AssertionError("drawn in groups only")

    def state_dict(self) -> dict[str, Any]:
        drawn = [str(setting) for setting in self._drawn]
        return {**super().state_dict(), "inner": self.inner.state_dict(), "drawn": drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.inner.load_state_dict(state["inner"])
        self._drawn = [self.space.setting(one) for one in state["drawn"]]


def _product(space: Space) -> Space:
    if not space.is_product:
        raise SpaceError(
            f"{space!r} is an explicit list, whose dimensions cannot be drawn apart. "
            "Use Uniform, Stratified or Weighted, or declare the supports."
        )
    return space
