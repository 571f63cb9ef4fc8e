"""Rules of operations that put numbers together: pointwise, reductions, products, convolutions, norms, pools."""

from __future__ import annotations

from .rules import UNIT, Rule, Terms, Unknown, Walk, divided, kept_where_equal, rule, size
from .tape import Operation, Ref
from .terms import Leaf, Product, Sum, Term, is_fixed, normal, quotient

__all__ = [
    "along",
    "attention",
    "channel_norm",
    "convolution",
    "distance",
    "fourier",
    "layer_norm",
    "pointwise",
    "product",
    "recurrent",
    "reduction",
    "trilinear",
    "weight_norm",
]


@rule("copy", "masked_fill", "where", "fill", "zero", "triu", "tril", "bernoulli", "isin", "_prelu_kernel",
      *(f"{name}_like" for name in ("zeros", "ones", "empty", "full", "rand", "randn")))  # fmt: skip
def pointwise(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Axes meet from the right, but for those of size 1."""
    rank = max((len(ref.shape) for ref in ours.inputs), default=0)
    found: list[Term | None] = [None] * rank
    for terms in _all_terms(walk, ours, theirs):
        for place, term in enumerate(terms, rank - len(terms)):
            held = found[place]
            if held is None or size(held) == UNIT:
                found[place] = term
            elif size(term) != UNIT:
                walk.meet(held, term)
    return [[term for term in found if term is not None]]


def _all_terms(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    return [walk.terms(a, b) for a, b in zip(ours.inputs, theirs.inputs, strict=True)]


def _dimensions(operation: Operation, rank: int) -> set[int]:
    given = operation.arguments.get("dim", operation.arguments.get("dims"))
    if given is None or given == []:
        return set(range(rank))
    return {dim % max(1, rank) for dim in ([given] if isinstance(given, int) else given)}


@rule("softmax", "_softmax", "_log_softmax", "_safe_softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp",
      "sort", "argsort", "flip", "roll")  # fmt: skip
def along(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """The shape stays, and numbers along one axis meet."""
    terms = walk.terms(ours.inputs[0], theirs.inputs[0])
    touched = [terms[dim] for dim in _dimensions(ours, len(terms))] if terms else []
    if ours.name in ("sort", "argsort", "flip", "roll") and not all(map(is_fixed, touched)):
        raise Unknown("it changes the order of units along an axis that changes")
    walk.statistic(*touched)
    return [terms] * len(ours.outputs)


@rule("sum", "mean", "amax", "amin", "max", "min", "aminmax", "var", "std", "var_mean", "std_mean", "norm", "prod",
      "argmax", "argmin", "linalg_vector_norm", "logsumexp", "any", "all", "count_nonzero", "median", "nanmedian",
      "topk", "mode", "kthvalue")  # fmt: skip
def reduction(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Some axes go, or have size 1."""
    terms = walk.terms(ours.inputs[0], theirs.inputs[0])
    if len(ours.inputs) > 1:
        return pointwise(walk, ours, theirs)
    gone = _dimensions(ours, len(terms))
    walk.statistic(*(term for place, term in enumerate(terms) if place in gone))
    if len(gone) == 1 and ours.name in ("argmax", "argmin", "max", "min", "topk", "mode", "kthvalue", "median"):
        walk.count(ours.outputs[-1], terms[next(iter(gone))])
    if ours.name == "topk":
        small, full = ours.outputs[0].shape, theirs.outputs[0].shape
        found = [walk.leaf(small[d], full[d]) if d in gone else term for d, term in enumerate(terms)]
    else:
        keep = ours.arguments.get("keepdim", False)
        found = [Leaf(1, 1) if d in gone else term for d, term in enumerate(terms) if keep or d not in gone]
    return [found] * len(ours.outputs)


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot", "linear", "_grouped_mm", "_sparse_addmm")
def product(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Contracted axes meet, batches meet, the others go out."""
    terms = _all_terms(walk, ours, theirs)
    bias: Terms = []
    if ours.name in ("addmm", "baddbmm", "addmv", "_sparse_addmm"):
        bias = terms.pop(0)
    one, other = terms[:2]
    if ours.name == "linear":
        bias = terms[2] if len(terms) > 2 else []
        walk.meet(one[-1], other[1])
        found = [*one[:-1], other[0]]
    elif ours.name in ("mv", "addmv", "dot", "vdot"):
        walk.meet(one[-1], other[-1])
        found = one[:-1]
    else:  # grouped: (tokens, in) x (experts, in, out), in groups of tokens
        walk.meet(one[-1], other[-2])
        for a, b in zip(one[:-2], other[:-2], strict=False):
            walk.meet(a, b)
        found = [*one[:-1], other[-1]]
    for a, b in zip(bias[::-1], found[::-1], strict=False):
        if size(a) != UNIT:
            walk.meet(a, b)
    return [found]


@rule("convolution")
def convolution(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Channels of the input are groups of the weight's second axis; a smaller kernel lies where its padding puts it."""
    x, weight = (walk.terms(ours[name], theirs[name]) for name in ("input", "weight"))
    groups = ours["groups"], theirs["groups"]
    group, whole, within = walk.leaf(*groups), weight[0], weight[1]
    walk.meet(whole, Product([group, walk.leaf(*divided(whole, groups))]))
    joined = Product([group, within])
    taken, given = (whole, joined) if ours["transposed"] else (joined, whole)
    walk.meet(x[1], taken)
    if isinstance(ours["bias"], Ref):
        walk.meet(walk.terms(ours["bias"], theirs["bias"])[0], given)
    for place, (kernel, image) in enumerate(zip(weight[2:], x[2:], strict=True)):
        small, full = size(kernel)
        if small != full:
            more = theirs["padding"][place] - ours["padding"][place] + _padded(image)
            shift, uneven = divmod(more, ours["dilation"][place])
            if uneven or not 0 <= shift <= full - small:
                raise Unknown("a kernel that lies elsewhere")
            walk.meet(kernel, Sum([Leaf(0, shift), Leaf(small, small), Leaf(0, full - small - shift)]))
        if size(image)[0] != size(image)[1]:
            walk.statistic(image)  # windows along an axis that changes
    places = kept_where_equal(walk, x[2:], ours.outputs[0].shape[2:], theirs.outputs[0].shape[2:])
    return [[x[0], given, *places]]


def _padded(image: Term) -> int:
    """Return how many places more the full model has put before an axis than the small one."""
    image = normal(image)
    first = normal(image.parts[0]) if isinstance(image, Sum) else None
    if not isinstance(image, Sum) or not isinstance(first, Leaf) or not is_fixed(Sum(image.parts[1:-1])):
        return 0
    return first.full - first.small


@rule("scaled_dot_product_attention", *(f"_scaled_dot_product_{kind}" for kind in (
    "flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention",
    "fused_attention_overrideable",
)))  # fmt: skip
def attention(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Queries meet keys along their units, keys and values along their places; several query heads may share a key."""
    query, key, value = (walk.terms(ours[name], theirs[name]) for name in ("query", "key", "value"))
    walk.meet(query[-1], key[-1])
    walk.meet(key[-2], value[-2])
    for q, k, v in zip(query[:-2], key[:-2], value[:-2], strict=True):
        walk.meet(k, v)
        shared = quotient(size(q), size(k))
        if shared not in (None, UNIT):
            walk.meet(q, Product([k, walk.leaf(*shared)]))
        elif size(k) != UNIT:
            walk.meet(q, k)
    walk.statistic(key[-2])
    return [[*query[:-1], value[-1]]]


@rule("mkldnn_rnn_layer")
def recurrent(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """One direction of one layer of an LSTM (4 gates) or GRU (3): gates one behind the other in every weight."""
    x = walk.terms(ours["input"], theirs["input"])
    state = walk.leaf(ours["hidden_size"], theirs["hidden_size"])
    gates = Sum([state] * {2: 4, 3: 3}[ours["mode"]])
    for name, across in (("weight0", x[-1]), ("weight1", state)):
        weight = walk.terms(ours[name], theirs[name])
        walk.meet(weight[0], gates)
        walk.meet(weight[1], across)
    for name in ("weight2", "weight3") if ours["has_biases"] else ():
        bias = walk.terms(ours[name], theirs[name])[0]
        walk.meet(bias, gates if size(bias) == size(gates) else Sum([gates, state]))  # GRU keeps two for the last gate
    last: Terms = [walk.leaf(a, b) for a, b in zip(ours.outputs[1].shape, theirs.outputs[1].shape, strict=True)]
    last[-1] = state
    return [[*x[:-1], state], last, last]


@rule("_trilinear")
def trilinear(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Three tensors of one shape after axes of size 1 are put in, multiplied and summed over some axes."""
    found: Terms = []
    for name in "123":
        terms = list(walk.terms(ours[f"i{name}"], theirs[f"i{name}"]))
        for dim in sorted(ours[f"expand{name}"]):
            terms.insert(dim, Leaf(1, 1))
        for a, b in zip(found, terms, strict=False):
            if UNIT not in (size(a), size(b)):
                walk.meet(a, b)
        found = [b if size(a) == UNIT else a for a, b in zip(found or terms, terms, strict=True)]
    return [[term for place, term in enumerate(found) if place not in ours["sumdim"]]]


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Every number along an axis becomes every other."""
    terms = walk.terms(ours.inputs[0], theirs.inputs[0])
    mixed = _dimensions(ours, len(terms))
    walk.doubt(*(terms[dim] for dim in mixed))
    small, full = ours.outputs[0].shape, theirs.outputs[0].shape
    return [[walk.leaf(small[d], full[d]) if d in mixed else term for d, term in enumerate(terms)]]


@rule("_cdist_forward", "_euclidean_dist")
def distance(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Differences along the last axis, of all pairs of rows."""
    one, other = _all_terms(walk, ours, theirs)[:2]
    for a, b in zip([*one[:-2], one[-1]], [*other[:-2], other[-1]], strict=True):
        walk.meet(a, b)
    return [[*one[:-1], other[-2]]]


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def layer_norm(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Weight and bias lie along the last axes."""
    x = walk.terms(ours.inputs[0], theirs.inputs[0])
    for a, b in zip(ours.inputs[1:], theirs.inputs[1:], strict=True):
        for own, term in zip(walk.terms(a, b)[::-1], x[::-1], strict=False):
            walk.meet(own, term)
    walk.statistic(*x[-len(ours["normalized_shape"]) :])
    return [x]


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_group_norm",
      "cudnn_batch_norm", "batch_norm_update_stats")  # fmt: skip
def channel_norm(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Weight, bias and statistics lie along the channels; that groups stay whole is a wish."""
    x = walk.terms(ours.inputs[0], theirs.inputs[0])
    for a, b in zip(ours.inputs[1:], theirs.inputs[1:], strict=True):
        walk.meet(walk.terms(a, b)[0], x[1])
    if ours.arguments.get("training", ours.arguments.get("running_mean", x) is None):
        walk.statistic(x[0], *x[2:])  # such as weights that are standardised
    if ours.name == "native_group_norm":
        groups = ours["group"], theirs["group"]
        walk.statistic(x[1])
        inner = quotient(size(x[1]), groups)
        if max(groups) > 1 and inner is not None:
            walk.wish(x[1], Product([walk.leaf(*groups), walk.leaf(*inner)]))
    return [x]


@rule("_weight_norm_interface")
def weight_norm(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """One length for each slice of the direction."""
    direction, length = _all_terms(walk, ours, theirs)
    for a, b in zip(direction, length, strict=True):
        if size(b) != UNIT:
            walk.meet(a, b)
    return [direction]


def _over_places(count: int) -> Rule:
    def keep(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
        terms = walk.terms(ours.inputs[0], theirs.inputs[0])
        walk.statistic(*terms[-count:])
        small, full = ours.outputs[0].shape, theirs.outputs[0].shape
        places = kept_where_equal(walk, terms[-count:], small[-count:], full[-count:])
        return [[*terms[:-count], *places]] * len(ours.outputs)

    return keep


for _count in (1, 2, 3):
    rule(
        *(name.format(_count) for name in (
            "max_pool{}d_with_indices", "max_pool{}d", "avg_pool{}d", "adaptive_avg_pool{}d", "_adaptive_avg_pool{}d",
            "adaptive_max_pool{}d", "max_unpool{}d", "fractional_max_pool{}d", "reflection_pad{}d",
            "replication_pad{}d", "grid_sampler_{}d", "upsample_nearest{}d", "_upsample_nearest_exact{}d",
            "upsample_linear{}d", "upsample_bilinear{}d", "upsample_bicubic{}d", "upsample_trilinear{}d",
            "_upsample_bilinear{}d_aa", "_upsample_bicubic{}d_aa", "_upsample_lanczos{}d_aa",
        ))
    )(_over_places(_count))  # fmt: skip
