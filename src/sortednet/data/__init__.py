"""Images and text to train and to measure on."""

from typing import TYPE_CHECKING

from ..imports.lazy import attach

if TYPE_CHECKING:
    from . import text
    from .images import ImageData, augment, load, load_cifar10, load_digits, load_image_folder, load_npz

__all__ = [
    "ImageData",
    "augment",
    "load",
    "load_cifar10",
    "load_digits",
    "load_image_folder",
    "load_npz",
    "text",
]

_HOMES = {
    "images": ["ImageData", "augment", "load", "load_cifar10", "load_digits", "load_image_folder", "load_npz"],
}
_MODULES = {
    "text": "text",
}

__getattr__, __dir__ = attach(__name__, _HOMES, _MODULES)
