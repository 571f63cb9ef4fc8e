"""Methods that look for formulas: ours, gplearn, pyoperon and a network, each with one thread, a seed and a clock."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ...errors import DataError
from ...imports.packages import needs
from ...imports.privates.gplearn import program_of
from ...symbolic import Pretrained, SymbolicGPTRegressor
from ...symbolic.expressions import Sum, freeze, parse, to_text

__all__ = [
    "FUNCTIONS",
    "METHODS",
    "PEERS",
    "Found",
    "Method",
    "gplearn",
    "gplearn_functions",
    "mlp",
    "not_warned",
    "operon_found",
    "operon_settings",
    "ours",
    "peer",
    "pyoperon",
]

FUNCTIONS = ("add", "sub", "mul", "div", "sin", "cos", "exp", "log", "sqrt")
"""What all methods may build formulas of; ours has asin and powers too, pyoperon squares."""

PEERS = {"gplearn": "gplearn.genetic", "pyoperon": "pyoperon.sklearn", "mlp": "sklearn.neural_network"}

_POPULATION, _GENERATIONS = 1000, 10
_EVALUATIONS, _LONGEST, _LOCAL_STEPS = 200_000, 30, 5
_CLIPPED = float(np.log(1e4))


@dataclass(frozen=True)
class Found:
    """What a method found for a problem.

    Attributes:
        predict: Values at points of shape (N, D), not finite where there are none. Shape (N,).
        text: The formula as the method writes it; empty if it has none.
        formula: The formula in canonical form, None where it has none or cannot be read.
        seconds: Time on the clock.
        cpu_seconds: Time of the processor.
        about: What else a method says, plain numbers.
    """

    predict: Callable[[Any], Any]
    text: str
    formula: Sum | None
    seconds: float
    cpu_seconds: float
    about: Mapping[str, float] = field(default_factory=dict)


Method = Callable[[Any, Any, int], Found]
"""Finds a formula given points, values and a seed."""


def peer(name: str) -> Any:
    """Import what a peer needs.

    Raises:
        MissingPackageError: If it is not installed.
    """
    with needs("A comparison", "peers"):
        return import_module(PEERS[name])


def ours(pretrained: Pretrained | None = None, candidates: int = 64) -> Method:
    """Return our estimator.

    Args:
        pretrained: The model; the one that comes with the package where left out.
        candidates: Skeletons that it writes.
    """

    def fit(x: Any, y: Any, seed: int) -> Found:
        estimator = SymbolicGPTRegressor(pretrained, candidates=candidates, random_state=seed)
        with not_warned(), _Clock() as clock:
            estimator.fit(x, y)
        about: dict[str, float] = {"familiar": float(estimator.familiar_)}
        if estimator.search_ is not None:
            written = estimator.search_.proposals
            about |= {"written": written.written, "invalid": written.invalid, "distinct": len(written.skeletons)}
            about |= {f"{part}_seconds": seconds for part, seconds in estimator.search_.seconds.items()}
        formula = estimator.formula_
        return Found(formula, to_text(formula.terms), formula.terms, *clock.seconds, about)

    return fit


def gplearn(population: int = _POPULATION, generations: int = _GENERATIONS) -> Method:
    """Return gplearn with the mean squared error and with exp beside its own functions; else its defaults.

    Args:
        population: Programs of a generation; the papers' 1000.
        generations: How many; the papers' 10.
    """
    genetic = peer("gplearn")
    functions = gplearn_functions()

    def fit(x: Any, y: Any, seed: int) -> Found:
        regressor = genetic.SymbolicRegressor(
            population_size=population, generations=generations, metric="mse", function_set=functions,
            random_state=seed, low_memory=True,
        )  # fmt: skip
        with not_warned(), _Clock() as clock:
            regressor.fit(x, y)
        text = _infix(iter(program_of(regressor)))
        return Found(_quietly(regressor.predict), text, _read(text), *clock.seconds)

    return fit


def gplearn_functions() -> list[Any]:
    """Return what gplearn builds programs of."""
    peer("gplearn")
    own = import_module("gplearn.functions").make_function(function=_clipped_exp, name="exp", arity=1)
    return [own if name == "exp" else name for name in FUNCTIONS]


def _clipped_exp(values: Any) -> Any:
    return np.exp(np.minimum(values, _CLIPPED))


def _infix(program: Iterator[Any]) -> str:
    """Write a program, functions before their arguments, in the usual notation."""
    node = next(program)
    if isinstance(node, (int, np.integer)):
        return f"x{int(node) + 1}"
    if not hasattr(node, "arity"):
        return f"({float(node)!r})"
    arguments = [_infix(program) for _ in range(node.arity)]
    sign = {"add": "+", "sub": "-", "mul": "*", "div": "/"}.get(node.name)
    return f"({arguments[0]}{sign}{arguments[1]})" if sign else f"{node.name}({arguments[0]})"


def operon_settings(**changes: Any) -> dict[str, Any]:
    """Return pyoperon's settings: population 1000, 200,000 evaluations, length 30, constants by 5 steps of LM."""
    return {
        "allowed_symbols": ",".join((*FUNCTIONS, "square", "constant", "variable")), "population_size": _POPULATION,
        "max_evaluations": _EVALUATIONS, "max_length": _LONGEST, "optimizer_iterations": _LOCAL_STEPS, "n_threads": 1,
        **changes,
    }  # fmt: skip


def pyoperon(evaluations: int = _EVALUATIONS) -> Method:
    """Return pyoperon, a compiled genetic program that fits constants by Levenberg and Marquardt.

    Args:
        evaluations: Of values and of derivatives.
    """
    module = peer("pyoperon")

    def fit(x: Any, y: Any, seed: int) -> Found:
        regressor = module.SymbolicRegressor(**operon_settings(random_state=seed + 1, max_evaluations=evaluations))
        with not_warned(), _Clock() as clock:
            regressor.fit(x, y)
        return operon_found(regressor, clock.seconds)

    return fit


def operon_found(regressor: Any, seconds: tuple[float, float], **about: float) -> Found:
    """Return what a fitted regressor of pyoperon found."""
    count = len(regressor.variables_)
    text = regressor.get_model_string(regressor.model_, 12, names=[f"x{place}" for place in range(1, count + 1)])
    evaluations = float(regressor.stats_["residual_evaluations"])
    return Found(_quietly(regressor.predict), text, _read(text), *seconds, {"evaluations": evaluations, **about})


def mlp() -> Method:
    """Return scikit-learn's network: two layers of 64 tanh units, LBFGS, variables and values standardised."""
    module = peer("mlp")
    compose = import_module("sklearn.compose")
    preprocessing = import_module("sklearn.preprocessing")
    pipeline = import_module("sklearn.pipeline")

    def fit(x: Any, y: Any, seed: int) -> Found:
        network = module.MLPRegressor(
            hidden_layer_sizes=(64, 64), activation="tanh", solver="lbfgs", max_iter=500, random_state=seed
        )
        regressor = compose.TransformedTargetRegressor(
            pipeline.make_pipeline(preprocessing.StandardScaler(), network), transformer=preprocessing.StandardScaler()
        )
        with not_warned(), _Clock() as clock:
            regressor.fit(x, y)
        return Found(_quietly(regressor.predict), "", None, *clock.seconds)

    return fit


METHODS: dict[str, Callable[..., Method]] = {"gplearn": gplearn, "pyoperon": pyoperon, "mlp": mlp}
"""The methods that ours is compared with."""


class _Clock:
    """Measures the seconds of a block, on one thread of torch."""

    seconds: tuple[float, float]

    def __enter__(self) -> _Clock:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        torch.set_num_threads(self._threads)


@contextmanager
def not_warned() -> Iterator[None]:
    """Let nothing warn: the methods meet values that are not finite all the time."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _quietly(predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def predicted(x: Any) -> Any:
        with not_warned():
            try:
                return np.asarray(predict(x), float)
            except ValueError:  # scikit-learn refuses values that are not finite
                return np.full(len(x), np.nan)

    return predicted


def _read(text: str) -> Sum | None:
    try:
        return freeze(parse(text))
    except (DataError, RecursionError):
        return None
