"""From points to formulas: the model proposes skeletons, their constants are fitted, the best are kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, final

import numpy as np

from .constants import Fitted, Points, fit_constants, held_out_error, least_squares_of
from .domain import Domain
from .expressions import (
    Monomial,
    NoFormulaError,
    Poly,
    Skeleton,
    Sum,
    complexity,
    evaluate,
    fill,
    join,
    shorter,
    term_values,
    to_text,
    with_values,
)
from .laws import find_laws, relevant, skeletons, waves
from .model import SymbolicGPT
from .proposals import Proposals, propose
from .scaling import Scaling, standardise
from .search_config import SearchConfig

__all__ = ["Candidate", "Search", "search"]

_EXACT = 1e-14  # errors below this share of the variance are nothing but rounding
_USUAL = 10.0  # times the standard deviation of y: terms of this size are no sign of cancellation
_ROUNDING = 1e-12  # of terms ten times as large, as an error: six digits are enough to write a constant down


@final
@dataclass(frozen=True)
class Candidate:
    """A formula that was found.

    Attributes:
        formula: With values, of the scaled variables, giving the scaled y.
        error: Weighted mean of the squared differences of y, as a share of its variance.
        complexity: Nodes of the formula's tree.
        score: What formulas are ranked by, the smaller the better.
    """

    formula: Sum
    error: float
    complexity: int
    score: float


@final
@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        candidates: The formulas, the best by score first.
        scaling: How the problem was scaled.
        proposals: What the model wrote.
        seconds: By part: `writing` and `fitting`.
        finished: Whether it was not stopped by the time limit.
    """

    candidates: tuple[Candidate, ...]
    scaling: Scaling
    proposals: Proposals
    seconds: Mapping[str, float] = field(default_factory=dict)
    finished: bool = True


def search(
    model: SymbolicGPT,
    x: Any,
    y: Any,
    config: SearchConfig | None = None,
    *,
    seed: int = 0,
    weights: Any | None = None,
    writing: Mapping[str, Any] | None = None,
) -> Search:
    """Look for formulas.

    Args:
        model: In evaluation mode.
        x: Points, finite. Shape (N, D).
        y: Their values, finite. Shape (N,).
        config: How to look; as `SearchConfig` says where left out.
        seed: Of all that is drawn.
        weights: Of the points, above 0; equal where left out. Shape (N,).
        writing: More arguments of transformers' `generate`, such as `custom_generate`.

    Returns:
        What was found; at least one formula.

    Raises:
        DataError: If there are more variables than the model takes.
    """
    config = config or SearchConfig()
    began = time.monotonic()
    deadline = None if config.time_limit_s is None else began + config.time_limit_s
    scaled_x, scaled_y, factors, mean, spread = standardise(x, y, weights)
    scaling = Scaling(factors, float(mean), float(spread))
    generator = np.random.default_rng(seed)
    share = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    points = Points(list(scaled_x.T), scaled_y, np.sqrt(share / share.mean()))
    fitting = _Fitting(points, config, generator, deadline)
    if config.laws:
        own = Points(list(np.asarray(x, float).T), np.asarray(y, float), points.roots)
        fitting.try_laws(_laws(own.few(_LAW_POINTS, generator), scaling))
    writing_began = time.monotonic()
    proposals = Proposals((), 0, 0)
    if not config.laws or not (fitting.is_exact() or fitting.is_late()):
        proposals = _written(model, scaled_x, scaled_y, config, generator, writing)
    wrote = time.monotonic()
    fitting.run(proposals.skeletons)
    writing_s = wrote - writing_began
    seconds = {"writing": writing_s, "fitting": time.monotonic() - began - writing_s}
    return Search(tuple(fitting.ranked()), scaling, proposals, seconds, not fitting.late)


def _laws(points: Points, scaling: Scaling) -> Iterator[Poly]:
    """Yield laws of points in their own units, as they are of the scaled ones."""
    for found in find_laws(points):
        with suppress(NoFormulaError):
            yield scaling.forth(found.formula)


def _written(
    model: SymbolicGPT, x: Any, y: Any, config: SearchConfig, generator: np.random.Generator, writing: Any
) -> Proposals:
    """Let the model write about all variables, or about the most relevant ones where there are more than it takes."""
    most = model.config.variables
    if x.shape[1] <= most or not config.laws:
        return propose(model, x, y, config, generator, writing)
    shown = sorted(relevant(x, y, most))
    found = propose(model, x[:, shown], y, config, generator, writing)
    return replace(found, skeletons=tuple(_renamed(one, shown) for one in found.skeletons))


def _renamed(formula: Sum, places: Sequence[int]) -> Sum:
    """Return a formula of some variables, in their order, as one of all."""
    return tuple(
        (
            tuple(
                ((kind, places[inner - 1] + 1 if kind == "x" else _renamed(inner, places)), exponent)
                for (kind, inner), exponent in monomial
            ),
            coefficient,
        )
        for monomial, coefficient in formula
    )


class _Fitting:
    """Fits skeletons to points, puts their terms together anew, and keeps what is best."""

    def __init__(
        self, points: Points, config: SearchConfig, generator: np.random.Generator, deadline: float | None
    ) -> None:
        self.config, self.generator, self.deadline = config, generator, deadline
        self.points = points.few(_MOST_POINTS, generator)
        self.few = points.few(config.fitted_points, generator)
        self.count = len(points.y)
        self.domain = Domain(points.columns)
        self.late = False
        self._fits: dict[Skeleton, Fitted] = {}
        self._found: dict[str, Candidate] = {}

    def try_laws(self, laws: Iterable[Poly]) -> None:
        """Fit laws that were found, and, where none of them is exact, the forms that are always tried."""
        for poly in laws:
            self._start(poly)
        if self.is_exact():
            return
        for poly in waves(self.few):
            self._start(poly)
        for skeleton in skeletons(self.few):
            if self.is_late() and self._fits:
                return
            self._fit(skeleton, self.few, kept=1, steps=_FIRST_STEPS)

    def _start(self, poly: Poly) -> None:
        if self.is_late() and self._fits:
            return
        skeleton, values = with_values(poly)
        if len(values) < len(self.few.y):
            self._fit(skeleton, self.few, known=values, starts=1, kept=1, steps=_FIRST_STEPS)

    def run(self, skeletons: Sequence[Skeleton]) -> None:
        """Fit all, then go on with the best."""
        for skeleton in skeletons:
            if self.is_late() and self._fits:
                break
            self._fit(skeleton, self.few, kept=1, steps=_FIRST_STEPS)
        for fitted in sorted(self._fits.values(), key=self._score_of)[: self.config.followed]:
            if self.is_late() or self.is_exact():
                break
            self._fit(fitted.skeleton, self.few, known=fitted.values, starts=_MANY_STARTS, kept=3)
        if self.config.pooled and not self.is_exact() and not self.is_late():
            self._recombine()
        kept = min(self.config.refined, _MOST_EXACT) if self.is_exact() else self.config.refined
        sound = (one for one in sorted(self._fits.values(), key=self._score_of) if self._is_sound(one))
        for fitted in list(islice(sound, kept)):
            self._keep(fitted)
        for fitted in self._front():
            self._add(self._on_all(fitted))

    def _front(self) -> Iterator[Fitted]:
        """Yield the mean, and the fits that none is both shorter and closer than."""
        best = _mean(self.points)
        yield best
        for fitted in sorted(self._fits.values(), key=lambda one: (complexity(one.skeleton), one.error)):
            if fitted.error < best.error:
                best = fitted
                yield fitted

    def _on_all(self, fitted: Fitted) -> Fitted:
        """Return a fit with its error on all points."""
        with np.errstate(all="ignore"):
            values = evaluate(fill(fitted.skeleton, fitted.values), self.points.columns)
            error = float(((values - self.points.y) ** 2 * self.points.roots**2).mean())
        return replace(fitted, error=error if np.isfinite(error) else np.inf)

    def ranked(self) -> list[Candidate]:
        """Return what was found, the best first."""
        return sorted(self._found.values(), key=lambda one: one.score)

    def is_late(self) -> bool:
        """Whether time is up."""
        self.late = self.late or (self.deadline is not None and time.monotonic() > self.deadline)
        return self.late

    def is_exact(self) -> bool:
        """Whether a formula with fewer constants than half of the points goes through all of them."""
        most = len(self.few.y) / 2
        return any(one.error < _EXACT and len(one.values) < most and self._is_sound(one) for one in self._fits.values())

    def _is_sound(self, fitted: Fitted) -> bool:
        """Whether a formula has values in the whole box of the data."""
        return self.domain.holds(fill(fitted.skeleton, fitted.values))

    def _fit(self, skeleton: Skeleton, points: Points, **options: Any) -> Fitted | None:
        fitted = fit_constants(skeleton, points, self.generator, **options)
        if fitted is not None and (skeleton not in self._fits or fitted.error < self._fits[skeleton].error):
            self._fits[skeleton] = fitted
        return fitted

    def _score(self, error: float, nodes: int, size: float = 1.0) -> float:
        """Return what formulas are ranked by: a description length.

        Args:
            error: As a share of the variance.
            nodes: Of the formula's tree.
            size: Of its largest term. What terms cancel of each other is known to as many digits fewer.
        """
        lost = max(1.0, size / _USUAL) ** 2 * _ROUNDING
        length = self.config.parsimony * (nodes + 2 * float(np.log10(max(1.0, size / _USUAL))))
        return self.count / 2 * float(np.log(error + lost + _EXACT)) + length

    def _score_of(self, fitted: Fitted) -> float:
        own = self._score(fitted.error, complexity(fitted.skeleton), fitted.size)
        return own + _few_points(len(fitted.values), self.count)

    def _recombine(self) -> None:
        """Take the terms of the best fits, with the constants inside of them, and choose among them one by one."""
        best = sorted(self._fits.values(), key=self._score_of)
        terms: dict[Any, Term] = {}
        columns: list[Any] = []
        for fitted in best:
            with np.errstate(all="ignore"):
                values = term_values(fitted.skeleton, self.few.columns, fitted.values)
            for term, own in zip(_terms(fitted), values, strict=True):
                key = _key(term)
                column = np.broadcast_to(own, self.few.y.shape)
                if not term[0] or key in terms or not np.isfinite(column).all() or not column.std():
                    continue
                if len(terms) < self.config.pooled:
                    terms[key] = term
                    columns.append(column)
        if not columns:
            return
        whole = np.stack(columns, 1)
        for first in (None, best[0]):
            if self.is_late():
                return
            self._choose(list(terms.values()), whole, first)

    def _choose(self, terms: Sequence[Term], columns: Any, first: Fitted | None) -> None:
        """Add the term that leaves the least, again and again, beginning with those of a fit; fit the better sums."""
        roots = self.few.roots[:, None]
        y = self.few.y * self.few.roots
        weighted = columns * roots
        chosen: list[int] = []
        if first is not None:
            own = {_key(term) for term in _terms(first)}
            chosen = [place for place, term in enumerate(terms) if _key(term) in own]
        constant = roots.copy()
        tried: list[tuple[float, tuple[int, ...]]] = []
        for _ in range(_MOST_TERMS - len(chosen)):
            left = [place for place in range(len(terms)) if place not in chosen]
            if not left:
                break
            base = np.concatenate([constant, weighted[:, chosen]], 1)
            rest = least_squares_of(base, np.concatenate([y[:, None], weighted[:, left]], 1))[1]
            with np.errstate(all="ignore"):  # of terms beyond what squares can hold
                sizes = (rest[:, 1:] ** 2).sum(0)
                usable = sizes > 1e-12 * (weighted[:, left] ** 2).sum(0)
                gains = (rest[:, 1:].T @ rest[:, 0]) ** 2 / np.where(usable, sizes, 1)
            gains = np.where(usable & np.isfinite(gains), gains, 0)
            chosen.append(left[int(gains.argmax())])
            remaining = least_squares_of(np.concatenate([constant, weighted[:, chosen]], 1), y)[1]
            error = float((remaining**2).mean())
            nodes = sum(complexity(((terms[place][0], 1.0),)) + 3 for place in chosen) + 1
            tried.append((self._score(error, nodes), tuple(chosen)))
            if error < _EXACT:
                break
        for _, places in sorted(tried)[:3]:
            if self.is_late():
                return
            skeleton, values = join([terms[place] for place in places])
            self._fit(skeleton, self.few, known=values, kept=1)

    def _keep(self, fitted: Fitted) -> None:
        """Fit to all points and to the last digits, leave out terms that do not pay, and keep both."""
        refined = fit_constants(
            fitted.skeleton, self.points, self.generator, starts=4, kept=1, known=fitted.values, exact=True
        )
        if refined is None or not self._is_sound(refined):
            return
        fitted = refined  # errors of the few points and of all are not comparable
        self._add(fitted)
        while not self.is_late():
            best = min(filter(self._is_sound, self._shorter(fitted)), key=self._score_of, default=fitted)
            if self._score_of(best) >= self._score_of(fitted):
                break
            fitted = best
            self._add(fitted)

    def _shorter(self, fitted: Fitted) -> Iterator[Fitted]:
        """Yield fits without one of their parts, a term or a factor, anywhere in the formula."""
        for formula in shorter(fill(fitted.skeleton, fitted.values)):
            skeleton, values = with_values(formula)
            found = fit_constants(
                skeleton,
                self.points,
                self.generator,
                starts=2,
                kept=1,
                steps=10,
                known=values,
                exact=fitted.error < _EXACT,
            )
            if found is not None:
                yield found

    def _add(self, fitted: Fitted) -> None:
        formula = fill(fitted.skeleton, fitted.values)
        if not np.isfinite(fitted.error) or not self.domain.holds(formula):
            return
        nodes = complexity(formula)
        error = held_out_error(fitted, self.points) if self.count <= _FEW else fitted.error
        score = self._score(error, nodes, fitted.size) + _few_points(len(fitted.values), self.count)
        found = Candidate(formula, fitted.error, nodes, score)
        text = to_text(fitted.skeleton)
        if text not in self._found or found.score < self._found[text].score:
            self._found[text] = found


_FEW = 40  # points, up to which formulas are ranked by their error at points left out
_LAW_POINTS = 200
_FIRST_STEPS = 8
_MANY_STARTS = 200
_MOST_EXACT = 2
_MOST_TERMS = 9
_MOST_POINTS = 5000


def _few_points(constants: int, points: int) -> float:
    """Return what constants cost where there are few points: the correction of Akaike's criterion (AICc).

    Source:
        Hurvich and Tsai (1989), "Regression and time series model selection in small samples", Biometrika 76, Eq. 4.
    """
    count = constants + 1  # with the variance
    return count * (count + 1) / (points - count - 1) if points > count + 1 else _NONE_LEFT * count


_NONE_LEFT = 1e3

Term = tuple[Monomial, Any]  # without its coefficient, with the values of all constants of the skeleton that it is from


def _terms(fitted: Fitted) -> list[Term]:
    return [(monomial, fitted.values) for monomial, _ in fitted.skeleton]


def _key(term: Term) -> Any:
    return fill(((term[0], 1.0),), term[1])


def _mean(points: Points) -> Fitted:
    """Return the constant formula, for where nothing else can be fitted."""
    weights = points.roots**2
    mean = float((weights * points.y).sum() / weights.sum())
    return Fitted((((), 0),), np.array([mean]), float((weights * (points.y - mean) ** 2).mean()))
