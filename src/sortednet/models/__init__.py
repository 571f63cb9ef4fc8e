"""Ready models whose arguments are sorted dimensions, and how a configuration names a builder."""

import importlib
from collections.abc import Callable

from torch import nn

from ..errors import ConfigError
from .mlp import MLP
from .preresnet import Norm, PreResNet
from .transformer import Transformer

__all__ = ["BUILDERS", "MLP", "Norm", "PreResNet", "Transformer", "resolve"]

BUILDERS: dict[str, str] = {
    "mlp": "sortednet.models:MLP",
    "preresnet": "sortednet.models:PreResNet",
    "transformer": "sortednet.models:Transformer",
    "mobilenet_v2": "sortednet.families:mobilenet_v2",
}
"""The builders that a configuration may name, and where each is. The module is imported when the name is used."""


def resolve(name: str) -> Callable[..., nn.Module]:
    """Find the builder that a configuration names.

    Args:
        name: A key of `BUILDERS`, or the place of a builder of your own, such as `package.module:function`.

    Returns:
        The builder.

    Raises:
        ConfigError: If the name is unknown, its module cannot be imported or has no such attribute, or that cannot be
            called.

    Example:
        >>> resolve("mlp")(depth=1, width=8)
        MLP(...)
        >>> resolve("torch.nn:Linear")
        <class 'torch.nn.modules.linear.Linear'>
    """
    place = BUILDERS.get(name, name)
    module_name, colon, attribute = place.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(
            f"model={name!r} is unknown. Choose one of {list(BUILDERS)}, or name a builder of your own as "
            "'package.module:function'."
        )
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
            f"Name one of its functions or classes: {', '.join(public) or 'it has none'}."
        )
    builder: object = getattr(module, attribute)
    if not callable(builder):
        raise ConfigError(
            f"model={name!r} cannot be used: {attribute} is {type(builder).__name__} and cannot be called. "
            "Name a function or a class that takes one keyword argument per dimension and returns a torch.nn.Module."
        )
    return builder
