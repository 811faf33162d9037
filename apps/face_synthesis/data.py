"""Images and their attributes: from files to batches."""

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import annotations, datasets, images
from apps.common.errors import BadInput, closest
from apps.common.text import read_header, read_table
from apps.face_synthesis import embedded
from apps.face_synthesis.attributes import MISSING, encode

# Tables of attributes that are found by their names.
TABLES = ("attributes.csv", "attributes.tsv", "labels.csv", "labels.tsv")
SPLIT_COLUMN = "split"  # If a table has it, it divides the images.
FEW_IMAGES = 50


@dataclass(frozen=True)
class Examples:
    """Images and their attributes.

    Attributes:
        names: The names of the images; relative paths if they are files.
        images: The encoded images, bytes, or their paths.
        attributes: The values of the attributes of each image, texts in the order of
            `columns`; empty where they are missing.
        columns: The names of the attributes.
    """

    names: list[str]
    images: list[bytes | Path]
    attributes: list[tuple[str, ...]]
    columns: tuple[str, ...]

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def image_bytes(self, index):
        """Returns one encoded image."""
        image = self.images[index]
        return image if isinstance(image, bytes) else image.read_bytes()


def load_examples(config, held_out=None):
    """Reads the images and attributes of a data set and completes its splits.

    Args:
        config: A `Config`.
        held_out: As for `datasets.complete_splits`.

    Returns:
        `datasets.Splits` of `Examples`.

    Raises:
        BadInput: The data cannot be used.
    """
    splits = read_splits(config)
    if "train" not in splits:
        raise BadInput(
            f"{config.data} has images for {' and '.join(splits)}, but none for train; "
            "add some"
        )
    return datasets.complete_splits(splits, config, held_out)


def load_split(config, split, is_other_data=False, held_out=None):
    """Returns the `Examples` of one split.

    Args:
        config: A `Config`.
        split: As for `datasets.pick_split`.
        is_other_data: Whether it is other data than the model was trained on. Nothing
            is held out of such data; see `datasets.pick_other_split`.
        held_out: As for `datasets.complete_splits`.

    Raises:
        BadInput: The data cannot be used.
    """
    if is_other_data:
        return datasets.pick_other_split(read_splits(config), split, config.data)
    return datasets.pick_split(load_examples(config, held_out), split, config.data)


def read_splits(config):
    """Returns the `Examples` of each split that the data has.

    Images that cannot be used are reported and skipped, and so are rows of attributes
    without an image.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "drawn_faces":
        return {
            split: _make_examples(
                [f"{split} face {i}" for i in range(len(faces))],
                [image for image, _ in faces],
                [
                    dict(zip(embedded.COLUMNS, values, strict=True))
                    for _, values in faces
                ],
                _choose_columns(embedded.COLUMNS, config, "the built-in data"),
                config,
            )
            for split, faces in embedded.faces().items()
        }
    if config.data.startswith("tfds:"):
        return _tensorflow_dataset(config)
    return _folder(Path(config.data), config)


def keep_complete(splits, attributes):
    """Leaves out images that lack an attribute, and reports them.

    Args:
        splits: The `Examples` by split, which are replaced.
        attributes: A tuple of `Attribute`; without any, all images stay.

    Returns:
        By split the attributes of the images, as `attributes.encode` returns them.

    Raises:
        BadInput: A split has no image left.
    """
    kept = {}
    for split, examples in splits.items():
        codes = encode(attributes, examples)
        datasets.print_skipped(
            (
                (examples.names[i], f"has no known {attributes[j].name}")
                for i, j in np.argwhere(codes == MISSING)
            ),
            "image",
        )
        complete = np.flatnonzero((codes != MISSING).all(axis=1))
        if not len(complete):
            raise BadInput(
                f"no image for {split} has all attributes; complete them, or name "
                "fewer with --columns"
            )
        splits[split], kept[split] = datasets.take(examples, complete), codes[complete]
    return kept


def print_expectation(examples):
    """Says what to expect if there are few images."""
    if len(examples) < FEW_IMAGES:
        print(
            f"only {len(examples)} images to learn from: the faces will be copies or "
            "mixtures of them, and the scores say little; a few hundred images give "
            "variety, a few thousand good faces"
        )


def make_batches(examples, values, config, training=False):
    """Returns batches of images and attributes.

    Args:
        examples: The `Examples` to load.
        values: The attributes of each, float32 `(examples, values)`, as
            `attributes.one_hot` returns them; 0 columns for none.
        config: Gives the batch size, the size of images and the steps of an epoch.
        training: Whether to shuffle, and to repeat the images until they fill an epoch.

    Returns:
        A `tf.data.Dataset` of `(batch, size, size, 3)` images, uint8, and `(batch,
        values)` attributes.
    """
    size, batch_size = config.image_size, config.batch_size
    is_encoded = isinstance(examples.images[0], bytes)
    sources = tf.constant(
        examples.images if is_encoded else list(map(str, examples.images))
    )
    # Small sets are repeated before they are shuffled, so that the order of an epoch
    # depends on its number alone.
    repeats = 1
    if training:
        repeats = -(-config.steps_per_epoch * batch_size // len(examples))

    def load(source, value):
        image_bytes = tf.gather(sources, source)
        image_bytes = image_bytes if is_encoded else tf.io.read_file(image_bytes)
        image = images.decode_image(image_bytes)
        image = images.resize_image(image, size, config.resize)
        return tf.cast(tf.round(image), tf.uint8), value

    dataset = images.load_and_shuffle(
        tf.data.Dataset.from_tensor_slices(
            (np.tile(np.arange(len(examples)), repeats), np.tile(values, (repeats, 1)))
        ),
        load,
        num_bytes=repeats * len(examples) * 3 * size**2,
        seed=config.seed if training else None,
    )
    return dataset.batch(batch_size, drop_remainder=training).prefetch(2)


def load_pixels(examples, config):
    """Returns the images of examples as a model draws them.

    Args:
        examples: The `Examples` to load.
        config: Gives the size of images and how they are resized.

    Returns:
        uint8 `(examples, size, size, 3)`.
    """
    batches = make_batches(examples, np.zeros((len(examples), 0), "float32"), config)
    return np.concatenate([images.numpy() for images, _ in batches])


def _folder(root, config):
    """Returns the splits of a folder of images."""
    if not root.is_dir():
        raise BadInput(f"there is no folder {root}; pass --data a folder of images")
    table = _find_table(root, config)
    paths = [path for path in images.list_files(root) if path != table]
    files, skipped = images.make_decodable(paths)
    datasets.print_skipped(
        (annotations.name_below(root, path), reason) for path, reason in skipped
    )
    usable = {
        annotations.name_below(root, path): file
        for path, file in zip(paths, files, strict=True)
        if file
    }
    if not usable:
        raise BadInput(f"{root} has no image that can be read; add images of faces")
    columns, rows = _read_attributes(table, list(usable), config) if table else ((), {})
    split_of = {
        name: split for split, names in datasets.SPLIT_NAMES.items() for name in names
    }
    names = {}
    for name in usable:
        folder = Path(name).parts[0].lower()
        split = rows.get(name, {}).get(SPLIT_COLUMN, "").lower()
        if split and split not in split_of:
            raise BadInput(
                f"{table} has the split '{split}' for {name}; write "
                f"{', '.join(datasets.SPLIT_NAMES)}"
            )
        split = split_of.get(split or folder, "train")
        names.setdefault(split, []).append(name)
    return {
        split: _make_examples(
            chosen,
            [usable[name] for name in chosen],
            [rows.get(name, {}) for name in chosen],
            columns,
            config,
        )
        for split, chosen in names.items()
    }


def _find_table(root, config):
    """Returns the path of the table of attributes, or None.

    Raises:
        BadInput: The settings name a table or columns, and there is none.
    """
    if config.attribute_file:
        path = Path(config.attribute_file)
        if not path.is_file():
            raise BadInput(f"there is no file --attribute-file {path}; correct it")
        return path
    found = [root / name for name in TABLES if (root / name).is_file()]
    if not found and config.columns:
        raise BadInput(
            f"{root} has none of {', '.join(TABLES)}; name the table of the attributes "
            "with --attribute-file"
        )
    return next(iter(found), None)


def _read_attributes(path, image_names, config):
    """Reads a table of attributes.

    Args:
        path: The table.
        image_names: The names of the images in the folder.
        config: Gives the names of the columns.

    Returns:
        The columns of the attributes; and by image its row, a dictionary of texts.

    Raises:
        BadInput: The table cannot be used.
    """
    header = read_header(path, [config.image_column])
    if config.image_column not in header:
        raise BadInput(
            f"{path} has no column '{config.image_column}', only {', '.join(header)}; "
            "name that of the images with --image-column"
        )
    for name, count in Counter(filter(None, header)).items():
        if count > 1:
            raise BadInput(f"{path} has {count} columns '{name}'; rename them")
    split_columns = [name for name in header if name.lower() == SPLIT_COLUMN]
    others = {config.image_column, *split_columns}
    columns = _choose_columns(
        [name for name in header if name and name not in others], config, path
    )
    read = [config.image_column, *columns, *split_columns[:1]]
    # A table may name images without their folders, if that is enough.
    files = Counter(Path(name).name for name in image_names)
    known = {
        Path(name).name: name for name in image_names if files[Path(name).name] == 1
    }
    known |= {name: name for name in image_names}
    rows, skipped = {}, []
    for line, (name, *values) in read_table(path, dict(zip(read, read, strict=True))):
        if name not in known:
            skipped.append(
                (f"line {line}, {name or 'empty'}", "there is no such image")
            )
        elif known[name] in rows:
            skipped.append((f"line {line}, {name}", "the image has a row already"))
        else:
            texts = (value.strip() for value in values)
            keys = [*columns, SPLIT_COLUMN][: len(values)]
            rows[known[name]] = dict(zip(keys, texts, strict=True))
    datasets.print_skipped(skipped, "row")
    return columns, rows


def _choose_columns(known, config, where):
    """Returns the columns of the attributes, of all that there are.

    Raises:
        BadInput: The settings name another one.
    """
    for name in config.columns:
        if name not in known:
            raise BadInput(f"{where} has no column '{name}'{closest(name, known)}")
    return tuple(dict.fromkeys(config.columns)) or tuple(known)


def _make_examples(names, files, rows, columns, config):
    """Returns `Examples`.

    Args:
        names: The names of the images.
        files: The images, bytes or paths.
        rows: A dictionary with the texts of the attributes of each.
        columns: The columns of the attributes.
        config: Gives other names of values.

    Raises:
        BadInput: A name of a value is not of the right form.
    """
    renamed = dict(map(_parse_value_name, config.value_names))
    for column, _ in renamed:
        if column not in columns:
            raise BadInput(
                f"--value-names names the column '{column}'{closest(column, columns)}"
            )

    def value(row, column):
        text = row.get(column, "")
        return renamed.get((column, text), text)

    attributes = [tuple(value(row, column) for column in columns) for row in rows]
    return Examples(list(names), list(files), attributes, tuple(columns))


def _parse_value_name(text):
    """Returns the column, the code and the name in `gender:0=male`.

    Raises:
        BadInput: The text has another form.
    """
    column, colon, rest = text.partition(":")
    code, equals, name = rest.partition("=")
    if not (column and colon and code and equals and name):
        raise BadInput(
            f"--value-names {text} has not the form of gender:0=male; correct it"
        )
    return (column, code), name


def _tensorflow_dataset(config):
    """Returns the examples of a data set of TensorFlow Datasets, by split.

    Its features that are classes, numbers or truth values are attributes, and so are
    those in a dictionary named `attributes`.

    Raises:
        BadInput: The data set cannot be used.
    """
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    name = config.data.removeprefix("tfds:")
    records_of, features = datasets.read_tensorflow_dataset(
        name,
        ("image",),
        "face synthesis",
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    features = dict(features.items())
    nested = features.get("attributes", {})
    known = {
        column: feature
        for column, feature in itertools.chain(features.items(), nested.items())
        if column != "image" and getattr(feature, "shape", None) == ()
    }
    columns = _choose_columns(list(known), config, config.data)

    def text(record, column):
        value = record[column] if column in record else record["attributes"][column]
        if hasattr(known[column], "int2str"):
            return known[column].int2str(int(value)) if value >= 0 else ""
        return value.decode() if isinstance(value, bytes) else str(value.item())

    return {
        split: _make_examples(
            [f"{name} {split} {i}" for i in range(len(records))],
            [record["image"] for record in records],
            [
                {column: text(record, column) for column in columns}
                for record in records
            ],
            columns,
            config,
        )
        for split, records in records_of.items()
    }
