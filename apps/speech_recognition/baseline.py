"""The baseline: the text of the recording that sounds most alike."""

import itertools

import numpy as np
from sklearn.neighbors import NearestNeighbors

from apps.common import baselines
from apps.speech_recognition.metrics import error_rates

NUM_SPANS = 10  # Of time, whose mean spectra are compared.
NUM_BANDS = 16


def measure(network, splits, run):
    """Finds the nearest recordings, and records and prints the error rates.

    Each recording of a split is given the text of the training recording whose
    spectrogram is nearest, after both are brought to the same length.

    Args:
        network: A `Recognizer`, for its spectrogram.
        splits: The `Examples` by split.
        run: The run directory.

    Returns:
        The record: `name`, and for `validation` and `test` the `wer`, the `cer` and
        the `accuracy`.
    """
    train = splits["train"]
    nearest = NearestNeighbors(n_neighbors=1).fit(features(network, train.waveforms))
    record = {"name": "text of the training recording with the nearest spectrogram"}
    for split in ("validation", "test"):
        examples = splits[split]
        found = nearest.kneighbors(
            features(network, examples.waveforms), return_distance=False
        )
        scores = error_rates(examples.texts, [train.texts[i] for i in found[:, 0]])
        record[split] = {name: scores[name] for name in ("wer", "cer", "accuracy")}
    baselines.write(run, record)
    return record


def features(network, waveforms):
    """Returns the mean spectra of spans of time, float32 `(recordings, features)`."""
    rows = []
    for waveform in waveforms:
        frames = network.spectrogram(waveform[None])[0].numpy()
        frames = frames - frames.mean(axis=0)  # Without the colour of the microphone.
        bands = [
            each.mean(axis=1) for each in np.array_split(frames, NUM_BANDS, axis=1)
        ]
        frames = np.stack(bands, axis=1)
        ends = np.linspace(0, len(frames), NUM_SPANS + 1)
        spans = [
            frames[int(start) : max(int(end), int(start) + 1)].mean(axis=0)
            for start, end in itertools.pairwise(ends)
        ]
        rows.append(np.concatenate(spans))
    return np.stack(rows)
