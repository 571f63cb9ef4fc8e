"""Losses of language-model exits token by token, in chunks, so that no exit's logits are ever held whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ..errors import DataError, TrainingError
from ..imports.privates.torch import register_pytree_node, tree_leaves
from ..network.exits import Reader
from ..views.batches import IGNORED, next_labels
from ..views.buffers import Private
from ..views.skeletons import Slot

__all__ = ["ChunkedHead", "ExitOutput"]


@dataclass(frozen=True)
class ExitOutput:
    """What is read at an exit where the head is applied in chunks.

    Attributes:
        loss: Mean loss over the tokens that have a label; 0 where none has. Shape ().
    """

    loss: Tensor

    @property
    def logits(self) -> Tensor:
        """Not kept.

        Raises:
            DataError: Always.
        """
        raise DataError(
            "The logits of several exits are not kept: their losses were computed in chunks. Set net.head = None to "
            "read every exit whole, or run a sub-model by itself: net.at(setting)(...)."
        )

    def __getitem__(self, key: int | str) -> Tensor:
        """Return the loss by its name or its place, as outputs of Hugging Face's models do."""
        if key in (0, "loss"):
            return self.loss
        if key == "logits":
            return self.logits
        raise KeyError(key)


# So that FSDP finds the loss in it.
register_pytree_node(ExitOutput, lambda one: ([one.loss], None), lambda held, _: ExitOutput(*held))

_PLAIN = {
    "attention_mask",
    "cache_position",
    "input_ids",
    "inputs_embeds",
    "labels",
    "position_ids",
    "return_dict",
    "token_type_ids",
    "use_cache",
}


@dataclass(frozen=True)
class ChunkedHead:
    """Reads language-model exits token by token, in chunks, so that no exit's logits are ever held whole.

    The gradient of each chunk is taken at once, with the logits still at hand: nothing is computed twice, and what is
    kept is one gradient of the head for all exits together. Only tokens with a label are read.

    Args:
        labels: Name of the argument that holds the labels. Shape (B, T); the token at t is predicted at t - 1.
        inputs: Name of the argument that holds the tokens.
        ignore: Label of tokens that do not count.
        elements: Most logits at a time; a chunk has this over the size of the vocabulary tokens, at least 64.

    Source:
        The ordinary shifted loss of Hugging Face's causal models. Taking the gradient with the loss follows Hsu et al.
        (2024), arXiv:2410.10989, Sec. 3.2.
    """

    labels: str = "labels"
    inputs: str = "input_ids"
    ignore: int = IGNORED
    elements: int = 2**22

    def takes(self, args: Sequence[Any], kwargs: Mapping[str, Any], values: Sequence[Sequence[Any]]) -> bool:
        """Whether a batch asks for no more than the loss, of tokens that each have a hidden state.

        Args:
            args: Inputs of the model.
            kwargs: The same by name.
            values: What each exit reads.
        """
        labels = kwargs.get(self.labels)
        given = {name for name, value in kwargs.items() if value is not None}
        states = _states(values[0][-1])
        return (
            not args
            and isinstance(labels, Tensor)
            and given <= _PLAIN
            and kwargs.get("return_dict") is not False
            and all(len(held) == 1 for held in values)
            and states.dim() == 3
            and states.shape[1] == labels.shape[-1]
        )

    def losses(
        self,
        readers: Sequence[Reader],
        values: Sequence[Any],
        batches: Sequence[Mapping[str, Any]],
        weights: Sequence[float],
        private: Private,
    ) -> list[ExitOutput]:
        """Return the loss at every exit.

        Args:
            readers: The exits' readers, bound.
            values: What each exit's last block returned; the first tensor has shape (B, T, W).
            batches: The inputs of each exit, with its labels.
            weights: In what proportion the losses will be added up.
            private: Tensors of single sub-models.
        """
        hidden, targets, counts = [], [], []
        for value, batch in zip(values, batches, strict=True):
            after = next_labels(batch[self.labels], self.ignore).reshape(-1)  # (B * T,)
            chosen = (after != self.ignore).nonzero().squeeze(1)
            states = _states(value)
            hidden.append(states.reshape(-1, states.shape[-1])[chosen.to(states.device)])  # (N, W)
            targets.append(after[chosen].to(states.device))
            counts.append(len(chosen))
        leaves: dict[Any, Tensor] = {}
        places: list[list[tuple[Slot, Any]]] = []
        for reader in readers:
            places.append([])
            for slot in reader.skeleton.parameters:
                view = slot.held()
                assert view is not None
                own = private.find(reader.skeleton.setting, slot.path)
                key = (id(slot.full()), slot.cut) if own is None else id(own)
                leaves.setdefault(key, view)
                places[-1].append((slot, key))
        keys = list(leaves)

        def loss_of(exit_index: int, states: Tensor, labels: Tensor, parameters: Sequence[Tensor]) -> Tensor:
            at = dict(zip(keys, parameters, strict=True))
            for slot, key in places[exit_index]:
                slot.put(at[key])
            value = values[exit_index]
            fed = states.unsqueeze(1)  # every token a sequence of its own: (n, 1, W)
            inputs = self._inputs(readers[exit_index], batches[exit_index], labels[:, None])
            output = readers[exit_index].read(
                [fed if isinstance(value, Tensor) else type(value)((fed, *value[1:]))], (), inputs
            )
            logits = output.logits.squeeze(1).float()  # (n, V), summed up in float32 as the model's own loss is
            return functional.cross_entropy(logits, labels, reduction="sum") / max(counts[exit_index], 1)

        vocabulary = readers[0].skeleton.module.config.get_text_config().vocab_size  # type: ignore[union-attr,operator]
        chunk = max(64, self.elements // int(vocabulary))
        total = sum(weights) or 1.0
        shares = [weight / total for weight in weights]
        losses: Tensor = _InChunks.apply(  # type: ignore[no-untyped-call]
            loss_of, shares, targets, chunk, torch.is_grad_enabled(), len(hidden), *hidden, *leaves.values()
        )
        return [ExitOutput(loss) for loss in losses.unbind()]

    def _inputs(self, reader: Reader, kwargs: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
        """Return tokens for states of this shape, (B, T), of which nothing is read; none is taken for padding."""
        padding = getattr(reader.skeleton.module.config, "pad_token_id", None)
        tokens = torch.full_like(like, int(padding == 0), dtype=torch.long)
        return {self.inputs: tokens, **({"use_cache": kwargs["use_cache"]} if "use_cache" in kwargs else {})}

    def agrees(self, reader: Reader, value: Any, kwargs: Mapping[str, Any], private: Private) -> bool:
        """Whether the model's own loss is the one computed here, found on four tokens with random labels.

        Args:
            reader: An exit's reader, bound.
            value: What its last block returned; the first tensor has shape (B, T, W).
            kwargs: Inputs of the model by name.
            private: Tensors of single sub-models.
        """
        states = _states(value)
        if states.dim() != 3:
            return False
        batch, tokens = len(states), 4
        fed = states.repeat(1, -(-tokens // states.shape[1]), 1)[:, :tokens]  # (B, 4, W)
        fed = fed + 0.1 * torch.arange(tokens, device=fed.device, dtype=fed.dtype)[:, None] * fed.flip(-1)
        vocabulary = int(reader.skeleton.module.config.get_text_config().vocab_size)  # type: ignore[union-attr,operator]
        labels = torch.randint(0, vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))
        labels[0, 1] = self.ignore
        labels = labels.to(states.device)
        given = {**self._inputs(reader, kwargs, labels), self.labels: labels}
        whole = fed if isinstance(value, Tensor) else type(value)((fed, *value[1:]))
        own = getattr(reader.read([whole], (), given), "loss", None)
        if not isinstance(own, Tensor) or own.dim():
            return False
        (ours,) = self.losses([reader], [whole], [given], [1.0], private)
        tolerance = 1e-4 if fed.dtype.itemsize >= 4 and not torch.is_autocast_enabled(fed.device.type) else 1e-2
        return torch.allclose(own.float(), ours.loss.float(), rtol=tolerance, atol=tolerance)


def _states(value: Any) -> Tensor:
    states: Tensor = value if isinstance(value, Tensor) else tree_leaves(value)[0]
    return states


def _add_up(sums: list[Tensor | None], grads: Sequence[Tensor | None]) -> None:
    """Add a chunk's gradients to the sums, in place."""
    for place, grad in enumerate(grads):
        held = sums[place]
        if grad is not None and held is None:
            # Sum in float32: bfloat16 drops the small gradients of later chunks.
            sums[place] = grad.float() if grad.itemsize < 4 else grad
        elif grad is not None and held is not None:
            held.add_(grad)


class _InChunks(torch.autograd.Function):
    """Losses of several exits, whose gradients are taken chunk by chunk in the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        loss_of: Callable[..., Tensor],
        weights: Sequence[float],
        targets: Sequence[Tensor],
        chunk: int,
        trains: bool,
        exits: int,
        *tensors: Tensor,
    ) -> Tensor:
        hidden, parameters = tensors[:exits], tensors[exits:]
        needed = [trains and one for one in ctx.needs_input_grad[6:]]
        leaves = [one.detach().requires_grad_(wanted) for one, wanted in zip(parameters, needed[exits:], strict=True)]
        trained = [one for one in leaves if one.requires_grad]
        of_hidden = [torch.zeros_like(one) if wanted else None for one, wanted in zip(hidden, needed, strict=False)]
        of_leaves: list[Tensor | None] = [None] * len(trained)
        losses = []
        for index, (states, labels) in enumerate(zip(hidden, targets, strict=True)):
            whole = torch.zeros((), dtype=torch.float32, device=states.device)
            for start in range(0, len(labels), chunk):
                with torch.set_grad_enabled(any(needed)):
                    piece = states[start : start + chunk].detach().requires_grad_(of_hidden[index] is not None)
                    loss = loss_of(index, piece, labels[start : start + chunk], leaves)
                    whole += loss.detach()
                    at = [piece, *trained] if piece.requires_grad else trained
                    if not at or not loss.requires_grad:
                        continue
                    grads = list(torch.autograd.grad(loss * weights[index], at, allow_unused=True))
                if piece.requires_grad:
                    first = grads.pop(0)
                    if first is not None:
                        of_hidden[index][start : start + chunk] = first  # type: ignore[index]
                _add_up(of_leaves, grads)
                del grads  # the next chunk's must not be made while these are still held
            losses.append(whole)
        held_of = iter(of_leaves)
        ctx.grads = [*of_hidden, *(next(held_of) if one.requires_grad else None for one in leaves)]
        ctx.weights, ctx.types = weights, [one.dtype for one in tensors]
        return torch.stack(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:
        if ctx.grads is None:
            raise TrainingError("The exits' losses were differentiated twice. Add them up, and call backward once.")
        weights = torch.tensor(ctx.weights, dtype=given.dtype, device=given.device)
        # The head's gradients are added up already, in the proportion that was given.
        scale = given.sum()
        # Mixed precision of FSDP casts the losses to bfloat16, and so rounds the weights on their way back.
        if not torch.allclose(given, scale * weights, rtol=1e-2, atol=1e-12):
            raise TrainingError(
                f"The exits' losses were added up with weights in the proportion {given.tolist()}, but "
                f"{list(ctx.weights)} was announced. Give net(..., weights=[...]) the weights of the sum."
            )
        grads, ctx.grads = ctx.grads, None
        scaled = (
            None if one is None else one.mul_(scale).to(dtype) for one, dtype in zip(grads, ctx.types, strict=True)
        )
        return (None, None, None, None, None, None, *scaled)
