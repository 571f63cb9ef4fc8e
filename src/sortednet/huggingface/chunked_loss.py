"""Losses of language-model exits token by token, in chunks, so that no exit's logits are ever held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
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

_CACHED = 2**18
"""Logits that are held in float32 at a time."""


@dataclass(frozen=True)
class ChunkedHead:
    """Reads language-model exits token by token, in chunks, so that no exit's logits are ever held whole.

    The gradient of each chunk is taken at once, with the logits still at hand: nothing is computed twice, and what is
    kept is one gradient of the head for all exits together. Only tokens with a label are read.

    In half precision, as under autocast, the weights of linear layers are cast once for all chunks, a chunk holds the
    tokens of several exits, and as many as the states are wide: its logits are no larger than the head. In float32
    chunks are small, and of one exit each.

    Args:
        labels: Name of the argument that holds the labels. Shape (B, T); the token at t is predicted at t - 1.
        inputs: Name of the argument that holds the tokens.
        ignore: Label of tokens that do not count.
        elements: Most logits at a time in float32; a chunk has this over the size of the vocabulary tokens, at least
            64.

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
        leaves, places = _parameters(readers, private)
        keys = list(leaves)

        def read(exit_index: int, states: Tensor, labels: Tensor, parameters: Sequence[Tensor]) -> Tensor:
            at = dict(zip(keys, parameters, strict=True))
            for slot, key in places[exit_index]:
                slot.put(at[key])
            value = values[exit_index]
            fed = states.unsqueeze(1)  # every token a sequence of its own: (n, 1, W)
            inputs = self._inputs(readers[exit_index], batches[exit_index], labels[:, None])
            logits: Tensor = readers[exit_index].read([_with_states(value, fed)], (), inputs).logits
            return logits.squeeze(1)  # (n, V)

        half = _half(hidden[0])
        if half is None:
            vocabulary = readers[0].skeleton.module.config.get_text_config().vocab_size  # type: ignore[union-attr,operator]
            pieces = _pieces(
                [[index] for index in range(len(hidden))], counts, max(64, self.elements // int(vocabulary))
            )
        else:
            alike: dict[Any, list[int]] = {}
            for index, held in enumerate(places):
                alike.setdefault(_alike(held), []).append(index)
            pieces = _pieces(alike.values(), counts, max(64, hidden[0].shape[-1]), even=True)
        total = sum(weights) or 1.0
        losses: Tensor = _InChunks.apply(  # type: ignore[no-untyped-call]
            _Job(
                read,
                [weight / total for weight in weights],
                targets,
                pieces,
                half,
                _linear(keys, places) if half is not None else frozenset(),
                torch.is_grad_enabled(),
            ),
            *hidden,
            *leaves.values(),
        )
        return [ExitOutput(loss) for loss in losses.unbind()]

    def _inputs(self, reader: Reader, kwargs: Mapping[str, Any], like: Tensor) -> dict[str, Any]:
        """Return tokens for states of this shape, (B, T), of which nothing is read; none is taken for padding."""
        padding = getattr(reader.skeleton.module.config, "pad_token_id", None)
        tokens = torch.full_like(like, int(padding == 0), dtype=torch.long)
        return {self.inputs: tokens, **({"use_cache": kwargs["use_cache"]} if "use_cache" in kwargs else {})}

    def agrees(self, reader: Reader, value: Any, kwargs: Mapping[str, Any], private: Private, like: Reader) -> bool:
        """Whether the model's own loss is the one computed here, found on four tokens with random labels.

        Args:
            reader: An exit's reader, bound.
            value: What its last block returned; the first tensor has shape (B, T, W).
            kwargs: Inputs of the model by name.
            private: Tensors of single sub-models.
            like: Another exit's reader, bound; with the same parameters it must make the same logits of the states.
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
        whole = _with_states(value, fed)
        output, other = (one.read([whole], (), given) for one in (reader, like))
        own = getattr(output, "loss", None)
        if not isinstance(own, Tensor) or own.dim():
            return False
        (ours,) = self.losses([reader], [whole], [given], [1.0], private)
        tolerance = 1e-4 if _half(fed) is None else 1e-2
        pairs = [(own, ours.loss)]
        if len(set(map(_alike, _parameters([reader, like], private)[1]))) == 1:
            pairs.append((output.logits, other.logits))
        return all(torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance) for a, b in pairs)


def _states(value: Any) -> Tensor:
    states: Tensor = value if isinstance(value, Tensor) else tree_leaves(value)[0]
    return states


def _with_states(value: Any, states: Tensor) -> Any:
    """Return what a block returned with other hidden states."""
    return states if isinstance(value, Tensor) else type(value)((states, *value[1:]))


def _half(states: Tensor) -> torch.dtype | None:
    """Return the half precision that states are computed with; None for float32."""
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return dtype if dtype.itemsize < 4 else None


Places = list[list[tuple[Slot, Any]]]


def _parameters(readers: Sequence[Reader], private: Private) -> tuple[dict[Any, Tensor], Places]:
    """Return the tensors that readers have, by what tells them apart, and by reader where these lie."""
    leaves: dict[Any, Tensor] = {}
    places: Places = []
    for reader in readers:
        places.append([])
        for slot in reader.skeleton.parameters:
            view = slot.held()
            assert view is not None
            own = private.find(reader.skeleton.setting, slot.path)
            key = (id(slot.full()), slot.cut) if own is None else id(own)
            leaves.setdefault(key, view)
            places[-1].append((slot, key))
    return leaves, places


def _alike(held: Sequence[tuple[Slot, Any]]) -> Any:
    """Return what is the same of readers with the same parameters in the same places."""
    return tuple((slot.path, key) for slot, key in held)


def _linear(keys: Sequence[Any], places: Places) -> frozenset[int]:
    """Return the numbers of the parameters that autocast would cast wherever they are used.

    They are those of linear layers; an embedding may be tied to one, since of the tokens given here nothing is read.
    """
    modules: dict[Any, list[nn.Module]] = {key: [] for key in keys}
    for held in places:
        for slot, key in held:
            modules[key].append(slot.module)
    return frozenset(
        place
        for place, key in enumerate(keys)
        if any(type(one) is nn.Linear for one in modules[key])
        and all(type(one) in (nn.Linear, nn.Embedding) for one in modules[key])
    )


def _pieces(
    groups: Iterable[Sequence[int]], counts: Sequence[int], chunk: int, even: bool = False
) -> list[list[tuple[int, int, int]]]:
    """Part the tokens of exits into chunks.

    Args:
        groups: Exits whose tokens may lie in one chunk.
        counts: Number of tokens of each exit.
        chunk: Most tokens of a chunk.
        even: Whether the chunks of a group are to be of equal size.

    Returns:
        By chunk, its stretches: exit, first token, token behind the last.
    """
    pieces: list[list[tuple[int, int, int]]] = []
    for group in groups:
        whole = sum(counts[index] for index in group)
        size = -(-whole // -(-whole // chunk)) if even and whole else chunk
        room = 0
        for index in group:
            start = 0
            while start < counts[index]:
                if not room:
                    pieces.append([])
                    room = size
                end = min(counts[index], start + room)
                pieces[-1].append((index, start, end))
                room -= end - start
                start = end
    return pieces


def _add_up(sums: list[Tensor | None], grads: Sequence[Tensor | None]) -> None:
    """Add a chunk's gradients to the sums, in place."""
    for place, grad in enumerate(grads):
        held = sums[place]
        if grad is not None and held is None:
            # Sum in float32: bfloat16 drops the small gradients of later chunks.
            sums[place] = grad.float() if grad.itemsize < 4 else grad
        elif grad is not None and held is not None:
            held.add_(grad)


class _Job(NamedTuple):
    """What the losses of several exits are made of.

    Attributes:
        read: Makes logits of states, by an exit's number, the states (n, W), their labels and the parameters.
        weights: In what proportion the exits' losses will be added up.
        targets: Labels of each exit's tokens. Shape (N_i,).
        pieces: The chunks, each of stretches of tokens: exit, first token, token behind the last.
        half: The half precision that is computed in; None for float32.
        linear: Which parameters are of linear layers alone, by their numbers.
        trains: Whether gradients are wanted.
    """

    read: Callable[[int, Tensor, Tensor, Sequence[Tensor]], Tensor]
    weights: Sequence[float]
    targets: Sequence[Tensor]
    pieces: Sequence[Sequence[tuple[int, int, int]]]
    half: torch.dtype | None
    linear: frozenset[int]
    trains: bool


class _InChunks(torch.autograd.Function):
    """Losses of several exits, whose gradients are taken chunk by chunk in the forward."""

    @staticmethod
    def forward(ctx: Any, job: _Job, *tensors: Tensor) -> Tensor:
        exits = len(job.targets)
        hidden, parameters = tensors[:exits], tensors[exits:]
        needed = [job.trains and one for one in ctx.needs_input_grad[1:]]
        leaves = [one.detach() for one in parameters]
        if job.half is not None:
            leaves = [one.to(job.half) if place in job.linear else one for place, one in enumerate(leaves)]
        for one, wanted in zip(leaves, needed[exits:], strict=True):
            one.requires_grad_(wanted)
        trained = [one for one in leaves if one.requires_grad]
        of_hidden = [torch.zeros_like(one) if wanted else None for one, wanted in zip(hidden, needed, strict=False)]
        of_leaves: list[Tensor | None] = [None] * len(trained)
        losses = [torch.zeros((), dtype=torch.float32, device=one.device) for one in hidden]
        counts = [max(len(labels), 1) for labels in job.targets]
        for piece in job.pieces:
            first = piece[0][0]
            states, labels = (
                torch.cat([of[index][start:end] for index, start, end in piece])
                if len(piece) > 1
                else of[first][piece[0][1] : piece[0][2]]
                for of in (hidden, job.targets)
            )
            with torch.set_grad_enabled(any(needed)):
                states = states.detach().requires_grad_(any(of_hidden[index] is not None for index, _, _ in piece))
                logits = job.read(first, states, labels, leaves)
                if job.half is None:
                    # (n, V), summed up in float32 as the model's own loss is
                    loss = functional.cross_entropy(logits.float(), labels, reduction="sum") / counts[first]
                    losses[first] += loss.detach()
                    loss = loss * job.weights[first]
                else:
                    sizes = [end - start for _, start, end in piece]
                    shares = torch.tensor([job.weights[index] / counts[index] for index, _, _ in piece])
                    of_tokens = shares.repeat_interleave(torch.tensor(sizes)).to(logits.device)
                    loss, each = _CrossEntropy.apply(logits, labels, of_tokens)  # type: ignore[no-untyped-call]
                    for (index, _, _), own in zip(piece, torch.split(each, sizes), strict=True):
                        losses[index] += own.sum() / counts[index]
                del logits
                at = [states, *trained] if states.requires_grad else trained
                if not at or not loss.requires_grad:
                    continue
                grads = list(torch.autograd.grad(loss, at, allow_unused=True))
                del loss
            if states.requires_grad and (of_states := grads.pop(0)) is not None:
                rows = torch.split(of_states, [end - start for _, start, end in piece])
                for (index, start, end), row in zip(piece, rows, strict=True):
                    place = of_hidden[index]
                    if place is not None:
                        place[start:end] = row
            _add_up(of_leaves, grads)
            del grads  # the next chunk's must not be made while these are still held
        held_of = iter(of_leaves)
        ctx.grads = [*of_hidden, *(next(held_of) if one.requires_grad else None for one in leaves)]
        ctx.weights, ctx.types = job.weights, [one.dtype for one in tensors]
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
        return (None, *scaled)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of logits in half precision, whose gradient is made with it, a few rows at a time.

    The sums are float32, and the gradient is rounded once. The rows are so few that they stay in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses times the shares, shape (), and the losses, shape (n,)."""
        wanted = ctx.needs_input_grad[0]
        ctx.grad = torch.empty_like(logits) if wanted else None
        losses = shares.new_empty(len(labels))
        rows = max(1, (_CACHED if logits.device.type == "cpu" else logits.numel()) // logits.shape[-1])
        for start in range(0, len(labels), rows):
            at = slice(start, start + rows)
            x, label = logits[at].to(torch.float32, copy=True), labels[at, None]
            of_label = x.gather(1, label)
            largest = x.amax(1, keepdim=True)
            total = x.sub_(largest).exp_().sum(1, keepdim=True)
            loss = total.log() + largest - of_label
            losses[at] = loss.squeeze(1)
            if ctx.grad is not None:
                x.mul_(shares[at, None] / total)
                x.scatter_(1, label, torch.expm1(-loss) * shares[at, None])  # p - 1, exact where p is near 1
                ctx.grad[at] = x
        ctx.mark_non_differentiable(losses)
        return losses @ shares, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor, _: Tensor) -> tuple[Any, ...]:
        return ctx.grad, None, None  # of what is differentiated itself, so that what is given is 1
