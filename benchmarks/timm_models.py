"""timm's models, small: the class of a name at a share of its width and at few blocks, by a rule for all of them.

timm is not among the extras, as it asks for torchvision, which is bound to one build of torch. So:

    python -m venv bench && echo $PWD/.venv/lib/python3.*/site-packages > bench/lib/python3.*/site-packages/shared.pth
    bench/bin/python -m pip install --no-deps timm==1.0.31

What timm takes from torchvision (transforms of images, a frozen norm) no model here needs, and `torchvision_stand_in`
gives names for it while timm is imported.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import importlib
import inspect
import math
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

# The first of these that a class takes, or a mapping or configuration that it takes, is its width, and its depth.
WIDTHS = (
    "embed_dim", "embed_dims", "dims", "dim", "base_dims", "base_dim", "widths", "width_list", "channels", "out_chs",
    "hidden_sizes", "growth_rate", "growth_rates", "base_width", "w0", "width", "width_mult", "widen_factor",
    "width_factor", "channel_multiplier", "scale", "initial_chs", "init_channels", "num_heads", "heads", "inplanes",
    "stem_size", "num_features",
)  # fmt: skip
DEPTHS = (
    "depth", "depths", "layers", "depth_list", "block_config", "num_blocks", "num_blocks_list", "serial_depths",
    "levels", "stages", "k_sec",
)  # fmt: skip
SHARES, CAPS = (0.5, 1.0), (1, 2)
_TORCHVISION = (
    "torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops",
    "torchvision.ops.misc", "torchvision.models", "torchvision.models.feature_extraction", "torchvision.datasets",
    "torchvision.utils",
)  # fmt: skip

Path = tuple[str, ...]


class _StandIn(types.ModuleType):
    """A module that has every name, as an empty class."""

    __path__: list[str] = []  # noqa: RUF012  # so that it counts as a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let `import torchvision` find names without anything behind them."""
    before = {name: sys.modules.pop(name, None) for name in _TORCHVISION}
    for name in _TORCHVISION:
        sys.modules[name] = _StandIn(name)
        package, _, leaf = name.rpartition(".")
        if package:
            setattr(sys.modules[package], leaf, sys.modules[name])
    modes = enum.Enum("InterpolationMode", "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
    for name in ("torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name].InterpolationMode = modes
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


@cache
def timm() -> Any:
    """Import timm."""
    with torchvision_stand_in():
        return importlib.import_module("timm")


@cache
def taken(name: str) -> tuple[type[nn.Module], Mapping[str, Any]]:
    """Return the class of a name, and the arguments that it gets."""
    plain = type(timm().create_model(name, num_classes=10))
    signature, made, own = inspect.signature(plain.__init__), [], plain.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is plain and not made:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            made.append(dict(list(bound.arguments.items())[1:]))
        own(self, *args, **kwargs)

    plain.__init__ = init
    try:
        timm().create_model(name, num_classes=10)
    finally:
        plain.__init__ = own
    rest = next((one.name for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD), "")
    more = made[0].pop(rest, {})
    return plain, {**made[0], **more}


def image_size(name: str) -> tuple[int, ...]:
    """Return channels, height, width."""
    return tuple(timm().get_pretrained_cfg(name).input_size)


def paths(arguments: Any, names: Sequence[str], whole: bool, inside: Path = ()) -> list[Path]:
    """Return where arguments of these names are that are numbers, or lists of numbers: in the order of the names."""
    held = _fields(arguments)
    found = [(*inside, name) for name in names if name in held and _is_size(held[name], whole)]
    for name, value in held.items():
        if len(inside) < 2 and _fields(value):
            found += paths(value, names, whole, (*inside, name))
    return found


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {name: one for name, one in value.items() if isinstance(name, str)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return {}


def _is_size(value: Any, whole: bool) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_size(one, whole) for one in value)
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)


def scaled(value: Any, share: float) -> Any:
    """Return a share of a width, or of each in a list.

    Raises:
        ValueError: If that is no whole number where the width is one.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(scaled(one, share) for one in value)
    if isinstance(value, float):
        return value * share
    part = value * share
    if part < 1 or part != math.floor(part):
        raise ValueError(f"{share} of {value} is no width")
    return int(part)


def capped(value: Any, cap: int, listed: bool = False) -> Any:
    """Return a number of blocks, at most `cap` in each stage, and twice that where there is one stage."""
    if isinstance(value, (list, tuple)):
        return type(value)(capped(one, cap, True) for one in value)
    return min(value, cap if listed else 2 * cap)


def with_value(arguments: Any, path: Path, change: Any) -> Any:
    """Return arguments, or a configuration, with one value changed by a function."""
    name, rest = path[0], path[1:]
    held = _fields(arguments)[name]
    new = with_value(held, rest, change) if rest else change(held)
    if isinstance(arguments, Mapping):
        return {**arguments, name: new}
    return dataclasses.replace(arguments, **{name: new})


def build(name: str, width: Path, depth: Path | None, share: float, cap: int) -> nn.Module:
    """Build the class of a name at a share of its width, with at most some blocks."""
    plain, arguments = taken(name)
    arguments = copy.deepcopy(dict(arguments))  # some hold a module
    changed = with_value(arguments, width, lambda value: scaled(value, share))
    if depth is not None:
        changed = with_value(changed, depth, lambda value: capped(value, cap))
    return plain(**changed)
