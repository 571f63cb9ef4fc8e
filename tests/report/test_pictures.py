import math
import sys

import pytest

from sortednet.errors import CheckpointError, ConfigError, DataError
from sortednet.evaluation.table import Row, Table
from sortednet.report.pictures import write_bars, write_heatmaps, write_images, write_lines
from sortednet.space import Setting

pytest.importorskip("matplotlib")

CURVES = {"split among 4": [(1, 60.5), (2, 71.0)], "one setting": [(1, 52.0), (2, math.nan), (3, 63.5)]}
GROUPS = {"SST-2": {"sorted": 91.2, "alone": 90.8}, "MRPC": {"sorted": -3.0, "full": math.nan}}


PANELS = {"crosses": [[[1, 0], [0, 1]]] * 4, "lines": [[[1, 1], [0, 0]]] * 3}


def table_of(depths, widths, keep=lambda depth, width: True, **more):
    return Table(
        [Row(Setting({"depth": d, "width": w}), 60 + d + w, d * w) for d in depths for w in widths if keep(d, w)],
        **more,
    )


def size_of(path):
    """Read the width and height in pixels, and hold that it is a PNG."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def heatmaps(tmp_path, panels, x="width", y="depth", title="Digits"):
    write_heatmaps(tmp_path / "a.png", panels, x=x, y=y, title=title)
    return size_of(tmp_path / "a.png")


def lines(tmp_path, curves, title="Digits", **more):
    write_lines(tmp_path / "a.png", curves, x="epoch", y="accuracy (%)", title=title, **more)
    return size_of(tmp_path / "a.png")


def bars(tmp_path, groups, title="MiniLM", **more):
    write_bars(tmp_path / "a.png", groups, y="accuracy (%)", title=title, **more)
    return size_of(tmp_path / "a.png")


def test_every_cell_of_160_has_room_for_its_number(tmp_path):
    width, height = heatmaps(tmp_path, {"all": table_of(range(1, 11), range(1, 17))})
    assert width / 16 > 70
    assert height / 10 > 60


def test_every_panel_has_room(tmp_path):
    table = table_of([1, 2], range(1, 17))
    one, two = heatmaps(tmp_path, {"a": table}), heatmaps(tmp_path, {"a": table, "b": table})
    assert two[0] > 1.6 * one[0]
    assert two[1] == one[1]


def test_panels_may_lack_settings_of_each_other(tmp_path):
    heatmaps(tmp_path, {"a": table_of([1, 2], [0.5, 1.0], lambda d, w: d == w), "b": table_of([3], [2])})


@pytest.mark.parametrize("qualities", [(math.nan, 0.5), (math.nan, math.nan), (math.inf, 3.0), (0.0, 0.0)])
def test_qualities_that_are_not_finite_or_all_equal_can_be_drawn(tmp_path, qualities):
    rows = [Row(Setting({"depth": place, "width": 1}), quality, 5) for place, quality in enumerate(qualities)]
    heatmaps(tmp_path, {"a": Table(rows, "loss", higher_is_better=False)})


def test_a_dimension_of_one_value_may_be_left_out(tmp_path):
    heatmaps(tmp_path, {"a": Table([Row(Setting({"depth": d, "width": 1, "heads": 2}), d, d) for d in (1, 2)])})


def test_no_panels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"There is no table to draw. Give at least one panel"):
        heatmaps(tmp_path, {})


@pytest.mark.parametrize(("x", "y"), [("rank", "depth"), ("depth", "rank"), ("depth", "depth")])
def test_what_are_no_two_dimensions_are_refused(tmp_path, x, y):
    message = rf"x='{x}' and y='{y}' are no two dimensions of the table 'a'. Choose two of \['depth', 'width'\]"
    with pytest.raises(ConfigError, match=message):
        heatmaps(tmp_path, {"a": table_of([1], [2])}, x, y)


def test_two_rows_of_one_cell_are_refused(tmp_path):
    table = Table([Row(Setting({"depth": 1, "width": 2, "heads": h}), h, h) for h in (1, 2)])
    with pytest.raises(
        DataError, match=r"heads=1 and .*heads=2 of the table 'a' fall into one cell at width=2, depth=1. Give"
    ):
        heatmaps(tmp_path, {"a": table})


@pytest.mark.parametrize("more", [{"metric": "loss"}, {"higher_is_better": False}])
def test_several_metrics_are_refused(tmp_path, more):
    with pytest.raises(
        DataError, match=r"The tables are of accuracy \(higher is better\), .*One colour scale needs one"
    ):
        heatmaps(tmp_path, {"a": table_of([1], [2]), "b": table_of([1], [2], **more)})


def test_a_picture_that_is_too_large_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"would be [\d,]+ x [\d,]+ pixels; 32,000 are allowed. Draw less in one pict"):
        heatmaps(tmp_path, {"a": table_of([1], range(1, 500))})


@pytest.mark.parametrize("more", [{}, {"log": True}, {"errors": {"split among 4": [0, 1.5]}}])
def test_lines_are_drawn(tmp_path, more):
    width, height = lines(tmp_path, CURVES, **more)
    assert 1200 < width < 2400
    assert 800 <= height < 1200


def test_many_curves_make_the_picture_higher(tmp_path):
    assert lines(tmp_path, {str(place): [(1, place)] for place in range(40)})[1] > 1600


def test_long_names_make_the_picture_wider(tmp_path):
    assert lines(tmp_path, {"a" * 60: [(1, 2)]})[0] > lines(tmp_path, {"a": [(1, 2)]})[0] + 600


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [(1, math.nan)]}])
def test_no_point_is_refused(tmp_path, curves):
    with pytest.raises(DataError, match=r"There is no finite point to draw in the curves \[.*\]. Give at least one"):
        lines(tmp_path, curves)


def test_an_x_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"The curve 'a' has a point at x=inf, y=2. Give every point a finite x"):
        lines(tmp_path, {"a": [(math.inf, 2)]})


def test_a_logarithmic_axis_refuses_zero(tmp_path):
    with pytest.raises(ConfigError, match=r"'a' has a point at x=0, which a logarithmic axis cannot .* log=False"):
        lines(tmp_path, {"a": [(0, 2)]}, log=True)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"b": [1]}, r"There are errors of 'b', which is no curve. Choose from \['a'\]"),
        ({"a": [1, 2]}, r"The curve 'a' has 1 points, but 2 errors. Give one for each"),
        ({"a": [-1]}, r"An error of the curve 'a' is -1. Give a finite number of at least 0"),
        ({"a": [math.nan]}, r"An error of the curve 'a' is nan. Give a finite number of at least 0"),
    ],
)
def test_errors_that_do_not_fit_the_curves_are_refused(tmp_path, errors, message):
    with pytest.raises(DataError, match=message):
        lines(tmp_path, {"a": [(1, 2)]}, errors=errors)


def test_bars_are_drawn_where_values_lack_or_are_not_finite(tmp_path):
    width, height = bars(tmp_path, GROUPS, errors={"SST-2": {"sorted": 1.5}, "MRPC": {"full": 1.0}})
    assert 800 < width < 1600
    assert 800 <= height < 1200


def test_many_bars_stay_in_a_picture_that_can_be_read(tmp_path):
    groups = {f"group {i}": {f"series {j}": 1234.5 * (j + 1) for j in range(8)} for i in range(8)}
    assert bars(tmp_path, groups)[0] < 4000


@pytest.mark.parametrize("groups", [{}, {"a": {}}])
def test_no_bar_is_refused(tmp_path, groups):
    with pytest.raises(DataError, match=r"There is no bar to draw in the groups \[.*\]. Give at least one value"):
        bars(tmp_path, groups)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"b": {"x": 1}}, r"There is an error of 'x' in 'b', which is no bar. Leave it out, or give its value"),
        ({"a": {"y": 1}}, r"There is an error of 'y' in 'a', which is no bar"),
        ({"a": {"x": math.inf}}, r"An error of 'x' in 'a' is inf. Give a finite number of at least 0"),
    ],
)
def test_errors_that_do_not_fit_the_bars_are_refused(tmp_path, errors, message):
    with pytest.raises(DataError, match=message):
        bars(tmp_path, {"a": {"x": 1.0}}, errors=errors)


def images(tmp_path, panels, columns=2, title="Digits"):
    write_images(tmp_path / "a.png", panels, columns=columns, title=title)
    return size_of(tmp_path / "a.png")


def test_a_panel_of_images_makes_the_picture_wider(tmp_path):
    assert images(tmp_path, PANELS)[0] > images(tmp_path, {"one": PANELS["lines"]})[0]


def test_a_row_of_images_makes_the_picture_higher(tmp_path):
    assert images(tmp_path, PANELS, columns=1)[1] > images(tmp_path, PANELS, columns=2)[1]


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, r"The images have the sizes \[\]\. Give every panel images"),
        ({"a": PANELS["lines"], "b": []}, r"The images have the sizes \[\(2, 2, 2\)\]\. Give every panel images"),
        ({"a": [[[1, 0], [1]]]}, r"The images have the sizes \[\(2, 2, 1\)\]"),
        ({"a": [[[1, 0]], [[1]]]}, r"The images have the sizes \[\(1, 1\), \(1, 2\)\]\. .* all of one size"),
    ],
)
def test_images_of_no_or_several_sizes_are_refused(tmp_path, panels, message):
    with pytest.raises(DataError, match=message):
        images(tmp_path, panels)


def test_a_grid_without_columns_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"columns=0 is below 1"):
        images(tmp_path, PANELS, columns=0)


ODD = "_costs $5 and $6_{"


@pytest.mark.parametrize(
    ("write", "content"),
    [
        (heatmaps, {ODD: table_of([1], [2], metric=ODD)}),
        (lines, {ODD: [(1, 2.0)]}),
        (bars, {ODD: {ODD: 1.0}}),
        (images, {ODD: PANELS["lines"]}),
    ],
)
def test_names_are_never_taken_for_mathematics(tmp_path, write, content):
    write(tmp_path, content, title=ODD)


EACH = [(heatmaps, {"a": table_of([1], [2])}), (lines, CURVES), (bars, GROUPS), (images, PANELS)]


@pytest.mark.parametrize(("write", "content"), EACH)
def test_pictures_leave_pyplot_alone(tmp_path, monkeypatch, write, content):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write(tmp_path, content)


@pytest.mark.parametrize(("write", "content"), EACH)
def test_a_missing_matplotlib_names_the_extra(tmp_path, monkeypatch, write, content):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'needs matplotlib, .*pip install "sortednet\[report\]"'):
        write(tmp_path, content)


@pytest.mark.parametrize(("write", "content"), EACH)
def test_a_file_that_cannot_be_written_is_refused(tmp_path, write, content):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(CheckpointError, match=r"a.png could not be written"):
        write(tmp_path, content)
