"""From raw text to token ids: cleaning, normalization and SentencePiece.

Text is normalized in two steps. `CLEANING` replaces what needs a regular expression:
links, user names and joined words. A table inside the SentencePiece model replaces
characters: it lowers case, writes emoji as their names, decodes `&amp;` and `\\u2019`,
and shortens repeated letters. The served graph contains both steps. A device applies
the same expressions with Python's `re` and reads the same model file, so both produce
the same tokens.
"""

import html.entities
import string
import unicodedata
from collections.abc import Iterable

import keras_nlp
import tensorflow as tf

from apps.common.text import UNKNOWN, train_sentencepiece

# Regular expressions and their replacements, the same for RE2 and for Python's `re`.
CLEANING = (
    (r"[\x00-\x1f]+", " "),
    (r'""+', '"'),
    (r'^[" ]+|[" ]+$', ""),  # Quotes around a whole text, left over from CSV.
    (r"(?i)https?://[!-~]+|www\.[!-~]+", " http "),
    (r"(^|[^A-Za-z0-9_.])@[A-Za-z0-9_]+", r"\1 user "),
    (r"([a-z])([A-Z])", r"\1 \2"),  # Hashtags: #HappyBirthday
)
# Longest run of a repeated letter that is shortened; SentencePiece allows no more.
MAX_REPETITIONS = 32
SPACES = ("Zs", "Zl", "Zp", "Cc")  # Unicode categories that become a space.
EMOJI = (
    range(0x2300, 0x2400),
    range(0x2600, 0x27C0),
    range(0x2B00, 0x2C00),
    range(0x1F000, 0x20000),
)


class Tokenizer:
    """Splits texts into subword tokens.

    Args:
        model: The content of a SentencePiece model file.
    """

    def __init__(self, model: bytes):
        self.model = model
        self.sentencepiece = keras_nlp.tokenizers.SentencePieceTokenizer(proto=model)

    def __len__(self):
        """Returns the size of the vocabulary, padding included."""
        return self.sentencepiece.vocabulary_size()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        """Tokenizes texts. A text without any token becomes `UNKNOWN`.

        Args:
            texts: UTF-8 strings, `(batch,)`. Bytes that are not UTF-8 become spaces.

        Returns:
            Token ids, a ragged int32 tensor `(batch, steps)`.
        """
        token_ids = self.sentencepiece(clean(texts))
        is_empty = tf.cast(token_ids.row_lengths() == 0, tf.int64)
        unknown = tf.fill([tf.reduce_sum(is_empty)], UNKNOWN)
        return tf.concat(
            [token_ids, tf.RaggedTensor.from_row_lengths(unknown, is_empty)], 1
        )

    def vocabulary(self) -> list[str]:
        """Returns all tokens in the order of their ids; `▁` stands for a space."""
        return self.sentencepiece.get_vocabulary()


def clean(texts: tf.Tensor) -> tf.Tensor:
    """Replaces links, user names and joined words, as `CLEANING` lists them."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    for pattern, replacement in CLEANING:
        texts = tf.strings.regex_replace(texts, pattern, replacement)
    return texts


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Trains a tokenizer.

    Args:
        texts: The training texts.
        vocabulary_size: Maximum number of tokens; few texts yield fewer.

    Raises:
        BadInput: The texts have no letters to learn from.
    """
    cleaned = [text.decode() for text in clean(tf.constant(texts)).numpy()]
    model = train_sentencepiece(cleaned, vocabulary_size, normalization_table())
    return Tokenizer(model)


def normalization_table() -> dict[str, str]:
    """Returns the replacement of each character, HTML entity and JSON escape.

    The SentencePiece model contains this table.
    """
    codes = [*range(1, 0xD800), *range(0xE000, 0x20000)]  # All but surrogates.
    characters = {chr(code): normalize(chr(code)) for code in codes}
    table = dict(characters)
    for character, replacement in characters.items():
        code = ord(character)
        # Decomposed Hangul stays as it is: 11,172 syllables would swell the table.
        if "HANGUL" not in unicodedata.name(character, ""):
            table[unicodedata.normalize("NFD", character)] = replacement
        if code < 0x3000 or is_emoji(character):
            for escape in escapes(character):
                table[escape] = replacement
    for name, meaning in html.entities.html5.items():
        if name.endswith(";"):
            table["&" + name] = "".join(map(normalize, meaning))
    for letter in string.ascii_letters + "!?":
        for repetitions in range(3, MAX_REPETITIONS + 1):
            table[letter * repetitions] = 2 * letter.lower()
    return {
        source: replacement
        for source, replacement in table.items()
        if source != replacement
    }


def escapes(character: str) -> set[str]:
    """Returns the numeric escapes of a character in HTML and JSON."""
    code = ord(character)
    units = character.encode("utf-16-be").hex(" ", 2).split()
    return {
        f"&#{code};",
        f"&#{code:03};",
        f"&#x{code:x};",
        f"&#x{code:X};",
        "".join(f"\\u{unit}" for unit in units),
        "".join(f"\\u{unit.upper()}" for unit in units),
    }


def normalize(character: str) -> str:
    """Returns the replacement of one character.

    Compatible characters (NFKC) become one, letters become lower case, emoji become
    their names.
    """
    code = ord(character)
    category = unicodedata.category(character)
    if category in SPACES or character == "\N{REPLACEMENT CHARACTER}":
        return " "
    # Joiners, variation selectors and skin tones.
    if category == "Cf" or 0xFE00 <= code < 0xFE10 or 0x1F3FB <= code < 0x1F400:
        return ""
    if is_emoji(character):
        return f" {unicodedata.name(character).lower().replace('-', ' ')} "
    if character in "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}":
        return "'"
    if character in "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}":
        return '"'
    folded = unicodedata.normalize("NFKC", character).casefold()
    return unicodedata.normalize("NFKC", folded)


def is_emoji(character: str) -> bool:
    """Returns whether a character is an emoji or another symbol with a name."""
    return unicodedata.category(character) == "So" and any(
        ord(character) in block for block in EMOJI
    )
