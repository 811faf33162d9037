"""Images and their captions: from files to examples."""

import itertools
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from apps.common import annotations, datasets, images
from apps.common.errors import BadInput
from apps.common.text import TABLE_ENDINGS, read_lines, read_table, split_files
from apps.common.tokenizer import INVISIBLE
from apps.image_captioning import embedded

MAX_CAPTION_BYTES = 5_000  # Longer captions are skipped.
ENDINGS = (*TABLE_ENDINGS, ".txt", ".txt.gz")  # Of tables of captions.
# Letters and digits, and the marks behind them; hyphens and apostrophes may join words.
WORD = re.compile(r"\w[^\s'’-]*(?:[-'’]\w[^\s'’-]*)*|'s\b")
PUNCTUATION = re.compile(r"[^\w\s'’-]")
# The folders and files of Flickr8k: all captions, and the images of each split.
FLICKR8K_IMAGES = "Flicker8k_Dataset"
FLICKR8K_TEXTS = "Flickr8k_text"
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

    @property
    def all_captions(self):
        """The captions of all images, in one list."""
        return [caption for each in self.captions for caption in each]

    def image_bytes(self, index):
        """Returns one encoded image."""
        image = self.images[index]
        return image if isinstance(image, bytes) else image.read_bytes()


def clean(caption):
    """Returns the words of a caption in lower case, without punctuation.

    Like the tokenizer, it converts them to the Unicode form NFKC and removes invisible
    characters.
    """

    def replace(found):
        # To regular expressions, the vowel signs of Devanagari are no letters.
        return found[0] if unicodedata.category(found[0])[0] == "M" else " "

    text = caption.translate(dict.fromkeys(map(ord, INVISIBLE)))
    text = unicodedata.normalize("NFKC", text).lower()
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
    if path.name == FLICKR8K and path.is_file():
        path = path.parent
    if path.is_dir():
        return _folder(path, config)
    if not path.is_file():
        raise BadInput(
            f"there is no folder or file {path}; pass --data a folder with images and "
            "captions.tsv, a table of captions, or COCO's JSON"
        )
    if path.suffix.lower() == ".json":
        rows = _read_coco(path)
        if rows is None:
            raise BadInput(
                f"{path} is not COCO's JSON of captions; pass one such as "
                "captions_train2017.json, whose annotations have an image_id and a "
                "caption"
            )
    else:
        rows = _read_table(path, config)
    root = _root(path.parent)
    # A folder above may have the images of other files.
    return _load({"train": (path, rows)}, root, config, root == path.parent)


def _root(folder):
    """Returns the folder of the data, which may be the one above the annotations."""
    is_part = folder.absolute().name in ("annotations", FLICKR8K_TEXTS)
    return Path(os.path.normpath(folder / "..")) if is_part else folder


def _folder(folder, config):
    """Returns the splits of a folder.

    Raises:
        BadInput: It has no captions, or its files cannot be used.
    """
    root = _root(folder)
    for texts in (folder, folder / FLICKR8K_TEXTS):
        if (texts / FLICKR8K).is_file():
            return _load(_read_flickr8k(texts), root, config, False)
    found = _read_coco_folder(folder)
    tables = {} if found else _find_tables(folder)
    found |= {
        split: (path, _read_table(path, config)) for split, path in tables.items()
    }
    if not found:
        raise BadInput(
            f"{folder} has no captions; add captions.tsv with the columns "
            f"{config.image_column} and {config.caption_column}, train.tsv and "
            "test.tsv, or COCO's captions_train.json"
        )
    first, *_ = (path.name for path, _ in found.values())
    unread = {*_list_tables(folder)} - {*tables.values()}
    datasets.print_skipped(
        (path.name, f"is not read beside {first}") for path in sorted(unread)
    )
    return _load(found, root, config)


def _list_tables(folder):
    """Returns the tables in a folder; a text needs the name `captions` or a split's."""
    texts = {"captions", *itertools.chain(*datasets.SPLIT_NAMES.values())}
    names = {path: path.name.lower() for path in sorted(folder.iterdir())}
    return [
        path
        for path, name in names.items()
        if name.endswith(ENDINGS if name.split(".")[0] in texts else TABLE_ENDINGS)
        and not name.startswith(".")
    ]


def _find_tables(folder):
    """Returns the tables of a folder by split.

    Without one for training, this is the table named `captions`, or the only one.

    Raises:
        BadInput: There are several such tables.
    """
    tables = split_files(folder, ENDINGS, others=False)
    others = [] if "train" in tables else _list_tables(folder)
    named = [path for path in others if path.name.lower().startswith("captions.")]
    candidates = named if named or tables else others
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise BadInput(
            f"{folder} has several tables, {names}; pass --data the one with the "
            "captions"
        )
    return {"train": candidates[0], **tables} if candidates else tables


def _read_table(path, config):
    """Returns the rows of a table: where it is, the name of the image, the caption."""
    columns = {
        "image_column": config.image_column,
        "caption_column": config.caption_column,
    }
    rows, skipped = [], []
    for line, row in read_table(path, columns, ENDINGS):
        # A quote that is not closed swallows the rows behind it.
        if breaks := max(value.strip().count("\n") for value in row):
            where = f"line {line - breaks} of {path}"
            skipped.append((where, "spans several lines; close its quotes"))
        else:
            rows.append((f"line {line} of {path}", *row))
    datasets.print_skipped(skipped, "caption")
    return rows


def _read_coco_folder(folder):
    """Returns the JSON files with captions in a folder, and their rows, by split.

    Raises:
        BadInput: A file is damaged, or there are two for one split.
    """
    files = sorted({*folder.glob("*.json"), *folder.glob("annotations/*.json")})
    # Files of other annotations are large.
    named = [path for path in files if "caption" in path.name.lower()]
    found, skipped = {}, []
    if named:
        reason = f"is not read beside {named[0].name}"
        skipped = [(path.name, reason) for path in files if path not in named]
    for path in named or files:
        rows = _read_coco(path)
        if rows is None:
            skipped.append((path.name, "has no captions of COCO"))
            continue
        split = annotations.find_split(path.relative_to(folder))
        if split in found:
            raise BadInput(
                f"{folder} has {found[split][0].name} and {path.name}, both for "
                f"{split}; leave only one of them there"
            )
        found[split] = path, rows
    datasets.print_skipped(skipped)
    return found


def _read_coco(path):
    """Returns the rows of COCO's JSON as `_read_table` does; None for other JSON.

    The name of an image, or a caption, is None where there is no text.

    Raises:
        BadInput: It is about captions, but damaged.
    """
    content = annotations.load_json(path)
    entries = content.get("annotations") if isinstance(content, dict) else None
    is_about_captions = isinstance(entries, list) and any(
        isinstance(each, dict) and "caption" in each for each in entries
    )
    if not is_about_captions:
        return None
    try:
        names = {each["id"]: _text(each["file_name"]) for each in content["images"]}
        rows = [
            (
                f"annotation {number} of {path}",
                names.get(each["image_id"], ""),
                _text(each["caption"]),
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
    return rows + [
        (f"image {name or key} of {path}", name, "")
        for key, name in names.items()
        if name not in described
    ]


def _text(value):
    """Returns a value if it is a string, else None."""
    return value if isinstance(value, str) else None


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


def _load(found, root, config, is_whole=True):
    """Groups captions by image, finds the images and checks them.

    Args:
        found: By split, the file of the captions and its rows: where each is, the name
            of the image and the caption.
        root: The folder of the data.
        config: A `Config`.
        is_whole: Whether all images of the folder should have captions. Defaults to
            True.

    Returns:
        `Examples` by split.

    Raises:
        BadInput: A split has no image with a caption.
    """
    captions, skipped = {}, []
    for split, (file, rows) in found.items():
        folders = [Path(config.image_folder)] if config.image_folder else []
        folders += annotations.image_folders(file, root)
        folders += [root / name for name in ("Images", FLICKR8K_IMAGES, split)]
        paths = {}
        for where, name, caption in rows:
            words = clean(caption or "")
            if reason := _why_skipped(name, caption, words):
                skipped.append((where, reason))
                continue
            if name not in paths:
                paths[name] = _find_image(folders, name)
            captions.setdefault((split, paths[name]), []).append(words)
    datasets.print_skipped(skipped, "caption")
    splits_of = {}
    for split, path in captions:
        splits_of.setdefault(path, []).append(split)
    others = _list_images(root) if is_whole and not config.image_folder else []
    annotations.print_unmatched(root, splits_of, others)
    present = list(filter(os.path.isfile, splits_of))
    files, unreadable = images.make_decodable(present)
    datasets.print_skipped(
        (annotations.name_below(root, path), reason) for path, reason in unreadable
    )
    usable = {path: file for path, file in zip(present, files, strict=True) if file}
    datasets.print_skipped(
        (
            (
                annotations.name_below(root, path),
                f"is in {' and '.join(splits_of[path])}; leave it in one of them",
            )
            for path in usable
            if len(splits_of[path]) > 1
        ),
        "image",
        "kept",
    )
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


def _find_image(folders, name):
    """Returns the path of an image, as other systems and programs may write it."""
    path = annotations.first_file(folders, Path(name))
    if os.path.isfile(path):
        return path
    name = name.strip().strip('"').replace("\\", "/")
    return annotations.first_file(folders, Path(name))


def _list_images(root):
    """Returns the images of a folder, apart from the figures of runs in it."""
    runs = [file.parent for file in root.rglob("*/config.json")]
    return [
        path
        for path in annotations.list_images(root)
        if not any(map(path.is_relative_to, runs))
    ]


def _why_skipped(name, caption, words):
    """Returns why a caption cannot be used, or None if it can."""
    if name is None:
        return "has an image without a file name"
    if not name.strip():
        return "names no image"
    if caption is None:
        return "has no caption text"
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
    columns = (config.caption_column, "captions")
    column = next((each for each in columns if each in features), None)
    if column is None:
        raise BadInput(
            f"{config.data} has no feature {config.caption_column}, only "
            f"{', '.join(features)}; name the captions with --caption-column"
        )
    splits, skipped, silent = {}, [], []
    for split, records in records_of.items():
        rows = []
        for number, record in enumerate(records):
            where = f"{name} {split} {number}"
            try:
                texts = list(_texts(record[column]))
            except annotations.DAMAGED as error:
                raise BadInput(
                    f"{config.data}: `{column}` is not text; name another feature with "
                    "--caption-column"
                ) from error
            captions = []
            for text in texts:
                words = clean(text)
                if reason := _why_skipped(where, text, words):
                    skipped.append((where, reason))
                else:
                    captions.append(words)
            if captions:
                rows.append((where, record[config.image_column], tuple(captions)))
            else:
                silent.append((where, "has no caption"))
        if rows:
            splits[split] = Examples(*map(list, zip(*rows, strict=True)))
    datasets.print_skipped(skipped, "caption")
    datasets.print_skipped(silent, "image")
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
