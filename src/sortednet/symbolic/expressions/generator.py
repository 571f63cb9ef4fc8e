"""The generator of the papers: random trees, their skeletons, and problems with points, split by canonical skeleton."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np

from ...errors import ConfigError, DataError
from ..configuration import BINARY, GeneratorConfig
from .algebra import (
    NoFormulaError,
    Poly,
    Sum,
    add,
    apply,
    divide,
    multiply,
    number,
    power,
    scale,
    subtract,
    variable,
    variables_of,
)
from .interpreter import evaluate
from .skeletons import Skeleton, constants_of, fingerprint, read_skeleton, scale_free, skeleton_of
from .text import to_text

__all__ = [
    "GeneratorConfig",
    "Pool",
    "Problems",
    "Split",
    "draw_formula",
    "draw_problems",
    "excluded",
    "make_pool",
    "split_of",
    "stream",
]

Split = Literal["train", "validation", "test"]

_TRIES = 8  # draws of constants and points for a skeleton before it is passed by
_SPLITS = 10_000
_MOST_FAILURES = 500


def draw_formula(config: GeneratorConfig, variables: int, random_: random.Random) -> Poly:
    """Draw a tree and return its formula, with values.

    Raises:
        NoFormulaError: If it has no finite value, such as the logarithm of a negative constant.
    """

    def leaf() -> Poly:
        value = variable(random_.randint(1, variables))
        if random_.random() < config.constant_share:
            value = scale(value, random_.uniform(*config.constants))
        if random_.random() < config.constant_share:
            value = add(value, number(random_.uniform(*config.constants)))
        return value

    def node(level: int) -> Poly:
        if not level:
            return leaf()
        kind = random_.choice(config.operators)
        left = node(level - 1)
        if kind in BINARY:
            return {"add": add, "sub": subtract, "mul": multiply, "div": divide}[kind](left, node(level - 1))
        if kind == "pow":
            return power(left, random_.choice(config.powers))
        return left if kind == "id" else apply(kind, left)

    return node(random_.choice(config.levels))


def split_of(skeleton: Skeleton, config: GeneratorConfig) -> Split:
    """Return the split that a skeleton belongs to, the same whatever its variables are called."""
    place = int(fingerprint(skeleton), 16) % _SPLITS / _SPLITS
    if place < config.test_share:
        return "test"
    return "validation" if place < config.test_share + config.validation_share else "train"


@cache
def excluded() -> frozenset[str]:
    """Return the fingerprints of the shapes of published benchmarks, which are never trained on."""
    return frozenset((files("sortednet.symbolic") / "excluded.txt").read_text().split())


@dataclass(frozen=True)
class Pool:
    """Skeletons of a split, with how often random trees have them.

    Attributes:
        skeletons: By number of variables, the texts from the shortest to the longest, and their weights.
        share_failed: Share of trees without a finite value.
    """

    skeletons: dict[int, tuple[tuple[str, ...], tuple[float, ...]]]
    share_failed: float = 0.0

    def __len__(self) -> int:
        return sum(len(texts) for texts, _ in self.skeletons.values())

    @cached_property
    def sums(self) -> dict[int, Any]:
        """Weights added up, by number of variables. Each of shape (skeletons,)."""
        return {variables: np.cumsum(weights) for variables, (_, weights) in self.skeletons.items()}

    def draw(self, generator: np.random.Generator, band: tuple[float, float] = (0.0, 1.0)) -> tuple[str, int]:
        """Draw a number of variables, each equally often, and a skeleton by its weight.

        Args:
            generator: Of what is drawn.
            band: Which skeletons of each number of variables, from the shortest to the longest: their place begins at
                the first number, in [0, 1), and the second is their share; behind the longest come the shortest again.

        Returns:
            The skeleton's text, and the number of variables.
        """
        counts = sorted(self.skeletons)
        variables = counts[int(generator.integers(len(counts)))]
        sums = self.sums[variables]
        place = (band[0] + band[1] * generator.random()) % 1.0
        found = int(np.searchsorted(sums, place * sums[-1], side="right"))
        return self.skeletons[variables][0][min(found, len(sums) - 1)], variables

    def kept(self, wanted: Callable[[str], bool]) -> Pool:
        """Return the pool of the skeletons that are wanted.

        Raises:
            ConfigError: If none is left of some number of variables.
        """
        found = {}
        for variables, (texts, weights) in self.skeletons.items():
            held = [(text, weight) for text, weight in zip(texts, weights, strict=True) if wanted(text)]
            if not held:
                raise ConfigError(f"No skeleton of {variables} variables is left. Draw more, or allow longer ones.")
            found[variables] = (tuple(text for text, _ in held), tuple(weight for _, weight in held))
        return Pool(found, self.share_failed)


def make_pool(
    config: GeneratorConfig, draws: int, seed: int, split: Split | None, without: frozenset[str] | None = None
) -> Pool:
    """Draw trees, and keep the distinct skeletons of a split.

    Args:
        config: Of the generator.
        draws: Trees for each number of variables, at least 1.
        seed: Of the trees.
        split: Which skeletons to keep; all where None.
        without: Fingerprints of skeletons to pass by; those of published benchmarks where left out.

    Raises:
        ConfigError: If no skeleton is left.
    """
    if split is not None and split not in get_args(Split):
        raise ConfigError(f"split={split!r} is unknown. Choose one of {', '.join(get_args(Split))}.")
    without = excluded() if without is None else without
    found, failed = {}, 0
    for variables in config.variables:
        counts: Counter[str] = Counter()
        random_ = random.Random(f"{seed} {variables}")
        for _ in range(draws):
            try:
                formula = draw_formula(config, variables, random_)
            except (NoFormulaError, RecursionError):
                failed += 1
                continue
            counts[to_text(skeleton_of(formula))] += 1
        free: Counter[str] = Counter()
        for text, times in counts.items():
            with suppress(NoFormulaError):
                free[to_text(scale_free(read_skeleton(text)))] += times
        kept = {text: times for text, times in free.items() if _belongs(text, config, split, without)}
        if not kept:
            raise ConfigError(
                f"{draws} trees of {variables} variables have no skeleton for split={split!r}. Draw more (draws)."
            )
        ordered = sorted(kept.items(), key=lambda item: (len(item[0]), item[0]))
        found[variables] = (tuple(text for text, _ in ordered), tuple(times**config.frequency for _, times in ordered))
    return Pool(found, failed / (draws * len(config.variables)))


def _belongs(text: str, config: GeneratorConfig, split: Split | None, without: frozenset[str]) -> bool:
    skeleton = read_skeleton(text)
    if len(text) > config.longest or not variables_of(skeleton):
        return False
    if scale_free(skeleton) != skeleton:
        return False  # brackets that were kept for length, and are short enough without the values
    if constants_of(skeleton) > config.most_constants or fingerprint(skeleton) in without:
        return False
    return split is None or split_of(skeleton, config) == split


@dataclass(frozen=True)
class Problems:
    """Several problems of one skeleton.

    Attributes:
        skeleton: Its text.
        formula: Of the skeleton.
        constants: Their values. Shape (K, C).
        x: Training points. Shape (K, N, D).
        y: Their values. Shape (K, N).
        inside: Test points from where training points come from, and their values. (K, M, D) and (K, M).
        outside: Test points from outside, and their values; as many as have one.
    """

    skeleton: str
    formula: Sum
    constants: Any
    x: Any
    y: Any
    inside: tuple[Any, Any] | None = None
    outside: tuple[Any, Any] | None = None


def draw_problems(
    text: str,
    variables: int,
    config: GeneratorConfig,
    generator: np.random.Generator,
    count: int = 1,
    points: int | None = None,
    tests: bool = False,
) -> Problems | None:
    """Draw constants and points for a skeleton.

    Args:
        text: Of the skeleton.
        variables: Columns of x, D.
        config: Of the generator.
        generator: Of what is drawn.
        count: Problems, K.
        points: Training points, N; drawn as the config says where left out.
        tests: Whether to draw test points too, whose values are finite and at most `largest`.

    Returns:
        The problems; None if none of a number of draws has enough points with finite values.
    """
    formula = _read(text)
    low, high = config.points_of(variables)
    wanted = points or int(generator.integers(low, high + 1))
    constants = constants_of(formula)
    held: list[tuple[Any, ...]] = []
    missing = count
    for _ in range(_TRIES):
        values = generator.uniform(*config.constants, size=(constants, missing, 1))
        ends = _intervals(config, generator, variables, missing)
        x, y, good = _draw(formula, values, ends, wanted, config, generator, variables)
        drawn = [values[:, :, 0].T, x, y]
        if tests:
            for where in (ends, None):
                x, y, fine = _draw(formula, values, where, config.test_points, config, generator, variables)
                drawn += [x, y]
                good = good & fine
        held.append(tuple(one[good] for one in drawn))
        missing -= int(good.sum())
        if not missing:
            whole = [np.concatenate(parts) for parts in zip(*held, strict=True)]
            inside = (whole[3], whole[4]) if tests else None
            outside = (whole[5], whole[6]) if tests else None
            return Problems(text, formula, whole[0], whole[1], whole[2], inside, outside)
    return None


@cache
def _read(text: str) -> Skeleton:
    return read_skeleton(text)


def _intervals(config: GeneratorConfig, generator: np.random.Generator, variables: int, count: int) -> Any:
    """Return the ends of the interval of each coordinate. Shape (2, D, K, 1)."""
    low, high = config.inside
    ends = np.empty((2, variables, count, 1))
    ends[0], ends[1] = low, high
    if not config.narrow_share:
        return ends
    width = high - low
    shape = (variables, count, 1)
    own = generator.random(shape) < config.narrow_share
    kind = generator.random(shape)
    around = generator.uniform(width / 12, width / 2, shape)
    first = np.where(generator.random(shape) < 0.5, 0.0, generator.uniform(0, width / 3, shape))
    first, last = first, first + generator.uniform(width / 12, width / 2, shape)
    left = generator.uniform(low, high - width / 12, shape)
    right = generator.uniform(left + width / 12, high)
    lows = np.where(kind < 0.35, -around, np.where(kind < 0.75, first, left))
    highs = np.where(kind < 0.35, around, np.where(kind < 0.75, last, right))
    return np.where(own, [lows, highs], ends)


def _draw(
    formula: Sum,
    values: Any,
    ends: Any | None,
    wanted: int,
    config: GeneratorConfig,
    generator: np.random.Generator,
    variables: int,
) -> tuple[Any, Any, Any]:
    """Draw three times as many points as are wanted, and keep the first with finite values.

    Returns:
        x of shape (K, N, D), y of shape (K, N), and which problems have as many points, (K,); the rest is of no use.
    """
    count, many = values.shape[1], 3 * wanted
    if ends is None:
        columns = _outer(config, generator, (variables, count, many))
    else:
        columns = generator.uniform(ends[0], ends[1], size=(variables, count, many))
    with np.errstate(all="ignore"):
        y = np.broadcast_to(evaluate(formula, list(columns), values), (count, many))
        fine = np.abs(y) <= config.largest  # false for what is no number
        first = np.argsort(~fine, axis=1, kind="stable")[:, :wanted]
        y = np.take_along_axis(y, first, 1)
        x = np.take_along_axis(columns, first[None], 2)
        varied = y.std(1) > 1e-6 * np.maximum(1e-6, np.abs(y).max(1))
    return np.moveaxis(x, 0, 2), y, (fine.sum(1) >= wanted) & varied


def _outer(config: GeneratorConfig, generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Draw coordinates of outer test points: of either sign, their size within `config.outside`."""
    sizes = generator.uniform(*config.outside, size=shape)
    return np.where(generator.random(shape) < 0.5, -sizes, sizes)


def stream(
    pool: Pool,
    config: GeneratorConfig,
    seed: int,
    block: int,
    problems: int,
    instances: int = 1,
    points: int | None = None,
    band: float = 1.0,
) -> Iterator[Problems]:
    """Draw the problems of a block, which is a function of the seed and the block's number alone.

    Args:
        pool: The skeletons.
        config: Of the generator.
        seed: Of all blocks.
        block: The block's number.
        problems: How many problems, at least 1.
        instances: How many of them share a skeleton, at least 1.
        points: Training points of each; drawn as the config says where left out.
        band: Share of the skeletons, of about the same length, that a block is from, in (0, 1]; over all blocks each
            skeleton keeps its weight.

    Raises:
        DataError: If hundreds of skeletons in a row have no finite values.
    """
    generator = np.random.default_rng([seed, block])
    start = 0.0 if band == 1.0 else float(generator.random())
    left, failures = problems, 0
    while left:
        text, variables = pool.draw(generator, (start, band))
        drawn = draw_problems(text, variables, config, generator, min(left, instances), points)
        failures = failures + 1 if drawn is None else 0
        if failures > _MOST_FAILURES:
            raise DataError(
                f"{failures} skeletons in a row have too few points with values up to {config.largest}; the last is "
                f"{text}. Raise largest, widen inside or constants, or draw other skeletons."
            )
        if drawn is not None:
            left -= len(drawn.y)
            yield drawn
