"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from apps.common.ranges import (
    Count,
    LearningRate,
    Minutes,
    PartialFraction,
    Range,
    Seed,
    Weight,
    check_ranges,
)


@dataclass(frozen=True)
class Config:
    """Trains a model that draws new faces like those of a folder.

    The defaults suit photographs of your own, aligned faces or other things that look
    alike.
    """

    # Data
    data: str
    """A folder of images, with subfolders `train` and `test` or without;
    `tfds:NAME` for TensorFlow Datasets; or `drawn_faces`, the built-in data set."""
    data_licence: str = "not stated"
    """Source and licence of the data, printed on the model's card."""
    attribute_file: str | None = None
    """A CSV or TSV file with a row for each image: its name and its attributes.
    Defaults to `attributes.csv` or `labels.csv` in the folder, if there is one."""
    image_column: str = "image"
    """Column (or feature) of the images' names."""
    columns: tuple[str, ...] = ()
    """Columns (or features) of the attributes. Defaults to all that have a few values
    or numbers."""
    value_names: tuple[str, ...] = ()
    """Names of coded values, such as `gender:0=male`."""
    numeric_groups: Annotated[int, Range(2, 10)] = 4
    """Number of groups of about the same size that an attribute of many numbers, such
    as an age, is divided into."""
    validation_fraction: PartialFraction = 0.1
    """Fraction of the training images held out for validation, unless the data has a
    validation split."""

    # Images
    image_size: Literal[16, 32, 64, 128] = 64
    """Height and width of the faces in pixels."""
    resize: Literal["squash", "pad", "crop"] = "crop"
    """How images become square: `squash` changes the aspect ratio, `pad` adds grey,
    `crop` keeps the central square."""
    flip: bool = True
    """Mirror training images at random."""

    # Model
    model: Literal["vae", "gan", "conditional_gan"] = "gan"
    """`vae`, a variational autoencoder; `gan`, a generative adversarial network; or
    `conditional_gan`, which draws faces of wanted attributes."""
    latent_size: Annotated[int, Range(2, 1024)] = 128
    """Size of the latent vectors."""
    filters: Annotated[int, Range(4, 256)] = 24
    """Filters at the full resolution; half the resolution has twice as many, up to
    eight times as many."""
    weights: str | None = None
    """Weights of MobileNetV2, on whose features faces are scored: the path of a file
    without the top, or of a folder that holds it under Keras' name. Defaults to
    EfficientNetLite0, whose weights are installed."""

    # Training
    epochs: Count = 40
    """Maximum number of epochs."""
    patience: Count | None = None
    """Epochs without a better validation Fréchet distance after which the training
    ends."""
    steps_per_epoch: Count = 200
    """Least number of steps of an epoch; fewer images are repeated."""
    max_steps: Count | None = 8000
    """Largest number of training steps; large data sets get fewer epochs, or a part of
    one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included."""
    batch_size: Annotated[int, Range(2, 1024)] = 32
    """Images per training step."""
    learning_rate: LearningRate = 2e-4
    """Learning rate of both networks of a GAN, or of the autoencoder."""
    beta: Weight = 20.0
    """Weight of the divergence from the prior in the loss of a `vae`. More gives better
    new faces, less gives better reconstructions."""
    augmentation: tuple[Literal["color", "translation", "cutout"], ...] = (
        "color",
        "translation",
        "cutout",
    )
    """Random changes of all images that the discriminator sees, so that it does not
    learn few images by heart."""
    average_decay: Annotated[float, Range(0, 0.9999)] = 0.998
    """Decay of the moving average of the generator's weights, which draws the faces."""
    num_validation_samples: Annotated[int, Range(2, 10**5)] = 1000
    """Number of faces drawn for the Fréchet distance after each epoch."""
    num_samples: Annotated[int, Range(2, 10**5)] = 2000
    """Number of faces drawn for the scores of the finished model."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, the order and the noise."""

    def __post_init__(self):
        """Checks the ranges of all numbers."""
        check_ranges(Config, vars(self))


def faces() -> Config:
    """Built-in drawn faces with hair, glasses and smiles; 3 minutes.

    python -m apps.face_synthesis train faces

    Fréchet distance 172 on EfficientNetLite0, floor 28, on the built-in test faces,
    seed 0; time on two cores.
    """
    return Config(
        data="drawn_faces",
        data_licence="drawn by this program, CC0",
        image_size=32,
        model="conditional_gan",
        latent_size=64,
        filters=16,
        epochs=16,
        steps_per_epoch=100,
        max_steps=None,
        batch_size=16,
        learning_rate=5e-4,
        augmentation=("color", "translation"),
        average_decay=0.98,
        num_validation_samples=240,
        num_samples=600,
    )


def utkface() -> Config:
    """6,000 photographs of faces, 64 × 64 pixels, for research only; 26 minutes.

    python -m apps.face_synthesis train utkface --weights WEIGHTS.h5

    Fréchet distance 247 on MobileNetV2, floor 127, on the test faces, seed 0; time on
    two cores.
    """
    return Config(
        data="data/utkface_64",
        data_licence=(
            "UTKFace (Zhang et al., 2017), non-commercial research only; photographs "
            "of real people, which belong to their owners"
        ),
        image_column="file",
        columns=("gender",),
        value_names=("gender:0=male", "gender:1=female"),
        model="conditional_gan",
        epochs=8,
        max_steps=None,
    )


CONFIGS = {make.__name__: make for make in (faces, utkface)}
