import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
import tensorflow as tf

from apps.common import audio
from apps.common.errors import BadInput

RNG = np.random.default_rng(0)
DECODE = tf.function(
    lambda wav: audio.decode_wav(wav, max_seconds=2.0),
    input_signature=[tf.TensorSpec([], tf.string)],
)


def write(samples, rate, subtype, kind="WAV"):
    """Returns an audio file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def sweep(rate, seconds, highest):
    """Returns a sine whose frequency rises from 0 to the highest."""
    t = np.arange(round(rate * seconds)) / rate
    wave = 0.5 * np.sin(np.pi * highest * t**2 / seconds)
    return wave.astype("float32")


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
)
def test_wav_files_are_decoded_as_soundfile_does(subtype, kind):
    wav = write(RNG.uniform(-0.9, 0.9, (1000, 2)), 22_050, subtype, kind)
    samples, rate, error = DECODE(wav)
    expected, _ = soundfile.read(io.BytesIO(wav), dtype="float32")
    np.testing.assert_allclose(samples, expected.mean(axis=1), atol=1e-7)
    assert (rate.numpy(), error.numpy()) == (22_050, b"")


def test_other_chunks_and_untrue_sizes_do_not_matter():
    wav = write(RNG.uniform(-0.9, 0.9, 100), 8_000, "PCM_16")
    expected = DECODE(wav)[0]
    start = wav.index(b"data")
    streamed = wav[: start + 4] + b"\xff\xff\xff\xff" + wav[start + 8 :]
    np.testing.assert_array_equal(DECODE(streamed)[0], expected)
    # A chunk with an odd size is followed by a byte of padding.
    more = wav[:start] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + wav[start:]
    np.testing.assert_array_equal(DECODE(more)[0], expected)
    np.testing.assert_array_equal(DECODE(wav[:-51])[0], expected[:74])


def test_floats_that_are_no_samples_are_removed():
    wav = write(np.zeros(4), 8_000, "FLOAT")
    start = wav.index(b"data") + 8
    numbers = np.array([np.nan, np.inf, -7, 0.5], "<f4")
    samples, _, error = DECODE(wav[:start] + numbers.tobytes())
    assert samples.numpy().tolist() == [0, 0, -1, 0.5]
    assert not error.numpy()


WAV = write(np.zeros(100), 8_000, "PCM_16")


@pytest.mark.parametrize(
    ("wav", "message"),
    [
        (b"", "no WAV file"),
        (b"RIFF", "no WAV file"),
        (b"ID3" * 30, "no WAV file"),
        (WAV[:8] + b"WAVX" + WAV[12:], "no WAV file"),
        (WAV[:40], "no WAV file"),
        (WAV[:20] + b"\x07" + WAV[21:], "is compressed"),
        (WAV[:34] + b"\x0c" + WAV[35:], "is compressed"),
        (WAV[:22] + b"\0" + WAV[23:], "1 to 32 channels"),
        (WAV[:22] + b"\x30" + WAV[23:], "1 to 32 channels"),
        (WAV[:24] + b"\x01\0\0\0" + WAV[28:], "from 4000 to 192000 hertz"),
        (WAV[:24] + b"\xff\xff\xff\xff" + WAV[28:], "from 4000 to 192000 hertz"),
        (write(np.zeros(0), 8_000, "PCM_16"), "has no samples"),
        (write(np.zeros(16_001), 8_000, "PCM_16"), "longer than 2 seconds"),
        (write(np.zeros(100), 8_000, "ULAW"), "is compressed"),
    ],
)
def test_bad_files_are_named(wav, message):
    samples, rate, error = DECODE(wav)
    assert message in error.numpy().decode()
    assert samples.numpy().tolist() == [0]
    assert rate.numpy() == audio.MIN_RATE


@pytest.mark.parametrize("to_rate", [8_000, 16_000])
@pytest.mark.parametrize("rate", [4_000, 11_025, 12_000, 44_100, 48_000, 192_000])
def test_resampling_agrees_with_soxr(rate, to_rate):
    resample = tf.function(
        lambda samples, rate: audio.resample(samples, rate, to_rate),
        input_signature=[tf.TensorSpec([None]), tf.TensorSpec([], tf.int32)],
    )
    samples = sweep(rate, 1.0, 0.9 * min(rate, to_rate) / 2)
    found = resample(samples, rate).numpy()
    assert len(found) == to_rate
    expected = soxr.resample(samples, rate, to_rate, "VHQ")
    inside = slice(200, -200)  # The ends depend on what is assumed beyond.
    error = np.std(found[inside] - expected[inside]) / np.std(expected[inside])
    assert 20 * np.log10(error) < -60


def test_resampling_removes_what_the_new_rate_cannot_hold():
    t = np.arange(48_000) / 48_000
    high = np.sin(2 * np.pi * 4_200 * t).astype("float32")
    found = audio.resample(tf.constant(high), tf.constant(48_000), 8_000)
    assert np.abs(found[200:-200]).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 7_993, 48_000])
def test_few_samples_are_resampled(rate):
    for number in (1, 2, 401):
        found = audio.resample(tf.ones([number]), tf.constant(rate), 8_000)
        assert len(found) == -(-number * 8_000 // (round(rate / 25) * 25))
        assert np.isfinite(found).all()


def test_the_same_rate_changes_nothing():
    samples = tf.constant(RNG.normal(size=100), tf.float32)
    found = audio.resample(samples, tf.constant(8_000), 8_000)
    np.testing.assert_array_equal(found, samples)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_of_any_kind_are_read(tmp_path, kind):
    samples = sweep(44_100, 1.0, 3_000)
    path = tmp_path / "a.wav"  # The name does not matter.
    path.write_bytes(write(np.stack([samples, 0 * samples], 1), 44_100, None, kind))
    found = audio.read_audio(path, 8_000)
    assert found.dtype == np.float32
    expected = soxr.resample(samples / 2, 44_100, 8_000)
    if kind in ("WAV", "FLAC"):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found).max() == pytest.approx(0.25, abs=0.05)


def test_files_that_are_no_audio_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"there is no file .*a\.wav"):
        audio.read_audio(tmp_path / "a.wav", 8_000)
    (tmp_path / "a.wav").write_bytes(b"abc")
    with pytest.raises(BadInput, match=r"a\.wav cannot be read as audio \(.*pass WAV"):
        audio.read_audio(tmp_path / "a.wav", 8_000)


def test_long_recordings_are_read_in_pieces(tmp_path):
    loud = sweep(16_000, 10.0, 3_000)
    quiet = {3.25, 7.05}
    for second in quiet:
        loud[round((second - 0.1) * 16_000) : round((second + 0.1) * 16_000)] = 0
    path = tmp_path / "long.flac"
    path.write_bytes(write(loud, 16_000, None, "FLAC"))
    pieces = list(audio.read_pieces(path, 16_000, 4.0))
    starts = [start for start, _ in pieces]
    assert [round(start, 1) for start in starts] == [0, 3.2, 7.0]
    joined = np.concatenate([samples for _, samples in pieces])
    np.testing.assert_allclose(joined, loud, atol=1e-4)
    halved = list(audio.read_pieces(path, 8_000, 4.0))
    assert [start for start, _ in halved] == starts
    assert len(halved[0][1]) == round(starts[1] * 8_000)
    with pytest.raises(BadInput, match="there is no file"):
        next(audio.read_pieces(tmp_path / "none.wav", 8_000, 4.0))


def test_long_recordings_have_their_whole_length():
    """The number of samples times the new ones of a block is more than an int32."""
    num_samples, rate = 4_000_000, 99_975
    assert num_samples * 640 > 2**31  # 25 divides both rates.
    resampled = audio.resample(tf.zeros([num_samples]), tf.constant(rate), 16_000)
    assert len(resampled) == -(-num_samples * 16_000 // rate)


def test_the_length_is_read_from_the_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(12_000), 8_000)
    assert audio.read_seconds(tmp_path / "a.wav") == pytest.approx(1.5)
    (tmp_path / "b.wav").write_text("no audio")
    with pytest.raises(BadInput, match=r"b\.wav cannot be read as audio"):
        audio.read_seconds(tmp_path / "b.wav")
