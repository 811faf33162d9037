"""Log-mel spectrogram of a waveform."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="layers")
class LogMelSpectrogram(keras.layers.Layer):
    """Turns waveforms into the logarithm of their energy in mel frequency bands.

    Each window ends where the hop of its frame ends, and the first ones begin before
    the audio, in silence. So a frame depends on no later audio, the padding of a batch
    changes nothing, and audio that arrives in pieces gives the same frames. TensorFlow
    Lite needs built-in operations only, and never quantizes the energies.

    Args:
        sampling_rate: Samples per second.
        num_mels: Number of bands. Defaults to 64.
        window_seconds: Length of a (Hann) window. Defaults to 0.025.
        hop_seconds: Time between frames. Defaults to 0.01.
        min_hertz: Lower end of the lowest band. Defaults to 60.
        max_hertz: Upper end of the highest band. Defaults to half the sampling rate.
        floor: Added to the energy of each band before the logarithm. A sine of
            amplitude 1 has an energy of about 1. Defaults to 1e-6, which is -60 dB.
        **kwargs: Base layer arguments, such as `name` and `dtype`. Half precision is
            too coarse for energies: the layer computes in float32 and casts its result.

    Call arguments:
        samples: Waveforms from -1 to 1.

    Input shape:
        `(batch, samples)`; both may be unknown. There must be a sample.

    Output shape:
        `(batch, frames, num_mels)`, where `frames = ceil(samples / hop)`.

    Raises:
        ValueError: A number is not positive, the window is shorter than the hop, or
            the bands do not lie between 0 and half the sampling rate.

    Example:

    >>> layers.LogMelSpectrogram(8000)(np.zeros((2, 4000))).shape
    (2, 50, 64)

    Reference:
        [Davis and Mermelstein, 1980](https://doi.org/10.1109/TASSP.1980.1163420)
    """

    def __init__(
        self,
        sampling_rate,
        num_mels=64,
        window_seconds=0.025,
        hop_seconds=0.01,
        min_hertz=60.0,
        max_hertz=None,
        floor=1e-6,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if min(sampling_rate, num_mels, hop_seconds, floor) <= 0:
            raise ValueError(
                "`sampling_rate`, `num_mels`, `hop_seconds` and `floor` must be "
                f"positive. Received: sampling_rate={sampling_rate}, "
                f"num_mels={num_mels}, hop_seconds={hop_seconds}, floor={floor}"
            )
        if window_seconds < hop_seconds:
            raise ValueError(
                "`window_seconds` must be at least `hop_seconds`, so that no audio is "
                f"lost. Received: window_seconds={window_seconds}, "
                f"hop_seconds={hop_seconds}"
            )
        highest = sampling_rate / 2 if max_hertz is None else max_hertz
        if not 0 <= min_hertz < highest <= sampling_rate / 2:
            raise ValueError(
                "The bands must lie between 0 and half the sampling rate, "
                f"{sampling_rate / 2} hertz. Received: min_hertz={min_hertz}, "
                f"max_hertz={max_hertz}"
            )
        self.sampling_rate = sampling_rate
        self.num_mels = num_mels
        self.window_seconds = window_seconds
        self.hop_seconds = hop_seconds
        self.min_hertz = min_hertz
        self.max_hertz = max_hertz
        self.floor = floor
        self.hop = round(sampling_rate * hop_seconds)
        self.window = round(sampling_rate * window_seconds)

    def call(self, samples):
        samples = keras.ops.cast(samples, "float32")
        batch, length = keras.ops.shape(samples)
        frames = self.num_frames(length)
        # Each window ends with its hop, and begins in one of the hops before. Zeros
        # behind the audio complete its last hop.
        num_hops = self.num_frames(self.window)
        padding = (num_hops - 1) * self.hop, frames * self.hop - length
        samples = keras.ops.pad(samples, [[0, 0], padding])
        hops = keras.ops.reshape(samples, (batch, -1, self.hop))
        windows = keras.ops.concatenate(
            [hops[:, i : frames + i] for i in range(num_hops)], axis=-1
        )[..., -self.window :]
        hann = np.hanning(self.window + 1)[:-1]
        # So that a sine of amplitude 1 has power 1 in the nearest bin.
        hann = (2 * hann / hann.sum()).astype("float32")
        real, imaginary = keras.ops.rfft(windows * hann, self._num_points())
        power = keras.ops.square(real) + keras.ops.square(imaginary)
        # TensorFlow Lite quantizes constant matrices, and with them the energies, of
        # which the small ones would vanish. This zero makes the matrix no constant.
        zero = keras.ops.minimum(keras.ops.square(keras.ops.sum(samples[:1, :1])), 0)
        energy = keras.ops.matmul(power, self._bands() + zero)
        return keras.ops.cast(keras.ops.log(energy + self.floor), self.compute_dtype)

    def num_frames(self, num_samples):
        """Returns the number of frames of so many samples, a number or a tensor."""
        return -(-num_samples // self.hop)

    def compute_output_shape(self, input_shape):
        batch, samples = input_shape
        frames = None if samples is None else self.num_frames(samples)
        return (batch, frames, self.num_mels)

    def _num_points(self):
        """Returns the length of the Fourier transform."""
        # Twice as many bins as necessary, so that every low band has one.
        return 2 ** int(np.ceil(np.log2(self.window)) + 1)

    def _frequencies(self):
        """Returns the frequency of each bin, as a fraction of the sampling rate."""
        return np.arange(self._num_points() // 2 + 1) / self._num_points()

    def _bands(self):
        """Returns the triangular weights of the bins, `(bins, num_mels)`."""
        highest = self.sampling_rate / 2 if self.max_hertz is None else self.max_hertz
        ends = _to_mel(np.array([self.min_hertz, highest]))
        mels = np.linspace(*ends, self.num_mels + 2)
        edges = 700 * (10 ** (mels / 2595) - 1)
        lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
        hertz = self._frequencies()[:, None] * self.sampling_rate
        rising = (hertz - lower) / (centre - lower)
        falling = (upper - hertz) / (upper - centre)
        return np.maximum(0, np.minimum(rising, falling)).astype("float32")

    def get_config(self):
        return {
            **super().get_config(),
            "sampling_rate": self.sampling_rate,
            "num_mels": self.num_mels,
            "window_seconds": self.window_seconds,
            "hop_seconds": self.hop_seconds,
            "min_hertz": self.min_hertz,
            "max_hertz": self.max_hertz,
            "floor": self.floor,
        }


def _to_mel(hertz):
    return 2595 * np.log10(1 + hertz / 700)
