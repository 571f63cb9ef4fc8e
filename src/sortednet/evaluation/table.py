"""The table: what each sub-model is worth and what it costs. Choose from it; nothing is searched."""

from __future__ import annotations

import csv
import io
import math
import numbers
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, overload

from ..errors import ConfigError, SettingError
from ..files import records
from ..files.writing import write_bytes
from ..space import Number, Setting
from .directions import is_better
from .margins import Margins
from .row import COLUMNS, COSTS, INTERVALS, WHOLE, Row, readable

__all__ = ["Row", "Table", "readable"]

_BOUNDED = ("quality", "recovery", *COSTS)
_SHOWN = ("quality", "reported", "recovery", *COSTS)
_MOST_NAME, _MOST_TEXT = 200, 1000
_VERSION = 1


def _line(value: object) -> str:
    """Return a text of one line, as the files hold them."""
    return " ".join(str(value).split())[:_MOST_TEXT]


def _told(value: object) -> str | Number:
    return value if type(value) is int or type(value) is float else _line(value)


class Table(Sequence[Row]):
    """One row per sub-model, ordered by parameters, then by setting.

    Args:
        rows: What was measured; at least one row, each setting once, all of the same dimensions.
        metric: Name of the quality.
        higher_is_better: Whether a higher quality is the better one, as of an accuracy; False for a loss. Where left
            out, the metric's name tells (see `direction_of`).
        conditions: What it was measured on, and with what, by name: `examples`, `processor`, `threads` and others.
        notes: Why a column is empty or has gaps, by column.
        margins: By how much two qualities may differ by chance.

    Attributes:
        dimensions: Names of the dimensions.
        metric: Name of the quality.
        higher_is_better: Whether a higher quality is the better one; None where nobody has said, so that nothing can be
            chosen. It may be set.
        conditions: As given.
        notes: As given.

    Raises:
        SettingError: If there is no row, a setting comes twice, the dimensions differ or bear a column's name.

    Example:
        >>> table = Table([Row(Setting({"depth": d}), quality=q, params=100 * d) for d, q in [(2, 0.8), (4, 0.9)]])
        >>> print(table)
        depth  accuracy  params
            2     0.800     200
            4     0.900     400
        >>> table.select(max_params=300)
        Setting('depth=2')
    """

    def __init__(
        self,
        rows: Iterable[Row],
        metric: str = "accuracy",
        higher_is_better: bool | None = None,
        *,
        conditions: Mapping[str, str | Number] | None = None,
        notes: Mapping[str, str] | None = None,
        margins: Margins | None = None,
    ) -> None:
        given = list(rows)
        if not given:
            raise SettingError("A table has 0 rows. Give at least one.")
        if not (higher_is_better is None or isinstance(higher_is_better, bool)):
            raise ConfigError(f"higher_is_better={higher_is_better!r} must be True or False, or left out.")
        self.dimensions = tuple(given[0].setting)
        self.metric = metric
        self.higher_is_better = is_better(metric) if higher_is_better is None else higher_is_better
        self.conditions = {_line(name)[:_MOST_NAME]: _told(value) for name, value in (conditions or {}).items()}
        self.notes = {_line(name)[:_MOST_NAME]: _line(reason) for name, reason in (notes or {}).items()}
        self._margins = margins
        for row in given:
            if row.setting.keys() != given[0].setting.keys():
                raise SettingError(
                    f"{given[0].setting} and {row.setting} have different dimensions. Give every row the same."
                )
        for name in self.dimensions:
            if name in COLUMNS:
                raise SettingError(
                    f"The dimension {name} bears the name of a column; those are {list(COLUMNS)}. Rename it."
                )
        self._rows = tuple(sorted(given, key=lambda row: (row.params, *(row.setting[n] for n in self.dimensions))))
        self._by_setting = {row.setting: row for row in self._rows}
        self._columns = tuple(name for name in _SHOWN if any(getattr(row, name) is not None for row in self._rows))
        if len(self._by_setting) < len(given):
            twice = next(setting for setting, count in Counter(row.setting for row in given).items() if count > 1)
            raise SettingError(f"{twice} has more than one row. Give each setting once.")

        sizes = [abs(row.quality) for row in self._rows if row.quality and math.isfinite(row.quality)]
        middle = statistics.median_high(sizes) if sizes else 1.0
        self._decimals = min(6, max(1, 3 - math.ceil(math.log10(middle))))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return list(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return self.metric, self.higher_is_better, self._rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that at least one row has a value in."""
        return self._columns

    def with_rows(self, rows: Iterable[Row]) -> Table:
        """Return a table of other rows under the same conditions, such as some of these."""
        return Table(
            rows, self.metric, self.higher_is_better,
            conditions=self.conditions, notes=self.notes, margins=self._margins,
        )  # fmt: skip

    def row(self, setting: Mapping[str, Number] | str) -> Row:
        """Look up a sub-model.

        Args:
            setting: A setting, a mapping or the text form.

        Returns:
            Its row.

        Raises:
            SettingError: If the table has no such row.

        Example:
            >>> Table([Row(Setting({"depth": 2}), quality=0.9, params=1200)]).row("depth=2").params
            1200
        """
        wanted = Setting.parse(setting) if isinstance(setting, str) else Setting(setting)
        if wanted not in self._by_setting:
            raise SettingError(
                f"{wanted} is none of the {len(self)} settings of this table, which go from {self[0].setting} "
                f"to {self[-1].setting}. Choose one of these, or evaluate it first."
            )
        return self._by_setting[wanted]

    def select(self, *, within_error: bool = False, **budgets: float) -> Setting:
        """Choose the best sub-model under budgets. Of equally good ones, the one with fewer parameters.

        Args:
            within_error: Take the one with the fewest parameters that is not measurably worse than the best: the
                difference, example by example where there are such scores, is within its 95 % interval of zero.
            budgets: Bounds, both inclusive: `max_` or `min_` before a column (params, flops, latency_ms,
                memory_bytes, quality, recovery) or a dimension. A sub-model without that measurement never qualifies.

        Returns:
            The setting.

        Raises:
            SettingError: If a bound is unknown or no number, its column was not measured, nothing qualifies, nobody has
                said whether more of the metric is better, or `within_error` is asked for and there are no intervals.

        Example:
            >>> rows = [Row(Setting({"depth": d}), quality=0.8 + d / 100, params=100 * d) for d in (2, 4, 8)]
            >>> Table(rows).select(max_params=500, min_quality=0.8)
            Setting('depth=4')
        """
        self.direction()
        within = list(self._rows)
        for key, bound in budgets.items():
            name, fits = self._budget(key, bound)
            left = [row for row in within if (value := self._value(row, name)) is not None and fits(value)]
            if not left:
                known = [row for row in within if self._value(row, name) is not None]
                raise SettingError(self._unmet(key, bound, name, known, whole=len(within) == len(self)))
            within = left
        valued = [row for row in within if not math.isnan(row.quality)]
        if not valued:
            raise SettingError(
                f"The {self.metric} of every sub-model within {budgets or 'the table'} is nan, so none is best. "
                "Evaluate again, or widen the budgets."
            )
        best = max(valued, key=self._worth)
        if within_error:
            best = next(row for row in valued if row is best or self._as_good(row, best))
        return best.setting

    def differ_by(self, one: Row, other: Row) -> float | None:
        """Return by how much two qualities may differ by chance, half of a 95 % interval; None where nothing tells."""
        margin = None if self._margins is None else self._margins.of(one.setting, other.setting)
        if margin is None:
            ends = [(row.quality_low, row.quality_high) for row in (one, other)]
            widths = [(high - low) / 2 for low, high in ends if low is not None and high is not None]
            margin = math.hypot(*widths) if len(widths) == 2 else None
        return margin

    def _as_good(self, row: Row, best: Row) -> bool:
        margin = self.differ_by(row, best)
        if margin is None:
            raise SettingError(
                f"Nothing tells by how much the {self.metric} of {row.setting} may differ by chance. Evaluate with a "
                "metric that scores each example, shape (B,), or on several batches; or leave out within_error."
            )
        return self._worth(best) - self._worth(row) <= margin + 1e-9 * abs(best.quality)

    def direction(self) -> bool:
        """Return whether a higher quality is better.

        Raises:
            SettingError: If nobody has said so.
        """
        if self.higher_is_better is None:
            raise SettingError(
                f"Nothing tells whether more {self.metric} is better. Say so: evaluate(..., higher_is_better=True), or "
                "False, or set table.higher_is_better."
            )
        return self.higher_is_better

    def _budget(self, key: str, bound: object) -> tuple[str, Callable[[float], bool]]:
        """Read one budget: what it bounds, and whether a value meets it."""
        side, _, name = key.partition("_")
        allowed = [*_BOUNDED, *self.dimensions]
        if side not in ("max", "min") or name not in allowed:
            raise SettingError(f"{key}={bound} is no budget. Write max_ or min_ before one of {allowed}.")
        if isinstance(bound, bool) or not isinstance(bound, numbers.Real) or math.isnan(bound):
            raise SettingError(f"{key}={bound!r} is not a number. Give one, such as {key}={self._example(name)}.")
        self._measured(name)
        limit = float(bound)
        return name, (lambda value: value <= limit) if side == "max" else (lambda value: value >= limit)

    def _example(self, name: str) -> Number:
        values = [value for row in self if (value := self._value(row, name)) is not None]
        return values[len(values) // 2] if values else 1

    def _measured(self, name: str) -> None:
        if all(self._value(row, name) is None for row in self._rows):
            raise SettingError(
                f"{name} was not measured; this table has {[*self.columns, *self.dimensions]}. "
                f"Use one of these, or measure {name} when you evaluate."
            )

    def _unmet(self, key: str, bound: float, name: str, known: Sequence[Row], whole: bool) -> str:
        among = "" if whole else " that meets the budgets before it"
        pick, extreme, remedy = (min, "smallest", "Raise") if key.startswith("max_") else (max, "largest", "Lower")
        values = [(value, row) for row in known if not math.isnan(value := self._value(row, name) or 0)]
        if not values:
            return f"{name} was measured for no sub-model{among}. Drop {key}={bound}, or measure it for all."
        value, row = pick(values, key=lambda pair: pair[0])
        return (
            f"{key}={bound} is met by no sub-model{among}: the {extreme} {name} there is {value}, at {row.setting}. "
            f"{remedy} it to at {'least' if extreme == 'smallest' else 'most'} {value}."
        )

    def above(self, quality: float) -> list[Row]:
        """List all sub-models at or above a quality (at or below it where lower is better), the best first.

        Args:
            quality: The threshold, in the unit of the metric.

        Returns:
            Their rows; none where nothing is that good.

        Source:
            Valipour (2024), PhD thesis, University of Waterloo, Fig. 4.5: the automatic choice by a threshold. We keep
            those at the threshold too, the thesis those better than it.

        Example:
            >>> rows = [Row(Setting({"depth": d}), quality=0.1 * d, params=100 * d) for d in (2, 4, 8)]
            >>> [str(row.setting) for row in Table(rows).above(0.4)]
            ['depth=8', 'depth=4']
        """
        limit = quality if self.direction() else -quality
        good = [row for row in self if self._worth(row) >= limit and not math.isnan(row.quality)]
        return sorted(good, key=lambda row: -self._worth(row))

    def pareto(self, cost: str = "params") -> list[Row]:
        """List the Pareto front: the sub-models that nothing at most as costly equals or betters.

        Args:
            cost: A column of costs (params, flops, latency_ms, memory_bytes) or a dimension.

        Returns:
            Rows of ascending cost and strictly improving quality. Of equal ones, the first of the table.

        Raises:
            SettingError: If the cost is unknown or was not measured.

        Example:
            >>> rows = [Row(Setting({"depth": d}), q, params=100 * d) for d, q in [(2, 0.8), (4, 0.7), (8, 0.9)]]
            >>> [str(row.setting) for row in Table(rows).pareto()]
            ['depth=2', 'depth=8']
        """
        if cost not in (*COSTS, *self.dimensions):
            raise SettingError(f"{cost!r} is no cost. Choose one of {[*COSTS, *self.dimensions]}.")
        self._measured(cost)
        priced = [(value, row) for row in self if (value := self._value(row, cost)) is not None]
        front: list[Row] = []
        for _, row in sorted(priced, key=lambda pair: (pair[0], -self._worth(pair[1]))):
            if not math.isnan(row.quality) and (not front or self._worth(row) > self._worth(front[-1])):
                front.append(row)
        return front

    def _value(self, row: Row, name: str) -> Number | None:
        found: Number | None = row.setting[name] if name in row.setting else getattr(row, name)
        return found

    def _worth(self, row: Row) -> float:
        """Return the quality such that higher is better, NaN below everything."""
        if math.isnan(row.quality):
            return -math.inf
        return row.quality if self.direction() else -row.quality

    def text(self, row: Row, column: str) -> str:
        """Format one value to be read by people.

        Args:
            row: A row of this table.
            column: A column or a dimension.

        Returns:
            Such as `1.2 M`, `3.4 MFLOPs`, `0.85 ms`; a dash where not measured. All qualities have equally many
            decimals.

        Example:
            >>> table = Table([Row(Setting({"depth": 2}), quality=0.9, params=1_234_567)])
            >>> table.text(table[0], "params"), table.text(table[0], "quality")
            ('1.23 M', '0.900')
        """
        value = self._value(row, column)
        if value is None:
            return "-"
        if column in INTERVALS:
            return f"{value:.3g}" if abs(value) >= 1e6 else f"{value:.{self._decimals}f}"
        return readable(value, column)

    def interval(self, row: Row, column: str = "quality") -> str:
        """Format the interval that holds the true value 19 times of 20, such as `97.6 to 99.5`; empty without one.

        Args:
            row: A row of this table.
            column: `quality` or `reported`.
        """
        ends = [getattr(row, name) for name in INTERVALS[column]]
        return "" if None in ends else " to ".join(f"{end:.{self._decimals}f}" for end in ends)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per sub-model: its dimensions, then every column, empty where not measured.

        What was measured later than the costs, and the intervals, come last, and only where there are any.

        Args:
            path: File; what was there is replaced once all is written.

        Raises:
            CheckpointError: If it cannot be written.
        """
        write_bytes(Path(path), self.csv().encode())

    def csv(self) -> str:
        """Return what `to_csv` writes."""
        more = [
            name for name in COLUMNS if name not in _BOUNDED and any(getattr(row, name) is not None for row in self)
        ]
        names = [*self.dimensions, *_BOUNDED, *more]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in self:
            writer.writerow([self._value(row, name) for name in names])
        return text.getvalue()

    def to_json(self, path: str | Path) -> None:
        """Write the table so that `from_json` reads the same one back.

        Args:
            path: File; what was there is replaced once all is written.

        Raises:
            CheckpointError: If it cannot be written.
        """
        described = {
            "format": _VERSION,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "rows": [
                {
                    name: dict(row.setting) if name == "setting" else getattr(row, name)
                    for name in (field.name for field in fields(row))
                    if name == "setting" or name in _BOUNDED or getattr(row, name) is not None
                }
                for row in self
            ],
            "conditions": self.conditions,
            "notes": self.notes,
            "margins": None if self._margins is None else self._margins.described(),
        }
        write_bytes(Path(path), records.to_text(described).encode())

    @classmethod
    def from_json(cls, path: str | Path) -> Table:
        """Read what `to_json` wrote.

        Args:
            path: File.

        Returns:
            The table, equal to the one written.

        Raises:
            CheckpointError: If the file is missing, damaged or of a later format.

        Example:
            >>> import tempfile
            >>> table = Table([Row(Setting({"depth": 2}), quality=0.9, params=1200)], metric="F1")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     table.to_json(f"{folder}/table.json")
            ...     Table.from_json(f"{folder}/table.json") == table
            True
        """
        return records.read_format(path, _VERSION, cls._of, writer="Table.to_json", again="evaluate again")

    @classmethod
    def _of(cls, described: Mapping[str, Any]) -> Table:
        rows = [Row(**{**row, "setting": Setting(row["setting"])}) for row in records.items(described["rows"])]
        if any(type(row[name]) is float for row in described["rows"] for name in WHOLE if name in row):
            raise TypeError("a whole number is written as another")
        better, margins = described["higher_is_better"], described.get("margins")
        notes = {records.text(name, _MOST_NAME): records.text(one, _MOST_TEXT)
                 for name, one in described.get("notes", {}).items()}  # fmt: skip
        return cls(
            rows,
            records.text(described["metric"], _MOST_NAME),
            None if better is None else records.flag(better),
            conditions={
                records.text(name, _MOST_NAME): records.text(one, _MOST_TEXT)
                if isinstance(one, str)
                else records.number(one)
                for name, one in described.get("conditions", {}).items()
            },
            notes=notes,
            margins=None if margins is None else Margins.read(margins),
        )

    def __str__(self) -> str:
        names = [*self.dimensions, *self.columns]
        shown = [*self] if len(self) <= 40 else [*self[:20], *self[-19:]]
        lines = [[self.metric if name == "quality" else name for name in names]]
        lines += [[self.text(row, name) for name in names] for row in shown]
        if any(row.quality_low is not None for row in self):
            for cells, interval in zip(lines, ["95 %", *map(self.interval, shown)], strict=True):
                cells.insert(len(self.dimensions) + 1, interval)
        widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        if len(shown) < len(self):
            text.insert(21, f"... {len(self) - len(shown)} more rows ...")
        told = [", ".join(f"{name}: {value}" for name, value in self.conditions.items())] if self.conditions else []
        return "\n".join([*text, *told, *(f"{name} has gaps: {reason}" for name, reason in self.notes.items())])

    def __repr__(self) -> str:
        return f"Table({len(self)} sub-models of {', '.join(self.dimensions)}; {self.metric})"
