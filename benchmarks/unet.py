"""What aligned cuts are worth in a U-Net: the smallest width's quality, aligned and cut by shape, equal training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sortednet as sn
from sortednet import SortedNet, Space
from sortednet.network.builders import Builder

WIDTHS = [4, 8, 16]
STEPS, BATCH, PIXELS = 400, 16, 32


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given in (inputs, outputs):
        layers += [nn.Conv2d(given, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net of two levels: what goes up is joined with what came down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _twice(1, width), _twice(width, 2 * width), _twice(2 * width, 4 * width)
        self.raise2, self.raise1 = (nn.ConvTranspose2d(2 * n, n, 2, 2) for n in (2 * width, width))
        self.up2, self.up1, self.out = _twice(4 * width, 2 * width), _twice(2 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.raise2(self.middle(F.max_pool2d(two, 2)))
        x = self.up2(torch.cat([two, x], 1))
        return self.out(self.up1(torch.cat([one, self.raise1(x)], 1)))


class ByShape(Builder):
    """Builds the same, and is not watched: every axis is cut at its corner."""

    unwatchable = "cut by shape"

    def __call__(self, **setting: int) -> nn.Module:
        return UNet(**setting)

    def layouts(self, full: nn.Module) -> tuple[sn.Layout, ...]:
        return tuple(sn.Layout("*", axis, 1) for axis in (0, 1))


def images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw discs, which are to be found, among squares, under noise.

    Returns:
        Images and masks. Shape (N, 1, 32, 32).
    """
    places = torch.arange(PIXELS)
    rows, columns = places[:, None], places[None]
    pictures = 0.5 * torch.randn(count, 1, PIXELS, PIXELS, generator=generator)
    masks = torch.zeros(count, 1, PIXELS, PIXELS)
    for number in range(count):
        for shape in range(4):
            y, x = (int(torch.randint(4, PIXELS - 4, (), generator=generator)) for _ in range(2))
            radius = int(torch.randint(3, 7, (), generator=generator))
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            square = ((rows - y).abs() <= 0.9 * radius) & ((columns - x).abs() <= 0.9 * radius)
            pictures[number, 0][disc if shape < 2 else square] += 1.0
            if shape < 2:
                masks[number, 0][disc] = 1.0
    return pictures, masks


def intersection_over_union(seed: int, aligned: bool) -> list[float]:
    """Train one network, and return the percentage of each width, from the smallest."""
    torch.manual_seed(seed)
    space = Space(width=WIDTHS)
    example = torch.zeros(2, 1, PIXELS, PIXELS)
    if aligned:
        net = SortedNet(UNet, space, example=example, buffers="reestimated")
    else:
        net = SortedNet(ByShape(), space, buffers="reestimated")
    generator = torch.Generator().manual_seed(seed)
    pictures, masks = images(1024, generator)
    seen, wanted = images(256, torch.Generator().manual_seed(10**6))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    objective = sn.Stochastic(sn.Stratified(space, seed=seed), draws=len(WIDTHS))
    for _ in range(STEPS):
        rows = torch.randint(len(pictures), (BATCH,), generator=generator)
        loss = objective(net, (pictures[rows], masks[rows]), F.binary_cross_entropy_with_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.reestimate([pictures])
    found = []
    for setting in space:
        with torch.no_grad():
            marked = net.extract(setting).eval()(seen) > 0
        both = (marked & (wanted > 0)).sum()
        found.append(100 * float(both / (marked | (wanted > 0)).sum()))
    return found
