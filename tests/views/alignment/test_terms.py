"""Terms by hand: what they read as, how they meet, and that a step that fails leaves nothing behind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sortednet.views.alignment.terms import (
    Conflict,
    Leaf,
    Product,
    Solver,
    Sum,
    is_fixed,
    normal,
    size_of,
    stretches_of,
    text_of,
)

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def heads(small=2, full=4, units=8):
    return Product([Leaf(small, full), Leaf(units, units)])


def test_a_leaf_is_a_corner():
    assert stretches_of(Leaf(3, 5)) == ((0, 3),)


@pytest.mark.parametrize(
    ("term", "text", "stretches"),
    [
        (Sum([Leaf(2, 4), Leaf(3, 3)]), "2/4 + 3", ((0, 2), (4, 3))),
        (heads(), "2/4 x 8", ((0, 16),)),
        (Product([Leaf(2, 2), Leaf(1, 3)]), "2 x 1/3", ((0, 1), (3, 1))),
        (Product([Sum([Leaf(1, 2), Leaf(1, 1)]), Leaf(4, 4)]), "(1/2 + 1) x 4", ((0, 4), (8, 4))),
        (Sum([Leaf(0, 2), Leaf(3, 3), Leaf(0, 2)]), "0/2 + 3 + 0/2", ((2, 3),)),
        (Sum([]), "0", ((0, 0),)),
    ],
)
def test_a_term_reads_as_stretches(term, text, stretches):
    assert text_of(term) == text
    assert stretches_of(term) == stretches


def test_a_leaf_takes_the_structure_of_what_it_meets():
    leaf = Leaf(16, 32)
    Solver().unify(leaf, heads())
    assert text_of(leaf) == "2/4 x 8"


def test_a_leaf_that_is_parted_is_parted_wherever_it_stands():
    leaf = Leaf(4, 8)
    other = Sum([leaf, leaf])
    Solver().part(leaf, (1, 2))
    assert text_of(other) == "1/2 + 3/6 + 1/2 + 3/6"


def test_products_of_other_factors_meet_where_one_holds_the_other():
    one, other = Product([Leaf(2, 4), Leaf(12, 12)]), Product([Leaf(6, 12), Leaf(4, 4)])
    Solver().unify(one, other)
    assert size_of(normal(one)) == size_of(normal(other))
    assert stretches_of(one) == stretches_of(other)


def test_a_fixed_number_of_blocks_meets_other_blocks_as_a_sum():
    shared = Leaf(1, 3)
    one, other = Product([Leaf(2, 2), Leaf(2, 6)]), Product([Leaf(4, 4), shared])
    Solver().unify(one, other)
    assert stretches_of(one) == stretches_of(other)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (Leaf(2, 4), Leaf(2, 5), "2/4 meets 2/5"),
        (Product([Leaf(3, 9), Leaf(4, 4)]), Product([Leaf(4, 4), Leaf(3, 9)]), "no whole number"),
        (Sum([Leaf(1, 4), Leaf(3, 3)]), Sum([Leaf(2, 2), Leaf(2, 5)]), "end at different places"),
    ],
)
def test_what_no_map_serves_is_a_conflict_and_leaves_nothing_behind(one, other, message):
    before, solver = (text_of(one), text_of(other)), Solver()
    with pytest.raises(Conflict, match=message), solver.attempt():
        solver.unify(one, other)
    assert (text_of(one), text_of(other)) == before


def test_a_part_that_would_be_larger_in_the_small_model_is_a_conflict():
    with pytest.raises(Conflict, match="one part would be larger"):
        Solver().part(Leaf(4, 6), (3, 1))


def test_fixed_axes_of_one_size_meet_however_they_are_grouped():
    Solver().unify(Product([Leaf(3, 3), Leaf(4, 4)]), Product([Leaf(2, 2), Leaf(6, 6)]))
    assert is_fixed(Product([Leaf(3, 3), Leaf(4, 4)]))


sizes = st.integers(0, 3).flatmap(lambda small: st.tuples(st.just(small), st.integers(small, 4)))
terms = st.recursive(
    sizes.map(lambda pair: Leaf(*pair)),
    lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.sampled_from([Sum(parts), Product(parts)])
    ),
    max_leaves=5,
)


@few
@given(terms)
def test_stretches_hold_as_many_units_as_the_small_model_and_stay_inside(term):
    small, full = size_of(term)
    stretches = stretches_of(term)
    places = [place for start, length in stretches for place in range(start, start + length)]
    assert len(places) == small
    assert all(0 <= place < full for place in places)
    assert places == sorted(set(places))


@few
@given(terms, st.data())
def test_both_parts_of_an_axis_are_the_axis(term, data):
    small, full = size_of(normal(term))
    before = stretches_of(term)
    at = data.draw(st.integers(0, small)), data.draw(st.integers(0, full))
    try:
        first, second = Solver().part(term, at)
    except Conflict:
        return
    assert size_of(normal(first)) == at
    # Where a leaf had no structure, parting it decides how its units lie; both then still agree.
    assert stretches_of(Sum([first, second])) == stretches_of(term)
    assert len(before) <= len(stretches_of(term)) + 1


def test_a_pinned_leaf_holds_the_first_units_whatever_it_meets():
    pinned, leaf = Leaf(2, 4, pinned=True), Leaf(2, 4)
    solver = Solver()
    solver.unify(leaf, pinned)
    assert stretches_of(leaf) == ((0, 2),)
    with pytest.raises(Conflict):
        solver.unify(leaf, Product([Leaf(2, 2), Leaf(1, 2)]))


def test_a_pinned_leaf_meets_blocks_that_lie_as_its_units_do():
    pinned, blocks = Leaf(2, 6, pinned=True), Sum([Leaf(2, 3), Leaf(0, 3)])
    Solver().unify(blocks, pinned)
    assert stretches_of(blocks) == stretches_of(pinned) == ((0, 2),)
