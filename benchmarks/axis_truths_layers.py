"""Models of images and vectors whose cuts are known: convolutions, groups, joins, gates. See `axis_truths`."""

from __future__ import annotations

import torch
from axis_truths import IMAGE, SEQUENCE, TOKENS, VECTOR, Net, conv, truth
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, WIDER = {"w": (4, 8)}, {"w": (8, 16)}


@truth("unet", WIDTH, IMAGE, "d2.0.weight[1]: 8/16 + 8/16\nd1.0.weight[1]: 4/8 + 4/8")
def unet(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        a = m.e1(x)
        b = m.e2(F.max_pool2d(a, 2))
        d = m.d2(torch.cat([b, m.u2(m.mid(F.max_pool2d(b, 2)))], 1))
        return m.out(m.d1(torch.cat([a, m.u1(d)], 1)))

    return Net(
        run, e1=conv(3, w), e2=conv(w, 2 * w), mid=conv(2 * w, 4 * w), u2=nn.ConvTranspose2d(4 * w, 2 * w, 2, 2),
        d2=conv(4 * w, 2 * w), u1=nn.ConvTranspose2d(2 * w, w, 2, 2), d1=conv(2 * w, w), out=nn.Conv2d(w, 2, 1),
    )  # fmt: skip


@truth("cat a+2b", WIDTH, VECTOR, "c.weight[1]: 4/8 + 8/16")
def cat_of_two(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.d(F.relu(m.c(torch.cat([m.a(x), m.b(x)], -1))))

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(8, 2 * w), c=nn.Linear(3 * w, 2 * w), d=nn.Linear(2 * w, 2))


@truth("inception", WIDTH, IMAGE,
       "c.weight[1] n.weight[0] n.bias[0] n.running_mean[0] n.running_var[0]: 4/8 + 8/16 + 4/8 + 5")  # fmt: skip
def inception(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.c(m.n(torch.cat([branch(x) for branch in m.b], 1)).relu())

    branches = nn.ModuleList(nn.Conv2d(3, outputs, 1) for outputs in (w, 2 * w, w, 5))
    return Net(run, b=branches, n=nn.BatchNorm2d(4 * w + 5), c=nn.Conv2d(4 * w + 5, 2, 1))


@truth("densenet", {"g": (2, 4)}, IMAGE, """
l.1.0.weight[1]: 4/8 + 2/4
l.2.0.weight[1]: 4/8 + 2/4 + 2/4
t.weight[1]: 4/8 + 2/4 + 2/4 + 2/4""")  # fmt: skip
def densenet(g: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        for layer in m.l:
            x = torch.cat([x, layer(x)], 1)
        return m.o(m.t(x).relu())

    layers = nn.ModuleList(conv(2 * g + i * g, g) for i in range(3))
    return Net(run, stem=nn.Conv2d(3, 2 * g, 1), l=layers, t=nn.Conv2d(5 * g, 3 * g, 1), o=nn.Conv2d(3 * g, 2, 1))


@truth("grouped conv, groups fixed", {"w": (2, 4)}, IMAGE, """
i.weight[0] i.bias[0] g.weight[0] g.bias[0] o.weight[1]: 4 x 2/4
n.weight[0] n.bias[0] n.running_mean[0] n.running_var[0]: 4 x 2/4""")  # fmt: skip
def resnext(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(m.g(m.n(m.i(x)).relu()).relu())

    return Net(
        run, i=nn.Conv2d(3, 4 * w, 1), n=nn.BatchNorm2d(4 * w), g=nn.Conv2d(4 * w, 4 * w, 3, padding=1, groups=4),
        o=nn.Conv2d(4 * w, 2, 1),
    )  # fmt: skip


def _chain(m: Net, x: Tensor) -> Tensor:
    return m.o(m.g(m.i(x)))


@truth("grouped conv, number of groups", {"n": (2, 4)}, IMAGE)
def more_groups(n: int) -> nn.Module:
    grouped = nn.Conv2d(4 * n, 6 * n, 3, padding=1, groups=n)
    return Net(_chain, i=nn.Conv2d(3, 4 * n, 1), g=grouped, o=nn.Conv2d(6 * n, 2, 1))


@truth("grouped ConvTranspose, in sorted", WIDTH, IMAGE, "i.weight[0] i.bias[0] g.weight[0]: 2 x 2/4")
def transposed_in(w: int) -> nn.Module:
    return Net(_chain, i=nn.Conv2d(3, w, 1), g=nn.ConvTranspose2d(w, 6, 2, 2, groups=2), o=nn.Conv2d(6, 2, 1))


@truth("grouped ConvTranspose, out sorted", {"w": (2, 4)}, IMAGE, "g.bias[0] o.weight[1]: 2 x 2/4")
def transposed_out(w: int) -> nn.Module:
    grouped = nn.ConvTranspose2d(8, 2 * w, 2, 2, groups=2)
    return Net(_chain, i=nn.Conv2d(3, 8, 1), g=grouped, o=nn.Conv2d(2 * w, 2, 1))


@truth("fixed groups, out sorted", WIDTH, IMAGE, "g.weight[0] g.bias[0] o.weight[1]: 2 x 2/4")
def grouped_out(w: int) -> nn.Module:
    return Net(_chain, i=nn.Conv2d(3, 8, 1), g=nn.Conv2d(8, w, 1, groups=2), o=nn.Conv2d(w, 2, 1))


@truth("depthwise multiplier sorted", {"n": (2, 4)}, IMAGE, "g.weight[0] g.bias[0] o.weight[1]: 8 x 2/4")
def multiplier(n: int) -> nn.Module:
    depthwise = nn.Conv2d(8, 8 * n, 3, padding=1, groups=8)
    return Net(_chain, i=nn.Conv2d(3, 8, 1), g=depthwise, o=nn.Conv2d(8 * n, 2, 1))


@truth("depthwise, width sorted, multiplier 2", WIDTH, IMAGE)
def depthwise_width(w: int) -> nn.Module:
    depthwise = nn.Conv2d(w, 2 * w, 3, padding=1, groups=w)
    return Net(_chain, i=nn.Conv2d(3, w, 1), g=depthwise, o=nn.Conv2d(2 * w, 2, 1))


# Channels change places in every block; what they come to is long, and the pad test says whether it is right.
@truth("shufflenet", WIDER, IMAGE, None)
def shufflenet(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        for block in m.a:
            kept, worked = x.chunk(2, 1)
            x = torch.cat([kept, block(worked)], 1)
            n, c, *places = x.shape
            x = x.view(n, 2, c // 2, *places).transpose(1, 2).reshape(n, c, *places)
        return m.o(x)

    def block() -> nn.Sequential:
        depthwise = nn.Conv2d(w, w, 3, padding=1, groups=w)
        return nn.Sequential(nn.Conv2d(w, w, 1), nn.ReLU(), depthwise, nn.Conv2d(w, w, 1))

    return Net(run, stem=nn.Conv2d(3, 2 * w, 1), a=nn.ModuleList(block() for _ in range(3)), o=nn.Conv2d(2 * w, 2, 1))


@truth("shufflenet v1: groups, channel shuffle", WIDTH, IMAGE, None)
def channel_shuffle(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(m.c(m.s(m.b(m.a(x)).relu())).relu())

    grouped = [nn.Conv2d(4 * w, 4 * w, 1, groups=4) for _ in range(2)]
    return Net(run, a=nn.Conv2d(3, 4 * w, 1), b=grouped[0], s=nn.ChannelShuffle(4), c=grouped[1],
               o=nn.Conv2d(4 * w, 2, 1))  # fmt: skip


@truth("glu beside mlp 2w", WIDTH, VECTOR, "p.weight[0] p.bias[0]: 4/8 + 4/8")
def glu(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.h(m.e(m.d(F.glu(m.p(m.i(x)))).relu()))

    return Net(run, i=nn.Linear(8, w), p=nn.Linear(w, 2 * w), d=nn.Linear(w, 2 * w), e=nn.Linear(2 * w, w),
               h=nn.Linear(w, 2))  # fmt: skip


@truth("film", WIDTH, VECTOR, "t.weight[0] t.bias[0]: 4/8 + 4/8")
def film(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        scale, shift = m.t(x[..., :4]).chunk(2, -1)
        return m.h(m.o(m.i(x) * (1 + scale) + shift).relu())

    return Net(run, i=nn.Linear(8, w), t=nn.Linear(4, 2 * w), o=nn.Linear(w, 2 * w), h=nn.Linear(2 * w, 2))


@truth("adaLN chunk 6", WIDTH, SEQUENCE, "t.1.weight[0] t.1.bias[0]: 4/8 + 4/8 + 4/8 + 4/8 + 4/8 + 4/8")
def adaptive_norm(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        condition, x = m.i(x.mean(1)), m.i(x)
        a, b, gate, d, e, k = m.t(condition)[:, None].chunk(6, -1)
        x = x + gate * m.f(x * (1 + a) + b)
        return m.o(x * (1 + d) + e * k)

    made = nn.Sequential(nn.SiLU(), nn.Linear(w, 6 * w))
    return Net(run, i=nn.Linear(8, w), t=made, f=nn.Linear(w, w), o=nn.Linear(w, 2))


@truth("pixel shuffle", WIDTH, IMAGE)
def pixel_shuffle(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(F.pixel_shuffle(m.up(m.i(x)), 2))

    i, up, o = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, w), (w, 4 * w), (w, 3)))
    return Net(run, i=i, up=up, o=o)


@truth("pixel unshuffle", WIDTH, IMAGE)
def pixel_unshuffle(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(F.pixel_unshuffle(m.i(x), 2))

    return Net(run, i=nn.Conv2d(3, w, 3, padding=1), o=nn.Conv2d(4 * w, 3, 3, padding=1))


@truth("yolo focus", WIDTH, IMAGE, "o.weight[1]: 4/8 + 4/8 + 4/8 + 4/8")
def focus(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        pixels = [x[..., row::2, column::2] for column in range(2) for row in range(2)]
        return m.p(m.o(torch.cat(pixels, 1)).relu())

    return Net(run, i=nn.Conv2d(3, w, 1), o=nn.Conv2d(4 * w, 4 * w, 1), p=nn.Conv2d(4 * w, 2, 1))


def _flattened(w: int, last: bool) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        y = m.i(x)
        return m.o(m.h((y.permute(0, 2, 3, 1) if last else y).flatten(1)).relu())

    return Net(run, i=nn.Conv2d(3, w, 3, stride=4), h=nn.Linear(4 * w, 16), o=nn.Linear(16, 2))


@truth("flatten NCHW", WIDTH, IMAGE)
def flatten_first(w: int) -> nn.Module:
    return _flattened(w, last=False)


@truth("flatten NHWC", WIDTH, IMAGE, "h.weight[1]: 4 x 4/8")
def flatten_last(w: int) -> nn.Module:
    return _flattened(w, last=True)


@truth("squeeze-excite", WIDER, IMAGE)
def squeeze_excite(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        x = x * m.e(m.r(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.o(x.mean((2, 3)))

    return Net(run, i=nn.Conv2d(3, w, 3), r=nn.Conv2d(w, w // 4, 1), e=nn.Conv2d(w // 4, w, 1), o=nn.Linear(w, 2))


# Of one's own network the groups of a norm are units that a statistic joins, and the corner serves.
@truth("group norm, groups fixed", WIDER, IMAGE)
def group_norm(w: int) -> nn.Module:
    return Net(_chain, i=nn.Conv2d(3, w, 3), g=nn.GroupNorm(4, w), o=nn.Conv2d(w, 2, 1))


@truth("channels padded on both sides", WIDTH, IMAGE, "b.weight[0] b.bias[0] o.weight[1]: 2/4 + 4/8 + 2/4")
def padded_shortcut(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        return m.o(m.b(x) + F.pad(x, (0, 0, 0, 0, w // 2, w // 2)))

    return Net(run, a=nn.Conv2d(3, w, 1), b=nn.Conv2d(w, 2 * w, 1), o=nn.Conv2d(2 * w, 2, 1))


@truth("einsum, written in place", WIDTH, VECTOR, "g[0] c.weight[1]: 4/8 + 4/8")
def in_place(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        h = torch.einsum("bi,iw->bw", x, m.a)
        z = torch.zeros(len(x), 2 * w, dtype=h.dtype)
        z[:, :w] = h
        z[:, w:] = h.relu()
        return torch.einsum("bw,wo->bo", h, m.b) + m.z(m.c(z * m.g).relu())

    a, b, g = (nn.Parameter(torch.randn(*shape)) for shape in ((8, w), (w, 2), (2 * w,)))
    return Net(run, a=a, b=b, g=g, c=nn.Linear(2 * w, 2 * w), z=nn.Linear(2 * w, 2))


def _maxout(w: int, inside: bool) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        pieces = y.view(len(y), w, 2) if inside else y.view(len(y), 2, w)
        return m.b(pieces.amax(-1 if inside else -2))

    return Net(run, a=nn.Linear(8, 2 * w), b=nn.Linear(w, 2))


@truth("maxout, pieces inside", WIDTH, VECTOR)
def maxout_inside(w: int) -> nn.Module:
    return _maxout(w, inside=True)


@truth("maxout, pieces outside", WIDTH, VECTOR, "a.weight[0] a.bias[0]: 4/8 + 4/8")
def maxout_outside(w: int) -> nn.Module:
    return _maxout(w, inside=False)


@truth("crelu", WIDTH, VECTOR, "b.weight[1]: 4/8 + 4/8")
def crelu(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(m.b(torch.cat([y, -y], -1).relu()).relu())

    return Net(run, a=nn.Linear(8, w), b=nn.Linear(2 * w, 2 * w), c=nn.Linear(2 * w, 2))


@truth("mlp", {"w": (4, 8), "depth": (1, 3)}, VECTOR)
def mlp(w: int, depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        for layer in m.l:
            x = x + layer(x.relu())
        return m.o(x)

    return Net(run, i=nn.Linear(8, w), l=nn.ModuleList(nn.Linear(w, w) for _ in range(depth)), o=nn.Linear(w, 2))


@truth("jumping knowledge: cat over depth", {"w": (4, 8), "depth": (1, 3)}, VECTOR, "o.weight[1]: 4/8 + 4/8 + 0/16")
def jumping(w: int, depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        found = [m.i(x)]
        for layer in m.l:
            found.append(layer(found[-1].relu()))
        return m.o(torch.cat(found, -1))

    layers = nn.ModuleList(nn.Linear(w, w) for _ in range(depth))
    return Net(run, i=nn.Linear(8, w), l=layers, o=nn.Linear(w * (depth + 1), 2))


@truth("gcn", WIDTH, SEQUENCE, "h.weight[1]: 4/8 + 4/8")
def graph(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        ends = torch.tensor([[0, 1, 2], [3, 4, 5]])
        h = m.i(x.flatten(0, 1))
        sums = torch.zeros_like(h).index_add(0, ends[1], m.l(h)[ends[0]])
        return m.h(torch.cat([h, sums], -1))

    return Net(run, i=nn.Linear(8, w), l=nn.Linear(w, w), h=nn.Linear(2 * w, 3))


@truth("vae", {"z": (2, 4)}, VECTOR, "e.weight[0] e.bias[0]: 2/4 + 2/4")
def vae(z: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        mean, log = m.e(x).chunk(2, -1)
        return m.d(mean + torch.zeros_like(mean) * (log / 2).exp())

    return Net(run, e=nn.Linear(8, 2 * z), d=nn.Linear(z, 8))


@truth("linear, view, ConvTranspose", WIDTH, VECTOR)
def generator(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.c(m.l(x).view(len(x), -1, 2, 2))

    return Net(run, l=nn.Linear(8, 4 * w), c=nn.ConvTranspose2d(w, 3, 2, 2))


@truth("outer product of two dims, joined", {"a": (2, 4), "b": (3, 6)}, VECTOR, "c.weight[1]: 2/4 x 3/6 + 2/4")
def outer_product(a: int, b: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        one, other = m.a(x), m.b(x)
        return m.c(torch.cat([(one[:, :, None] * other[:, None]).flatten(1), one], -1))

    return Net(run, a=nn.Linear(8, a), b=nn.Linear(8, b), c=nn.Linear(a * b + a, 4))


@truth("embeddings joined with constants", {"d": (4, 8)}, TOKENS, "m.weight[1]: 4/8 + 3 + 4/8\nw.weight[1]: 4/8 + 4/8")
def embeddings(d: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        a, b = m.u(x), m.v(x)
        ones = torch.ones(*x.shape, 3, dtype=a.dtype)
        return m.m(torch.cat([a, ones, b], -1)) + m.w(torch.cat([b, a], -1))

    return Net(run, u=nn.Embedding(20, d), v=nn.Embedding(20, d), m=nn.Linear(2 * d + 3, 4), w=nn.Linear(2 * d, 4))


def _normalised(w: int, norm: object) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).relu()
        return m.c(m.b(torch.cat([y, -y], -1)).relu())

    return Net(run, a=norm(nn.Linear(8, w)), b=norm(nn.Linear(2 * w, 2 * w)), c=nn.Linear(2 * w, 2))


# Rows of zeros have no direction, and no norm to divide by.
@truth("weight_norm old", WIDTH, VECTOR, "b.weight_v[1]: 4/8 + 4/8", padded=False)
def weight_norm_old(w: int) -> nn.Module:
    return _normalised(w, nn.utils.weight_norm)


@truth("weight_norm new", WIDTH, VECTOR, "b.parametrizations.weight.original1[1]: 4/8 + 4/8", padded=False)
def weight_norm_new(w: int) -> nn.Module:
    return _normalised(w, nn.utils.parametrizations.weight_norm)


@truth("spectral_norm new", WIDTH, VECTOR, "b.parametrizations.weight.original[1]: 4/8 + 4/8")
def spectral_norm(w: int) -> nn.Module:
    return _normalised(w, nn.utils.parametrizations.spectral_norm)
