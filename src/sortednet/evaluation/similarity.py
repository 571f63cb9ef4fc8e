"""The result of a comparison: how close sub-models are to a reference, by output position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import DataError
from ..files import records
from ..files.writing import write_bytes
from ..space import Number, Setting

__all__ = ["Measure", "Similarity"]

Measure = Literal["kl", "cosine"]

_VERSION, _MOST_NAME, _MOST_VALUES = 1, 200, 10**6


@dataclass(frozen=True)
class Similarity:
    """How close sub-models are to a reference, by output position.

    Args:
        measure: `kl`, the divergence in nats, at least 0 and 0 where equal; or `cosine`, in [-1, 1] and 1 where equal.
        settings: The sub-models, in text form, S of them.
        positions: Output positions, counted from 0, P of them.
        values: The mean over the examples that reach a position. S rows of P; NaN where a model gave none.
        counts: Number of those examples, at least 1. P of them.
        name: What the rows are.
        reference: What they are compared with.

    Raises:
        SettingError: If a text is no setting.
        DataError: If the measure is unknown, or the sizes do not fit together.

    Example:
        >>> found = Similarity("kl", ("depth=1", "depth=2"), (0, 1), ((0.5, 2.0), (0.1, 0.4)), (3, 1))
        >>> found.mean("depth=1")
        0.875
    """

    measure: Measure
    settings: tuple[str, ...]
    positions: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    name: str = "sub-models"
    reference: str = "the full model"

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise DataError(f"measure={self.measure!r} is unknown. Choose one of {list(get_args(Measure))}.")
        plain = {
            "settings": tuple(str(Setting.parse(one)) for one in self.settings),
            "positions": tuple(int(one) for one in self.positions),
            "values": tuple(tuple(float(value) for value in row) for row in self.values),
            "counts": tuple(int(one) for one in self.counts),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        widths = {len(row) for row in self.values} | {len(self.counts)}
        low = 0 if self.measure == "kl" else -1.001
        if any(value < low for row in self.values for value in row):
            raise DataError(f"A {self.measure} below {low:.0f} is none. Give values of the measure.")
        if len({*self.settings}) < len(self.settings) or len({*self.positions}) < len(self.positions):
            raise DataError("A setting or a position stands twice. Give each once.")
        if len(self.settings) * len(self.positions) > _MOST_VALUES:
            raise DataError(f"There are more than {_MOST_VALUES:,} values. Compare fewer sub-models, or positions.")
        if not self.settings or len(self.values) != len(self.settings) or widths != {len(self.positions)}:
            raise DataError(
                f"{len(self.values)} rows of {sorted(widths)} values and counts do not fit {len(self.settings)} "
                f"settings and {len(self.positions)} positions. Give each setting a row, and each row and the counts "
                "one entry a position."
            )

    @property
    def label(self) -> str:
        """The measure and its unit, in words."""
        return {"kl": "KL divergence (nats)", "cosine": "cosine similarity"}[self.measure]

    def mean(self, setting: Mapping[str, Number] | str) -> float:
        """Return the mean over all outputs of a sub-model, every output counting alike.

        Args:
            setting: A setting or its text form.

        Raises:
            DataError: If there is no such row.
        """
        wanted = str(Setting.parse(setting) if isinstance(setting, str) else Setting(setting))
        if wanted not in self.settings:
            raise DataError(f"{wanted} was not compared. Choose one of {list(self.settings)}.")
        row = self.values[self.settings.index(wanted)]
        return sum(value * count for value, count in zip(row, self.counts, strict=True)) / sum(self.counts)

    def to_json(self, path: str | Path) -> None:
        """Write the result so that `from_json` reads the same one back.

        A report shows the files `similarity*.json` beside it.

        Args:
            path: File; what was there is replaced once all is written.

        Raises:
            CheckpointError: If it cannot be written.
        """
        write_bytes(Path(path), records.to_text({"format": _VERSION, **asdict(self)}, indent=None).encode())

    @classmethod
    def from_json(cls, path: str | Path) -> Similarity:
        """Read what `to_json` wrote.

        Args:
            path: File.

        Returns:
            The result, equal to the one written.

        Raises:
            CheckpointError: If the file is missing, damaged or of another format.

        Example:
            >>> import tempfile
            >>> found = Similarity("cosine", ("depth=1",), (0,), ((0.5,),), (3,))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     found.to_json(f"{folder}/similarity.json")
            ...     Similarity.from_json(f"{folder}/similarity.json") == found
            True
        """
        return records.read_format(path, _VERSION, cls._of, writer="Similarity.to_json", again="compare again")

    @classmethod
    def _of(cls, described: Mapping[str, Any]) -> Similarity:
        return cls(
            described["measure"],
            tuple(map(records.text, records.items(described["settings"]))),
            tuple(map(records.whole, records.items(described["positions"]))),
            tuple(tuple(map(records.number, row)) for row in records.items(described["values"])),
            tuple(records.whole(one, 1) for one in records.items(described["counts"])),
            records.text(described["name"], _MOST_NAME),
            records.text(described["reference"], _MOST_NAME),
        )
