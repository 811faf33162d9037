"""Masks of time and frequency for spectrograms."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class SpecAugment(keras.layers.Layer):
    """Hides random spans of time and bands of frequency while training.

    Each mask has a random width, up to its largest one, and a random place. What it
    hides becomes 0, the mean of a normalized spectrogram. Each example has masks of its
    own; none hides more than half of the frames or bands. Outside training the layer
    returns its input.

    Args:
        num_time_masks: Number of time masks. Defaults to 2.
        max_frames: Largest width of a time mask. Defaults to 10.
        num_frequency_masks: Number of frequency masks. Defaults to 2.
        max_bands: Largest width of a frequency mask. Defaults to 12.
        seed: Seed of the random numbers. Defaults to None.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        spectrograms: Normalized spectrograms.
        training: If True, hide parts of them. Defaults to False.

    Input shape:
        `(batch, frames, bands)`; batch and frames may be unknown.

    Output shape:
        The same as the input.

    Raises:
        ValueError: A number is negative.

    Example:

    >>> layers.SpecAugment()(np.ones((2, 50, 64)), training=True).shape
    (2, 50, 64)

    Reference:
        [Park et al., 2019](https://arxiv.org/abs/1904.08779)
    """

    def __init__(
        self,
        num_time_masks=2,
        max_frames=10,
        num_frequency_masks=2,
        max_bands=12,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        arguments = {
            "num_time_masks": num_time_masks,
            "max_frames": max_frames,
            "num_frequency_masks": num_frequency_masks,
            "max_bands": max_bands,
        }
        for name, value in arguments.items():
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"`{name}` must be a whole number of at least 0. Received: "
                    f"{name}={value!r}"
                )
            setattr(self, name, value)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, spectrograms, training=False):
        if not training:
            return spectrograms
        batch, frames, bands = keras.ops.shape(spectrograms)
        is_hidden_frame = self._draw(
            batch, frames, self.num_time_masks, self.max_frames
        )
        is_hidden_band = self._draw(
            batch, bands, self.num_frequency_masks, self.max_bands
        )
        is_hidden = is_hidden_frame[:, :, None] | is_hidden_band[:, None]
        return keras.ops.where(
            is_hidden, keras.ops.zeros_like(spectrograms), spectrograms
        )

    def _draw(self, batch, num_positions, num_masks, max_width):
        """Returns which of so many positions masks hide, bool `(batch, n)`."""
        shape = (batch, num_masks)
        widths, starts = (
            keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
            for _ in range(2)
        )
        largest = keras.ops.cast(
            keras.ops.minimum(max_width, num_positions // 2), "float32"
        )
        widths = keras.ops.floor(widths * (largest + 1))
        length = keras.ops.cast(num_positions, "float32")
        starts = keras.ops.floor(starts * (length - widths + 1))
        positions = keras.ops.arange(num_positions, dtype="float32")
        after_start = positions >= starts[..., None]
        before_end = positions < (starts + widths)[..., None]
        return keras.ops.any(after_start & before_end, axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_time_masks": self.num_time_masks,
            "max_frames": self.max_frames,
            "num_frequency_masks": self.num_frequency_masks,
            "max_bands": self.max_bands,
            "seed": self.seed,
        }
