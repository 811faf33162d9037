"""Images and their masks, from wherever they are to batches."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

from apps.common import images
from apps.common.datasets import SPLIT_NAMES
from apps.common.errors import BadInput
from apps.semantic_segmentation.config import class_name

TEST_FRACTION = 0.2
VOID = 255
CACHE_BYTES = 2 * 2**30  # Decoded images that take less are kept in memory.


@dataclass(frozen=True)
class Examples:
    """Images and their index masks.

    Attributes:
        names: What each image is called.
        images: Encoded images, or their paths.
        masks: Encoded masks, or their paths.
        void: Number in the masks of pixels that do not count.
    """

    names: list[str]
    images: list
    masks: list
    void: int = VOID

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def __getitem__(self, indices):
        """Returns the examples at these indices."""
        return Examples(
            *(
                [each[i] for i in indices]
                for each in (self.names, self.images, self.masks)
            ),
            self.void,
        )

    def image_bytes(self, index):
        """Returns one encoded image."""
        return read(self.images[index])

    def mask(self, index):
        """Returns the class of every pixel, uint8 `(height, width)`; 255 is void."""
        mask = decode_mask(read(self.masks[index]))
        mask[mask == self.void] = VOID
        return mask


def read(source):
    """Returns the bytes of a path, or bytes as they are."""
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def decode_mask(mask_bytes):
    """Decodes an index mask to uint8 `(height, width)`."""
    with Image.open(io.BytesIO(mask_bytes)) as mask:
        return np.array(mask).astype("uint8")


def load_examples(config):
    """Finds the images and masks of a data set and splits them.

    Splits that the data has are kept: a `test` folder is for testing, a `val` folder
    chooses the best epoch. With only a `val` folder, that one is for testing. What is
    missing is held out from the training images: a fifth for testing, then what
    `Config.held_out` and `Config.validation_fraction` say.

    Args:
        config: A `Config`.

    Returns:
        The `Examples` of `train`, `validation` and `test`, and the classes: their names
        and colours, as `Config.classes` has them. `validation` is empty if the last
        epoch is to be kept.

    Raises:
        BadInput: The data cannot be used.
    """
    splits, classes = find_examples(config)
    return complete(splits, config), classes


def complete(splits, config):
    """Holds out of the training images what the data has no split for.

    Args:
        splits: From `find_examples`.
        config: A `Config`.

    Returns:
        The `Examples` of `train`, `validation` and `test`.

    Raises:
        BadInput: There are too few training images.
    """
    splits = dict(splits)
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has a folder for {next(iter(splits))} but none to learn "
            "from; add `train` and `trainannot`, or `train/images` and `train/masks`"
        )
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out(
            splits["train"], TEST_FRACTION, config
        )
    if config.held_out == "none":
        splits["validation"] = splits["train"][[]]
    elif config.held_out:
        chosen = [name.startswith(config.held_out) for name in splits["train"].names]
        if not any(chosen) or all(chosen):
            raise BadInput(
                f"--held-out {config.held_out}: "
                f"{'all' if any(chosen) else 'none'} of the {len(chosen)} training "
                f"images begin so; choose another beginning than that of "
                f"{splits['train'].names[0]}, or `none`"
            )
        splits["validation"] = splits["train"][np.flatnonzero(chosen)]
        splits["train"] = splits["train"][np.flatnonzero(np.logical_not(chosen))]
    elif "validation" not in splits:
        splits["train"], splits["validation"] = hold_out(
            splits["train"], config.validation_fraction, config
        )
    return splits


def find_examples(config):
    """Returns the `Examples` of each split that the data itself has, and the classes.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "scenes":
        return scenes(), SCENE_CLASSES
    root = Path(config.data)
    if not root.is_dir():
        raise BadInput(
            f"there is no folder {root}; pass --data FOLDER with images and masks"
        )
    classes = config.classes or read_classes(root)
    names = [class_name(line) for line in classes]
    if not 2 <= len(names) <= VOID or len(set(names)) < len(names):
        raise BadInput(
            f"{config.data} has the classes {', '.join(names) or 'none'}; give 2 to "
            f"{VOID} different names, in classes.txt or by --classes"
        )
    return {
        split: check(root, pairs, classes, config.void)
        for split, pairs in find_splits(root).items()
    }, classes


def read_classes(root: Path):
    """Returns the lines of `classes.txt`.

    Raises:
        BadInput: There is no such file, or it is no text.
    """
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


def find_splits(root: Path):
    """Returns the pairs of image and mask paths of each split."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            for image_folder, mask_folder in (
                (root / name, root / f"{name}annot"),
                (root / name / "images", root / name / "masks"),
            ):
                if image_folder.is_dir() and mask_folder.is_dir():
                    found[split] = pair(image_folder, mask_folder)
    if not found and (root / "images").is_dir() and (root / "masks").is_dir():
        found["train"] = pair(root / "images", root / "masks")
    if not found:
        raise BadInput(
            f"{root} has no images and masks; expected the folders `images` "
            "and `masks`, `train` and `trainannot`, or `train/images` and `train/masks`"
        )
    return found


def pair(image_folder: Path, mask_folder: Path):
    """Returns the images and masks that have the same name.

    Raises:
        BadInput: None have.
    """
    masks = {path.stem: path for path in images.list_images(mask_folder)}
    found = images.list_images(image_folder)
    pairs = [(path, masks[path.stem]) for path in found if path.stem in masks]
    if not pairs:
        examples = ", ".join(
            path.name for path in (*found[:1], *list(masks.values())[:1])
        )
        raise BadInput(
            f"no mask in {mask_folder} has the name of an image in {image_folder}"
            f"{f' ({examples})' if examples else ''}; name each mask like its image"
        )
    for path in found:
        if path.stem not in masks:
            print(f"skipped: {path} has no mask in {mask_folder}", file=sys.stderr)
    return pairs


def check(root, pairs, classes, void):
    """Reads every image and mask once; skips unreadable images and names them.

    Returns:
        The `Examples`.

    Raises:
        BadInput: A mask cannot be used.
    """
    readable, problems = images.skip_unreadable([image for image, _ in pairs])
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    pairs = [pair for pair, good in zip(pairs, readable, strict=True) if good]
    if not pairs:
        raise BadInput(f"{root} has no readable image; add some")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda pair: check_mask(*pair, len(classes), void), pairs))
    return Examples(
        [image.name for image, _ in pairs],
        [image for image, _ in pairs],
        [mask for _, mask in pairs],
        void,
    )


def check_mask(image_path, mask_path, num_classes, void):
    """Refuses a mask that does not belong to its image or to the classes.

    Raises:
        BadInput: It is unreadable, in colour, of another size, or has other numbers.
    """
    try:
        with Image.open(mask_path) as mask:
            mask.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise BadInput(f"{mask_path} cannot be read ({error}); replace it") from error
    with Image.open(image_path) as image:
        size = image.size
    if mask.mode not in ("L", "P", "1"):
        raise BadInput(
            f"{mask_path} is a {mask.mode} image, but a mask is an 8-bit PNG that "
            "holds the number of a class in each pixel; convert colours, in Python, by "
            "np.abs(rgb[..., None, :].astype(int) - colors).sum(-1).argmin(-1)"
            ".astype('uint8')"
        )
    if mask.size != size:
        raise BadInput(
            f"{mask_path} has {mask.width}×{mask.height} pixels, but its image "
            f"{image_path.name} has {size[0]}×{size[1]}; make them alike, resizing "
            "masks without interpolation"
        )
    numbers = np.unique(np.array(mask))
    wrong = [n for n in numbers if n >= num_classes and n not in (void, VOID)]
    if wrong:
        raise BadInput(
            f"{mask_path} holds the number {wrong[0]}, but there are {num_classes} "
            f"classes, 0 to {num_classes - 1}; mend the mask, name more classes, or "
            f"pass --void {wrong[0]} if it marks pixels that nobody labelled"
        )


def hold_out(examples, fraction, config):
    """Splits off a share of the examples at random."""
    if len(examples) < 3:
        raise BadInput(
            f"{config.data} has {len(examples)} images with masks to learn from; add "
            "more, so that some can be held out"
        )
    kept, taken = train_test_split(
        np.arange(len(examples)),
        test_size=max(1, round(fraction * len(examples))),
        random_state=config.seed,
    )
    return examples[kept], examples[taken]


def load_split(config, split):
    """Returns the examples of one split, or of `all`, and the classes."""
    given, classes = find_examples(config)
    if split == "all":
        fields = ("names", "images", "masks")
        joined = (
            [each for part in given.values() for each in getattr(part, name)]
            for name in fields
        )
        return Examples(*joined, config.void), classes
    if split == "test" and "test" in given:
        return given["test"], classes
    examples = complete(given, config)[split]
    if not len(examples):
        raise BadInput(f"{config.data} has no images for {split}; choose another split")
    return examples, classes


def count_pixels(examples, num_classes):
    """Returns how many pixels each class has, int `(classes,)`."""
    with ThreadPoolExecutor() as pool:
        counts = pool.map(
            lambda i: np.bincount(examples.mask(i).ravel(), minlength=VOID + 1),
            range(len(examples)),
        )
        return sum(counts)[:num_classes]


def make_batches(examples, config, training=False):
    """Returns batches of images and masks.

    Args:
        examples: What to load.
        config: Gives the sizes, the batch size and the augmentation.
        training: Whether to shuffle and to augment.

    Returns:
        A `tf.data.Dataset` of `(batch, height, width, 3)` images from 0 to 255 and
        `(batch, height, width)` class numbers, 255 being void.
    """
    height, width = config.image_size

    def read_pair(i):
        return examples.image_bytes(i), examples.mask(i)

    def load(i):
        image_bytes, mask = tf.numpy_function(read_pair, [i], (tf.string, tf.uint8))
        image, (rows, columns) = images.fit_image(
            images.decode_image(image_bytes), height, width
        )
        mask = tf.ensure_shape(mask, (None, None))[..., None]
        mask = tf.image.resize(mask, (rows, columns), "nearest")
        padding = ((0, height - rows), (0, width - columns), (0, 0))
        mask = tf.pad(mask, padding, constant_values=VOID)
        return tf.cast(tf.round(image), tf.uint8), tf.ensure_shape(
            mask, (height, width, 1)
        )

    def shuffle(dataset):
        return dataset.shuffle(len(examples), seed=config.seed) if training else dataset

    def finish(pictures, masks):
        return tf.cast(pictures, tf.float32), tf.cast(masks[..., 0], tf.int32)

    loaded = tf.data.Dataset.range(len(examples))
    if len(examples) * 4 * height * width <= CACHE_BYTES:
        loaded = loaded.map(load, num_parallel_calls=tf.data.AUTOTUNE).cache()
        loaded = shuffle(loaded)
    else:
        loaded = shuffle(loaded).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    batches = loaded.batch(config.batch_size)
    if training:
        change = build_augmentation(config)
        batches = batches.map(change, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def build_augmentation(config):
    """Returns a function that changes a batch of images and masks at random.

    Each pair is enlarged, cropped and mirrored alike; what lies outside is grey in the
    image and void in the mask.
    """
    recolor = images.color_jitter(config.color, config.seed)
    share_of_canvas = np.divide(config.crop, config.image_size).astype("float32")

    def change(pictures, masks):
        batch = tf.shape(pictures)[0]
        low, high = np.log(config.scale)
        scale = tf.exp(tf.random.uniform([batch, 1], low, high))
        share = share_of_canvas / scale  # Of the height and of the width.
        start = tf.random.uniform([batch, 2]) * (1 - share)
        top, left = tf.unstack(start, axis=1)
        bottom, right = tf.unstack(start + share, axis=1)
        if config.flip:
            mirrored = tf.random.uniform([batch]) < 0.5
            left, right = tf.unstack(tf.where(mirrored, [right, left], [left, right]))
        boxes = tf.stack([top, left, bottom, right], axis=1)

        def cut(batch_of_maps, method, outside):
            return tf.image.crop_and_resize(
                batch_of_maps, boxes, tf.range(batch), config.crop, method, outside
            )

        pictures = cut(pictures, "bilinear", 127.5)
        masks = tf.cast(cut(masks, "nearest", VOID), tf.uint8)
        if config.color:
            pictures = recolor(pictures, training=True)
        return pictures, masks

    return change


SCENE_CLASSES = ("background #303030", *(f"digit {i}" for i in range(10)))
SCENE_SIZE = 64
SCENES = 640


def scenes(number=SCENES, seed=0):
    """Draws handwritten digits into cut-outs of photographs; their masks are exact.

    The test scenes show other digits, on other parts of the photographs.

    Args:
        number: How many scenes to draw; a fifth of them is for testing.
        seed: Decides what they show.
    """
    digits = load_digits()
    photographs = load_sample_images().images
    random = np.random.default_rng(seed)
    splits = {}
    for split, share in (("train", 0.8), ("test", 0.2)):
        unseen = np.arange(len(digits.images)) % 5 == 0
        chosen = np.flatnonzero(unseen if split == "test" else ~unseen)
        grounds = [
            photo[:, :480] if split == "train" else photo[:, 480:]
            for photo in photographs
        ]
        drawn = [
            draw_scene(random, digits, chosen, grounds)
            for _ in range(round(share * number))
        ]
        splits[split] = Examples(
            [f"{split} scene {i}" for i in range(len(drawn))],
            [png(picture) for picture, _ in drawn],
            [png(mask) for _, mask in drawn],
        )
    return splits


def draw_scene(random, digits, chosen, grounds):
    """Returns one scene, uint8 `(64, 64, 3)`, and its mask, uint8 `(64, 64)`.

    In each quarter of a darkened photograph there is room for one bright digit.
    """
    ground = grounds[random.integers(len(grounds))]
    top = random.integers(ground.shape[0] - SCENE_SIZE)
    left = random.integers(ground.shape[1] - SCENE_SIZE)
    scene = ground[top : top + SCENE_SIZE, left : left + SCENE_SIZE] * 0.6
    mask = np.zeros((SCENE_SIZE, SCENE_SIZE), "uint8")
    room = SCENE_SIZE // 2
    for quarter in random.permutation(4)[: random.integers(2, 5)]:
        i = random.choice(chosen)
        size = random.integers(22, room + 1)
        ink = Image.fromarray(digits.images[i].astype("float32"))
        ink = np.array(ink.resize((size, size), Image.Resampling.BICUBIC)) > 7
        y = room * (quarter // 2) + random.integers(room - size + 1)
        x = room * (quarter % 2) + random.integers(room - size + 1)
        scene[y : y + size, x : x + size][ink] = random.uniform(150, 255, 3)
        mask[y : y + size, x : x + size][ink] = 1 + digits.target[i]
    scene += random.normal(0, 8, scene.shape)
    return scene.clip(0, 255).astype("uint8"), mask


def png(pixels):
    """Returns an image or a mask as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
