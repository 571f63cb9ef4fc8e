"""Kinds of metric and model that people evaluate, each with what a right table and a right choice are.

`evaluation_kinds()` makes them, and `faults(kind)` says what the library gets wrong of one: nothing where all is right.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import SettingError

__all__ = ["Kind", "evaluation_kinds", "faults"]

WIDTHS = (2, 4, 8)


@dataclass(frozen=True)
class Kind:
    """A model with data and a metric, and what is known of them.

    Args:
        build: The model at a width.
        batches: The data.
        metric: As a user writes it.
        run: The output of a model for a batch.
        better: Whether more is better; None where only the user can say.
        examples: How many the data hold.
        recovers: Whether "per cent of the full model" means anything.
        empty: Costs that cannot be measured of this model, and a part of the reason.
        paired: Whether there are scores of single examples.
    """

    build: Callable[..., nn.Module]
    batches: Sequence[Any]
    metric: Callable[[Any, Any], Any]
    run: Callable[[nn.Module, Any], Any]
    better: bool | None
    examples: int
    recovers: bool = False
    empty: Mapping[str, str] | None = None
    paired: bool = True


def faults(kind: Kind) -> list[str]:
    """Return what is wrong with the table of a kind and with what is chosen from it."""
    torch.manual_seed(1)
    net = sn.SortedNet(kind.build, sn.Space(width=list(WIDTHS)))
    table = sn.evaluate(net, kind.batches, kind.metric)
    found = [f"{row.setting}: {fault}" for row in table for fault in _of_row(kind, net, row)]
    if table.higher_is_better is not kind.better:
        found.append(f"higher_is_better is {table.higher_is_better}, not {kind.better}")
    for name, reason in (kind.empty or {}).items():
        if reason not in table.notes.get(name, ""):
            found.append(f"{name} is empty, and the reason is {table.notes.get(name)!r}")
    if set(table.notes) - set(kind.empty or {}):
        found.append(f"notes on {sorted(table.notes)}")
    if table.conditions.get("examples") != kind.examples:
        found.append(f"{table.conditions.get('examples')} examples, not {kind.examples}")
    return found + (_of_choice(kind, table) if kind.better is not None else _asks(table))


def _of_row(kind: Kind, net: sn.SortedNet, row: sn.Row) -> list[str]:
    model, empty = net.extract(row.setting).eval(), kind.empty or {}
    with torch.no_grad():
        scores = [torch.as_tensor(kind.metric(kind.run(model, one), one[-1] if isinstance(one, tuple) else one))
                  for one in kind.batches]  # fmt: skip
    sizes = [score.numel() if score.dim() else _count(one) for score, one in zip(scores, kind.batches, strict=True)]
    mean = sum(float(s.double().mean()) * n for s, n in zip(scores, sizes, strict=True)) / sum(sizes)
    said = []
    if not math.isclose(row.quality, mean, rel_tol=1e-5, abs_tol=1e-5):
        said.append(f"quality {row.quality}, not {mean}")
    if row.params != sum(one.numel() for one in model.parameters()):
        said.append(f"{row.params} parameters")
    for name in ("flops", "latency_ms", "memory_bytes"):
        if (getattr(row, name) is None) != (name in empty):
            said.append(f"{name} is {getattr(row, name)}")
    if (row.recovery is not None) != kind.recovers:
        said.append(f"recovery is {row.recovery}")
    if kind.paired and not (row.quality_low is not None and row.quality_low <= row.quality <= row.quality_high):
        said.append(f"the interval is {row.quality_low} to {row.quality_high}")
    return said


def _count(batch: Any) -> int:
    return len(batch[-1]) if isinstance(batch, tuple) else len(next(iter(batch.values())))


def _of_choice(kind: Kind, table: sn.Table) -> list[str]:
    said = []
    best = (max if kind.better else min)(table, key=lambda row: row.quality)
    chosen = table.row(table.select())
    if chosen.quality != best.quality:
        said.append(f"select takes {chosen.quality}, and the best is {best.quality}")
    if kind.better and kind.recovers and any((row.recovery > 100) != (row.quality > table[-1].quality)
                                             for row in table if row != table[-1]):  # fmt: skip
        said.append("the recovery is above 100 % of what is no better")
    if kind.paired:
        near = table.row(table.select(within_error=True))
        if near.params > chosen.params:
            said.append("within_error takes a larger one than the best")
    return said


def _asks(table: sn.Table) -> list[str]:
    try:
        chosen = table.select()
    except SettingError as error:
        return [] if "higher_is_better" in str(error) else [f"select says {error}"]
    return [f"select takes {chosen}, and nobody knows whether it is good"]


class Net(nn.Module):
    """Two layers, the body of most models below."""

    def __init__(self, width: int, inputs: int = 6, outputs: int = 3) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x).relu())


class Regressor(Net):
    def __init__(self, width: int) -> None:
        super().__init__(width, outputs=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


class Graph(Net):
    """Sums the features of each node's neighbours."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden = self.body(x)
        return self.head(hidden.index_add(0, edge_index[1], hidden[edge_index[0]]).relu())


class Graphs(Graph):
    """One answer for each of several graphs in one batch."""

    def forward(self, x: Tensor, edge_index: Tensor, graph: Tensor) -> Tensor:
        nodes = super().forward(x, edge_index)
        return nodes.new_zeros(4, nodes.shape[1]).index_add(0, graph, nodes)


class Adjacent(Net):
    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.head((adjacency @ self.body(x)).relu())


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor, labels: Tensor | None = None) -> Tensor:
        hidden = self.body(x) * mask[..., None]
        return self.head(hidden.sum(1) / mask.sum(1, keepdim=True))


class Attending(Net):
    """Attention within one mask for all examples."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.body(x)
        return self.head(functional.scaled_dot_product_attention(hidden, hidden, hidden, attn_mask=mask).mean(1))


class Several(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).relu()
        return self.head(hidden), hidden


class Expanded(Net):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), self.scale.expand(len(x), 3)


class Named(Net):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": super().forward(x)}


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Structured(Net):
    def forward(self, x: Tensor) -> Output:
        hidden = self.body(x).relu()
        return Output(self.head(hidden), hidden)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Paired(Net):
    def forward(self, pair: Pair) -> Tensor:
        return super().forward(pair.left - pair.right)


class Tokens(Net):
    """A class for each token of a sequence."""


class AsksForValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if bool(x.sum() > -1e9) else -x)


class RunningError:
    """A metric as torchmetrics has them: an object that says itself what is better."""

    higher_is_better = False

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        return (output - targets).abs()


def negative_mean_squared_error(output: Tensor, targets: Tensor) -> Tensor:
    return -((output - targets) ** 2)


def r2_score(output: Tensor, targets: Tensor) -> float:
    return 1 - float(((output - targets) ** 2).sum() / ((targets - targets.mean()) ** 2).sum())


def first_accuracy(output: Any, targets: Any) -> Tensor:
    return sn.accuracy(output[0], targets)


def top2_accuracy(output: Tensor, targets: Tensor) -> Tensor:
    return (output.topk(2, dim=-1).indices == targets[:, None]).any(-1)  # truth values


def fbeta_score(output: Tensor, targets: Tensor, beta: float) -> float:
    called, is_one = output.argmax(-1) > 0, targets > 0
    return (1 + beta) * float((called & is_one).sum()) / max(1.0, float(called.sum() + beta * is_one.sum()))


def word_error_rate(output: Tensor, targets: list[str]) -> list[float]:
    """The share of letters that differ, of texts."""
    read = ["".join("abc"[int(letter)] for letter in one) for one in output.argmax(-1)]
    return [sum(a != b for a, b in zip(one, text, strict=True)) / len(text)
            for one, text in zip(read, targets, strict=True)]  # fmt: skip


def token_loss(output: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def evaluation_kinds() -> dict[str, Kind]:
    """Return every kind by its name."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def classes(*shape: int) -> Tensor:
        return torch.randint(0, 3, shape, generator=generator)

    sizes = (12, 12, 5)
    xs = [random(size, 6) for size in sizes]
    labelled = [(x, classes(len(x))) for x in xs]
    valued = [(x, x.sum(1) + random(len(x))) for x in xs]
    named = [{"x": x, "labels": y} for x, y in labelled]
    edges = torch.randint(0, 10, (2, 25), generator=generator)
    nodes = [(random(10, 6), edges, classes(10)) for _ in range(3)]
    adjacency = (random(10, 10) > 0.5).float()
    masked = [{"x": random(8, 5, 6), "mask": torch.ones(8, 5), "labels": classes(8)} for _ in range(3)]
    triangle = torch.ones(5, 5).tril().bool()
    texts = [(random(7, 4, 6), ["abca", "bcab", "cabc", "aaaa", "bbbb", "cccc", "abab"]) for _ in range(2)]

    def plain(model: nn.Module, batch: Any) -> Any:
        return model(*batch[:-1])

    def keywords(model: nn.Module, batch: Any) -> Any:
        return model(**batch)

    return {
        "accuracy": Kind(Net, labelled, sn.accuracy, plain, True, 29, recovers=True),
        "a loss, one number for a batch": Kind(Regressor, valued, functional.mse_loss, plain, False, 29, paired=False),
        "a loss as a module": Kind(Regressor, valued, nn.SmoothL1Loss(reduction="none"), plain, False, 29),
        "cross entropy with smoothed labels": Kind(
            Net, labelled, functools.partial(functional.cross_entropy, label_smoothing=0.1), plain, False, 29,
            paired=False,
        ),
        "a loss of each token": Kind(
            Tokens, [(random(6, 5, 6), classes(6, 5)) for _ in range(2)], token_loss, plain, False, 12
        ),
        "a negative metric": Kind(Regressor, valued, negative_mean_squared_error, plain, True, 29),
        "a score below zero as a plain number": Kind(Regressor, valued, r2_score, plain, True, 29, paired=False),
        "a score with an argument": Kind(
            Net, labelled, functools.partial(fbeta_score, beta=2.0), plain, True, 29, recovers=True, paired=False
        ),
        "truth values": Kind(Net, labelled, top2_accuracy, plain, True, 29, recovers=True),
        "an object that says what is better": Kind(Regressor, valued, RunningError(), plain, False, 29),
        "a metric that nobody knows": Kind(Regressor, valued, lambda output, y: output - y, plain, None, 29),
        "text": Kind(Tokens, texts, word_error_rate, plain, False, 14),
        "a graph": Kind(Graph, nodes, sn.accuracy, plain, True, 30, recovers=True),
        "a graph of as many nodes as an edge has": Kind(
            Graph, [(random(2, 6), torch.tensor([[0, 1, 1], [1, 0, 1]]), classes(2)) for _ in range(9)], sn.accuracy,
            plain, True, 18, recovers=True,
        ),
        "several graphs": Kind(
            Graphs, [(random(10, 6), edges, torch.arange(10) % 4, classes(4)) for _ in range(5)], sn.accuracy, plain,
            True, 20, recovers=True,
        ),
        "an adjacency matrix": Kind(
            Adjacent, [(random(10, 6), adjacency, classes(10)) for _ in range(3)], sn.accuracy, plain, True, 30,
            recovers=True,
        ),
        "a sparse adjacency matrix": Kind(
            Adjacent, [(random(10, 6), adjacency.to_sparse(), classes(10)) for _ in range(3)], sn.accuracy, plain,
            True, 30, recovers=True, empty={"flops": "meta device", "memory_bytes": "storage"},
        ),
        "masks": Kind(Masked, masked, sn.accuracy, keywords, True, 24, recovers=True),
        "one mask for all": Kind(
            Attending, [(random(8, 5, 6), triangle, classes(8)) for _ in range(3)], sn.accuracy, plain, True, 24,
            recovers=True,
        ),
        "several outputs": Kind(Several, labelled, first_accuracy, plain, True, 29, recovers=True),
        "an expanded parameter": Kind(Expanded, labelled, first_accuracy, plain, True, 29, recovers=True),
        "mappings": Kind(Named, named, sn.accuracy, keywords, True, 29, recovers=True),
        "a dataclass": Kind(Structured, labelled, sn.accuracy, plain, True, 29, recovers=True),
        "a named tuple": Kind(
            Paired, [(Pair(x, -x), y) for x, y in labelled], sn.accuracy, plain, True, 29, recovers=True
        ),
        "a forward that asks for values": Kind(
            AsksForValues, labelled, sn.accuracy, plain, True, 29, recovers=True, empty={"flops": "meta device"}
        ),
    }  # fmt: skip
