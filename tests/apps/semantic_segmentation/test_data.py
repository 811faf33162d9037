import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from apps.common import datasets, images
from apps.common.errors import BadInput
from apps.common.images import encode_png
from apps.semantic_segmentation import data
from tests.apps.semantic_segmentation.shapes import CLASSES, draw, small, write


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """A folder of 20 images of different sizes with their masks."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write(folder, range(20))
    return folder


def names_of(splits):
    return {split: set(examples.names) for split, examples in splits.items()}


def test_a_flat_folder_is_split_at_random(own_data):
    splits = data.load_examples(small(own_data))
    assert datasets.sizes(splits) == {"train": 13, "validation": 2, "test": 5}
    assert len(set.union(*names_of(splits).values())) == 20  # No image in two splits.
    for examples in splits.values():
        assert examples.classes == CLASSES
        for image, mask in zip(examples.images, examples.masks, strict=True):
            assert image.stem == mask.stem


def test_recorded_splits_stay_the_same_when_images_are_added(tmp_path):
    write(tmp_path, range(12))
    before = data.load_examples(small(tmp_path))
    for part in ("images", "masks"):
        for path in list((tmp_path / part).iterdir()):
            path.with_stem(f"new_{path.stem}").write_bytes(path.read_bytes())
    after = data.load_examples(small(tmp_path), before.held_out)
    for split in ("test", "validation"):
        assert after[split].names == before[split].names
    assert len(after["train"]) == len(before["train"]) + 12


LAYOUTS = {
    "annot": "{split} {split}annot",
    "folders": "{split}/images {split}/masks",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_split_folders_are_taken_as_they_are(layout, tmp_path):
    for split, numbers in (
        ("train", range(6)),
        ("val", range(6, 8)),
        ("test", range(8, 11)),
    ):
        write(tmp_path, numbers, *LAYOUTS[layout].format(split=split).split())
    splits = data.load_examples(small(tmp_path))
    assert datasets.sizes(splits) == {"train": 6, "validation": 2, "test": 3}
    assert names_of(splits)["validation"] == {"even_06.png", "odd_07.jpg"}
    assert len(data.load_split(small(tmp_path), "all")) == 11


def test_a_val_folder_alone_is_for_testing(tmp_path):
    write(tmp_path, range(10), "train", "trainannot")
    write(tmp_path, range(10, 13), "val", "valannot")
    splits = data.load_examples(small(tmp_path, validation_fraction=0.2))
    assert datasets.sizes(splits) == {"train": 8, "validation": 2, "test": 3}
    assert names_of(splits)["test"] == {"even_10.png", "odd_11.jpg", "even_12.png"}


def test_a_test_folder_alone_can_be_scored_but_not_trained_on(tmp_path):
    write(tmp_path, range(3), "test", "testannot")
    assert len(data.load_split(small(tmp_path), "test")) == 3
    assert len(data.load_split(small(tmp_path), "all")) == 3
    with pytest.raises(BadInput, match="a folder for test but none for training"):
        data.load_examples(small(tmp_path))


def test_a_prefix_chooses_the_validation_images(own_data):
    splits = data.load_examples(small(own_data, validation_prefix="odd"))
    names = names_of(splits)
    assert all(name.startswith("odd") for name in names["validation"])
    assert all(name.startswith("even") for name in names["train"])
    assert datasets.sizes(splits)["test"] == 5
    assert set(splits.held_out) == {"test"}  # The prefix needs no record.


@pytest.mark.parametrize(("prefix", "found"), [("drive7", "none"), ("", "all")])
def test_a_prefix_of_no_name_or_of_all_names_is_refused(own_data, prefix, found):
    message = f"--validation-prefix {prefix}: {found} of the 15 training images"
    with pytest.raises(BadInput, match=message):
        data.load_examples(small(own_data, validation_prefix=prefix))


def test_there_are_no_validation_images_if_the_last_epoch_is_kept(own_data):
    config = small(own_data, validation_prefix="none")
    splits = data.load_examples(config)
    assert datasets.sizes(splits) == {"train": 15, "validation": 0, "test": 5}
    with pytest.raises(BadInput, match="no examples for validation"):
        data.load_split(config, "validation")


def test_settings_of_the_training_data_are_not_used_for_other_data(own_data):
    config = small(own_data, validation_prefix="odd", classes=("a", "b", "c", "d"))
    assert data.load_split(config, "train").classes == config.classes
    other = data.load_split(config, "train", is_other_data=True)
    assert other.classes == CLASSES
    assert any(name.startswith("odd") for name in other.names)
    scenes = data.load_split(small("scenes"), "test", is_other_data=True)
    assert len(scenes) == 128


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_masks_are_read_as_numbers_whatever_their_colors(mode, tmp_path):
    write(tmp_path, range(4))
    path = tmp_path / "masks/even_02.png"
    numbers = np.array(Image.open(path)) % 2
    mask = Image.fromarray(numbers)
    if mode == "1":
        mask = Image.fromarray(numbers.astype(bool))
    elif mode == "P":
        mask = mask.convert("P")
        mask.putpalette(np.random.default_rng(0).bytes(768))
    mask.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    examples = data.load_split(small(tmp_path), "all")
    read = examples.mask(examples.names.index("even_02.png"))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, numbers)


def test_unlabelled_pixels_become_255(own_data):
    examples = data.load_split(small(own_data, void=2), "all")
    original = np.array(draw(4)[1])
    mask = examples.mask(examples.names.index("even_04.png"))
    np.testing.assert_array_equal(mask == 255, (original == 2) | (original == 255))
    np.testing.assert_array_equal(mask == 1, original == 1)


def test_labelled_pixels_are_counted(own_data):
    examples = data.load_split(small(own_data), "all")
    masks = [np.array(draw(i)[1]) for i in range(20)]
    expected = [sum((mask == label).sum() for mask in masks) for label in range(3)]
    assert data.count_pixels(examples).tolist() == expected


def test_the_padding_of_images_is_unlabelled(own_data):
    examples = data.load_split(small(own_data), "all")
    batches = list(data.make_batches(examples, small(own_data, image_size=(64, 96))))
    assert len(batches) == 5
    for i, (pixels, masks) in enumerate(batches):
        assert pixels.shape == (4, 64, 96, 3)
        assert masks.shape == (4, 64, 96)
        assert (pixels.dtype, masks.dtype) == ("float32", "int32")
        for j, (image, mask) in enumerate(zip(pixels, masks, strict=True)):
            rows, columns = examples.mask(4 * i + j).shape
            inner = round(64 * columns / rows)  # All are narrower than 96:64.
            if inner < 96:
                np.testing.assert_array_equal(mask[:, inner:], 255)
                np.testing.assert_array_equal(image[:, inner:], 128)
            inside = mask[:, :inner].numpy() if inner < 96 else mask.numpy()
            assert set(np.unique(inside)) <= {0, 1, 2, 255}
            assert (inside == 255).mean() < 0.1


def arrays(pixels, masks):
    """Returns `Examples` of these images and masks."""
    return data.Examples(
        [str(i) for i in range(len(masks))],
        [encode_png(each) for each in pixels],
        [encode_png(each) for each in masks],
        CLASSES,
    )


@pytest.mark.parametrize("cache", [0, 2**30])
def test_batches_hold_what_the_files_hold(cache, monkeypatch):
    monkeypatch.setattr(images, "MAX_CACHE_BYTES", cache)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (5, 32, 64, 3), "uint8")
    masks = random.integers(0, 3, (5, 32, 64), "uint8")
    sizes = {"image_size": (32, 64), "crop": (32, 64), "scale": (1.0, 1.0)}
    config = small("", **sizes, batch_size=2, flip=False)
    for training in (False, True):
        batches = data.make_batches(arrays(pixels, masks), config, training)
        loaded, found = map(np.concatenate, zip(*batches, strict=True))
        order = [int(np.flatnonzero((masks == each).all((1, 2)))[0]) for each in found]
        assert (order == list(range(5))) is not training  # Training shuffles.
        assert sorted(order) == list(range(5))
        np.testing.assert_allclose(loaded, pixels[order], atol=0.01)


PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)])


def test_augmentation_keeps_images_and_masks_aligned():
    blocks = np.random.default_rng(0).integers(0, 4, (16, 8, 8)).astype("uint8")
    masks = blocks.repeat(8, axis=1).repeat(8, axis=2)
    config = small("", crop=(32, 64), scale=(0.6, 2.0), flip=True, batch_size=16)
    examples = arrays(PALETTE[masks].astype("uint8"), masks)
    ((pixels, found),) = data.make_batches(examples, config, training=True)
    assert pixels.shape == (16, 32, 64, 3)
    pixels, found = pixels.numpy(), found.numpy()
    outside = found == 255
    assert 0.01 < outside.mean() < 0.5
    np.testing.assert_array_equal(outside, (pixels == 127.5).all(axis=-1))
    distances = np.abs(pixels[..., None, :] - PALETTE).sum(axis=-1)
    # At the edges of the blocks, images are interpolated and masks are not.
    assert (distances.argmin(axis=-1) == found)[~outside].mean() > 0.95


def test_training_images_are_mirrored_only_if_asked():
    mask = np.zeros((32, 32), "uint8")
    mask[:, :16] = 1
    pixels = np.stack([mask * 200] * 3, axis=-1)
    sizes = {"image_size": (32, 32), "crop": (32, 32), "scale": (1.0, 1.0)}
    for flip, expected in ((False, {1}), (True, {0, 1})):
        config = small("", **sizes, flip=flip, batch_size=32)
        examples = arrays([pixels] * 32, [mask] * 32)
        ((mirrored, masks),) = data.make_batches(examples, config, training=True)
        assert set(masks[:, 5, 5].numpy()) == expected
        np.testing.assert_allclose(mirrored[..., 0], masks * 200, atol=0.01)


def test_augmentation_enlarges_and_recolors():
    mask = np.zeros((64, 64), "uint8")
    mask[24:40, 24:40] = 1
    pixels = np.stack([mask * 100 + 50] * 3, axis=-1)
    examples = arrays([pixels] * 8, [mask] * 8)
    config = small("", scale=(1.5, 1.5), color=0.5, batch_size=8)
    ((augmented, masks),) = data.make_batches(examples, config, training=True)
    # A factor of 1.5 enlarges the area by 2.25.
    np.testing.assert_allclose((masks == 1).numpy().sum((1, 2)), 24 * 24, rtol=0.1)
    darkest = augmented.numpy().min(axis=(1, 2, 3))
    assert darkest.std() > 3
    assert darkest.min() >= 0


def change_mask(path, change):
    with Image.open(path) as mask:
        numbers = np.array(mask)
    Image.fromarray(change(numbers)).save(path)


def test_the_number_of_unlabelled_pixels_is_no_class(tmp_path):
    write(tmp_path, range(4))
    path = tmp_path / "masks/even_02.png"
    change_mask(path, lambda mask: np.where(mask == 2, 11, mask))
    with pytest.raises(BadInput, match=r"the number 11, .* 0 to 2; .* --void 11"):
        data.load_split(small(tmp_path), "all")
    assert len(data.load_split(small(tmp_path, void=11), "all")) == 4


def to_colors(mask):
    return np.stack([mask] * 3, axis=-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (to_colors, "even_02.png is a RGB image, .* 8-bit PNG .*; convert colours"),
        (lambda mask: mask[::2, ::2], "has .*×.* pixels, but its image even_02.png"),
    ],
)
def test_masks_that_do_not_fit_are_refused(change, message, tmp_path):
    write(tmp_path, range(4))
    change_mask(tmp_path / "masks/even_02.png", change)
    with pytest.raises(BadInput, match=message):
        data.load_split(small(tmp_path), "all")


def test_a_damaged_mask_is_refused(tmp_path):
    write(tmp_path, range(4))
    path = tmp_path / "masks/even_02.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"even_02.png cannot be read .*; replace it"):
        data.load_split(small(tmp_path), "all")


def test_what_cannot_be_used_is_named_with_the_reason(tmp_path, capsys):
    write(tmp_path, range(8))
    whole = (tmp_path / "images/odd_01.jpg").read_bytes()
    (tmp_path / "images/odd_01.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/odd_03.jpg").write_text("no image")
    (tmp_path / "masks/odd_05.png").unlink()
    (tmp_path / "images/even_06.png").unlink()
    (tmp_path / "loose.jpg").write_bytes(whole)
    assert len(data.load_split(small(tmp_path), "all")) == 4
    skipped = capsys.readouterr().err
    assert skipped.splitlines() == [
        "skipped 1 file: has no mask of the same name: images/odd_05.jpg",
        "skipped 1 file: has no image of the same name: masks/even_06.png",
        "skipped 1 file: is in no folder of images or masks: loose.jpg",
        "skipped 1 file: is damaged or truncated; replace it: images/odd_01.jpg",
        "skipped 1 file: is not an image; use JPEG or PNG files: images/odd_03.jpg",
    ]
    # An evaluation says the same.
    assert len(data.load_split(small(tmp_path), "all", is_other_data=True)) == 4
    assert capsys.readouterr().err == skipped


def test_images_and_masks_are_matched_in_nested_folders(tmp_path):
    write(tmp_path / "a", range(2))
    write(tmp_path / "b", range(2))
    for part in ("images", "masks"):
        for city in "ab":
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / city / part).rename(tmp_path / part / city)
    (tmp_path / "a/classes.txt").rename(tmp_path / "classes.txt")
    examples = data.load_split(small(tmp_path), "all")
    assert examples.names == [
        *("a/even_00.png", "a/odd_01.jpg", "b/even_00.png", "b/odd_01.jpg")
    ]


def turn_photograph(folder):
    """Stores an image turned, with its orientation; returns what Pillow turns back."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = folder / "images/odd_01.jpg"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def test_masks_belong_to_upright_images(tmp_path):
    write(tmp_path, range(1, 2))
    upright = turn_photograph(tmp_path)
    examples = data.load_split(small(tmp_path), "all")
    mask = examples.mask(0)
    assert mask.shape == upright.shape[:2]
    size = (64, 96)
    ((images_, masks),) = data.make_batches(examples, small("", image_size=size))
    inner = round(64 * mask.shape[1] / mask.shape[0])
    expected, _ = images.fit_image(tf.constant(upright, tf.float32), *size)
    np.testing.assert_allclose(images_[0], expected, atol=0.51)
    assert (masks[0, :, inner:] == 255).numpy().all()
    change_mask(tmp_path / "masks/odd_01.png", np.rot90)
    with pytest.raises(BadInput, match="when it is upright; resize or turn the mask"):
        data.load_split(small(tmp_path), "all")


def test_images_that_tensorflow_does_not_decode_are_converted(tmp_path):
    write(tmp_path, range(4))
    path = tmp_path / "images/even_02.png"
    with Image.open(path) as image:
        image.save(path.with_suffix(".tiff"))
        pixels = np.asarray(image)
    path.unlink()
    examples = data.load_split(small(tmp_path), "all")
    assert examples.names[1] == "even_02.tiff"
    decoded = images.decode_image(examples.image_bytes(1))
    np.testing.assert_array_equal(decoded, pixels)


def test_other_data_without_splits_is_taken_whole(own_data, capsys):
    examples = data.load_split(small(own_data), "test", is_other_data=True)
    assert len(examples) == 20
    assert "no split 'test'; all 20 examples are scored" in capsys.readouterr().out


def rename_masks(folder):
    for path in list((folder / "masks").iterdir()):
        path.rename(path.with_stem(f"mask_{path.stem}"))


def damage_images(folder):
    for path in (folder / "images").iterdir():
        path.write_bytes(b"junk")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "classes.txt").unlink(), "classes.txt is missing"),
        (
            lambda folder: (folder / "classes.txt").write_text("everything\n\n"),
            "has the classes everything; give 2 to 255 different names",
        ),
        (
            lambda folder: (folder / "classes.txt").write_bytes(b"\xff\xfe"),
            "classes.txt is not UTF-8 text",
        ),
        (
            lambda folder: (folder / "masks").rename(folder / "labels"),
            "has no images and masks; expected the folders `images` and `masks`",
        ),
        (rename_masks, r"no mask in .* \(even_00.png, mask_even_00.png\)"),
        (damage_images, "has no readable image"),
    ],
)
def test_unusable_folders_are_refused(spoil, message, tmp_path):
    write(tmp_path, range(4))
    spoil(tmp_path)
    with pytest.raises(BadInput, match=message):
        data.load_examples(small(tmp_path))


def test_a_missing_folder_is_refused():
    with pytest.raises(BadInput, match="there is no folder nowhere; pass --data"):
        data.load_examples(small("nowhere"))
