"""The configuration of an adapter whose rank is sorted: what a YAML file may say under the key `adapter`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ConfigError
from ..imports.names import RankPattern, Scaling
from ..lora.rank_space import check_ranks, largest_rank, with_ranks
from ..space import Space

__all__ = ["AdapterConfig"]

_ALL = "all-linear"


@dataclass(frozen=True)
class AdapterConfig:
    """Which adapter; most are fields of `peft.LoraConfig`.

    Args:
        r: The largest rank, at least 1.
        ranks: The ranks to train, from 1 to the largest, which must be among them; the powers of two and the largest
            where null.
        lora_alpha: A rank b is multiplied by alpha / b, above 0.
        lora_dropout: Of an adapted layer's input, in [0, 1).
        target_modules: Names of the layers to adapt, such as `[query, value]`; or `all-linear`. Those that PEFT chooses
            for this kind of model where null.
        modules_to_save: Names of the model's own modules that are trained and saved too, shared by all ranks. A
            classifier's head is among them anyway.
        use_rslora: Whether a rank b is multiplied by alpha over the square root of b.
        rank_pattern: The full rank of some layers, by name or pattern.
        alpha_pattern: The alpha of some layers, by name or pattern.
        rank_pattern_rule: The rank of the layers in `rank_pattern` at a smaller rank b: `clip`, min(b, their own); or
            `proportional`.
        scaling: Of smaller ranks: `rank`, each its own; or `constant`, that of the largest.
        init_lora_weights: How the adapter begins, as `peft.LoraConfig` names it.

    Raises:
        ConfigError: If a value is outside its range.
        SpaceError: If a rank is none of this adapter's.
    """

    r: int = 8
    ranks: list[int] | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    rank_pattern_rule: RankPattern = "clip"
    scaling: Scaling = "rank"
    init_lora_weights: bool | str = True

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("r", self.r >= 1, "at least 1"),
            ("lora_alpha", self.lora_alpha > 0, "above 0"),
            ("lora_dropout", 0 <= self.lora_dropout < 1, "in [0, 1)"),
            ("rank_pattern", all(one >= 1 for one in self.rank_pattern.values()), "of ranks of at least 1"),
        ):
            if not fits:
                raise ConfigError(f"adapter.{name}={getattr(self, name)} must be {wanted}.")
        if isinstance(self.target_modules, str) and self.target_modules != _ALL:
            raise ConfigError(
                f"adapter.target_modules={self.target_modules!r} is no list. Give names, such as [query, value], or "
                f"{_ALL}."
            )
        self.sorted_ranks()

    def sorted_ranks(self) -> list[int]:
        """Return the ranks that are trained, increasing.

        Raises:
            SpaceError: If one is none of this adapter's.
        """
        return check_ranks(self.ranks, largest_rank(self, self.rank_pattern_rule))

    def make_space(self, inner: Space | None) -> Space:
        """Return the space of the network.

        Args:
            inner: The model's own dimensions, if some are sorted.
        """
        return with_ranks(inner, self.sorted_ranks())
