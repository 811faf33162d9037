"""Classifies texts on a device: python run.py "what a lovely day"

Needs numpy, sentencepiece and ai-edge-litert, as requirements.txt says; no TensorFlow.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from sentencepiece import SentencePieceProcessor

BUNDLE = Path(__file__).parent
UNKNOWN = 1


def load_model(path=BUNDLE / "model.tflite"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `labels.txt`, `tokenizer.model` and `cleaning.json`
            lie beside it.

    Returns:
        A function from a list of texts to `classes` and `scores`, arrays
        `(texts, classes)`, the best first, and `tokens` and `attention`, arrays
        `(texts, steps)`, padded with empty strings and zeros.
    """
    folder = Path(path).parent
    labels = (folder / "labels.txt").read_text("utf-8").strip().split("\n")
    labels = np.array([label.encode() for label in labels], object)
    cleaning = json.loads((folder / "cleaning.json").read_text("utf-8"))
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    interpreter = Interpreter(str(path), num_threads=1)
    runner = interpreter.get_signature_runner()

    def predict_one(text):
        tokens = tokenize(text, cleaning, pieces)
        answer = runner(tokens=np.array([tokens], "int32"))
        order = np.argsort(-answer["scores"][0], kind="stable")
        return (
            labels[order],
            answer["scores"][0, order],
            np.array([pieces.id_to_piece(token).encode() for token in tokens], object),
            answer["attention"][0],
        )

    def predict(texts):
        classes, scores, tokens, attention = zip(*map(predict_one, texts), strict=True)
        steps = max(map(len, tokens))
        return {
            "classes": np.stack(classes),
            "scores": np.stack(scores),
            "tokens": np.stack(
                [
                    np.pad(row, (0, steps - len(row)), constant_values=b"")
                    for row in tokens
                ]
            ),
            "attention": np.stack(
                [np.pad(row, (0, steps - len(row))) for row in attention]
            ),
        }

    return predict


def tokenize(text, cleaning, pieces):
    """Splits a text into pieces as the served model does.

    Args:
        text: A string.
        cleaning: Pairs of a pattern and what replaces it.
        pieces: A SentencePiece processor.

    Returns:
        The numbers of the pieces, at least one.
    """
    for pattern, replacement in cleaning:
        text = re.sub(pattern, replacement, text)
    return pieces.encode(text) or [UNKNOWN]


def main():
    """Prints the classes of each text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", help="texts, or - for lines to be read")
    parser.add_argument("--model", type=Path, default=BUNDLE / "model.tflite")
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
    predict = load_model(arguments.model)
    for text in texts:
        # What the terminal passed that is no UTF-8 counts as a space.
        answer = predict(
            [text.encode(errors="surrogateescape").decode(errors="replace")]
        )
        best = zip(answer["classes"][0], answer["scores"][0], strict=True)
        ranked = "\t".join(f"{name.decode()} {score:.4f}" for name, score in best)
        print(f"{ranked}\t{text.encode(errors='replace').decode()}")


if __name__ == "__main__":
    main()
