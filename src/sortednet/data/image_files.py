"""Files of pictures and arrays, read within limits: nothing is unpickled, nothing unpacks to far more than it is."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import DataError
from ..imports.packages import needs

if TYPE_CHECKING:
    import numpy as np

__all__ = ["check_unpacked", "most_unpacked", "read_arrays", "read_image"]

_FORMATS = ("PNG", "JPEG", "WEBP")  # others are read by other programs
_MOST_PIXELS = 1 << 24  # of one image
_MOST_UNPACKED, _MOST_RATIO = 32 << 20, 100  # bytes, and how many times those stored


def read_arrays(path: Path, needed: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read a file of numpy arrays.

    Args:
        path: The file, as `numpy.savez` writes it.
        needed: Names of arrays that it must hold.

    Raises:
        DataError: If it is missing or damaged, lacks one, holds pickled objects, or unpacks to far more than it is.
        ImportError: If numpy is not installed.
    """
    with needs("Loading these data", "data"):
        import numpy as np
    if not path.is_file():
        raise DataError(f"There is no file {path}. Give the path of a .npz file with {', '.join(needed)}.")
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise ValueError("it holds a single array without a name")
            entries = stored.zip.infolist()
            check_unpacked(path, sum(one.file_size for one in entries), path.stat().st_size)
            for one in entries:
                with stored.zip.open(one) as opened:
                    _check_array(opened, one.file_size)
            found = {name: array for name in stored.files if isinstance(array := stored[name], np.ndarray)}
    except DataError:
        raise
    except (
        OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error, LookupError, RuntimeError,
    ) as error:  # fmt: skip
        # Not numpy's own text, which advises to unpickle.
        raise DataError(
            f"{path} cannot be read as named arrays of numbers and text ({type(error).__name__}). Write it with "
            "numpy.savez_compressed; pickled objects are refused."
        ) from error
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}. Add the missing."
        )
    return found


def most_unpacked(packed: int) -> int:
    """Return to how many bytes a file may unpack, by those that are stored: more than pictures and texts ever do."""
    return _MOST_UNPACKED + _MOST_RATIO * packed


def check_unpacked(path: Path, unpacked: int, packed: int) -> None:
    """Refuse files that unpack to far more than pictures do.

    Args:
        path: The file, or the folder of several.
        unpacked: Bytes that it unpacks to.
        packed: Bytes that are stored.

    Raises:
        DataError: If they do.
    """
    if unpacked > most_unpacked(packed):
        raise DataError(
            f"{path} would unpack to {unpacked:,} bytes, {unpacked // max(packed, 1):,} times what is stored, which no "
            "pictures do. Write it again from the pictures themselves."
        )


def _check_array(file: Any, size: int) -> None:
    """Refuse an array that says it is larger than what is stored of it; numpy would take the memory first.

    Args:
        file: What `numpy.save` wrote.
        size: Its bytes.

    Raises:
        ValueError: If it does.
    """
    from numpy.lib import format as npy

    if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        return  # no array, and none to numpy
    version = tuple(file.read(2))
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it has shape {shape}, which is more than is stored")


def read_image(path: Path, mode: str) -> Tensor:
    """Read an image.

    Args:
        path: The file.
        mode: `RGB` or `L`, as Pillow names them.

    Returns:
        Shape (H, W, C), uint8.

    Raises:
        DataError: If it cannot be read, has more than 8 bits a channel, or more pixels than are read.
        ImportError: If Pillow or numpy is not installed.
    """
    with needs("Loading these data", "data"):
        import numpy as np
        from PIL import Image
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if math.prod(image.size) > _MOST_PIXELS:
                raise ValueError(f"it has {math.prod(image.size):,} pixels, and no more than {_MOST_PIXELS:,} are read")
            if image.mode[0] in "IF":
                # Pillow would cut off every value above 255.
                raise ValueError(f"its pixels are {image.mode}, of more than 8 bits")
            pixels = torch.from_numpy(np.array(image.convert(mode)))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image: {error}. Give an image of 8 bits a channel, or remove it."
        ) from error
    return pixels.unsqueeze(2) if mode == "L" else pixels
