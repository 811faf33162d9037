"""The exported functions: texts to class names."""

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from apps.common.limits import MAX_INPUTS, answer, check_shape, first_error
from apps.common.predictors import Predictor, load_predictor
from apps.common.text import PADDING, UNKNOWN, check_request, join_rows
from apps.sentiment_analysis.data import MAX_TEXT_BYTES
from apps.sentiment_analysis.model import with_attention
from apps.sentiment_analysis.tokenizer import Tokenizer

MAX_TOKENS = 5_000  # Of a text.
# What a request may contain, for the card.
LIMITS = {
    "max_inputs": MAX_INPUTS,
    "max_text_bytes": MAX_TEXT_BYTES,
    "max_tokens": MAX_TOKENS,
}
# The network reads that many tokens at once, padding included, in about 0.4 GB.
CHUNK_TOKENS = 60_000


class Classifier:
    """A trained model with its exported functions.

    Args:
        model: A trained model from `build_model`.
        class_names: The names of its classes, in order.
        tokenizer: The `Tokenizer` that it was trained with.

    Attributes:
        signatures: The exported functions by name: `serving_default`, `with_attention`
            and `tensors`.
    """

    def __init__(self, model, class_names, tokenizer):
        self.model = model
        self.class_names = tuple(class_names)
        self.tokenizer = tokenizer
        network = with_attention(model)
        self.vocabulary = tf.constant(tokenizer.vocabulary())
        token_ids = tf.TensorSpec([None, None], tf.int32, name="token_ids")
        text = tf.TensorSpec([None], tf.string, name="text")
        # A function, so that a SavedModel contains the network once.
        self.network = tf.function(
            lambda token_ids: network(token_ids, training=False),
            input_signature=[token_ids],
        )
        # TensorFlow inlines functions, and passes through the operations of a branch
        # that is not taken.
        self.run_in_chunks = tf.function(
            self._run_in_chunks,
            input_signature=[token_ids, tf.TensorSpec([None], tf.string)],
            experimental_attributes={"_noinline": True},
        )
        self.signatures = {
            "serving_default": tf.function(self.classify, input_signature=[text]),
            "with_attention": tf.function(
                self.classify_with_attention, input_signature=[text]
            ),
            "tensors": tf.function(self.score, input_signature=[token_ids]),
        }

    def classify(self, text):
        """Classifies UTF-8 texts, `(n,)`.

        Returns:
            `classes` and `scores`, both `(n, classes)`, the best class first; and
            `errors`, strings `(n,)`.
        """
        token_ids, errors = self._tokenize(text)
        found = self._run(token_ids, errors)
        return answer(self._best_first(found["scores"]), errors)

    def classify_with_attention(self, text):
        """Classifies texts and returns what `classify` does, with the attention.

        Returns:
            Also `tokens`, the subword tokens of each text, and `attention`, their
            weights with 6 decimals; both strings `(n,)`, separated by spaces.
        """
        token_ids, errors = self._tokenize(text)
        found = self._run(token_ids, errors)
        tokens = tf.RaggedTensor.from_tensor(token_ids, padding=PADDING)
        weights = tf.boolean_mask(found["attention"], token_ids != PADDING)
        outputs = {
            **self._best_first(found["scores"]),
            "tokens": join_rows(
                tokens.with_values(tf.gather(self.vocabulary, tokens.values))
            ),
            "attention": join_rows(tokens.with_values(weights)),
        }
        return answer(outputs, errors)

    def score(self, token_ids):
        """Scores tokenized texts, `(n, steps)`, padded with zeros at the end.

        Returns:
            `scores`, `(n, classes)`, in the order of the class names; `attention`,
            `(n, steps)`, which sums to 1; and `errors`, strings `(n,)`.
        """
        shape = [MAX_INPUTS, MAX_TOKENS]
        token_ids = check_shape(token_ids, "token_ids", [None, None], shape)
        is_token = token_ids != PADDING
        largest = self.vocabulary.shape[0] - 1
        is_outside = (token_ids < 0) | (token_ids > largest)
        errors = first_error(
            (tf.reduce_any(is_outside, 1), f"a token id is not from 0 to {largest}"),
            (~is_token[:, 0], f"the first token id is {PADDING}, which is padding"),
            (
                tf.reduce_any(is_token[:, 1:] & ~is_token[:, :-1], 1),
                f"a token follows padding ({PADDING})",
            ),
        )
        token_ids = tf.where((errors == "")[:, None], token_ids, UNKNOWN)
        return answer(self._run(token_ids, errors), errors)

    def _tokenize(self, text):
        """Returns the token ids of texts, `(n, steps)`, and errors, `(n,)`."""
        text, errors = check_request(text, MAX_TEXT_BYTES)
        token_ids = self.tokenizer(text)
        says = f"the text has more than {MAX_TOKENS} tokens; shorten it"
        # Texts with an error are empty here, and have one token.
        errors = tf.where(token_ids.row_lengths() > MAX_TOKENS, says, errors)
        # The network needs one step at least.
        steps = tf.clip_by_value(token_ids.bounding_shape(1), 1, MAX_TOKENS)
        return token_ids.to_tensor(PADDING, shape=tf.stack([-1, steps])), errors

    def _run(self, token_ids, errors):
        """Returns what the network does, `scores` and `attention`.

        Many tokens are run in chunks of texts of similar lengths, to save memory.
        """
        return tf.cond(
            tf.size(token_ids) <= CHUNK_TOKENS,
            lambda: self.network(token_ids),
            lambda: self.run_in_chunks(token_ids, errors),
        )

    def _run_in_chunks(self, token_ids, errors):
        num_texts, steps = tf.unstack(tf.shape(token_ids))
        lengths = tf.reduce_sum(tf.cast(token_ids != PADDING, tf.int32), 1)
        lengths = tf.where(errors == "", lengths, 1)  # No work for neutral outputs.
        order = tf.argsort(lengths, stable=True)
        chunk_size = CHUNK_TOKENS // steps

        def run_chunk(start):
            rows = order[start : start + chunk_size]
            longest = tf.reduce_max(tf.gather(lengths, rows))
            found = self.network(tf.gather(token_ids, rows)[:, :longest])
            padding = [[0, 0], [0, steps - longest]]
            return {**found, "attention": tf.pad(found["attention"], padding)}

        found = tf.map_fn(
            run_chunk,
            tf.range(0, num_texts, chunk_size),
            fn_output_signature={
                name: tf.RaggedTensorSpec([None, size], ragged_rank=0)
                for name, size in (
                    ("scores", len(self.class_names)),
                    ("attention", None),
                )
            },
            parallel_iterations=1,
        )
        original_order = tf.argsort(order)
        return {
            name: tf.gather(chunks.values, original_order)
            for name, chunks in found.items()
        }

    def _best_first(self, scores):
        """Returns sorted `scores` and the names of their `classes`."""
        scores, order = tf.math.top_k(scores, k=len(self.class_names))
        return {
            "classes": tf.gather(tf.constant(self.class_names), order),
            "scores": scores,
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
    return load_predictor(
        where, "sentiment_analysis", lambda run: load_run(run).signatures, signature
    )


def tokens_with_attention(answers):
    """Returns the tokens of each text, strings, and their attention weights.

    Args:
        answers: `tokens` and `attention`, from a predictor of `with_attention`.
    """
    return [
        (tokens.decode().split(" "), np.array(weights.split(), "float32"))
        for tokens, weights in zip(answers["tokens"], answers["attention"], strict=True)
    ]
