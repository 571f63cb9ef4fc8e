import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sortednet.data.images import augment, load, load_cifar10, load_digits, load_image_folder, load_npz
from sortednet.errors import DataError

CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_npz(path, **changes):
    arrays = {
        "train_images": pixels(6, 5, 4, 3),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": pixels(3, 5, 4, 3, seed=1),
        "test_labels": np.array([2, 0, 1]),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def write_cifar10(folder, parts=5, **changes):
    """Write one row of a hundred images for each part, and return the test images, (100, 32, 32, 3)."""
    labels = {"classes": np.array(CLASSES)}
    for i, name in enumerate([*(f"train_{part}of5" for part in range(1, parts + 1)), "test_a"]):
        tiles = pixels(100, 32, 32, 3, seed=i)
        mosaic = tiles.transpose(1, 0, 2, 3).reshape(32, 3200, 3)
        Image.fromarray(mosaic).save(folder / f"cifar10_{name}.webp", lossless=True)
        labels[name] = np.arange(100, dtype=np.uint8) % 10
    np.savez(folder / "cifar10_labels.npz", **{**labels, **changes})
    return tiles


def write_folder(folder, size=(4, 5), classes=("cat", "dog")):
    for part in ("train", "test"):
        for i, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for j, suffix in enumerate(("png", "jpg", "webp")):
                Image.fromarray(pixels(*size, 3, seed=10 * i + j)).save(folder / part / name / f"{j}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    return folder, write_cifar10(folder)


def assert_normalised(images):
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    torch.testing.assert_close(
        images.double().mean((0, 2, 3)), torch.zeros(images.shape[1]).double(), atol=1e-5, rtol=0
    )
    spread = images.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(spread, torch.ones(images.shape[1]).double(), atol=1e-5, rtol=0)


def test_digits_are_normalised():
    assert_normalised(load_digits().train_images)


def test_digits_split_each_class_in_proportion():
    data = load_digits(test_share=0.5)
    difference = torch.bincount(data.train_labels) - torch.bincount(data.test_labels)
    assert difference.abs().max() <= 1


def test_digits_split_follows_the_seed():
    first, again, other = load_digits(seed=1), load_digits(seed=1), load_digits(seed=2)
    assert torch.equal(first.test_labels, again.test_labels)
    assert not torch.equal(first.test_labels, other.test_labels)


@pytest.mark.parametrize("share", [0, 1, 500, -0.1])
def test_digits_refuse_what_is_no_share(share):
    with pytest.raises(DataError, match=rf"test_share={share} is no share. Give a number in \(0, 1\)"):
        load_digits(test_share=share)


def test_digits_refuse_a_share_that_leaves_a_class_out():
    with pytest.raises(DataError, match=r"test_share=0.001, seed=0: .*number of classes.*Give a share in \(0, 1\)"):
        load_digits(test_share=0.001)


def test_npz_images_are_normalised(tmp_path):
    assert_normalised(load_npz(write_npz(tmp_path / "a.npz")).train_images)


def test_npz_test_images_are_normalised_as_the_training_images(tmp_path):
    data = load_npz(write_npz(tmp_path / "a.npz"))
    raw = pixels(6, 5, 4, 3).astype(np.float64)
    expected = (pixels(3, 5, 4, 3, seed=1) - raw.mean((0, 1, 2))) / raw.std((0, 1, 2))
    torch.testing.assert_close(data.test_images.double(), torch.from_numpy(expected.transpose(0, 3, 1, 2)))


def test_npz_grey_images_have_one_channel(tmp_path):
    path = write_npz(tmp_path / "a.npz", train_images=pixels(6, 5, 4), test_images=pixels(3, 5, 4))
    assert load_npz(path).test_images.shape == (3, 1, 5, 4)


def test_npz_labels_are_read(tmp_path):
    data = load_npz(write_npz(tmp_path / "a.npz"))
    assert torch.equal(data.test_labels, torch.tensor([2, 0, 1]))


def test_npz_classes_are_numbered_without_names(tmp_path):
    assert load_npz(write_npz(tmp_path / "a.npz")).class_names == ("0", "1", "2")


def test_npz_class_names_are_read(tmp_path):
    path = write_npz(tmp_path / "a.npz", class_names=np.array(["a", "b", "c"]))
    assert load_npz(path).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels; it holds train_images, .*Add the missing"),
        ({"train_images": pixels(6, 5)}, r"train_images of .* is uint8 of shape \(6, 5\). Store uint8 of shape \(N, H"),
        ({"train_images": pixels(6, 5, 4, 3) / 255}, "train_images of .* is float64 of shape .* Store uint8"),
        ({"test_images": pixels(0, 5, 4, 3)}, r"shape \(0, 5, 4, 3\). Store uint8 .* none of them 0"),
        ({"test_images": pixels(3, 5, 5, 3)}, r"\(3, 5, 4\) \(C, H, W\), the test images \(3, 5, 5\). Give both the s"),
        ({"test_labels": np.array([0, 1])}, "test_images of .* holds 3 images, but there are 2 labels. Give one for e"),
        ({"test_labels": np.array([0, 1, 3])}, "test label .* is 3, but the 3 classes are numbered 0 to 2. Number the"),
        ({"train_labels": np.array([0, 1, 2, 0, 1, -1])}, "training label of .* is -1, but the 3 classes"),
        ({"test_labels": np.array([0.0, 1, 2])}, r"test_labels of .* is float64 of shape \(3,\). Store integers"),
        ({"test_labels": np.array([[0, 1, 2]])}, r"test_labels of .* is int64 of shape \(1, 3\). Store integers"),
        (
            {"train_images": np.full((6, 5, 4, 3), 7, np.uint8)},
            "Channel 0 .* has one value everywhere.*Leave the channel out",
        ),
        ({"test_labels": np.array([0, 1, None])}, r"cannot be read as named arrays.*pickled objects are refused"),
    ],
)
def test_npz_refuses_arrays_that_do_not_fit(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_npz(write_npz(tmp_path / "a.npz", **changes))


def test_npz_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"There is no file .*none.npz. Give the path of a .npz file with train_images"):
        load_npz(tmp_path / "none.npz")


def test_npz_refuses_a_damaged_file(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"a.npz cannot be read as named arrays.*numpy.savez_compressed"):
        load_npz(path)


def test_npz_refuses_a_single_array(tmp_path):
    np.save(tmp_path / "a.npy", pixels(3))
    with pytest.raises(DataError, match=r"a.npy cannot be read as named arrays"):
        load_npz(tmp_path / "a.npy")


def test_npz_never_unpickles(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "a.npy", np.array([Trap()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"pickled objects are refused"):
        load_npz(tmp_path / "a.npy")
    assert not (tmp_path / "sprung").exists()


def test_cifar10_is_normalised(cifar10):
    assert_normalised(load_cifar10(cifar10[0]).train_images)


def test_cifar10_images_come_in_the_order_of_their_labels(cifar10):
    folder, tiles = cifar10
    data = load_cifar10(folder, parts=1)
    raw = pixels(100, 32, 32, 3).astype(np.float64)
    expected = (tiles - raw.mean((0, 1, 2))) / raw.std((0, 1, 2))
    torch.testing.assert_close(data.test_images.double(), torch.from_numpy(expected.transpose(0, 3, 1, 2)))


def test_cifar10_has_its_labels_and_names(cifar10):
    data = load_cifar10(cifar10[0])
    assert torch.equal(data.train_labels, torch.arange(500) % 10)
    assert data.class_names == tuple(CLASSES)


def test_cifar10_refuses_missing_parts(tmp_path):
    write_cifar10(tmp_path, parts=2)
    with pytest.raises(DataError, match=r"lacks cifar10_train_3of5.webp, .*4of5.webp, .*5of5.webp. Put every.*parts=1"):
        load_cifar10(tmp_path)


def test_cifar10_uses_as_many_parts_as_asked(tmp_path):
    write_cifar10(tmp_path, parts=2)
    assert len(load_cifar10(tmp_path, parts=2).train_images) == 200


@pytest.mark.parametrize("parts", [0, 6, 2.0])
def test_cifar10_refuses_an_impossible_number_of_parts(cifar10, parts):
    with pytest.raises(DataError, match=rf"parts={parts} is not possible. Give how many .* 1 to 5"):
        load_cifar10(cifar10[0], parts=parts)


def test_cifar10_refuses_missing_labels(tmp_path):
    write_cifar10(tmp_path, parts=1)
    (tmp_path / "cifar10_labels.npz").unlink()
    with pytest.raises(DataError, match=r"There is no file .*cifar10_labels.npz.*train_1of5, test_a, classes"):
        load_cifar10(tmp_path, parts=1)


def test_cifar10_refuses_a_count_that_differs(tmp_path):
    write_cifar10(tmp_path, parts=1, test_a=np.zeros(99, np.uint8))
    with pytest.raises(DataError, match=r"cifar10_test_a.webp holds 100 images, but there are 99 labels"):
        load_cifar10(tmp_path, parts=1)


def test_cifar10_refuses_a_label_outside_its_classes(tmp_path):
    write_cifar10(tmp_path, parts=1, test_a=np.full(100, 10, np.uint8))
    with pytest.raises(DataError, match=r"test label of .* is 10, but the 10 classes are numbered 0 to 9"):
        load_cifar10(tmp_path, parts=1)


def test_cifar10_refuses_a_mosaic_of_another_layout(tmp_path):
    write_cifar10(tmp_path, parts=1)
    Image.fromarray(pixels(32, 64, 3)).save(tmp_path / "cifar10_test_a.webp", lossless=True)
    with pytest.raises(DataError, match=r"is 32 x 64 pixels. A mosaic has rows of 100 images of 32 x 32"):
        load_cifar10(tmp_path, parts=1)


def test_image_folder_is_normalised(tmp_path):
    assert_normalised(load_image_folder(write_folder(tmp_path)).train_images)


def test_image_folder_reads_every_format(tmp_path):
    assert load_image_folder(write_folder(tmp_path)).train_images.shape == (6, 3, 4, 5)


def test_image_folder_labels_follow_the_names_of_the_folders(tmp_path):
    data = load_image_folder(write_folder(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert torch.equal(data.test_labels, torch.tensor([0, 0, 0, 1, 1, 1]))


def test_image_folder_reads_grey(tmp_path):
    assert load_image_folder(write_folder(tmp_path), mode="L").train_images.shape == (6, 1, 4, 5)


def test_image_folder_refuses_an_unknown_mode(tmp_path):
    with pytest.raises(DataError, match=r"mode='RGBA' is unknown. Choose 'RGB' for three channels or 'L'"):
        load_image_folder(tmp_path, mode="RGBA")


def test_image_folder_refuses_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*train. Put one folder per class there"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_an_empty_folder(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train is empty. Put one folder per class there"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_an_empty_class(tmp_path):
    (write_folder(tmp_path) / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"bird holds no image. Put files ending in .png, .jpg, .jpeg, .webp there"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_images_of_several_sizes(tmp_path):
    Image.fromarray(pixels(6, 6, 3)).save(write_folder(tmp_path) / "test" / "dog" / "9.png")
    with pytest.raises(DataError, match=r"9.png is 6 x 6 pixels, but .*0.png is 4 x 5 pixels. Resize all images"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_an_unreadable_image(tmp_path):
    (write_folder(tmp_path) / "train" / "dog" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9.png cannot be read as an image: .* or remove it"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_a_truncated_image(tmp_path):
    path = write_folder(tmp_path, size=(64, 64)) / "train" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"0.png cannot be read as an image"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_more_than_8_bits(tmp_path):
    path = write_folder(tmp_path) / "train" / "dog" / "0.png"
    Image.fromarray(pixels(4, 5).astype(np.uint16) * 256).save(path)
    with pytest.raises(DataError, match=r"of more than 8 bits. Give an image of 8 bits a channel"):
        load_image_folder(tmp_path)


def test_image_folder_refuses_a_class_without_training_images(tmp_path):
    (write_folder(tmp_path) / "test" / "bird").mkdir()
    with pytest.raises(DataError, match=r"test has the classes \['bird'\], which .*train lacks. It has \['cat', 'dog'"):
        load_image_folder(tmp_path)


def test_data_move_to_a_device_whole():
    moved = load_digits().to("meta")
    tensors = (moved.train_images, moved.train_labels, moved.test_images, moved.test_labels)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 4


def test_data_on_their_device_are_not_copied():
    data = load_digits()
    assert data.to("cpu").train_images is data.train_images


def test_moved_data_keep_their_class_names():
    assert load_digits().to("meta").class_names == load_digits().class_names


def test_load_calls_the_named_loader(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    assert torch.equal(load("npz", path=path).train_images, load_npz(path).train_images)


def test_load_refuses_an_unknown_name():
    with pytest.raises(DataError, match=r"data='mnist' is unknown. Choose one of digits, cifar10, npz, image_f"):
        load("mnist")


def test_load_refuses_an_unknown_option():
    with pytest.raises(DataError, match=r"{'share': 0.5} do not fit the data 'digits'.*Give test_share, seed"):
        load("digits", share=0.5)


def test_missing_scikit_learn_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        ImportError, match=r'needs scikit-learn, which is not installed: pip install "sortednet\[data\]"'
    ):
        load_digits()


def test_missing_pillow_is_named_with_its_extra(monkeypatch, tmp_path):
    write_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'needs Pillow, which is not .*pip install "sortednet\[data\]"'):
        load_image_folder(tmp_path)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augment_shifts_each_image_by_whole_pixels_and_fills_with_zero():
    images = torch.arange(1.0, 1 + 20 * 2 * 4 * 5).view(20, 2, 4, 5)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    moved = augment(images, generator(), shift=1)
    found = set()
    for i in range(20):
        possible = {(y, x): padded[i, :, y : y + 4, x : x + 5] for y in range(3) for x in range(3)}
        (offset,) = [offset for offset, one in possible.items() if torch.equal(one, moved[i])]
        found.add(offset)
    assert len(found) > 5


def test_augment_mirrors_about_half_of_the_images():
    images = torch.rand(400, 1, 2, 3, generator=generator())
    mirrored = (augment(images, generator(), flip=True) == images.flip(3)).flatten(1).all(1)
    kept = (augment(images, generator(), flip=True) == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 160 < mirrored.sum() < 240


def test_augment_without_changes_returns_the_images():
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(augment(images, generator()), images)


def test_augment_follows_the_generator():
    images = torch.rand(8, 1, 8, 8)
    first, again = (augment(images, generator(3), shift=2, flip=True) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, generator(4), shift=2, flip=True))


@pytest.mark.parametrize("shift", [-1, 4, 1.0])
def test_augment_refuses_a_shift_outside_the_image(shift):
    with pytest.raises(DataError, match=rf"shift={shift} is not possible for images of 4 x 5 pixels. Give 0 to 3"):
        augment(torch.rand(2, 1, 4, 5), generator(), shift=shift)


def test_augment_refuses_images_without_channels():
    with pytest.raises(DataError, match=r"The images have shape \(2, 4, 5\). Give shape \(B, C, H, W\)"):
        augment(torch.rand(2, 4, 5), generator())
