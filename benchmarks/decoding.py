"""Early exit and self-speculation against transformers' own `generate`, on a sorted model of 16 layers.

    python benchmarks/decoding_model.py --data FOLDER --out runs/decoding_model
    python benchmarks/decoding.py --data FOLDER --out benchmarks/results/decoding.json

All contenders decode the same prompts in the same run, in turn and back (A B C C B A), and are compared prompt by
prompt. Texts have a forced length, so that every contender makes as many tokens. The library's settings are tuned for
each kind of prompt on prompts of their own; ours tune themselves. Parts that are done are kept in `--keep`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import decoding_model as training
import torch
import transformers
from decoding_quality import quality, sampling_distance
from measuring import context, spread, write
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import sortednet as sn
from sortednet.evaluation.cost import _LiveStorages

ROOT = Path(__file__).parent.parent
TOKENS = 128
INSIDE, OUTSIDE = ("stories", "e2e", "webnlg"), ("gsm8k", "shakespeare")
DEVELOPMENT, PROMPTS = 3, 10  # of each kind, at batch 1
GRID = list(product((2, 3, 4, 6), (3, 6, 10), (0.0, 0.4)))  # exit, drafted tokens, confidence threshold
EXACT_PROMPTS = 200


class Bench:
    """The model, its prompts, and who decodes them."""

    def __init__(self, path: Path, data: Path) -> None:
        self.net = sn.load(path).eval()
        self.model: Any = self.net.full
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.data = data
        self.texts = {kind: self._texts(kind) for kind in (*INSIDE, *OUTSIDE)}
        self.exits = self.net.space.supports["num_hidden_layers"].values[:-1]
        self.pad = self.tokenizer.pad_token_id

    def _texts(self, kind: str) -> list[tuple[str, str]]:
        """Return prompts and what follows them, none of it seen in training."""
        if kind == "stories":
            held = training.stories(self.data)[-training.HELD_OUT_STORIES :]
            return [(" ".join(one.split()[:16]), " " + " ".join(one.split()[16:])) for one in held]
        if kind in ("e2e", "webnlg"):
            pairs = getattr(training, kind)(self.data, "test")
            return list({facts: (facts, text) for facts, text in pairs}.values())
        return training.foreign(self.data, kind)

    def prompts(self, kind: str, first: int, count: int) -> list[Tensor]:
        step = max(1, len(self.texts[kind]) // (PROMPTS + DEVELOPMENT + EXACT_PROMPTS // 3))
        chosen = self.texts[kind][::step][first : first + count]
        return [self.tokenizer(text, return_tensors="pt")["input_ids"][:, -256:] for text, _ in chosen]

    def batch(self, prompts: list[Tensor]) -> dict[str, Tensor]:
        """Pad prompts at their left, as transformers wants them."""
        longest = max(one.shape[1] for one in prompts)
        ids = torch.full((len(prompts), longest), self.pad)
        for row, one in enumerate(prompts):
            ids[row, longest - one.shape[1] :] = one[0]
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long()}

    def plain(self, given: dict[str, Tensor], tokens: int = TOKENS, **more: Any) -> Tensor:
        return self.model.generate(**given, **self._settings(tokens), **more)

    def ours(self, policy: Any, given: dict[str, Tensor], tokens: int = TOKENS) -> Any:
        return self.net.generate(**given, decoding=policy, return_dict_in_generate=True, **self._settings(tokens))

    def _settings(self, tokens: int) -> dict[str, Any]:
        return {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": self.pad}

    @contextmanager
    def library(self, drafted: int, threshold: float) -> Iterator[None]:
        """Set what `generate(assistant_early_exit=...)` reads from the model's own generation config alone."""
        config = self.model.generation_config
        names = ("num_assistant_tokens", "assistant_confidence_threshold", "num_assistant_tokens_schedule")
        former = {name: getattr(config, name) for name in names}
        for name, value in zip(names, (drafted, threshold, "constant"), strict=True):
            setattr(config, name, value)
        try:
            yield
        finally:
            for name, value in former.items():
                setattr(config, name, value)
            assert self.model.config.num_hidden_layers == len(self.model.model.layers)

    def run_library(self, best: tuple[int, int, float], given: dict[str, Tensor], tokens: int = TOKENS) -> Tensor:
        exit_, drafted, threshold = best
        with self.library(drafted, threshold):
            return self.plain(given, tokens, assistant_early_exit=exit_)


@contextmanager
def layer_calls(model: nn.Module) -> Iterator[list[int]]:
    """Count how often each layer runs."""
    counts = [0] * len(model.model.layers)

    def count(place: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            counts[place] += 1

        return hook

    handles = [layer.register_forward_hook(count(place)) for place, layer in enumerate(model.model.layers)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def tune_library(bench: Bench, kind: str) -> dict[str, Any]:
    """Find the library's fastest settings on prompts that are not measured, and check that settings take effect."""
    prompts = bench.prompts(kind, 0, 2)
    found = {}
    for exit_, drafted, threshold in GRID:
        seconds = []
        for ids in prompts:
            with layer_calls(bench.model) as counts:
                began = time.perf_counter()
                bench.run_library((exit_, drafted, threshold), {"input_ids": ids}, TOKENS // 2)
                seconds.append(time.perf_counter() - began)
            drafts = (counts[0] - counts[-1]) / counts[-1]
            assert drafts <= drafted + 1, f"{drafts} drafts a round, set to {drafted}"
            assert threshold or drafts > drafted / 2, f"{drafts} drafts a round, set to {drafted}"
        found[exit_, drafted, threshold] = sum(seconds)
    best = min(found, key=found.__getitem__)
    return {"exit": best[0], "drafted": best[1], "threshold": best[2]}


def in_turn(contenders: dict[str, Callable[[], Any]], expected: Tensor | None, exact: set[str]) -> dict[str, Any]:
    """Run contenders forth and back. Return seconds and what each counted; refuse a text that should be plain's."""
    seconds: dict[str, float] = dict.fromkeys(contenders, 0.0)
    cpu: dict[str, float] = dict.fromkeys(contenders, 0.0)
    counted: dict[str, Any] = {}
    for name in [*contenders, *reversed(contenders)]:
        began, busy = time.perf_counter(), time.process_time()
        output = contenders[name]()
        seconds[name] += (time.perf_counter() - began) / 2
        cpu[name] += (time.process_time() - busy) / 2
        texts = output if isinstance(output, Tensor) else output.sequences
        expected = texts if expected is None else expected
        if name in exact and not torch.equal(texts, expected):
            raise SystemExit(f"{name} gave another text than plain decoding.")
        if not isinstance(output, Tensor):
            held = output.statistics
            counted[name] = {
                "layer_calls_per_step": held.layer_calls_per_token * len(texts),
                "drafted": held.drafted, "accepted": held.accepted, "mean_exit": held.mean_exit,
            }  # fmt: skip
    return {"seconds": seconds, "cpu": cpu, "counted": counted}


def speed(bench: Bench, kind: str, best: dict[str, Any], early: Any) -> list[dict[str, Any]]:
    """Compare all contenders on prompts of one kind, one at a time."""
    setting, rows = (best["exit"], best["drafted"], best["threshold"]), []
    adaptive = sn.SelfSpeculative()
    for number, ids in enumerate(
        [*bench.prompts(kind, DEVELOPMENT - 1, 1), *bench.prompts(kind, DEVELOPMENT, PROMPTS)]
    ):
        given = {"input_ids": ids}
        contenders = {
            "plain": lambda given=given: bench.plain(given),
            "library": lambda given=given: bench.run_library(setting, given),
            "speculative": lambda given=given: bench.ours(adaptive, given),
            "early_exit": lambda given=given: bench.ours(early, given),
            "own_plain": lambda given=given: bench.ours(sn.FixedDepth(), given),
        }
        found = in_turn(contenders, None, {"library", "speculative", "own_plain"})
        if number:  # the first prompt warms everyone up
            rows.append(found)
    return rows


def batches(bench: Bench, size: int, early: Any, count: int) -> list[dict[str, Any]]:
    """Compare contenders on batches of all kinds inside the domain, prompts of different lengths."""
    adaptive, rows = sn.SelfSpeculative(), []
    each = {kind: bench.prompts(kind, DEVELOPMENT, (count + 1) * size) for kind in INSIDE}
    mixed = [ids for group in zip(*each.values(), strict=False) for ids in group]
    for number in range(count + 1):
        given = bench.batch(mixed[number * size : (number + 1) * size])
        contenders = {
            "plain": lambda given=given: bench.plain(given),
            "speculative": lambda given=given: bench.ours(adaptive, given),
            "early_exit": lambda given=given: bench.ours(early, given),
            "own_plain": lambda given=given: bench.ours(sn.FixedDepth(), given),
        }
        found = in_turn(contenders, None, {"speculative", "own_plain"})
        if number:
            rows.append(found)
    return rows


def exact(bench: Bench, size: int) -> dict[str, Any]:
    """Count the prompts whose text is plain decoding's, token for token."""
    prompts = [ids for kind in INSIDE for ids in bench.prompts(kind, 0, EXACT_PROMPTS // 3 + 1)][:EXACT_PROMPTS]
    equal, adaptive = 0, sn.SelfSpeculative()
    for first in range(0, len(prompts), size):
        given = bench.batch(prompts[first : first + size])
        texts = bench.ours(adaptive, given).sequences
        equal += int((texts == bench.plain(given)).all(1).sum())
    return {"equal": equal, "prompts": len(prompts)}


def peak_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """Return the most bytes of parameters and of tensors that live at once."""
    held = {parameter.untyped_storage() for parameter in model.parameters()}
    live = _LiveStorages(dict.fromkeys(held, 0))  # type: ignore[arg-type]
    with torch.no_grad(), live:
        run()
    return sum(one.nbytes() for one in held) + live.peak


def memory(bench: Bench) -> dict[str, float]:
    """Compare the peak memory at batch 1 and 8."""
    found = {}
    _ = bench.net.exits  # found once for a network
    for size in (1, 8):
        prompts = [ids for kind in INSIDE for ids in bench.prompts(kind, 0, 3)][:size]
        given = bench.batch(prompts)
        plain = peak_bytes(bench.model, lambda given=given: bench.plain(given))
        ours = peak_bytes(bench.model, lambda given=given: bench.ours(sn.SelfSpeculative(), given))
        found[f"batch_{size}"] = ours / plain
    return found


def recomputed(bench: Bench) -> int:
    """Count layer-rows that are evaluated more than once: a layer at a position behind the same text."""
    from sortednet.generation.adapters import Decoder

    repeated, seen = 0, set()
    former = Decoder.run
    several = sn.SelfSpeculative(exits=[2, 4, 8], adaptive=False, thresholds=0.6, draft_tokens=8)
    for policy in (sn.SelfSpeculative(), several, sn.EarlyExit(exits=[2, 4, 8], thresholds=0.8)):
        for kind in INSIDE:
            (ids,) = bench.prompts(kind, 0, 1)
            seen.clear()

            def counting(self: Any, first: int, last: int, hidden: Tensor, given: Any) -> Tensor:
                nonlocal repeated
                # The states behind layers tell the whole text before them, which embeddings do not.
                output = former(self, first, last, hidden, given)
                for place, state in zip(given["position_ids"][0].tolist(), output[0], strict=True):
                    key = (first, last, place, hash(state.numpy().tobytes()))
                    repeated += key in seen
                    seen.add(key)
                return output

            Decoder.run = counting  # type: ignore[method-assign]
            try:
                bench.ours(policy, {"input_ids": ids})
            finally:
                Decoder.run = former  # type: ignore[method-assign]
    return repeated


def ratios(rows: list[dict[str, Any]], one: str, other: str, clock: str = "seconds") -> list[float]:
    return [row[clock][one] / row[clock][other] for row in rows]


def summary(parts: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Put the parts together: the metrics, and what stands behind them."""
    inside = [row for kind in INSIDE for row in parts[f"speed_{kind}"]]
    metrics = {"speculative_over_plain": statistics.median(ratios(inside, "plain", "speculative"))}
    kinds = {kind: parts[f"speed_{kind}"] for kind in (*INSIDE, *OUTSIDE)}
    cells = {kind: statistics.median(ratios(rows, "library", "speculative")) for kind, rows in kinds.items()}
    metrics["speculative_over_library"] = min(cells.values())
    for size in (4, 8):
        metrics[f"batch_{size}_over_plain"] = statistics.median(ratios(parts[f"batch_{size}"], "plain", "speculative"))
    metrics["batch_over_plain"] = metrics.pop("batch_8_over_plain")
    hard = {**{kind: kinds[kind] for kind in OUTSIDE}, "unsorted": parts["unsorted"]}
    worst = {kind: statistics.median(ratios(rows, "plain", "speculative")) for kind, rows in hard.items()}
    metrics["worst_case"] = min(worst.values())
    metrics["worst_case_over_own_plain"] = min(
        statistics.median(ratios(rows, "own_plain", "speculative")) for rows in hard.values()
    )
    metrics["early_exit_over_plain"] = statistics.median(ratios(inside, "plain", "early_exit"))
    metrics |= {f"early_exit_{name}": value for name, value in parts["quality"].items() if name != "thresholds"}
    counts = parts["exact_1"], parts["exact_8"]
    metrics["identical_tokens"] = min(one["equal"] / one["prompts"] for one in counts)
    metrics["sampling_total_variation"] = parts["sampling"]
    metrics["extra_memory_ratio"] = max(parts["memory"].values())
    metrics["recomputed_rows"] = parts["recomputed"]
    metrics["own_plain_over_plain"] = statistics.median(ratios(inside, "plain", "own_plain"))
    for name in ("plain", "library", "speculative", "early_exit"):
        metrics[f"{name}_ms_per_token"] = statistics.median(row["seconds"][name] for row in inside) / TOKENS * 1e3
    held = [row["counted"] for row in inside]
    drafted = sum(one["speculative"]["drafted"] for one in held)
    metrics["rejection_ratio"] = 1 - sum(one["speculative"]["accepted"] for one in held) / drafted
    for name in ("speculative", "early_exit"):
        metrics[f"{name}_mean_exit"] = statistics.mean(one[name]["mean_exit"] for one in held)
        metrics[f"{name}_layer_calls"] = statistics.mean(one[name]["layer_calls_per_step"] for one in held)
    cells_described = {
        name: {
            f"{one}_over_plain": spread(ratios(rows, "plain", one)) | {
                "cpu_time": statistics.median(ratios(rows, "plain", one, "cpu")),
                "layer_calls": statistics.mean(row["counted"][one]["layer_calls_per_step"] for row in rows)
                if one in rows[0]["counted"] else None,
            }
            for one in rows[0]["seconds"] if one != "plain"
        }
        for name, rows in {**kinds, "batch_4": parts["batch_4"], "batch_8": parts["batch_8"],
                           "unsorted": parts["unsorted"]}.items()
    }  # fmt: skip
    tuned = {kind: parts[f"tuned_{kind}"] for kind in kinds}
    return metrics, {"cells": cells_described, "library_settings": tuned, "thresholds": parts["quality"]["thresholds"],
                     "prompts": {kind: len(rows) for kind, rows in kinds.items()}, "tokens": TOKENS}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "runs" / "decoding_model")
    parser.add_argument("--unsorted", type=Path, default=ROOT / "runs" / "language_model")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "decoding")
    parser.add_argument("--only", nargs="*", help="parts to run; nothing is put together then")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    bench = Bench(given.model, given.data)
    given.keep.mkdir(parents=True, exist_ok=True)

    def kept(name: str) -> Any:
        file = given.keep / f"{name}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def early() -> sn.EarlyExit:
        levels = {int(depth): level for depth, level in kept("quality")["thresholds"].items()}
        return sn.EarlyExit(exits=list(levels), thresholds=list(levels.values()))

    def unsorted() -> list[dict[str, Any]]:
        plain = Bench.__new__(Bench)
        plain.__dict__ |= bench.__dict__
        plain.model = AutoModelForCausalLM.from_pretrained(given.unsorted).eval()
        plain.tokenizer = AutoTokenizer.from_pretrained(given.unsorted)
        plain.net = sn.SortedNet.from_pretrained(plain.model, num_hidden_layers=[2, 4, 6, 8]).eval()
        rows, adaptive = [], sn.SelfSpeculative()
        for ids in [one for kind in ("stories", *OUTSIDE) for one in plain.prompts(kind, DEVELOPMENT, 4)]:
            arms = {
                "plain": lambda ids=ids: plain.plain({"input_ids": ids}),
                "speculative": lambda ids=ids: plain.ours(adaptive, {"input_ids": ids}),
                "own_plain": lambda ids=ids: plain.ours(sn.FixedDepth(), {"input_ids": ids}),
            }
            rows.append(in_turn(arms, None, {"speculative", "own_plain"}))
        return rows[1:]

    parts: dict[str, Callable[[], Any]] = {
        "quality": lambda: quality(bench, INSIDE),
        "sampling": sampling_distance,
        "memory": lambda: memory(bench),
        "recomputed": lambda: recomputed(bench),
        **{f"tuned_{kind}": lambda kind=kind: tune_library(bench, kind) for kind in (*INSIDE, *OUTSIDE)},
        **{f"speed_{kind}": lambda kind=kind: speed(bench, kind, kept(f"tuned_{kind}"), early())
           for kind in (*INSIDE, *OUTSIDE)},
        "batch_4": lambda: batches(bench, 4, early(), 6),
        "batch_8": lambda: batches(bench, 8, early(), 6),
        "unsorted": unsorted,
        "exact_1": lambda: exact(bench, 1),
        "exact_8": lambda: exact(bench, 8),
    }  # fmt: skip
    for name, part in parts.items():
        if kept(name) is None and (given.only is None or name in given.only):
            began = time.perf_counter()
            (given.keep / f"{name}.json").write_text(json.dumps(part()))
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    if given.only is None:
        metrics, described = summary({name: kept(name) for name in parts})
        parameters = sum(one.numel() for one in bench.model.parameters())
        write(given.out, metrics, context(transformers=transformers.__version__, parameters=parameters, **described))


if __name__ == "__main__":
    main()
