"""Classifies images: answers on the screen, and a picture of them."""

from pathlib import Path

from apps.common import images, pictures
from apps.common.errors import BadInput
from apps.common.predictors import in_batches, load_predictor, training_config
from apps.image_classification.config import Config
from apps.image_classification.data import load_split
from apps.image_classification.grad_cam import grad_cam
from apps.image_classification.model import load_classifier


def predict(inputs, model, top=3, explain=False, picture=None):
    """Prints the best classes of each image and draws the images with them.

    Args:
        inputs: Paths of images. Without any, a few test images of the data that the
            model was trained on.
        model: Where the model is, as `predictors.load_predictor` takes it.
        top: Classes to show for each image.
        explain: Whether to lay a heat map over each image that shows where the model
            looked; needs a run directory.
        picture: The PNG file to draw. Defaults to
            `runs/image_classification/predictions.png`.

    Returns:
        The answers: `classes` and `scores`, both `(images, classes)`, best first.

    Raises:
        BadInput: The model or an image cannot be used.
    """
    if inputs:
        encoded_images = [images.read_image(path) for path in inputs]
    else:
        inputs, encoded_images = some_test_images(model)
    if explain and not (Path(model) / "model.keras").exists():
        raise BadInput(
            f"--explain needs gradients, which {model} does not have; pass the run "
            "directory of the training"
        )
    predictor = load_predictor(model, load_classifier)
    answers = in_batches(predictor, encoded_images)
    titles = []
    for path, names, scores in zip(
        inputs, answers["classes"], answers["scores"], strict=True
    ):
        best = [
            f"{name.decode()} {score:.3f}"
            for name, score in zip(names[:top], scores[:top], strict=True)
        ]
        print(f"{path}: {', '.join(best)}")
        titles.append("\n".join(best))

    heats = None
    if explain:
        heats = [grad_cam(predictor.model, encoded) for encoded in encoded_images]
    picture = picture or Path("runs/image_classification/predictions.png")
    pictures.draw_grid(encoded_images, titles, picture, heats)
    print(f"picture: {picture}")
    return answers


def some_test_images(model, number=12):
    """Returns the names and bytes of a few images that the model was not trained on."""
    config = training_config(Config, model)
    examples, _ = load_split(
        config.data, "test", config.validation_fraction, config.seed
    )
    step = max(1, len(examples) // number)
    chosen = range(0, len(examples), step)[:number]
    return [examples.names[i] for i in chosen], [
        examples.image_bytes(i) for i in chosen
    ]
