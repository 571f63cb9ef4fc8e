"""Many-in-one networks: one set of weights, one training run, every size."""

from .buffers import BufferPolicy
from .layouts import Layout
from .network import SortedNet, SubModel, load
from .space import Setting, Space, Support

__all__ = ["BufferPolicy", "Layout", "Setting", "SortedNet", "Space", "SubModel", "Support", "load"]

__version__ = "0.1.0"
