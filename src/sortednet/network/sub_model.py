"""The sub-model at one setting, as training calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..space import Setting

__all__ = ["SubModel"]


@dataclass(frozen=True)
class SubModel:
    """The sub-model at one setting, for training: calling it runs it, and gradients land in the network's weights.

    Attributes:
        net: The network.
        setting: The setting, the same for life.
    """

    net: nn.Module
    setting: Setting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the sub-model's own `forward`."""
        return self.net(*args, setting=self.setting, **kwargs)
