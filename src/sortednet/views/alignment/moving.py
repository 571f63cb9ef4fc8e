"""Rules of operations that move numbers: views, permutations, slices, concatenation, padding, reading at positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .rules import UNIT, Terms, Unknown, Walk, divided, kept_where_equal, rule, size
from .tape import Operation, Ref
from .terms import Conflict, Leaf, Product, Size, Sum, Term, is_fixed, leaves_of, normal, size_of

__all__ = [
    "anew",
    "diagonal",
    "drawn",
    "embedding",
    "expand",
    "glu",
    "index",
    "join",
    "pack",
    "pad",
    "permute",
    "permuted",
    "pick",
    "repeat",
    "select",
    "shuffle",
    "slice_",
    "split",
    "squeeze",
    "unfold",
    "unsqueeze",
    "view",
    "view_as_complex",
    "view_as_real",
]


def _only(walk: Walk, ours: Operation, theirs: Operation) -> tuple[Terms, tuple[int, ...], tuple[int, ...]]:
    """Return the terms of the first input, and the shapes of the first output."""
    return walk.terms(ours.inputs[0], theirs.inputs[0]), ours.outputs[0].shape, theirs.outputs[0].shape


@rule("view")
def view(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms] | None:
    """Walk the old and the new shape; where their products agree, the axes between hold the same units."""
    old, small, full = _only(walk, ours, theirs)
    new: Terms = [walk.leaf(a, b) for a, b in zip(small, full, strict=True)]
    if "dtype" in ours.arguments or 0 in small or 0 in full:
        return [old] if len(old) == len(new) else None
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = old[i : i + 1], new[j : j + 1]
        i, j = i + 1, j + 1
        while (a := _size(before)) != (b := _size(after)):
            if j < len(new) and (b[0] < a[0] or b[1] < a[1] or i >= len(old)):
                after.append(new[j])
                j += 1
            elif i < len(old):
                before.append(old[i])
                i += 1
            else:
                raise Unknown("shapes that do not agree")
        walk.meet(Product(before), Product(after))
    return [new]


def _size(group: Sequence[Term]) -> Size:
    return size_of(Product([normal(term) for term in group]))


@rule("permute", "transpose", "t", "movedim")
def permute(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Axes change places."""
    return [permuted(ours, _only(walk, ours, theirs)[0])]


def permuted(operation: Operation, terms: Terms) -> Terms:
    """Return terms in the places that an operation gives their axes."""
    if operation.name == "t":
        return terms[::-1]
    if operation.name == "permute":
        return [terms[dim] for dim in operation["dims"]]
    found, a, b = list(terms), operation["dim0"], operation["dim1"]
    if found:
        found[a], found[b] = found[b], found[a]
    return found


@rule("unsqueeze")
def unsqueeze(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """An axis of size 1 comes in."""
    terms, *_ = _only(walk, ours, theirs)
    dim = ours["dim"] % (len(terms) + 1)
    return [[*terms[:dim], Leaf(1, 1), *terms[dim:]]]


@rule("squeeze")
def squeeze(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Axes of size 1 go."""
    terms, *_ = _only(walk, ours, theirs)
    given = ours.arguments.get("dim", list(range(len(terms))))
    gone = {dim % max(1, len(terms)) for dim in ([given] if isinstance(given, int) else given)}
    return [[term for d, term in enumerate(terms) if d not in gone or ours.inputs[0].shape[d] != 1]]


@rule("expand")
def expand(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Axes of size 1 grow, new ones come in at the front."""
    terms, small, full = _only(walk, ours, theirs)
    terms = [Leaf(1, 1)] * (len(small) - len(terms)) + terms
    sizes = zip(small, full, strict=True)
    return [[walk.leaf(*new) if size(t) == UNIT != new else t for t, new in zip(terms, sizes, strict=True)]]


@rule("select", "unbind")
def select(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """One place of an axis, or each as a tensor of its own."""
    terms, *_ = _only(walk, ours, theirs)
    dim = ours["dim"] % len(terms)
    if ours.name == "select":
        small, full = (one["index"] % one.inputs[0].shape[dim] for one in (ours, theirs))
        if small != full and not is_fixed(terms[dim]):  # x[-1]: the last is to be the last
            _, rest = walk.solver.part(terms[dim], (small, full), walk.origin)
            walk.solver.part(rest, UNIT, walk.origin)
    return [[term for d, term in enumerate(terms) if d != dim]] * len(ours.outputs)


@rule("view_as_real")
def view_as_real(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """An axis of real and imaginary part comes in at the end."""
    return [[*_only(walk, ours, theirs)[0], Leaf(2, 2)]]


@rule("view_as_complex")
def view_as_complex(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """And goes again."""
    return [_only(walk, ours, theirs)[0][:-1]]


@rule("diagonal", "diagonal_copy")
def diagonal(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Two axes go, which are one where it is the main diagonal of a square; one comes in at the end."""
    terms, small, full = _only(walk, ours, theirs)
    one, other = ours["dim1"] % len(terms), ours["dim2"] % len(terms)
    last: Term = walk.leaf(small[-1], full[-1])
    if ours["offset"] == 0 and size(terms[one]) == size(terms[other]):
        walk.meet(terms[one], terms[other])
        last = terms[one]
    return [[*(term for d, term in enumerate(terms) if d not in (one, other)), last]]


@rule("slice")
def slice_(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """A part of an axis; each k-th place is the outer one of two factors."""
    terms, small, full = _only(walk, ours, theirs)
    dim, step = ours["dim"] % len(terms), ours["step"]
    term, whole, new = terms[dim], size(terms[dim]), (small[dim], full[dim])
    starts = _start(ours["start"], whole[0]), _start(theirs["start"], whole[1])
    part: Term
    if is_fixed(term):
        part = _stretch_of_fixed(walk, starts, new, step)
    elif step == 1:
        _, rest = walk.solver.part(term, starts, walk.origin)
        part, _ = walk.solver.part(rest, new, walk.origin)
    else:
        part = walk.leaf(*divided(term, (step, step)))
        walk.meet(term, Product([part, Leaf(step, step)]))
    return [[*terms[:dim], part, *terms[dim + 1 :]]]


def _stretch_of_fixed(walk: Walk, starts: Size, new: Size, step: int = 1) -> Term:
    """Return a part of an axis that nothing changes: where the small model's lies in the full one's."""
    if new[0] == new[1] or new[0] > new[1]:
        return walk.leaf(*new)
    if starts[0] == starts[1]:
        return walk.leaf(*new, pinned=True)
    (before, uneven), missing = divmod(starts[0] - starts[1], step), new[1] - new[0]
    if uneven or not 0 <= before <= missing:
        raise Unknown(f"its part of {new[0]} begins at {starts[0]}, that of {new[1]} at {starts[1]}")
    return Sum([Leaf(0, before, walk.origin), Leaf(new[0], new[0]), Leaf(0, missing - before, walk.origin)])


def _start(given: int | None, length: int) -> int:
    given = given or 0
    return max(0, min(length, given + length if given < 0 else given))


@rule("split", "split_with_sizes")
def split(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Parts of an axis one behind the other."""
    terms, *_ = _only(walk, ours, theirs)
    dim, found = ours["dim"] % len(terms), []
    if len(ours.outputs) != len(theirs.outputs):
        raise Unknown(f"{len(ours.outputs)} parts, and {len(theirs.outputs)} in the full model")
    rest, starts = terms[dim], (0, 0)
    for a, b in zip(ours.outputs, theirs.outputs, strict=True):
        new = a.shape[dim], b.shape[dim]
        if is_fixed(terms[dim]):
            part = _stretch_of_fixed(walk, starts, new)
            starts = starts[0] + new[0], starts[1] + new[1]
        else:
            part, rest = walk.solver.part(rest, new, walk.origin)
        found.append([*terms[:dim], part, *terms[dim + 1 :]])
    return found


@rule("cat", "stack")
def join(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Tensors one behind the other, or as places of a new axis. The full model may join more of them."""
    stacked = ours.name == "stack"
    rank = len(ours.outputs[0].shape) - stacked
    dim = ours["dim"] % (rank + stacked)
    parts: list[Term | None] = [None] * len(theirs.inputs)
    found: Terms = []
    for ref, place in zip(ours.inputs, _places(ours, theirs), strict=True):
        if len(ref.shape) != rank:  # an empty tensor of the old kind
            continue
        terms = walk.terms(ref, theirs.inputs[place])
        parts[place] = None if stacked else terms[dim]
        found = found or terms
        for d, (a, b) in enumerate(zip(found, terms, strict=True)):
            if a is not b and (stacked or d != dim):
                walk.meet(a, b)
    if stacked:
        return [[*found[:dim], walk.leaf(len(ours.inputs), len(theirs.inputs)), *found[dim:]]]
    joined = [
        Leaf(0, big.shape[dim] if len(big.shape) == rank else 0, walk.origin) if part is None else part
        for part, big in zip(parts, theirs.inputs, strict=True)
    ]
    return [[*found[:dim], Sum(joined), *found[dim + 1 :]]]


def _places(ours: Operation, theirs: Operation) -> list[int]:
    """Say which of the full model's inputs each of the small one's is, by what made it."""
    found: list[int] = []
    place = 0
    makers, others = ours.shape[1:], theirs.shape[1:]
    roots = theirs.roots
    known = [roots.index(one) for one in ours.roots if one and ours.roots.count(one) == roots.count(one) == 1]
    if known != sorted(known):
        raise Conflict("joins the same parts in another order than the full model does")
    if len(makers) > len(others):
        raise Conflict(f"joins {len(makers)} parts, and the full model only {len(others)}")
    for number in range(len(makers)):
        while len(others) - place > len(makers) - number and others[place] != makers[number]:
            place += 1
        found.append(place)
        place += 1
    return found


@rule("glu")
def glu(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Two halves, the second of which gates the first."""
    terms = list(_only(walk, ours, theirs)[0])
    dim = ours["dim"]
    first, second = walk.solver.part(terms[dim], divided(terms[dim], (2, 2)), walk.origin)
    walk.meet(first, second)
    terms[dim] = first
    return [terms]


@rule(
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "new_empty_strided",
    "nonzero",
    "_unique2",
    "unique_dim",
    "masked_select",
    "histc",
    "bincount",
    "randperm",
)
def anew(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """What comes out has places of its own."""
    return []


@rule("multinomial")
def drawn(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Numbers of places, drawn by chance."""
    terms, small, full = _only(walk, ours, theirs)
    walk.count(ours.outputs[0], terms[-1])
    return [[*terms[:-1], walk.leaf(small[-1], full[-1])]]


@rule("_pack_padded_sequence", "_pad_packed_sequence")
def pack(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Steps of all sequences one behind the other, and back."""
    terms, small, full = _only(walk, ours, theirs)
    kept = terms[2:] if ours.name == "_pack_padded_sequence" else terms[1:]
    steps = zip(small, full, strict=True)
    return [[*(walk.leaf(*next(steps)) for _ in range(len(small) - len(kept))), *kept]]


@rule("repeat")
def repeat(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Whole copies one behind the other."""
    terms, *_ = _only(walk, ours, theirs)
    times = list(zip(ours["repeats"], theirs["repeats"], strict=True))
    terms = [Leaf(1, 1)] * (len(times) - len(terms)) + terms
    return [[t if count == UNIT else Product([walk.leaf(*count), t]) for t, count in zip(terms, times, strict=True)]]


@rule("constant_pad_nd")
def pad(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Places before and after, from the last axis on."""
    terms, small, full = _only(walk, ours, theirs)
    found = list(terms)
    for number in range(len(ours["pad"]) // 2):
        before, after = ((ours["pad"][d], theirs["pad"][d]) for d in (2 * number, 2 * number + 1))
        dim = len(terms) - 1 - number
        if min(before + after) < 0 and not is_fixed(terms[dim]):
            raise Unknown("negative padding of a changing axis")
        if is_fixed(terms[dim]) and before[0] == before[1] and after[0] == after[1]:
            found[dim] = walk.leaf(small[dim], full[dim])
        elif (
            before[0] == before[1]
            and after[0] > after[1]
            and small[dim] <= full[dim]
            and not any(leaf.pinned for leaf in leaves_of(terms[dim]))  # of which the full model has all, not zeros
        ):
            # Up to a length: units that the small model lacks would lie where it has padding.
            walk.meet(terms[dim], walk.leaf(*size(terms[dim]), pinned=True))
            found[dim] = walk.leaf(small[dim], full[dim], pinned=True)
        else:
            found[dim] = Sum([walk.leaf(*before), terms[dim], walk.leaf(*after)])
    return [found]


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col", "col2im")
def shuffle(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Channels hold pixels of a window, or change places among groups."""
    terms, small, full = _only(walk, ours, theirs)
    dim = len(terms) - 3 if ours.name.startswith("pixel") else 1
    found: Term
    if ours.name in ("pixel_shuffle", "col2im"):
        window = ours["upscale_factor"] ** 2 if ours.name == "pixel_shuffle" else math.prod(ours["kernel_size"])
        found = walk.leaf(small[dim], full[dim])
        walk.meet(terms[dim], Product([found, Leaf(window, window)]))
    elif ours.name in ("pixel_unshuffle", "im2col"):
        window = ours["downscale_factor"] ** 2 if ours.name == "pixel_unshuffle" else math.prod(ours["kernel_size"])
        found = Product([terms[dim], Leaf(window, window)])
    else:
        groups = ours["groups"], theirs["groups"]
        outer, inner = walk.leaf(*groups), walk.leaf(*divided(terms[1], groups))
        walk.meet(terms[1], Product([outer, inner]))
        found = Product([inner, outer])
    rest = (walk.leaf(a, b) for a, b in zip(small[dim + 1 :], full[dim + 1 :], strict=True))
    return [[*terms[:dim], found, *rest]]


@rule("unfold")
def unfold(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Windows along one axis."""
    terms, small, full = _only(walk, ours, theirs)
    dim = ours["dimension"] % len(terms)
    if not is_fixed(terms[dim]):
        raise Unknown("windows along a changing axis")
    found = [*terms, walk.leaf(ours["size"], theirs["size"])]
    found[dim] = walk.leaf(small[dim], full[dim])
    return [found]


@rule("embedding", "_embedding_bag_forward_only", "_embedding_bag")
def embedding(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Rows of a table."""
    weight, indices = (walk.terms(ours[name], theirs[name]) for name in ("weight", "indices"))
    first = ours.outputs[0].shape[0], theirs.outputs[0].shape[0]
    return [[*(indices if ours.name == "embedding" else [walk.leaf(*first)]), *weight[1:]]]


@rule("index", "index_put", "_unsafe_index", "_index_put_impl", "_unsafe_index_put")
def index(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Places of some axes by tensors of numbers, or by a mask; the other axes stay."""
    terms, indices = walk.terms(ours["self"], theirs["self"]), ours["indices"]
    small, full = ours.outputs[0].shape, theirs.outputs[0].shape
    by = [d for d, one in enumerate(indices) if one is not None]
    # A mask over the first axes makes one of them.
    masked = len(indices) == 1 and len(by) == 1 and len(small) < len(terms)
    stretch = _stretch(walk, ours, theirs, by) if len(by) == 1 and "put" not in ours.name else None
    if stretch is not None:
        return [[*terms[: by[0]], stretch, *terms[by[0] + 1 :]]]
    if masked:
        kept = terms[len(indices[0].shape) :]
    else:
        kept = [term for d, term in enumerate(terms) if d not in by]
        walk.doubt(*(terms[d] for d in by))
    if "put" in ours.name:
        for a, b in zip(kept[::-1], walk.terms(ours["values"], theirs["values"])[::-1], strict=False):
            if size(a) == size(b):
                walk.meet(a, b)
        return [terms]
    if masked:
        return [[walk.leaf(small[0], full[0]), *kept]]
    first = by[0] if by[-1] - by[0] + 1 == len(by) else 0
    new = len(small) - len(kept)
    places = [walk.leaf(a, b) for a, b in zip(small[first : first + new], full[first : first + new], strict=True)]
    walk.doubt(*places)
    return [[*kept[:first], *places, *kept[first:]]]


def _stretch(walk: Walk, ours: Operation, theirs: Operation, by: Sequence[int]) -> Term | None:
    """Return the part of a changing axis whose places, one behind the other, the code gives by numbers, if it does."""
    places = []
    for one in (ours, theirs):
        given, length = one["indices"][by[0]], one["self"].shape[by[0]]
        if given.numbers is None:
            return None
        numbers = [number % length for number in given.numbers]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return None
        places.append((numbers[0], len(numbers)))
    _, rest = walk.solver.part(
        walk.terms(ours["self"], theirs["self"])[by[0]], (places[0][0], places[1][0]), walk.origin
    )
    return walk.solver.part(rest, (places[0][1], places[1][1]), walk.origin)[0]


@rule("index_select", "index_add", "index_copy", "index_fill", "scatter", "scatter_add", "scatter_reduce", "gather",
      "select_scatter", "slice_scatter")  # fmt: skip
def pick(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Places of one axis by numbers; the other axes meet."""
    terms, small, full = _only(walk, ours, theirs)
    dim = ours["dim"] % len(terms)
    if not is_fixed(terms[dim]):
        counted = walk.counted(ours["index"]) if isinstance(ours.arguments.get("index"), Ref) else None
        if counted is None:
            raise Unknown("numbered places of a changing axis")
        walk.meet(terms[dim], counted)
    for a, b in zip(ours.inputs[1:], theirs.inputs[1:], strict=True):
        if len(a.shape) != len(terms):
            continue
        for d, (one, other) in enumerate(zip(terms, walk.terms(a, b), strict=True)):
            if d != dim and size(one) == size(other):
                walk.meet(one, other)
    if ours.name not in ("index_select", "gather"):
        return [terms]
    found = kept_where_equal(walk, terms, small, full)
    found[dim] = walk.leaf(small[dim], full[dim])
    return [found]
