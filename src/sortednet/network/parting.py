"""Parts of a batch for several sub-models, and a trial of whether parts are what they seem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..imports.privates.torch import BatchNorm
from ..views.batches import tensors_of_batch
from ..views.buffers import Private
from ..views.examples import BatchAxis, Inputs, is_joinable, size_of_inputs, split_inputs
from ..views.modes import is_sharded, is_traced
from ..views.skeletons import Skeleton
from .exits import random_state_kept
from .trials import equal

__all__ = ["Parting"]


class Parting:
    """Parts batches of one network.

    As many steps as examples, a mask between examples, or a forward that compares them: the shapes of a batch do not
    tell. So before a batch of its kind is first parted, the full model runs on it, and on two halves: these must give
    the same.

    Args:
        made: Returns a skeleton of the full setting, which is not compiled.
        private: The network's private tensors.
        brief: Returns inputs of the same kind with fewer positions, where it is known how.
    """

    def __init__(self, made: Callable[[], Skeleton], private: Private, brief: Callable[[Inputs], Inputs]) -> None:
        self._made, self._private, self._brief = made, private, brief
        self._tried: set[Any] = set()  # by which arguments there are, and what they are

    def parts(
        self, full: nn.Module, inputs: Inputs, parts: int | Sequence[int], batch_axis: BatchAxis, count: int
    ) -> tuple[list[Inputs], bool]:
        """Part the inputs of a batch.

        Args:
            full: The full model.
            inputs: Positional and keyword arguments.
            parts: How many parts, or their sizes; 0 where each gets all.
            batch_axis: Where examples are, where that is not on the first axis. What is said is not tried.
            count: The number of sub-models.

        Returns:
            The parts, and whether they may be joined again.

        Raises:
            DataError: If it cannot be told where its examples are, or outputs depend on other examples.
        """
        if not parts:
            return [inputs] * count, True
        found = split_inputs(inputs, parts, batch_axis)
        size = size_of_inputs(inputs, batch_axis) if isinstance(parts, int) else sum(parts)
        given = tuple((name, type(value)) for name, value in (*enumerate(inputs[0]), *inputs[1].items()))
        if batch_axis is None and given not in self._tried and size > 1 and not is_traced():
            if not is_sharded(full):
                with torch.no_grad(), random_state_kept(inputs):
                    self._try(full, self._brief(inputs), size)
            self._tried.add(given)
        return found, is_joinable(inputs, size, batch_axis)

    def _try(self, full: nn.Module, inputs: Inputs, size: int) -> None:
        skeleton = self._made()
        skeleton.bind(self._private, inference=True)

        def run(call: Inputs) -> list[Tensor]:
            return list(tensors_of_batch(skeleton.module(*call[0], **call[1])))

        try:
            whole = run(inputs)
        except Exception:  # its own, which the caller is about to see
            return
        sizes = [size // 2, size - size // 2]
        try:
            halves = [run(one) for one in split_inputs(inputs, sizes)]
        except DataError:
            raise
        except Exception as error:
            raise _meeting(f"it does not run on them ({type(error).__name__}: {error})") from error
        problem = _difference(whole, halves, sizes)
        if problem and not _normalises_by_batch(full):
            torch.rand(1)
            if equal(run(inputs), whole):  # else it gives something else each time
                raise _meeting(problem)


def _meeting(problem: str) -> DataError:
    return DataError(
        f"Halves of a batch do not give what the batch gives: {problem}. Its examples are not on the first axis of "
        "the inputs, or the model lets them meet. Say where they are, such as batch_axis=1 or "
        "batch_axis={'mask': None}; or give each sub-model the whole batch: Stochastic(..., split=False)."
    )


def _difference(whole: Sequence[Tensor], halves: Sequence[Sequence[Tensor]], sizes: Sequence[int]) -> str:
    """Say how the outputs of two halves are not those of the whole; nothing where they are."""
    first, second = halves
    if len(first) + len(second) == len(whole) != len(first):  # a list of outputs, one for each example
        pairs = zip(whole, [*first, *second], strict=True)
        return "" if all(equal(ours, theirs) for theirs, ours in pairs) else "its outputs differ"
    if not len(first) == len(second) == len(whole):
        return f"it returns {len(whole)} tensors, and {len(first)} for a half"
    for one, less, more in zip(whole, first, second, strict=True):
        shapes = f"{tuple(one.shape)}, and of the halves {tuple(less.shape)} and {tuple(more.shape)}"
        if one.dim() == 0:
            continue  # such as a loss
        if less.shape == more.shape == one.shape and sum(sizes) != one.shape[0]:
            joined = less  # of no example
        elif less.shape[0] == sizes[0] and more.shape[0] == sizes[1] and less.shape[1:] == one.shape[1:]:
            joined = torch.cat([less, more])
        else:
            return f"its outputs have shape {shapes}"
        if joined.shape != one.shape:
            return f"its outputs have shape {shapes}"
        if not equal(joined, one):
            return "its outputs differ"
    return ""


def _normalises_by_batch(full: nn.Module) -> bool:
    """Whether a norm takes the statistics of the batch in evaluation too."""
    return any(isinstance(one, BatchNorm) and one.running_mean is None for one in full.modules())
