import io

import numpy as np
import pytest
from PIL import Image

from apps.semantic_segmentation import data
from apps.semantic_segmentation.config import CONFIGS, Config, class_color, class_name
from tests.apps.semantic_segmentation.conftest import CLASSES, draw, small, write


def names_of(splits):
    return {split: set(examples.names) for split, examples in splits.items()}


def sizes_of(splits):
    return {split: len(examples) for split, examples in splits.items()}


def test_a_flat_folder_is_split_at_random(own_data):
    splits, classes = data.load_examples(small(own_data))
    assert classes == CLASSES
    assert sizes_of(splits) == {"train": 14, "validation": 2, "test": 4}
    assert len(set.union(*names_of(splits).values())) == 20  # No image in two splits.
    for examples in splits.values():
        for image, mask in zip(examples.images, examples.masks, strict=True):
            assert image.stem == mask.stem


def test_splits_depend_on_the_seed_alone(own_data):
    first, again, other = (
        data.load_examples(small(own_data, seed=seed))[0]["test"].names
        for seed in (0, 0, 1)
    )
    assert first == again != other


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
    splits, _ = data.load_examples(small(tmp_path))
    assert sizes_of(splits) == {"train": 6, "validation": 2, "test": 3}
    assert names_of(splits)["validation"] == {"even_06.png", "odd_07.jpg"}
    everything, _ = data.load_split(small(tmp_path), "all")
    assert len(everything) == 11


def test_a_val_folder_alone_is_for_testing(tmp_path):
    write(tmp_path, range(10), "train", "trainannot")
    write(tmp_path, range(10, 13), "val", "valannot")
    splits, _ = data.load_examples(small(tmp_path, validation_fraction=0.2))
    assert sizes_of(splits) == {"train": 8, "validation": 2, "test": 3}
    assert names_of(splits)["test"] == {"even_10.png", "odd_11.jpg", "even_12.png"}


def test_images_are_held_out_by_the_beginning_of_their_names(own_data):
    splits, _ = data.load_examples(small(own_data, held_out="odd"))
    names = names_of(splits)
    assert all(name.startswith("odd") for name in names["validation"])
    assert all(name.startswith("even") for name in names["train"])
    assert len(names["validation"] | names["train"]) == 16


def test_nothing_is_held_out_where_the_last_epoch_shall_be_kept(own_data):
    splits, _ = data.load_examples(small(own_data, held_out="none"))
    assert sizes_of(splits) == {"train": 16, "validation": 0, "test": 4}


def test_classes_of_the_configuration_come_before_those_of_the_file(own_data):
    classes = ("earth", "sun #ffff00", "house", "tree")
    assert data.load_examples(small(own_data, classes=classes))[1] == classes


@pytest.mark.parametrize(
    ("line", "name", "color"),
    [
        ("road", "road", None),
        ("road #804080", "road", "#804080"),
        ("traffic  light   #00FF7f", "traffic  light", "#00FF7f"),
        ("lane #2", "lane #2", None),
    ],
)
def test_names_and_colors_of_classes(line, name, color):
    assert (class_name(line), class_color(line)) == (name, color)


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
    examples, _ = data.load_split(small(tmp_path), "all")
    read = examples.mask(examples.names.index("even_02.png"))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, numbers)


def test_void_becomes_255(own_data):
    examples, _ = data.load_split(small(own_data, void=2), "all")
    original = np.array(draw(4)[1])
    mask = examples.mask(examples.names.index("even_04.png"))
    np.testing.assert_array_equal(mask == 255, (original == 2) | (original == 255))
    np.testing.assert_array_equal(mask == 1, original == 1)


def test_pixels_are_counted_without_void(own_data):
    examples, _ = data.load_split(small(own_data), "all")
    masks = [np.array(draw(i)[1]) for i in range(20)]
    expected = [sum((mask == label).sum() for mask in masks) for label in range(3)]
    assert data.count_pixels(examples, 3).tolist() == expected


def test_batches_hold_fitted_images_and_masks_padded_with_void(own_data):
    examples, _ = data.load_split(small(own_data), "all")
    batches = list(data.make_batches(examples, small(own_data, image_size=(64, 96))))
    assert len(batches) == 5
    for i, (images, masks) in enumerate(batches):
        assert images.shape == (4, 64, 96, 3)
        assert masks.shape == (4, 64, 96)
        assert (images.dtype, masks.dtype) == ("float32", "int32")
        for j, (image, mask) in enumerate(zip(images, masks, strict=True)):
            rows, columns = examples.mask(4 * i + j).shape
            inner = round(64 * columns / rows)  # All are narrower than 96:64.
            if inner < 96:
                np.testing.assert_array_equal(mask[:, inner:], 255)
                np.testing.assert_array_equal(image[:, inner:], 128)
            inside = mask[:, :inner].numpy() if inner < 96 else mask.numpy()
            assert set(np.unique(inside)) <= {0, 1, 2, 255}
            assert (inside == 255).mean() < 0.1


def arrays(pixels, masks):
    """Examples of these pictures and masks."""
    return data.Examples(
        [str(i) for i in range(len(masks))],
        [data.png(each) for each in pixels],
        [data.png(each) for each in masks],
    )


@pytest.mark.parametrize("cache", [0, 2**30])
def test_batches_hold_what_the_files_hold(cache, monkeypatch):
    monkeypatch.setattr(data, "CACHE_BYTES", cache)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (5, 32, 64, 3), "uint8")
    masks = random.integers(0, 3, (5, 32, 64), "uint8")
    sizes = {"image_size": (32, 64), "crop": (32, 64), "scale": (1.0, 1.0)}
    config = small("", **sizes, batch_size=2, flip=False)
    for training in (False, True):
        batches = data.make_batches(arrays(pixels, masks), config, training)
        images, found = map(np.concatenate, zip(*batches, strict=True))
        order = [int(np.flatnonzero((masks == each).all((1, 2)))[0]) for each in found]
        assert (order == list(range(5))) is not training  # Training shuffles.
        assert sorted(order) == list(range(5))
        np.testing.assert_allclose(images, pixels[order], atol=0.01)


PALETTE = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)])


def test_augmentation_keeps_images_and_masks_aligned():
    blocks = np.random.default_rng(0).integers(0, 4, (16, 8, 8)).astype("uint8")
    masks = blocks.repeat(8, axis=1).repeat(8, axis=2)
    config = small("", crop=(32, 64), scale=(0.6, 2.0), flip=True, batch_size=16)
    examples = arrays(PALETTE[masks].astype("uint8"), masks)
    ((images, found),) = data.make_batches(examples, config, training=True)
    assert images.shape == (16, 32, 64, 3)
    images, found = images.numpy(), found.numpy()
    outside = found == 255
    assert 0.01 < outside.mean() < 0.5
    np.testing.assert_array_equal(outside, (images == 127.5).all(axis=-1))
    distances = np.abs(images[..., None, :] - PALETTE).sum(axis=-1)
    # At the edges of the blocks, pictures are blended and masks are not.
    assert (distances.argmin(axis=-1) == found)[~outside].mean() > 0.95


def test_training_images_are_mirrored_only_if_asked():
    mask = np.zeros((32, 32), "uint8")
    mask[:, :16] = 1
    pixels = np.stack([mask * 200] * 3, axis=-1)
    sizes = {"image_size": (32, 32), "crop": (32, 32), "scale": (1.0, 1.0)}
    for flip, expected in ((False, {1}), (True, {0, 1})):
        config = small("", **sizes, flip=flip, batch_size=32)
        examples = arrays([pixels] * 32, [mask] * 32)
        ((images, masks),) = data.make_batches(examples, config, training=True)
        assert set(masks[:, 5, 5].numpy()) == expected
        np.testing.assert_allclose(images[..., 0], masks * 200, atol=0.01)


def test_augmentation_enlarges_and_recolors():
    mask = np.zeros((64, 64), "uint8")
    mask[24:40, 24:40] = 1
    pixels = np.stack([mask * 100 + 50] * 3, axis=-1)
    examples = arrays([pixels] * 8, [mask] * 8)
    config = small("", scale=(1.5, 1.5), color=0.5, batch_size=8)
    ((images, masks),) = data.make_batches(examples, config, training=True)
    # What is enlarged by a half has 2.25 times the area.
    np.testing.assert_allclose((masks == 1).numpy().sum((1, 2)), 24 * 24, rtol=0.1)
    darkest = images.numpy().min(axis=(1, 2, 3))
    assert darkest.std() > 3
    assert darkest.min() >= 0


def decoded(png):
    return np.array(Image.open(io.BytesIO(png)))


def test_scenes_have_exact_masks():
    splits = data.scenes(number=20)
    assert sizes_of(splits) == {"train": 16, "test": 4}
    assert len(data.SCENE_CLASSES) == 11
    examples = splits["train"]
    seen = set()
    for i in range(16):
        scene, mask = decoded(examples.image_bytes(i)), examples.mask(i)
        assert scene.shape == (*mask.shape, 3) == (64, 64, 3)
        seen |= set(np.unique(mask))
        for top in (0, 32):
            for left in (0, 32):
                part = np.s_[top : top + 32, left : left + 32]
                ink = mask[part] > 0
                assert len(np.unique(mask[part][ink])) <= 1
                if ink.any():  # All of it has one colour, but for the noise.
                    assert scene[part][ink].std(axis=0).max() < 11
                    assert 50 < ink.sum() < 700
    assert seen <= set(range(11))
    assert len(seen) > 8


def test_scenes_depend_on_the_seed_alone():
    first, again, other = (
        data.scenes(number=5, seed=seed)["train"].images for seed in (3, 3, 4)
    )
    assert first == again != other


def test_test_scenes_show_other_digits_on_other_grounds(monkeypatch):
    drawn = []

    def record(random, digits, chosen, grounds):
        drawn.append((set(chosen), grounds))
        return np.zeros((64, 64, 3), "uint8"), np.zeros((64, 64), "uint8")

    monkeypatch.setattr(data, "draw_scene", record)
    data.scenes(number=10)
    (train, train_grounds), (test, test_grounds) = drawn[0], drawn[-1]
    assert not train & test
    assert len(train | test) == 1797
    for one, other in zip(train_grounds, test_grounds, strict=True):
        assert one.base is other.base
        assert not np.shares_memory(one, other)


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)
