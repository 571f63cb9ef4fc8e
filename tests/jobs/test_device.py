"""Where a job runs."""

from pathlib import Path

import pytest
import torch

import sortednet
from sortednet.jobs.device import usable_device

SOURCE = Path(sortednet.__file__).parent


@pytest.mark.parametrize(
    ("works", "built_for", "expected"), [(True, "cuda", "cuda"), (False, "cuda", "cpu"), (False, None, "cpu")]
)
def test_accelerator_is_used_only_where_it_works(
    works: bool, built_for: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CUDA build of torch names `cuda` on a machine without a GPU, too."""
    named = None if built_for is None else torch.device(built_for)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: works)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: named)
    assert usable_device() == torch.device(expected)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nobody_asks_torch_for_the_accelerator_that_it_was_built_for(path: Path) -> None:
    assert path.name == "device.py" or "current_accelerator" not in path.read_text()
