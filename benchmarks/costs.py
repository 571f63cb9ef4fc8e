"""What training and evaluation cost in the mode that people use: bfloat16, many exits, many settings, whole data.

    python benchmarks/costs.py --out FILE.json [--images FOLDER] [--only PART ...]

Random weights of SmolLM2-135M's sizes, since only time and memory are measured; images are those of CIFAR-10 where
`--images` names their folder, else drawn ones of the same size. An ordinary step is plain transformers or plain torch.
First steps run in processes of their own. Parts that are done are kept in the file, so that single ones can be renewed.
"""

import argparse
import copy
import json
import os
import re
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import alternate, context, ratio, spread, write
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import sortednet as sn
from sortednet.evaluation.conditions import processor
from sortednet.evaluation.cost import _LiveStorages
from sortednet.models import PreResNet

EXITS = [6, 10, 14, 18, 22, 26, 30]
BATCH, TOKENS, VOCABULARY, HIDDEN = 8, 128, 49_152, 576
Found = tuple[dict[str, float], dict[str, Any]]
Batch = dict[str, torch.Tensor]


def bf16(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def smollm2() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def texts(batch: int = BATCH, tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> Batch:
    ids = torch.randint(0, vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids}


def ordinary(model: nn.Module, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        with bf16():
            loss = model(**batch).loss
        loss.backward()
        model.zero_grad()

    return step


def sorted_step(net: sn.SortedNet, objective: sn.Objective, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        with bf16():
            loss = objective(net, batch, lambda out, _: out.loss)
        loss.backward()
        net.zero_grad()

    return step


def flops(run: Callable[[], object]) -> int:
    """Count forward and backward, attention included."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops()


def peak(run: Callable[[], object]) -> int:
    """Return the most bytes of tensors made in a step that live at once, parameters not counted."""
    live = _LiveStorages(weakref.WeakKeyDictionary())
    with live:
        run()
    return live.peak


def language(_: Any) -> Found:
    """Steps of SmolLM2 with 7 exits against ordinary ones, by time and by memory."""
    plain, batch = smollm2(), texts()
    net = sn.SortedNet.from_pretrained(copy.deepcopy(plain), num_hidden_layers=EXITS).train()
    depths = sn.Cycle(net.space, [{"num_hidden_layers": depth} for depth in EXITS])
    steps = {
        "ordinary": ordinary(plain, batch),
        "summation": sorted_step(net, sn.Summation(net.space), batch),
        "per example": sorted_step(net, sn.PerExample(sn.Stratified(net.space, seed=0)), batch),
    }
    stochastic = sorted_step(net, sn.Stochastic(depths), batch)
    steps["stochastic"] = lambda: [stochastic() for _ in EXITS]
    for step in steps.values():
        step()
    times = alternate(steps, repeats=7, warmup=1)
    whole = flops(steps["ordinary"])
    head = 3 * 2 * BATCH * TOKENS * HIDDEN * VOCABULARY  # forward and backward of an exit's
    needed = {"summation": whole + (len(EXITS) - 1) * head}
    share = statistics.mean((whole - head) * depth / EXITS[-1] + head for depth in EXITS) / whole
    memory = {name: peak(steps[name]) for name in ("ordinary", "summation", "per example")}
    metrics = {
        "bf16_summation_over_flops": ratio(times, "summation", "ordinary") / (needed["summation"] / whole),
        "bf16_per_example_ratio": ratio(times, "per example", "ordinary"),
        "bf16_stochastic_over_flops": ratio(times, "stochastic", "ordinary") / len(EXITS) / share,
        "train_memory_ratio": memory["per example"] / memory["ordinary"],
    }
    return metrics, {
        "seconds": {name: spread(values) for name, values in times.items()}, "flops": whole, "flops of a head": head,
        "flop share of a drawn depth": share, "peak_bytes": memory,
    }  # fmt: skip


def first_time(_: Any) -> Found:
    """The first step of SmolLM2 with 7 exits, over a later one; a summation and one exit for each example."""
    found = {}
    for name in ("summation", "per example"):
        net, batch = sn.SortedNet.from_pretrained(smollm2(), num_hidden_layers=EXITS).train(), texts()
        ordinary(net.full, batch)()  # what torch prepares once is no cost of ours
        objective = sn.Summation(net.space) if name == "summation" else sn.PerExample(sn.Stratified(net.space, seed=0))
        step, times = sorted_step(net, objective, batch), []
        for _turn in range(5):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        found[name] = times
    ratios = {name: times[0] / statistics.median(times[1:]) for name, times in found.items()}
    return {"first_step_time_ratio": max(ratios.values())}, {"ratios": ratios, "seconds": found}


def first_memory(exits: int) -> dict[str, int]:
    """Return the peak memory of a process in the very first step of a Llama of 8 layers, in bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, use_cache=False,
    )  # fmt: skip
    net = sn.SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=list(range(9 - exits, 9))).train()
    step = sorted_step(net, sn.Summation(net.space), texts(2, 512, 32_000))
    before = memory("VmRSS")
    step()
    return {"before": before, "peak": memory("VmHWM"), "step": memory("VmHWM") - before}


def memory(kind: str) -> int:
    """Return the memory of this process in bytes: `VmRSS` now, `VmHWM` at most so far."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def first_memories(_: Any) -> Found:
    """The peak of the first step with 8 exits, over one exit's; each in a process of its own."""
    found = {}
    for exits in (1, 8):
        command = [sys.executable, __file__, "--first-memory", str(exits)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[exits] = json.loads(text.splitlines()[-1])
    return {"first_step_memory_ratio": found[8]["step"] / found[1]["step"]}, {"exits": found}


def shared_evaluation(_: Any) -> Found:
    """`evaluate` of 12 depths against one deepest forward by hand, read at 12 depths; a classifier and a causal one."""
    torch.manual_seed(0)
    depths, sizes = list(range(1, 13)), {"num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    bert = BertForSequenceClassification(BertConfig(vocab_size=8000, hidden_size=384, **sizes)).eval()
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=8000, hidden_size=384, num_key_value_heads=6, **sizes)).eval()
    ids = torch.randint(0, 8000, (32, 64), generator=torch.Generator().manual_seed(0))
    batches = {
        "classifier": [{"input_ids": ids, "labels": ids[:, 0] % 2}] * 2,
        "causal": [{"input_ids": ids[:8], "labels": ids[:8]}] * 2,
    }

    def right(logits: torch.Tensor, labels: torch.Tensor) -> float:
        return float((logits.argmax(-1) == labels).float().mean())

    @torch.inference_mode()
    def classifier() -> None:
        for batch in batches["classifier"]:
            states = bert.bert(batch["input_ids"], output_hidden_states=True).hidden_states
            for depth in depths:
                logits = bert.classifier(bert.bert.pooler(states[depth]))
                functional.cross_entropy(logits, batch["labels"])  # as a model that gets labels does
                right(logits, batch["labels"])

    @torch.inference_mode()
    def causal() -> None:
        for batch in batches["causal"]:
            held = []
            hooks = [
                layer.register_forward_hook(lambda _, __, out, held=held: held.append(out))
                for layer in llama.model.layers
            ]
            llama.model(batch["input_ids"])
            for hook in hooks:
                hook.remove()
            for states in held:
                states = states[0] if isinstance(states, tuple) else states
                logits = llama.lm_head(llama.model.norm(states))
                llama.loss_function(logits=logits, labels=batch["labels"], vocab_size=8000)
                right(logits[:, :-1], batch["labels"][:, 1:])

    def ours(model: nn.Module, kind: str) -> Callable[[], object]:
        net = sn.SortedNet.from_pretrained(copy.deepcopy(model), num_hidden_layers=depths).eval()

        def metric(output: Any, batch: Batch) -> float:
            if kind == "classifier":
                return right(output.logits, batch["labels"])
            return right(output.logits[:, :-1], batch["labels"][:, 1:])

        return lambda: sn.evaluate(net, batches[kind], metric, measure=(), higher_is_better=True)

    runs = {"classifier by hand": classifier, "causal by hand": causal}
    runs |= {"classifier": ours(bert, "classifier"), "causal": ours(llama, "causal")}
    times = alternate(runs, repeats=7, warmup=1)
    ratios = {kind: ratio(times, kind, f"{kind} by hand") for kind in batches}
    details = {"ratios": ratios, "seconds": {name: spread(values) for name, values in times.items()}}
    return {"evaluate_shared_ratio": max(ratios.values())}, details


def cnn_evaluation(_: Any) -> Found:
    """`evaluate` of 160 widths and depths of a CNN against the forwards of as many extracted models."""
    torch.manual_seed(0)
    space = sn.Space(depth=list(range(1, 9)), width=list(range(4, 24)))
    net = sn.SortedNet(lambda depth, width: PreResNet(depth, width, norm="batch"), space).eval()
    images = torch.randn(64, 3, 32, 32)
    batches = [(images, torch.randint(0, 10, (64,)))] * 2
    extracted = [net.extract(setting).eval() for setting in space]

    @torch.inference_mode()
    def forwards() -> None:
        for model in extracted:
            for x, _ in batches:
                model(x)

    runs = {"extracted": forwards, "evaluate": lambda: sn.evaluate(net, batches, measure=())}
    times = alternate(runs, repeats=3, warmup=1)
    details = {"settings": len(space), "seconds": {name: spread(values) for name, values in times.items()}}
    return {"evaluate_cnn_ratio": ratio(times, "evaluate", "extracted")}, details


def convolutional(norm: str = "batch", width: int = 16) -> nn.Module:
    """The papers' cPreResNet20."""
    return PreResNet(depth=2, width=width, bottleneck=True, norm_scale=0.5, norm=norm)


def norms(_: Any) -> Found:
    """Forward and backward of cPreResNet20 with each norm, bfloat16 and channels last."""
    x = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (128,))

    def step(norm: str) -> Callable[[], None]:
        model = convolutional(norm).train().to(memory_format=torch.channels_last)

        def run() -> None:
            with bf16():
                loss = functional.cross_entropy(model(x), y)
            loss.backward()
            model.zero_grad()

        return run

    times = alternate({norm: step(norm) for norm in ("batch", "instance", "group")}, repeats=15)
    details = {"seconds": {name: spread(values) for name, values in times.items()}}
    return {
        "instance_norm_ratio": ratio(times, "instance", "batch"),
        "group_norm_ratio": ratio(times, "group", "batch"),
    }, details


def private_statistics(_: Any) -> Found:
    """`sn.step` with 160 settings whose statistics are private, over shared ones."""

    class Normed(nn.Module):
        def __init__(self, depth: int, width: int) -> None:
            super().__init__()
            self.first = nn.Linear(16, width)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
            )
            self.last = nn.Linear(width, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for block in self.blocks:
                x = x + block(x)
            return self.last(x)

    space = sn.Space(depth=list(range(1, 9)), width=list(range(8, 48, 2)))
    batch = torch.randn(32, 16), torch.randint(0, 4, (32,))

    def run(policy: str) -> Callable[[], None]:
        torch.manual_seed(0)
        net = sn.SortedNet(Normed, space, buffers=policy).train()
        objective, optimizer = sn.Stochastic(sn.Cycle(space, [space.full])), torch.optim.SGD(net.parameters(), 0.01)
        return lambda: sn.step(net, objective, optimizer, batch, functional.cross_entropy)

    times = alternate({policy: run(policy) for policy in ("shared", "private")}, repeats=60, warmup=5)
    details = {"settings": len(space), "seconds": {name: spread(values) for name, values in times.items()}}
    return {"step_private_ratio": ratio(times, "private", "shared")}, details


def cnn_training(given: Any) -> Found:
    """Images a second of our trainer on cPreResNet20, against a plain loop and against itself in float32."""
    from costs_training import images_per_second

    return images_per_second(given.images, convolutional)


PARTS: dict[str, Callable[[Any], Found]] = {
    "language": language,
    "first_time": first_time,
    "first_memory": first_memories,
    "evaluate_shared": shared_evaluation,
    "evaluate_cnn": cnn_evaluation,
    "training": cnn_training,
    "norms": norms,
    "private": private_statistics,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--images", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--first-memory", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first_memory:
        print(json.dumps(first_memory(given.first_memory)))
        return
    if given.out is None:
        parser.error("the following arguments are required: --out")
    held = json.loads(given.out.read_text()) if given.out.is_file() else {"metrics": {}, "context": {"details": {}}}
    metrics, details = held["metrics"], held["context"]["details"]
    for name in given.only:
        found, details[name] = PARTS[name](given)
        metrics |= found
        details[name]["commit"] = context()["commit"]
        print(name, found, details[name], file=sys.stderr, flush=True)
    about = {"processor": processor(torch.device("cpu")), "load": os.getloadavg()[0], "exits": EXITS}
    write(given.out, metrics, context(**about, batch=BATCH, tokens=TOKENS, details=details))


if __name__ == "__main__":
    main()
