"""The exported functions: encoded images to captions."""

import functools
from pathlib import Path

import keras
import tensorflow as tf

from apps.common import limits, runs
from apps.common.image_headers import MAX_PIXELS
from apps.common.images import check_pixels, decode_each, resize_image
from apps.common.predictors import Predictor, load_predictor
from apps.common.search import beam_search
from apps.common.text import PADDING, UNKNOWN
from apps.common.tokenizer import END, START, Tokenizer
from apps.image_captioning.config import Config
from apps.image_captioning.model import CaptionModel, for_inference

TOKENIZER_FILE = "tokens.model"  # In a run and in an edge bundle.
# Ids of tokens that no caption contains.
NEVER_WRITTEN = (PADDING, UNKNOWN, START)
# What a request may contain, for the card.
LIMITS = {"max_inputs": limits.MAX_INPUTS, "max_pixels": MAX_PIXELS}


class Captioner:
    """A model with its exported functions.

    Args:
        model: A `CaptionModel`.
        tokenizer: Its `Tokenizer`.
        config: Gives the size of images, how they are resized, and the search.

    Attributes:
        signatures: The exported functions by name: `serving_default` (beam search),
            `greedy` and `tensors`.
        bias: Is added to the logits: −inf for tokens that are never written.
    """

    def __init__(self, model: CaptionModel, tokenizer: Tokenizer, config: Config):
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.size = config.image_size
        self.vocabulary = tf.constant(tokenizer.vocabulary())
        self.bias = tf.reduce_sum(
            tf.one_hot(NEVER_WRITTEN, len(tokenizer), -float("inf"), 0.0), 0
        )
        encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
        pixels = tf.TensorSpec([None, self.size, self.size, 3], name="images")
        self.signatures = {
            "serving_default": tf.function(self.caption, input_signature=[encoded]),
            "greedy": tf.function(self.caption_greedily, input_signature=[encoded]),
            "tensors": tf.function(self.caption_pixels, input_signature=[pixels]),
        }

    def caption(self, image_bytes):
        """Writes a caption of each image, `(n,)`, by beam search.

        Returns:
            `captions`, strings `(n,)`; `scores`, their log-probabilities divided by the
            length penalty, `(n,)`; `tokens`, strings `(n, max_tokens)`, empty after the
            end; `attention`, the weights of the places of the image for each token,
            `(n, max_tokens, rows, columns)`, zeros after the end; and `errors`, strings
            `(n,)`.
        """
        return self._caption(image_bytes, self.config.beam_size)

    def caption_greedily(self, image_bytes):
        """Writes captions by greedy search; returns the same as `caption`."""
        return self._caption(image_bytes, beam_size=1)

    def caption_pixels(self, images):
        """Writes captions of prepared images, `(n, size, size, 3)` from 0 to 255.

        Returns:
            The same as `caption`.
        """
        pixels, errors = check_pixels(images, [self.size, self.size])
        return self._answer(pixels, errors, self.config.beam_size)

    def write(self, features, beam_size):
        """Writes a caption about the features of each image.

        Args:
            features: `(batch, places, channels)`, as `CaptionModel.extract` returns
                them; at least one image.
            beam_size: Number of hypotheses to keep.

        Returns:
            What `caption` returns, without `errors`.
        """
        found = self.search(features, beam_size)
        lengths, most = found.lengths[:, 0], self.config.max_tokens
        token_ids = tf.RaggedTensor.from_tensor(found.token_ids[:, 0], lengths)
        tokens = token_ids.with_values(tf.gather(self.vocabulary, token_ids.values))
        is_token = tf.sequence_mask(lengths, tf.shape(found.token_ids)[2])
        attention = tf.where(is_token[..., None], found.trace[:, 0], 0)
        padding = most - tf.shape(attention)[1]
        attention = tf.pad(attention, ((0, 0), (0, padding), (0, 0)))
        return {
            "captions": self.tokenizer.detokenize(token_ids),
            "scores": found.scores[:, 0],
            "tokens": tokens.to_tensor("", shape=[None, most]),
            "attention": tf.reshape(attention, (-1, most, *self.model.grid)),
        }

    def search(self, features, beam_size):
        """Returns the `Hypotheses` of a beam search; arguments as for `write`."""
        decoder, memory = self.model.decoder, self.model.encode(features)
        return beam_search(
            functools.partial(decoder.step, memory=memory, bias=self.bias),
            decoder.initial_state(memory),
            START,
            END,
            tf.fill(tf.shape(features)[:1], self.config.max_tokens),
            beam_size,
            self.config.length_penalty,
        )

    def _caption(self, image_bytes, beam_size):
        (pixels,), errors = decode_each(
            limits.check_shape(image_bytes, "image_bytes", [None], [limits.MAX_INPUTS]),
            lambda image: [resize_image(image, self.size, self.config.resize)],
            [tf.TensorSpec([self.size, self.size, 3])],
        )
        return self._answer(pixels, errors, beam_size)

    def _answer(self, pixels, errors, beam_size):
        outputs = limits.call_network(
            lambda pixels: self.write(self.model.extract(pixels), beam_size), pixels
        )
        return limits.answer(outputs, errors)


def words_of(answers):
    """Returns the tokens of each answer of a predictor as lists of strings.

    The mark of a space, `▁`, is left out.
    """
    return [
        [token.decode().replace("▁", "") for token in row if token]
        for row in answers["tokens"]
    ]


def maps_of(answers):
    """Returns the attention of each token of each answer of a predictor.

    Lists of arrays, float32 `(rows, columns)`.
    """
    numbers = (sum(map(bool, row)) for row in answers["tokens"])
    return [
        list(attention[:number])
        for attention, number in zip(answers["attention"], numbers, strict=True)
    ]


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer into a run or a bundle."""
    runs.write_bytes(folder / TOKENIZER_FILE, tokenizer.model)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer that `save_tokenizer` wrote."""
    return Tokenizer((folder / TOKENIZER_FILE).read_bytes())


def load_run(run: Path) -> Captioner:
    """Returns the best model of a run as a `Captioner`."""
    model = keras.saving.load_model(run / "model.keras", compile=False)
    config = runs.load_config(Config, run)
    return Captioner(for_inference(model), load_tokenizer(run), config)


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(
        where, "image_captioning", lambda run: load_run(run).signatures, signature
    )
