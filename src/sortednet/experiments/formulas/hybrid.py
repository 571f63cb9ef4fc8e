"""pyoperon started from our formulas, against pyoperon started cold, in the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from ...symbolic import Pretrained, SymbolicGPTRegressor
from ...symbolic.expressions import NoFormulaError, Sum, complexity, freeze
from ...symbolic.fit import Search
from .methods import Found, not_warned, operon_found, operon_settings, peer

__all__ = ["cold_and_started"]

_EVALUATIONS = 150_000
_LONGEST = 50
_SEEDED_SHARE = 0.2  # of the first population
_MOST_FORMULAS = 20
_EXACT = 1e-13
_PARSIMONY = 2.0  # what a node costs, in units of the logarithm of the likelihood: as in our own ranking
_MARGIN = 1.05  # of the time that the cold start gets beyond the other's
_STARTS = 4


def cold_and_started(
    x: Any, y: Any, seed: int, pretrained: Pretrained | None = None, evaluations: int = _EVALUATIONS
) -> dict[str, Found]:
    """Let pyoperon start from our candidates, and cold with as many evaluations as fill the same time.

    Started: our estimator looks for formulas; if one is exact on the training points, that is the answer. Otherwise its
    best formulas are a fifth of pyoperon's first population, and the answer is what pyoperon ends with or our own
    formula, whichever has the better score on the training points (likelihood and length). The time is that of both.
    Cold: the same pyoperon with so many evaluations more that it takes at least that time, unless it stops by itself.

    Args:
        x: Points. Shape (N, D).
        y: Their values. Shape (N,).
        seed: Of all.
        pretrained: Our model; the one that comes with the package where left out.
        evaluations: Of the started pyoperon.

    Returns:
        What `started`, `cold` and `ours` alone found, each with its seconds.
    """
    module = peer("pyoperon")
    with not_warned():
        began = time.perf_counter(), time.process_time()
        estimator = SymbolicGPTRegressor(pretrained, random_state=seed).fit(x, y)
        own_seconds = _since(began)
        formula = estimator.formula_
        own = Found(formula, str(formula), formula.terms, *own_seconds)
        settings = operon_settings(random_state=seed + 1, max_evaluations=evaluations, max_length=_LONGEST)
        if estimator.search_ is None or formula.error < _EXACT:
            started, rate = own, None
        else:
            formulas = _formulas(estimator.search_)
            regressor = module.SymbolicRegressor(**settings)
            _start_from(regressor, x, y, formulas)
            seconds = _since(began)
            rate = _evaluations(regressor) / max(1e-9, seconds[1] - own_seconds[1])
            started = _better(operon_found(regressor, seconds), own, x, y, seconds)
        if rate is None:
            rate = _rate(module, settings, x, y)
        cold = _cold(module, settings, x, y, rate, started.cpu_seconds)
    return {"started": started, "cold": cold, "ours": own}


def _cold(module: Any, settings: Mapping[str, Any], x: Any, y: Any, rate: float, least: float) -> Found:
    """Start pyoperon cold, again with more evaluations where it ended before its time; the last start counts."""
    budget = max(1000, math.ceil(_MARGIN * rate * least))
    for _ in range(_STARTS):
        regressor = module.SymbolicRegressor(**{**settings, "max_evaluations": budget})
        began = time.perf_counter(), time.process_time()
        regressor.fit(x, y)
        seconds = _since(began)
        if seconds[1] >= least or _evaluations(regressor) < budget:
            break
        budget = math.ceil(_MARGIN * budget * least / seconds[1])
    return operon_found(regressor, seconds)


def _evaluations(regressor: Any) -> float:
    """Return how many evaluations a fit took, as its budget counts them: of values and of derivatives."""
    return float(regressor.stats_["residual_evaluations"] + regressor.stats_["jacobian_evaluations"])


def _since(began: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _formulas(found: Search) -> list[Sum]:
    formulas = []
    for one in found.candidates[:_MOST_FORMULAS]:
        with suppress(NoFormulaError):
            formulas.append(freeze(found.scaling.back(one.formula)))
    return formulas


def _rate(module: Any, settings: Mapping[str, Any], x: Any, y: Any) -> float:
    """Return evaluations a second, measured on a short run whose result is thrown away."""
    began = time.perf_counter(), time.process_time()
    regressor = module.SymbolicRegressor(**{**settings, "max_evaluations": 20_000}).fit(x, y)
    return _evaluations(regressor) / max(1e-9, _since(began)[1])


def _start_from(regressor: Any, x: Any, y: Any, formulas: Sequence[Sum]) -> None:
    """Fit with these formulas in the first population: pyoperon goes on from individuals of an earlier fit."""
    generations = regressor.generations
    regressor.set_params(generations=0).fit(x, y)  # draws and evaluates a first population, no more
    individuals = list(regressor.individuals_)
    size = regressor.population_size
    hashes = list(regressor.variables_)
    trees = [tree for one in formulas if (tree := _tree(one, hashes)) is not None]
    worst = np.argsort([-one.GetFitness(0) for one in individuals[:size]], kind="stable")
    for place, target in enumerate(worst[: int(_SEEDED_SHARE * size) if trees else 0]):
        individuals[target] = _individual(trees[place % len(trees)])
    regressor.individuals_ = individuals
    regressor.set_params(generations=generations, warm_start=True).fit(x, y)


def _individual(tree: Any) -> Any:
    made = import_module("pyoperon").Individual(1)
    made.Genotype = tree
    return made


def _tree(formula: Sum, hashes: Sequence[int]) -> Any | None:
    """Return a formula as a tree of pyoperon; None if it is too long."""
    operon = import_module("pyoperon")
    nodes = _Nodes(operon, hashes).sum(formula)
    return operon.Tree(nodes).UpdateNodes() if len(nodes) <= _LONGEST else None


class _Nodes:
    """Writes formulas as pyoperon's nodes, in which the second argument comes before the first."""

    def __init__(self, operon: Any, hashes: Sequence[int]) -> None:
        self._operon, self._hashes = operon, hashes
        self._kinds = operon.NodeType

    def sum(self, formula: Sum) -> list[Any]:
        total: list[Any] = []
        for monomial, coefficient in formula:
            term = self._term(monomial, float(coefficient))
            total = self._join("Add", total, term) if total else term
        return total or [self._constant(0.0)]

    def _term(self, monomial: Any, coefficient: float) -> list[Any]:
        above: list[Any] = []
        below: list[Any] = []
        for (kind, inner), exponent in monomial:
            base = self._atom(kind, inner)
            part = self._power(base, abs(exponent))
            if exponent > 0:
                above = self._join("Mul", above, part) if above else part
            else:
                below = self._join("Mul", below, part) if below else part
        if not above:
            above = [self._constant(coefficient)]
        elif len(above) == 1:
            above[0].Value = coefficient
        elif coefficient != 1:
            above = self._join("Mul", [self._constant(coefficient)], above)
        return self._join("Div", above, below) if below else above

    def _atom(self, kind: str, inner: Any) -> list[Any]:
        if kind == "x":
            node = self._operon.Node(self._kinds.Variable, self._hashes[inner - 1])
            node.Value, node.Optimize = 1.0, True
            return [node]
        nodes = self.sum(inner)
        return nodes if kind == "group" else [*nodes, self._operon.Node(getattr(self._kinds, kind.capitalize()))]

    def _power(self, base: list[Any], exponent: int) -> list[Any]:
        if exponent == 1:
            return base
        if exponent % 2:
            return self._join("Mul", self._copy(base), self._power(base, exponent - 1))
        return [*self._power(base, exponent // 2), self._operon.Node(self._kinds.Square)]

    def _copy(self, nodes: Sequence[Any]) -> list[Any]:
        return list(self._operon.Tree(list(nodes)).Nodes)

    def _constant(self, value: float) -> Any:
        node = self._operon.Node(self._kinds.Constant)
        node.Value, node.Optimize = value, True
        return node

    def _join(self, kind: str, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        return [*second, *first, self._operon.Node(getattr(self._kinds, kind))]


def _better(theirs: Found, own: Found, x: Any, y: Any, seconds: tuple[float, float]) -> Found:
    """Return the one with the better score on the training points, with the seconds of both."""
    best = min((theirs, own), key=lambda one: _score(one, x, y))
    return Found(best.predict, best.text, best.formula, *seconds, {"own": float(best is own)})


def _score(found: Found, x: Any, y: Any) -> float:
    predicted = found.predict(x)
    if not np.isfinite(predicted).all():
        return math.inf
    error = float(((predicted - y) ** 2).mean() / y.var())
    nodes = complexity(found.formula) if found.formula is not None else _LONGEST
    return len(y) / 2 * math.log(error + _EXACT) + _PARSIMONY * nodes
