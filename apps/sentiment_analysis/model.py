"""The network: from token ids to class scores and attention weights."""

import keras

import layers
from apps.common.text import PADDING


def build_model(
    *,
    vocabulary_size: int,
    num_classes: int,
    embedding_size: int,
    units: int,
    attention_units: int,
    embedding_dropout: float,
    dropout: float,
    num_buckets: int,
    has_padding: bool,
) -> keras.Model:
    """Builds a classifier of two branches, a network and a linear model.

    The network is an embedding, a bidirectional LSTM, attention and a linear head. The
    query of attention is the last output of both directions. The linear branch scores
    tokens and pairs of neighbours; it adds nothing until `linear.fit` sets its weights.

    Args:
        vocabulary_size: Number of tokens, padding included.
        num_classes: Number of classes.
        embedding_size: Size of a token's embedding vector.
        units: Units of the LSTM, in each direction.
        attention_units: Units of additive attention.
        embedding_dropout: Dropout rate of whole embedding dimensions.
        dropout: Dropout rate of the LSTM's outputs and of the attention context.
        num_buckets: Buckets of the linear branch for pairs of tokens; 0 for a network
            alone.
        has_padding: Whether texts may be padded at the end. If not, there is no mask,
            and TensorFlow Lite runs each direction of the LSTM as one fused operation.

    Returns:
        A model from `token_ids`, int32 `(batch, steps)`, to `scores`, float32
        `(batch, num_classes)`, which sum to 1.
    """
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.ops.not_equal(token_ids, PADDING) if has_padding else None
    x = keras.layers.Embedding(vocabulary_size, embedding_size, name="embedding")(
        token_ids
    )
    x = keras.layers.SpatialDropout1D(embedding_dropout, name="embedding_dropout")(x)
    x = keras.layers.Bidirectional(
        layers.LSTM(units, return_sequences=True), name="lstm"
    )(x, mask=mask)  # (batch, steps, 2 * units)
    x = keras.layers.Dropout(dropout, name="lstm_dropout")(x)
    last_step = x[:, -1]
    if has_padding:
        last = keras.ops.sum(keras.ops.cast(mask, "int32"), 1, keepdims=True) - 1
        last_step = keras.ops.take_along_axis(x, last[..., None], axis=1)[:, 0]
    # The backward direction ends at the first step.
    query = keras.ops.concatenate([last_step[:, :units], x[:, 0, units:]], axis=-1)
    context, _ = layers.AdditiveAttention(attention_units, name="attention")(
        [query, x], mask=mask, return_weights=True
    )
    context = keras.layers.Dropout(dropout, name="dropout")(context)
    logits = keras.layers.Dense(num_classes, name="logits")(context)
    if num_buckets:
        logits += layers.BigramClassifier(
            vocabulary_size, num_buckets, num_classes, name="linear"
        )(token_ids)
    scores = keras.layers.Softmax(name="scores")(logits)
    return keras.Model(token_ids, scores, name="sentiment_classifier")


def with_attention(model: keras.Model) -> keras.Model:
    """Returns the model with a second output, the attention weights `(batch, steps)`.

    Args:
        model: From `build_model`.
    """
    _, weights = model.get_layer("attention").output
    return keras.Model(model.input, {"scores": model.output, "attention": weights})


def branches(model: keras.Model) -> keras.Model:
    """Returns a model of the logits of both branches, `network` and `linear`.

    Args:
        model: From `build_model`.
    """
    logits = {
        "network": model.get_layer("logits").output,
        "linear": model.get_layer("linear").output,
    }
    return keras.Model(model.input, logits)


def scale_branches(model: keras.Model, network: float, linear: float) -> None:
    """Multiplies the logits of the branches by constants.

    Args:
        model: From `build_model`; its weights change.
        network: The factor of the network.
        linear: The factor of the linear branch.
    """
    head, classifier = model.get_layer("logits"), model.get_layer("linear")
    for weight in head.weights:
        weight.assign(network * weight)
    for weight in (classifier.kernel, classifier.bias):
        weight.assign(linear * weight)


def without_padding(model: keras.Model) -> keras.Model:
    """Returns the same model, with a copy of its weights, for texts without padding.

    Args:
        model: From `build_model`.
    """
    config = {layer.name: layer.get_config() for layer in model.layers}
    unpadded = build_model(
        vocabulary_size=config["embedding"]["input_dim"],
        num_classes=config["logits"]["units"],
        embedding_size=config["embedding"]["output_dim"],
        units=model.get_layer("lstm").forward_layer.units,
        attention_units=config["attention"]["units"],
        embedding_dropout=0.0,
        dropout=0.0,
        num_buckets=config["linear"]["num_buckets"] if "linear" in config else 0,
        has_padding=False,
    )
    unpadded.set_weights(model.get_weights())
    return unpadded
