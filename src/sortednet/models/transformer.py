"""A small pre-norm transformer over token ids, sorted in depth, feed-forward width, heads and hidden size."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .sizes import check_sizes

__all__ = ["Attention", "Transformer", "TransformerBlock"]


@final
class Attention(nn.Module):
    """Multi-head self-attention with separate query, key, value and output layers.

    Args:
        hidden: Size of a token.
        heads: Number of heads.
        head_size: Size of each head.
        causal: Whether a token sees itself and the tokens before it only.

    Source:
        Vaswani et al. (2017), arXiv:1706.03762v7, Eq. (1). The size of a head is given, not hidden / heads, so that
        heads and hidden size can be sorted apart.

    Example:
        >>> Attention(hidden=8, heads=2, head_size=4, causal=True)(torch.ones(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, hidden: int, heads: int, head_size: int, causal: bool) -> None:
        super().__init__()
        self.head_size, self.causal = head_size, causal
        self.query = nn.Linear(hidden, heads * head_size)
        self.key = nn.Linear(hidden, heads * head_size)
        self.value = nn.Linear(hidden, heads * head_size)
        self.output = nn.Linear(heads * head_size, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens attend to each other.

        Args:
            x: Tokens. Shape (B, T, hidden).

        Returns:
            Tokens. Shape (B, T, hidden).
        """

        def split(units: Tensor) -> Tensor:
            return units.view(*units.shape[:2], -1, self.head_size).transpose(1, 2)  # (B, heads, T, head_size)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


@final
class TransformerBlock(nn.Module):
    """Attention and a GELU feed-forward layer, each after a layer norm and around a shortcut.

    Args:
        width: Units of the feed-forward layer.
        heads: Number of heads.
        hidden: Size of a token.
        head_size: Size of each head.
        causal: Whether a token sees itself and the tokens before it only.

    Source:
        Xiong et al. (2020), arXiv:2002.04745v2, Fig. 1 (b).

    Example:
        >>> TransformerBlock(width=16, heads=2, hidden=8, head_size=4, causal=True)(torch.ones(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, heads: int, hidden: int, head_size: int, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads, head_size, causal)
        self.norm2 = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, width)
        self.down = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x: Tokens. Shape (B, T, hidden).

        Returns:
            Tokens. Shape (B, T, hidden).
        """
        attended: Tensor = x + self.attention(self.norm1(x))
        return attended + self.down(F.gelu(self.up(self.norm2(attended))))  # type: ignore[no-any-return]


@final
class Transformer(nn.Module):
    """A pre-norm transformer with learned positions: a language model, or a classifier of sequences.

    Args:
        depth: Number of blocks, at least 1. A sortable dimension.
        width: Units of each feed-forward layer, at least 1. A sortable dimension.
        heads: Heads of each attention layer, at least 1. A sortable dimension.
        hidden: Size of a token, at least 1. A sortable dimension.
        head_size: Size of each head, at least 1.
        vocabulary: Number of token ids, at least 1.
        positions: Greatest number of tokens of a sequence, at least 1.
        classes: Number of classes of a classifier, which reads the mean of the tokens; a language model where left out.
        causal: Whether a token sees itself and the tokens before it only; normally False for a classifier.

    Attributes:
        token: The embedding of the token ids.
        position: The embedding of the positions.
        blocks: The blocks.
        norm: The last layer norm.
        head: The linear head, not tied to the embedding.

    Raises:
        ConfigError: If a size is no whole number of at least 1.

    Source:
        Radford et al. (2019), "Language Models are Unsupervised Multitask Learners", Sec. 2.3, for the place of the
        norms and the learned positions. We do not tie the head, and do not scale the initial weights by depth.

    Example:
        >>> ids = torch.tensor([[1, 2, 3]])
        >>> Transformer(depth=1)(ids).shape, Transformer(depth=1, classes=2, causal=False)(ids).shape
        (torch.Size([1, 3, 256]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        depth: int = 4,
        width: int = 256,
        heads: int = 4,
        hidden: int = 64,
        *,
        head_size: int = 16,
        vocabulary: int = 256,
        positions: int = 256,
        classes: int | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        check_sizes("Transformer", depth=depth, width=width, heads=heads, hidden=hidden, head_size=head_size)
        outputs = vocabulary if classes is None else classes
        check_sizes("Transformer", vocabulary=vocabulary, positions=positions, classes=outputs)
        self.classifies = classes is not None
        self.token = nn.Embedding(vocabulary, hidden)
        self.position = nn.Embedding(positions, hidden)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden, head_size, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, outputs)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            ids: Token ids, 0 to vocabulary - 1. Shape (B, T), int64, T at most `positions`.

        Returns:
            Logits of the next token, shape (B, T, vocabulary); of the classes, shape (B, classes).

        Raises:
            ValueError: If the sequences are longer than `positions`.
        """
        tokens = ids.shape[1]
        if tokens > self.position.num_embeddings:
            raise ConfigError(
                f"The sequences have {tokens} tokens, but there are {self.position.num_embeddings} positions. "
                f"Shorten them, or build the model with positions={tokens} before training."
            )
        x = self.token(ids) + self.position(torch.arange(tokens, device=ids.device))  # (B, T, hidden)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        output: Tensor = self.head(x.mean(1) if self.classifies else x)
        return output
