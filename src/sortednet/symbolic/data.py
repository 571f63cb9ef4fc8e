"""Problems as training examples, and as tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import ConfigError
from .expressions import GeneratorConfig, Pool, Tokenizer, stream
from .model import ModelConfig
from .scaling import standardise

__all__ = ["Example", "ProblemData", "collate_problems"]

Example = tuple[Tensor, Tensor, Tensor, Tensor]
"""Points, their mask, tokens, and the token behind each: (N, D + 1), (N,), (T,), (T,), or batches of these."""

_NONE = -100  # a target that no loss counts


class ProblemData(Dataset[Any]):
    """Problems without end: each batch is drawn when it is asked for, a function of the seed and of its indices.

    Give it to a `DataLoader` with a `batch_sampler`, any number of workers and `collate_fn=collate_problems`; the
    problems do not depend on the number of workers.

    Args:
        pool: The skeletons.
        generator: What draws constants and points.
        model: For whose tokens and variables. Skeletons with more tokens than it has positions are left out.
        length: Examples of a pass, at least 1.
        seed: Of all.
        instances: Problems of a batch that share a skeleton, at least 1; the fewer, the more skeletons a batch has.
        points: The fewest and the most points that a problem is shown with; as the generator says where left out.
        band: Share of the skeletons, of about the same length, that a batch is from, in (0, 1], so that little of it is
            padding; over all batches each skeleton keeps its weight.

    Raises:
        ConfigError: If a problem may have more variables than the model, or no skeleton is short enough.
    """

    def __init__(
        self,
        pool: Pool,
        generator: GeneratorConfig,
        model: ModelConfig,
        length: int,
        seed: int = 0,
        *,
        instances: int = 4,
        points: tuple[int, int] | None = None,
        band: float = 0.25,
    ) -> None:
        if max(pool.skeletons) > model.variables:
            raise ConfigError(
                f"Problems have up to {max(pool.skeletons)} variables and the model {model.variables}. Raise "
                "model.variables, or lower generator.variables."
            )
        self.tokenizer = Tokenizer(model.tokenizer)
        self.pool = pool.kept(lambda text: len(self.tokenizer.encode(text)) <= model.positions)
        self.generator, self.model, self.length, self.seed = generator, model, length, seed
        self.instances, self.points, self.band = instances, points, band

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        return tuple(part[0] for part in self.__getitems__([index]))  # type: ignore[return-value]

    def __getitems__(self, indices: Sequence[int]) -> Example:
        """Return a batch."""
        count = len(indices)
        points = None
        if self.points is not None:
            points = int(np.random.default_rng([self.seed, indices[0], count]).integers(*self.points, endpoint=True))
        parts = list(
            stream(self.pool, self.generator, self.seed, int(indices[0]), count, self.instances, points, self.band)
        )
        most = max(part.y.shape[1] for part in parts)
        held = np.zeros((count, most, self.model.variables + 1), np.float32)
        mask = np.zeros((count, most), np.float32)
        rows: list[list[int]] = []
        for part in parts:
            x, y, *_ = standardise(part.x, part.y)
            first, last = len(rows), len(rows) + len(y)
            held[first:last, : y.shape[1], : x.shape[2]] = x
            held[first:last, : y.shape[1], -1] = y
            mask[first:last, : y.shape[1]] = 1
            rows.extend([self.tokenizer.encode(part.skeleton)] * len(y))
        tokens = torch.tensor(self.tokenizer.pad(rows))
        targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == 0, _NONE)
        return torch.from_numpy(held), torch.from_numpy(mask), tokens[:, :-1], targets


def collate_problems(batch: Any) -> Example:
    """Return a batch as it is: `ProblemData` makes whole ones."""
    return batch  # type: ignore[no-any-return]
