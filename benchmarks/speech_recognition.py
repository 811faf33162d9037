"""Speed of the released speech recognizers, as served and on a device.

    python -m benchmarks.speech_recognition

The real-time factor is the time that a recognizer needs, divided by the length of the
recordings. The edge bundle uses one core.
"""

import os
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

from apps.common import audio, datasets
from apps.speech_recognition.config import CONFIGS
from apps.speech_recognition.data import load_split
from apps.speech_recognition.signatures import load_model
from benchmarks.measure import bundle_start, median_seconds_in_turns

RELEASED = {
    "spoken_digits": Path("saved_models/speech_recognition"),
    "an4": Path("saved_models/speech_recognition_an4"),
}
NUM_RECORDINGS = 40


def main():
    """Prints the tables."""
    for preset, released in RELEASED.items():
        config = CONFIGS[preset]()
        if not Path(config.data).exists():
            print(f"{preset}: skipped, there is no {config.data}")
            continue
        examples = datasets.evenly(load_split(config, "test"), NUM_RECORDINGS)
        print_speed(preset, released, examples, config.sampling_rate)


def print_speed(preset, released, examples, rate):
    """Prints the real-time factors, and how long the first answer takes."""
    files = [audio.encode_wav(each, rate) for each in examples.waveforms]
    ways = {
        f"{name}, {search}": load_model(str(released / folder), signature)
        for name, folder in (("SavedModel", "1"), ("edge bundle", "edge"))
        for search, signature in (("greedy", "greedy"), ("beam", "serving_default"))
    }
    seconds = median_seconds_in_turns(
        [lambda ask=ask: [ask([file]) for file in files] for ask in ways.values()],
        repetitions=3,
    )
    total = sum(map(len, examples.waveforms)) / rate
    print(f"{preset}: {len(files)} recordings of {total:.0f} seconds, one by one")
    print(f"  {'':20} {'real-time factor':>16} {'time ratio':>10}")
    for name, each in zip(ways, seconds, strict=True):
        print(f"  {name:20} {each / total:16.4f} {each / seconds[0]:10.2f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "message.wav")
        path.write_bytes(files[0])
        start, megabytes = bundle_start(released / "edge", path)
    print(f"  edge bundle, from start to answer: {start:.2f} s, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
