"""What a condition does to a layer: it re-weights its outputs or its weights, or adds something to its outputs."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast, final

from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError, DataError
from ..imports.privates.torch import Convolution, TransposedConvolution, convolve

__all__ = ["Control", "How", "OutputControl", "WeightControl"]

How: TypeAlias = Literal["node", "weight", "add"]
"""`node`: outputs are re-weighted. `weight`: weights are re-weighted. `add`: something is added to the outputs."""


@final
class OutputControl(nn.Module):
    """Re-weights or shifts a layer's outputs: output * (1 + f(c)), or output + f(c).

    Args:
        name: Of the layer.
        features: Of its output.
        axis: Their axis.
        size: Numbers of the condition.
        hidden: Units of a hidden layer of f.
        adds: Whether f(c) is added.
        only: The token at which alone it is done, if the layer is an embedding.
    """

    def __init__(
        self, name: str, features: int, axis: int, size: int, hidden: int | None, *, adds: bool, only: int | None
    ) -> None:
        super().__init__()
        self.name, self.axis, self.adds, self.only = name, axis, adds, only
        self.outputs = _function(size, features, hidden, zero=True)

    def forward(self, rows: Tensor, output: Tensor, layer: nn.Module, inputs: Any) -> Tensor:
        """Change what a layer returned.

        Args:
            rows: The condition. Shape (B or 1, size).
            output: What the layer returned. Shape (k B, ...).
            layer: The layer.
            inputs: What the layer got.

        Returns:
            Shape of the output.

        Raises:
            DataError: If the shapes do not fit.
        """
        values = _aligned(_applied(self.outputs, rows), output, self.axis, self.name)
        if self.only is not None:
            values = values * (inputs == self.only).unsqueeze(-1)  # (B, T, features)
        return output + values if self.adds else output * (1 + values)


@final
class WeightControl(nn.Module):
    """Re-weights a layer's weights by 1 + the sum over r of f_r(c) g_r(c)^T, for each example its own.

    It never makes them: inputs times g_r, through the layer, times f_r.

    Args:
        name: Of the layer.
        layer: A linear layer or a convolution.
        size: Numbers of the condition.
        hidden: Units of a hidden layer of each function.
        rank: The number of r.

    Raises:
        ConfigError: If it is another kind of layer.
    """

    def __init__(self, name: str, layer: nn.Module, size: int, hidden: int | None, rank: int) -> None:
        super().__init__()
        self.name, self.axis = name, 1 if isinstance(layer, Convolution) else -1
        inputs, outputs = _weights(name, layer)
        # Functions of their own for each r, so that the corner of each is what a narrower layer needs.
        self.inputs = nn.ModuleList(_function(size, inputs, hidden, zero=False) for _ in range(rank))
        self.outputs = nn.ModuleList(_function(size, outputs, hidden, zero=True) for _ in range(rank))

    def forward(self, rows: Tensor, output: Tensor, layer: nn.Module, inputs: Any) -> Tensor:
        """Change what a layer returned, as `OutputControl.forward` does."""
        if not isinstance(inputs, Tensor):
            raise DataError(
                f"{self.name} got {type(inputs).__name__} as its input, which cannot be re-weighted. Call the layer "
                "with a tensor."
            )
        for before, behind in zip(self.inputs, self.outputs, strict=True):
            given = inputs * _aligned(_applied(before, rows), inputs, self.axis, self.name)
            passed = _without_bias(layer, given)
            output = output + passed * _aligned(_applied(behind, rows), passed, self.axis, self.name)
        return output


Control: TypeAlias = OutputControl | WeightControl


def _function(size: int, features: int, hidden: int | None, *, zero: bool) -> nn.Module:
    """Make f: affine, or with one hidden layer."""
    last = nn.Linear(hidden or size, features)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return last if hidden is None else nn.Sequential(nn.Linear(size, hidden), nn.GELU(), last)


def _applied(function: nn.Module, rows: Tensor) -> Tensor:
    """Compute f(c) in the type and place of its weights. Shape (B, features)."""
    values: Tensor = function(rows.to(next(function.parameters())))
    return values


def _aligned(values: Tensor, beside: Tensor, axis: int, name: str) -> Tensor:
    """Bring values, shape (B, features), beside a layer's tensor, which has k B examples on its first axis."""
    count, features = values.shape
    shape = tuple(beside.shape)
    if not -len(shape) < axis < len(shape) or axis == 0 or shape[axis] != features:
        raise DataError(
            f"{name} has a tensor of shape {shape}, but its control is for {features} features on axis {axis}. Say "
            "with features= and axis= how many there are and where; the examples must be on axis 0."
        )
    if count != 1 and shape[0] != count:
        if shape[0] % count:
            raise DataError(
                f"{name} has {shape[0]} examples on axis 0, and the condition {count} rows. Give a row for each "
                "example, or one for all."
            )
        values = values.repeat_interleave(shape[0] // count, 0)
    aligned = [values.shape[0]] + [1] * (len(shape) - 1)
    aligned[axis] = features
    return values.reshape(aligned).to(beside)


def _weights(name: str, layer: nn.Module) -> tuple[int, int]:
    """Return the inputs and outputs of a layer whose weights can be re-weighted."""
    if type(layer).forward is nn.Linear.forward:
        linear = cast(nn.Linear, layer)
        return linear.in_features, linear.out_features
    if isinstance(layer, Convolution) and not isinstance(layer, TransposedConvolution):
        return layer.in_channels, layer.out_channels
    if _is_transposed(layer):
        weight = cast(Tensor, layer.weight)
        return weight.shape[0], weight.shape[1]
    raise ConfigError(
        f"{name} is {type(layer).__name__}, whose weights cannot be re-weighted. Name nn.Linear, nn.Conv1d to 3d or "
        "the Conv1D of transformers, or choose how='node'."
    )


def _is_transposed(layer: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2 in transformers, whose weight has the shape (inputs, outputs)."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"


def _without_bias(layer: Any, inputs: Tensor) -> Tensor:
    if isinstance(layer, Convolution):
        return convolve(layer, inputs)
    weight: Tensor = layer.weight
    return functional.linear(inputs, weight.T if _is_transposed(layer) else weight)
