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


def count_errors(text, transcript):
    """Returns the number of wrong, missing and additional words of a transcript."""
    found = jiwer.process_words(text, transcript)
    return found.substitutions + found.insertions + found.deletions


class ValidationErrors(keras.callbacks.Callback):
    """Adds the error rates of greedy search to the metrics of every epoch.

    They are called `val_wer` and `val_cer`.

    Args:
        batches: The validation batches.
        tokenizer: The `Tokenizer`.
    """

    def __init__(self, batches, tokenizer):
        super().__init__()
        self.batches = batches
        self.tokenizer = tokenizer

    def set_model(self, model):
        """Prepares the search with the model."""
        super().set_model(model)
        self.score = make_scorer(model, self.batches, self.tokenizer)

    def on_epoch_end(self, epoch, logs=None):
        """Transcribes all recordings and counts the errors."""
        scores = self.score()
        logs["val_wer"], logs["val_cer"] = scores["wer"], scores["cer"]


def make_scorer(network, batches, tokenizer):
    """Returns a function to the error rates of greedy search, as they are when called.

    Args:
        network: A `Recognizer`.
        batches: Batches of `data.make_batches`.
        tokenizer: The `Tokenizer`.
    """

    @tf.function(reduce_retracing=True)
    def transcribe(samples, num_samples):
        encoded = network([samples, num_samples], training=False)
        return search.greedy_search(network, encoded, num_samples).token_ids

    def score():
        texts, transcripts = [], []
        for inputs, token_ids in batches:
            texts += map(tokenizer.decode, token_ids.numpy())
            transcripts += map(tokenizer.decode, transcribe(*inputs).numpy())
        return error_rates(texts, transcripts)

    return score
