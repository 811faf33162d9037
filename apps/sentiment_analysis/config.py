"""What a training can change, and the published runs."""

from dataclasses import dataclass

from apps.common.cli import check_ranges


@dataclass(frozen=True)
class Config:
    """An LSTM that reads in both directions, and attention over what it read.

    The defaults suit short texts of one's own, such as messages and reviews.
    """

    data: str
    """A TSV or CSV file of texts and labels with a header, or a folder with such files
    named `train`, `val` and `test`; `tfds:NAME` for TensorFlow Datasets; or
    `sentences`, which needs no download."""
    data_licence: str = "not stated"
    """Whose data it is and under which licence; it is printed on the model's card."""
    text_column: str = "text"
    """The column, or feature, that holds the texts."""
    label_column: str = "label"
    """The column, or feature, that holds the names of the classes."""
    validation_fraction: float = 0.1
    """Share of the training texts that choose the best epoch, where the data has no
    file for that."""

    vocabulary_size: int = 8000
    """The most pieces of words that are told apart; little text yields fewer."""
    max_tokens: int = 256
    """Pieces after which a training text is cut; answers read texts to their end."""
    word_vectors: tuple[str, ...] = ()
    """Files of pretrained word vectors to start from, laid side by side: GloVe's text
    format, or `.npz` with `words` and `vectors`."""
    embedding_size: int = 128
    """Numbers that stand for a piece; those that word vectors do not fill start
    random."""
    units: int = 96
    """Size of the LSTM, in each direction."""
    attention_units: int = 64
    """Size of the space in which attention compares."""
    token_dropout: float = 0.1
    """Share of the pieces that training replaces by the unknown one."""
    embedding_dropout: float = 0.2
    """Share of the embedding's dimensions that is hidden throughout a text."""
    dropout: float = 0.4
    """Share of the LSTM's outputs, and of the attended ones, that is hidden."""

    epochs: int = 20
    """Most epochs."""
    patience: int | None = 5
    """Epochs without a better macro-averaged recall after which training ends."""
    batch_size: int = 32
    """Texts per step; they have similar lengths."""
    learning_rate: float = 2e-3
    """Highest learning rate; it rises to it during the first tenth of the steps and
    falls along a cosine."""
    weight_decay: float = 1e-3
    """Decoupled weight decay of AdamW."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    class_weights: bool = True
    """Weigh each class by the inverse of its frequency, so that rare ones are found
    and a shift of the classes' shares does no harm."""
    seed: int = 0
    """Fixes splits, initial weights, order and dropout."""

    def __post_init__(self):
        """Refuses numbers that cannot work, with a `BadInput`."""
        check_ranges(
            self,
            validation_fraction=(0.01, 0.9),
            vocabulary_size=(10, 10**6),
            max_tokens=(1, 10**5),
            embedding_size=(1, 10**4),
            units=(1, 10**4),
            attention_units=(1, 10**4),
            token_dropout=(0, 0.99),
            embedding_dropout=(0, 0.99),
            dropout=(0, 0.99),
            epochs=(1, 10**6),
            patience=(1, 10**6),
            batch_size=(1, 10**6),
            label_smoothing=(0, 0.99),
        )


def sentences():
    """Sentences from a small grammar, built in; 12 s, macro-averaged recall 1.000.

    python -m apps.sentiment_analysis train sentences

    The score is that of the held-out quarter, with seed 0, on two cores.
    """
    return Config(
        data="sentences",
        data_licence="made by a grammar of this application; none needed",
        vocabulary_size=500,
        embedding_size=32,
        units=32,
        attention_units=32,
        token_dropout=0.0,
        dropout=0.2,
        epochs=12,
        patience=3,
        learning_rate=1e-2,
    )


def tweets():
    """45,615 tweets, three classes; 2 minutes, macro-averaged recall 0.640.

    python -m apps.sentiment_analysis train tweets
    --word-vectors glove.6B.100d.npz glove_twitter_25d_12k.npz

    The score is the mean of seeds 0, 1 and 2 on `test`, on two cores; 0.616 without
    word vectors.
    """
    return Config(
        data="data/tweeteval_sentiment",
        data_licence=(
            "TweetEval (Barbieri et al., 2020), from SemEval-2017 task 4; the training "
            "texts are reconstructed from SemEval's; under Twitter's terms"
        ),
        label_column="label_name",
        vocabulary_size=16000,
        token_dropout=0.2,
        embedding_dropout=0.3,
        dropout=0.5,
        epochs=4,
        patience=3,
        batch_size=64,
        learning_rate=1.5e-3,
        label_smoothing=0.25,
    )


CONFIGS = {"sentences": sentences, "tweets": tweets}
