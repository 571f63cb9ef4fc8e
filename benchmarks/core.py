"""The cost of the mechanism: run time, training time, switching, compilation, memory, partial reading, the demo."""

import ctypes
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from measuring import alternate, context, output, ratio, spread, write
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

import sortednet as sn
from sortednet.evaluation.cost import count_flops
from sortednet.huggingface.families import mobilenet_v2
from sortednet.models import Transformer

ROOT = Path(__file__).parent.parent
TOKENS = 512


def transformer() -> sn.SortedNet:
    """About 30 M parameters: 8 blocks, hidden size 512, feed-forward width 2048, 8 heads, vocabulary 4096."""
    torch.manual_seed(0)
    build = partial(Transformer, hidden=512, heads=8, head_size=64, vocabulary=4096, positions=TOKENS)
    return sn.SortedNet(build, sn.Space(depth=[2, 4, 6, 8], width=[512, 1024, 1536, 2048]))


def tokens() -> torch.Tensor:
    return torch.randint(0, 4096, (1, TOKENS), generator=torch.Generator().manual_seed(0))


def loss_of(model, x: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(x).flatten(0, 1), x.flatten())


def inference(net: sn.SortedNet) -> tuple[float, dict]:
    """`submodel(s)(x)` against the extracted model, at half depth and half width."""
    setting = net.space.setting(depth=4, width=1024)
    ours, theirs = net.submodel(setting), net.extract(setting).eval()
    x = tokens()

    def run(model):
        def call():
            with torch.inference_mode():
                model(x)

        return call

    times = alternate({"submodel": run(ours), "extracted": run(theirs)}, repeats=60, warmup=5)
    return ratio(times, "submodel", "extracted"), {name: spread(values) for name, values in times.items()}


def training(net: sn.SortedNet) -> tuple[float, dict]:
    """Forward and backward through `at(s)` against the extracted model, 512 tokens."""
    setting = net.space.setting(depth=4, width=1024)
    extracted = net.extract(setting)
    x = tokens()

    def run(model, parameters):
        def call():
            loss_of(model, x).backward()
            for parameter in parameters:
                parameter.grad = None

        return call

    times = alternate(
        {
            "at": run(net.at(setting), list(net.parameters())),
            "extracted": run(extracted, list(extracted.parameters())),
        },
        repeats=25,
    )
    return ratio(times, "at", "extracted"), {name: spread(values) for name, values in times.items()}


def uniform(net: sn.SortedNet) -> tuple[float, dict]:
    """Mean step under uniform sampling, over the mean share of FLOPs times the full model's step."""
    x = tokens()
    share = statistics.mean(count_flops(net, s, x) for s in net.space) / count_flops(net, net.space.full, x)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)

    def step(setting):
        start = time.perf_counter()
        loss_of(net.at(setting), x).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    order = list(net.space)
    for setting in order:
        step(setting)
    ratios, full_times = [], []
    for turn in range(
        6
    ):  # every setting once a turn, the full model's step in between, as a baseline of the same minute
        random.Random(turn).shuffle(order)
        drawn, full = [], []
        for place, setting in enumerate(order):
            drawn.append(step(setting))
            if place % 4 == 0:
                full.append(step(net.space.full))
        ratios.append(statistics.mean(drawn) / (share * statistics.median(full)))
        full_times += full
    return statistics.median(ratios), {"flop_share": share, "full_step_s": spread(full_times), "ratios": ratios}


def switching(net: sn.SortedNet) -> tuple[float, dict]:
    """Everything between two settings but the models' own work: choosing, looking up, binding."""
    settings = list(net.space)
    for setting in settings:
        net._bound(setting)
    times = []
    for repeat in range(200):
        setting = settings[repeat % len(settings)]
        values = dict(setting)
        start = time.perf_counter()
        net._bound(net.at(**values).setting)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), spread(times)


def compilation() -> tuple[float, dict]:
    """Graphs for 40 settings of a transformer, in training, every setting visited twice."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    build = partial(Transformer, hidden=32, head_size=8, vocabulary=64, positions=16)
    net = sn.SortedNet(build, sn.Space(depth=[1, 2, 3, 4], width=[16, 32, 48, 64, 80], heads=[2, 4]))
    counter = CompileCounterWithBackend("inductor")
    net.compile(backend=counter)
    x = torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(0))
    differences = []
    plain = sn.SortedNet(build, net.space, model=net.full)
    for _ in range(2):
        for setting in net.space:
            loss = loss_of(net.at(setting), x)
            loss.backward()
            differences.append(abs(float(loss.detach()) - float(loss_of(plain.at(setting), x).detach())))
    return counter.frame_count, {"settings": len(net.space), "largest_loss_difference": max(differences)}


def memory() -> tuple[float, dict]:
    """Bytes of parameters that 160 sub-models of MobileNetV2 add to the full one."""
    depths, widths = list(range(1, 17)), [round(0.1 * i, 1) for i in range(1, 11)]
    net = sn.SortedNet(mobilenet_v2, sn.Space(depth=depths, width=widths)).eval()
    own = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in net.full.parameters()}
    modules = [net.submodel(setting) for setting in net.space]
    seen = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in modules for p in m.parameters()}
    added = sum(size for pointer, size in seen.items() if pointer not in own)
    return added, {"sub_models": len(modules), "full_parameter_bytes": sum(own.values())}


def corner_read() -> tuple[float, dict]:
    """Bytes that `load(at=...)` brings in from disk, over the bytes of the corner; a checkpoint of about 500 MB.

    Counted are whole pages of the file in memory afterwards, what the system read ahead included.
    """
    build = partial(Transformer, hidden=1024, heads=16, head_size=64, vocabulary=10240, positions=512)
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:
        net = sn.SortedNet(build, sn.Space(depth=[2, 4, 8], width=[1024, 2048, 4096]))
        net.save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        ratios = {}
        for setting in ("depth=2,width=4096", "depth=4,width=2048", "depth=8,width=1024"):
            _evict(file)
            before = _resident(file)
            model = sn.load(folder, build, at=setting)
            read = _resident(file) - before
            ratios[setting] = read / sum(p.numel() * p.element_size() for p in model.parameters())
        return statistics.median(ratios.values()), {"file_bytes": file.stat().st_size, "ratios": ratios}


def _evict(file: Path) -> None:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident(file: Path) -> int:
    """Return how many bytes of a file are in the system's page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    size, page = file.stat().st_size, os.sysconf("SC_PAGESIZE")
    with open(file, "rb") as opened:
        address = libc.mmap(None, size, 1, 2, opened.fileno(), 0)
    pages = (ctypes.c_ubyte * ((size + page - 1) // page))()
    assert libc.mincore(address, size, pages) == 0
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return page * sum(one & 1 for one in bytes(pages))


def demo() -> tuple[float, dict]:
    """Seconds of `make demo` after installation."""
    with tempfile.TemporaryDirectory(dir=ROOT / "runs") as folder:
        start = time.perf_counter()
        subprocess.run(["make", "demo", f"RUN={folder}/digits"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        return seconds, {"report_bytes": (Path(folder) / "digits" / "report.html").stat().st_size}


def main() -> None:
    path = output(__doc__ or "")
    (ROOT / "runs").mkdir(exist_ok=True)
    net = transformer()
    parameters = sum(p.numel() for p in net.parameters())
    metrics, details = {}, {}
    for key, measure in {
        "inference_ratio": partial(inference, net),
        "training_step_ratio": partial(training, net),
        "uniform_step_over_flops": partial(uniform, net),
        "switch_ms": partial(switching, net),
        "compiled_graphs": compilation,
        "extra_parameter_bytes": memory,
        "corner_read_ratio": corner_read,
        "demo_seconds": demo,
    }.items():
        metrics[key], details[key] = measure()
        print(key, metrics[key], details[key], file=sys.stderr, flush=True)
    write(path, metrics, context(parameters=parameters, tokens=TOKENS, seed=0, details=details))


if __name__ == "__main__":
    main()
