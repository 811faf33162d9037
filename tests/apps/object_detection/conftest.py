"""The description of object detection for the application contract."""

import numpy as np

from apps.common.images import fit_image
from apps.object_detection.export import exam
from tests.apps.app_contract import App, fixtures, unreadable_images
from tests.apps.object_detection.shapes import draw, write, write_voc


def write_shapes(folder):
    """Writes 20 images of different sizes with their boxes."""
    write(folder / "shapes", range(20))
    return folder / "shapes"


def add_shapes(folder):
    drawn = [(f"a_new_one_{seed}.png", *draw(seed)) for seed in range(20, 26)]
    write_voc(folder, drawn)


def prepared_shapes():
    """Returns images in the size of the model's input."""
    images = [np.asarray(draw(seed)[0]) for seed in range(30, 33)]
    return np.array([fit_image(image, 64, 64)[0] for image in images])


def sure_boxes(answers, index, min_score=0.2):
    """Returns the boxes, class names and scores of an image that are not near zero."""
    number = (answers["scores"][index] >= min_score).sum()
    names = ("boxes", "classes", "scores")
    return [answers[name][index][:number] for name in names]


def check_alike(answers, expected, engine, signature):
    assert set(np.unique(answers["classes"])) <= {b"", b"box", b"disc"}
    for i, number in enumerate(answers["num_detections"]):
        is_box = np.arange(100) < number
        np.testing.assert_array_equal(answers["scores"][i] > 0, is_box)
        np.testing.assert_array_equal(answers["classes"][i] != b"", is_box)
        np.testing.assert_array_equal(answers["boxes"][i].any(axis=-1), is_box)
        assert (np.diff(answers["scores"][i]) <= 0).all()
        boxes, classes, scores = sure_boxes(expected, i)
        for box, name, score in zip(boxes, classes, scores, strict=True):
            is_same = (answers["classes"][i] == name) & (
                np.abs(answers["boxes"][i] - box).max(axis=-1) < 0.5
            )
            assert np.abs(answers["scores"][i][is_same] - score).min() < 0.01


def spoil(answers):
    """Returns answers without boxes."""
    return {name: np.zeros_like(value) for name, value in answers.items()}


BOXES = {"boxes", "classes", "scores", "num_detections", "errors"}

APP = App(
    "object_detection",
    write_data=write_shapes,
    add_data=add_shapes,
    settings={
        "image_size": (64, 64),
        "scale": (0.9, 1.1),
        "mosaic": 0.0,
        "color": 0.0,
        "backbone": "small_resnet",
        "weights": None,
        "filters": 32,
        "epochs": 12,
        "batch_size": 4,
        "learning_rate": 3e-3,
    },
    num_examples={"train": 13, "validation": 2, "test": 5},
    inputs=lambda shapes: [
        path.read_bytes() for path in sorted((shapes / "JPEGImages").iterdir())[::3]
    ],
    arguments=lambda shapes: [
        shapes / "JPEGImages/even_02.png",
        shapes / "JPEGImages/odd_01.jpg",
    ],
    answers=[r"even_02\.png: \d+ (disc|box)", r"odd_01\.jpg: \d+ (disc|box)"],
    device_answers=[
        r"even_02\.png\t(disc|box)\t[01]\.\d{4}(\t\d+\.\d){4}$",
        r"even_02\.png\tboxes\teven_02_boxes\.png$",
        r"odd_01\.jpg\t(disc|box)\t[01]\.\d{4}(\t\d+\.\d){4}$",
    ],
    signatures={
        "serving_default": ("image_bytes", BOXES),
        "tensors": ("images", BOXES),
    },
    tensors=prepared_shapes(),
    tolerance=None,  # Boxes of nearly the same score may change places.
    check_alike=check_alike,
    make_exam=exam,
    spoil=spoil,
    metric="ap50",
    min_score=0.7,
    engines=["trained model", "SavedModel", "float32", "dynamic_range", "int8"],
    operations=["CONV_2D"],
    bundle={"labels.txt", "settings.json"},
    requirements=["pillow>=11"],
    run_files=["model.keras"],
    figures={
        "confusion_matrix.png",
        "precision_recall.png",
        "typical.png",
        "worst.png",
    },
    unreadable=unreadable_images,
    bad_settings=[
        (
            {"backbone": "VGG16", "precision": "mixed_bfloat16"},
            "--backbone VGG16 has no feature maps of several resolutions",
        ),
    ],
    preset=("bcd", "bccd"),
    released={"SavedModel": {"ap50": 0.90}},
    max_released_mb=15,
    counted="images",
)

globals().update(fixtures(APP))
