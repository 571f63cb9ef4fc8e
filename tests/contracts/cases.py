"""Models that every contract is proved over, beside the pretrained families. A new kind is one more case here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from sortednet import Layout, Setting, SortedNet, Space, load
from sortednet.huggingface.families import mobilenet_v2
from sortednet.models import MLP, PreResNet, Transformer

DEVICE = "cpu"  # set by `--device`; elsewhere than on the CPU another kernel may sum strided weights in another order


class FusedAttention(nn.Module):
    """One attention layer whose query, key and value are one matrix, for the layouts."""

    def __init__(self, heads: int, width: int, hidden: int = 12, head_size: int = 4) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.qkv = nn.Linear(hidden, 3 * heads * head_size)
        self.out = nn.Linear(heads * head_size, hidden)
        self.gate_up = nn.Linear(hidden, 2 * width)
        self.down = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, self.head_size)
        query, key, value = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        x = x + self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        gate, up = self.gate_up(x).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Recurrent(nn.Module):
    """A bidirectional LSTM, whose gates torch fuses and whose second layer reads both directions."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, width, depth, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tied(nn.Module):
    """Embeds 7 symbols and predicts them with the same matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, width)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(ids))
        return logits


class TorchEncoder(nn.Module):
    """torch's own transformer layer, whose attention torch fuses, cut along the embedding."""

    def __init__(self, hidden: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(5, hidden)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(hidden, 2, 20, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Pairs(nn.Module):
    """Blocks that are lists of two layers, with shortcuts around each."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([MLP(1, width, inputs=5, classes=5), nn.LayerNorm(5)]) for _ in range(depth)
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for mix, norm in self.layers:
            x = x + mix(norm(x))
        return self.head(x)


class Keyed(nn.Module):
    """Blocks that are dictionaries of layers, one of which runs twice."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                f"block_{i}": nn.ModuleDict({"f": MLP(1, width, inputs=5, classes=5), "norm": nn.LayerNorm(5)})
                for i in range(depth)
            }
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layers.values():
            x = x + block["f"](block["norm"](block["norm"](x)))
        return self.head(x)


def patched(depth: int, width: int) -> nn.Module:
    """Put other forwards on the model and its blocks: a closure, and methods."""
    model: Any = Pairs(depth, width)
    before = model.forward
    model.forward = lambda x: before(x.sin())
    for mix, _ in model.layers:
        mix.forward = MethodType(lambda self, x: 0.5 * MLP.forward(self, x), mix)
    return model  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    """One family: its builder and space, an input, and settings whose dropped units can be zeroed in the full one."""

    name: str
    build: Callable[..., nn.Module]
    space: Space
    data: Callable[[], Tensor]
    settings: Sequence[str]
    zeroable: Sequence[str] = ()
    layouts: Sequence[Layout] = ()
    tolerance: float = 0.0  # of sub-model against extracted, where a kernel sums strided weights in another order
    opened_tolerance: float = 0.0

    def net(self, **options: object) -> SortedNet:
        torch.manual_seed(0)
        return SortedNet(self.build, self.space, layouts=self.layouts, **options).to(DEVICE)

    def run(self, module: Callable[..., Tensor]) -> Tensor:
        """Call a module, or a sub-model, on the input."""
        return module(self.inputs())

    def inputs(self) -> Tensor:
        return self.data().to(DEVICE)

    def original(self) -> nn.Module:
        """Build the full model as if there were no library."""
        return self.build(**self.space.full).eval().to(DEVICE)

    def opened(self, path: Path) -> nn.Module:
        """Open a saved network as if there were no library."""
        plain = self.original()
        plain.load_state_dict(load_file(path / "model.safetensors"))
        return plain

    def loaded(self, path: Path, at: Setting | None = None) -> nn.Module:
        """Open a saved network by the library, whole or in part."""
        return load(path, self.build, at=at, layouts=self.layouts).eval().to(DEVICE)

    def chosen(self) -> list[Setting]:
        return [Setting.parse(text) for text in self.settings]

    def zeroed(self) -> list[Setting]:
        """Return the settings whose dropped units can be zeroed in the full model."""
        return [Setting.parse(text) for text in self.zeroable]


def _images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _tokens() -> Tensor:
    return torch.randint(0, 30, (2, 9), generator=torch.Generator().manual_seed(1))


_small_transformer = partial(Transformer, head_size=4, vocabulary=30, positions=16)

CASES = [
    Case(
        "mlp",
        partial(MLP, inputs=7, classes=3),
        Space(depth=[1, 2, 3], width=[4, 6, 10]),
        partial(_images, 5, 7),
        ["depth=1,width=4", "depth=2,width=10", "depth=3,width=6", "depth=3,width=10"],
        ["depth=3,width=4", "depth=3,width=6"],
    ),
    Case(
        "preresnet",
        partial(PreResNet, stages=2, channels=1),
        Space(depth=[1, 2], width=[2, 4, 6]),
        partial(_images, 3, 1, 8, 8),
        ["depth=1,width=2", "depth=2,width=4", "depth=1,width=6", "depth=2,width=6"],
        ["depth=2,width=2", "depth=2,width=4"],
    ),
    Case(
        "preresnet_group",
        partial(PreResNet, stages=1, channels=1, norm="group"),
        Space(depth=[1, 2], width=[2, 4]),
        partial(_images, 3, 1, 8, 8),
        ["depth=1,width=2", "depth=2,width=2", "depth=2,width=4"],
    ),
    Case(
        "mobilenet_v2",
        mobilenet_v2,
        Space(depth=[2, 16], width=[0.1, 0.2]),
        partial(_images, 2, 3, 16, 16),
        ["depth=2,width=0.1", "depth=16,width=0.1", "depth=16,width=0.2"],
    ),
    Case(
        "transformer",
        _small_transformer,
        Space(depth=[1, 2], width=[5, 9], heads=[1, 3], hidden=[8, 12]),
        _tokens,
        ["depth=1,width=5,heads=1,hidden=8", "depth=2,width=9,heads=1,hidden=12", "depth=2,width=9,heads=3,hidden=12"],
        ["depth=2,width=5,heads=3,hidden=12", "depth=2,width=5,heads=1,hidden=12"],
    ),
    Case(
        "fused",
        FusedAttention,
        Space(heads=[1, 2, 4], width=[3, 8]),
        partial(_images, 2, 5, 12),
        ["heads=1,width=3", "heads=2,width=8", "heads=4,width=3"],
        ["heads=1,width=3", "heads=2,width=3", "heads=4,width=3"],
        [Layout("qkv.*", blocks=3), Layout("gate_up.*", blocks=lambda model: [model.down.in_features] * 2)],
    ),
    Case(
        "lstm",
        Recurrent,
        Space(width=[2, 5], depth=[1, 2]),
        partial(_images, 3, 4, 6),
        ["width=2,depth=1", "width=2,depth=2", "width=5,depth=2"],
        ["width=2,depth=2"],
        [Layout("head.weight", axis=1, blocks=2)],
        tolerance=1e-6,
    ),
    *(
        Case(
            name,
            build,
            Space(depth=[1, 3], width=[3, 6]),
            partial(_images, 2, 5),
            ["depth=1,width=3", "depth=3,width=3", "depth=1,width=6"],
            [] if name == "patched" else ["depth=3,width=3"],  # a copy of a closure still reads the original
        )
        for name, build in {"module_lists": Pairs, "module_dicts": Keyed, "patched": patched}.items()
    ),
    Case(
        "torch_encoder",
        TorchEncoder,
        Space(hidden=[4, 8], depth=[1, 2]),
        partial(_images, 2, 4, 5),
        ["hidden=4,depth=1", "hidden=4,depth=2", "hidden=8,depth=2"],
    ),
]
