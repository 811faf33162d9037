"""The networks: mapping, generator, discriminators and encoder."""

import keras
import numpy as np

import layers
from apps.common import feature_maps

# The lowest resolution has this many times the filters of the highest.
MAX_WIDENING = 8
SLOPE = 0.2  # Of leaky ReLUs at negative numbers.
LOWEST_RESOLUTION = 4
# Of the projected discriminator.
ENCODER = "EfficientNetLite0"
ENCODER_PIXELS = 128  # Height and width to which it enlarges images.
PROJECTED_CHANNELS = 64


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
    """Returns a network from latent vectors to images of about −1 to 1.

    A dense layer makes feature maps of 4 × 4 places. At each resolution, modulated
    convolutions draw and add to the image, which is enlarged from one resolution to the
    next. Nothing limits the pixels: a hyperbolic tangent would stop their gradients.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the latent vectors.
        filters: Filters at the full resolution.
    """
    latents = keras.Input((latent_size,), name="latents")
    size, *sizes = _resolutions(image_size)
    channels = _channels(size, image_size, filters)
    x = keras.layers.Dense(size * size * channels, name="start")(latents)
    x = keras.layers.Reshape((size, size, channels))(x)
    x = _modulated(x, latents, channels, f"{size}")
    image = layers.ModulatedConv2D(3, 1, demodulate=False, name=f"{size}_rgb")
    image = image([x, latents])
    for size in sizes:
        channels = _channels(size, image_size, filters)
        x = keras.layers.UpSampling2D(interpolation="bilinear")(x)
        x = _modulated(x, latents, channels, f"{size}")
        image = keras.layers.UpSampling2D(interpolation="bilinear")(image)
        drawn = layers.ModulatedConv2D(3, 1, demodulate=False, name=f"{size}_rgb")
        image = keras.layers.Add()([image, drawn([x, latents])])
    return keras.Model(latents, image, name="generator")


def build_projected_discriminator(image_size, num_values):
    """Returns a network from images and attributes to scores, on pretrained features.

    Four small networks score the feature maps of an EfficientNetLite0 that is not
    trained, from stride 4 to stride 32. Random convolutions mix the channels, and each
    map with those of larger strides, so that no score depends on a few features only.

    Args:
        image_size: Height and width of the images.
        num_values: Number of the values of all attributes, or 0.

    Reference:
        [Sauer et al., 2021](https://arxiv.org/abs/2111.01007)
    """
    preprocess, encoder, _ = feature_maps.load_encoder(ENCODER, "imagenet")
    encoder.trainable = False
    images = keras.Input((image_size, image_size, 3), name="images")
    values = keras.Input((num_values,), name="values")
    x = keras.layers.Resizing(ENCODER_PIXELS, ENCODER_PIXELS)(images)
    maps = encoder(preprocess(keras.layers.Rescaling(127.5, 127.5)(x)))
    scores, mixed = [], None
    for i, x in reversed(list(enumerate(maps))):
        x = _mix(1, f"channels_{i}")(x)
        if mixed is not None:
            above = keras.layers.UpSampling2D(interpolation="bilinear")(mixed)
            x = _mix(3, f"strides_{i}")(keras.layers.Add()([x, above]))
        mixed = x
        scores.append(_score_map(x, values, f"{i}"))
    scores = keras.layers.Concatenate()(scores)
    return keras.Model([images, values], scores, name="discriminator")


def build_convolutional_discriminator(image_size, filters, num_values):
    """Returns a network from images and attributes to scores, trained from scratch.

    Args:
        image_size: Height and width of the images, a power of two.
        filters: Filters at the full resolution.
        num_values: Number of the values of all attributes, or 0.
    """
    images = keras.Input((image_size, image_size, 3), name="images")
    values = keras.Input((num_values,), name="values")
    x = _shrink(images, filters)
    x = layers.MinibatchStandardDeviation()(x)
    channels = _channels(LOWEST_RESOLUTION, image_size, filters)
    x = _convolve(x, channels, "last")
    return keras.Model(
        [images, values], _score(x, values, channels), name="discriminator"
    )


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


def _modulated(x, latents, channels, name):
    x = layers.ModulatedConv2D(channels, name=name)([x, latents])
    return keras.layers.LeakyReLU(SLOPE)(x)


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


def _mix(kernel_size, name):
    """Returns a random convolution that is not trained."""
    return keras.layers.Conv2D(
        PROJECTED_CHANNELS,
        kernel_size,
        padding="same",
        use_bias=False,
        kernel_initializer="lecun_normal",
        trainable=False,
        name=name,
    )


def _score_map(x, values, name):
    """Returns the scores of a mixed feature map; all layers are normalized."""
    normalize = keras.layers.SpectralNormalization
    for size in reversed(_resolutions(x.shape[1])[:-1]):
        convolution = keras.layers.Conv2D(PROJECTED_CHANNELS, 4, 2, padding="same")
        x = normalize(convolution, name=f"{name}_{size}")(x)
        x = keras.layers.LeakyReLU(SLOPE)(x)
    x = layers.MinibatchStandardDeviation()(x)
    return _score(x, values, PROJECTED_CHANNELS, normalize)


def _score(x, values, channels, wrap=lambda layer: layer):
    """Returns the scores of feature maps, `(batch, 1)`.

    Args:
        x: `(batch, height, width, channels)`.
        values: The attributes, one-hot; they are scored by projection.
        channels: Size of the features that the score is made of.
        wrap: Changes every layer.
    """
    x = wrap(keras.layers.Dense(channels))(keras.layers.Flatten()(x))
    x = keras.layers.LeakyReLU(SLOPE)(x)
    score = wrap(keras.layers.Dense(1))(x)
    if values.shape[1]:
        wanted = wrap(keras.layers.Dense(channels, use_bias=False))(values)
        score = keras.layers.Add()([score, keras.layers.Dot(axes=1)([x, wanted])])
    return score
