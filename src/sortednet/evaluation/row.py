"""What was measured of one sub-model, and how its numbers are written."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError
from ..space import Number, Setting

__all__ = ["COLUMNS", "COSTS", "INTERVALS", "OPTIONAL", "WHOLE", "Row", "readable"]

COSTS = ("params", "flops", "latency_ms", "memory_bytes")
INTERVALS = {"quality": ("quality_low", "quality_high"), "reported": ("reported_low", "reported_high")}
"""The columns that hold the interval of another."""
COLUMNS = ("quality", "recovery", *COSTS, "reported", *INTERVALS["quality"], *INTERVALS["reported"])
WHOLE = ("params", "flops", "memory_bytes")
OPTIONAL = tuple(name for name in COLUMNS if name not in ("quality", "params"))
_MOST_COST = 1e30


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
        reported: The metric on examples that nothing is chosen by.
        quality_low: Where the interval of the quality begins that holds its true value 19 times of 20.
        quality_high: Where it ends.
        reported_low: The same of what is reported.
        reported_high: Where it ends.

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
    reported: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    reported_low: float | None = None
    reported_high: float | None = None

    def __post_init__(self) -> None:
        for name in COLUMNS:
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            object.__setattr__(self, name, _plain(value, name, f" at {self.setting}"))


def _plain(value: Any, name: str, place: str) -> Number:
    """Turn a measured value into a plain int or float; refuse what the column cannot hold."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise SettingError(f"{name}={value!r}{place} is a {type(value).__name__}. Give a plain number.")
    plain: Number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if name in COSTS and not 0 <= plain < _MOST_COST:
        raise SettingError(
            f"{name}={plain:.6g}{place} is no cost. Give a finite number of at least 0, below {_MOST_COST:g}."
        )
    if name not in WHOLE:
        return float(plain)
    if plain != int(plain):
        raise SettingError(f"{name}={plain}{place} is not whole. Give an int.")
    return int(plain)


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
    if column not in WHOLE:
        return str(value)
    unit = {"flops": "FLOPs", "memory_bytes": "B"}.get(column, "")
    prefixes = [(1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")]
    for factor, prefix in prefixes:
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()
