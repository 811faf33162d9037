"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

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

Units = Annotated[int, Range(1, 10**4)]


@dataclass(frozen=True)
class Config:
    """Trains a captioner: image features, and an LSTM decoder that attends to them.

    The defaults suit photographs of your own with a few captions each.
    """

    # Data
    data: str
    """A folder with images and a table of captions, such as `captions.tsv`, one row for
    each caption; or with `train`, `val` and `test` tables; or with COCO's
    `captions_*.json`; or Flickr8k. The path of such a table or JSON file;
    `tfds:NAME` for TensorFlow Datasets; or `scenes`, the built-in data set."""
    image_folder: str | None = None
    """Folder of the images, if they are not in the folder of the captions."""
    data_licence: str = "not stated"
    """Source and licence of the data, printed on the model's card."""
    image_column: str = "image"
    """Column (or feature) of the images' names."""
    caption_column: str = "caption"
    """Column (or feature) of the captions."""
    validation_fraction: PartialFraction = 0.1
    """Fraction of the training images held out for validation, unless the data has a
    validation split."""

    # Images
    image_size: Annotated[int, Range(32, 1024)] = 224
    """Height and width of the network's input in pixels."""
    resize: Literal["squash", "pad", "crop"] = "squash"
    """How images become square: `squash` changes the aspect ratio, `pad` adds grey,
    `crop` keeps the central square."""
    views: Annotated[int, Range(1, 100)] = 4
    """Versions of each training image whose features are kept: the image, and
    random crops of it. Only for a frozen backbone; otherwise every epoch varies the
    images anew."""
    crop_area: Annotated[float, Range(0.1, 1)] = 0.75
    """Smallest area of random crops, as a fraction of the image; 1 turns them off."""
    flip: bool = True
    """Mirror random crops at random. Turn it off if captions speak of left and
    right."""

    # Tokens
    token: Literal["word", "subword"] = "word"
    """What the captions are split into. `subword` suits languages without spaces and
    with many forms of a word."""
    vocabulary_size: Annotated[int, Range(10, 10**6)] = 3000
    """Maximum number of tokens; few captions yield fewer."""
    max_tokens: Annotated[int, Range(2, 200)] = 24
    """Maximum length of a caption in tokens, its end included. Longer ones are left out
    of the training."""

    # Model
    backbone: str = "EfficientNetLite0"
    """The network that computes the features: `EfficientNetLite0`, a model of
    `keras.applications` such as `MobileNetV2`, `small_resnet` for small, simple images,
    or `hub:NAME` for a preset of KerasHub."""
    backbone_output: str | None = None
    """Name of the backbone's layer whose features are used. Defaults to the last one
    before the many channels of a classifier, if it is known, else to the last one."""
    weights: str | None = "imagenet"
    """Initial weights of the backbone: `imagenet`, the path of a weights file without
    the top, or of a folder that holds it under Keras' name, or None for random
    weights. `imagenet` is downloaded once; `EfficientNetLite0` has it installed."""
    feature_size: Units = 256
    """Channels to which the features of each place are reduced."""
    attention: Literal["additive", "multiplicative", "none"] = "additive"
    """`additive` (Bahdanau), `multiplicative` (Luong), or `none`: the decoder sees the
    mean of all places."""
    attention_units: Units = 128
    """Units of additive attention."""
    units: Units = 256
    """Units of the decoder LSTM."""
    embedding_size: Units = 160
    """Size of the token embeddings."""
    dropout: Rate = 0.4
    """Dropout rate of the features, the embeddings and the readouts, from which the
    logits are computed."""
    attention_penalty: Weight = 1.0
    """Weight of the doubly stochastic regularization, which makes the decoder look at
    all places; 0 turns it off."""

    # Training
    epochs: Count = 15
    """Maximum number of epochs."""
    fine_tune_epochs: CountOrZero = 0
    """Epochs of a second phase, which trains the backbone too."""
    fine_tune_fraction: Fraction = 0.5
    """Fraction of the backbone's layers to train in the second phase, counted from its
    end."""
    self_critical_epochs: CountOrZero = 1
    """Epochs of a last phase, which raises the CIDEr-D of the decoder's own
    captions."""
    patience: Count | None = 5
    """Epochs without a better validation CIDEr-D after which a phase ends."""
    min_steps: CountOrZero = 2000
    """Smallest number of training steps of the first two phases; every epoch repeats
    small data sets."""
    max_steps: Count | None = 12_000
    """Largest number of training steps of the first two phases; large data sets get
    fewer epochs, or a part of one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included. Reading the data and computing the features do not count."""
    batch_size: Count = 64
    """Captions per training step, of similar lengths."""
    learning_rate: LearningRate = 1e-3
    """Peak learning rate of the first phase: linear warm-up in the first tenth of the
    steps, then cosine decay."""
    fine_tune_learning_rate: LearningRate = 1e-4
    """Peak learning rate of the second phase."""
    self_critical_learning_rate: LearningRate = 2e-5
    """Learning rate of the last phase."""
    gradient_norm: PositiveNumber = 5.0
    """Maximum norm of the gradient; larger ones are clipped."""
    label_smoothing: Rate = 0.1
    """Label smoothing of the cross-entropy loss."""
    beam_size: Annotated[int, Range(1, 100)] = 5
    """Number of hypotheses that the beam search keeps."""
    length_penalty: Annotated[float, Range(0, 10)] = 1.4
    """Exponent of the length penalty. Higher prefers longer captions; 0 turns the
    penalty off."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, the order, the views and dropout."""

    def __post_init__(self):
        """Checks the ranges of all numbers."""
        check_ranges(Config, vars(self))


def scenes() -> Config:
    """Built-in scenes of two digits; 25 minutes, 0.965 of the captions exactly right.

    python -m apps.image_captioning train scenes

    Scored on 2,000 test scenes, whose digits are not in the training scenes; one core,
    which other trainings shared.
    """
    return Config(
        data="scenes",
        data_licence=(
            "UCI Optical Recognition of Handwritten Digits, CC BY 4.0, on "
            "scikit-learn's sample photographs, CC BY"
        ),
        image_size=64,
        crop_area=0.85,
        flip=False,
        vocabulary_size=100,
        max_tokens=12,
        backbone="small_resnet",
        backbone_output="block_4",  # 8 × 8 places; four times fewer are less exact.
        weights=None,
        units=128,
        embedding_size=64,
        attention_units=256,
        dropout=0.1,
        attention_penalty=0.0,
        epochs=20,
        self_critical_epochs=0,
        patience=None,
        min_steps=0,
        batch_size=16,
        learning_rate=1.5e-3,
        label_smoothing=0.0,
    )


def flickr8k() -> Config:
    """8,000 photographs, five captions each; 26 minutes, BLEU-4 0.204, CIDEr-D 0.504.

    python -m apps.image_captioning train flickr8k --weights WEIGHTS.h5 --seed 2

    Scored on the 1,000 test images, beam of 5; two cores that other trainings shared.
    The mean of three seeds is 0.204 and 0.497.
    """
    return Config(
        data="data/flickr8k",
        data_licence=(
            "Flickr8k (Hodosh et al., 2013), research and education only; the "
            "photographs belong to their owners"
        ),
        # Smaller than the default: the released files have at most 15 MB.
        backbone="MobileNetV2",
        max_steps=None,
    )


CONFIGS = {make.__name__: make for make in (scenes, flickr8k)}
