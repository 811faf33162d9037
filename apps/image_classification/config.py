"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from apps.common.ranges import (
    Count,
    CountOrZero,
    Fraction,
    LearningRate,
    PartialFraction,
    Range,
    Rate,
    Seed,
    Weight,
    check_ranges,
)


@dataclass(frozen=True)
class Config:
    """Trains an image classifier: first a new head, then the backbone too.

    The defaults suit your own photographs.
    """

    data: str
    """A folder with one subfolder of images per class, with or without `train`, `val`
    and `test` folders above them; `tfds:NAME` for TensorFlow Datasets; or `digits`,
    which needs no download."""
    data_licence: str = "not stated"
    """Source and licence of the data, for the model card."""
    validation_fraction: PartialFraction = 0.1
    """Fraction of the training images held out for validation, if the data has no
    validation split."""

    image_size: Annotated[int, Range(1, 4096)] = 224
    """Height and width of the model's input, in pixels."""
    crop_area: Annotated[float, Range(0.01, 1)] = 0.5
    """Smallest fraction of the image that a random crop keeps; 1 turns crops off."""
    flip: bool = True
    """Mirror training images at random."""
    rotation: Annotated[float, Range(0, 180)] = 0.0
    """Largest random rotation, in degrees."""
    color: Fraction = 0.0
    """Strength of random brightness, contrast and saturation, from 0 to 1."""

    backbone: str = "MobileNetV2"
    """A model of `keras.applications`, or `small_resnet` for tiny images."""
    backbone_output: str | None = None
    """The backbone's layer whose features are classified; later layers are removed.
    Defaults to the last layer."""
    weights: str | None = "imagenet"
    """`imagenet` (downloaded once), the path of a weights file for the backbone
    without its top, or None to start from random weights."""
    dropout: Rate = 0.2
    """Dropout rate of the features before the classifier."""

    head_epochs: CountOrZero = 3
    """Epochs of the first phase, with a frozen backbone; skipped without weights."""
    epochs: Count = 20
    """Epochs of the second phase, fine-tuning."""
    fine_tune_fraction: Fraction = 0.62
    """Fraction of the backbone's layers, counted from its end, that the second phase
    trains; 1 trains all of them, which takes longer. Without weights all are
    trained."""
    patience: Count | None = None
    """Epochs without a lower validation loss after which a phase ends early."""
    batch_size: Count = 32
    """Images per training step."""
    head_learning_rate: LearningRate = 1e-2
    """Learning rate of the first phase."""
    learning_rate: LearningRate = 1e-4
    """Peak learning rate of the second phase: linear warm-up in the first tenth of the
    steps, then cosine decay."""
    weight_decay: Weight = 1e-4
    """Decoupled weight decay of AdamW."""
    label_smoothing: Rate = 0.1
    """Label smoothing: the fraction of each label that is spread over all classes."""
    class_weights: bool = False
    """Weight each class by the inverse of its frequency, for imbalanced folders."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy of the training. The mixed ones are faster on GPUs. Exported models
    compute in float32."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, shuffling and augmentation."""

    def __post_init__(self):
        """Checks the ranges of all numbers."""
        check_ranges(self)


def digits():
    """Scikit-learn's 1,797 handwritten digits, built in; 50 s, top-1 0.989.

    python -m apps.image_classification train digits

    Score on the held-out quarter, seed 0; time on two cores.
    """
    return Config(
        data="digits",
        data_licence="UCI Optical Recognition of Handwritten Digits, CC BY 4.0",
        image_size=16,
        crop_area=0.7,
        flip=False,
        rotation=10.0,
        backbone="small_resnet",
        weights=None,
        epochs=30,
        learning_rate=3e-3,
    )


def flowers():
    """Five flowers in 3,664 photographs, from ImageNet; 22 minutes, top-1 0.936.

    python -m apps.image_classification train flowers --weights WEIGHTS.h5

    Score on `val/`, which is used for testing only, seed 0; time on two cores.
    """
    return Config(
        data="data/flowers",
        data_licence="Flickr photographs collected by the TensorFlow team, CC BY 2.0",
        crop_area=0.4,
        backbone_output="block_15_add",
    )


CONFIGS = {"digits": digits, "flowers": flowers}
