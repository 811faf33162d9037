"""From numbers of pieces to class scores, and from texts to class names."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import layers
from apps.common.errors import BadInput
from apps.common.text import PADDING
from apps.sentiment_analysis.tokenizer import Tokenizer

# Standard deviations of an embedding to start from.
WORD_SPREAD = 0.3
RANDOM_SPREAD = 0.1


def build_model(
    vocabulary_size,
    num_classes,
    embedding_size=128,
    units=96,
    attention_units=64,
    embedding_dropout=0.2,
    dropout=0.4,
    padded=True,
):
    """Builds a classifier: embedding, LSTM in both directions, attention, linear head.

    Attention asks, with what either direction has read at its end, which steps matter.

    Args:
        vocabulary_size: Number of pieces, padding included.
        num_classes: Number of classes.
        embedding_size: Numbers that stand for a piece.
        units: Size of the LSTM, in each direction.
        attention_units: Size of the space in which attention compares.
        embedding_dropout: Share of the embedding's dimensions that is hidden throughout
            a text.
        dropout: Share of the LSTM's outputs, and of the attended ones, that is hidden.
        padded: Whether texts may be padded at their end. Without, one text is read as
            long as it is, and TensorFlow Lite runs each direction as one operation.

    Returns:
        A model from `tokens`, int32 `(batch, steps)`, to `scores`, float32
        `(batch, num_classes)`, which sum to 1.
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = keras.ops.not_equal(tokens, PADDING) if padded else None
    x = keras.layers.Embedding(vocabulary_size, embedding_size, name="embedding")(
        tokens
    )
    x = keras.layers.SpatialDropout1D(embedding_dropout, name="embedding_dropout")(x)
    x = keras.layers.Bidirectional(
        layers.LSTM(units, return_sequences=True), name="lstm"
    )(x, mask=mask)  # (batch, steps, 2 * units)
    x = keras.layers.Dropout(dropout, name="lstm_dropout")(x)
    end = x[:, -1]
    if padded:
        last = keras.ops.sum(keras.ops.cast(mask, "int32"), 1, keepdims=True) - 1
        end = keras.ops.take_along_axis(x, last[..., None], axis=1)[:, 0]
    # What each direction read last.
    read = keras.ops.concatenate([end[:, :units], x[:, 0, units:]], axis=-1)
    attended, _ = layers.AdditiveAttention(attention_units, name="attention")(
        [read, x], mask=mask, return_weights=True
    )
    attended = keras.layers.Dropout(dropout, name="dropout")(attended)
    scores = keras.layers.Dense(num_classes, "softmax", name="scores")(attended)
    return keras.Model(tokens, scores, name="sentiment_classifier")


def initial_embedding(vocabulary, embedding_size, word_vectors, seed):
    """Returns the embedding to start from.

    Pieces that are whole words begin with the words' vectors, the rest with random
    numbers of a smaller spread, so that what is known counts more at first.

    Args:
        vocabulary: The pieces, from `Tokenizer.vocabulary`.
        embedding_size: Numbers that stand for a piece.
        word_vectors: Paths, as `Config.word_vectors`.
        seed: Of the random numbers.

    Returns:
        float32 `(pieces, embedding_size)`, and the number of pieces that have vectors.

    Raises:
        BadInput: A file cannot be read, or all vectors together are longer than the
            embedding.
    """
    random = np.random.default_rng(seed)
    embedding = random.normal(0, RANDOM_SPREAD, (len(vocabulary), embedding_size))
    known, start = set(), 0
    for path in word_vectors:
        words, vectors = read_word_vectors(Path(path))
        end = start + vectors.shape[1]
        if end > embedding_size:
            raise BadInput(
                f"--embedding-size {embedding_size} is too small for the word vectors: "
                f"those up to {path} take {end}"
            )
        vectors = vectors * (WORD_SPREAD / vectors.std())
        rows = {word: row for row, word in enumerate(words)}
        for number, piece in enumerate(vocabulary):
            word = piece.removeprefix("▁")
            # A piece inside a word is no word, but a sign may stand anywhere.
            if (piece.startswith("▁") or not word.isalpha()) and word in rows:
                embedding[number, start:end] = vectors[rows[word]]
                known.add(number)
        start = end
    return embedding.astype("float32"), len(known)


def read_word_vectors(path: Path):
    """Reads words and their vectors, float32 `(words, size)`.

    Args:
        path: A `.npz` file with `words` and `vectors`; or text, one word and its
            numbers in a line, as GloVe is distributed.

    Raises:
        BadInput: The file is missing, or is neither.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path) as content:
                words, vectors = content["words"].tolist(), content["vectors"]
        else:
            # Not `splitlines`: GloVe has words that it takes for the end of a line.
            lines = path.read_text("utf-8").rstrip("\n").split("\n")
            rows = [line.rstrip(" \r").split(" ") for line in lines]
            words = [row[0] for row in rows]
            vectors = np.array([row[1:] for row in rows], "float32")
        if vectors.ndim != 2 or len(words) != len(vectors) or not vectors.std() > 0:
            raise ValueError
        return words, vectors
    except FileNotFoundError as error:
        raise BadInput(
            f"--word-vectors {path} does not exist; pass a file of word vectors"
        ) from error
    except (
        *(ValueError, KeyError, TypeError, OSError, EOFError),
        zipfile.BadZipFile,
    ) as error:
        raise BadInput(
            f"--word-vectors {path} holds no word vectors; expected lines of a word "
            "and its numbers, or .npz with `words` and `vectors`"
        ) from error


class Classifier:
    """The model as its users meet it: texts in, ranked class names out.

    Its two functions are the signatures of the exported model.

    Args:
        model: A trained model from `build_model`.
        class_names: The names of its classes, in order.
        tokenizer: The `Tokenizer` that it was trained with.
    """

    def __init__(self, model, class_names, tokenizer):
        self.model = model
        self.tokenizer = tokenizer
        self.class_names = tf.constant(class_names)
        self.vocabulary = tf.constant(["", *tokenizer.vocabulary()[1:]])
        self.network = with_attention(model)
        self.tensors = tf.function(
            self._tensors,
            input_signature=[tf.TensorSpec([None, None], tf.int32, name="tokens")],
        )
        self.serving_default = tf.function(
            self._serving_default,
            input_signature=[tf.TensorSpec([None], tf.string, name="text")],
        )

    def __call__(self, texts):
        """Classifies a list of texts; returns named numpy arrays."""
        answers = self.serving_default(tf.constant(texts))
        return {name: value.numpy() for name, value in answers.items()}

    def _tensors(self, tokens):
        """Scores tokenized texts, `(batch, steps)`, padded with zeros at the end.

        Returns:
            `scores`, `(batch, classes)`, in the order of the class names, and
            `attention`, `(batch, steps)`, which sums to 1.
        """
        return self.network(tokens, training=False)

    def _serving_default(self, text):
        """Classifies UTF-8 texts of any length, `(batch,)`.

        Returns:
            `classes` and `scores`, both `(batch, classes)`, the best first; `tokens`,
            the pieces that were read, and their `attention`, both `(batch, steps)`,
            padded with empty strings and zeros.
        """
        tokens = self.tokenizer(text).to_tensor(PADDING)
        answers = self.tensors(tokens)
        scores, order = tf.math.top_k(answers["scores"], k=self.class_names.shape[0])
        return {
            "classes": tf.gather(self.class_names, order),
            "scores": scores,
            "tokens": tf.gather(self.vocabulary, tokens),
            "attention": answers["attention"],
        }


def attended_pieces(answers):
    """Returns for each text its pieces, strings, and their attention.

    Args:
        answers: `tokens` and `attention` of a `Classifier`, an exported model or a
            bundle.
    """
    lengths = (answers["tokens"] != b"").sum(axis=1)
    return [
        ([token.decode() for token in tokens[:length]], attention[:length])
        for tokens, attention, length in zip(
            answers["tokens"], answers["attention"], lengths, strict=True
        )
    ]


def with_attention(model):
    """Returns the model with its attention, `(batch, steps)`, as a second output."""
    _, weights = model.get_layer("attention").output
    return keras.Model(model.input, {"scores": model.output, "attention": weights})


def without_padding(model):
    """Returns the same model for texts that are as long as the input."""
    config = {
        name: model.get_layer(name).get_config()
        for name in ("embedding", "lstm", "attention", "scores")
    }
    twin = build_model(
        config["embedding"]["input_dim"],
        config["scores"]["units"],
        config["embedding"]["output_dim"],
        model.get_layer("lstm").forward_layer.units,
        config["attention"]["units"],
        padded=False,
    )
    twin.set_weights(model.get_weights())
    return twin


def load_classifier(run: Path):
    """Returns the best model of a run as a `Classifier`."""
    model = keras.saving.load_model(run / "model.keras", compile=False)
    return Classifier(
        model,
        json.loads((run / "classes.json").read_text()),
        Tokenizer((run / "tokenizer.model").read_bytes()),
    )
