"""Exits: predictions at several depths from one forward.

Where a dimension only adds blocks at the end of one list, all its sub-models share their first blocks. So the blocks of
the deepest run once, what each block list ends with is kept on the way, and every exit is read by its own sub-model with
the block list replaced by what was kept: its own final norm, head and loss, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from .buffers import Private
from .errors import DataError, TrainingError
from .layouts import tensors_of
from .readouts import Readout
from .views import Skeleton, Slot

__all__ = ["ChunkedHead", "ExitOutput", "Reader", "Trunk", "block_list"]


@dataclass(frozen=True)
class ExitOutput:
    """What is read at an exit where the head is applied in chunks.

    Attributes:
        loss: Mean loss over the tokens that have a label. Shape ().
        logits: None, since no exit's logits are kept.
    """

    loss: Tensor
    logits: None = None


def block_list(full: nn.Module, small: nn.Module) -> str | None:
    """Find the list of blocks that is all in which a shallower model differs from the full one.

    Args:
        full: The full model.
        small: The same class with a smaller value of one dimension.

    Returns:
        The path of the `ModuleList` or `Sequential` whose first blocks are the shallower model's; None where the
        dimension changes anything else.
    """
    theirs, ours = tensors_of(full), tensors_of(small)
    if any(name not in theirs or theirs[name].shape != tensor.shape for name, tensor in ours.items()):
        return None
    found = []
    for path, module in full.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and not any(path.startswith(f"{one}.") for one in found):
            try:
                other = small.get_submodule(path)
            except AttributeError:
                continue
            if len(list(other.children())) != len(module):
                found.append(path)
    if len(found) != 1:
        return None
    kept = len(list(small.get_submodule(found[0]).children()))
    dropped = tuple(f"{found[0]}.{name}." for name in list(full.get_submodule(found[0])._modules)[kept:])
    return found[0] if all(name in ours or name.startswith(dropped) for name in theirs) and kept else None


class _Stop(Exception):
    """Ends the forward behind the last exit; nothing is left to compute."""


@dataclass
class _Run:
    """One forward of a trunk: who leaves behind which block, and what they leave with."""

    leaving: dict[int, int | None] = field(default_factory=dict)
    batch: int = 0
    kept: int = 0
    found: list[Any] = field(default_factory=list)

    def shrink(self, values: Any) -> Any:
        """Keep the examples that are still in, in whatever holds a row for each of the batch."""
        if self.kept == self.batch:
            return values
        return tree_map(
            lambda value: (
                value[: self.kept]
                if isinstance(value, Tensor) and value.dim() > 1 and len(value) == self.batch
                else value
            ),
            values,
        )

    def leave(self, block: int, output: Any) -> Any:
        """Keep what leaves behind a block, and return what goes on."""
        if block not in self.leaving:
            return output
        count = self.leaving[block]
        if count is None:
            self.found.append(output)
        else:
            before, self.kept = self.kept, self.kept - count
            self.found.append(_rows(output, before, self.kept, before))
            output = _rows(output, before, 0, self.kept)
        if len(self.found) == len(self.leaving):
            raise _Stop
        return output


def _rows(values: Any, batch: int, start: int, end: int) -> Any:
    def cut(value: Any) -> Any:
        return value[start:end] if isinstance(value, Tensor) and value.dim() > 1 and len(value) == batch else value

    return tree_map(cut, values)


class _Tap(nn.Module):
    """Stands in a block's place, calls it, and keeps what leaves there.

    It lies outside of the block's activation checkpointing, so that what it keeps is part of the graph, and recomputing
    a block calls no tap.
    """

    def __init__(self, block: nn.Module, index: int, run: Callable[[], _Run]) -> None:
        super().__init__()
        self.block, self.index, self.run = block, index, run

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # models read attributes of their blocks, such as `attention_type`
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        run = self.run()
        return run.leave(self.index, self.block(*run.shrink(args), **run.shrink(kwargs)))


class Trunk:
    """The blocks of the deepest of several sub-models, to be run once for all of them.

    Args:
        skeleton: A skeleton of the deepest sub-model, for this alone.
        path: Its list of blocks.
    """

    def __init__(self, skeleton: Skeleton, path: str) -> None:
        self.skeleton = skeleton
        self._run = _Run()
        blocks = skeleton.module.get_submodule(path)
        for index, (name, block) in enumerate(list(blocks._modules.items())):
            assert block is not None
            _take_readouts(block)  # each exit's reader has its own
            blocks._modules[name] = _Tap(block, index, lambda: self._run)

    def run(
        self, leaving: Mapping[int, int | None], batch: int, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[int, Any]:
        """Run the blocks up to the last exit.

        Args:
            leaving: By number of blocks, how many examples leave behind them, the last ones of the batch first; None if
                all leave and go on.
            batch: Number of examples, B.
            args: Inputs of the model, examples that go deepest first.
            kwargs: The same by name.

        Returns:
            By number of blocks, what the last of them returned, for the examples that leave.
        """
        self._run = _Run({blocks - 1: count for blocks, count in sorted(leaving.items())}, batch, batch)
        try:
            self.skeleton.module(*args, **kwargs)
        except _Stop:
            self.skeleton.write_back()
            return dict(zip(sorted(leaving), self._run.found, strict=True))
        finally:
            self._run = _Run()
        raise DataError(
            f"{type(self.skeleton.module).__name__} did not run its blocks in order up to {max(leaving)}, so that it "
            "has no exits. Run its sub-models one by one: net.at(setting)(...)."
        )


class _Kept(nn.Module):
    """Stands in the place of all blocks and returns what they returned before."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.value: Any = None
        object.__setattr__(self, "like", like)  # for its attributes only

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["like"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.value


class Reader:
    """A sub-model without its blocks: what it makes of what they return.

    Args:
        skeleton: A skeleton of the sub-model, for this alone.
        path: Its list of blocks.

    Attributes:
        blocks: How many blocks the sub-model has.
    """

    def __init__(self, skeleton: Skeleton, path: str) -> None:
        self.skeleton = skeleton
        blocks = skeleton.module.get_submodule(path)
        self.blocks = len(blocks._modules)
        names = list(blocks._modules)
        first, last = blocks._modules[names[0]], blocks._modules[names[-1]]
        assert first is not None and last is not None
        self._kept = _Kept(first)
        for readout in _take_readouts(last):
            self._kept.register_forward_hook(readout, with_kwargs=True)
        blocks._modules.clear()
        blocks._modules["0"] = self._kept
        skeleton.keep_only(lambda name: not name.startswith(f"{path}."))

    def read(self, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the sub-model's output.

        Args:
            value: What its last block returned.
            args: Inputs of the model, for the examples of `value`.
            kwargs: The same by name.
        """
        self._kept.value = value
        try:
            return self.skeleton.module(*args, **kwargs)
        finally:
            self._kept.value = None
            self.skeleton.write_back()


def _take_readouts(block: nn.Module) -> list[Readout]:
    """Take the readouts off a block and return them."""
    taken = [(key, hook) for key, hook in block._forward_hooks.items() if isinstance(hook, Readout)]
    for key, _ in taken:
        del block._forward_hooks[key]
        block._forward_hooks_with_kwargs.pop(key, None)
    return [hook for _, hook in taken]


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
    ignore: int = -100
    elements: int = 2**23

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
            labels = batch[self.labels]
            after = functional.pad(labels, (0, 1), value=self.ignore)[:, 1:].reshape(-1)  # (B * T,)
            chosen = (after != self.ignore).nonzero().squeeze(1)
            states = value if isinstance(value, Tensor) else tree_leaves(value)[0]
            hidden.append(states.reshape(-1, states.shape[-1])[chosen])  # (N, W)
            targets.append(after[chosen])
            counts.append(len(chosen))
        leaves: dict[Any, Tensor] = {}
        places: list[list[tuple[Slot, Any]]] = []
        for reader in readers:
            places.append([])
            for slot in reader.skeleton.parameters:
                view = slot.module._parameters[slot.name]
                assert view is not None
                own = private.find(reader.skeleton.setting, slot.path)
                key = (id(slot.source._parameters[slot.name]), slot.cut) if own is None else id(own)
                leaves.setdefault(key, view)
                places[-1].append((slot, key))
        keys = list(leaves)

        def loss_of(exit_index: int, states: Tensor, labels: Tensor, parameters: Sequence[Tensor]) -> Tensor:
            at = dict(zip(keys, parameters, strict=True))
            for slot, key in places[exit_index]:
                slot.module._parameters[slot.name] = at[key]  # type: ignore[assignment]
            value = values[exit_index]
            fed = states.unsqueeze(1)  # every token a sequence of its own: (n, 1, W)
            inputs = {self.inputs: torch.zeros(len(labels), 1, dtype=torch.long, device=labels.device)}
            output = readers[exit_index].read(
                fed if isinstance(value, Tensor) else type(value)((fed, *value[1:])), (), {**inputs, "use_cache": False}
            )
            logits = output.logits.squeeze(1).float()  # (n, V), summed up in float32 as the model's own loss is
            return functional.cross_entropy(logits, labels, reduction="sum") / max(counts[exit_index], 1)

        vocabulary = readers[0].skeleton.module.config.get_text_config().vocab_size  # type: ignore[union-attr,operator]
        chunk = max(64, self.elements // int(vocabulary))
        total = sum(weights)
        shares = [weight / total for weight in weights]
        losses = _InChunks.apply(loss_of, shares, targets, chunk, len(hidden), *hidden, *leaves.values())
        return [ExitOutput(loss) for loss in losses.unbind()]


def token_head(model: nn.Module) -> ChunkedHead | None:
    """Return how the exits of a pretrained model can be read in chunks; None where it is no causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL  # noqa: N811

    names = {name for one in CAUSAL.values() for name in ((one,) if isinstance(one, str) else one)}
    if type(model).__name__ not in names or getattr(model.config, "output_router_logits", False):
        return None
    return ChunkedHead()


class _InChunks(torch.autograd.Function):
    """Losses of several exits, whose gradients are taken chunk by chunk in the forward."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        loss_of: Callable[..., Tensor],
        weights: Sequence[float],
        targets: Sequence[Tensor],
        chunk: int,
        exits: int,
        *tensors: Tensor,
    ) -> Tensor:
        hidden, parameters = tensors[:exits], tensors[exits:]
        needed = ctx.needs_input_grad[5:]
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
                for place, grad in enumerate(grads):
                    held = of_leaves[place]
                    if grad is not None:
                        of_leaves[place] = grad if held is None else held.add_(grad)
            losses.append(whole)
        places = iter(of_leaves)
        ctx.grads = [*of_hidden, *(next(places) if one.requires_grad else None for one in leaves)]
        ctx.weights, ctx.exits = weights, exits
        return torch.stack(losses)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if ctx.grads is None:
            raise TrainingError("The exits' losses were differentiated twice. Add them up, and call backward once.")
        weights = torch.tensor(ctx.weights, dtype=given.dtype, device=given.device)
        # The head's gradients are added up already, in the proportion that was given.
        scale = given.sum()
        if not torch.allclose(given, scale * weights, rtol=1e-4, atol=1e-12):
            raise TrainingError(
                f"The exits' losses were added up with weights in the proportion {given.tolist()}, but "
                f"{list(ctx.weights)} was announced. Give net(..., weights=[...]) the weights of the sum."
            )
        grads, ctx.grads = ctx.grads, None
        return (None, None, None, None, None, *(None if one is None else one.mul_(scale) for one in grads))
