"""Symbolic regression against other methods: its scores by hand, its problems, its jobs and their table."""

import math
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("transformers")
pytest.importorskip("sympy")

from sortednet.errors import ConfigError, DataError, MissingPackageError
from sortednet.experiments.formulas import formulas as symbolic
from sortednet.experiments.formulas.depths import at_depth, compared, solve, solved_share
from sortednet.experiments.formulas.formulas import SYMBOLIC, Sizes, gathered, share, share_by_shape
from sortednet.experiments.formulas.methods import METHODS, Found, ours, peer
from sortednet.experiments.formulas.problems import check_unseen, generated, listed, load_problems, published_folder
from sortednet.experiments.formulas.scores import curve, deviation, is_recovered, log_mse_n, mse_n, r2
from sortednet.experiments.running import Conditions, markdown
from sortednet.files import records
from sortednet.imports.names import EXPERIMENTS
from sortednet.symbolic import (
    Familiarity,
    GeneratorConfig,
    ModelConfig,
    Pretrained,
    SearchConfig,
    SymbolicGPT,
    save_model,
)
from sortednet.symbolic.expressions import evaluate, excluded, freeze, parse, read_skeleton, split_of

NGUYEN = """name,expression,variables,ranges,source
N-1,x1**3 + x1,x1,"{""x1"": [-1, 1]}",hand
N-2,sin(x1)*x2,x1 x2,"{""x1"": [0, 1], ""x2"": [0, 1]}",hand
N-3,a*b*c*d,a b c d,"{""a"": [0, 1], ""b"": [0, 1], ""c"": [0, 1], ""d"": [0, 1]}",hand
"""
SAMPLING = """name,train_sampling,test_sampling,function_set
N-1,"{""all"":{""U"":[-2,2,12]}}",,Koza
N-2,"{""all"":{""U"":[0,1,15]}}",,Koza
"""


def pretrained(layers=2, **config):
    torch.manual_seed(0)
    model = SymbolicGPT(ModelConfig(width=16, layers=layers, heads=2, positions=24))
    return Pretrained(model.eval(), GeneratorConfig(**config), Familiarity({}), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lists")
    for name, text in {"nguyen": NGUYEN, "nguyen_constants": NGUYEN, "ai_feynman": NGUYEN}.items():
        (path / f"{name}.csv").write_text(text)
    (path / "nguyen_sampling.csv").write_text(SAMPLING)
    return path


@pytest.fixture(scope="module")
def problems():
    return generated(GeneratorConfig(), 3, 0, draws=1500)


# Scores


def test_mse_n_by_hand_is_the_mean_square_over_the_norm():
    y = np.array([3.0, 4.0])
    assert mse_n(y, np.array([3.0, 5.0])) == pytest.approx(0.5 / math.hypot(3 + 1e-5, 4 + 1e-5), rel=1e-12)


def test_mse_n_of_a_value_that_is_not_finite_is_infinite():
    assert mse_n(np.ones(2), np.array([1.0, np.nan])) == math.inf


def test_logarithm_of_mse_n_is_clipped_as_in_the_papers():
    assert (log_mse_n(0.0), log_mse_n(math.inf)) == (math.log(1e-5), math.log(1e5))
    assert log_mse_n(math.e) == pytest.approx(1)


def test_curve_by_hand_counts_problems_at_or_below_each_threshold():
    assert [up for _, up in curve([0.0, 1e-5, 1.0, math.inf], bins=5)] == [50, 50, 75, 75, 100]
    assert [across for across, _ in curve([1.0], bins=3)] == pytest.approx([-math.log(1e5), 0, math.log(1e5)])


def test_r2_by_hand():
    y = np.array([0.0, 2.0, 4.0])
    assert r2(y, y) == 1
    assert r2(y, np.full(3, 2.0)) == 0
    assert r2(y, np.array([0.0, 2.0, 2.0])) == 0.5
    assert r2(y, np.array([0.0, np.inf, 4.0])) == -math.inf


def test_deviation_of_a_share_is_binomial():
    assert deviation(0.2, 100) == pytest.approx(0.04)


def test_shares_by_hand_count_problems_and_shapes():
    rows = [{"shape": shape, "r2_inside": one} for shape, one in (("a", 0.9995), ("a", None), ("b", 0.995))]
    assert share(rows, "inside", 0.999) == pytest.approx(1 / 3)
    assert share(rows, "inside", 0.99) == pytest.approx(2 / 3)
    assert share_by_shape(rows, "inside", 0.99) == pytest.approx((0.5 + 1) / 2)


def recovered(found, truth, low=0.5, high=2.0):
    x = np.random.default_rng(0).uniform(low, high, (200, 2))
    formulas = [freeze(parse(one)) for one in (found, truth)]
    y = np.broadcast_to(evaluate(formulas[1], list(x.T)), (200,))
    return is_recovered(formulas[0], formulas[1], [(x, y)])


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        ("x1*(x1 + 2) - 2*x1", "x1**2"),
        ("2.0001*sin(1.50001*x1) + 1", "2*sin(1.5*x1) + 1"),
        ("x2 + 3*x1 + 1e-7*x1**3", "3*x1 + x2"),
        ("0.5*sin(2*x1) + x2", "sin(x1)*cos(x1) + x2"),
        ("exp(x1 + 0.7*x2)", "exp(x1)*exp(0.7*x2)"),
    ],
)
def test_formula_that_equals_the_truth_is_recovered(found, truth):
    assert recovered(found, truth)


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        ("x1**2 + 0.01*x2", "x1**2"),
        ("2.1*sin(x1)", "2*sin(x1)"),
        ("x1 - 0.16666*x1**3 + 0.0083*x1**5 - 0.000195*x1**7", "sin(x1)"),
        ("1/(x1 - 1)", "x1"),
    ],
)
def test_formula_that_is_near_the_truth_is_not_recovered(found, truth):
    assert not recovered(found, truth)


def test_method_without_a_formula_recovers_none():
    assert not is_recovered(None, freeze(parse("x1")), [(np.ones((2, 1)), np.array([1.0, 2.0]))])


# Problems


def test_drawn_problems_have_the_values_of_their_formula(problems):
    for problem in problems:
        assert problem.x.shape == (30, 1)
        for x, y in [(problem.x, problem.y), *problem.tests.values()]:
            np.testing.assert_allclose(
                np.broadcast_to(evaluate(problem.truth, [x[:, 0]]), y.shape), y, rtol=1e-6, atol=1e-6
            )
    outside = problems[0].tests["outside"][0]
    assert ((np.abs(outside) >= 3) & (np.abs(outside) <= 5)).all()


def test_drawn_problems_have_skeletons_that_no_model_was_trained_on(problems):
    for problem in problems:
        assert problem.shape not in excluded()
        assert split_of(read_skeleton(problem.text), GeneratorConfig()) == "test"


def test_first_problems_do_not_depend_on_the_count(problems):
    again = generated(GeneratorConfig(), 1, 0, draws=1500)
    np.testing.assert_array_equal(again[0].y, problems[0].y)


def test_published_problems_are_sampled_as_their_source_says(folder):
    found = load_problems("nguyen", 2, 0, folder)
    assert [one.name for one in found] == ["N-1/0", "N-1/1", "N-2/0", "N-2/1"]
    assert [len(one.y) for one in found] == [12, 12, 15, 15]
    assert 1 < np.abs(found[0].x).max() <= 2
    assert not np.array_equal(found[0].x, found[1].x)
    assert found[0].tests["inside"][0].shape == (1000, 1)
    assert found[2].text == "sin(x1)*x2"


def test_lists_keep_problems_of_up_to_three_variables(folder):
    assert [one.name for one in listed("feynman", folder, [0], 50)] == ["N-1", "N-2"]


def test_unknown_sets_and_missing_lists_are_told(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"set='other' is unknown\. Choose one of generated-1"):
        load_problems("other", 1, 0, folder)
    with pytest.raises(ConfigError, match="problems=0 of nguyen is below 1"):
        load_problems("nguyen", 0, 0, folder)
    with pytest.raises(DataError, match=r"There is no nguyen.csv in .* Give the folder that has it"):
        published_folder(str(tmp_path))


def test_model_with_other_splits_is_refused():
    check_unseen(pretrained())
    with pytest.raises(ConfigError, match="may have seen the skeletons of split='test'"):
        check_unseen(pretrained(test_share=0.01))


# Methods


def test_our_method_says_what_was_written():
    x = np.linspace(-1, 1, 30)[:, None]
    noise = 0.1 * np.random.default_rng(0).normal(size=30)
    found = ours(pretrained(), candidates=4)(x, 2 * x[:, 0] + noise, 0)
    assert found.about["written"] == 4
    assert np.isfinite(found.predict(x)).all()
    assert found.cpu_seconds > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("gplearn", {"population": 200, "generations": 5}), ("pyoperon", {"evaluations": 20_000}), ("mlp", {})],
)
def test_peer_finds_a_parabola_and_its_text_is_read(name, options):
    if name != "mlp":
        pytest.importorskip(name)
    x = np.linspace(0.5, 2, 20)[:, None]
    found = METHODS[name](**options)(x, x[:, 0] ** 2 + x[:, 0], 0)
    assert r2(x[:, 0] ** 2 + x[:, 0], found.predict(x)) > 0.99
    if name == "mlp":
        assert found.formula is None
    else:
        np.testing.assert_allclose(evaluate(found.formula, [x[:, 0]]), found.predict(x), rtol=1e-3)


def test_missing_peer_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gplearn", None)
    monkeypatch.setitem(sys.modules, "gplearn.genetic", None)
    with pytest.raises(MissingPackageError, match=r'gplearn, which is not installed: pip install "sortednet\[peers\]"'):
        peer("gplearn")


def test_missing_peer_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "gplearn", None)
    with pytest.raises(MissingPackageError, match="gplearn, which is not installed"):
        symbolic.jobs(Conditions())


def test_formulas_become_trees_of_pyoperon_with_the_same_values():
    pytest.importorskip("pyoperon")
    from pyoperon.sklearn import SymbolicRegressor

    from sortednet.experiments.formulas.hybrid import _tree

    x = np.random.default_rng(0).uniform(0.5, 2, (30, 2))
    regressor = SymbolicRegressor(generations=0, population_size=10, random_state=1).fit(x, x[:, 0])
    for text in ("2*x1**3/x2 - 1.5", "sin(2*x1)*x2**2 + log(x1 + 1)/(x2 + 3)**2", "0.5*sqrt(x1 + x2) + x1 + exp(x2)"):
        formula = freeze(parse(text))
        tree = _tree(formula, list(regressor.variables_))
        np.testing.assert_allclose(regressor.evaluate_model(tree, x), evaluate(formula, list(x.T)), rtol=1e-4)


def test_started_pyoperon_keeps_our_exact_formula_and_the_cold_one_takes_as_long():
    pytest.importorskip("pyoperon")
    from sortednet.experiments.formulas.hybrid import cold_and_started

    x = np.random.default_rng(0).uniform(-2, 2, (30, 1))
    found = cold_and_started(x, np.sin(2 * x[:, 0]) + x[:, 0], 0, pretrained(), evaluations=3000)
    assert set(found) == {"started", "cold", "ours"}
    assert all(isinstance(one, Found) for one in found.values())
    assert found["cold"].cpu_seconds > 0.5 * found["started"].cpu_seconds
    assert found["started"].cpu_seconds >= found["ours"].cpu_seconds


# Depths


def test_half_of_a_model_has_the_first_of_its_layers():
    whole = pretrained(layers=2)
    half = at_depth(whole, 1)
    assert half.model.config.layers == 1
    own, cut = whole.model.state_dict(), half.model.state_dict()
    assert all(torch.equal(own[name], one) for name, one in cut.items())
    assert torch.equal(at_depth(whole, 2).model.state_dict()[name := next(iter(own))], own[name])
    with pytest.raises(ConfigError, match="layers=3 must be 1 to 2"):
        at_depth(whole, 3)


def test_share_solved_is_of_the_rows(problems):
    config = SearchConfig(candidates=4)
    row = solve(pretrained(), problems[0], config=config)
    assert {"inside", "outside", "invalid", "seconds", "writing_seconds"} <= set(row)
    found = solved_share(pretrained(), problems, config=config)
    assert found["problems"] == 3
    assert found["sd"] == pytest.approx(deviation(found["share"], 3))


def test_speculative_writing_writes_as_many_texts(problems):
    from sortednet.generation import SelfSpeculative

    config = SearchConfig(candidates=4)
    writing = {"custom_generate": SelfSpeculative(exits=1, generator=torch.Generator().manual_seed(0))}
    assert 0 <= solve(pretrained(), problems[0], config=config, writing=writing)["invalid"] <= 1


def test_groups_of_models_are_compared_by_the_mean_of_their_shares(problems):
    found = compared({"a": [pretrained()] * 2, "b": [pretrained()]}, problems[:1], config=SearchConfig(candidates=2))
    assert found["a"]["sd"] == 0
    assert len(found["a"]["shares"]) == 2


# The experiment


def fake(name, method, rows):
    return {"set": name, "method": method, "rows": rows, "described": {"seconds": 1.0}}


def row(quality, **more):
    scores = {"r2_inside": quality, "mse_n_inside": 1 - quality, "r2_outside": quality, "mse_n_outside": 1 - quality}
    return {
        "name": "0", "shape": "a", "truth": "x1", "found": "x1", "seconds": 2.0, "cpu_seconds": 1.0,
        "recovered": quality == 1, "about": {"written": 4, "invalid": 1}, **scores, **more,
    }  # fmt: skip


def test_table_shows_shares_with_their_deviation():
    results = {
        "a": fake("generated-1", "ours", [row(1.0), row(0.995), row(1.0), row(0.5)]),
        "b": fake("generated-1", "gplearn", [row(0.5)] * 4),
        "c": fake(
            "nguyen", "hybrid", [{arm: row(1.0 if arm == "started" else 0.5) for arm in ("ours", "cold", "started")}]
        ),
    }
    outcome = SYMBOLIC.summarise(Conditions(), results)
    assert outcome.rows[0] == [
        "drawn, 1 variable",
        "SymbolicGPT (ours)",
        4,
        "75 ± 22",
        "50 ± 25",
        "50 ± 25",
        "50 ± 25",
        1.0,
        25.0,
    ]
    assert outcome.figures["generated_1_ours_outside_0.999"] == 50
    assert (outcome.figures["hybrid"], outcome.figures["hybrid_gained"], outcome.figures["hybrid_lost"]) == (1, 1, 0)
    assert "50 ± 25" in markdown(outcome)


def test_parts_of_a_set_are_put_together():
    results = {name: fake("generated-1", "ours", [row(1.0)]) for name in ("a", "b")}
    assert len(gathered(results, "ours")["generated-1"]) == 2


def test_job_goes_on_from_the_rows_it_finds(tmp_path, folder):
    path = tmp_path / "model.safetensors"
    save_model(path, pretrained())
    conditions = Conditions(data=str(folder), model=str(path))
    job = symbolic.jobs(conditions, Sizes(2, 1, seeds=1), methods=("ours",))["symbolic-nguyen-ours"]
    found = job.run(tmp_path / "job", {})
    assert [one["name"] for one in found["rows"]] == ["N-1", "N-2"]
    kept = records.read(tmp_path / "job" / "rows.json")
    kept["rows"] = [{"name": "from before"}]
    (tmp_path / "job" / "rows.json").write_text(records.to_text(kept))
    assert [one["name"] for one in job.run(tmp_path / "job", {})["rows"]] == ["from before", "N-2"]


def test_large_sets_are_measured_in_parts(folder):
    jobs = symbolic.jobs(Conditions(data=str(folder)), Sizes(5, 2, part=2), methods=("mlp",))
    rows = [job.described["rows"] for name, job in jobs.items() if name.startswith("symbolic-generated-1")]
    assert rows == [[0, 2], [2, 4], [4, 5]]


def test_pictures_are_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sortednet.experiments.formulas.problems._DRAWS", 1500)
    rows = [row(1.0, grid=[0.0, None, 1.0]) for _ in range(2)]
    results = {"a": fake("generated-1", "ours", rows), "b": fake("nguyen", "ours", rows)}
    SYMBOLIC.draw(tmp_path / "symbolic.png", Conditions(), results)
    for name in ("symbolic.png", "symbolic-curves.png", "symbolic-formulas.png"):
        assert (tmp_path / name).read_bytes()[1:4] == b"PNG"


def test_experiment_is_among_those_of_the_command():
    assert EXPERIMENTS["symbolic"] is SYMBOLIC
