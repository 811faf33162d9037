"""The tokens of transcripts: characters, subword tokens or words."""

import json
from collections import Counter
from pathlib import Path

import sentencepiece

from apps.common import runs
from apps.common.errors import BadInput
from apps.common.text import UNKNOWN, train_sentencepiece

FILE = "tokens.json"  # In a run and in an edge bundle.
MODEL_FILE = "tokens.model"  # In a run with subword tokens.
WORD_START = "\u2581"  # How SentencePiece spells the space before a word.


class Tokenizer:
    """Converts transcripts to token ids and back.

    Args:
        kind: `character`, `subword` or `word`.
        tokens: The text of each token; a space begins a word. The first one is the
            blank of CTC, an empty text.
        model: The content of the SentencePiece model file of subword tokens.

    Attributes:
        kind: As given.
        tokens: As given.
        model: As given.
    """

    def __init__(self, kind, tokens, model=b""):
        self.kind = kind
        self.tokens = list(tokens)
        self.model = model
        self._ids = {token: i for i, token in enumerate(self.tokens) if i}
        self._processor = None
        if model:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def __len__(self):
        """Returns the number of different token ids."""
        return len(self.tokens)

    def encode(self, text):
        """Returns the token ids of a text; what has no token is left out."""
        if self._processor:
            return [i for i in self._processor.encode(text) if i != UNKNOWN]
        tokens = text
        if self.kind == "word":
            tokens = [f" {word}" for word in text.split()]
        return [self._ids[token] for token in tokens if token in self._ids]

    def decode(self, token_ids):
        """Returns the text of token ids."""
        return " ".join("".join(self.tokens[i] for i in token_ids).split())

    def unknown(self, text):
        """Returns the characters or words of a text that have no token."""
        if self._processor:
            return []
        tokens = [f" {word}" for word in text.split()] if self.kind == "word" else text
        return [token.strip() for token in tokens if token not in self._ids]


def make_tokenizer(texts, config):
    """Returns a `Tokenizer` of the tokens in training texts.

    Args:
        texts: The transcripts.
        config: Gives the kind of the tokens and the size of the vocabulary.

    Raises:
        BadInput: The texts are empty, or too few for subword tokens.
    """
    if config.token == "subword":
        model = train_sentencepiece(
            texts,
            config.vocabulary_size,
            {"\N{NO-BREAK SPACE}": " "},
            character_coverage=1.0,
            model_type="bpe",
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = map(processor.id_to_piece, range(1, len(processor)))
        tokens = [piece.replace(WORD_START, " ") for piece in pieces]
        tokens[UNKNOWN - 1] = ""
        return Tokenizer("subword", ["", *tokens], model)
    if config.token == "word":
        counts = Counter(f" {word}" for text in texts for word in text.split())
    else:
        counts = Counter(letter for text in texts for letter in text)
    if not counts:
        raise BadInput(f"the texts of {config.data} are empty; write what is said")
    return Tokenizer(config.token, ["", *sorted(counts)])


def save_tokenizer(tokenizer, folder: Path):
    """Writes a tokenizer into a run."""
    content = {"kind": tokenizer.kind, "tokens": tokenizer.tokens}
    runs.write_json(folder / FILE, content)
    if tokenizer.model:
        runs.write_bytes(folder / MODEL_FILE, tokenizer.model)


def load_tokenizer(folder: Path):
    """Returns the tokenizer that `save_tokenizer` wrote."""
    content = json.loads((folder / FILE).read_text("utf-8"))
    model = folder / MODEL_FILE
    return Tokenizer(**content, model=model.read_bytes() if model.exists() else b"")
