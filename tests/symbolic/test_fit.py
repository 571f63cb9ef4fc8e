"""The search: what the model wrote is fitted, put together anew and ranked; one seed, one answer; time is kept."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from sortednet.errors import ConfigError, DataError
from sortednet.symbolic import SearchConfig, fit, search
from sortednet.symbolic.expressions import evaluate, read_skeleton, skeleton_of, to_text, variables_of
from sortednet.symbolic.fit import Search
from sortednet.symbolic.proposals import Proposals, propose

from .cases import fresh, tiny

X = np.random.default_rng(0).uniform(-3, 3, (60, 2))
SINE = 1.5 * np.sin(2 * X[:, 0]) + 0.5 * X[:, 1]
FEW = SearchConfig(candidates=8, laws=False)


def proposing(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """Let the model write these skeletons."""
    found = Proposals(tuple(read_skeleton(text) for text in texts), len(texts), 0)
    monkeypatch.setattr(fit, "propose", lambda *_: found)


def looked(y: Any = SINE, x: Any = X, config: SearchConfig = FEW, **own: Any) -> Search:
    return search(tiny().model, x, y, config, **own)


def best_values(found: Search, x: Any = X, y: Any = None) -> Any:
    formula = found.scaling.back(found.candidates[0].formula)
    return evaluate(tuple(formula.items()), list(x.T))


# What is found.


def test_the_formula_is_found_where_its_skeleton_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1+C", "C*sin(C*x1)+C*x2+C", "C*exp(C*x1)+C")
    found = looked()
    assert best_values(found) == pytest.approx(SINE, abs=1e-8)
    assert found.candidates[0].error < 1e-15
    assert skeleton_of(found.candidates[0].formula) == read_skeleton("C*x2+C*sin(C*x1)+C")


def test_terms_of_two_wrong_skeletons_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*sin(C*x1)+C*x1**2+C", "C*x2+C*exp(C*x1)+C")
    assert best_values(looked()) == pytest.approx(SINE, abs=1e-6)


def test_terms_are_not_put_together_where_none_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*sin(C*x1)+C*x1**2+C", "C*x2+C*exp(C*x1)+C")
    found = looked(config=dataclasses.replace(FEW, pooled=0))
    assert found.candidates[0].error > 1e-3


def test_terms_that_do_not_pay_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*sin(C*x1)+C*x2+C*x1**2+C*x2**3+C*x1*x2+C")
    found = looked(SINE + np.random.default_rng(0).normal(0, 0.01, 60))
    assert skeleton_of(found.candidates[0].formula) == read_skeleton("C*x2+C*sin(C*x1)+C")


def test_factors_that_do_not_pay_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1*exp(C*x2)+C")
    found = looked(2 * X[:, 0])
    assert to_text(skeleton_of(found.candidates[0].formula)) == "C*x1+C"


def test_data_are_scaled_and_the_formula_mapped_back(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*sin(C*x1)+C*x2+C")
    found = looked(1e5 * SINE + 7e6, 1e-3 * X)
    assert best_values(found, 1e-3 * X) == pytest.approx(1e5 * SINE + 7e6, abs=1e-3)


def test_where_nothing_can_be_fitted_there_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*log(-x1**2)+C")
    found = looked()
    assert len(found.candidates) == 1
    assert best_values(found) == pytest.approx(SINE.mean())


def test_where_nothing_was_written_there_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch)
    assert best_values(looked()) == pytest.approx(SINE.mean())


def test_an_untrained_model_finds_something_too() -> None:
    found = search(fresh().eval(), X, SINE, FEW)
    assert len(found.candidates) >= 1
    assert np.isfinite(best_values(found)).all()


def test_candidates_are_sorted_by_score() -> None:
    scores = [candidate.score for candidate in looked().candidates]
    assert scores == sorted(scores)


def test_no_skeleton_is_among_the_candidates_twice() -> None:
    texts = [to_text(skeleton_of(candidate.formula)) for candidate in looked(SINE + X[:, 0] ** 2).candidates]
    assert len(set(texts)) == len(texts)


def test_errors_are_shares_of_the_variance() -> None:
    found = looked(SINE + np.random.default_rng(0).normal(size=60))
    squares = (best_values(found) - SINE - np.random.default_rng(0).normal(size=60)) ** 2
    variance = (SINE + np.random.default_rng(0).normal(size=60)).var()
    assert found.candidates[0].error == pytest.approx(squares.mean() / variance, rel=1e-9)


def test_parsimony_gives_shorter_formulas() -> None:
    y = SINE + 0.3 * np.random.default_rng(0).normal(size=60)
    sizes = [looked(y, config=dataclasses.replace(FEW, parsimony=own)).candidates[0].complexity for own in (0.0, 100.0)]
    assert sizes[1] < sizes[0]


def test_great_parsimony_gives_a_constant() -> None:
    assert looked(config=dataclasses.replace(FEW, parsimony=1e6)).candidates[0].complexity == 1


def test_fits_see_all_points_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    proposing(monkeypatch, "C*x1+C")
    y = X[:, 0] + 0.1 * np.random.default_rng(0).normal(size=60)
    found = looked(y, config=dataclasses.replace(FEW, fitted_points=10, pooled=0))
    slope, bias = np.polyfit(X[:, 0], y, 1)
    assert best_values(found) == pytest.approx(slope * X[:, 0] + bias, rel=1e-6)


# One seed, one answer.


def test_one_seed_gives_one_answer() -> None:
    one, other = (looked(seed=4) for _ in range(2))
    assert one.candidates == other.candidates
    assert one.proposals == other.proposals


def test_another_seed_is_another_draw() -> None:
    one, other = (looked(config=SearchConfig(candidates=16), seed=seed).proposals for seed in (0, 1))
    assert one != other


def test_torch_draws_afterwards_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    looked()
    assert torch.equal(torch.rand(3), expected)


def test_torch_seed_of_the_caller_changes_nothing() -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(looked(seed=4).candidates)
    assert found[0] == found[1]


# Proposals.


def proposed(config: SearchConfig = FEW, x: Any = X, **own: Any) -> Proposals:
    return propose(tiny().model, x, SINE[: len(x)], config, np.random.default_rng(0), **own)


@pytest.mark.parametrize("candidates", [1, 5, 16])
def test_as_many_texts_are_written_as_asked_for(candidates: int) -> None:
    assert proposed(SearchConfig(candidates=candidates)).written == candidates


def test_beams_are_written_beside_the_draws() -> None:
    assert proposed(SearchConfig(candidates=4, beams=3)).written == 7


def test_bags_share_the_draws() -> None:
    assert proposed(SearchConfig(candidates=10, shown=20, bags=4)).written == 10


def test_more_bags_than_candidates_are_no_error() -> None:
    assert proposed(SearchConfig(candidates=2, shown=20, bags=4)).written == 2


def test_skeletons_are_distinct_and_of_the_variables_that_there_are() -> None:
    found = proposed(SearchConfig(candidates=64), X[:, :1])
    assert len(set(found.skeletons)) == len(found.skeletons)
    assert all(variables_of(skeleton) <= {1} for skeleton in found.skeletons)
    assert 0 <= found.invalid < found.written


def test_what_an_untrained_model_writes_is_mostly_invalid_and_counted() -> None:
    found = propose(fresh().eval(), X, SINE, SearchConfig(candidates=32), np.random.default_rng(0))
    assert found.invalid + len(found.skeletons) <= found.written == 32
    assert found.invalid > 16


def test_one_token_to_draw_among_gives_one_text() -> None:
    found = proposed(SearchConfig(candidates=16, top_k=1))
    assert len(found.skeletons) + (found.invalid > 0) == 1


def test_more_arguments_reach_the_writing() -> None:
    found = proposed(SearchConfig(candidates=16), writing={"do_sample": False, "top_k": None, "temperature": None})
    assert len(found.skeletons) + (found.invalid > 0) == 1


def test_more_variables_than_the_model_takes_are_an_error() -> None:
    with pytest.raises(
        DataError, match=r"X has 4 columns, and the model was trained for up to 3\. Choose columns, or tr"
    ):
        looked(x=np.ones((60, 4)))


# Time.


def clocked(monkeypatch: pytest.MonkeyPatch, texts: int) -> tuple[Any, list[str]]:
    """Let each look at the clock take a second, and count the fits."""
    clock, fits = itertools.count(), []
    real = fit.fit_constants

    def counted(skeleton: Any, *given: Any, **own: Any) -> Any:
        fits.append(to_text(skeleton))
        return real(skeleton, *given, **own)

    proposing(monkeypatch, *(f"C*x1**{power}*x2+C" for power in range(2, 2 + texts)))
    monkeypatch.setattr(fit.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(fit, "fit_constants", counted)
    return clock, fits


def test_no_new_skeleton_is_fitted_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fits = clocked(monkeypatch, 10)
    found = looked(config=SearchConfig(candidates=8, time_limit_s=5.0))
    first = set(fits)
    assert 2 <= len(first) <= 5
    assert not found.finished
    assert len(found.candidates) >= 1


def test_one_skeleton_is_fitted_however_short_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fits = clocked(monkeypatch, 10)
    found = looked(config=dataclasses.replace(FEW, time_limit_s=1e-6))
    assert set(fits) == {"C*x1**2*x2+C"}
    assert not found.finished


def test_without_a_limit_all_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fits = clocked(monkeypatch, 10)
    found = looked()
    assert len({text for text in fits if text.endswith("*x2+C")}) >= 10
    assert found.finished


def test_the_time_of_each_part_is_told() -> None:
    seconds = looked().seconds
    assert set(seconds) == {"writing", "fitting"}
    assert min(seconds.values()) > 0


# Configurations that cannot be.


@pytest.mark.parametrize("name", ["candidates", "top_k", "bags", "refined"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
def test_counts_must_be_whole_and_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name}={value!r} must be a whole number of at least 1\."):
        SearchConfig(**{name: value})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"beams": -1}, r"beams=-1 must be a whole number of at least 0"),
        ({"pooled": -1}, r"pooled=-1 must be a whole number of at least 0"),
        ({"shown": 1}, r"shown=1 must be a whole number of at least 2"),
        ({"fitted_points": 1}, r"fitted_points=1 must be a whole number of at least 2"),
        ({"temperature": 0.0}, r"temperature=0\.0 must be above 0"),
        ({"temperature": float("nan")}, r"temperature=nan must be above 0"),
        ({"parsimony": -1.0}, r"parsimony=-1\.0 must be at least 0"),
        ({"parsimony": float("nan")}, r"parsimony=nan must be at least 0"),
        ({"time_limit_s": 0.0}, r"time_limit_s=0\.0 must be above 0, or None for no limit"),
    ],
)
def test_numbers_out_of_range_are_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**own)


@pytest.mark.parametrize("name", ["temperature", "parsimony", "time_limit_s"])
def test_what_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='x'"):
        SearchConfig(**{name: "x"})


def test_numpy_counts_are_whole_numbers_too() -> None:
    assert SearchConfig(candidates=np.int64(3)).candidates == 3
