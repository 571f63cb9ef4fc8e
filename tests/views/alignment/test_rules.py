"""Rules, each on an axis that two layers join: what comes out is joined of the same two blocks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sortednet import Setting, SortedNet, Space
from sortednet.errors import LayoutError

VECTOR = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """Two layers, joined, changed by a function, and read by a third."""

    def __init__(self, w: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(4, w), nn.Linear(4, w), nn.Linear(2 * w, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.function(torch.cat([self.a(x), self.b(x)], 1)))


def _gram(z: Tensor) -> Tensor:
    return z.T @ z + torch.eye(z.shape[1])


def _ones(z: Tensor) -> Tensor:
    return torch.ones(z.shape[1], device=z.device)


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "prelu": lambda z: F.prelu(z, _ones(z)),
    "bucketize": lambda z: torch.bucketize(z, torch.linspace(-1, 1, 5)).float(),
    "searchsorted": lambda z: z * torch.searchsorted(torch.linspace(-1, 1, 4), z.contiguous()),
    "diag_embed": lambda z: (torch.diag_embed(z) @ z[:, :, None])[..., 0],
    "diag": lambda z: z * torch.diag(z.T @ z),
    "block_diag": lambda z: z @ torch.block_diag(*[torch.ones(z.shape[1] // 2, z.shape[1] // 2)] * 2),
    "mse_loss by number": lambda z: z * F.mse_loss(z, z.sin(), reduction="none"),
    "bernoulli": lambda z: torch.distributions.Bernoulli(logits=z).sample() * z,
}
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "trace": lambda z: z * torch.trace(z.T @ z),
    "inverse": lambda z: z @ torch.inverse(_gram(z)),
    "solve": lambda z: torch.linalg.solve(_gram(z), z.T).T,
    "solve from the right": lambda z: torch.linalg.solve(_gram(z), z, left=False),
    "solve a vector": lambda z: torch.linalg.solve(_gram(z), z[0])[None],
    "solve a triangle": lambda z: torch.linalg.solve_triangular(_gram(z), z.T, upper=True).T,
    "cholesky": lambda z: z @ torch.linalg.cholesky(_gram(z)),
    "cholesky_solve": lambda z: torch.cholesky_solve(z.T, torch.linalg.cholesky(_gram(z))).T,
    "det": lambda z: z * torch.det(_gram(z)),
    "slogdet": lambda z: z * torch.linalg.slogdet(_gram(z))[1],
    "eigh": lambda z: (lambda values, vectors: z @ vectors @ vectors.T)(*torch.linalg.eigh(_gram(z))),
    "svdvals": lambda z: z * torch.linalg.svdvals(z).sum(),
    "svd": lambda z: (lambda u, s, v: u @ torch.diag(s) @ v)(*torch.linalg.svd(z, full_matrices=False)),
    "qr": lambda z: (lambda q, r: q @ r)(*torch.linalg.qr(z)),
    "matrix_exp": lambda z: z @ torch.linalg.matrix_exp(_gram(z)),
    "pdist": lambda z: z * F.pdist(z).sum(),
    "mse_loss": lambda z: z * F.mse_loss(z, z.sin()),
    "smooth_l1_loss": lambda z: z * F.smooth_l1_loss(z, z.sin()),
    "huber_loss": lambda z: z * F.huber_loss(z, z.sin()),
    "binary_cross_entropy": lambda z: z * F.binary_cross_entropy(z.sigmoid(), z.cos().sigmoid()),
    "binary_cross_entropy_with_logits": lambda z: z * F.binary_cross_entropy_with_logits(z, z.cos().sigmoid()),
    "cross_entropy": lambda z: z * F.cross_entropy(z, z.cos().argmax(1)),
    "multi_margin_loss": lambda z: z * F.multi_margin_loss(z, z.cos().argmax(1)),
    "kl_divergence": lambda z: z * torch.distributions.kl_divergence(
        torch.distributions.Normal(z, 1.0), torch.distributions.Normal(z.sin(), 1.0)).sum(),
    "multivariate normal": lambda z: torch.distributions.MultivariateNormal(z, _gram(z)).rsample(),
    "gumbel_softmax": lambda z: F.gumbel_softmax(z, hard=True),
    "one of several": lambda z: torch.distributions.OneHotCategorical(logits=z).sample() * z,
    "gather": lambda z: z * z.gather(1, z.argmax(1, keepdim=True)),
    "embedding with a largest norm": lambda z: F.embedding(torch.tensor([0, 1, 2]), z * 1, max_norm=1.0),
}  # fmt: skip


def pieces_of(function: Callable[[Tensor], Tensor]) -> tuple[SortedNet, tuple[tuple[int, int], ...]]:
    net = SortedNet(lambda w: Joined(w, function), Space(w=[2, 4]), example=VECTOR)
    skeleton = net.skeleton(net.space.smallest)
    return net, next(slot.cut.pieces[1] for slot in skeleton.parameters if slot.path == "o.weight")


@pytest.mark.parametrize("function", EXACT.values(), ids=EXACT)
def test_units_keep_their_places(function: Callable[[Tensor], Tensor]) -> None:
    _, pieces = pieces_of(function)
    assert pieces == ((0, 2), (4, 2))


@pytest.mark.parametrize("function", STATISTICS.values(), ids=STATISTICS)
def test_what_mixes_all_units_is_listed_as_a_statistic(function: Callable[[Tensor], Tensor]) -> None:
    net, pieces = pieces_of(function)
    assert pieces == ((0, 2), (4, 2))
    assert "only a statistic joins units" in str(net.cuts)


def test_numbers_from_elsewhere_tell_no_place_of_a_changing_axis() -> None:
    with pytest.raises(LayoutError, match="numbered places of a changing axis"):
        pieces_of(lambda z: z * z.gather(1, torch.zeros(3, 1, dtype=torch.int64)))


class Blocks(nn.Module):
    """Adds up pairs of units."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.block_diag(*[torch.ones(2, 2)] * (x.shape[1] // 2))


def test_the_full_model_may_have_more_blocks_at_the_end() -> None:
    def build(w: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, w), Blocks(), nn.Linear(w, 2))

    skeleton = SortedNet(build, Space(w=[2, 4]), example=VECTOR).skeleton(Setting({"w": 2}))
    assert all(slot.cut.pieces[0] == ((0, 2),) for slot in skeleton.parameters)
