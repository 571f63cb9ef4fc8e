import html
import itertools
import json
import math
import re
import sys
from html.parser import HTMLParser

import pytest

from sortednet.errors import CheckpointError, SettingError
from sortednet.evaluation.similarity import Similarity
from sortednet.evaluation.table import Row, Table
from sortednet.report import plotly_figures as figures
from sortednet.report.report import write_picture, write_report
from sortednet.space import Setting

pytest.importorskip("plotly")
pytest.importorskip("matplotlib")

SPACES = {
    "one": {"rank": [1, 2, 4, 8]},
    "two": {"depth": [1, 2, 3], "width": [0.5, 1.0]},
    "three": {"depth": [1, 2], "width": [16, 32, 64], "heads": [2, 4]},
    "wide": {"depth": [1, 2], "width": list(range(1, 41))},
}
VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}


def table_of(supports, keep=lambda place: True, **more):
    settings = [Setting(dict(zip(supports, values, strict=True))) for values in itertools.product(*supports.values())]
    return Table(
        [
            Row(
                one, 0.5 + place / 200, 1000 * (place + 1), 3000 * (place + 1), 0.1 * (place + 1), recovery=50.0 + place
            )
            for place, one in enumerate(settings)
            if keep(place)
        ],
        **more,
    )


class Page(HTMLParser):
    """What a browser would see: the text, every address, the figures, and whether each tag is closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.addresses, self.figures, self.text, self.scripts = [], [], {}, "", 0
        self._data = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.addresses += [
            value for name, value in named.items() if name in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)
        self._data = named.get("id") if named.get("type") == "application/json" else None
        self.scripts += tag == "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self._data:
            self.figures[self._data.removesuffix("-data")] = json.loads(data)
        elif self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def page_of(tmp_path, table, **more):
    write_report(tmp_path / "report.html", table, **more)
    return Page(tmp_path / "report.html")


def curves_of(table):
    return {str(row.setting): [(step, 2.0 / (step + 1)) for step in range(0, 40, 3)] for row in table}


@pytest.mark.parametrize("space", SPACES)
def test_the_page_shows_every_setting_and_closes_every_tag(tmp_path, space):
    table = table_of(SPACES[space])
    page = page_of(tmp_path, table, curves=curves_of(table), chosen={"small": table.select(max_params=2000)})
    assert not page.open
    assert all(str(row.setting) in page.text for row in table)


@pytest.mark.parametrize("space", SPACES)
def test_the_page_loads_nothing(tmp_path, space):
    table = table_of(SPACES[space])
    page = page_of(tmp_path, table, curves=curves_of(table))
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.addresses == []
    assert re.search(r"default-src 'none'", source)
    assert "@import" not in source[: source.index("</style>")]


def test_the_page_holds_plotly_once(tmp_path):
    source = page_of(tmp_path, table_of(SPACES["two"])) and (tmp_path / "report.html").read_text(encoding="utf-8")
    assert source.count(figures.plotly_source()) == 1


def test_an_explicit_list_leaves_missing_cells_blank(tmp_path):
    table = table_of(SPACES["two"], keep=lambda place: place != 1)
    heat = page_of(tmp_path, table).figures["grid"]["data"][0]
    assert [value for line in heat["z"] for value in line].count(None) == 1


@pytest.mark.parametrize("space", ["two", "three", "wide"])
def test_each_sub_model_has_one_cell_of_the_grid(tmp_path, space):
    table = table_of(SPACES[space])
    maps = [trace for trace in page_of(tmp_path, table).figures["grid"]["data"] if trace["type"] == "heatmap"]
    values = [value for trace in maps for line in trace["z"] for value in line if value is not None]
    assert sorted(values) == sorted(row.quality for row in table)


def test_a_third_dimension_is_chosen_from_a_list(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["three"]))
    assert list(page.figures["grid"]["layout"]["meta"]["options"]) == ["heads=4", "heads=2"]


def test_only_the_first_choice_is_visible_at_first(tmp_path):
    grid = page_of(tmp_path, table_of(SPACES["three"])).figures["grid"]
    first = next(iter(grid["layout"]["meta"]["options"]))
    assert all(trace["visible"] == (trace["meta"] == first) for trace in grid["data"])


def test_costs_that_were_not_measured_are_not_offered(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["two"]))
    assert list(page.figures["cost"]["layout"]["meta"]["options"]) == ["params", "flops", "latency_ms"]


def test_the_front_is_the_tables(tmp_path):
    table = table_of(SPACES["two"])
    front = page_of(tmp_path, table).figures["cost"]["data"][1]
    assert front["x"] == [row.params for row in table.pareto()]


def test_chosen_sub_models_bear_their_label_in_the_figure_and_the_table(tmp_path):
    table = table_of(SPACES["two"])
    page = page_of(tmp_path, table, chosen={"phone": table[1].setting, "watch": table[1].setting})
    notes = page.figures["cost"]["layout"]["meta"]["options"]["params"]["layout"]["annotations"]
    assert [note["text"] for note in notes] == ["<b>phone, watch</b>"]
    assert "phone" in page.text


def test_a_chosen_setting_outside_the_table_is_refused(tmp_path):
    with pytest.raises(SettingError, match="rank=3 is none of the 4 settings"):
        page_of(tmp_path, table_of(SPACES["one"]), chosen={"phone": Setting({"rank": 3})})


def test_every_curve_is_drawn_with_its_name(tmp_path):
    table = table_of({"depth": range(1, 17), "width": range(1, 11)})
    page = page_of(tmp_path, table, curves=curves_of(table))
    names = {trace.get("name") for trace in page.figures["curves"]["data"]}
    assert names >= {str(row.setting) for row in table}


def test_long_curves_are_thinned(tmp_path):
    table = table_of(SPACES["one"])
    page = page_of(tmp_path, table, curves={"rank=1": [(step, 1.0) for step in range(10_000)]})
    assert len(page.figures["curves"]["data"][0]["x"]) <= 200


def test_curves_may_be_short_empty_or_of_no_row(tmp_path):
    curves = {"rank=1": [], "rank=2": [(0, 1.0)], "rank=77": [(0, math.nan), (1, 2.0)]}
    page = page_of(tmp_path, table_of(SPACES["one"]), curves=curves)
    assert [trace.get("name") for trace in page.figures["curves"]["data"]][:2] == ["rank=2", "rank=77"]


def test_key_facts_come_first(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["two"]), title="A title", facts={"Commit": "abc123"})
    start = page.text[: page.text.index("Every point")]
    assert all(fact in start for fact in ("A title", "Full model: accuracy", "0.525", "Smallest", "abc123", "52.5 %"))


def test_a_table_without_the_full_model_says_largest(tmp_path):
    table = Table([Row(Setting({"a": 1, "b": 2}), 0.5, 10), Row(Setting({"a": 2, "b": 1}), 0.6, 20)])
    page = page_of(tmp_path, table)
    assert "Largest: accuracy" in page.text
    assert "Full model" not in page.text


def test_text_from_outside_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script>"
    table = Table([Row(Setting({"depth": 1}), 0.5, 10), Row(Setting({"depth": 2}), 0.6, 20)], metric=evil)
    harmless = page_of(tmp_path, table_of(SPACES["one"])).scripts
    chosen = {evil: table[0].setting}
    page = page_of(tmp_path, table, title=evil, facts={evil: evil}, chosen=chosen, curves={evil: [(0, 1.0)]})
    # The curves bring one more script element, which holds their data.
    assert page.scripts == harmless + 1
    assert html.unescape(evil) in page.text


def similarity_of(measure="kl", values=((0.01, 4.0), (0.5, math.nan)), dimension="depth", **more):
    settings = tuple(f"{dimension}={place + 1}" for place in range(len(values)))
    return Similarity(measure, settings, tuple(range(len(values[0]))), values, (3,) * len(values[0]), **more)


def test_similarity_files_beside_the_page_become_heat_maps(tmp_path):
    similarity_of(name="SFT", reference="the sorted full model").to_json(tmp_path / "similarity-sft.json")
    similarity_of("cosine").to_json(tmp_path / "similarity-cosine.json")
    page = page_of(tmp_path, table_of(SPACES["one"]))
    assert [name for name in page.figures if name.startswith("similarity")] == ["similarity-0", "similarity-1"]
    assert "cosine similarity: sub-models against the full model" in page.text
    assert "KL divergence (nats): SFT against the sorted full model" in page.text


def test_similarities_given_take_the_place_of_the_files(tmp_path):
    (tmp_path / "similarity.json").write_text("{")
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=[])
    assert list(page.figures) == ["grid", "cost"]


def test_a_damaged_similarity_file_is_named(tmp_path):
    (tmp_path / "similarity.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"similarity.json is damaged"):
        page_of(tmp_path, table_of(SPACES["one"]))


def test_a_heat_map_has_a_line_for_each_sub_model_and_tells_the_value(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=[similarity_of()])
    heat = page.figures["similarity-0"]["data"][0]
    assert heat["y"] == ["1", "2"]
    assert page.figures["similarity-0"]["layout"]["yaxis"]["title"]["text"] == "depth"
    assert "depth=1</b><br>output position 1<br>KL divergence (nats): 4<br>examples: 3" in heat["hovertext"][0][1]


def test_what_has_no_value_is_left_blank(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=[similarity_of()])
    assert page.figures["similarity-0"]["data"][0]["z"][1][1] is None


@pytest.mark.parametrize(("measure", "reversed_scale"), [("kl", True), ("cosine", False)])
def test_closer_is_lighter_for_both_measures(measure, reversed_scale):
    assert figures.similarity_figure(similarity_of(measure, ((0.2, 0.4),))).data[0].reversescale == reversed_scale


def test_divergences_of_very_different_sizes_are_coloured_by_their_logarithm():
    heat = figures.similarity_figure(similarity_of(values=((0.0, 0.01), (1.0, 100.0)))).data[0]
    assert [list(line) for line in heat.z] == [[-1.0, -1.0], [0.0, 2.0]]
    assert (heat.zmin, heat.zmax, heat.colorbar.title.text) == (-1.0, 2.0, "nats, log scale")
    assert [list(line) for line in heat.text] == [["0", "0.01"], ["1", "100"]]


def test_divergences_of_like_size_are_coloured_by_themselves():
    heat = figures.similarity_figure(similarity_of(values=((1.0, 2.0),))).data[0]
    assert [list(line) for line in heat.z] == [[1.0, 2.0]]
    assert (heat.zmin, heat.zmax, heat.colorbar.title.text) == (0.0, 2.0, "nats")


@pytest.mark.parametrize("values", [((0.0, 0.0),), ((math.nan, math.inf),), ((0.5,),), ((0.5,) * 300,)])
def test_any_size_and_any_values_can_be_shown(tmp_path, values):
    pair = [similarity_of(measure, values, dimension="depth=1,width") for measure in ("kl", "cosine")]
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=pair)
    assert page.figures["similarity-1"]["data"][0]["y"] == ["depth=1,width=1"]


def test_names_of_a_similarity_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script>"
    harmless = page_of(tmp_path, table_of(SPACES["one"]), similarities=[similarity_of()]).scripts
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=[similarity_of(name=evil, reference=evil)])
    assert page.scripts == harmless


@pytest.mark.parametrize("qualities", [(math.nan, 0.5), (math.nan, math.nan), (math.inf, 3.0), (0.0, 0.0)])
def test_qualities_that_are_not_finite_or_all_equal_can_be_shown(tmp_path, qualities):
    rows = [Row(Setting({"a": place, "b": 1}), quality, 5) for place, quality in enumerate(qualities)]
    table = Table(rows, higher_is_better=False)
    write_picture(tmp_path / "table.png", table)
    assert "a=0,b=1" in page_of(tmp_path, table).text


def test_costs_of_zero_are_drawn_on_a_linear_axis(tmp_path):
    table = Table([Row(Setting({"a": 1}), 0.5, 0), Row(Setting({"a": 2}), 0.6, 20)])
    write_picture(tmp_path / "table.png", table)
    options = page_of(tmp_path, table).figures["cost"]["layout"]["meta"]["options"]
    assert options["params"]["layout"]["xaxis.type"] == "linear"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1e3, 1e7], [1e3, 1e4, 1e5, 1e6, 1e7]), ([150, 900], [150, 200, 300, 400, 600, 800]), ([7, 7], [7])],
)
def test_ticks_of_a_logarithmic_axis_are_round(values, expected):
    assert [round(tick) for tick in figures.ticks_of(values)] == expected


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("title", [None, "Costs $5 and $6"])
def test_the_picture_is_a_png_2000_pixels_wide(tmp_path, space, title):
    write_picture(tmp_path / "table.png", table_of(SPACES[space]), title=title)
    data = (tmp_path / "table.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 2000


def test_the_picture_leaves_pyplot_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_picture(tmp_path / "table.png", table_of(SPACES["two"]))


@pytest.mark.parametrize(
    ("write", "module", "package"),
    [(write_report, "plotly.graph_objects", "plotly"), (write_picture, "matplotlib.figure", "matplotlib")],
)
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, write, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs {package}, .*pip install "sortednet\[report\]"'):
        write(tmp_path / "out", table_of(SPACES["two"]))
