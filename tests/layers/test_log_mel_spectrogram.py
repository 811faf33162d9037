import numpy as np
import pytest
import tensorflow as tf

from layers import LogMelSpectrogram
from tests.layers.layer_contract import check_layer

RNG = np.random.default_rng(0)


def test_contract(tmp_path):
    check_layer(
        LogMelSpectrogram,
        {"sampling_rate": 8_000, "num_mels": 20, "floor": 1e-3},
        (2, 850),
        (2, 11, 20),
        tmp_path,
    )


def reference(samples, rate, window, hop, num_mels, low, floor):
    """Computes each frame by a sum over its samples, and each band by its triangle."""
    size = 2 ** int(np.ceil(np.log2(window)) + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = -(-len(samples) // hop)
    padded = np.zeros(frames * hop + window - hop)
    padded[window - hop :][: len(samples)] = samples
    mels = np.linspace(
        1127 * np.log(1 + low / 700), 1127 * np.log(1 + rate / 2 / 700), num_mels + 2
    )
    edges = 700 * np.expm1(mels / 1127)
    bands = np.zeros((frames, num_mels))
    for t in range(frames):
        power = np.abs(np.fft.rfft(padded[t * hop :][:window] * hann, size)) ** 2
        power *= (2 / hann.sum()) ** 2
        for band in range(num_mels):
            points = edges[band : band + 3]
            weights = np.interp(
                np.arange(size // 2 + 1) * rate / size, points, [0, 1, 0]
            )
            bands[t, band] = np.log(weights @ power + floor)
    return bands


def test_it_agrees_with_a_fourier_transform():
    samples = RNG.uniform(-1, 1, 1_234)
    layer = LogMelSpectrogram(8_000, num_mels=24, min_hertz=100)
    expected = reference(samples, 8_000, 200, 80, 24, 100, 1e-6)
    np.testing.assert_allclose(layer(samples[None])[0], expected, atol=1e-3)


def test_a_sine_has_the_energy_of_its_band():
    t = np.arange(8_000) / 8_000
    layer = LogMelSpectrogram(8_000, num_mels=16)
    frames = layer(np.sin(2 * np.pi * 1_000 * t)[None])[0].numpy()
    assert 0 < frames[50].max() < 1.5
    assert (frames[50:60].argmax(axis=1) == frames[50].argmax()).all()
    assert frames[50, -1] < -10


def test_padding_and_pieces_change_nothing():
    layer = LogMelSpectrogram(8_000)
    samples = RNG.uniform(-1, 1, (1, 2_000)).astype("float32")
    whole = layer(samples).numpy()
    assert whole.shape == (1, 25, 64)
    longer = layer(np.pad(samples, [(0, 0), (0, 3_000)])).numpy()
    np.testing.assert_allclose(longer[:, :25], whole, atol=1e-4)
    # A piece needs the samples before it that its first window covers.
    piece = layer(samples[:, 800 - 160 :]).numpy()
    np.testing.assert_allclose(piece[:, 2:], whole[:, 10:], atol=1e-4)


@pytest.mark.parametrize("num_samples", [1, 80, 81])
def test_short_audio(num_samples):
    layer = LogMelSpectrogram(8_000)
    run = tf.function(layer, input_signature=[tf.TensorSpec([None, None])])
    frames = run(tf.zeros([1, num_samples]))
    assert frames.shape == (1, -(-num_samples // 80), 64)
    np.testing.assert_allclose(frames, np.log(1e-6), rtol=1e-5)


def test_every_band_has_a_frequency():
    for rate, num_mels in ((8_000, 64), (16_000, 80), (16_000, 128)):
        assert LogMelSpectrogram(rate, num_mels)._bands().sum(axis=0).min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_rate": 0}, "must be positive"),
        ({"num_mels": 0}, "must be positive"),
        ({"window_seconds": 0.005}, "at least `hop_seconds`"),
        ({"max_hertz": 5_000}, "between 0 and half the sampling rate, 4000.0"),
        ({"min_hertz": 3_000, "max_hertz": 2_000}, "between 0 and half"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogMelSpectrogram(**{"sampling_rate": 8_000, **arguments})
