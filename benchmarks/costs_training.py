"""Images a second of the trainer on the papers' cPreResNet20, against a plain loop in the same run."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

import sortednet as sn
from sortednet.data.images import augment, load_cifar10
from sortednet.training import Trainer, TrainingConfig

BATCH, UPDATES, SKIPPED, REPEATS = 128, 40, 10, 3
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
Images = tuple[torch.Tensor, torch.Tensor]


def images_of(folder: Path | None) -> Images:
    """Return all training images and their classes; drawn ones where there is no folder."""
    if folder is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(50_000, 3, 32, 32, generator=generator), torch.randint(0, 10, (50_000,), generator=generator)
    held = load_cifar10(folder)
    return held.train_images, held.train_labels


def moved(images: torch.Tensor, seed: int) -> torch.Tensor:
    return augment(images, torch.Generator().manual_seed(seed), shift=4, flip=True)


def plain(data: Images, build: Callable[..., nn.Module]) -> float:
    """Return images a second of a loop in plain torch: bfloat16, channels last."""
    torch.manual_seed(0)
    model = build().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    order = torch.randperm(len(data[0]))
    start = 0.0
    for update in range(UPDATES):
        if update == SKIPPED:
            start = time.perf_counter()
        rows = order[update * BATCH : (update + 1) * BATCH]
        x = moved(data[0][rows], update).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(model(x), data[1][rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return BATCH * (UPDATES - SKIPPED) / (time.perf_counter() - start)


def ours(data: Images, build: Callable[..., nn.Module], precision: str) -> float:
    """Return images a second of the trainer, which trains the full width of a sorted network."""
    torch.manual_seed(0)
    net = sn.SortedNet(lambda width: build(width=width), sn.Space(width=[4, 8, 12, 16]))
    times: list[float] = []

    def transform(batch: Any, generator: torch.Generator) -> Any:
        times.append(time.perf_counter())
        return augment(batch[0], generator, shift=4, flip=True), batch[1]

    config = TrainingConfig(
        updates=UPDATES + 1, batch_size=BATCH, optimizer="sgd", learning_rate=RATE, weight_decay=DECAY, max_norm=None,
        precision=precision,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        objective = sn.Stochastic(sn.Cycle(net.space, [net.space.full]))
        console = Console(quiet=True)
        Trainer(
            net, objective, functional.cross_entropy, data, config, folder, transform=transform, console=console
        ).train()
    return BATCH * (UPDATES - SKIPPED) / (times[UPDATES] - times[SKIPPED])


def images_per_second(folder: Path | None, build: Callable[..., nn.Module]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the ratios and the images a second of each."""
    data = images_of(folder)
    found: dict[str, list[float]] = {"plain": [], "auto": [], "float32": []}
    for _ in range(REPEATS):
        found["plain"].append(plain(data, build))
        for precision in ("auto", "float32"):
            found[precision].append(ours(data, build, precision))
    metrics = {
        "cpu_training_ratio": statistics.median(a / b for a, b in zip(found["auto"], found["plain"], strict=True)),
        "cpu_bf16_gain": statistics.median(a / b for a, b in zip(found["auto"], found["float32"], strict=True)),
    }
    about = {"images": len(data[0]), "batch": BATCH, "updates": UPDATES, "drawn images": folder is None}
    return metrics, {"images a second": found, **about}
