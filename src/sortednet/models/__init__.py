"""Ready models whose arguments are sorted dimensions, and how a configuration names a builder."""

import importlib
from collections.abc import Callable, Sequence

from torch import nn

from ..errors import ConfigError
from ..imports.names import MODELS, OWN_BUILDER
from ..imports.trusted import check_module, check_object
from .mlp import MLP
from .preresnet import Norm, PreResNet
from .transformer import Transformer

__all__ = ["MLP", "Norm", "PreResNet", "Transformer", "resolve"]

_SHOWN = 20  # names of a module


def resolve(name: str, trust: Sequence[str] = ()) -> Callable[..., nn.Module]:
    """Find the builder that a configuration names.

    Args:
        name: One of `sortednet list models`, or the place of a builder of your own, such as `package.module:function`:
            a function, or a class of `torch.nn.Module`.
        trust: Modules that may be named though they are of the standard library or of an installed package, such as
            `torchvision`.

    Returns:
        The builder.

    Raises:
        ConfigError: If the name is unknown or not trusted, its module cannot be imported or has no such attribute, or
            that cannot be called.

    Example:
        >>> resolve("mlp")(depth=1, width=8)
        MLP(...)
        >>> resolve("torch.nn:Linear", trust=["torch.nn"])
        <class 'torch.nn.modules.linear.Linear'>
    """
    module_name, _, attribute = MODELS.places.get(name, name).partition(":")
    if not (module_name and attribute):
        MODELS.check(name, also=OWN_BUILDER)
    if name not in MODELS.places:
        check_module(f"{module_name}:{attribute}", trust)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"model={name!r} cannot be used: importing {module_name!r} failed with {type(error).__name__}: {error}. "
            "Name a module that Python can import; add its folder to PYTHONPATH, or install what it needs."
        ) from error
    if not hasattr(module, attribute):
        public = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise ConfigError(
            f"model={name!r} cannot be used: {module_name} has no {attribute!r}. "
            f"Name one of its functions or classes: {', '.join(public[:_SHOWN]) or 'it has none'}"
            f"{', ...' if len(public) > _SHOWN else '.'}"
        )
    builder: object = getattr(module, attribute)
    if not callable(builder):
        raise ConfigError(
            f"model={name!r} cannot be used: {attribute} is {type(builder).__name__} and cannot be called. "
            "Name a function or a class that takes one keyword argument per dimension and returns a torch.nn.Module."
        )
    if name not in MODELS.places:
        check_object(builder, name, trust)
    return builder
