"""The network: a log-mel front end, convolutions and bidirectional LSTMs."""

import keras
import tensorflow as tf

import layers

KERNEL = 3  # Frames and bands that a convolution sees.


@keras.saving.register_keras_serializable(package="speech_recognition")
class Recognizer(keras.Model):
    """Waveforms to the logits of tokens at every frame, trained by CTC.

    Args:
        num_tokens: Number of different token ids. Id 0 is the blank of CTC.
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
        **kwargs: Arguments of `keras.Model`.

    Call arguments:
        inputs: Waveforms from -1 to 1, float32 `(batch, samples)`, padded with zeros at
            the end; and the number of samples of each, int32 `(batch,)`.
        training: Whether to apply dropout and SpecAugment.

    Output shape:
        `(batch, frames, num_tokens)`.

    Reference:
        [Graves et al., 2006](https://doi.org/10.1145/1143844.1143891);
        [Amodei et al., 2016](https://arxiv.org/abs/1512.02595)
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
        }
        self.subsampling = subsampling
        self.spectrogram = layers.LogMelSpectrogram(sampling_rate, num_mels)
        self.normalization = keras.layers.BatchNormalization(scale=False, center=False)
        self.spec_augment = layers.SpecAugment(
            num_time_masks, num_frequency_masks=num_frequency_masks
        )
        self.convolutions = []
        for i in range(2):
            stride = 2 if subsampling >= 2 ** (i + 1) else 1
            self.convolutions += [
                # No frame sees later ones, and the padding of a batch changes nothing.
                keras.layers.ZeroPadding2D(((KERNEL - 1, 0), (1, 1))),
                keras.layers.Conv2D(filters, KERNEL, (stride, 2), use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
            ]
        self.dropouts = [keras.layers.Dropout(dropout) for _ in range(num_layers + 1)]
        self.recurrences = []
        for _ in range(num_layers):
            recurrence = layers.LSTM(units, return_sequences=True)
            if not streaming:
                recurrence = keras.layers.Bidirectional(recurrence)
            self.recurrences.append(recurrence)
        self.classifier = keras.layers.Dense(num_tokens, dtype="float32")

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), **self.arguments}

    def build_from_config(self, config):
        """Creates the weights, so that a saved model can be loaded."""
        self([keras.ops.zeros((1, 1)), keras.ops.ones((1,), "int32")])

    def call(self, inputs, training=False):
        """Returns the logits of every frame."""
        samples, num_samples = inputs
        return self.classify(self.encode(samples, num_samples, training), training)

    def encode(self, samples, num_samples=None, training=False):
        """Returns the outputs of the last LSTM, `(batch, frames, size)`.

        Args:
            samples: Waveforms, `(batch, samples)`.
            num_samples: Number of samples of each, `(batch,)`. None if there is no
                padding; then TensorFlow Lite runs each LSTM as one fused operation.
            training: Whether to apply dropout and SpecAugment.
        """
        x = self.normalization(self.spectrogram(samples), training=training)
        x = self.spec_augment(x, training=training)
        x = keras.ops.expand_dims(x, -1)
        for layer in self.convolutions:
            x = layer(x, training=training) if _is_normalization(layer) else layer(x)
        _, frames, bands, filters = keras.ops.shape(x)
        x = keras.ops.reshape(x, (-1, frames, bands * filters))
        mask = None
        if num_samples is not None:
            mask = keras.ops.arange(frames) < self.num_frames(num_samples)[:, None]
        for dropout, recurrence in zip(self.dropouts, self.recurrences, strict=False):
            x = recurrence(dropout(x, training=training), mask=mask, training=training)
        return x

    def classify(self, encoded, training=False):
        """Returns the logits of encoded frames."""
        return self.classifier(self.dropouts[-1](encoded, training=training))

    def num_frames(self, num_samples):
        """Returns the number of frames of so many samples, a number or a tensor."""
        return -(-self.spectrogram.num_frames(num_samples) // self.subsampling)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """Returns the CTC loss, per token.

        Args:
            x: As the call takes it.
            y: Token ids, int32 `(batch, tokens)`, padded with the blank, 0.
            y_pred: The logits.
            sample_weight: Ignored.
            **kwargs: Ignored.
        """
        num_tokens = keras.ops.sum(keras.ops.cast(y != 0, "int32"), axis=1)
        losses = tf.nn.ctc_loss(
            y,
            y_pred,
            num_tokens,
            self.num_frames(x[1]),
            logits_time_major=False,
            blank_index=0,
        )
        total = keras.ops.maximum(keras.ops.sum(num_tokens), 1)
        return keras.ops.sum(losses) / keras.ops.cast(total, losses.dtype)


def _is_normalization(layer):
    return isinstance(layer, keras.layers.BatchNormalization)
