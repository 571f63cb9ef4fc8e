"""A rank for every example in one forward: gates over the rank axis, behind PEFT's own layers.

A gate multiplies what a layer's first matrix returns, row by row of the batch: 0 above the example's rank, and below it
the scaling of that rank over the scaling of the largest. So `B (gate * (A x)) * scaling` is what the adapter of that
rank gives. All ranks run the same code on tensors of the same shapes: one compiled graph serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..imports.names import Scaling
from ..imports.privates.peft import change_embedded
from ..imports.privates.torch import is_checkpointed
from ..imports.privates.transformers import wrapped_checkpoints
from ..network.trials import Unshareable

__all__ = ["Gates", "Ranked"]


class Ranked(Protocol):
    """What gates need to know of the builder of an adapter; see `AdapterBuilder`."""

    @property
    def adapter(self) -> str:
        """The adapter's name."""

    @property
    def largest(self) -> int:
        """The largest rank."""

    @property
    def scaling(self) -> Scaling:
        """What a smaller rank is multiplied by."""

    def layers(self, model: nn.Module) -> dict[str, Any]:
        """Return the adapted layers of a model, by name."""

    def gate(self, rank: int, own: int) -> float:
        """Return the scaling at a rank over that of the full rank `own`."""

    def rank_of(self, rank: int, own: int) -> int:
        """Return the rank of a layer whose full rank is `own`."""


class Gates:
    """Lets a model with an adapter of the largest rank run each example at a rank of its own.

    Args:
        model: The adapted model, for this alone.
        builder: What has built it.
    """

    def __init__(self, model: nn.Module, builder: Ranked) -> None:
        self._builder = builder
        self._now: dict[int, Tensor] | None = None
        self._recomputable = False  # inside of a checkpoint that finds the gates again
        self._tables: dict[tuple[int, torch.device], Tensor] = {}
        self._model = model
        self._widths: set[int] = set()
        for layer in builder.layers(model).values():
            width = layer.r[builder.adapter]
            self._widths.add(width)
            if builder.adapter in layer.lora_A:
                layer.lora_A[builder.adapter].register_forward_hook(self._hook(width))
            else:
                change_embedded(layer, partial(self._gated, width=width, axis=-1))

    def _hook(self, width: int) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            # A convolution has its channels, which are the ranks, behind the examples.
            return self._gated(output, width, axis=-1 if isinstance(module, nn.Linear) else 1)

        return hook

    def _gated(self, output: Tensor, width: int, axis: int) -> Tensor:
        if self._now is None:
            raise Unshareable("it runs its adapter again outside of its forward, where the ranks are not known")
        if not self._recomputable and not torch.compiler.is_compiling() and is_checkpointed():
            raise Unshareable("it checkpoints activations by itself; call gradient_checkpointing_enable() instead")
        gate = self._now[width]  # (B, width)
        rows, examples = output.shape[0], gate.shape[0]
        if rows != examples:
            if rows % examples:
                raise Unshareable(f"an adapted layer takes {rows} rows for {examples} examples")
            gate = gate.repeat_interleave(rows // examples, dim=0)
        shape = [1] * output.dim()
        shape[0], shape[axis] = rows, width
        # In float32 at least: in half precision the gates themselves would be rounded.
        exact = torch.promote_types(output.dtype, torch.float32)
        return (output * gate.to(exact).view(shape)).to(output.dtype)

    @contextmanager
    def at(self, ranks: Sequence[int]) -> Iterator[None]:
        """Run each example at its rank inside the context.

        Args:
            ranks: One for each example, 0 to the largest. Shape (B,).
        """
        device = next(self._model.parameters()).device
        index = torch.tensor(list(ranks), device=device)
        with (
            self._holding({width: self._table(width, device)[index] for width in self._widths}),
            wrapped_checkpoints(self._model, self._recomputing),
        ):
            yield

    @contextmanager
    def _holding(self, gates: dict[int, Tensor] | None) -> Iterator[None]:
        before, self._now = self._now, gates
        try:
            yield
        finally:
            self._now = before

    def _recomputing(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Let a block that is run again for its gradient find the gates of the forward it belongs to."""

        def checkpointed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            gates = self._now

            def gated(*given: Any, **named: Any) -> Any:
                before, self._recomputable = self._recomputable, True
                try:
                    with self._holding(gates):
                        return function(*given, **named)
                finally:
                    self._recomputable = before

            return own(gated, *args, **kwargs)

        return checkpointed

    def _table(self, width: int, device: torch.device) -> Tensor:
        """Return the gates of a layer of a rank, at every rank of the adapter. Shape (largest + 1, width)."""
        found = self._tables.get((width, device))
        if found is None:
            table = torch.zeros(self._builder.largest + 1, width, dtype=torch.float64)
            for rank in range(1, self._builder.largest + 1):
                scaled = 1.0 if self._builder.scaling == "constant" else self._builder.gate(rank, width)
                table[rank, : self._builder.rank_of(rank, width)] = scaled
            known = torch.float32 if device.type == "mps" else torch.float64
            found = self._tables[(width, device)] = table.to(device, known)
        return found
