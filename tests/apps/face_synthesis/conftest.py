"""The description of face synthesis for the application contract."""

import numpy as np

from apps.common.images import encode_png
from apps.face_synthesis.export import exam
from apps.face_synthesis.grids import decode
from tests.apps.app_contract import App, fixtures
from tests.apps.face_synthesis import tiny


def check_alike(answers, expected, engine, signature):
    assert len(set(expected["image_bytes"])) == len(expected["image_bytes"])
    ours, theirs = (
        decode(each["image_bytes"]).astype(int) for each in (answers, expected)
    )
    assert np.abs(ours - theirs).max() <= 1, engine
    if "latents" in expected:
        np.testing.assert_allclose(answers["latents"], expected["latents"], atol=1e-3)
        assert (answers["attributes"] == expected["attributes"]).all()


SEEDS = [0, 1, 7, 123_456_789, 2**31 - 1]
LATENTS = np.random.default_rng(0).normal(size=(3, 12)).astype("float32")
OUTPUTS = {"image_bytes", "latents", "attributes", "errors"}
BAD_SEED = "the seed must be a whole number from 0 to 2147483647"
BAD_LATENT = "the latents must be from -100 to 100"


def with_value(value):
    """Returns a latent vector with this number in it."""
    return np.where(np.arange(12) == 3, value, LATENTS[0]).astype("float32")


APP = App(
    "face_synthesis",
    write_data=lambda folder: tiny.write(folder / "faces", range(160)),
    add_data=lambda folder: tiny.write(folder, range(160, 190)),
    settings=tiny.SMALL,
    num_examples={"train": 96, "validation": 24, "test": 40},
    inputs=lambda folder: SEEDS,
    arguments=lambda folder: [0, 7],
    answers=[r"^0\t.*smiling=(yes|no), glasses=", r"^7\t.*smiling=(yes|no), glasses="],
    device_answers=[r"^0\tface_0\.png\tsmiling=", r"^7\tface_7\.png\tsmiling="],
    signatures={
        "serving_default": ("seed", OUTPUTS),
        "with_attributes": ("seed_and_attributes", OUTPUTS),
        "latent": ("latents", {"image_bytes", "errors"}),
        "tensors": ("latents", {"images", "errors"}),
    },
    good={
        "latents": list(LATENTS),
        "seed_and_attributes": [["3", "yes", "", "red"], ["4", "", "", ""]],
    },
    bad={
        "seed": [(-1, BAD_SEED), (2**31, BAD_SEED), (-(2**63), BAD_SEED)],
        "seed_and_attributes": [
            (["", "yes", "no", "red"], BAD_SEED),
            (["-1", "yes", "no", "red"], BAD_SEED),
            (["2147483648", "", "", ""], BAD_SEED),
            (["1", "maybe", "", ""], "smiling must be one of no, yes, or empty"),
            (["1", "", "", "green"], "hair must be one of black, blond, brown, red"),
        ],
        "latents": [
            (with_value(value), BAD_LATENT) for value in (101, -101, np.nan, np.inf)
        ],
    },
    tensors=LATENTS,
    tolerance=0.01,
    check_alike=check_alike,
    make_exam=exam,
    spoil=lambda answers: {
        **answers,
        "image_bytes": np.full_like(
            answers["image_bytes"], encode_png(np.zeros((16, 16, 3), "uint8"))
        ),
    },
    metric="frechet_distance",
    min_score=0,
    engines=["trained model", "SavedModel", "float32", "float16", "dynamic_range"],
    operations=["CONV_2D"],
    bundle={"attributes.json"},
    requirements=["pillow>=11"],
    run_files=["model.keras", "attributes.json"],
    figures={"samples.png", "neighbours.png"},
    unreadable=lambda folder: [
        (["5000000000"], *2 * ["the seed 5000000000 must be from 0 to 2147483647"])
    ],
    preset=("utkfac", "utkface"),
    released={"SavedModel": {"precision": 0.3}, "float16": {"precision": 0.3}},
    max_released_mb=15,
    counted="images",
)

globals().update(fixtures(APP))
