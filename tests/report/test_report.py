import html
import itertools
import json
import math
import re
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from sortednet.errors import CheckpointError, SettingError
from sortednet.evaluation.similarity import Similarity
from sortednet.evaluation.table import Row, Table
from sortednet.report import figures
from sortednet.report.curves import curves_figure
from sortednet.report.report import write_picture, write_report
from sortednet.report.style import ACCENT, INK, LINE, MUTED, start, ticks_of
from sortednet.space import Setting

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
        self.open, self.addresses, self.text, self.scripts, self.ids = [], [], "", 0, []
        self.figures, self.options, self.hidden, self.drawn, self.marks = {}, {}, {}, {}, {}
        self._figure, self._data, self._slim, self.rows, self.named, self.links = None, False, False, [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.addresses += [
            value
            for name, value in named.items()
            if name.removeprefix("xlink:") in ("src", "href", "srcset", "data", "action")
        ]
        self.ids += [named["id"]] if "id" in named else []
        self.rows += [named["data-setting"]] if "data-setting" in named else []
        self.links += [named] if "download" in named else []
        if tag == "div":
            self._slim = named.get("class") == "slim"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figure":
            self._figure = named["id"]
            self.options[self._figure], self.hidden[self._figure] = [], []
            self.drawn[self._figure], self.marks[self._figure] = [], []
        if tag == "div" and "min-width" in named.get("style", ""):
            self.hidden[self._figure].append("hidden" in named)
            self.drawn[self._figure].append([])
            self.marks[self._figure].append([])
        if tag == "use" and not self._slim:
            self.marks[self._figure][-1].append((float(named["x"]), float(named["y"])))
        self._data = named.get("type") == "application/json"
        self.scripts += tag == "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "figure":
            self._figure = None

    def handle_data(self, data):
        if self._data:
            self.figures[self._figure] = json.loads(data)
        elif self.open and self.open[-1] not in ("script", "style"):
            self.text += data
            if self.open[-1] == "option":
                self.options[self._figure].append(data)
            if self.open[-1] == "text" and not self._slim:
                self.drawn[self._figure][-1].append(data)

    def told(self, figure, choice=0):
        """Return the texts of each mark of a picture."""
        data = self.figures[figure]
        return [data["texts"][mark["texts"]] for mark in data["marks"][choice]]


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
    assert [str(row.setting) for row in table] == page.rows[1:]  # after the chosen one


@pytest.mark.parametrize("space", SPACES)
def test_the_page_loads_nothing(tmp_path, space):
    table = table_of(SPACES[space])
    page = page_of(tmp_path, table, curves=curves_of(table))
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(address.startswith(("#", "data:image/png;base64,", "data:text/csv;")) for address in page.addresses)
    assert not re.search(r"url\((?!#)", source)
    assert re.search(r"default-src 'none'", source)
    assert "@import" not in source[: source.index("</style>")]


@pytest.mark.parametrize("space", SPACES)
def test_what_a_page_asks_for_by_its_id_is_there_once(tmp_path, space):
    page = page_of(tmp_path, table_of(SPACES[space]), curves=curves_of(table_of(SPACES[space])))
    assert len(page.ids) == len({*page.ids})
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    asked = {one.removeprefix("#") for one in page.addresses if one[0] == "#"} | set(
        re.findall(r"url\(#(.*?)\)", source)
    )
    lines = {
        mark["line"] for data in page.figures.values() for marks in data["marks"] for mark in marks if "line" in mark
    }
    assert asked | lines <= {*page.ids}
    assert len({one for one in lines if "slim" not in one}) == len(table_of(SPACES[space]))


@pytest.mark.parametrize(
    "supports",
    [
        {"depth": range(1, 17), "width": range(1, 11)},
        {"depth": range(1, 6), "width": range(1, 9), "heads": [1, 2, 4, 8]},
        {f"d{place}": [1, 2] for place in range(7)},
    ],
)
def test_a_page_of_160_sub_models_is_below_a_million_bytes(tmp_path, supports):
    table = table_of(supports)
    settings = [str(row.setting) for row in table][:40]
    values = tuple(tuple(place / (column + 1) for column in range(64)) for place in range(len(settings)))
    near = Similarity("kl", tuple(settings), tuple(range(64)), values, (9,) * 64)
    curves = {
        str(row.setting): [(step, 3 + math.sin(step * place) / (1 + step)) for step in range(5000)]
        for place, row in enumerate(table)
    }
    page_of(tmp_path, table, curves=curves, similarities=[near, near])
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_an_explicit_list_leaves_missing_cells_blank(tmp_path):
    table = table_of(SPACES["two"], keep=lambda place: place != 1)
    page = page_of(tmp_path, table)
    (cells,) = page.told("grid")
    assert [not text for text in cells].count(True) == 1
    assert table.text(table[0], "quality") in page.drawn["grid"][0]


@pytest.mark.parametrize("space", ["two", "three", "wide"])
def test_each_sub_model_has_one_cell_of_the_grid(tmp_path, space):
    table = table_of(SPACES[space])
    page = page_of(tmp_path, table)
    pictures = range(len(page.hidden["grid"]))
    told = [text for place in pictures for cells in page.told("grid", place) for text in cells if text]
    expected = [f"{row.setting}\naccuracy: {table.text(row, 'quality')}\n" for row in table]
    assert all(sum(text.startswith(one) for text in told) == 1 for one in expected)
    assert len(told) == len(table)


def test_a_cell_tells_where_its_number_stands(tmp_path):
    table = table_of(SPACES["two"])
    picture = start(6, 4)
    axes = picture.subplots()
    figures.draw_grid(axes, table, "", written=True)
    page = page_of(tmp_path, table)
    cells = page.figures["grid"]["marks"][0][0]
    assert (len(cells["x"]), len(cells["y"])) == (3, 2)  # the depth goes across, which has more values
    steps = {round(b - a, 0) for a, b in itertools.pairwise(cells["x"])}
    assert steps == {round(2 * cells["reach"][0], 0)}
    (told,) = page.told("grid")
    # From above: the picture's first line of numbers is the last line of cells.
    assert cells["y"] == sorted(cells["y"], reverse=True)
    for place, text in enumerate(told):
        setting = Setting.parse(text.split("\n")[0])
        assert axes.texts[place].get_text() == table.text(table.row(setting), "quality")


def test_a_third_dimension_is_chosen_from_a_list(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["three"]))
    assert page.options["grid"] == ["heads=4", "heads=2"]


def test_only_the_first_choice_is_visible_at_first(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["three"]))
    assert page.hidden["grid"] == [False, True]
    assert page.hidden["cost"] == [False, True, True]


def test_costs_that_were_not_measured_are_not_offered(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["two"]))
    assert page.options["cost"] == ["Parameters", "FLOPs", "Latency"]


def lines_of(table, cost="params", marked=()):
    axes = start(6, 4).subplots()
    figures.draw_cost(axes, table, cost, dict(marked))
    return axes


def test_the_front_is_the_tables():
    table = table_of(SPACES["two"])
    assert list(lines_of(table).lines[1].get_xdata()) == [row.params for row in table.pareto()]


@pytest.mark.parametrize("space", SPACES)
def test_a_point_is_told_where_it_is_drawn(tmp_path, space):
    table = table_of(SPACES[space])
    page = page_of(tmp_path, table)
    for choice in range(len(page.options["cost"])):
        (told,) = page.figures["cost"]["marks"][choice]
        at = list(zip(told["at"][::2], told["at"][1::2], strict=True))
        assert len(at) == len(table)
        for x, y in at:
            assert any(abs(x - a) < 0.1 and abs(y - b) < 0.1 for a, b in page.marks["cost"][choice])


def test_chosen_sub_models_bear_their_label_in_the_figure_and_the_table(tmp_path):
    table = table_of(SPACES["two"])
    page = page_of(tmp_path, table, chosen={"phone": table[1].setting, "watch": table[1].setting})
    assert all(texts.count("phone, watch") == 1 for texts in page.drawn["cost"])
    assert sum(text.startswith(f"phone, watch\n{table[1].setting}\n") for text in page.told("cost")[0]) == 1


def test_a_chosen_setting_outside_the_table_is_refused(tmp_path):
    with pytest.raises(SettingError, match="rank=3 is none of the 4 settings"):
        page_of(tmp_path, table_of(SPACES["one"]), chosen={"phone": Setting({"rank": 3})})


def test_every_curve_is_drawn_with_its_name(tmp_path):
    table = table_of({"depth": range(1, 17), "width": range(1, 11)})
    page = page_of(tmp_path, table, curves=curves_of(table))
    names = {texts[0].split("\n")[0] for texts in page.told("curves")}
    assert names == {str(row.setting) for row in table}


def test_a_chosen_curve_bears_its_label(tmp_path):
    table = table_of(SPACES["one"])
    page = page_of(tmp_path, table, curves=curves_of(table), chosen={"phone": table[1].setting})
    assert page.told("curves")[3] == [f"phone: {table[1].setting}\n{table.text(table[1], 'params')} parameters"]


def test_long_curves_are_thinned(tmp_path):
    drawn = curves_figure(table_of(SPACES["one"]), {"rank=1": [(step, 1.0) for step in range(10_000)]}, {})
    assert len(drawn.choices[0].tips[0].artist.get_xdata()) <= 200


def test_curves_may_be_short_empty_or_of_no_row(tmp_path):
    curves = {"rank=1": [], "rank=2": [(0, 1.0)], "rank=77": [(0, math.nan), (1, 2.0)], "rank=8": [(0, math.nan)]}
    page = page_of(tmp_path, table_of(SPACES["one"]), curves=curves)
    assert [texts[0].split("\n") for texts in page.told("curves")] == [
        ["rank=77", "not in the table"],
        ["rank=2", "2 k parameters"],
    ]


@pytest.mark.parametrize("most", [2.0, 2e4])
def test_the_place_of_a_curve_tells_its_values(tmp_path, most):
    page = page_of(tmp_path, table_of(SPACES["one"]), curves={"rank=1": [(0, 1.0), (4, most)]})
    across, up = page.figures["curves"]["marks"][0][0]["readings"]
    path = re.search(r'id="curves-0-0"><path d="M (\S+) (\S+) L (\S+) (\S+)"', (tmp_path / "report.html").read_text())
    numbers = [float(one) for one in path.groups()]

    def value(reading, place):
        share = (place - reading["from"]) / (reading["to"] - reading["from"])
        found = reading["low"] + share * (reading["high"] - reading["low"])
        return 10**found if reading["log"] else found

    assert (across["name"], up["name"], up["log"]) == ("update", "loss", most > 20)
    assert [value(across, one) for one in numbers[::2]] == pytest.approx([0, 4], abs=1e-3)
    assert [value(up, one) for one in numbers[1::2]] == pytest.approx([1, most], rel=1e-3)


def sure(*qualities, **more):
    """Return a table of intervals of one point to both sides."""
    rows = [
        Row(Setting({"depth": place + 1}), one, 1000 * (place + 1), quality_low=one - 1, quality_high=one + 1)
        for place, one in enumerate(qualities)
    ]
    return Table(rows, **{"conditions": {"examples": 540}, **more})


@pytest.mark.parametrize(
    ("table", "marked", "said"),
    [
        (
            sure(90.0, 98.2, 99.0), {},
            "Take depth=2: accuracy 98.2 (97.2 to 99.2, 19 times of 20), for 2 k parameters (66.7 % of the full "
            "model's); it is not measurably worse than the best, 99.0 at depth=3.",
        ),
        (
            sure(90.0, 98.2, 99.0), {"a": "depth=1"},
            "Take depth=1, which was chosen as a: accuracy 90.0 (89.0 to 91.0, 19 times of 20), for 1 k parameters "
            "(33.3 % of the full model's); it is measurably worse than the best, 99.0 at depth=3.",
        ),
        (sure(0.9, 0.2, 0.3, metric="loss"), {"a": "depth=2"}, "; it is the best of all."),
        (
            table_of(SPACES["one"]), {},
            "Take rank=8: accuracy 0.515, for 4 k parameters and 0.4 ms a forward; it is the best of all.",
        ),
        (sure(1.0, 2.0, metric="points"), {}, "Nothing says whether more points is better, so nothing is"),
        (sure(math.nan, math.nan), {}, "The accuracy of no sub-model is a number"),
    ],
)  # fmt: skip
def test_the_first_sentence_says_what_to_take_what_it_costs_and_how_sure_it_is(tmp_path, table, marked, said):
    page = page_of(tmp_path, table, chosen={label: table.row(one).setting for label, one in marked.items()})
    assert said in page.text
    assert page.text.index(said) < page.text.index("Sub-models")


def test_it_is_said_on_how_much_was_measured(tmp_path):
    page = page_of(tmp_path, sure(90.0, 99.0))
    assert "Measured on 540 examples. What is chosen by them looks a little better on them than it is" in page.text
    rows = [Row(Setting({"depth": 1}), 90.0, 10, reported=88.0, reported_low=85.0, reported_high=90.5)]
    page = page_of(tmp_path, Table(rows, conditions={"examples": 540, "reported examples": 300}))
    assert "On 300 others, which nothing was chosen by: 88.0 (85.0 to 90.5)." in page.text


def test_conditions_and_reasons_for_gaps_are_on_the_page(tmp_path):
    conditions = {"examples": 540, "processor": "A <fast> one", "threads": 2, "seed": 7}
    page = page_of(tmp_path, sure(90.0, 99.0, conditions=conditions, notes={"flops": "it asks <values>"}))
    end = page.text[page.text.index("How it was measured") :]
    assert all(
        one in end for one in ("Examples", "540", "A <fast> one", "Threads", "2", "Seed", "7", "it asks <values>")
    )


def test_every_row_has_a_command_and_each_dimension_is_sorted_by(tmp_path):
    table = table_of(SPACES["three"])
    page = page_of(tmp_path, table, command="sortednet extract 'my run' {setting}")
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.rows == [str(row.setting) for row in table]
    assert source.count('class="take"') == len(table)
    assert html.escape("sortednet extract 'my run' {setting}") in source
    heads = re.findall(r"<th(?: class=[a-z]+)?><button[^>]*>(.*?)</button>", source)
    assert heads[:3] == ["depth", "width", "heads"]


def test_the_page_holds_the_table_as_a_file(tmp_path):
    table = table_of(SPACES["three"])
    (link,) = page_of(tmp_path, table).links
    table.to_csv(tmp_path / "table.csv")
    kind, _, held = link["href"].partition(",")
    assert (link["download"], kind) == ("table.csv", "data:text/csv;charset=utf-8")
    assert unquote(held).encode() == (tmp_path / "table.csv").read_bytes()


def test_curves_beyond_the_chosen_and_the_extremes_are_shown_on_demand(tmp_path):
    table = table_of({"depth": range(1, 17), "width": range(1, 11)})
    page_of(tmp_path, table, curves=curves_of(table), chosen={"phone": table[3].setting})
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert source.count('class="rest"') == 157
    assert "Show the other 157" in source
    drawn = curves_figure(table, curves_of(table), {"phone": table[3]})
    assert [name for _, name in drawn.legend] == [
        f"phone: {table[3].setting}",
        f"smallest: {table[0].setting}",
        f"largest: {table[-1].setting}",
    ]


@pytest.mark.parametrize("space", SPACES)
def test_every_figure_has_a_narrow_one_with_the_same_choices(tmp_path, space):
    table = table_of(SPACES[space])
    page = page_of(tmp_path, table, curves=curves_of(table), similarities=[similarity_of()])
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert source.count('class="broad"') == source.count('class="slim"') == sum(map(len, page.hidden.values()))
    assert {len(data["marks"]) for data in page.figures.values()} == {2 * len(one) for one in page.hidden.values()}


def test_the_page_colours_all_but_the_cells_itself(tmp_path):
    """So that a dark page is dark, and the numbers on its heat maps can be read."""
    page_of(tmp_path, table_of(SPACES["two"]), curves=curves_of(table_of(SPACES["two"])))
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = source[source.index("</style>") :]
    assert {INK, MUTED, LINE, ACCENT, "#ffffff"} & {*re.findall(r"#[0-9a-f]{6}", drawn)} == set()
    assert "fill: #1f2934" in drawn
    assert "prefers-color-scheme: dark" in source


def test_a_page_of_a_metric_that_nobody_knows_has_no_front(tmp_path):
    page_of(tmp_path, sure(1.0, 2.0, metric="points"))
    write_picture(tmp_path / "table.png", sure(1.0, 2.0, metric="points"))
    assert "class=front" not in (tmp_path / "report.html").read_text(encoding="utf-8")


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
    # The curves bring one more figure, whose data are in a script element.
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
    cells = page.figures["similarity-0"]["marks"][0][0]
    assert {"1", "2", "depth", "0.5"} <= {*page.drawn["similarity-0"][0]}
    assert cells["rows"] == ["depth=1", "depth=2"]
    assert cells["columns"][1] == "output position 1\nexamples: 3"
    assert (cells["name"], page.told("similarity-0")[0][1]) == ("KL divergence (nats)", "4")


def test_what_has_no_value_is_left_blank(tmp_path):
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=[similarity_of()])
    assert page.told("similarity-0")[0] == ["0.01", "4", "0.5", ""]


def heat_of(found):
    axes, bar = figures.similarity_figure(found).choices[0].picture.axes
    return axes, axes.images[0], bar


@pytest.mark.parametrize(("measure", "colours"), [("kl", "viridis_r"), ("cosine", "viridis")])
def test_closer_is_lighter_for_both_measures(measure, colours):
    assert heat_of(similarity_of(measure, ((0.2, 0.4),)))[1].cmap.name == colours


def test_divergences_of_very_different_sizes_are_coloured_by_their_logarithm():
    axes, image, bar = heat_of(similarity_of(values=((0.0, 0.01), (1.0, 100.0))))
    assert [float(image.norm(value)) for value in (0.0, 0.1, 1.0, 100.0)] == pytest.approx([0, 0, 1 / 3, 1])
    assert bar.get_ylabel() == "nats (log scale)"
    assert [text.get_text() for text in axes.texts] == ["0", "0.01", "1", "100"]


def test_divergences_of_like_size_are_coloured_by_themselves():
    _, image, bar = heat_of(similarity_of(values=((1.0, 2.0),)))
    assert (image.norm.vmin, image.norm.vmax, bar.get_ylabel()) == (0.0, 2.0, "nats")


@pytest.mark.parametrize("values", [((0.0, 0.0),), ((math.nan, math.inf),), ((0.5,),), ((0.5,) * 300,)])
def test_any_size_and_any_values_can_be_shown(tmp_path, values):
    pair = [similarity_of(measure, values, dimension="depth=1,width") for measure in ("kl", "cosine")]
    page = page_of(tmp_path, table_of(SPACES["one"]), similarities=pair)
    assert page.figures["similarity-1"]["marks"][0][0]["rows"] == ["depth=1,width=1"]


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
    page_of(tmp_path, table)
    assert lines_of(table).get_xscale() == "linear"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1e3, 1e7], [1e3, 1e4, 1e5, 1e6, 1e7]), ([150, 900], [150, 200, 300, 400, 600, 800]), ([7, 7], [7])],
)
def test_ticks_of_a_logarithmic_axis_are_round(values, expected):
    assert [round(tick) for tick in ticks_of(values)] == expected


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


@pytest.mark.parametrize("write", [write_report, write_picture])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, write):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'needs matplotlib, .*pip install "sortednet\[report\]"'):
        write(tmp_path / "out", table_of(SPACES["two"]))
