"""Speed of the released captioner, as served and on a device.

    python -m benchmarks.image_captioning

It captions scikit-learn's two photographs, one by one. The edge bundle uses two cores.
"""

import os
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

from sklearn.datasets import load_sample_images

from apps.common.images import encode_png
from apps.image_captioning.signatures import load_model
from benchmarks.measure import bundle_start, median_seconds_in_turns

RELEASED = Path("saved_models/image_captioning")


def main():
    """Prints the tables."""
    photographs = list(map(encode_png, load_sample_images().images))
    ways = {
        f"{name}, {search}": load_model(str(RELEASED / folder), signature)
        for name, folder in (("SavedModel", "1"), ("edge bundle", "edge"))
        for search, signature in (("greedy", "greedy"), ("beam", "serving_default"))
    }
    seconds = median_seconds_in_turns(
        [
            lambda ask=ask: [ask([photograph]) for photograph in photographs]
            for ask in ways.values()
        ],
        repetitions=15,
    )
    print(f"  {'':20} {'ms an image':>12} {'time ratio':>10}")
    for name, each in zip(ways, seconds, strict=True):
        milliseconds = 1000 * each / len(photographs)
        print(f"  {name:20} {milliseconds:12.1f} {each / seconds[0]:10.2f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.png")
        path.write_bytes(photographs[0])
        start, megabytes = bundle_start(RELEASED / "edge", path)
    print("Edge bundle, from start to the caption")
    print(f"  {start:.2f} s, {megabytes:.0f} MB resident")


if __name__ == "__main__":
    main()
