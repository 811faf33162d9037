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


def load_model(path=BUNDLE / "model.tflite"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file. Its folder also holds `labels.txt`, `tokenizer.model`
            and `cleaning.json`.

    Returns:
        A function from a list of texts to named arrays: `classes` and `scores`, both
        `(texts, classes)`, best first; the subword `tokens` of the texts and their
        `attention`, both `(texts, steps)`, padded with empty strings and zeros.
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
        tokens = [processor.id_to_piece(token_id).encode() for token_id in token_ids]
        answer = runner(token_ids=np.array([token_ids], "int32"))
        order = np.argsort(-answer["scores"][0], kind="stable")
        return {
            "classes": labels[order],
            "scores": answer["scores"][0, order],
            "tokens": np.array(tokens, object),
            "attention": answer["attention"][0],
        }

    def predict(texts):
        answers = [predict_one(text) for text in texts]
        max_steps = max(len(answer["tokens"]) for answer in answers)
        for answer in answers:
            padding = (0, max_steps - len(answer["tokens"]))
            answer["tokens"] = np.pad(answer["tokens"], padding, constant_values=b"")
            answer["attention"] = np.pad(answer["attention"], padding)
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
