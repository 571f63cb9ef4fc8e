"""From points to formulas: the model proposes skeletons, their constants are fitted, the best are kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch

from ..errors import ConfigError, DataError
from ..views.draws import OwnDraws
from .constants import Fitted, Points, fit_constants, least_squares_of
from .expressions import (
    END,
    PAD,
    START,
    Monomial,
    Skeleton,
    Sum,
    Tokenizer,
    complexity,
    evaluate,
    fill,
    join,
    read_skeleton,
    shorter,
    term_values,
    to_text,
    variables_of,
    with_values,
)
from .model import SymbolicGPT
from .scaling import Scaling, standardise

__all__ = ["Candidate", "Proposals", "Search", "SearchConfig", "propose", "search"]

_EXACT = 1e-14  # errors below this share of the variance are nothing but rounding
_USUAL = 10.0  # times the standard deviation of y: terms of this size are no sign of cancellation
_ROUNDING = 1e-12  # of terms ten times as large, as an error: six digits are enough to write a constant down


@dataclass(frozen=True)
class SearchConfig:
    """How formulas are looked for.

    Args:
        candidates: Skeletons that the model writes, at least 1.
        top_k: Tokens that are drawn among, at least 1; the papers' 40.
        temperature: Of the draws, above 0.
        beams: Skeletons of a beam search beside the drawn ones, at least 0.
        shown: Points that the model is shown at once, at least 2. Where there are more, each of `bags` is shown others.
        bags: Sets of points, at least 1.
        fitted_points: Points that constants are first fitted to, at least 2; the best skeletons then see all.
        followed: Skeletons that are fitted from more starts and in more steps after a first look, at least 1.
        refined: Skeletons whose constants are fitted to the last digits, at least 1.
        pooled: Terms of the fitted skeletons that are put together anew, one by one; 0 for none.
        parsimony: What a node of a formula costs, in units of the logarithm of its likelihood, at least 0.
        time_limit_s: Seconds after which no new work is begun, above 0; none where left out. The model always writes
            its candidates, and at least one is fitted.

    Raises:
        ConfigError: If a value is outside its range.
    """

    candidates: int = 64
    top_k: int = 40
    temperature: float = 1.0
    beams: int = 0
    shown: int = 128
    bags: int = 2
    fitted_points: int = 128
    followed: int = 16
    refined: int = 6
    pooled: int = 80
    parsimony: float = 2.0
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}.")
        for name in ("temperature", "parsimony", "time_limit_s"):
            value = getattr(self, name)
            if name == "time_limit_s" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise ConfigError(f"{name}={value!r} is no number. Give one above 0.")
        if not self.temperature > 0:
            raise ConfigError(f"temperature={self.temperature} must be above 0.")
        if not self.parsimony >= 0:
            raise ConfigError(f"parsimony={self.parsimony} must be at least 0.")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ConfigError(f"time_limit_s={self.time_limit_s} must be above 0, or None for no limit.")


_LEAST = {
    "candidates": 1, "top_k": 1, "beams": 0, "shown": 2, "bags": 1, "fitted_points": 2, "followed": 1, "refined": 1,
    "pooled": 0,
}  # fmt: skip


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
class Proposals:
    """What the model wrote.

    Attributes:
        skeletons: The distinct ones in canonical form, in the order of their first writing.
        written: How many texts there were.
        invalid: How many of them were no skeleton of the problem's variables.
    """

    skeletons: tuple[Skeleton, ...]
    written: int
    invalid: int


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
    proposals = propose(model, scaled_x, scaled_y, config, generator, writing)
    wrote = time.monotonic()
    share = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    points = Points(list(scaled_x.T), scaled_y, np.sqrt(share / share.mean()))
    fitting = _Fitting(points, config, generator, deadline)
    fitting.run(proposals.skeletons)
    seconds = {"writing": wrote - began, "fitting": time.monotonic() - wrote}
    return Search(tuple(fitting.ranked()), scaling, proposals, seconds, not fitting.late)


@torch.no_grad()
def propose(
    model: SymbolicGPT,
    x: Any,
    y: Any,
    config: SearchConfig,
    generator: np.random.Generator,
    writing: Mapping[str, Any] | None = None,
) -> Proposals:
    """Let the model write skeletons.

    Args:
        model: In evaluation mode.
        x: Scaled points. Shape (N, D).
        y: Scaled values. Shape (N,).
        config: How many, and how they are drawn.
        generator: Of what is drawn.
        writing: More arguments of transformers' `generate`.

    Raises:
        DataError: If there are more variables than the model takes.
    """
    count, variables = x.shape
    if variables > model.config.variables:
        raise DataError(
            f"X has {variables} columns, and the model was trained for up to {model.config.variables}. Choose "
            "columns, or train a larger model (sortednet symbolic train)."
        )
    bags = 1 if count <= config.shown else min(config.bags, config.candidates)
    parameter = next(model.parameters())
    points = np.zeros((bags, min(count, config.shown), model.config.variables + 1))
    for bag in range(bags):
        chosen = generator.permutation(count)[: config.shown]
        points[bag, :, :variables], points[bag, :, -1] = x[chosen], y[chosen]
    told = torch.as_tensor(points, dtype=parameter.dtype, device=parameter.device)
    embedded = model.data(told, torch.ones(told.shape[:2], device=parameter.device))
    drawn = {"do_sample": True, "top_k": config.top_k, "temperature": config.temperature, **(writing or {})}
    texts: list[str] = []
    with OwnDraws(int(generator.integers(2**62))):
        for bag, count in enumerate(len(part) for part in np.array_split(range(config.candidates), bags)):
            texts += _write(model, embedded[bag : bag + 1], count, drawn)
        if config.beams:
            beams = {"num_beams": config.beams, "num_return_sequences": config.beams}
            texts += _write(model, embedded[:1], 1, beams)
    return _read(texts, variables)


def _write(model: SymbolicGPT, embedded: torch.Tensor, count: int, options: Mapping[str, Any]) -> list[str]:
    """Let the model write texts about embedded data, shape (1, W); empty where one does not come to an end."""
    tokenizer = Tokenizer(model.config.tokenizer)
    start = torch.full((count, 1), START, device=embedded.device)
    common = {"max_length": model.config.positions, "pad_token_id": PAD, "eos_token_id": END}
    gpt: Any = model.decoder.network
    with model.decoder.given(embedded):
        written = gpt.generate(start, attention_mask=torch.ones_like(start), **common, **options)
    return [tokenizer.decode(row) if END in row else "" for row in written[:, 1:].tolist()]


def _read(texts: Iterable[str], variables: int) -> Proposals:
    found: dict[Skeleton, None] = {}
    written = invalid = 0
    known: dict[str, Skeleton | None] = {}
    for text in texts:
        written += 1
        if text not in known:
            known[text] = _skeleton(text, variables)
        skeleton = known[text]
        if skeleton is None:
            invalid += 1
        else:
            found.setdefault(skeleton)
    return Proposals(tuple(found), written, invalid)


def _skeleton(text: str, variables: int) -> Skeleton | None:
    try:
        skeleton = read_skeleton(text)
    except DataError:
        return None
    return skeleton if max(variables_of(skeleton), default=0) <= variables else None


class _Fitting:
    """Fits skeletons to points, puts their terms together anew, and keeps what is best."""

    def __init__(
        self, points: Points, config: SearchConfig, generator: np.random.Generator, deadline: float | None
    ) -> None:
        self.config, self.generator, self.deadline = config, generator, deadline
        self.points = points.few(_MOST_POINTS, generator)
        self.few = points.few(config.fitted_points, generator)
        self.late = False
        self._fits: dict[Skeleton, Fitted] = {}
        self._found: dict[str, Candidate] = {}

    def run(self, skeletons: Sequence[Skeleton]) -> None:
        """Fit all, then go on with the best."""
        for skeleton in skeletons:
            if self._is_late() and self._fits:
                break
            self._fit(skeleton, self.few, kept=1, steps=_FIRST_STEPS)
        for fitted in sorted(self._fits.values(), key=self._score_of)[: self.config.followed]:
            if self._is_late() or self._is_exact():
                break
            self._fit(fitted.skeleton, self.few, known=fitted.values, starts=_MANY_STARTS, kept=3)
        if self.config.pooled and not self._is_exact() and not self._is_late():
            self._recombine()
        kept = min(self.config.refined, _MOST_EXACT) if self._is_exact() else self.config.refined
        best = sorted(self._fits.values(), key=self._score_of)[:kept]
        for fitted in best:
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

    def _is_late(self) -> bool:
        self.late = self.late or (self.deadline is not None and time.monotonic() > self.deadline)
        return self.late

    def _is_exact(self) -> bool:
        return any(fitted.error < _EXACT for fitted in self._fits.values())

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
        return len(self.few.y) / 2 * float(np.log(error + lost + _EXACT)) + length

    def _score_of(self, fitted: Fitted) -> float:
        return self._score(fitted.error, complexity(fitted.skeleton), fitted.size)

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
            if self._is_late():
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
            if self._is_late():
                return
            skeleton, values = join([terms[place] for place in places])
            self._fit(skeleton, self.few, known=values, kept=1)

    def _keep(self, fitted: Fitted) -> None:
        """Fit to all points and to the last digits, leave out terms that do not pay, and keep both."""
        refined = fit_constants(
            fitted.skeleton, self.points, self.generator, starts=4, kept=1, known=fitted.values, exact=True
        )
        fitted = refined or fitted  # errors of the few points and of all are not comparable
        self._add(fitted)
        while not self._is_late():
            best = min(self._shorter(fitted), key=self._score_of, default=fitted)
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
        nodes = complexity(formula)
        found = Candidate(formula, fitted.error, nodes, self._score(fitted.error, nodes, fitted.size))
        text = to_text(fitted.skeleton)
        if text not in self._found or found.score < self._found[text].score:
            self._found[text] = found


_FIRST_STEPS = 8
_MANY_STARTS = 200
_MOST_EXACT = 2
_MOST_TERMS = 9
_MOST_POINTS = 5000

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
