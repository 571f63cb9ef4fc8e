"""What sorting does to ten neurons: the papers' order dependency, table C.4 of the thesis.

One hidden layer of ten neurons is trained on four Gaussian blobs, once as usual and once sorted over its width. Then
neurons are removed by making them 0: the last ones first (target order), or the first ones first (reverse order).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError
from ..imports.packages import needs
from ..network.sorted_net import SortedNet
from ..report.pictures import write_lines
from ..space import Space
from ..training.objectives import Stochastic
from ..training.sampling import Uniform
from .running import Conditions, Experiment, Job, Outcome, Result

__all__ = ["ORDER_DEPENDENCY", "PAPER", "PAPER_AVERAGES", "run", "table"]

_NEURONS = 10
_CENTERS = ((-2, 0), (0, 2), (2, 0), (0, -2))
_SPREADS = (0.5, 1, 0.5, 1)
_POINTS = 1000
_DATA_SEED = 42
_BATCH_SIZE = 16
_LEARNING_RATE = 0.01

_BASELINE = (_NEURONS * "X", _NEURONS * "O")
_TARGET = tuple("X" * kept + "O" * (_NEURONS - kept) for kept in range(_NEURONS - 1, 0, -1))
_REVERSE = tuple("O" * (_NEURONS - kept) + "X" * kept for kept in range(1, _NEURONS))

PAPER: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "XXXXXXXXXX": ((94.48, 0.13), (93.7, 0.38)),
    "OOOOOOOOOO": ((25.0, 0.0), (25.0, 0.0)),
    "XXXXXXXXXO": ((93.86, 0.31), (93.64, 0.48)),
    "XXXXXXXXOO": ((93.7, 0.76), (93.78, 0.37)),
    "XXXXXXXOOO": ((93.1, 0.72), (93.62, 0.53)),
    "XXXXXXOOOO": ((92.34, 0.99), (93.7, 0.77)),
    "XXXXXOOOOO": ((90.38, 1.78), (93.86, 0.65)),
    "XXXXOOOOOO": ((86.84, 8.08), (93.66, 0.81)),
    "XXXOOOOOOO": ((80.14, 10.78), (93.14, 1.53)),
    "XXOOOOOOOO": ((60.96, 14.09), (85.26, 13.77)),
    "XOOOOOOOOO": ((48.66, 1.5), (62.58, 7.77)),
    "OOOOOOOOOX": ((51.7, 3.95), (29.84, 10.34)),
    "OOOOOOOOXX": ((85.52, 9.77), (35.18, 25.32)),
    "OOOOOOOXXX": ((90.82, 1.79), (41.52, 24.42)),
    "OOOOOOXXXX": ((86.7, 3.79), (59.88, 13.81)),
    "OOOOOXXXXX": ((90.92, 2.52), (66.06, 19.19)),
    "OOOOXXXXXX": ((92.94, 0.54), (65.52, 19.35)),
    "OOOXXXXXXX": ((93.52, 0.26), (72.14, 16.89)),
    "OOXXXXXXXX": ((93.84, 0.4), (82.06, 11.24)),
    "OXXXXXXXXX": ((94.04, 0.24), (82.2, 13.3)),
}
"""The papers' accuracy in percent, (mean, sd) of 5 runs: of the plain, then of the sorted network."""

PAPER_AVERAGES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "target": ((82.22, 15.49), (89.25, 9.79)),
    "reverse": ((86.67, 12.7), (59.38, 18.43)),
}
"""The papers' averages over the nine rows of each order; their sd is that of the nine means."""


def run(seeds: Sequence[int] = (0, 1, 2, 3, 4), *, epochs: int = 10) -> dict[str, Any]:
    """Train both networks for each seed and remove their neurons in both orders.

    Takes some seconds on a CPU and leaves torch's random state as it was.

    Args:
        seeds: Seeds of the weights, of the order of the points and of the drawn widths; at least one.
        epochs: Times that each network sees the 1000 points, at least 1; the papers' 10.

    Returns:
        `setup`; `rows`, each with its `mask`, `order` (baseline, target or reverse), and `plain` and `sorted`, each the
        `mean` and `sd` over the seeds of the accuracy on the training points, in percent; and `target` and `reverse`,
        with the `mean` and `sd` over the nine means of each order. Each sd divides by the number of values.

    Raises:
        ConfigError: If no seed is given or `epochs` is below 1.
        MissingPackageError: If scikit-learn is not installed.

    Source:
        Valipour et al. (2023), arXiv:2309.00255v3, App. C.7, table 9; Valipour (2024), PhD thesis, table C.4. Adam at
        0.01, batches of 16, evaluated on the training points as in the papers. The papers leave open how a width is
        drawn; here one for each batch, uniformly.
    """
    if not seeds or epochs < 1:
        raise ConfigError(f"seeds={list(seeds)}, epochs={epochs}: give at least one seed and at least one epoch.")
    points, classes = _blobs()
    measured: dict[str, list[dict[str, float]]] = {"plain": [], "sorted": []}
    for seed in seeds:
        for kind, networks in measured.items():
            model = _train(points, classes, seed, epochs, is_sorted=kind == "sorted")
            masks = (*_BASELINE, *_TARGET, *_REVERSE)
            networks.append({mask: _accuracy(model, mask, points, classes) for mask in masks})
    result: dict[str, Any] = {
        "setup": {
            "seeds": list(seeds),
            "epochs": epochs,
            "points": _POINTS,
            "data_seed": _DATA_SEED,
            "batch_size": _BATCH_SIZE,
            "learning_rate": _LEARNING_RATE,
            "device": "cpu",
            "torch": torch.__version__,
            "unit": "accuracy on the training points, percent",
        },
        "rows": [],
    }
    for order, masks in (("baseline", _BASELINE), ("target", _TARGET), ("reverse", _REVERSE)):
        rows: list[dict[str, Any]] = [
            {
                "mask": mask,
                "order": order,
                **{kind: _mean_and_sd([one[mask] for one in networks]) for kind, networks in measured.items()},
            }
            for mask in masks
        ]
        result["rows"] += rows
        if order != "baseline":
            result[order] = {kind: _mean_and_sd([row[kind]["mean"] for row in rows]) for kind in measured}
    return result


def table(result: Mapping[str, Any]) -> str:
    """Set a result beside the papers' figures.

    Args:
        result: What `run` returned.

    Returns:
        A Markdown table: mean and sd in percent, X for a neuron that is there and O for one that is 0.
    """
    lines = ["| neurons | plain | plain, papers | sorted | sorted, papers |", "| --- | --- | --- | --- | --- |"]

    def add(name: str, ours: Mapping[str, Any], paper: tuple[tuple[float, float], tuple[float, float]]) -> None:
        cells = [name]
        for kind, (mean, sd) in zip(("plain", "sorted"), paper, strict=True):
            cells += [f"{ours[kind]['mean']:.2f} ± {ours[kind]['sd']:.2f}", f"{mean:.2f} ± {sd:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")

    for order in ("baseline", "target", "reverse"):
        for row in result["rows"]:
            if row["order"] == order:
                add(row["mask"], row, PAPER[row["mask"]])
        if order != "baseline":
            add(f"average, {order} order", result[order], PAPER_AVERAGES[order])
    return "\n".join(lines)


def _build(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, len(_CENTERS)))


def _blobs() -> tuple[Tensor, Tensor]:
    """Draw the points, shape (1000, 2), and their classes, shape (1000,)."""
    with needs("Drawing the four blobs", "data"):
        from sklearn.datasets import make_blobs
    points, classes = make_blobs(
        n_samples=_POINTS, centers=[*_CENTERS], cluster_std=[*_SPREADS], random_state=_DATA_SEED
    )
    return torch.as_tensor(points, dtype=torch.float32), torch.as_tensor(classes, dtype=torch.int64)


def _train(points: Tensor, classes: Tensor, seed: int, epochs: int, *, is_sorted: bool) -> nn.Module:
    """Train ten neurons, sorted or not, from the same weights on the same batches; return the ten."""
    space = Space(width=range(1, _NEURONS + 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(_NEURONS)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    net = SortedNet(_build, space, model=model)
    objective = Stochastic(Uniform(space, seed=seed))
    for inputs, targets in _batches(points, classes, seed, epochs):
        optimizer.zero_grad()
        if is_sorted:
            loss = objective(net, (inputs, targets), functional.cross_entropy)
        else:
            loss = functional.cross_entropy(model(inputs), targets)
        torch.autograd.backward(loss)
        optimizer.step()
    return model


def _batches(points: Tensor, classes: Tensor, seed: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(points), generator=generator)
        for chosen in torch.split(order, _BATCH_SIZE):
            yield points[chosen], classes[chosen]


@torch.no_grad()
def _accuracy(model: nn.Module, mask: str, points: Tensor, classes: Tensor) -> float:
    """Return the accuracy, in percent, with every neuron marked O made 0."""
    hidden, activation, classifier = model.children()
    kept = torch.tensor([float(mark == "X") for mark in mask])
    predicted = classifier(activation(hidden(points)) * kept).argmax(dim=1)
    return 100 * float((predicted == classes).double().mean())


def _mean_and_sd(values: Sequence[float]) -> dict[str, float]:
    numbers = torch.tensor(values, dtype=torch.float64)
    return {"mean": float(numbers.mean()), "sd": float(numbers.std(correction=0))}


_SEEDS = 5  # networks of each kind, as in the papers


def _jobs(conditions: Conditions) -> dict[str, Job]:
    seeds = range(_SEEDS * conditions.seed, _SEEDS * (conditions.seed + 1))
    return {"order-dependency": Job(lambda folder, results: run(list(seeds)), {"seeds": list(seeds)})}


def _outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    found = results["order-dependency"]
    rows: list[list[Any]] = []
    for row in found["rows"]:
        rows.append([row["mask"], *_beside(row, PAPER[row["mask"]])])
    for order in ("target", "reverse"):
        rows.append([f"average, {order} order", *_beside(found[order], PAPER_AVERAGES[order])])
    return Outcome(
        columns=["neurons", "plain", "plain, papers", "sorted", "sorted, papers"],
        rows=rows,
        figures={f"order_{order}_{kind}": found[order][kind]["mean"] for order in ("target", "reverse")
                 for kind in ("plain", "sorted")},
        notes=f"A hidden layer of 10 neurons on four blobs, {_SEEDS} networks of each kind; neurons are kept (X) or "
        "made 0 (O). Mean accuracy in per cent on the training points. Both scales are the papers' own size.",
    )  # fmt: skip


def _beside(ours: Mapping[str, Any], paper: tuple[tuple[float, float], tuple[float, float]]) -> list[float]:
    return [ours["plain"]["mean"], paper[0][0], ours["sorted"]["mean"], paper[1][0]]


def _draw(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for order in ("target", "reverse"):
        for kind in ("plain", "sorted"):
            rows = [row for row in results["order-dependency"]["rows"] if row["order"] == order]
            points = sorted((row["mask"].count("O"), row[kind]["mean"]) for row in rows)
            lines[f"{kind}, {'last' if order == 'target' else 'first'} neurons go"] = points
    write_lines(path, lines, x="neurons made 0", y="accuracy, %", title="Order dependency")


ORDER_DEPENDENCY = Experiment(
    "order-dependency", "What sorting does to ten neurons (table C.4)", _jobs, _outcome, _draw
)
