"""Dimensions, supports, settings and spaces: which sub-models there are, and which lies inside which."""

from __future__ import annotations

import itertools
import math
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union, overload

from .errors import SettingError, SpaceError

__all__ = ["Number", "Setting", "Space", "Support"]

Number = Union[int, float]

_MOST_DIGITS = 40
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _number(value: object, what: str) -> Number:
    """Turn `value` into a plain int or float; refuse everything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise SpaceError(f"{what} is {value!r}, a {type(value).__name__}. Give an int or a float.")
    plain: Number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(plain, float) and not math.isfinite(plain):
        raise SpaceError(f"{what} is {plain}. Give a finite number.")
    return plain


def _name(name: object) -> str:
    """Return a dimension's name if it can be a keyword argument and stand in the text form; refuse it otherwise."""
    if not isinstance(name, str) or not name.isidentifier():
        raise SpaceError(f"{name!r} is no name of a dimension. Give a Python name, such as 'depth'.")
    return name


class Setting(Mapping[str, Number]):
    """One value per dimension: the name of a sub-model. Immutable and hashable.

    Settings are ordered as the sub-models are: `a <= b` where no value of `a` is larger than that of `b`, that is,
    where the sub-model at `a` lies inside the one at `b`. Two settings may be incomparable.

    Args:
        values: Value of each dimension; a finite int or float.

    Raises:
        SpaceError: If a value is not a finite number, or no dimension is given.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: b = (b_1, ..., b_K).

    Example:
        >>> small, large = Setting({"depth": 2, "width": 0.5}), Setting.parse("depth=4,width=0.5")
        >>> str(small), small["depth"], small <= large, large <= small
        ('depth=2,width=0.5', 2, True, False)
    """

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Mapping[str, Number]) -> None:
        self._values = {_name(name): _number(value, f"the value of {name}") for name, value in values.items()}
        if not self._values:
            raise SpaceError("A setting needs at least one dimension, such as Setting({'depth': 4}).")
        self._hash = hash(frozenset(self._values.items()))

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read the text form.

        Args:
            text: Such as `depth=4,width=0.5`.

        Returns:
            The setting; `parse(str(setting)) == setting`.

        Raises:
            SettingError: If the text is not of that form.
        """
        values: dict[str, Number] = {}
        for part in text.split(","):
            name, equals, number = (piece.strip() for piece in part.partition("="))
            if not (equals and name and len(number) < _MOST_DIGITS and _NUMBER.fullmatch(number)) or name in values:
                raise SettingError(
                    f"{text!r:.200} is not a setting: cannot read {part.strip()!r:.100}. "
                    "Write each dimension once as name=number, joined by commas, such as depth=4,width=0.5."
                )
            values[name] = int(number) if re.fullmatch(r"[-+]?\d+", number) else float(number)
        return cls(values)

    def __getitem__(self, name: str) -> Number:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Setting):
            return self._values == other._values
        return isinstance(other, Mapping) and self._values == dict(other)

    def __le__(self, other: Setting) -> bool:
        if self._values.keys() != other._values.keys():
            raise SettingError(
                f"Settings of different dimensions cannot be compared: {self} and {other}. Give both the same names."
            )
        return all(value <= other._values[name] for name, value in self._values.items())

    def __ge__(self, other: Setting) -> bool:
        return other <= self

    def __lt__(self, other: Setting) -> bool:
        return self != other and self <= other

    def __gt__(self, other: Setting) -> bool:
        return other < self

    def replace(self, **values: Number) -> Setting:
        """Return this setting with some values exchanged.

        Args:
            values: New values by dimension.

        Returns:
            The new setting.

        Raises:
            SettingError: If a name is none of this setting's dimensions.
        """
        unknown = values.keys() - self._values.keys()
        if unknown:
            raise SettingError(f"{sorted(unknown)} is none of the dimensions {list(self)}. Name one of these.")
        return Setting({**self._values, **values})

    def __str__(self) -> str:
        return ",".join(f"{name}={value!r}" for name, value in self._values.items())

    def __repr__(self) -> str:
        return f"Setting({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Setting, (dict(self._values),)


@dataclass(frozen=True)
class Support:
    """The values one dimension may take, with the probability of each when dimensions are drawn on their own.

    Args:
        values: At least one number, strictly increasing.
        weights: Relative probability of each value, at least 0 and not all 0; equal where left out. Used by
            `PerDimension`; every other sampler has its own rule.

    Raises:
        SpaceError: If the values are empty, not numbers, or not strictly increasing, or a weight does not fit.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: the support B_j and the distribution P_Bj.

    Example:
        >>> Space(depth=Support([2, 4, 8], weights=[1, 1, 2]), width=[16, 32]).full
        Setting('depth=8,width=32')
    """

    values: tuple[Number, ...]
    weights: tuple[float, ...] | None = None
    _places: dict[Number, int] = field(init=False, repr=False, compare=False)

    def __init__(self, values: Iterable[Number], weights: Iterable[float] | None = None) -> None:
        try:
            plain = tuple(_number(value, "a value of a support") for value in values)
        except TypeError:
            raise SpaceError(
                f"A support is {values!r}. Give a list of increasing numbers, such as [2, 4, 8]."
            ) from None
        if not plain:
            raise SpaceError("A support is empty. Give at least one number, such as [2, 4, 8].")
        if any(b <= a for a, b in itertools.pairwise(plain)):
            raise SpaceError(
                f"The support {list(plain)} is not strictly increasing. Sort it and drop repeats: {sorted(set(plain))}."
            )
        object.__setattr__(self, "values", plain)
        if weights is not None:
            try:
                weights = list(weights)
                given = tuple(float(weight) for weight in weights)
                if any(isinstance(weight, (bool, str)) for weight in weights):
                    raise TypeError
            except (TypeError, ValueError):
                raise SpaceError(f"The weights {weights!r} are no list of numbers. Give one for each value.") from None
            if len(given) != len(plain) or not all(w >= 0 and math.isfinite(w) for w in given) or sum(given) == 0:
                raise SpaceError(
                    f"The weights {list(given)} do not fit the support {list(plain)}. "
                    "Give one finite number of at least 0 for each value, not all 0."
                )
            weights = given
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "_places", {value: place for place, value in enumerate(plain)})

    def place(self, value: object) -> int | None:
        """Return the index of a value, or None where it is not in the support."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        return self._places.get(value)  # type: ignore[call-overload, no-any-return]

    def __str__(self) -> str:
        if len(self.values) > 12:
            return f"[{self.values[0]}, {self.values[1]}, ..., {self.values[-1]}] ({len(self.values)} values)"
        return str(list(self.values))


class Space(Sequence[Setting]):
    """All settings that a network is trained for: a product of supports, or an explicit list.

    A product is never written out: a space of 12 x 768 settings costs as much as its supports. It is a sequence, in an
    order in which a setting comes after every setting inside it.

    Args:
        settings: An explicit list of settings, all of the same dimensions; then give no supports.
        supports: The values of each dimension: a list, a range, or a `Support`.

    Attributes:
        supports: The `Support` of each dimension, in the order given.
        full: The largest value of every dimension: the setting of the full model.
        smallest: The smallest value of every dimension.

    Raises:
        SpaceError: If a support is empty or unsorted, or a list of settings is empty, repeats one or mixes dimensions.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: D, and the set Theta of targeted sub-models.

    Example:
        >>> space = Space(depth=[2, 4, 8], width=range(16, 65, 16))
        >>> len(space), space.full, space[1]
        (12, Setting('depth=8,width=64'), Setting('depth=2,width=32'))
        >>> len(Space([{"depth": 2, "width": 64}, {"depth": 8, "width": 16}]))
        2
    """

    def __init__(
        self,
        settings: Sequence[Mapping[str, Number]] | None = None,
        /,
        **supports: Iterable[Number] | Support,
    ) -> None:
        self._listed: tuple[Setting, ...] | None = None
        self._checked: dict[Setting, Setting] = {}  # those that were found to be in the space
        if (settings is None) == (not supports):
            raise SpaceError(
                "A space is either a product of supports, Space(depth=[2, 4], width=[16, 32]), "
                "or a list of settings, Space([{'depth': 2, 'width': 16}, ...]). Give one of the two."
            )
        if settings is None:
            self.supports: dict[str, Support] = {}
            for name, values in supports.items():
                try:
                    self.supports[_name(name)] = values if isinstance(values, Support) else Support(values)
                except SpaceError as error:
                    raise SpaceError(f"Dimension {name}: {error}") from None
        else:
            if (
                isinstance(settings, Mapping)
                or not isinstance(settings, Iterable)
                or not all(isinstance(one, Mapping) for one in settings)
            ):
                raise SpaceError(
                    f"{settings!r} is no list of settings, each a mapping such as {{'depth': 2}}. "
                    "Give supports by name: Space(depth=[2, 4])."
                )
            listed = sorted((Setting(one) for one in settings), key=lambda one: sorted(one.items()))
            if not listed:
                raise SpaceError("The list of settings is empty. Give at least one, such as {'depth': 2}.")
            names = list(listed[0])
            for one in listed:
                if one.keys() != listed[0].keys():
                    raise SpaceError(
                        f"The settings {listed[0]} and {one} have different dimensions. Give every setting the same."
                    )
            if len(set(listed)) < len(listed):
                raise SpaceError(f"The list of {len(listed)} settings repeats one. Give each setting once.")
            listed.sort(key=lambda one: tuple(one[name] for name in names))
            self._listed = tuple(Setting({name: one[name] for name in names}) for one in listed)
            self.supports = {name: Support(sorted({one[name] for one in self._listed})) for name in names}
        self._members = None if self._listed is None else frozenset(self._listed)
        self.full = Setting({name: support.values[-1] for name, support in self.supports.items()})
        self.smallest = Setting({name: support.values[0] for name, support in self.supports.items()})

    @property
    def is_product(self) -> bool:
        """Whether every combination of the supports belongs to the space."""
        return self._listed is None

    @property
    def size(self) -> int:
        """How many settings there are; `len` says the same, but cannot exceed `sys.maxsize`."""
        if self._listed is not None:
            return len(self._listed)
        return math.prod(len(support.values) for support in self.supports.values())

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Setting]:
        return map(self.__getitem__, itertools.takewhile(lambda place: place < self.size, itertools.count()))

    @overload
    def __getitem__(self, index: int) -> Setting: ...
    @overload
    def __getitem__(self, index: slice) -> list[Setting]: ...
    def __getitem__(self, index: int | slice) -> Setting | list[Setting]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self.size))]
        position = index + self.size if index < 0 else index
        if not 0 <= position < self.size:
            raise IndexError(f"index {index} is outside a space of {self.size} settings")
        if self._listed is not None:
            return self._listed[position]
        values: dict[str, Number] = {}
        for name, support in reversed(self.supports.items()):
            position, place = divmod(position, len(support.values))
            values[name] = support.values[place]
        return Setting({name: values[name] for name in self.supports})

    def __contains__(self, setting: object) -> bool:
        if not isinstance(setting, Mapping) or setting.keys() != self.supports.keys():
            return False
        if any(self.supports[name].place(value) is None for name, value in setting.items()):
            return False
        return self._members is None or Setting(setting) in self._members

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Space):
            return NotImplemented
        return (list(self.supports.items()), self._members) == (list(other.supports.items()), other._members)

    def __hash__(self) -> int:
        return hash((tuple(self.supports.items()), self._members))

    def setting(self, setting: Mapping[str, Number] | str | None = None, /, **values: Number) -> Setting:
        """Check a setting, whatever form it comes in. Dimensions left out of `values` take their largest value.

        Args:
            setting: A mapping or the text form, with every dimension; or nothing.
            values: Or the value of some dimensions.

        Returns:
            The setting, its dimensions in the space's order. The full setting always counts as one of the space's.

        Raises:
            SettingError: If a dimension is unknown or missing, or the setting is not in the space.
        """
        if isinstance(setting, Setting) and not values and setting in self._checked:
            return self._checked[setting]
        if setting is None:
            given: Mapping[str, Number] = {**self.full, **values}
        elif values:
            raise SettingError(f"Give a setting ({setting}) or values ({values}), not both.")
        else:
            given = Setting.parse(setting) if isinstance(setting, str) else setting
        if not isinstance(given, Mapping):
            raise SettingError(
                f"{given!r} is no setting. Give a mapping or text of the dimensions {list(self.supports)}, "
                f"such as {str(self.smallest)!r}."
            )
        for name in given:
            if name not in self.supports:
                raise SettingError(
                    f"{name}={given[name]} names no dimension. The dimensions are {list(self.supports)}."
                )
        for name, support in self.supports.items():
            if name not in given:
                raise SettingError(f"{dict(given)} leaves out {name}. Give it one of the values {support}.")
            if support.place(given[name]) is None:
                raise SettingError(
                    f"{name}={given[name]} is outside its support {support}. "
                    f"Choose one of these, or declare {given[name]} before training."
                )
        # The support's own values, so that 2.0 names the same sub-model as 2.
        checked = Setting({name: one.values[one.place(given[name]) or 0] for name, one in self.supports.items()})
        if checked != self.full and checked not in self:
            raise SettingError(
                f"{checked} is none of the {self.size} settings of this space. "
                "Choose one that was listed, or add it to the list before training."
            )
        return self._checked.setdefault(checked, checked)

    def ordered(self, cost: Callable[[Setting], float] | None = None) -> list[Setting]:
        """List all settings from the cheapest to the most costly.

        Args:
            cost: Any number for a setting, such as its parameters; the product of the values, each as a share of its
                dimension's largest, where left out. Ties keep the order of the space.

        Returns:
            Every setting of the space once.
        """
        return sorted(self, key=cost or self._relative_size)

    def _relative_size(self, setting: Setting) -> float:
        return math.prod(value / (self.full[name] or 1) for name, value in setting.items())

    def inside(self, setting: Mapping[str, Number] | str) -> Iterator[Setting]:
        """Yield every setting of the space inside `setting`, which comes last if it belongs to the space."""
        outer = self.setting(setting)
        if self._listed is not None:
            yield from (one for one in self._listed if one <= outer)
        else:
            yield from Space(
                **{name: [v for v in support.values if v <= outer[name]] for name, support in self.supports.items()}
            )

    def along(self, setting: Mapping[str, Number] | str) -> Iterator[Setting]:
        """Yield the settings that differ from `setting` by a smaller value of one dimension, then `setting` itself.

        Source:
            Valipour et al. (2023), arXiv:2309.00255v3, Sec. 3: the targeted sub-models "along each dimension".
        """
        outer = self.setting(setting)
        for name, support in self.supports.items():
            for value in support.values:
                one = outer.replace(**{name: value})
                if value < outer[name] and one in self:
                    yield one
        yield outer

    def predecessors(self, setting: Mapping[str, Number] | str) -> list[Setting]:
        """List the largest settings of the space that lie inside `setting` and are not it."""
        outer = self.setting(setting)
        if self._listed is not None:
            below = [one for one in self._listed if one < outer]
            return [one for one in below if not any(one < other for other in below)]
        found = []
        for name, support in self.supports.items():
            place = support.place(outer[name]) or 0
            if place > 0:
                found.append(outer.replace(**{name: support.values[place - 1]}))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the space as plain lists and dictionaries; `from_json` reads them back."""
        supports = {
            name: {"values": list(support.values), **({"weights": list(support.weights)} if support.weights else {})}
            for name, support in self.supports.items()
        }
        return {"supports": supports, **({} if self._listed is None else {"settings": [str(s) for s in self._listed]})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Read what `to_json` wrote.

        Raises:
            SpaceError: If the data do not describe a space.
        """
        try:
            if "settings" in data:
                if not isinstance(data["settings"], list):
                    raise TypeError("settings are no list")
                return cls([Setting.parse(text) for text in data["settings"]])
            return cls(**{name: Support(**support) for name, support in data["supports"].items()})
        except (AttributeError, KeyError, TypeError, SettingError) as error:
            raise SpaceError(f"{data!r} does not describe a space ({error}). Write it with Space.to_json.") from None

    def __repr__(self) -> str:
        if self._listed is not None:
            return f"Space([{len(self._listed)} settings of {', '.join(self.supports)}])"
        return f"Space({', '.join(f'{name}={support}' for name, support in self.supports.items())})"
