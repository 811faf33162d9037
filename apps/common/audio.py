"""Audio: files of any kind while training, WAV files inside a served graph."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from apps.common import limits
from apps.common.errors import BadInput

# Sampling rates that a served graph reads.
MIN_RATE, MAX_RATE = 4_000, 192_000
MAX_CHANNELS = 32
# The resampling filter: zero crossings on either side, and the cutoff as a fraction of
# the lower Nyquist frequency. It is flat to 0.92 and lets nothing pass from 1.0 on.
ZERO_CROSSINGS = 64
CUTOFF = 0.96
KAISER_BETA = 9.0
# The filter is applied to blocks of at least so many samples.
MIN_BLOCK = 400
RATE_STEP = 25  # Hertz.

# Encodings of WAV files: format code and bits of a sample.
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
ENCODINGS = ((PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64))
MAX_CHUNKS = 100
# What may be wrong with a WAV file.
NO_WAV = "this is no WAV file; send RIFF WAV with PCM or floats"
OTHER_ENCODING = "the WAV file is compressed; send PCM of 8 to 32 bits, or floats"
OTHER_CHANNELS = f"the WAV file must have 1 to {MAX_CHANNELS} channels"
OTHER_RATE = f"the sampling rate must be from {MIN_RATE} to {MAX_RATE} hertz"
NO_SAMPLES = "the WAV file has no samples"


def read_audio(path: Path, rate: int) -> np.ndarray:
    """Reads a WAV, FLAC, OGG or MP3 file.

    Args:
        path: The file. Its content counts, not its name.
        rate: The sampling rate of the result, in hertz.

    Returns:
        The mean of all channels, float32 `(samples,)`, mostly from -1 to 1.

    Raises:
        BadInput: There is no such file, or it cannot be decoded.
    """
    import soundfile  # Not needed to serve.

    with _reading(path):
        samples, found_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return change_rate(samples.mean(axis=1), found_rate, rate)


def read_seconds(path: Path) -> float:
    """Returns the length of a recording, read from its header.

    Raises:
        BadInput: As for `read_audio`.
    """
    import soundfile

    with _reading(path):
        return soundfile.info(path).duration


def read_pieces(
    path: Path, rate: int, max_seconds: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Reads a long recording in pieces, each cut where the recording is quiet.

    Args:
        path: As for `read_audio`.
        rate: The sampling rate of the pieces.
        max_seconds: The longest piece.

    Yields:
        The start of each piece in seconds, and its samples, float32 `(samples,)`.

    Raises:
        BadInput: As for `read_audio`.
    """
    import soundfile

    with _reading(path), soundfile.SoundFile(path) as file:
        found_rate = file.samplerate
        most = round(max_seconds * found_rate)
        left, start = np.zeros(0, "float32"), 0
        while True:
            samples = file.read(most - len(left), dtype="float32", always_2d=True)
            left = np.concatenate([left, samples.mean(axis=1)])
            if not len(left):
                return
            is_last = len(left) < most
            end = len(left) if is_last else _quiet_place(left, found_rate)
            yield start / found_rate, change_rate(left[:end], found_rate, rate)
            left, start = left[end:], start + end


def _quiet_place(samples, rate):
    """Returns the quietest place in the second half of samples."""
    size = max(1, rate // 10)
    half = len(samples) // 2
    windows = samples[half:][: (len(samples) - half) // size * size].reshape(-1, size)
    quietest = np.argmin(np.square(windows).mean(axis=1))
    return half + int(quietest) * size + size // 2


@contextlib.contextmanager
def _reading(path):
    """Turns the errors of reading a file into `BadInput`."""
    import soundfile

    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    try:
        yield
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadInput(
            f"{path} cannot be read as audio ({error}); pass WAV, FLAC, OGG or MP3"
        ) from error


def encode_wav(samples: np.ndarray, rate: int) -> bytes:
    """Returns a waveform, `(samples,)`, as a WAV file of floats."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, "FLOAT", format="WAV")
    return file.getvalue()


def change_rate(samples: np.ndarray, rate: int, to_rate: int) -> np.ndarray:
    """Returns samples at another sampling rate; the same ones if it is the same."""
    import soxr

    return soxr.resample(samples, rate, to_rate) if rate != to_rate else samples


def decode_wav(
    wav: tf.Tensor, max_seconds: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes a WAV file inside a graph.

    PCM of 8, 16, 24 and 32 bits and floats of 32 and 64 bits are read, with any number
    of channels. Sizes in the header are not trusted.

    Args:
        wav: The file, a scalar string.
        max_seconds: Longer files are refused, before they are decoded.

    Returns:
        The mean of the channels, float32 `(samples,)`, from -1 to 1; the sampling rate,
        an int32 scalar; and what is wrong with the file, a string, empty if nothing.
        Of a bad file the samples are one zero.
    """
    format_start, data_start, data_size = _find_chunks(wav)
    header = _pad(tf.strings.substr(wav, tf.maximum(format_start, 0), 26), 26)
    code, channels = _number(header, 0, 2), _number(header, 2, 2)
    rate, bits = _number(header, 4, 4), _number(header, 14, 2)
    code = tf.where(code == EXTENSIBLE, _number(header, 24, 2), code)
    is_encoding = tf.stack(
        [(code == each) & (bits == width) for each, width in ENCODINGS]
    )
    frame_size = tf.maximum(channels * bits // 8, 1)
    num_frames = data_size // frame_size
    checks = (
        ((format_start < 0) | (data_start < 0), NO_WAV),
        (~tf.reduce_any(is_encoding), OTHER_ENCODING),
        ((channels < 1) | (channels > MAX_CHANNELS), OTHER_CHANNELS),
        ((rate < MIN_RATE) | (rate > MAX_RATE), OTHER_RATE),
        (num_frames < 1, NO_SAMPLES),
        (
            tf.cast(num_frames, tf.float32) > max_seconds * tf.cast(rate, tf.float32),
            f"the audio is longer than {max_seconds:g} seconds; send it in pieces",
        ),
    )
    error = limits.first_error(*((is_bad[None], text) for is_bad, text in checks))[0]
    is_good = error == ""

    def decode():
        data = tf.strings.substr(wav, data_start, num_frames * frame_size)
        samples = tf.switch_case(
            tf.argmax(tf.cast(is_encoding, tf.int32), output_type=tf.int32),
            [functools.partial(_decode, data, *each) for each in ENCODINGS],
        )
        mono = tf.reduce_mean(tf.reshape(samples, [-1, channels]), axis=1)
        # Floats may be anything.
        mono = tf.where(tf.math.is_finite(mono), mono, 0)
        return tf.clip_by_value(mono, -1, 1)

    samples = tf.cond(is_good, decode, lambda: tf.zeros([1]))
    return samples, tf.where(is_good, rate, MIN_RATE), error


def _find_chunks(wav):
    """Finds the chunks of a RIFF file.

    Returns:
        Where the format and the data begin, -1 without them; and the size of the data.
    """
    size = tf.strings.length(wav)
    is_riff = (size >= 12) & (tf.strings.substr(wav, 0, 4) == "RIFF")
    is_riff &= tf.strings.substr(_pad(wav, 12), 8, 4) == "WAVE"

    def goes_on(start, format_start, data_start, data_size):
        return is_riff & (start + 8 <= size) & (data_start < 0)

    def read(start, format_start, data_start, data_size):
        name = tf.strings.substr(wav, start, 4)
        # Files that were streamed state a size of 0xFFFFFFFF.
        length = tf.minimum(_number(wav, start + 4, 4), size - start - 8)
        is_data = name == "data"
        return (
            start + 8 + length + length % 2,
            tf.where((name == "fmt ") & (length >= 16), start + 8, format_start),
            tf.where(is_data, start + 8, data_start),
            tf.where(is_data, length, data_size),
        )

    start = tf.constant(12)
    _, *found = tf.while_loop(
        goes_on, read, (start, -1, -1, 0), maximum_iterations=MAX_CHUNKS
    )
    return found


def _pad(text, length):
    """Returns a string, padded with zero bytes to a length or longer."""
    return tf.strings.join([text, b"\0" * length])


def _number(text, start, size):
    """Returns a little-endian number of some bytes; int32, at most the largest one."""
    digits = tf.io.decode_raw(tf.strings.substr(text, start, size), tf.uint8)
    places = tf.constant([256**i for i in range(size)], tf.int64)
    number = tf.reduce_sum(tf.cast(digits, tf.int64) * places)
    return tf.cast(tf.minimum(number, tf.int32.max), tf.int32)


def _decode(data, code, bits):
    """Returns samples from -1 to 1 of one encoding, float32."""
    if code == FLOAT:
        kind = {32: tf.float32, 64: tf.float64}[bits]
        return tf.cast(tf.io.decode_raw(data, kind), tf.float32)
    if bits == 8:  # Without sign.
        return tf.cast(tf.io.decode_raw(data, tf.uint8), tf.float32) / 128 - 1
    if bits == 24:
        low, middle, high = tf.unstack(
            tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, 3]), axis=1
        )
        high = tf.bitcast(high, tf.int8)
        number = sum(
            tf.cast(each, tf.int32) * scale
            for each, scale in ((low, 1), (middle, 1 << 8), (high, 1 << 16))
        )
    else:
        number = tf.io.decode_raw(data, {16: tf.int16, 32: tf.int32}[bits])
    return tf.cast(number, tf.float32) / 2.0 ** (bits - 1)


def resample(samples: tf.Tensor, rate: tf.Tensor, to_rate: int) -> tf.Tensor:
    """Changes the sampling rate inside a graph.

    The filter is a sinc function with a Kaiser window. The new samples of every block
    lie at the same positions between the old ones, so that the filter is one matrix.

    Args:
        samples: float32 `(samples,)`.
        rate: Their sampling rate in hertz, an int32 scalar. It is rounded to a multiple
            of `RATE_STEP`, as all usual rates are.
        to_rate: The new rate, a multiple of `RATE_STEP`.

    Returns:
        float32 `(n,)`, with `n = ceil(samples * to_rate / rate)`.

    Reference:
        [Smith and Gossett, 1984](https://doi.org/10.1109/ICASSP.1984.1172555)
    """
    return tf.cond(
        rate == to_rate, lambda: samples, lambda: _resample(samples, rate, to_rate)
    )


def _resample(samples, rate, to_rate):
    # Usual rates are multiples of RATE_STEP; others are changed by 0.3 % at most.
    rate = tf.cast(tf.round(rate / RATE_STEP), tf.int32) * RATE_STEP
    divisor = _greatest_common_divisor(rate, to_rate)
    # A block of `num_old` samples becomes one of `num_new`.
    num_old, num_new = rate // divisor, to_rate // divisor
    repeat = -(-MIN_BLOCK // num_old)
    num_old, num_new = num_old * repeat, num_new * repeat

    ratio = tf.cast(num_old / num_new, tf.float32)
    cutoff = CUTOFF * tf.minimum(1.0, 1 / ratio)  # 1 is the Nyquist frequency.
    reach = ZERO_CROSSINGS / cutoff
    margin = tf.cast(tf.math.ceil(reach), tf.int32)
    length = num_old + 2 * margin
    new = tf.range(num_new)[:, None] * num_old / num_new  # float64
    old = tf.range(-margin, num_old + margin)[None]
    distance = tf.cast(tf.cast(old, tf.float64) - new, tf.float32)
    window = tf.math.bessel_i0(
        KAISER_BETA * tf.sqrt(tf.maximum(1 - tf.square(distance / reach), 0))
    )
    window = tf.where(tf.abs(distance) < reach, window, 0)
    angle = np.pi * cutoff * distance
    weights = cutoff * tf.math.divide_no_nan(tf.sin(angle), angle)
    weights = tf.where(angle == 0, cutoff, weights)
    weights *= window / tf.math.bessel_i0(KAISER_BETA)

    num_samples = tf.shape(samples)[0]
    num_blocks = -(-num_samples // num_old)
    end = num_blocks * num_old + margin - num_samples
    frames = tf.signal.frame(tf.pad(samples, [[margin, end]]), length, num_old)
    resampled = tf.reshape(tf.matmul(frames, weights, transpose_b=True), [-1])
    # The product may be more than an int32.
    product = tf.cast(num_samples, tf.int64) * tf.cast(num_new, tf.int64)
    num_resampled = -(-product // tf.cast(num_old, tf.int64))
    return resampled[:num_resampled]


def _greatest_common_divisor(one, other):
    """Returns the greatest common divisor of two positive int32 scalars."""
    divisor, _ = tf.while_loop(
        lambda one, other: other > 0,
        lambda one, other: (other, one % other),
        (tf.convert_to_tensor(one), tf.convert_to_tensor(other)),
    )
    return divisor
