"""Symbolic regression with the interface of scikit-learn."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import ConfigError, DataError
from .expressions import NoFormulaError, Sum, evaluate, freeze, number
from .files import Pretrained, load_model, shipped
from .fit import Search, search
from .formula import Formula, readable_names, tidy
from .laws import relevant
from .scaling import standardise
from .search_config import SearchConfig

__all__ = ["SymbolicGPTRegressor", "UnfamiliarDataWarning"]

Columns = Literal["select", "all"]
_EXACT = 1e-13  # errors below this share of the variance are nothing but rounding
_MOST_COLUMNS = 20
_SMALLEST, _LARGEST = 1e-30, 1e30  # of numbers; a column that is 0 throughout is none


class UnfamiliarDataWarning(UserWarning):
    """The data are unlike those that the model learned from, so that it may have no good formula for them."""


class SymbolicGPTRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Finds a readable formula for a table of numbers, by a language model that reads the points.

    A pretrained model comes with the package, so that `fit` works at once and without a network.

    Args:
        model: A file that `sortednet symbolic train` wrote, or what `load_model` returned; the model that comes with
            the package where None.
        candidates: Skeletons that the model writes, at least 1. More take longer and find more.
        top_k: Tokens that are drawn among, at least 1.
        temperature: Of the draws, above 0.
        beams: Skeletons of a beam search beside the drawn ones, at least 0.
        parsimony: What a node of a formula costs, in units of the logarithm of its likelihood, at least 0. More give
            shorter formulas.
        time_limit_s: Seconds after which no new work is begun, above 0; none where None.
        columns: What happens where X has more than 20 columns: `select` keeps those that explain y step by step, and
            warns; `all` is an error.
        random_state: Seed of all that is drawn; the same seed gives the same formula.

    Attributes:
        formula_: The formula, a callable of numpy arrays and of tensors.
        expression_: Its text, with the names of the columns, which Python and sympy read.
        sympy_: As an expression of sympy.
        latex_: In LaTeX.
        candidates_: Formulas of which none has another one that is both shorter and closer, the shortest first.
        search_: What was found in detail: what the model wrote, seconds, whether time was up.
        familiar_: Whether the data are like those that the model learned from.
        columns_: Numbers of the columns that formulas may depend on.
        n_features_in_: Columns of X.
        feature_names_in_: Their names, if X has names.

    Raises:
        ConfigError: By `fit`, if an argument is out of its range.
        DataError: By `fit`, if there are more than 20 columns and `columns="all"`.
        ValueError: By `fit` and `predict`, if X or y are no finite numbers or have wrong shapes.

    Simple laws are looked for first, and the model is asked where none of them is exact: planes, polynomials, waves,
    products of powers and known factors, sums of known terms, under a transform of y. A formula that has no value
    somewhere in the box of the data is none.

    Source:
        Valipour et al. (2021), arXiv:2106.14131. Ours keeps signs, scales the data, fits constants from many starts,
        puts terms together anew, and ranks by error and length: on all points, or up to 40 on each left out.

    Example:
        >>> from sortednet.symbolic import SymbolicGPTRegressor
        >>> X = np.linspace(-2, 2, 40).reshape(-1, 1)
        >>> regressor = SymbolicGPTRegressor(random_state=0).fit(X, 3 * X[:, 0] ** 2 - 1)
        >>> regressor.expression_
        '3*x1**2-1'
    """

    def __init__(
        self,
        model: str | Path | Pretrained | None = None,
        *,
        candidates: int = 64,
        top_k: int = 40,
        temperature: float = 1.0,
        beams: int = 0,
        parsimony: float = 2.0,
        time_limit_s: float | None = None,
        columns: Columns = "select",
        random_state: int | None = None,
    ) -> None:
        self.model = model
        self.candidates = candidates
        self.top_k = top_k
        self.temperature = temperature
        self.beams = beams
        self.parsimony = parsimony
        self.time_limit_s = time_limit_s
        self.columns = columns
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any | None = None) -> SymbolicGPTRegressor:  # noqa: N803
        """Find a formula.

        Args:
            X: Numbers, a column for each variable. Shape (N, D), N at least 2.
            y: Their values. Shape (N,).
            sample_weight: Of the points, at least 0; equal where left out. Shape (N,).

        Returns:
            The estimator itself.
        """
        x, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = y.astype(np.float64)
        weights = np.ones(len(y))
        if sample_weight is not None:
            weights = _weights(sample_weight, len(x))
            if not weights.any():
                raise ValueError("sample_weight is zero for every point. Give at least two points a weight above 0.")
        if self.columns not in get_args(Columns):
            raise ConfigError(f"columns={self.columns!r} is unknown. Choose one of {', '.join(get_args(Columns))}.")
        config = SearchConfig(
            candidates=self.candidates, top_k=self.top_k, temperature=self.temperature, beams=self.beams,
            parsimony=self.parsimony, time_limit_s=self.time_limit_s,
        )  # fmt: skip
        seed = int(check_random_state(self.random_state).randint(2**31))
        x, y, weights = _merged(x, y, weights)
        _check_sizes(x, "X")
        _check_sizes(y, "y")
        pretrained = _opened(self.model)
        self.columns_ = self._select(x, y)
        names = readable_names(getattr(self, "feature_names_in_", None), x.shape[1])
        used = [names[place] for place in self.columns_]
        self.search_: Search | None = None
        self.familiar_ = True
        if np.ptp(y) <= 1e-14 * np.abs(y).max(initial=0.0):
            self.candidates_ = [Formula.of(number(float(y[0])), used, 0.0)]
            self.formula_ = self.candidates_[0]
            return self
        x = x[:, self.columns_]
        self.search_ = search(pretrained.model, x, y, config, seed=seed, weights=weights)
        self.familiar_ = self._is_familiar(pretrained, x, y)
        self.formula_, self.candidates_ = _presented(self.search_, x, y, weights, used)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the formula's values.

        Args:
            X: Shape (N, D).

        Returns:
            Shape (N,); nan, with a warning, where the formula has no value, such as the root of a negative number.
        """
        check_is_fitted(self, "formula_")
        x = validate_data(self, X, dtype=np.float64, reset=False)
        values = self.formula_(x[:, self.columns_])
        missing = int((~np.isfinite(values)).sum())
        if missing:
            warnings.warn(
                f"{self.expression_} has no finite value at {missing} of {len(values)} points.",
                UserWarning,
                stacklevel=2,
            )
            values = np.where(np.isfinite(values), values, np.nan)
        return values

    @property
    def expression_(self) -> str:
        """The formula as text."""
        check_is_fitted(self, "formula_")
        return str(self.formula_)

    @property
    def sympy_(self) -> Any:
        """The formula as an expression of sympy."""
        check_is_fitted(self, "formula_")
        return self.formula_.sympy()

    @property
    def latex_(self) -> str:
        """The formula in LaTeX."""
        check_is_fitted(self, "formula_")
        return self.formula_.latex()

    def _select(self, x: Any, y: Any) -> Any:
        """Return the numbers of the columns that formulas may depend on."""
        if x.shape[1] <= _MOST_COLUMNS:
            return np.arange(x.shape[1])
        if self.columns == "all":
            raise DataError(
                f"X has {x.shape[1]} columns, and formulas are looked for among up to {_MOST_COLUMNS}. Give fewer."
            )
        chosen = np.sort(relevant(x, y, _MOST_COLUMNS))
        warnings.warn(
            f"X has {x.shape[1]} columns, and formulas are looked for among up to {_MOST_COLUMNS}. Only columns "
            f"{chosen.tolist()} are used, which explain y step by step. Give fewer columns to choose others.",
            UserWarning,
            stacklevel=3,
        )
        return chosen

    def _is_familiar(self, pretrained: Pretrained, x: Any, y: Any) -> bool:
        """Return whether the model learned from such data, and warn if not, where it was asked."""
        scaled_x, scaled_y, *_ = standardise(x, y)
        why = pretrained.familiarity.why_not(scaled_x, scaled_y)
        if why is not None and self.search_ is not None and self.search_.proposals.written:
            warnings.warn(
                f"The data are unlike those that the model learned from: {why}. The formula may be poor. Compare its "
                "error (candidates_), give more points, or train a model on such data (sortednet symbolic train).",
                UnfamiliarDataWarning,
                stacklevel=3,
            )
        return why is None


def _merged(x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Join equal points and leave out those without weight, so that weights do what repeating points does."""
    rows, places = np.unique(np.column_stack([x, y])[weights > 0], axis=0, return_inverse=True)
    return rows[:, :-1], rows[:, -1], np.bincount(places.ravel(), weights[weights > 0])


def _check_sizes(values: Any, name: str) -> None:
    """Refuse numbers whose powers are beyond what floats hold.

    Raises:
        DataError: If the largest number of a column is.
    """
    for largest in np.atleast_1d(np.abs(values).max(0)):
        if largest and not _SMALLEST <= largest <= _LARGEST:
            raise DataError(
                f"The largest number of {name} is {largest:g}, and formulas are looked for between {_SMALLEST:g} and "
                f"{_LARGEST:g}. Choose other units."
            )


@cache
def _file(path: str, changed: float) -> Pretrained:
    return load_model(path)


@cache
def _shipped() -> Pretrained:
    return shipped()


def _opened(model: str | Path | Pretrained | None) -> Pretrained:
    if model is None:
        return _shipped()
    if isinstance(model, Pretrained):
        return model
    if not isinstance(model, (str, Path)):
        raise ConfigError(f"model={model!r} is no model. Give a file, what load_model returned, or None.")
    path = Path(model)
    return _file(str(path), path.stat().st_mtime if path.is_file() else 0.0)


def _presented(found: Search, x: Any, y: Any, weights: Any, names: Sequence[str]) -> tuple[Formula, list[Formula]]:
    """Return the best formula, and those that none is both shorter and closer than, in the data's own units."""
    columns = list(x.T)
    share = weights / weights.sum()
    variance = found.scaling.spread**2

    def error_of(terms: Sum) -> float:
        with np.errstate(all="ignore"):
            error = float((share * (evaluate(terms, columns) - y) ** 2).sum() / variance)
        return error if np.isfinite(error) else np.inf

    shortest_first = sorted(found.candidates[1:], key=lambda one: (one.complexity, one.error))
    chosen = [found.candidates[0]]
    for candidate in shortest_first:
        if len(chosen) == 1 or candidate.error < chosen[-1].error:
            chosen.append(candidate)
    ranked: list[Formula] = []
    for candidate in chosen:
        with suppress(NoFormulaError):  # a constant beyond what floats hold
            poly = tidy(found.scaling.back(candidate.formula), error_of)
            ranked.append(Formula.of(poly, names, error_of(freeze(poly))))
    ranked = ranked or [Formula.of(number(found.scaling.mean), names, 1.0)]
    front: list[Formula] = []
    for one in sorted(ranked, key=lambda one: (one.complexity, one.error)):
        if not front or (one.error < front[-1].error and front[-1].error > _EXACT):
            front.append(one)
    return ranked[0], front


def _weights(given: Any, count: int) -> Any:
    """Return the weight of each point, at least 0. Shape (N,)."""
    if given is None or isinstance(given, numbers.Number):
        given = np.full(count, 1.0 if given is None else given, np.float64)
    weights = check_array(given, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.shape != (count,):
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(count,)}!")
    if (weights < 0).any():
        raise ValueError("Negative values in data passed to `sample_weight`")
    return weights
