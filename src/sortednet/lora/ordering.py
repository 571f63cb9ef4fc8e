"""The ranks of an adapter of plain LoRA in order of importance, by its singular values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["order_by_singular_values"]


@torch.no_grad()
def order_by_singular_values(layer: Any, adapter: str) -> Tensor:
    """Turn the basis of one layer's adapter so that its first b ranks are the best approximation of rank b.

    What the layer computes at the full rank stays as it is. The approximation holds where all ranks have the scaling of
    the largest one.

    Args:
        layer: The adapted layer of PEFT.
        adapter: The adapter's name.

    Returns:
        The singular values of the change of the layer's weight, decreasing. Shape (r,).

    Source:
        Eckart & Young (1936), Psychometrika 1, 211: the truncated singular value decomposition.
    """
    if adapter in layer.lora_A:
        first, second = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    else:
        first, second = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    scaling = float(layer.scaling[adapter])
    rows = first.flatten(1).double()  # (r, inputs)
    columns = second.transpose(0, 1).flatten(1).T.double()  # (outputs, r)
    left, small_left = torch.linalg.qr(columns)  # (outputs, k), (k, r) with k = min(outputs, r)
    right, small_right = torch.linalg.qr(rows.T)
    u, values, v = torch.linalg.svd(small_left @ small_right.T, full_matrices=False)
    root, count = values.sqrt(), len(values)
    turned = rows.new_zeros(rows.shape[0], columns.shape[0])  # (r, outputs); a layer may have fewer outputs than ranks
    turned[:count] = ((left @ u) * root).T
    second.copy_(turned.reshape(second.transpose(0, 1).shape).transpose(0, 1))
    mixed = torch.zeros_like(rows)
    mixed[:count] = ((right @ v.T) * root).T
    first.copy_(mixed.reshape(first.shape))
    found: Tensor = rows.new_zeros(rows.shape[0])
    found[:count] = values * abs(scaling)
    return found
