"""Files of annotations: their splits, their images, and COCO's JSON."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from apps.common import datasets, images
from apps.common.errors import BadInput

# Suffixes of photographs that Pillow reads only with a plugin.
HEIC_SUFFIXES = {".heic", ".heif"}
# What a reader raises if a file has not the content that it expects.
DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


class CocoImage(NamedTuple):
    """An image of a COCO file.

    Attributes:
        path: Where the image is, or should be.
        entry: What the file says of it, such as `width` and `height`.
        objects: A class name and the entry of each annotation.
    """

    path: Path
    entry: dict[str, Any]
    objects: list[tuple[str, dict[str, Any]]]


def is_image(path: Path) -> bool:
    """Returns whether a file is an image by its suffix."""
    suffixes = {*Image.registered_extensions(), *HEIC_SUFFIXES}
    return path.suffix.lower() in suffixes


def list_images(root: Path) -> list[Path]:
    """Returns the files in a folder that are images by their suffix, sorted."""
    return list(filter(is_image, images.list_files(root)))


def find_split(path: Path) -> str:
    """Returns the split whose name is a word in a path; `train` if there is none."""
    words = set(re.split(r"[^a-z]+", str(path).lower()))
    for split, names in datasets.SPLIT_NAMES.items():
        if words & set(names):
            return split
    return "train"


def first_file(folders: Sequence[Path], path: Path) -> Path:
    """Returns the path in the first folder that has it; in none, that in the first."""
    paths = [Path(os.path.normpath(folder / path)) for folder in folders]
    # Unlike `Path.is_file`, this takes names that are too long for a file.
    return next(filter(os.path.isfile, paths), paths[0])


def name_below(root: Path, path: Path) -> str:
    """Returns the name of a file: its path from the folder of the data."""
    return Path(os.path.relpath(path, root)).as_posix()


def print_unmatched(
    root: Path, annotated: Iterable[Path], image_paths: Iterable[Path] | None = None
) -> None:
    """Reports annotated images that do not exist, and images without annotations.

    Args:
        root: The folder of the data.
        annotated: The paths of the annotated images.
        image_paths: The paths of all images. Defaults to `list_images`.
    """
    annotated = set(annotated)
    missing = sorted(path for path in annotated if not os.path.isfile(path))
    image_paths = list_images(root) if image_paths is None else image_paths
    others = [path for path in image_paths if path not in annotated]
    reasons = (
        (missing, "is annotated, but there is no such file"),
        (others, "has no annotation"),
    )
    datasets.print_skipped(
        (name_below(root, path), reason) for paths, reason in reasons for path in paths
    )


def image_folders(path: Path, root: Path) -> list[Path]:
    """Returns the folders where the images of a file of annotations may lie.

    They are those of the file and of the data, and in these `images`, or a folder named
    like the split, such as `train2017`, or one of these in the other.

    Args:
        path: The file.
        root: The folder of the data.
    """
    # As in instances_train2017.json.
    split = path.name.partition(".")[0].rpartition("_")[2]
    return [
        *(path.parent, path.parent / "images"),
        *(root / name for name in ("", "images", split)),
        *(root / "images" / split, root / split / "images"),
    ]


def read_coco(path: Path, content: dict[str, Any], root: Path) -> list[CocoImage]:
    """Returns what a file of COCO annotates.

    Args:
        path: The JSON file.
        content: Its content.
        root: The folder of the data; the images are in one of `image_folders`.

    Raises:
        KeyError: An entry is missing. A damaged file may raise others of `DAMAGED`.
    """
    names = {each["id"]: str(each["name"]) for each in content["categories"]}
    objects = defaultdict(list)
    for each in content["annotations"]:
        objects[each["image_id"]].append((names[each["category_id"]], each))
    folders = image_folders(path, root)
    return [
        CocoImage(
            first_file(folders, Path(each["file_name"])), each, objects[each["id"]]
        )
        for each in content["images"]
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        BadInput: It is damaged, or no object.
    """
    content = load_json(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no annotations; remove it")
    return content


def load_json(path: Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        BadInput: It is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); export it again") from error
