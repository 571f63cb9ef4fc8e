"""CIFAR-10 as stored: its official binary version, mosaics taken apart, fewer images, fewer pixels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError

__all__ = ["PARTS", "Stored", "find_binary", "first", "pool", "read_binary", "take_apart"]

PARTS = 5
_PIXELS, _TILES_PER_ROW = 32, 100
_RECORD = 1 + 3 * _PIXELS**2
_MOST_BYTES = 10**6 * _RECORD + 1
_POOLED = (32, 16, 8, 4)
_TRAIN = [f"data_batch_{part}.bin" for part in range(1, PARTS + 1)]
_TEST, _NAMES = "test_batch.bin", "batches.meta.txt"
_SUB_FOLDER = "cifar-10-batches-bin"
_DESCRIBED = "https://www.cs.toronto.edu/~kriz/cifar.html describes the official binary version"


class Stored(NamedTuple):
    """CIFAR-10 before it is normalised.

    Attributes:
        train_images: Shape (N, 3, H, W), integers of at least 0.
        train_labels: Class of each image. Shape (N,), int64.
        test_images: Shape (M, 3, H, W), integers of at least 0.
        test_labels: Class of each image. Shape (M,), int64.
        class_names: Name of each class.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: list[str]


def find_binary(folder: Path) -> Path:
    """Find the folder that holds the official binary version, whole or in part.

    Args:
        folder: That folder, or the one above its `cifar-10-batches-bin`.

    Returns:
        The one of both that has a file of images.

    Raises:
        DataError: If neither has.
    """
    for one in (folder, folder / _SUB_FOLDER):
        if any((one / name).is_file() for name in (*_TRAIN, _TEST)):
            return one
    raise DataError(
        f"{folder} holds CIFAR-10 in neither form. Put there the mosaics cifar10_train_1of{PARTS}.webp to "
        f"cifar10_train_{PARTS}of{PARTS}.webp and cifar10_test_a.webp with cifar10_labels.npz, or the official binary "
        f"version, {_TRAIN[0]} to {_TRAIN[-1]}, {_TEST} and {_NAMES}, also as the folder {_SUB_FOLDER}. {_DESCRIBED}."
    )


def read_binary(folder: Path, parts: int) -> Stored:
    """Read the official binary version.

    Args:
        folder: Folder with `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` and `batches.meta.txt`.
        parts: How many of the training files to read, from the first, 1 to 5.

    Returns:
        All images of these files, uint8, and all of the test.

    Raises:
        DataError: If a file is missing, unreadable, empty or truncated, or does not name ten classes.

    Source:
        Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version". A file may hold any number of images
        here, there it is 10,000.
    """
    wanted = (*_TRAIN[:parts], _TEST, _NAMES)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}. Put every file of the binary version there, or use fewer training "
            f"files, from the first, with parts=1 to {PARTS}. {_DESCRIBED}."
        )
    train = [_records(folder / name) for name in _TRAIN[:parts]]
    test_images, test_labels = _records(folder / _TEST)
    return Stored(
        torch.cat([images for images, _ in train]),
        torch.cat([labels for _, labels in train]),
        test_images,
        test_labels,
        _class_names(folder / _NAMES),
    )


def _bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES)  # more than that is no whole number of images
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Correct it, or unpack it again."
        ) from error


def _records(path: Path) -> tuple[Tensor, Tensor]:
    """Read images, (N, 3, 32, 32), uint8, and their labels, (N,), int64."""
    data = _bytes(path)
    if not data or len(data) % _RECORD:
        raise DataError(
            f"{path} has {len(data):,} bytes, which is no whole number of images at {_RECORD:,} bytes each: it is "
            f"empty, truncated or of another format. Unpack it again. {_DESCRIBED}."
        )
    # bytearray, because torch warns of memory that it may not write to.
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, _PIXELS, _PIXELS), records[:, 0].long()


def _class_names(path: Path) -> list[str]:
    names = _bytes(path).decode("utf-8", errors="replace").split()
    if len(names) != 10:
        raise DataError(f"{path} names {len(names)} classes, {names}. CIFAR-10 has 10: unpack it again. {_DESCRIBED}.")
    return names


def take_apart(mosaic: Tensor, path: Path) -> Tensor:
    """Take a mosaic apart, row by row.

    Args:
        mosaic: 100 images of 32 x 32 pixels in each row. Shape (H, 3200, 3), uint8.
        path: Its file, for the error.

    Returns:
        The images. Shape (N, 3, 32, 32), uint8.

    Raises:
        DataError: If it has another height or width.
    """
    height, width, _ = mosaic.shape
    if width != _PIXELS * _TILES_PER_ROW or height % _PIXELS:
        raise DataError(
            f"{path} is {height} x {width} pixels. A mosaic has rows of {_TILES_PER_ROW} images of {_PIXELS} x "
            f"{_PIXELS}: a width of {_PIXELS * _TILES_PER_ROW} and a height that {_PIXELS} divides. Replace the file."
        )
    tiles = mosaic.view(height // _PIXELS, _PIXELS, _TILES_PER_ROW, _PIXELS, 3)
    return tiles.permute(0, 2, 4, 1, 3).reshape(-1, 3, _PIXELS, _PIXELS)


def first(stored: Stored, train_images: int | None, test_images: int | None) -> Stored:
    """Keep the first images.

    Args:
        stored: All images.
        train_images: How many to train with, 1 to what there is; all where None.
        test_images: How many to test with, 1 to what there is; all where None.

    Returns:
        The first ones, in their order.

    Raises:
        DataError: If there are not so many.
    """
    for name, wanted, labels in (
        ("train_images", train_images, stored.train_labels),
        ("test_images", test_images, stored.test_labels),
    ):
        if wanted is not None and (not isinstance(wanted, int) or not 1 <= wanted <= len(labels)):
            raise DataError(
                f"{name}={wanted!r} is not possible: the files that are read hold {len(labels):,}. Give how many of "
                f"the first to use, 1 to {len(labels):,}, or leave it out for all."
            )
    train, test = slice(train_images), slice(test_images)
    return Stored(
        stored.train_images[train],
        stored.train_labels[train],
        stored.test_images[test],
        stored.test_labels[test],
        stored.class_names,
    )


def pool(images: Tensor, pixels: int) -> Tensor:
    """Sum square blocks: what is the average of each, but for a factor that goes when it is normalised.

    Args:
        images: Shape (N, 3, 32, 32), uint8.
        pixels: Height and width to return: 32, 16, 8 or 4.

    Returns:
        The sums, exact. Shape (N, 3, pixels, pixels), uint8 at 32 pixels, otherwise int16.

    Raises:
        DataError: If `pixels` is something else.

    Example:
        >>> pool(torch.ones(1, 3, 32, 32, dtype=torch.uint8), 16)[0, 0, 0, :3]
        tensor([4, 4, 4], dtype=torch.int16)
    """
    if not isinstance(pixels, int) or pixels not in _POOLED:
        raise DataError(
            f"pixels={pixels!r} is not possible. Give the height and width to average the images of {_PIXELS} x "
            f"{_PIXELS} down to: {', '.join(map(str, _POOLED[:-1]))} or {_POOLED[-1]}."
        )
    if pixels == _PIXELS:
        return images
    block = _PIXELS // pixels
    blocks = images.reshape(-1, 3, pixels, block, pixels, block)
    return blocks.sum((3, 5), dtype=torch.int16)  # (N, 3, pixels, pixels), at most 64 * 255
