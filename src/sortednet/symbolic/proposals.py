"""What the model writes for points: texts, read as skeletons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from ..errors import DataError
from ..views.draws import OwnDraws
from .expressions import END, PAD, START, Skeleton, Tokenizer, read_skeleton, variables_of
from .model import SymbolicGPT
from .search_config import SearchConfig

__all__ = ["Proposals", "propose"]


@final
@dataclass(frozen=True)
class Proposals:
    """What the model wrote.

    Attributes:
        skeletons: The distinct ones in canonical form, in the order of their first writing.
        written: How many texts there were.
        invalid: How many of them were no skeleton of the problem's variables.
    """

    skeletons: tuple[Skeleton, ...]
    written: int
    invalid: int


@torch.no_grad()
def propose(
    model: SymbolicGPT,
    x: Any,
    y: Any,
    config: SearchConfig,
    generator: np.random.Generator,
    writing: Mapping[str, Any] | None = None,
) -> Proposals:
    """Let the model write skeletons.

    Args:
        model: In evaluation mode.
        x: Scaled points. Shape (N, D).
        y: Scaled values. Shape (N,).
        config: How many, and how they are drawn.
        generator: Of what is drawn.
        writing: More arguments of transformers' `generate`.

    Raises:
        DataError: If there are more variables than the model takes.
    """
    count, variables = x.shape
    if variables > model.config.variables:
        raise DataError(
            f"X has {variables} columns, and the model was trained for up to {model.config.variables}. Choose "
            "columns, or train a larger model (sortednet symbolic train)."
        )
    bags = 1 if count <= config.shown else min(config.bags, config.candidates)
    parameter = next(model.parameters())
    points = np.zeros((bags, min(count, config.shown), model.config.variables + 1))
    for bag in range(bags):
        chosen = generator.permutation(count)[: config.shown]
        points[bag, :, :variables], points[bag, :, -1] = x[chosen], y[chosen]
    told = torch.as_tensor(points, dtype=parameter.dtype, device=parameter.device)
    embedded = model.data(told, torch.ones(told.shape[:2], device=parameter.device))
    drawn = {"do_sample": True, "top_k": config.top_k, "temperature": config.temperature, **(writing or {})}
    texts: list[str] = []
    with OwnDraws(int(generator.integers(2**62))):
        for bag, count in enumerate(len(part) for part in np.array_split(range(config.candidates), bags)):
            texts += _write(model, embedded[bag : bag + 1], count, drawn)
        if config.beams:
            beams = {"num_beams": config.beams, "num_return_sequences": config.beams}
            texts += _write(model, embedded[:1], 1, beams)
    return _read(texts, variables)


def _write(model: SymbolicGPT, embedded: torch.Tensor, count: int, options: Mapping[str, Any]) -> list[str]:
    """Let the model write texts about embedded data, shape (1, W); empty where one does not come to an end."""
    tokenizer = Tokenizer(model.config.tokenizer)
    start = torch.full((count, 1), START, device=embedded.device)
    common = {"max_length": model.config.positions, "pad_token_id": PAD, "eos_token_id": END}
    gpt: Any = model.decoder.network
    with model.decoder.given(embedded):
        written = gpt.generate(start, attention_mask=torch.ones_like(start), **common, **options)
    return [tokenizer.decode(row) if END in row else "" for row in written[:, 1:].tolist()]


def _read(texts: Iterable[str], variables: int) -> Proposals:
    found: dict[Skeleton, None] = {}
    written = invalid = 0
    known: dict[str, Skeleton | None] = {}
    for text in texts:
        written += 1
        if text not in known:
            known[text] = _skeleton(text, variables)
        skeleton = known[text]
        if skeleton is None:
            invalid += 1
        else:
            found.setdefault(skeleton)
    return Proposals(tuple(found), written, invalid)


def _skeleton(text: str, variables: int) -> Skeleton | None:
    try:
        skeleton = read_skeleton(text)
    except DataError:
        return None
    return skeleton if max(variables_of(skeleton), default=0) <= variables else None
