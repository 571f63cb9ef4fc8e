"""Spaces against brute force, and the text of every refusal."""

import contextlib
import copy
import itertools
import json
import math
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sortednet import Setting, Space, Support
from sortednet.errors import SettingError, SpaceError

settings.register_profile("few", max_examples=30, deadline=None, derandomize=True, database=None)
few = settings.get_profile("few")

NAMES = ("depth", "width", "heads")
ints = st.integers(-1000, 10**6)
numbers = ints | st.floats(allow_nan=False, allow_infinity=False, width=64)


small, tiny = st.integers(0, 9), st.integers(0, 4)


@st.composite
def products(draw, values=small, most=4):
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 3))]
    return Space(**{name: sorted(draw(st.sets(values, min_size=1, max_size=most))) for name in names})


@st.composite
def lists(draw, values=tiny):
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 3))]
    rows = draw(st.sets(st.tuples(*[values] * len(names)), min_size=1, max_size=8))
    return Space([dict(zip(names, row, strict=True)) for row in draw(st.permutations(sorted(rows)))])


spaces = products() | lists()


@st.composite
def spaces_with_one(draw):
    space = draw(spaces)
    return space, space[draw(st.integers(0, len(space) - 1))]


def lies_inside(small, large):
    return all(small[name] <= large[name] for name in large)


# --- settings -------------------------------------------------------------------------------------------------------


@few
@given(st.dictionaries(st.sampled_from(NAMES), numbers, min_size=1))
def test_the_text_of_a_setting_reads_back_as_the_setting(values):
    setting = Setting(values)
    again = Setting.parse(str(setting))
    assert again == setting
    assert list(again) == list(setting)
    assert [type(value) for value in again.values()] == [type(value) for value in setting.values()]


@few
@given(st.dictionaries(st.sampled_from(NAMES), numbers, min_size=1))
def test_equal_settings_have_equal_hashes_whatever_their_order(values):
    backwards = Setting(dict(reversed(values.items())))
    assert backwards == Setting(values)
    assert hash(backwards) == hash(Setting(values))
    assert len({backwards, Setting(values)}) == 1


def test_a_setting_equals_the_plain_mapping_of_its_values():
    assert Setting({"depth": 2}) == {"depth": 2}
    assert Setting({"depth": 2}) != {"depth": 3}
    assert Setting({"depth": 2}) != "depth=2"


def test_a_setting_survives_pickle_and_copy():
    setting = Setting({"width": 0.5, "depth": 2})
    for again in (pickle.loads(pickle.dumps(setting)), copy.deepcopy(setting)):
        assert again == setting
        assert str(again) == "width=0.5,depth=2"
        assert hash(again) == hash(setting)


def test_the_text_form_allows_spaces():
    assert Setting.parse(" depth = 2 , width=0.5 ") == {"depth": 2, "width": 0.5}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("depth", "'depth'"),
        ("depth=", "'depth='"),
        ("=4", "'=4'"),
        ("depth=4,", "''"),
        ("depth=four", "'depth=four'"),
        ("depth=nan", "'depth=nan'"),
        ("depth=inf", "'depth=inf'"),
        ("depth=1_000", "'depth=1_000'"),
        ("depth=0x4", "'depth=0x4'"),
        ("depth=4,depth=5", "'depth=5'"),
        ("depth=4;width=2", "'depth=4;width=2'"),
        ("depth==4", "'depth==4'"),
    ],
)
def test_text_that_is_no_setting_is_refused_and_the_part_named(text, part):
    with pytest.raises(SettingError, match=rf"is not a setting: cannot read {part}\. Write each dimension once"):
        Setting.parse(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "the value of depth is True, a bool. Give an int or a float."),
        ("4", "the value of depth is '4', a str. Give an int or a float."),
        (None, "the value of depth is None, a NoneType. Give an int or a float."),
        (math.nan, "the value of depth is nan. Give a finite number."),
        (math.inf, "the value of depth is inf. Give a finite number."),
        (2j, "the value of depth is 2j, a complex. Give an int or a float."),
    ],
)
def test_a_setting_refuses_what_is_no_finite_number(value, message):
    with pytest.raises(SpaceError) as caught:
        Setting({"depth": value})
    assert str(caught.value) == message


def test_a_setting_needs_a_dimension():
    with pytest.raises(SpaceError, match=r"A setting needs at least one dimension"):
        Setting({})


def test_a_large_integer_is_a_value():
    assert Setting({"depth": 10**300}) == {"depth": 10**300}


def test_a_huge_integer_is_taken_or_refused_with_a_space_error():
    with contextlib.suppress(SpaceError):
        Setting({"depth": 10**400})


@pytest.mark.parametrize("name", ["a=b", "a,b", "", " a"])
def test_a_name_that_the_text_form_cannot_carry_is_refused(name):
    with pytest.raises(SpaceError, match="name"):
        Setting({name: 1})


def test_replace_exchanges_values_and_refuses_other_names():
    setting = Setting({"depth": 2, "width": 8})
    assert str(setting.replace(width=4)) == "depth=2,width=4"
    assert str(setting) == "depth=2,width=8"
    with pytest.raises(SettingError, match=r"\['hight'\] is none of the dimensions \['depth', 'width'\]"):
        setting.replace(hight=3)


def test_settings_of_different_dimensions_cannot_be_compared():
    with pytest.raises(SettingError, match=r"Settings of different dimensions cannot be compared: depth=2 and width=2"):
        _ = Setting({"depth": 2}) <= Setting({"width": 2})


# --- the order ------------------------------------------------------------------------------------------------------


@few
@given(lists())
def test_inside_is_a_partial_order(space):
    for a, b in itertools.product(space, repeat=2):
        assert a <= a
        assert not a < a
        assert (a <= b and b <= a) == (a == b)
        assert (a <= b) == lies_inside(a, b)
        assert (a < b) == (a <= b and a != b)
        assert (a >= b) == (b <= a)
        assert (a > b) == (b < a)
    for a, b, c in itertools.product(space, repeat=3):
        assert a <= c or not (a <= b and b <= c)


@few
@given(spaces)
def test_iteration_puts_a_setting_after_every_setting_inside_it(space):
    listed = list(space)
    for (i, a), (j, b) in itertools.combinations(enumerate(listed), 2):
        assert not b <= a, (i, j)


# --- a space as a sequence ------------------------------------------------------------------------------------------


@few
@given(spaces)
def test_length_indexing_iteration_and_membership_agree(space):
    listed = list(space)
    assert len(space) == len(listed) == len(set(listed))
    assert [space[i] for i in range(len(space))] == listed
    assert [space[i - len(space)] for i in range(len(space))] == listed
    assert space[::2] == listed[::2]
    assert space[-2:] == listed[-2:]
    assert list(reversed(space)) == listed[::-1]
    assert all(one in space and dict(one) in space and space.setting(one) == one for one in listed)
    everything = itertools.product(*(support.values for support in space.supports.values()))
    members = {row for row in everything if dict(zip(space.supports, row, strict=True)) in space}
    assert members == {tuple(one.values()) for one in listed}


@few
@given(spaces)
def test_an_index_outside_is_refused(space):
    for index in (len(space), -len(space) - 1):
        with pytest.raises(IndexError, match=rf"index {index} is outside a space of {len(space)} settings"):
            space[index]


@few
@given(spaces)
def test_full_and_smallest_hold_the_largest_and_smallest_values(space):
    for name in space.supports:
        assert space.full[name] == max(one[name] for one in space)
        assert space.smallest[name] == min(one[name] for one in space)


@few
@given(products(values=numbers) | lists(values=st.integers(0, 4) | st.sampled_from([0.5, 0.25])))
def test_a_space_reads_back_from_json(space):
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert list(map(str, again)) == list(map(str, space))
    assert again.is_product == space.is_product


def test_weights_read_back_from_json():
    space = Space(depth=Support([1, 2], weights=[0.25, 0.75]), width=[3])
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again.supports["depth"].weights == (0.25, 0.75)
    assert again == space


def test_a_list_does_not_depend_on_the_order_it_was_given_in():
    rows = [{"width": 2, "depth": 3}, {"depth": 1, "width": 9}, {"depth": 2, "width": 2}]
    forms = {str(list(Space(list(order)))) for order in itertools.permutations(rows)}
    assert len(forms) == 1


def test_a_product_is_not_the_list_of_the_same_settings():
    product = Space(depth=[1, 2])
    assert product != Space(list(product))


def test_equal_spaces_have_equal_hashes_and_the_same_order():
    one, other = Space(depth=[1, 2], width=[3, 4]), Space(width=[3, 4], depth=[1, 2])
    assert one != other or (hash(one) == hash(other) and list(one) == list(other))


# --- inside, along, predecessors, ordered by brute force ------------------------------------------------------------


@few
@given(spaces_with_one())
def test_inside_by_brute_force(pair):
    space, outer = pair
    found = list(space.inside(outer))
    assert found == [one for one in space if lies_inside(one, outer)]
    assert found[-1] == outer


@few
@given(spaces_with_one())
def test_along_by_brute_force(pair):
    space, outer = pair
    found = list(space.along(outer))

    def differs_in_one(one):
        return sum(one[name] != outer[name] for name in outer) == 1

    assert set(found[:-1]) == {one for one in space if lies_inside(one, outer) and differs_in_one(one)}
    assert found[-1] == outer
    assert len(found) == len(set(found))


@few
@given(spaces_with_one())
def test_predecessors_by_brute_force(pair):
    space, outer = pair
    below = [one for one in space if lies_inside(one, outer) and one != outer]
    largest = [one for one in below if not any(lies_inside(one, other) and one != other for other in below)]
    found = space.predecessors(outer)
    assert len(found) == len(set(found))
    assert set(found) == set(largest)


@few
@given(spaces)
def test_ordered_lists_every_setting_once_by_share_of_the_full(space):
    def share(setting):
        return math.prod(value / (space.full[name] or 1) for name, value in setting.items())

    found = space.ordered()
    assert sorted(map(str, found)) == sorted(map(str, space))
    assert [share(one) for one in found] == sorted(map(share, space))


@few
@given(spaces)
def test_ordered_follows_a_cost_and_keeps_the_order_of_ties(space):
    assert space.ordered(lambda one: 0) == list(space)
    assert space.ordered(lambda one: -sum(one.values())) == sorted(space, key=lambda one: -sum(one.values()))


@few
@given(lists())
def test_the_full_setting_of_a_list_counts_though_it_is_not_listed(space):
    assert space.setting() == space.full
    assert list(space.inside(space.full))[: len(space)] == list(space)
    assert list(space.along(space.full))[-1] == space.full


# --- large spaces ---------------------------------------------------------------------------------------------------


class NeverListed(Space):
    def __iter__(self):
        raise AssertionError("a product was enumerated")


@pytest.mark.parametrize("sizes", [(12, 768), (10**5, 10**5)])
def test_a_large_product_is_never_enumerated(sizes):
    space = NeverListed(depth=range(1, sizes[0] + 1), width=range(1, sizes[1] + 1))
    start = time.perf_counter()
    assert len(space) == sizes[0] * sizes[1]
    middle = space[len(space) // 2 + 7]
    assert middle in space
    assert {"depth": 0, "width": 1} not in space
    assert space.setting(str(middle)) == middle
    assert space.setting(width=1) == {"depth": sizes[0], "width": 1}
    assert len(space.predecessors(middle)) == 2
    assert next(iter(space.along(middle)))["depth"] == 1
    with pytest.raises(SettingError, match=r"is outside its support \[1, 2, \.\.\., "):
        space.setting(width=0)
    assert time.perf_counter() - start < 0.5


@pytest.fixture(scope="module")
def million_by_million():
    values = Support(range(1, 10**6 + 1))
    return NeverListed(depth=values, width=values)


def test_a_million_by_a_million_settings_are_reached_by_number(million_by_million):
    start = time.perf_counter()
    assert len(million_by_million) == 10**12
    assert million_by_million[10**12 - 1] == million_by_million.full
    assert million_by_million[10**11 + 5] == {"depth": 100_001, "width": 6}
    assert time.perf_counter() - start < 0.5


def test_a_setting_of_a_million_by_a_million_is_found_at_once(million_by_million):
    start = time.perf_counter()
    assert million_by_million.setting(width=10**6) in million_by_million
    assert time.perf_counter() - start < 0.5


def test_membership_does_not_depend_on_the_size_of_a_support(million_by_million):
    start = time.perf_counter()
    for _ in range(20):
        assert million_by_million.full in million_by_million
    assert time.perf_counter() - start < 0.02


def test_a_space_larger_than_an_index_can_be_indexed():
    space = Space(**{f"block_{i}": range(1, 100) for i in range(12)})
    assert space[0] == space.smallest


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "Dimension depth: A support is empty. Give at least one number, such as [2, 4, 8]."),
        (
            [4, 2],
            "Dimension depth: The support [4, 2] is not strictly increasing. Sort it and drop repeats: [2, 4].",
        ),
        (
            [2, 2, 4],
            "Dimension depth: The support [2, 2, 4] is not strictly increasing. Sort it and drop repeats: [2, 4].",
        ),
        (
            [1, 1.0],
            "Dimension depth: The support [1, 1.0] is not strictly increasing. Sort it and drop repeats: [1].",
        ),
        ([2, math.nan], "Dimension depth: a value of a support is nan. Give a finite number."),
        ([2, math.inf], "Dimension depth: a value of a support is inf. Give a finite number."),
        ([False, True], "Dimension depth: a value of a support is False, a bool. Give an int or a float."),
        ("24", "Dimension depth: a value of a support is '2', a str. Give an int or a float."),
        (["2"], "Dimension depth: a value of a support is '2', a str. Give an int or a float."),
        (4, "Dimension depth: A support is 4. Give a list of increasing numbers, such as [2, 4, 8]."),
        (None, "Dimension depth: A support is None. Give a list of increasing numbers, such as [2, 4, 8]."),
        ([[2, 4]], "Dimension depth: a value of a support is [2, 4], a list. Give an int or a float."),
    ],
)
def test_a_bad_support_is_refused_and_its_dimension_named(values, message):
    with pytest.raises(SpaceError) as caught:
        Space(depth=values)
    assert str(caught.value) == message


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, math.nan], [1, math.inf], []])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(SpaceError, match=r"do not fit the support \[2, 4\]\. Give one finite number of at least 0"):
        Support([2, 4], weights=weights)


@pytest.mark.parametrize("weights", [["much", 1], 3, [None, 1]])
def test_weights_that_are_no_numbers_are_refused_in_words(weights):
    with pytest.raises(SpaceError, match="weights"):
        Support([2, 4], weights=weights)


@pytest.mark.parametrize("arguments", [((), {}), (([{"depth": 2}],), {"width": [1]})])
def test_a_space_is_a_product_or_a_list(arguments):
    positional, named = arguments
    with pytest.raises(SpaceError, match=r"A space is either a product of supports, .* Give one of the two"):
        Space(*positional, **named)


def test_an_empty_list_is_refused():
    with pytest.raises(SpaceError, match=r"The list of settings is empty\. Give at least one"):
        Space([])


def test_a_list_that_repeats_a_setting_is_refused():
    with pytest.raises(SpaceError, match=r"The list of 3 settings repeats one\. Give each setting once"):
        Space([{"a": 1, "b": 2}, {"a": 2, "b": 2}, {"b": 2, "a": 1}])


@pytest.mark.parametrize("other", [{"depth": 2, "width": 4}, {"width": 4}])
def test_a_list_of_mixed_dimensions_is_refused(other):
    with pytest.raises(SpaceError, match=r"have different dimensions\. Give every setting the same"):
        Space([{"depth": 2}, other])


def test_a_list_with_a_value_that_is_no_number_is_refused():
    with pytest.raises(SpaceError, match=r"the value of depth is '2', a str\. Give an int or a float"):
        Space([{"depth": "2"}])


@pytest.mark.parametrize("values", [[2, 4], {"depth": [2, 4]}, "depth=2"])
def test_a_list_of_what_is_no_setting_is_refused_in_words(values):
    with pytest.raises(SpaceError, match="setting"):
        Space(values)


SPACE = Space(depth=[2, 4], width=[8, 16])
LISTED = Space([{"depth": 2, "width": 16}, {"depth": 4, "width": 8}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 2, "widht": 8}, "widht=8 names no dimension. The dimensions are ['depth', 'width']."),
        ({"depth": 2}, "{'depth': 2} leaves out width. Give it one of the values [8, 16]."),
        ("width=8", "{'width': 8} leaves out depth. Give it one of the values [2, 4]."),
        (
            {"depth": 3, "width": 8},
            "depth=3 is outside its support [2, 4]. Choose one of these, or declare 3 before training.",
        ),
        (
            {"depth": math.nan, "width": 8},
            "depth=nan is outside its support [2, 4]. Choose one of these, or declare nan before training.",
        ),
        (
            {"depth": "4", "width": 8},
            "depth=4 is outside its support [2, 4]. Choose one of these, or declare 4 before training.",
        ),
    ],
)
@pytest.mark.parametrize("space", [SPACE, LISTED], ids=["product", "list"])
def test_a_setting_outside_is_refused(space, given, message):
    with pytest.raises(SettingError) as caught:
        space.setting(given)
    assert str(caught.value) == message


def test_an_unknown_name_among_values_is_refused():
    with pytest.raises(SettingError, match=r"heads=2 names no dimension\. The dimensions are \['depth', 'width'\]"):
        SPACE.setting(heads=2)


def test_a_setting_not_in_the_list_is_refused():
    with pytest.raises(SettingError, match=r"depth=2,width=8 is none of the 2 settings of this space\. Choose one"):
        LISTED.setting(depth=2, width=8)


def test_a_setting_and_values_are_not_taken_together():
    with pytest.raises(SettingError, match=r"Give a setting \(depth=2,width=8\) or values \({'depth': 4}\), not both"):
        SPACE.setting("depth=2,width=8", depth=4)


def test_dimensions_left_out_of_the_values_take_their_largest():
    assert SPACE.setting(depth=2) == {"depth": 2, "width": 16}


def test_a_checked_setting_has_the_order_of_the_space():
    assert str(SPACE.setting({"width": 8, "depth": 2})) == "depth=2,width=8"


@pytest.mark.parametrize("space", [SPACE, LISTED], ids=["product", "list"])
def test_a_setting_that_was_checked_passes_untouched(monkeypatch, space):
    checked = [space.setting(dict(one)) for one in space]
    monkeypatch.setattr(Support, "place", lambda *_: pytest.fail("a support was asked again"))
    for one in checked:
        assert space.setting(one) is one
        assert space.setting(Setting(one)) is one


@pytest.mark.parametrize("value", [None, 5, "depth=2,width=8", {"depth": 2}, {}, {"depth": 2, "width": 8, "heads": 1}])
@pytest.mark.parametrize("space", [SPACE, LISTED], ids=["product", "list"])
def test_what_is_no_setting_of_the_space_is_no_member(space, value):
    assert value not in space


@pytest.mark.parametrize("value", ["2", math.nan, None])
def test_a_mapping_of_bad_values_is_no_member_of_a_list(value):
    assert {"depth": value, "width": 16} not in LISTED


def test_membership_and_setting_agree_about_bools():
    assert {"depth": True} not in Space(depth=[1, 2])


def test_a_mapping_without_dimensions_is_refused_with_a_setting_error():
    with pytest.raises(SettingError, match="leaves out depth"):
        SPACE.setting({})


@pytest.mark.parametrize("value", [5, ["depth"]])
def test_what_is_neither_text_nor_mapping_is_refused_in_words(value):
    with pytest.raises(SettingError, match="depth"):
        SPACE.setting(value)


@pytest.mark.parametrize("form", [{"depth": 2.0, "width": 8}, "depth=2.0,width=8"])
def test_a_checked_setting_holds_the_values_of_the_support(form):
    assert str(SPACE.setting(form)) == "depth=2,width=8"


@pytest.mark.parametrize("data", [{}, {"supports": [1]}, {"supports": {"depth": {"value": [1]}}}, {"settings": ["x"]}])
def test_json_that_describes_no_space_is_refused(data):
    with pytest.raises(SpaceError, match=r"does not describe a space .* Write it with Space\.to_json"):
        Space.from_json(data)


@pytest.mark.parametrize("data", [[1], 5, None, "text"])
def test_json_that_is_no_mapping_is_refused(data):
    with pytest.raises(SpaceError, match="does not describe a space"):
        Space.from_json(data)
