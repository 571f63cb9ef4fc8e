"""DyLoRA against LoRA: the cost of a training step, what the frozen mode changes, graphs, and quality at every rank.

    python benchmarks/dylora_quality.py --data FOLDER --encoder FOLDER
    python benchmarks/dylora.py --encoder FOLDER --out FILE.json

The first makes the runs on GLUE, for an hour or more; the second measures the costs on the encoder (MiniLM, batch 32)
and puts the figures of all runs together. `--keep FILE.json` takes the costs measured before from an earlier result.
"""

import argparse
import copy
import json
import statistics
import sys
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dylora_quality as quality
import torch
import transformers
from measuring import alternate, context, spread, write
from peft import get_peft_model
from torch._dynamo.utils import counters

import sortednet as sn
from sortednet.evaluation.cost import _LiveStorages

BATCH, TOKENS, REPEATS = 32, 48, 15
RATE, DECAY, STEPS = 1e-3, 0.1, 20
LARGEST, RANKS = quality.LARGEST, quality.RANKS
HALF = tuple(rank for rank in RANKS if rank <= LARGEST // 2)
Model = torch.nn.Module


def pretrained(given: Any) -> Model:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        given.encoder, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).to(quality.device())


def batch_of(model: Model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, model.config.vocab_size, (BATCH, TOKENS), generator=generator)
    labels = torch.randint(0, 2, (BATCH,), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: value.to(quality.device()) for name, value in batch.items()}


def optimizer_of(model: Model) -> torch.optim.Optimizer:
    held = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(held, RATE, weight_decay=DECAY, fused=True)


def finished() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def lora_step(model: Model, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    finished()


def our_step(
    net: Any, objective: Any, optimizer: Any, batch: dict[str, torch.Tensor], update: str = "standard"
) -> None:
    sn.step(net, objective, optimizer, batch, lambda output, _: output.loss, update=update)
    finished()


def peak(model: Model, run: Callable[[], object]) -> int:
    """Return the most bytes of tensors made in a step that live at once; not the model's own."""
    if torch.cuda.is_available():
        finished()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - held
    known = {one.untyped_storage(): one.untyped_storage().nbytes() for one in (*model.parameters(), *model.buffers())}
    live = _LiveStorages(weakref.WeakKeyDictionary(known))
    with live:
        run()
    return live.peak


def costs(given: Any) -> tuple[dict[str, float], dict]:
    """Time a step of LoRA at every rank and of DyLoRA in both forms, in turn."""
    model = pretrained(given)
    batch = batch_of(model)
    contenders: dict[str, Any] = {}
    lora: dict[int, Any] = {}
    for rank in RANKS:
        lora[rank] = get_peft_model(copy.deepcopy(model), quality.adapter(rank)).train()
        contenders[f"lora {rank}"] = partial(lora_step, lora[rank], optimizer_of(lora[rank]), batch)
    net = sn.dylora(copy.deepcopy(model), quality.adapter(LARGEST), ranks=RANKS).train()
    optimizer = optimizer_of(net)
    for rank in RANKS:
        only = sn.Stochastic(sn.Cycle(net.space, [{"r": rank}]))
        contenders[f"step {rank}"] = partial(our_step, net, only, optimizer, batch)
    each = sn.PerExample(sn.Stratified(net.space, seed=0))
    contenders["example"] = partial(our_step, net, each, optimizer, batch)
    times = alternate(contenders, repeats=REPEATS)
    place = range(REPEATS)
    drawn = [statistics.mean(times[f"step {rank}"][i] for rank in RANKS) for i in place]  # uniform over the ranks
    searched = [sum(times[f"lora {rank}"][i] for rank in RANKS) for i in place]
    largest = times[f"lora {LARGEST}"]
    both = {"step": drawn, "example": times["example"]}
    found: dict[str, float] = {}
    for name, own in both.items():
        found[f"step_ratio_{name}"] = statistics.median(a / b for a, b in zip(own, largest, strict=True))
        found[f"search_ratio_{name}"] = statistics.median(a / b for a, b in zip(searched, own, strict=True))
    found["step_ratio"] = max(found["step_ratio_step"], found["step_ratio_example"])
    found["search_ratio"] = min(found["search_ratio_step"], found["search_ratio_example"])
    memory = {
        "lora": peak(lora[LARGEST], lambda: lora_step(lora[LARGEST], optimizer_of(lora[LARGEST]), batch)),
        "example": peak(net, lambda: our_step(net, each, optimizer_of(net), batch)),
    }
    found["extra_memory_ratio"] = memory["example"] / memory["lora"]
    return found, {"seconds": {name: spread(own) for name, own in times.items()}, "bytes": memory}


def frozen(given: Any) -> tuple[dict[str, float], dict]:
    """Return the largest change outside of row and column b in steps of the frozen mode; and in the reference's."""
    found, share = {}, {}
    for update in ("unique", "reference"):
        net = sn.dylora(pretrained(given), quality.adapter(LARGEST), ranks=RANKS).train()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)
        optimizer, batch = optimizer_of(net), batch_of(net.full.get_base_model())
        sampler = sn.Uniform(net.space, seed=0)
        outside, moved = 0.0, [0.0, 0.0]
        for _ in range(STEPS):
            before = {name: one.detach().clone() for name, one in net.named_parameters() if "lora_" in name}
            rank = int(sampler.draw()[0]["r"])
            our_step(net, sn.Stochastic(sn.Cycle(net.space, [{"r": rank}])), optimizer, batch, update)
            for name, one in net.named_parameters():
                if "lora_" in name:
                    change = (one.detach() - before[name]).abs()
                    own = change.select(0 if "lora_A" in name else 1, rank - 1)
                    moved[0] += float(own.sum())
                    moved[1] += float(change.sum())
                    own.zero_()
                    outside = max(outside, float(change.max()))
        found[update], share[update] = outside, 1 - moved[0] / moved[1]
    metrics = {"frozen_exact": found["unique"], "reference_moved_outside": share["reference"]}
    return metrics, {"largest change outside": found, "share of all movement outside": share, "steps": STEPS}


def graphs(given: Any) -> tuple[dict[str, float], dict]:
    """Count the graphs for all ranks, each visited twice, and one rank for each example: in inference, in training.

    In training the first block has a graph of its own at any one rank too: nothing before its adapter needs a gradient.
    """

    def counted(ranks: tuple[int, ...], train: bool) -> float:
        torch._dynamo.reset()
        net = sn.dylora(pretrained(given), quality.adapter(LARGEST), ranks=RANKS).train(train)
        counters.clear()
        net.compile()
        batch = batch_of(net.full.get_base_model())
        objectives = [sn.Stochastic(sn.Cycle(net.space, [{"r": rank}])) for rank in ranks] * 2
        if len(ranks) > 1:
            objectives.append(sn.PerExample(sn.Stratified(net.space, seed=0)))
        optimizer = optimizer_of(net)
        for objective in objectives:
            if train:
                our_step(net, objective, optimizer, batch)
            else:
                with torch.no_grad():
                    objective(net, batch, lambda output, _: output.loss)
        return float(counters["stats"]["unique_graphs"])  # those that hold something

    found = {
        "compiled_graphs": counted(RANKS, train=False),
        "compiled_graphs_training": counted(RANKS, train=True),
        "compiled_graphs_one_rank": counted((LARGEST,), train=True),
    }
    return found, {"ranks": RANKS, "visits": 2}


def kept(kind: str, task: str, seed: int, of: str = "own") -> dict[int, float]:
    """Return the scores of a run, by rank."""
    held = json.loads((quality.KEPT / f"{kind}-{task}-{seed}.json").read_text())["scores"][of]
    return {int(name.removeprefix("r=")) if name.startswith("r=") else 0: value for name, value in held.items()}


CURVES = {
    "DyLoRA, one rank per example (ours)": ("example", "own"),
    "DyLoRA, one rank per step (paper)": ("step", "own"),
    "DyLoRA, frozen": ("frozen", "own"),
    "LoRA at 8, cut by prefix, alpha / b (paper)": ("lora8", "paper"),
    "LoRA at 8, cut by prefix, root scaling": ("lora8", "own"),
    "LoRA at 8, cut by SVD": ("lora8", "svd"),
}


def curve(kind: str, of: str, seed: int) -> dict[int, float]:
    """Return the mean over the tasks, by rank."""
    runs = [kept(kind, task, seed, of) for task in quality.TASKS]
    return {rank: statistics.mean(run[rank] for run in runs) for rank in runs[0]}


def searched(seed: int) -> dict[int, float]:
    """Return LoRA trained at each rank, mean over the tasks."""
    return {
        rank: statistics.mean(kept(f"lora{rank}", task, seed)[rank] for task in quality.TASKS)
        for rank in quality.SEARCHED
    }


def figures() -> tuple[dict[str, float], dict]:
    """Return the figures of the runs on GLUE: means over the seeds, and their spread."""
    values: dict[str, list[float]] = {}
    curves: dict[str, dict[int, list[float]]] = {}
    for seed in quality.SEEDS:
        ours, step = curve("example", "own", seed), curve("step", "own", seed)
        prefix, svd, paper = (curve("lora8", of, seed) for of in ("own", "svd", "paper"))
        alone = searched(seed)
        for name, value in {
            "rank1_gain": ours[1] - paper[1],
            "rank1_gain_root": ours[1] - prefix[1],
            "svd_gain": statistics.mean(ours[rank] - svd[rank] for rank in HALF),
            "example_gain": statistics.mean(ours[rank] - step[rank] for rank in RANKS),
        }.items():
            values.setdefault(name, []).append(value)
        for name, held in {"LoRA trained at the rank": alone, **shown(seed)}.items():
            for rank, value in held.items():
                curves.setdefault(name, {}).setdefault(rank, []).append(value)
    found: dict[str, float] = {}
    for name, each in values.items():
        found[name], found[f"{name}_sd"] = statistics.mean(each), statistics.stdev(each)
    means = {name: {rank: statistics.mean(held) for rank, held in one.items()} for name, one in curves.items()}
    ours = means["DyLoRA, one rank per example (ours)"]
    found["best_gap"] = max(means["LoRA trained at the rank"].values()) - max(ours.values())
    found["rank_spread"] = max(ours.values()) - min(ours.values())
    rows = [
        {
            "method": name, "rank": rank, "mean": statistics.mean(held), "seeds": len(held),
            "sd": statistics.stdev(held) if len(held) > 1 else None,
        }
        for name, one in curves.items() for rank, held in sorted(one.items())
    ]  # fmt: skip
    return found, {"rows": rows, "tasks": per_task()}


def shown(seed: int) -> dict[str, dict[int, float]]:
    """Return the curves of a seed of all kinds that were run for it."""
    found = {}
    for name, (kind, of) in {**CURVES, "full fine-tuning": ("full", "own")}.items():
        if all((quality.KEPT / f"{kind}-{task}-{seed}.json").is_file() for task in quality.TASKS):
            found[name] = curve(kind, of, seed)
    return found


def per_task() -> list[dict[str, Any]]:
    """Return the scores of every run."""
    found = []
    for file in sorted(quality.KEPT.glob("*.json")):
        if not file.name.startswith("rate-"):
            kind, task, seed = file.stem.split("-")
            found.append({"kind": kind, "task": task, "seed": int(seed), **json.loads(file.read_text())["scores"]})
    return found


def rates() -> dict[str, float]:
    """Return the mean score on held-out training examples of every rate that was tried."""
    held: dict[str, list[float]] = {}
    for file in quality.KEPT.glob("rate-*.json"):
        _, rate, kind, _, _ = file.stem.split("-")
        scores = json.loads(file.read_text())["scores"]["own"]
        value = scores[f"r={LARGEST}"] if kind == "lora8" else statistics.mean(scores.values())
        held.setdefault(f"{kind} at {rate}", []).append(value)
    return {name: statistics.mean(values) for name, values in sorted(held.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="an earlier result whose costs are taken")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    if given.keep is None:
        for name, measure in {"costs": costs, "frozen": frozen, "graphs": graphs}.items():
            found, details[name] = measure(given)
            metrics |= found
            print(name, found, file=sys.stderr, flush=True)
        details["costs_commit"] = context()["commit"]
    else:
        earlier = json.loads(given.keep.read_text())
        details = earlier["context"]["details"]
        metrics = {name: value for name, value in earlier["metrics"].items() if name in COST_KEYS}
    found, rows = figures()
    runs = [json.loads(file.read_text()) for file in quality.KEPT.glob("[!r]*.json")]
    about = {
        "how": quality.HOW, "rates": quality.RATES, "held_out": rates(), "seeds": quality.SEEDS,
        "quality_tasks": quality.TASKS, "examples": runs[0]["examples"], "evaluated": runs[0].get("evaluated", 600),
        "seeds_of_others": len(list(quality.KEPT.glob(f"full-{quality.TASKS[0]}-*.json"))), **rows,
    }  # fmt: skip
    write(given.out, metrics | found, context(batch=BATCH, tokens=TOKENS, details=details, **about))


COST_KEYS = (
    "step_ratio", "step_ratio_step", "step_ratio_example", "search_ratio", "search_ratio_step", "search_ratio_example",
    "extra_memory_ratio", "frozen_exact", "reference_moved_outside", "compiled_graphs", "compiled_graphs_training",
    "compiled_graphs_one_rank",
)  # fmt: skip


if __name__ == "__main__":
    main()
