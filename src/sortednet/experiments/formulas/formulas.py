"""Symbolic regression: SymbolicGPT against gplearn, pyoperon and a network, on drawn problems and published lists."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, ConfigError
from ...files import records
from ...files.writing import write_bytes
from ...imports.packages import check_installed
from ..running import Conditions, Experiment, Job, Outcome, Result

if TYPE_CHECKING:  # they need transformers, scikit-learn and scipy
    from ...symbolic import Pretrained
    from .problems import Problem

__all__ = [
    "SIZES",
    "SYMBOLIC",
    "Sizes",
    "gathered",
    "jobs",
    "share",
    "share_by_shape",
    "summarise",
]

_GENERATED = ("generated-1", "generated-2", "generated-3", "generated-mixed")
_PUBLISHED = ("nguyen", "constants", "feynman")
_TITLES = {
    "generated-1": "drawn, 1 variable", "generated-2": "drawn, 2 variables", "generated-3": "drawn, 3 variables",
    "generated-mixed": "drawn, 1 to 3 variables", "nguyen": "Nguyen", "constants": "Nguyen, other constants",
    "feynman": "AI Feynman, up to 3 variables",
}  # fmt: skip
_METHODS = {"ours": "SymbolicGPT (ours)", "gplearn": "gplearn", "pyoperon": "pyoperon", "mlp": "MLP"}
_LIMITS = (0.99, 0.999)
_SHOWN, _DRAWN = 20, 7  # problems whose predictions are kept, and the most that are drawn
_GRID = 161  # points of these
_OVERVIEW = (0, 3, 4)  # sets whose curves the overview has


@dataclass(frozen=True)
class Sizes:
    """How many problems there are.

    Args:
        generated: Drawn problems of one variable.
        more_variables: Drawn problems of 2, of 3, and of 1 to 3 variables.
        seeds: Times that each Nguyen problem is sampled.
        hybrid: Drawn problems, of 1 to 3 variables, that pyoperon is started on.
        points: Training points of an AI Feynman problem.
        part: Most problems of a job.
    """

    generated: int
    more_variables: int
    seeds: int = 3
    hybrid: int = 60
    points: int = 100
    part: int = 250


SIZES = {"cpu": Sizes(100, 40, hybrid=40), "gpu": Sizes(1000, 1000, hybrid=250)}


def jobs(
    conditions: Conditions, sizes: Sizes | None = None, methods: Sequence[str] = tuple(_METHODS)
) -> dict[str, Job]:
    """Return the jobs: each method on each set, in parts, and pyoperon started from our formulas.

    Args:
        conditions: The scale, the seed, the folder of the published lists and our model's file.
        sizes: How many problems; those of the scale where left out.
        methods: Some of ours, gplearn, pyoperon and mlp.
    """
    from .problems import published_folder

    check_installed("A comparison", "peers", *(name for name in methods if name in ("gplearn", "pyoperon")))
    sizes = sizes or SIZES[conditions.scale]
    folder = published_folder(conditions.data)
    model = None if conditions.model is None else _digest(conditions.model)
    shared = {"seed": conditions.seed, "points": sizes.points}
    counts = {"generated-1": sizes.generated, **dict.fromkeys(_GENERATED[1:], sizes.more_variables)}
    if folder is not None:
        counts |= {"nguyen": sizes.seeds, "constants": 1, "feynman": 1}
    found = {}
    for method in methods:
        for name, count in counts.items():
            for start, stop in _parts(name, count, sizes.part):
                described = {**shared, "set": name, "samples": count, "rows": [start, stop], "method": method}
                if name in _GENERATED:
                    del described["samples"]
                if method == "ours":
                    described["model"] = model
                label = f"symbolic-{name}-{method}" + (f"-{start}" if start else "")
                found[label] = Job(partial(_measure, conditions, described), described)
    if "ours" in methods and "pyoperon" in methods:
        for name, count in {**counts, "generated-mixed": sizes.hybrid}.items():
            if name in ("generated-mixed", "nguyen", "feynman"):
                described = {**shared, "set": name, "rows": [0, count], "method": "hybrid", "model": model}
                if name not in _GENERATED:
                    described |= {"samples": 1, "rows": [0, None]}
                found[f"symbolic-{name}-hybrid"] = Job(partial(_measure, conditions, described), described)
    return found


def _digest(path: str) -> str:
    if not Path(path).is_file():
        raise ConfigError(f"model={path!r} is no file. Give one that sortednet symbolic train wrote, or leave it out.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _parts(name: str, count: int, most: int) -> Iterator[tuple[int, int | None]]:
    if name not in _GENERATED:
        yield 0, None
        return
    for start in range(0, count, most):
        yield start, min(count, start + most)


def _measure(
    conditions: Conditions, described: Mapping[str, Any], folder: Path, results: Mapping[str, Result]
) -> Result:
    """Let a method look for the formulas of some problems, each kept as soon as it is done."""
    from .problems import check_unseen, load_problems, published_folder

    kept = folder / "rows.json"
    start, stop = described["rows"]
    rows: list[Result] = _kept(kept, described)
    pretrained = _pretrained(conditions) if "model" in described else None
    if pretrained is not None:
        check_unseen(pretrained)
    problems = load_problems(
        described["set"], described.get("samples", stop), described["seed"], published_folder(conditions.data),
        points=described["points"],
    )[start:stop]  # fmt: skip
    one = _hybrid_row_of(pretrained) if described["method"] == "hybrid" else _row_of(described["method"], pretrained)
    for place in range(len(rows), len(problems)):
        rows.append(one(problems[place], described["seed"], start + place < _SHOWN))
        write_bytes(kept, records.to_text({"of": dict(described), "rows": rows}, indent=None).encode())
    return {"rows": rows, "set": described["set"], "method": described["method"]}


def _kept(path: Path, described: Mapping[str, Any]) -> list[Result]:
    if not path.is_file():
        return []
    try:
        found = records.read(path)
        start, stop = described["rows"]
        own = {**found["of"], "rows": [found["of"]["rows"][0], stop]}  # the first problems do not depend on the last
        same = own == json.loads(json.dumps(dict(described)))
        return list(found["rows"])[: None if stop is None else stop - start] if same else []
    except (OSError, *records.MALFORMED):
        raise CheckpointError(f"{path} is damaged. Remove it to do the job again.") from None


def _pretrained(conditions: Conditions) -> Pretrained:
    from ...symbolic import load_model, shipped

    return shipped() if conditions.model is None else load_model(conditions.model)


def _row_of(name: str, pretrained: Pretrained | None) -> Callable[[Problem, int, bool], Result]:
    from .methods import METHODS, ours

    method = ours(pretrained) if name == "ours" else METHODS[name]()

    def row(problem: Problem, seed: int, shown: bool) -> Result:
        import numpy as np

        found = method(problem.x, problem.y, seed)
        made = {"name": problem.name, "shape": problem.shape, "truth": problem.text, **_scores(found, problem)}
        if shown and problem.x.shape[1] == 1 and "outside" in problem.tests:
            grid = np.linspace(-5, 5, _GRID)
            values = np.asarray(found.predict(grid[:, None]), float)
            made["grid"] = [float(value) if math.isfinite(value) else None for value in values]
        return made

    return row


def _hybrid_row_of(pretrained: Pretrained | None) -> Callable[[Problem, int, bool], Result]:
    from .hybrid import cold_and_started

    def row(problem: Problem, seed: int, shown: bool) -> Result:
        found = cold_and_started(problem.x, problem.y, seed, pretrained)
        made: Result = {"name": problem.name, "shape": problem.shape, "truth": problem.text}
        return {**made, **{name: _scores(one, problem) for name, one in found.items()}}

    return row


def _scores(found: Any, problem: Problem) -> Result:
    """Return what is kept of a formula: plain JSON values, R2 of minus infinity as None."""
    from .scores import is_recovered, mse_n, r2

    row: Result = {"found": found.text, "seconds": found.seconds, "cpu_seconds": found.cpu_seconds}
    row["about"] = dict(found.about)
    row["recovered"] = is_recovered(found.formula, problem.truth, list(problem.tests.values()))
    for name, (x, y) in problem.tests.items():
        predicted = found.predict(x)
        quality, error = r2(y, predicted), mse_n(y, predicted)
        row[f"r2_{name}"] = quality if math.isfinite(quality) else None
        row[f"mse_n_{name}"] = error if math.isfinite(error) else None
    return row


# What was found


def gathered(results: Mapping[str, Result], method: str) -> dict[str, list[Result]]:
    """Return the rows of a method by set, in order of the sets."""
    found: dict[str, list[Result]] = {}
    for name in (*_GENERATED, *_PUBLISHED):
        rows = [row for one in results.values() if (one["set"], one["method"]) == (name, method) for row in one["rows"]]
        if rows:
            found[name] = rows
    return found


def share(rows: Sequence[Result], test: str, limit: float) -> float:
    """Return the share of problems with R2 above a limit."""
    return statistics.mean((row[f"r2_{test}"] or -math.inf) > limit for row in rows)


def share_by_shape(rows: Sequence[Result], test: str, limit: float) -> float:
    """Return the same with the problems of a shape counting as one together."""
    shapes: dict[str, list[Result]] = {}
    for row in rows:
        shapes.setdefault(row["shape"], []).append(row)
    return statistics.mean(share(own, test, limit) for own in shapes.values())


def _figures(name: str, method: str, rows: Sequence[Result]) -> dict[str, float]:
    """Return the figures of a method on a set, by name."""
    from .scores import deviation

    key = f"{name.replace('-', '_')}_{method}"
    found: dict[str, float] = {f"{key}_problems": len(rows)}
    for test in ("inside", "outside"):
        if f"r2_{test}" not in rows[0]:
            continue
        for limit in _LIMITS:
            own = share(rows, test, limit)
            found[f"{key}_{test}_{limit}"] = 100 * own
            found[f"{key}_{test}_{limit}_sd"] = 100 * deviation(own, len(rows))
    found[f"{key}_shapes_0.99"] = 100 * share_by_shape(rows, "inside", 0.99)
    found[f"{key}_recovered"] = 100 * statistics.mean(row["recovered"] for row in rows)
    found[f"{key}_seconds"] = statistics.median(row["seconds"] for row in rows)
    found[f"{key}_cpu_seconds"] = statistics.median(row["cpu_seconds"] for row in rows)
    written = sum(row["about"].get("written", 0) for row in rows)
    if written:
        found[f"{key}_invalid"] = 100 * sum(row["about"].get("invalid", 0) for row in rows) / written
    return found


def summarise(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    """Return the table and the figures."""
    from .scores import deviation

    rows: list[list[Any]] = []
    figures: dict[str, float] = {}
    for name, title in _TITLES.items():
        for method, label in _METHODS.items():
            held = gathered(results, method).get(name)
            if held is None:
                continue
            own = _figures(name, method, held)
            figures |= own
            key = f"{name.replace('-', '_')}_{method}"

            def cell(what: str, own: Mapping[str, float] = own, key: str = key, count: int = len(held)) -> str | None:
                value = own.get(f"{key}_{what}")
                return None if value is None else f"{value:.0f} ± {100 * deviation(value / 100, count):.0f}"

            rows.append(
                [title, label, len(held), cell("inside_0.99"), cell("inside_0.999"), cell("outside_0.999"),
                 None if method == "mlp" else cell("recovered"), own[f"{key}_cpu_seconds"], own.get(f"{key}_invalid")]
            )  # fmt: skip
    figures |= _hybrid_figures(results)
    for arm, title in {"cold": "pyoperon, cold", "started": "pyoperon, started from ours"}.items():
        held = [row[arm] for own in gathered(results, "hybrid").values() for row in own]
        if held:
            good = share(held, "inside", 0.999)
            cells = f"{100 * good:.0f} ± {100 * deviation(good, len(held)):.0f}"
            seconds = statistics.median(row["cpu_seconds"] for row in held)
            rows.append(
                ["drawn, Nguyen and AI Feynman, equal time", title, len(held), None, cells, None, None, seconds, None]
            )
    return Outcome(
        columns=["problems of", "method", "number", "R2 > 0.99 inside, %", "R2 > 0.999 inside, %",
                 "R2 > 0.999 outside, %", "exact, %", "seconds", "invalid, %"],
        rows=rows,
        figures=figures,
        notes=_notes(conditions, results),
        curves=_curves(results),
    )  # fmt: skip


def _hybrid_figures(results: Mapping[str, Result]) -> dict[str, float]:
    """Return how many problems pyoperon solves when started from ours and not cold, and the other way round."""
    found: dict[str, float] = {}
    gained = lost = 0
    for name, rows in gathered(results, "hybrid").items():
        test = "outside" if "r2_outside" in rows[0]["cold"] else "inside"
        for where in {test, "inside"}:
            for arm in ("ours", "cold", "started"):
                key = f"hybrid_{name.replace('-', '_')}_{arm}_{where}"
                found[key] = 100 * share([row[arm] for row in rows], where, 0.999)
        for row in rows:
            cold, started = ((row[arm][f"r2_{test}"] or -math.inf) > 0.999 for arm in ("cold", "started"))
            gained, lost = gained + (started and not cold), lost + (cold and not started)
        for arm in ("cold", "started"):
            found[f"hybrid_{name.replace('-', '_')}_{arm}_cpu_seconds"] = sum(row[arm]["cpu_seconds"] for row in rows)
    return {**found, "hybrid_gained": gained, "hybrid_lost": lost, "hybrid": gained - lost} if found else {}


def _curves(results: Mapping[str, Result]) -> dict[str, list[tuple[float, float]]]:
    """Return the cumulative curves of log MSE_N, outside for drawn problems, each thinned to 47 points."""
    from .scores import curve

    found = {}
    for method in _METHODS:
        for name, rows in gathered(results, method).items():
            test = "outside" if name in _GENERATED else "inside"
            points = curve([_error(row, test) for row in rows], bins=47)
            found[f"{name} {method}"] = [(round(across, 2), round(up, 1)) for across, up in points]
    return found


def _error(row: Result, test: str) -> float:
    error = row[f"mse_n_{test}"]
    return math.inf if error is None else float(error)


def _notes(conditions: Conditions, results: Mapping[str, Result]) -> str:
    shapes = {name: len({row["shape"] for row in rows}) for name, rows in gathered(results, "ours").items()}
    distinct = ", ".join(f"{count} of {_TITLES[name]}" for name, count in shapes.items())
    text = (
        "Share of problems, with the standard deviation of a share of so many. Drawn problems are those of the papers' "
        "generator, with skeletons that our model was not trained on (published lists are kept out of its training "
        "too), tested at fresh points inside of the training range [-3, 3] and in the papers' outer one, coordinates "
        f"of size 3 to 5. Distinct skeletons: {distinct}. Nguyen and the lists: 20 points as published, "
        f"{SIZES[conditions.scale].seeds} samples of each Nguyen problem; AI Feynman "
        f"{SIZES[conditions.scale].points} points; 1000 fresh test points. Exact: equal to the true formula as an "
        "expression, each number within 0.1 %. Seconds: median CPU time for a problem, one thread. Invalid: texts of "
        "our model that are no skeleton of the problem's variables. Ours writes 64 candidates; gplearn has a "
        "population of 1000 and 10 generations; pyoperon 1000 and 200,000 evaluations with fitted constants; the MLP "
        "two layers of 64 units. The last two rows: pyoperon started from our formulas against as long a cold start, "
        "our time included."
    )
    if not any(name in shapes for name in _PUBLISHED):
        text += " The published lists were left out, for there is no data/symbolic; give their folder by --data."
    return text


def _draw(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    """Write an overview, all curves, and more of the drawn problems, each to a file of its own."""
    from .pictures import Fit, write_overview
    from .problems import load_problems

    held = {label: gathered(results, method) for method, label in _METHODS.items()}
    curves = {}
    for name, title in _TITLES.items():
        test = "outside" if name in _GENERATED else "inside"
        own = {label: [_error(row, test) for row in rows[name]] for label, rows in held.items() if name in rows}
        if own:
            curves[title + (": outer range" if test == "outside" else "")] = own
    shown = {
        label: [row["grid"] for row in rows["generated-1"] if "grid" in row]
        for label, rows in held.items()
        if "generated-1" in rows
    }
    problems = load_problems("generated-1", min(map(len, shown.values())), conditions.seed, None)
    first = {problem.shape: place for place, problem in reversed(list(enumerate(problems)))}
    fits = [
        Fit(problems[place], {label: values[place] for label, values in shown.items()})
        for place in sorted(first.values())[:_DRAWN]
    ]
    title = "Drawn problems with unseen skeletons (training points in the shaded range), and the share of small errors"
    few = {heading: own for place, (heading, own) in enumerate(curves.items()) if place in _OVERVIEW}
    write_overview(path, fits[:4], few, title=title)
    write_overview(
        path.with_name(f"{path.stem}-curves.png"), [], curves, title="Share of problems with so small an error"
    )
    write_overview(path.with_name(f"{path.stem}-formulas.png"), fits, {}, title=title.partition(", and")[0])


SYMBOLIC = Experiment(
    "symbolic",
    "SymbolicGPT against other methods of symbolic regression (chapter 2 of the thesis)",
    jobs,
    summarise,
    _draw,
)
