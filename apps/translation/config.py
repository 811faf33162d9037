"""What a training can change, and the published runs."""

from dataclasses import dataclass
from typing import Literal

from apps.common.cli import check_ranges


@dataclass(frozen=True)
class Config:
    """An LSTM that reads in both directions, and one that writes, with attention.

    The defaults suit some ten thousand pairs of sentences of one's own.
    """

    data: str
    """A TSV or CSV file of sentences and their translations, with a header; a text file
    with one sentence in each line, whose translations are in `target_data`; or a folder
    with files named `train`, `val` and `test`, either tables or, as in `train.en` and
    `train.de`, lines; `tfds:NAME` for TensorFlow Datasets; or `numbers`, which needs no
    download."""
    target_data: str | None = None
    """The text file of translations, where `data` is a text file; line by line."""
    data_licence: str = "not stated"
    """Whose data it is and under which licence; it is printed on the model's card."""
    source_column: str = "source"
    """The column, feature or ending of the sentences to be translated."""
    target_column: str = "target"
    """The column, feature or ending of their translations."""
    validation_fraction: float = 0.05
    """Share of the training sentences that choose the best epoch, where the data has no
    file for that."""

    vocabulary_size: int = 4000
    """The most pieces of words that are told apart; little text yields fewer."""
    joint_vocabulary: bool = True
    """Whether both languages share their pieces, and the embedding of these; otherwise
    each has a vocabulary of that size."""
    subword_sampling: float = 0.3
    """How often training splits words otherwise than is likeliest: the exponent of the
    ways' probabilities, for instance 0.2; the lower, the more varied. 0 always splits
    as is likeliest."""
    max_tokens: int = 80
    """Pieces of a sentence above which a pair is not trained on; texts of more words
    than half of it are translated in parts."""

    embedding_size: int = 256
    """Numbers that stand for a piece, read or written."""
    encoder_units: int = 256
    """Size of the LSTM that reads, in each direction."""
    decoder_units: int = 256
    """Size of the LSTM that writes."""
    attention: Literal["additive", "multiplicative", "none"] = "additive"
    """Bahdanau's, Luong's, or none: then the decoder knows the mean of what was read
    alone."""
    attention_units: int = 192
    """Size of the space in which additive attention compares."""
    token_dropout: float = 0.0
    """Share of the pieces that training replaces by the unknown one."""
    embedding_dropout: float = 0.3
    """Share of the embeddings' numbers that is hidden."""
    dropout: float = 0.4
    """Share of what was read, and of what the next piece is chosen by, that is
    hidden."""
    teacher_forcing: float = 1.0
    """Share of the pieces that the decoder is told at the end of the training, instead
    of its own guesses; it falls to this along a line. 1 tells all of them."""

    epochs: int = 20
    """Most epochs."""
    patience: int | None = 10
    """Epochs without a better validation BLEU after which training ends."""
    batch_size: int = 64
    """Sentences per step; they have similar lengths."""
    learning_rate: float = 1.5e-3
    """Highest learning rate; it rises to it during the first tenth of the steps and
    falls along a cosine."""
    gradient_norm: float = 1.0
    """Longest gradient of each weight; longer ones are shortened to it."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all pieces."""
    beam_size: int = 5
    """Hypotheses that a translation keeps."""
    length_penalty: float = 1.0
    """How much longer translations are favoured: the exponent of the length by which
    hypotheses are compared."""
    seed: int = 0
    """Fixes splits, initial weights, order and dropout."""

    def __post_init__(self):
        """Refuses numbers that cannot work, with a `BadInput`."""
        check_ranges(
            self,
            validation_fraction=(0.001, 0.9),
            vocabulary_size=(10, 10**6),
            subword_sampling=(0, 10),
            max_tokens=(1, 10**5),
            embedding_size=(1, 10**4),
            encoder_units=(1, 10**4),
            decoder_units=(1, 10**4),
            attention_units=(1, 10**4),
            token_dropout=(0, 0.99),
            embedding_dropout=(0, 0.99),
            dropout=(0, 0.99),
            teacher_forcing=(0, 1),
            epochs=(1, 10**6),
            patience=(1, 10**6),
            batch_size=(1, 10**6),
            gradient_norm=(1e-6, 10**6),
            label_smoothing=(0, 0.99),
            beam_size=(1, 100),
            length_penalty=(0, 10),
        )


def numbers():
    """English numbers in words into German ones, built in; 1.4 minutes, 0.997 exact.

    python -m apps.translation train numbers

    The score is that of 1,500 held-out numbers, with seed 0, on two cores.
    """
    return Config(
        data="numbers",
        data_licence="written by num2words (LGPL 2.1), a library; none needed",
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


def _multi30k(source, target):
    return Config(
        data="data/multi30k",
        data_licence=(
            "Multi30K (Elliott et al., 2016 and 2017), from Flickr30K; for "
            "non-commercial research and education"
        ),
        source_column=source,
        target_column=target,
        patience=6,
    )


def multi30k_en_de():
    """29,000 captions, English to German; 92 minutes, 38.2 BLEU.

    python -m apps.translation train multi30k_en_de

    The score is that of `test_2016_flickr`, lower-cased and tokenized, with a beam of
    5 and seed 0, on two cores.
    """
    return _multi30k("en", "de")


def multi30k_de_en():
    """29,000 captions, German to English; 110 minutes, 40.2 BLEU.

    python -m apps.translation train multi30k_de_en

    The score is that of `test_2016_flickr`, lower-cased and tokenized, with a beam of
    5 and seed 0, on two cores.
    """
    return _multi30k("de", "en")


def multi30k_en_fr():
    """29,000 captions, English to French; not trained yet.

    python -m apps.translation train multi30k_en_fr
    """
    return _multi30k("en", "fr")


def multi30k_fr_en():
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
