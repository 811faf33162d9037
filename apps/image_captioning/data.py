"""Images and their captions: from files to examples."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apps.common import annotations, datasets, images
from apps.common.errors import BadInput
from apps.common.text import TABLE_ENDINGS, read_lines, read_table, split_files
from apps.image_captioning import embedded

MAX_CAPTION_BYTES = 5_000  # Longer captions are skipped.
ENDINGS = (*TABLE_ENDINGS, ".txt")  # Of tables of captions.
# Letters and digits, and the marks behind them; hyphens and apostrophes may join words.
WORD = re.compile(r"\w[^\s'’-]*(?:[-'’]\w[^\s'’-]*)*|'s\b")
PUNCTUATION = re.compile(r"[^\w\s'’-]")
# The files of Flickr8k: all captions, and the images of each split.
FLICKR8K = "Flickr8k.token.txt"
FLICKR8K_SPLITS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


@dataclass(frozen=True)
class Examples:
    """Images with their captions.

    Attributes:
        names: The names of the images; relative paths if they are files.
        images: The encoded images, bytes, or their paths.
        captions: The captions of each image, as `clean` returns them, at least one.
    """

    names: list[str]
    images: list[bytes | Path]
    captions: list[tuple[str, ...]]

    def __len__(self):
        """Returns the number of images."""
        return len(self.names)

    def image_bytes(self, index):
        """Returns one encoded image."""
        image = self.images[index]
        return image if isinstance(image, bytes) else image.read_bytes()


def clean(caption):
    """Returns the words of a caption in lower case, without punctuation.

    Like the tokenizer, it converts them to the Unicode form NFKC.
    """

    def replace(found):
        # To regular expressions, the vowel signs of Devanagari are no letters.
        return found[0] if unicodedata.category(found[0])[0] == "M" else " "

    text = unicodedata.normalize("NFKC", caption).lower()
    return " ".join(WORD.findall(PUNCTUATION.sub(replace, text)))


def load_examples(config, held_out=None):
    """Reads the images and captions of a data set and completes its splits.

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
            f"{config.data} has captions for {' and '.join(splits)}, but none for "
            "train; add some"
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

    Images and captions that cannot be used are reported and skipped.

    Raises:
        BadInput: The data cannot be used.
    """
    if config.data == "scenes":
        return {
            split: Examples(
                [f"{split} scene {i}" for i in range(len(scenes))],
                [image for image, _ in scenes],
                [(caption,) for _, caption in scenes],
            )
            for split, scenes in embedded.scenes().items()
        }
    if config.data.startswith("tfds:"):
        return _tensorflow_dataset(config)
    path = Path(config.data)
    if config.image_folder and not Path(config.image_folder).is_dir():
        raise BadInput(
            f"there is no folder {config.image_folder}; pass --image-folder the folder "
            "of the images"
        )
    if path.is_dir():
        return _folder(path, config)
    if not path.is_file():
        raise BadInput(
            f"there is no folder or file {path}; pass --data a folder with images and "
            "captions.tsv, a table of captions, or COCO's JSON"
        )
    root = path.parent
    if path.suffix.lower() == ".json":
        rows = _read_coco(path, annotations.read_json(path))
        if rows is None:
            raise BadInput(
                f"{path} is not COCO's JSON of captions; pass one such as "
                "captions_train2017.json, whose annotations have an image_id and a "
                "caption"
            )
    else:
        rows = _read_table(path, config)
    return _load({"train": (path, rows)}, root, config)


def _folder(root, config):
    """Returns the splits of a folder.

    Raises:
        BadInput: It has no captions, or its files cannot be used.
    """
    if (root / FLICKR8K).is_file():
        return _load(_read_flickr8k(root), root, config)
    files = sorted({*root.glob("*.json"), *root.glob("annotations/*.json")})
    found = {}
    for path in files:
        rows = _read_coco(path, annotations.read_json(path))
        if rows is None:
            datasets.print_skipped([(path.name, "has no captions of COCO")], "file")
            continue
        split = annotations.find_split(path.relative_to(root))
        if split in found:
            raise BadInput(
                f"{root} has {found[split][0].name} and {path.name}, both for {split}; "
                "leave only one of them there"
            )
        found[split] = path, rows
    if found:
        return _load(found, root, config)
    tables = split_files(root, ENDINGS)
    if not {*datasets.SPLIT_NAMES} & {*tables}:
        if "captions" not in tables and len(tables) > 1:
            names = ", ".join(path.name for path in tables.values())
            raise BadInput(
                f"{root} has several tables, {names}; pass --data the one with the "
                "captions"
            )
        chosen = tables.get("captions", next(iter(tables.values()), None))
        tables = {"train": chosen} if chosen else {}
    tables = {split: tables[split] for split in datasets.SPLIT_NAMES if split in tables}
    if not tables:
        raise BadInput(
            f"{root} has no captions; add captions.tsv with the columns "
            f"{config.image_column} and {config.caption_column}, train.tsv and "
            "test.tsv, or COCO's captions_train.json"
        )
    found = {split: (path, _read_table(path, config)) for split, path in tables.items()}
    return _load(found, root, config)


def _read_table(path, config):
    """Returns the rows of a table: where it is, the name of the image, the caption."""
    columns = {
        "image_column": config.image_column,
        "caption_column": config.caption_column,
    }
    return [
        (f"line {line} of {path}", *row)
        for line, row in read_table(path, columns, ENDINGS)
    ]


def _read_coco(path, content):
    """Returns the rows of COCO's JSON as `_read_table` does; None for other JSON.

    Raises:
        BadInput: It is about captions, but damaged.
    """
    entries = content.get("annotations")
    is_about_captions = isinstance(entries, list) and any(
        isinstance(each, dict) and "caption" in each for each in entries
    )
    if not is_about_captions:
        return None
    try:
        names = {each["id"]: str(each["file_name"]) for each in content["images"]}
        rows = [
            (
                f"annotation {number} of {path}",
                names.get(each["image_id"], ""),
                str(each["caption"] or ""),
            )
            for number, each in enumerate(entries, start=1)
        ]
    except annotations.DAMAGED as error:
        raise BadInput(
            f"{path} is damaged: an image needs id and file_name, an annotation "
            f"image_id and caption ({type(error).__name__}: {error}); export it again"
        ) from error
    described = {name for _, name, _ in rows}
    # An image without captions has an empty one, so that it is reported.
    others = [name for name in names.values() if name not in described]
    return rows + [(f"image {name} of {path}", name, "") for name in others]


def _read_flickr8k(root):
    """Returns the rows of Flickr8k by split, with the list of its images.

    Raises:
        BadInput: There is no list.
    """
    captions = {}
    for number, line in enumerate(read_lines(root / FLICKR8K), start=1):
        key, _, caption = line.partition("\t")
        where = f"line {number} of {root / FLICKR8K}"
        captions.setdefault(key.split("#")[0], []).append((where, caption))
    if not any((root / file).is_file() for file in FLICKR8K_SPLITS.values()):
        lists = ", ".join(FLICKR8K_SPLITS.values())
        raise BadInput(f"{root} has none of Flickr8k's lists of images; add {lists}")
    return {
        split: (
            root / file,
            [
                (where, name, caption)
                for name in filter(None, map(str.strip, read_lines(root / file)))
                for where, caption in captions.get(name, [(str(root / file), "")])
            ],
        )
        for split, file in FLICKR8K_SPLITS.items()
        if (root / file).is_file()
    }


def _load(found, root, config):
    """Groups captions by image, finds the images and checks them.

    Args:
        found: By split, the file of the captions and its rows: where each is, the name
            of the image and the caption.
        root: The folder of the data.
        config: A `Config`.

    Returns:
        `Examples` by split.

    Raises:
        BadInput: A split has no image with a caption.
    """
    captions, skipped = {}, []
    for split, (file, rows) in found.items():
        folders = [Path(config.image_folder)] if config.image_folder else []
        folders += [file.parent, root]
        names = ("images", "Images", "Flicker8k_Dataset", file.stem.split("_")[-1])
        folders += [root / name for name in (*names, split)]
        for where, name, caption in rows:
            words = clean(caption)
            if reason := _why_skipped(name, caption, words):
                skipped.append((where, reason))
                continue
            path = annotations.first_file(folders, Path(name))
            captions.setdefault((split, path), []).append(words)
    datasets.print_skipped(skipped, "caption")
    paths = list(dict.fromkeys(path for _, path in captions))
    if not config.image_folder and not root.joinpath(FLICKR8K).is_file():
        annotations.print_unmatched(root, paths)
        missing = []
    else:  # The folder may have other images.
        missing = [path for path in paths if not path.is_file()]
    datasets.print_skipped(
        (
            (annotations.name_below(root, path), "has captions, but there is no file")
            for path in missing
        ),
        "image",
    )
    present = [path for path in paths if path.is_file()]
    files, unreadable = images.make_decodable(present)
    datasets.print_skipped(
        (annotations.name_below(root, path), reason) for path, reason in unreadable
    )
    usable = {path: file for path, file in zip(present, files, strict=True) if file}
    splits = {}
    for split, (file, _) in found.items():
        kept = [path for each, path in captions if each == split and path in usable]
        if not any(each == split for each, _ in captions):
            raise BadInput(f"{file} has no caption that can be used; add some")
        if not kept:
            raise BadInput(
                f"{file} has no caption of a readable image; add images, or name their "
                "folder with --image-folder"
            )
        splits[split] = Examples(
            [annotations.name_below(root, path) for path in kept],
            [usable[path] for path in kept],
            [tuple(captions[split, path]) for path in kept],
        )
    return splits


def _why_skipped(name, caption, words):
    """Returns why a caption cannot be used, or None if it can."""
    if not name.strip():
        return "names no image"
    if not words:
        return "has no words"
    if len(caption.encode()) > MAX_CAPTION_BYTES:
        return f"has more than {MAX_CAPTION_BYTES} bytes"
    return None


def _tensorflow_dataset(config):
    """Returns the examples of a data set of TensorFlow Datasets, by split.

    Raises:
        BadInput: The data set cannot be used.
    """
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    name = config.data.removeprefix("tfds:")
    records_of, features = datasets.read_tensorflow_dataset(
        name,
        (config.image_column,),
        "image captioning",
        decoders={config.image_column: tfds.decode.SkipDecoding()},
    )
    columns = [each for each in (config.caption_column, "captions") if each in features]
    if not columns:
        raise BadInput(
            f"{config.data} has no feature {config.caption_column}, only "
            f"{', '.join(features)}; name the captions with --caption-column"
        )
    splits, skipped = {}, []
    for split, records in records_of.items():
        rows = []
        for number, record in enumerate(records):
            where = f"{name} {split} {number}"
            try:
                texts = [clean(text) for text in _texts(record[columns[0]])]
            except annotations.DAMAGED as error:
                raise BadInput(
                    f"{config.data}: `{columns[0]}` is not text; name another feature "
                    "with --caption-column"
                ) from error
            if any(texts):
                texts = tuple(filter(None, texts))
                rows.append((where, record[config.image_column], texts))
            else:
                skipped.append((where, "has no caption"))
        if rows:
            splits[split] = Examples(*map(list, zip(*rows, strict=True)))
    datasets.print_skipped(skipped, "image")
    if not splits:
        raise BadInput(f"{config.data} has no captions; choose another data set")
    return splits


def _texts(value) -> Iterable[str]:
    """Returns the captions of a record: a text, texts, or texts with ids."""
    if isinstance(value, dict):
        value = value["text"]
    if isinstance(value, bytes):
        return [value.decode()]
    return [text.decode() for text in value]
