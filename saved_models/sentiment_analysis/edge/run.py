"""Classifies texts on a device: python run.py "what a lovely day"

It needs numpy, sentencepiece and ai-edge-litert (requirements.txt), but no TensorFlow.
"""

import argparse
import codecs
import json
import re
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from sentencepiece import SentencePieceProcessor

BUNDLE = Path(__file__).parent
UNKNOWN = 1  # The token id of unknown tokens.


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file. Its folder also holds `labels.txt`, `tokenizer.model`
            and `cleaning.json`.
        signature: `serving_default` or `with_attention`.

    Returns:
        A function from a list of texts to named arrays: `classes` and `scores`, both
        `(texts, classes)`, best first. `with_attention` adds the subword `tokens` of
        each text and `attention`, their weights with 6 decimals, both `(texts,)` and
        separated by spaces.
    """
    folder = Path(path).parent
    labels = (folder / "labels.txt").read_text("utf-8").strip().split("\n")
    labels = np.array([label.encode() for label in labels], object)
    cleaning = json.loads((folder / "cleaning.json").read_text("utf-8"))
    processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    interpreter = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner()

    def predict_one(text):
        token_ids = tokenize(text, cleaning, processor)
        found = runner(token_ids=np.array([token_ids], "int32"))
        order = np.argsort(-found["scores"][0], kind="stable")
        answer = {"classes": labels[order], "scores": found["scores"][0, order]}
        if signature == "with_attention":
            tokens = " ".join(map(processor.id_to_piece, token_ids))
            weights = " ".join(f"{weight:.6f}" for weight in found["attention"][0])
            answer["tokens"] = np.array(tokens.encode(), object)
            answer["attention"] = np.array(weights.encode(), object)
        return answer

    def predict(texts):
        answers = [predict_one(text) for text in texts]
        return {
            name: np.stack([answer[name] for answer in answers]) for name in answers[0]
        }

    return predict


def tokenize(text, cleaning, processor):
    """Tokenizes a text as the served model does.

    Args:
        text: A string.
        cleaning: Pairs of a regular expression and its replacement.
        processor: The `SentencePieceProcessor`.

    Returns:
        The token ids, at least one.
    """
    for pattern, replacement in cleaning:
        text = re.sub(pattern, replacement, text)
    return processor.encode(text) or [UNKNOWN]


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
    """Prints a line for each text: its classes, best first. Blank lines stay blank."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "texts", nargs="+", help="texts, or - to read one per line from standard input"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=BUNDLE / "model.tflite",
        help="a .tflite file of this bundle (default: model.tflite)",
    )
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    texts = read_texts(arguments.texts)
    predict = load_model(arguments.model)
    for text in texts:
        if not text.strip():
            print()
            continue
        answer = predict([text])
        pairs = zip(answer["classes"][0], answer["scores"][0], strict=True)
        classes = "\t".join(f"{name.decode()} {score:.4f}" for name, score in pairs)
        print(f"{classes}\t{text}")


if __name__ == "__main__":
    main()
