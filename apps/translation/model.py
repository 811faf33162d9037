"""The network: an LSTM encoder and an LSTM decoder with attention."""

from typing import NamedTuple

import keras
import tensorflow as tf

import layers
from apps.common.text import PADDING


class Memory(NamedTuple):
    """The encoded source sentences.

    Attributes:
        values: The encoder's outputs, `(batch, steps, 2 * encoder_units)`.
        keys: The values as attention compares them, `(batch, steps, …)`.
        summary: The mean of the values, `(batch, 2 * encoder_units)`.
        mask: The padding mask, `(batch, steps)`; None without padding.
    """

    values: tf.Tensor
    keys: tf.Tensor
    summary: tf.Tensor
    mask: tf.Tensor | None


class State(NamedTuple):
    """The decoder's state between steps, each tensor `(batch, beams, size)`.

    Attributes:
        h: The output of the LSTM.
        c: The cell of the LSTM.
        readout: The vector that the last logits were computed from.
    """

    h: tf.Tensor
    c: tf.Tensor
    readout: tf.Tensor


@keras.saving.register_keras_serializable(package="translation")
class EncoderDecoder(keras.Model):
    """An LSTM encoder-decoder with attention, input feeding and tied embeddings.

    At each step the decoder's LSTM reads the embedding of the previous token and the
    previous readout (input feeding). Its output is the query of the attention over the
    encoded source. The readout is a dense layer of that output and of the context. The
    logits are the products of the readout with all target embeddings.

    Args:
        source_vocabulary_size: Size of the source vocabulary.
        target_vocabulary_size: Size of the target vocabulary. None if both languages
            share one vocabulary and its embedding.
        embedding_size: Size of the token embeddings.
        encoder_units: Units of the encoder, in each direction.
        decoder_units: Units of the decoder.
        attention: `additive` (Bahdanau), `multiplicative` (Luong) or `none`, where the
            context is the mean of the encoder's outputs.
        attention_units: Units of additive attention.
        embedding_dropout: Dropout of the embeddings.
        dropout: Dropout of the encoder's outputs and of the readouts.
        scheduled_sampling: Whether training replaces some target tokens by the
            decoder's own predictions. The variable `teacher_forcing_rate` is the
            fraction of tokens that are kept; it starts at 1.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Source token ids, int32 `(batch, source_steps)`, padded with zeros at
            the end, and the target token ids before each step, int32 `(batch, steps)`,
            which begin with `START`.
        training: Whether to apply dropout and scheduled sampling.

    Output shape:
        `(batch, steps, target_vocabulary_size)`, logits of the next token.

    Reference:
        [Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473);
        [Luong et al., 2015](https://arxiv.org/abs/1508.04025), input feeding;
        [Press & Wolf, 2017](https://arxiv.org/abs/1608.05859), tied embeddings;
        [Bengio et al., 2015](https://arxiv.org/abs/1506.03099), scheduled sampling
    """

    def __init__(
        self,
        *,
        source_vocabulary_size,
        target_vocabulary_size,
        embedding_size,
        encoder_units,
        decoder_units,
        attention,
        attention_units,
        embedding_dropout,
        dropout,
        scheduled_sampling,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.arguments = {
            "source_vocabulary_size": source_vocabulary_size,
            "target_vocabulary_size": target_vocabulary_size,
            "embedding_size": embedding_size,
            "encoder_units": encoder_units,
            "decoder_units": decoder_units,
            "attention": attention,
            "attention_units": attention_units,
            "embedding_dropout": embedding_dropout,
            "dropout": dropout,
            "scheduled_sampling": scheduled_sampling,
        }
        normal = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)

        def embedding(vocabulary_size):
            return keras.layers.ReversibleEmbedding(
                vocabulary_size, embedding_size, embeddings_initializer=normal
            )

        self.source_embedding = embedding(source_vocabulary_size)
        self.target_embedding = self.source_embedding
        if target_vocabulary_size:
            self.target_embedding = embedding(target_vocabulary_size)
        self.embedding_dropout = keras.layers.Dropout(embedding_dropout)
        self.dropout = keras.layers.Dropout(dropout)
        self.encoder = keras.layers.Bidirectional(
            layers.LSTM(encoder_units, return_sequences=True)
        )
        self.bridge = keras.layers.Dense(decoder_units, "tanh")
        self.decoder = layers.LSTM(decoder_units, return_state=True)
        self.attention = None
        if attention == "additive":
            self.attention = layers.AdditiveAttention(attention_units)
        elif attention == "multiplicative":
            self.attention = layers.MultiplicativeAttention("general")
        self.readout = keras.layers.Dense(embedding_size, "tanh")
        self.teacher_forcing_rate = None
        if scheduled_sampling:
            self.teacher_forcing_rate = self.add_weight(
                initializer="ones", trainable=False, name="teacher_forcing_rate"
            )
        self.seed_generator = keras.random.SeedGenerator()

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), **self.arguments}

    def call(self, inputs, training=False):
        """Returns the logits of the next token at every step."""
        source_ids, target_ids = inputs
        memory = self.encode(source_ids, training=training)
        targets = self.embed_target(target_ids, training)
        targets = tf.transpose(targets, (1, 0, 2))[:, :, None]
        steps = tf.shape(targets)[0]
        targets = tf.TensorArray(self.compute_dtype, steps).unstack(targets)

        def advance(time, state, readouts):
            previous = targets.read(time)
            if training and self.teacher_forcing_rate is not None:
                predicted_ids = tf.argmax(self.logits(state.readout), -1)
                predicted = self.embed_target(predicted_ids, training)
                draw = keras.random.uniform(
                    tf.shape(predicted_ids), seed=self.seed_generator
                )
                is_forced = (time == 0) | (draw < self.teacher_forcing_rate)
                previous = tf.where(is_forced[..., None], previous, predicted)
            readout, state, _ = self.decode(previous, state, memory, training)
            return time + 1, state, readouts.write(time, readout[:, 0])

        state = tf.nest.map_structure(
            lambda value: value[:, None], self.initial_state(memory)
        )
        _, _, readouts = tf.while_loop(
            lambda time, *_: time < steps,
            advance,
            (0, state, tf.TensorArray(self.compute_dtype, steps)),
        )
        readouts = tf.transpose(readouts.stack(), (1, 0, 2))
        return self.logits(self.dropout(readouts, training=training))

    def embed_target(self, token_ids, training=False):
        """Returns the embeddings of target tokens, with dropout in training."""
        embeddings = self.target_embedding(token_ids)
        return self.embedding_dropout(embeddings, training=training)

    def encode(self, token_ids, has_padding=True, training=False):
        """Encodes source sentences.

        Args:
            token_ids: int32 `(batch, steps)`.
            has_padding: Whether zeros at the end are padding. If False, TensorFlow Lite
                runs each direction of the LSTM as one fused operation.
            training: Whether to apply dropout.

        Returns:
            The `Memory`.
        """
        mask = keras.ops.not_equal(token_ids, PADDING) if has_padding else None
        x = self.source_embedding(token_ids)
        x = self.embedding_dropout(x, training=training)
        x = self.encoder(x, mask=mask, training=training)
        x = self.dropout(x, training=training)
        if has_padding:
            weights = keras.ops.cast(mask, x.dtype)[..., None]
            length = keras.ops.maximum(keras.ops.sum(weights, 1), 1)
            summary = keras.ops.sum(x * weights, 1) / length
        else:
            summary = keras.ops.mean(x, 1)
        keys = x if self.attention is None else self.attention.project_keys(x)
        return Memory(x, keys, summary, mask)

    def initial_state(self, memory):
        """Returns the `State` before the first step, its tensors without beams."""
        h = self.bridge(memory.summary)
        readout = tf.zeros((tf.shape(h)[0], self.readout.units), h.dtype)
        return State(h, tf.zeros_like(h), readout)

    def decode(self, embeddings, state, memory, training=False):
        """Computes one step of the decoder.

        Args:
            embeddings: Embeddings of the previous tokens, `(batch, beams, size)`.
            state: The `State` before this step.
            memory: The `Memory` of the sentences.
            training: Whether this is training.

        Returns:
            The readouts, `(batch, beams, embedding_size)`; the next `State`; and the
            attention weights, `(batch, beams, steps)`, zeros without attention.
        """
        batch, beams, _ = keras.ops.shape(embeddings)

        def merge_beams(x):
            return tf.reshape(x, (-1, x.shape[-1]))

        x = tf.concat([embeddings, state.readout], -1)
        _, h, c = self.decoder(
            merge_beams(x)[:, None],
            initial_state=(merge_beams(state.h), merge_beams(state.c)),
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

    def logits(self, readouts):
        """Returns the logits of all target tokens, `(…, vocabulary)`."""
        return self.target_embedding(readouts, reverse=True)


class SmoothedCrossEntropy(keras.losses.Loss):
    """Label-smoothed cross-entropy, averaged over all tokens with their weights.

    Args:
        label_smoothing: Fraction of each label that is spread over the vocabulary.
    """

    def __init__(self, *, label_smoothing):
        super().__init__("loss", reduction="mean_with_sample_weight")
        self.label_smoothing = label_smoothing

    def call(self, token_ids, logits):
        """Returns the loss of each token, `(batch, steps)`."""
        one_hot = keras.ops.one_hot(
            keras.ops.cast(token_ids, "int32"), logits.shape[-1], dtype=logits.dtype
        )
        return keras.losses.categorical_crossentropy(
            one_hot, logits, from_logits=True, label_smoothing=self.label_smoothing
        )
