"""A small data set of discs and boxes, in each of the formats for boxes."""

import json
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from apps.object_detection.config import Config

CLASSES = ("box", "disc")  # Sorted, as those of Pascal VOC are.
COLORS = {"box": (40, 60, 200), "disc": (230, 130, 30)}
FORMATS = ("voc", "coco", "yolo")


def draw(seed):
    """Returns discs and boxes on noisy ground, and what they are.

    The image has two to four objects, in quarters of their own.

    Returns:
        The image; and for each object the name of its class and x1, y1, x2, y2, whole
        numbers of pixels.
    """
    random = np.random.default_rng(seed)
    height, width = random.integers((56, 64), (65, 81))
    pixels = np.full((height, width, 3), (110.0, 120.0, 110.0))
    y, x = np.indices((height, width)) + 0.5
    objects = []
    for quarter in random.permutation(4)[: random.integers(2, 5)]:
        size = random.integers(14, 25)
        row, column = divmod(quarter, 2)
        top = row * (height // 2) + random.integers(height // 2 - size + 1)
        left = column * (width // 2) + random.integers(width // 2 - size + 1)
        bottom, right = top + size, left + size
        name = CLASSES[random.integers(2)]
        if name == "disc":
            center_y, center_x = top + size / 2, left + size / 2
            inside = (y - center_y) ** 2 + (x - center_x) ** 2 < (size / 2) ** 2
        else:
            inside = (top < y) & (y < bottom) & (left < x) & (x < right)
        pixels[inside] = COLORS[name]
        objects.append((name, (int(left), int(top), int(right), int(bottom))))
    pixels += random.normal(0, 12, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype("uint8")), objects


def write(folder, seeds, format="voc", split="train"):
    """Writes images and their boxes; every other image is a JPEG file.

    Args:
        folder: Where to write. It may have other splits already.
        seeds: One per image; the image `even_02.png` has the seed 2.
        format: One of `FORMATS`.
        split: The split of the images. Pascal VOC's are in no list of a split.
    """
    drawn = [
        (
            f"even_{seed:02d}.png" if seed % 2 == 0 else f"odd_{seed:02d}.jpg",
            *draw(seed),
        )
        for seed in seeds
    ]
    {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}[format](
        folder, drawn, split
    )


def save(path, image):
    """Saves an image in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def write_voc(folder, drawn, split="train"):
    """Writes `JPEGImages` and `Annotations`, as Pascal VOC has them."""
    for name, image, objects in drawn:
        save(folder / "JPEGImages" / name, image)
        path = (folder / "Annotations" / name).with_suffix(".xml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(voc_xml(name, image.size, objects))


def voc_xml(name, size, objects, **fields):
    """Returns an XML file of Pascal VOC.

    Args:
        name: The file name of the image.
        size: Its width and height.
        objects: A class name and x1, y1, x2, y2 of each.
        **fields: Further fields of each object, such as `difficult`.
    """
    root = ElementTree.Element("annotation")
    add(root, "filename", name)
    parent = ElementTree.SubElement(root, "size")
    for field, value in zip(("width", "height", "depth"), (*size, 3), strict=True):
        add(parent, field, value)
    for class_name, box in objects:
        parent = ElementTree.SubElement(root, "object")
        add(parent, "name", class_name)
        for field, value in fields.items():
            add(parent, field, value)
        parent = ElementTree.SubElement(parent, "bndbox")
        for field, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            add(parent, field, value)
    return ElementTree.tostring(root, "unicode")


def add(parent, tag, text):
    """Adds an element with a text."""
    ElementTree.SubElement(parent, tag).text = str(text)


def write_coco(folder, drawn, split="train"):
    """Writes a folder of images and `annotations/instances_SPLIT.json`, as COCO."""
    for name, image, _ in drawn:
        save(folder / split / name, image)
    path = folder / f"annotations/instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco_content(drawn)))


def coco_content(drawn):
    """Returns the content of a JSON file of COCO; classes have the ids 3 and 6."""
    annotations = [
        {
            "image_id": i,
            "category_id": 3 + 3 * CLASSES.index(class_name),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for i, (_, _, objects) in enumerate(drawn)
        for class_name, (left, top, right, bottom) in objects
    ]
    return {
        "images": [
            {"id": i, "file_name": name, "width": image.width, "height": image.height}
            for i, (name, image, _) in enumerate(drawn)
        ],
        "categories": [
            {"id": 3 + 3 * i, "name": class_name}
            for i, class_name in enumerate(CLASSES)
        ],
        "annotations": [{"id": i, **each} for i, each in enumerate(annotations)],
    }


def write_yolo(folder, drawn, split="train"):
    """Writes `images/SPLIT`, `labels/SPLIT` and `data.yaml`, as YOLO has them."""
    for name, image, objects in drawn:
        save(folder / "images" / split / name, image)
        path = (folder / "labels" / split / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yolo_lines(image.size, objects))
    splits = sorted(path.name for path in (folder / "images").iterdir())
    lines = [f"{name}: images/{name}" for name in splits]
    lines += [f"nc: {len(CLASSES)}", f"names: [{', '.join(CLASSES)}]"]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n")


def yolo_lines(size, objects):
    """Returns a label file of YOLO: class number, centre and size of each box."""
    width, height = size
    return "".join(
        f"{CLASSES.index(class_name)} {(left + right) / 2 / width:.6f} "
        f"{(top + bottom) / 2 / height:.6f} {(right - left) / width:.6f} "
        f"{(bottom - top) / height:.6f}\n"
        for class_name, (left, top, right, bottom) in objects
    )


def small(data, **changes):
    """Returns the configuration of a short training."""
    settings = {
        "image_size": (64, 64),
        "scale": (0.9, 1.1),
        "mosaic": 0.0,
        "color": 0.0,
        "backbone": "small_resnet",
        "weights": None,
        "filters": 32,
        "epochs": 10,
        "batch_size": 4,
        "learning_rate": 3e-3,
    }
    return Config(data=str(data), **{**settings, **changes})
