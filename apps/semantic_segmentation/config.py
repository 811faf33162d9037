"""The settings of a training, and the published runs as presets."""

import re
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

VOID = 255  # Marks unlabelled pixels in decoded masks.
Pixels = Annotated[int, Range(32, 8192)]


@dataclass(frozen=True)
class Config:
    """Trains a segmenter: a pretrained encoder, a decoder, and a dense CRF.

    The defaults suit your own photographs.
    """

    # Data
    data: str
    """A folder of images and masks of the same names: in `images` and `masks`; in
    `train` and `trainannot` (also `val`, `test`); or in `train/images` and
    `train/masks`. `scenes` is the built-in data set, which needs no download."""
    data_licence: str = "not stated"
    """Source and licence of the data, for the model card."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers in the masks, each with an
    optional colour: `"road #804080"`. Defaults to the lines of `classes.txt`."""
    void: Annotated[int, Range(0, 255)] = 255
    """The number that marks unlabelled pixels in the masks, besides 255. Unlabelled
    pixels never count."""
    validation_prefix: str | None = None
    """Prefix of the names of the training images that choose the best epoch, such as
    one drive of a video; `none` holds out no images and keeps the last epoch. Defaults
    to the `val` folder if there is also a `test` folder, and otherwise to random
    training images."""
    validation_fraction: PartialFraction = 0.1
    """Fraction of the training images held out for validation, if these are chosen at
    random."""

    # Images
    image_size: tuple[Pixels, Pixels] = (384, 384)
    """Height and width of the model's input in pixels, multiples of 32. Images are
    resized to fit and padded; each mask has the size of its original image."""
    crop: tuple[Pixels, Pixels] = (288, 288)
    """Height and width of the random training crops in pixels, multiples of 32."""
    scale: tuple[PositiveNumber, PositiveNumber] = (0.75, 2.0)
    """Smallest and largest factor by which training images are resized at random."""
    flip: bool = True
    """Mirror training images at random."""
    color: Fraction = 0.3
    """Strength of random brightness, contrast and saturation, from 0 to 1."""

    # Model
    architecture: Literal["deeplab", "fcn"] = "deeplab"
    """`deeplab` is DeepLab v3+, with atrous convolutions; `fcn` is FCN-8s."""
    backbone: str = "MobileNetV2"
    """The encoder: `MobileNetV2`, `EfficientNetLite0`, `small_resnet` for small, simple
    images, or `hub:NAME` for a preset of KerasHub with pyramid outputs."""
    weights: str | None = "imagenet"
    """Initial weights of the backbone: `imagenet`, the path of a weights file without
    the top, or of a folder that holds it under Keras' name, or None for random
    weights. `imagenet` is downloaded once; `EfficientNetLite0` has it installed."""
    dropout: Rate = 0.1
    """Dropout rate before the decoder."""

    # Training
    head_epochs: CountOrZero = 3
    """Epochs of the first phase, which trains the decoder on a frozen backbone. It is
    skipped without pretrained weights."""
    epochs: Count = 50
    """Epochs of the second phase, which fine-tunes the backbone too."""
    fine_tune_fraction: Fraction = 1.0
    """Fraction of the backbone's layers to train in the second phase, counted from its
    end."""
    crf_epochs: CountOrZero = 0
    """Epochs of a third phase, which trains the network and the CRF end to end."""
    patience: Count | None = None
    """Epochs without a better validation mean IoU after which a phase ends early."""
    max_steps: Count | None = 6_000
    """Largest number of training steps, of all phases together; large data sets get
    fewer epochs, or a part of one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included. Reading the data does not count."""
    batch_size: Count = 8
    """Images per training step."""
    head_learning_rate: LearningRate = 2e-3
    """Learning rate of the first phase."""
    learning_rate: LearningRate = 5e-4
    """Peak learning rate of the second phase: linear warm-up in the first tenth of the
    steps, then cosine decay."""
    crf_learning_rate: LearningRate = 5e-4
    """Peak learning rate of the third phase."""
    weight_decay: Weight = 1e-4
    """Decoupled weight decay of AdamW."""
    class_balance: Fraction = 0.5
    """Exponent of the class weights: each pixel is weighted by the frequency of its
    class to the power of minus this. 0 weights all pixels equally, 1 all classes."""

    # CRF
    iterations: Annotated[int, Range(1, 100)] = 5
    """Mean-field iterations of the CRF."""
    appearance_weight: Weight = 4.0
    """Weight of the CRF's appearance kernel, which joins nearby pixels of similar
    colour."""
    position_sigma: PositiveNumber = 60.0
    """Standard deviation of the appearance kernel in position, in pixels."""
    color_sigma: PositiveNumber = 8.0
    """Standard deviation of the appearance kernel in colour, in grey levels from 0 to
    255."""
    smoothness_weight: Weight = 3.0
    """Weight of the CRF's smoothness kernel, which joins nearby pixels of any
    colour."""
    smoothness_sigma: PositiveNumber = 3.0
    """Standard deviation of the smoothness kernel, in pixels."""
    compatibility: Literal["potts", "learned"] = "potts"
    """`potts`: each class supports only itself. `learned`: the third phase trains how
    much each class supports each other class."""

    # Training
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy of the training. The mixed ones are faster on GPUs. Exported models
    compute in float32."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, shuffling and augmentation."""

    def __post_init__(self):
        """Checks the ranges of all numbers, and settings that depend on each other."""
        check_ranges(Config, vars(self))
        for name in ("image_size", "crop"):
            height, width = getattr(self, name)
            if height % 32 or width % 32:
                raise BadInput(
                    f"{flag(name)} {height} {width} must be multiples of 32, such as "
                    f"{round(height / 32) * 32} {round(width / 32) * 32}"
                )
        if self.patience and self.validation_prefix == "none":
            raise BadInput(
                "--patience needs validation images; remove it or --validation-prefix "
                "none"
            )
        if self.scale[0] > self.scale[1]:
            raise BadInput(
                f"--scale {self.scale[0]} {self.scale[1]} must be in order, the "
                "smaller first"
            )


def class_name(entry):
    """Returns the name in an entry of `Config.classes`."""
    return re.sub(r"\s+#[0-9a-fA-F]{6}$", "", entry)


def class_color(entry):
    """Returns the colour in an entry of `Config.classes`, `#rrggbb`, or None."""
    return entry[-7:] if class_name(entry) != entry else None


def crf_settings(config):
    """Returns the CRF's settings, as arguments of `layers.DenseCRF`."""
    names = (
        "iterations",
        "appearance_weight",
        "position_sigma",
        "color_sigma",
        "smoothness_weight",
        "smoothness_sigma",
        "compatibility",
    )
    return {name: getattr(config, name) for name in names}


def scenes():
    """Built-in digits on photographs; 1.4 minutes, mean IoU 0.828.

    python -m apps.semantic_segmentation train scenes

    Score on the 128 test scenes, seed 0; time on two cores. The CRF raises it to
    0.942.
    """
    return Config(
        data="scenes",
        data_licence=(
            "UCI Optical Recognition of Handwritten Digits, CC BY 4.0, on "
            "scikit-learn's sample photographs, CC BY"
        ),
        image_size=(64, 64),
        crop=(64, 64),
        scale=(0.9, 1.1),
        color=0.1,
        flip=False,
        backbone="small_resnet",
        weights=None,
        epochs=10,
        batch_size=8,
        learning_rate=3e-3,
    )


def camvid():
    """CamVid's road scenes, 11 classes, ImageNet weights; 51 minutes, mean IoU 0.646.

    python -m apps.semantic_segmentation train camvid --weights WEIGHTS.h5

    Score on the 233 test images, seed 0; time on two cores. The run exported with
    `--image-size 480 608`, a size chosen on a held-out drive, reaches 0.651, and 0.659
    with the CRF.
    """
    return Config(
        data="data/camvid",
        data_licence="CamVid (Brostow et al., 2008), SegNet's split, CC BY-NC 4.0",
        classes=(
            "sky #46a5f0",
            "building #8c8c96",
            "pole #e6e65a",
            "road #804080",
            "pavement #f423e8",
            "tree #4a8c2a",
            "sign #dc5a14",
            "fence #be9999",
            "car #1428b4",
            "pedestrian #dc143c",
            "bicyclist #00c8c8",
        ),
        void=11,
        validation_prefix="none",
        image_size=(384, 480),
        crop=(288, 352),
        head_epochs=2,
        epochs=60,
        max_steps=None,
        batch_size=4,
        class_balance=0.25,
        position_sigma=20.0,
        color_sigma=4.0,
        smoothness_weight=0.0625,
    )


CONFIGS = {"scenes": scenes, "camvid": camvid}
