"""Whose a buffer is: a part of the full model's, or the small model's own, as its constructor computes it.

A mask, an index or a scale is computed from the sizes; the small model's is right for it, whatever the full one's
holds. Statistics begin alike everywhere, and what is drawn at random has to be the full model's, for which the weights
were trained. So the constructors are asked: a buffer of the small model that is made as a part of the full model's
follows it; one that is made otherwise is drawn, if another seed makes it otherwise again, or else its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..space import Setting
from .cut import Cut
from .draws import draws
from .outlines import outline, redrawn

__all__ = ["Constructed"]

_OTHER_SEED = 1


class Constructed:
    """The buffers of the full model as its constructor makes them.

    Args:
        build: Makes the model.
        full: The full setting.
    """

    def __init__(self, build: Callable[..., nn.Module], full: Setting) -> None:
        self._build, self._setting = build, full
        self._made: dict[str, Tensor] | None = None
        self._drawn: dict[str, bool] | None = None

    def is_part(self, name: str, made: Tensor, cut: Cut) -> bool:
        """Whether a buffer is made as a part of the full model's.

        Args:
            name: Its name.
            made: What the constructor of the small model made.
            cut: Where it would lie.
        """
        whole = self._outlined().get(name)
        if whole is None or whole.dtype != made.dtype or whole.dim() != made.dim():
            return False
        part = cut.of(whole)
        return part.shape == made.shape and _same(part, made)

    def shape_of(self, name: str) -> torch.Size:
        """Return the shape of the full model's buffer."""
        return self._outlined()[name].shape

    def is_drawn(self, name: str) -> bool:
        """Whether the full model's buffer is drawn at random."""
        if not draws(self._build):
            return False
        if self._drawn is None:
            one, other = (redrawn(self._build, self._setting, seed) for seed in (0, _OTHER_SEED))
            self._drawn = {key: key in other and not _same(buffer, other[key]) for key, buffer in one.items()}
        return self._drawn.get(name, False)

    def _outlined(self) -> dict[str, Tensor]:
        if self._made is None:
            self._made = dict(outline(self._build, self._setting).named_buffers(remove_duplicate=False))
        return self._made


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.isclose(one, other, equal_nan=True).all())
