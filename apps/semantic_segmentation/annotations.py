"""Annotations of LabelMe and COCO, drawn as masks."""

import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np
import pycocotools.mask
from PIL import Image, ImageDraw

from apps.common import images
from apps.common.annotations import (
    DAMAGED,
    find_split,
    first_file,
    name_below,
    print_unmatched,
    read_coco,
    read_json,
)
from apps.common.errors import BadInput
from apps.semantic_segmentation.config import VOID, class_name

BACKGROUND = "background"
# LabelMe's names of pixels that are of no class, and of unlabelled ones.
LABELME_NAMES = {"_background_": BACKGROUND, "__ignore__": None}


@dataclass(frozen=True)
class Annotated:
    """An image and the regions that were drawn on it.

    Attributes:
        path: The path of the image.
        size: Its height and width in pixels.
        regions: The class and the pixels of each region, the topmost last: a name, or
            None for unlabelled pixels; and a function without arguments that returns a
            boolean array `(height, width)`.
    """

    path: Path
    size: tuple[int, int]
    regions: list


def read_annotations(root, classes):
    """Reads the JSON files of LabelMe or COCO in a folder, and draws masks of them.

    Pixels without an annotation are `background`; without such a class they are
    unlabelled. Where regions overlap, LabelMe's last one and COCO's smallest one is on
    top. Files that cannot be used are reported and skipped.

    Args:
        root: The folder of the data. The name of a split is a word in the path of its
            JSON files, such as `instances_val.json` or `val/1.json`.
        classes: As in `Config.classes`. If empty, they are `background` and the names
            in the annotations, sorted.

    Returns:
        For each split the name, the path and the mask of each image; and the classes.
        A mask is a PNG file of class numbers. Without JSON files there are no splits.

    Raises:
        BadInput: A file is damaged, or has a class that is not in `classes`.
    """
    found = defaultdict(list)
    for path in images.list_files(root):
        if path.suffix.lower() == ".json":
            try:
                found[find_split(path.relative_to(root))] += _read_file(path, root)
            except DAMAGED as error:
                raise BadInput(
                    f"{path} is damaged, or not made by LabelMe or for COCO "
                    f"({type(error).__name__}: {error}); export it again, or remove it"
                ) from error
    annotated = [image for part in found.values() for image in part]
    names = {name for image in annotated for name, _ in image.regions} - {None}
    classes = classes or (BACKGROUND, *sorted(names - {BACKGROUND}))
    numbers = {class_name(entry): i for i, entry in enumerate(classes)}
    numbers = {None: VOID, BACKGROUND: VOID, **numbers}
    if unknown := sorted(names - set(numbers)):
        raise BadInput(
            f"{root} has annotations of the class '{unknown[0]}', which is not among "
            f"the classes {', '.join(map(class_name, classes))}; add it"
        )
    print_unmatched(root, [image.path for image in annotated])
    with ThreadPoolExecutor() as pool:
        splits = {
            split: list(
                pool.map(
                    lambda image: (
                        name_below(root, image.path),
                        image.path,
                        _draw(image, numbers),
                    ),
                    [image for image in part if image.path.is_file()],
                )
            )
            for split, part in found.items()
        }
    return {split: rows for split, rows in splits.items() if rows}, tuple(classes)


def _read_file(path, root):
    """Returns what a JSON file annotates."""
    content = read_json(path)
    if "shapes" in content:
        return [_read_labelme(path, content)]
    return _read_coco(path, content, root)


def _read_labelme(path, content):
    """Returns what a file of LabelMe annotates: one image."""
    size = content["imageHeight"], content["imageWidth"]
    image_path = Path(PureWindowsPath(content["imagePath"]).as_posix())
    regions = []
    for shape in content["shapes"]:
        kind = shape.get("shape_type", "polygon")
        if kind not in ("polygon", "rectangle", "circle"):
            raise ValueError(f"a shape of the type {kind} has no area")
        name = LABELME_NAMES.get(shape["label"], shape["label"])
        points = [tuple(point) for point in shape["points"]]
        regions.append((name, partial(_shape_pixels, kind, points, size)))
    return Annotated(first_file([path.parent], image_path), size, regions)


def _shape_pixels(kind, points, size):
    """Returns the pixels of a shape of LabelMe, a boolean array of this size."""
    canvas = Image.new("1", size[::-1])
    pen = ImageDraw.Draw(canvas)
    if kind == "circle":  # Its centre, and a point on the line.
        pen.circle(points[0], math.dist(*points), fill=1)
    elif kind == "rectangle":  # Two opposite corners.
        pen.rectangle([*np.min(points, axis=0), *np.max(points, axis=0)], fill=1)
    else:
        pen.polygon(points, fill=1)
    return np.array(canvas)


def _read_coco(path, content, root):
    """Returns what a file of COCO annotates: many images."""
    annotated = []
    for image in read_coco(path, content, root):
        size = image.entry["height"], image.entry["width"]
        regions = []
        for name, each in sorted(
            image.objects, key=lambda pair: -pair[1].get("area", 0)
        ):
            if not each["segmentation"]:
                raise ValueError(f"annotation {each['id']} has no segmentation")
            pixels = partial(_segmentation_pixels, each["segmentation"], size)
            regions.append((name, pixels))
        annotated.append(Annotated(image.path, size, regions))
    return annotated


def _segmentation_pixels(segmentation, size):
    """Returns the pixels of COCO's polygons or run lengths, `(height, width)`."""
    if isinstance(segmentation, list):
        encoded = pycocotools.mask.merge(
            pycocotools.mask.frPyObjects(segmentation, *size)
        )
    elif isinstance(segmentation["counts"], list):
        encoded = pycocotools.mask.frPyObjects(segmentation, *size)
    else:
        encoded = segmentation
    return pycocotools.mask.decode(encoded).astype(bool)


def _draw(image, numbers):
    """Returns the mask of an image, a PNG file of class numbers."""
    mask = np.full(image.size, numbers[BACKGROUND], "uint8")
    for name, pixels in image.regions:
        try:
            mask[pixels()] = numbers[name]
        except (IndexError, TypeError, ValueError) as error:
            raise BadInput(
                f"{image.path} has a damaged annotation of {name} ({error}); draw it "
                "again, or remove it"
            ) from error
    return images.encode_png(mask)
