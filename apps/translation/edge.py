"""Translates sentences on a device: python run.py "a man is sleeping"

Needs numpy, sentencepiece and ai-edge-litert, as requirements.txt says; no TensorFlow.
"""

import argparse
import json
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from sentencepiece import SentencePieceProcessor

BUNDLE = Path(__file__).parent
START = 2
END = 3


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `search.json`, `source.model` and, for a vocabulary of
            its own, `target.model` lie beside it.
        signature: `serving_default`, or `greedy` for a beam of one.

    Returns:
        A function from a list of texts to `translations` and `scores`, arrays
        `(texts,)`; `source_pieces` and `pieces`, what was read and written, arrays
        `(texts, source_steps)` and `(texts, steps)`, padded with empty strings; and
        `attention` between them, `(texts, steps, source_steps)`.
    """
    folder = Path(path).parent
    settings = json.loads((folder / "search.json").read_text("utf-8"))
    beam_size = 1 if signature == "greedy" else settings["beam_size"]
    source = target = SentencePieceProcessor(model_file=str(folder / "source.model"))
    if (folder / "target.model").exists():  # Otherwise both share their pieces.
        target = SentencePieceProcessor(model_file=str(folder / "target.model"))
    interpreter = Interpreter(str(path), num_threads=1)
    encode = interpreter.get_signature_runner("encode")
    decode = interpreter.get_signature_runner("decode")

    def translate_part(text):
        text = unicodedata.normalize("NFKC", text)
        read = [*source.encode(text.replace("\N{REPLACEMENT CHARACTER}", " ")), END]
        state = encode(tokens=np.array([read], "int32"))
        memory = {name: state.pop(name) for name in ("values", "keys", "summary")}
        written, score, attention = beam_search(
            lambda tokens, state: decode(tokens=tokens, **state, **memory),
            state,
            beam_size,
            settings["length_penalty"],
            2 * len(read) + 10,
        )
        if len(read) == 1:  # Of nothing the translation is nothing.
            written, attention = [], attention[:0]
        return read, written, score, attention

    def translate(text):
        parts = [
            translate_part(part)
            for part in split(text, settings["long"], settings["replacements"])
        ]
        read, written, scores, attention = zip(*parts, strict=True)
        return {
            "translations": " ".join(map(target.decode, written)).encode(),
            "scores": np.float32(np.mean(scores)),
            "source_pieces": pieces(source, read),
            "pieces": pieces(target, written),
            "attention": along_diagonal(attention),
        }

    def predict(texts):
        answers = [translate(text) for text in texts]
        return {
            name: stack([answer[name] for answer in answers]) for name in answers[0]
        }

    return predict


def beam_search(decode, state, beam_size, exponent, most_steps):
    """Keeps the best few translations at each step, until all of them have ended.

    Args:
        decode: A function from the pieces written last, `(1, beams)`, and a dictionary
            of arrays `(1, beams, size)` to the same dictionary after a step, with the
            likeliest next `tokens` and their `log_probs`, `(1, beams, candidates)`, and
            `attention`, `(1, beams, source_steps)`.
        state: The arrays before the first step, of one beam.
        beam_size: How many translations to keep.
        exponent: That of the length penalty.
        most_steps: The most pieces of a translation, its end included.

    Returns:
        The pieces of the best translation, its score, and where attention went,
        `(pieces, source_steps)`.
    """
    alone = np.where(np.arange(beam_size) == 0, 0, -np.inf)  # Of those that are alike.
    state = {name: np.repeat(value, beam_size, 1) for name, value in state.items()}
    tokens = np.full((beam_size, 1), START, "int32")
    log_probs, lengths = alone, np.zeros(beam_size, int)
    ended = np.zeros(beam_size, bool)
    traces = [[]] * beam_size
    while not ended.all():
        answer = decode(tokens[None, :, -1], state)
        following = np.where(
            ended[:, None], alone, answer.pop("log_probs")[0, :, :beam_size]
        )
        candidates = np.where(
            ended[:, None], END, answer.pop("tokens")[0, :, :beam_size]
        )
        attention = answer.pop("attention")[0]
        lengths = lengths + ~ended
        totals = log_probs[:, None] + following
        scores = totals / ((5 + lengths[:, None]) / 6) ** exponent
        best = np.argsort(-scores, axis=None, kind="stable")[:beam_size]
        slots = best // beam_size
        last = candidates.reshape(-1)[best].astype("int32")
        log_probs, lengths = totals.reshape(-1)[best], lengths[slots]
        tokens = np.column_stack([tokens[slots], last])
        traces = [[*traces[slot], attention[slot]] for slot in slots]
        state = {name: value[:, slots] for name, value in answer.items()}
        ended = ended[slots] | (last == END) | (lengths >= most_steps)
    written = [int(token) for token in tokens[0, 1:] if token != END]
    trace = np.reshape(traces[0][: len(written)], (len(written), attention.shape[-1]))
    return written, scores.reshape(-1)[best[0]], trace


def split(text, long, replacements):
    """Splits a long text into parts, as the served model does."""
    text = re.sub("[\t\n\v\f\r ]+", " ", text).strip(" ")
    if re.fullmatch(long, text):
        for pattern, replacement in replacements:
            text = re.sub(pattern, replacement, text)
    return text.split("\n")


def pieces(processor, parts):
    """Returns the pieces of all parts as an array of encoded strings."""
    return encoded(processor.id_to_piece(token) for part in parts for token in part)


def encoded(texts):
    """Returns strings as an array of bytes."""
    return np.array([text.encode() for text in texts], object)


def along_diagonal(parts):
    """Lays the attention of each part side by side, `(steps, source_steps)`."""
    sizes = np.array([part.shape for part in parts])
    whole = np.zeros(sizes.sum(0), "float32")
    for (row, column), (rows, columns), part in zip(
        np.cumsum(sizes, 0) - sizes, sizes, parts, strict=True
    ):
        whole[row : row + rows, column : column + columns] = part
    return whole


def stack(values):
    """Stacks values; shorter arrays are padded with zeros or empty strings."""
    shapes = [np.shape(value) for value in values]
    is_text = isinstance(values[0], bytes) or values[0].dtype == object
    whole = np.full(
        (len(values), *np.max(shapes, axis=0).astype(int)),
        b"" if is_text else 0,
        object if is_text else "float32",
    )
    for number, (shape, value) in enumerate(zip(shapes, values, strict=True)):
        whole[(number, *map(slice, shape))] = value
    return whole


def main():
    """Prints the translation of each text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", help="texts, or - for lines to be read")
    parser.add_argument("--model", type=Path, default=BUNDLE / "model.tflite")
    parser.add_argument("--greedy", action="store_true", help="search with one beam")
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    texts = arguments.texts
    if texts == ["-"]:
        lines = sys.stdin.buffer.read().splitlines()
        texts = [line.decode("utf-8", "replace") for line in lines if line.strip()]
    if not texts or not all(text.strip() for text in texts):
        print("error: a text is empty; write at least one word", file=sys.stderr)
        sys.exit(2)
    signature = "greedy" if arguments.greedy else "serving_default"
    predict = load_model(arguments.model, signature)
    for text in texts:
        # What the terminal passed that is no UTF-8 counts as a space.
        answer = predict(
            [text.encode(errors="surrogateescape").decode(errors="replace")]
        )
        print(answer["translations"][0].decode())


if __name__ == "__main__":
    main()
