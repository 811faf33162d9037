"""The network: image features, and an LSTM decoder that attends to them."""

import keras
import numpy as np
import tensorflow as tf

from apps.common import backbones
from apps.common.decoder import AttentionDecoder, make_embedding
from apps.common.saved_models import fold_batch_normalization

# The last layer before the many channels that a classifier needs.
OUTPUTS = {
    "EfficientNetLite0": "block15_project_bn",
    "MobileNetV2": "block_16_project_BN",
}
SMALL_RESNET_FILTERS = (16, 32, 64, 128, 128)


@keras.saving.register_keras_serializable(package="image_captioning")
class CaptionModel(keras.Model):
    """A convolutional network, and an LSTM decoder that attends to its features.

    Args:
        backbone: A functional model from images, 0 to 255, to feature maps.
        feature_size: Channels to which the features of each place are reduced.
        vocabulary_size: Size of the vocabulary.
        embedding_size: Size of the token embeddings.
        units: Units of the decoder.
        attention: `additive`, `multiplicative` or `none`, as for `AttentionDecoder`.
        attention_units: Units of additive attention.
        dropout: Dropout rate of the features, the embeddings and the readouts.
        attention_penalty: As for `AttentionDecoder`.
        **kwargs: Arguments of `keras.Model`.

    Attributes:
        network: The convolutional network inside the backbone, without preprocessing.
        grid: Rows and columns of the feature maps.

    Call arguments:
        inputs: A dictionary with `token_ids`, the tokens before each step, int32
            `(batch, steps)`, which begin with `START`; and with `images`, float32
            `(batch, size, size, 3)` from 0 to 255, or their `features`, as `extract`
            returns them.
        training: Whether to apply dropout.

    Output shape:
        `(batch, steps, vocabulary_size)`, logits of the next token.

    Reference:
        [Xu et al., 2015](https://arxiv.org/abs/1502.03044), soft attention
    """

    def __init__(
        self,
        *,
        backbone,
        feature_size,
        vocabulary_size,
        embedding_size,
        units,
        attention,
        attention_units,
        dropout,
        attention_penalty,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.arguments = {
            "feature_size": feature_size,
            "vocabulary_size": vocabulary_size,
            "embedding_size": embedding_size,
            "units": units,
            "attention": attention,
            "attention_units": attention_units,
            "dropout": dropout,
            "attention_penalty": attention_penalty,
        }
        self.backbone = backbone
        self.network = backbone.get_layer("network")
        _, *self.grid, self.num_channels = backbone.output.shape
        self.normalization = keras.layers.LayerNormalization()
        self.reduction = keras.layers.Dense(feature_size, "relu")
        self.dropout = keras.layers.Dropout(dropout)
        self.decoder = AttentionDecoder(
            make_embedding(vocabulary_size, embedding_size),
            units=units,
            attention=attention,
            attention_units=attention_units,
            embedding_dropout=dropout,
            dropout=dropout,
            has_gate=True,
            attention_penalty=attention_penalty,
        )
        self.positions = self.add_weight(
            shape=(int(np.prod(self.grid)), feature_size),
            initializer="zeros",
            name="positions",
        )

    def get_config(self):
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            **self.arguments,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
        }

    @classmethod
    def from_config(cls, config):
        """Makes a model from its constructor arguments."""
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})

    def call(self, inputs, training=False):
        """Returns the logits of the next token at every step."""
        if "features" in inputs:
            features = inputs["features"]
        else:
            features = self.extract(inputs["images"], training=training)
        memory = self.encode(features, training=training)
        return self.decoder(inputs["token_ids"], memory, training=training)

    def extract(self, images, training=False):
        """Returns the features of images, `(batch, places, channels)`."""
        maps = self.backbone(images, training=training)
        return keras.ops.reshape(
            maps, (-1, self.grid[0] * self.grid[1], self.num_channels)
        )

    def encode(self, features, training=False):
        """Returns what the decoder reads, the `Memory`, of features from `extract`."""
        x = self.normalization(features)
        x = self.reduction(x) + self.positions
        return self.decoder.remember(self.dropout(x, training=training))


def build_model(*, config, vocabulary_size):
    """Returns an untrained model, apart from a pretrained backbone.

    Args:
        config: A `Config`.
        vocabulary_size: Size of the vocabulary.

    Raises:
        BadInput: There is no such backbone or layer, or the weights do not fit.
    """
    model = CaptionModel(
        backbone=build_backbone(config),
        feature_size=config.feature_size,
        vocabulary_size=vocabulary_size,
        embedding_size=config.embedding_size,
        units=config.units,
        attention=config.attention,
        attention_units=config.attention_units,
        dropout=config.dropout,
        attention_penalty=config.attention_penalty,
    )
    return build_weights(model)


def build_weights(model):
    """Returns the model after a call, which creates its weights."""
    model(
        {
            "features": tf.zeros((1, int(np.prod(model.grid)), model.num_channels)),
            "token_ids": tf.ones((1, 2), tf.int32),
        }
    )
    return model


def build_backbone(config):
    """Returns a model from images, 0 to 255, to feature maps.

    Args:
        config: A `Config`.

    Raises:
        BadInput: There is no such backbone or layer, or the weights do not fit.
    """
    shape = (config.image_size, config.image_size, 3)
    if config.backbone == "small_resnet":
        preprocess, network = backbones.small_resnet(
            shape, config.weights, SMALL_RESNET_FILTERS
        )
    else:
        preprocess, network = backbones.load_backbone(
            config.backbone, shape, config.weights
        )
    output = config.backbone_output or OUTPUTS.get(config.backbone)
    if output:
        network = backbones.truncate(network, output)
    network.name = "network"
    images = keras.Input(shape, name="images")
    return keras.Model(images, network(preprocess(images)), name="backbone")


def for_inference(model):
    """Returns a model that gives the same captions in every engine.

    Batch normalization is folded into the convolutions before it, apart from that
    inside the blocks of `small_resnet`. The weights are rounded to half precision, as
    exported models store them: a small change of the scores can change a caption,
    because the search compares hypotheses.

    Args:
        model: A trained `CaptionModel`; it stays as it is.
    """
    folded = fold_batch_normalization(model.backbone)
    # Folding reuses layers, whose weights must not be rounded in place.
    backbone = keras.models.clone_model(folded)
    backbone.set_weights(folded.get_weights())
    copy = build_weights(CaptionModel(backbone=backbone, **model.arguments))
    for name in ("normalization", "reduction", "decoder"):
        getattr(copy, name).set_weights(getattr(model, name).get_weights())
    copy.positions.assign(model.positions)
    for weight in copy.trainable_variables + backbone.non_trainable_variables:
        weight.assign(tf.cast(tf.cast(weight, tf.float16), weight.dtype))
    return copy
