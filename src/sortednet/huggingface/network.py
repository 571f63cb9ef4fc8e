"""A network whose full model is one of Hugging Face's: what trainers and generation ask of a pretrained model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import BuildError
from ..generation import Policy
from ..generation.sub_models import generate
from ..imports.names import BufferPolicy
from ..imports.privates.torch import children_of
from ..network.sorted_net import SortedNet
from ..space import Number, Space
from ..views.layouts import Layout
from .chunked_loss import ChunkedHead
from .families import builder_of, open_pretrained
from .readouts import Readout

__all__ = ["PretrainedNet"]


class PretrainedNet(SortedNet):
    """A many-in-one network of a Hugging Face model, plain or with an adapter.

    Fields and methods of the model that a network lacks, such as `config`, are the full model's, and are set there. It
    is made by `SortedNet.from_pretrained`, `dylora` and `load`.

    Args:
        args: As `SortedNet`.
        options: As `SortedNet`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._fused: Callable[..., Any] | None = None
        super().__init__(*args, **options)
        self.head = self.builder.head(self.full)
        self._is_made = True

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module | str | Path,
        /,
        *,
        space: Space | None = None,
        readout: str | Readout | None = "default",
        layouts: Layout | Iterable[Layout] = (),
        buffers: BufferPolicy = "shared",
        private: str | Sequence[str] = (),
        example: Any = None,
        **supports: Sequence[Number],
    ) -> PretrainedNet:
        """Make a pretrained model many-in-one; see `SortedNet.from_pretrained`."""
        full = open_pretrained(model) if isinstance(model, (str, Path)) else model
        if space is None:
            space = Space(**supports)
        elif supports:
            raise BuildError(f"Give space={space!r} or {', '.join(supports)}, not both.")
        builder = builder_of(full, space, readout)
        given = (layouts,) if isinstance(layouts, Layout) else tuple(layouts)
        with builder.reading(full):
            return cls(
                builder,
                space,
                model=full,
                layouts=(*builder.layouts(full), *given),
                buffers=buffers,
                private=private,
                example=example,
            )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Trainers ask a pretrained model for its config and the like; a network answers as its full model.
            if name.startswith("__") or name == "full":
                raise
            return getattr(self.full, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is the full model's on the full model, such as a generation config that a trainer sets."""
        own = name.startswith("_") or name in self.__dict__ or name in children_of(self) or hasattr(type(self), name)
        if not own and self.__dict__.get("_is_made") and hasattr(self.full, name):
            setattr(self.full, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        """Run one sub-model, or several in one call; see `SortedNet.forward`.

        Args:
            args: As there.
            fused_lm_head: Whether to run the sub-model by the forward that TRL has given the model, whose head is
                fused with its loss.
            kwargs: As there.
        """
        if not fused_lm_head or self._fused is None:
            return super().forward(*args, **kwargs)
        setting = self.space.setting(kwargs.pop("setting", None))
        return self._fused(self.builder.inner(self._bound(setting).module), *args, fused_lm_head=True, **kwargs)

    def adopt_fused_head(self) -> None:
        """Let the forward that TRL has put in this network's place run the sub-model that is asked for instead."""
        fused = getattr(self.__dict__.get("forward"), "__func__", None)
        if fused is not None and "fused_lm_head" in inspect.signature(fused, follow_wrapped=False).parameters:
            del self.__dict__["forward"]
            self._fused = fused

    @property
    def head(self) -> ChunkedHead | None:
        """How exits of a causal language model are read in chunks; set it to None to read them whole."""
        head: ChunkedHead | None = self._sharing.head
        return head

    @head.setter
    def head(self, head: ChunkedHead | None) -> None:
        self._sharing.head = head

    def generate(
        self,
        *args: Any,
        decoding: Policy | None = None,
        setting: Mapping[str, Number] | str | None = None,
        settings: Sequence[Mapping[str, Number] | str] | None = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continue texts with a causal language model.

        Args:
            args: What the model's own `generate` takes: the prompts. Shape (B, P).
            decoding: `SelfSpeculative`, `EarlyExit` or `FixedDepth`; the model's own `generate` where left out.
            setting: The sub-model that decodes; the full model where left out.
            settings: Or one for each text, which differ in their depth alone, or in the rank of their adapter alone.
            streamer: Of transformers, for one text: gets each token once it belongs to it.
            kwargs: What the model's own `generate` takes, such as `max_new_tokens` and `stopping_criteria`.

        Returns:
            What the model's own `generate` returns: the texts, shape (B, T).

        Raises:
            BuildError: If the model cannot be decoded so.
            ConfigError: If something is asked for that is not decoded here.
            DataError: If a prompt is empty or too long.
            SettingError: If a setting or an exit is not in the space.
        """
        return generate(self, args, decoding, setting, settings, streamer, kwargs)
