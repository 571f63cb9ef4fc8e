import csv
import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sortednet.errors import CheckpointError, ConfigError, SettingError
from sortednet.evaluation.margins import Margins
from sortednet.evaluation.table import Row, Table, readable
from sortednet.space import Setting


def row(depth, quality, params, **more):
    return Row(Setting({"depth": depth}), quality, params, **more)


def small(**more):
    return Table([row(8, 0.9, 800), row(2, 0.7, 200), row(4, 0.8, 400)], **more)


@pytest.mark.parametrize("direction", ["max", "min", 2, 0.0])
def test_a_direction_that_is_none_is_refused(direction):
    with pytest.raises(ConfigError, match="must be True or False"):
        small(higher_is_better=direction)


@st.composite
def tables(draw):
    # Few distinct values, so that ties are common.
    values = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=25))
    rows = [
        row(depth, quality / 4, params, flops=10 * params if timed else None)
        for depth, (quality, params, timed) in enumerate(values, 1)
    ]
    return Table(rows, higher_is_better=draw(st.booleans()))


def better(table, one, other):
    return one.quality > other.quality if table.higher_is_better else one.quality < other.quality


def dominates(table, one, other):
    """Whether `one` costs at most as much and is at least as good, and is strictly better in one of the two."""
    no_worse = one.params <= other.params and not better(table, other, one)
    return no_worse and (one.params < other.params or better(table, one, other))


@given(tables())
def test_nothing_dominates_a_member_of_the_front(table):
    assert not any(dominates(table, one, member) for member in table.pareto() for one in table)


@given(tables())
def test_all_outside_the_front_are_dominated_by_or_equal_to_a_member(table):
    front = table.pareto()
    for one in table:
        assert one in front or any(
            dominates(table, member, one) or (member.params, member.quality) == (one.params, one.quality)
            for member in front
        )


@given(tables())
def test_the_front_ascends_in_cost_and_strictly_improves(table):
    for one, after in itertools.pairwise(table.pareto()):
        assert one.params < after.params
        assert better(table, after, one)


@given(tables(), st.integers(0, 6), st.integers(1, 25))
def test_nothing_within_the_budgets_is_better_than_the_selected(table, max_params, max_depth):
    within = [one for one in table if one.params <= max_params and one.setting["depth"] <= max_depth]
    if not within:
        with pytest.raises(SettingError, match="met by no sub-model"):
            table.select(max_params=max_params, max_depth=max_depth)
        return
    chosen = table.row(table.select(max_params=max_params, max_depth=max_depth))
    assert chosen in within
    assert not any(better(table, one, chosen) for one in within)
    assert not any(one.quality == chosen.quality and one.params < chosen.params for one in within)


def test_rows_are_ordered_by_parameters_then_setting():
    table = Table([row(3, 0.5, 10), row(9, 0.5, 5), row(2, 0.5, 10)])
    assert [one.setting["depth"] for one in table] == [9, 2, 3]


def test_a_slice_is_a_list_of_rows():
    assert small()[:2] == [row(2, 0.7, 200), row(4, 0.8, 400)]


def test_select_without_budgets_takes_the_best():
    assert small().select() == {"depth": 8}


def test_select_takes_the_lowest_where_lower_is_better():
    assert small(higher_is_better=False).select() == {"depth": 2}


def test_select_bounds_a_dimension_from_below():
    assert small(higher_is_better=False).select(min_depth=3) == {"depth": 4}


def test_select_passes_over_sub_models_without_the_measurement():
    table = Table([row(2, 0.9, 200), row(4, 0.8, 400, latency_ms=1.0)])
    assert table.select(max_latency_ms=5) == {"depth": 4}


def test_select_passes_over_a_quality_that_is_nan():
    assert Table([row(2, math.nan, 200), row(4, 0.1, 400)]).select() == {"depth": 4}


def test_select_refuses_where_every_quality_is_nan():
    with pytest.raises(SettingError, match=r"accuracy of every sub-model within .* is nan.*widen the budgets"):
        Table([row(2, math.nan, 200)]).select(max_params=300)


def test_select_names_the_smallest_value_for_a_budget_nobody_meets():
    with pytest.raises(SettingError, match=r"max_params=100 .* smallest params there is 200, at depth=2. Raise it"):
        small().select(max_params=100)


def test_select_names_the_largest_value_for_a_lower_bound_nobody_meets():
    with pytest.raises(SettingError, match=r"min_quality=0.95 .* largest quality there is 0.9, at depth=8. Lower it"):
        small().select(min_quality=0.95)


def test_select_says_when_budgets_fail_only_together():
    with pytest.raises(SettingError, match=r"max_params=300 .* that meets the budgets before it.* is 400, at depth=4"):
        small().select(min_quality=0.75, max_params=300)


@pytest.mark.parametrize("key", ["params", "max_size", "most_params", "max_"])
def test_select_refuses_an_unknown_budget(key):
    with pytest.raises(
        SettingError, match=rf"{key}=5 is no budget. Write max_ or min_ before one of .*'params'.*'depth'"
    ):
        small().select(**{key: 5})


def test_select_refuses_a_column_that_was_not_measured():
    with pytest.raises(
        SettingError, match=r"latency_ms was not measured; this table has \['quality', 'params', 'depth'"
    ):
        small().select(max_latency_ms=5)


@pytest.mark.parametrize("bound", ["5M", None, True, math.nan])
def test_select_refuses_a_bound_that_is_no_number(bound):
    with pytest.raises(SettingError, match=r"is not a number. Give one, such as max_params=400"):
        small().select(max_params=bound)


def test_above_lists_the_best_first():
    assert [one.setting["depth"] for one in small().above(0.8)] == [8, 4]


def test_above_means_below_where_lower_is_better():
    assert [one.setting["depth"] for one in small(higher_is_better=False).above(0.8)] == [2, 4]


def test_the_front_over_another_cost_leaves_out_what_lacks_it():
    table = Table([row(2, 0.9, 200), row(4, 0.8, 400, flops=7), row(8, 0.7, 800, flops=3)])
    assert [one.setting["depth"] for one in table.pareto("flops")] == [8, 4]


def test_the_front_refuses_an_unknown_cost():
    with pytest.raises(SettingError, match=r"'quality' is no cost. Choose one of \['params'"):
        small().pareto("quality")


def test_the_front_refuses_a_cost_that_was_not_measured():
    with pytest.raises(SettingError, match="flops was not measured"):
        small().pareto("flops")


@pytest.mark.parametrize("form", ["depth=4", {"depth": 4}, Setting({"depth": 4})])
def test_a_row_is_found_by_any_form_of_its_setting(form):
    assert small().row(form).params == 400


def test_a_missing_row_is_named():
    with pytest.raises(SettingError, match=r"depth=5 is none of the 3 settings .* from depth=2 to depth=8"):
        small().row("depth=5")


def test_an_empty_table_is_refused():
    with pytest.raises(SettingError, match=r"0 rows. Give at least one"):
        Table([])


def test_a_repeated_setting_is_refused():
    with pytest.raises(SettingError, match="depth=2 has more than one row"):
        Table([row(2, 0.5, 1), row(2, 0.6, 1)])


def test_mixed_dimensions_are_refused():
    with pytest.raises(SettingError, match="different dimensions"):
        Table([row(2, 0.5, 1), Row(Setting({"width": 2}), 0.5, 1)])


def test_a_dimension_named_like_a_column_is_refused():
    with pytest.raises(SettingError, match="The dimension params bears the name of a column"):
        Table([Row(Setting({"params": 2}), 0.5, 1)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quality": "good"}, "quality='good' at depth=2 is a str. Give a plain number"),
        ({"quality": None}, "quality=None at depth=2 is a NoneType"),
        ({"params": -1}, "params=-1 at depth=2 is no cost. Give a finite number of at least 0"),
        ({"latency_ms": math.inf}, "latency_ms=inf at depth=2 is no cost"),
        ({"flops": 1.5}, "flops=1.5 at depth=2 is not whole"),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_refused(values, message):
    with pytest.raises(SettingError, match=message):
        Row(Setting({"depth": 2}), **{"quality": 0.5, "params": 1, **values})


@given(tables())
def test_json_gives_the_same_table_back(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("tables") / "table.json"
    table.to_json(path)
    assert Table.from_json(path) == table


def test_json_keeps_fractions_and_values_that_are_not_finite(tmp_path):
    table = Table([Row(Setting({"width": 0.1 + 0.2}), math.inf, 2**60, recovery=1 / 3)], "perplexity", False)
    table.to_json(tmp_path / "table.json")
    assert Table.from_json(tmp_path / "table.json") == table


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -2])
def test_a_damaged_file_is_refused(tmp_path, cut):
    path = tmp_path / "table.json"
    small().to_json(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"table.json is damaged .*Restore it, or evaluate again"):
        Table.from_json(path)


@pytest.mark.parametrize("change", [{"rows": 3}, {"rows": []}, {"rows": [{"params": 3}]}, {"rows": [{"setting": 1}]}])
def test_a_file_with_other_contents_is_refused(tmp_path, change):
    path = tmp_path / "table.json"
    small().to_json(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match="is damaged"):
        Table.from_json(path)


def test_a_file_of_a_later_format_is_refused(tmp_path):
    (tmp_path / "table.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="has format 99; this version reads format 1"):
        Table.from_json(tmp_path / "table.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.json cannot be read .*Give the file that Table.to_json wrote"):
        Table.from_json(tmp_path / "none.json")


def test_csv_has_a_line_per_sub_model_and_leaves_blank_what_was_not_measured(tmp_path):
    small().to_csv(tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["depth"], line["quality"], line["params"], line["flops"]) for line in lines] == [
        ("2", "0.7", "200", ""),
        ("4", "0.8", "400", ""),
        ("8", "0.9", "800", ""),
    ]


def test_the_text_is_aligned():
    lines = str(small()).splitlines()
    assert lines[0] == "depth  accuracy  params"
    assert len({len(line) for line in lines}) == 1


def test_the_text_of_a_long_table_is_cut_and_says_so():
    lines = str(Table([row(depth, 0.5, depth) for depth in range(1, 161)])).splitlines()
    assert len(lines) == 41
    assert lines[21] == "... 121 more rows ..."


def test_the_representation_says_what_the_table_holds():
    assert repr(small()) == "Table(3 sub-models of depth; accuracy)"


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (999, "params", "999"),
        (999_999, "params", "1 M"),
        (1.24e6, "params", "1.24 M"),
        (7e9, "params", "7 B"),
        (3.4e6, "flops", "3.4 MFLOPs"),
        (2e9, "flops", "2 GFLOPs"),
        (12_300_000, "memory_bytes", "12.3 MB"),
        (0.854, "latency_ms", "0.854 ms"),
        (1200.0, "latency_ms", "1.2 s"),
        (98.26, "recovery", "98.3 %"),
        (0.25, "width", "0.25"),
    ],
)
def test_numbers_are_readable(value, column, text):
    assert readable(value, column) == text


@pytest.mark.parametrize(("quality", "text"), [(0.9134, "0.913"), (91.34, "91.3"), (1.0, "1.000"), (3e7, "3e+07")])
def test_a_quality_is_shown_to_three_digits(quality, text):
    table = Table([row(2, quality, 1)])
    assert table.text(table[0], "quality") == text


def test_a_value_that_was_not_measured_is_a_dash():
    assert small().text(small()[0], "flops") == "-"


def measured(*qualities, margins=None, width=None, **more):
    rows = [row(2**place, one, 100 * (place + 1)) for place, one in enumerate(qualities)]
    if width is not None:
        rows = [replace(one, quality_low=one.quality - width, quality_high=one.quality + width) for one in rows]
    held = None if margins is None else Margins([one.setting for one in rows], margins)
    return Table(rows, margins=held, **more)


def test_the_smallest_within_error_is_not_measurably_worse_than_the_best():
    table = measured(90.0, 98.0, 99.0, margins=[[], [1.0], [1.0, 1.5]])
    assert table.select() == {"depth": 4}
    assert table.select(within_error=True) == {"depth": 2}


def test_within_error_goes_by_the_best_within_the_budgets():
    table = measured(90.0, 92.0, 99.0, margins=[[], [3.0], [3.0, 3.0]])
    assert table.select(within_error=True) == {"depth": 4}
    assert table.select(within_error=True, max_depth=2) == {"depth": 1}


def test_within_error_takes_lower_ones_where_lower_is_better():
    table = measured(0.30, 0.35, 0.29, margins=[[], [0.1], [0.02, 0.02]], metric="loss")
    assert table.select(within_error=True) == {"depth": 1}


def test_without_pairs_the_intervals_of_both_count():
    assert measured(96.0, 98.0, 99.0, width=1.0).select(within_error=True) == {"depth": 2}


def test_within_error_without_any_interval_says_what_to_do():
    with pytest.raises(SettingError, match=r"by how much .* several batches; or leave out within_error"):
        small().select(within_error=True)


@pytest.mark.parametrize("ask", [lambda t: t.select(), lambda t: t.above(0.1), lambda t: t.pareto()])
def test_a_metric_that_nobody_knows_is_asked_for_where_it_matters(ask):
    table = small(metric="points")
    assert table.higher_is_better is None
    with pytest.raises(SettingError, match=r"more points is better. Say so: evaluate\(..., higher_is_better=True\)"):
        ask(table)
    table.higher_is_better = True
    assert ask(table)


@pytest.mark.parametrize(("metric", "better"), [("F1", True), ("val_loss", False), ("points", None)])
def test_the_name_of_the_metric_tells_what_is_better(metric, better, tmp_path):
    table = small(metric=metric)
    table.to_json(tmp_path / "table.json")
    assert table.higher_is_better is better
    assert Table.from_json(tmp_path / "table.json").higher_is_better is better


def test_conditions_notes_and_margins_are_kept_with_the_table(tmp_path):
    table = measured(
        90.0, 98.0, margins=[[], [1.23456789]], conditions={"examples": 540, "processor": "A"}, notes={"flops": "no"}
    )
    table.to_json(tmp_path / "table.json")
    read = Table.from_json(tmp_path / "table.json")
    assert (read, read.conditions, read.notes) == (table, table.conditions, table.notes)
    assert read.differ_by(read[0], read[1]) == table.differ_by(table[0], table[1])
    assert "examples: 540, processor: A\nflops has gaps: no" in str(read)


def test_a_part_of_a_table_keeps_its_conditions_and_margins():
    table = measured(90.0, 98.0, margins=[[], [9.0]], conditions={"examples": 5})
    part = table.with_rows(table[:2])
    assert (part.conditions, part.select(within_error=True)) == ({"examples": 5}, {"depth": 1})


def test_intervals_and_what_is_reported_come_last_in_the_csv(tmp_path):
    Table([row(2, 90.0, 1, quality_low=88.0, quality_high=91.0, reported=89.0)]).to_csv(tmp_path / "a.csv")
    head = (tmp_path / "a.csv").read_text().split("\n")[0].split(",")
    assert head[:3] == ["depth", "quality", "recovery"]
    assert head[-3:] == ["reported", "quality_low", "quality_high"]
    small().to_csv(tmp_path / "b.csv")
    assert "reported" not in (tmp_path / "b.csv").read_text()


def test_intervals_are_printed_beside_the_quality():
    table = measured(98.9, width=0.75)
    assert table.interval(table[0]) == "98.2 to 99.7"
    assert [line.split()[:2] for line in str(table).split("\n")[:1]] == [["depth", "accuracy"]]
    assert "98.2 to 99.7" in str(table)


@pytest.mark.parametrize("bad", [{"margins": {"settings": ["depth=1"], "values": [[1.0]]}}, {"conditions": {"a": []}}])
def test_a_damaged_margin_or_condition_is_named(bad, tmp_path):
    small().to_json(tmp_path / "table.json")
    held = json.loads((tmp_path / "table.json").read_text()) | bad
    held.pop("digest")
    (tmp_path / "table.json").write_text(json.dumps(held))
    with pytest.raises(CheckpointError, match=r"table.json is damaged"):
        Table.from_json(tmp_path / "table.json")


def test_any_condition_can_be_written_and_read(tmp_path):
    given = {"half": True, "note": "two\nlines", "path": tmp_path, "rate": 0.5, "nothing": None, "long": "x" * 5000}
    small(conditions=given, notes={"flops": "two\nlines"}).to_json(tmp_path / "table.json")
    read = Table.from_json(tmp_path / "table.json")
    assert read.conditions | {"long": ""} == {
        "half": "True", "note": "two lines", "path": str(tmp_path), "rate": 0.5, "nothing": "None", "long": "",
    }  # fmt: skip
    assert read.notes == {"flops": "two lines"}
