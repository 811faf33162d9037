"""Scores generated faces: how near they come to real faces that are held out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.common import datasets, figures, images, runs
from apps.common.errors import BadInput
from apps.common.predictors import Predictor, about, data_settings, in_batches
from apps.face_synthesis import baseline, metrics
from apps.face_synthesis.attributes import (
    MISSING,
    encode,
    find_attributes,
    names_of,
)
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import (
    keep_complete,
    load_examples,
    load_pixels,
    load_split,
)
from apps.face_synthesis.grids import decode, tile
from apps.face_synthesis.signatures import load_model

MIN_FACES = 4  # Of other data, whose halves are compared.
GRID_COLUMNS, GRID_ROWS = 8, 8
NUM_ROWS, NUM_NEAREST = 8, 5  # In the figure of the nearest training faces.


def evaluate(
    model: str,
    data: str | None = None,
    split: str = "test",
    num_samples: int | None = None,
    weights: str | None = None,
    attribute_file: str | None = None,
    image_column: str | None = None,
    figures_folder: Path | None = None,
) -> dict[str, Any]:
    """Prints the metrics beside a floor and baselines, and draws faces.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        The report: the metrics as plain numbers, by name.

    Raises:
        BadInput: The model or the data cannot be used.
    """
    predictor = load_model(model)
    config, is_other_data, held_out = data_settings(
        *(Config, model, data),
        num_samples=num_samples,
        attribute_file=attribute_file,
        image_column=image_column,
    )
    features = load_features(weights, config)
    is_conditional = config.model == "conditional_gan"
    if is_other_data:
        # Their attributes are not used; a table only says which images are for testing.
        unused = {"columns": (), "value_names": (), "attribute_file": attribute_file}
        config = replace(config, **unused)
        examples = load_split(config, split, is_other_data)
        if len(examples) < MIN_FACES:
            raise BadInput(
                f"{config.data} has {len(examples)} images; the distances need at "
                f"least {MIN_FACES}"
            )
        train = None
    else:
        splits = load_examples(config, held_out)
        attributes = find_attributes(splits["train"], config) if is_conditional else ()
        keep_complete(splits, attributes)
        examples = datasets.pick_split(splits, split, config.data)
        train = datasets.evenly(splits["train"], metrics.MAX_FACES)
    examples = datasets.evenly(examples, metrics.MAX_FACES)
    pixels = load_pixels(examples, config)
    real = features(pixels)
    answers = draw_faces(predictor, config.num_samples)
    generated = features(answers["pixels"])
    report: dict[str, Any] = {
        **metrics.score(generated, real),
        "images": len(examples),
        "samples": config.num_samples,
        "features": features.name,
        "feature_pixels": metrics.FEATURE_PIXELS,
    }
    if train is None:
        report |= floor_of_halves(real)
    else:
        train_pixels = load_pixels(train, config)
        known = features(train_pixels)
        report |= floor(known, real, config.num_samples)
        report |= nearest_distances(generated, real, known)
        report |= score_baselines(train_pixels, real, features, config.num_samples)
        if is_conditional:
            names = names_of((about(model) or {})["classes"])
            wanted = dict(zip(names, answers["attributes"].T, strict=True))
            sets = (known, train), (real, examples)
            report |= attribute_agreement(generated, wanted, attributes, *sets)
    folder = figures_folder or runs.evaluation_folder(
        model, "face_synthesis", config.data if is_other_data else None
    )
    if config.model == "vae" and not is_bundle(model):
        encoder = load_model(model, "reconstruct")
        report |= reconstruct(encoder, examples, pixels, folder)
    print_report(report)
    known_faces = (pixels, real) if train is None else (train_pixels, known)
    draw(answers["pixels"], generated, *known_faces, folder)
    print(f"figures: {folder}")
    return report


def load_features(weights: str | None, config: Config) -> metrics.Features:
    """Returns the features on which faces are scored.

    Args:
        weights: Weights of MobileNetV2, or None for those of the training. If these are
            not there, EfficientNetLite0 takes their place, and a line says so.
        config: The configuration of the training.
    """
    if weights or not config.weights:
        return metrics.Features(weights)
    try:
        return metrics.Features(config.weights)
    except BadInput:
        print(
            f"{config.weights}, with which the training scored faces, is not there; "
            "they are scored on EfficientNetLite0 (--weights names MobileNetV2's)"
        )
        return metrics.Features(None)


def is_bundle(model: str) -> bool:
    """Returns whether a model is an edge bundle, which has no encoder."""
    return model.endswith(".tflite") or (Path(model) / "model.tflite").exists()


def draw_faces(predictor: Predictor, number: int) -> dict[str, np.ndarray]:
    """Draws the faces of the seeds from 0 on.

    Returns:
        `pixels`, uint8 `(faces, size, size, 3)`; and `attributes`, strings `(faces,
        attributes)`, of a conditional GAN.
    """
    answers = in_batches(predictor, range(number))
    found = {"pixels": decode(answers["image_bytes"])}
    if "attributes" in answers:
        found["attributes"] = answers["attributes"].astype(str)
    return found


def floor(known: np.ndarray, real: np.ndarray, number: int) -> dict[str, Any]:
    """Returns the distances of real training faces, which no model is asked to beat.

    Args:
        known: Features of training faces.
        real: Features of the faces that the samples are compared with.
        number: Number of the samples. So many training faces are taken, evenly spaced,
            if there are enough, because a distance depends on the number.
    """
    some = known[datasets.even_indices(len(known), number)]
    return _floor(metrics.score(some, real), len(some))


def floor_of_halves(real: np.ndarray) -> dict[str, Any]:
    """Returns the distances between the halves of faces, if there are no others."""
    return _floor(metrics.score(real[::2], real[1::2]), len(real[::2]))


def _floor(scores, number):
    return {
        "frechet_floor": scores["frechet_distance"],
        "kernel_floor": scores["kernel_distance"],
        "floor": {"name": "real faces", "samples": number, **scores},
    }


def nearest_distances(
    generated: np.ndarray, real: np.ndarray, known: np.ndarray
) -> dict[str, float]:
    """Returns the median distances to the nearest training face.

    Generated faces that come much nearer than real faces do are copies.

    Args:
        generated: Features of generated faces.
        real: Features of real faces that took no part in the training.
        known: Features of training faces.
    """

    def median(features):
        squares = metrics.squared_distances(features, known).min(axis=1)
        return float(np.median(np.sqrt(squares)))

    return {
        "nearest_training_distance": median(generated),
        "nearest_training_distance_of_real": median(real),
    }


def score_baselines(
    train_pixels: np.ndarray, real: np.ndarray, features: metrics.Features, number: int
) -> dict[str, Any]:
    """Returns the scores of the baselines, on as many faces as there are samples."""
    some = train_pixels[datasets.even_indices(len(train_pixels), number)]
    return {
        "baseline": {
            "name": baseline.NAME,
            **metrics.score(features(baseline.blur(some)), real),
        },
        "mean_color": {
            "name": "mean colour of each training face",
            **metrics.score(features(baseline.mean_color(some)), real),
        },
    }


def attribute_agreement(generated, wanted, attributes, train, test) -> dict[str, Any]:
    """Returns how often generated faces look to a classifier as they should.

    The classifier of an attribute, a logistic regression on the features, learns from
    real training faces.

    Args:
        generated: Features of generated faces.
        wanted: The values of their attributes by name, strings `(faces,)`.
        attributes: The `Attribute`s of the data; those that are not as they were in the
            training are left out.
        train: Features of training faces, and their `Examples`.
        test: Those of the real faces on which the classifiers are scored.

    Returns:
        `attribute_agreement`, the mean over the attributes; and `attributes`, for each
        one the `agreement`, and the `accuracy` of the classifier on real faces.
    """
    known, real = encode(attributes, train[1]), encode(attributes, test[1])
    rows = {}
    for j, attribute in enumerate(attributes):
        drawn = wanted.get(attribute.name, np.array([""]))
        if not {*drawn} <= {*attribute.values}:
            print(f"the values of {attribute.name} have changed since the training")
            continue
        classify = metrics.fit_classifier(train[0], known[:, j])
        is_real = real[:, j] != MISSING
        names = np.array(attribute.values)[classify(generated)]
        rows[attribute.name] = {
            "agreement": float(np.mean(names == drawn)),
            "accuracy": float(np.mean(classify(test[0]) == real[:, j], where=is_real)),
        }
    if not rows:
        return {}
    agreement = float(np.mean([row["agreement"] for row in rows.values()]))
    return {"attribute_agreement": agreement, "attributes": rows}


def reconstruct(encoder, examples, pixels, folder) -> dict[str, float]:
    """Scores and draws the reconstructions of an autoencoder.

    Args:
        encoder: The predictor of `reconstruct`.
        examples: The `Examples`.
        pixels: Their pixels, uint8 `(images, size, size, 3)`.
        folder: The folder for the figure.

    Returns:
        `reconstruction_error`, the root of the mean squared error in grey levels;
        `elbo`, the evidence lower bound in nats per face; and `elbo_bits`, the same in
        bits per pixel and colour.
    """
    answers = in_batches(encoder, map(examples.image_bytes, range(len(examples))))
    generated = decode(answers["reconstruction_bytes"])
    some = datasets.even_indices(len(pixels), 4 * GRID_COLUMNS)
    pairs = [
        each[some[i : i + GRID_COLUMNS]]
        for i in range(0, len(some), GRID_COLUMNS)
        for each in (pixels, generated)
    ]
    _write_grid(np.concatenate(pairs), folder / "reconstructions.png")
    elbo = float(answers["elbo"].mean())
    return {
        "reconstruction_error": float(127.5 * np.sqrt(answers["squared_error"].mean())),
        "elbo": elbo,
        "elbo_bits": elbo / np.log(2) / pixels[0].size,
    }


def print_report(report: Mapping[str, Any]) -> None:
    """Prints the metrics as a table, with the floor and the baselines."""
    print(
        f"{report['samples']} samples and {report['images']} real faces, on features "
        f"of {report['features']} at {report['feature_pixels']} × "
        f"{report['feature_pixels']} pixels (this is not FID)"
    )
    columns = {
        "Fréchet": "frechet_distance",
        "kernel": "kernel_distance",
        "precision": "precision",
        "recall": "recall",
        "density": "density",
        "coverage": "coverage",
    }
    rows = {"model": report}
    rows |= {
        report[key]["name"]: report[key]
        for key in ("floor", "baseline", "mean_color")
        if key in report
    }
    width = max(map(len, rows)) + 1
    print(" " * width + "".join(f"{title:>11}" for title in columns))
    for name, row in rows.items():
        cells = [f"{row[column]:11.4g}" for column in columns.values()]
        print(f"{name:{width}}{''.join(cells)}")
    for name, text in (
        ("nearest_training_distance", "median distance to the nearest training face"),
        ("nearest_training_distance_of_real", "the same of real test faces"),
        ("attribute_agreement", "attribute agreement"),
        ("reconstruction_error", "reconstruction error, grey levels"),
        ("elbo", "evidence lower bound, nats per face"),
        ("elbo_bits", "the same, bits per pixel and colour"),
    ):
        if name in report:
            print(f"{text}: {report[name]:.4g}")
    for name, row in report.get("attributes", {}).items():
        print(
            f"  {name}: {row['agreement']:.4f}; the classifier is right on "
            f"{row['accuracy']:.4f} of real faces"
        )


def draw(
    pixels: np.ndarray,
    generated: np.ndarray,
    known_pixels: np.ndarray,
    known: np.ndarray,
    folder: Path,
) -> None:
    """Draws samples, and the known faces that are nearest to some of them.

    Args:
        pixels: The samples, uint8 `(samples, size, size, 3)`.
        generated: Their features.
        known_pixels: The training faces; of other data all faces.
        known: Their features.
        folder: The folder for the figures.
    """
    _write_grid(pixels[: GRID_COLUMNS * GRID_ROWS], folder / "samples.png")
    distances = metrics.squared_distances(generated[:NUM_ROWS], known)
    nearest = np.argsort(distances, axis=1)[:, :NUM_NEAREST]
    rows = [
        (f"seed {seed}", [pixels[seed], *known_pixels[indices]])
        for seed, indices in enumerate(nearest)
    ]
    titles = ["sample", *(f"real face {i + 1}" for i in range(nearest.shape[1]))]
    figures.draw_rows(rows, folder / "neighbours.png", titles)


def _write_grid(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_bytes(path, images.encode_png(tile(pixels, GRID_COLUMNS)))
