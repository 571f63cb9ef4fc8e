"""What early exit loses, and how exact sampling is: the parts of `decoding.py` that time nothing."""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import decoding_model as training
import torch
from torch import Tensor

import sortednet as sn
from sortednet.generation import policies
from sortednet.generation.calibration import thresholds_for

sys.path.insert(0, str(Path(__file__).parent.parent))

AGREEMENTS = (0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
LEAST = 99.1  # percent of tokens that shall be the full model's, on the development texts
TEXTS, SUMMARIES = 40, 40  # of each kind


@torch.no_grad()
def _read(bench: Any, texts: list[tuple[str, str]], exits: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Read what follows the prompts, token by token.

    Returns:
        How sure each exit is, shape (N, E), what each exit and the full model predict, (N, E + 1), and what follows,
        (N,).
    """
    model, sure, chosen, wanted = bench.model, [], [], []
    for prompt, text in texts:
        ids = bench.tokenizer(prompt + text, return_tensors="pt")["input_ids"][:, :256]
        first = bench.tokenizer(prompt, return_tensors="pt")["input_ids"].shape[1]
        output = model(ids, output_hidden_states=True)
        states = torch.stack([output.hidden_states[exit_][0, first - 1 : -1] for exit_ in exits], 1)
        logits = torch.cat([model.lm_head(model.model.norm(states)), output.logits[0, first - 1 : -1, None]], 1)
        sure.append(logits[:, :-1].softmax(-1).amax(-1))
        chosen.append(logits.argmax(-1))
        wanted.append(ids[0, first:])
    return torch.cat(sure), torch.cat(chosen), torch.cat(wanted)


def _scores(thresholds: dict[int, float], exits: list[int], depth: int, *found: Tensor) -> tuple[float, ...]:
    """Return shares in percent: right by the full model, right by the exit taken, both alike; and the mean exit."""
    sure, chosen, wanted = found
    taken, left = chosen[:, -1].clone(), torch.full_like(wanted, depth)
    for exit_, threshold in reversed(thresholds.items()):
        place = exits.index(exit_)
        leaves = sure[:, place] >= threshold
        taken[leaves], left[leaves] = chosen[leaves, place], exit_
    full = chosen[:, -1]
    shares = [
        100 * float((one == other).float().mean()) for one, other in ((full, wanted), (taken, wanted), (taken, full))
    ]
    return (*shares, float(left.float().mean()))


def accuracy_lost(bench: Any, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Choose thresholds on one half of the held-out texts, and measure on the other what they lose.

    The score is the share of next tokens of the texts that are predicted right.
    """
    depth, exits = len(bench.model.model.layers), list(bench.exits)
    development = [pair for kind in kinds for pair in bench.texts[kind][1::2][:TEXTS]]
    held_out = [pair for kind in kinds for pair in bench.texts[kind][::2][:TEXTS]]
    found = _read(bench, development, exits)
    for agreement in AGREEMENTS:
        levels = thresholds_for(found[0], found[1][:, :-1] == found[1][:, -1:], agreement)  # what sn.calibrate does
        thresholds = {exit_: level for exit_, level in zip(exits, levels, strict=True) if level is not None}
        if _scores(thresholds, exits, depth, *found)[2] >= LEAST:
            break
    full, ours, agreed, mean = _scores(thresholds, exits, depth, *_read(bench, held_out, exits))
    return {
        "thresholds": thresholds, "wanted_agreement": agreement, "accuracy": full, "accuracy_lost": full - ours,
        "agreement": agreed, "read_depth": mean,
    }  # fmt: skip


def _overlap(text: str, reference: str) -> float:
    """Return ROUGE-L, the F-measure of the longest common subsequence of words, in [0, 100]."""
    ours, theirs = text.lower().split(), reference.lower().split()
    longest = [0] * (len(theirs) + 1)
    for word in ours:
        former = 0
        for place, other in enumerate(theirs, 1):
            former, longest[place] = (
                longest[place],
                former + 1 if word == other else max(longest[place], longest[place - 1]),
            )
    return 200 * longest[-1] / (len(ours) + len(theirs)) if ours else 0.0


def quality(bench: Any, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return thresholds, and what early exit with them loses."""
    found = accuracy_lost(bench, kinds)
    return found | rouge(bench, found["thresholds"])


def rouge(bench: Any, chosen: dict[int, float]) -> dict[str, float]:
    """Compare what the full model and early exit write about the facts of the held-out half, up to its own end."""
    policy = sn.EarlyExit(exits=list(chosen), thresholds=list(chosen.values()))
    scores: dict[str, list[float]] = {"full": [], "early": []}
    for kind in ("e2e", "webnlg"):
        references: dict[str, list[str]] = {}
        for facts, text in getattr(training, kind)(bench.data, "test"):
            references.setdefault(facts, []).append(text)
        for facts, _ in bench.texts[kind][::2][:SUMMARIES]:
            ids = bench.tokenizer(facts, return_tensors="pt")["input_ids"]
            for name, decoding in (("full", None), ("early", policy)):
                texts = bench.net.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, decoding=decoding
                )
                written = bench.tokenizer.decode(texts[0, ids.shape[1] :], skip_special_tokens=True)
                scores[name].append(max(_overlap(written, one) for one in references[facts]))
    full, early = (sum(values) / len(values) for values in scores.values())
    return {"rouge": full, "rouge_lost": full - early}


def sampling_distance() -> float:
    """Return the greatest total variation between texts drawn with drafts and the full model's own, enumerated."""
    from tests.contracts import enumeration

    model, prompt, new = enumeration.tiny(4), (2, 1), 3
    found = []
    for own in (
        {"exits": 1, "draft_tokens": 2},
        {"exits": 1, "thresholds": 0.5, "draft_tokens": 3},
        {"shortlist": 3, "exits": 1},
    ):
        for asked in (
            {},
            {"temperature": 0.7, "top_k": 2},
            {"top_p": 0.8},
            {"min_p": 0.3},
            {"repetition_penalty": 1.7},
        ):
            processors = list(enumeration.processors_of(**asked))

            def run(chance: Any, own: Any = own, processors: Any = processors) -> Any:
                request = enumeration.request(model, (prompt,), new, processors, ())
                with mock.patch.object(policies, "Drawn", return_value=chance):
                    sn.SelfSpeculative(adaptive=False, **own)._decode(request)
                return enumeration.continued(request)

            alone = enumeration.together(enumeration.wanted(model, prompt, new, processors, ()))
            found.append(enumeration.total_variation(enumeration.outcomes(run), alone))
    return max(found)
