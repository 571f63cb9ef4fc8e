"""Node control against appending the condition to the input: a language model and an image generator by class.

Every method is the same network in the same updates, and only where and how the condition comes in differs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..conditional import How, condition
from ..data.images import load_digits
from ..report.pictures import write_images
from ..training.device import usable_device
from .running import Conditions, Experiment, Job, Outcome, Result

__all__ = ["DIGITS", "LANGUAGE", "NODE_CONTROL", "Digits", "Language", "Method"]


@dataclass(frozen=True)
class Method:
    """Where and how the condition comes in.

    Args:
        title: Its name in the table.
        layers: The layers with a control; None where there is no condition.
        how: What the control does.
        first: Whether it does so at the first token alone.
    """

    title: str
    layers: str | tuple[str, ...] | None
    how: How = "node"
    first: bool = False


@dataclass(frozen=True)
class Language:
    """How large the language model of sentences by sentiment is.

    Args:
        layers: Blocks.
        width: Of the hidden states.
        heads: Of attention.
        vocabulary: Most tokens.
        tokens: Most tokens of a sentence.
        updates: Number of updates.
        batch: Sentences of an update.
        rates: Learning rates, of which each method gets its best.
        held_out: Sentences of the training data to choose the rate by.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    tokens: int
    updates: int
    batch: int
    rates: tuple[float, ...]
    held_out: int = 1000


@dataclass(frozen=True)
class Digits:
    """How large the generator of digits by class is.

    Args:
        layers: Hidden layers.
        width: Units of each.
        updates: Number of updates.
        batch: Images of an update.
        rates: Learning rates, as above.
        steps: Steps from noise to an image.
        images: Generated images of each class to measure by.
    """

    layers: int
    width: int
    updates: int
    batch: int
    rates: tuple[float, ...]
    steps: int = 50
    images: int = 200


LANGUAGE: dict[str, Language] = {
    "cpu": Language(2, 64, 4, 1024, 48, 2000, 32, (1e-3, 3e-3)),
    "gpu": Language(6, 384, 6, 8192, 64, 10_000, 256, (3e-4, 1e-3, 3e-3)),
}
DIGITS: dict[str, Digits] = {
    "cpu": Digits(3, 192, 4000, 128, (1e-3, 3e-3, 1e-2)),
    "gpu": Digits(4, 512, 20_000, 512, (3e-4, 1e-3, 3e-3)),
}
_BLOCKS = "transformer.h.*"
_LANGUAGE_METHODS = {
    "node": Method("node control of every block", _BLOCKS),
    "inside": Method("node control inside of every block", (f"{_BLOCKS}.attn", f"{_BLOCKS}.mlp")),
    "append": Method("appended as the first token", "transformer.wte", "add", first=True),
    "sum": Method("summed with every token", "transformer.wte", "add"),
    "shift": Method("summed behind every block", _BLOCKS, "add"),
    "none": Method("no condition", None),
}
_DIGITS_METHODS = {
    "node": Method("node control of every hidden layer", "hidden.*"),
    "append": Method("appended to the input", "hidden.0", "add"),
    "shift": Method("summed behind every hidden layer", "hidden.*", "add"),
}
_WEIGHT_DECAY, _WARMUP_SHARE, _MAX_NORM = 0.01, 0.1, 1.0
_CONTROL_RATE = 10  # times the rate of the network, for controls of every method
_CURVE_POINTS = 40
_SHOWN = 4  # generated images of each class in the picture


def _jobs(conditions: Conditions) -> dict[str, Job]:
    language, digits = LANGUAGE[conditions.scale], DIGITS[conditions.scale]
    jobs = {}
    for name, method in _LANGUAGE_METHODS.items():
        described = {"seed": conditions.seed, "shape": asdict(language), "method": asdict(method)}
        jobs[f"node-control-lm-{name}"] = Job(partial(_run_language, conditions, language, method), described)
    for name, method in _DIGITS_METHODS.items():
        described = {"seed": conditions.seed, "shape": asdict(digits), "method": asdict(method)}
        jobs[f"node-control-digits-{name}"] = Job(partial(_run_digits, conditions, digits, method), described)
    return jobs


def _controlled(network: nn.Module, method: Method, size: int, first: int | None = None) -> nn.Module:
    if method.layers is None:
        return network
    return condition(network, method.layers, size, how=method.how, only=first if method.first else None)


def _optimise(model: nn.Module, losses: Iterator[Tensor], rate: float, updates: int) -> list[tuple[int, float]]:
    """Take a step for each loss, by AdamW with a short warm-up and a cosine; return the training curve."""
    controls = list(getattr(model, "controls", nn.Module()).parameters())
    others = [one for one in model.parameters() if all(one is not control for control in controls)]
    optimizer = torch.optim.AdamW(others, lr=rate, weight_decay=_WEIGHT_DECAY)
    if controls:
        optimizer.add_param_group({"params": controls, "lr": _CONTROL_RATE * rate})
    warmup = max(1, round(_WARMUP_SHARE * updates))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda done: min(1, (done + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * done / updates)),
    )
    curve, found, every = [], [], max(1, updates // _CURVE_POINTS)
    for update, loss in enumerate(losses, 1):
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM)
        optimizer.step()
        schedule.step()
        found.append(loss.detach())
        if update % every == 0:
            curve.append((update, float(torch.stack(found).mean())))
            found = []
    return curve


def _parameters(model: nn.Module) -> dict[str, int]:
    controls = getattr(model, "controls", nn.Module())
    return {
        "parameters": sum(one.numel() for one in model.parameters()),
        "added": sum(one.numel() for one in controls.parameters()),
    }


# Sentences by sentiment


@dataclass(frozen=True, eq=False)
class _Sentences:
    """Sentences as tokens that begin with `<|bos|>` and end with `<|eos|>`, and their classes."""

    tokens: Sequence[Sequence[int]]
    labels: Tensor

    def batch(self, rows: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens and labels, shape (B, T), padded behind, and classes, shape (B,)."""
        chosen = [torch.tensor(self.tokens[row]) for row in rows]
        tokens = nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-100)
        classes = self.labels[torch.tensor(rows)]
        return tokens.clamp_min(0).to(device), tokens.to(device), classes.to(device)


def _sentences(conditions: Conditions, shape: Language) -> tuple[Any, _Sentences, _Sentences, _Sentences]:
    """Load SST-2: the tokenizer, and sentences to train on, to choose the rate by and to measure on."""
    from ..data.text import load_task, train_tokenizer  # transformers takes seconds to import

    data = load_task("sst2", conditions.data or "data/glue")
    texts, labels = data.train["sentence"][:], torch.tensor(data.train["label"][:])
    tokenizer = train_tokenizer(texts, shape.vocabulary)

    def encoded(texts: Sequence[str]) -> list[list[int]]:
        found = tokenizer([text.strip() for text in texts], truncation=True, max_length=shape.tokens - 1)["input_ids"]
        return [[*ids, tokenizer.eos_token_id] for ids in found]

    held = min(shape.held_out, len(texts) // 2)
    tokens = encoded(texts)
    return (
        tokenizer,
        _Sentences(tokens[held:], labels[held:]),
        _Sentences(tokens[:held], labels[:held]),
        _Sentences(encoded(data.evaluation["sentence"][:]), torch.tensor(data.evaluation["label"][:])),
    )


def _batches(sentences: _Sentences, size: int, updates: int, seed: int) -> Iterator[list[int]]:
    """Yield rows of sentences of similar length, in random order."""
    generator = torch.Generator().manual_seed(seed)
    left = updates
    while left > 0:
        order = torch.randperm(len(sentences.tokens), generator=generator).tolist()
        pools = [order[start : start + 16 * size] for start in range(0, len(order), 16 * size)]
        parts = []
        for pool in pools:
            pool.sort(key=lambda row: len(sentences.tokens[row]))
            parts += [pool[start : start + size] for start in range(0, len(pool), size)]
        for place in torch.randperm(len(parts), generator=generator).tolist()[:left]:
            yield parts[place]
        left -= len(parts)


def _language_model(shape: Language, tokenizer: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(
            n_layer=shape.layers, n_head=shape.heads, n_embd=shape.width, vocab_size=len(tokenizer),
            n_positions=shape.tokens, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    return model


def _run_language(
    conditions: Conditions, shape: Language, method: Method, folder: Path, results: Mapping[str, Result]
) -> Result:
    torch.set_float32_matmul_precision("high")  # TF32, where there is any
    device = usable_device()
    tokenizer, train, held_out, test = _sentences(conditions, shape)
    found: list[Result] = []
    for rate in shape.rates:
        torch.manual_seed(conditions.seed)
        model = _controlled(_language_model(shape, tokenizer), method, 2, tokenizer.bos_token_id).to(device)

        def losses(model: nn.Module = model) -> Iterator[Tensor]:
            for rows in _batches(train, shape.batch, shape.updates, conditions.seed):
                tokens, labels, classes = train.batch(rows, device)
                yield _token_losses(model, method, tokens, labels, classes).sum() / (labels[:, 1:] >= 0).sum()

        curve = _optimise(model, losses(), rate, shape.updates)
        chosen_by = _measured(model, method, held_out, device)["loss"]
        measured = _measured(model, method, test, device)
        found.append({**measured, **_parameters(model), "rate": rate, "held_out": chosen_by, "curve": curve})
    best = min(found, key=lambda one: float(one["held_out"]))
    return {**best, "rates": {str(one["rate"]): one["held_out"] for one in found}}


def _token_losses(model: nn.Module, method: Method, tokens: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Return -log p(t_i | t_<i, c) of every token but the first, 0 behind the end. Shape (B, T - 1)."""
    given = {} if method.layers is None else {"condition": functional.one_hot(classes, 2).float()}
    logits: Tensor = model(tokens, **given).logits[:, :-1].flatten(0, 1)  # (B (T - 1), V)
    losses = functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
    return losses.view(len(tokens), -1)


@torch.no_grad()
def _measured(model: nn.Module, method: Method, sentences: _Sentences, device: torch.device) -> dict[str, float]:
    """Measure the loss under the right class and the wrong one, and how often the right one is the likelier."""
    model.eval()
    rows = sorted(range(len(sentences.tokens)), key=lambda row: len(sentences.tokens[row]))
    right, wrong, hits, tokens = 0.0, 0.0, 0.0, 0
    for start in range(0, len(rows), 128):
        given, labels, classes = sentences.batch(rows[start : start + 128], device)
        ours, others = (
            _token_losses(model, method, given, labels, each).double().sum(1) for each in (classes, 1 - classes)
        )
        right, wrong = right + float(ours.sum()), wrong + float(others.sum())
        hits += float((ours < others).sum()) + 0.5 * float((ours == others).sum())
        tokens += int((labels[:, 1:] >= 0).sum())
    model.train()
    return {"loss": right / tokens, "gain": (wrong - right) / tokens, "accuracy": 100 * hits / len(rows)}


# Digits by class


class _Velocity(nn.Module):
    """Where an image between noise and a digit goes: hidden layers with SiLU over its pixels and the time."""

    def __init__(self, pixels: int, layers: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(6), persistent=False)
        self.hidden = nn.ModuleList(nn.Linear(width if place else pixels + 12, width) for place in range(layers))
        self.head = nn.Linear(width, pixels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * self.get_buffer("frequencies")  # (B, 6)
        x = torch.cat([x, angles.sin(), angles.cos()], 1)
        for layer in self.hidden:
            x = functional.silu(layer(x))  # (B, W)
        velocity: Tensor = self.head(x)
        return velocity


def _run_digits(
    conditions: Conditions, shape: Digits, method: Method, folder: Path, results: Mapping[str, Result]
) -> Result:
    torch.set_float32_matmul_precision("high")  # TF32, where there is any
    device = usable_device()
    data = load_digits(seed=conditions.seed).to(device)
    images, labels = data.train_images.flatten(1), data.train_labels
    held = len(images) // 5
    train, classes = images[held:], labels[held:]
    judge = _judge(train, classes, conditions.seed)
    real = {"held_out": images[:held], "test": data.test_images.flatten(1)}
    (low, high), found = (float(images.min()), float(images.max())), list[Result]()
    for rate in shape.rates:
        torch.manual_seed(conditions.seed)
        velocity = _Velocity(images.shape[1], shape.layers, shape.width)
        model = _controlled(velocity, method, len(data.class_names)).to(device)
        losses = _matching_losses(model, train, classes, shape, conditions.seed)
        curve = _optimise(model, losses, rate, shape.updates)
        wanted = torch.arange(len(data.class_names), device=device).repeat_interleave(shape.images)
        made = _generated(model, wanted, images.shape[1], shape.steps, conditions.seed).clamp(low, high)
        found.append(
            {
                "accuracy": _accuracy(judge, made, wanted),
                "frechet": _frechet(judge, made, real["test"]),
                "held_out": _frechet(judge, made, real["held_out"]),
                **_parameters(model),
                "rate": rate,
                "curve": curve,
                "samples": [
                    [round(float(pixel), 3) for pixel in (image - low) / (high - low)]
                    for one in range(len(data.class_names))
                    for image in made[wanted == one][:_SHOWN]
                ],
            }
        )
    best = min(found, key=lambda one: float(one["held_out"]))
    return {
        **best,
        "rates": {str(one["rate"]): one["held_out"] for one in found},
        "real_accuracy": _accuracy(judge, real["test"], data.test_labels),
        "real_frechet": _frechet(judge, train, real["test"]),
    }


def _matching_losses(model: nn.Module, images: Tensor, classes: Tensor, shape: Digits, seed: int) -> Iterator[Tensor]:
    """Yield the losses of flow matching: the network is to know the way from noise to a digit of the class."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(shape.updates):
        rows = torch.randint(len(images), (shape.batch,), generator=generator).to(images.device)
        noise = torch.randn(shape.batch, images.shape[1], generator=generator).to(images.device)
        time = torch.rand(shape.batch, generator=generator).to(images.device)
        image, share = images[rows], time[:, None]
        yield functional.mse_loss(
            model((1 - share) * noise + share * image, time, condition=functional.one_hot(classes[rows], 10).float()),
            image - noise,
        )


@torch.no_grad()
def _generated(model: nn.Module, classes: Tensor, pixels: int, steps: int, seed: int) -> Tensor:
    """Go from noise to images of these classes. Shape (N, pixels)."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(len(classes), pixels, generator=generator).to(classes.device)
    wanted = functional.one_hot(classes, 10).float()
    for step in range(steps):
        time = torch.full((len(x),), (step + 0.5) / steps, device=x.device)
        x = x + model(x, time, condition=wanted) / steps
    return x


def _judge(images: Tensor, classes: Tensor, seed: int) -> nn.Sequential:
    """Train a classifier that knows nothing of the generators."""
    torch.manual_seed(seed)
    sizes = (images.shape[1], 128, 64)
    hidden = [one for pair in itertools.pairwise(sizes) for one in (nn.Linear(*pair), nn.ReLU())]
    judge = nn.Sequential(*hidden, nn.Linear(sizes[-1], 10)).to(images.device)
    generator = torch.Generator().manual_seed(seed)

    def losses() -> Iterator[Tensor]:
        for _ in range(1000):
            rows = torch.randint(len(images), (64,), generator=generator).to(images.device)
            yield functional.cross_entropy(judge(images[rows]), classes[rows])

    _optimise(judge, losses(), 1e-3, 1000)
    return judge


@torch.no_grad()
def _accuracy(judge: nn.Module, images: Tensor, classes: Tensor) -> float:
    return 100 * float((judge(images).argmax(1) == classes).double().mean())


@torch.no_grad()
def _frechet(judge: nn.Sequential, ours: Tensor, theirs: Tensor) -> float:
    """Return the Frechet distance of two sets of images, as normal distributions of the classifier's features.

    Source:
        Heusel et al. (2017), arXiv:1706.08500, Eq. 6; the features are those of our own classifier.
    """
    one, other = (judge[:-1](images).double() for images in (ours, theirs))
    first, second = one.T.cov(), other.T.cov()
    # The trace of the root of a product is the sum of the roots of its eigenvalues, which are real and not negative.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float((one.mean(0) - other.mean(0)).square().sum() + first.trace() + second.trace() - 2 * mixed)


def _outcome(conditions: Conditions, results: Mapping[str, Result]) -> Outcome:
    rows: list[list[Any]] = []
    figures: dict[str, float] = {}
    for name, method in _LANGUAGE_METHODS.items():
        found = results[f"node-control-lm-{name}"]
        has = method.layers is not None
        rows.append(
            [f"sentences: {method.title}", found["loss"], found["gain"] if has else None,
             found["accuracy"] if has else None, None, found["added"], f"{found['rate']:g}"]
        )  # fmt: skip
        for metric in ("loss", "gain", "accuracy") if has else ("loss",):
            figures[f"lm_{name}_{metric}"] = found[metric]
    for name, method in _DIGITS_METHODS.items():
        found = results[f"node-control-digits-{name}"]
        rows.append(
            [f"digits: {method.title}", None, None, found["accuracy"], found["frechet"], found["added"],
             f"{found['rate']:g}"]
        )  # fmt: skip
        for metric in ("accuracy", "frechet"):
            figures[f"digits_{name}_{metric}"] = found[metric]
    rows.append(["digits: real ones", None, None, found["real_accuracy"], found["real_frechet"], None, None])
    return Outcome(
        columns=["method", "loss, nats a token", "loss more for the wrong class", "accuracy, %", "Frechet distance",
                 "parameters added", "rate"],
        rows=rows,
        figures=figures,
        notes=_notes(conditions, results),
        curves={name: {"training": found["curve"]} for name, found in results.items()},
    )  # fmt: skip


def _notes(conditions: Conditions, results: Mapping[str, Result]) -> str:
    language, digits = LANGUAGE[conditions.scale], DIGITS[conditions.scale]

    def size(task: str) -> int:
        found = results[f"node-control-{task}-node"]
        return int(found["parameters"]) - int(found["added"])

    return (
        "The same network, the same updates on the same batches and the same learning rates to choose from for every "
        f"method; the rate is chosen by what was held out of the training data, and controls learn at {_CONTROL_RATE} "
        "times it. Sentences: GPT-2 from scratch "
        f"({language.layers} blocks, width {language.width}, {size('lm'):,} parameters), {language.updates:,} updates "
        f"of {language.batch} sentences of SST-2, the condition is the sentiment; measured on the dev split: the loss "
        "a token given the right class, how much more it is given the wrong one, and how often the class that makes a "
        f"sentence likelier is the right one. Digits: flow matching ({digits.layers} hidden layers of {digits.width}, "
        f"{size('digits'):,} parameters), {digits.updates:,} updates of {digits.batch}, the condition is the class; "
        f"{digits.images} images of each: how often a classifier finds the class, and the Frechet distance of its "
        "features to those of real test digits. The last row is real digits: how often the class of test digits is "
        "found, and the distance of training digits. The thesis shows StyleGAN on CIFAR in a figure, without a table."
    )


def _draw(path: Path, conditions: Conditions, results: Mapping[str, Result]) -> None:
    def images(name: str) -> list[list[list[float]]]:
        samples: list[list[float]] = results[f"node-control-digits-{name}"]["samples"]
        # A row for each image of a class, a column for each class.
        ordered = [samples[one * _SHOWN + place] for place in range(_SHOWN) for one in range(len(samples) // _SHOWN)]
        side = math.isqrt(len(ordered[0]))
        return [[flat[start : start + side] for start in range(0, len(flat), side)] for flat in ordered]

    panels = {}
    for name, method in _DIGITS_METHODS.items():
        found = results[f"node-control-digits-{name}"]
        heading = f"{method.title}\nclass found {found['accuracy']:.1f} %, Frechet {found['frechet']:.2f}"
        panels[heading] = images(name)
    accuracies = {name: results[f"node-control-lm-{name}"].get("accuracy", 0.0) for name in _LANGUAGE_METHODS}
    texts = [f"{name} {value:.1f} %" for name, value in accuracies.items() if _LANGUAGE_METHODS[name].layers]
    title = f"Digits generated by class\n(sentiment of texts found: {', '.join(texts)})"
    write_images(path, panels, columns=10, title=title)


NODE_CONTROL = Experiment(
    "node-control", "Node control against appending the condition (App. A.2)", _jobs, _outcome, _draw
)
