"""Atrous spatial pyramid pooling of DeepLab."""

import keras


@keras.saving.register_keras_serializable(package="layers")
class AtrousSpatialPyramidPooling(keras.layers.Layer):
    """Combines context from several distances at full resolution.

    The layer has parallel branches: a 1×1 convolution, one separable 3×3 convolution
    for each dilation rate, and global average pooling with a 1×1 convolution. Another
    1×1 convolution joins the branches. Batch normalization and ReLU follow each
    convolution.

    Args:
        filters: Number of channels of each branch and of the output.
        rates: Dilation rates, in positions of the feature map. Defaults to
            `(6, 12, 18)`.
        dropout: Dropout rate of the output. Defaults to 0.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: A batch of feature maps.
        training: If True, dropout is active and batch normalization uses the
            statistics of the batch.

    Input shape:
        `(batch, height, width, channels)`. Height and width may be unknown.

    Output shape:
        `(batch, height, width, filters)`.

    Raises:
        ValueError: `filters` or a rate is not a positive whole number.

    Example:

    >>> layers.AtrousSpatialPyramidPooling(32)(np.zeros((1, 9, 8, 16))).shape
    (1, 9, 8, 32)

    Reference:
        [Chen et al., 2018](https://arxiv.org/abs/1802.02611), section 3.1
    """

    def __init__(self, filters, rates=(6, 12, 18), dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("filters", filters), *(("rates", rate) for rate in rates)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must consist of positive whole numbers, for instance "
                    f"filters=256, rates=(6, 12, 18). Received: {value!r}"
                )
        self.filters = filters
        self.rates = rates
        self.dropout = dropout

    def build(self, input_shape):
        *_, channels = input_shape
        self.branches = [self._pointwise("pointwise")]
        for rate in self.rates:
            depthwise = keras.layers.DepthwiseConv2D(
                3,
                padding="same",
                dilation_rate=rate,
                use_bias=False,
                dtype=self.dtype_policy,
                name=f"depthwise_{rate}",
            )
            self.branches.append(
                keras.Sequential(
                    [
                        depthwise,
                        self._normalization(f"depthwise_{rate}_normalization"),
                        keras.layers.ReLU(dtype=self.dtype_policy),
                        self._pointwise(f"pointwise_{rate}"),
                    ],
                    name=f"atrous_{rate}",
                )
            )
        self.pooling = self._pointwise("pooling")
        self.projection = self._pointwise("projection")
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        for branch in (*self.branches, self.pooling):
            branch.build((None, None, None, channels))
        joined_channels = self.filters * (len(self.branches) + 1)
        self.projection.build((None, None, None, joined_channels))

    def call(self, inputs, training=None):
        context = keras.ops.mean(inputs, axis=(1, 2), keepdims=True)
        context = self.pooling(context, training=training)
        x = [branch(inputs, training=training) for branch in self.branches]
        x.append(keras.ops.zeros_like(x[0]) + context)
        x = keras.ops.concatenate(x, axis=-1)
        x = self.projection(x, training=training)
        return self.drop(x, training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "rates": self.rates,
            "dropout": self.dropout,
        }

    def _pointwise(self, name):
        convolution = keras.layers.Conv2D(
            self.filters,
            1,
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
        )
        relu = keras.layers.ReLU(dtype=self.dtype_policy)
        return keras.Sequential(
            [convolution, self._normalization("normalization"), relu], name=name
        )

    def _normalization(self, name):
        # Keras' default momentum of 0.99 needs more steps than small data sets have.
        return keras.layers.BatchNormalization(
            momentum=0.9, dtype=self.dtype_policy, name=name
        )
