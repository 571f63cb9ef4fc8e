"""Conditions for any network: a learned function of a condition re-weights what its layers give (node control).

The network keeps its class, its weights and its names. Forward hooks of the named layers read the condition that the
calling thread has given, and apply the control of the layer: a small function of it that changes nothing at first.
"""

from .conditioned import Conditioned, How, condition

__all__ = ["Conditioned", "How", "condition"]
