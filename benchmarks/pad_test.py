"""The pad test: whether a cut means the same units in the small and in the full model, without knowing what they are.

A small model's random weights are written at the cut's places into a full model of zeros. If both are the same units,
the full model is then the small one, and the outputs agree. What depends on sizes and not on units is taken out first:
norms keep only their weight and bias, as zeros in the place of units would change their statistics; attention is not
divided by the root of the head size, nor embeddings multiplied by that of the width; numbers that a layer holds
(scales) and what it computes for itself (frequencies) are the small model's, and sines and cosines are 1; all outputs
may differ by one factor, the root of a width again. Everything runs in float64, so that agreement is no matter of
rounding.

It says nothing where a pooling, softmax or other statistic that is no norm runs over units, or where only the small
model does something: `net.cuts` lists both when printed, and `Verdict.valid` reads it there. Nor where the small model
itself gives no finite numbers without its norms.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sortednet import Setting, SortedNet
from sortednet.views.alignment.aligner import Alignment, align
from sortednet.views.alignment.terms import Stretches, stretches_of
from sortednet.views.alignment.watching import WAYS, Unwatchable, watch
from sortednet.views.batches import map_tensors
from sortednet.views.layouts import Cut, tensors_of
from sortednet.views.outlines import outline

TOLERANCE = 2e-6
EXACT = 1e-6  # where a strided weight takes another kernel
_STATISTIC = re.compile(r"^  only a statistic joins units: (.*): (\w+)(: of other groups)? \(\d+\)$", re.MULTILINE)
_ALONE = re.compile(r"^  only the smaller model does it: (.*) \(\d+\)$", re.MULTILINE)
_NORMS = ("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm", "layer_norm")


@dataclass(frozen=True)
class Verdict:
    """What came of a pad test.

    Attributes:
        error: Largest difference of the outputs, by the largest output of the small model.
        valid: Whether it says anything, so that a difference is a wrong cut.
        why: What makes it say nothing.
    """

    error: float
    valid: bool = True
    why: str = ""

    @property
    def right(self) -> bool:
        """Whether the outputs agree."""
        return self.error <= TOLERANCE


class _PlainNorms(TorchDispatchMode):
    """Norms of torch keep their weight and bias alone, and waves are flat: their frequencies depend on the width."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name in ("sin", "cos"):
            return torch.ones_like(args[0])
        own = name == "native_batch_norm" and args[5]  # of the numbers at hand, such as weights that are standardised
        if not own and name not in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
            return func(*args, **kwargs)
        x = args[0]
        by_name = {"native_layer_norm": args[2:4], "_fused_rms_norm": (*args[2:3], None)}
        weight, bias = by_name.get(name, args[1:3])
        if name in ("native_group_norm", "native_batch_norm"):
            weight, bias = (None if one is None else one.view(-1, *[1] * (x.dim() - 2)) for one in (weight, bias))
        found = x if weight is None else x * weight
        found = found.clone() if bias is None else found + bias
        return (found, *[x.new_ones(1)] * (1 if name == "_fused_rms_norm" else 2))


def _plain_norm(module: nn.Module) -> Callable[..., Tensor]:
    """Return a forward that keeps the weight, and the bias, of a norm that a library wrote itself."""

    def forward(x: Tensor, *args: Any, **_: Any) -> Tensor:
        weight = getattr(module, "weight", None)
        bias = getattr(module, "bias", None)
        lies_last = weight is None or x.dim() < 3 or x.shape[-1] == weight.numel()

        def at(own: Tensor) -> Tensor:
            return own if lies_last or own.dim() > 1 else own.view(-1, *[1] * (x.dim() - 2))

        found = x if weight is None else x * at(weight)
        found = found if not isinstance(bias, Tensor) else found + at(bias)
        gates = [one for one in args if isinstance(one, Tensor) and one.shape == x.shape]
        return found * F.silu(gates[0]) if gates else found

    return forward


def _is_own_norm(module: nn.Module) -> bool:
    """Whether a module is a norm of a library's own code, which takes the statistics itself."""
    name, home = type(module).__name__, type(module).__module__
    return (
        "Norm" in name
        and "L2" not in name  # zeros do not change it
        and not home.startswith("torch.")
        and not isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        and not list(module.children())
        and all(one.dim() == 1 for one in module.parameters())
    )


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """Attention whose logits do not depend on the head size."""
    return _SDPA(query, key, value, attn_mask, 0.0, is_causal, scale=scale or 1.0, enable_gqa=enable_gqa)


_SDPA = F.scaled_dot_product_attention


def _root(root: Callable[[Any], Any], value: Any) -> Any:
    """Return 1 as the root of a whole number, which is a size."""
    return 1.0 if isinstance(value, int) else root(value)


@contextmanager
def plain(*models: nn.Module, roots: bool = False) -> Iterator[None]:
    """Take what depends on sizes and not on units out of models; roots of sizes stay if they have to."""
    own = [module for model in models for module in model.modules() if _is_own_norm(module)]
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as held:
        for module in own:
            module.forward = _plain_norm(module)
            held.callback(delattr, module, "forward")
        F.scaled_dot_product_attention = _attention
        held.callback(setattr, F, "scaled_dot_product_attention", _SDPA)
        for library in () if roots else (math, numpy):
            held.callback(setattr, library, "sqrt", library.sqrt)
            library.sqrt = partial(_root, library.sqrt)
        torch.backends.mha.set_fastpath_enabled(False)
        held.callback(torch.backends.mha.set_fastpath_enabled, fast)
        held.enter_context(torch.no_grad())
        held.enter_context(_PlainNorms())
        yield


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights at which signals neither vanish nor grow without norms."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.fill_(1.0)
    with torch.no_grad():
        for one in model.parameters():
            if one.is_floating_point() or one.is_complex():
                spread = 0.5 if one.dim() < 2 else one[0].numel() ** -0.5
                one.normal_(0, spread, generator=generator)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, those that are not saved too."""
    return {**tensors_of(model), **dict(model.named_buffers(remove_duplicate=False))}


def aligned(net: SortedNet, setting: Setting, inputs: tuple[Any, Any]) -> Alignment:
    """Watch a sub-model and the full model, for what the network keeps to itself: of buffers, and of outputs."""
    for way in WAYS:
        with suppress(Unwatchable):
            return align(*(watch(partial(outline, net.builder, one), inputs, way) for one in (setting, net.space.full)))
    return Alignment()


def computed(net: SortedNet, setting: Setting, found: Alignment) -> dict[str, Cut]:
    """Return where what layers compute for themselves at another size, such as frequencies, lies in the full one's."""
    small, full = (outline(net.builder, one) for one in (setting, net.space.full))
    shapes = {name: one.shape for name, one in full.named_buffers(remove_duplicate=False)}
    return {
        name: Cut(tuple(one.shape), found.stretches(name))
        for name, one in small.named_buffers(remove_duplicate=False)
        if name in found.terms and name in shapes and one.shape != shapes[name]
    }


def pad(small: nn.Module, full: nn.Module, cuts: Mapping[str, Cut]) -> None:
    """Write the small model's weights at the cuts' places into the full model, and zeros everywhere else."""
    ours, theirs = _tensors(small), _tensors(full)
    with torch.no_grad():
        for name, tensor in theirs.items():
            own = ours.get(name)
            if isinstance(tensor, nn.Parameter) or "running_mean" in name:
                tensor.zero_()
            elif own is not None and own.shape == tensor.shape:
                tensor.copy_(own)  # what a layer computes for itself: frequencies, masks
        for name, own in ours.items():
            if name in theirs and name in cuts and "running_var" not in name:
                places = [
                    torch.cat([torch.arange(start, start + n) for start, n in axis]) for axis in cuts[name].pieces
                ]
                if places:
                    theirs[name][torch.meshgrid(*places, indexing="ij")] = own
                else:
                    theirs[name].copy_(own)
    modules = dict(full.named_modules())
    for path, module in small.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and path in modules and isinstance(getattr(modules[path], name, None), float):
                setattr(modules[path], name, value)


def outputs(value: Any) -> list[Tensor]:
    """Return the tensors of an output; of mappings that hold it the logits alone, which have no units to choose."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [value["logits"]] if "logits" in value else [t for one in value.values() for t in outputs(one)]
    return [t for one in value for t in outputs(one)] if isinstance(value, (list, tuple)) else []


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference, by the largest number of the second; infinite where shapes differ."""
    if len(one) != len(other) or any(a.shape != b.shape for a, b in zip(one, other, strict=False)):
        return float("inf")
    size = max((float(b.abs().max()) for b in other if b.numel()), default=0.0) or 1.0
    found = max((float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a.numel()), default=0.0)
    return found / size if found == found and size == size else float("inf")


def pad_error(
    small: nn.Module,
    full: nn.Module,
    cuts: Mapping[str, Cut],
    inputs: tuple[Any, Any],
    seen: Sequence[tuple[Stretches, ...] | None] = (),
    seed: int = 0,
) -> float:
    """Return how far the padded full model is from the small one, in float64 where the models run in it.

    Args:
        small: The small model.
        full: The full one.
        cuts: Where the small one's tensors lie in the full one's.
        inputs: Positional and keyword arguments of both.
        seen: Where the small one's outputs lie in the full one's, for the axes of each.
        seed: Of the weights.

    Returns:
        The largest difference, by the largest output; not a number where the small model's outputs are none either.
    """
    # Roots of whole numbers are sizes, but where they make out the sides of an image.
    for number, roots in itertools.product((torch.float64, torch.float32), (False, True)):
        small, full = (model.eval().to(number) for model in (small, full))
        randomise(small, torch.Generator().manual_seed(seed))
        pad(small, full, cuts)
        args, kwargs = map_tensors(partial(_cast, number=number), inputs)
        try:
            theirs, ours = (_run(model, (args, kwargs), seed, roots) for model in (full, small))
        except RuntimeError:
            if number is torch.float32 and roots:
                raise
            continue  # it mixes in numbers of its own type, or a kernel has none for this one
        theirs = _parts(theirs, ours, seen)
        if not all(bool(one.isfinite().all()) for one in ours):
            return math.nan
        return min(difference(theirs, ours), difference(_alike(theirs, ours), ours))
    raise AssertionError


def _parts(one: Sequence[Tensor], other: Sequence[Tensor], seen: Sequence[Any]) -> list[Tensor]:
    """Return those units of outputs that the small model has too, where it has fewer."""
    found = list(one)
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a.shape != b.shape and len(one) == len(seen) and seen[place] is not None:
            found[place] = Cut(tuple(b.shape), seen[place]).of(a)
    return found


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors times the factor that brings them nearest to others."""
    if any(a.shape != b.shape for a, b in zip(one, other, strict=False)):
        return list(one)
    size = sum(float((a * a).sum()) for a in one)
    both = sum(float((a * b).sum()) for a, b in zip(one, other, strict=False))
    return [a * (both / size if size else 1.0) for a in one]


def _run(model: nn.Module, inputs: tuple[Any, Any], seed: int, roots: bool) -> list[Tensor]:
    torch.manual_seed(seed)
    with plain(model, roots=roots):
        return outputs(model(*inputs[0], **inputs[1]))


def _cast(tensor: Tensor, number: torch.dtype) -> Tensor:
    return tensor.to(number) if tensor.is_floating_point() else tensor


def cuts_of(net: SortedNet, setting: Setting) -> dict[str, Cut]:
    """Return where the tensors of a sub-model lie."""
    skeleton = net.skeleton(setting)
    return {slot.path: slot.cut for slot in (*skeleton.parameters, *skeleton.buffers)}


def exactness(net: SortedNet, setting: Setting, inputs: tuple[Any, Any]) -> float:
    """Return how far a sub-model in the network is from the one copied out of it."""
    args, kwargs = inputs
    net.eval()
    with torch.no_grad():
        found = []
        for model in (net.at(setting), net.extract(setting).eval()):
            torch.manual_seed(0)
            found.append(outputs(model(*args, **kwargs)))
    return difference(*found)


def verdict(net: SortedNet, setting: Setting, inputs: tuple[Any, Any]) -> Verdict:
    """Pad one sub-model into the full model, or the shallowest part of it.

    Where some dimensions alone leave every tensor whole, as depth does, the padded model is as small in them as the
    sub-model: blocks of zeros behind it would not hand its output on. Where all do, there is no cut to try.
    """
    whole = {}
    for name in net.space.supports:
        alone = Setting({**net.space.full, name: setting[name]})
        if alone in net.space and _is_whole(net, alone):
            whole[name] = setting[name]
    larger = Setting({**net.space.full, **whole})
    if larger == setting:
        return Verdict(0.0)
    found = aligned(net, setting, inputs)
    cuts = {**computed(net, setting, found), **cuts_of(net, setting)}
    seen = [None if terms is None else tuple(map(stretches_of, terms)) for terms in found.outputs]
    error = pad_error(net.builder(**setting), net.builder(**larger), cuts, inputs, seen)
    reasons = [] if error <= TOLERANCE else _reasons(net)
    reasons += ["without norms the small model's numbers grow past all bounds"] if math.isnan(error) else []
    return Verdict(error, not reasons, "; ".join(reasons[:3]))


def _is_whole(net: SortedNet, setting: Setting) -> bool:
    theirs = tensors_of(net.full)
    return all(tuple(theirs[name].shape) == cut.shape for name, cut in cuts_of(net, setting).items())


def _reasons(net: SortedNet) -> list[str]:
    """Return what the network says of itself that makes a pad test say nothing."""
    text = str(net.cuts)
    modules = {re.sub(r"\d+", "*", path): module for path, module in net.full.named_modules()}
    found = []
    for path, operation, _ in _STATISTIC.findall(text):
        neutral = operation in _NORMS or (path in modules and _is_own_norm(modules[path]))
        if not neutral:
            found.append(f"{path}: {operation} over units")
    found += [f"{one} by the smaller alone" for one in _ALONE.findall(text)]
    return list(dict.fromkeys(found))
