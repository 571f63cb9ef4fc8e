"""The ranks of an adapter that are sorted, and the space that they make. Nothing here needs torch or PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ..errors import ConfigError, SpaceError
from ..imports.names import RankPattern
from ..space import Space

__all__ = ["RANK", "check_ranks", "largest_rank", "rank_at", "with_ranks"]

RANK = "r"


def largest_rank(config: Any, pattern: RankPattern) -> int:
    """Return the rank at which every layer has all the rank that the config gives it.

    Raises:
        ConfigError: If `pattern` is unknown.
    """
    if pattern not in get_args(RankPattern):
        raise ConfigError(f"rank_pattern={pattern!r} is unknown. Choose one of {', '.join(get_args(RankPattern))}.")
    found: int = max(config.r, *config.rank_pattern.values()) if pattern == "clip" and config.rank_pattern else config.r
    return found


def rank_at(rank: int, own: int, largest: int, pattern: RankPattern) -> int:
    """Return the rank of a layer where the adapter has a rank.

    Args:
        rank: The adapter's rank, 1 to `largest`.
        own: The layer's full rank, at least 1.
        largest: The adapter's largest rank.
        pattern: `clip` or `proportional`.

    Example:
        >>> rank_at(4, own=2, largest=8, pattern="clip"), rank_at(4, own=2, largest=8, pattern="proportional")
        (2, 1)
    """
    return min(rank, own) if pattern == "clip" else -(-rank * own // largest)


def check_ranks(ranks: Sequence[int] | None, largest: int) -> list[int]:
    """Return the ranks to sort, increasing: those given, or the powers of two up to the largest and the largest.

    Raises:
        SpaceError: If one is no whole number from 1 to the largest, or the largest is not among them.
    """
    if ranks is None:
        return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]
    try:
        given = list(ranks)
    except TypeError:
        raise SpaceError(f"ranks={ranks!r} is no list of ranks. Give such as [1, 2, 4, 8], or range(1, 9).") from None
    for rank in given:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
            raise SpaceError(
                f"ranks={given} holds {rank!r}; the ranks of this adapter are whole numbers from 1 to {largest}. "
                "Choose among them, or give the LoraConfig a larger r."
            )
    if largest not in given:
        raise SpaceError(
            f"ranks={given} does not hold the largest rank {largest} of the LoraConfig (r, or a larger one in "
            "rank_pattern), which is the adapter that is saved. Add it, or give the LoraConfig smaller ranks."
        )
    return sorted(set(given))


def with_ranks(inner: Space | None, ranks: Sequence[int]) -> Space:
    """Return the space of an adapted model.

    Args:
        inner: The model's own dimensions, if some are sorted.
        ranks: The adapter's.

    Example:
        >>> with_ranks(Space(depth=[2, 4]), [1, 8])
        Space(depth=[2, 4], r=[1, 8])
    """
    if inner is None:
        return Space(**{RANK: ranks})
    if inner.is_product:
        return Space(**inner.supports, **{RANK: ranks})
    return Space([{**setting, RANK: rank} for setting in inner for rank in ranks])
