"""From sentences to the pieces that a model reads and writes, and back."""

import hashlib

import tensorflow as tf
import tensorflow_text

from apps.common.text import train_sentencepiece

START = 2
END = 3
# How SentencePiece writes these two.
UNKNOWN_PIECE = "<unk>"
END_PIECE = "</s>"
# Soft hyphens and signs of no width, which may stand anywhere in a word.
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"


class Tokenizer:
    """Splits sentences into pieces of words, and joins pieces to sentences.

    Args:
        model: The content of a SentencePiece model file.
    """

    def __init__(self, model: bytes):
        self.model = model
        # By its name TensorFlow tells it from another one in the same SavedModel.
        name = f"pieces_{hashlib.sha256(model).hexdigest()[:16]}"
        self.pieces = tensorflow_text.SentencepieceTokenizer(model, name=name)

    def __len__(self):
        """Returns the number of pieces it knows, those that mark something included."""
        return int(self.pieces.vocab_size())

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        """Tokenizes sentences, as is likeliest.

        Args:
            texts: UTF-8 strings, `(batch,)`; what is not UTF-8 counts as a space.

        Returns:
            Numbers of pieces, `END` the last, a ragged int32 tensor `(batch, steps)`.
        """
        return with_end(self.pieces.tokenize(normalize(texts)))

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    def detokenize(self, tokens):
        """Joins pieces, a ragged int32 tensor without `END`, to strings `(batch,)`."""
        return self.pieces.detokenize(tokens)

    def sampler(self, exponent):
        """Returns a function that tokenizes like this one, but varies how.

        It chooses each way to split a sentence with its probability to this power, as
        [Kudo, 2018](https://arxiv.org/abs/1804.10959) proposed.

        Args:
            exponent: `Config.subword_sampling`; 0 does not vary.
        """
        if not exponent:
            return self
        sample = tensorflow_text.SentencepieceTokenizer(
            self.model, nbest_size=-1, alpha=exponent
        )
        return lambda texts: with_end(sample.tokenize(normalize(texts)))

    def vocabulary(self):
        """Returns all pieces as strings; `▁` stands for the space before a word."""
        pieces = self.pieces.id_to_string(tf.range(len(self)))
        return [piece.decode() for piece in pieces.numpy()]


def normalize(texts):
    """Brings strings, `(batch,)`, to Unicode's compatible form, NFKC.

    What is not UTF-8 becomes a space.

    A SentencePiece model that did so would be four times as large.
    """
    texts = tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", replacement_char=ord(" ")
    )
    texts = tensorflow_text.normalize_utf8(texts, "NFKC")
    return tf.strings.regex_replace(texts, "\N{REPLACEMENT CHARACTER}", " ")


def with_end(tokens):
    """Appends `END` to each row of a ragged tensor."""
    return tf.concat([tokens, tf.fill((tokens.nrows(), 1), END)], 1)


def train_tokenizer(texts, vocabulary_size):
    """Learns the pieces of sentences.

    Args:
        texts: Strings to learn from.
        vocabulary_size: The most pieces; little text yields fewer.

    Returns:
        The `Tokenizer`.

    Raises:
        BadInput: The texts have no letters to learn from.
    """
    model = train_sentencepiece(
        [text.decode() for text in normalize(tf.constant(texts)).numpy()],
        vocabulary_size,
        dict.fromkeys(INVISIBLE, "") | dict.fromkeys("\t\n\v\f\r", " "),
        character_coverage=1.0,
        bos_id=START,
        eos_id=END,
    )
    return Tokenizer(model)
