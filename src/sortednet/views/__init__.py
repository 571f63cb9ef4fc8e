"""How a sub-model is a part of the weights."""
