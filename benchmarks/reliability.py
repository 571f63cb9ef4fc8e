"""Files under stress: processes killed while they save, bits flipped, foreign files, files fuzzed; and what it costs.

Kinds of files are those of `stored.py`; the mutations are those of `fuzz.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fuzz
import torch
from core import _evict, _resident
from measuring import alternate, context, ratio, write
from peft import LoraConfig
from stored import KINDS, adapter, fine_tuner, language_model, network, trainer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import sortednet as sn
from sortednet.cli import main as command
from sortednet.errors import SortedNetError
from sortednet.models import Transformer

ROOT = Path(__file__).parent.parent
READ_ONLY = ("yaml", "points", "images")  # which the library does not write


def same(one: Any, other: Any) -> bool:
    """Return whether two contents are equal, tensors bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        # A number that is none equals itself here.
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


@contextlib.contextmanager
def silent() -> Any:
    """Show nothing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


# Kills


def _child(prepare: Callable[[], Callable[[Path], object]], folder: Path) -> tuple[int, int]:
    """Let a process of its own save, and return its number and a pipe that says when it begins."""
    begins, tells = os.pipe()
    process = os.fork()
    if process == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            save = prepare()
            os.write(tells, b"x")
            save(folder)
        finally:
            os._exit(0)
    os.close(tells)
    return process, begins


def _begun(pipe: int) -> None:
    os.read(pipe, 1)
    os.close(pipe)


PREPARED: dict[str, Callable[[], Callable[[Path], object]]] = {
    "plain": lambda: network(2).save_pretrained,
    "private": lambda: network(2, private="head.*").save_pretrained,
    "pretrained": lambda: language_model(2).save_pretrained,
    "adapter": lambda: adapter(2).save_pretrained,
    "training": lambda: lambda folder: trainer(folder, 2).train(),
    "fine-tuning": lambda: lambda folder: fine_tuner(folder, 2).train(),
}
RUNS = ("training", "fine-tuning")


def kills(count: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Kill processes at times uniform over a save, and open what they leave.

    Of networks there is an earlier save, and the content must be the whole of one or the other. A training run is
    killed anywhere, and must go on to the weights of a run that was not.
    """
    draw, bad = random.Random(0), []
    done: Counter[str] = Counter()
    about: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, prepare in PREPARED.items():
            kind, base = KINDS[name], Path(place) / name
            with silent():
                for number in (1, 2):
                    kind.write(base / str(number), number)
                wanted = [kind.open(base / str(number)) for number in ((2,) if name in RUNS else (1, 2))]
            times = []
            for turn in range(5):
                process, pipe = _child(prepare, base / f"timed{turn}")
                _begun(pipe)
                began = time.perf_counter()
                os.waitpid(process, 0)
                times.append(time.perf_counter() - began)
            length = statistics.median(times)
            outcomes: Counter[int] = Counter()
            for turn in itertools.count():
                if done[name] == count // len(PREPARED):
                    break
                folder = base / f"killed{turn}"
                if name not in RUNS:
                    shutil.copytree(base / "1", folder)
                process, pipe = _child(prepare, folder)
                _begun(pipe)
                time.sleep(draw.uniform(0, length))
                os.kill(process, signal.SIGKILL)
                if os.WIFSIGNALED(os.waitpid(process, 0)[1]):  # else it had ended before
                    done[name] += 1
                try:
                    with silent(), warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        found = _gone_on(name, folder) if name in RUNS else kind.open(folder)
                    content = next((place for place, one in enumerate(wanted) if same(found, one)), -1)
                    outcomes[content] += 1
                    if content < 0:
                        bad.append((name, turn, "mixed content"))
                except Exception as error:
                    bad.append((name, turn, f"{type(error).__name__}: {str(error)[:200]}"))
                shutil.rmtree(folder, ignore_errors=True)
            about[name] = {"save_s": length, "kills": done[name], "contents": dict(outcomes)}
    return {"kills": sum(done.values()), "unreadable_after_kill": len(bad)}, {"kinds": about, "bad": bad}


def _gone_on(name: str, folder: Path) -> Any:
    """Go on with a killed run to its end, and return its content."""
    if name == "training":
        trainer(folder, 2).train()
    else:
        held = fine_tuner(folder, 2)
        begun = any((one / "trainer_state.json").is_file() for one in folder.glob("checkpoint-*"))
        held.train(resume_from_checkpoint=begun or None)
    return KINDS[name].open(folder)


# Flips


def flips(count: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Flip single bits of files of every kind that is written, and open them."""
    names = [name for name in KINDS if name not in READ_ONLY]
    draw, silently, noticed = random.Random(1), [], Counter()
    with tempfile.TemporaryDirectory() as place:
        fuzz.make_all(Path(place))
        wanted = {}
        for name in names:
            with silent():
                wanted[name] = KINDS[name].open(Path(shutil.copytree(Path(place) / name, Path(place) / "w" / name)))
        for turn in range(count):
            name = names[turn % len(names)]
            kind = KINDS[name]
            folder = Path(shutil.copytree(Path(place) / name, Path(place) / "flipped"))
            file = draw.choice([one for one in fuzz.files_of(folder, kind.files) if one.stat().st_size])
            data = bytearray(file.read_bytes())
            bit = draw.randrange(8 * len(data))
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            with warnings.catch_warnings(record=True) as said, silent():
                warnings.simplefilter("always")
                try:
                    found = kind.open(folder)
                    if said and not same(found, wanted[name]):
                        noticed[name] += 1
                    elif not same(found, wanted[name]):
                        silently.append((name, file.name, bit))
                except SortedNetError:
                    noticed[name] += 1
                except Exception as error:
                    silently.append((name, file.name, bit, f"{type(error).__name__}: {str(error)[:100]}"))
            shutil.rmtree(folder)
    return {"flips": count, "flips_silent": len(silently)}, {"noticed": dict(noticed), "silent": silently}


# Files of others


def foreign_files() -> tuple[int, dict[str, Any]]:
    """Stage folders with files of somebody else, let the library write there, and count what is lost or changed."""
    lost: list[str] = []
    for name, (files, links, act) in SCENES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "project"
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(f"{file} is mine".encode())
            for link, target in links.items():
                (Path(place) / target).mkdir(parents=True, exist_ok=True)
                (Path(place) / target / "theirs.py").write_text("mine")
                (folder / link).parent.mkdir(parents=True, exist_ok=True)
                (folder / link).symlink_to(Path(place) / target)
            with silent(), contextlib.suppress(SortedNetError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                act(folder)
            for file in files:
                there = folder / file
                if not there.is_file() or there.read_bytes() != f"{file} is mine".encode():
                    lost.append(f"{name}: {file}")
            for link, target in links.items():
                inside = Path(place) / target
                if {one.name for one in inside.iterdir()} != {"theirs.py"} or not (folder / link).is_symlink():
                    lost.append(f"{name}: {link}")
    return len(lost), {"scenes": len(SCENES), "lost": lost}


def _train_anew(folder: Path) -> None:
    trainer(folder, 1).train(resume=False)


def _trained(folder: Path) -> None:
    trainer(folder, 1).train()
    trainer(folder, 2).train(resume=False)


def _fine_tune(folder: Path) -> None:
    held = fine_tuner(folder, 1)
    held.train()
    held.save_model(str(folder / "model"))


def _run_command(folder: Path, *words: str) -> None:
    """Train digits for an update by the command line, and run another command."""
    config = folder.parent / "c.yaml"
    config.write_text("space: {depth: [1, 2]}\ndata: {name: digits}\ntraining: {updates: 1}\n")
    command(["train", str(config), "--output", str(folder)])
    if words:
        command(["evaluate", str(folder), "--measure", "[]"])
        command([words[0], str(folder), *(one.replace("RUN", str(folder)) for one in words[1:])])


OTHERS = ["checkpoint-1/pytorch_model.bin", "checkpoint-7/trainer_state.json", "checkpoints/last.ckpt"]
SCENES: dict[str, tuple[list[str], dict[str, str], Callable[[Path], object]]] = {
    "a package called model": (["model/net.py", "model/__init__.py"], {}, _train_anew),
    "the same with a cache": (["model/net.py", "model/__pycache__/net.pyc"], {}, _train_anew),
    "trained twice beside it": (["model/net.py", "data/x.csv"], {}, _trained),
    "metrics of one's own": (["metrics.jsonl"], {}, _train_anew),
    "a configuration of one's own": (["config.json"], {}, partial(_run_command)),
    "checkpoints of another tool": (OTHERS, {}, _train_anew),
    "checkpoints of the same name": (["checkpoints/update-00000001.safetensors"], {}, _train_anew),
    "a link called model": (["a.py"], {"model": "elsewhere"}, _train_anew),
    "a link called checkpoints": (["a.py"], {"checkpoints": "elsewhere"}, _train_anew),
    "a plain save": (["model.safetensors", "a.txt"], {}, lambda folder: network(1).save_pretrained(folder)),
    "private files": (
        ["private-mine.safetensors", "private-0123456789ab.safetensors"],
        {},
        lambda folder: network(1, private="head.*").save_pretrained(folder),
    ),
    "a pretrained model": (["config.json", "tokenizer.json"], {}, lambda folder: KINDS["pretrained"].write(folder, 1)),
    "shards of another model": (
        ["model-00001-of-00006.safetensors", "model.safetensors.index.json"],
        {},
        lambda folder: KINDS["shards"].write(folder, 1),
    ),
    "an adapter of another tool": (
        ["adapter_model.safetensors", "adapter_config.json"],
        {},
        lambda folder: KINDS["adapter"].write(folder, 1),
    ),
    "fine-tuning beside others": (["checkpoint-9/mine.bin", "runs/log", "model/net.py"], {}, _fine_tune),
    "a table of one's own": (["table.csv"], {}, lambda folder: _run_command(folder, "report")),
    "a report of one's own": (["report.html"], {}, lambda folder: _run_command(folder, "report")),
    "an extraction onto files": (
        ["cut/model.safetensors", "cut/setting.json"],
        {},
        lambda folder: _run_command(folder, "extract", "depth=1", "--output", "RUN/cut"),
    ),
    "a lock and hidden files": ([".lock", ".git/config", ".model.safetensors.999999.new"], {}, _train_anew),
    "everything at once": (
        ["notes.md", "src/a.py", "checkpoints/best.pt", "model/weights.h5", "stages/1/mine.txt", ".env"],
        {"data": "elsewhere"},
        _trained,
    ),
}


# Costs


def large() -> sn.SortedNet:
    """Return a network of about 500 MB."""
    make = partial(Transformer, hidden=1024, heads=16, head_size=64, vocabulary=10240, positions=512)
    return sn.SortedNet(make, sn.Space(depth=[2, 4, 8], width=[1024, 2048, 4096]))


def costs(repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure what checking, saving and reading in part cost, at about 500 MB."""
    net = large()
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as place:
        folder, shards, adapter = (Path(place) / name for name in ("one", "shards", "adapter"))
        held = sum(tensor.numel() * tensor.element_size() for tensor in net.full.state_dict().values())
        before = _peak_memory(lambda: None)
        extra = _peak_memory(lambda: net.save_pretrained(folder)) - before
        times = alternate(
            {
                "verified": lambda: sn.load(folder, net.builder),
                "plain": lambda: sn.load(folder, net.builder, verify=False),
            },
            repeats,
        )
        net.save_pretrained(shards, max_shard_size="100MB")
        corners = {
            "one file": _corner(folder, partial(sn.load, folder, net.builder), "depth=4,width=2048"),
            "shards": _corner(shards, partial(sn.load, shards, net.builder), "depth=4,width=2048"),
        }
        adapters = _adapter_corners(adapter)
    return {
        "verify_ratio": ratio(times, "verified", "plain"),
        "save_extra_memory_ratio": extra / held,
        "corner_read_ratio": max(*corners.values(), adapters["num_hidden_layers=2"]),
        "adapter_rank_read_ratio": adapters["r=64"],
    }, {
        "bytes": held,
        "adapters": adapters,
        "load_s": {name: statistics.median(one) for name, one in times.items()},
        "corners": corners,
    }


def _peak_memory(act: Callable[[], object]) -> int:
    """Return the largest resident memory while something is done, over that before it, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = _status("VmRSS")
    act()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _corner(folder: Path, load: Callable[..., Any], at: str) -> float:
    files = list(folder.glob("*.safetensors"))
    for file in files:
        _evict(file)
    before = sum(map(_resident, files))
    model = load(at=at)
    read = sum(map(_resident, files)) - before
    return read / sum(p.numel() * p.element_size() for p in model.parameters())


def _adapter_corners(folder: Path) -> dict[str, float]:
    """An adapter of rank 512, read at half of the layers, and at rank 64.

    PEFT stores the second matrix of a layer with the ranks along its rows, of 2 KB here: no page of it is without some.
    """
    shape = {"vocab_size": 64, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4,
             "num_attention_heads": 8}  # fmt: skip

    def model() -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**shape))

    def layered() -> sn.SortedNet:
        return sn.SortedNet.from_pretrained(model(), num_hidden_layers=[2, 4])

    net = sn.dylora(layered(), LoraConfig(r=512, target_modules="all-linear"), ranks=[64, 512])
    net.save_pretrained(folder)
    file, ratios = folder / "adapter_model.safetensors", {}
    for at in ("num_hidden_layers=2", "r=64"):
        _evict(file)
        before = _resident(file)
        part = sn.load(folder, model=layered(), at=at)
        read = _resident(file) - before
        ratios[at] = read / sum(p.numel() * p.element_size() for name, p in part.named_parameters() if "lora_" in name)
    return ratios


def fuzzed(count: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Open mutated files in processes of their own; see `fuzz.py`."""
    found = fuzz.run(count, 0, os.cpu_count() or 1)
    failed = [f"{one.kind}:{one.number} {one.file} ({one.how}): {one.failure}" for one in found if one.failure]
    structural = sum(not one.how.startswith("bytes") for one in found)
    about = {"structural": structural, "refused": sum(one.refused for one in found), "failed": failed[:50]}
    return {"fuzzed": len(found), "fuzz_failures": len(failed)}, about


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--fuzzed", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    (ROOT / "runs").mkdir(exist_ok=True)
    metrics: dict[str, float] = {}
    about: dict[str, Any] = {}
    for part, run in {
        "kills": partial(kills, given.kills), "flips": partial(flips, given.flips),
        "foreign": foreign_files, "costs": partial(costs, given.repeats), "fuzz": partial(fuzzed, given.fuzzed),
    }.items():  # fmt: skip
        began = time.perf_counter()
        found, more = run()
        metrics |= {"foreign_files_lost": found} if part == "foreign" else found
        about[part] = {**more, "seconds": round(time.perf_counter() - began, 1)}
        print(part, json.dumps(found), flush=True)
        write(given.out, metrics, context(**about))
