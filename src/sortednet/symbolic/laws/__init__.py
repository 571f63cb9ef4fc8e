"""Laws that are found without a model: a library of simple forms, and what y is reduced to step by step."""

from .columns import relevant
from .library import skeletons, waves
from .reductions import find_laws

__all__ = ["find_laws", "relevant", "skeletons", "waves"]
