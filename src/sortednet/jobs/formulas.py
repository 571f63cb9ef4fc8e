"""What `sortednet symbolic train | fit | report` do."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import records
from ..files.manifest import MANIFEST
from ..files.run_folder import writing
from ..imports.packages import needs
from .fit_config import FitConfig
from .terminal import output_console

if TYPE_CHECKING:
    from ..symbolic.commands.points import PointsFile
    from ..symbolic.commands.record import FormulaRecord

with needs("Finding formulas", "cli,symbolic"):
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

__all__ = ["fit", "report", "train"]

RECORD, PAGE, PICTURE = "fit.json", "report.html", "report.png"
_POOR = 0.9  # R2 below which the user is told


def train(path: str, changes: Sequence[str], output: str | None, resume: bool, console: Console) -> None:
    """Train a model that writes formulas.

    Args:
        path: The YAML file.
        changes: Values to change, such as `training.updates=100`.
        output: The run's folder, instead of the file's.
        resume: Whether to go on from the last checkpoint in the folder.
        console: Where progress is shown.
    """
    with needs("Finding formulas", "cli,symbolic"):
        from .configurations import read_symbolic_config, with_output
    config = with_output(read_symbolic_config(path, changes), output)
    from ..symbolic.commands import training as symbolic_job

    net = symbolic_job.train(config, resume=resume, console=console)
    file = Path(config.output) / symbolic_job.FILE
    console.print(f"Trained a model of {len(net.space)} depths: {file}")
    console.print(f"Use it: sortednet symbolic fit POINTS.csv --model {file}")


def fit(path: str, columns: Sequence[str] | None, config: FitConfig, console: Console) -> None:
    """Find a formula for the points of a file, print it, and write `fit.json`.

    Args:
        path: The file, see `points_file.read_points`.
        columns: What the formula may depend on; all columns but the target where left out.
        config: How to look.
        console: Where notes are shown; the formulas go to the standard output.
    """
    from ..symbolic.commands.points import read_points

    points = read_points(path, config.target, columns)
    record = _found(path, points, config)
    _print(record)
    for one in record.facts.warnings:
        console.print(Text("warning: ", style="bold yellow"), one, sep="")
    with writing(config.output, _recognised(config.output)) as save:
        record.to_json(save.beside / RECORD)
    console.print(
        f"Wrote {Path(config.output) / RECORD}. See it as a page: sortednet symbolic report {config.output}",
        markup=False,
    )


def report(folder: str, title: str | None, console: Console) -> None:
    """Write `report.html` and `report.png` beside a `fit.json`.

    Args:
        folder: What `fit` wrote to.
        title: Heading of the page.
        console: Where it is told.
    """
    with needs("Finding formulas", "cli,symbolic"):
        from ..symbolic.commands.record import FormulaRecord
        from ..symbolic.commands.report import write_formula_page, write_formula_picture
    record = FormulaRecord.from_json(Path(folder) / RECORD)
    with writing(folder, _recognised(folder)) as save:
        write_formula_page(save.beside / PAGE, record, title=title)
        write_formula_picture(save.beside / PICTURE, record)
    console.print(f"Wrote {Path(folder) / PAGE} and {PICTURE}; open the page in a browser.")


def _recognised(folder: str) -> list[str]:
    """Return what an earlier version wrote into the folder of a fit, which kept no manifest."""
    if (Path(folder) / MANIFEST).exists():
        return []
    try:
        held = records.read(Path(folder) / RECORD)
    except (OSError, ValueError):
        return []
    own = isinstance(held, dict) and {"format", "sortednet", "formula"} <= held.keys()
    return [name for name in (RECORD, PAGE, PICTURE) if own and (Path(folder) / name).is_file()]


def _found(path: str, points: PointsFile, config: FitConfig) -> FormulaRecord:
    with needs("Finding formulas", "cli,symbolic"):
        from ..symbolic import Formula, SymbolicGPTRegressor, readable_names
        from ..symbolic.commands.record import FormulaRecord, SearchFacts
    regressor = SymbolicGPTRegressor(
        config.model, candidates=config.candidates, beams=config.beams, parsimony=config.parsimony,
        time_limit_s=config.time_limit_s, random_state=config.seed,
    )  # fmt: skip
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        regressor.fit(points.x, points.y)
    seconds = time.monotonic() - began
    used = [points.columns[place] for place in regressor.columns_]
    told = [" ".join(str(one.message).split()) for one in caught]
    if len(used) < len(points.columns):
        told = [one for one in told if not one.startswith("X has ")]
        told.insert(0, _left_out(points, used))
    found = regressor.search_
    names = readable_names(points.columns, len(points.columns))
    names = [names[place] for place in regressor.columns_]

    def named(formula: Formula) -> Formula:
        return replace(formula, names=tuple(names))

    best = named(regressor.formula_)
    told += _notes(points, best, found, config)
    proposals = None if found is None else found.proposals
    facts = SearchFacts(
        seconds=seconds,
        written=proposals.written if proposals else 0,
        invalid=proposals.invalid if proposals else 0,
        distinct=len(proposals.skeletons) if proposals else 0,
        familiar=regressor.familiar_,
        finished=found is None or found.finished,
        seed=config.seed,
        model=config.model,
        warnings=tuple(dict.fromkeys(told)),
    )
    return FormulaRecord(
        Path(path).name, points.target, tuple(used), best, tuple(map(named, regressor.candidates_)),
        points.x[:, regressor.columns_], points.y, len(points.y), facts,
    ).sampled()  # fmt: skip


def _left_out(points: PointsFile, used: Sequence[str]) -> str:
    return (
        f"There are {len(points.columns)} columns beside {points.target}, more than formulas are looked for among. "
        f"Only {', '.join(used)} are used, which explain it step by step. Choose others by --columns."
    )


def _notes(points: PointsFile, best: Any, found: Any, config: FitConfig) -> list[str]:
    """Say what is to be known of a formula that the estimator does not warn of."""
    from ..symbolic.commands.record import EXACT

    if found is None:
        return [f"Column {points.target} is constant: so is the formula, and the model wrote nothing."]
    notes: list[str] = []
    if best.error < EXACT:
        return notes
    if not found.finished:
        notes.append(
            f"Time was up after {config.time_limit_s:g} s, before all was tried. Give a larger --time_limit_s to look "
            "further."
        )
    if not 1 - best.error >= _POOR:
        notes.append(
            f"The formula leaves {min(best.error, 1):.0%} of the variance of {points.target} unexplained. Try more "
            "--candidates or another --seed; noise cannot be explained."
        )
    return notes


def _print(record: FormulaRecord) -> None:
    """Print the formula and those beside it."""
    from ..symbolic.commands.record import error_text, r2_text

    out = output_console()
    out.print(f"{record.target} = {record.best}", style="bold")
    points = f"{record.total:,} points" + (f", {len(record.y):,} of them kept" if len(record.y) < record.total else "")
    out.print(
        f"R2 {r2_text(record)} on the {points}; {record.facts.seconds:.1f} s; the model wrote {record.facts.written} "
        f"skeletons, {record.facts.invalid_share:.0%} invalid",
        markup=False,
    )
    out.print("\nFormulas of which none has another one that is both shorter and closer; the chosen one has a *:")
    shown = RichTable()
    shown.add_column("")
    shown.add_column("complexity", justify="right")
    shown.add_column("error", justify="right")
    shown.add_column("formula", overflow="fold")
    for one in record.candidates:
        mark = "*" if str(one) == str(record.best) else ""
        shown.add_row(mark, str(one.complexity), error_text(one.error), Text(str(one)))
    output_console(80).print(shown, soft_wrap=False)
