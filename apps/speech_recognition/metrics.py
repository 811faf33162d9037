"""Word and character error rates."""

import jiwer
import keras
import numpy as np
import tensorflow as tf

from apps.speech_recognition import search


def error_rates(texts, transcripts):
    """Returns the error rates of transcripts.

    Args:
        texts: What was said.
        transcripts: What was recognized, in the same order.

    Returns:
        `wer` and `cer`, the word and the character error rate; the number of `words`
        that were said, and of word `substitutions`, `insertions` and `deletions`; and
        `accuracy`, the fraction of transcripts without any error.
    """
    words = jiwer.process_words(list(texts), list(transcripts))
    is_right = [one == other for one, other in zip(texts, transcripts, strict=True)]
    return {
        "wer": words.wer,
        "cer": jiwer.cer(list(texts), list(transcripts)),
        "accuracy": float(np.mean(is_right)),
        "words": words.hits + words.substitutions + words.deletions,
        "substitutions": words.substitutions,
        "insertions": words.insertions,
        "deletions": words.deletions,
    }


class ValidationErrors(keras.callbacks.Callback):
    """Adds the error rates of greedy search to the metrics of every epoch.

    They are called `val_wer` and `val_cer`.

    Args:
        batches: The validation batches, in the order of `texts`.
        tokenizer: The `Tokenizer`.
    """

    def __init__(self, batches, tokenizer):
        super().__init__()
        self.batches = batches
        self.tokenizer = tokenizer
        self._search = tf.function(self._search)

    def _search(self, samples, num_samples):
        encoded = self.model([samples, num_samples], training=False)
        return search.greedy_search(self.model, encoded, num_samples)

    def on_epoch_end(self, epoch, logs=None):
        """Transcribes all recordings and counts the errors."""
        texts, transcripts = [], []
        for inputs, token_ids in self.batches:
            found = self._search(*inputs)
            texts += [self.tokenizer.decode(row) for row in token_ids.numpy()]
            transcripts += [
                self.tokenizer.decode(row) for row in found.token_ids.numpy()
            ]
        scores = error_rates(texts, transcripts)
        logs["val_wer"], logs["val_cer"] = scores["wer"], scores["cer"]
