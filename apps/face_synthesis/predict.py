"""Draws faces: from seeds, between them, with more of an attribute; reconstructions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.common import datasets, images, runs
from apps.common.errors import BadInput, closest
from apps.common.predictors import about, data_settings, in_batches
from apps.face_synthesis.attributes import encode, find_attributes, labels, names_of
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import load_pixels, load_split
from apps.face_synthesis.grids import (
    check_animation,
    decode,
    enlarge,
    tile,
    write_animation,
)
from apps.face_synthesis.metrics import Features, fit_classifier
from apps.face_synthesis.signatures import MAX_SEED, load_model

NO_ATTRIBUTES = "; train one with --model conditional_gan"
NUM_FACES = 64  # Without seeds.
COLUMNS = 8  # Of a grid.
SHOWN_PIXELS = 128  # Smaller faces are enlarged to about this size in the figure.
NUM_AVERAGED = 256  # Faces whose mean latent vector is taken.
NUM_LABELLED = 1000  # Real faces from which a direction is learned, at most.
AMOUNTS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # Of an attribute that are added.
FRAMES = 12  # Of an animation, from one face to the next.


def predict(
    inputs: Sequence[int],
    model: str,
    attributes: Sequence[str],
    truncation: float,
    interpolate: int,
    direction: str | None,
    data: str | None,
    image_paths: Sequence[Path],
    folder: Path | None,
    animation: Path | None,
    figure: Path,
) -> dict[str, np.ndarray]:
    """Draws faces into a figure, and prints a line for each.

    A line has the seed, or the name of the image, a tab and the attributes.

    The arguments are the flags of the command, described in `__main__.py`.

    Returns:
        `latents`, the latent vectors of the faces, and `pixels`, the faces, uint8
        `(faces, size, size, 3)`.

    Raises:
        BadInput: The model, a seed, an attribute or an image cannot be used.
    """
    for seed in inputs:
        if not 0 <= seed <= MAX_SEED:
            raise BadInput(f"the seed {seed} must be from 0 to {MAX_SEED}")
    if animation:
        check_animation(animation)
    if image_paths and (inputs or attributes):
        raise BadInput("--images takes the place of seeds and --attributes; leave them")
    if direction and interpolate:
        raise BadInput("pass --direction or --interpolate, not both")
    if image_paths:
        names, latents, lines = encode_images(image_paths, model)
    else:
        seeds = list(inputs) or list(range(NUM_FACES))
        names = [str(seed) for seed in seeds]
        latents, lines = draw_seeds(seeds, model, attributes)
    for name, line in zip(names, lines, strict=True):
        print(f"{name}\t{line}".rstrip())

    if folder:
        paths = images.name_outputs("--folder", folder, names)
    draw = make_drawer(model)
    if truncation != 1:
        mean, _ = draw_seeds(range(NUM_AVERAGED), model, attributes)
        latents = mean.mean(axis=0) + truncation * (latents - mean.mean(axis=0))
    pixels, columns = draw(latents), COLUMNS
    shown = pixels
    if direction:
        step = find_direction(model, direction, data)
        shown = draw(np.concatenate([walk(each, step) for each in latents]))
        columns = len(AMOUNTS)
    elif interpolate and len(latents) > 1:
        shown = draw(between(latents, interpolate + 1))
        columns = interpolate + 2
        shown = _with_both_ends(shown, interpolate + 1)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for path, each in zip(paths, pixels, strict=True):
            runs.write_bytes(path, images.encode_png(each))
    if animation:
        closed = np.concatenate([latents, latents[:1]])
        write_animation(draw(between(closed, FRAMES)), animation)
        print(f"animation: {animation}")
    grid = enlarge(tile(shown, min(columns, len(shown))), _factor(pixels))
    figure.parent.mkdir(parents=True, exist_ok=True)
    runs.write_bytes(figure, images.encode_png(grid))
    print(f"figure: {figure}")
    return {"latents": latents, "pixels": pixels}


def draw_seeds(
    seeds: Sequence[int], model: str, wanted: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """Returns the latent vectors of seeds, and the attributes of each in words.

    Args:
        seeds: The seeds.
        model: As `load_predictor` takes it.
        wanted: Wanted attributes, such as `gender=female`.

    Raises:
        BadInput: The model has no such attribute.
    """
    known = (about(model) or {}).get("classes") or []
    values = dict.fromkeys(names_of(known), "")
    if wanted:
        for label in wanted:
            if label not in known:
                raise BadInput(
                    f"--model {model} has no attribute '{label}'"
                    f"{closest(label, known) if known else NO_ATTRIBUTES}"
                )
            name, _, values[name] = label.partition("=")
        requests = [[str(seed), *values.values()] for seed in seeds]
        answers = in_batches(load_model(model, "with_attributes"), requests)
    else:
        answers = in_batches(load_model(model), seeds)
    if "attributes" not in answers:
        return answers["latents"], len(seeds) * [""]
    rows = answers["attributes"].astype(str).tolist()
    if values:  # A bundle without its card does not tell the names.
        rows = [list(map("=".join, zip(values, row, strict=True))) for row in rows]
    return answers["latents"], list(map(", ".join, rows))


def make_drawer(model: str):
    """Returns a function from latent vectors to faces, uint8 `(n, size, size, 3)`."""
    predictor = load_model(model, "latent")
    return lambda latents: decode(
        in_batches(predictor, list(latents.astype("float32")))["image_bytes"]
    )


def encode_images(
    paths: Sequence[Path], model: str
) -> tuple[list[str], np.ndarray, list[str]]:
    """Returns the names of images, their latent vectors, and their errors in words.

    Raises:
        BadInput: The model has no encoder, or an image cannot be read.
    """
    description = about(model)
    if description and description["config"].get("model", "vae") != "vae":
        raise BadInput(
            f"--model {model} has no encoder for --images; train one with --model vae"
        )
    names, files = images.find_images(paths)
    answers = in_batches(
        load_model(model, "reconstruct"), map(images.read_image, files)
    )
    errors = 127.5 * np.sqrt(answers["squared_error"])
    return names, answers["latents"], [f"error {each:.1f}" for each in errors]


def find_direction(model: str, label: str, data: str | None = None) -> np.ndarray:
    """Returns the mean latent vector with an attribute minus that without.

    An autoencoder encodes real faces. A conditional GAN draws faces of both kinds. Of
    the faces of another GAN, a classifier of real faces tells the attribute.

    Args:
        model: As `load_predictor` takes it.
        label: An attribute and its value, such as `gender=female`.
        data: The training data, if it was moved.

    Raises:
        BadInput: There is no such attribute, or none of the faces has it.
    """
    if known := (about(model) or {}).get("classes"):
        _check_label(label, known)
        answers = in_batches(load_model(model), range(NUM_AVERAGED))
        name, _, value = label.partition("=")
        column = names_of(known).index(name)
        has_it = answers["attributes"][:, column].astype(str) == value
        latents = answers["latents"]
    else:
        config, is_other_data, held_out = data_settings(Config, model, data)
        examples = load_split(config, "train", is_other_data, held_out)
        attributes = find_attributes(examples, config)
        examples = datasets.evenly(examples, NUM_LABELLED)
        codes = _codes_of(label, examples, attributes)
        _check_both(codes[codes >= 0] == 1, label)
        if config.model == "vae":
            examples = datasets.take(examples, np.flatnonzero(codes >= 0))
            encoded = map(examples.image_bytes, range(len(examples)))
            latents = in_batches(load_model(model, "reconstruct"), encoded)["latents"]
            has_it = codes[codes >= 0] == 1
        else:
            features = Features(None)
            classify = fit_classifier(features(load_pixels(examples, config)), codes)
            answers = in_batches(load_model(model), range(NUM_AVERAGED))
            latents = answers["latents"]
            has_it = classify(features(decode(answers["image_bytes"]))) == 1
    _check_both(has_it, label)
    return latents[has_it].mean(axis=0) - latents[~has_it].mean(axis=0)


def _check_both(has_it, label):
    """Refuses a direction if all faces have the attribute, or none has it."""
    if has_it.all() or not has_it.any():
        number = "all" if has_it.any() else "none"
        raise BadInput(
            f"{number} of {len(has_it)} faces have {label}; choose another --direction"
        )


def _codes_of(label, examples, attributes):
    """Returns for each example 1 if it has the value, 0 if another one, −1 if none."""
    _check_label(label, labels(attributes))
    name, _, value = label.partition("=")
    (j,) = [j for j, each in enumerate(attributes) if each.name == name]
    codes = encode(attributes, examples)[:, j]
    return np.where(codes < 0, -1, codes == attributes[j].values.index(value))


def _check_label(label, known):
    if label not in known:
        raise BadInput(
            f"--direction {label} is no known attribute"
            f"{closest(label, known) if known else '; the data has none'}"
        )


def walk(latents: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Returns latent vectors with less and more of an attribute, `(amounts, size)`."""
    return latents + np.array(AMOUNTS)[:, None] * step


def between(latents: np.ndarray, steps: int) -> np.ndarray:
    """Returns latent vectors on the lines from each to the next.

    Args:
        latents: `(points, size)`.
        steps: Steps from each point to the next.

    Returns:
        `((points - 1) * steps + 1, size)`.
    """
    places = np.linspace(0, len(latents) - 1, (len(latents) - 1) * steps + 1)
    start = np.minimum(places.astype(int), len(latents) - 2)
    part = (places - start)[:, None]
    return (1 - part) * latents[start] + part * latents[start + 1]


def _with_both_ends(faces, steps):
    """Returns faces along lines so that each row of a grid has both ends of a line."""
    starts = range(0, len(faces) - 1, steps)
    return np.concatenate([faces[start : start + steps + 1] for start in starts])


def _factor(pixels):
    """Returns how much the faces of a figure are enlarged."""
    return max(1, SHOWN_PIXELS // pixels.shape[1])
