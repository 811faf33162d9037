"""The description of image classification for the application contract."""

import numpy as np
from PIL import Image

from apps.image_classification.export import exam
from tests.apps.app_contract import App, fixtures, unreadable_images

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def make_image(color, seed, size=(40, 30)):
    """Returns a noisy image of one colour."""
    noise = np.random.default_rng(seed).normal(0, 40, (size[1], size[0], 3))
    return Image.fromarray((np.array(color) + noise).clip(0, 255).astype("uint8"))


def write_photos(folder, numbers=range(8)):
    """Writes class folders: 3 classes × 8 small JPEGs."""
    root = folder / "photos"
    for label, (name, color) in enumerate(COLORS.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in numbers:
            path = root / name / f"{name}_{i}.jpg"
            make_image(color, 10 * label + i).save(path, quality=92)
    return root


def check_alike(answers, expected, engine, signature):
    def by_name(answers):
        assert (np.diff(answers["scores"], axis=1) <= 0).all()
        order = answers["classes"].astype(bytes).argsort(axis=1)
        return np.take_along_axis(answers["scores"], order, axis=1)

    # The SavedModel has weights of half precision.
    np.testing.assert_allclose(by_name(answers), by_name(expected), atol=5e-3)


APP = App(
    "image_classification",
    write_data=write_photos,
    add_data=lambda photos: write_photos(photos.parent, numbers=range(8, 11)),
    settings={
        "validation_fraction": 0.2,
        "image_size": 24,
        "resize": "crop",
        "backbone": "small_resnet",
        "weights": None,
        "epochs": 12,
        "learning_rate": 3e-3,
        "label_smoothing": 0.2,
        "batch_size": 8,
    },
    num_examples={"train": 14, "validation": 4, "test": 6},
    inputs=lambda photos: [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))],
    arguments=lambda photos: [photos / "blue/blue_0.jpg", photos / "red/red_1.jpg"],
    answers=[r"blue_0\.jpg: blue [01]\.\d{3}, ", r"red_1\.jpg: red [01]\.\d{3}, "],
    device_answers=[
        r"blue_0\.jpg\tblue\t[01]\.\d{4}$",
        r"red_1\.jpg\tred\t[01]\.\d{4}$",
    ],
    signatures={
        "serving_default": ("image_bytes", {"classes", "scores", "errors"}),
        "tensors": ("images", {"scores", "errors"}),
    },
    tensors=(
        np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3)).astype("float32")
    ),
    check_alike=check_alike,
    make_exam=lambda examples, config: exam(examples),
    spoil=lambda answers: {**answers, "classes": answers["classes"][:, ::-1]},
    metric="accuracy",
    min_score=0.8,
    engines=["trained model", "SavedModel", "float32", "dynamic_range", "int8"],
    operations=["CONV_2D"],
    bundle={"labels.txt", "settings.json"},
    requirements=["pillow>=11"],
    run_files=["model.keras"],
    figures={"confusion_matrix.png", "worst_mistakes.png"},
    unreadable=unreadable_images,
    bad_settings=[
        (
            {"backbone": "MobilNetV2", "precision": "mixed_bfloat16"},
            "--backbone MobilNetV2 is no known model",
        ),
    ],
    preset=("flower", "flowers"),
    released={"SavedModel": {"accuracy": 0.935}, "int8": {"accuracy": 0.93}},
    max_released_mb=15,
    tolerance=1e-3,  # The SavedModel has weights of half precision.
)

globals().update(fixtures(APP))
