"""The numbers of the generator of problems, and the size of a model. Nothing here needs torch or numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ..errors import ConfigError

__all__ = ["BINARY", "UNARY", "Embedding", "GeneratorConfig", "ModelConfig", "TokenizerKind"]

UNARY = ("id", "sin", "cos", "exp", "log", "sqrt", "asin", "pow")
BINARY = ("add", "sub", "mul", "div")

TokenizerKind: TypeAlias = Literal["operators", "characters"]
"""Whether `+C*`, `x1` and `sin(` are each a token, or every character is."""
Embedding: TypeAlias = Literal["add", "prefix", "node"]
"""How the decoder gets the embedded data: added to every token, as the first token, or by node control."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Numbers of the generator; those of the papers' code where left out.

    Args:
        variables: Numbers of variables that a problem may have, each equally often.
        levels: Depths of the tree, each equally often; a tree of depth L has 2^L leaves.
        operators: What stands at its inner nodes, each equally often: `id`, `sin`, `cos`, `exp`, `log`, `sqrt`, `asin`,
            `pow` (of the left branch alone), `add`, `sub`, `mul`, `div`.
        powers: Exponents of `pow`, each equally often.
        constant_share: Probability of a factor, and of an added constant, at each leaf, in [0, 1].
        constants: From where constants are drawn.
        inside: From where each coordinate of training points is drawn.
        outside: From where the size of each coordinate of the outer test points is drawn; the sign is drawn too.
        points: Training points of a problem, (fewest, most), by its number of variables; the last one for more.
        test_points: Points of each test.
        largest: Points with a larger |y| are drawn again.
        narrow_share: Probability that a coordinate is drawn from an interval of its own in place of `inside`: around
            0, from 0 or a positive number, or anywhere within. The papers have 0.
        frequency: Skeletons are drawn in proportion to this power of how often random trees have them: 1 in the papers;
            0 is each equally often.
        longest: Skeletons with more characters are passed by.
        most_constants: Skeletons with more constants are passed by.
        validation_share: Share of skeletons that are for validation.
        test_share: Share of skeletons that are for tests.

    Raises:
        ConfigError: If a value is outside its range.

    Source:
        Valipour et al. (2021), arXiv:2106.14131, section 2.4.1 of Valipour's thesis, and the code published with them.
        There, levels are 1 to 3, minus signs are erased, and the splits share skeletons. Here signs are kept, and a
        skeleton is in one split, whatever its variables are called.
    """

    variables: tuple[int, ...] = (1,)
    levels: tuple[int, ...] = (1, 2, 3)
    operators: tuple[str, ...] = ("id", "add", "mul", "sin", "pow", "cos", "exp", "div", "sub", "log")
    powers: tuple[int, ...] = (3, 4, 5, 6)
    constant_share: float = 0.5
    constants: tuple[float, float] = (-2.1, 2.1)
    inside: tuple[float, float] = (-3.0, 3.0)
    outside: tuple[float, float] = (3.0, 5.0)
    points: tuple[tuple[int, int], ...] = ((30, 30), (200, 200), (500, 500), (20, 250))
    test_points: int = 200
    largest: float = 5000.0
    narrow_share: float = 0.0
    frequency: float = 1.0
    longest: int = 100
    most_constants: int = 16
    validation_share: float = 0.05
    test_share: float = 0.05

    def __post_init__(self) -> None:
        if not self.variables or not all(1 <= one <= 9 for one in self.variables):
            raise ConfigError(f"variables={self.variables} must be numbers from 1 to 9.")
        if not self.levels or not all(0 <= one <= 6 for one in self.levels):
            raise ConfigError(f"levels={self.levels} must be depths from 0 to 6.")
        known = (*UNARY, *BINARY)
        if not self.operators or not set(self.operators) <= set(known):
            raise ConfigError(f"operators={self.operators} are not all known. Choose some of {', '.join(known)}.")
        if not self.powers or not all(2 <= one <= 12 for one in self.powers):
            raise ConfigError(f"powers={self.powers} must be exponents from 2 to 12.")
        for name in ("constants", "inside", "outside"):
            low, high = getattr(self, name)
            if not low < high:
                raise ConfigError(f"{name}={getattr(self, name)} is no interval. Give its lower end first.")
        for name in ("constant_share", "narrow_share", "validation_share", "test_share", "frequency"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be in [0, 1].")
        if self.validation_share + self.test_share >= 1:
            raise ConfigError("validation_share and test_share leave nothing to train on. Their sum must be below 1.")
        for name in ("test_points", "longest", "most_constants"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.largest > 0:
            raise ConfigError(f"largest={self.largest} must be above 0.")
        if not self.points or not all(2 <= low <= high for low, high in self.points):
            raise ConfigError(f"points={self.points} must be pairs of the fewest, at least 2, and the most.")

    def points_of(self, variables: int) -> tuple[int, int]:
        """Return the fewest and the most points of a problem with so many variables."""
        return self.points[min(variables, len(self.points)) - 1]


@dataclass(frozen=True)
class ModelConfig:
    """The size of a model; that of the papers is width 512, 8 layers and heads, character tokens.

    Args:
        variables: The most variables of a problem, D.
        width: Of the data's embedding and of the decoder, W.
        layers: Blocks of the decoder, L.
        heads: Of each block; a divisor of the width.
        positions: The most tokens of a skeleton, with the marks of start and end.
        tokenizer: `operators` or `characters`.
        embedding: `add` (the papers), `prefix` or `node` (C-SymbolicGPT).
        dropout: In the decoder, in [0, 1).

    Raises:
        ConfigError: If a value is outside its range.
    """

    variables: int = 3
    width: int = 128
    layers: int = 4
    heads: int = 4
    positions: int = 64
    tokenizer: TokenizerKind = "operators"
    embedding: Embedding = "add"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.embedding not in get_args(Embedding):
            raise ConfigError(
                f"embedding={self.embedding!r} is unknown. Choose one of {', '.join(get_args(Embedding))}."
            )
        if self.tokenizer not in get_args(TokenizerKind):
            raise ConfigError(
                f"tokenizer={self.tokenizer!r} is unknown. Choose one of {', '.join(get_args(TokenizerKind))}."
            )
        for name in ("variables", "width", "layers", "heads", "positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} is below 1.")
        if self.variables > 9:
            raise ConfigError(f"variables={self.variables} is above 9, the most that have a token.")
        if self.width % self.heads:
            raise ConfigError(f"width={self.width} is no multiple of heads={self.heads}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} must be in [0, 1).")
