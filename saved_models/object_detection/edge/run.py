"""Detects objects on a device: python run.py photo.jpg

It needs numpy, pillow and ai-edge-litert (requirements.txt), but no TensorFlow.
"""

import argparse
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageColor, ImageDraw, ImageFont

BUNDLE = Path(__file__).parent
FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP"}  # Those that the served model decodes.
# What turns a photograph upright, by its orientation in Exif data.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# As the served model has them.
MAX_BOXES = 100  # Answered for an image.
MAX_CANDIDATES = 1000  # Points that suppression looks at.
NUM_PROPOSALS = 100  # Regions that Faster R-CNN looks at a second time.
PROPOSAL_IOU = 0.7
VARIANCE = np.array([0.1, 0.1, 0.2, 0.2], "float32")
MAX_DELTA = 5.0


def load_model(path=BUNDLE / "model.tflite"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file, beside `labels.txt` and `settings.json`.

    Returns:
        A function from a list of encoded images to named arrays:

        - `boxes`, `(images, 100, 4)`: x1, y1, x2, y2 in pixels of the upright image,
          best first.
        - `classes`, `(images, 100)`: the names of the classes.
        - `scores`, `(images, 100)`: from 0 to 1.
        - `num_detections`, `(images,)`: the number of boxes; beyond it boxes and scores
          are zero and classes empty.
    """
    folder = Path(path).parent
    labels, settings = read_labels(folder), read_settings(folder)
    interpreter = Interpreter(str(path), num_threads=2)
    network = interpreter.get_signature_runner("serving_default")
    box_head = None
    if "box_head" in interpreter.get_signature_list():  # Faster R-CNN.
        box_head = interpreter.get_signature_runner("box_head")
    _, height, width, _ = network.get_input_details()["images"]["shape"]
    iou, min_score = settings["iou"], settings["min_score"]

    def detect(image_bytes):
        fitted, inner_size, size = prepare(image_bytes, height, width)
        outputs = network(images=fitted)
        if box_head:
            boxes, scores = look_again(box_head, outputs)
        else:
            boxes, scores = find_candidates(outputs, min_score)
        boxes, scores = clip(boxes, scores, inner_size)
        boxes, scores, classes = suppress(boxes, scores, iou, min_score)
        boxes = boxes / corners(inner_size) * corners(size)
        num_empty = MAX_BOXES - len(boxes)
        return (
            np.pad(boxes, ((0, num_empty), (0, 0))),
            np.append(labels[classes], [b""] * num_empty),
            np.pad(scores, (0, num_empty)),
            len(boxes),
        )

    def predict(encoded_images):
        boxes, classes, scores, numbers = zip(*map(detect, encoded_images), strict=True)
        return {
            "boxes": np.array(boxes, "float32"),
            "classes": np.array(classes, object),
            "scores": np.array(scores, "float32"),
            "num_detections": np.array(numbers, "int32"),
        }

    return predict


def read_labels(folder):
    """Returns the names in `labels.txt`, as bytes."""
    labels = (folder / "labels.txt").read_text("utf-8").splitlines()
    return np.array([label.encode() for label in labels], object)


def read_settings(folder):
    """Returns the thresholds in `settings.json`: `iou`, `min_score`, `confidence`."""
    return json.loads((folder / "settings.json").read_text("utf-8"))


def decode(image_bytes):
    """Decodes an image as the served model does: upright, to 8-bit RGB on white."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        if image.format not in FORMATS:
            raise ValueError(f"it is a {image.format} image; convert it to JPEG or PNG")
        if image.format == "BMP" and image.mode in ("1", "P"):
            raise ValueError("it is a BMP image with a palette; convert it to PNG")
        if image.format in ("JPEG", "MPO"):
            turn = TURNS.get(read_orientation(image.info.get("exif", b"")))
            image = image if turn is None else image.transpose(turn)
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip them.
            image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def read_orientation(exif):
    """Returns the orientation in Exif data; 1, upright, if it is damaged or missing."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for i in range(num_entries):
            entry = struct.unpack_from(f"{order}HHIHxx", tiff, start + 2 + 12 * i)
            if entry[:3] == (0x0112, 3, 1) and 1 <= entry[3] <= 8:
                return entry[3]
    except (KeyError, struct.error):
        pass
    return 1


def prepare(image_bytes, height, width):
    """Decodes, resizes and pads an image exactly as the served model does.

    Args:
        image_bytes: An encoded image.
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        The padded image, float32 `(1, height, width, 3)`, RGB from 0 to 255; the size
        of the image without the padding; and the size of the upright original.
    """
    image = np.asarray(decode(image_bytes), "float32")
    rows, columns = image.shape[:2]
    if rows * width > columns * height:
        inner = height, max(1, (2 * columns * height + rows) // (2 * rows))
    else:
        inner = max(1, (2 * rows * width + columns) // (2 * columns)), width
    fitted = np.full((1, height, width, 3), 127.5, "float32")
    fitted[0, : inner[0], : inner[1]] = resize(image, inner)
    return fitted, inner, (rows, columns)


def resize(maps, size):
    """Resizes float32 `(height, width, channels)` to `(*size, channels)`."""
    if maps.shape[:2] == tuple(size):
        return maps
    channels = [
        Image.fromarray(maps[..., i]).resize(size[::-1], Image.Resampling.BILINEAR)
        for i in range(maps.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def find_candidates(outputs, min_score):
    """Decodes the points whose best score is above a threshold.

    Args:
        outputs: For each stride the class logits, `logits_8`, `(1, rows, columns,
            classes)`, and the logits of the distances from a point to the sides of its
            box in cells, `bins_8`, `(1, rows, columns, 4 * num_bins)`.
        min_score: The threshold.

    Returns:
        Boxes in pixels, float32 `(n, 4)`, and their scores, float32 `(n, classes)`.
    """
    boxes, scores = [], []
    strides = sorted(int(name[7:]) for name in outputs if name.startswith("logits_"))
    for stride in strides:
        negated = np.minimum(-outputs[f"logits_{stride}"][0], 80)  # No overflow.
        stride_scores = 1 / (1 + np.exp(negated))
        rows, columns = np.nonzero(stride_scores.max(axis=-1) > min_score)
        bins = outputs[f"bins_{stride}"][0, rows, columns]
        bins = bins.reshape(len(rows), 4, bins.shape[-1] // 4)
        bins = np.exp(bins - bins.max(axis=-1, keepdims=True))
        bins /= bins.sum(axis=-1, keepdims=True)
        distances = stride * (bins @ np.arange(bins.shape[-1], dtype="float32"))
        centres = stride * (np.stack([columns, rows], axis=-1) + np.float32(0.5))
        corners = [centres - distances[:, :2], centres + distances[:, 2:]]
        boxes.append(np.concatenate(corners, axis=-1))
        scores.append(stride_scores[rows, columns])
    return np.concatenate(boxes).astype("float32"), np.concatenate(scores)


def look_again(box_head, outputs):
    """Classifies and corrects the best regions, as Faster R-CNN does.

    Args:
        box_head: Function of feature maps and boxes.
        outputs: As for `find_candidates`, with the one class "object"; and the feature
            maps, `features_8` and so on.

    Returns:
        Boxes in pixels, float32 `(n, 4)`, and their scores, float32 `(n, classes)`.
    """
    boxes, scores = find_candidates(outputs, 0.0)
    boxes, objectness, _ = suppress(boxes, scores, PROPOSAL_IOU, 0.0)
    num_empty = NUM_PROPOSALS - len(boxes)
    boxes = np.pad(boxes, ((0, num_empty), (0, 0)))
    objectness = np.pad(objectness, (0, num_empty))
    features = {name: x for name, x in outputs.items() if name.startswith("features_")}
    answers = box_head(boxes=boxes[None], **features)
    logits = answers["class_logits"][0]
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = scores[:, :-1] / scores.sum(axis=1, keepdims=True)  # Without background.
    # The scores of the proposals also say how well the boxes fit.
    return refine(boxes, answers["deltas"][0]), np.sqrt(objectness[:, None] * scores)


def refine(boxes, deltas):
    """Moves and resizes boxes, float32 `(n, 4)`, by deltas of their centres and sizes.

    Args:
        boxes: x1, y1, x2, y2.
        deltas: Moves in heights and widths, and logarithms of factors, `(n, 4)`, all
            divided by `VARIANCE`; vertical ones before horizontal ones.
    """
    deltas = (deltas.clip(-MAX_DELTA, MAX_DELTA) * VARIANCE)[:, [1, 0, 3, 2]]
    sizes = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + deltas[:, :2] * sizes
    halves = np.exp(deltas[:, 2:]) * sizes / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def corners(size):
    """Returns a height and a width as width, height, width, height, float32 `(4,)`."""
    return np.tile(np.array(size[::-1], "float32"), 2)


def clip(boxes, scores, size):
    """Clips boxes to their image and leaves out those outside it.

    Args:
        boxes: `(n, 4)`: x1, y1, x2, y2 in pixels.
        scores: `(n, classes)`.
        size: Height and width of the image.
    """
    boxes = boxes.clip(0, corners(size))
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[has_area], scores[has_area]


def suppress(boxes, scores, iou, min_score):
    """Keeps the best boxes of each class and drops those that overlap them.

    Args:
        boxes: float32 `(n, 4)`: x1, y1, x2, y2.
        scores: float32 `(n, classes)`, from 0 to 1.
        iou: Intersection over union above which two boxes of a class are one object.
        min_score: Scores must be above it.

    Returns:
        The boxes, their scores and their class numbers, at most `MAX_BOXES`, best
        first.
    """
    best = np.argsort(-scores.max(axis=1), kind="stable")[:MAX_CANDIDATES]
    boxes, scores = boxes[best], scores[best]
    kept, classes = [], []
    for number, class_scores in enumerate(scores.T):
        order = np.argsort(-class_scores, kind="stable")
        order = order[class_scores[order] > min_score]
        chosen = order[without_overlaps(boxes[order], iou)]
        kept.extend(chosen)
        classes.extend([number] * len(chosen))
    kept, classes = np.array(kept, int), np.array(classes, int)
    kept_scores = scores[kept, classes]
    first = np.argsort(-kept_scores, kind="stable")[:MAX_BOXES]
    return boxes[kept[first]], kept_scores[first], classes[first]


def without_overlaps(boxes, iou):
    """Returns the positions of boxes that overlap no better one which is kept.

    Args:
        boxes: `(n, 4)`, best first.
        iou: Intersection over union above which boxes overlap.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept, others = [], np.arange(len(boxes))
    while len(others) and len(kept) < MAX_BOXES:
        first, others = others[0], others[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[others, :2])
        high = np.minimum(boxes[first, 2:], boxes[others, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[first] + areas[others] - common
        others = others[common <= iou * union]
    return np.array(kept, int)


def draw(image_bytes, boxes, names, scores, colors, path):
    """Draws labelled boxes on their image, to a PNG file.

    Args:
        image_bytes: The encoded image.
        boxes: `(n, 4)`: x1, y1, x2, y2 in pixels; small ones are drawn on top.
        names: The name of the class of each box.
        scores: `(n,)`.
        colors: The colour of each class, by name.
        path: The file to write.
    """
    image = decode(image_bytes)
    factor = max(1, 480 // max(image.size))  # Tiny images have no room for text.
    image = image.resize((factor * image.width, factor * image.height))
    pen = ImageDraw.Draw(image)
    thickness = max(2, min(image.size) // 160)
    font = ImageFont.load_default(max(12, min(image.size) // 32))
    boxes = (factor * np.asarray(boxes)).round().astype(int)
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    for i in order:
        pen.rectangle(boxes[i].tolist(), outline=colors[names[i]], width=thickness)
    for i in order:
        text = f"{names[i]} {scores[i]:.2f}"
        *_, width, height = pen.textbbox((0, 0), text, font)
        x, y = boxes[i, 0], max(0, boxes[i, 1] - height)  # Above, if there is room.
        label = (x, y, x + width + 2, y + height + 1)
        pen.rectangle(label, fill=colors[names[i]])
        pen.text((x + 1, y), text, "black", font)
    image.save(path)


def make_colors(names):
    """Returns a bright colour for each name, evenly around the colour wheel."""
    hues = [360 * i // len(names) for i in range(len(names))]
    return {
        name: ImageColor.getrgb(f"hsl({(hue + 40) % 360}, 90%, 65%)")
        for name, hue in zip(names, hues, strict=True)
    }


def main():
    """Prints the boxes in each image and draws them on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument(
        "--model", type=Path, default=BUNDLE / "model.tflite", help="a .tflite file"
    )
    parser.add_argument(
        "--confidence", type=float, help="lowest score of a box, from 0 to 1"
    )
    parser.add_argument(
        "--to", type=Path, default=Path("."), help="folder for the drawn images"
    )
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    folder, confidence = arguments.model.parent, arguments.confidence
    try:
        predict = load_model(arguments.model)
        colors = make_colors([name.decode() for name in read_labels(folder)])
        if confidence is None:
            confidence = read_settings(folder)["confidence"]
        arguments.to.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is missing; copy the whole bundle again")
    except (ValueError, OSError) as error:
        parser.error(f"{arguments.model} or {arguments.to} cannot be used: {error}")
    for path in arguments.images:
        try:
            image_bytes = path.read_bytes()
            answers = predict([image_bytes])
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            print(f"error: {path} cannot be read as an image: {error}", file=sys.stderr)
            sys.exit(2)
        number = int((answers["scores"][0] >= max(confidence, 1e-9)).sum())
        boxes, classes, scores = (
            answers[name][0][:number] for name in ("boxes", "classes", "scores")
        )
        names = [name.decode() for name in classes]
        for name, score, box in zip(names, scores, boxes, strict=True):
            print(path, name, f"{score:.4f}", *(f"{x:.1f}" for x in box), sep="\t")
        drawn = arguments.to / f"{path.stem}_boxes.png"
        draw(image_bytes, boxes, names, scores, colors, drawn)
        print(path, "boxes", drawn, sep="\t")


if __name__ == "__main__":
    main()
