"""What plain transformers makes of the files of a model, where that is something else."""

from __future__ import annotations

import functools
import warnings
from types import MethodType
from typing import Any

from torch import nn

from ...space import Setting
from ...views.outlines import outline
from ..readouts import Readout, attached, marks

__all__ = ["REMEDY", "read_otherwise", "say_when_saved", "unopened"]

REMEDY = "Open it by sortednet.load(folder), or train with readout='own'."


def read_otherwise(readout: Readout) -> str:
    """Return what plain transformers makes of the files of a model with a readout, as a sentence."""
    return (
        "Plain transformers opens what is saved here, but its outputs are others: it does not know the readout "
        f"{readout.name!r}, and reads what the class itself does."
    )


def unopened(model: Any) -> str:
    """Return why plain `from_pretrained` does not open the files of a model; empty where it does.

    Args:
        model: The model, of transformers.
    """
    if hasattr(model, "peft_config") or getattr(model, "is_quantized", False):
        return ""  # its files are those of an adapter, or hold other tensors
    try:
        config = type(model.config).from_dict(model.config.to_dict())
        plain = outline(lambda **_: type(model)(config), Setting({"any": 1}))  # without memory
    except Exception as error:  # whatever transformers makes of a config
        lines = [line.strip() for line in str(error).strip().splitlines()]
        return f"its config is refused: {' '.join(lines)[:300]}".rstrip(".")
    ours, theirs = ({name: tuple(one.shape) for name, one in each.state_dict().items()} for each in (model, plain))
    for name in sorted((ours.keys() | theirs.keys()).difference(marks(model))):
        if ours.get(name) != theirs.get(name):
            return f"its config says that {name} has the shape {theirs.get(name)}, and it has {ours.get(name)}"
    return ""


def say_when_saved(model: nn.Module) -> None:
    """Let the `save_pretrained` of a model say what plain transformers makes of the files, where that differs."""
    plain = getattr(type(model), "save_pretrained", None)
    if plain is None:
        return

    @functools.wraps(plain)
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        why, readout = unopened(self), next(filter(None, map(attached, self.modules())), None)
        if why:
            warnings.warn(
                f"Plain transformers does not open what is saved here: {why}. Save the network (net.save_pretrained), "
                "and open this part of it by sortednet.load(folder, at=...).",
                stacklevel=2,
            )
        elif readout is not None:
            warnings.warn(
                f"{read_otherwise(readout)} Save the network (net.save_pretrained), and open this part of it by "
                "sortednet.load(folder, at=...), or train with readout='own'.",
                stacklevel=2,
            )
        return plain(self, *args, **kwargs)

    model.save_pretrained = MethodType(save_pretrained, model)  # type: ignore[assignment]
