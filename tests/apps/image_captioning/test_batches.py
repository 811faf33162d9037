import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common.text import PADDING
from apps.common.tokenizer import END, START
from apps.image_captioning import batches
from apps.image_captioning.data import Examples
from apps.image_captioning.model import build_model
from tests.apps.image_captioning.tiny import (
    COLORS,
    make_examples,
    make_tokenizer,
    small,
)

EXAMPLES = make_examples(40)
RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (60, 80, 3), "uint8")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(EXAMPLES)


@pytest.fixture(scope="module")
def model():
    return build_model(config=small(), vocabulary_size=20)


def arrays(batches):
    return [tf.nest.map_structure(np.array, batch) for batch in batches]


# Images


def test_the_whole_image_is_resized_without_a_seed():
    expected = tf.image.resize(PHOTO, (32, 32), antialias=True)
    config = small(crop_area=0.3)
    np.testing.assert_array_equal(batches.prepare(tf.constant(PHOTO), config), expected)
    config = small(crop_area=1.0, flip=False)
    np.testing.assert_array_equal(
        batches.prepare(tf.constant(PHOTO), config, [1, 2]), expected
    )
    assert not batches.varies(config)
    padded = batches.prepare(tf.constant(PHOTO), small(resize="pad")).numpy()
    assert (padded[24:] == 127.5).all()  # 60 of 80 rows have the photograph.
    assert padded[:23].std() > 10


def crops(config, number=200, height=60, width=80):
    """Returns the corners of random crops, and which of them are mirrored."""
    y, x = np.indices((height, width)) + 0.5
    pixels = tf.constant(np.stack([y / height, x / width, 0 * x], -1), tf.float32)
    prepare = tf.function(lambda seed: batches.prepare(pixels, config, seed))
    views = np.stack([prepare(tf.constant([7, i])) for i in range(number)])
    top, bottom = views[:, 0, 0, 0], views[:, -1, 0, 0]
    first, last = views[:, 0, 0, 1], views[:, 0, -1, 1]
    left, right = np.minimum(first, last), np.maximum(first, last)
    # Centres of the outer pixels of 32.
    height, width = ((bottom - top) * 32 / 31, (right - left) * 32 / 31)
    return top - height / 64, left - width / 64, height, width, first > last


def test_random_crops_keep_most_of_the_image():
    top, left, height, width, is_mirrored = crops(small(crop_area=0.6))
    area = height * width
    assert 0.57 < area.min() < 0.63
    assert 0.97 < area.max() < 1.02
    assert abs(np.mean(area) - 0.8) < 0.02
    ratio = width / height
    assert 0.73 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.36
    assert min(top.min(), left.min()) > -0.02
    assert max((top + height).max(), (left + width).max()) < 1.02
    assert np.ptp(top) > 0.2
    assert np.ptp(left) > 0.2
    assert 0.4 < is_mirrored.mean() < 0.6


def test_mirroring_and_crops_can_be_turned_off():
    *_, is_mirrored = crops(small(crop_area=0.6, flip=False), 40)
    assert not is_mirrored.any()
    *_, height, width, is_mirrored = crops(small(crop_area=1.0), 40)
    np.testing.assert_allclose(height, 1, atol=0.01)
    np.testing.assert_allclose(width, 1, atol=0.01)
    assert 0.2 < is_mirrored.mean() < 0.8


def test_views_repeat_and_differ():
    examples = Examples(
        ["a", "b", "c"],
        [batches.images.encode_png(PHOTO)] * 3,
        [("x",)] * 3,
    )
    config = small(views=3, seed=2**31 - 1)

    def views(number, config=config):
        return np.concatenate(list(batches.make_images(examples, config, number)))

    whole, first, second = map(views, range(3))
    expected = tf.image.resize(PHOTO, (32, 32), antialias=True)
    np.testing.assert_allclose(whole, [expected] * 3)
    np.testing.assert_array_equal(first, views(1))
    different = [
        whole[0],
        *first,
        *second,
        *views(1, dataclasses.replace(config, seed=4)),
    ]
    for i, one in enumerate(different):
        for other in different[:i]:
            assert np.abs(one - other).max() > 20


def test_images_come_from_bytes_and_from_files(tmp_path):
    paths = [tmp_path / name for name in EXAMPLES.names]
    for path, image in zip(paths, EXAMPLES.images, strict=True):
        path.write_bytes(image)
    files = dataclasses.replace(EXAMPLES, images=paths)
    for examples in (EXAMPLES, files):
        loaded = list(batches.make_images(examples, small()))
        assert [len(batch) for batch in loaded] == [32, 8]
        colors = np.concatenate(loaded)[:, 5, 5]
        expected = [
            np.asarray(Image.open(io.BytesIO(image)))[0, 0] for image in EXAMPLES.images
        ]
        np.testing.assert_allclose(colors, expected)


# Features


def test_files_hold_the_features_in_half_precision(model, tmp_path):
    config = small(views=2, crop_area=0.5)
    splits = {"train": make_examples(35), "validation": make_examples(3)}
    features = batches.load_features(model, splits, config, tmp_path / "features")
    names = {path.name for path in (tmp_path / "features").iterdir()}
    files = {"train_0.npy", "train_1.npy", "validation_0.npy"}
    assert names == files | {"images.json"}
    assert [len(features[split]) for split in splits] == [35, 3]
    for split, examples in splits.items():
        for view, rows in enumerate(features[split].views):
            expected = np.concatenate(
                [
                    model.extract(batch)
                    for batch in batches.make_images(examples, config, view)
                ]
            )
            assert rows.dtype == np.float16
            np.testing.assert_allclose(rows, expected, rtol=2e-3, atol=1e-3)
            assert np.ptp(expected, axis=0).max() > 0.01
    indices, views = np.array([34, 2, 2]), np.array([1, 0, 1])
    rows = features["train"].read(indices, views)
    assert rows.dtype == np.float32
    for row, index, view in zip(rows, indices, views, strict=True):
        np.testing.assert_array_equal(row, features["train"].views[view][index])


def test_only_missing_features_are_computed(model, tmp_path, capsys):
    splits = {"train": make_examples(5), "test": make_examples(2)}
    config = small(views=2)
    batches.load_features(model, splits, config, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "features of train, view 1 of 2",
        "features of train, view 2 of 2",
        "features of test, view 1 of 1",
    ]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "train_1.npy").unlink()
    features = batches.load_features(model, splits, config, tmp_path)
    assert capsys.readouterr().out == "features of train, view 2 of 2\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    np.testing.assert_array_equal(
        features["train"].views[1], np.load(tmp_path / "train_1.npy")
    )


def test_the_features_of_other_images_are_computed_anew(model, tmp_path, capsys):
    splits = {"train": make_examples(5), "test": make_examples(2)}
    config, folder = small(views=1), tmp_path / "features"
    batches.load_features(model, splits, config, folder)
    capsys.readouterr()
    names = ["another", *splits["train"].names[1:]]
    splits["train"] = dataclasses.replace(splits["train"], names=names)
    batches.load_features(model, splits, config, folder)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_interruption_leaves_no_part_of_a_file(model, tmp_path, monkeypatch):
    make_images = batches.make_images

    def stop(*arguments):
        yield from make_images(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(batches, "make_images", stop)
    with pytest.raises(KeyboardInterrupt):
        batches.load_features(model, {"train": make_examples(3)}, small(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["images.json"]


# Captions


def fake_features(num_views=1):
    """Returns features that tell the image and the view."""
    features = batches.Features([])
    features.views = [
        np.array([[[i, view]] for i in range(len(EXAMPLES))], "float16")
        for view in range(num_views)
    ]
    return features


def rows_of(loaded):
    """Returns the labels of each caption, without padding, with what was seen."""
    rows = []
    for inputs, labels, weights in arrays(loaded):
        previous = inputs["token_ids"]
        assert previous.shape == labels.shape == weights.shape
        assert (previous.dtype, labels.dtype) == (np.int32, np.int32)
        assert weights.dtype == np.float32
        np.testing.assert_array_equal(weights, labels != PADDING)
        seen = inputs["features" if "features" in inputs else "images"]
        for image, before, label in zip(seen, previous, labels, strict=True):
            length = (label != PADDING).sum()
            assert not label[length:].any()
            assert label[length - 1] == END
            assert before[:length].tolist() == [START, *label[: length - 1]]
            assert not before[length:].any()
            rows.append((tuple(label[:length]), image))
    return rows


def expected_rows(tokenizer):
    """Returns the labels of each caption and the number of its image."""
    return sorted(
        (tuple(tokenizer(tf.constant([caption])).to_list()[0]), i)
        for i, captions in enumerate(EXAMPLES.captions)
        for caption in captions
    )


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_every_caption_comes_with_the_features_of_its_image(is_shuffled, tokenizer):
    loaded = batches.make_batches(
        EXAMPLES, small(), tokenizer, fake_features(3), is_shuffled
    )
    assert len(loaded) == len(list(loaded))
    orders, views = [], set()
    for _ in range(2):
        rows = rows_of(loaded)
        orders.append([(label, int(seen[0, 0])) for label, seen in rows])
        assert sorted(orders[-1]) == expected_rows(tokenizer)
        views |= {int(seen[0, 1]) for _, seen in rows}
    assert (orders[0] != orders[1]) == is_shuffled
    assert views == {0, 1, 2}


def test_every_caption_comes_with_its_image(tokenizer):
    config = small(batch_size=16)
    whole = np.concatenate(list(batches.make_images(EXAMPLES, config)))
    for training in (False, True):
        loaded = batches.make_batches(EXAMPLES, config, tokenizer, training=training)
        rows = [(label, image[4, 4]) for label, image in rows_of(loaded)]
        colors = {i: whole[i, 4, 4] for i in range(len(EXAMPLES))}
        found = sorted((label, tuple(color)) for label, color in rows)
        expected = sorted(
            (label, tuple(colors[i])) for label, i in expected_rows(tokenizer)
        )
        assert [label for label, _ in found] == [label for label, _ in expected]
        np.testing.assert_allclose(
            [color for _, color in found], [color for _, color in expected], atol=1e-3
        )


def test_training_sees_other_crops_in_every_epoch(tokenizer):
    image = batches.images.encode_png(PHOTO)
    captions = [(f"a {color} wall",) for color in COLORS]
    examples = Examples(COLORS, [image] * 6, captions)

    def epoch(loaded):
        ((inputs, labels, _),) = loaded
        return dict(zip(labels.numpy()[:, 1], inputs["images"].numpy(), strict=True))

    config = small()
    loaded = batches.make_batches(examples, config, tokenizer, training=True)
    first, second = epoch(loaded), epoch(loaded)
    changes = [np.abs(first[word] - second[word]).max() for word in first]
    assert np.median(changes) > 20
    loaded = batches.make_batches(examples, config, tokenizer)
    first, second = epoch(loaded), epoch(loaded)
    assert list(first) == list(second)
    np.testing.assert_array_equal(list(first.values()), list(second.values()))


def test_batches_have_captions_of_similar_lengths(tokenizer):
    config = small(batch_size=7)
    loaded = batches.make_batches(EXAMPLES, config, tokenizer, fake_features())
    for _, labels, _ in arrays(loaded):
        lengths = (labels != PADDING).sum(axis=1)
        assert len(labels) <= 7
        assert labels.shape[1] == lengths.max()
        assert np.ptp(lengths) <= 3


def test_long_captions_are_left_out_of_training_and_named(tokenizer, capsys):
    # "a red wall" has 4 tokens with the end, "one red wall without a door" 7.
    config = small(max_tokens=6)
    arguments = EXAMPLES, config, tokenizer, fake_features()
    rows = rows_of(batches.make_batches(*arguments, training=True))
    short = [row for row in expected_rows(tokenizer) if len(row[0]) <= 6]
    assert sorted((label, int(seen[0, 0])) for label, seen in rows) == short
    number = len(expected_rows(tokenizer)) - len(short)
    assert capsys.readouterr().err.startswith(
        f"skipped {number} training captions: has more than 6 tokens (--max-tokens): "
        '"one green wall without a door", "one blue'
    )
    assert len(rows_of(batches.make_batches(*arguments))) == len(short) + number
    assert capsys.readouterr().err == ""
