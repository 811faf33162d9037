"""The description of semantic segmentation for the application contract."""

import io

import numpy as np
from PIL import Image

from apps.semantic_segmentation.data import decode_mask
from apps.semantic_segmentation.export import exam
from tests.apps.app_contract import App, fixtures, unreadable_images
from tests.apps.semantic_segmentation.shapes import draw, write


def write_shapes(folder):
    """Writes 20 images of different sizes with their masks."""
    write(folder / "shapes", range(20))
    return folder / "shapes"


def add_shapes(folder):
    for seed in range(20, 26):
        image, mask = draw(seed)
        image.save(folder / f"images/a_new_one_{seed}.png")
        mask.save(folder / f"masks/a_new_one_{seed}.png")


def agreement(answers, others):
    """Returns the fraction of pixels that have the same class in both."""
    pairs = [
        decode_mask(one) == decode_mask(other)
        for one, other in zip(answers["mask_bytes"], others["mask_bytes"], strict=True)
    ]
    return np.mean(np.concatenate([pair.ravel() for pair in pairs]))


def check_alike(answers, expected, engine, signature):
    # A device has another CRF, which test_export.py compares with its layer. How much
    # both change depends on the training, and no two are alike, because of threads.
    is_exact = (engine, signature) != ("float32", "with_crf")
    assert agreement(answers, expected) >= (0.999 if is_exact else 0.85)
    np.testing.assert_allclose(
        answers["pixel_fractions"],
        expected["pixel_fractions"],
        atol=2e-3 if is_exact else 0.15,
    )
    known = np.array([b"ground", b"disc", b"box"], object)
    for class_names, fractions in zip(
        answers["classes"], answers["pixel_fractions"], strict=True
    ):
        assert class_names.tolist() == np.where(fractions > 0, known, b"").tolist()


def spoil(answers):
    """Returns masks of the first class only."""

    def encode(mask):
        file = io.BytesIO()
        Image.fromarray(np.zeros_like(mask)).save(file, "PNG")
        return file.getvalue()

    masks = [encode(decode_mask(each)) for each in answers["mask_bytes"]]
    return {**answers, "mask_bytes": np.array(masks, object)}


MASKS = {"mask_bytes", "classes", "pixel_fractions", "errors"}

APP = App(
    "semantic_segmentation",
    write_data=write_shapes,
    add_data=add_shapes,
    settings={
        "image_size": (64, 64),
        "crop": (64, 64),
        "scale": (0.9, 1.1),
        "color": 0.0,
        "backbone": "small_resnet",
        "weights": None,
        "epochs": 8,
        "batch_size": 4,
        "learning_rate": 3e-3,
    },
    num_examples={"train": 13, "validation": 2, "test": 5},
    inputs=lambda shapes: [
        path.read_bytes() for path in sorted((shapes / "images").iterdir())[::3]
    ],
    arguments=lambda shapes: [
        shapes / "images/even_00.png",
        shapes / "images/odd_01.jpg",
    ],
    answers=[r"even_00\.png: ground \d+\.\d%", r"odd_01\.jpg: ground \d+\.\d%"],
    device_answers=[
        r"even_00\.png\tground\t0\.\d{4}$",
        r"even_00\.png\toverlay\teven_00_overlay\.png$",
        r"odd_01\.jpg\tground\t0\.\d{4}$",
    ],
    signatures={
        "serving_default": ("image_bytes", MASKS),
        "with_crf": ("image_bytes", MASKS),
        "tensors": ("images", {*MASKS, "scores"}),
    },
    tensors=(
        np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype("float32")
    ),
    tolerance=5e-3,  # The exported variables have half precision.
    check_alike=check_alike,
    make_exam=exam,
    spoil=spoil,
    metric="mean_iou",
    min_score=0.6,  # Ground alone would be 0.25.
    engines=[
        "trained model",
        "SavedModel",
        "float32",
        "dynamic_range",
        "int8",
        "trained model with CRF",
        "SavedModel with CRF",
        "model.tflite with crf.tflite",
    ],
    operations=["CONV_2D"],
    bundle={"crf.tflite", "labels.txt"},
    requirements=["pillow>=11"],
    run_files=["model.keras"],
    figures={"typical.png", "worst.png"},
    unreadable=unreadable_images,
    bad_settings=[
        (
            {"backbone": "VGG16", "precision": "mixed_bfloat16"},
            "--backbone VGG16 has no feature maps of several resolutions",
        ),
    ],
    preset=("camvd", "camvid"),
    released={
        "SavedModel": {"mean_iou": 0.64},
        "SavedModel with CRF": {"mean_iou": 0.65},
    },
    max_released_mb=15,
)

globals().update(fixtures(APP))
