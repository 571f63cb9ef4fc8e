"""Where a network is trained, in which precision, and how its images lie in memory."""

from pathlib import Path

import pytest
import torch

import sortednet
from sortednet.errors import ConfigError
from sortednet.training import device
from sortednet.training.device import has_bfloat16, lies_channels_last, mixed_precision, usable_device

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


CPU = torch.device("cpu")


@pytest.mark.parametrize("told", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False}, {}])
def test_a_processor_says_whether_it_has_bfloat16(told: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert has_bfloat16(CPU) == any(told.values())
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_bfloat16(CPU)


@pytest.mark.parametrize(("has", "auto", "warned"), [(True, "bf16", ""), (False, "no", "auto is float32 here")])
def test_auto_takes_bfloat16_where_the_processor_has_it(
    has: bool, auto: str, warned: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda _: has)
    assert mixed_precision("auto", CPU) == auto
    assert [warned in str(one.message) for one in recwarn.list] == [True] * bool(warned)
    assert mixed_precision("float32", CPU) == "no"
    recwarn.clear()
    assert mixed_precision("bf16", CPU) == "bf16"
    assert ["emulated" in str(one.message) for one in recwarn.list] == [True] * (not has)


def test_images_lie_with_the_channels_last_where_it_is_asked_for_or_auto_is_bfloat16() -> None:
    flat, solid, none = torch.nn.Conv2d(1, 2, 3), torch.nn.Conv3d(1, 2, 3), torch.nn.Linear(1, 2)
    assert lies_channels_last(False, "auto", "bf16", flat)
    assert not lies_channels_last(False, "auto", "no", flat)
    assert not lies_channels_last(False, "bf16", "bf16", flat)
    assert lies_channels_last(True, "float32", "no", flat)
    assert not lies_channels_last(False, "auto", "bf16", none)
    assert not lies_channels_last(False, "auto", "bf16", torch.nn.Sequential(flat, solid))
    with pytest.raises(ConfigError, match=r"channels_last is for convolutions of images, and weight has 5 axes"):
        lies_channels_last(True, "float32", "no", solid)
