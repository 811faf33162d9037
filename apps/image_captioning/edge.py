"""Captions images on a device: python run.py photo.jpg

Needs NumPy, Pillow, sentencepiece and ai-edge-litert, see requirements.txt; no
TensorFlow.
"""

import argparse
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from sentencepiece import SentencePieceProcessor

BUNDLE = Path(__file__).parent
START = 2
END = 3
FORMATS = {"JPEG", "MPO", "PNG", "GIF", "BMP"}  # Those that the served model decodes.
# What turns a photograph upright, by its orientation in Exif data.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `tokens.model` and `settings.json` are in the same
            folder.
        signature: `serving_default`, or `greedy` for a single beam.

    Returns:
        A function from a list of encoded images to named arrays `(images, …)`:
        `captions`; `scores`; `tokens`, `(images, max_tokens)`, empty after the end; and
        `attention`, `(images, max_tokens, rows, columns)`, zeros after the end.
    """
    folder = Path(path).parent
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    beam_size = 1 if signature == "greedy" else settings["beam_size"]
    processor = SentencePieceProcessor(model_file=str(folder / "tokens.model"))
    interpreter = Interpreter(str(path), num_threads=2)
    encode = interpreter.get_signature_runner("encode")
    decode = interpreter.get_signature_runner("decode")
    size = encode.get_input_details()["images"]["shape"][1]

    def caption(image_bytes):
        state = encode(images=prepare(image_bytes, size, settings["resize"]))
        memory = {name: state.pop(name) for name in ("values", "keys", "summary")}
        token_ids, score, trace = beam_search(
            lambda token_ids, state: decode(token_ids=token_ids, **state, **memory),
            state,
            beam_size=beam_size,
            alpha=settings["length_penalty"],
            max_steps=settings["max_tokens"],
        )
        tokens = np.full(settings["max_tokens"], b"", object)
        tokens[: len(token_ids)] = [
            processor.id_to_piece(token_id).encode() for token_id in token_ids
        ]
        attention = np.zeros((len(tokens), *settings["grid"]), "float32")
        attention[: len(token_ids)] = trace.reshape(-1, *settings["grid"])
        return {
            "captions": processor.decode(token_ids).encode(),
            "scores": np.float32(score),
            "tokens": tokens,
            "attention": attention,
        }

    def predict(encoded_images):
        answers = [caption(image_bytes) for image_bytes in encoded_images]
        return {
            name: np.array(
                [answer[name] for answer in answers],
                "float32" if name in ("scores", "attention") else object,
            )
            for name in answers[0]
        }

    return predict


def beam_search(decode, state, beam_size, alpha, max_steps):
    """Returns the best caption of one image.

    Args:
        decode: Computes one step. Its arguments are the last token ids, `(1, beams)`,
            and the state, a dictionary of arrays `(1, beams, size)`. It returns the
            next state, the most probable next `token_ids` and their `log_probs`,
            `(1, beams, candidates)`, and `attention`, `(1, beams, places)`, in
            one dictionary.
        state: The initial state, of a single beam.
        beam_size: Number of hypotheses to keep.
        alpha: Exponent of the length penalty.
        max_steps: Maximum number of tokens, end token included.

    Returns:
        The token ids, the score, and the attention, `(steps, places)`.
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


def prepare(image_bytes, size, how):
    """Decodes and resizes one image as the served model does.

    Args:
        image_bytes: An encoded image.
        size: Height and width of the result in pixels.
        how: `crop` keeps the central square, `pad` adds grey at the bottom or at the
            right, `squash` changes the aspect ratio.

    Returns:
        float32 `(1, size, size, 3)`, RGB from 0 to 255.
    """
    image = decode(image_bytes)
    columns, rows = image.size
    if how == "crop":
        side = min(rows, columns)
        left, top = (columns - side) // 2, (rows - side) // 2
        image = image.crop((left, top, left + side, top + side))
    inner_rows = inner_columns = size
    if how == "pad" and rows < columns:
        inner_rows = max(1, (2 * rows * size + columns) // (2 * columns))
    elif how == "pad":
        inner_columns = max(1, (2 * columns * size + rows) // (2 * rows))
    # Pillow rounds when it resizes 8-bit images, so each channel is resized as floats.
    channels = [
        channel.convert("F").resize(
            (inner_columns, inner_rows), Image.Resampling.BILINEAR
        )
        for channel in image.split()
    ]
    padded = np.full((1, size, size, 3), 127.5, "float32")
    padded[0, :inner_rows, :inner_columns] = np.stack(channels, axis=-1)
    return padded


def decode(image_bytes):
    """Decodes an image as the served model does: upright, to 8-bit RGB on white."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        if image.format not in FORMATS:
            raise ValueError(f"it is a {image.format} image; convert it to JPEG or PNG")
        if image.format == "BMP" and image.mode in ("1", "P"):
            raise ValueError("it is a BMP image with a palette; convert it to PNG")
        if image.format in ("JPEG", "MPO"):
            turn = TURNS.get(read_orientation(image.info.get("exif", b"")))
            image = image if turn is None else image.transpose(turn)
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip them.
            image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def read_orientation(exif):
    """Returns the orientation in Exif data; 1, upright, if it is damaged or missing."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[tiff[:4]]
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for i in range(num_entries):
            entry = struct.unpack_from(f"{order}HHIHxx", tiff, start + 2 + 12 * i)
            if entry[:3] == (0x0112, 3, 1) and 1 <= entry[3] <= 8:
                return entry[3]
    except (KeyError, struct.error):
        pass
    return 1


def main():
    """Prints a caption of each image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="JPEG or PNG files")
    parser.add_argument(
        "--model", type=Path, default=BUNDLE / "model.tflite", help="a .tflite file"
    )
    parser.add_argument("--greedy", action="store_true", help="use a single beam")
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    signature = "greedy" if arguments.greedy else "serving_default"
    predict = load_model(arguments.model, signature)
    for path in arguments.images:
        try:
            answer = predict([path.read_bytes()])
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            print(f"error: {path} cannot be read as an image: {error}", file=sys.stderr)
            sys.exit(2)
        print(f"{path}\t{answer['captions'][0].decode()}")


if __name__ == "__main__":
    main()
