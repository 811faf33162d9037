"""Translates sentences on a device: python run.py "a man is sleeping"

Needs NumPy, sentencepiece and ai-edge-litert, see requirements.txt; no TensorFlow.
"""

import argparse
import codecs
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
        path: The `.tflite` file. `search.json`, `source.model` and, if the target
            language has its own vocabulary, `target.model` are in the same folder.
        signature: `serving_default`, `with_attention`, or `greedy` for a single beam.

    Returns:
        A function from a list of texts to named arrays `(texts,)`: `translations` and
        `scores`. `with_attention` adds `source_tokens` and `target_tokens`, the subword
        tokens separated by spaces; and `attention`, a line for each target token with
        the weights of the source tokens, with 6 decimals, and an empty line between
        the parts of a long text.
    """
    folder = Path(path).parent
    settings = json.loads((folder / "search.json").read_text("utf-8"))
    beam_size = 1 if signature == "greedy" else settings["beam_size"]
    source = target = SentencePieceProcessor(model_file=str(folder / "source.model"))
    if (folder / "target.model").exists():
        target = SentencePieceProcessor(model_file=str(folder / "target.model"))
    interpreter = Interpreter(str(path), num_threads=1)
    encode = interpreter.get_signature_runner("encode")
    decode = interpreter.get_signature_runner("decode")

    def translate_part(text):
        text = unicodedata.normalize("NFKC", text)
        text = text.replace("\N{REPLACEMENT CHARACTER}", " ")
        source_ids = [*source.encode(text), END]
        state = encode(token_ids=np.array([source_ids], "int32"))
        memory = {name: state.pop(name) for name in ("values", "keys", "summary")}
        target_ids, score, attention = beam_search(
            lambda token_ids, state: decode(token_ids=token_ids, **state, **memory),
            state,
            beam_size=beam_size,
            alpha=settings["length_penalty"],
            max_steps=2 * len(source_ids) + 10,
        )
        if len(source_ids) == 1:  # Empty text translates to empty text.
            target_ids, attention = [], attention[:0]
        return source_ids, target_ids, score, attention

    def translate(text):
        parts = [
            translate_part(part)
            for part in split_text(
                text, settings["long_text"], settings["replacements"]
            )
        ]
        source_ids, target_ids, scores, attention = zip(*parts, strict=True)
        answer = {
            "translations": " ".join(map(target.decode, target_ids)).encode(),
            "scores": np.float32(np.mean(scores)),
        }
        if signature == "with_attention":
            answer["source_tokens"] = tokens(source, source_ids)
            answer["target_tokens"] = tokens(target, target_ids)
            answer["attention"] = "\n\n".join(map(lines, attention)).encode()
        return answer

    def predict(texts):
        answers = [translate(text) for text in texts]
        return {
            name: np.array(
                [answer[name] for answer in answers],
                "float32" if name == "scores" else object,
            )
            for name in answers[0]
        }

    return predict


def beam_search(decode, state, beam_size, alpha, max_steps):
    """Returns the best translation of one sentence.

    Args:
        decode: Computes one step. Its arguments are the last token ids, `(1, beams)`,
            and the state, a dictionary of arrays `(1, beams, size)`. It returns the
            next state, the most probable next `token_ids` and their `log_probs`,
            `(1, beams, candidates)`, and `attention`, `(1, beams, source_steps)`, in
            one dictionary.
        state: The initial state, of a single beam.
        beam_size: Number of hypotheses to keep.
        alpha: Exponent of the length penalty.
        max_steps: Maximum number of tokens, end token included.

    Returns:
        The token ids, the score, and the attention, `(steps, source_steps)`.
    """
    # All beams start identical, so every one but the first scores −inf. A finished
    # hypothesis has a single continuation for the same reason.
    only_first = np.where(np.arange(beam_size) == 0, 0, -np.inf)
    state = {name: np.repeat(value, beam_size, 1) for name, value in state.items()}
    token_ids = np.full((beam_size, 1), START, "int32")
    log_probs, lengths = only_first, np.zeros(beam_size, int)
    is_done = np.zeros(beam_size, bool)
    traces = [[]] * beam_size
    while not is_done.all():
        answer = decode(token_ids[None, :, -1], state)
        next_log_probs = np.where(
            is_done[:, None], only_first, answer.pop("log_probs")[0, :, :beam_size]
        )
        next_ids = np.where(
            is_done[:, None], END, answer.pop("token_ids")[0, :, :beam_size]
        )
        attention = answer.pop("attention")[0]
        lengths = lengths + ~is_done
        totals = log_probs[:, None] + next_log_probs
        scores = totals / ((5 + lengths[:, None]) / 6) ** alpha
        best = np.argsort(-scores, axis=None, kind="stable")[:beam_size]
        parents = best // beam_size
        last = next_ids.reshape(-1)[best].astype("int32")
        log_probs, lengths = totals.reshape(-1)[best], lengths[parents]
        token_ids = np.column_stack([token_ids[parents], last])
        traces = [[*traces[parent], attention[parent]] for parent in parents]
        state = {name: value[:, parents] for name, value in answer.items()}
        is_done = is_done[parents] | (last == END) | (lengths >= max_steps)
    best_ids = [int(token_id) for token_id in token_ids[0, 1:] if token_id != END]
    trace = np.reshape(traces[0][: len(best_ids)], (-1, attention.shape[-1]))
    return best_ids, scores.reshape(-1)[best[0]], trace


def split_text(text, long_text, replacements):
    """Splits a long text into parts, like the served model."""
    text = re.sub("[\t\n\v\f\r ]+", " ", text).strip(" ")
    if re.fullmatch(long_text, text):
        for pattern, replacement in replacements:
            text = re.sub(pattern, replacement, text)
    return text.split("\n")


def tokens(processor, parts):
    """Returns the tokens of all parts, encoded and separated by spaces."""
    token_ids = [token_id for part in parts for token_id in part]
    return " ".join(map(processor.id_to_piece, token_ids)).encode()


def lines(attention):
    """Returns one line of weights for each target token of a part."""
    return "\n".join(" ".join(f"{weight:.6f}" for weight in row) for row in attention)


def read_texts(arguments):
    """Returns the texts: the arguments, or the lines of standard input for `-`.

    Ends the program if there is no text, or if one is not UTF-8.
    """
    unit, texts = "text", arguments
    if arguments == ["-"]:
        content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
        lines = content.splitlines()
        unit, texts = "line", [line.decode(errors="surrogateescape") for line in lines]
    for number, text in enumerate(texts, start=1):
        try:
            text.encode()
        except UnicodeEncodeError:
            stop(f"{unit} {number} is not UTF-8; convert it to UTF-8")
    blank = [not text.strip() for text in texts]
    if all(blank) or (any(blank) and unit == "text"):
        stop("a text is empty; write at least one word")
    return texts


def stop(reason):
    """Ends the program with an error message."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def main():
    """Prints the translation of each text. Blank lines stay blank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", help="texts, or - to read lines")
    parser.add_argument("--model", type=Path, default=BUNDLE / "model.tflite")
    parser.add_argument("--greedy", action="store_true", help="use a single beam")
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    texts = read_texts(arguments.texts)
    signature = "greedy" if arguments.greedy else "serving_default"
    predict = load_model(arguments.model, signature)
    for text in texts:
        print(predict([text])["translations"][0].decode() if text.strip() else "")


if __name__ == "__main__":
    main()
