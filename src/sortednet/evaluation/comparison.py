"""Compare every sub-model with the full model, by output position: KL divergence and cosine similarity."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError, DataError
from ..network.sorted_net import SortedNet
from ..space import Number, Setting
from ..views.batches import IGNORED, call_with, inputs_and_targets, next_labels, to_device
from ..views.modes import evaluating
from .similarity import Measure, Similarity

__all__ = ["compare_submodels"]

Hidden = Callable[[nn.Module, Any], Tensor]


def compare_submodels(
    net: SortedNet,
    batches: Iterable[Any],
    *,
    measures: Sequence[Measure] = ("kl",),
    other: SortedNet | nn.Module | None = None,
    against: Mapping[str, Number] | str | None = None,
    settings: Iterable[Mapping[str, Number] | str] | None = None,
    hidden: Hidden | None = None,
    shift: bool = True,
    max_positions: int | None = None,
    chunk_tokens: int = 1024,
    names: tuple[str, str] | None = None,
) -> dict[Measure, Similarity]:
    """Measure how close sub-models are to a reference on the same text, by output position.

    The reference is the full model, or a model of another network, such as one that was fine-tuned ordinarily. All
    models read the batch as it is, in evaluation mode; nothing of them is changed.

    - `kl` is KL(p || q) = sum_v p(v) (ln p(v) - ln q(v)), p the reference's output distribution and q the sub-model's:
      the nats lost by coding what the reference would say with the sub-model. Rounding below 0 is set to 0.
    - `cosine` compares the last hidden states, those that the head reads.

    Outputs of shape (B, V) have one position. Of outputs of shape (B, T, V), those count that `attention_mask` and
    `labels` let through, and positions are numbered along each example from the first that counts; so padding, on
    either side, changes nothing.

    Args:
        net: The network whose sub-models make the rows.
        batches: Mappings, such as `input_ids`, `attention_mask` and `labels`, or `(inputs, ..., targets)`, or tensors.
            Labels (targets) of -100 are no outputs; position 0 is then the output that predicts the first answer token.
            A mask has shape (B, T).
        measures: `kl`, `cosine` or both; both cost one forward of each model.
        other: Another network, or an ordinary module; `net` itself where left out.
        against: The reference, a setting of `other` (or of `net`), or `same`: for each row the sub-model of `other` at
            the same setting. The full model where left out.
        settings: The rows; where left out all of the space, without the reference itself.
        hidden: Returns the hidden states of a module on the inputs, shape (B, T, W), or (B, W) for outputs of one
            position. Where left out, `output_hidden_states=True` of Hugging Face and the last of them. Where outputs
            have one position, the mean of (B, T, W) over the tokens that `attention_mask` lets through is compared.
        shift: Whether an output predicts the *next* of a mapping's labels, as in Hugging Face's causal language models.
            Set it to False for masked language models, token classifiers and encoder-decoders. Targets of
            `(inputs, ..., targets)` are never shifted.
        max_positions: Most positions to keep, at least 1; all where left out.
        chunk_tokens: Outputs to compare at a time, at least 1. It bounds the memory, (chunk_tokens, V) in float32, and
            changes nothing else.
        names: What the report calls the rows and the reference, such as `("SFT", "the sorted full model")`.

    Returns:
        A result for each measure, computed in float32 at least and averaged in float64.

    Raises:
        ConfigError: If an argument is outside its range, the widths of hidden states differ, or a model has none.
        DataError: If there is no batch, nothing counts, or shapes do not fit.
        SettingError: If a setting is not in its space.

    Source:
        Valipour (2024), PhD thesis, Sec. 5.5.4: Fig. 5.5 compares the sub-models of one network with its full model,
        Fig. 5.4 those of one network with the full model of another, KL at the left and cosine at the right. The thesis
        does not say which distribution is p, nor on which text; it averages over 170 examples. We take the reference
        as p, as in distillation, and let all models read the same text, so that one position means one context.

    Example:
        >>> import sortednet as sn
        >>> net = sn.SortedNet(sn.models.MLP, sn.Space(depth=[1, 2], width=[8, 16]))
        >>> found = compare_submodels(net, [torch.randn(4, 64)])["kl"]
        >>> found.settings, found.positions, found.counts
        (('depth=1,width=8', 'depth=1,width=16', 'depth=2,width=8'), (0,), (4,))
    """
    _check(net, batches, measures, max_positions=max_positions, chunk_tokens=chunk_tokens)
    stream = iter(batches)
    first = list(itertools.islice(stream, 1))
    for one in (net, other):
        if isinstance(one, SortedNet) and first:
            device = next(one.full.parameters()).device
            call_with(one.observe, to_device(_parted(first[0])[0], device))
    with ExitStack() as stack, torch.no_grad():
        pairs, reference = _pairs(net, other, against, settings, stack)
        totals: dict[Measure, list[Tensor]] = {
            measure: [torch.zeros(0, dtype=torch.float64) for _ in pairs] for measure in measures
        }
        counts = torch.zeros(0, dtype=torch.float64)
        read = functools.partial(_read, measures=measures, hidden=hidden, shift=shift, most=max_positions)
        for batch in itertools.chain(first, stream):
            for place, (setting, ours, theirs) in enumerate(pairs):
                # One reference of all rows is run once a batch.
                if place == 0 or theirs is not pairs[place - 1][2]:
                    target = read(theirs, batch)
                found = read(ours, batch)
                if not torch.equal(found.positions, target.positions):
                    raise DataError(
                        f"At {setting}, {len(found.positions)} outputs count, and of the reference "
                        f"{len(target.positions)}. Compare models whose outputs have the same positions."
                    )
                for measure, value in _values(setting, found, target, measures, chunk_tokens):
                    totals[measure][place] = _added(totals[measure][place], found.positions, value)
                if place == 0:
                    counts = _added(counts, found.positions, torch.ones(len(found.positions)))
    if not counts.numel():
        raise DataError(
            "No output counts: there is no batch, or every label is -100, or every token is masked. Give batches with "
            "answers."
        )
    called = names or ("sub-models", reference)
    return {
        measure: Similarity(
            measure,
            tuple(str(setting) for setting, _, _ in pairs),
            tuple(range(len(counts))),
            tuple(tuple((total / counts).tolist()) for total in totals[measure]),
            tuple(int(count) for count in counts),
            *called,
        )
        for measure in measures
    }


def _check(net: object, batches: object, measures: Sequence[Measure], **least: int | None) -> None:
    if not isinstance(net, SortedNet):
        raise ConfigError(
            f"The network is a {type(net).__name__}. Give a SortedNet; an ordinary module goes to other=..."
        )
    if isinstance(measures, str) or not measures or not set(measures) <= set(get_args(Measure)):
        raise ConfigError(f"measures={measures!r} is not allowed. Give some of {get_args(Measure)}, in a tuple.")
    for name, value in least.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} is below 1. Give at least 1, such as 256.")
    if isinstance(batches, (Mapping, Tensor)) or (
        isinstance(batches, tuple) and all(isinstance(one, Tensor) for one in batches)
    ):
        raise DataError("A single batch was given. Give a list of batches, such as [batch].")


def _pairs(
    net: SortedNet,
    other: SortedNet | nn.Module | None,
    against: Mapping[str, Number] | str | None,
    settings: Iterable[Mapping[str, Number] | str] | None,
    stack: ExitStack,
) -> tuple[list[tuple[Setting, nn.Module, nn.Module]], str]:
    """Pair every row's sub-model with its reference, and say in words what that is."""
    rows = None if settings is None else [net.space.setting(one) for one in settings]
    owner = net if other is None else other
    fixed: nn.Module | None = None
    if not isinstance(owner, SortedNet):
        if not isinstance(owner, nn.Module):
            raise ConfigError(f"other is a {type(owner).__name__}. Give a SortedNet or a module.")
        if against is not None:
            raise ConfigError(
                f"against={against!r} names a sub-model, and other is a {type(owner).__name__} without any. "
                "Leave against out, or give a SortedNet."
            )
        stack.enter_context(evaluating(owner))
        fixed, words = owner, "the other model"
    elif against == "same":
        if owner is net:
            raise ConfigError("against='same' compares a sub-model with itself. Give other=..., or a setting.")
        words = "the other network's sub-model at the same setting"
    else:
        setting = owner.space.setting(against)
        fixed = owner.submodel(setting)
        words = "the full model" if setting == owner.space.full else str(setting)
        if owner is not net:
            words = f"{words.removeprefix('the ')} of the other network"
        elif rows is None:
            rows = [one for one in net.space if one != setting]
    rows = list(net.space) if rows is None else rows
    if not rows:
        raise ConfigError(
            f"There is no sub-model to compare with {words}. Give settings=[...], of those in {net.space}."
        )
    if fixed is not None:
        return [(one, net.submodel(one), fixed) for one in rows], words
    assert isinstance(owner, SortedNet)
    return [(one, net.submodel(one), owner.submodel(owner.space.setting(one))) for one in rows], words


class _Read(NamedTuple):
    """The N outputs of a model on a batch that count."""

    positions: Tensor  # (N,), on the CPU
    logits: Tensor | None  # (N, V)
    states: Tensor | None  # (N, W)


def _parted(batch: Any) -> tuple[Any, Any]:
    """Part a batch into inputs and targets; a tensor has none."""
    return (batch, None) if isinstance(batch, Tensor) else inputs_and_targets(batch)


def _read(
    module: nn.Module,
    batch: Any,
    measures: Sequence[Measure],
    *,
    hidden: Hidden | None,
    shift: bool,
    most: int | None,
) -> _Read:
    """Run a model, and keep the outputs that count."""
    parameter = next(module.parameters(), None)
    batch = batch if parameter is None else to_device(batch, parameter.device)
    inputs, targets = _parted(batch)
    asked = "cosine" in measures and hidden is None
    if asked and not hasattr(getattr(module, "config", None), "output_hidden_states"):
        raise ConfigError(
            f"{type(module).__name__} has no output_hidden_states of Hugging Face. Give hidden=..., a function of the "
            "module and its inputs that returns the hidden states, or measures=('kl',)."
        )
    output = call_with(functools.partial(module, output_hidden_states=True) if asked else module, inputs)
    states = None
    if "cosine" in measures:
        states = _last_states(module, output) if hidden is None else hidden(module, inputs)
        if states.dim() not in (2, 3):
            raise DataError(
                f"The hidden states have the shape {tuple(states.shape)}. Give hidden=..., a function that returns "
                "(B, T, W) or (B, W)."
            )
    logits = _logits(output, states if "kl" not in measures else None)
    if logits.dim() == 2:
        return _Read(torch.zeros(len(logits), dtype=torch.long), logits, _pooled(states, inputs))
    counted = _counted(inputs, targets, logits.shape[:2], shift)
    numbered = counted.long().cumsum(1) - 1  # (B, T)
    if most is not None:
        counted = counted & (numbered < most)
    if states is not None and states.shape[:2] != logits.shape[:2]:
        raise DataError(
            f"The hidden states have the shape {tuple(states.shape)} and the outputs {tuple(logits.shape)}. "
            "Let hidden=... return one state for each output."
        )
    kept = counted.to(logits.device)
    return _Read(numbered[counted].cpu(), logits[kept], None if states is None else states[kept.to(states.device)])


def _last_states(module: nn.Module, output: Any) -> Tensor:
    found = getattr(output, "hidden_states", None) or getattr(output, "decoder_hidden_states", None)
    if not found:
        raise ConfigError(
            f"{type(module).__name__} returned no hidden states although asked to. Give hidden=..., a function of the "
            "module and its inputs that returns them, or measures=('kl',)."
        )
    last: Tensor = found[-1]
    return last


def _logits(output: Any, states: Tensor | None) -> Tensor:
    """Return the outputs, (B, classes) or (B, T, V); `states` in their place where a model has none."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", states)
    if not isinstance(logits, Tensor):
        raise DataError(
            f"The output is a {type(output).__name__} without logits. Give a model that returns logits, or compare "
            "measures=('cosine',) only."
        )
    if logits.dim() not in (2, 3) or logits.shape[-1] < 2:
        raise DataError(
            f"The outputs have the shape {tuple(logits.shape)}. Give a model whose outputs are logits of at least two "
            "classes, (B, classes) or (B, T, V)."
        )
    return logits


def _pooled(states: Tensor | None, inputs: Any) -> Tensor | None:
    """Average (B, T, W) over the tokens of each example; leave (B, W) as it is."""
    if states is None or states.dim() == 2:
        return states
    mask = _attention(inputs, states.shape[:2])
    return torch.stack([one[kept].mean(0) for one, kept in zip(states, mask.to(states.device), strict=True)])


def _attention(inputs: Any, shape: torch.Size) -> Tensor:
    """Return which tokens are no padding. Shape (B, T), bool."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    if mask.shape != shape:
        raise DataError(
            f"attention_mask has the shape {tuple(mask.shape)}, and the outputs are {tuple(shape)}. Give a mask of one "
            "entry for each output (B, T); of an encoder-decoder, leave it out and pad with labels of -100."
        )
    attended: Tensor = mask.bool().cpu()
    return attended


def _counted(inputs: Any, targets: Any, shape: torch.Size, shift: bool) -> Tensor:
    """Return which outputs count. Shape (B, T), bool."""
    attended = _attention(inputs, shape)
    is_mapping = isinstance(inputs, Mapping)
    labels = inputs.get("labels") if is_mapping else targets
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 2:
        return attended
    if labels.shape != shape:
        raise DataError(
            f"The labels have the shape {tuple(labels.shape)}, and the outputs are {tuple(shape)}. Give one label for "
            "each output (B, T)."
        )
    labels = labels.cpu().masked_fill(~attended, IGNORED)
    if shift and is_mapping:
        labels = next_labels(labels)
    return (labels != IGNORED) & attended


def _values(
    setting: Setting, found: _Read, target: _Read, measures: Sequence[Measure], chunk_tokens: int
) -> Iterator[tuple[Measure, Tensor]]:
    """Yield each measure of the outputs of a row and of its reference. Shape (N,)."""
    for measure in measures:
        q, p = (found.logits, target.logits) if measure == "kl" else (found.states, target.states)
        assert q is not None
        assert p is not None
        if q.shape[-1] != p.shape[-1] and measure == "kl":
            raise DataError(
                f"At {setting}, outputs have {q.shape[-1]} classes, and those of the reference {p.shape[-1]}. "
                "Compare models of one vocabulary."
            )
        if q.shape[-1] != p.shape[-1]:
            raise ConfigError(
                f"At {setting}, hidden states are {q.shape[-1]} wide, and those of the reference {p.shape[-1]}. "
                "Cosine similarity needs equal widths: choose settings=[...] of that width, or measures=('kl',)."
            )
        compare = _divergence if measure == "kl" else _cosine
        chunks = zip(torch.split(p, chunk_tokens), torch.split(q, chunk_tokens), strict=True)
        yield measure, torch.cat([compare(_wide(one), _wide(two.to(one.device))) for one, two in chunks]).cpu()


def _wide(values: Tensor) -> Tensor:
    """Raise half precision to float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(p || q) of p = softmax(reference) and q = softmax(logits), both of shape (N, V). Shape (N,)."""
    p, q = functional.log_softmax(reference, -1), functional.log_softmax(logits, -1)
    # What the reference excludes adds nothing, also where both exclude it and the difference has no value.
    return torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(-1).clamp(min=0)


def _cosine(reference: Tensor, states: Tensor) -> Tensor:
    """Return the cosine similarity of two tensors of shape (N, W). Shape (N,)."""
    return functional.cosine_similarity(reference, states, dim=-1).clamp(-1, 1)


def _added(total: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Add the values at their positions, and make room for new positions. Shape (P,), float64."""
    length = max(len(total), int(positions.max()) + 1 if len(positions) else 0)
    longer = torch.zeros(length, dtype=torch.float64)
    longer[: len(total)] = total
    return longer.index_add_(0, positions, values.double())
