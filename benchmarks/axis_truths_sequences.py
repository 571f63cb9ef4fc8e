"""Models of sequences whose cuts are known: recurrence, attention, rotary positions, experts. See `axis_truths`."""

from __future__ import annotations

import torch
from axis_truths import SEQUENCE, TOKENS, Net, truth
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = {"w": (4, 8)}


def _gates(cell: str, gates: int, layers: int, both: bool = False) -> str:
    """Write the axes of torch's recurrent modules."""
    lines = []
    for layer in range(layers):
        for way in ("", "_reverse") if both else ("",):
            names = [f"{cell}.{kind}_l{layer}{way}[0]" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            lines.append(f"{' '.join(names)}: {' + '.join(['4/8'] * gates)}")
            if both and layer:
                lines.append(f"{cell}.weight_ih_l{layer}{way}[1]: 4/8 + 4/8")
    return "\n".join(lines)


def _recurrent(w: int, kind: str, both: bool = False) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.d(m.u(m.r(x)[0]).relu())

    cell = getattr(nn, kind)(8, w, 2, batch_first=True, bidirectional=both)
    return Net(run, r=cell, u=nn.Linear(w * (1 + both), 4 * w), d=nn.Linear(4 * w, 2))


@truth("lstm 2 layers", WIDTH, SEQUENCE, _gates("r", 4, 2))
def lstm(w: int) -> nn.Module:
    return _recurrent(w, "LSTM")


@truth("lstm bidirectional", WIDTH, SEQUENCE, _gates("r", 4, 2, both=True) + "\nu.weight[1]: 4/8 + 4/8")
def lstm_both(w: int) -> nn.Module:
    return _recurrent(w, "LSTM", both=True)


@truth("gru", WIDTH, SEQUENCE, _gates("r", 3, 2))
def gru(w: int) -> nn.Module:
    return _recurrent(w, "GRU")


def _cell(w: int, kind: type[nn.Module]) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = m.c(x[:, step], state)
        return m.d(m.u(state[0] if isinstance(state, tuple) else state).relu())

    return Net(run, c=kind(8, w), u=nn.Linear(w, 4 * w), d=nn.Linear(4 * w, 2))


_CELL = "c.weight_ih[0] c.weight_hh[0] c.bias_ih[0] c.bias_hh[0]: "


@truth("LSTMCell beside mlp 4h", WIDTH, SEQUENCE, _CELL + "4/8 + 4/8 + 4/8 + 4/8")
def lstm_cell(w: int) -> nn.Module:
    return _cell(w, nn.LSTMCell)


@truth("GRUCell", WIDTH, SEQUENCE, _CELL + "4/8 + 4/8 + 4/8")
def gru_cell(w: int) -> nn.Module:
    return _cell(w, nn.GRUCell)


def _multihead(w: int, heads: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        return m.h(m.m(x, x, x, need_weights=False)[0])

    return Net(run, i=nn.Linear(8, w), m=nn.MultiheadAttention(w, heads, batch_first=True), h=nn.Linear(w, 2))


_IN = "m.in_proj_weight[0] m.in_proj_bias[0]: "


@truth("MHA heads sorted", {"w": (8, 16), "heads": (2, 4)}, SEQUENCE, _IN + "8/16 + 8/16 + 8/16")
def attention_of_heads(w: int, heads: int) -> nn.Module:
    return _multihead(w, heads)


@truth("MHA heads fixed, width sorted", {"w": (8, 16)}, SEQUENCE, _IN + "12 x 2/4\nm.out_proj.weight[1]: 4 x 2/4")
def attention_of_width(w: int) -> nn.Module:
    return _multihead(w, 4)


@truth("MHA fewer heads, same width", {"heads": (2, 4)}, SEQUENCE, None, cuttable=False)
def attention_of_larger_heads(heads: int) -> nn.Module:
    return _multihead(16, heads)


def _encoder(w: int, heads: int, depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        return m.h(m.enc(m.e(x)).mean(1))

    layer = nn.TransformerEncoderLayer(w, heads, 2 * w, batch_first=True)
    return Net(run, e=nn.Embedding(20, w), enc=nn.TransformerEncoder(layer, depth), h=nn.Linear(w, 2))


def _joined(depth: int) -> str:
    names = [f"enc.layers.{i}.self_attn.in_proj_{kind}[0]" for i in range(depth) for kind in ("weight", "bias")]
    return f"{' '.join(names)}: 8/16 + 8/16 + 8/16"


@truth("TransformerEncoder heads", {"w": (8, 16), "heads": (2, 4)}, TOKENS, _joined(2))
def encoder(w: int, heads: int) -> nn.Module:
    return _encoder(w, heads, 2)


# Its norms stand behind the shortcuts, so that blocks of zeros still scale what they hand on.
@truth("TransformerEncoder heads+depth", {"w": (8, 16), "heads": (2, 4), "depth": (1, 3)}, TOKENS, _joined(1),
       padded=False)  # fmt: skip
def deep_encoder(w: int, heads: int, depth: int) -> nn.Module:
    return _encoder(w, heads, depth)


def _language_model(w: int, depth: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        h = m.e(x)
        for block in m.b:
            h = h + block(h).relu()
        return m.o(h)

    model = Net(run, e=nn.Embedding(20, w), b=nn.ModuleList(nn.Linear(w, w) for _ in range(depth)),
                o=nn.Linear(w, 20, bias=False))  # fmt: skip
    model.o.weight = model.e.weight
    return model


@truth("tied LM, depth and width", {"w": (4, 8), "depth": (1, 3)}, TOKENS)
def deep_language_model(w: int, depth: int) -> nn.Module:
    return _language_model(w, depth)


@truth("tied LM", WIDTH, TOKENS)
def language_model(w: int) -> nn.Module:
    return _language_model(w, 2)


@truth("unnamed qkv beside mlp 3w", WIDTH, SEQUENCE, "p.weight[0] p.bias[0]: 4/8 + 4/8 + 4/8")
def unnamed_attention(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        q, k, v = m.p(x).chunk(3, -1)
        x = x + m.o(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
        return m.h(x + m.down(m.up(x).relu()))

    return Net(run, i=nn.Linear(8, w), p=nn.Linear(w, 3 * w), o=nn.Linear(w, w), up=nn.Linear(w, 3 * w),
               down=nn.Linear(3 * w, w), h=nn.Linear(w, 2))  # fmt: skip


def _by_head(h: int, d: int, roles_outside: bool) -> nn.Module:
    """Attention whose query, key and value lie together head by head."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        n, t, _ = x.shape
        if roles_outside:
            q, k, v = (m.p(x).view(n, t, h, 3, d)[..., role, :].transpose(1, 2) for role in range(3))
        else:
            q, k, v = m.p(x).view(n, t, h, 3 * d).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        return m.z(x + m.o(y.transpose(1, 2).reshape(n, t, -1)))

    return Net(run, i=nn.Linear(8, 12), p=nn.Linear(12, 3 * h * d), o=nn.Linear(h * d, 12), z=nn.Linear(12, 2))


@truth("interleaved qkv, heads", {"h": (2, 4)}, SEQUENCE)
def neox_heads(h: int) -> nn.Module:
    return _by_head(h, 4, roles_outside=False)


@truth("interleaved qkv, head size", {"d": (4, 8)}, SEQUENCE, "p.weight[0] p.bias[0]: 6 x 4/8\no.weight[1]: 2 x 4/8")
def neox_head_size(d: int) -> nn.Module:
    return _by_head(2, d, roles_outside=False)


@truth("bloom interleaved, heads", {"h": (2, 4)}, SEQUENCE)
def bloom_heads(h: int) -> nn.Module:
    return _by_head(h, 4, roles_outside=True)


def _grouped(h: int, g: int, by_torch: bool = False) -> nn.Module:
    """Attention of h heads with g keys and values."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        n, t, _ = x.shape
        q, k, v = m.p(x).split([h * 4, g * 4, g * 4], -1)
        q, k, v = (one.view(n, t, -1, 4).transpose(1, 2) for one in (q, k, v))
        if not by_torch:
            k, v = (one[:, :, None].expand(n, g, h // g, t, 4).reshape(n, h, t, 4) for one in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=by_torch)
        return m.z(x + m.o(y.transpose(1, 2).reshape(n, t, -1)))

    return Net(run, i=nn.Linear(8, 12), p=nn.Linear(12, (h + 2 * g) * 4), o=nn.Linear(h * 4, 12), z=nn.Linear(12, 2))


@truth("GQA, groups follow", {"h": (2, 4), "g": (1, 2)}, SEQUENCE, "p.weight[0] p.bias[0]: 8/16 + 4/8 + 4/8")
def groups_follow(h: int, g: int) -> nn.Module:
    return _grouped(h, g)


@truth(
    "GQA, heads within a group",
    {"h": (2, 4)},
    SEQUENCE,
    """
p.weight[0] p.bias[0]: 2 x 1/2 x 4 + 16
o.weight[1]: 2 x 1/2 x 4""",
)
def heads_within_groups(h: int) -> nn.Module:
    return _grouped(h, 2)


@truth("GQA enable_gqa", {"h": (2, 4), "g": (1, 2)}, SEQUENCE, "p.weight[0] p.bias[0]: 8/16 + 4/8 + 4/8")
def groups_of_torch(h: int, g: int) -> nn.Module:
    return _grouped(h, g, by_torch=True)


def _rotary(d: int, halves: bool) -> nn.Module:
    def turn(x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1])[:, None] * torch.full((d // 2,), 0.3)
        if halves:
            both = torch.cat([angles, angles], -1)
            first, second = x.chunk(2, -1)
            return x * both.cos() + torch.cat([-second, first], -1) * both.sin()
        p, q = x[..., ::2], x[..., 1::2]
        turned = p * angles.cos() - q * angles.sin(), p * angles.sin() + q * angles.cos()
        return torch.stack(turned, -1).flatten(-2)

    def run(m: Net, x: Tensor) -> Tensor:
        return m.o(torch.softmax(turn(m.q(x)) @ turn(m.k(x)).mT, -1) @ m.v(x))

    return Net(run, q=nn.Linear(8, d), k=nn.Linear(8, d), v=nn.Linear(8, 4), o=nn.Linear(4, 2))


@truth("rotary halves, head size", {"d": (4, 8)}, SEQUENCE, "q.weight[0] q.bias[0] k.weight[0] k.bias[0]: 2/4 + 2/4")
def rotary_halves(d: int) -> nn.Module:
    return _rotary(d, halves=True)


@truth("rotary interleaved, head size", {"d": (4, 8)}, SEQUENCE)
def rotary_pairs(d: int) -> nn.Module:
    return _rotary(d, halves=False)


@truth("mixer", {"w": (4, 8), "t": (3, 6)}, SEQUENCE)
def mixer(w: int, t: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x)
        x = x + m.b(m.a(x.mT).relu()).mT
        return m.o(x + m.d(m.c(x).relu()))

    return Net(run, i=nn.Linear(8, w), a=nn.Linear(5, t), b=nn.Linear(t, 5), c=nn.Linear(w, 2 * w),
               d=nn.Linear(2 * w, w), o=nn.Linear(w, 2))  # fmt: skip


@truth("sinusoid halves added", WIDTH, SEQUENCE, "i.weight[0] i.bias[0] t.weight[1]: 2/4 + 2/4")
def sinusoids(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1])[:, None] * torch.arange(w // 2)
        return m.o(m.t(m.i(x) + torch.cat([angles.sin(), angles.cos()], -1)).relu())

    return Net(run, i=nn.Linear(8, w), t=nn.Linear(w, w), o=nn.Linear(w, 2))


@truth("moe, stacked experts", WIDTH, SEQUENCE, "up[2]: 8/16 + 8/16")
def experts(w: int) -> nn.Module:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.i(x).flatten(0, 1)
        chosen, y = m.g(x).softmax(-1).argmax(-1), torch.zeros_like(x)
        for expert in range(4):
            rows = (chosen == expert).nonzero()[:, 0]
            gate, value = (x[rows] @ m.up[expert]).chunk(2, -1)
            y.index_add_(0, rows, (F.silu(gate) * value) @ m.down[expert])
        return m.o(x + y)

    up, down = nn.Parameter(torch.randn(4, w, 4 * w)), nn.Parameter(torch.randn(4, 2 * w, w))
    return Net(run, i=nn.Linear(8, w), g=nn.Linear(w, 4), up=up, down=down, o=nn.Linear(w, 2))
