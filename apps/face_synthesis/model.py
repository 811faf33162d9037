"""The networks, and how they are trained: an autoencoder and a GAN."""

import keras
import numpy as np
import tensorflow as tf

import layers
from apps.common.backbones import scale_pixels
from apps.face_synthesis.augmentation import augment

MAX_WIDENING = (
    8  # The lowest resolution has this many times the filters of the highest.
)
SLOPE = 0.2  # Of leaky ReLUs at negative numbers.
MAPPING_LAYERS = 2
LOWEST_RESOLUTION = 4
PENALTY_INTERVAL = 16  # Steps between two gradient penalties.
BETA_1, BETA_2 = 0.0, 0.99  # Of Adam for a GAN.
VARIANCE_DECAY = 0.98  # Of the moving average of the squared error.


def logistic_losses(real_scores, generated_scores):
    """Returns the non-saturating losses of the generator and the discriminator.

    Args:
        real_scores: The discriminator's scores of real images, `(batch,)`.
        generated_scores: Those of generated ones.
    """
    loss = tf.reduce_mean(tf.nn.softplus(-generated_scores))
    penalties = tf.nn.softplus(generated_scores) + tf.nn.softplus(-real_scores)
    return loss, tf.reduce_mean(penalties)


def hinge_losses(real_scores, generated_scores):
    """Returns the hinge losses of the generator and the discriminator.

    Args:
        real_scores: The discriminator's scores of real images, `(batch,)`.
        generated_scores: Those of generated ones.

    Reference:
        [Lim and Ye, 2017](https://arxiv.org/abs/1705.02894)
    """
    penalties = tf.nn.relu(1 + generated_scores) + tf.nn.relu(1 - real_scores)
    return -tf.reduce_mean(generated_scores), tf.reduce_mean(penalties)


LOSSES = {"logistic": logistic_losses, "hinge": hinge_losses}


@keras.saving.register_keras_serializable(package="face_synthesis")
class VariationalAutoencoder(keras.Model):
    """A variational autoencoder with a Gaussian decoder.

    The decoder has the architecture of the GAN's generator. Its variance is the same
    for all pixels: the moving average of the squared error, which is the most likely
    one.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the latent vectors.
        filters: Filters at the full resolution.
        beta: Weight of the divergence from the prior.
        flip: Whether to mirror training images at random.
        seed: Seed of the noise.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        encoder: Network from images, −1 to 1, to the mean and the logarithm of the
            variance of their latent vectors.
        decoder: Network from latent vectors to images.
        log_variance: The logarithm of the variance of a pixel.

    Call arguments:
        inputs: Images, `(batch, size, size, 3)` from 0 to 255, and their attributes,
            which are not used.
        training: Whether to draw latent vectors; otherwise their means are taken.

    Output shape:
        Reconstructions, `(batch, size, size, 3)` from −1 to 1.

    Reference:
        [Kingma and Welling, 2014](https://arxiv.org/abs/1312.6114);
        [Higgins et al., 2017](https://openreview.net/forum?id=Sy2fzU9gl), the weight β;
        [Rybkin et al., 2021](https://arxiv.org/abs/2006.13202), the variance
    """

    def __init__(self, *, image_size, latent_size, filters, beta, flip, seed, **kwargs):
        super().__init__(**kwargs)
        self.arguments = {
            "image_size": image_size,
            "latent_size": latent_size,
            "filters": filters,
            "beta": beta,
            "flip": flip,
            "seed": seed,
        }
        self.latent_size = latent_size
        self.num_values = 0
        self.beta = beta
        self.flip = flip
        self.seed = seed
        self.encoder = build_encoder(image_size, latent_size, filters)
        self.sampling = layers.GaussianSampling(seed)
        self.decoder = build_generator(image_size, latent_size, filters)
        self.log_variance = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="log_variance"
        )
        names = ("loss", "reconstruction", "divergence", "squared_error")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), **self.arguments}

    @property
    def metrics(self):
        """The means of an epoch."""
        return list(self.trackers.values())

    def call(self, inputs, training=False):
        """Returns reconstructions."""
        images, _ = inputs
        mean, log_variance = self.encoder(scale_pixels(tf.cast(images, tf.float32)))
        return self.decoder(self.sampling([mean, log_variance], training=training))

    def map_noise(self, noise, values):
        """Returns latent vectors, given standard normal noise; they are the same."""
        return noise

    def draw(self, latents):
        """Returns images from −1 to 1, given latent vectors."""
        return self.decoder(latents)

    def lower_bound(self, images, training=False):
        """Returns the parts of the evidence lower bound of images, in nats.

        Args:
            images: `(batch, size, size, 3)` from −1 to 1.
            training: Whether to draw the latent vectors.

        Returns:
            By name: the `reconstruction`, the log-density of the images; the
            `divergence` from the prior; the `squared_error`, the mean of an image's
            pixels; each `(batch,)`; and the means of the `latents`, `(batch, size)`.
        """
        mean, log_variance = self.encoder(images)
        drawn = self.decoder(self.sampling([mean, log_variance], training=training))
        squares = tf.square(images - drawn)
        log_density = -0.5 * (
            squares * tf.exp(-self.log_variance) + self.log_variance + np.log(2 * np.pi)
        )
        variance = tf.exp(log_variance)
        return {
            "reconstruction": tf.reduce_sum(log_density, axis=(1, 2, 3)),
            "divergence": 0.5
            * tf.reduce_sum(tf.square(mean) + variance - 1 - log_variance, axis=1),
            "squared_error": tf.reduce_mean(squares, axis=(1, 2, 3)),
            "latents": mean,
        }

    def train_step(self, data):
        """Raises the lower bound of a batch."""
        images, _ = data
        images = scale_pixels(tf.cast(images, tf.float32))
        step = tf.cast(self.optimizer.iterations, tf.int32)
        if self.flip:
            images = _flip(images, [self.seed, step])
        # The layer's own state would not be restored after an interruption.
        state = self.sampling.seed_generator.state
        state.assign(tf.cast([self.seed, step], state.dtype))
        with tf.GradientTape() as tape:
            logs = self._measure(images, training=True)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(logs["loss"], variables), variables)
        variance = tf.exp(self.log_variance)
        variance += (1 - VARIANCE_DECAY) * (logs["squared_error"] - variance)
        self.log_variance.assign(tf.math.log(variance))
        return self._track(logs)

    def test_step(self, data):
        """Measures the lower bound of a batch."""
        images, _ = data
        images = scale_pixels(tf.cast(images, tf.float32))
        return self._track(self._measure(images, training=False))

    def _measure(self, images, training):
        """Returns the means of a batch by name; the loss is that of one image."""
        parts = self.lower_bound(images, training)
        parts.pop("latents")
        loss = self.beta * parts["divergence"] - parts["reconstruction"]
        return {
            name: tf.reduce_mean(value)
            for name, value in ({"loss": loss} | parts).items()
        }

    def _track(self, logs):
        for name, value in logs.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}


@keras.saving.register_keras_serializable(package="face_synthesis")
class GenerativeAdversarialNetwork(keras.Model):
    """A GAN, which is conditional if there are attributes.

    Both networks learn at the same time, from the same generated images. The
    discriminator sees augmented images, and its gradient at real images is penalized
    every `PENALTY_INTERVAL` steps. A moving average of the generator draws the faces.

    One optimizer holds the moments of both networks; its settings are the same for
    both, so it does what two would do. All random numbers of a step are made from its
    number, so that an interrupted training goes on as if nothing had happened.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the noise and of the latent vectors.
        filters: Filters at the full resolution.
        num_values: Number of the values of all attributes; 0 for an unconditional GAN.
        augmentation: Names of the changes, as `augment` takes them.
        loss: The name of the loss, in `LOSSES`.
        gradient_penalty: Weight γ of the gradient penalty; 0 turns it off.
        spectral_normalization: Whether the discriminator has it.
        average_decay: Decay of the moving average.
        flip: Whether to mirror training images at random.
        seed: Seed of the noise, the augmentation and the mirroring.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        mapping: Network from noise and attributes to latent vectors.
        generator: Network from latent vectors to images.
        discriminator: Network from images and attributes to scores.
        average_mapping: The moving average of `mapping`.
        average_generator: The moving average of `generator`.

    Call arguments:
        inputs: Noise, `(batch, latent_size)`, and attributes, one-hot `(batch,
            num_values)`.

    Output shape:
        Images from −1 to 1, `(batch, size, size, 3)`.

    Reference:
        [Goodfellow et al., 2014](https://arxiv.org/abs/1406.2661);
        [Mescheder et al., 2018](https://arxiv.org/abs/1801.04406), the penalty;
        [Karras et al., 2020](https://arxiv.org/abs/1912.04958), the generator;
        [Miyato and Koyama, 2018](https://arxiv.org/abs/1802.05637), the attributes
    """

    def __init__(
        self,
        *,
        image_size,
        latent_size,
        filters,
        num_values,
        augmentation,
        loss,
        gradient_penalty,
        spectral_normalization,
        average_decay,
        flip,
        seed,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.arguments = {
            "image_size": image_size,
            "latent_size": latent_size,
            "filters": filters,
            "num_values": num_values,
            "augmentation": list(augmentation),
            "loss": loss,
            "gradient_penalty": gradient_penalty,
            "spectral_normalization": spectral_normalization,
            "average_decay": average_decay,
            "flip": flip,
            "seed": seed,
        }
        self.latent_size = latent_size
        self.num_values = num_values
        self.augmentation = tuple(augmentation)
        self.compute_losses = LOSSES[loss]
        self.gradient_penalty = gradient_penalty
        self.average_decay = average_decay
        self.flip = flip
        self.seed = seed
        self.mapping = build_mapping(latent_size, num_values)
        self.generator = build_generator(image_size, latent_size, filters)
        self.discriminator = build_discriminator(
            image_size, filters, num_values, spectral_normalization
        )
        self.average_mapping = _average_of(self.mapping)
        self.average_generator = _average_of(self.generator)
        names = (
            *("loss", "discriminator_loss", "gradient_penalty"),
            *("real_score", "generated_score"),
        )
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), **self.arguments}

    @property
    def metrics(self):
        """The means of an epoch."""
        return list(self.trackers.values())

    def call(self, inputs):
        """Returns images."""
        noise, values = inputs
        return self.draw(self.map_noise(noise, values))

    def map_noise(self, noise, values):
        """Returns latent vectors, given standard normal noise and attributes."""
        return self.average_mapping([noise, values])

    def draw(self, latents):
        """Returns images from −1 to 1, given latent vectors."""
        return self.average_generator(latents)

    def train_step(self, data):
        """Trains both networks on a batch, and updates the average."""
        real, values = data
        real = scale_pixels(tf.cast(real, tf.float32))
        step = tf.cast(self.optimizer.iterations, tf.int32)
        seeds = tf.unstack(tf.random.experimental.stateless_split([self.seed, step], 4))
        if self.flip:
            real = _flip(real, seeds[0])
        noise = tf.random.stateless_normal(
            (tf.shape(real)[0], self.latent_size), seeds[1]
        )
        changed = augment(real, self.augmentation, seeds[2])
        with tf.GradientTape(persistent=True) as tape:
            generated = self.generator(self.mapping([noise, values]))
            generated_scores = self.discriminator(
                [augment(generated, self.augmentation, seeds[3]), values], training=True
            )
            real_scores = self.discriminator([changed, values], training=True)
            loss, discriminator_loss = self.compute_losses(
                real_scores, generated_scores
            )
        generator_variables = (
            self.mapping.trainable_variables + self.generator.trainable_variables
        )
        discriminator_variables = self.discriminator.trainable_variables
        generator_gradients = tape.gradient(loss, generator_variables)
        discriminator_gradients = tape.gradient(
            discriminator_loss, discriminator_variables
        )
        if self.gradient_penalty:
            is_due = step % PENALTY_INTERVAL == 0
            penalty, *more = tf.cond(
                is_due,
                lambda: self._penalize(changed, values),
                lambda: [0.0, *map(tf.zeros_like, discriminator_variables)],
            )
            discriminator_gradients = [
                one + other
                for one, other in zip(discriminator_gradients, more, strict=True)
            ]
            self.trackers["gradient_penalty"].update_state(
                penalty, tf.cast(is_due, tf.float32)
            )
        self.optimizer.apply(
            generator_gradients + discriminator_gradients, self.trainable_variables
        )
        self._update_average(tf.cast(step, tf.float32))
        return self._track(
            {
                "loss": loss,
                "discriminator_loss": discriminator_loss,
                "real_score": tf.reduce_mean(real_scores),
                "generated_score": tf.reduce_mean(generated_scores),
            }
        )

    def test_step(self, data):
        """Measures the scores of held-out images, which are augmented too.

        Where they fall below those of training images, the discriminator has learned
        these by heart.
        """
        real, values = data
        real = scale_pixels(tf.cast(real, tf.float32))
        changed = augment(real, self.augmentation, tf.constant([self.seed, 0]))
        scores = self.discriminator([changed, values])
        logs = self._track({"real_score": tf.reduce_mean(scores)})
        return {"real_score": logs["real_score"]}

    def _penalize(self, images, values):
        """Returns the penalty of real images, and its gradients for the discriminator.

        The gradients make up for the steps without a penalty.
        """
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(images)
                score = tf.reduce_sum(self.discriminator([images, values]))
            slopes = tf.square(inner.gradient(score, images))
            penalty = tf.reduce_mean(tf.reduce_sum(slopes, axis=(1, 2, 3)))
            loss = PENALTY_INTERVAL * self.gradient_penalty / 2 * penalty
        variables = [each.value for each in self.discriminator.trainable_variables]
        # A bias that only adds to the scores has no influence on the penalty.
        gradients = tape.gradient(
            loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return [penalty, *gradients]

    def _update_average(self, step):
        """Moves the averages towards the networks, fast in the first steps."""
        decay = tf.minimum(self.average_decay, (1 + step) / (10 + step))
        pairs = zip(
            self.average_mapping.weights + self.average_generator.weights,
            self.mapping.weights + self.generator.weights,
            strict=True,
        )
        for average, weight in pairs:
            average.assign(average + (1 - decay) * (weight - average))

    def _track(self, logs):
        for name, value in logs.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}


def build_model(*, config, num_values):
    """Returns an untrained model.

    Args:
        config: A `Config`.
        num_values: Number of the values of all attributes, for a conditional GAN.
    """
    common = {
        "image_size": config.image_size,
        "latent_size": config.latent_size,
        "filters": config.filters,
        "flip": config.flip,
        "seed": config.seed,
    }
    if config.model == "vae":
        return VariationalAutoencoder(**common, beta=config.beta)
    return GenerativeAdversarialNetwork(
        **common,
        num_values=num_values if config.model == "conditional_gan" else 0,
        augmentation=config.augmentation,
        loss=config.loss,
        gradient_penalty=config.gradient_penalty,
        spectral_normalization=config.spectral_normalization,
        average_decay=config.average_decay,
    )


def build_mapping(latent_size, num_values):
    """Returns a network from noise and attributes to latent vectors.

    Args:
        latent_size: Size of the noise and of the latent vectors.
        num_values: Number of the values of all attributes, or 0.
    """
    noise = keras.Input((latent_size,), name="noise")
    values = keras.Input((num_values,), name="values")
    x = noise
    if num_values:
        embedding = keras.layers.Dense(latent_size, use_bias=False, name="embedding")
        x = keras.layers.Concatenate()([x, embedding(values)])
    for i in range(MAPPING_LAYERS):
        x = keras.layers.Dense(latent_size, name=f"dense_{i}")(x)
        x = keras.layers.LeakyReLU(SLOPE)(x)
    return keras.Model([noise, values], x, name="mapping")


def build_generator(image_size, latent_size, filters):
    """Returns a network from latent vectors to images of about −1 to 1.

    It begins with a learned constant of 4 × 4 places. At each resolution, modulated
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
    x = _Constant((size, size, channels), name="constant")(latents)
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


def build_discriminator(image_size, filters, num_values, spectral_normalization):
    """Returns a network from images and attributes to scores.

    Args:
        image_size: Height and width of the images, a power of two.
        filters: Filters at the full resolution.
        num_values: Number of the values of all attributes, or 0.
        spectral_normalization: Whether all its layers have it.

    Reference:
        [Miyato et al., 2018](https://arxiv.org/abs/1802.05957), spectral normalization
    """
    wrap = keras.layers.SpectralNormalization if spectral_normalization else _identity
    images = keras.Input((image_size, image_size, 3), name="images")
    values = keras.Input((num_values,), name="values")
    x = _shrink(images, filters, wrap)
    x = layers.MinibatchStandardDeviation()(x)
    channels = _channels(LOWEST_RESOLUTION, image_size, filters)
    x = _convolve(x, channels, "last", wrap)
    x = keras.layers.Flatten()(x)
    x = wrap(keras.layers.Dense(channels, name="features"))(x)
    x = keras.layers.LeakyReLU(SLOPE)(x)
    score = wrap(keras.layers.Dense(1, name="score"))(x)
    if num_values:
        embedding = keras.layers.Dense(channels, use_bias=False, name="embedding")
        embedding = wrap(embedding)
        projection = keras.layers.Dot(axes=1, name="projection")
        fit = projection([x, embedding(values)])
        score = keras.layers.Add()([score, fit])
    return keras.Model([images, values], score[:, 0], name="discriminator")


def build_encoder(image_size, latent_size, filters):
    """Returns a network from images to the mean and log-variance of latent vectors.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the latent vectors.
        filters: Filters at the full resolution.
    """
    images = keras.Input((image_size, image_size, 3), name="images")
    x = keras.layers.Flatten()(_shrink(images, filters, _identity))
    mean = keras.layers.Dense(latent_size, name="mean")(x)
    log_variance = keras.layers.Dense(
        latent_size, kernel_initializer="zeros", name="log_variance"
    )(x)
    return keras.Model(images, [mean, log_variance], name="encoder")


@keras.saving.register_keras_serializable(package="face_synthesis")
class _Constant(keras.layers.Layer):
    """A learned tensor, repeated for each example."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, input_shape):
        self.value = self.add_weight(
            shape=self.shape,
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="value",
        )

    def call(self, inputs):
        batch = keras.ops.shape(inputs)[0]
        return keras.ops.tile(self.value[None], (batch, 1, 1, 1))

    def get_config(self):
        return {**super().get_config(), "shape": self.shape}


def _average_of(network):
    """Returns a copy of a network, which is not trained."""
    average = keras.models.clone_model(network)
    average.set_weights(network.get_weights())
    average.trainable = False
    return average


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


def _identity(layer):
    return layer


def _shrink(images, filters, wrap):
    """Returns feature maps of the lowest resolution, by residual blocks."""
    image_size = images.shape[1]
    x = _convolve(images, filters, "stem", wrap, kernel_size=1)
    for size in reversed(_resolutions(image_size)[:-1]):
        channels = _channels(size, image_size, filters)
        shortcut = keras.layers.Conv2D(
            channels, 1, use_bias=False, name=f"{size}_shortcut"
        )
        shortcut = wrap(shortcut)(keras.layers.AveragePooling2D(2)(x))
        x = _convolve(x, x.shape[-1], f"{size}_first", wrap)
        x = _convolve(x, channels, f"{size}_second", wrap, strides=2)
        x = keras.layers.Add()([x, shortcut])
        x = keras.layers.Rescaling(np.sqrt(0.5))(x)  # Keeps the variance.
    return x


def _convolve(x, channels, name, wrap, kernel_size=3, strides=1):
    """Returns a convolution of feature maps, by a layer that `wrap` changes."""
    convolution = keras.layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding="same",
        kernel_initializer="he_normal",
        name=name,
    )
    return keras.layers.LeakyReLU(SLOPE)(wrap(convolution)(x))


def _flip(images, seed):
    """Mirrors images at random."""
    shape = (tf.shape(images)[0], 1, 1, 1)
    is_mirrored = tf.random.stateless_uniform(shape, seed) < 0.5
    return tf.where(is_mirrored, tf.reverse(images, [2]), images)
