"""Images and their masks: from folders to batches."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from apps.common import datasets, images
from apps.common.errors import BadInput
from apps.semantic_segmentation import annotations, embedded
from apps.semantic_segmentation.config import CONFIGS, VOID, class_name


@dataclass(frozen=True)
class Examples:
    """Images and their masks.

    Attributes:
        names: The names of the images.
        images: The encoded images, bytes, or their paths.
        masks: The encoded masks, bytes, or their paths. A mask holds a class number in
            each pixel.
        classes: As in `Config.classes`.
        void: As in `Config.void`.
    """

    names: list[str]
    images: list[bytes | Path]
    masks: list[bytes | Path]
    classes: tuple[str, ...]
    void: int = VOID

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def image_bytes(self, index):
        """Returns one encoded image."""
        return _read(self.images[index])

    def mask(self, index):
        """Returns one mask, uint8 `(height, width)`; unlabelled pixels are 255."""
        mask = decode_mask(_read(self.masks[index]))
        mask[mask == self.void] = VOID
        return mask


def _read(source):
    """Returns the content of a file, given the content itself or the path."""
    return source if isinstance(source, bytes) else source.read_bytes()


def decode_mask(mask_bytes):
    """Decodes a mask to class numbers, uint8 `(height, width)`."""
    with Image.open(io.BytesIO(mask_bytes)) as mask:
        return np.array(mask).astype("uint8")


def load_examples(config, held_out=None):
    """Reads the images and masks of a data set and completes its splits.

    `config.validation_prefix` can choose the validation images. Otherwise missing
    splits are drawn as `datasets.complete_splits` does.

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
    has_classes = (Path(config.data) / "classes.txt").exists()
    classes = () if has_classes else config.classes
    return replace(config, classes=classes, validation_prefix=None)


def _complete_splits(splits, config, held_out):
    """Completes the splits as `load_examples` describes it."""
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has a folder for {next(iter(splits))} but none for "
            "training; add `train` and `trainannot`, or `train/images` and "
            "`train/masks`"
        )
    splits = datasets.hold_out_test(splits, config, held_out)
    prefix, train = config.validation_prefix, splits["train"]
    if prefix is None:
        return datasets.hold_out_validation(splits, config, held_out)
    if prefix == "none":
        splits["validation"] = datasets.take(train, [])
        return splits
    is_chosen = np.array([name.startswith(prefix) for name in train.names])
    if is_chosen.all() or not is_chosen.any():
        raise BadInput(
            f"--validation-prefix {prefix}: {'all' if is_chosen.all() else 'none'} of "
            f"the {len(train)} training images have it in their names, which are like "
            f"{train.names[0]}; pass another prefix, or `none`"
        )
    splits["validation"] = datasets.take(train, np.flatnonzero(is_chosen))
    splits["train"] = datasets.take(train, np.flatnonzero(~is_chosen))
    return splits


def read_splits(config):
    """Returns the `Examples` of each split that the data has.

    Files that cannot be used are reported and skipped.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "scenes":
        return {
            split: Examples(
                [f"{split} scene {i}" for i in range(len(pairs))],
                *map(list, zip(*pairs, strict=True)),
                embedded.CLASSES,
            )
            for split, pairs in embedded.scenes().items()
        }
    root = Path(config.data)
    if not root.is_dir():
        raise BadInput(
            f"there is no folder {root}; pass --data FOLDER with images and masks"
        )
    found, classes = _find_splits(root), config.classes
    if found or (root / "classes.txt").exists():
        classes = classes or _read_classes(root)
    if not found:
        found, classes = annotations.read_annotations(root, classes)
    if not found:
        raise BadInput(
            f"{root} has no images and masks; expected the folders `images` and "
            "`masks`, `train` and `trainannot`, or `train/images` and `train/masks`, "
            "or annotations of Pascal VOC, LabelMe or COCO"
        )
    names = list(map(class_name, classes))
    if not 2 <= len(names) <= VOID or len(set(names)) < len(names):
        raise BadInput(
            f"{root} has the classes {', '.join(names) or 'none'}; give 2 to {VOID} "
            "different names, in classes.txt or by --classes"
        )
    return {
        split: _read_pairs(root, pairs, classes, config.void)
        for split, pairs in found.items()
    }


def _read_classes(root):
    """Returns the lines of `classes.txt`, without empty ones."""
    path = root / "classes.txt"
    if not path.is_file():
        raise BadInput(
            f"{path} is missing; write the name of one class per line, in the order of "
            "the numbers in the masks"
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text; save it as UTF-8") from error
    return tuple(line.strip() for line in lines if line.strip())


def _find_splits(root):
    """Returns names, images and masks, as `_find_pairs` does, by split.

    It is empty if there is no folder of masks.
    """
    splits, folders = {}, []
    for split, names in datasets.SPLIT_NAMES.items():
        for name in names:
            for pair in (
                (root / name, root / f"{name}annot"),
                (root / name / "images", root / name / "masks"),
            ):
                if all(folder.is_dir() for folder in pair):
                    splits[split] = _find_pairs(*pair, root)
                    folders += pair
    pair = (root / "images", root / "masks")
    if not splits and all(folder.is_dir() for folder in pair):
        splits["train"] = _find_pairs(*pair, root)
        folders += pair
    if not splits and (root / "SegmentationClass").is_dir():
        return _find_voc(root)
    if not splits:
        return {}
    datasets.print_skipped(
        (_name(path, root), "is in no folder of images or masks")
        for path in images.list_files(root)
        if not any(map(path.is_relative_to, [root / "classes.txt", *folders]))
    )
    return splits


def _find_voc(root):
    """Returns what `_find_splits` does of a folder as Pascal VOC has it."""
    pairs = _find_pairs(root / "JPEGImages", root / "SegmentationClass", root)
    splits, listed = {}, set()
    for split, names in datasets.SPLIT_NAMES.items():
        for name in names:
            path = root / f"ImageSets/Segmentation/{name}.txt"
            if path.is_file():
                chosen = set(path.read_text("utf-8").split())
                splits[split] = [row for row in pairs if Path(row[0]).stem in chosen]
                listed |= chosen
    if not splits:
        return {"train": pairs}
    datasets.print_skipped(
        (row[0], "is in no list of ImageSets/Segmentation")
        for row in pairs
        if Path(row[0]).stem not in listed
    )
    return {split: rows for split, rows in splits.items() if rows}


def _find_pairs(image_folder, mask_folder, root):
    """Finds images and masks of the same name; reports files that have no partner.

    Returns:
        For each image its path below its folder, its path, and the path of its mask.
    """
    masks = {
        path.relative_to(mask_folder).with_suffix(""): path
        for path in images.list_files(mask_folder)
    }
    image_paths = images.list_files(image_folder)
    found = []
    for path in image_paths:
        name = path.relative_to(image_folder)
        if name.with_suffix("") in masks:
            found.append((name.as_posix(), path, masks[name.with_suffix("")]))
    if not found:
        some = (*image_paths[:1], *list(masks.values())[:1])
        names = f" ({', '.join(path.name for path in some)})" if some else ""
        raise BadInput(
            f"no mask in {mask_folder} has the name of an image in {image_folder}"
            f"{names}; name each mask like its image"
        )
    paired = {path for row in found for path in row[1:]}
    for paths, partner in ((image_paths, "mask"), (masks.values(), "image")):
        datasets.print_skipped(
            (_name(path, root), f"has no {partner} of the same name")
            for path in paths
            if path not in paired
        )
    return found


def _name(path, root):
    """Returns the path of a file below `root`."""
    return path.relative_to(root).as_posix()


def _read_pairs(root, pairs, classes, void):
    """Returns the `Examples` of images and masks, after reading all of them once.

    Unreadable images are reported and skipped.
    """
    names, paths, masks = zip(*pairs, strict=True)
    files, skipped = images.make_decodable(paths)
    datasets.print_skipped((_name(path, root), reason) for path, reason in skipped)
    examples = Examples(list(names), files, list(masks), classes, void)
    examples = datasets.take(examples, [i for i, file in enumerate(files) if file])
    if not len(examples):
        raise BadInput(f"{root} has no readable image; add some")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda i: _check_mask(examples, i), range(len(examples))))
    return examples


def _check_mask(examples, index):
    """Checks that a mask fits its image and the classes."""
    mask_path = examples.masks[index]
    if isinstance(mask_path, bytes):
        mask_path = f"the annotation of {examples.names[index]}"
    try:
        with Image.open(io.BytesIO(_read(examples.masks[index]))) as mask:
            mask.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise BadInput(f"{mask_path} cannot be read ({error}); replace it") from error
    if mask.mode not in ("L", "P", "1"):
        raise BadInput(
            f"{mask_path} is a {mask.mode} image, but a mask is an 8-bit PNG that "
            "holds a class number in each pixel; convert colours in Python: "
            "np.abs(rgb[..., None, :].astype(int) - colors).sum(-1).argmin(-1)"
            ".astype('uint8')"
        )
    size = images.upright_size(examples.image_bytes(index))
    if mask.size != size:
        raise BadInput(
            f"{mask_path} has {mask.width}×{mask.height} pixels, but its image "
            f"{examples.names[index]} has {size[0]}×{size[1]} when it is upright; "
            "resize or turn the mask without interpolation"
        )
    num_classes = len(examples.classes)
    numbers = np.unique(np.array(mask))
    wrong = [n for n in numbers if n >= num_classes and n not in (examples.void, VOID)]
    if wrong:
        raise BadInput(
            f"{mask_path} holds the number {wrong[0]}, but there are {num_classes} "
            f"classes, 0 to {num_classes - 1}; fix the mask, name more classes, or "
            f"pass --void {wrong[0]} if it marks unlabelled pixels"
        )


def count_pixels(examples):
    """Returns the number of pixels of each class, int `(classes,)`."""
    with ThreadPoolExecutor() as pool:
        counts = pool.map(
            lambda i: np.bincount(examples.mask(i).ravel(), minlength=VOID + 1),
            range(len(examples)),
        )
        return sum(counts)[: len(examples.classes)]


def make_batches(examples, config, training=False):
    """Returns batches of images and masks.

    Args:
        examples: The `Examples` to load.
        config: Gives the batch size, the image size and the augmentation.
        training: Whether to shuffle and to augment.

    Returns:
        A `tf.data.Dataset` of images, float32 `(batch, height, width, 3)` from 0 to
        255, and masks, int32 `(batch, height, width)`. Unlabelled pixels are 255.
    """
    height, width = config.image_size

    def read(i):
        return examples.image_bytes(i), examples.mask(i)

    def load(i):
        image_bytes, mask = tf.numpy_function(read, [i], (tf.string, tf.uint8))
        image = images.decode_image(image_bytes)
        image, (rows, columns) = images.fit_image(image, height, width)
        mask = tf.ensure_shape(mask, (None, None))[..., None]
        mask = tf.image.resize(mask, (rows, columns), "nearest")
        padding = ((0, height - rows), (0, width - columns), (0, 0))
        mask = tf.pad(mask, padding, constant_values=VOID)
        mask = tf.ensure_shape(mask, (height, width, 1))
        return tf.cast(tf.round(image), tf.uint8), mask

    def finish(pixels, masks):
        return tf.cast(pixels, tf.float32), tf.cast(masks[..., 0], tf.int32)

    dataset = images.load_and_shuffle(
        tf.data.Dataset.range(len(examples)),
        load,
        num_bytes=len(examples) * 4 * height * width,
        seed=config.seed if training else None,
    )
    batches = dataset.batch(config.batch_size)
    if training:
        augment = build_augmentation(config)
        batches = batches.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def build_augmentation(config):
    """Returns a function that changes a batch of images and masks at random.

    It resizes, crops and mirrors each image together with its mask. If the crop reaches
    beyond the image, the image is grey there and the mask is unlabelled.
    """
    jitter_colors = images.color_jitter(config.color, config.seed)
    crop_fraction = np.divide(config.crop, config.image_size).astype("float32")

    def augment(pixels, masks):
        batch = tf.shape(pixels)[0]
        low, high = np.log(config.scale)
        scale = tf.exp(tf.random.uniform([batch, 1], low, high))
        fraction = crop_fraction / scale  # Of the height and of the width.
        start = tf.random.uniform([batch, 2]) * (1 - fraction)
        top, left = tf.unstack(start, axis=1)
        bottom, right = tf.unstack(start + fraction, axis=1)
        if config.flip:
            is_mirrored = tf.random.uniform([batch]) < 0.5
            left, right = tf.unstack(
                tf.where(is_mirrored, [right, left], [left, right])
            )
        boxes = tf.stack([top, left, bottom, right], axis=1)

        def crop(maps, method, outside):
            return tf.image.crop_and_resize(
                maps, boxes, tf.range(batch), config.crop, method, outside
            )

        pixels = crop(pixels, "bilinear", 127.5)
        masks = tf.cast(crop(masks, "nearest", VOID), tf.uint8)
        if config.color:
            pixels = jitter_colors(pixels, training=True)
        return pixels, masks

    return augment
