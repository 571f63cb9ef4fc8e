"""One sorted model read at several depths, an ordinary one cut there, and models trained in different ways compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError
from ...symbolic import Pretrained, SearchConfig, SymbolicGPT, search
from ...symbolic.expressions import evaluate, freeze
from .problems import Problem
from .scores import deviation, r2

__all__ = [
    "SOLVED",
    "at_depth",
    "compared",
    "one_thread",
    "solve",
    "solved_share",
]

SOLVED = 0.999
"""A problem is solved if R2 at its test points is above this."""


def at_depth(pretrained: Pretrained, layers: int) -> Pretrained:
    """Return the model of the first layers, with its final norm and head: how a sorted model is read, and others cut.

    Args:
        pretrained: The model.
        layers: 1 to as many as it has.

    Raises:
        ConfigError: If it has not as many layers.
    """
    config = pretrained.model.config
    if not 1 <= layers <= config.layers:
        raise ConfigError(f"layers={layers} must be 1 to {config.layers}, the model's own.")
    model = SymbolicGPT(replace(config, layers=layers))
    wanted, held = model.state_dict(), pretrained.model.state_dict()
    model.load_state_dict({name: held[name] for name in wanted})
    return replace(pretrained, model=model.eval().requires_grad_(False))


def solve(
    pretrained: Pretrained,
    problem: Problem,
    seed: int = 0,
    config: SearchConfig | None = None,
    writing: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Look for a problem's formula, and say how good it is.

    Args:
        pretrained: The model.
        problem: The problem.
        seed: Of all that is drawn.
        config: Of the search.
        writing: More arguments of transformers' `generate`, such as a `custom_generate` that speculates.

    Returns:
        R2 by test, the share of invalid texts, and CPU seconds: of all and, on the clock, of the writing.
    """
    began = time.process_time()
    with one_thread():
        found = search(pretrained.model, problem.x, problem.y, config, seed=seed, writing=writing)
    seconds = time.process_time() - began
    formula = freeze(found.scaling.back(found.candidates[0].formula))
    scores = {}
    with np.errstate(all="ignore"):
        for name, (x, y) in problem.tests.items():
            scores[name] = r2(y, np.broadcast_to(evaluate(formula, list(x.T)), y.shape))
    proposals = found.proposals
    return {
        **scores,
        "invalid": proposals.invalid / proposals.written,
        "distinct": len(proposals.skeletons),
        "seconds": seconds,
        "writing_seconds": found.seconds["writing"],
    }


def solved_share(
    pretrained: Pretrained,
    problems: Sequence[Problem],
    *,
    test: str = "outside",
    seed: int = 0,
    config: SearchConfig | None = None,
    writing: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return the share of problems that a model solves, with its standard deviation, and medians of the seconds.

    Args:
        pretrained: The model.
        problems: At least one.
        test: Which test points count; `inside` for problems that have no others.
        seed: Of all that is drawn.
        config: Of the search.
        writing: More arguments of transformers' `generate`.
    """
    rows = [solve(pretrained, problem, seed, config, writing) for problem in problems]
    share = statistics.mean(row.get(test, row["inside"]) > SOLVED for row in rows)
    return {
        "share": share,
        "sd": deviation(share, len(rows)),
        "inside": statistics.mean(row["inside"] > SOLVED for row in rows),
        "invalid": statistics.mean(row["invalid"] for row in rows),
        "distinct": statistics.mean(row["distinct"] for row in rows),
        "problems": len(rows),
        "seconds": statistics.median(row["seconds"] for row in rows),
        "writing_seconds": statistics.median(row["writing_seconds"] for row in rows),
    }


def compared(
    groups: Mapping[str, Sequence[Pretrained]], problems: Sequence[Problem], *, config: SearchConfig | None = None
) -> dict[str, dict[str, Any]]:
    """Compare models trained in different ways, several seeds each, on the same problems.

    Args:
        groups: Models by the way they were trained, at least one each.
        problems: At least one.
        config: Of the search.

    Returns:
        By group the `shares` of its models, and their `mean` and `sd` (0 for one model).
    """
    found = {}
    for name, models in groups.items():
        rows = [solved_share(one, problems, config=config) for one in models]
        shares = [row["share"] for row in rows]
        spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
        found[name] = {"shares": shares, "mean": statistics.mean(shares), "sd": spread, "rows": rows}
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Return a context in which torch has one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
