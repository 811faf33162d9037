"""How an autoencoder and a GAN are trained."""

import keras
import numpy as np
import tensorflow as tf

import layers
from apps.common.backbones import scale_pixels
from apps.face_synthesis.augmentation import augment
from apps.face_synthesis.networks import (
    build_discriminator,
    build_encoder,
    build_generator,
    build_mapping,
)

BETA_1, BETA_2 = 0.0, 0.99  # Of Adam for a GAN.
EMPHASIS = 1.25  # Of attributes when faces are drawn; chosen on UTKFace's validation.
VARIANCE_DECAY = 0.98  # Of the moving average of the squared error.


def hinge_losses(real_scores, generated_scores):
    """Returns the hinge losses of the generator and the discriminator.

    Args:
        real_scores: The discriminator's scores of real images, `(batch, scores)`.
        generated_scores: Those of generated ones.

    Reference:
        [Lim and Ye, 2017](https://arxiv.org/abs/1705.02894)
    """
    penalties = tf.nn.relu(1 + generated_scores) + tf.nn.relu(1 - real_scores)
    return -tf.reduce_mean(generated_scores), tf.reduce_mean(penalties)


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
        drawn = self.decoder(
            self.sampling([mean, log_variance], training=training), training=training
        )
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

    Both networks learn at the same time, from the same generated images, with the hinge
    loss. The discriminator sees augmented images. A moving average of the generator
    draws the faces.

    One optimizer holds the moments of both networks; its settings are the same for
    both, so it does what two would do. All random numbers of a step are made from its
    number, so that an interrupted training goes on as if nothing had happened.

    Args:
        image_size: Height and width of the images, a power of two.
        latent_size: Size of the noise and of the latent vectors.
        filters: Filters at the full resolution.
        value_counts: How many values each attribute has; empty for an unconditional
            GAN.
        augmentation: Names of the changes, as `augment` takes them.
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
        [Sauer et al., 2021](https://arxiv.org/abs/2111.01007), the discriminator;
        [Miyato and Koyama, 2018](https://arxiv.org/abs/1802.05637), the attributes
    """

    def __init__(
        self,
        *,
        image_size,
        latent_size,
        filters,
        value_counts,
        augmentation,
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
            "value_counts": list(value_counts),
            "augmentation": list(augmentation),
            "average_decay": average_decay,
            "flip": flip,
            "seed": seed,
        }
        self.latent_size = latent_size
        self.value_counts = list(value_counts)
        self.num_values = sum(value_counts)
        self.augmentation = tuple(augmentation)
        self.average_decay = average_decay
        self.flip = flip
        self.seed = seed
        self.mapping = build_mapping(latent_size, self.num_values)
        self.generator = build_generator(image_size, latent_size, filters)
        self.discriminator = build_discriminator(image_size, self.num_values)
        self.average_mapping = _average_of(self.mapping)
        self.average_generator = _average_of(self.generator)
        names = ("loss", "discriminator_loss", "real_score", "generated_score")
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
        """Returns latent vectors to draw, given standard normal noise and attributes.

        In training the noise also moves latent vectors along the attributes, and hides
        these in some faces. Here it does not, and the attributes move the vectors
        `EMPHASIS` times as far from the mean of all values.
        """
        if not self.num_values:
            return noise
        kernel = self.average_mapping.get_layer("shift").kernel
        shift, along = 0.0, []
        for shifts, chosen in zip(
            tf.split(kernel, self.value_counts),
            tf.split(values, self.value_counts, axis=1),
            strict=True,
        ):
            mean = tf.reduce_mean(shifts, axis=0)
            shift += mean + EMPHASIS * tf.matmul(chosen, shifts - mean)
            along.append(shifts[1:] - shifts[0])
        along, _ = tf.linalg.qr(tf.transpose(tf.concat(along, axis=0)))
        noise -= tf.matmul(tf.matmul(noise, along), along, transpose_b=True)
        return noise + shift

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
        with tf.GradientTape(persistent=True) as tape:
            generated = self.generator(self.mapping([noise, values]), training=True)
            generated_scores, real_scores = (
                self.discriminator(
                    [augment(images, self.augmentation, seed), values], training=True
                )
                for images, seed in ((generated, seeds[2]), (real, seeds[3]))
            )
            loss, discriminator_loss = hinge_losses(real_scores, generated_scores)
        generator_variables = (
            self.mapping.trainable_variables + self.generator.trainable_variables
        )
        discriminator_variables = self.discriminator.trainable_variables
        generator_gradients = tape.gradient(loss, generator_variables)
        discriminator_gradients = tape.gradient(
            discriminator_loss, discriminator_variables
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


def build_model(*, config, value_counts):
    """Returns an untrained model.

    Args:
        config: A `Config`.
        value_counts: How many values each attribute of a conditional GAN has.
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
        value_counts=value_counts,
        augmentation=config.augmentation,
        average_decay=config.average_decay,
    )


def _average_of(network):
    """Returns a copy of a network, which is not trained."""
    average = keras.models.clone_model(network)
    average.set_weights(network.get_weights())
    average.trainable = False
    return average


def _flip(images, seed):
    """Mirrors images at random."""
    shape = (tf.shape(images)[0], 1, 1, 1)
    is_mirrored = tf.random.stateless_uniform(shape, seed) < 0.5
    return tf.where(is_mirrored, tf.reverse(images, [2]), images)
