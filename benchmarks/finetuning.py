"""Quality of sorted fine-tuning: a pretrained encoder on GLUE, its width by importance, a causal language model.

    python benchmarks/finetuning.py --data FOLDER --encoder FOLDER --model FOLDER --out FILE.json

FOLDER of --data holds the files that `sortednet.data.text.load_task` names; --encoder is a BERT-class encoder such as
MiniLM; --model is what `pretraining.py` wrote. Every run is a function of its name, is kept under runs/finetuning, and
is not repeated: the command goes on where it was interrupted. On a GPU the whole training sets are used (--examples 0).
"""

import argparse
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import context, run_apart, write

import sortednet as sn
from sortednet.data.text import encode, load_task
from sortednet.training import importance

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "finetuning"
SEEDS = (0, 1, 2)
TASKS = ("sst2", "mrpc", "rte", "stsb")
DEPTHS = (1, 2, 4, 6)
EXITS = (2, 4, 6, 8)
ENCODER = {"epochs": 2, "batch": 32, "rate": 1e-4, "head_rate": 1e-3, "decay": 0.01, "warmup": 0.1, "length": 64}
WIDTH_TASKS = ("sst2",)
WIDTHS = {"num_attention_heads": [6, 12], "intermediate_size": [768, 1536]}
CAUSAL = {"epochs": 1, "batch": 16, "rate": 5e-4, "head_rate": 5e-4, "decay": 0.01, "warmup": 0.1, "length": 256}
CAUSAL_EXAMPLES, CAUSAL_EVALUATED = 1500, 300
METRIC = {"sst2": "accuracy", "mrpc": "accuracy", "rte": "accuracy", "stsb": "Spearman correlation"}


def batches(rows: Any, size: int, generator: torch.Generator, pad: int) -> list[dict[str, torch.Tensor]]:
    """Shuffle, then group by length within pools of eight batches, so that little is padded."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    examples = [rows[place] for place in order]
    found = []
    for start in range(0, len(examples), 8 * size):
        pool = sorted(examples[start : start + 8 * size], key=lambda one: len(one["input_ids"]))
        found += [collated(pool[place : place + size], pad) for place in range(0, len(pool), size)]
    return [found[place] for place in torch.randperm(len(found), generator=generator).tolist()]


def collated(examples: list[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    length = max(len(one["input_ids"]) for one in examples)
    fill = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0, "labels": -100}
    held = {}
    for name in examples[0]:
        values = [one[name] for one in examples]
        if isinstance(values[0], list):
            values = [value + [fill[name]] * (length - len(value)) for value in values]
        held[name] = torch.tensor(values)
    return held


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(net: sn.SortedNet, objective: sn.Objective, rows: Any, how: dict, seed: int, pad: int) -> sn.SortedNet:
    """Train a network, or an ordinary model as a network of one setting: the same loop for all."""
    torch.manual_seed(seed)
    net.to(device()).train()
    generator = torch.Generator().manual_seed(seed)
    updates = round(how["epochs"] * math.ceil(len(rows) / how["batch"]))
    new = ("classifier.", "pooler.")  # which the encoder has not, or has never used on this task
    named = [(any(one in name for one in new), parameter) for name, parameter in net.named_parameters()]
    groups = [
        {"params": [parameter for is_new, parameter in named if is_new], "lr": how["head_rate"]},
        {"params": [parameter for is_new, parameter in named if not is_new], "lr": how["rate"]},
    ]
    optimizer = torch.optim.AdamW([one for one in groups if one["params"]], weight_decay=how["decay"], fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(how["warmup"] * updates), updates)
    waiting: list[dict[str, torch.Tensor]] = []
    for _ in range(updates):
        waiting = waiting or batches(rows, how["batch"], generator, pad)
        on_device = {name: value.to(device()) for name, value in waiting.pop().items()}
        with torch.autocast(device().type, torch.bfloat16):
            sn.step(net, objective, optimizer, on_device, lambda output, _: output.loss, max_norm=1.0)
        schedule.step()
    return net.eval()


@torch.no_grad()
def scores(net: sn.SortedNet, settings: list[sn.Setting], rows: Any, task: str, pad: int) -> dict[str, float]:
    """Return the metric of every setting, in points."""
    outputs: dict[str, list] = {str(setting): [] for setting in settings}
    ordered = sorted(rows, key=lambda one: len(one["input_ids"]))
    labels = torch.tensor([one["labels"] for one in ordered])
    for start in range(0, len(ordered), 64):
        batch = collated(ordered[start : start + 64], pad)
        batch.pop("labels")
        given = {name: value.to(device()) for name, value in batch.items()}
        with torch.autocast(device().type, torch.bfloat16):
            found_here = net(**given, settings=settings)
        for setting, output in zip(settings, found_here, strict=True):
            outputs[str(setting)].append(output.logits.float().cpu())
    found = {}
    for name, parts in outputs.items():
        predicted = torch.cat(parts)
        if task == "stsb":
            ranks = torch.stack([ranked(predicted.squeeze(-1)), ranked(labels)])
            found[name] = 100 * float(torch.corrcoef(ranks)[0, 1].nan_to_num(0))
        else:
            found[name] = 100 * float((predicted.argmax(-1) == labels).double().mean())
    return found


def ranked(values: torch.Tensor) -> torch.Tensor:
    """Return ranks, equal values having their mean rank."""
    _, inverse, counts = values.double().unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[inverse]


def encoder_run(given: Any, kind: str, task: str, seed: int) -> dict[str, float]:
    """One run on a GLUE task: `ordinary`, `alone` at a depth, `sorted`, `order` or `noorder` (widths)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.encoder)
    data = load_task(task, given.data, train_examples=given.examples or None, seed=seed)
    rows = encode(data, tokenizer, max_length=ENCODER["length"])
    how = ENCODER
    train, evaluation, pad = list(rows.train), list(rows.evaluation), tokenizer.pad_token_id
    if task == "stsb":  # scores of mean 0 and variance 1; their ranks are what is measured
        held = [one["labels"] for one in train]
        mean, deviation = statistics.mean(held), statistics.pstdev(held)
        train = [{**one, "labels": (one["labels"] - mean) / deviation} for one in train]
    torch.manual_seed(seed)  # of the new head
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        given.encoder, num_labels=1 if task == "stsb" else 2
    )
    if kind.startswith("alone"):
        # Cut first; then read over the mean of the tokens like the sorted network's exits, which suits few layers.
        whole = sn.SortedNet.from_pretrained(model, readout="own", num_hidden_layers=list(DEPTHS))
        cut = whole.extract(num_hidden_layers=int(kind.removeprefix("alone")))
        net = sn.SortedNet.from_pretrained(cut, readout="mean", num_hidden_layers=[cut.config.num_hidden_layers])
        return scores(
            trained(net, sn.Summation(net.space), train, ENCODER, seed, pad), list(net.space), evaluation, task, pad
        )
    if kind == "ordinary":
        net = sn.SortedNet.from_pretrained(model, readout="own", num_hidden_layers=list(DEPTHS))
        objective: sn.Objective = sn.Summation(sn.Space([dict(net.space.full)]))
    elif kind.startswith("sorted"):
        name = kind.removeprefix("sorted") or DEFAULT
        private = ("classifier.*", "bert.pooler.*") if name == "Separate" else ()
        net = sn.SortedNet.from_pretrained(model, num_hidden_layers=list(DEPTHS), private=private)
        objective = OBJECTIVES[name](net.space, seed)
        how = {**ENCODER, "epochs": ENCODER["epochs"] / COST[name]}
    else:
        net = sn.SortedNet.from_pretrained(model, **WIDTHS)
        if kind == "order":
            generator = torch.Generator().manual_seed(seed)
            few = batches(train, ENCODER["batch"], generator, pad)[:16]
            importance.reorder(net, few, lambda output, _: output.loss)
        objective = sn.Stochastic(sn.Stratified(net.space, seed=seed), draws=4)
    return scores(trained(net, objective, train, how, seed, pad), list(net.space), evaluation, task, pad)


OBJECTIVES: dict[str, Any] = {
    "Summation": lambda space, seed: sn.Summation(space),
    "PerExample": lambda space, seed: sn.PerExample(sn.Stratified(space, seed=seed)),
    "Stochastic": lambda space, seed: sn.Stochastic(sn.Uniform(space, seed=seed)),
    "Weighted": lambda space, seed: sn.Summation(space, settings_weight=by_depth),
    "Distilled": lambda space, seed: sn.Summation(space, sn.Distillation(1.0)),
    "Separate": lambda space, seed: sn.Summation(space),
}
DEFAULT = "Summation"
# Blocks run for an example, as a share of the full depth's; the objectives are compared at equal cost.
MEAN_DEPTH = statistics.mean(DEPTHS) / DEPTHS[-1]
COST = {
    "Summation": 1,
    "PerExample": MEAN_DEPTH,
    "Stochastic": MEAN_DEPTH,
    "Weighted": 1,
    "Distilled": 1,
    "Separate": 1,
}
COMPARED_TASKS = ("sst2", "stsb")
COMPARED = ("PerExample", "Stochastic")


def by_depth(setting: sn.Setting) -> float:
    return float(setting["num_hidden_layers"])


def causal_run(given: Any, kind: str, seed: int) -> dict[str, float]:
    """One run on GSM8K and Alpaca: `lm_ordinary`, or `lm_sorted` and an objective."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
    train: list = []
    evaluation: list = []
    for task in ("gsm8k", "alpaca"):
        count = CAUSAL_EXAMPLES if given.examples else None
        data = load_task(task, given.data, train_examples=None, seed=0)
        rows = encode(data, tokenizer, max_length=CAUSAL["length"])
        order = torch.randperm(len(rows.train), generator=torch.Generator().manual_seed(seed)).tolist()
        train += [rows.train[place] for place in order[:count]]
        evaluation += [rows.evaluation[place] for place in range(min(CAUSAL_EVALUATED, len(rows.evaluation)))]
    model = transformers.AutoModelForCausalLM.from_pretrained(given.model)
    net = sn.SortedNet.from_pretrained(model, num_hidden_layers=list(EXITS))
    if kind == "lm_ordinary":
        objective: sn.Objective = sn.Summation(sn.Space([dict(net.space.full)]))
    else:
        objective = CAUSAL_OBJECTIVES[kind.removeprefix("lm_sorted")](net.space, seed)
    pad = tokenizer.pad_token_id
    if kind != "lm_start":
        trained(net, objective, train, CAUSAL, seed, pad)
    return losses(net, evaluation, pad)


def deepest_first(setting: sn.Setting) -> float:
    return 1.0 if setting["num_hidden_layers"] == max(EXITS) else 0.1


CAUSAL_OBJECTIVES: dict[str, Any] = {
    "Summation": lambda space, seed: sn.Summation(space),
    "Weighted": lambda space, seed: sn.Summation(space, settings_weight=deepest_first),
    "PerExample": lambda space, seed: sn.PerExample(sn.Stratified(space, seed=seed)),
    "Stochastic": lambda space, seed: sn.Stochastic(sn.Uniform(space, seed=seed)),
}


@torch.no_grad()
def losses(net: sn.SortedNet, rows: list, pad: int) -> dict[str, float]:
    """Return the mean loss over answer tokens at every exit, in nats."""
    net.eval()
    settings, sums, count = list(net.space), [0.0] * len(net.space), 0
    ordered = sorted(rows, key=lambda one: len(one["input_ids"]))
    for start in range(0, len(ordered), 16):
        batch = {name: value.to(device()) for name, value in collated(ordered[start : start + 16], pad).items()}
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        count += tokens
        for place, output in enumerate(net(**batch, settings=settings)):
            sums[place] += float(output.loss) * tokens
    return {str(setting): total / count for setting, total in zip(settings, sums, strict=True)}


def run_names(only: list[str]) -> list[str]:
    """Return all runs; the cheap ones of every kind come first."""
    names = []
    for seed in SEEDS:
        for task in TASKS:
            names += [f"{kind}-{task}-{seed}" for kind in ("sorted", "ordinary", *(f"alone{d}" for d in DEPTHS[:-1]))]
        names += [f"{kind}-{task}-{seed}" for task in WIDTH_TASKS for kind in ("order", "noorder")]
        names += [f"sorted{kind}-{task}-{seed}" for task in COMPARED_TASKS for kind in COMPARED]
        names += [f"lm_ordinary-{seed}", f"lm_sorted{CAUSAL_DEFAULT}-{seed}"]
    return [name for name in names if not only or any(name.startswith(one) for one in only)]


CAUSAL_DEFAULT = "Weighted"


def one_run(given: Any, name: str) -> None:
    """Make one run, in a process of its own, and keep its result."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    kind, *rest = name.split("-")
    start = time.time()
    if kind.startswith("lm"):
        found = causal_run(given, kind, int(rest[0]))
    else:
        found = encoder_run(given, kind, rest[0], int(rest[1]))
    how = CAUSAL if kind.startswith("lm") else ENCODER
    result = {"scores": found, "seconds": time.time() - start, "how": how, "examples": given.examples}
    (KEPT / f"{name}.json").write_text(json.dumps(result))
    print(name, {key.rpartition("=")[2]: round(value, 2) for key, value in found.items()}, flush=True)


def kept(name: str) -> dict[str, float]:
    return json.loads((KEPT / f"{name}.json").read_text())["scores"]


def depth(value: int) -> str:
    return f"num_hidden_layers={value}"


def encoder_figures() -> tuple[dict[str, float], list[dict]]:
    gaps, full_gaps, gains, rows = [], [], [], []
    for seed in SEEDS:
        gap, full_gap, gain = [], [], []
        for task in TASKS:
            ours, plain = kept(f"sorted-{task}-{seed}"), kept(f"ordinary-{task}-{seed}")
            for value in DEPTHS:
                alone = plain if value == DEPTHS[-1] else kept(f"alone{value}-{task}-{seed}")
                gap.append(alone[depth(value)] - ours[depth(value)])
                gain.append(ours[depth(value)] - plain[depth(value)])
                rows.append(
                    {
                        "seed": seed, "task": task, "depth": value, "alone": alone[depth(value)],
                        "sorted": ours[depth(value)], "ordinary": plain[depth(value)],
                    }
                )  # fmt: skip
            full_gap.append(plain[depth(DEPTHS[-1])] - ours[depth(DEPTHS[-1])])
        gaps.append(statistics.mean(gap))
        full_gaps.append(statistics.mean(full_gap))
        gains.append(statistics.mean(gain))
    found = {}
    for name, values in (("encoder_gap", gaps), ("encoder_full_gap", full_gaps), ("encoder_gain", gains)):
        found[name], found[f"{name}_sd"] = statistics.mean(values), statistics.stdev(values)
    return found, rows


def compared_figures() -> tuple[dict[str, float], list[dict]]:
    """Mean score over tasks and depths of every objective, at the cost of one summation."""
    found, rows = {}, []
    for kind in ("", *COMPARED):
        names = [f"sorted{kind}-{task}-{seed}" for seed in SEEDS for task in COMPARED_TASKS]
        if not all((KEPT / f"{name}.json").is_file() for name in names):
            continue  # with --only, not all objectives were asked for
        means = []
        for seed in SEEDS:
            runs = [kept(f"sorted{kind}-{task}-{seed}") for task in COMPARED_TASKS]
            means.append(statistics.mean(value for run in runs for value in run.values()))
            rows.append(
                {"objective": kind or DEFAULT, "seed": seed, "scores": dict(zip(COMPARED_TASKS, runs, strict=True))}
            )
        name = f"encoder_mean_{(kind or DEFAULT).lower()}"
        found[name], found[f"{name}_sd"] = statistics.mean(means), statistics.stdev(means)
    return found, rows


def width_figures() -> tuple[dict[str, float], list[dict]]:
    half = ",".join(f"{name}={values[0]}" for name, values in WIDTHS.items())
    gains, rows = [], []
    for seed in SEEDS:
        gain = []
        for task in WIDTH_TASKS:
            ours, theirs = kept(f"order-{task}-{seed}"), kept(f"noorder-{task}-{seed}")
            gain.append(ours[half] - theirs[half])
            rows.append({"seed": seed, "task": task, "ordered": ours, "not ordered": theirs})
        gains.append(statistics.mean(gain))
    return {"width_gain": statistics.mean(gains), "width_gain_sd": statistics.stdev(gains)}, rows


def causal_figures() -> tuple[dict[str, float], list[dict]]:
    gains, differences, rows = [], [], []
    for seed in SEEDS:
        plain, ours = kept(f"lm_ordinary-{seed}"), kept(f"lm_sorted{CAUSAL_DEFAULT}-{seed}")
        gains.append(statistics.mean(plain[depth(one)] - ours[depth(one)] for one in EXITS[:-1]))
        differences.append(ours[depth(EXITS[-1])] - plain[depth(EXITS[-1])])
        rows.append({"seed": seed, "ordinary": plain, "sorted": ours})
    found = {}
    for name, values in (("lm_gain", gains), ("lm_full_difference", differences)):
        found[name], found[f"{name}_sd"] = statistics.mean(values), statistics.stdev(values)
    return found, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "language_model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--examples", type=int, default=2000, help="training examples of a task; 0 for all")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of runs")
    parser.add_argument("--run", help="make this one run here")
    given = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if given.run:
        one_run(given, given.run)
        return
    run_apart(__file__, run_names(given.only), KEPT, given.workers, given.only)
    if given.out is None:
        return
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    for name, figures in (
        ("encoder", encoder_figures),
        ("compared", compared_figures),
        ("width", width_figures),
        ("causal", causal_figures),
    ):
        found, details[name] = figures()
        metrics |= found
    about = {
        "seeds": SEEDS, "examples": given.examples, "encoder_training": ENCODER, "causal_training": CAUSAL,
        "causal_examples_of_each": CAUSAL_EXAMPLES if given.examples else "all", "metric": METRIC,
        "objective": DEFAULT, "causal_objective": CAUSAL_DEFAULT, "widths": WIDTHS, "rows": details,
    }  # fmt: skip
    write(given.out, metrics, context(**about))


if __name__ == "__main__":
    main()
