"""The errors of the project.

Each is also the built-in error a caller would expect, so that `except ValueError` keeps working. Every message names
the value given, what is allowed and the remedy.
"""

__all__ = [
    "BuildError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExportError",
    "LayoutError",
    "MissingPackageError",
    "SettingError",
    "SortedNetError",
    "SpaceError",
    "TrainingError",
]


class SortedNetError(Exception):
    """Any error that this library raises on purpose."""


class SpaceError(SortedNetError, ValueError):
    """A space or a support that cannot be used."""


class SettingError(SortedNetError, ValueError):
    """A setting that does not belong to its space."""


class BuildError(SortedNetError, ValueError):
    """A builder whose sub-model is no corner of the full model."""


class LayoutError(SortedNetError, ValueError):
    """A parameter that cannot be cut at a corner without knowing its layout."""


class TrainingError(SortedNetError, RuntimeError):
    """Training that cannot go on, such as a loss that is not finite."""


class CheckpointError(SortedNetError, ValueError):
    """A checkpoint that is missing, damaged or of another space."""


class ConfigError(SortedNetError, ValueError):
    """A configuration that cannot be carried out."""


class DataError(SortedNetError, ValueError):
    """Data that are missing or have the wrong shape."""


class ExportError(SortedNetError, RuntimeError):
    """An exported model that does not give the original's output."""


class MissingPackageError(SortedNetError, ImportError):
    """An optional package that is not installed, or cannot be imported."""
