"""By how much the qualities of two sub-models may differ by chance alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..files import records
from ..space import Setting

__all__ = ["Margins"]


class Margins:
    """Of each pair of sub-models, the largest difference that is not measurable: half of its 95 % interval.

    Both were measured on the same examples, so that what is hard for both drops out of the difference.

    Args:
        settings: The sub-models.
        values: For each of them a list: its margins to those before it. NaN where there is none.

    Example:
        >>> small, large = Setting({"depth": 1}), Setting({"depth": 2})
        >>> Margins([small, large], [[], [0.4]]).of(large, small)
        0.4
    """

    def __init__(self, settings: Sequence[Setting], values: Sequence[Sequence[float]]) -> None:
        if [len(line) for line in values] != list(range(len(settings))):
            raise ValueError("the margins are not those of each pair")
        self._settings, self._values = tuple(settings), [[float(f"{value:.5g}") for value in line] for line in values]
        self._places = {setting: place for place, setting in enumerate(self._settings)}

    def of(self, one: Setting, other: Setting) -> float | None:
        """Return the margin of a pair; None where it is not known."""
        places = sorted((self._places.get(one, -1), self._places.get(other, -1)))
        if places[0] < 0:
            return None
        value = 0.0 if places[0] == places[1] else self._values[places[1]][places[0]]
        return None if math.isnan(value) else value

    def described(self) -> dict[str, Any]:
        """Return plain values that `read` takes."""
        return {"settings": [str(setting) for setting in self._settings], "values": self._values}

    @classmethod
    def read(cls, held: Any) -> Margins:
        """Take up what `described` gave."""
        settings = [Setting.parse(records.text(one)) for one in records.items(held["settings"])]
        values = [[float(records.number(value)) for value in records.items(line)] for line in held["values"]]
        return cls(settings, values)
