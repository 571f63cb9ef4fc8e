"""What the tests of symbolic regression share: random formulas with three ways to evaluate them, and a tiny model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from sortednet.symbolic import (
    Familiarity,
    GeneratorConfig,
    ModelConfig,
    Pretrained,
    ProblemData,
    SymbolicGPT,
    make_pool,
    token_loss,
)
from sortednet.symbolic.expressions import Pool

settings.register_profile("symbolic", max_examples=80, deadline=None, derandomize=True, database=None)
few = settings.get_profile("symbolic")

ALL_OPERATORS = ("id", "add", "mul", "sin", "pow", "cos", "exp", "div", "sub", "log", "sqrt", "asin")
UNARY = ("sin", "cos", "exp", "log", "sqrt", "asin")
VALUES = (0.5, 1.0, 1.5, 2.0, 0.25, 3.0, 1.7, 0.3)

_NAIVE: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("sin", "cos", "exp", "log", "sqrt")},
    "asin": np.arcsin,
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}


@dataclass(frozen=True)
class Tree:
    """A formula as it was written: nothing is simplified."""

    kind: str  # a number, a variable x1 to x3, **k, a function or one of + - * /
    parts: tuple["Tree", ...] = ()

    def text(self, flipped: bool = False) -> str:
        """Return its text; flipped: with sums and products the other way round, a - b as -b + a, a / b as b**-1 * a."""
        parts = [part.text(flipped) for part in self.parts]
        if not parts:
            return self.kind
        if self.kind.startswith("**"):
            return f"({parts[0]}){self.kind}"
        if len(parts) == 1:
            return f"{self.kind}({parts[0]})"
        left, right = parts
        if not flipped:
            return f"(({left}){self.kind}({right}))"
        if self.kind == "-":
            return f"(-({right})+({left}))"
        return f"(({right})**-1*({left}))" if self.kind == "/" else f"(({right}){self.kind}({left}))"

    def values(self, columns: Any) -> Any:
        """Return its values by numpy, one operation after the other."""
        if not self.parts:
            variable = self.kind.startswith("x")
            return columns[int(self.kind[1:]) - 1] if variable else np.full_like(columns[0], float(self.kind))
        parts = [part.values(columns) for part in self.parts]
        if self.kind.startswith("**"):
            return parts[0] ** float(self.kind[2:])
        return _NAIVE[self.kind](*parts)


def _above(below: Any) -> Any:
    one, two = st.tuples(below), st.tuples(below, below)
    return st.one_of(
        st.builds(Tree, st.sampled_from(UNARY), one),
        st.builds(Tree, st.sampled_from(("**2", "**3", "**-1", "**-2")), one),
        st.builds(Tree, st.sampled_from(("+", "-", "*", "/")), two),
    )


leaves = st.builds(Tree, st.sampled_from(("x1", "x2", "x3", *(str(value) for value in VALUES))))
trees = st.recursive(leaves, _above, max_leaves=7)


def columns(count: int = 40, seed: int = 0, variables: int = 3) -> Any:
    """Return the values of variables, of either sign. Shape (variables, count)."""
    return np.random.default_rng(seed).uniform(-3, 3, (variables, count))


TINY = ModelConfig(variables=3, width=16, layers=1, heads=2)
SIMPLE = GeneratorConfig(
    variables=(1, 2, 3), levels=(0, 1), operators=("id", "add", "mul", "sin"), points=((20, 20),), longest=24
)


@cache
def pool() -> Pool:
    """Return a few short skeletons of one to three variables."""
    return make_pool(SIMPLE, 150, 0, None)


def fresh(seed: int = 0, **own: Any) -> SymbolicGPT:
    """Return an untrained model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SymbolicGPT(ModelConfig(**{**vars(TINY), **own}))


def train(model: SymbolicGPT, steps: int, batch: int = 64, rate: float = 2e-3) -> list[float]:
    """Train a model on the short skeletons, and return its losses."""
    data = ProblemData(pool(), SIMPLE, model.config, steps * batch, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses = []
    model.train()
    for step in range(steps):
        points, mask, tokens, targets = data.__getitems__(range(step * batch, (step + 1) * batch))
        loss = token_loss(model(points, mask, tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@cache
def tiny() -> Pretrained:
    """Return a model that was trained for a few seconds."""
    model = fresh(1)
    train(model, 400, rate=3e-3)
    return Pretrained(model.requires_grad_(False), SIMPLE, Familiarity({}, 20), {"steps": 400})
