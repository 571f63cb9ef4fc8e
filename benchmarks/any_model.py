"""Any model: the right cut of every axis, nothing declared. Models by rule, models with known cuts, random programs.

    python benchmarks/any_model.py --out benchmarks/results/any_model.json

It needs timm, which `timm_models` says how to install beside everything else. `--only timm,hf` measures some parts anew
and leaves the other figures of the file.

A row is right if the network accepts it with nothing declared, sub-models equal what is extracted, and the pad test
(`pad_test`) holds at the smallest setting and at the smallest of each dimension alone. Wrong is what was accepted and
fails it. Where the pad test says nothing, as `net.cuts` lists a statistic over units that is no norm or what the
smaller model alone does, or a forward is known to compute with the width itself (`VALUES`), a row that fails it is not
right, and not wrong either; `context` names it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import any_model_lists
import axis_programs
import axis_truths_layers
import axis_truths_others
import axis_truths_sequences
import axis_truths_trials
import hf_models
import measuring
import pad_test
import timm_models
import torch
from axis_truths import TRUTHS
from plain_models import plain_models
from torch import nn
from unet import intersection_over_union

import sortednet as sn
from sortednet import Setting, SortedNet, Space
from sortednet.errors import LayoutError, SortedNetError
from sortednet.huggingface.families.examples import example_of
from sortednet.network.builders import Builder
from sortednet.views.cuts import Cuts
from sortednet.views.layouts import Layout, cuts_by_shape

_REGISTERED = (
    axis_truths_layers,
    axis_truths_sequences,
    axis_truths_others,
    axis_truths_trials,
)  # whose import fills TRUTHS
VALUES = {
    "inkling2_loop_text: hidden": "its forward multiplies by hidden_size ** -0.5 before a softmax",
}
"""Rows whose forward computes with the width itself, read by hand: another function of the same units."""
PROGRAMS = 5000
NETWORKS = 20
SEEDS = 5

Measured = tuple[dict[str, float], dict[str, Any]]
"""Figures, and what stands behind them."""


def judged(make: Callable[[], SortedNet], inputs: Callable[[SortedNet], Any]) -> str:
    """Return `right`, or how a network is not: `wrong: ...` if it was accepted and its cuts are not."""
    try:
        net = make()
    except SortedNetError as error:
        return f"refused: {type(error).__name__}: {error}"
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"
    given = inputs(net)
    smallest = net.space.smallest
    alone = [Setting({**net.space.full, name: smallest[name]}) for name in net.space.supports]
    for setting in dict.fromkeys([smallest, *alone]):
        try:
            exact, verdict = pad_test.exactness(net, setting, given), pad_test.verdict(net, setting, given)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"failed at {setting}: {type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        if exact > pad_test.EXACT:
            return f"inexact at {setting}: {exact:.1e}"
        if not verdict.right:
            how = "wrong" if verdict.valid else "not known"
            return f"{how} at {setting}: pad test {verdict.error:.1e} {verdict.why}".rstrip()
    return "right"


def _but_for_values(name: str, found: str) -> str:
    """Return an outcome; of a row whose forward computes with the width itself, no fault of its cuts is known."""
    return found.replace("wrong at", f"not known, as {VALUES[name]}, at") if name in VALUES else found


def _summary(key: str, outcomes: dict[str, str]) -> Measured:
    share = 100 * sum(one == "right" for one in outcomes.values()) / len(outcomes)
    kinds = Counter(one.split(":")[0].split(" at ")[0].split(",")[0] for one in outcomes.values())
    left = {name: one[:400] for name, one in outcomes.items() if one != "right"}
    silent = sum(one.startswith("wrong") for one in outcomes.values())
    return {f"{key}_right": share, "wrong_silently": silent}, {key: {"of": len(outcomes), **kinds, "not_right": left}}


def timm() -> Measured:
    """Sort a width and a depth of timm's models."""
    outcomes = {}
    for row in any_model_lists.read()["timm"]:
        started, name, width = time.perf_counter(), row["name"], tuple(row["width"])
        depth = tuple(row["depth"]) if row["depth"] else None
        image = torch.randn(2, *timm_models.image_size(name), generator=torch.Generator().manual_seed(0))

        def build(share: float, cap: int = 2, of: Any = (name, width, depth)) -> nn.Module:
            return timm_models.build(*of, share, cap)

        caps = {"cap": timm_models.CAPS} if depth else {}
        space = Space(share=list(timm_models.SHARES), **{one: list(values) for one, values in caps.items()})
        torch.manual_seed(0)
        found = judged(lambda space=space, image=image, build=build: SortedNet(build, space, example=image),
                       lambda _, image=image: ((image,), {}))  # fmt: skip
        outcomes[f"{row['module']}: {name}"] = _but_for_values(name, found)
        print(f"{time.perf_counter() - started:5.1f} s  {name}: {found[:300]}", flush=True)
    return _summary("timm", outcomes)


def hf() -> Measured:
    """Sort one size of a Hugging Face model at a time."""
    outcomes = {}
    for row in any_model_lists.read()["transformers"]:
        for what, (field, small, full) in row["pairs"].items():
            kind = row["kind"]

            def make(kind: str = kind, supports: Any = {field: [small, full]}) -> SortedNet:  # noqa: B006
                torch.manual_seed(0)
                return SortedNet.from_pretrained(
                    hf_models.model_class(kind)(hf_models.config(kind)), readout="own", **supports
                )

            with hf_models.quiet():
                found = judged(make, lambda net: ((), example_of(net.full)))
            outcomes[f"{kind}: {what}"] = _but_for_values(f"{kind}: {what}", found)
            print(f"{kind} {field} {small} of {full}: {found[:300]}", flush=True)
    return _summary("hf", outcomes)


def hand_written() -> Measured:
    """Sort models whose cuts are known."""
    outcomes = {}
    for one in TRUTHS:
        try:
            net = one.net()
        except LayoutError as error:
            outcomes[one.name] = f"refused: {error}" if one.cuttable else "right"
            continue
        smallest, inputs = one.space[0], (one.inputs, {})
        faults = one.faults(pad_test.cuts_of(net, smallest)) if one.cuttable else ["there is no right cut"]
        if one.padded and not pad_test.verdict(net, smallest, inputs).right:
            faults.append("pad test")
        exact = pad_test.exactness(net, smallest, inputs) <= pad_test.EXACT
        outcomes[one.name] = f"wrong: {faults}" if faults else "right" if exact else "inexact"
        if outcomes[one.name] != "right":
            print(one.name, outcomes[one.name][:300], flush=True)
    figures, described = _summary("hand_written", outcomes)
    return figures, described


def programs() -> Measured:
    """Sort random programs until enough of them have a cut."""
    counts: Counter[str] = Counter()
    faults, seed = {}, 0
    while counts["right"] + counts["wrong"] < PROGRAMS:
        found = axis_programs.outcome(seed)
        counts[found.split(":")[0]] += 1
        if found.startswith("wrong"):
            faults[seed] = found
            print(seed, found, flush=True)
        seed += 1
    figures = {"fuzz_right": counts["right"], "fuzz_wrong": counts["wrong"], "wrong_silently": counts["wrong"]}
    return figures, {"fuzz": {"refused": counts["refused"], "wrong": faults}}


class _Unwatched(Builder):
    """A builder whose models are not watched, so that layouts and shapes serve."""

    unwatchable = "tracing is off"

    def __init__(self, builder: Builder, layouts: Iterable[Layout] = ()) -> None:
        self._builder, self._layouts = builder, tuple(layouts)

    def __call__(self, **setting: Any) -> nn.Module:
        return self._builder(**setting)

    def layouts(self, full: nn.Module) -> tuple[Layout, ...]:
        return (*self._builder.layouts(full), *self._layouts)


def construction() -> Measured:
    """Time the construction of SmolLM2-135M of three dimensions, with and without watching it run.

    The network makes its full model, as where a builder is given; of one that is given, the ratio stands in `context`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    supports = {
        "num_hidden_layers": [10, 20, 30], "intermediate_size": [512, 1024, 1536], "num_attention_heads": [3, 6, 9],
    }  # fmt: skip
    first = SortedNet.from_pretrained(model, **supports)
    builder, space = first.builder, first.space
    plain = _Unwatched(builder)

    def traced() -> None:
        Cuts(builder, space, known=builder.layouts(model)).watch(example_of(model), model)

    contenders = {
        "on": lambda: SortedNet(builder, space),
        "off": lambda: SortedNet(plain, space),
        "on, model given": lambda: SortedNet(builder, space, model=model),
        "off, model given": lambda: SortedNet(plain, space, model=model),
        "trace": traced,
    }
    times = measuring.alternate(contenders, NETWORKS, warmup=1)
    figures = {
        "trace_seconds": statistics.median(times["trace"]),
        "construction_ratio": measuring.ratio(times, "on", "off"),
    }
    described = {name: measuring.spread(values) for name, values in times.items()}
    given = measuring.ratio(times, "on, model given", "off, model given")
    return figures, {"construction": {**described, "ratio, model given": given, "traces": first.cuts.traces}}


def views() -> Measured:
    """Count the parameters of plain models whose cut is a view."""
    counts = {}
    for name, net in plain_models().items():
        cuts = [slot.cut for slot in net.skeleton(net.space.smallest).parameters]
        counts[name] = [sum(cut.is_view for cut in cuts), len(cuts)]
    share = 100 * sum(ours for ours, _ in counts.values()) / sum(of for _, of in counts.values())
    return {"view_share": share}, {"views": counts}


def loading() -> Measured:
    """Count the traces that loading takes, of networks by hand and pretrained ones."""
    traces = {}
    for name, net in plain_models().items():
        with tempfile.TemporaryDirectory() as folder:
            net.save_pretrained(folder)
            loaded = sn.load(folder) if net.builder.kind == "pretrained" else sn.load(folder, build=net.builder)
            loaded.skeleton(loaded.space.smallest)
            traces[name] = loaded.cuts.traces
    return {"load_traces": sum(traces.values())}, {"loading": traces}


def families() -> Measured:
    """Compare the traced cuts of every family of the table with those of its layouts."""
    from tests.contracts.pretrained_cases import PRETRAINED

    outcomes = {}
    for case in PRETRAINED:
        net = case.net()
        traced = case.space.smallest if case.space.smallest in case.space else case.space[0]
        skeleton = net.skeleton(traced)
        by_table = cuts_by_shape(net.full, net.builder(**traced), net.builder.layouts(net.full))
        slots = (*skeleton.parameters, *skeleton.buffers)
        others = [slot.path for slot in slots if by_table[slot.path].pieces != slot.cut.pieces]
        exact = pad_test.exactness(net, traced, ((), case.inputs()))
        fine = net.cuts.traces and not others and exact <= pad_test.EXACT
        outcomes[case.name] = "right" if fine else f"{others[:4]}, {exact:.1e}, traces: {net.cuts.traces}"
    left = {name: one for name, one in outcomes.items() if one != "right"}
    share = 100 * (1 - len(left) / len(outcomes))
    return {"families_exact": share}, {"families": {"of": len(outcomes), "not_right": left}}


def unet() -> Measured:
    """Train a U-Net in every width, aligned and cut by shape."""
    aligned, by_shape = ([intersection_over_union(seed, way) for seed in range(SEEDS)] for way in (True, False))
    gains = [one[0] - other[0] for one, other in zip(aligned, by_shape, strict=True)]
    described = {"aligned": aligned, "by_shape": by_shape, "gains": gains}
    return {"unet_gain": statistics.median(gains)}, {"unet": described}


PARTS: dict[str, Callable[[], Measured]] = {
    "hand_written": hand_written,
    "construction": construction,
    "views": views,
    "loading": loading,
    "families": families,
    "hf": hf,
    "programs": programs,
    "timm": timm,
    "unet": unet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    given = parser.parse_args()
    before = json.loads(given.out.read_text()) if given.out.is_file() else {"metrics": {}, "context": {}}
    metrics: dict[str, float] = before["metrics"]
    parts: dict[str, Any] = before["context"].get("parts", {})
    silent: dict[str, float] = before["context"].get("wrong_silently", {})
    for name in given.only.split(","):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures, described = PARTS[name]()
        if "wrong_silently" in figures:
            silent[name] = figures.pop("wrong_silently")
        metrics |= {**figures, "wrong_silently": sum(silent.values())}
        parts |= described
        measuring.write(given.out, metrics, measuring.context(parts=parts, wrong_silently=silent))


if __name__ == "__main__":
    main()
