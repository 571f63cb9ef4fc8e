"""A plain multilayer perceptron, sorted in depth and width."""

from typing import final

import torch
from torch import Tensor, nn

from .sizes import check_sizes

__all__ = ["MLP"]


@final
class MLP(nn.Module):
    """Hidden layers of equal width with ReLU, and a linear head.

    Args:
        depth: Number of hidden layers, at least 1. A sortable dimension.
        width: Units of each hidden layer, at least 1. A sortable dimension.
        inputs: Numbers of each example, at least 1; images are flattened.
        classes: Number of outputs, at least 1.

    Attributes:
        hidden: The hidden layers.
        head: The linear head.

    Raises:
        ConfigError: If a size is no whole number of at least 1.

    Example:
        >>> MLP(depth=3, width=32)(torch.ones(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, depth: int = 2, width: int = 64, *, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        check_sizes("MLP", depth=depth, width=width, inputs=inputs, classes=classes)
        self.hidden = nn.ModuleList(nn.Linear(width if i else inputs, width) for i in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            x: Examples. Shape (B, ...), `inputs` numbers each.

        Returns:
            Logits. Shape (B, classes).
        """
        x = x.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))  # (B, W)
        output: Tensor = self.head(x)
        return output
