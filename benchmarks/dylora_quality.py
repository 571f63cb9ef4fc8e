"""Quality of every rank of an adapter on GLUE: LoRA at each rank, LoRA cut by prefix and by SVD, DyLoRA in its forms.

    python benchmarks/dylora_quality.py --data FOLDER --encoder FOLDER

FOLDER of --data holds the files that `sortednet.data.text.load_task` names; --encoder is a BERT-class encoder such as
MiniLM. Every run is a function of its name, is kept under runs/dylora, and is not repeated: the command goes on where
it was interrupted; `dylora.py` makes the figures of what is there. On a GPU the whole training sets are used
(--examples 0).

Rates are chosen on training examples that no run is trained on (`rate-...` runs), never on the test set.
"""

import argparse
import json
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from finetuning import batches, device, scores
from measuring import run_apart
from peft import LoraConfig

import sortednet as sn
from sortednet.data.text import encode, load_task

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "dylora"
SEEDS = (0, 1, 2)
TASKS = ("mrpc", "rte", "sst2")
LARGEST = 8
RANKS = tuple(range(1, LARGEST + 1))
SEARCHED = (1, 2, 4, 8)
HOW = {
    "epochs": 3, "batch": 32, "decay": 0.1, "warmup": 0.06, "length": 64, "alpha": 16, "targets": ["query", "value"],
    "dropout": 0.0, "saved": ["classifier", "pooler"], "exclude": None,
}  # fmt: skip
RATES = {"lora": 5e-3, "step": 5e-3, "example": 5e-3, "frozen": 5e-3, "full": 1e-4}
HEAD_RATE = 1e-3
HELD_OUT = 400


def adapter(rank: int, root: bool = True) -> LoraConfig:
    """Return the config of an adapter, of scaling alpha / r at the largest rank.

    At rank b the scaling is that times the root of r / b, which trained better than the paper's r / b at all ranks
    (docs/lab-notes.md); at the largest rank both are the same.
    """
    alpha = HOW["alpha"] / math.sqrt(LARGEST) if root else HOW["alpha"]
    return LoraConfig(
        r=rank, lora_alpha=alpha, use_rslora=root, target_modules=HOW["targets"],
        modules_to_save=HOW["saved"], exclude_modules=HOW["exclude"],
    )  # fmt: skip


def made(kind: str, model: Any, seed: int) -> tuple[sn.SortedNet, sn.Objective, str]:
    """Return the network of a kind of run, what it trains and by which update rule."""
    if kind == "full":
        net = sn.SortedNet.from_pretrained(model, readout="own", num_hidden_layers=[model.config.num_hidden_layers])
        return net, sn.Summation(net.space), "standard"
    if kind.startswith("lora"):
        rank = int(kind.removeprefix("lora"))
        net = sn.dylora(model, adapter(rank), ranks=RANKS[:rank])
        return net, sn.Summation(sn.Space([dict(net.space.full)])), "standard"
    net = sn.dylora(model, adapter(LARGEST), ranks=RANKS)
    if kind == "examplelow":  # low ranks more often, as the paper's geometric distribution draws them
        return net, sn.PerExample(sn.Geometric(net.space, seed=seed)), "standard"
    if kind.startswith("example"):
        return net, sn.PerExample(sn.Stratified(net.space, seed=seed)), "standard"
    return net, sn.Stochastic(sn.Uniform(net.space, seed=seed)), "unique" if kind == "frozen" else "standard"


def trained(net: Any, objective: Any, update: str, rows: Any, rate: float, seed: int, pad: int) -> Any:
    """Train a network; the same loop, examples and number of updates for all."""
    torch.manual_seed(seed)
    net.to(device()).train()
    generator = torch.Generator().manual_seed(seed)
    updates = HOW["epochs"] * math.ceil(len(rows) / HOW["batch"])
    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            groups["classifier" in name or "pooler" in name].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True], "lr": HEAD_RATE}, {"params": groups[False], "lr": rate}],
        weight_decay=HOW["decay"], fused=True,
    )  # fmt: skip
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(HOW["warmup"] * updates), updates)
    waiting: list = []
    for _ in range(updates):
        waiting = waiting or batches(rows, HOW["batch"], generator, pad)
        on_device = {name: value.to(device()) for name, value in waiting.pop().items()}
        with torch.autocast(device().type, torch.bfloat16):
            sn.step(net, objective, optimizer, on_device, lambda output, _: output.loss, update=update, max_norm=1.0)
        schedule.step()
    return net.eval()


def run(given: Any, kind: str, task: str, seed: int, rate: float | None) -> dict[str, dict[str, float]]:
    """Make one run; with a rate it is scored on held-out training examples, else on the test set."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.encoder)
    data = load_task(task, given.data, train_examples=None, seed=seed)
    rows = encode(data, tokenizer, max_length=HOW["length"])
    order = torch.randperm(len(rows.train), generator=torch.Generator().manual_seed(seed)).tolist()
    held, order = order[:HELD_OUT], order[HELD_OUT:]
    train = [rows.train[place] for place in order[: given.examples or None]]
    scored = list(rows.evaluation)[: given.evaluated or None] if rate is None else [rows.train[place] for place in held]
    torch.manual_seed(seed)  # of the new head and the adapter
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        given.encoder, num_labels=2,
        # On a CPU in bfloat16 the fused attention's backward takes longer than all else.
        attn_implementation=None if torch.cuda.is_available() else "eager",
        hidden_dropout_prob=HOW["dropout"], attention_probs_dropout_prob=HOW["dropout"],
    )  # fmt: skip
    net, objective, update = made(kind, model, seed)
    chosen = rate if rate is not None else RATES["example" if kind.startswith("example") else kind.rstrip("0123456789")]
    pad = tokenizer.pad_token_id
    trained(net, objective, update, train, chosen, seed, pad)
    settings = list(net.space) if kind == "lora8" or not kind.startswith("lora") else [net.space.full]
    found = {"own": scores(net, settings, scored, task, pad)}
    if kind == "lora8" and rate is None:
        # As the paper cuts it: rank b with the scaling alpha / b.
        builder = replace(net.builder, config=adapter(LARGEST, root=False))
        paper = sn.SortedNet(builder, net.space, model=net.full, layouts=net.layouts)
        found["paper"] = scores(paper, settings[: LARGEST // 2], scored, task, pad)
        found["svd"] = scores(sn.order_ranks(net), settings, scored, task, pad)
    return found


def run_names(only: list[str]) -> list[str]:
    kinds = ("example", "step", "lora8", "lora1", "lora4", "lora2")
    names = [f"{kind}-{task}-{seed}" for seed in SEEDS for kind in kinds for task in TASKS]
    names += [f"{kind}-{task}-0" for kind in ("frozen", "full") for task in TASKS]
    return [name for name in names if not only or any(name.startswith(one) for one in only)]


def one_run(given: Any, name: str) -> None:
    """Make one run, in a process of its own, and keep its result."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    parts = name.split("-")
    rate = float(parts.pop(1)) if parts[0] == "rate" else None
    if rate is not None:
        parts.pop(0)
    start = time.time()
    found = run(given, parts[0], parts[1], int(parts[2]), rate)
    result = {
        "scores": found, "seconds": time.time() - start, "how": HOW, "rates": RATES, "examples": given.examples,
        "evaluated": given.evaluated,
    }  # fmt: skip
    (KEPT / f"{name}.json").write_text(json.dumps(result))
    shown = {key: [round(value, 1) for value in one.values()] for key, one in found.items()}
    print(name, shown, f"{result['seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=2000, help="training examples of a task; 0 for all")
    parser.add_argument("--evaluated", type=int, default=600, help="test examples of a task; 0 for all")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of runs, or whole names")
    parser.add_argument("--how", default="{}", help="changes of HOW, as JSON")
    parser.add_argument("--run", help="make this one run here")
    given = parser.parse_args()
    HOW.update(json.loads(given.how))
    KEPT.mkdir(parents=True, exist_ok=True)
    if given.run:
        one_run(given, given.run)
        return
    wanted = [one for one in given.only if one.startswith("rate-")] or run_names(given.only)
    run_apart(__file__, wanted, KEPT, given.workers, given.only)


if __name__ == "__main__":
    main()
