"""The privates of Accelerate. ARCHITECTURE.md lists them; `tests/imports/privates` says which of them is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..packages import needs

with needs("A trainer", "train"):
    from accelerate.state import AcceleratorState

__all__ = ["own_state"]


@contextmanager
def own_state() -> Iterator[None]:
    """Forget for a while what Accelerate has noted for the process, such as the precision, and put it back."""
    kept = dict(AcceleratorState._shared_state)
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(kept)
