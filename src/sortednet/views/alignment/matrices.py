"""Rules of operations that take a matrix as a whole, in its last two axes: diagonals, inverses, factors."""

from __future__ import annotations

from .rules import Terms, Unknown, Walk, rule
from .tape import Operation
from .terms import Leaf, Sum, Term, is_fixed

__all__ = [
    "block_diagonal",
    "diagonal_matrix",
    "eigen",
    "factored",
    "inverse",
    "searched",
    "solution",
    "solved_by_factor",
    "square",
    "triangle",
]


def _matrix(walk: Walk, ours: Operation, theirs: Operation, name: str = "") -> tuple[Terms, Term, Term]:
    """Return the terms of the axes before the last two, and of these; a changing one is taken as a whole."""
    a, b = (ours[name], theirs[name]) if name else (ours.inputs[0], theirs.inputs[0])
    terms = walk.terms(a, b)
    walk.statistic(*terms[-2:])
    return terms[:-2], terms[-2], terms[-1]


def _made(walk: Walk, ours: Operation, theirs: Operation, place: int, axis: int) -> Term:
    return walk.leaf(ours.outputs[place].shape[axis], theirs.outputs[place].shape[axis])


@rule("diag_embed")
def diagonal_matrix(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """The last axis becomes the rows and the columns."""
    *batch, last = walk.terms(ours.inputs[0], theirs.inputs[0])
    if ours["offset"] and not is_fixed(last):
        raise Unknown("a diagonal beside the main one")
    rank = len(batch) + 2
    if ours["offset"]:
        return [[*batch, _made(walk, ours, theirs, 0, -2), _made(walk, ours, theirs, 0, -1)]]
    square = {ours["dim1"] % rank, ours["dim2"] % rank}
    return [[last if axis in square else batch.pop(0) for axis in range(rank)]]


@rule("block_diag")
def block_diagonal(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Rows behind rows, and columns behind columns. The full model may have more blocks at the end."""
    if len(ours.inputs) > len(theirs.inputs):
        raise Unknown(f"{len(ours.inputs)} blocks, and {len(theirs.inputs)} in the full model")
    axes: list[Terms] = [
        [Leaf(1, 1), Leaf(1, 1), *walk.terms(a, b)][-2:] for a, b in zip(ours.inputs, theirs.inputs, strict=False)
    ]
    for big in theirs.inputs[len(ours.inputs) :]:
        axes.append([walk.leaf(0, count) for count in (1, 1, *big.shape)[-2:]])
    return [[Sum(parts) for parts in zip(*axes, strict=True)]]


@rule("trace", "_linalg_det", "_linalg_slogdet")
def square(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """One number, or a sign and one, of a square matrix."""
    batch, rows, columns = _matrix(walk, ours, theirs)
    walk.meet(rows, columns)
    return [batch] * (2 if ours.name == "_linalg_slogdet" else 1)


@rule("linalg_inv_ex", "linalg_pinv", "cholesky_inverse")
def inverse(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Rows are the columns of what is inverted, and columns its rows."""
    batch, rows, columns = _matrix(walk, ours, theirs)
    return [[*batch, columns, rows]]


@rule("linalg_cholesky_ex", "linalg_matrix_exp")
def triangle(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Rows and columns are the same units, and stay."""
    batch, rows, columns = _matrix(walk, ours, theirs)
    walk.meet(rows, columns)
    return [[*batch, rows, columns]]


@rule("_linalg_solve_ex", "linalg_solve_triangular")
def solution(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """A X = B, or X A = B: what of A meets B, and the other axis of A comes out."""
    first, second = list(ours.arguments)[:2]
    _, rows, columns = _matrix(walk, ours, theirs, first)
    right = walk.terms(ours[second], theirs[second])
    if len(ours[second].shape) == len(ours[first].shape) - 1:  # a vector, or a batch of them
        walk.meet(rows, right[-1])
        return [[*right[:-1], columns]]
    if ours["left"]:
        walk.meet(rows, right[-2])
        return [[*right[:-2], columns, right[-1]]]
    walk.meet(columns, right[-1])
    return [[*right[:-1], rows]]


@rule("cholesky_solve")
def solved_by_factor(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """L L' X = B."""
    _, rows, columns = _matrix(walk, ours, theirs, "input2")
    right = walk.terms(ours["self"], theirs["self"])
    walk.meet(rows, columns)
    walk.meet(rows, right[-2])
    return [right]


@rule("_linalg_eigh", "linalg_eig", "_linalg_eigvals")
def eigen(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Values in an order of their own, and a vector for each."""
    batch, rows, columns = _matrix(walk, ours, theirs)
    walk.meet(rows, columns)
    values = _made(walk, ours, theirs, 0, -1)
    return [[*batch, values], [*batch, rows, values]]


@rule("_linalg_svd", "linalg_qr")
def factored(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Between the rows and the columns comes an axis of its own."""
    batch, rows, columns = _matrix(walk, ours, theirs)
    if ours.name == "linalg_qr":
        between = _made(walk, ours, theirs, 1, -2)
        return [[*batch, rows, between], [*batch, between, columns]]
    values = _made(walk, ours, theirs, 1, -1)
    return [[*batch, rows, values], [*batch, values], [*batch, values, columns]]


@rule("searchsorted", "bucketize")
def searched(walk: Walk, ours: Operation, theirs: Operation) -> list[Terms]:
    """Each number's place among sorted ones, along the last axis of these; the axes before it meet."""
    name = "sorted_sequence" if ours.name == "searchsorted" else "boundaries"
    terms, among = (walk.terms(ours[one], theirs[one]) for one in ("self", name))
    for one, other in zip(terms, among[:-1], strict=False):
        walk.meet(one, other)
    walk.statistic(among[-1])
    return [terms]
