import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sortednet.errors import CheckpointError, ConfigError

pytest.importorskip("sympy")
pytest.importorskip("matplotlib")

from sortednet.symbolic import Formula
from sortednet.symbolic.commands.figures import data_figure, front_figure, left_figure, marks_of
from sortednet.symbolic.commands.record import (
    FormulaRecord,
    SearchFacts,
    error_text,
    mathml_of,
    python_of,
    r2_text,
    shortened,
)
from sortednet.symbolic.commands.report import write_formula_page, write_formula_picture
from sortednet.symbolic.expressions import parse

from ...report.test_report import Page

FACTS = SearchFacts(
    seconds=1.5, written=64, invalid=16, distinct=30, familiar=True, finished=True, seed=0, model=None, warnings=()
)


def formula(text: str, names: tuple[str, ...], error: float) -> Formula:
    return Formula.of(parse(text), names, error)


def record_of(variables: int = 1, count: int = 25, error: float = 0.0, **changes) -> FormulaRecord:
    """Return what might have been found for 3*x1**2-1, or for 3*x1**2*x2-1, and so on."""
    x = np.random.default_rng(0).uniform(0.5, 2, (count, variables))
    names = tuple(f"x{place}" for place in range(1, variables + 1))
    best = formula("*".join(["3*x1**2", *names[1:]]) + " - 1", names, error)
    others = [formula("2", names, 1.0), formula("8*x1 - 5", names, 0.03)]
    noise = np.sqrt(error) * np.random.default_rng(1).normal(size=count)
    record = FormulaRecord("points.csv", "y", names, best, (*others, best), x, best(x) + noise, count, FACTS)
    return replace(record, **changes)


def renamed(record: FormulaRecord, *names: str) -> FormulaRecord:
    return replace(
        record,
        best=replace(record.best, names=names),
        candidates=tuple(replace(one, names=names) for one in record.candidates),
    )


def page_of(record: FormulaRecord, folder: Path, **options) -> Page:
    write_formula_page(folder / "report.html", record, **options)
    return Page(folder / "report.html")


@pytest.mark.parametrize("variables", [1, 2, 3])
def test_a_record_comes_back_from_its_file(tmp_path: Path, variables: int) -> None:
    record = record_of(variables, error=0.01)
    record.to_json(tmp_path / "fit.json")
    again = FormulaRecord.from_json(tmp_path / "fit.json")
    assert again.best == record.best
    assert again.candidates == record.candidates
    assert again.facts == record.facts
    assert np.array_equal(again.x, record.x)
    assert np.array_equal(again.y, record.y)


def test_a_record_keeps_at_most_two_thousand_points() -> None:
    record = record_of(2, count=2500).sampled()
    assert (len(record.x), len(record.y), record.total) == (2000, 2000, 2500)
    assert np.allclose(record.best(record.x), record.y)


def test_an_error_that_is_not_finite_survives(tmp_path: Path) -> None:
    record = record_of()
    record = replace(record, best=replace(record.best, error=math.inf))
    record.to_json(tmp_path / "fit.json")
    assert json.loads((tmp_path / "fit.json").read_text())["r2"] is None
    assert FormulaRecord.from_json(tmp_path / "fit.json").best.error == math.inf


DAMAGES = {
    "no JSON": lambda held: "{",
    "another version": lambda held: {**held, "format": 9},
    "a list": lambda held: [],
    "nothing of it": lambda held: {"format": 1},
    "no formula": lambda held: {**held, "formula": {**held["formula"], "plain": "__import__('os')"}},
    "too few names": lambda held: {**held, "names": []},
    "points of another shape": lambda held: {**held, "points": {**held["points"], "x": [[1.0, 2.0]]}},
    "points that are no numbers": lambda held: {**held, "points": {**held["points"], "y": ["a"] * 25}},
    "points that are not finite": lambda held: {**held, "points": {**held["points"], "y": [math.nan] * 25}},
    "an unknown fact": lambda held: {**held, "facts": {**held["facts"], "more": 1}},
    "a number of variables that it lacks": lambda held: {**held, "formula": {**held["formula"], "plain": "x2"}},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named_with_a_remedy(tmp_path: Path, damage: str) -> None:
    record_of().to_json(tmp_path / "fit.json")
    held = DAMAGES[damage](json.loads((tmp_path / "fit.json").read_text()))
    (tmp_path / "fit.json").write_text(held if isinstance(held, str) else json.dumps(held))
    with pytest.raises(ConfigError, match=r"fit\.json (is|has) .*, or write it again: sortednet symbolic fit\."):
        FormulaRecord.from_json(tmp_path / "fit.json")


def test_a_missing_record_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no fit\.json in .*that 'sortednet symbolic fit' wrote to"):
        FormulaRecord.from_json(tmp_path / "fit.json")


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "1"), (1e-13, "1"), (1e-9, "0.999999"), (3e-5, "0.999970"), (0.25, "0.7500"), (2.0, "-1.0000")],
)
def test_r2_is_never_rounded_up_to_1(error: float, text: str) -> None:
    assert r2_text(record_of(error=error)) == text


def test_errors_and_long_texts_are_short() -> None:
    assert [error_text(one) for one in (0.0, 0.0123, math.inf)] == ["exact", "1.23e-02", "no value"]
    assert (shortened("abc"), shortened("a" * 80, 10)) == ("abc", "aaaaaaa...")


def test_python_code_gives_what_the_formula_gives() -> None:
    record = renamed(record_of(2), "speed", "mass_kg")
    best = formula("2*sin(x1)*x2 - asin(x1/9)", ("speed", "mass_kg"), 0.0)
    code = python_of(replace(record, best=best, target="height (m)"))
    held: dict = {}
    exec(code, held)
    assert np.allclose(held["height_m"](record.x[:, 0], record.x[:, 1]), best(record.x))


def test_mathml_shows_names_as_they_are_written() -> None:
    text = mathml_of(formula("x1*x2**2 - 1", ("initial_speed_m", "theta_1"), 0.0))
    assert "<mi>initial_speed_m</mi>" in text
    assert "\u03b8" in text
    assert "<mo>\u2212</mo>" in text
    assert "\u00b7" in text
    assert "&" not in text
    assert mathml_of(formula("2*x1", ("gr\u00f6\u00dfe_\u03bb",), 0.0)).count("<mi>gr\u00f6\u00dfe_\u03bb</mi>") == 1


@pytest.mark.parametrize("variables", [1, 2, 3])
@pytest.mark.parametrize("error", [0.0, 0.02])
def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, variables: int, error: float) -> None:
    page = page_of(record_of(variables, error=error), tmp_path)
    assert not page.open
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert set(page.figures) == {"data", "front", *(["left"] if error else [])}
    for text in ("A formula for y", "To copy", "Python", "LaTeX", "25%", "30 distinct skeletons", "points.csv"):
        assert text in page.text
    assert "def y(x1" in page.text


def test_the_page_names_columns_warnings_and_the_title(tmp_path: Path) -> None:
    facts = replace(FACTS, warnings=("Time was up.", "1 < 2"), familiar=False, finished=False, model="m.safetensors")
    record = renamed(record_of(2, columns=("speed (m/s)", "<b>"), facts=facts, total=9000), "speed_m_s", "b")
    page = page_of(record, tmp_path, title="Ours & <theirs>")
    for text in ("Ours & <theirs>", "Time was up.", "1 < 2", "unfamiliar", "model m.safetensors", "time was up"):
        assert text in page.text
    assert "speed_m_s is the column speed (m/s), b is the column <b>" in page.text
    assert "25 of the 9,000 points are shown" in page.text


def test_a_constant_has_a_page_and_a_picture(tmp_path: Path) -> None:
    facts = replace(FACTS, written=0, invalid=0, distinct=0)
    best = formula("5", ("x1",), 0.0)
    record = record_of(best=best, candidates=(best,), y=np.full(25, 5.0), facts=facts)
    page = page_of(record, tmp_path)
    assert "nothing" in page.text
    assert "The model wrote" not in page.text
    write_formula_picture(tmp_path / "report.png", record)


def test_every_formula_can_be_chosen_and_the_best_one_first(tmp_path: Path) -> None:
    record = record_of(2)
    page = page_of(record, tmp_path)
    assert [one.split("  ")[0] for one in page.options["data"]] == [str(record.best), "8*x1-5", "2"]
    assert page.hidden["data"] == [False, True, True]


def drawn_of(record: FormulaRecord, choice: int = 0):
    return data_figure(record).choices[choice].picture.axes[0]


def test_a_point_tells_its_variables_and_what_the_formula_gives(tmp_path: Path) -> None:
    record = record_of(2, error=0.02)
    page = page_of(record, tmp_path)
    (told,) = page.figures["data"]["marks"][0]
    across, up = told["readings"]
    shares = [(one - up["from"]) / (up["to"] - up["from"]) for one in told["at"][1::2]]
    given = [up["low"] + share * (up["high"] - up["low"]) for share in shares]
    assert (across, up["name"]) == (None, "by the formula")
    assert np.allclose(given, record.best(record.x), atol=2e-3 * np.ptp(record.y))
    x, y = record.x.tolist(), record.y.tolist()
    assert page.told("data")[0] == [f"x1: {a:.5g}\nx2: {b:.5g}\ny: {c:.5g}" for (a, b), c in zip(x, y, strict=True)]


def test_points_where_a_formula_has_no_value_are_left_out(tmp_path: Path) -> None:
    best = formula("log(x1 - 1)", ("x1",), math.inf)
    record = record_of(best=best, candidates=(best,))
    curve = drawn_of(record).lines[0].get_ydata()
    assert len(curve) == 400
    assert 0 < np.isfinite(curve).sum() < 400
    page = page_of(record, tmp_path)
    assert len(page.told("left")[0]) == np.isfinite(record.best(record.x)).sum()
    assert front_figure(record).choices


def test_a_formula_without_any_value_has_a_page(tmp_path: Path) -> None:
    best = formula("log(0 - x1)", ("x1",), math.inf)
    record = record_of(best=best, candidates=(best,))
    assert len(page_of(record, tmp_path).told("data")) == 1
    assert left_figure(record).choices


def test_a_pole_does_not_stretch_the_axis() -> None:
    best = formula("1/(x1 - 1.2345678)", ("x1",), 0.5)
    record = record_of(best=best, candidates=(best,), y=np.linspace(0, 1, 25), x=np.linspace(0, 1, 25)[:, None])
    low, high = drawn_of(record).get_ylim()
    assert -6 < low < high < 2


def test_a_crowd_of_points_stands_behind_the_curve() -> None:
    for count, behind in ((25, False), (400, True)):
        curve, points = drawn_of(record_of(count=count)).lines
        assert (points.get_zorder() < curve.get_zorder()) == behind


def test_the_front_marks_exact_formulas_and_the_chosen_one() -> None:
    (choice,) = front_figure(record_of()).choices
    line, chosen = choice.picture.axes[0].lines
    assert list(line.get_xdata()) == [1, 5, 7]
    assert "exact" in [one.get_text() for one in choice.picture.axes[0].get_yticklabels()]
    assert list(chosen.get_xdata()) == [7]
    assert "8*x1-5" in choice.tips[0].texts[1]


@pytest.mark.parametrize(
    ("errors", "texts"),
    [
        ([1.001, 0.02], ["1", "0.1", "0.01"]),
        ([1.0, 0.0], ["1", "0.01", "1e-4", "1e-6", "1e-8", "1e-10", "exact"]),
    ],
)
def test_the_marks_of_errors_are_round(errors: list[float], texts: list[str]) -> None:
    assert marks_of(errors)[1] == texts


@pytest.mark.parametrize("variables", [1, 3])
@pytest.mark.parametrize("long", [False, True])
def test_the_picture_is_a_png_2000_pixels_wide(tmp_path: Path, variables: int, long: bool) -> None:
    record = record_of(variables, error=0.02)
    if long:
        best = formula("+".join(f"1.2345678*sin({place}*x1)" for place in range(1, 40)), record.columns, 0.02)
        record = replace(record, best=best)
    write_formula_picture(tmp_path / "report.png", record)
    data = (tmp_path / "report.png").read_bytes()
    assert data[1:4] == b"PNG"
    assert int.from_bytes(data[16:20], "big") == 2000


def test_names_that_no_typesetter_knows_are_drawn(tmp_path: Path) -> None:
    record = renamed(record_of(target="y$_{", columns=("a$b",)), "gr\u00f6\u00dfe_\u03bb")
    write_formula_picture(tmp_path / "report.png", record)
    assert "y$_{" in page_of(record, tmp_path).text


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_formula_page(tmp_path / "file" / "report.html", record_of())


@pytest.mark.parametrize("write", [write_formula_page, write_formula_picture])
def test_without_matplotlib_the_error_tells_how_to_install(tmp_path: Path, monkeypatch, write) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape('pip install "sortednet[report]"')):
        write(tmp_path / "report", record_of())
