"""Twenty models of other kinds whose cuts are known. See `axis_truths`."""

from __future__ import annotations

import torch
from axis_truths import IMAGE, SEQUENCE, TOKENS, VECTOR, Net, conv, truth
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, WIDER = {"w": (4, 8)}, {"w": (8, 16)}


@truth("moving average with gates, joined", WIDTH, SEQUENCE, "p.weight[0] p.bias[0]: 4/8 + 4/8 + 4/8")
def moving_average(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        value, keep, out = m.p(x).split(w, -1)
        state, found = torch.zeros_like(value[:, 0]), []
        for step in range(x.shape[1]):
            rate = (keep[:, step] * m.decay).sigmoid()
            state = rate * state + (1 - rate) * value[:, step]
            found.append(state * out[:, step].sigmoid())
        return m.o(torch.stack(found, 1))

    return Net(run, p=nn.Linear(8, 3 * w), decay=nn.Parameter(torch.randn(w)), o=nn.Linear(w, 2))


@truth(
    "squeeze-excite over joined branches",
    WIDER,
    IMAGE,
    """
r.weight[1] e.weight[0] e.bias[0] o.weight[1]: 8/16 + 8/16""",
)
def joined_gates(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = torch.cat([m.a(x), m.b(x)], 1)
        gates = m.e(m.r(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return m.o((x * gates).mean((2, 3)))

    return Net(run, a=conv(3, w), b=conv(3, w), r=nn.Conv2d(2 * w, w // 2, 1), e=nn.Conv2d(w // 2, 2 * w, 1),
               o=nn.Linear(2 * w, 2))  # fmt: skip


@truth(
    "two towers, mixed by a bilinear form",
    WIDTH,
    (VECTOR, SEQUENCE),
    """
mix.weight[1]: 4/8 + 4/8
gate.weight[1]: 4/8 + 4/8
gate.weight[0] gate.bias[0] out.weight[1]: 4/8 + 4/8""",
)
def towers(w: int) -> nn.Module:
    def run(m: Net, x: Tensor, y: Tensor) -> Tensor:
        one, other = m.a(x).relu(), m.b(y).relu().amax(1)
        both = torch.cat([one, other], -1)
        return m.out(m.gate(both).sigmoid() * both) + m.mix(both) + torch.einsum("nw,wvo,nv->no", one, m.form, other)

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(8, w), mix=nn.Linear(2 * w, 3), gate=nn.Linear(2 * w, 2 * w),
               out=nn.Linear(2 * w, 3), form=nn.Parameter(torch.randn(w, w, 3)))  # fmt: skip


@truth(
    "chain of pixel shuffles behind a join",
    WIDTH,
    IMAGE,
    """
second.weight[1]: 4/8 + 3""",
)
def shuffles(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        up = F.pixel_shuffle(m.first(x), 2)
        both = torch.cat([up, F.interpolate(x, scale_factor=2)], 1)
        return m.out(F.pixel_unshuffle(F.pixel_shuffle(m.second(both), 2), 4))

    first, second = nn.Conv2d(3, 4 * w, 3, padding=1), nn.Conv2d(w + 3, 4 * w, 3, padding=1)
    return Net(run, first=first, second=second, out=nn.Conv2d(16 * w, 2, 1))


@truth("relative position table of heads", {"h": (2, 4)}, SEQUENCE, "qkv.weight[0]: 8/16 + 8/16 + 8/16")
def relative_table(h: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = m.qkv(x).view(n, t, 3, h, 4).permute(2, 0, 3, 1, 4)
        distance = torch.arange(t)[:, None] - torch.arange(t)[None] + t - 1
        bias = m.table[distance.view(-1)].view(t, t, h).permute(2, 0, 1)
        weights = (q @ k.mT + bias).softmax(-1)
        return m.o((weights @ v).transpose(1, 2).flatten(2))

    return Net(run, qkv=nn.Linear(8, 12 * h, bias=False), table=nn.Parameter(torch.randn(9, h)), o=nn.Linear(4 * h, 2))


@truth(
    "LSTM of groups",
    WIDTH,
    SEQUENCE,
    """
i.weight[0] i.bias[0]: 2 x 4/8
a.weight_ih_l0[0] a.weight_hh_l0[0] a.bias_ih_l0[0] a.bias_hh_l0[0]: 4/8 + 4/8 + 4/8 + 4/8
b.weight_ih_l0[0] b.weight_hh_l0[0] b.bias_ih_l0[0] b.bias_hh_l0[0]: 4/8 + 4/8 + 4/8 + 4/8
o.weight[1]: 4/8 x 2""",
)
def grouped_lstm(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        one, other = m.i(x).chunk(2, -1)
        found = torch.stack([m.a(one)[0], m.b(other)[0]], -1)  # the groups then change places with the units
        return m.o(found.flatten(2))

    cells = {name: nn.LSTM(w, w, batch_first=True) for name in "ab"}
    return Net(run, i=nn.Linear(8, 2 * w), o=nn.Linear(2 * w, 2), **cells)


@truth("autoencoder with tied, transposed layers", {"w": (4, 8), "z": (2, 4)}, VECTOR)
def tied_autoencoder(w: int, z: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        code = m.b(m.a(x).relu())
        return F.linear(F.linear(code, m.b.weight.t(), m.back).relu(), m.a.weight.t())

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(w, z), back=nn.Parameter(torch.randn(w)))


@truth("einsum attention of fixed heads", {"d": (2, 4)}, SEQUENCE)
def einsum_attention(d: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("ntc,chd->nhtd", x, weight) for weight in (m.q, m.k, m.v))
        weights = torch.einsum("nhtd,nhsd->nhts", q, k).softmax(-1)
        return torch.einsum("nhts,nhsd,hdo->nto", weights, v, m.o)

    q, k, v = (nn.Parameter(torch.randn(8, 4, d)) for _ in range(3))
    return Net(run, q=q, k=k, v=v, o=nn.Parameter(torch.randn(4, d, 2)))


@truth(
    "einsum attention of fixed heads, flat weights",
    {"d": (2, 4)},
    SEQUENCE,
    """
kv.weight[0]: 8 x 2/4
q.weight[0] o.weight[1]: 4 x 2/4""",
)
def flat_einsum_attention(d: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = m.q(x).view(n, t, 4, d)
        k, v = m.kv(x).view(n, t, 2, 4, d).unbind(2)
        weights = torch.einsum("nthd,nshd->nhts", q, k).softmax(-1)
        return m.o(torch.einsum("nhts,nshd->nthd", weights, v).reshape(n, t, -1))

    return Net(run, q=nn.Linear(8, 4 * d, bias=False), kv=nn.Linear(8, 8 * d, bias=False), o=nn.Linear(4 * d, 2))


@truth(
    "depth and width, stages joined at the end",
    {"w": (4, 8), "depth": (1, 2)},
    IMAGE,
    """
head.weight[1]: 4/8 + 8/16""",
)
def stages(w: int, depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x, found = m.stem(x), []
        for down, blocks in zip(m.downs, m.blocks, strict=True):
            x = down(x)
            for block in blocks:
                x = x + block(x)
            found.append(x.mean((2, 3)))
        return m.head(torch.cat(found, -1))

    def block(width: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1))

    blocks = nn.ModuleList(nn.ModuleList(block(width) for _ in range(depth)) for width in (w, 2 * w))
    downs = nn.ModuleList([nn.Conv2d(w, w, 2, 2), nn.Conv2d(w, 2 * w, 2, 2)])
    return Net(run, stem=nn.Conv2d(3, w, 1), downs=downs, blocks=blocks, head=nn.Linear(3 * w, 2))


@truth("low rank in the middle, added to a wide layer", {"rank": (2, 4)}, VECTOR)
def low_rank(rank: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o((m.wide(x) + m.b(m.a(x)) / 2).relu())

    return Net(run, wide=nn.Linear(8, 8), a=nn.Linear(8, rank, bias=False), b=nn.Linear(rank, 8, bias=False),
               o=nn.Linear(8, 2))  # fmt: skip


@truth("multi-query attention, joined by name", {"h": (2, 4)}, SEQUENCE, "joined.weight[0]: 8/16 + 4 + 4")
def multi_query(h: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = m.joined(x).split([4 * h, 4, 4], -1)
        q = q.view(n, t, h, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k[:, None].expand(n, h, t, 4), v[:, None].expand(n, h, t, 4))
        return m.o(y.transpose(1, 2).flatten(2))

    return Net(run, joined=nn.Linear(8, 4 * h + 8, bias=False), o=nn.Linear(4 * h, 2))


@truth("state space: one projection for step, input, output", {"s": (2, 4)}, SEQUENCE, "x.weight[0]: 3 + 2/4 + 2/4")
def state_space(s: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        step, into, out = m.x(x).split([3, s, s], -1)
        rate = F.softplus(m.step(step))
        state, found = x.new_zeros(len(x), 8, s), []
        for t in range(x.shape[1]):
            keep = (rate[:, t, :, None] * -m.log.exp()).exp()
            state = keep * state + (rate[:, t] * x[:, t])[..., None] * into[:, t, None]
            found.append((state * out[:, t, None]).sum(-1))
        return m.o(torch.stack(found, 1))

    return Net(run, x=nn.Linear(8, 3 + 2 * s, bias=False), step=nn.Linear(3, 8), log=nn.Parameter(torch.randn(8, s)),
               o=nn.Linear(8, 2))  # fmt: skip


@truth(
    "first and last step of both directions",
    WIDTH,
    SEQUENCE,
    """
r.weight_ih_l0[0] r.weight_hh_l0[0] r.bias_ih_l0[0] r.bias_hh_l0[0]: 4/8 + 4/8 + 4/8
r.weight_ih_l0_reverse[0] r.weight_hh_l0_reverse[0] r.bias_ih_l0_reverse[0] r.bias_hh_l0_reverse[0]: 4/8 + 4/8 + 4/8
o.weight[1]: 4/8 + 4/8""",
)
def last_steps(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        _, last = m.r(x)
        return m.o(torch.cat(list(last), -1).relu())

    return Net(run, r=nn.GRU(8, w, batch_first=True, bidirectional=True), o=nn.Linear(2 * w, 2))


@truth("convolution over time, gated, transposed twice", WIDTH, SEQUENCE, "c.weight[0] c.bias[0]: 4/8 + 4/8")
def gated_convolution(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        value, gate = m.c(F.pad(m.i(x).transpose(1, 2), (2, 0))).chunk(2, 1)
        return m.o((value * gate.sigmoid()).transpose(1, 2))

    return Net(run, i=nn.Linear(8, w), c=nn.Conv1d(w, 2 * w, 3), o=nn.Linear(w, 2))


@truth("weights made by another network", WIDTH, VECTOR, "maker.weight[0] maker.bias[0]: 4/8 x 3 + 3")
def hypernetwork(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        made = m.maker(x[:, :2])
        weight, bias = made[:, : 3 * w].view(len(x), w, 3), made[:, 3 * w :]
        return torch.bmm(m.i(x).relu()[:, None], weight)[:, 0] + bias

    return Net(run, i=nn.Linear(8, w), maker=nn.Linear(2, 3 * w + 3))


@truth("windows of an image as tokens", {"d": (3, 6)}, IMAGE)
def windows(d: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x).permute(0, 2, 3, 1)  # (N, 8, 8, d)
        n = len(x)
        x = x.reshape(n, 2, 4, 2, 4, d).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 16, d)
        x = x + m.mix((x + m.places).transpose(1, 2)).transpose(1, 2)
        x = x.reshape(n, 2, 2, 4, 4, d).permute(0, 1, 3, 2, 4, 5).reshape(n, 8, 8, d)
        return m.o(x)

    return Net(run, i=nn.Conv2d(3, d, 1), places=nn.Parameter(torch.randn(1, 16, d)), mix=nn.Linear(16, 16),
               o=nn.Linear(d, 2))  # fmt: skip


@truth(
    "patches merged, four at a time",
    WIDTH,
    IMAGE,
    """
n.weight[0] n.bias[0] reduce.weight[1]: 4/8 + 4/8 + 4/8 + 4/8""",
)
def merged_patches(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x).permute(0, 2, 3, 1)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return m.o(m.reduce(m.n(x)))

    return Net(run, i=nn.Conv2d(3, w, 1), n=nn.LayerNorm(4 * w), reduce=nn.Linear(4 * w, 2 * w), o=nn.Linear(2 * w, 2))


@truth("tokens of two tables, summed and joined", {"w": (4, 8), "v": (2, 4)}, TOKENS, "o.weight[1]: 4/8 + 2/4 + 4/8")
def two_tables(w: int, v: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        one = F.embedding(x, m.table) + m.places[: x.shape[1]]
        return m.o(torch.cat([one, m.other(x), one.cumsum(1)], -1))

    return Net(run, table=nn.Parameter(torch.randn(20, w)), places=nn.Parameter(torch.randn(5, w)),
               other=nn.Embedding(20, v), o=nn.Linear(2 * w + v, 3))  # fmt: skip


@truth("heads that flip their units", WIDTH, VECTOR, None, cuttable=False)
def flipped(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.o(y + y.flip(-1))

    return Net(run, a=nn.Linear(8, w), o=nn.Linear(w, 2))
