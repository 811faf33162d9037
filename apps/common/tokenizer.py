"""Splits sentences into tokens with SentencePiece, and joins them again."""

import hashlib
from collections.abc import Callable

import tensorflow as tf
import tensorflow_text

from apps.common.text import train_sentencepiece

# The ids of the start and the end token, and how the vocabulary spells the latter.
START = 2
END = 3
END_TOKEN = "</s>"
# Soft hyphens and characters of zero width, which may stand anywhere in a word.
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"


class Tokenizer:
    """Converts sentences to token ids, and token ids to sentences.

    Args:
        model: The content of a SentencePiece model file.
    """

    def __init__(self, model: bytes):
        self.model = model
        # A SavedModel merges tokenizers that have the same name.
        name = f"sentencepiece_{hashlib.sha256(model).hexdigest()[:16]}"
        self.sentencepiece = tensorflow_text.SentencepieceTokenizer(model, name=name)

    def __len__(self):
        """Returns the size of the vocabulary, special tokens included."""
        return int(self.sentencepiece.vocab_size())

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        """Tokenizes sentences, each in its most probable segmentation.

        Args:
            texts: UTF-8 strings, `(batch,)`. Bytes that are not UTF-8 count as a space.

        Returns:
            Token ids that end with `END`, ragged int32 `(batch, steps)`.
        """
        return append_end(self.sentencepiece.tokenize(normalize(texts)))

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    def detokenize(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """Converts token ids without `END`, ragged int32, to strings `(batch,)`."""
        return self.sentencepiece.detokenize(token_ids)

    def sampler(self, alpha: float) -> Callable[[tf.Tensor], tf.RaggedTensor]:
        """Returns a tokenizing function that samples the segmentation.

        A segmentation is drawn with its probability to the power of `alpha`, see
        [Kudo, 2018](https://arxiv.org/abs/1804.10959).

        Args:
            alpha: As `Config.subword_sampling`; 0 returns this tokenizer.
        """
        if not alpha:
            return self
        sample = tensorflow_text.SentencepieceTokenizer(
            self.model, nbest_size=-1, alpha=alpha
        )
        return lambda texts: append_end(sample.tokenize(normalize(texts)))

    def vocabulary(self) -> list[str]:
        """Returns all tokens as strings; `▁` stands for the space before a word."""
        tokens = self.sentencepiece.id_to_string(tf.range(len(self)))
        return [token.decode() for token in tokens.numpy()]


def normalize(texts: tf.Tensor) -> tf.Tensor:
    """Converts strings, `(batch,)`, to the Unicode form NFKC.

    Bytes that are not UTF-8 become a space. The SentencePiece model could normalize
    too, but its file would be four times as large.
    """
    texts = tf.strings.unicode_transcode(
        texts, "UTF-8", "UTF-8", replacement_char=ord(" ")
    )
    texts = tensorflow_text.normalize_utf8(texts, "NFKC")
    return tf.strings.regex_replace(texts, "\N{REPLACEMENT CHARACTER}", " ")


def append_end(token_ids: tf.RaggedTensor) -> tf.RaggedTensor:
    """Appends `END` to each row of a ragged tensor."""
    return tf.concat([token_ids, tf.fill((token_ids.nrows(), 1), END)], 1)


def train_tokenizer(
    texts: list[str], vocabulary_size: int, token: str = "subword"
) -> Tokenizer:
    """Trains a tokenizer.

    Args:
        texts: The texts to learn the vocabulary from.
        vocabulary_size: Maximum size of the vocabulary; little text yields a smaller
            one.
        token: `subword`, or `word`: the most frequent words; spaces separate them.
            Defaults to `subword`.

    Raises:
        BadInput: The texts contain no letters.
    """
    model = train_sentencepiece(
        [text.decode() for text in normalize(tf.constant(texts)).numpy()],
        vocabulary_size,
        dict.fromkeys(INVISIBLE, "") | dict.fromkeys("\t\n\v\f\r", " "),
        model_type="word" if token == "word" else "unigram",
        character_coverage=1.0,
        bos_id=START,
        eos_id=END,
    )
    return Tokenizer(model)
