"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from apps.common.errors import BadInput
from apps.common.ranges import (
    Count,
    CountOrZero,
    Fraction,
    LearningRate,
    Minutes,
    PartialFraction,
    Range,
    Rate,
    Seed,
    Weight,
    check_ranges,
)

# What `auto` chooses from.
BACKBONES = ("EfficientNetLite0", "MobileNetV2")
RESIZINGS = ("crop", "pad", "squash")


@dataclass(frozen=True)
class Config:
    """Trains an image classifier: first a linear head, then the backbone too.

    The defaults suit your own photographs.
    """

    # Data
    data: str
    """A folder with one subfolder of images per class, with or without `train`, `val`
    and `test` folders above them; `tfds:NAME` for TensorFlow Datasets; or `digits`,
    which needs no download."""
    data_licence: str = "not stated"
    """Source and licence of the data, for the model card."""
    validation_fraction: PartialFraction = 0.2
    """Fraction of the training images held out for validation, if the data has no
    validation split."""

    # Images
    image_size: Annotated[int, Range(1, 4096)] = 224
    """Height and width of the model's input, in pixels."""
    resize: Literal["auto", "crop", "pad", "squash"] = "auto"
    """How images become square: `crop` keeps the central square, `pad` adds grey,
    `squash` changes the aspect ratio. `auto` compares the frozen features by
    cross-validation."""
    crop_area: Annotated[float, Range(0.01, 1)] = 0.5
    """Smallest fraction of the image that a random crop keeps; 1 turns crops off."""
    flip: bool = True
    """Mirror training images at random."""
    rotation: Annotated[float, Range(0, 180)] = 0.0
    """Largest random rotation, in degrees."""
    color: Fraction = 0.0
    """Strength of random brightness, contrast and saturation, from 0 to 1."""

    # Model
    backbone: str = "auto"
    """`EfficientNetLite0`; a model of `keras.applications`, such as `MobileNetV2`;
    `hub:NAME` for a preset of KerasHub; or `small_resnet` for tiny images. `auto`
    compares the frozen features of EfficientNetLite0 and MobileNetV2 by
    cross-validation."""
    backbone_output: str | None = None
    """The backbone's layer whose features are classified; later layers are removed.
    Defaults to the last layer."""
    weights: str | None = "imagenet"
    """`imagenet` (installed with EfficientNetLite0, downloaded once for others), the
    path of a weights file for the backbone without its top, a folder of such files, or
    None to start from random weights."""
    dropout: Rate = 0.2
    """Dropout rate of the features before the classifier."""

    # Training
    epochs: CountOrZero = 12
    """Epochs of fine-tuning, which begins with a linear head on frozen features. The
    head is kept unless this is clearly better on validation images; 0 only fits the
    head."""
    fine_tune_fraction: Fraction = 0.62
    """Fraction of the backbone's layers, counted from its end, that fine-tuning trains;
    1 trains all of them, which takes longer. Without weights all are trained."""
    patience: Count | None = None
    """Epochs without a lower validation log loss after which fine-tuning ends."""
    max_steps: Count | None = 8_000
    """Largest number of training steps; large data sets get fewer epochs, or a part of
    one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included. Reading the data does not count."""
    batch_size: Count = 32
    """Images per training step."""
    learning_rate: LearningRate = 3e-4
    """Peak learning rate of fine-tuning: linear warm-up in the first tenth of the
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
        """Checks the ranges of all numbers, and settings that depend on each other."""
        check_ranges(Config, vars(self))
        if self.weights is None and not self.epochs:
            raise BadInput(
                "--epochs 0 fits a head on pretrained features, but --weights is None; "
                "raise --epochs, or pass --weights"
            )


def digits():
    """Scikit-learn's 1,797 handwritten digits, built in; 2 minutes, top-1 0.991.

    python -m apps.image_classification train digits

    Score on the held-out quarter, seed 0; time on two cores.
    """
    return Config(
        data="digits",
        data_licence="UCI Optical Recognition of Handwritten Digits, CC BY 4.0",
        validation_fraction=0.1,
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
    """Five flowers in 3,664 photographs, from ImageNet; 53 minutes, top-1 0.940.

    python -m apps.image_classification train flowers

    Score on `val/`, which is used for testing only, seed 0; time on two busy cores.
    """
    return Config(
        data="data/flowers",
        data_licence="Flickr photographs collected by the TensorFlow team, CC BY 2.0",
        validation_fraction=0.1,
        resize="squash",
        crop_area=0.4,
        backbone="EfficientNetLite0",
        epochs=20,
    )


CONFIGS = {"digits": digits, "flowers": flowers}
