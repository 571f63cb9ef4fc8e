"""Hugging Face's MobileNetV2, whose config has no argument for its depth."""

from typing import Any, final

from torch import Tensor, nn

from ...errors import ConfigError
from ...imports.packages import needs
from ...imports.privates.transformers import draw_weights

__all__ = ["MobileNetV2", "keep_blocks", "mobilenet_v2"]

_BLOCKS = 16


@final
class MobileNetV2(nn.Module):
    """Hugging Face's MobileNetV2, called with images and returning plain logits.

    Args:
        model: The `MobileNetV2ForImageClassification`.

    Attributes:
        model: The same.

    Example:
        >>> mobilenet_v2(depth=2, width=0.1).model.config.model_type
        'mobilenet_v2'
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            images: Normalised images. Shape (B, 3, H, W).

        Returns:
            Logits. Shape (B, classes).
        """
        logits: Tensor = self.model(images).logits
        return logits


def mobilenet_v2(
    depth: int = _BLOCKS,
    width: float = 1.0,
    *,
    classes: int = 10,
    base_multiplier: float = 1.4,
    image_size: int = 32,
    small_images: bool = True,
) -> MobileNetV2:
    """Build a MobileNetV2 with random weights, its first blocks and a share of its channels.

    It is Hugging Face's own model at `depth_multiplier = width * base_multiplier`: channels are rounded to multiples of
    8, and where that makes both sides of a block equal (the tenth block at a width of 0.1), the block gains a shortcut.
    Two of its defaults do not suit training from scratch and are set otherwise: batch-norm statistics move by 0.1 a
    step (0.997 there, which keeps little but the last batch), and the classifier's dropout is 0.2 (0.8 there).

    Args:
        depth: Inverted-residual blocks to keep, from the first, 1 to 16. A sortable dimension.
        width: Share of `base_multiplier`, in (0, 1]. A sortable dimension.
        classes: Number of outputs, at least 1.
        base_multiplier: `depth_multiplier` of the full model, above 0.
        image_size: Height and width of the images in pixels, at least 1, for the config; no layer depends on it.
        small_images: Whether to set the stride of the stem's first convolution and of the first block's 3 x 3
            convolution from 2 to 1, as is usual for CIFAR: a full model then shrinks images by 8, not 32.

    Returns:
        The model; `.model` is the `MobileNetV2ForImageClassification`.

    Raises:
        ConfigError: If an argument is outside its range.

    Source:
        Sandler et al. (2018), arXiv:1801.04381v4, Table 2. The 160 sub-models, depth 1 to 16 times width 0.1 to 1.0 of
        a multiplier of 1.4, are those of Valipour et al. (2023), arXiv:2309.00255v3.

    Example:
        >>> import torch
        >>> mobilenet_v2(depth=2, width=0.1).eval()(torch.ones(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    _check(depth, width, classes, base_multiplier, image_size)
    MobileNetV2Config, MobileNetV2ForImageClassification = _classes()  # noqa: N806
    config = MobileNetV2Config(
        num_labels=classes,
        depth_multiplier=float(width * base_multiplier),
        image_size=image_size,
        classifier_dropout_prob=0.2,
    )
    model = MobileNetV2ForImageClassification(config)
    keep_blocks(model, depth)
    body: Any = model.mobilenet_v2
    if small_images:
        for layer in (body.conv_stem.first_conv, body.layer[0].conv_3x3):
            layer.convolution.stride = (1, 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return MobileNetV2(model)


def _classes() -> tuple[Any, Any]:
    with needs("A model of Hugging Face", "transformers"):
        from transformers import MobileNetV2Config, MobileNetV2ForImageClassification
    return MobileNetV2Config, MobileNetV2ForImageClassification


def keep_blocks(model: Any, depth: int) -> None:
    """Drop all but the first blocks of a `MobileNetV2ForImageClassification` or `MobileNetV2Model`, in place.

    The convolution behind them is made anew, since it takes in as many channels as the last block gives.

    Args:
        model: The model.
        depth: Inverted-residual blocks to keep, 1 to 16.
    """
    body: Any = getattr(model, "mobilenet_v2", model)
    if depth < len(body.layer):
        body.layer = body.layer[:depth]
        last = body.conv_1x1.convolution
        body.conv_1x1.convolution = nn.Conv2d(
            body.layer[-1].reduce_1x1.convolution.out_channels, last.out_channels, kernel_size=1, bias=False
        )
        # The class's own initial weights, as for every other convolution.
        draw_weights(model, body.conv_1x1.convolution)


def _check(depth: int, width: float, classes: int, base_multiplier: float, image_size: int) -> None:
    """Refuse arguments outside their ranges."""
    remedy = "Correct it, or drop it from the support."
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= _BLOCKS:
        raise ConfigError(f"mobilenet_v2(depth={depth!r}): depth is a whole number from 1 to {_BLOCKS}. {remedy}")
    if not 0 < width <= 1:
        raise ConfigError(f"mobilenet_v2(width={width!r}): width is a share in (0, 1] of base_multiplier. {remedy}")
    for name, size in (("classes", classes), ("image_size", image_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"mobilenet_v2({name}={size!r}): {name} is a whole number of at least 1. Correct it.")
    if not base_multiplier > 0:
        raise ConfigError(f"mobilenet_v2(base_multiplier={base_multiplier!r}): it is above 0, such as 1.4. Correct it.")
