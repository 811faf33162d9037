"""The description of image captioning for the application contract."""

import numpy as np

from apps.image_captioning.export import exam
from apps.image_captioning.signatures import words_of
from tests.apps.app_contract import App, fixtures, unreadable_images
from tests.apps.image_captioning import shapes


def write_data(folder):
    """Writes a folder of images with a table of captions, as users have it."""
    return shapes.write(folder / "shapes", range(240))


def inputs(folder):
    """Returns the files of two images of each kind."""
    return [path.read_bytes() for path in sorted(folder.glob("images/*"))[:18]]


def check_alike(answers, expected, engine, signature):
    is_alike = answers["captions"] == expected["captions"]
    # Other programs decode JPEG and resize a little differently.
    assert is_alike.mean() >= 0.9
    if len(is_alike) == 18:
        assert len(set(answers["captions"])) > 6
    words = zip(words_of(answers), words_of(expected), is_alike, strict=True)
    assert all(ours == theirs for ours, theirs, same in words if same)
    for name in ("scores", "attention"):
        ours, theirs = (each[name][is_alike] for each in (answers, expected))
        np.testing.assert_allclose(ours, theirs, atol=0.03)


# Each with a caption of its kind, such as "there is a red disc".
KINDS = [shapes.draw(seed)[1:] for seed in (0, 4, 8)]
LINES = [rf"\t(\w+ )*{' '.join(kind)}\b" for kind in KINDS]
OUTPUTS = {"captions", "scores", "tokens", "attention", "errors"}

APP = App(
    "image_captioning",
    write_data=write_data,
    add_data=lambda folder: shapes.write(folder, range(240, 280)),
    settings=shapes.SMALL,
    num_examples={"train": 162, "validation": 18, "test": 60},
    inputs=inputs,
    arguments=lambda folder: [folder / f"images/{seed:03d}.png" for seed in (0, 4, 8)],
    answers=[r"000\.png" + LINES[0], r"004\.png" + LINES[1], r"008\.png" + LINES[2]],
    device_answers=LINES,
    signatures={
        "serving_default": ("image_bytes", OUTPUTS),
        "greedy": ("image_bytes", OUTPUTS),
        "tensors": ("images", OUTPUTS),
    },
    tensors=np.stack(
        [np.array(shapes.draw(seed)[0].resize((32, 32)), "float32") for seed in (0, 4)]
    ),
    tolerance=1e-3,
    check_alike=check_alike,
    make_exam=lambda examples, config: exam(examples),
    spoil=lambda answers: {
        **answers,
        "captions": np.full_like(answers["captions"], b"no image"),
    },
    metric="cider",
    min_score=5,
    engines=["trained model", "SavedModel", "float32", "float16", "dynamic_range"],
    operations=["CONV_2D"],
    bundle={"settings.json", "tokens.model"},
    requirements=["pillow>=11", "sentencepiece>=0.2"],
    run_files=["model.keras", "tokens.model"],
    figures={"typical.png", "worst.png"},
    unreadable=unreadable_images,
    preset=("flickr8", "flickr8k"),
    released={
        "SavedModel": {"bleu_4": 0.20, "cider": 0.48},
        "float16": {"bleu_4": 0.20, "cider": 0.48},
    },
    max_released_mb=15,
    stock_imports="tensorflow_text",
    counted="images",
)

globals().update(fixtures(APP))
