"""Images and the boxes of their objects: from folders to batches."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import datasets, images
from apps.common.annotations import name_below
from apps.common.errors import BadInput
from apps.object_detection import annotations, embedded
from apps.object_detection.augmentation import build_augmentation
from apps.object_detection.config import CONFIGS, CROWD, PADDING


@dataclass(frozen=True)
class Examples:
    """Images and the boxes of their objects.

    Attributes:
        names: The names of the images.
        images: The encoded images, bytes, or their paths.
        boxes: x1, y1, x2, y2 in pixels of each upright image, float32 `(objects, 4)`.
        box_classes: The class numbers of each image's boxes, int `(objects,)`.
        is_crowd: Which of each image's boxes are neither trained nor scored, bool
            `(objects,)`.
        classes: The names of the classes.
    """

    names: list[str]
    images: list[bytes | Path]
    boxes: list[np.ndarray]
    box_classes: list[np.ndarray]
    is_crowd: list[np.ndarray]
    classes: tuple[str, ...]

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def image_bytes(self, index):
        """Returns one encoded image."""
        image = self.images[index]
        return image if isinstance(image, bytes) else image.read_bytes()


def load_examples(config, held_out=None):
    """Reads the images and boxes of a data set and completes its splits.

    Missing splits are drawn as `datasets.complete_splits` does.

    Args:
        config: A `Config`.
        held_out: As for `datasets.complete_splits`.

    Returns:
        `datasets.Splits` of `Examples`.

    Raises:
        BadInput: The data cannot be used.
    """
    return _complete_splits(read_splits(config), config, held_out)


def load_split(config, split, is_other_data=False, held_out=None):
    """Returns the `Examples` of one split.

    Args:
        config: A `Config`.
        split: As for `datasets.pick_split`; `all` is everything that the data has.
        is_other_data: Whether it is other data than the model was trained on. Then
            settings that describe the training data are not used. If such data does
            not have this split, all of it is returned.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    if is_other_data:
        config = _other_data(config)
        return datasets.pick_other_split(read_splits(config), split, config.data)
    splits = read_splits(config)
    if split == "all":
        return datasets.join(splits.values())
    if split != "test" or "test" not in splits:
        splits = _complete_splits(splits, config, held_out)
    return datasets.pick_split(splits, split, config.data)


def _other_data(config):
    """Returns the settings for other data than a model was trained on.

    They are those of the preset for the data, if there is one.
    """
    for preset in (make() for make in CONFIGS.values()):
        if datasets.is_same(preset.data, config.data):
            return preset
    return replace(config, classes=())


def _complete_splits(splits, config, held_out):
    """Completes the splits as `load_examples` describes it."""
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has annotations for {next(iter(splits))} but none for "
            "training; add some"
        )
    splits = datasets.complete_splits(splits, config, held_out)
    if all(each.all() for each in splits["train"].is_crowd):
        raise BadInput(f"{config.data} has no box for training; draw some")
    return splits


def read_splits(config):
    """Returns the `Examples` of each split that the data has.

    Files and boxes that cannot be used are reported and skipped.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "scenes":
        return {
            split: _scene_examples(split, scenes)
            for split, scenes in embedded.scenes().items()
        }
    if config.data.startswith("tfds:"):
        return _tensorflow_dataset(config.data.removeprefix("tfds:"))
    root = Path(config.data)
    if not root.is_dir():
        raise BadInput(
            f"there is no folder {root}; pass --data FOLDER with images and boxes"
        )
    found, classes = annotations.read_annotations(root, config.classes)
    return {
        split: _read_images(root, annotated, classes)
        for split, annotated in found.items()
    }


def _scene_examples(split, scenes):
    """Returns the `Examples` of a split of the built-in data set."""
    encoded, boxes, classes = map(list, zip(*scenes, strict=True))
    return Examples(
        [f"{split} scene {i}" for i in range(len(scenes))],
        encoded,
        boxes,
        classes,
        [np.zeros(len(each), bool) for each in classes],
        embedded.CLASSES,
    )


def _read_images(root, annotated, classes):
    """Returns the `Examples` of annotated images, after reading all of them once.

    Images and boxes that cannot be used are reported and skipped.
    """
    numbers = {name: i for i, name in enumerate(classes)}
    rows, clipped, without_area = [], [], []
    for image, file, size in _usable_images(root, annotated):
        name = name_below(root, image.path)
        boxes, is_clipped, has_area = _clip(image, size)
        described = [f"{name} {_numbers(region.box)}" for region in image.regions]
        clipped += itertools.compress(described, is_clipped & has_area)
        without_area += itertools.compress(described, ~has_area)
        regions = list(itertools.compress(image.regions, has_area))
        box_classes = np.array([numbers[each.class_name] for each in regions], int)
        is_crowd = np.array([each.is_crowd for each in regions], bool)
        rows.append((name, file, boxes[has_area], box_classes, is_crowd))
    if not rows:
        raise BadInput(f"{root} has no image that can be used; add some")
    for action, names, reason in (
        ("skipped", without_area, "has no area in the image"),
        ("clipped", clipped, "reaches beyond the image"),
    ):
        datasets.print_skipped([(name, reason) for name in names], "box", action)
    return Examples(*map(list, zip(*rows, strict=True)), classes)


def _usable_images(root, annotated):
    """Reports images that cannot be used.

    Returns:
        For each other image its `Annotated`, the file to decode, and the width and
        height of the upright image.
    """
    files, skipped = images.make_decodable([image.path for image in annotated])
    skipped = [(name_below(root, path), reason) for path, reason in skipped]
    usable = []
    for image, file in zip(annotated, files, strict=True):
        if not file:
            continue
        size = images.upright_size(file.read_bytes())
        if image.size in (None, size):
            usable.append((image, file, size))
        else:
            stated, upright = ("×".join(map(str, each)) for each in (image.size, size))
            name = f"{name_below(root, image.path)} ({stated}, not {upright})"
            skipped.append((name, "was annotated at another size; draw new boxes"))
    datasets.print_skipped(skipped)
    return usable


def _clip(image, size):
    """Clips the boxes of an image to its size.

    Returns:
        The boxes in pixels, float32 `(objects, 4)`; which of them reached more than a
        pixel beyond the image; and which of them have an area inside it.
    """
    limits = np.array([*size, *size], "float32")
    boxes = np.array([region.box for region in image.regions], "float32").reshape(-1, 4)
    if image.are_fractions:
        boxes *= limits
    clipped = boxes.clip(0, limits)
    return (
        clipped,
        (np.abs(boxes - clipped) > 1).any(axis=1),
        (clipped[:, 2:] > clipped[:, :2]).all(axis=1),
    )


def _numbers(box):
    """Returns a box for messages, such as `(3, 1.5, 20, 10)`."""
    return f"({', '.join(f'{number:g}' for number in box)})"


def _tensorflow_dataset(name):
    """Returns the splits of a data set of TensorFlow Datasets; images stay encoded."""
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    sources, features = datasets.read_tensorflow_dataset(
        name,
        ("image", "objects"),
        "object detection",
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    objects = features["objects"]
    if not {"bbox", "label"} <= set(getattr(objects, "keys", tuple)()):
        raise BadInput(
            f"tfds:{name} has no `bbox` and `label` in `objects`; choose another data "
            "set"
        )
    classes = tuple(objects["label"].names)
    return {
        split: _record_examples(f"{name} {split}", records, classes)
        for split, records in sources.items()
    }


def _record_examples(name, records, classes):
    """Returns the `Examples` of records of TensorFlow Datasets."""
    boxes, box_classes, is_crowd = [], [], []
    for record in records:
        objects = record["objects"]
        top, left, bottom, right = objects["bbox"].T  # Fractions.
        width, height = images.upright_size(record["image"])
        sides = (left * width, top * height, right * width, bottom * height)
        boxes.append(np.stack(sides, axis=1).astype("float32"))
        box_classes.append(objects["label"])
        is_object = np.zeros(len(boxes[-1]), bool)
        is_crowd.append(objects.get("is_crowd", objects.get("is_difficult", is_object)))
    return Examples(
        [f"{name} {i}" for i in range(len(records))],
        [record["image"] for record in records],
        boxes,
        box_classes,
        is_crowd,
        classes,
    )


def print_boxes(splits):
    """Prints how many boxes each split has of each class, crowds apart."""
    for split, examples in splits.items():
        classes = np.concatenate([np.empty(0, int), *examples.box_classes])
        is_crowd = np.concatenate([np.empty(0, bool), *examples.is_crowd])
        counts = np.bincount(classes[~is_crowd], minlength=len(examples.classes))
        line = f"  boxes for {split}: {counts.sum()}"
        if counts.any():
            line += f" ({datasets.list_counts(examples.classes, counts)})"
        if is_crowd.any():
            line += f"; crowds and difficult objects: {is_crowd.sum()}"
        if without_boxes := sum(not len(boxes) for boxes in examples.boxes):
            line += f"; images without boxes: {without_boxes}"
        print(line)


def make_batches(examples, config, training=False):
    """Returns batches of images and boxes.

    Args:
        examples: The `Examples` to load.
        config: Gives the batch size, the image size and the augmentation.
        training: Whether to shuffle and to augment.

    Returns:
        A `tf.data.Dataset` of images, float32 `(batch, height, width, 3)` from 0 to
        255, and a dictionary: `boxes`, float32 `(batch, n, 4)`, x1, y1, x2, y2 in
        pixels of these images; and `classes`, int32 `(batch, n)`, `CROWD` for regions
        that are not trained and `PADDING` for the rows of images with fewer boxes.
    """
    height, width = config.image_size

    def read(i):
        classes = np.where(examples.is_crowd[i], CROWD, examples.box_classes[i])
        return examples.image_bytes(i), examples.boxes[i], classes.astype("int32")

    def load(i):
        image_bytes, boxes, classes = tf.numpy_function(
            read, [i], (tf.string, tf.float32, tf.int32)
        )
        image = images.decode_image(image_bytes)
        rows, columns = tf.unstack(tf.shape(image)[:2])
        image, (inner_rows, inner_columns) = images.fit_image(image, height, width)
        scale = tf.stack([inner_columns / columns, inner_rows / rows] * 2)
        boxes = tf.ensure_shape(boxes, (None, 4)) * tf.cast(scale, tf.float32)
        classes = tf.ensure_shape(classes, (None,))
        return tf.cast(tf.round(image), tf.uint8), boxes, classes

    def finish(pixels, boxes, classes):
        return tf.cast(pixels, tf.float32), {"boxes": boxes, "classes": classes}

    dataset = images.load_and_shuffle(
        tf.data.Dataset.range(len(examples)),
        load,
        num_bytes=len(examples) * 3 * height * width,
        seed=config.seed if training else None,
    )
    batches = dataset.padded_batch(
        config.batch_size,
        padded_shapes=((height, width, 3), (None, 4), (None,)),
        padding_values=(None, None, PADDING),
    )
    if training:
        augment = build_augmentation(config)
        batches = batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
