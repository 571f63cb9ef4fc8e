"""A network and the controls of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, final, get_args

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..imports.privates.torch import backward_pass, forward_pre_hooks, version_of
from .controls import Control, How, OutputControl, WeightControl
from .layers import choose, outputs_of, parts
from .scopes import Begin, Scope, Scopes

__all__ = ["Conditioned", "How", "condition"]


def condition(
    network: nn.Module,
    layers: str | Sequence[str],
    size: int,
    *,
    how: How = "node",
    hidden: int | None = None,
    rank: int = 1,
    features: int | None = None,
    axis: int | None = None,
    only: int | None = None,
) -> Conditioned:
    """Make a network conditional without changing it: named layers get a control that a condition c sets.

    Before training the network gives what it gave without, bit for bit. With f affine, and 0 at first:

    - `node`: each output of a layer is re-weighted, layer(x) * (1 + f(c)).
    - `weight`: each weight of a layer is re-weighted, W * (1 + the sum over r of f_r(c) g_r(c)^T), where g_r is affine
      and random at first. For linear layers, and for convolutions, where what is re-weighted is the kernel between two
      channels.
    - `add`: f(c) is added to the outputs, layer(x) + f(c). On a linear layer this is appending c to its input; on an
      embedding it sums the condition and the tokens.

    Several controls are nested: `condition(condition(network, ...), ...)` takes one condition for both.

    Args:
        network: Any network. It gets forward hooks, and nothing else of it changes. Its examples must be on the first
            axis of what the layers return.
        layers: Shell patterns of module names, such as `transformer.h.*`. A `*` stands for one part of a name, between
            two dots: this one names the blocks, and nothing inside of them. Where `network` is a `Conditioned`, names
            are those of the network that it holds.
        size: Numbers of the condition, at least 1.
        how: What a control changes.
        hidden: Units of a hidden layer of f with GELU, at least 1; f is affine where left out.
        rank: Of the change of the weights, at least 1; for `weight` alone.
        features: Outputs of each named layer. Where left out, they are read off the layer (`out_features` and the
            like), or for what has none, such as a block, off `network.config.hidden_size`.
        axis: The axis that the features are on. Where left out, axis 1 for convolutions and norms of channels, the
            last one for all others.
        only: Of embeddings, the one token to change: with `add` on the first token of every text, the condition is a
            token in front of the others. All tokens where left out.

    Returns:
        The network and its controls. Call it with `condition=`, or any method of the network inside of `given`.

    Raises:
        ConfigError: If a pattern matches nothing, a layer cannot be controlled so, or a size is out of range.

    Source:
        Valipour (2024), PhD thesis, App. A.2 and A.3: Eq. A.10 (`node`), Eq. A.9 (`weight`), Eq. A.8 (`add`, the
        extension of the input). It leaves f open. Ours begins as the identity, so that a pretrained network may be
        controlled, and that of the weights has a low rank.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> x, c = torch.ones(5, 3), torch.eye(2)[[0, 1, 1, 0, 1]]
        >>> before = network(x)
        >>> conditioned = condition(network, "0", size=2)
        >>> torch.equal(conditioned(x, condition=c), before)
        True
        >>> [name for name, _ in conditioned.named_parameters()][-2:]
        ['controls.0.outputs.weight', 'controls.0.outputs.bias']
    """
    return Conditioned(
        network, layers, size, how=how, hidden=hidden, rank=rank, features=features, axis=axis, only=only
    )


@final
class Conditioned(nn.Module):
    """A network and the controls of its layers; `condition` makes it.

    A condition holds for the call or the `given` block that it is given to, in the thread that gave it. What activation
    checkpointing runs again in the backward pass gets the condition of its own forward.

    Args:
        network: This and all others as for `condition`.
        layers: Patterns of names.
        size: Numbers of the condition.
        how: What a control changes.
        hidden: Units of a hidden layer of f.
        rank: Of the change of the weights.
        features: Outputs of each layer.
        axis: Their axis.
        only: The one token to change.

    Attributes:
        network: The network, an ordinary module with its own names, weights and methods, and our hooks.
        controls: The controls, under the names of their layers with `__` in the place of dots.
        layers: The names of the layers that have a control.
        size: Numbers of the condition.
        how: What a control changes.

    Raises:
        ConfigError: As `condition`.
    """

    size: int
    network: nn.Module
    _scopes: Scopes

    def __init__(
        self,
        network: nn.Module,
        layers: str | Sequence[str],
        size: int,
        *,
        how: How = "node",
        hidden: int | None = None,
        rank: int = 1,
        features: int | None = None,
        axis: int | None = None,
        only: int | None = None,
    ) -> None:
        super().__init__()
        _check(network, size, how, hidden, rank, features, axis, only)
        inside = network
        while isinstance(inside, Conditioned):
            inside = inside.network
        chosen = choose(inside, (layers,) if isinstance(layers, str) else tuple(layers))
        self._scopes = network._scopes if isinstance(network, Conditioned) else Scopes()
        self.network, self.size, self.how = network, size, how
        self.layers = tuple(chosen)
        self.controls = nn.Module()
        for name, layer in chosen.items():
            self._refuse_controlled(inside, name)
            control: Control
            if how == "weight":
                control = WeightControl(name, layer, size, hidden, rank)
            else:
                if only is not None and not isinstance(layer, nn.Embedding):
                    raise ConfigError(
                        f"only={only} is a token, and {name} is {type(layer).__name__}. Name an nn.Embedding, or leave "
                        "it out."
                    )
                found = outputs_of(inside, name, layer, features, axis)
                control = OutputControl(name, *found, size, hidden, adds=how == "add", only=only)
            like = next((one for one in (*layer.parameters(), *inside.parameters()) if one.is_floating_point()), None)
            if like is not None:
                control.to(like.device, like.dtype)
            self.controls.add_module(name.replace(".", "__"), control)
        for name, layer in chosen.items():
            for _, part in parts(inside, name):
                self._scopes.watch(part)
            own = cast(Control, getattr(self.controls, name.replace(".", "__")))
            layer.register_forward_hook(_Apply(self._scopes, own), with_kwargs=True)

    def forward(self, *args: Any, condition: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the network under a condition.

        Args:
            args: Inputs of the network's own `forward`.
            condition: A row for each example, shape (B, size), or one for all, shape (size,) or (1, size). Where left
                out, that of the `given` block around the call.
            kwargs: Inputs of the network's own `forward`.

        Returns:
            What the network returns.

        Raises:
            DataError: If the condition is missing, of a wrong shape or not finite, or no layer with a control ran.
        """
        if condition is None:
            self._scopes.now()
            return self.network(*args, **kwargs)
        with self._holding(condition) as scope:
            output = self.network(*args, **kwargs)
        if not scope.used and not torch.compiler.is_compiling():
            raise DataError(
                f"None of the layers {list(self.layers[:4])} was called, so that the condition changed nothing. Name "
                "layers that the network calls as modules."
            )
        return output

    @contextmanager
    def given(self, condition: Tensor) -> Iterator[None]:
        """Run whatever this thread calls inside of the block under a condition.

        Any method of the network will do, such as `conditioned.network.generate(...)`. Where a layer has k times as
        many examples as the condition has rows, as in a beam search, each row is for k examples that follow each other.

        Args:
            condition: A row for each example, shape (B, size), or one for all, shape (size,) or (1, size).

        Raises:
            DataError: If it is of a wrong shape or not finite.

        Example:
            >>> conditioned = condition(nn.Sequential(nn.Linear(3, 4)), "0", size=2)
            >>> with conditioned.given(torch.tensor([1.0, 0.0])):
            ...     conditioned.network(torch.ones(5, 3)).shape
            torch.Size([5, 4])
        """
        with self._holding(condition):
            yield

    @contextmanager
    def _holding(self, condition: Tensor) -> Iterator[Scope]:
        rows = self._rows(condition)
        scope = Scope(rows, condition, version_of(condition), backward_pass())
        self._scopes.push(scope)
        try:
            yield scope
        finally:
            self._scopes.pop(scope)

    def _rows(self, condition: Tensor) -> Tensor:
        wanted = f"Give a row of {self.size} real numbers for each example, shape (B, {self.size}), or one for all."
        if not isinstance(condition, Tensor):
            raise DataError(f"The condition is of type {type(condition).__name__}, not a tensor. {wanted}")
        if (
            condition.is_complex()
            or condition.dim() not in (1, 2)
            or condition.shape[-1] != self.size
            or not condition.shape[0]
        ):
            raise DataError(f"The condition is {condition.dtype} of shape {tuple(condition.shape)}. {wanted}")
        # Of what is traced, no value is known.
        if not torch.compiler.is_compiling() and not condition.is_meta and not bool(torch.isfinite(condition).all()):
            raise DataError(f"The condition holds numbers that are not finite. {wanted}")
        return condition if condition.dim() == 2 else condition[None]

    def _refuse_controlled(self, network: nn.Module, name: str) -> None:
        for path, part in parts(network, name):
            if any(
                isinstance(hook, Begin) and hook.scopes is not self._scopes for hook in forward_pre_hooks(part).values()
            ):
                raise ConfigError(
                    f"{path} belongs to another Conditioned already. Give that one as the network: one condition is "
                    "then for both."
                )

    def extra_repr(self) -> str:
        return f"how={self.how!r}, size={self.size}"


@dataclass(eq=False)
class _Apply:
    """A forward hook: a control changes what its layer returns, alone or first."""

    scopes: Scopes
    control: Control

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        scope = self.scopes.now()
        scope.used = True
        several = isinstance(output, (tuple, list)) and len(output) > 0
        returned = output[0] if several else output
        if not isinstance(returned, Tensor) or not (returned.is_floating_point() or returned.is_complex()):
            raise DataError(
                f"{self.control.name} returns {type(returned).__name__}, which cannot be re-weighted. Name layers that "
                "return a floating-point tensor, alone or as the first of a tuple."
            )
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        changed = self.control(scope.rows, returned, layer, inputs)
        if not several:
            return changed
        if hasattr(output, "_fields"):
            return output._replace(**{output._fields[0]: changed})
        return [changed, *output[1:]] if isinstance(output, list) else (changed, *output[1:])


def _check(network: Any, size: Any, how: Any, hidden: Any, rank: Any, features: Any, axis: Any, only: Any) -> None:
    """Refuse what cannot be meant."""
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network={network!r} is no network. Give a torch.nn.Module.")
    if how not in get_args(How):
        raise ConfigError(f"how={how!r} is unknown. Choose one of {list(get_args(How))}.")
    for name, value in (("size", size), ("hidden", hidden), ("rank", rank), ("features", features)):
        if value is None and name in ("hidden", "features"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r} is out of range. Give a whole number of at least 1.")
    if how != "weight" and rank != 1:
        raise ConfigError(f"rank={rank} is for how='weight', and how={how!r}. Leave it out.")
    if how == "weight" and (features is not None or axis is not None):
        raise ConfigError(
            f"features={features} and axis={axis} are for outputs, and how='weight' knows those of its layers. Leave "
            "them out."
        )
    if only is not None and (how == "weight" or isinstance(only, bool) or not isinstance(only, int) or only < 0):
        raise ConfigError(f"only={only!r} with how={how!r} is no token of an embedding. Give its id, or leave it out.")
    if isinstance(network, Conditioned) and network.size != size:
        raise ConfigError(
            f"size={size}, and the network takes conditions of size {network.size} already; one condition is for both. "
            f"Give size={network.size}."
        )
