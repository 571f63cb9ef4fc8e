"""Labelled images, read, checked and normalised: digits, CIFAR-10, arrays of your own and folders of images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from ..files.records import is_shown
from ..imports.names import IMAGES
from ..imports.packages import needs
from . import cifar10
from .image_files import check_unpacked, read_arrays, read_image

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ImageData", "augment", "load", "load_cifar10", "load_digits", "load_image_folder", "load_npz"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images for training and for testing.

    Attributes:
        train_images: Normalised per channel to mean 0 and standard deviation 1. Shape (N, C, H, W), float32.
        train_labels: Class of each image, 0 to the number of classes - 1. Shape (N,), int64.
        test_images: Normalised with the training images' mean and standard deviation. Shape (M, C, H, W), float32.
        test_labels: Class of each image. Shape (M,), int64.
        class_names: Name of each class.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]

    def to(self, device: torch.device | str) -> ImageData:
        """Put images and labels on a device, such as a GPU that has room for all of them.

        Args:
            device: The device.

        Returns:
            The data there; a tensor that is there already is not copied.
        """
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def load_digits(test_share: float = 0.3, seed: int = 0) -> ImageData:
    """Load scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.

    Args:
        test_share: Share of the images to test with, in (0, 1). Each class is split in this proportion.
        seed: Of the split, at least 0.

    Returns:
        The data: 1 channel, 10 classes.

    Raises:
        DataError: If the share leaves no image of some class on one side.
        ImportError: If scikit-learn is not installed.

    Source:
        Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI; the test part, as scikit-learn holds
        it.

    Example:
        >>> data = load_digits()
        >>> data.train_images.shape, data.test_labels.shape
        (torch.Size([1257, 1, 8, 8]), torch.Size([540]))
    """
    with needs("Loading these data", "data"):
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    if not 0 < test_share < 1:
        raise DataError(f"test_share={test_share!r} is no share. Give a number in (0, 1), such as 0.3.")
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)  # (N, 1, 8, 8)
    labels = torch.from_numpy(digits.target).long()
    try:
        train, test = train_test_split(
            range(len(labels)), test_size=test_share, random_state=seed, stratify=digits.target
        )
    except ValueError as error:
        raise DataError(
            f"The digits cannot be split with test_share={test_share!r}, seed={seed!r}: {error} "
            "Give a share in (0, 1) that leaves every class an image on both sides, such as 0.3, and a seed of at "
            "least 0."
        ) from error
    return _normalised(images[train], labels[train], images[test], labels[test], [str(i) for i in range(10)], "digits")


def load_cifar10(
    folder: str | Path,
    *,
    parts: int = cifar10.PARTS,
    pixels: int = 32,
    train_images: int | None = None,
    test_images: int | None = None,
) -> ImageData:
    """Load CIFAR-10 from its official binary version or from lossless mosaics.

    The binary version is the folder `cifar-10-batches-bin` of `cifar-10-binary.tar.gz`: `data_batch_1.bin` to
    `data_batch_5.bin`, `test_batch.bin` and `batches.meta.txt`.

    The mosaics are `cifar10_train_1of5.webp` to `cifar10_train_5of5.webp` and `cifar10_test_a.webp`, each with 100
    images of 32 x 32 pixels a row, and `cifar10_labels.npz` with the arrays `train_1of5` to `train_5of5`, `test_a` and
    `classes`. Where any of these is there, the binary version is not looked for.

    Args:
        folder: The folder of either, or the one above `cifar-10-batches-bin`.
        parts: How many of the training files to use, from the first, 1 to 5.
        pixels: Height and width to average the images down to, by blocks: 32, 16, 8 or 4.
        train_images: How many images of these files to train with, the first ones; all where left out.
        test_images: How many images to test with, the first ones; all where left out.

    Returns:
        The data: 3 channels, 10 classes, by default 10,000 training images in each part.

    Raises:
        DataError: If a file is missing, unreadable or truncated, a mosaic has another layout, labels do not fit the
            images, or an argument is outside its range.
        ImportError: If Pillow or numpy is not installed; the binary version needs neither.

    Source:
        Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images"; files:
        https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    if not isinstance(parts, int) or not 1 <= parts <= cifar10.PARTS:
        raise DataError(f"parts={parts!r} is not possible. Give how many of the five training files to use, 1 to 5.")
    folder = Path(folder)
    mosaics = any(folder.glob("cifar10_*"))
    stored = _mosaics(folder, parts) if mosaics else cifar10.read_binary(cifar10.find_binary(folder), parts)
    stored = cifar10.first(stored, train_images, test_images)
    train, test = cifar10.pool(stored.train_images, pixels), cifar10.pool(stored.test_images, pixels)
    return _normalised(train, stored.train_labels, test, stored.test_labels, stored.class_names, str(folder))


def _mosaics(folder: Path, parts: int) -> cifar10.Stored:
    names = [f"train_{part}of{cifar10.PARTS}" for part in range(1, parts + 1)]
    files = {name: folder / f"cifar10_{name}.webp" for name in (*names, "test_a")}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {', '.join(missing)}. Put every mosaic there, or use fewer training mosaics, from the "
            f"first, with parts=1 to {cifar10.PARTS}."
        )
    stored = read_arrays(folder / "cifar10_labels.npz", [*files, "classes"])
    images = {name: cifar10.take_apart(read_image(path, "RGB"), path) for name, path in files.items()}
    labels = {name: _labels(stored[name], f"{name} of cifar10_labels.npz") for name in files}
    for name, path in files.items():
        _check_counts(images[name], labels[name], path.name)
    return cifar10.Stored(
        torch.cat([images[name] for name in names]),
        torch.cat([labels[name] for name in names]),
        images["test_a"],
        labels["test_a"],
        [str(name) for name in stored["classes"]],
    )


def load_npz(path: str | Path) -> ImageData:
    """Load images of your own from one file of numpy arrays. Nothing in it is unpickled.

    Args:
        path: File with `train_images` and `test_images`, uint8 of shape (N, H, W) or (N, H, W, C), `train_labels` and
            `test_labels`, integers from 0 on of shape (N,), and if you like `class_names`, text of shape (classes,);
            without it, the classes are 0 to the largest training label.

    Returns:
        The data.

    Raises:
        DataError: If the file or an array is missing, unreadable, of another type or shape, or labels do not fit.
        ImportError: If numpy is not installed.
    """
    path = Path(path)
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    stored = read_arrays(path, parts)
    images = {}
    for name in ("train_images", "test_images"):
        array = stored[name]
        odd = array.dtype != "uint8" or array.ndim not in (3, 4) or 0 in array.shape
        if odd or (array.ndim == 4 and array.shape[3] not in (1, 3, 4)):
            raise DataError(
                f"{name} of {path} is {array.dtype} of shape {array.shape}. "
                "Store uint8 of shape (N, H, W) or (N, H, W, C) with 1, 3 or 4 channels last, none of them 0."
            )
        tensor = torch.from_numpy(array)
        images[name] = tensor.unsqueeze(1) if array.ndim == 3 else tensor.permute(0, 3, 1, 2)  # (N, C, H, W)
    labels = {name: _labels(stored[name], f"{name} of {path}") for name in ("train_labels", "test_labels")}
    for part in ("train", "test"):
        _check_counts(images[f"{part}_images"], labels[f"{part}_labels"], f"{part}_images of {path}")
    if "class_names" in stored:
        given = stored["class_names"]
        if given.dtype.kind != "U" or not all(is_shown(str(name)) for name in given.reshape(-1)):
            raise DataError(f"class_names of {path} are no texts, or have characters that are not shown. Store text.")
        names = [str(name) for name in given.reshape(-1)]
    else:
        if int(labels["train_labels"].max()) >= len(labels["train_labels"]):
            raise DataError(
                f"A label of {path} is {int(labels['train_labels'].max())}, of {len(labels['train_labels'])} images. "
                "Number the classes from 0, and let the training labels hold every class."
            )
        names = [str(i) for i in range(int(labels["train_labels"].max()) + 1)]
    return _normalised(
        images["train_images"], labels["train_labels"], images["test_images"], labels["test_labels"], names, str(path)
    )


def load_image_folder(folder: str | Path, *, mode: Literal["RGB", "L"] = "RGB") -> ImageData:
    """Load images of your own from `train/<class>/` and `test/<class>/`.

    Args:
        folder: Folder of `train` and `test`. Files ending in .png, .jpg, .jpeg or .webp are read, in the order of their
            names; all images have one size. The classes are the folders of `train`, in the order of their names.
        mode: `RGB` for three channels, `L` for one of grey.

    Returns:
        The data.

    Raises:
        DataError: If a folder is missing or empty, an image cannot be read or has another size, or `test` has a class
            that `train` lacks.
        ImportError: If Pillow or numpy is not installed.
    """
    if mode not in ("RGB", "L"):
        raise DataError(f"mode={mode!r} is unknown. Choose 'RGB' for three channels or 'L' for grey.")
    folder = Path(folder)
    classes = {part: _class_folders(folder / part) for part in ("train", "test")}
    names = [one.name for one in classes["train"]]
    unknown = sorted({one.name for one in classes["test"]} - set(names))
    if unknown:
        raise DataError(f"{folder / 'test'} has the classes {unknown}, which {folder / 'train'} lacks. It has {names}.")
    images: dict[str, list[Tensor]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    first: tuple[Path, torch.Size] | None = None
    unpacked = packed = 0
    for part, folders in classes.items():
        for one in folders:
            files = sorted(path for path in one.iterdir() if _is_image(path))
            if not files:
                raise DataError(
                    f"{one} holds no image. Put files ending in {', '.join(_SUFFIXES)} there, or remove it."
                )
            for path in files:
                image = read_image(path, mode).permute(2, 0, 1)  # (C, H, W)
                unpacked, packed = unpacked + image.numel(), packed + path.stat().st_size
                check_unpacked(folder, unpacked, packed)
                first = first or (path, image.shape)
                if image.shape != first[1]:
                    raise DataError(
                        f"{path} is {_size(image.shape)}, but {first[0]} is {_size(first[1])}. "
                        "Resize all images to one height and width."
                    )
                images[part].append(image)
                labels[part].append(names.index(one.name))
    return _normalised(
        torch.stack(images["train"]),
        torch.tensor(labels["train"]),
        torch.stack(images["test"]),
        torch.tensor(labels["test"]),
        names,
        str(folder),
    )


def load(name: str, **options: Any) -> ImageData:
    """Load the data that a configuration names.

    Args:
        name: `digits`, `cifar10`, `npz` or `image_folder`.
        options: The arguments of the function `load_<name>`.

    Returns:
        The data.

    Raises:
        DataError: If the name or an option is unknown, an option is left out, or the data cannot be loaded.
        ImportError: If a package is not installed.

    Example:
        >>> load("digits", test_share=0.5).class_names[:3]
        ('0', '1', '2')
    """
    loader = IMAGES[IMAGES.check(name, kind=DataError)]
    signature = inspect.signature(loader)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise DataError(
            f"The options {options} do not fit the data {name!r}: {error}. Give {', '.join(signature.parameters)}."
        ) from None
    images: ImageData = loader(**options)
    return images


def augment(images: Tensor, generator: torch.Generator, *, shift: int = 0, flip: bool = False) -> Tensor:
    """Shift and mirror images at random, each on its own.

    Args:
        images: Normalised images. Shape (B, C, H, W).
        generator: Of the random numbers.
        shift: Greatest shift up, down, left and right in pixels, 0 to min(H, W) - 1. What comes in is 0, the channel's
            mean.
        flip: Whether to mirror left and right with probability 1/2.

    Returns:
        The images, moved. Shape (B, C, H, W).

    Raises:
        DataError: If the images have another number of axes, or the shift is outside its range.

    Source:
        He et al. (2015), arXiv:1512.03385v1, Sec. 4.2: for CIFAR, a shift of up to 4 pixels and mirroring.

    Example:
        >>> augment(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.Generator().manual_seed(1), flip=True)
        tensor([[[[3., 2., 1.]]]])
    """
    if images.dim() != 4:
        raise DataError(f"The images have shape {tuple(images.shape)}. Give shape (B, C, H, W).")
    count, channels, height, width = images.shape
    if not isinstance(shift, int) or not 0 <= shift < min(height, width):
        raise DataError(
            f"shift={shift!r} is not possible for images of {height} x {width} pixels. "
            f"Give 0 to {min(height, width) - 1} pixels."
        )

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator, device=generator.device).to(images.device)

    rows = torch.arange(height, device=images.device).expand(count, -1)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(count, -1)  # (B, W)
    if flip:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    if shift:
        rows, columns = rows + draw(2 * shift + 1), columns + draw(2 * shift + 1)
        images = F.pad(images, (shift, shift, shift, shift))
    example = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return images[example, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Put one folder per class there, with its images.")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for one in found:
        if not is_shown(one.name):
            raise DataError(f"The folder {one.name!r} of {folder} has characters that are not shown. Rename it.")
    if not found:
        raise DataError(f"{folder} is empty. Put one folder per class there, with its images.")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _size(shape: torch.Size) -> str:
    return f"{shape[1]} x {shape[2]} pixels"


def _labels(array: np.ndarray[Any, Any], what: str) -> Tensor:
    """Turn an array of integers into labels. Shape (N,), int64."""
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{what} is {array.dtype} of shape {array.shape}. Store integers of shape (N,).")
    return torch.from_numpy(array.astype("int64"))


def _check_counts(images: Tensor, labels: Tensor, what: str) -> None:
    if len(images) != len(labels):
        raise DataError(f"{what} holds {len(images)} images, but there are {len(labels)} labels. Give one for each.")


def _normalised(
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    class_names: Sequence[str],
    what: str,
) -> ImageData:
    """Check labels and shapes, and normalise images of whole numbers, at least 0, per channel."""
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"The training images of {what} have shape {tuple(train_images.shape[1:])} (C, H, W), the test images "
            f"{tuple(test_images.shape[1:])}. Give both the same."
        )
    for part, labels in (("training", train_labels), ("test", test_labels)):
        outside = labels[(labels < 0) | (labels >= len(class_names))]
        if len(outside):
            raise DataError(
                f"A {part} label of {what} is {int(outside[0])}, but the {len(class_names)} classes are numbered 0 to "
                f"{len(class_names) - 1}. Number the labels from 0, and let the training labels hold every class."
            )
    means, deviations = [], []
    for channel in range(train_images.shape[1]):
        # A histogram gives the exact mean and variance of 150 million bytes without a copy in float64.
        share = torch.bincount(train_images[:, channel].flatten()).double()
        share /= share.sum()
        values = torch.arange(len(share), dtype=torch.float64)
        mean = float(share @ values)
        deviation = float(share @ (values - mean).square()) ** 0.5
        if deviation == 0:
            raise DataError(
                f"Channel {channel} of the training images of {what} has one value everywhere, so it cannot be "
                "normalised to a standard deviation of 1. Leave the channel out."
            )
        means.append(mean)
        deviations.append(deviation)
    mean_of, deviation_of = (torch.tensor(one).view(1, -1, 1, 1) for one in (means, deviations))

    def normalise(images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean_of).div_(deviation_of)

    return ImageData(normalise(train_images), train_labels, normalise(test_images), test_labels, tuple(class_names))
