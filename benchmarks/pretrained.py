"""The cost of sorted fine-tuning of pretrained models: summation over exits, one exit per example, memory, exactness.

A Llama of 16 layers, hidden size 512 and vocabulary 32,000 on 512 tokens; random weights, since only time and memory
are measured. Trajectories are those of a tiny Llama under two gloo processes. On a GPU the same command measures there.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measuring import alternate, context, output, ratio, spread, write
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

import sortednet as sn
from sortednet.evaluation.cost import _LiveStorages

ROOT = Path(__file__).parent.parent
EXITS = [2, 4, 6, 8, 10, 12, 14, 16]
TOKENS, VOCABULARY, HIDDEN = 512, 32_000, 512
STEPS = 50
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network() -> sn.SortedNet:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=2048, num_hidden_layers=16, num_attention_heads=8,
        num_key_value_heads=8, use_cache=False,
    )  # fmt: skip
    return sn.SortedNet.from_pretrained(LlamaForCausalLM(config).to(DEVICE), num_hidden_layers=EXITS).train()


def tokens(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (batch, TOKENS // batch), generator=generator).to(DEVICE)
    return {"input_ids": ids, "labels": ids}


def objective_step(net: sn.SortedNet, objective: sn.Objective, batch: dict[str, torch.Tensor]) -> None:
    objective(net, batch, lambda out, _: out.loss).backward()
    finish(net)


def ordinary_step(net: sn.SortedNet, batch: dict[str, torch.Tensor]) -> None:
    net.full(**batch).loss.backward()
    finish(net)


def finish(net: sn.SortedNet) -> None:
    for parameter in net.parameters():
        parameter.grad = None
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def flops(run) -> int:
    """Count forward and backward, attention included."""
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops()


def peak(run) -> int:
    """Return the most bytes of tensors made in a step that live at once, parameters not counted."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - held
    import weakref

    live = _LiveStorages(weakref.WeakKeyDictionary())
    with live:
        run()
    return live.peak


def costs() -> tuple[dict[str, float], dict]:
    net = network()
    summation = sn.Summation(net.space)
    per_example = sn.PerExample(sn.Stratified(net.space, seed=0))
    one, many = tokens(1), tokens(8)
    times = alternate(
        {
            "ordinary": lambda: ordinary_step(net, one),
            "summation": lambda: objective_step(net, summation, one),
            "ordinary of 8": lambda: ordinary_step(net, many),
            "per example of 8": lambda: objective_step(net, per_example, many),
        },
        repeats=5,
        warmup=1,
    )
    plain = flops(lambda: ordinary_step(net, one))
    # What the summation needs at least: every exit's head, forward and backward; no recomputation is allowed for.
    head = 3 * 2 * TOKENS * HIDDEN * VOCABULARY
    needed = plain + (len(EXITS) - 1) * head
    counted = flops(lambda: objective_step(net, summation, one))
    time_ratio = ratio(times, "summation", "ordinary")
    memory = {
        "ordinary": peak(lambda: ordinary_step(net, one)),
        "summation": peak(lambda: objective_step(net, summation, one)),
    }
    metrics = {
        "summation_time_over_flops": time_ratio / (needed / plain),
        "summation_time_ratio": time_ratio,
        "per_example_time_ratio": ratio(times, "per example of 8", "ordinary of 8"),
        "summation_memory_ratio": memory["summation"] / memory["ordinary"],
    }
    details = {
        "seconds": {name: spread(values) for name, values in times.items()},
        "flops": {"ordinary": plain, "summation": counted, "summation at least": needed},
        "peak_bytes": memory,
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    return metrics, details


def families() -> tuple[dict[str, float], dict]:
    """Count the families whose contract tests all pass."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests/contracts", f"--junitxml={report}", "-p", "no:cacheprovider"],
            cwd=ROOT, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        text = report.read_text()
    from tests.contracts.pretrained_cases import FAMILIES

    outcomes: dict[str, list[bool]] = {name: [] for name in FAMILIES}
    for case in re.finditer(r'<testcase [^>]*name="[^"\[]*\[([^"]*)\]"[^>]*?(/>|>.*?</testcase>)', text, re.DOTALL):
        for name in FAMILIES:
            if re.match(rf"{name}(\b|_)", case[1]):
                outcomes[name].append("<failure" not in case[2] and "<error" not in case[2])
    exact = [name for name, held in outcomes.items() if held and all(held)]
    return {"families_exact": len(exact)}, {"listed": len(FAMILIES), "exact": exact}


def tiny() -> sn.SortedNet:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False,
    )  # fmt: skip
    return sn.SortedNet.from_pretrained(
        LlamaForCausalLM(config), num_hidden_layers=[1, 2, 4], intermediate_size=[32, 64]
    ).train()


def trajectory(wrap: str, rank: int = 0, processes: int = 1) -> list[float]:
    """Return the losses of 50 steps: a split batch and a summation over exits in turn."""
    net = tiny()
    model: torch.nn.Module = net
    if wrap == "ddp":
        model = DistributedDataParallel(net, find_unused_parameters=True)
    elif wrap.startswith("fsdp"):
        for block in net.full.model.layers if wrap == "fsdp per block" else ():
            fully_shard(block)
        fully_shard(net)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    split = sn.Stochastic(sn.Stratified(net.space, seed=0), draws=2)
    exits = sn.StochasticSummation(sn.Uniform(net.space, seed=0))
    data = torch.randint(0, 64, (STEPS, 8, 12), generator=torch.Generator().manual_seed(1))
    found = []
    for place, ids in enumerate(data):
        if wrap == "resumed" and place == STEPS // 2:
            with tempfile.TemporaryDirectory() as folder:
                net.save_pretrained(folder)
                state = json.loads(json.dumps([split.state_dict(), exits.state_dict()]))
                held = optimizer.state_dict()
                net = model = sn.load(folder).train()
            optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
            optimizer.load_state_dict(held)
            split = sn.Stochastic(sn.Stratified(net.space, seed=7), draws=2)
            exits = sn.StochasticSummation(sn.Uniform(net.space, seed=7))
            split.load_state_dict(state[0])
            exits.load_state_dict(state[1])
        share = ids[rank::processes]
        batch = {"input_ids": share, "labels": share}
        result = sn.step(net, exits if place % 2 else split, optimizer, batch, lambda out, _: out.loss, model=model)
        loss = torch.tensor(result.loss)
        if processes > 1:
            dist.all_reduce(loss)
        found.append(float(loss) / processes)
    return found


def work(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {wrap: trajectory(wrap, rank, 2) for wrap in ("ddp", "fsdp", "fsdp per block")}
    if rank == 0:
        (Path(folder) / "result.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def trajectories() -> tuple[dict[str, float], dict]:
    plain = trajectory("plain")
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(work, (port, folder), nprocs=2)
        found = json.loads((Path(folder) / "result.json").read_text())
    found["resumed"] = trajectory("resumed")
    largest = {wrap: max(abs(a - b) for a, b in zip(plain, losses, strict=True)) for wrap, losses in found.items()}
    return {"trajectory_difference": max(largest.values())}, {"largest": largest, "first": plain[0], "last": plain[-1]}


def main() -> None:
    path = output(__doc__ or "")
    metrics: dict[str, float] = {}
    details = {}
    for measure in (costs, trajectories, families):
        found, details[measure.__name__] = measure()
        metrics |= found
        print(found, details[measure.__name__], file=sys.stderr, flush=True)
    about = {"exits": EXITS, "tokens": TOKENS, "hidden": HIDDEN, "vocabulary": VOCABULARY, "steps": STEPS, "seed": 0}
    write(path, metrics, context(**about, details=details))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
