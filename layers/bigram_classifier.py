"""A linear classifier on TF-IDF of tokens and of pairs of neighbouring tokens."""

import keras

# Largest vocabulary whose hashes fit into int32, and the factor of the hash.
MAX_VOCABULARY_SIZE = 10**6
FACTOR = 2039


@keras.saving.register_keras_serializable(package="layers")
class BigramClassifier(keras.layers.Layer):
    """A linear classifier on TF-IDF of tokens and of pairs of neighbouring tokens.

    The logits of a text are `sum(idf kernel) / sqrt(sum(idf²)) + bias`, summed over
    every occurrence of a token or a pair. That is a linear model on TF-IDF features of
    unit length. If something occurs twice in a text, each occurrence counts for itself
    in the length.

    A row of the tables belongs to each token, then to each bucket of a hash table of
    pairs. A pair whose bucket belongs to another pair is left out; so are pairs that
    have no bucket. All operations are in int32 and never overflow, so that every
    runtime finds the same rows.

    The layer learns nothing by gradient descent: `set_weights` takes what a linear
    model learned from the rows that `rows` returns.

    Args:
        vocabulary_size: Number of tokens, padding (0) included, at most 1,000,000.
        num_buckets: Number of buckets for pairs. If it is less than `vocabulary_size`,
            a few pairs may be taken for others.
        units: Number of classes.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Input shape:
        Token ids, int32 `(batch, steps)`, padded with 0.

    Output shape:
        Logits, `(batch, units)`.

    Weights, in the order of `get_weights`:
        `first_tokens`, int32 `(num_buckets,)`: the first token of the pair to which a
        bucket belongs, 0 for none. `idf`, `(vocabulary_size + num_buckets,)`: the
        inverse document frequencies. `kernel`, `(vocabulary_size + num_buckets,
        units)`. `bias`, `(units,)`.

    Raises:
        ValueError: An argument is not a positive whole number, or the vocabulary is too
            large.

    Example:

    >>> classifier = layers.BigramClassifier(100, 256, 3)
    >>> tuple(classifier(np.array([[5, 9, 7, 3], [8, 6, 0, 0]])).shape)
    (2, 3)

    Reference:
        [Wang & Manning, 2012](https://aclanthology.org/P12-2018), on bigrams in linear
        classifiers of short texts
    """

    def __init__(self, vocabulary_size, num_buckets, units, **kwargs):
        super().__init__(**kwargs)
        for name, value in (
            ("vocabulary_size", vocabulary_size),
            ("num_buckets", num_buckets),
            ("units", units),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive whole number, for instance "
                    f"{name}=1000. Received: {name}={value!r}"
                )
        if vocabulary_size > MAX_VOCABULARY_SIZE:
            raise ValueError(
                f"`vocabulary_size` must be at most {MAX_VOCABULARY_SIZE}; use a "
                f"smaller vocabulary. Received: vocabulary_size={vocabulary_size}"
            )
        self.vocabulary_size = vocabulary_size
        self.num_buckets = num_buckets
        self.units = units

    def build(self, input_shape):
        num_rows = self.vocabulary_size + self.num_buckets

        def add_weight(name, shape, **options):
            return self.add_weight(
                shape=shape, initializer="zeros", trainable=False, name=name, **options
            )

        self.first_tokens = add_weight(
            "first_tokens", (self.num_buckets,), dtype="int32"
        )
        self.idf = add_weight("idf", (num_rows,))
        self.kernel = add_weight("kernel", (num_rows, self.units))
        self.bias = add_weight("bias", (self.units,))

    def buckets(self, first, second):
        """Returns the buckets of pairs of tokens, integers of any shape.

        Args:
            first: The first tokens.
            second: The second tokens, of the same shape.
        """
        return (first * FACTOR + second) % self.num_buckets

    def rows(self, token_ids):
        """Returns the rows of the tables that belong to a text.

        Args:
            token_ids: As for the call.

        Returns:
            The rows, int32 `(batch, 2 * steps)`; 0 for padding and for pairs without a
            bucket.
        """
        token_ids = keras.ops.cast(token_ids, "int32")
        # The last token of a text has no follower.
        following = keras.ops.pad(token_ids[:, 1:], [(0, 0), (0, 1)])
        buckets = self.buckets(token_ids, following)
        is_known = keras.ops.take(self.first_tokens, buckets, axis=0) == token_ids
        is_known = keras.ops.logical_and(is_known, following != 0)
        pairs = self.vocabulary_size + buckets
        pairs = pairs * keras.ops.cast(is_known, "int32")
        return keras.ops.concatenate([token_ids, pairs], axis=1)

    def call(self, inputs):
        rows = self.rows(inputs)
        is_row = keras.ops.cast(rows != 0, self.compute_dtype)
        idf = keras.ops.take(self.idf, rows, axis=0) * is_row
        kernel = keras.ops.take(self.kernel, rows, axis=0)
        total = keras.ops.sum(keras.ops.expand_dims(idf, -1) * kernel, axis=1)
        square = keras.ops.sum(idf * idf, axis=1, keepdims=True)
        # A text of unknown tokens only has length 0.
        return total / keras.ops.sqrt(keras.ops.maximum(square, 1e-6)) + self.bias

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_buckets": self.num_buckets,
            "units": self.units,
        }
