"""What a training can change, and the published runs."""

from dataclasses import dataclass
from typing import Literal

from apps.common.cli import check_ranges


@dataclass(frozen=True)
class Config:
    """Transfer learning: train the head first, then fine-tune the backbone.

    The defaults suit photographs of one's own.
    """

    data: str
    """A folder with one subfolder of images per class, with or without `train`, `val`
    and `test` folders above them; `tfds:NAME` for TensorFlow Datasets; or `digits`,
    which needs no download."""
    data_licence: str = "not stated"
    """Whose data it is and under which licence; it is printed on the model's card."""
    validation_fraction: float = 0.1
    """Share of the training images that choose the best epoch, where the data has no
    folder for that."""

    image_size: int = 224
    """Height and width of the model's input, in pixels."""
    crop_area: float = 0.5
    """Smallest share of the picture that a random crop keeps; 1 turns crops off."""
    flip: bool = True
    """Mirror training images at random."""
    rotation: float = 0.0
    """Largest random rotation, in degrees."""
    color: float = 0.0
    """Strength of random brightness, contrast and saturation, 0 to 1."""

    backbone: str = "MobileNetV2"
    """A model of `keras.applications`, or `small_resnet` for tiny images."""
    backbone_output: str | None = None
    """The backbone's layer whose features are classified; what comes after it is cut
    off. By default the last one."""
    weights: str | None = "imagenet"
    """`imagenet` (downloaded once), the path of a weights file for the backbone
    without its top, or None to start from random weights."""
    dropout: float = 0.2
    """Share of the features dropped before the classifier."""

    head_epochs: int = 3
    """Epochs of the first phase, the backbone being frozen; none without weights."""
    epochs: int = 20
    """Epochs of the second phase, fine-tuning."""
    fine_tune: float = 0.62
    """Share of the backbone's layers, counted from its end, that the second phase
    trains; 1 trains all of them, which takes longer. Without weights all are
    trained."""
    patience: int | None = None
    """Epochs without improvement after which a phase ends early."""
    batch_size: int = 32
    """Images per step."""
    head_learning_rate: float = 1e-2
    """Learning rate of the first phase."""
    learning_rate: float = 1e-4
    """Highest learning rate of the second phase; it rises to it during the first tenth
    of the steps and falls along a cosine."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    class_weights: bool = False
    """Weigh each class by the inverse of its frequency, for imbalanced folders."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the training; the mixed ones help on GPUs. Exports are float32."""
    seed: int = 0
    """Fixes splits, initial weights, order and augmentation."""

    def __post_init__(self):
        """Refuses numbers that cannot work, with a `BadInput`."""
        check_ranges(
            self,
            validation_fraction=(0.01, 0.9),
            image_size=(1, 4096),
            crop_area=(0.01, 1),
            color=(0, 1),
            dropout=(0, 0.99),
            head_epochs=(0, 10**6),
            epochs=(1, 10**6),
            fine_tune=(0, 1),
            patience=(1, 10**6),
            batch_size=(1, 10**6),
            label_smoothing=(0, 0.99),
        )


def digits():
    """Scikit-learn's 1,797 handwritten digits, built in; 50 s, top-1 0.989.

    python -m apps.image_classification train digits

    The score is that of the held-out quarter, with seed 0, on two cores.
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

    The score is that of `val/`, with seed 0, on two cores; `val/` chose nothing.
    """
    return Config(
        data="data/flowers",
        data_licence="Flickr photographs collected by the TensorFlow team, CC BY 2.0",
        crop_area=0.4,
        backbone_output="block_15_add",
    )


CONFIGS = {"digits": digits, "flowers": flowers}
