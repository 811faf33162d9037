"""What a training can change, and the published runs."""

import re
from dataclasses import dataclass
from typing import Literal

from apps.common.cli import check_ranges, flag
from apps.common.errors import BadInput


@dataclass(frozen=True)
class Config:
    """A pretrained encoder, a decoder that labels every pixel, and a dense CRF.

    The defaults suit photographs of one's own.
    """

    data: str
    """A folder with images and index masks of the same names, as `images` and `masks`,
    as `train` and `trainannot` (`val`, `test`), or as `train/images` and `train/masks`;
    or `scenes`, which needs no download."""
    data_licence: str = "not stated"
    """Whose data it is and under which licence; it is printed on the model's card."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers in the masks, each optionally
    followed by a colour, `"road #804080"`. By default the lines of `classes.txt`."""
    void: int = 255
    """Number in the masks of pixels that nobody labelled; they never count. 255 is
    always void."""
    held_out: str | None = None
    """Beginning of the names of training images that choose the best epoch, such as
    the drive of a video; `none` keeps the last epoch. By default the `val` folder
    chooses, which is left aside otherwise."""
    validation_fraction: float = 0.1
    """Share of the training images that choose the best epoch, where nothing else is
    given for that."""

    image_size: tuple[int, int] = (384, 384)
    """Height and width of the model's input in pixels, multiples of 32. Images are
    fitted into it; the masks come back in the image's own size."""
    crop: tuple[int, int] = (288, 288)
    """Height and width of the crops to learn from, multiples of 32."""
    scale: tuple[float, float] = (0.75, 2.0)
    """By how much training images are shrunk or enlarged at random."""
    flip: bool = True
    """Mirror training images at random."""
    color: float = 0.3
    """Strength of random brightness, contrast and saturation, 0 to 1."""

    model: Literal["deeplab", "fcn"] = "deeplab"
    """`deeplab` is DeepLab v3+, with atrous convolutions; `fcn` is FCN-8s."""
    backbone: Literal["MobileNetV2", "small_resnet"] = "MobileNetV2"
    """The encoder; `small_resnet` is for small, simple images."""
    weights: str | None = "imagenet"
    """`imagenet` (downloaded once), the path of a weights file for the backbone
    without its top, or None to start from random weights."""
    dropout: float = 0.1
    """Share of the features dropped before the decoder."""

    head_epochs: int = 3
    """Epochs of the first phase, the backbone being frozen; none without weights."""
    epochs: int = 50
    """Epochs of the second phase, fine-tuning."""
    fine_tune: float = 1.0
    """Share of the backbone's layers, counted from its end, that the second phase
    trains."""
    crf_epochs: int = 0
    """Epochs of a third phase, which trains the network and the CRF's weights end to
    end, through the CRF's iterations."""
    patience: int | None = None
    """Epochs without improvement after which a phase ends early."""
    batch_size: int = 8
    """Images per step."""
    head_learning_rate: float = 2e-3
    """Learning rate of the first phase."""
    learning_rate: float = 5e-4
    """Highest learning rate of the second phase; it rises to it during the first tenth
    of the steps and falls along a cosine."""
    crf_learning_rate: float = 5e-4
    """Highest learning rate of the third phase."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""
    class_balance: float = 0.5
    """How much rare classes count: pixels are weighted by the class frequency to the
    power of minus this; 0 leaves them alike, 1 makes all classes weigh the same."""

    iterations: int = 5
    """Mean-field iterations of the CRF."""
    appearance_weight: float = 4.0
    """Weight of the CRF's kernel that joins near pixels of like colour."""
    position_sigma: float = 60.0
    """Reach of that kernel, in pixels."""
    color_sigma: float = 8.0
    """How alike colours must be, in grey levels from 0 to 255."""
    smoothness_weight: float = 3.0
    """Weight of the CRF's kernel that joins near pixels of any colour."""
    smoothness_sigma: float = 3.0
    """Reach of that kernel, in pixels."""
    compatibility: Literal["potts", "learned"] = "potts"
    """Which classes tolerate each other: `potts` treats all pairs alike, `learned`
    trains a matrix in the third phase."""

    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the training; the mixed ones help on GPUs. Exports are float32."""
    seed: int = 0
    """Fixes splits, initial weights, order and augmentation."""

    def __post_init__(self):
        """Refuses settings that cannot work, with a `BadInput`."""
        check_ranges(
            self,
            void=(0, 255),
            validation_fraction=(0.01, 0.9),
            color=(0, 1),
            dropout=(0, 0.99),
            head_epochs=(0, 10**6),
            epochs=(1, 10**6),
            fine_tune=(0, 1),
            crf_epochs=(0, 10**6),
            patience=(1, 10**6),
            batch_size=(1, 10**6),
            class_balance=(0, 1),
            iterations=(1, 100),
        )
        for name in ("image_size", "crop"):
            height, width = getattr(self, name)
            if height < 32 or width < 32 or height % 32 or width % 32:
                raise BadInput(
                    f"{flag(name)} {height} {width} must be multiples of 32, such as "
                    f"{max(1, round(height / 32)) * 32} "
                    f"{max(1, round(width / 32)) * 32}"
                )
        for name in ("position_sigma", "color_sigma", "smoothness_sigma"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{flag(name)} {getattr(self, name)} must be above 0")
        if self.patience and self.held_out == "none":
            raise BadInput(
                "--patience needs images that choose the epoch; leave it out, or "
                "--held-out none"
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise BadInput(
                f"--scale {self.scale[0]} {self.scale[1]} must be two numbers above 0, "
                "the smaller first"
            )


def class_name(line):
    """Returns the name in one of `Config.classes`, without the colour."""
    return re.sub(r"\s+#[0-9a-fA-F]{6}$", "", line)


def class_color(line):
    """Returns the colour in one of `Config.classes`, `#rrggbb`, or None."""
    return line[-7:] if class_name(line) != line else None


def scenes():
    """Digits on photographs, with exact masks; 1.4 minutes, mean IoU 0.825.

    python -m apps.semantic_segmentation train scenes

    The score is that of the 128 test scenes, with seed 0, on two cores; the CRF makes
    it 0.931.
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
    """Road scenes of CamVid, 11 classes, from ImageNet; 51 minutes, mean IoU 0.646.

    python -m apps.semantic_segmentation train camvid --weights WEIGHTS.h5

    The score is that of the 233 test images, with seed 0, on two cores. Exported with
    `--image-size 480 608`, as chosen on a held-out drive, it is 0.651, with the CRF
    0.659.
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
        held_out="none",
        image_size=(384, 480),
        crop=(288, 352),
        head_epochs=2,
        epochs=60,
        batch_size=4,
        class_balance=0.25,
        position_sigma=20.0,
        color_sigma=4.0,
        smoothness_weight=0.0625,
    )


# Fields of `Config` that are arguments of `layers.DenseCRF`.
CRF_SETTINGS = (
    "iterations",
    "appearance_weight",
    "position_sigma",
    "color_sigma",
    "smoothness_weight",
    "smoothness_sigma",
    "compatibility",
)
CONFIGS = {"scenes": scenes, "camvid": camvid}
