"""From text as people write it to the pieces that a model reads.

What people type is brought to one form in two steps, and nowhere else. `CLEANING`
replaces what takes a pattern to find: links, user names, words run together. The
SentencePiece model then replaces characters, by a table inside its own file: it folds
case, writes emoji out as their names, decodes `&amp;` and `\\u2019`, shortens what is
drawn out. The served graph contains both; a device applies the same patterns with
Python's `re` and reads the same model file, so that both tokenize alike.
"""

import html.entities
import string
import unicodedata

import keras_nlp
import tensorflow as tf

from apps.common.text import UNKNOWN, train_sentencepiece

# Patterns and their replacements, which RE2 and Python's `re` understand alike.
CLEANING = (
    (r"[\x00-\x1f]+", " "),
    (r'""+', '"'),
    (r'^[" ]+|[" ]+$', ""),  # Quotes around a whole text tell how it was stored.
    (r"(?i)https?://[!-~]+|www\.[!-~]+", " http "),
    (r"(^|[^A-Za-z0-9_.])@[A-Za-z0-9_]+", r"\1 user "),
    (r"([a-z])([A-Z])", r"\1 \2"),  # Hashtags: #HappyBirthday
)
# The longest run of a letter that is shortened; the format allows no more.
DRAWN_OUT = 32


class Tokenizer:
    """Splits texts into pieces of words.

    Args:
        model: The content of a SentencePiece model file.
    """

    def __init__(self, model: bytes):
        self.model = model
        self.pieces = keras_nlp.tokenizers.SentencePieceTokenizer(proto=model)

    def __len__(self):
        """Returns the number of pieces it knows, padding included."""
        return self.pieces.vocabulary_size()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        """Tokenizes texts; those that are too short for a piece become `UNKNOWN`.

        Args:
            texts: UTF-8 strings, `(batch,)`; what is not UTF-8 counts as a space.

        Returns:
            Numbers of pieces, a ragged int32 tensor `(batch, steps)`.
        """
        tokens = self.pieces(clean(texts))
        empty = tf.cast(tokens.row_lengths() == 0, tf.int64)
        unknown = tf.fill([tf.reduce_sum(empty)], UNKNOWN)
        return tf.concat([tokens, tf.RaggedTensor.from_row_lengths(unknown, empty)], 1)

    def vocabulary(self):
        """Returns all pieces as strings; `▁` stands for the space before a word."""
        return self.pieces.get_vocabulary()


def clean(texts):
    """Replaces links, user names and words run together, as `CLEANING` says."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    for pattern, replacement in CLEANING:
        texts = tf.strings.regex_replace(texts, pattern, replacement)
    return texts


def train_tokenizer(texts, vocabulary_size):
    """Learns which pieces of words are worth a number of their own.

    Args:
        texts: UTF-8 strings to learn from.
        vocabulary_size: The most pieces; little text yields fewer.

    Returns:
        The `Tokenizer`.

    Raises:
        BadInput: The texts have no letters to learn from.
    """
    cleaned = [text.decode() for text in clean(tf.constant(texts)).numpy()]
    model = train_sentencepiece(cleaned, vocabulary_size, normalization())
    return Tokenizer(model)


def normalization():
    """Returns what characters and escapes become, for SentencePiece's table.

    Characters take Unicode's compatible form and lower case; emoji become their names.

    Returns:
        Replacements by what they replace, strings both.
    """
    codes = [*range(1, 0xD800), *range(0xE000, 0x20000)]  # Without halves of pairs.
    characters = {chr(code): normalize(chr(code)) for code in codes}
    rules = dict(characters)
    for character, target in characters.items():
        code = ord(character)
        if "HANGUL" not in unicodedata.name(character, ""):  # They follow a rule.
            rules[unicodedata.normalize("NFD", character)] = target
        if code < 0x3000 or is_emoji(character):
            for escape in escapes(character):
                rules[escape] = target
    for name, meaning in html.entities.html5.items():
        if name.endswith(";"):
            rules["&" + name] = "".join(map(normalize, meaning))
    for letter in string.ascii_letters + "!?":
        for times in range(3, DRAWN_OUT + 1):
            rules[letter * times] = 2 * letter.lower()
    return {source: target for source, target in rules.items() if source != target}


def escapes(character):
    """Returns how HTML and JSON write a character when they must not show it."""
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


def normalize(character):
    """Returns what one character becomes."""
    code = ord(character)
    category = unicodedata.category(character)
    if category in SPACES or character == "\N{REPLACEMENT CHARACTER}":
        return " "
    if category == "Cf" or 0xFE00 <= code < 0xFE10 or 0x1F3FB <= code < 0x1F400:
        return ""  # Joiners, variants and skin tones.
    if is_emoji(character):
        return f" {unicodedata.name(character).lower().replace('-', ' ')} "
    if character in "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}":
        return "'"
    if character in "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}":
        return '"'
    folded = unicodedata.normalize("NFKC", character).casefold()
    return unicodedata.normalize("NFKC", folded)


def is_emoji(character):
    """Returns whether a character is a picture with a name of its own."""
    return unicodedata.category(character) == "So" and any(
        ord(character) in block for block in EMOJI
    )


SPACES = ("Zs", "Zl", "Zp", "Cc")  # Unicode's categories.
EMOJI = (
    range(0x2300, 0x2400),
    range(0x2600, 0x27C0),
    range(0x2B00, 0x2C00),
    range(0x1F000, 0x20000),
)
