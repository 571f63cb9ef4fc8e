"""SymbolicGPT: a T-net that reads the points, and a GPT that writes the skeleton."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from ..conditional import Conditioned, condition
from ..errors import DataError
from .configuration import Embedding, ModelConfig
from .expressions import END, START, Tokenizer

__all__ = ["Embedding", "ModelConfig", "SymbolicGPT", "TNet", "token_loss"]


class TNet(nn.Module):
    """Embeds a set of points; neither their order nor padding changes the result.

    Args:
        variables: Columns of x, D.
        width: Of the embedding, W.

    Source:
        Valipour et al. (2021), arXiv:2106.14131; section 2.4.2 of Valipour's thesis: a learned normalisation, layers of
        W, 2W and 4W for each point, the maximum over points, and two layers. We take the mean over points beside the
        maximum, layer norm for batch norm, which padding changes, and GELU for ReLU, all of whose units can die before
        the embedding is of use. Each number reaches the first layer both as it is and as asinh, so that large ones stay
        apart.
    """

    def __init__(self, variables: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(variables + 1))
        self.shift = nn.Parameter(torch.zeros(variables + 1))
        self.points = nn.Sequential(
            nn.Linear(2 * (variables + 1), width), nn.LayerNorm(width), nn.GELU(),
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(),
            nn.Linear(2 * width, 4 * width),
        )  # fmt: skip
        self.whole = nn.Sequential(
            nn.LayerNorm(8 * width), nn.Linear(8 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )  # fmt: skip

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """Embed.

        Args:
            points: Scaled variables and y. Shape (B, N, D + 1).
            mask: 1 for points, 0 for padding; at least one point each. Shape (B, N).

        Returns:
            Shape (B, W).
        """
        scaled = points * self.gain + self.shift
        read = self.points(torch.cat([scaled.clamp(-10, 10), torch.asinh(10 * scaled)], -1))  # (B, N, 4W)
        held = mask.to(torch.bool)[..., None]
        largest = read.masked_fill(~held, -torch.inf).amax(1)
        mean = read.masked_fill(~held, 0).sum(1) / held.sum(1)
        embedded: Tensor = self.whole(torch.cat([largest, mean], -1))
        return embedded


class SymbolicGPT(nn.Module):
    """Writes the skeletons of formulas, given points.

    The decoder is GPT-2 of transformers, which the embedded data reach from outside: all that takes such a model takes
    `decoder.network` too, inside of `with model.given(points, mask):`.

    Args:
        config: Its size.

    Source:
        Valipour et al. (2021), arXiv:2106.14131; thesis, section 2.4.3. With `embedding="node"`, C-SymbolicGPT of its
        appendix A.2.

    Example:
        >>> model = SymbolicGPT(ModelConfig(variables=1, width=16, layers=2, heads=2))
        >>> points = torch.randn(2, 30, 2)
        >>> model(points, torch.ones(2, 30), torch.tensor([[1, 3], [1, 4]])).shape
        torch.Size([2, 2, 50])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        tokens = Tokenizer(config.tokenizer).vocabulary
        self.data = TNet(config.variables, config.width)
        gpt = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokens), n_positions=config.positions, n_embd=config.width, n_layer=config.layers,
                n_head=config.heads, resid_pdrop=config.dropout, embd_pdrop=config.dropout,
                attn_pdrop=config.dropout, bos_token_id=START, eos_token_id=END,
            )
        )  # fmt: skip
        self.decoder: Conditioned = _DECODERS[config.embedding](gpt, config.width)

    def forward(self, points: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits of the token behind each.

        Args:
            points: Scaled variables, with zeros for those that a problem has not, and y. Shape (B, N, D + 1).
            mask: 1 for points, 0 for padding. Shape (B, N).
            tokens: The marks of the start and the skeleton's first tokens. Shape (B, T).

        Returns:
            Shape (B, T, V).
        """
        logits: Tensor = self.decoder(tokens, condition=self.data(points, mask)).logits
        return logits

    def given(self, points: Tensor, mask: Tensor) -> Any:
        """Return a context in which `decoder.network` writes about these points.

        Args:
            points: Shape (B, N, D + 1), or (1, N, D + 1) for any number of texts.
            mask: Shape (B, N).
        """
        if points.shape[-1] != self.config.variables + 1:
            raise DataError(
                f"The points have {points.shape[-1] - 1} variables, and the model {self.config.variables}. Fill up "
                "with zeros, or train a larger model."
            )
        return self.decoder.given(self.data(points, mask))


def _added(gpt: nn.Module, width: int) -> Conditioned:
    return condition(gpt, layers="transformer.wte", size=width, how="add")


def _prefixed(gpt: nn.Module, width: int) -> Conditioned:
    return condition(gpt, layers="transformer.wte", size=width, how="add", only=START)


def _controlled(gpt: nn.Module, width: int) -> Conditioned:
    return condition(gpt, layers="transformer.h.*", size=width, how="node")


_DECODERS: dict[str, Callable[[nn.Module, int], Conditioned]] = {
    "add": _added,
    "prefix": _prefixed,
    "node": _controlled,
}


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over all tokens but padding.

    Args:
        logits: Shape (B, T, V).
        targets: The token behind each, -100 for none. Shape (B, T).
    """
    return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
