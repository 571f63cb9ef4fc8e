import numpy as np
import pytest
import torch

from sortednet.data.cifar10 import Stored, first, pool
from sortednet.data.images import load, load_cifar10
from sortednet.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PART = 7


def records(seed, count=PART):
    """Draw labels, (N, 1), and pixels, (N, 3072), as the binary version stores them."""
    drawn = np.random.default_rng(seed)
    return drawn.integers(0, 10, (count, 1), dtype=np.uint8), drawn.integers(0, 256, (count, 3072), dtype=np.uint8)


def write_binary(folder, parts=5):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(["test_batch", *(f"data_batch_{part}" for part in range(1, parts + 1))]):
        (folder / f"{name}.bin").write_bytes(np.concatenate(records(seed), axis=1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return folder


def normalised(pixels, training):
    axes = (0, 2, 3)
    mean, deviation = training.mean(axes, keepdims=True), training.std(axes, keepdims=True)
    return torch.from_numpy((pixels - mean) / deviation)


def averaged(pixels, side):
    block = 32 // side
    return pixels.reshape(-1, 3, side, block, side, block).mean((3, 5))


def stored(train, test):
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    return Stored(
        images.expand(train, -1, -1, -1), torch.arange(train), images.expand(test, -1, -1, -1), torch.arange(test), []
    )


@pytest.fixture
def binary(tmp_path):
    return write_binary(tmp_path / "binary")


def test_binary_images_are_red_green_blue_planes_row_by_row(binary):
    train = np.concatenate([records(seed)[1] for seed in range(1, 6)]).reshape(-1, 3, 32, 32).astype(float)
    test = records(0)[1].reshape(-1, 3, 32, 32)
    torch.testing.assert_close(load_cifar10(binary).test_images.double(), normalised(test, train))


def test_binary_labels_are_the_first_byte_of_each_record(binary):
    expected = torch.from_numpy(np.concatenate([records(seed)[0] for seed in range(1, 6)])).flatten().long()
    assert torch.equal(load_cifar10(binary).train_labels, expected)


def test_binary_class_names_are_read_without_blank_lines(binary):
    assert load_cifar10(binary).class_names == tuple(CLASSES)


def test_binary_version_is_found_in_its_own_folder(tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin")
    assert len(load_cifar10(tmp_path).test_images) == PART


def test_binary_version_uses_as_many_parts_as_asked(tmp_path):
    write_binary(tmp_path, parts=2)
    assert len(load_cifar10(tmp_path, parts=2).train_images) == 2 * PART


def test_binary_version_refuses_missing_parts(tmp_path):
    write_binary(tmp_path, parts=3)
    with pytest.raises(DataError, match=r"lacks data_batch_4.bin, data_batch_5.bin. Put every file .* parts=1 to 5"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("name", ["test_batch.bin", "batches.meta.txt"])
def test_binary_version_refuses_a_missing_file(binary, name):
    (binary / name).unlink()
    with pytest.raises(DataError, match=rf"lacks {name}. Put every file of the binary version there"):
        load_cifar10(binary)


@pytest.mark.parametrize("size", [0, 3072, 3 * 3073 + 1])
def test_binary_version_refuses_a_truncated_file(binary, size):
    path = binary / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"data_batch_2.bin has {size:,} bytes, .* at 3,073 bytes each.*Unpack it ag"):
        load_cifar10(binary)


def test_binary_version_refuses_class_names_that_are_not_ten(binary):
    (binary / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches.meta.txt names 2 classes, \['cat', 'dog'\]. CIFAR-10 has 10"):
        load_cifar10(binary)


def test_binary_version_refuses_a_label_outside_its_classes(binary):
    (binary / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"test label of .* is 10, but the 10 classes are numbered 0 to 9"):
        load_cifar10(binary)


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_of_neither_form_names_both_and_where_to_read_on(tmp_path, name):
    with pytest.raises(DataError, match=r"neither form.*cifar10_train_1of5.webp.*data_batch_1.bin.*~kriz/cifar.html"):
        load_cifar10(tmp_path / name)


@pytest.mark.parametrize("pixels", [16, 8, 4])
def test_fewer_pixels_are_averages_of_blocks(binary, pixels):
    train = np.concatenate([records(seed)[1] for seed in range(1, 6)]).reshape(-1, 3, 32, 32)
    test = records(0)[1].reshape(-1, 3, 32, 32)
    expected = normalised(averaged(test, pixels), averaged(train, pixels))
    torch.testing.assert_close(load_cifar10(binary, pixels=pixels).test_images.double(), expected, atol=5e-6, rtol=0)


def test_all_pixels_are_kept_as_they_are():
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert pool(images, 32) is images


def test_sums_of_the_brightest_pixels_do_not_overflow():
    assert pool(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), 4).unique().tolist() == [64 * 255]


@pytest.mark.parametrize("pixels", [64, 12, 2, 0, 16.0, "16"])
def test_pixels_that_are_no_divisor_are_refused(binary, pixels):
    with pytest.raises(DataError, match=rf"pixels={pixels!r} is not possible. .* of 32 x 32 down to: 32, 16, 8 or 4"):
        load_cifar10(binary, pixels=pixels)


def test_the_first_images_are_used(binary):
    part, whole = load_cifar10(binary, train_images=10, test_images=3), load_cifar10(binary)
    assert torch.equal(part.train_labels, whole.train_labels[:10])
    assert torch.equal(part.test_labels, whole.test_labels[:3])


def test_fewer_images_are_normalised_by_themselves(binary):
    images = load_cifar10(binary, train_images=10).train_images.double()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["train_images", "test_images"])
@pytest.mark.parametrize("count", [0, 5, -1, 2.0])
def test_more_images_than_there_are_are_refused(name, count):
    counts = {"train_images": None, "test_images": None, name: count}
    with pytest.raises(DataError, match=rf"{name}={count} is not possible: .* hold 4. Give how many .*1 to 4, or leav"):
        first(stored(4, 4), **counts)


def test_the_named_loader_takes_every_option(binary):
    data = load("cifar10", folder=binary, parts=2, pixels=8, train_images=9, test_images=2)
    assert (data.train_images.shape, data.test_images.shape) == ((9, 3, 8, 8), (2, 3, 8, 8))
