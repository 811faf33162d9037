"""From pieces of sentences to pieces of translations, and from text to text."""

from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

import layers
from apps.common import runs
from apps.common.predictors import load_predictor
from apps.common.search import beam_search, greedy_search
from apps.common.text import PADDING, UNKNOWN
from apps.translation.config import Config
from apps.translation.parts import (
    attention_of_texts,
    most_words,
    pieces_of_texts,
    split,
    splitting_patterns,
)
from apps.translation.tokenizer import END, START, Tokenizer

# In a run and on a device; only the first, where both languages share their pieces.
TOKENIZER_FILES = ("source.model", "target.model")
# Pieces that no translation holds.
NO_WORDS = (PADDING, UNKNOWN, START)


class Memory(NamedTuple):
    """What the encoder read.

    Attributes:
        values: One vector per piece, `(batch, steps, 2 * encoder_units)`.
        keys: What attention compares with, `(batch, steps, …)`.
        summary: The mean of the values, `(batch, 2 * encoder_units)`.
        mask: Which pieces there are, `(batch, steps)`; None if all.
    """

    values: tf.Tensor
    keys: tf.Tensor
    summary: tf.Tensor
    mask: tf.Tensor | None


class State(NamedTuple):
    """What the decoder hands from step to step, each `(batch, beams, size)`.

    Attributes:
        h: The output of the LSTM.
        c: Its cell.
        readout: What the last piece was chosen by.
    """

    h: tf.Tensor
    c: tf.Tensor
    readout: tf.Tensor


@keras.saving.register_keras_serializable(package="translation")
class EncoderDecoder(keras.Model):
    """An LSTM that reads in both directions, and one that writes, with attention.

    At every step the decoder reads the piece written last, beside what that one was
    chosen by (input feeding); attention then looks for what its state asks for among
    what the encoder read. State and context together choose the next piece, by their
    likeness to its embedding.

    Args:
        source_vocabulary: Number of pieces of the language to be read.
        target_vocabulary: Number of pieces of the language to be written; None if they
            are the same, with the same embedding.
        embedding_size: Numbers that stand for a piece.
        encoder_units: Size of the LSTM that reads, in each direction.
        decoder_units: Size of the LSTM that writes.
        attention: `additive` (Bahdanau), `multiplicative` (Luong) or `none`, which
            looks at the mean of all that was read.
        attention_units: Size of the space in which additive attention compares.
        embedding_dropout: Share of the embeddings' numbers that is hidden.
        dropout: Share of what was read, and of what the next piece is chosen by, that
            is hidden.
        scheduled: Whether training tells the decoder only the share `told` of the
            pieces before, a variable, and leaves it to its guesses for the others.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Numbers of source pieces, int32 `(batch, source_steps)`, padded with
            zeros at the end, and of the target pieces before each step, int32
            `(batch, steps)`, of which the first is `START`.
        training: Whether to apply dropout.

    Output shape:
        `(batch, steps, target_vocabulary)`, logits of the next piece.

    Reference:
        [Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473);
        [Luong et al., 2015](https://arxiv.org/abs/1508.04025), input feeding;
        [Press & Wolf, 2017](https://arxiv.org/abs/1608.05859), tied embeddings;
        [Bengio et al., 2015](https://arxiv.org/abs/1506.03099), scheduled sampling
    """

    def __init__(
        self,
        source_vocabulary,
        target_vocabulary=None,
        embedding_size=256,
        encoder_units=256,
        decoder_units=256,
        attention="additive",
        attention_units=192,
        embedding_dropout=0.3,
        dropout=0.4,
        scheduled=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.arguments = {
            "source_vocabulary": source_vocabulary,
            "target_vocabulary": target_vocabulary,
            "embedding_size": embedding_size,
            "encoder_units": encoder_units,
            "decoder_units": decoder_units,
            "attention": attention,
            "attention_units": attention_units,
            "embedding_dropout": embedding_dropout,
            "dropout": dropout,
            "scheduled": scheduled,
        }
        spread = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)

        def embedding(size):
            return keras.layers.ReversibleEmbedding(
                size, embedding_size, embeddings_initializer=spread
            )

        self.source_embedding = self.target_embedding = embedding(source_vocabulary)
        if target_vocabulary:
            self.target_embedding = embedding(target_vocabulary)
        self.embedding_dropout = keras.layers.Dropout(embedding_dropout)
        self.dropout = keras.layers.Dropout(dropout)
        self.encoder = keras.layers.Bidirectional(
            layers.LSTM(encoder_units, return_sequences=True)
        )
        self.initial_state = keras.layers.Dense(decoder_units, "tanh")
        self.decoder = layers.LSTM(decoder_units, return_state=True)
        self.attention = {
            "additive": lambda: layers.AdditiveAttention(attention_units),
            "multiplicative": lambda: layers.MultiplicativeAttention("general"),
            "none": lambda: None,
        }[attention]()
        self.readout = keras.layers.Dense(embedding_size, "tanh")
        self.told = scheduled and self.add_weight(
            initializer="ones", trainable=False, name="told"
        )
        self.seed_generator = keras.random.SeedGenerator()

    def get_config(self):
        """Returns the arguments that it was made with."""
        return {**super().get_config(), **self.arguments}

    def call(self, inputs, training=False):
        """Returns logits of each piece, given those before."""
        source, target = inputs
        memory = self.encode(source, training=training)
        embedded = self.embedding_dropout(
            self.target_embedding(target), training=training
        )
        embedded = tf.transpose(embedded, (1, 0, 2))[:, :, None]
        steps = tf.shape(embedded)[0]
        tell = tf.TensorArray(self.compute_dtype, steps).unstack(embedded)

        def advance(time, state, readouts):
            before = tell.read(time)
            if training and self.told is not False:
                guess = tf.argmax(self.choose(state.readout), -1)
                draw = keras.random.uniform(tf.shape(guess), seed=self.seed_generator)
                is_told = (time == 0) | (draw < self.told)
                guess = self.embedding_dropout(
                    self.target_embedding(guess), training=training
                )
                before = tf.where(is_told[..., None], before, guess)
            readout, state, _ = self.step(before, state, memory, training)
            return time + 1, state, readouts.write(time, readout[:, 0])

        state = tf.nest.map_structure(lambda s: s[:, None], self.begin(memory))
        _, _, readouts = tf.while_loop(
            lambda time, *_: time < steps,
            advance,
            (0, state, tf.TensorArray(self.compute_dtype, steps)),
        )
        readouts = tf.transpose(readouts.stack(), (1, 0, 2))
        return self.choose(self.dropout(readouts, training=training))

    def encode(self, tokens, padded=True, training=False):
        """Reads sentences.

        Args:
            tokens: Numbers of pieces, int32 `(batch, steps)`.
            padded: Whether zeros at their end are padding. Without, TensorFlow Lite
                runs each direction as one operation.
            training: Whether to apply dropout.

        Returns:
            The `Memory`.
        """
        mask = keras.ops.not_equal(tokens, PADDING) if padded else None
        x = self.source_embedding(tokens)
        x = self.embedding_dropout(x, training=training)
        x = self.encoder(x, mask=mask, training=training)
        x = self.dropout(x, training=training)
        if padded:
            share = keras.ops.cast(mask, x.dtype)[..., None]
            summary = keras.ops.sum(x * share, 1) / keras.ops.sum(share, 1)
        else:
            summary = keras.ops.mean(x, 1)
        keys = x if self.attention is None else self.attention.project_keys(x)
        return Memory(x, keys, summary, mask)

    def begin(self, memory):
        """Returns the `State` before the first step, without its axis of beams."""
        h = self.initial_state(memory.summary)
        nothing = tf.zeros((tf.shape(h)[0], self.readout.units), h.dtype)
        return State(h, tf.zeros_like(h), nothing)

    def step(self, embedded, state, memory, training=False):
        """Writes a piece.

        Args:
            embedded: The embedding of the piece before, `(batch, beams, size)`.
            state: The `State` after it.
            memory: The `Memory` of the sentences.
            training: Whether to train.

        Returns:
            What the piece is to be chosen by, `(batch, beams, embedding_size)`; the
            `State` after this step; and where attention went, `(batch, beams, steps)`,
            which is zero without attention.
        """
        batch, beams, _ = keras.ops.shape(embedded)

        def flat(x):
            return tf.reshape(x, (-1, x.shape[-1]))

        x = tf.concat([embedded, state.readout], -1)
        _, h, c = self.decoder(
            flat(x)[:, None],
            initial_state=(flat(state.h), flat(state.c)),
            training=training,
        )
        h, c = (tf.reshape(s, (batch, beams, s.shape[-1])) for s in (h, c))
        if self.attention is None:
            context = tf.repeat(memory.summary[:, None], beams, 1)
            weights = tf.zeros((batch, beams, tf.shape(memory.values)[1]), h.dtype)
        else:
            context, weights = self.attention(
                [h, memory.values, memory.keys], mask=memory.mask, return_weights=True
            )
        readout = self.readout(tf.concat([h, context], -1))
        return readout, State(h, c, readout), weights

    def choose(self, readouts):
        """Returns logits of the pieces, `(…, target_vocabulary)`."""
        return self.target_embedding(readouts, reverse=True)


class Translator:
    """The model as its users meet it: text in, translations out.

    Its functions `serving_default`, `greedy` and `tensors` are the signatures of the
    exported model.

    Args:
        model: A trained `EncoderDecoder`.
        source_tokenizer: The `Tokenizer` of the language to be read.
        target_tokenizer: The `Tokenizer` of the language to be written.
        beam_size: Hypotheses that a translation keeps.
        length_penalty: The exponent of the length by which they are compared.
        most_words: Words above which a text is translated in parts.
    """

    def __init__(
        self,
        model,
        source_tokenizer,
        target_tokenizer,
        beam_size=5,
        length_penalty=1.0,
        most_words=40,
    ):
        self.model = model
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer
        self.tokenizers = source_tokenizer, target_tokenizer
        self.beam_size = beam_size
        self.length_penalty = length_penalty
        self.patterns = splitting_patterns(most_words)
        vocabularies = {  # One, if they share it.
            tokenizer: tf.constant(["", *tokenizer.vocabulary()[1:]])
            for tokenizer in self.tokenizers
        }
        self.source_vocabulary = vocabularies[source_tokenizer]
        self.target_vocabulary = vocabularies[target_tokenizer]
        self.ruled_out = tf.reduce_sum(
            tf.one_hot(NO_WORDS, len(target_tokenizer), -float("inf"), 0.0), 0
        )
        text = [tf.TensorSpec([None], tf.string, name="text")]
        self.serving_default = tf.function(
            lambda text: self._translate(text), input_signature=text
        )
        self.greedy = tf.function(
            lambda text: self._translate(text, greedy=True), input_signature=text
        )
        self.tensors = tf.function(
            self._tensors,
            input_signature=[tf.TensorSpec([None, None], tf.int32, name="tokens")],
        )

    def predictor(self, signature="serving_default"):
        """Returns a function from texts to named numpy arrays."""
        translate = getattr(self, signature)

        def predict(texts):
            answers = translate(tf.constant(texts))
            return {name: value.numpy() for name, value in answers.items()}

        return predict

    def search(self, tokens, greedy=False):
        """Translates tokenized sentences, `(batch, steps)`, padded with zeros.

        Args:
            tokens: Numbers of pieces.
            greedy: Whether to keep a single hypothesis.

        Returns:
            `search.Hypotheses`, whose trace is where attention went, `(batch, beams,
            target_steps, steps)`.
        """
        memory = self.model.encode(tokens)
        decoder = (
            lambda tokens, state: self.step(tokens, state, memory),
            self.model.begin(memory),
            START,
            END,
            most_steps(tf.reduce_sum(tf.cast(tokens != PADDING, tf.int32), 1)),
        )
        if greedy:
            return greedy_search(*decoder, self.length_penalty)
        return beam_search(*decoder, self.beam_size, self.length_penalty)

    def step(self, tokens, state, memory):
        """Chooses the next pieces, as `search` asks for it.

        Args:
            tokens: The pieces written last, int32 `(batch, beams)`.
            state: The decoder's `State`.
            memory: The `Memory` of the sentences.

        Returns:
            Log-probabilities, `(batch, beams, pieces)`; the next `State`; and where
            attention went, `(batch, beams, steps)`.
        """
        embedded = self.model.target_embedding(tokens)
        readout, state, attention = self.model.step(embedded, state, memory)
        logits = self.model.choose(readout) + self.ruled_out
        return tf.nn.log_softmax(logits), state, attention

    def _tensors(self, tokens):
        """Translates tokenized sentences, `(batch, steps)`, padded with zeros.

        Returns:
            The best hypothesis: `tokens`, `(batch, target_steps)`, padded with zeros;
            `scores`, `(batch,)`; `attention`, `(batch, target_steps, steps)`.
        """
        found = self.search(tokens)
        steps = tf.range(tf.shape(found.tokens)[2])
        is_word = steps < found.lengths[:, 0, None]
        return {
            "tokens": tf.where(is_word, found.tokens[:, 0], PADDING),
            "scores": found.scores[:, 0],
            "attention": tf.where(is_word[..., None], found.trace[:, 0], 0),
        }

    def _translate(self, text, greedy=False):
        """Translates UTF-8 texts of any length, `(batch,)`; long ones in parts.

        Returns:
            `translations`, `(batch,)`; their `scores`, the log-probability over the
            length penalty, in the mean of the parts of a long text; `source_pieces`
            and `pieces`, what was read and written, `(batch, source_steps)` and
            `(batch, steps)`, padded with empty strings; and `attention` between them,
            `(batch, steps, source_steps)`.
        """
        parts = split(text, self.patterns)
        text_of = parts.value_rowids()
        source = self.source_tokenizer(parts.values)
        found = self.search(source.to_tensor(PADDING), greedy)
        # Of nothing the translation is nothing.
        lengths = tf.where(
            source.row_lengths() > 1, tf.cast(found.lengths[:, 0], tf.int64), 0
        )
        is_word = tf.sequence_mask(lengths, tf.shape(found.tokens)[2])
        target = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(found.tokens[:, 0], is_word), lengths, validate=False
        )
        translations = self.target_tokenizer.detokenize(target)
        return {
            "translations": tf.strings.unsorted_segment_join(
                translations, text_of, parts.nrows(), separator=" "
            ),
            "scores": tf.math.segment_mean(found.scores[:, 0], text_of),
            "source_pieces": pieces_of_texts(source, parts, self.source_vocabulary),
            "pieces": pieces_of_texts(target, parts, self.target_vocabulary),
            "attention": attention_of_texts(found.trace[:, 0], source, target, parts),
        }


def alignments(answers):
    """Returns for each text its pieces, those of its translation, and the attention.

    Args:
        answers: `source_pieces`, `pieces` and `attention` of a `Translator`, an
            exported model or a bundle.
    """
    rows = []
    for source, target, attention in zip(
        answers["source_pieces"], answers["pieces"], answers["attention"], strict=True
    ):
        read, written = (source != b"").sum(), (target != b"").sum()
        rows.append(
            (
                [piece.decode() for piece in source[:read]],
                [piece.decode() for piece in target[:written]],
                attention[:written, :read],
            )
        )
    return rows


def most_steps(length):
    """Returns the most pieces of the translation of so many pieces."""
    return 2 * length + 10


def save_tokenizers(tokenizers, folder: Path):
    """Writes the tokenizers of both languages, or the one that they share."""
    for name, tokenizer in zip(
        TOKENIZER_FILES, dict.fromkeys(tokenizers), strict=False
    ):
        runs.write_bytes(folder / name, tokenizer.model)


def load_tokenizers(folder: Path):
    """Returns the tokenizers of both languages, as `save_tokenizers` wrote them."""
    tokenizers = [
        Tokenizer((folder / name).read_bytes())
        for name in TOKENIZER_FILES
        if (folder / name).exists()
    ]
    return tokenizers if len(tokenizers) == 2 else tokenizers * 2


def make_translator(model, tokenizers, config):
    """Returns the `Translator` of a model, its tokenizers and its `Config`."""
    return Translator(
        model, *tokenizers, config.beam_size, config.length_penalty, most_words(config)
    )


def load_translator(run: Path):
    """Returns the best model of a run as a `Translator`."""
    model = keras.saving.load_model(run / "model.keras", compile=False)
    config = runs.load_config(Config, run)
    return make_translator(model, load_tokenizers(run), config)


def load_model(where, signature="serving_default"):
    """Returns the predictor of a model.

    Args:
        where: As `predictors.load_predictor` takes it.
        signature: `serving_default` or `greedy`.
    """
    return load_predictor(
        where, lambda run: load_translator(run).predictor(signature), signature
    )
