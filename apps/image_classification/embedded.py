"""The built-in data set: scikit-learn's handwritten digits."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def digits() -> tuple[list[bytes], np.ndarray, tuple[str, ...]]:
    """Returns 1,797 digits of 8×8 pixels as PNG files, their labels and class names.

    Reference:
        [UCI Optical Recognition of Handwritten Digits](https://doi.org/10.24432/C50P49)
    """
    data = load_digits()

    def encode(pixels):
        file = io.BytesIO()
        Image.fromarray((pixels * (255 / 16)).round().astype("uint8")).save(file, "PNG")
        return file.getvalue()

    class_names = tuple(str(name) for name in data.target_names)
    return [encode(pixels) for pixels in data.images], data.target, class_names
