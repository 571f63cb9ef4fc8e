"""Models of a trial by somebody new to the library: axes of size 1, depths that join, odd orders. See `axis_truths`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from axis_truths import IMAGE, SEQUENCE, VECTOR, Net, truth
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

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


def _dense(depth: int, joined: Callable[[Tensor, Tensor], list[Tensor]]) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        for layer in m.l:
            x = torch.cat(joined(layer(x).relu(), x), 1)
        return m.o(x.relu())

    growth, inputs = [4, 3, 2][:depth], [3, 7, 10, 12]
    return Net(run, l=nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(inputs, growth, strict=False)),
               o=nn.Conv2d(inputs[depth], 2, 1))  # fmt: skip


@truth("each layer before what there is", {"depth": (1, 3)}, IMAGE, "o.weight[1]: 0/2 + 0/3 + 4 + 3")
def prepended(depth: int) -> nn.Module:
    return _dense(depth, lambda new, old: [new, old])


@truth("each layer behind what there is", {"depth": (1, 3)}, IMAGE)
def appended(depth: int) -> nn.Module:
    return _dense(depth, lambda new, old: [old, new])


@truth("dense blocks of a list, joined anew", {"g": (2, 4), "depth": (2, 3)}, IMAGE, """
l.1.weight[1]: 3 + 2/4
o.weight[1]: 3 + 2/4 + 2/4 + 0/4""")  # fmt: skip
def rejoined(g: int, depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        found = [m.i(x)]
        for layer in m.l:
            found.append(layer(torch.cat(found, 1)).relu())
        return m.o(torch.cat(found, 1))

    layers = nn.ModuleList(nn.Conv2d(3 + place * g, g, 1) for place in range(depth))
    return Net(run, i=nn.Conv2d(3, 3, 1), l=layers, o=nn.Conv2d(3 + depth * g, 2, 1))


# The deepest level is another one in the full model: the first units of each of its parts.
@truth("levels of a U-Net, from the deepest", {"levels": (1, 2)}, IMAGE, "up.0.weight[1]: 2/4 + 4/8", padded=False)
def deepest_first(levels: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        skips = [m.i(x)]
        for down in m.down:
            skips.append(down(skips[-1]).relu())
        x = skips.pop()
        for up in m.up:
            x = up(torch.cat([skips.pop(), F.interpolate(x, scale_factor=2)], 1)).relu()
        return m.o(x)

    sizes = [2 * 2**level for level in range(levels + 1)]
    steps = list(pairwise(sizes))
    return Net(run, i=nn.Conv2d(3, 2, 1), o=nn.Conv2d(2, 1, 1),
               down=nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in steps),
               up=nn.ModuleList(nn.Conv2d(a + b, a, 3, 1, 1) for a, b in reversed(steps)))  # fmt: skip


@truth("depth of a pyramid", {"depth": (1, 2)}, VECTOR, padded=False)
def pyramid(depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        for layer in m.l:
            x = layer(x).relu()
        return m.o(x)

    sizes = [8, 4, 6]
    return Net(run, l=nn.ModuleList(nn.Linear(*sizes[k : k + 2]) for k in range(depth)), o=nn.Linear(sizes[depth], 2))


@truth("branches in the order of their widths", WIDTH, VECTOR, None, cuttable=False)
def ordered_branches(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(torch.cat(sorted([layer(x) for layer in m.l], key=lambda one: one.shape[1]), 1))

    return Net(run, l=nn.ModuleList([nn.Linear(8, w), nn.Linear(8, 3)]), o=nn.Linear(w + 3, 2))


@truth("branches that change places", WIDTH, VECTOR, None, cuttable=False)
def swapped_branches(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x).relu(), m.b(x).relu()
        return m.o(torch.cat([a, b] if w > 2 else [b, a], 1))

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(8, w), o=nn.Linear(2 * w, 2))


@truth("pairs in one model, halves in the other", WIDTH, VECTOR, None, cuttable=False)
def pairs_or_halves(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.o(x[:, :w] * x[:, w:] if w > 2 else x[:, 0::2] * x[:, 1::2])

    return Net(run, a=nn.Linear(8, 2 * w), o=nn.Linear(w, 2))


@truth("Fourier modes", {"w": (2, 3)}, SEQUENCE)
def fourier_modes(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(m.i(x).mT)
        kept = torch.zeros_like(modes)
        kept[..., :w] = torch.einsum("bim,iom->bom", modes[..., :w], torch.view_as_complex(m.w))
        return m.o(torch.fft.irfft(kept, n=x.shape[1]).mT)

    return Net(run, i=nn.Linear(8, 3), w=nn.Parameter(torch.randn(3, 3, w, 2)), o=nn.Linear(3, 2))


@truth("the first of fixed features", WIDTH, VECTOR)
def first_features(w: int) -> nn.Module:
    return Net(lambda m, x: m.o(m.a(x).relu()[:, :w]), a=nn.Linear(8, 8), o=nn.Linear(w, 2))


@truth("the last of fixed features", WIDTH, VECTOR, "o.weight[1]: 0/2 + 2")
def last_features(w: int) -> nn.Module:
    return Net(lambda m, x: m.o(m.a(x).relu()[:, -w:]), a=nn.Linear(8, 8), o=nn.Linear(w, 2))


@truth("padded to a fixed length", WIDTH, VECTOR)
def padded_to_length(w: int) -> nn.Module:
    return Net(lambda m, x: m.o(F.pad(m.a(x).relu(), (0, 8 - w))), a=nn.Linear(8, w), o=nn.Linear(8, 2))


@truth("blocks that would have to be the first of fixed features", WIDTH, VECTOR, None, cuttable=False)
def pinned_blocks(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)[:, :w]
        return m.o(y) + m.p(y.view(len(x), 2, -1)).sum(1)

    return Net(run, a=nn.Linear(8, 8), o=nn.Linear(w, 2), p=nn.Linear(w // 2, 2))


@truth("a slope for each unit, behind a join", WIDTH, VECTOR, "p.weight[0] o.weight[1]: 2/4 + 2/4")
def slopes(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(m.q(m.p(torch.cat([m.a(x), m.b(x)], 1))))

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(8, w), p=nn.PReLU(2 * w), q=nn.PReLU(), o=nn.Linear(2 * w, 2))


@truth("packed sequences", WIDTH, SEQUENCE, """
r.weight_ih_l0[0] r.weight_hh_l0[0] r.bias_ih_l0[0] r.bias_hh_l0[0]: 2/4 + 2/4 + 2/4 + 2/4""")  # fmt: skip
def packed(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        lengths = torch.tensor([5, 3])
        found, _ = m.r(pack_padded_sequence(m.i(x), lengths, batch_first=True))
        return m.o(pad_packed_sequence(found, batch_first=True)[0])

    return Net(run, i=nn.Linear(8, w), r=nn.LSTM(w, w, batch_first=True), o=nn.Linear(w, 2))


@truth("variational autoencoder", WIDTH, VECTOR, "e.weight[0] e.bias[0]: 2/4 + 2/4", padded=False)
def variational(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        mean, spread = m.e(x).chunk(2, 1)
        drawn = torch.distributions.Normal(mean, spread.exp())
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        return m.d(drawn.rsample()) + torch.distributions.kl_divergence(drawn, prior).mean()

    return Net(run, e=nn.Linear(8, 2 * w), d=nn.Linear(w, 8))


@truth("vector-quantised autoencoder, a code joined of two", WIDTH, VECTOR,
       "book.weight[1] d.weight[1]: 2/4 + 2/4", padded=False)  # fmt: skip
def quantised(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        code = torch.cat([m.a(x), m.b(x)], 1)
        near = m.book(torch.cdist(code, m.book.weight).argmin(1))
        return m.d(code + (near - code).detach()) + F.mse_loss(near, code.detach())

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(8, w), book=nn.Embedding(6, 2 * w), d=nn.Linear(2 * w, 8))


@truth("neighbours by a sparse matrix", WIDTH, VECTOR, "o.weight[1]: 2/4 + 2/4")
def neighbours(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        near = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 2), device=x.device)
        return m.o(torch.sparse.mm(near, torch.cat([m.a(x), m.b(x)], 1)))

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(8, w), o=nn.Linear(2 * w, 2))


@truth("a tensor that is no buffer", WIDTH, VECTOR, None, cuttable=False)
def attribute(w: int) -> nn.Module:
    return Net(lambda m, x: m.o(m.a(x) * m.scale), a=nn.Linear(8, w), o=nn.Linear(w, 2), scale=torch.arange(w).float())


@truth("parts of two units, from the last", {"w": (4, 8)}, VECTOR, None, cuttable=False)
def parts_reversed(w: int) -> nn.Module:
    return Net(lambda m, x: m.o(torch.cat(m.a(x).split(2, 1)[::-1], 1)), a=nn.Linear(8, w), o=nn.Linear(w, 2))


@truth("fixed features up to a length", WIDTH, VECTOR, None, cuttable=False)
def features_to_length(w: int) -> nn.Module:
    return Net(lambda m, x: m.o(F.pad(m.a(x)[:, :w], (0, 8 - w))), a=nn.Linear(8, 8), o=nn.Linear(8, 2))
