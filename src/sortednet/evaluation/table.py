"""The table: what each sub-model is worth and what it costs. Choose from it; nothing is searched."""

from __future__ import annotations

import csv
import io
import math
import numbers
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

from ..errors import SettingError
from ..files import records
from ..files.writing import write_bytes
from ..space import Number, Setting

__all__ = ["Row", "Table", "readable"]

_COSTS = ("params", "flops", "latency_ms", "memory_bytes")
_COLUMNS = ("quality", "recovery", *_COSTS)
_WHOLE = ("params", "flops", "memory_bytes")
_OPTIONAL = ("flops", "latency_ms", "memory_bytes", "recovery")
_MOST_COST, _MOST_NAME = 1e30, 200
_VERSION = 1


@dataclass(frozen=True)
class Row:
    """What was measured of one sub-model.

    Args:
        setting: The sub-model.
        quality: Its metric; what counts as good is the table's to say. NaN where the sub-model gave none.
        params: Number of parameters, at least 0.
        flops: Floating-point operations of one forward, at least 0; None where not measured, here and below.
        latency_ms: Time of one forward in ms, at least 0.
        memory_bytes: Memory in bytes, at least 0.
        recovery: Quality in per cent of the full model's.

    Raises:
        SettingError: If a value is not a number, or a cost is negative, not finite or absurd.

    Example:
        >>> Row(Setting({"depth": 2}), quality=0.9, params=1200).latency_ms is None
        True
    """

    setting: Setting
    quality: float
    params: int
    flops: int | None = None
    latency_ms: float | None = None
    memory_bytes: int | None = None
    recovery: float | None = None

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            object.__setattr__(self, name, _plain(value, name, f" at {self.setting}"))


def _plain(value: Any, name: str, place: str) -> Number:
    """Turn a measured value into a plain int or float; refuse what the column cannot hold."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise SettingError(f"{name}={value!r}{place} is a {type(value).__name__}. Give a plain number.")
    plain: Number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if name in _COSTS and not 0 <= plain < _MOST_COST:
        raise SettingError(
            f"{name}={plain:.6g}{place} is no cost. Give a finite number of at least 0, below {_MOST_COST:g}."
        )
    if name not in _WHOLE:
        return float(plain)
    if plain != int(plain):
        raise SettingError(f"{name}={plain}{place} is not whole. Give an int.")
    return int(plain)


class Table(Sequence[Row]):
    """One row per sub-model, ordered by parameters, then by setting.

    Args:
        rows: What was measured; at least one row, each setting once, all of the same dimensions.
        metric: Name of the quality.
        higher_is_better: Whether a higher quality is the better one, as of an accuracy; False for a loss.

    Attributes:
        dimensions: Names of the dimensions.
        metric: Name of the quality.
        higher_is_better: Whether a higher quality is the better one.

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

    def __init__(self, rows: Iterable[Row], metric: str = "accuracy", higher_is_better: bool = True) -> None:
        given = list(rows)
        if not given:
            raise SettingError("A table has 0 rows. Give at least one.")
        self.dimensions = tuple(given[0].setting)
        self.metric = metric
        self.higher_is_better = higher_is_better
        for row in given:
            if row.setting.keys() != given[0].setting.keys():
                raise SettingError(
                    f"{given[0].setting} and {row.setting} have different dimensions. Give every row the same."
                )
        for name in self.dimensions:
            if name in _COLUMNS:
                raise SettingError(
                    f"The dimension {name} bears the name of a column; those are {list(_COLUMNS)}. Rename it."
                )
        self._rows = tuple(sorted(given, key=lambda row: (row.params, *(row.setting[n] for n in self.dimensions))))
        self._by_setting = {row.setting: row for row in self._rows}
        self._columns = tuple(name for name in _COLUMNS if any(getattr(row, name) is not None for row in self._rows))
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

    def select(self, **budgets: float) -> Setting:
        """Choose the best sub-model under budgets. Of equally good ones, the one with fewer parameters.

        Args:
            budgets: Bounds, both inclusive: `max_` or `min_` before a column (params, flops, latency_ms,
                memory_bytes, quality, recovery) or a dimension. A sub-model without that measurement never qualifies.

        Returns:
            The setting.

        Raises:
            SettingError: If a bound is unknown or no number, its column was not measured, or nothing qualifies.

        Example:
            >>> rows = [Row(Setting({"depth": d}), quality=0.8 + d / 100, params=100 * d) for d in (2, 4, 8)]
            >>> Table(rows).select(max_params=500, min_quality=0.8)
            Setting('depth=4')
        """
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
        return max(valued, key=self._worth).setting

    def _budget(self, key: str, bound: object) -> tuple[str, Callable[[float], bool]]:
        """Read one budget: what it bounds, and whether a value meets it."""
        side, _, name = key.partition("_")
        allowed = [*_COLUMNS, *self.dimensions]
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
        limit = quality if self.higher_is_better else -quality
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
        if cost not in (*_COSTS, *self.dimensions):
            raise SettingError(f"{cost!r} is no cost. Choose one of {[*_COSTS, *self.dimensions]}.")
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
        return row.quality if self.higher_is_better else -row.quality

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
        if column == "quality":
            return f"{value:.3g}" if abs(value) >= 1e6 else f"{value:.{self._decimals}f}"
        return readable(value, column)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per sub-model: its dimensions, then every column, empty where not measured.

        Args:
            path: File; what was there is replaced once all is written.

        Raises:
            CheckpointError: If it cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.dimensions, *_COLUMNS])
        for row in self:
            writer.writerow([self._value(row, name) for name in (*self.dimensions, *_COLUMNS)])
        write_bytes(Path(path), text.getvalue().encode())

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
                {**{f.name: getattr(row, f.name) for f in fields(row)}, "setting": dict(row.setting)} for row in self
            ],
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
        if any(type(row[name]) is float for row in described["rows"] for name in _WHOLE if name in row):
            raise TypeError("a whole number is written as another")
        return cls(rows, records.text(described["metric"], _MOST_NAME), records.flag(described["higher_is_better"]))

    def __str__(self) -> str:
        names = [*self.dimensions, *self.columns]
        shown = [*self] if len(self) <= 40 else [*self[:20], *self[-19:]]
        lines = [[self.metric if name == "quality" else name for name in names]]
        lines += [[self.text(row, name) for name in names] for row in shown]
        widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        if len(shown) < len(self):
            text.insert(21, f"... {len(self) - len(shown)} more rows ...")
        return "\n".join(text)

    def __repr__(self) -> str:
        return f"Table({len(self)} sub-models of {', '.join(self.dimensions)}; {self.metric})"


def readable(value: float, column: str = "params") -> str:
    """Format a number with the unit of its column, to three digits.

    Args:
        value: Any number.
        column: A column; a name that is none is a dimension, which has no unit.

    Returns:
        Such as `1.2 M` (params), `3.4 MFLOPs`, `0.85 ms`, `12 MB`, `98.3 %`.

    Example:
        >>> readable(1_200_000), readable(3_400_000, "flops"), readable(0.85, "latency_ms"), readable(8, "depth")
        ('1.2 M', '3.4 MFLOPs', '0.85 ms', '8')
    """
    if column == "recovery":
        return f"{value:.1f} %"
    if column == "latency_ms":
        return f"{value / 1000:.3g} s" if value >= 999.5 else f"{value:.3g} ms"
    if column not in _WHOLE:
        return str(value)
    unit = {"flops": "FLOPs", "memory_bytes": "B"}.get(column, "")
    prefixes = [(1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")]
    for factor, prefix in prefixes:
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
