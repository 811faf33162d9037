"""The network: a log-mel front end, convolutions, LSTMs, and two ways to write."""

import keras
import tensorflow as tf

import layers
from apps.common.decoder import (
    AttentionDecoder,
    Memory,
    SmoothedCrossEntropy,
    make_embedding,
)

FRAMES, BANDS = 9, 5  # What a convolution sees of the spectrogram.
MOMENTUM = 0.95  # Of the moving averages: small data sets have few training steps.


@keras.saving.register_keras_serializable(package="speech_recognition")
class Recognizer(keras.Model):
    """Encodes waveforms, and writes tokens by CTC or with an attention decoder.

    The encoder has a log-mel spectrogram, two convolutions and LSTMs. A dense layer
    gives the logits of tokens at every frame, for CTC. An `AttentionDecoder` is trained
    together with CTC, which teaches the encoder where the tokens are.

    Args:
        num_tokens: Number of different token ids. Id 0 is the blank of CTC; for the
            attention decoder it is the start and the end.
        sampling_rate: Samples per second.
        num_mels: Bands of the spectrogram.
        subsampling: Factor between the frames of the spectrogram, of 10 ms, and those
            of the logits: 1, 2 or 4.
        filters: Filters of the convolutions.
        units: Units of each LSTM, in each direction.
        num_layers: Number of LSTMs.
        dropout: Dropout before each LSTM and before the logits.
        streaming: If True, the LSTMs read forwards only, so that the logits of a frame
            depend on no later audio.
        num_time_masks: Time masks of SpecAugment.
        num_frequency_masks: Frequency masks of SpecAugment.
        decoder: `ctc` or `attention`.
        decoder_units: Units of the attention decoder, of its attention and of its
            embeddings.
        ctc_weight: Weight of the CTC loss beside the loss of the attention decoder.
        label_smoothing: Of the labels of the attention decoder.
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Waveforms from -1 to 1, float32 `(batch, samples)`, padded with zeros at
            the end; and the number of samples of each, int32 `(batch,)`.
        training: Whether to apply dropout and SpecAugment.

    Output shape:
        `(batch, frames, size)`, the encoded frames, for `classify` and `remember`.

    Reference:
        [Graves et al., 2006](https://doi.org/10.1145/1143844.1143891);
        [Amodei et al., 2016](https://arxiv.org/abs/1512.02595);
        [Chan et al., 2016](https://arxiv.org/abs/1508.01211), attention;
        [Kim et al., 2017](https://arxiv.org/abs/1609.06773), both losses
    """

    def __init__(
        self,
        *,
        num_tokens,
        sampling_rate,
        num_mels,
        subsampling,
        filters,
        units,
        num_layers,
        dropout,
        streaming,
        num_time_masks,
        num_frequency_masks,
        decoder,
        decoder_units,
        ctc_weight,
        label_smoothing,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.arguments = {
            "num_tokens": num_tokens,
            "sampling_rate": sampling_rate,
            "num_mels": num_mels,
            "subsampling": subsampling,
            "filters": filters,
            "units": units,
            "num_layers": num_layers,
            "dropout": dropout,
            "streaming": streaming,
            "num_time_masks": num_time_masks,
            "num_frequency_masks": num_frequency_masks,
            "decoder": decoder,
            "decoder_units": decoder_units,
            "ctc_weight": ctc_weight,
            "label_smoothing": label_smoothing,
        }
        self.subsampling = subsampling
        self.spectrogram = layers.LogMelSpectrogram(sampling_rate, num_mels)
        self.normalization = keras.layers.BatchNormalization(
            momentum=MOMENTUM, scale=False, center=False
        )
        self.spec_augment = layers.SpecAugment(
            num_time_masks, num_frequency_masks=num_frequency_masks
        )
        self.convolutions = []
        for i in range(2):
            stride = 2 if subsampling >= 2 ** (i + 1) else 1
            self.convolutions.append(
                keras.Sequential(
                    [
                        keras.layers.ZeroPadding2D((0, BANDS // 2)),
                        keras.layers.Conv2D(
                            filters, (FRAMES, BANDS), (stride, 2), use_bias=False
                        ),
                        keras.layers.BatchNormalization(momentum=MOMENTUM),
                        keras.layers.ReLU(),
                    ]
                )
            )
        self.dropouts = [keras.layers.Dropout(dropout) for _ in range(num_layers + 1)]
        self.recurrences = []
        for _ in range(num_layers):
            # On the device, an LSTM that streams keeps its state between calls.
            recurrence = layers.LSTM(
                units, return_sequences=True, lite_reset=not streaming
            )
            if not streaming:
                recurrence = keras.layers.Bidirectional(recurrence)
            self.recurrences.append(recurrence)
        self.classifier = keras.layers.Dense(num_tokens, dtype="float32")
        self.decoder, self.ctc_weight = None, 1.0
        if decoder == "attention":
            self.decoder = AttentionDecoder(
                make_embedding(num_tokens, decoder_units),
                units=decoder_units,
                attention="additive",
                attention_units=decoder_units,
                embedding_dropout=dropout,
                dropout=dropout,
            )
            self.ctc_weight = ctc_weight
            self.cross_entropy = SmoothedCrossEntropy(label_smoothing=label_smoothing)

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), **self.arguments}

    def build(self, input_shape=None):
        """Creates all weights, whichever input the model is called with first."""
        num_samples = 2 * self.subsampling * self.spectrogram.hop  # Two frames.
        lengths = keras.ops.full((1,), num_samples, "int32")
        encoded = self.encode(keras.ops.zeros((1, num_samples)), lengths)
        self.classify(encoded)
        if self.decoder:
            memory = self.remember(encoded, lengths)
            self.decoder(keras.ops.zeros((1, 1), "int32"), memory)

    def call(self, inputs, training=False):
        """Returns the encoded frames."""
        return self.encode(*inputs, training=training)

    def encode(self, samples, num_samples=None, training=False):
        """Returns the outputs of the last LSTM, `(batch, frames, size)`.

        Args:
            samples: Waveforms, `(batch, samples)`.
            num_samples: Number of samples of each, `(batch,)`. None if there is no
                padding; then TensorFlow Lite runs each LSTM as one fused operation.
            training: Whether to apply dropout and SpecAugment.
        """
        x, mask = self.spectrogram(samples), None
        if num_samples is not None:
            num_frames = self.spectrogram.num_frames(num_samples)
            mask = keras.ops.arange(keras.ops.shape(x)[1]) < num_frames[:, None]
        x = self.normalization(x, training=training, mask=mask)
        if mask is not None:
            # The statistics of a training batch are those of audio, not of padding.
            x *= keras.ops.cast(mask, x.dtype)[..., None]
        x = self.spec_augment(x, training=training)
        x, _ = self._convolve(x, self._silence(keras.ops.shape(x)[0]), training)
        mask = self.mask(keras.ops.shape(x)[1], num_samples)
        return self._recur(x, mask, training)

    def listen(self, samples, past_samples, *past_frames):
        """Encodes the next piece of a recording; only if the model is streaming.

        The state of the LSTMs is that of the layers, which only TensorFlow Lite keeps
        between calls.

        Args:
            samples: The piece, `(batch, samples)`: a multiple of `chunk_samples`.
            past_samples: The samples before, as `first_context` has them at the start.
            *past_frames: What each convolution has seen last, likewise.

        Returns:
            The encoded frames, `(batch, frames, size)`, and the context of the next
            piece: a list of `past_samples` and `past_frames`.
        """
        samples = keras.ops.concatenate([past_samples, samples], axis=1)
        x = self.spectrogram(samples)[:, self._past_hops() :]
        x, past_frames = self._convolve(self.normalization(x), past_frames)
        past_samples = samples[:, -past_samples.shape[1] :]
        return self._recur(x), [past_samples, *past_frames]

    def first_context(self):
        """Returns the context before a recording, for `listen`: silence."""
        past_samples = keras.ops.zeros((1, self._past_hops() * self.spectrogram.hop))
        return [past_samples, *self._silence(1)]

    @property
    def chunk_samples(self):
        """The samples of each encoded frame."""
        return self.subsampling * self.spectrogram.hop

    def _past_hops(self):
        """Returns the number of hops that the first window of a piece begins before."""
        return -(-self.spectrogram.window // self.spectrogram.hop) - 1

    def _silence(self, batch):
        """Returns what the convolutions have seen before a recording: zeros."""
        bands = self.spectrogram.num_mels
        shapes = (
            (batch, FRAMES - 1, bands, 1),
            (batch, FRAMES - 1, -(-bands // 2), self.arguments["filters"]),
        )
        return [keras.ops.zeros(shape, self.compute_dtype) for shape in shapes]

    def _convolve(self, x, past_frames, training=False):
        """Applies the convolutions, which see no later frames.

        Args:
            x: Normalized spectrograms, `(batch, frames, bands)`.
            past_frames: The last input frames of each convolution before.
            training: Whether batch normalization uses the batch.

        Returns:
            Features, `(batch, frames, size)`, and the last input frames of each
            convolution.
        """
        x, last = keras.ops.expand_dims(x, -1), []
        for convolution, past in zip(self.convolutions, past_frames, strict=True):
            x = keras.ops.concatenate([past, x], axis=1)
            last.append(x[:, 1 - FRAMES :])
            x = convolution(x, training=training)
        batch, _, bands, filters = keras.ops.shape(x)
        # TensorFlow Lite fuses LSTMs whose batch is known.
        return keras.ops.reshape(x, (batch, -1, bands * filters)), last

    def _recur(self, x, mask=None, training=False):
        """Applies the LSTMs to features, `(batch, frames, size)`."""
        for dropout, recurrence in zip(self.dropouts, self.recurrences, strict=False):
            x = recurrence(dropout(x, training=training), mask=mask, training=training)
        return x

    def classify(self, encoded, training=False):
        """Returns the logits of encoded frames."""
        return self.classifier(self.dropouts[-1](encoded, training=training))

    def remember(
        self, encoded: tf.Tensor, num_samples: tf.Tensor | None = None
    ) -> Memory:
        """Returns encoded frames as the attention decoder reads them."""
        mask = self.mask(keras.ops.shape(encoded)[1], num_samples)
        return self.decoder.remember(encoded, mask)

    def mask(self, frames, num_samples):
        """Returns the padding mask, `(batch, frames)`, or None without padding."""
        if num_samples is None:
            return None
        return keras.ops.arange(frames) < self.num_frames(num_samples)[:, None]

    def num_frames(self, num_samples):
        """Returns the number of frames of so many samples, a number or a tensor."""
        return -(-self.spectrogram.num_frames(num_samples) // self.subsampling)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Returns the loss, per token.

        Args:
            x: As the call takes it.
            y: Token ids, int32 `(batch, tokens)`, padded with 0.
            y_pred: The encoded frames.
            sample_weight: Ignored.
            training: Whether to apply dropout.
        """
        num_tokens = keras.ops.sum(keras.ops.cast(y != 0, "int32"), axis=1)
        logits = self.classify(y_pred, training)
        loss = ctc_loss(y, num_tokens, logits, self.num_frames(x[1]))
        if not self.decoder:
            return loss
        labels = tf.pad(y, [[0, 0], [0, 1]])  # The end follows the last token.
        weights = tf.sequence_mask(num_tokens + 1, tf.shape(labels)[1], tf.float32)
        logits = self.decoder(
            tf.pad(y, [[0, 0], [1, 0]]), self.remember(y_pred, x[1]), training=training
        )
        attention_loss = self.cross_entropy(labels, logits, weights)
        return self.ctc_weight * loss + (1 - self.ctc_weight) * attention_loss


def ctc_loss(token_ids, num_tokens, logits, num_frames):
    """Returns the CTC loss of a batch, per token.

    Args:
        token_ids: int32 `(batch, tokens)`, padded with the blank, 0.
        num_tokens: Number of tokens of each row, int32 `(batch,)`.
        logits: `(batch, frames, num_tokens)`.
        num_frames: Number of frames of each row, int32 `(batch,)`. A row with too few
            frames for its tokens counts as 0.
    """
    labels = tf.sparse.from_dense(token_ids)
    # The loss for sparse labels is several times as fast. Its blank is the last token.
    losses = tf.compat.v1.nn.ctc_loss(
        labels.with_values(labels.values - 1),
        tf.roll(logits, -1, axis=-1),
        num_frames,
        ignore_longer_outputs_than_inputs=True,
        time_major=False,
    )
    losses = tf.where(tf.math.is_finite(losses), losses, 0.0)
    total = tf.maximum(tf.reduce_sum(num_tokens), 1)
    return tf.reduce_sum(losses) / tf.cast(total, losses.dtype)
