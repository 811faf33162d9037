"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from apps.common.errors import BadInput, flag
from apps.common.ranges import (
    Count,
    CountOrZero,
    Fraction,
    LearningRate,
    Minutes,
    PartialFraction,
    PositiveNumber,
    Range,
    Rate,
    Seed,
    Weight,
    check_ranges,
)

# Classes of boxes in a batch that are none.
PADDING = -1
CROWD = -2  # A region that is neither trained nor scored.
MAX_BOXES = 100  # Boxes answered for an image; COCO scores as many.

Pixels = Annotated[int, Range(32, 8192)]


@dataclass(frozen=True)
class Config:
    """Trains a detector: a pretrained backbone, a feature pyramid, and heads for boxes.

    The defaults suit your own photographs.
    """

    # Data
    data: str
    """A folder of images and boxes: Pascal VOC (`JPEGImages` and `Annotations`), COCO
    (JSON and images) or YOLO (`data.yaml`); or `tfds:NAME`. `scenes` is the built-in
    data set, which needs no download."""
    data_licence: str = "not stated"
    """Source and licence of the data, for the model card."""
    classes: tuple[str, ...] = ()
    """Names of the classes. Defaults to those of the data."""
    validation_fraction: PartialFraction = 0.15
    """Fraction of the training images that chooses the best epoch, if the data has no
    split for it."""

    # Images
    image_size: tuple[Pixels, Pixels] = (416, 416)
    """Height and width of the model's input in pixels, multiples of 32. Images are
    resized to fit and padded; boxes are of the original image."""
    scale: tuple[PositiveNumber, PositiveNumber] = (0.6, 1.6)
    """Smallest and largest factor by which training images are resized at random."""
    flip: bool = True
    """Mirror training images at random."""
    flip_vertically: bool = False
    """Turn training images upside down at random, for photographs from above or through
    a microscope."""
    mosaic: Fraction = 0.5
    """Fraction of the training images that are composed of four images."""
    color: Fraction = 0.3
    """Strength of random brightness, contrast and saturation, from 0 to 1."""

    # Model
    model: Literal["one_stage", "faster_rcnn"] = "one_stage"
    """`one_stage` predicts boxes at every point of the feature maps and is fast;
    `faster_rcnn` looks at proposed regions a second time."""
    backbone: str = "MobileNetV2"
    """The network before the pyramid: `MobileNetV2`, `EfficientNetLite0`,
    `small_resnet` for small, simple images, or `hub:NAME` for a preset of KerasHub with
    pyramid outputs."""
    weights: str | None = "imagenet"
    """Initial weights of the backbone: `imagenet`, the path of a weights file without
    the top, or of a folder that holds it under Keras' name, or None for random
    weights. `imagenet` is downloaded once; `EfficientNetLite0` has it installed."""
    filters: Count = 96
    """Channels of the feature pyramid and of the heads."""
    num_bins: Annotated[int, Range(2, 64)] = 16
    """Bins of the distances from a point to the sides of a box, one cell each."""
    iou: Rate = 0.6
    """Of boxes of a class that overlap more than this (intersection over union), only
    the best one is answered."""
    min_score: Rate = 0.01
    """Lowest score of an answered box. Low ones are needed to measure precision and
    recall."""

    # Training
    head_epochs: CountOrZero = 12
    """Epochs of the first phase, which trains the pyramid and the heads on a frozen
    backbone. It is skipped without pretrained weights."""
    epochs: Count = 40
    """Epochs of the second phase, which fine-tunes the backbone too."""
    patience: Count | None = None
    """Epochs without a better validation mAP after which a phase ends early."""
    max_steps: Count | None = 3_000
    """Largest number of training steps, of both phases together; large data sets get
    fewer epochs, or a part of one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included. Reading the data does not count."""
    batch_size: Count = 8
    """Images per training step."""
    head_learning_rate: LearningRate = 2e-3
    """Learning rate of the first phase."""
    learning_rate: LearningRate = 3e-4
    """Peak learning rate of the second phase: linear warm-up in the first tenth of the
    steps, then cosine decay."""
    weight_decay: Weight = 1e-4
    """Decoupled weight decay of AdamW."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy of the training. The mixed ones are faster on GPUs. Exported models
    compute in float32."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, shuffling and augmentation."""

    def __post_init__(self):
        """Checks the ranges of all numbers, and settings that depend on each other."""
        check_ranges(Config, vars(self))
        height, width = self.image_size
        if height % 32 or width % 32:
            raise BadInput(
                f"{flag('image_size')} {height} {width} must be multiples of 32, such "
                f"as {round(height / 32) * 32} {round(width / 32) * 32}"
            )
        if self.scale[0] > self.scale[1]:
            raise BadInput(
                f"--scale {self.scale[0]} {self.scale[1]} must be in order, the "
                "smaller first"
            )


def scenes():
    """Built-in digits on photographs; 3.7 minutes, AP50 0.967.

    python -m apps.object_detection train scenes

    Score on the 128 test scenes, seed 0; time on two cores.
    """
    return Config(
        data="scenes",
        data_licence=(
            "UCI Optical Recognition of Handwritten Digits, CC BY 4.0, on "
            "scikit-learn's sample photographs, CC BY"
        ),
        image_size=(96, 96),
        scale=(0.8, 1.25),
        color=0.1,
        flip=False,
        backbone="small_resnet",
        weights=None,
        filters=64,
        epochs=30,
        batch_size=16,
        learning_rate=3e-3,
    )


def bccd():
    """BCCD's blood cells, 3 classes, ImageNet weights; 58 minutes, AP50 0.911.

    python -m apps.object_detection train bccd --weights WEIGHTS.h5

    Score on the 72 test images, seed 0; time on two busy cores.
    """
    return Config(
        data="data/bccd",
        data_licence="BCCD (Shenggan and others), MIT",
        image_size=(320, 416),
        flip_vertically=True,
        head_epochs=2,
        epochs=60,
        max_steps=None,
        learning_rate=1e-3,
    )


CONFIGS = {"scenes": scenes, "bccd": bccd}
