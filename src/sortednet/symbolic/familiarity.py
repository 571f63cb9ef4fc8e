"""Whether data are like what a model was trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import TrainingError

__all__ = ["Familiarity"]

_QUANTILE = 0.995
_SHRINKAGE = 0.02


class Familiarity(nn.Module):
    """Measures how far embedded data are from those of training problems.

    Args:
        width: Of the embedding, W.

    Source:
        Lee et al. (2018), arXiv:1807.03888, section 2.1: the Mahalanobis distance from the training features, here with
        one class. The limit is the distance that 99.5 % of problems with unseen skeletons are within.
    """

    mean: Tensor
    precision: Tensor
    limit: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("precision", torch.eye(width))
        self.register_buffer("limit", torch.tensor(torch.inf))

    @torch.no_grad()
    def learn(self, training: Tensor, unseen: Tensor) -> None:
        """Learn what is usual.

        Args:
            training: Embedded problems of training. Shape (P, W).
            unseen: Of problems with skeletons that were not trained on. Shape (Q, W).

        Raises:
            TrainingError: If all problems are embedded alike.
        """
        self.mean.copy_(training.mean(0))
        if float(training.std(0).max()) < 1e-6:
            raise TrainingError(
                "All problems are embedded alike, so that the model does not read them. Train it longer, or at a lower "
                "learning rate."
            )
        covariance = torch.cov(training.double().T)
        size = covariance.diagonal().mean()
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * size * torch.eye(len(covariance)).to(covariance)
        self.precision.copy_(torch.linalg.inv(covariance))
        self.limit.copy_(self.distance(unseen).quantile(_QUANTILE))

    @torch.no_grad()
    def distance(self, embedded: Tensor) -> Tensor:
        """Return the distance of each embedding, at least 0. Shape (B, W) to (B,)."""
        apart = embedded.to(self.mean) - self.mean
        return ((apart @ self.precision) * apart).sum(1).clamp(min=0).sqrt()

    def is_familiar(self, embedded: Tensor) -> bool:
        """Return whether the embeddings of a problem, shape (B, W), are on average within the limit."""
        return bool(self.distance(embedded).mean() <= self.limit)
