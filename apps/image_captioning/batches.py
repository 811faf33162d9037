"""Examples to batches: views of the images, their features, and tokens."""

import json
import shutil
import sys

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from apps.common import datasets, images, runs
from apps.common.text import PADDING, shorten
from apps.common.tokenizer import START

EXTRACTION_BATCH = 32
BUCKET_BOUNDARIES = (*range(6, 24, 2), *range(24, 60, 6), *range(60, 200, 20))


class Features:
    """The features of images by a frozen backbone, kept in files.

    Args:
        files: One `.npy` file for each view, float16 `(images, places, channels)`.
    """

    def __init__(self, files):
        # Read when needed: they may be larger than the memory.
        self.views = [np.load(file, mmap_mode="r") for file in files]

    def __len__(self):
        """Returns the number of images."""
        return len(self.views[0])

    def read(self, indices, views):
        """Returns features, float32 `(batch, places, channels)`.

        Args:
            indices: Numbers of images, int `(batch,)`.
            views: The view of each, int `(batch,)`.
        """
        pairs = zip(indices, views, strict=True)
        rows = [self.views[view][index] for index, view in pairs]
        return np.stack(rows).astype("float32")


def load_features(model, splits, config, folder):
    """Computes the features of each split, or finds them in files.

    A view that an interruption left unfinished is computed again; so is everything if
    the images are others than before.

    Args:
        model: A `CaptionModel` with its pretrained backbone.
        splits: `Examples` by split.
        config: The settings; only training images have several views.
        folder: The folder for the files, which is made.

    Returns:
        `Features` by split.
    """
    extract = tf.function(
        model.extract, input_signature=[tf.TensorSpec([None, *input_shape(config)])]
    )
    names = {split: examples.names for split, examples in splits.items()}
    record = folder / "images.json"
    if not record.exists() or json.loads(record.read_text()) != names:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        runs.write_json(record, names)
    found = {}
    for split, examples in splits.items():
        num_views = config.views if split == "train" else 1
        files = [folder / f"{split}_{view}.npy" for view in range(num_views)]
        for view, file in enumerate(files):
            if not file.exists():
                title = f"features of {split}, view {view + 1} of {num_views}"
                _write_features(extract, examples, config, view, file, title)
        found[split] = Features(files)
    return found


def _write_features(extract, examples, config, view, file, title):
    """Writes the features of one view of all images."""
    batches = make_images(examples, config, view)
    bar = tqdm(total=len(examples), desc=title, disable=not sys.stderr.isatty())
    with runs.replacing(file) as unfinished, unfinished.open("wb") as output, bar:
        for number, batch in enumerate(batches):
            rows = extract(batch).numpy().astype("float16")
            if not number:
                header = np.lib.format.header_data_from_array_1_0(rows)
                header["shape"] = (len(examples), *rows.shape[1:])
                np.lib.format.write_array_header_1_0(output, header)
            output.write(rows.tobytes())
            bar.update(len(rows))
    if not sys.stderr.isatty():
        print(title)


def make_images(examples, config, view=0):
    """Returns batches of images in their order, as the network takes them.

    Args:
        examples: The `Examples`.
        config: The settings of the images.
        view: The number of the view; 0 is the whole image, others are random crops,
            always the same ones.

    Returns:
        A `tf.data.Dataset` of float32 `(batch, size, size, 3)`.
    """
    sources, read = image_sources(examples)

    def load(index, source):
        seed = [config.seed * 1000 + view, index] if view else None
        return prepare(read(source), config, seed)

    sources = tf.data.Dataset.from_tensor_slices((tf.range(len(examples)), sources))
    loaded = sources.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return loaded.batch(EXTRACTION_BATCH).prefetch(2)


def make_batches(examples, config, tokenizer, features=None, training=False):
    """Returns batches of captions of similar lengths, with their images.

    Args:
        examples: The `Examples`.
        config: Gives the batch size, the seed, the images and their views, and for
            training `max_tokens`.
        tokenizer: The `Tokenizer`.
        features: The `Features` of the images. Defaults to None: the batches have
            images.
        training: Whether to shuffle, to leave out long captions and to vary the images.

    Returns:
        A `tf.data.Dataset` of three parts. The inputs of `CaptionModel`. The labels:
        token ids, `(batch, steps)`. The sample weights, `(batch, steps)`: 0 for
        padding, else 1.
    """
    owners = np.repeat(np.arange(len(examples)), list(map(len, examples.captions)))
    captions = examples.all_captions
    token_ids = tokenizer(tf.constant(captions))
    lengths = token_ids.row_lengths().numpy()
    if training:
        datasets.print_skipped(
            (
                (
                    f'"{shorten(captions[i])}"',
                    f"has more than {config.max_tokens} tokens (--max-tokens)",
                )
                for i in np.flatnonzero(lengths > config.max_tokens)
            ),
            "training caption",
        )
        kept = np.flatnonzero(lengths <= config.max_tokens)
        owners, lengths = owners[kept], lengths[kept]
        token_ids = tf.gather(token_ids, kept)
    sources, read = image_sources(examples)

    def load(owner, length, token_ids):
        if features is not None:
            return owner, length, token_ids
        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        image = prepare(read(sources[owner]), config, seed if training else None)
        return image, length, token_ids

    def add_inputs(values, lengths, token_ids):
        labels = token_ids[:, : tf.reduce_max(lengths)]
        inputs = {"token_ids": previous_tokens(labels)}
        if features is None:
            inputs["images"] = values
        else:
            num_views = len(features.views)
            inputs["features"] = read_features(features, values, num_views)
        return inputs, labels, tf.cast(labels != PADDING, tf.float32)

    size = config.image_size
    dataset = images.load_and_shuffle(
        tf.data.Dataset.from_tensor_slices(
            (owners, tf.cast(lengths, tf.int32), token_ids.to_tensor(PADDING))
        ),
        load,
        # Random views change in every epoch, so they are not kept.
        num_bytes=2**62 if training and varies(config) else len(owners) * 12 * size**2,
        seed=config.seed if training else None,
    )
    dataset = dataset.bucket_by_sequence_length(
        lambda value, length, token_ids: length,
        BUCKET_BOUNDARIES,
        [config.batch_size] * (len(BUCKET_BOUNDARIES) + 1),
    )
    buckets = np.digitize(lengths, BUCKET_BOUNDARIES)
    num_batches = int((-(-np.bincount(buckets) // config.batch_size)).sum())
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.map(add_inputs, num_parallel_calls=2).prefetch(4)


def previous_tokens(labels):
    """Returns the token before each label, int32 `(batch, steps)`, padded alike."""
    previous = tf.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    return tf.where(labels == PADDING, PADDING, previous)


def read_features(features, indices, num_views=1):
    """Returns the features of images, inside the graph of a data set.

    Args:
        features: The `Features`.
        indices: Numbers of images, int `(batch,)`.
        num_views: Number of views from which one is drawn for each image. Defaults to
            1, the image as it is.
    """
    views = tf.random.uniform(tf.shape(indices), maxval=num_views, dtype=tf.int32)
    rows = tf.numpy_function(features.read, [indices, views], tf.float32)
    return tf.ensure_shape(rows, (None, *features.views[0].shape[1:]))


def image_sources(examples):
    """Returns what a data set holds of images, and a function that decodes one.

    The images are bytes or paths, strings `(examples,)`.
    """
    if isinstance(examples.images[0], bytes):
        return tf.constant(examples.images), images.decode_image
    paths = tf.constant(list(map(str, examples.images)))
    return paths, lambda path: images.decode_image(tf.io.read_file(path))


def input_shape(config):
    """Returns the shape of an image as the network takes it."""
    return config.image_size, config.image_size, 3


def varies(config):
    """Returns whether the views of an image differ."""
    return config.flip or config.crop_area < 1


def prepare(image, config, seed=None):
    """Returns an image as the network takes it.

    Args:
        image: `(height, width, 3)`, from 0 to 255.
        config: The settings of the images.
        seed: Seed of a random view, int32 `(2,)`. Defaults to None, the whole image.

    Returns:
        float32 `(size, size, 3)`.
    """
    if seed is not None and varies(config):
        numbers = tf.random.stateless_uniform([5], seed)
        area = config.crop_area + numbers[0] * (1 - config.crop_area)
        # Up to 4:3 or 3:4, as far as the area allows.
        stretch = tf.minimum((4 / 3) ** tf.abs(numbers[1] - 0.5), area**-0.5)
        stretch = tf.where(numbers[1] < 0.5, 1 / stretch, stretch)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        inner = tf.round(shape * area**0.5 * tf.stack([stretch, 1 / stretch]))
        inner = tf.clip_by_value(inner, 1, shape)
        top, left = tf.unstack(tf.cast(numbers[2:4] * (shape - inner + 1), tf.int32))
        height, width = tf.unstack(tf.cast(inner, tf.int32))
        image = image[top : top + height, left : left + width]
        is_mirrored = config.flip & (numbers[4] < 0.5)
        image = tf.cond(is_mirrored, lambda: image[:, ::-1], lambda: image)
    return images.resize_image(image, config.image_size, config.resize)
