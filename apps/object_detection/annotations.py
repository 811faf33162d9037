"""Boxes of Pascal VOC, COCO and YOLO, as their files state them."""

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from xml.etree import ElementTree

import yaml

from apps.common import datasets, images
from apps.common.annotations import (
    DAMAGED,
    find_split,
    is_image,
    list_images,
    name_below,
    print_unmatched,
    read_coco,
    read_json,
)
from apps.common.errors import BadInput

# Folders of Pascal VOC with masks, PNG files that are no photographs.
MASK_FOLDERS = {"SegmentationClass", "SegmentationObject"}
SIDES = ("width", "height")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
COCO_FIELDS = {"images", "annotations", "categories"}
# YOLO's fractions may be rounded to a little more than 1.
MAX_FRACTION = 1.01


class Region(NamedTuple):
    """A box and its class.

    Attributes:
        class_name: The name of the class.
        box: x1, y1, x2, y2.
        is_crowd: Whether it is neither trained nor scored: a crowd of COCO or a
            difficult object of Pascal VOC.
    """

    class_name: str
    box: tuple[float, float, float, float]
    is_crowd: bool = False


@dataclass(frozen=True)
class Annotated:
    """An image and the boxes that were drawn on it.

    Attributes:
        path: The path of the image.
        source: The file that holds the boxes.
        regions: `Region`s.
        size: Width and height in pixels that the file states; None if it does not.
        are_fractions: Whether boxes are fractions of the image rather than pixels.
    """

    path: Path
    source: Path
    regions: list[Region]
    size: tuple[int, int] | None = None
    are_fractions: bool = False


def read_annotations(root, classes):
    """Reads the boxes in a folder: of YOLO, Pascal VOC or COCO, the first that it has.

    Files that cannot be used are reported and skipped. Coordinates are taken as they
    are written: 0 is the left or upper edge of the image.

    Args:
        root: The folder of the data.
        classes: As in `Config.classes`. If empty, they are those of the data: all
            `names` of YOLO's `data.yaml`, else the names of the boxes, in the order of
            COCO's categories or sorted.

    Returns:
        For each split a list of `Annotated`; and the classes.

    Raises:
        BadInput: There are no annotations, a file is damaged, or a box has a class that
            is not in `classes`.
    """
    paths = images.list_files(root)
    if yaml_path := _find_yaml(paths, root):
        splits, names = _read_yolo(yaml_path)
    elif xml_paths := [path for path in paths if path.suffix.lower() == ".xml"]:
        splits, names = _read_voc(xml_paths, root)
    elif json_paths := [path for path in paths if path.suffix.lower() == ".json"]:
        splits, names = _read_coco(json_paths, root)
    else:
        raise BadInput(
            f"{root} has no boxes; expected XML files of Pascal VOC, JSON files of "
            "COCO, or data.yaml of YOLO with the lines `train: images` and `names: "
            "[cat, dog]`"
        )
    classes = tuple(classes or names)
    if len(set(classes)) < len(classes):
        raise BadInput(
            f"{root} has the classes {', '.join(classes)}; give them different names"
        )
    for image in (image for part in splits.values() for image in part):
        _check(image, classes)
    return _drop_repeated(splits, root), classes


def _check(image, classes):
    """Refuses boxes of unknown classes, and those that cannot be what they should."""
    for name, box, _ in image.regions:
        if name not in classes:
            raise BadInput(
                f"{image.source} has a box of the class '{name}', which is not among "
                f"the classes {', '.join(classes)}; add it to --classes"
            )
        if not all(map(math.isfinite, box)):
            raise BadInput(
                f"{image.source} has the box {box} in {image.path.name}; correct it"
            )
    boxes = [box for _, box, _ in image.regions if box[2] > box[0] and box[3] > box[1]]
    if boxes and not image.are_fractions and max(map(max, boxes)) <= 1:
        raise BadInput(
            f"{image.source} has fractions of {image.path.name} as boxes, such as "
            f"{boxes[0]}, but Pascal VOC and COCO have pixels; multiply them by the "
            "width and the height"
        )


def _drop_repeated(splits, root):
    """Returns the splits with each image once, and reports images that come again."""
    kept, seen, repeated = defaultdict(list), set(), []
    for split in datasets.SPLIT_NAMES:
        for image in splits.get(split, ()):
            if image.path in seen:
                repeated.append(image.path)
            else:
                kept[split].append(image)
            seen.add(image.path)
    reason = "is annotated twice, or in two splits; only the first counts"
    _print_skipped(root, repeated, reason)
    return dict(kept)


# Pascal VOC


def _read_voc(paths, root):
    """Reads XML files of Pascal VOC.

    Returns:
        For each split a list of `Annotated`; and the names of the classes.
    """
    image_paths = [
        path for path in list_images(root) if path.parent.name not in MASK_FOLDERS
    ]
    by_stem = defaultdict(list)
    for path in image_paths:
        by_stem[path.stem].append(path)
    annotated = [_read_xml(path, by_stem) for path in paths]
    print_unmatched(root, [image.path for image in annotated], image_paths)
    annotated = [image for image in annotated if image.path.is_file()]
    names = {region.class_name for image in annotated for region in image.regions}
    return _split_voc(annotated, root), sorted(names)


def _read_xml(path, by_stem):
    """Returns what an XML file of Pascal VOC annotates.

    Args:
        path: The file.
        by_stem: The paths of images, by their names without the suffix.
    """
    try:
        entry = ElementTree.parse(path).getroot()
        if entry.tag != "annotation":
            raise ValueError(f"it begins with <{entry.tag}>")
        size = tuple(int(float(entry.findtext(f"size/{x}") or 0)) for x in SIDES)
        filename = entry.findtext("filename") or path.stem
        regions = [_read_object(each) for each in entry.findall("object")]
    except (*DAMAGED, ElementTree.ParseError) as error:
        raise BadInput(
            f"{path} is damaged, or not of Pascal VOC ({error}); export it again, or "
            "remove it"
        ) from error
    image_path = _find_image(path, PureWindowsPath(filename).name, by_stem)
    return Annotated(image_path, path, regions, size if all(size) else None)


def _read_object(entry):
    """Returns the `Region` of an object of Pascal VOC."""
    name = entry.findtext("name", "").strip()
    if not name:
        raise ValueError("an object has no name")
    return Region(
        name,
        tuple(float(entry.findtext(f"bndbox/{corner}")) for corner in CORNERS),
        entry.findtext("difficult", "0").strip() == "1",
    )


def _find_image(path, filename, by_stem):
    """Returns the image of an XML file, which is named like the file, or in it.

    Of several ones it is that with most folders in common.
    """
    found = by_stem.get(path.stem) or by_stem.get(Path(filename).stem)
    if not found:
        return path.with_name(filename)
    return max(
        found,
        key=lambda image: (
            len(os.path.commonpath([image, path])),
            image.name == filename,
        ),
    )


def _split_voc(annotated, root):
    """Returns images by split: as Pascal VOC's lists say, or the names of folders."""
    splits, listed = defaultdict(list), _read_lists(root)
    if not listed:
        for image in annotated:
            paths = image.source, image.path
            folders = Path(*(path.parent.relative_to(root) for path in paths))
            splits[find_split(folders)].append(image)
        return splits
    stems = {image.path.stem for image in annotated}
    for split, names in listed.items():
        splits[split] = [image for image in annotated if image.path.stem in names]
        datasets.print_skipped(
            (name, f"is in the list for {split}, but has no image with an annotation")
            for name in sorted(names - stems)
        )
    in_lists = set.union(*listed.values())
    others = [image.path for image in annotated if image.path.stem not in in_lists]
    _print_skipped(root, others, "is in no list of ImageSets/Main")
    return splits


def _read_lists(root):
    """Returns the names in Pascal VOC's lists, a set for each split that has one."""
    listed = {}
    for split, names in datasets.SPLIT_NAMES.items():
        for name in names:
            path = root / f"ImageSets/Main/{name}.txt"
            if path.is_file():
                listed[split] = _read_names(path)
    trainval = root / "ImageSets/Main/trainval.txt"
    if "train" not in listed and trainval.is_file():
        listed["train"] = _read_names(trainval)
    return listed


def _read_names(path):
    """Returns the lines of a list of images, without suffixes, as a set."""
    paths = [Path(line.strip()) for line in _read_text(path).splitlines()]
    return {each.stem if is_image(each) else each.name for each in paths} - {""}


def _read_text(path):
    """Returns the content of a text file."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text; save it as UTF-8") from error


# COCO


def _read_coco(paths, root):
    """Reads JSON files of COCO; of COCO's own, those of instances.

    Returns:
        For each split a list of `Annotated`; and the names of the classes.
    """
    instances = [path for path in paths if path.name.startswith("instances_")]
    others = [path for path in paths if path not in instances]
    if instances:
        _print_skipped(root, others, "is no file of instances")
    splits, names = defaultdict(list), {}
    for path in instances or others:
        content = read_json(path)
        if not set(content) >= COCO_FIELDS:
            raise BadInput(
                f"{path} is not of COCO, which has `images`, `annotations` and "
                "`categories`; export boxes for COCO, or remove it"
            )
        try:
            splits[find_split(path.relative_to(root))] += [
                _read_coco_image(image, path)
                for image in read_coco(path, content, root)
            ]
            by_id = sorted(content["categories"], key=lambda each: each["id"])
            names |= dict.fromkeys(str(each["name"]) for each in by_id)
        except DAMAGED as error:
            raise BadInput(
                f"{path} is damaged, or has no boxes of COCO ({type(error).__name__}: "
                f"{error}); export it again, or remove it"
            ) from error
    annotated = [image for part in splits.values() for image in part]
    print_unmatched(root, [image.path for image in annotated])
    used = {region.class_name for image in annotated for region in image.regions}
    return _existing(splits), [name for name in names if name in used]


def _read_coco_image(image, source):
    """Returns what COCO says of an image."""
    regions = []
    for name, entry in image.objects:
        left, top, width, height = map(float, entry["bbox"])
        box = left, top, left + width, top + height
        regions.append(Region(name, box, bool(entry.get("iscrowd"))))
    size = tuple(int(image.entry.get(side) or 0) for side in SIDES)
    return Annotated(image.path, source, regions, size if all(size) else None)


def _existing(splits):
    """Returns the images of each split whose files exist."""
    return {
        split: [image for image in part if image.path.is_file()]
        for split, part in splits.items()
    }


# YOLO


def _find_yaml(paths, root):
    """Returns the file that describes data for YOLO, or None."""
    paths = [
        path
        for path in paths
        if path.parent == root and path.suffix.lower() in (".yaml", ".yml")
    ]
    found = [path for path in paths if path.stem == "data"]
    found = found or [path for path in paths if "names" in _read_yaml(path)]
    if len(found) > 1:
        raise BadInput(
            f"{root} has {' and '.join(path.name for path in found)}; keep one of them"
        )
    return found[0] if found else None


def _read_yaml(path):
    """Returns the content of a YAML file, a dictionary; all values stay strings."""
    try:
        content = yaml.load(_read_text(path), yaml.BaseLoader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} is damaged ({reason}); correct it") from error
    return content if isinstance(content, dict) else {}


def _read_yolo(path):
    """Reads what a YAML file describes: images, and their label files.

    An image without a label file has no boxes, as in Ultralytics' programs.

    Returns:
        For each split a list of `Annotated`; and the names of the classes.
    """
    root, content = path.parent, _read_yaml(path)
    names = _read_class_names(path, content)
    if "kpt_shape" in content:
        raise BadInput(f"{path} describes key points of poses; export boxes alone")
    folders = [root / str(content.get("path", "")), root]
    splits = {
        split: [
            _read_labels(image_path, names)
            for key in keys
            for entry in _as_list(content.get(key))
            for image_path in _list_yolo_images(path, key, entry, folders)
        ]
        for split, keys in datasets.SPLIT_NAMES.items()
    }
    if not any(splits.values()):
        raise BadInput(
            f"{path} names no images; add a line such as `train: images/train`"
        )
    annotated = [image for part in splits.values() for image in part]
    _report_yolo(annotated, root)
    return _existing(splits), list(names.values())


def _read_class_names(path, content):
    """Returns the names of the classes by their numbers."""
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not names or not isinstance(names, dict) or not all(map(str.isdigit, names)):
        raise BadInput(
            f"{path} has no names of classes; add a line such as `names: [cat, dog]`"
        )
    return {int(number): str(name) for number, name in names.items()}


def _as_list(entry):
    """Returns a list of texts, given one, a single text or nothing."""
    if isinstance(entry, list):
        return list(map(str, entry))
    return [str(entry)] if entry else []


def _list_yolo_images(yaml_path, split, entry, folders):
    """Returns the images in a folder, or in a list of paths, that a YAML file names.

    Roboflow writes `../train/images` where it means `train/images`.
    """
    path = _find(entry, folders)
    if path is None and split in datasets.SPLIT_NAMES["train"]:
        raise BadInput(
            f"{yaml_path} names {entry} for training, but there is no such folder or "
            "list; correct it"
        )
    if path is None:
        reason = f"is what {yaml_path.name} names for {split}, but there is none"
        datasets.print_skipped([(entry, reason)], "folder")
        return []
    if path.is_dir():
        return list_images(path)
    lines = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    folders = [path.parent, *folders]
    return [_find(line, folders) or path.parent / line for line in lines]


def _find(name, folders):
    """Returns the first path of this name that exists in these folders, or None."""
    without_parents = name
    while without_parents.startswith("../"):
        without_parents = without_parents.removeprefix("../")
    for each in dict.fromkeys((name, without_parents)):
        for folder in folders:
            path = Path(os.path.normpath(folder / each))
            if path.exists():
                return path
    return None


def _label_path(path):
    """Returns the label file of an image: beside it, or in `labels` for `images`."""
    beside = path.with_suffix(".txt")
    for folder in path.parents:
        if folder.name == "images" and not beside.is_file():
            return folder.with_name("labels") / beside.relative_to(folder)
    return beside


def _read_labels(path, names):
    """Returns the boxes of an image, from its label file."""
    source = _label_path(path)
    regions = []
    if source.is_file():
        for number, line in enumerate(_read_text(source).splitlines(), 1):
            if line.strip():
                regions.append(_read_line(line, names, f"{source}, line {number}"))
    return Annotated(path, source, regions, are_fractions=True)


def _read_line(line, names, place):
    """Returns the `Region` of a line: class, centre and size, or class and polygon.

    Args:
        line: The line.
        names: The names of the classes by their numbers.
        place: The file and the number of the line, for messages.
    """
    try:
        number, *values = map(float, line.split())
        if len(values) % 2 or len(values) < 4:
            raise ValueError(f"it has {1 + len(values)} numbers")
    except ValueError as error:
        raise BadInput(
            f"{place}: {error}; write a class number, x and y of the centre, width and "
            "height, or a class number and the points of a polygon"
        ) from error
    if number not in names:
        raise BadInput(
            f"{place}: the class {number:g} is not among {', '.join(map(str, names))}, "
            "which data.yaml names; add it there"
        )
    if max(values) > MAX_FRACTION:
        raise BadInput(
            f"{place}: YOLO boxes are fractions of the image, and {max(values):g} is "
            "above 1; divide x and width by the width of the image, y and height by "
            "its height"
        )
    return Region(names[int(number)], _yolo_box(values))


def _yolo_box(values):
    """Returns x1, y1, x2, y2, given centre and size, or the points of a polygon."""
    if len(values) > 4:
        xs, ys = values[::2], values[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    x, y, width, height = values
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _report_yolo(annotated, root):
    """Reports images without labels, labels without images, and other images.

    Raises:
        BadInput: No image has a label file.
    """
    existing = [image for image in annotated if image.path.is_file()]
    unlabelled = [image for image in existing if not image.source.is_file()]
    if len(unlabelled) == len(existing):
        example = f", such as {existing[0].source}" if existing else ""
        raise BadInput(
            f"{root} has {len(existing)} images in its splits and none has a label "
            f"file{example}; put the labels into a folder `labels` beside `images`"
        )
    missing = [image.path for image in annotated if not image.path.is_file()]
    _print_skipped(root, missing, "is listed, but there is no such file")
    datasets.print_skipped(
        (
            (name_below(root, image.path), "has no label file, so it has no boxes")
            for image in unlabelled
        ),
        unit="image",
        action="kept",
    )
    sources = {image.source for image in annotated}
    folders = {source.parent for source in sources}
    labels = {path for folder in folders for path in folder.glob("*.txt")}
    others = [path for path in sorted(labels - sources) if path.name != "classes.txt"]
    _print_skipped(root, others, "has no image of the same name")
    paths = {image.path for image in annotated}
    others = [path for path in list_images(root) if path not in paths]
    _print_skipped(root, others, "is in no split of data.yaml")


def _print_skipped(root, paths, reason):
    """Reports files that are skipped for the same reason."""
    datasets.print_skipped((name_below(root, path), reason) for path in paths)
