"""Structures: the text they are kept as, and the cuts that they tell of settings that nobody watched."""

import json

import pytest

from sortednet.views.alignment.structure import Structure, solved
from sortednet.views.alignment.terms import Leaf, Product, Sum, size_of, stretches_of


def qkv(small, full, units=8):
    count = Leaf(small, full)
    head = Product([count, Leaf(units, units)])
    return {"qkv.weight": [Sum([head] * 3), Leaf(32, 32)], "out.weight": [Leaf(32, 32), head]}


def written(structure):
    return json.loads(json.dumps(structure.to_json()))


def test_a_structure_comes_back_from_its_text():
    structure = Structure.of(["heads"], qkv(2, 4))
    held = written(structure)
    assert held == {
        "changed": ["heads"],
        "axes": {"2/4@1 x 8 + 2/4@1 x 8 + 2/4@1 x 8": ["qkv.weight[0]"], "2/4@1 x 8": ["out.weight[1]"]},
    }
    again = Structure.from_json(held)
    assert written(again) == held
    assert {axis: stretches_of(term) for axis, term in again.terms.items()} == {
        axis: stretches_of(term) for axis, term in structure.terms.items()
    }


def test_brackets_come_back():
    term = Product([Sum([Leaf(1, 2), Leaf(1, 1)]), Leaf(4, 4)])
    held = written(Structure.of(["a"], {"w": [term]}))
    assert list(held["axes"]) == ["(1/2@1 + 1) x 4"]
    assert stretches_of(Structure.from_json(held).terms["w", 0]) == stretches_of(term)


def test_another_size_is_solved_through_the_axis_that_tells_it():
    structure = Structure.from_json(written(Structure.of(["heads"], qkv(1, 4))))
    full = {"qkv.weight": (96, 32), "out.weight": (32, 32)}
    found = structure.solve({"qkv.weight": (72, 32), "out.weight": (32, 24)}, full)
    assert found == {("qkv.weight", 0): ((0, 24), (32, 24), (64, 24)), ("out.weight", 1): ((0, 24),)}


def test_two_leaves_of_one_axis_are_told_by_others():
    a, b = Leaf(2, 4), Leaf(3, 9)
    structure = Structure.of(["a", "b"], {"joined": [Sum([a, b])], "left": [a], "right": [Product([b, Leaf(2, 2)])]})
    full = {"joined": (13,), "left": (4,), "right": (18,)}
    assert structure.solve({"joined": (9,), "left": (3,), "right": (12,)}, full)["joined", 0] == ((0, 3), (4, 6))
    assert ("joined", 0) not in structure.solve({"joined": (9,)}, {"joined": (13,)})
    assert ("joined", 0) not in structure.solve({"joined": (9,), "left": (3,), "right": (18,)}, full)


def test_a_setting_where_more_changes_is_not_told_by_one_where_less_does():
    alone = Structure.of(["heads"], qkv(2, 4))
    full = {"qkv.weight": (96, 32), "out.weight": (32, 32)}
    small = {"qkv.weight": (24, 16), "out.weight": (16, 8)}
    assert solved([alone], ["heads", "width"], small, full) == {}
    # A dimension that changes the size of nothing does not count.
    deep = Structure.of(["depth"], {"qkv.weight": [Leaf(96, 96), Leaf(32, 32)]})
    small = {"qkv.weight": (24, 32), "out.weight": (32, 8)}
    assert solved([alone, deep], ["heads", "depth"], small, full)["qkv.weight", 0] == ((0, 8), (32, 8), (64, 8))


def test_layers_that_were_not_there_are_cut_like_the_others():
    first = {f"layers.0.{name}": terms for name, terms in qkv(2, 4).items()}
    full = {f"layers.{i}.{name}": shape for i in (0, 1) for name, shape in (("qkv.weight", (96, 32)),)}
    small = dict.fromkeys(full, (48, 32))
    found = solved([Structure.of(["heads"], first)], ["heads"], small, full)
    assert found["layers.1.qkv.weight", 0] == found["layers.0.qkv.weight", 0] == ((0, 16), (32, 16), (64, 16))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2/4",
        "2/4@1 x",
        "x 3",
        "(1 + 2",
        "1 + 2)",
        "1 2",
        "a",
        "2/4@1 + 3/4@1",
        "(" * 30 + "1" + ")" * 30,
        "1 + " * 6000 + "1",
    ],
)
def test_what_is_no_term_is_refused(text):
    with pytest.raises(ValueError, match=r"term|bracket|leaf"):
        Structure.from_json({"changed": ["a"], "axes": {text: ["w[0]"]}})


@pytest.mark.parametrize(
    "held",
    [{}, {"changed": [], "axes": []}, {"changed": [1], "axes": {}}, {"changed": [], "axes": {"1/2@1": ["w"]}}],
)
def test_what_is_no_structure_is_refused(held):
    with pytest.raises(ValueError, match=r"structure|axis"):
        Structure.from_json(held)


def test_a_term_of_huge_numbers_costs_nothing_where_it_is_of_no_tensor():
    structure = Structure.from_json({"changed": ["a"], "axes": {"999999999999 x 1/2@1": ["w[0]"]}})
    assert size_of(structure.terms["w", 0])[1] == 2 * 999999999999
    assert structure.solve({"w": (4,)}, {"w": (8,)}) == {}


def test_units_that_a_watched_setting_lacks_tell_nothing_of_a_larger_one():
    last = Structure.of(["w"], {"out.weight": [Sum([Leaf(0, 6), Leaf(2, 2)])]})  # the last two of eight
    assert not last.solve({"out.weight": (4,)}, {"out.weight": (8,)})
