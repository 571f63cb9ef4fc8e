"""Every outcome of a random decoding, by replaying it until nothing is left to draw; and what a model alone does."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sortednet.generation.adapters import decoder_of
from sortednet.generation.chance import Chance
from sortednet.generation.generation import Request, request_of
from sortednet.generation.statistics import Emitted

from . import decoding_cases as decoders

Texts = tuple[tuple[int, ...], ...]  # what each row got


class Enumerated(Chance):
    """Takes the outcomes of a path where it is given, and the first possible one of every draw behind it."""

    def __init__(self, path: Sequence[int] = ()) -> None:
        self._path = list(path)
        self.outcomes: list[int] = []
        self.possible: list[int] = []
        self.probability = 1.0

    def pick(self, probabilities: Tensor) -> Tensor:
        assert probabilities.dtype == torch.float32
        picked = []
        for row in probabilities.double().tolist():
            assert abs(sum(row) - 1) < 1e-5, f"no distribution: {row}"
            tokens = [token for token, share in enumerate(row) if share > 0]
            token = tokens[self._take(len(tokens))]
            self.probability *= row[token]
            picked.append(token)
        return torch.tensor(picked)

    def flip(self, probabilities: Tensor) -> Tensor:
        rows = []
        for row in probabilities.double().tolist():
            flips: list[bool] = []
            for share in row:
                # What is behind a row's first failure is thrown away, so that either outcome stands for both.
                chances = [share, 1 - share] if all(flips) else [0.0, 1.0]
                sides = [side for side, chance in zip((True, False), chances, strict=True) if chance > 0]
                side = sides[self._take(len(sides))]
                self.probability *= chances[0] if side else chances[1]
                flips.append(side)
            rows.append(flips)
        return torch.tensor(rows)

    def _take(self, possible: int) -> int:
        place = len(self.outcomes)
        outcome = self._path[place] if place < len(self._path) else 0
        self.outcomes.append(outcome)
        self.possible.append(possible)
        return outcome

    def next_path(self) -> list[int] | None:
        """Return the path behind this one; None where it was the last."""
        path = list(self.outcomes)
        while path and path[-1] + 1 == self.possible[len(path) - 1]:
            path.pop()
        return [*path[:-1], path[-1] + 1] if path else None


@torch.no_grad()
def outcomes(run: Callable[[Chance], Texts]) -> dict[Texts, float]:
    """Return the probability of everything that a decoding may return."""
    found: Counter[Texts] = Counter()
    path: list[int] | None = []
    while path is not None:
        chance = Enumerated(path)
        texts = run(chance)
        found[texts] += chance.probability
        path = chance.next_path()
    return found


def tiny(vocabulary: int, depth: int = 2, weakness: float = 0.5, seed: int = 3) -> Any:
    """Return a GPT-2 of few tokens. The less its deeper layers add, the more alike are its exits."""
    return _tiny(vocabulary, depth, weakness, seed)


@cache
def _tiny(vocabulary: int, depth: int, weakness: float, seed: int) -> Any:
    case = decoders.case_of("gpt2")
    sizes = {"n_embd": 8, "n_head": 2, "n_inner": 8, "n_positions": 16, "tie_word_embeddings": False}
    model = decoders.spread(case, case.make(depth, vocab_size=vocabulary, **sizes), weak=False, seed=seed)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.2)
        for layer in model.transformer.h[1:]:
            layer.attn.c_proj.weight.mul_(weakness)
            layer.mlp.c_proj.weight.mul_(weakness)
    return model.eval()


def request(
    model: Any,
    prompts: Sequence[Sequence[int]],
    new: int,
    processors: Sequence[Any] = (),
    ends: Sequence[int] = (),
    told: Callable[[Emitted], None] | None = None,
) -> Request:
    """Make what a policy decodes, without transformers' own preparation, which is slow."""
    from transformers import GenerationConfig

    given = decoders.padded([torch.tensor(prompt) for prompt in prompts])
    config = GenerationConfig(
        max_length=given["input_ids"].shape[1] + new, do_sample=True, eos_token_id=list(ends) or None, pad_token_id=0
    )
    return request_of(
        decoder_of(model),
        given["input_ids"],
        processors,
        (),
        config,
        {"attention_mask": given["attention_mask"]},
        told,
        None,
    )


def continued(asked: Request) -> Texts:
    """Return what each row of a decoded request got."""
    tokens, lengths = asked.sequences.tokens.tolist(), asked.sequences.lengths
    first = asked.sequences._prompt
    return tuple(tuple(row[first:length]) for row, length in zip(tokens, lengths, strict=True))


@torch.no_grad()
def wanted(
    model: Any, prompt: Sequence[int], new: int, processors: Sequence[Any] = (), ends: Sequence[int] = ()
) -> dict[tuple[int, ...], float]:
    """Return the probability of every text by the model alone: plain forward passes, and the processors."""
    found: dict[tuple[int, ...], float] = {}

    def grow(text: tuple[int, ...], probability: float) -> None:
        ids = torch.tensor([[*prompt, *text]])
        scores = model(ids).logits[:, -1].float()
        for one in processors:
            scores = one(ids, scores)
        for token, share in enumerate(scores.softmax(-1)[0].double().tolist()):
            longer = (*text, token)
            if share > 0 and len(longer) < new and token not in ends:
                grow(longer, probability * share)
            elif share > 0:
                found[longer] = probability * share

    grow((), 1.0)
    return found


def together(*rows: dict[tuple[int, ...], float]) -> dict[Texts, float]:
    """Return the distribution of independent rows."""
    return {
        tuple(text for text, _ in texts): float(torch.tensor([share for _, share in texts]).double().prod())
        for texts in product(*(row.items() for row in rows))
    }


def total_variation(first: dict[Any, float], second: dict[Any, float]) -> float:
    return 0.5 * sum(abs(first.get(text, 0.0) - second.get(text, 0.0)) for text in {*first, *second})


def processors_of(**asked: Any) -> Iterator[Any]:
    """Make transformers' own processors from short names."""
    import transformers as hf

    kinds = {
        "temperature": hf.TemperatureLogitsWarper,
        "top_k": hf.TopKLogitsWarper,
        "top_p": hf.TopPLogitsWarper,
        "min_p": hf.MinPLogitsWarper,
        "repetition_penalty": hf.RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": hf.NoRepeatNGramLogitsProcessor,
    }
    for name, value in asked.items():
        yield kinds[name](value)
