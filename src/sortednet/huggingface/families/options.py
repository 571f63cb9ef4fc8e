"""What a person may set on a Hugging Face model beside its weights: the fields of its configs, and its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from ...errors import BuildError
from ...imports.privates.transformers import LOSS
from ...views.options import Held, Merge

__all__ = ["options_of"]


def options_of(module: nn.Module, sizes: Sequence[str] = ()) -> Iterator[Held]:
    """Yield what may be set on a module of a Hugging Face model; nothing on others.

    Args:
        module: The module, with its own `config` or `generation_config`, if it has one.
        sizes: Fields that are dimensions, which nobody may set.
    """
    values = vars(module)
    refusing = {name: partial(_refuse, name) for name in sizes}
    for name in ("config", "generation_config"):
        if _is_config(values.get(name)):
            yield from _fields(name, values, name, refusing)
    if "loss_type" in values:
        yield Held("loss", values, LOSS)


def _is_config(one: Any) -> bool:
    return one is not None and not isinstance(one, type) and hasattr(one, "to_dict") and hasattr(one, "__dict__")


def _refuse(name: str, own: Any, was: Any, now: Any) -> Any:
    raise BuildError(
        f"config.{name} of the full model was set from {was} to {now}, and it is a dimension: the size does not change "
        f"with it. Set it back, and choose a sub-model by its setting, such as net.at({name}={now})."
    )


def _fields(where: str, holder: Mapping[str, Any], name: str, merge: Mapping[str, Merge]) -> Iterator[Held]:
    """Yield the fields of a config, and of those inside it: the parts of a composed model have their own."""
    values = vars(holder[name])
    inner = [field for field, one in values.items() if _is_config(one)]
    yield Held(where, values, tuple(field for field in values if field not in inner), merge, (holder, name))
    for field in inner:
        yield from _fields(f"{where}.{field}", values, field, merge)
