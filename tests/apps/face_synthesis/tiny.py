"""A small data set of drawn faces, and settings of tiny models."""

import numpy as np

from apps.face_synthesis.config import Config
from apps.face_synthesis.embedded import COLUMNS, draw_face

# A training of seconds.
SMALL = {
    "validation_fraction": 0.2,
    "image_size": 16,
    "model": "conditional_gan",
    "latent_size": 12,
    "filters": 4,
    "epochs": 3,
    "steps_per_epoch": 6,
    "max_steps": None,
    "batch_size": 8,
    "num_validation_samples": 24,
    "num_samples": 48,
}


def small(data="", **changes):
    """Returns the settings of a tiny model."""
    return Config(data=str(data), **{**SMALL, **changes})


def write(folder, seeds):
    """Writes faces, and `attributes.csv`; the folder may have others already."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = folder / "attributes.csv"
    rows = [] if table.exists() else [",".join(("image", *COLUMNS))]
    for seed in seeds:
        png, attributes = draw_face(np.random.default_rng(seed))
        (folder / f"images/{seed:03d}.png").write_bytes(png)
        rows.append(",".join((f"{seed:03d}.png", *attributes)))
    with table.open("a") as file:
        file.writelines(f"{row}\n" for row in rows)
    return folder
