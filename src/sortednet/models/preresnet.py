"""The pre-activation ResNet for small images, sorted in depth and width."""

from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError
from .sizes import check_sizes

__all__ = ["Norm", "PreResNet", "PreResNetBlock", "PreResNetBottleneck"]

Norm = Literal["batch", "instance", "group"]
"""`batch`: `BatchNorm2d`. `instance`: `InstanceNorm2d` with scale and shift. `group`: `GroupNorm(1, channels)`.

One group, because groups of more channels would divide the channels differently at each width, and one group fits any.
"""


@final
class PreResNetBlock(nn.Module):
    """Norm, ReLU, convolution, twice, around a shortcut.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the first convolution and the shortcut, 1 or 2.
        norm: The normalisation.
        projects: Whether the shortcut is a 1 x 1 convolution of the pre-activated input, as where the shape changes.

    Raises:
        ConfigError: If the norm is unknown.

    Source:
        He et al. (2016), arXiv:1603.05027v3, Fig. 1 (b).

    Example:
        >>> PreResNetBlock(4, 8, stride=2, norm="batch", projects=True)(torch.ones(2, 4, 8, 8)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm, projects: bool) -> None:
        super().__init__()
        self.norm1 = _norm(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x: Features. Shape (B, inputs, H, W).

        Returns:
            Features. Shape (B, outputs, ceil(H / stride), ceil(W / stride)).
        """
        active = torch.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        output: Tensor = kept + self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return output


@final
class PreResNetBottleneck(nn.Module):
    """Norm, ReLU, convolution, three times, around a shortcut: 1 x 1, 3 x 3 of fewer channels, 1 x 1.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out, a multiple of 4; a quarter of them lies between.
        stride: Of the 3 x 3 convolution and the shortcut, 1 or 2.
        norm: The normalisation.
        projects: Whether the shortcut is a 1 x 1 convolution of the pre-activated input, as where the shape changes.

    Raises:
        ConfigError: If the norm is unknown.

    Source:
        He et al. (2016), arXiv:1603.05027v3, Fig. 1 (b), with the bottleneck of He et al. (2015), arXiv:1512.03385v1,
        Fig. 5.

    Example:
        >>> PreResNetBottleneck(4, 8, stride=2, norm="batch", projects=True)(torch.ones(2, 4, 8, 8)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm, projects: bool) -> None:
        super().__init__()
        inside = outputs // 4
        self.norm1 = _norm(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, inside, 1, bias=False)
        self.norm2 = _norm(norm, inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, padding=1, bias=False)
        self.norm3 = _norm(norm, inside)
        self.conv3 = nn.Conv2d(inside, outputs, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x: Features. Shape (B, inputs, H, W).

        Returns:
            Features. Shape (B, outputs, ceil(H / stride), ceil(W / stride)).
        """
        active = torch.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        inner = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        output: Tensor = kept + self.conv3(torch.relu(self.norm3(inner)))
        return output


@final
class PreResNet(nn.Module):
    """A pre-activation ResNet for images of about 32 x 32 pixels.

    With three stages its layers number 6 * depth + 2, or with bottlenecks 9 * depth + 2: `depth=2, width=16,
    bottleneck=True, norm_scale=0.5` is the cPreResNet20 of the papers. The blocks of every stage are counted from its
    start, so that fewer blocks are a prefix of more, in each stage.

    Args:
        depth: Blocks of each stage, at least 1. A sortable dimension.
        width: Channels of the first stage, at least 1; each further stage has twice as many. With bottlenecks these are
            the channels inside of a block, and four times as many go out. A sortable dimension.
        stages: Number of stages, at least 1; each but the first halves the height and width of the image.
        norm: `batch`, `instance` or `group`; see `Norm`. In training, `instance` needs more than one pixel to be left.
        classes: Number of outputs, at least 1.
        channels: Channels of the images, at least 1.
        bottleneck: Whether blocks are bottlenecks of three convolutions instead of two 3 x 3 ones.
        norm_scale: The scale that all normalisations start with.

    Attributes:
        stem: The first convolution.
        stages: The blocks of each stage.
        norm: The last normalisation.
        head: The linear head.

    Raises:
        ConfigError: If a size is no whole number of at least 1, or the norm is unknown.

    Source:
        He et al. (2016), arXiv:1603.05027v3; the sizes for CIFAR are those of He et al. (2015), arXiv:1512.03385v1,
        Sec. 4.2. Where the shape changes, we project by a 1 x 1 convolution (option B there). cPreResNet20 is that of
        Nunez et al. (2021), arXiv:2110.04252, but for its shortcuts, which project what is not yet activated.

    Example:
        >>> PreResNet(depth=1, width=8, stages=1, channels=1)(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int = 3,
        width: int = 16,
        *,
        stages: int = 3,
        norm: Norm = "batch",
        classes: int = 10,
        channels: int = 3,
        bottleneck: bool = False,
        norm_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes("PreResNet", depth=depth, width=width, stages=stages, classes=classes, channels=channels)
        widths = [width * 2**stage * (4 if bottleneck else 1) for stage in range(stages)]
        kind = PreResNetBottleneck if bottleneck else PreResNetBlock
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        inputs = width
        for stage, outputs in enumerate(widths):
            blocks = nn.ModuleList()
            for block in range(depth):
                stride = 2 if stage and not block else 1
                projects = stride > 1 or inputs != outputs
                blocks.append(kind(inputs, outputs, stride=stride, norm=norm, projects=projects))
                inputs = outputs
            self.stages.append(blocks)
        self.norm = _norm(norm, widths[-1])
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # of which torch draws nothing, slowly
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)):
                nn.init.constant_(module.weight, norm_scale)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            images: Normalised images. Shape (B, channels, H, W).

        Returns:
            Logits. Shape (B, classes).
        """
        x = self.stem(images)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x)
        x = torch.relu(self.norm(x)).mean((2, 3))  # (B, W of the last stage)
        output: Tensor = self.head(x)
        return output


def _norm(norm: Norm, channels: int) -> nn.Module:
    """Make the normalisation of so many channels."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return _InstanceNorm(channels, affine=True)
    if norm == "group":
        return nn.GroupNorm(1, channels)
    raise ConfigError(f"norm={norm!r} is unknown. Choose one of {list(get_args(Norm))}.")


class _InstanceNorm(nn.InstanceNorm2d):
    """The instance norm of torch, whose kernel wants another order in memory than convolutions in bfloat16.

    Where the channels lie last, those of all images are laid side by side: a batch norm of one image then has the same
    sums, and keeps the order.
    """

    def forward(self, x: Tensor) -> Tensor:
        half = x.dtype.itemsize < 4
        if not half or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        count, channels, height, width = x.shape
        joined = x.permute(2, 3, 0, 1).reshape(1, height, width, count * channels).permute(0, 3, 1, 2)
        scale, shift = self.weight.repeat(count), self.bias.repeat(count)
        found = functional.batch_norm(joined, None, None, scale, shift, training=True, eps=self.eps)
        parted = found.permute(0, 2, 3, 1).reshape(height, width, count, channels).permute(2, 3, 0, 1)
        return parted.contiguous(memory_format=torch.channels_last)
