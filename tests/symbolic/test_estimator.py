"""The estimator: scikit-learn's own checks, names of columns, weights, seeds, and data that cannot be fitted."""

import dataclasses
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from sortednet.errors import CheckpointError, ConfigError, DataError
from sortednet.symbolic import (
    Familiarity,
    SymbolicGPTRegressor,
    UnfamiliarDataWarning,
    estimator,
    fit,
    save_model,
    shipped,
)
from sortednet.symbolic.expressions import freeze, parse, read_skeleton
from sortednet.symbolic.proposals import Proposals

from .cases import fresh, tiny

X = np.random.default_rng(0).uniform(-3, 3, (60, 2))
Y = 1.5 * np.sin(2 * X[:, 0]) + 0.5 * X[:, 1]

quiet = pytest.mark.filterwarnings("ignore::sortednet.symbolic.UnfamiliarDataWarning")


@pytest.fixture(autouse=True)
def _shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator, "_shipped", tiny)


@parametrize_with_checks([SymbolicGPTRegressor(candidates=24)])
@pytest.mark.filterwarnings("ignore::UserWarning")  # some checks give few points, or more columns than the model takes
def test_scikit_learn_checks_the_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def regressor(**own: Any) -> SymbolicGPTRegressor:
    return SymbolicGPTRegressor(**{"candidates": 24, "random_state": 0, **own})


def proposing(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    found = Proposals(tuple(read_skeleton(text) for text in texts), len(texts), 0)
    monkeypatch.setattr(fit, "propose", lambda *_: found)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> SymbolicGPTRegressor:
    proposing(monkeypatch, "C*x1+C", "C*sin(C*x1)+C*x2+C", "C*x2+C", "C*sin(C*x1)+C")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfamiliarDataWarning)
        return regressor().fit(X, Y)


# What is found.


def test_the_formula_is_readable(fitted: SymbolicGPTRegressor) -> None:
    assert fitted.expression_ == "1.5*sin(2*x1)+0.5*x2"
    assert fitted.score(X, Y) == pytest.approx(1)


def test_all_forms_of_the_formula_have_the_values_of_predict(fitted: SymbolicGPTRegressor) -> None:
    import sympy

    expected = fitted.predict(X)
    by_sympy = sympy.lambdify(sympy.symbols("x1 x2"), fitted.sympy_, "numpy")(*X.T)
    by_text = sympy.lambdify(sympy.symbols("x1 x2"), sympy.sympify(fitted.expression_), "numpy")(*X.T)
    for found in (by_sympy, by_text, fitted.formula_(X), fitted.formula_(torch.tensor(X)).numpy()):
        assert found == pytest.approx(expected, rel=1e-9)


def test_latex_is_that_of_sympy(fitted: SymbolicGPTRegressor) -> None:
    import sympy

    assert fitted.latex_ == sympy.latex(fitted.sympy_)


def test_gradients_pass_through_the_formula(fitted: SymbolicGPTRegressor) -> None:
    x = torch.tensor(X, requires_grad=True)
    fitted.formula_(x).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 1].numpy() == pytest.approx(0.5)
    assert x.grad[:, 0].numpy() == pytest.approx(3 * np.cos(2 * X[:, 0]))


def test_no_candidate_is_both_longer_and_worse_than_another(fitted: SymbolicGPTRegressor) -> None:
    sizes = [one.complexity for one in fitted.candidates_]
    errors = [one.error for one in fitted.candidates_]
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)
    assert len(sizes) >= 2


def test_the_formula_is_among_the_candidates(fitted: SymbolicGPTRegressor) -> None:
    assert fitted.formula_ in fitted.candidates_


def test_errors_of_candidates_are_one_minus_the_score(fitted: SymbolicGPTRegressor) -> None:
    for one in fitted.candidates_:
        share = ((one(X) - Y) ** 2).mean() / Y.var()
        assert one.error == pytest.approx(share, rel=1e-6, abs=1e-20)


def test_what_the_model_wrote_is_told(fitted: SymbolicGPTRegressor) -> None:
    assert fitted.search_ is not None
    assert (fitted.search_.proposals.written, fitted.search_.finished) == (4, True)
    assert fitted.columns_.tolist() == [0, 1]


@quiet
def test_the_model_itself_finds_a_simple_formula() -> None:
    found = regressor(candidates=64).fit(X[:, :1], 2 * X[:, 0] ** 2 - 1)
    assert found.expression_ == "2*x1**2-1"


@quiet
def test_one_seed_gives_one_formula() -> None:
    one, other = (regressor(random_state=3).fit(X, Y) for _ in range(2))
    assert one.expression_ == other.expression_
    assert [str(own) for own in one.candidates_] == [str(own) for own in other.candidates_]


@quiet
def test_a_generator_may_be_the_seed() -> None:
    found = regressor(random_state=np.random.RandomState(0)).fit(X, Y)
    assert np.isfinite(found.predict(X)).all()


def test_a_fitted_estimator_can_be_pickled(fitted: SymbolicGPTRegressor) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert again.expression_ == fitted.expression_
    assert np.array_equal(again.predict(X), fitted.predict(X))


@quiet
def test_a_fitted_estimator_with_a_model_of_its_own_can_be_pickled() -> None:
    found = regressor(model=tiny()).fit(X, Y)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.predict(X), found.predict(X))
    assert again.fit(X, Y).expression_ == found.expression_


def test_a_clone_has_the_parameters_and_is_not_fitted(fitted: SymbolicGPTRegressor) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "formula_")


@quiet
def test_a_clone_with_a_model_of_its_own_gives_the_same() -> None:
    own = regressor(model=tiny())
    assert clone(own).fit(X, Y).expression_ == own.fit(X, Y).expression_


@quiet
def test_it_works_in_a_pipeline_and_a_grid() -> None:
    pipeline = make_pipeline(FunctionTransformer(), regressor(candidates=4))
    grid = GridSearchCV(pipeline, {"symbolicgptregressor__parsimony": [1.0, 4.0]}, cv=2).fit(X, Y)
    assert grid.best_score_ <= 1


# Models.


@quiet
@pytest.mark.parametrize("kind", [str, Path])
def test_a_model_may_be_a_file(tmp_path: Path, kind: Any) -> None:
    save_model(tmp_path / "m.safetensors", tiny())
    found = regressor(model=kind(tmp_path / "m.safetensors")).fit(X, Y)
    assert np.isfinite(found.predict(X)).all()


@quiet
def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    import os

    path = tmp_path / "m.safetensors"
    save_model(path, tiny())
    one = estimator._opened(path)
    assert estimator._opened(path) is one
    save_model(path, tiny())
    os.utime(path, (1, 1))
    assert estimator._opened(path) is not one


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        regressor(model=tmp_path / "none.safetensors").fit(X, Y)


@pytest.mark.parametrize("model", [5, fresh(), ["a"]])
def test_what_is_no_model_is_an_error(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no model\. Give a file, what load_model returned, or None\."):
        regressor(model=model).fit(X, Y)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"candidates": 0}, r"candidates=0 must be a whole number of at least 1"),
        ({"top_k": 0}, r"top_k=0 must be a whole number of at least 1"),
        ({"temperature": 0}, r"temperature=0 must be above 0"),
        ({"beams": -1}, r"beams=-1 must be a whole number of at least 0"),
        ({"parsimony": -1}, r"parsimony=-1 must be at least 0"),
        ({"time_limit_s": 0}, r"time_limit_s=0 must be above 0, or None for no limit"),
        ({"columns": "some"}, r"columns='some' is unknown\. Choose one of select, all\."),
    ],
)
def test_arguments_out_of_range_are_refused_by_fit(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        regressor(**own).fit(X, Y)


# Names of columns.

ODD = ["speed", "speed of it", "2nd", "class", "lambda", "I", "beta", "id", "sum", "sin", "C", "a-b", "ä", "", "x1",
       "N", "gamma", "zeta", "Symbol", "max", "None", "True", "pi", "e", "__class__", "S", "test", "log",
       "print"]  # fmt: skip


@quiet
@pytest.mark.parametrize("name", ODD)
def test_sympy_reads_the_expression_whatever_a_column_is_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sympy

    proposing(monkeypatch, "C*x1**2+C*x2+C")
    frame = pandas.DataFrame(X, columns=[name, "other"])
    found = regressor().fit(frame, 2 * X[:, 0] ** 2 + X[:, 1])
    read = sympy.sympify(found.expression_)
    assert {str(symbol) for symbol in read.free_symbols} == set(found.formula_.names)
    assert sympy.simplify(read - found.sympy_) == 0


@quiet
@pytest.mark.parametrize("name", ODD)
def test_python_and_our_parser_read_the_expression(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1**2+C*x2+C")
    found = regressor().fit(pandas.DataFrame(X, columns=[name, "other"]), 2 * X[:, 0] ** 2 + X[:, 1])
    compile(found.expression_, "formula", "eval")
    assert freeze(parse(found.expression_, found.formula_.names)) == found.formula_.terms


@quiet
def test_names_of_columns_are_in_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1**2+C*x2+C")
    found = regressor().fit(pandas.DataFrame(X, columns=["speed", "mass"]), 2 * X[:, 0] ** 2 + X[:, 1])
    assert found.expression_ == "mass+2*speed**2" or found.expression_ == "2*speed**2+mass"


@quiet
def test_names_that_become_the_same_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1*x2*x3+C")
    frame = pandas.DataFrame(np.c_[X, X[:, :1] + 1], columns=["a b", "a_b", "a-b"])
    found = regressor().fit(frame, frame.prod(axis=1))
    assert len(set(found.formula_.names)) == 3
    assert found.score(frame, frame.prod(axis=1)) == pytest.approx(1)


@quiet
def test_x1_stays_the_name_of_the_column_that_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1**3+C*x2+C")
    frame = pandas.DataFrame(X, columns=["x2", "x1"])
    found = regressor().fit(frame, frame["x2"] ** 3)
    assert found.expression_ == "x2**3"


@quiet
def test_columns_without_names_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x2+C")
    found = regressor().fit(X, 3 * X[:, 1])
    assert (found.expression_, found.formula_.names) == ("3*x2", ("x1", "x2"))
    assert not hasattr(found, "feature_names_in_")


@quiet
def test_columns_in_another_order_are_an_error() -> None:
    frame = pandas.DataFrame(X, columns=["a", "b"])
    found = regressor().fit(frame, Y)
    with pytest.raises(ValueError, match="feature names"):
        found.predict(frame[["b", "a"]])


# Weights.


@quiet
def test_weights_are_repeated_points(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1+C*x2+C")
    generator = np.random.default_rng(0)
    weights, noisy = generator.integers(1, 4, 60), Y + generator.normal(size=60)
    one = regressor().fit(X, noisy, weights)
    other = regressor().fit(np.repeat(X, weights, 0), np.repeat(noisy, weights))
    assert one.predict(X) == pytest.approx(other.predict(X), rel=1e-3)


@quiet
def test_equal_weights_are_none() -> None:
    assert regressor().fit(X, Y, np.full(60, 7.0)).expression_ == regressor().fit(X, Y).expression_


@quiet
@pytest.mark.parametrize("off", [1e6, -5.0])
def test_points_without_weight_are_as_if_left_out(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    proposing(monkeypatch, "C*log(x1)+C*x2+C")
    x = np.abs(X) + 0.1
    y = 2 * np.log(x[:, 0]) + x[:, 1]
    more_x, more_y = np.r_[x, np.full((1, 2), off)], np.r_[y, 1e9]
    found = regressor().fit(more_x, more_y, np.r_[np.ones(60), 0.0])
    assert found.expression_ == regressor().fit(x, y).expression_


def test_no_weight_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least one non-zero|sample_weight is zero for every point"):
        regressor().fit(X, Y, np.zeros(60))


def test_negative_weights_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"(?i)negative"):
        regressor().fit(X, Y, np.full(60, -1.0))


@quiet
def test_a_single_point_with_weight_gives_its_value() -> None:
    found = regressor().fit(X, Y, np.r_[1.0, np.zeros(59)])
    assert found.predict(X) == pytest.approx(Y[0])


# Data that cannot be fitted, or hardly.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["X", "y"])
def test_numbers_that_are_not_finite_are_an_error(value: float, where: str) -> None:
    x, y = X.copy(), Y.copy()
    (x[:, 0] if where == "X" else y)[3] = value
    with pytest.raises(ValueError, match=r"contains NaN|contains infinity"):
        regressor().fit(x, y)


def test_one_point_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"minimum of 2 is required"):
        regressor().fit(X[:1], Y[:1])


def test_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="could not convert string to float: 'red'"):
        regressor().fit(pandas.DataFrame({"a": X[:, 0], "colour": ["red"] * 60}), Y)


def test_complex_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="Complex data not supported"):
        regressor().fit(X + 1j, Y)


def test_predict_before_fit_is_an_error() -> None:
    from sklearn.exceptions import NotFittedError

    for what in (
        lambda own: own.predict(X),
        lambda own: own.expression_,
        lambda own: own.sympy_,
        lambda own: own.latex_,
    ):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            what(regressor())


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-20, 1e12])
def test_a_constant_target_is_a_constant_formula(value: float) -> None:
    found = regressor().fit(X, np.full(60, value))
    assert found.predict(X).tolist() == [value] * 60
    assert len(found.candidates_) == 1


@quiet
def test_constant_columns_are_no_error() -> None:
    found = regressor().fit(np.ones((60, 2)), Y)
    assert found.predict(np.ones((3, 2))) == pytest.approx(Y.mean(), abs=0.1)


@quiet
@pytest.mark.parametrize("of_y", [1e-29, 1e-15, 1e15, 1e29])
@pytest.mark.parametrize("of_x", [1e-29, 1e-15, 1e15, 1e29])
def test_any_usual_scale_of_data_gives_a_formula(monkeypatch: pytest.MonkeyPatch, of_x: float, of_y: float) -> None:
    """Warnings are errors here. Powers of such numbers overflow, so that a worse formula may be the best there is."""
    proposing(monkeypatch, "C*x1**12+C", "C*x1+C", "C*exp(C*x1)+C", "C*(x1+C)**-9+C")
    found = regressor().fit(of_x * X, of_y * X[:, 0])
    assert found.score(of_x * X, of_y * X[:, 0]) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-280, 1e-40, 1e40, 1e280])
@pytest.mark.parametrize("name", ["X", "y"])
def test_numbers_whose_powers_are_beyond_floats_are_an_error(name: str, scale: float) -> None:
    x, y = (scale * X, Y) if name == "X" else (X, scale * Y)
    with pytest.raises(
        DataError, match=rf"The largest number of {name} is .*, and formulas are looked for between .*unit"
    ):
        regressor().fit(x, y)


@quiet
@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_points_are_fitted(count: int) -> None:
    found = regressor().fit(X[:count], Y[:count])
    assert np.isfinite(found.predict(X[:count])).all()


def test_few_points_are_warned_of() -> None:
    with pytest.warns(
        UnfamiliarDataWarning, match=r"(?i)there are 5 distinct points, fewer than the 20 of the smallest"
    ):
        found = regressor().fit(X[:5], Y[:5])
    assert not found.familiar_


def test_data_like_those_of_training_are_familiar() -> None:
    found = regressor().fit(X, 1.5 * X[:, 0] + 0.5)
    assert found.familiar_


def test_data_unlike_those_of_training_are_warned_of() -> None:
    model = dataclasses.replace(tiny(), familiarity=Familiarity({"roughness": (0.1, 0.1)}))
    with pytest.warns(
        UnfamiliarDataWarning, match=r"(?i)neighbouring points .* noise .*Compare its error \(candidates_\)"
    ):
        found = regressor(model=model).fit(X, np.random.default_rng(0).normal(size=60))
    assert not found.familiar_


def test_the_model_of_the_package_warns_of_noise_and_not_of_a_smooth_function() -> None:
    line = np.linspace(-2, 2, 200)[:, None]
    own = regressor(model=shipped(), candidates=2)
    assert own.fit(line, np.sin(line[:, 0])).familiar_
    with pytest.warns(UnfamiliarDataWarning, match="noise"):
        own.fit(line, np.random.default_rng(2).normal(size=200))


def test_columns_that_do_not_matter_do_no_harm() -> None:
    x = np.random.default_rng(0).uniform(-3, 3, (80, 6))
    found = regressor().fit(x, x[:, 1] + x[:, 4] * x[:, 5])
    assert found.columns_.tolist() == list(range(6))
    assert found.expression_ == "x2+x5*x6"


def test_many_columns_are_chosen_by_the_fit_with_a_warning() -> None:
    x = np.random.default_rng(0).uniform(-3, 3, (200, 30))
    with pytest.warns(UserWarning, match=r"X has 30 columns, .* up to 20\. Only columns \[4, 11, 25\] are used"):
        found = regressor().fit(x, x[:, 11] + x[:, 4] * x[:, 25])
    assert found.expression_ == "x12+x5*x26"
    assert found.predict(x).shape == (200,)


def test_many_columns_are_an_error_where_all_are_wanted() -> None:
    with pytest.raises(DataError, match=r"X has 30 columns, .* among up to 20\. Give fewer"):
        regressor(columns="all").fit(np.ones((60, 30)), Y)


@quiet
def test_where_the_formula_has_no_value_there_is_nan_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*log(x1)+C")
    x = np.linspace(1, 3, 30)[:, None]
    found = regressor().fit(x, 2 * np.log(x[:, 0]))
    with pytest.warns(UserWarning, match=r"2\*log\(x1\) has no finite value at 2 of 3 points\."):
        values = found.predict(np.array([[-1.0], [1.0], [0.0]]))
    assert np.isnan(values).tolist() == [True, False, True]


@quiet
def test_a_time_limit_still_gives_a_formula() -> None:
    found = regressor(time_limit_s=1e-6).fit(X, Y)
    assert found.search_ is not None
    assert not found.search_.finished
    assert np.isfinite(found.predict(X)).all()


@quiet
def test_data_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, weights = X.copy(), Y.copy(), np.ones(60)
    regressor().fit(x, y, weights)
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)
    assert (weights == 1).all()
