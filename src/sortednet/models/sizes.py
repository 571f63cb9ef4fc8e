"""The sizes a model is built with: whole numbers of at least 1."""

from ..errors import ConfigError

__all__ = ["check_sizes"]


def check_sizes(model: str, **sizes: int) -> None:
    """Refuse a size that is no whole number of at least 1.

    Args:
        model: Name of the model, for the message.
        sizes: The sizes by argument name.

    Raises:
        ConfigError: If one is no int or below 1.

    Example:
        >>> check_sizes("MLP", depth=2, width=64)
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"{model}({name}={size!r}) cannot be built: {name} is a whole number of at least 1. "
                f"Give such a number, or drop {size!r} from the support of {name}."
            )
