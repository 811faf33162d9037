"""The networks: mapping, generator, discriminators and encoder."""

import keras
import numpy as np

import layers
from apps.common import feature_maps

# The lowest resolution has this many times the filters of the highest.
MAX_WIDENING = 8
LOWEST_RESOLUTION = 4
SLOPE = 0.2  # Of leaky ReLUs at negative numbers.
MOMENTUM = 0.9  # Of the statistics of batch normalization.
# Of the discriminator.
ENCODER = "EfficientNetLite0"
ENLARGEMENT = 2  # Of the images that the encoder sees.
CHANNELS = {4: 64, 8: 128, 16: 256, 32: 256}  # By stride of the encoder.


def build_mapping(latent_size, num_values):
    """Returns a network from noise and attributes to latent vectors.

    Each value of an attribute moves the noise by a learned vector; without attributes
    the noise is the latent vector.

    Args:
        latent_size: Size of the noise and of the latent vectors.
        num_values: Number of the values of all attributes, or 0.
    """
    noise = keras.Input((latent_size,), name="noise")
    values = keras.Input((num_values,), name="values")
    shift = keras.layers.Dense(latent_size, use_bias=False, name="shift")
    latents = keras.layers.Add()([noise, shift(values)]) if num_values else noise
    return keras.Model([noise, values], latents, name="mapping")


def build_generator(image_size, latent_size, filters):
    """Returns a network from latent vectors to images from −1 to 1.

    A dense layer makes feature maps of 4 × 4 places, and a convolution follows each
    doubling of the resolution. Batch normalization keeps the images of a batch apart.
    Spectral normalization keeps the kernels from growing, which would slow down their
    learning.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the latent vectors.
        filters: Filters at the full resolution.

    Reference:
        [Liu et al., 2021](https://arxiv.org/abs/2101.04775)
    """
    latents = keras.Input((latent_size,), name="latents")
    size, *sizes = _resolutions(image_size)
    channels = _channels(size, image_size, filters)
    x = keras.layers.Dense(size * size * 2 * channels, use_bias=False, name="start")
    x = keras.layers.Reshape((size, size, 2 * channels))(x(latents))
    x = _gate(x, "start")
    for size in sizes:
        channels = _channels(size, image_size, filters)
        x = keras.layers.UpSampling2D()(x)
        convolution = keras.layers.Conv2D(
            2 * channels, 3, padding="same", use_bias=False
        )
        x = keras.layers.SpectralNormalization(convolution, name=f"{size}")(x)
        x = _gate(x, f"{size}")
    image = keras.layers.Conv2D(3, 3, padding="same", activation="tanh", name="image")
    return keras.Model(latents, image(x), name="generator")


def build_discriminator(image_size, num_values):
    """Returns a network from images and attributes to scores.

    Small networks score the feature maps of an EfficientNetLite0 that is not trained.
    Random convolutions mix the channels, and each map with those of larger strides, so
    that no score depends on a few features only. The scores also depend on how much the
    images of the batch differ; otherwise a generator draws few faces again and again.

    Args:
        image_size: Height and width of the images.
        num_values: Number of the values of all attributes, or 0.

    Reference:
        [Sauer et al., 2021](https://arxiv.org/abs/2111.01007);
        [Karras et al., 2018](https://arxiv.org/abs/1710.10196), the differences
    """
    preprocess, encoder, strides = feature_maps.load_encoder(ENCODER, "imagenet")
    encoder.trainable = False
    images = keras.Input((image_size, image_size, 3), name="images")
    values = keras.Input((num_values,), name="values")
    size = ENLARGEMENT * image_size
    x = keras.layers.Resizing(size, size)(images)
    maps = encoder(preprocess(keras.layers.Rescaling(127.5, 127.5)(x)))
    scores, mixed = [], None
    for stride, x in reversed(list(zip(strides, maps, strict=True))):
        if size // stride < LOWEST_RESOLUTION:
            continue
        channels = CHANNELS[stride]
        x = _mix(channels, 1, f"channels_{stride}")(x)
        if mixed is not None:
            above = _mix(channels, 1, f"above_{stride}")(mixed)
            above = keras.layers.UpSampling2D(interpolation="bilinear")(above)
            x = keras.layers.Add()([x, above])
            x = _mix(channels, 3, f"strides_{stride}")(x)
        mixed = x
        scores.append(_score(x, values, f"{stride}"))
    scores = keras.layers.Concatenate()(scores)
    return keras.Model([images, values], scores, name="discriminator")


def build_encoder(image_size, latent_size, filters):
    """Returns a network from images to the mean and log-variance of latent vectors.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the latent vectors.
        filters: Filters at the full resolution.
    """
    images = keras.Input((image_size, image_size, 3), name="images")
    x = keras.layers.Flatten()(_shrink(images, filters))
    mean = keras.layers.Dense(latent_size, name="mean")(x)
    log_variance = keras.layers.Dense(
        latent_size, kernel_initializer="zeros", name="log_variance"
    )(x)
    return keras.Model(images, [mean, log_variance], name="encoder")


def _resolutions(image_size):
    """Returns the heights of the feature maps, from the lowest to the image's."""
    sizes = [LOWEST_RESOLUTION]
    while sizes[-1] < image_size:
        sizes.append(2 * sizes[-1])
    return sizes


def _channels(size, image_size, filters):
    """Returns the number of channels of feature maps of this height."""
    return filters * min(image_size // size, MAX_WIDENING)


def _gate(x, name):
    """Returns half of the normalized channels, multiplied by gates from the rest."""
    x = keras.layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    drawn, gates = keras.ops.split(x, 2, axis=-1)
    return keras.layers.Multiply()([drawn, keras.ops.sigmoid(gates)])


def _shrink(images, filters):
    """Returns feature maps of the lowest resolution, by residual blocks."""
    image_size = images.shape[1]
    x = _convolve(images, filters, "stem", kernel_size=1)
    for size in reversed(_resolutions(image_size)[:-1]):
        channels = _channels(size, image_size, filters)
        shortcut = keras.layers.Conv2D(
            channels, 1, use_bias=False, name=f"{size}_shortcut"
        )(keras.layers.AveragePooling2D(2)(x))
        x = _convolve(x, x.shape[-1], f"{size}_first")
        x = _convolve(x, channels, f"{size}_second", strides=2)
        x = keras.layers.Add()([x, shortcut])
        x = keras.layers.Rescaling(np.sqrt(0.5))(x)  # Keeps the variance.
    return x


def _convolve(x, channels, name, kernel_size=3, strides=1):
    x = keras.layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding="same",
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return keras.layers.LeakyReLU(SLOPE)(x)


def _mix(channels, kernel_size, name):
    """Returns a random convolution that is not trained."""
    return keras.layers.Conv2D(
        channels,
        kernel_size,
        padding="same",
        use_bias=False,
        kernel_initializer="lecun_normal",
        trainable=False,
        name=name,
    )


def _score(x, values, name):
    """Returns the scores of a mixed feature map, `(batch, 1)`.

    Args:
        x: `(batch, height, width, channels)`.
        values: The attributes, one-hot; they are scored by projection.
        name: Prefix of the layers' names.
    """
    channels = x.shape[-1]
    normalize = keras.layers.SpectralNormalization
    shapes = [(4, 2) for _ in _resolutions(x.shape[1])[1:]] or [(3, 1)]
    for i, (kernel_size, strides) in enumerate(shapes):
        convolution = keras.layers.Conv2D(
            channels, kernel_size, strides, padding="same", use_bias=False
        )
        x = normalize(convolution, name=f"{name}_{i}")(x)
        x = keras.layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_{i}_norm")(
            x
        )
        x = keras.layers.LeakyReLU(SLOPE)(x)
    varied = layers.MinibatchStandardDeviation()(x)
    score = keras.layers.Conv2D(1, LOWEST_RESOLUTION)
    score = keras.layers.Flatten()(normalize(score, name=f"{name}_score")(varied))
    if values.shape[1]:
        wanted = keras.layers.Dense(channels, use_bias=False)
        wanted = normalize(wanted, name=f"{name}_wanted")(values)
        mean = keras.layers.GlobalAveragePooling2D()(x)
        score = keras.layers.Add()([score, keras.layers.Dot(axes=1)([mean, wanted])])
    return score
