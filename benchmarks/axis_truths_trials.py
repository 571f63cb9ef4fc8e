"""Models of a trial by somebody new to the library: axes of size 1, depths that join, odd orders. See `axis_truths`."""

from __future__ import annotations

import torch
from axis_truths import SEQUENCE, VECTOR, Net, truth
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = {"w": (2, 4)}
ONE = {"r": (1, 3), "w": (2, 4)}


@truth("einsum over one rank, then a gate", ONE, VECTOR, "b[2]: 2/4 + 2/4")
def low_rank_gate(r: int, w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        value, gate = torch.einsum("nr,krh->nkh", x @ m.a, m.b).chunk(2, -1)
        return m.o((value * gate.sigmoid()).mean(1))

    return Net(run, a=nn.Parameter(torch.randn(8, r)), b=nn.Parameter(torch.randn(5, r, 2 * w)), o=nn.Linear(w, 2))


@truth("einsum over one rank, then queries, keys and values", ONE, SEQUENCE, "b[1]: 3 x 2/4 x 2")
def low_rank_attention(r: int, w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = torch.einsum("ntr,rk->ntk", m.i(x), m.b).view(n, t, 3, w, 2).permute(2, 0, 3, 1, 4)
        return m.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return Net(run, i=nn.Linear(8, r), b=nn.Parameter(torch.randn(r, 6 * w)), o=nn.Linear(2 * w, 2))


@truth("state space of one state", {"w": (2, 4), "s": (1, 3)}, SEQUENCE, "x.weight[0] x.bias[0]: 2/4 + 1/3 + 1/3")
def one_state(w: int, s: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        u, into, out = m.x(x).split([w, s, s], -1)
        state = x.new_zeros(len(x), w, s)
        found = []
        for t in range(x.shape[1]):
            state = state / 2 + torch.einsum("nd,ns->nds", u[:, t], into[:, t])
            found.append(torch.einsum("nds,ns->nd", state, out[:, t]))
        return m.o(torch.stack(found, 1))

    return Net(run, x=nn.Linear(8, w + 2 * s), o=nn.Linear(w, 2))


@truth("tensordot over one unit", {"w": (1, 4)}, VECTOR)
def one_unit(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return torch.tensordot(torch.tensordot(x, m.a, 1), m.b, dims=([1, 2], [1, 0]))

    return Net(run, a=nn.Parameter(torch.randn(8, 2, w)), b=nn.Parameter(torch.randn(w, 2, 3)))


@truth("one query", {"q": (1, 4)}, SEQUENCE, padded=False)
def one_query(q: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(m.a(m.q.expand(len(x), -1, -1), x, x)[0])

    return Net(run, q=nn.Parameter(torch.randn(q, 8)), a=nn.MultiheadAttention(8, 2, batch_first=True),
               o=nn.Linear(8, 3))  # fmt: skip


@truth("one unit, a row at a time", {"w": (1, 4)}, VECTOR, "g.weight[0] g.bias[0]: 1/4 + 1/4")
def vectorised(w: int) -> nn.Module:
    def row(m: Net, x: Tensor) -> Tensor:
        value, gate = m.g(x).chunk(2, -1)
        return m.o(torch.einsum("i,ij->j", value * gate.sigmoid(), m.w))

    def run(m: Net, x: Tensor) -> Tensor:
        return torch.vmap(lambda one: row(m, one))(x)

    return Net(run, g=nn.Linear(8, 2 * w), w=nn.Parameter(torch.randn(w, w)), o=nn.Linear(w, 2))
