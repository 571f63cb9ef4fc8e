"""What was found for a table of points, as a file: the formulas, the points, and how the search went."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape, unescape
from keyword import iskeyword
from pathlib import Path
from typing import Any, final

from ..._version import __version__
from ...errors import ConfigError
from ...files import records
from ...files.writing import write_bytes
from ...imports.packages import needs
from .. import Formula, readable_names
from ..expressions import FUNCTIONS, parse, to_text, variables_of

with needs("Finding formulas", "symbolic"):
    import numpy as np

__all__ = ["EXACT", "FormulaRecord", "SearchFacts", "error_text", "mathml_of", "python_of", "r2_text", "shortened"]

FORMAT = 1
MOST_POINTS = 2000
_MOST_NAME, _MOST_TEXT, _MOST_BRACKETS = 200, 20_000, 50
_MOST_ERROR = 1e100
EXACT = 1e-12
"""Errors below this are nothing but rounding."""
_PLAIN_NAME = re.compile(r"[^\W\d_]+(?:_?\d+)?", re.ASCII)  # that sympy prints well, such as theta_1


@final
@dataclass(frozen=True)
class SearchFacts:
    """How a search went.

    Attributes:
        seconds: That it took.
        written: Texts that the model wrote; 0 where y is constant, and nothing was written.
        invalid: How many of them were no skeleton.
        distinct: Skeletons among them.
        familiar: Whether the data are like those that the model learned from.
        finished: Whether it was not stopped by the time limit.
        seed: Of all that was drawn.
        model: The model's file; the one that comes with the package where None.
        warnings: What the user was told.
    """

    seconds: float
    written: int
    invalid: int
    distinct: int
    familiar: bool
    finished: bool
    seed: int
    model: str | None
    warnings: tuple[str, ...]

    @property
    def invalid_share(self) -> float:
        """Share of the texts that were no skeleton, in [0, 1]."""
        return self.invalid / self.written if self.written else 0.0


@final
@dataclass(frozen=True)
class FormulaRecord:
    """What was found.

    Attributes:
        source: Where the points are from.
        target: Name of what the formula gives.
        columns: Names of what it may depend on, in the order of the formulas' `names`, as they stand in the source.
        best: The formula.
        candidates: Formulas of which none has another one that is both shorter and closer, the shortest first.
        x: Points, at most 2,000 of them. Shape (N, D).
        y: Their values. Shape (N,).
        total: Points that the formulas were fitted to.
        facts: How the search went.
    """

    source: str
    target: str
    columns: tuple[str, ...]
    best: Formula
    candidates: tuple[Formula, ...]
    x: Any
    y: Any
    total: int
    facts: SearchFacts

    @property
    def r2(self) -> float:
        """Share of the variance of y that the formula explains."""
        return 1 - self.best.error

    def sampled(self) -> FormulaRecord:
        """Return the record with at most 2,000 of its points, drawn with a fixed seed."""
        if len(self.y) <= MOST_POINTS:
            return self
        kept = np.sort(np.random.default_rng(0).permutation(len(self.y))[:MOST_POINTS])
        return FormulaRecord(**{**vars(self), "x": self.x[kept], "y": self.y[kept]})

    def to_json(self, path: str | Path) -> None:
        """Write it.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        held = {
            "format": FORMAT,
            "sortednet": __version__,
            "source": self.source,
            "target": self.target,
            "columns": list(self.columns),
            "names": list(self.best.names),
            "formula": self._described(self.best),
            "r2": _finite(self.r2),
            "candidates": [self._described(one) for one in self.candidates],
            "points": {"total": self.total, "x": self.x.tolist(), "y": self.y.tolist()},
            "facts": {**asdict(self.facts), "invalid_share": self.facts.invalid_share},
        }
        write_bytes(Path(path), records.to_text(held).encode())

    @staticmethod
    def _described(formula: Formula) -> dict[str, Any]:
        return {
            "text": str(formula),
            "plain": to_text(formula.terms),
            "latex": formula.latex(),
            "mathml": mathml_of(formula),
            "complexity": formula.complexity,
            "error": _finite(formula.error),
        }

    @classmethod
    def from_json(cls, path: str | Path) -> FormulaRecord:
        """Read it.

        Raises:
            ConfigError: If there is no such file, or it is damaged or of another version.
        """
        if not Path(path).is_file():
            raise ConfigError(
                f"There is no {Path(path).name} in {Path(path).parent}. Give the folder that 'sortednet symbolic fit' "
                "wrote to."
            )
        return records.read_format(
            path, FORMAT, _read, writer="'sortednet symbolic fit'", again="write it again: sortednet symbolic fit",
            error=ConfigError,
        )  # fmt: skip


def _read(held: Mapping[str, Any]) -> FormulaRecord:
    columns, names = (
        tuple(records.text(one, _MOST_NAME) for one in records.items(held["columns"])),
        tuple(map(records.text, records.items(held["names"]))),
    )
    for name in names:
        # It becomes part of code that is shown to be copied.
        if not name.isidentifier() or iskeyword(name) or len(name) > _MOST_NAME:
            raise ValueError(f"{name[:40]!r} is no name of a variable")
    if len(set(names)) < len(names):
        raise ValueError("a name of a variable twice")
    x = np.array([[records.number(one) for one in row] for row in held["points"]["x"]], float)
    y = np.array([records.number(one) for one in held["points"]["y"]], float)
    if x.shape != (len(y), len(columns)) or len(names) != len(columns) or not len(y):
        raise ValueError(f"points of shape {x.shape}, {len(y)} values, {len(columns)} columns, {len(names)} names")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a point is no finite number")

    def formula_of(one: Mapping[str, Any]) -> Formula:
        error = math.inf if one["error"] is None else records.number(one["error"])
        if not 0 <= error <= math.inf or _MOST_ERROR < error < math.inf:
            raise ValueError(f"an error of {error}")
        if len(records.text(one["plain"])) > _MOST_TEXT:
            raise ValueError(f"a formula of {len(one['plain']):,} characters")
        if one["plain"].count("(") > _MOST_BRACKETS:  # products of sums are multiplied out
            raise ValueError(f"a formula of {one['plain'].count('('):,} brackets")
        found = Formula.of(parse(one["plain"]), names, error)  # never evaluated as code
        if max(variables_of(found.terms), default=0) > len(names):
            raise ValueError(f"{one['plain']!r} has more variables than there are columns")
        return found

    if not records.items(held["candidates"]):
        raise ValueError("no candidates")
    facts = {name: value for name, value in held["facts"].items() if name != "invalid_share"}
    kinds = {"seconds": records.number, "written": records.whole, "invalid": records.whole, "distinct": records.whole,
             "familiar": records.flag, "finished": records.flag, "seed": records.whole}  # fmt: skip
    for name, kind in kinds.items():
        kind(facts[name])
    if not 0 <= facts["seconds"] < math.inf or facts["invalid"] > facts["written"]:
        raise ValueError("facts that no search has")
    facts["model"] = None if facts["model"] is None else records.text(facts["model"])
    facts["warnings"] = tuple(map(records.text, records.items(facts["warnings"])))
    return FormulaRecord(
        records.text(held["source"], 1000), records.text(held["target"], _MOST_NAME), columns,
        formula_of(held["formula"]),
        tuple(map(formula_of, records.items(held["candidates"]))), x, y, records.whole(held["points"]["total"], len(y)),
        SearchFacts(**facts),
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mathml_of(formula: Formula) -> str:
    """Return a formula in presentation MathML, its names as they are written, but `theta_1` as θ with an index."""
    from sympy import Symbol
    from sympy.printing.mathml import mathml

    # Where sympy would read an index or a power into a name, a letter of private use stands for it.
    kept = {chr(0xE000 + place): name for place, name in enumerate(formula.names) if not _PLAIN_NAME.fullmatch(name)}
    expression = formula.sympy().xreplace({Symbol(name): Symbol(letter) for letter, name in kept.items()})
    dot = any(len(name.rstrip("0123456789")) > 1 for name in formula.variables())  # `speed time` reads like one name
    text: str = mathml(expression, printer="presentation", mul_symbol="dot" if dot else None)
    text = unescape(text.replace("&ExponentialE;", "e"))  # what it names and numbers: no mark of HTML is among them
    for letter, name in kept.items():
        text = text.replace(letter, escape(name))
    text = re.sub(r"<(mo|mn)>-", "<\\1>\u2212", text)
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">{text}</math>'


def shortened(text: str, most: int = 70) -> str:
    """Cut a text to so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def error_text(error: float) -> str:
    """Print an error, a share of the variance."""
    return "exact" if error < EXACT else f"{error:.2e}" if math.isfinite(error) else "no value"


def python_of(record: FormulaRecord) -> str:
    """Return the formula as a function of numpy arrays, in Python."""
    text = str(record.best)
    used = [name for name in FUNCTIONS if re.search(rf"\b{name}\(", text)]
    imports = ", ".join("arcsin as asin" if name == "asin" else name for name in used)
    name = readable_names([record.target], 1)[0]
    lines = [f"from numpy import {imports}\n"] if used else []
    return "\n".join([*lines, f"def {name}({', '.join(record.best.names)}):", f"    return {text}"])


def r2_text(record: FormulaRecord) -> str:
    """Print R2, never rounded up to 1."""
    r2 = record.r2
    if not math.isfinite(r2):
        return "none"
    if record.best.error < EXACT:
        return "1"
    digits = min(6, max(4, math.ceil(-math.log10(record.best.error)) + 1))
    return f"{math.floor(r2 * 10**digits) / 10**digits:.{digits}f}"
