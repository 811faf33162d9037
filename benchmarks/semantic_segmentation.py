"""Time and memory of the dense CRF, compared with its C++ reference.

    pip install -e '.[benchmark]'
    python -m benchmarks.semantic_segmentation

The reference is pydensecrf. It gets the same scores, images and parameters in the same
run. The times include building the lattice. They are medians and depend on the machine;
the ratios hold on other machines too.
"""

import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import pydensecrf.densecrf as reference
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

import layers
from benchmarks.measure import (
    bundle_start,
    made_up_photograph,
    median_seconds,
    run_and_measure,
)

CLASSES = 12
SETTINGS = {
    "iterations": 10,
    "appearance_weight": 4.0,
    "position_sigma": 80.0,
    "color_sigma": 13.0,
    "smoothness_weight": 3.0,
    "smoothness_sigma": 3.0,
}
SIZES = ((120, 90), (240, 180), (480, 360), (960, 720))
EDGE = Path("saved_models/semantic_segmentation/edge")


def example(photograph, width, height):
    """Returns an image and smooth random scores, as confident as a network's."""
    image = Image.fromarray(photograph).resize((width, height))
    coarse = np.random.default_rng(0).uniform(0, 25, (CLASSES, 9, 12)).astype("float32")
    scores = [
        Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)
        for each in coarse
    ]
    return np.array(image), np.stack([np.array(each) for each in scores], axis=-1)


def our_marginals(image, scores):
    """Returns a function that refines the scores with `layers.DenseCRF`."""
    crf = layers.DenseCRF(**SETTINGS)
    inputs = [tf.constant(scores[None]), tf.constant(image[None].astype("float32"))]
    crf.build([each.shape for each in inputs])
    refine = tf.function(lambda inputs: tf.nn.softmax(crf(inputs)))
    return lambda: refine(inputs)[0].numpy()


def reference_marginals(image, scores):
    """Returns a function that refines the scores with pydensecrf."""
    height, width, _ = image.shape
    energies = np.ascontiguousarray(-scores.reshape(-1, CLASSES).T)

    def infer():
        crf = reference.DenseCRF2D(width, height, CLASSES)
        crf.setUnaryEnergy(energies)
        crf.addPairwiseGaussian(
            sxy=SETTINGS["smoothness_sigma"], compat=SETTINGS["smoothness_weight"]
        )
        crf.addPairwiseBilateral(
            sxy=SETTINGS["position_sigma"],
            srgb=SETTINGS["color_sigma"],
            rgbim=image,
            compat=SETTINGS["appearance_weight"],
        )
        marginals = np.array(crf.inference(SETTINGS["iterations"]))
        return marginals.T.reshape(height, width, CLASSES)

    return infer


def memory():
    """Returns peak megabytes of a process without and with the CRF at 480×360."""
    prepare = (
        "from benchmarks import semantic_segmentation as benchmark\n"
        "photographs = benchmark.load_sample_images().images\n"
        "arguments = benchmark.example(photographs[0], 480, 360)\n"
    )
    _, without_crf = run_and_measure(prepare)
    _, with_crf = run_and_measure(prepare + "benchmark.our_marginals(*arguments)()\n")
    return without_crf, with_crf


def main():
    """Prints the results."""
    print(f"DenseCRF, {CLASSES} classes, {SETTINGS['iterations']} iterations")
    print("  photograph      size      ours  reference  ratio  µs/pixel  equal labels")
    photographs = load_sample_images()
    for name, photograph in zip(photographs.filenames, photographs.images, strict=True):
        for width, height in SIZES:
            arguments = example(photograph, width, height)
            ours, theirs = our_marginals(*arguments), reference_marginals(*arguments)
            # They take turns, so that noise of the machine affects both.
            rounds = [
                (median_seconds(ours, 1), median_seconds(theirs, 1)) for _ in range(5)
            ]
            our_seconds, their_seconds = np.median(rounds, axis=0)
            ratio = np.median([a / b for a, b in rounds])
            equal = (ours().argmax(-1) == theirs().argmax(-1)).mean()
            print(
                f"  {Path(name).stem:10}  {width:4}×{height:<4}"
                f" {1000 * our_seconds:5.0f} ms   {1000 * their_seconds:5.0f} ms"
                f"   {ratio:4.2f}   {1e6 * our_seconds / (width * height):8.2f}"
                f"   {100 * equal:9.2f} %"
            )
    without_crf, with_crf = memory()
    print(
        f"Peak memory at 480×360: {with_crf:.0f} MB, "
        f"of which TensorFlow {without_crf:.0f} MB"
    )

    for flags in ((), ("--crf",)):
        with made_up_photograph() as photo:
            seconds, megabytes = bundle_start(EDGE, photo, *flags)
        print(
            f"{' '.join(['Edge bundle', *flags])}, from start to answer for 640×480: "
            f"{seconds:.2f} s, peak memory {megabytes:.0f} MB"
        )


if __name__ == "__main__":
    main()
