"""The settings of a training, and the published runs as presets."""

from dataclasses import dataclass
from typing import Annotated, Literal

from apps.common.ranges import (
    Count,
    Fraction,
    LearningRate,
    Minutes,
    PartialFraction,
    PositiveNumber,
    Range,
    Rate,
    Seed,
    check_ranges,
)

Units = Annotated[int, Range(1, 10**4)]


@dataclass(frozen=True)
class Config:
    """Trains a translator: an LSTM encoder-decoder with attention.

    The defaults suit about ten thousand pairs of your own.
    """

    # Data
    data: str
    """A TSV or CSV table with a header and one pair of sentences per row; a text file
    with one sentence per line, whose translations are in `target_data`; a folder with
    files named `train`, `val` and `test`, either tables or text files such as
    `train.en` and `train.de`; `tfds:NAME` for TensorFlow Datasets; or `numbers`, the
    built-in data set."""
    target_data: str | None = None
    """Text file with the translations, line by line, if `data` is a text file."""
    data_licence: str = "not stated"
    """Source and licence of the data, printed on the model's card."""
    source_column: str = "source"
    """Column (or feature) of the sentences; for text files in a folder, their ending,
    such as `en`."""
    target_column: str = "target"
    """Column, feature or ending of the translations."""
    validation_fraction: PartialFraction = 0.05
    """Fraction of the training pairs held out for validation, unless the data has a
    validation file."""

    # Tokens
    vocabulary_size: Annotated[int, Range(10, 10**6)] = 4000
    """Maximum size of the vocabulary of subword tokens; little text yields a smaller
    one."""
    joint_vocabulary: bool = True
    """Share one vocabulary and its embedding between both languages. Otherwise each
    language has its own, of `vocabulary_size`."""
    subword_sampling_alpha: Annotated[float, Range(0, 10)] = 0.3
    """Alpha of subword sampling in training. Lower varies the segmentation more; 0
    turns sampling off."""
    max_tokens: Annotated[int, Range(1, 10**5)] = 80
    """Longest sentence used for training, in tokens. Texts of more words than half of
    it, at most 64, are translated in parts."""

    # Model
    embedding_size: Units = 256
    """Size of the token embeddings."""
    encoder_units: Units = 256
    """Units of the encoder LSTM, in each direction."""
    decoder_units: Units = 256
    """Units of the decoder LSTM."""
    attention: Literal["additive", "multiplicative", "none"] = "additive"
    """`additive` (Bahdanau), `multiplicative` (Luong), or `none`: the decoder sees the
    mean of the encoder's outputs."""
    attention_units: Units = 192
    """Units of additive attention."""
    token_dropout: Rate = 0.0
    """Probability of replacing a training token by the unknown token."""
    embedding_dropout: Rate = 0.3
    """Dropout rate of the embeddings."""
    dropout: Rate = 0.4
    """Dropout rate of the encoder's outputs and of the readouts, from which the logits
    are computed."""
    teacher_forcing_rate: Fraction = 1.0
    """Fraction of the decoder's inputs that are the reference's tokens in the last
    epoch; the rest are its own predictions. The rate falls linearly from 1."""

    # Training
    epochs: Count = 20
    """Maximum number of epochs."""
    patience: Count | None = 10
    """Epochs without a better validation BLEU after which training stops."""
    max_steps: Count | None = 10_000
    """Largest number of training steps; large data sets get fewer epochs, or a part of
    one."""
    max_minutes: Minutes | None = None
    """Minutes after which the training ends with its best model, those before an
    interruption included. Reading the data does not count."""
    batch_size: Count = 64
    """Pairs per training step, of similar lengths."""
    learning_rate: LearningRate = 1.5e-3
    """Peak learning rate: linear warm-up in the first tenth of the steps, then cosine
    decay."""
    gradient_norm: PositiveNumber = 1.0
    """Maximum norm of each weight's gradient; larger ones are clipped."""
    label_smoothing: Rate = 0.1
    """Label smoothing of the cross-entropy loss."""
    beam_size: Annotated[int, Range(1, 100)] = 5
    """Number of hypotheses that the beam search keeps."""
    length_penalty: Annotated[float, Range(0, 10)] = 1.0
    """Exponent of the length penalty. Higher prefers longer translations; 0 turns the
    penalty off."""
    seed: Seed = 0
    """Seed of the splits, the initial weights, the order and dropout."""

    def __post_init__(self):
        """Checks the ranges of all numbers."""
        check_ranges(Config, vars(self))


def numbers() -> Config:
    """English number words to German, built in; 1.4 minutes, 0.997 exact.

    python -m apps.translation train numbers

    Scored on 1,500 held-out numbers; seed 0, two cores.
    """
    return Config(
        data="numbers",
        data_licence="generated with num2words (LGPL 2.1); no licence needed",
        source_column="en",
        target_column="de",
        vocabulary_size=120,
        embedding_size=64,
        encoder_units=64,
        decoder_units=128,
        attention_units=64,
        embedding_dropout=0.0,
        dropout=0.1,
        epochs=24,
        patience=5,
        learning_rate=5e-3,
        label_smoothing=0.0,
    )


def _multi30k(source, target) -> Config:
    return Config(
        data="data/multi30k",
        data_licence=(
            "Multi30K (Elliott et al., 2016 and 2017), from Flickr30K; for "
            "non-commercial research and education"
        ),
        source_column=source,
        target_column=target,
        patience=6,
        max_steps=None,
    )


def multi30k_en_de() -> Config:
    """29,000 captions, English to German; 92 minutes, 38.2 BLEU.

    python -m apps.translation train multi30k_en_de

    Lower-cased, tokenized BLEU on `test_2016_flickr`; beam 5, seed 0, two cores.
    """
    return _multi30k("en", "de")


def multi30k_de_en() -> Config:
    """29,000 captions, German to English; 110 minutes, 40.2 BLEU.

    python -m apps.translation train multi30k_de_en

    Lower-cased, tokenized BLEU on `test_2016_flickr`; beam 5, seed 0, two cores.
    """
    return _multi30k("de", "en")


def multi30k_en_fr() -> Config:
    """29,000 captions, English to French; not trained yet.

    python -m apps.translation train multi30k_en_fr
    """
    return _multi30k("en", "fr")


def multi30k_fr_en() -> Config:
    """29,000 captions, French to English; not trained yet.

    python -m apps.translation train multi30k_fr_en
    """
    return _multi30k("fr", "en")


CONFIGS = {
    make.__name__: make
    for make in (
        numbers,
        multi30k_en_de,
        multi30k_de_en,
        multi30k_en_fr,
        multi30k_fr_en,
    )
}
