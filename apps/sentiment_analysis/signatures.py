"""The exported functions: texts to class names."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from apps.common.predictors import Predictor, load_predictor
from apps.common.text import PADDING
from apps.sentiment_analysis.model import with_attention
from apps.sentiment_analysis.tokenizer import Tokenizer


class Classifier:
    """A trained model with its exported functions.

    Args:
        model: A trained model from `build_model`.
        class_names: The names of its classes, in order.
        tokenizer: The `Tokenizer` that it was trained with.

    Attributes:
        signatures: The exported functions by name, `serving_default` and `tensors`.
    """

    def __init__(self, model, class_names, tokenizer):
        self.model = model
        self.class_names = tuple(class_names)
        self.tokenizer = tokenizer
        self.network = with_attention(model)
        self.vocabulary = ["", *tokenizer.vocabulary()[1:]]  # Padding is empty.
        token_ids = tf.TensorSpec([None, None], tf.int32, name="token_ids")
        text = tf.TensorSpec([None], tf.string, name="text")
        self.signatures = {
            "serving_default": tf.function(self.classify, input_signature=[text]),
            "tensors": tf.function(self.score, input_signature=[token_ids]),
        }

    def score(self, token_ids):
        """Scores tokenized texts, `(batch, steps)`, padded with zeros at the end.

        Returns:
            `scores`, `(batch, classes)`, in the order of the class names, and
            `attention`, `(batch, steps)`, which sums to 1.
        """
        return self.network(token_ids, training=False)

    def classify(self, text):
        """Classifies UTF-8 texts of any length, `(batch,)`.

        Returns:
            `classes` and `scores`, both `(batch, classes)`, the best class first; the
            subword `tokens` of the texts and their `attention`, both `(batch, steps)`,
            padded with empty strings and zeros.
        """
        token_ids = self.tokenizer(text).to_tensor(PADDING)
        answers = self.signatures["tensors"](token_ids)
        scores, order = tf.math.top_k(answers["scores"], k=len(self.class_names))
        return {
            "classes": tf.gather(tf.constant(self.class_names), order),
            "scores": scores,
            "tokens": tf.gather(tf.constant(self.vocabulary), token_ids),
            "attention": answers["attention"],
        }


def load_run(run: Path) -> Classifier:
    """Returns the best model of a run as a `Classifier`."""
    return Classifier(
        keras.saving.load_model(run / "model.keras", compile=False),
        json.loads((run / "classes.json").read_text()),
        Tokenizer((run / "tokenizer.model").read_bytes()),
    )


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(where, lambda run: load_run(run).signatures, signature)


def tokens_with_attention(answers):
    """Returns the tokens of each text, strings, and their attention, without padding.

    Args:
        answers: `tokens` and `attention`, from a predictor.
    """
    lengths = (answers["tokens"] != b"").sum(axis=1)
    return [
        ([token.decode() for token in tokens[:length]], attention[:length])
        for tokens, attention, length in zip(
            answers["tokens"], answers["attention"], lengths, strict=True
        )
    ]
