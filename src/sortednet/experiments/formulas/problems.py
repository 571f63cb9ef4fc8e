"""Problems that formulas are looked for in: drawn ones with unseen skeletons, and published lists."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from ...symbolic import GeneratorConfig, Pretrained, make_pool
from ...symbolic.expressions import (
    NoFormulaError,
    Pool,
    Problems,
    Split,
    Sum,
    draw_problems,
    evaluate,
    fill,
    fingerprint,
    freeze,
    parse,
    rebuild,
    skeleton_of,
    to_text,
    variable,
)

__all__ = ["SETS", "Problem", "check_unseen", "generated", "listed", "load_problems", "published_folder"]

SETS = ("generated-1", "generated-2", "generated-3", "generated-mixed", "nguyen", "constants", "feynman")
"""Drawn problems of 1, 2, 3 and 1 to 3 variables; Nguyen-1 to 12; the same with other constants; AI Feynman."""

_MIXED = GeneratorConfig(variables=(1, 2, 3), points=((20, 250),))
_TEST_POINTS = 1000
_DRAWS = 20_000  # trees that skeletons are from, for each number of variables
_LARGEST = 100.0  # the source of Nguyen's points drops larger |y|
_MOST_VARIABLES = 3
_FILES = {"nguyen": "nguyen.csv", "constants": "nguyen_constants.csv", "feynman": "ai_feynman.csv"}


@dataclass(frozen=True)
class Problem:
    """A table of numbers, the formula that it is of, and points to test with.

    Attributes:
        name: Of the problem within its set.
        x: Training points. Shape (N, D).
        y: Their values. Shape (N,).
        tests: By name, `inside` of the range of the training points, and for drawn problems `outside` of it: points of
            shape (M, D), and values of shape (M,).
        truth: The formula, with values.
        shape: Fingerprint of its skeleton: problems that have it in common differ by constants and names alone.
        names: Of the variables.
    """

    name: str
    x: Any
    y: Any
    tests: Mapping[str, tuple[Any, Any]]
    truth: Sum
    shape: str
    names: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        """The formula as text."""
        return to_text(self.truth, self.names or None)


def load_problems(
    name: str,
    count: int,
    seed: int,
    folder: Path | None,
    *,
    points: int = 100,
    split: Split = "test",
    draws: int | None = None,
) -> list[Problem]:
    """Make the problems of a set.

    Args:
        name: One of `SETS`.
        count: Drawn problems; or times that each of a published list is sampled, with points of its own.
        seed: Of all that is drawn.
        folder: With the published lists.
        points: Training points of an AI Feynman problem.
        split: Which skeletons the drawn problems have.
        draws: Trees that their skeletons are from, for each number of variables; 20,000 where left out.

    Raises:
        ConfigError: If the set is unknown, or a number below 1.
        DataError: If a published list is not in the folder.
    """
    if name not in SETS:
        raise ConfigError(f"set={name!r} is unknown. Choose one of {', '.join(SETS)}.")
    if count < 1:
        raise ConfigError(f"problems={count} of {name} is below 1. Leave the set out instead.")
    if name in _FILES:
        return listed(name, _published(folder), range(seed * count, (seed + 1) * count), points)
    kind = name.removeprefix("generated-")
    config = _MIXED if kind == "mixed" else GeneratorConfig(variables=(int(kind),))
    return generated(config, count, seed, split=split, draws=draws)


def generated(
    config: GeneratorConfig, count: int, seed: int, *, split: Split = "test", draws: int | None = None
) -> list[Problem]:
    """Draw problems of the papers' generator, tested inside of the range and in the papers' outer one.

    Args:
        config: Of the generator.
        count: Problems.
        seed: Of the skeletons, constants and points. The first problems do not depend on the count.
        split: Which skeletons: those of `test` no model of ours was trained on.
        draws: Trees that the skeletons are from, for each number of variables; 20,000 where left out.
    """
    pool = _pool(config, draws or _DRAWS, seed, split)
    generator = np.random.default_rng([seed, *config.variables])
    found: list[Problem] = []
    while len(found) < count:
        text, variables = pool.draw(generator)
        drawn = draw_problems(text, variables, config, generator, tests=True)
        if drawn is not None:
            found.append(_problem(f"{len(found)}", drawn))
    return found


@cache
def _pool(config: GeneratorConfig, draws: int, seed: int, split: Split) -> Pool:
    return make_pool(config, draws, seed, split)


def _problem(name: str, drawn: Problems) -> Problem:
    assert drawn.inside is not None
    assert drawn.outside is not None
    tests = {"inside": (drawn.inside[0][0], drawn.inside[1][0]), "outside": (drawn.outside[0][0], drawn.outside[1][0])}
    filled = fill(drawn.formula, drawn.constants[0])
    try:
        truth = freeze(rebuild(filled, variable))
    except NoFormulaError:  # such as the logarithm of a negative constant, in a formula that has values all the same
        truth = filled
    return Problem(name, drawn.x[0], drawn.y[0], tests, truth, fingerprint(drawn.formula))


def check_unseen(pretrained: Pretrained, split: Split = "test") -> None:
    """Make sure that a model was not trained on the skeletons of a split.

    Raises:
        ConfigError: If its own generator had other splits.
    """
    own, ours = pretrained.generator, GeneratorConfig()
    if (own.test_share, own.validation_share) != (ours.test_share, ours.validation_share):
        raise ConfigError(
            f"The model was trained with test_share={own.test_share} and validation_share={own.validation_share}, so "
            f"that it may have seen the skeletons of split={split!r}, made with {ours.test_share} and "
            f"{ours.validation_share}. Train it with these."
        )


def published_folder(data: str | None) -> Path | None:
    """Return the folder of the published lists, `data/symbolic` where left out; None if there is none there."""
    for folder in (Path(data), Path(data) / "symbolic") if data is not None else (Path("data/symbolic"),):
        if (folder / _FILES["nguyen"]).is_file():
            return folder
    if data is not None:
        raise DataError(
            f"There is no {_FILES['nguyen']} in {data}, nor in {data}/symbolic. Give the folder that has it."
        )
    return None


def _published(folder: Path | None) -> Path:
    if folder is None:
        raise DataError("The published lists need a folder. Give it by --data.")
    return folder


def listed(name: str, folder: Path, seeds: Sequence[int], points: int = 100) -> list[Problem]:
    """Sample the problems of a published list, those with up to three variables.

    Args:
        name: `nguyen` and `constants`, with the numbers of points that `nguyen_sampling.csv` says, or `feynman`.
        folder: With the lists.
        seeds: Of the points; each problem is sampled once for each.
        points: Training points of an AI Feynman problem, at least 2.
    """
    sampling = {}
    if name != "feynman":
        sampling = {
            row["name"]: json.loads(row["train_sampling"])["all"]["U"] for row in _rows(folder, "nguyen_sampling.csv")
        }
    found: list[Problem] = []
    for row in _rows(folder, _FILES[name]):
        names = tuple(row["variables"].split())
        if len(names) > _MOST_VARIABLES:
            continue
        truth = freeze(parse(row["expression"], names))
        ranges = json.loads(row["ranges"])
        low, high, count = sampling.get(row["name"], (None, None, points))
        ends = [ranges[one] if low is None else (low, high) for one in names]
        for seed in seeds:
            generator = np.random.default_rng([seed, len(found)])
            x, y = _sampled(truth, ends, int(count), generator)
            tests = {"inside": _sampled(truth, ends, _TEST_POINTS, generator)}
            label = f"{row['name']}/{seed}" if len(seeds) > 1 else row["name"]
            found.append(Problem(label, x, y, tests, truth, fingerprint(skeleton_of(truth)), names))
    return found


def _rows(folder: Path, name: str) -> Iterator[Mapping[str, str]]:
    path = folder / name
    if not path.is_file():
        raise DataError(f"There is no {path}. Give the folder of the published lists by --data.")
    with open(path, newline="") as file:
        yield from csv.DictReader(file)


def _sampled(
    truth: Sum, ends: Sequence[Sequence[float]], count: int, generator: np.random.Generator
) -> tuple[Any, Any]:
    """Draw points with finite values, of |y| below 100 as the source has them, or of any size if all are larger."""
    low, high = np.array(ends, float).T
    x = generator.uniform(low, high, size=(4 * count, len(low)))
    with np.errstate(all="ignore"):
        y = np.broadcast_to(evaluate(truth, list(x.T)), (len(x),))
    good = np.isfinite(y)
    if (good & (np.abs(y) < _LARGEST)).sum() >= count:
        good &= np.abs(y) < _LARGEST
    return x[good][:count], y[good][:count]
