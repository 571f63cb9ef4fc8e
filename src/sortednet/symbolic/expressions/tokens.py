"""Skeletons as tokens: operators, functions and variables, or the characters of the papers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from ...errors import ConfigError, DataError
from ..configuration import TokenizerKind
from .algebra import FUNCTIONS

__all__ = ["END", "PAD", "START", "Tokenizer", "TokenizerKind"]

PAD, START, END = 0, 1, 2
_SPECIAL = ("<pad>", "<start>", "<end>")
_OPERATORS = (
    *("+C*", "+C", "C*", "C", "+", "-", "*", "(", ")"),
    *(f"{name}(" for name in FUNCTIONS),
    *(f"x{number}" for number in range(1, 10)),
    *(f"**{exponent}" for exponent in range(-12, 13) if exponent not in (0, 1)),
)
_CHARACTERS = tuple(dict.fromkeys("C+-*()x0123456789" + "".join(FUNCTIONS)))


@dataclass(frozen=True)
class Tokenizer:
    """Text of skeletons to numbers and back; its vocabulary is fixed, not read from data.

    Args:
        kind: `operators`: `+C*`, `x1`, `**2`, `sin(` are each a token; `characters`: every character is, as in the
            papers.

    Raises:
        ConfigError: If the kind is unknown.

    Example:
        >>> tokenizer = Tokenizer()
        >>> ids = tokenizer.encode("C*sin(C*x1)+C")
        >>> len(ids), tokenizer.decode(ids)
        (8, 'C*sin(C*x1)+C')
    """

    kind: TokenizerKind = "operators"

    def __post_init__(self) -> None:
        if self.kind not in get_args(TokenizerKind):
            raise ConfigError(
                f"tokenizer={self.kind!r} is unknown. Choose one of {', '.join(get_args(TokenizerKind))}."
            )

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens by their number: padding, start and end first."""
        return (*_SPECIAL, *(_OPERATORS if self.kind == "operators" else _CHARACTERS))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.vocabulary)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        ordered = sorted(self.vocabulary[len(_SPECIAL) :], key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered)))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a skeleton between the marks of start and end.

        Raises:
            DataError: If the text holds something else.
        """
        found = self._pattern.findall(text)
        if "".join(found) != text:
            raise DataError(f"{text!r} holds what is no token. Write it as to_text does, such as C*sin(C*x1)+C.")
        return [START, *(self._numbers[token] for token in found), END]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, up to the mark of the end."""
        words = []
        for one in ids:
            if one == END:
                break
            if one >= len(_SPECIAL):
                words.append(self.vocabulary[one])
        return "".join(words)

    def pad(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return rows of equal length, padded behind their ends."""
        longest = max(map(len, rows))
        return [[*row, *[PAD] * (longest - len(row))] for row in rows]
