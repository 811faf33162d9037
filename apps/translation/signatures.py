"""The exported functions: texts to translations."""

import functools
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from apps.common import runs
from apps.common.limits import MAX_INPUTS, answer, check_shape, first_error
from apps.common.predictors import Predictor, load_predictor
from apps.common.search import Hypotheses, beam_search, greedy_search
from apps.common.text import PADDING, UNKNOWN, check_request, join_rows
from apps.common.tokenizer import END, END_TOKEN, START, Tokenizer
from apps.translation.config import Config
from apps.translation.data import MAX_TEXT_BYTES, MAX_WORD_LETTERS
from apps.translation.model import EncoderDecoder
from apps.translation.parts import (
    MAX_TOKENS,
    join_attention,
    join_parts,
    max_words,
    split_patterns,
    split_texts,
)

# In a run and in an edge bundle. A joint vocabulary has the first file only.
TOKENIZER_FILES = ("source.model", "target.model")
# Ids of tokens that no translation contains.
NEVER_WRITTEN = (PADDING, UNKNOWN, START)
# What a request may contain, for the card.
LIMITS = {
    "max_inputs": MAX_INPUTS,
    "max_text_bytes": MAX_TEXT_BYTES,
    "max_word_letters": MAX_WORD_LETTERS,
    "max_tokens": MAX_TOKENS,
}
# Sentences that are decoded at once.
CHUNK_SIZE = 64


class Translator:
    """A trained model with its exported functions.

    Args:
        model: A trained model.
        tokenizers: The tokenizers of the source and of the target language.
        config: Gives the beam size, the length penalty, and the length above which a
            text is translated in parts.

    Attributes:
        signatures: The exported functions by name: `serving_default` and
            `with_attention` (beam search), `greedy` and `tensors`.
    """

    def __init__(
        self, model: EncoderDecoder, tokenizers: Sequence[Tokenizer], config: Config
    ):
        self.model = model
        self.tokenizers = tuple(tokenizers)
        self.source_tokenizer, self.target_tokenizer = tokenizers
        self.beam_size = config.beam_size
        self.length_penalty = config.length_penalty
        self.patterns = split_patterns(max_words(config.max_tokens))
        vocabularies = {  # A joint vocabulary is one constant.
            tokenizer: tf.constant(tokenizer.vocabulary()) for tokenizer in tokenizers
        }
        self.source_vocabulary = vocabularies[self.source_tokenizer]
        self.target_vocabulary = vocabularies[self.target_tokenizer]
        self.bias = tf.reduce_sum(  # −inf for tokens that are never written.
            tf.one_hot(NEVER_WRITTEN, len(self.target_tokenizer), -float("inf"), 0.0), 0
        )
        text = tf.TensorSpec([None], tf.string, name="text")
        token_ids = tf.TensorSpec([None, None], tf.int32, name="token_ids")
        self.signatures = {
            "serving_default": tf.function(self.translate, input_signature=[text]),
            "greedy": tf.function(self.translate_greedily, input_signature=[text]),
            "with_attention": tf.function(
                self.translate_with_attention, input_signature=[text]
            ),
            "tensors": tf.function(self.translate_ids, input_signature=[token_ids]),
        }

    def translate(self, text):
        """Translates UTF-8 texts, `(n,)`, by beam search.

        Returns:
            `translations`, `(n,)`; `scores`, their log-probabilities divided by the
            length penalty, averaged over the parts of a long text; and `errors`,
            strings `(n,)`.
        """
        outputs, errors, _ = self._translate(text, self.search)
        return answer(outputs, errors)

    def translate_greedily(self, text):
        """Translates texts by greedy search; returns the same as `translate`."""
        outputs, errors, _ = self._translate(text, self.greedy_search)
        return answer(outputs, errors)

    def translate_with_attention(self, text):
        """Translates texts and returns what `translate` does, with the attention.

        Returns:
            Also `source_tokens` and `target_tokens`, the subword tokens separated by
            spaces; and `attention`, as `join_attention` writes it. All are strings
            `(n,)`.
        """
        outputs, errors, found = self._translate(text, self.search)
        source, target, attention, parts = found

        def tokens(token_ids, vocabulary):
            token_ids = join_parts(token_ids, parts)
            return join_rows(
                token_ids.with_values(tf.gather(vocabulary, token_ids.values))
            )

        outputs |= {
            "source_tokens": tokens(source, self.source_vocabulary),
            "target_tokens": tokens(target, self.target_vocabulary),
            "attention": join_attention(attention, parts),
        }
        return answer(outputs, errors)

    def translate_ids(self, token_ids):
        """Translates tokenized sentences, `(n, source_steps)`.

        Args:
            token_ids: Each row has an `END`. Whatever follows the first one is padding.

        Returns:
            `token_ids` of the translations, `(n, 2 * source_steps + 10)`, padded with
            zeros; `scores`, `(n,)`; and `errors`, strings `(n,)`.
        """
        shape = [MAX_INPUTS, MAX_TOKENS]
        token_ids = check_shape(token_ids, "token_ids", [None, None], shape)
        is_end = token_ids == END
        lengths = tf.argmax(tf.cast(is_end, tf.int32), 1) + 1
        steps = tf.shape(token_ids)[1]
        largest = self.source_vocabulary.shape[0] - 1
        is_outside = (token_ids <= PADDING) | (token_ids > largest)
        is_outside &= tf.sequence_mask(lengths, steps)
        errors = first_error(
            (~tf.reduce_any(is_end, 1), f"the end token ({END}) is missing"),
            (tf.reduce_any(is_outside, 1), f"a token id is not from 1 to {largest}"),
        )
        # Sentences with an error are translated like empty ones.
        is_good = errors == ""
        source = tf.RaggedTensor.from_tensor(
            tf.where(is_good[:, None], token_ids, END), tf.where(is_good, lengths, 1)
        )
        target, scores, _ = self._decode(source, self.search)
        shape = tf.stack([-1, max_steps(steps)])
        outputs = {"token_ids": target.to_tensor(PADDING, shape=shape)}
        return answer({**outputs, "scores": scores}, errors)

    def search(self, token_ids) -> Hypotheses:
        """Returns the beam hypotheses of sentences, best first.

        Args:
            token_ids: int32 `(batch, source_steps)`, padded with zeros.

        Returns:
            `Hypotheses`, whose trace is the attention,
            `(batch, beams, steps, source_steps)`.
        """
        return beam_search(**self._decoder(token_ids), beam_size=self.beam_size)

    def greedy_search(self, token_ids) -> Hypotheses:
        """Returns what `search` with a single beam returns."""
        return greedy_search(**self._decoder(token_ids))

    def _decoder(self, token_ids):
        """Returns the arguments of a search for sentences, `(batch, source_steps)`."""
        decoder, memory = self.model.decoder, self.model.encode(token_ids)
        lengths = tf.reduce_sum(tf.cast(token_ids != PADDING, tf.int32), 1)
        return {
            "step": functools.partial(decoder.step, memory=memory, bias=self.bias),
            "state": decoder.initial_state(memory),
            "start_id": START,
            "end_id": END,
            "max_steps": max_steps(lengths),
            "alpha": self.length_penalty,
        }

    def _decode(self, source, search):
        """Translates sentences in chunks of similar lengths.

        The sentences of a chunk are padded to the longest one, and all of them are
        decoded until the last translation has ended.

        Args:
            source: Token ids, ragged `(batch, source_steps)`.
            search: `self.search` or `self.greedy_search`.

        Returns:
            Token ids of the translations, ragged `(batch, steps)`; their scores,
            `(batch,)`; and the attention, ragged `(batch, steps, source_steps)`.
        """
        order = tf.argsort(source.row_lengths(), stable=True)

        def decode_chunk(start):
            chunk = tf.gather(source, order[start : start + CHUNK_SIZE])
            token_ids = chunk.to_tensor(PADDING)
            found = search(token_ids)
            # Empty text translates to empty text.
            is_text = tf.reduce_any((token_ids != PADDING) & (token_ids != END), 1)
            lengths = tf.where(is_text, tf.cast(found.lengths[:, 0], tf.int64), 0)
            is_target = tf.sequence_mask(lengths, tf.shape(found.token_ids)[2])
            is_weight = is_target[..., None] & (token_ids != PADDING)[:, None]
            target = tf.boolean_mask(found.token_ids[:, 0], is_target)
            attention = tf.boolean_mask(found.trace[:, 0], is_weight)
            return target, lengths, found.scores[:, 0], attention

        found = tf.map_fn(
            decode_chunk,
            tf.range(0, source.nrows(), CHUNK_SIZE),
            fn_output_signature=tuple(
                tf.RaggedTensorSpec([None], dtype, ragged_rank=0)
                for dtype in (tf.int32, tf.int64, tf.float32, tf.float32)
            ),
            parallel_iterations=1,
        )
        target, lengths, scores, attention = (chunks.values for chunks in found)
        target = tf.RaggedTensor.from_row_lengths(target, lengths, validate=False)
        source_lengths = tf.gather(source.row_lengths(), order)
        attention = tf.RaggedTensor.from_row_lengths(
            attention, tf.repeat(source_lengths, lengths), validate=False
        )
        original_order = tf.argsort(order)
        return (
            tf.gather(target, original_order),
            tf.gather(scores, original_order),
            tf.gather(target.with_values(attention), original_order),
        )

    def _translate(self, text, search):
        """Splits texts into parts, translates the parts, and joins them again.

        Returns:
            `translations` and `scores`; the errors of the texts; and the token ids of
            the parts, those of their translations, the attention and the parts.
        """
        text, errors = check_request(
            text, MAX_TEXT_BYTES, MAX_WORD_LETTERS, allow_empty=True
        )
        parts = split_texts(text, self.patterns)
        text_of_part = parts.value_rowids()
        source = self.source_tokenizer(parts.values)
        longest = tf.math.segment_max(source.row_lengths(), text_of_part)
        errors = first_error(
            (errors != "", errors),
            (
                longest > MAX_TOKENS,
                f"the text or one of its sentences has more than {MAX_TOKENS} tokens; "
                "write shorter sentences",
            ),
        )
        # Texts with an error are translated like empty ones.
        is_good = tf.gather(errors == "", text_of_part)
        is_kept = tf.repeat(is_good, source.row_lengths()) | (source.values == END)
        source = tf.ragged.boolean_mask(source, source.with_values(is_kept))
        target, scores, attention = self._decode(source, search)
        translations = self.target_tokenizer.detokenize(target)
        outputs = {
            "translations": join_rows(parts.with_values(translations)),
            "scores": tf.math.segment_mean(scores, text_of_part),
        }
        return outputs, errors, (source, target, attention, parts)


def alignments(answers):
    """Returns the source tokens, target tokens and attention of each text.

    Args:
        answers: `source_tokens`, `target_tokens` and `attention`, from a predictor of
            `with_attention`.

    Returns:
        A row for each text: two lists of strings, and the weights, float32
        `(steps, source_steps)`. The matrices of the parts of a long text lie along the
        diagonal. Everything else is zero, since no part attends to another one.
    """
    rows = []
    for source, target, attention in zip(
        *(answers[name] for name in ("source_tokens", "target_tokens", "attention")),
        strict=True,
    ):
        source, target = (
            tokens.decode().split(" ") if tokens else [] for tokens in (source, target)
        )
        whole = np.zeros((len(target), len(source)), "float32")
        row = column = 0
        for part in attention.decode().split("\n\n"):
            end = source.index(END_TOKEN, column) + 1
            for weights in part.splitlines():
                whole[row, column:end] = weights.split()
                row += 1
            column = end
        rows.append((source, target, whole))
    return rows


def max_steps(length):
    """Returns the maximum number of tokens in a translation.

    Args:
        length: Number of source tokens.
    """
    return 2 * length + 10


def save_tokenizers(tokenizers: Sequence[Tokenizer], folder: Path) -> None:
    """Writes the tokenizers of both languages; a joint one is written once."""
    for name, tokenizer in zip(
        TOKENIZER_FILES, dict.fromkeys(tokenizers), strict=False
    ):
        runs.write_bytes(folder / name, tokenizer.model)


def load_tokenizers(folder: Path) -> list[Tokenizer]:
    """Returns the tokenizers that `save_tokenizers` wrote, one for each language."""
    tokenizers = [
        Tokenizer((folder / name).read_bytes())
        for name in TOKENIZER_FILES
        if (folder / name).exists()
    ]
    return tokenizers if len(tokenizers) == 2 else tokenizers * 2


def load_run(run: Path) -> Translator:
    """Returns the best model of a run as a `Translator`."""
    return Translator(
        keras.saving.load_model(run / "model.keras", compile=False),
        load_tokenizers(run),
        runs.load_config(Config, run),
    )


def load_model(where: str, signature: str = "serving_default") -> Predictor:
    """Returns the predictor of any model; the arguments are `load_predictor`'s."""
    return load_predictor(
        where, "translation", lambda run: load_run(run).signatures, signature
    )
