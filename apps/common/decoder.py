"""An LSTM decoder with attention, which writes tokens about anything encoded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

import layers
from apps.common.text import PADDING


class Memory(NamedTuple):
    """What a decoder reads: encoded sentences, recordings or images.

    Attributes:
        values: The encoder's outputs, `(batch, steps, size)`.
        keys: The values as attention compares them, `(batch, steps, …)`.
        summary: The mean of the values, `(batch, size)`.
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


class AttentionDecoder(keras.layers.Layer):
    """An LSTM decoder with attention, input feeding and tied embeddings.

    At each step the LSTM reads the embedding of the previous token and the previous
    readout (input feeding). Its output is the query of the attention over the encoded
    values. The readout is a dense layer of that output and of the context. The logits
    are the products of the readout with all embeddings.

    Args:
        embedding: The `keras.layers.ReversibleEmbedding` of the tokens.
        units: Units of the LSTM.
        attention: `additive` (Bahdanau), `multiplicative` (Luong) or `none`, where the
            context is the mean of the values.
        attention_units: Units of additive attention.
        embedding_dropout: Dropout of the embeddings.
        dropout: Dropout of the readouts.
        scheduled_sampling: Whether training replaces some tokens by the decoder's own
            predictions. The variable `teacher_forcing_rate` is the fraction of tokens
            that are kept; it starts at 1. Defaults to False.
        has_gate: Whether a gate, a number from 0 to 1 computed from the LSTM's output,
            scales the context of each step. Defaults to False.
        attention_penalty: Weight of a loss that training adds: the mean over all values
            of `(1 - a) ** 2`, where `a` is the sum of a value's attention weights over
            all tokens. It keeps the decoder from ignoring values. Defaults to 0.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        token_ids: The tokens before each step, int32 `(batch, steps)`.
        memory: The `Memory` to read.
        training: Whether to apply dropout and scheduled sampling.

    Output shape:
        `(batch, steps, vocabulary_size)`, logits of the next token.

    Reference:
        [Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473);
        [Luong et al., 2015](https://arxiv.org/abs/1508.04025), input feeding;
        [Press & Wolf, 2017](https://arxiv.org/abs/1608.05859), tied embeddings;
        [Bengio et al., 2015](https://arxiv.org/abs/1506.03099), scheduled sampling;
        [Xu et al., 2015](https://arxiv.org/abs/1502.03044), sections 4.2 and 4.2.1, the
        gate and the penalty (doubly stochastic attention)
    """

    def __init__(
        self,
        embedding,
        *,
        units,
        attention,
        attention_units,
        embedding_dropout,
        dropout,
        scheduled_sampling=False,
        has_gate=False,
        attention_penalty=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embedding = embedding
        self.embedding_dropout = keras.layers.Dropout(embedding_dropout)
        self.dropout = keras.layers.Dropout(dropout)
        self.bridge = keras.layers.Dense(units, "tanh")
        self.lstm = layers.LSTM(units, return_state=True)
        self.attention = None
        if attention == "additive":
            self.attention = layers.AdditiveAttention(attention_units)
        elif attention == "multiplicative":
            self.attention = layers.MultiplicativeAttention("general")
        self.gate = keras.layers.Dense(1, "sigmoid") if has_gate else None
        self.attention_penalty = attention_penalty
        self.readout = keras.layers.Dense(embedding.output_dim, "tanh")
        self.teacher_forcing_rate = None
        if scheduled_sampling:
            self.teacher_forcing_rate = self.add_weight(
                initializer="ones", trainable=False, name="teacher_forcing_rate"
            )
        self.seed_generator = keras.random.SeedGenerator()

    def remember(self, values: tf.Tensor, mask: tf.Tensor | None = None) -> Memory:
        """Prepares encoded values for the decoder.

        Args:
            values: The encoder's outputs, `(batch, steps, size)`.
            mask: The padding mask, `(batch, steps)`; None without padding.

        Returns:
            The `Memory`.
        """
        if mask is None:
            summary = keras.ops.mean(values, 1)
        else:
            weights = keras.ops.cast(mask, values.dtype)[..., None]
            length = keras.ops.maximum(keras.ops.sum(weights, 1), 1)
            summary = keras.ops.sum(values * weights, 1) / length
        keys = values
        if self.attention is not None:
            keys = self.attention.project_keys(values)
        return Memory(values, keys, summary, mask)

    def call(
        self, token_ids: tf.Tensor, memory: Memory, training: bool = False
    ) -> tf.Tensor:
        """Returns the logits of the next token at every step."""
        embeddings = tf.transpose(self.embed(token_ids, training), (1, 0, 2))
        steps = tf.shape(embeddings)[0]
        embeddings = tf.TensorArray(self.compute_dtype, steps).unstack(
            embeddings[:, :, None]
        )

        is_token = tf.cast(token_ids != PADDING, self.compute_dtype)

        def advance(time, state, readouts, attended):
            previous = embeddings.read(time)
            if training and self.teacher_forcing_rate is not None:
                predicted_ids = tf.argmax(self.logits(state.readout), -1)
                predicted = self.embed(predicted_ids, training)
                draw = keras.random.uniform(
                    tf.shape(predicted_ids), seed=self.seed_generator
                )
                is_forced = (time == 0) | (draw < self.teacher_forcing_rate)
                previous = tf.where(is_forced[..., None], previous, predicted)
            readout, state, weights = self.decode(previous, state, memory, training)
            attended += weights[:, 0] * is_token[:, time, None]
            return time + 1, state, readouts.write(time, readout[:, 0]), attended

        state = tf.nest.map_structure(
            lambda value: value[:, None], self.initial_state(memory)
        )
        attended = tf.zeros(tf.shape(memory.values)[:2], self.compute_dtype)
        _, _, readouts, attended = tf.while_loop(
            lambda time, *_: time < steps,
            advance,
            (0, state, tf.TensorArray(self.compute_dtype, steps), attended),
        )
        if training and self.attention is not None and self.attention_penalty:
            is_missed = tf.square(1 - attended)
            self.add_loss(self.attention_penalty * tf.reduce_mean(is_missed))
        readouts = tf.transpose(readouts.stack(), (1, 0, 2))
        return self.logits(self.dropout(readouts, training=training))

    def embed(self, token_ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the embeddings of tokens, with dropout in training."""
        return self.embedding_dropout(self.embedding(token_ids), training=training)

    def initial_state(self, memory: Memory) -> State:
        """Returns the `State` before the first step, its tensors without beams."""
        h = self.bridge(memory.summary)
        readout = tf.zeros((tf.shape(h)[0], self.readout.units), h.dtype)
        return State(h, tf.zeros_like(h), readout)

    def decode(
        self,
        embeddings: tf.Tensor,
        state: State,
        memory: Memory,
        training: bool = False,
    ) -> tuple[tf.Tensor, State, tf.Tensor]:
        """Computes one step of the decoder.

        Args:
            embeddings: Embeddings of the previous tokens, `(batch, beams, size)`.
            state: The `State` before this step.
            memory: The `Memory` to read.
            training: Whether this is training.

        Returns:
            The readouts, `(batch, beams, embedding_size)`; the next `State`; and the
            attention weights, `(batch, beams, steps)`, zeros without attention.
        """
        batch, beams, _ = keras.ops.shape(embeddings)

        def merge_beams(x):
            return tf.reshape(x, (-1, x.shape[-1]))

        x = tf.concat([embeddings, state.readout], -1)
        _, h, c = self.lstm(
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
        if self.gate is not None:
            context *= self.gate(h)
        readout = self.readout(tf.concat([h, context], -1))
        return readout, State(h, c, readout), weights

    def logits(self, readouts: tf.Tensor) -> tf.Tensor:
        """Returns the logits of all tokens, `(…, vocabulary_size)`."""
        return self.embedding(readouts, reverse=True)

    def step(
        self, token_ids: tf.Tensor, state: State, memory: Memory, bias: Any = 0.0
    ) -> tuple[tf.Tensor, State, tf.Tensor]:
        """Computes one step of a search, as `search` describes it.

        Args:
            token_ids: The last tokens, int32 `(batch, beams)`.
            state: The `State`.
            memory: The `Memory` to read.
            bias: Added to the logits: −inf for tokens that are never written. Defaults
                to 0.

        Returns:
            Log-probabilities, `(batch, beams, vocabulary_size)`; the next `State`; and
            the attention weights, `(batch, beams, steps)`.
        """
        readout, state, attention = self.decode(self.embed(token_ids), state, memory)
        return tf.nn.log_softmax(self.logits(readout) + bias), state, attention


def make_embedding(vocabulary_size: int, size: int) -> keras.layers.Layer:
    """Returns a token embedding that also gives logits."""
    return keras.layers.ReversibleEmbedding(
        vocabulary_size,
        size,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=size**-0.5),
    )


def device_signatures(
    encode: Callable[[tf.Tensor], Memory],
    input_signature: tf.TensorSpec,
    decoder: AttentionDecoder,
    bias: Any,
    beam_size: int,
) -> dict[str, Any]:
    """Returns the functions that a device calls, for one input at a time.

    Args:
        encode: A function from the input to the `Memory`.
        input_signature: The `tf.TensorSpec` of its input.
        decoder: The `AttentionDecoder`.
        bias: As for `AttentionDecoder.step`.
        beam_size: Number of candidates of each step.

    Returns:
        `encode`: from the input to the memory and the initial state of the decoder.
        `decode`: from these and the last `token_ids`, `(1, beams)`, to the next state,
        the most probable next `token_ids` and their `log_probs`,
        `(1, beams, candidates)`, and `attention`, `(1, beams, steps)`.
    """

    def encode_input(value):
        memory = encode(value)
        state = decoder.initial_state(memory)
        return {
            **{name: value[:, None] for name, value in state._asdict().items()},
            **{name: getattr(memory, name) for name in ("values", "keys", "summary")},
        }

    def decode(token_ids, h, c, readout, values, keys, summary):
        state, memory = State(h, c, readout), Memory(values, keys, summary, None)
        log_probs, state, attention = decoder.step(token_ids, state, memory, bias)
        log_probs, token_ids = tf.math.top_k(log_probs, beam_size)
        return {
            **state._asdict(),
            "log_probs": log_probs,
            "token_ids": token_ids,
            "attention": attention,
        }

    encode_function = tf.function(encode_input, input_signature=[input_signature])
    encoded = encode_function.get_concrete_function().structured_outputs
    # All but `summary` have a variable number of beams or of steps.
    inputs = [
        tf.TensorSpec([1, None, *value.shape[2:]], name=name)
        if len(value.shape) > 2
        else tf.TensorSpec(value.shape, name=name)
        for name, value in encoded.items()
    ]
    token_ids = tf.TensorSpec([1, None], tf.int32, name="token_ids")
    return {
        "encode": encode_function,
        "decode": tf.function(decode, input_signature=[token_ids, *inputs]),
    }


class SmoothedCrossEntropy(keras.losses.Loss):
    """Label-smoothed cross-entropy, averaged over all tokens with their weights.

    Args:
        label_smoothing: Fraction of each label that is spread over the vocabulary.
        reduction: As for `keras.losses.Loss`. Defaults to the mean, weighted by the
            sample weights.
    """

    def __init__(self, *, label_smoothing, reduction="mean_with_sample_weight"):
        super().__init__("loss", reduction=reduction)
        self.label_smoothing = label_smoothing

    def call(self, token_ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the loss of each token, `(batch, steps)`."""
        one_hot = keras.ops.one_hot(
            keras.ops.cast(token_ids, "int32"), logits.shape[-1], dtype=logits.dtype
        )
        return keras.losses.categorical_crossentropy(
            one_hot, logits, from_logits=True, label_smoothing=self.label_smoothing
        )


class TeacherForcing(keras.callbacks.Callback):
    """Lowers the teacher forcing rate of a model's `decoder` linearly from 1.

    Args:
        last_rate: The rate in the last epoch.
        epochs: The number of epochs.
    """

    def __init__(self, last_rate, epochs):
        super().__init__()
        self.last_rate = last_rate
        self.epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Sets the rate of this epoch."""
        progress = epoch / max(1, self.epochs - 1)
        rate = 1 - (1 - self.last_rate) * progress
        self.model.decoder.teacher_forcing_rate.assign(rate)
