"""Self-critical training: the decoder learns which of its own captions are better."""

import numpy as np
import tensorflow as tf

from apps.common.text import PADDING
from apps.image_captioning.batches import previous_tokens
from apps.image_captioning.metrics import TrainingCider


def make_batches(captioner, examples, features, config):
    """Returns batches of captions that the model in training writes, with their values.

    A beam search writes several captions of each image. The value of one is its
    CIDEr-D, less the mean of the image's captions. With cross-entropy as the loss and
    these values as sample weights, a training step raises the expected CIDEr-D.

    Args:
        captioner: A `Captioner` with the model in training.
        examples: The training `Examples`.
        features: Their `Features`.
        config: A `Config`. A batch has about `batch_size` captions.

    Returns:
        A `tf.data.Dataset` as from `batches.make_batches`, apart from the weights.

    Reference:
        [Rennie et al., 2017](https://arxiv.org/abs/1612.00563);
        [Anderson et al., 2018](https://arxiv.org/abs/1707.07998), section 3.2.3, the
        captions of a beam search
    """
    beam_size = max(2, config.beam_size)
    batch_size = max(1, config.batch_size // beam_size)
    cider = TrainingCider(examples.captions)
    search = tf.function(lambda features: captioner.search(features, beam_size)[:2])

    def write(images):
        rows = features.read(images, np.zeros_like(images))
        token_ids, lengths = search(tf.constant(rows))
        token_ids = tf.reshape(token_ids, (-1, token_ids.shape[-1]))
        lengths = tf.reshape(lengths, [-1])
        words = tf.RaggedTensor.from_tensor(token_ids, lengths)
        captions = captioner.tokenizer.detokenize(words).numpy()
        owners = np.repeat(images, beam_size)
        scores = cider([caption.decode() for caption in captions], owners)
        scores = scores.reshape(-1, beam_size)
        values = (scores - scores.mean(1, keepdims=True)).reshape(-1, 1)
        # The end token is learned too, if the caption has one.
        steps = np.arange(token_ids.shape[1])
        is_token = steps <= lengths.numpy()[:, None]
        labels = np.where(is_token, token_ids, PADDING).astype("int32")
        return np.repeat(rows, beam_size, 0), labels, values * is_token

    def add_inputs(images):
        types = (tf.float32, tf.int32, tf.float64)
        rows, labels, values = tf.numpy_function(write, [images], types)
        rows = tf.ensure_shape(rows, (None, *features.views[0].shape[1:]))
        labels = tf.ensure_shape(labels, (None, None))
        values = tf.ensure_shape(values, (None, None))
        inputs = {"token_ids": previous_tokens(labels), "features": rows}
        return inputs, labels, tf.cast(values, tf.float32)

    images = tf.data.Dataset.range(len(examples), output_type=tf.int32)
    images = images.shuffle(len(examples), seed=config.seed).batch(batch_size)
    return images.map(add_inputs)
