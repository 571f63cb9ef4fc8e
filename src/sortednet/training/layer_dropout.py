"""Layer dropout: blocks that are passed by at random in training, so that a model comes to do without any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

from ..errors import BuildError, ConfigError
from ..views.hooks import BlockHook, drop, put

__all__ = ["LayerDropout", "Unit", "drop_layers", "growing_rates"]

Unit = Literal["batch", "example"]
"""`batch`: one decision for all examples, as LayerDrop. `example`: one for each, as LayerSkip."""


@final
@dataclass(frozen=True)
class LayerDropout(BlockHook):
    """A forward hook of a block that lets it be passed by at random while the block is in training mode.

    The block is computed all the same, and what it was given takes the place of what it returned. So no decision has to
    be the same in all processes of a distributed run: each runs every block, and none waits for another.

    Args:
        rate: How often the block is passed by, in [0, 1).
        unit: What a decision is taken for.
    """

    follows: ClassVar[bool] = True

    rate: float
    unit: Unit = "batch"

    def __call__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Apply it as a forward hook."""
        if not block.training or "given_block" in kwargs:  # the block that a sharded one is given has its own
            return output
        several = isinstance(output, (tuple, list))
        hidden = output[0] if several and output else output
        given: Any = args[0] if args else kwargs.get("hidden_states")
        if not _is_alike(given, hidden):
            raise BuildError(
                f"{type(block).__name__} takes {_described(given)} and returns {_described(hidden)}, so that it cannot "
                "be passed by. A block whose rate is not 0 must take floating-point hidden states as its first "
                "argument or as hidden_states, and return them, alone or first, in the same shape. Give it the rate 0."
            )
        draws = torch.rand(len(hidden) if self.unit == "example" else 1, device=hidden.device)  # (B,) or (1,)
        dropped = (draws < self.rate).view(-1, *[1] * (hidden.dim() - 1))
        changed = torch.where(dropped, given.to(hidden.dtype), hidden)
        if isinstance(output, list):
            return [changed, *output[1:]]
        return (changed, *output[1:]) if several else changed


def drop_layers(model: nn.Module, path: str, rates: float | Sequence[float], *, unit: Unit = "batch") -> None:
    """Let blocks of a list be passed by at random while training, in place; in evaluation none is.

    Called on the full model of a `SortedNet`, at any time, it holds for every sub-model. What is extracted is a plain
    model without it. Decisions come from torch's own random generator, as those of `nn.Dropout` do. Nothing is scaled
    in evaluation: a block must hold its own shortcut, so that what it takes and returns mean the same.

    Args:
        model: The model, such as `net.full`.
        path: Its `nn.ModuleList` or `nn.Sequential` of blocks, such as `model.layers`. The model must call its blocks,
            and for decisions by example what they take and return must have the examples on the first axis.
        rates: How often each block is passed by, in [0, 1): one number for every block, or one for each. A rate of 0
            takes the dropout off again.
        unit: Whether one decision holds for the whole `batch`, or one is taken for each `example`.

    Raises:
        BuildError: If there is no such list of blocks. In training, if a block returns another shape than it takes.
        ConfigError: If the rates are out of range or not as many as the blocks, or the unit is unknown.

    Source:
        Fan et al. (2019), arXiv:1909.11556v1, Sec. 3.2 (LayerDrop, `batch`); Elhoushi et al. (2024),
        arXiv:2404.16710v4, Sec. 4.1 (LayerSkip, `example`). They leave out what is dropped, which saves its time; we
        compute it and then set it aside (`LayerDropout`), so that processes need not drop alike.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> drop_layers(model, "", [0, 0.99999999])
        >>> x = torch.ones(3, 2)
        >>> torch.equal(model(x), model[0](x)), torch.equal(model.eval()(x), model[0](x))
        (True, False)
    """
    blocks = _blocks(model, path)
    if unit not in get_args(Unit):
        raise ConfigError(f"unit={unit!r} is unknown. Choose one of {list(get_args(Unit))}.")
    given = [rates] * len(blocks) if isinstance(rates, (int, float)) else list(rates)
    if len(given) != len(blocks):
        raise ConfigError(
            f"rates={given} are {len(given)} for the {len(blocks)} blocks of {path!r}. Give one number, or one for "
            "each block."
        )
    for rate in given:
        _check_rate("rates", rate)
    for block, rate in zip(blocks, given, strict=True):
        _replace(block, LayerDropout(float(rate), unit) if rate else None)


def growing_rates(blocks: int, highest: float) -> tuple[float, ...]:
    """Return rates that grow with the depth: 0 for the first block, `highest` for the last.

    That of block l of L, counted from 0, is `highest` times exp(l ln 2 / (L - 1)) - 1. A single block has the rate 0.

    Args:
        blocks: Number of blocks L, at least 1.
        highest: Rate of the last block, in [0, 1).

    Returns:
        A rate for each block, for `drop_layers`.

    Raises:
        ConfigError: If one is out of range.

    Source:
        Elhoushi et al. (2024), arXiv:2404.16710v4, Sec. 4.1, the scaling D(l) times p_max. Their curriculum S(t) is
        `highest` growing from call to call.

    Example:
        >>> [round(rate, 3) for rate in growing_rates(4, 0.2)]
        [0.0, 0.052, 0.117, 0.2]
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ConfigError(f"blocks={blocks!r} is no number of blocks. Give a whole number of at least 1.")
    _check_rate("highest", highest)
    # exp(x ln 2) is a power of 2, which is exact at both ends.
    return tuple(highest * (2.0 ** (place / max(blocks - 1, 1)) - 1) for place in range(blocks))


def _replace(block: nn.Module, dropout: LayerDropout | None) -> None:
    drop(block, lambda hook: isinstance(hook, LayerDropout))
    if dropout is not None:
        put(block, dropout, first=True)  # so that a readout reads what the block was given where it is passed by


def _blocks(model: nn.Module, path: str) -> list[nn.Module]:
    """Return the blocks of a list."""
    found = dict(model.named_modules(remove_duplicate=False)).get(path)
    if found is None or not _holds_blocks(found):
        known = [name for name, module in model.named_modules() if _holds_blocks(module)]
        raise BuildError(
            f"{path!r} is no list of blocks of {type(model).__name__}. "
            + (f"Choose one of {known}." if known else "Give a model that has an nn.ModuleList or nn.Sequential.")
        )
    return list(found.children())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a module is a list of what can be called."""
    return (
        isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(module) > 0
        and not any(isinstance(block, (nn.ModuleList, nn.ModuleDict)) for block in module)
    )


def _check_rate(name: str, rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ConfigError(f"{name} holds {rate!r}, which is no rate. Give numbers of at least 0 and below 1.")


def _is_alike(given: Any, hidden: Any) -> bool:
    return (
        isinstance(given, Tensor)
        and isinstance(hidden, Tensor)
        and given.is_floating_point()
        and hidden.is_floating_point()
        and given.shape == hidden.shape
        and hidden.dim() > 0
    )


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
