"""Draws faces on a device: python run.py 7 8 9

Needs NumPy, Pillow and ai-edge-litert, see requirements.txt; no TensorFlow. A seed
gives the face that the served model gives.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

BUNDLE = Path(__file__).parent
MAX_SEED = 2**31 - 1
# The constants of Philox (Salmon et al., 2011), and TensorFlow's key for seeds.
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
KEY = 0x3EC8F720, 0x02461E29
ROUNDS = 10


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file; `attributes.json` is in the same folder.
        signature: `serving_default`, a function of seeds; `with_attributes`, of lists
            of a seed and values of attributes, all of them strings; or `latent`, of
            latent vectors.

    Returns:
        A function from a list of inputs to named arrays, `(inputs, …)`: `image_bytes`,
        PNG files; of seeds also `latents`, and `attributes` if the model has any.

    Raises:
        ValueError: There is no such signature.
    """
    content = read_attributes(path)
    interpreter = Interpreter(str(path), num_threads=2)
    draw = interpreter.get_signature_runner("draw")
    draw_latents = interpreter.get_signature_runner("draw_latents")
    size = draw.get_input_details()["noise"]["shape"][1]
    attributes = content["attributes"]

    def draw_seed(seed, wanted=()):
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"the seed {seed} must be from 0 to {MAX_SEED}")
        inputs, names = {"noise": normal(seed, size)[None].astype("float32")}, []
        if attributes:
            codes = choose(attributes, draw_codes(seed, content), wanted)
            chosen = list(zip(attributes, codes, strict=True))
            values = [np.eye(len(each["values"]))[code] for each, code in chosen]
            inputs["values"] = np.concatenate(values)[None].astype("float32")
            names = [each["values"][code].encode() for each, code in chosen]
        answer = draw(**inputs)
        return {
            "image_bytes": encode(answer["images"][0]),
            "latents": answer["latents"][0],
            **({"attributes": names} if attributes else {}),
        }

    def draw_latent(latents):
        latents = np.asarray(latents, "float32")[None]
        return {"image_bytes": encode(draw_latents(latents=latents)["images"][0])}

    functions = {
        "serving_default": lambda seed: draw_seed(int(seed)),
        "latent": draw_latent,
    }
    if attributes:
        functions["with_attributes"] = lambda row: draw_seed(int(row[0]), row[1:])
    if signature not in functions:
        raise ValueError(f"the bundle has no signature {signature}")

    def predict(inputs):
        answers = [functions[signature](each) for each in inputs]
        return {
            name: np.array(
                [answer[name] for answer in answers],
                "float32" if name == "latents" else object,
            )
            for name in answers[0]
        }

    return predict


def read_attributes(path):
    """Returns the content of `attributes.json` beside a model."""
    return json.loads((Path(path).parent / "attributes.json").read_text("utf-8"))


def choose(attributes, drawn, wanted):
    """Returns the indices of the values of a face.

    Args:
        attributes: The attributes of the bundle.
        drawn: The indices that the seed has drawn.
        wanted: The wanted values, texts; empty ones are drawn.

    Raises:
        ValueError: An attribute has no such value, or there are too few or too many.
    """
    if len(wanted) not in (0, len(attributes)):
        names = ", ".join(each["name"] for each in attributes)
        raise ValueError(f"pass a value, which may be empty, for each of {names}")
    codes = list(drawn)
    for j, text in enumerate(wanted):
        values = attributes[j]["values"]
        if text and text not in values:
            name = attributes[j]["name"]
            raise ValueError(f"{name} must be one of {', '.join(values)}, or empty")
        codes[j] = values.index(text) if text else codes[j]
    return codes


def draw_codes(seed, content):
    """Returns attributes as frequent as in the training: the indices of the values."""
    bounds = np.cumsum(content["probabilities"])[:-1].astype("float32")
    number = to_uniform(random_bits(seed, 1, 1)[0])
    return content["combinations"][np.searchsorted(bounds, number, side="right")]


def encode(pixels):
    """Returns the PNG file of pixels from −1 to 1."""
    pixels = np.clip(np.rint(127.5 * (pixels + 1)), 0, 255).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def normal(seed, size):
    """Returns TensorFlow's `stateless_normal` of the seed `(seed, 0)`, `(size,)`.

    Philox makes bits of the seed, and the method of Box and Muller normal numbers.
    """
    numbers = to_uniform(random_bits(seed, 0, size)).astype("float32").reshape(-1, 2)
    first = np.maximum(numbers[:, 0], np.float32(1e-7))
    radius = np.sqrt(-2 * np.log(first))
    angle = np.float32(2 * np.pi) * numbers[:, 1]
    pairs = np.stack([np.sin(angle) * radius, np.cos(angle) * radius], axis=1)
    return pairs.reshape(-1)[:size]


def to_uniform(bits):
    """Returns numbers from 0 to 1 that TensorFlow makes of the lower 23 bits."""
    return ((bits & 0x7FFFFF) / np.float32(2**23)).astype("float32")


def random_bits(first, second, number):
    """Returns the bits of a seed of two numbers, uint32, a multiple of 4."""
    low = 0xFFFFFFFF
    counter = first & low, first >> 32, second & low, second >> 32
    key_0, key_1, high_0, high_1 = philox(*np.array([counter], "uint64").T, KEY)[:, 0]
    blocks = np.arange(-(-number // 4), dtype="uint64")
    zeros = np.zeros_like(blocks)
    counters = blocks, zeros, zeros + high_0, zeros + high_1
    return philox(*counters, (int(key_0), int(key_1))).T.reshape(-1)


def philox(c0, c1, c2, c3, key):
    """Returns Philox 4×32 of counters, uint64 `(4, counters)` below 2³²."""
    low = np.uint64(0xFFFFFFFF)
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        high_1, high_0 = second >> np.uint64(32), first >> np.uint64(32)
        c0, c2 = high_1 ^ c1 ^ np.uint64(k0), high_0 ^ c3 ^ np.uint64(k1)
        c1, c3 = second & low, first & low
        k0, k1 = (k0 + KEY_STEPS[0]) & int(low), (k1 + KEY_STEPS[1]) & int(low)
    return np.array([c0, c1, c2, c3])


def main():
    """Writes a PNG file for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="+", type=int, help=f"from 0 to {MAX_SEED}")
    parser.add_argument(
        "--attributes",
        nargs="*",
        default=(),
        help="a value for each attribute, in their order; an empty one is drawn",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where the files are written"
    )
    parser.add_argument(
        "--model", type=Path, default=BUNDLE / "model.tflite", help="a .tflite file"
    )
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"there is no model {arguments.model}")
    signature = "with_attributes" if arguments.attributes else "serving_default"
    try:
        predict = load_model(arguments.model, signature)
        names = [
            each["name"] for each in read_attributes(arguments.model)["attributes"]
        ]
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for seed in arguments.seeds:
            request = [str(seed), *arguments.attributes]
            answer = predict([request if arguments.attributes else seed])
            values = [value.decode() for value in answer.get("attributes", [[]])[0]]
            path = arguments.folder / f"face_{seed}.png"
            path.write_bytes(answer["image_bytes"][0])
            labels = ", ".join(map("=".join, zip(names, values, strict=True)))
            print(f"{seed}\t{path}\t{labels}".rstrip())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
