"""Malformed requests to SavedModels: none may end, stall or swell a server.

    python -m benchmarks.malformed_requests --model saved_models/image_classification/1

Each signature gets requests of wrong shapes, sizes and values, damaged and huge images,
strange texts, and mixtures of these with good inputs. They are made from the name and
the type of its input, so every application can be asked. Stock TensorFlow answers them
in a process of its own, as a server would. If a request ends that process, a new one
goes on with the next request.
"""

import argparse
import functools
import io
import json
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
RELEASED = sorted(ROOT.glob("saved_models/*/1"))

MAX_SECONDS = 60  # A request that takes longer counts as one that ends the process.
MAX_BYTES = 8 << 30  # Above idle, so that an unbounded request does not end others.
# What this benchmark sends at most to prepared tensors.
MAX_TENSOR_BYTES = 200_000_000

CHILD = """
import sys
from benchmarks import malformed_requests

malformed_requests.answer_requests(sys.argv[1], *map(int, sys.argv[2:]))
"""


class Row(NamedTuple):
    """What became of the requests to a signature.

    Attributes:
        signature: Its name.
        requests: The number of requests.
        refused: Requests that were refused as invalid arguments.
        answered: Requests that were answered.
        errors: Inputs of these that got an error of their own.
        not_finite: Requests whose answers contain NaN or infinity.
        failures: Whatever else happened, after the kind of request: "wrong rank:
            aborted, Check failed: …".
        messages: The messages of the refusals.
        max_seconds: The longest time of a request.
        slowest: Its kind.
        max_megabytes: The largest memory above that of the idle process.
        largest: The kind of the request that raised it most above all earlier ones;
            TensorFlow keeps memory.
    """

    signature: str
    requests: int
    refused: int
    answered: int
    errors: int
    not_finite: int
    failures: list[str]
    messages: set[str]
    max_seconds: float
    slowest: str
    max_megabytes: float
    largest: str


def probe(saved_model, num_requests=200, seed=0):
    """Sends malformed requests to every signature of a SavedModel.

    Args:
        saved_model: Its directory.
        num_requests: Requests to each signature.
        seed: Seed of the requests.

    Returns:
        A `Row` for each signature.
    """
    results = []
    while True:
        arguments = [Path(saved_model).resolve(), num_requests, seed, len(results)]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", CHILD, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )
            for line in process.stdout:
                result = json.loads(line)
                if "outcome" in result:
                    results[-1].update(result)
                else:
                    results.append({**result, "seconds": 0, "megabytes": 0})
            process.wait()
            errors.seek(0)
            lines = errors.read().splitlines()
        if process.returncode == 0:
            return make_rows(results)
        if process.returncode > 0 or not results or "outcome" in results[-1]:
            raise RuntimeError("\n".join(lines))
        results[-1]["outcome"] = why_ended(process.returncode, lines)


def why_ended(status, lines):
    """Returns why a process ended, given its status and what it printed."""
    if status == -signal.SIGALRM:
        return f"no answer in {MAX_SECONDS} s"
    causes = [line for line in lines if re.search("Check failed|bad_alloc", line)]
    return ", ".join(["aborted", signal.Signals(-status).name, *causes[:1]])


def make_rows(results):
    """Returns the `Row` of each signature, given the results of its requests."""
    peak = 0
    for result in results:
        result["rise"] = result["megabytes"] - peak
        peak = max(peak, result["megabytes"])
    rows = []
    for signature in dict.fromkeys(result["signature"] for result in results):
        its = [result for result in results if result["signature"] == signature]
        outcomes = Counter(result["outcome"] for result in its)
        slowest = max(its, key=lambda result: result["seconds"])
        largest = max(its, key=lambda result: result["rise"])
        failures = [
            f"{result['kind']}: {result['outcome']}"
            for result in its
            if result["outcome"] not in ("refused", "answered")
        ]
        rows.append(
            Row(
                signature,
                requests=len(its),
                refused=outcomes["refused"],
                answered=outcomes["answered"],
                errors=sum(result.get("errors", 0) for result in its),
                not_finite=sum(not result.get("is_finite", True) for result in its),
                failures=failures,
                messages={result["message"] for result in its if "message" in result},
                max_seconds=slowest["seconds"],
                slowest=slowest["kind"],
                max_megabytes=max(result["megabytes"] for result in its),
                largest=largest["kind"] if largest["rise"] > 0 else "earlier requests",
            )
        )
    return rows


# In the process that answers: stock TensorFlow, and nothing of the applications.


def answer_requests(saved_model, num_requests, seed, start):
    """Answers requests, and prints a line of JSON before and after each of them.

    Args:
        saved_model: The directory of a SavedModel.
        num_requests: Requests to each signature.
        seed: Seed of the requests.
        start: How many requests to skip.
    """
    import tensorflow as tf

    if b"Sentencepiece" in Path(saved_model, "saved_model.pb").read_bytes():
        import tensorflow_text  # noqa: F401, registers the tokenizer's operations.

    loaded = tf.saved_model.load(saved_model)
    signatures = []
    for _, function in sorted(loaded.signatures.items()):
        (spec,) = function.structured_input_signature[1].values()
        signatures.append((function, spec))
        ask(function, spec, good_inputs(spec, np.random.default_rng(seed)))  # Warm-up.
    assert not {"apps", "layers", "keras_nlp", "keras_hub"} & set(sys.modules)
    idle = memory("VmRSS")
    max_bytes = 1024 * memory("VmData") + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    names = sorted(loaded.signatures)
    for number in range(start, num_requests * len(names)):
        index, number = divmod(number, num_requests)
        function, spec = signatures[index]
        kind, inputs = make_request(spec, number, seed)
        print(json.dumps({"signature": names[index], "kind": kind}), flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # Resets the peak, VmHWM.
        signal.alarm(MAX_SECONDS)
        begin = time.perf_counter()
        result = ask(function, spec, inputs)
        result["seconds"] = time.perf_counter() - begin
        signal.alarm(0)
        result["megabytes"] = (memory("VmHWM") - idle) / 1024
        print(json.dumps(result), flush=True)


def ask(function, spec, inputs):
    """Returns what becomes of a request: the outcome and what is known of it."""
    import tensorflow as tf

    try:
        outputs = function(**{spec.name: tf.constant(inputs)})
        outputs = {name: output.numpy() for name, output in outputs.items()}
    except tf.errors.InvalidArgumentError as error:
        return {"outcome": "refused", "message": error.message}
    except Exception as error:  # The server would answer an error of its own.
        return {"outcome": f"{type(error).__name__}, {error}"[:500]}
    for name, output in outputs.items():
        if np.shape(output)[:1] != np.shape(inputs)[:1]:
            return {"outcome": f"{name} has the shape {output.shape}"}
    return {
        "outcome": "answered",
        "errors": sum(error != b"" for error in outputs.get("errors", [])),
        "is_finite": all(is_finite(name, output) for name, output in outputs.items()),
    }


def is_finite(name, output):
    """Returns whether an output has no NaN or infinity; `attention` may be texts."""
    if output.dtype == object:
        return name != "attention" or not re.search(rb"nan|inf", b" ".join(output.flat))
    return bool(np.isfinite(output).all())


def memory(name):
    """Returns a number of kilobytes from the status of this process."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(f"{name}:") + 1])


# Requests. Each has its own random numbers, so it can be made again without the others.


def make_request(spec, number, seed):
    """Makes a malformed request.

    Args:
        spec: The `tf.TensorSpec` of the signature's input.
        number: The number of the request; kinds take turns.
        seed: Seed of all requests.

    Returns:
        The name of its kind; the inputs, an array.
    """
    kinds = {**SHAPES, **kinds_of_values(spec)}
    kind = list(kinds)[number % len(kinds)]
    random = np.random.default_rng([seed, number])
    return kind, kinds[kind](spec, random)


def kinds_of_values(spec):
    """Returns functions of an input and random numbers that make bad inputs."""
    if spec.dtype.is_floating:
        return {"samples": SAMPLES, "latents": LATENTS}.get(spec.name, PIXELS)
    if spec.dtype.is_integer:
        return SEEDS if spec.name == "seed" else TOKEN_IDS
    if spec.shape.rank == 2:
        return ROWS
    good, bad, large = {
        "image_bytes": (good_image, IMAGES, LARGE_IMAGES),
        "audio_bytes": (good_audio, AUDIO, LARGE_AUDIO),
    }.get(spec.name, (good_text, TEXTS, LARGE_TEXTS))

    def one(make):
        return lambda spec, random: strings([make(random)])

    def mixture(spec, random):
        makers = [good, *bad.values()]
        chosen = random.integers(len(makers), size=random.integers(2, 9))
        return strings([good(random), *(makers[i](random) for i in chosen)])

    kinds = {name: one(make) for name, make in {**bad, **large}.items()}
    return {**kinds, **{f"mixture {i}": mixture for i in range(1, 6)}}


def good_inputs(spec, random, num_inputs=1):
    """Returns an array of good inputs."""
    if spec.name == "samples":
        shape = num_inputs, random.integers(1, 5000)
        return random.uniform(-1, 1, shape).astype("float32")
    if spec.name == "latents":
        return random.normal(size=(num_inputs, *spec.shape[1:])).astype("float32")
    if spec.name == "seed":
        return random.integers(2**31, size=num_inputs)
    if spec.shape.rank == 2 and spec.dtype.name == "string":
        rows = [[str(random.integers(2**31))] for _ in range(num_inputs)]
        return strings([row + (spec.shape[1] - 1) * [""] for row in rows])
    if spec.dtype.is_floating:
        return random.uniform(0, 255, (num_inputs, *spec.shape[1:])).astype("float32")
    if spec.dtype.is_integer:
        token_ids = random.integers(4, 50, (num_inputs, random.integers(2, 12)))
        token_ids[:, -1] = END
        return token_ids.astype("int32")
    makers = {"image_bytes": good_image, "audio_bytes": good_audio}
    make = makers.get(spec.name, good_text)
    return strings([make(random) for _ in range(num_inputs)])


def strings(values):
    """Returns an array of bytes."""
    return np.array(values, object)


# Shapes.


def of_shape(spec, random, shape):
    """Returns good numbers or strings in an array of another shape."""
    values = good_inputs(spec, random).ravel()
    return np.resize(values, shape).astype(values.dtype)


def wrong_rank(spec, random):
    """Returns inputs of another rank, up to 6."""
    ranks = [rank for rank in range(7) if rank != spec.shape.rank]
    return of_shape(spec, random, random.integers(1, 4, random.choice(ranks)))


def zero_size(spec, random):
    """Returns inputs of any rank, of which an axis has size 0."""
    shape = random.integers(1, 4, random.integers(2, 7))
    shape[random.integers(1, len(shape))] = 0
    return of_shape(spec, random, shape)


def no_inputs(spec, random):
    """Returns no inputs: an empty list, or an empty array of the right rank."""
    shape = good_inputs(spec, random).shape if random.integers(2) else [0]
    return of_shape(spec, random, [0, *shape[1:]])


def many_inputs(low, high):
    """Returns a function that makes many good inputs, fewer if they are large."""

    def make(spec, random):
        one = good_inputs(spec, random)
        most = MAX_TENSOR_BYTES // one.nbytes
        number = random.integers(low, high, endpoint=True)
        return np.repeat(one, min(most, number), axis=0)

    return make


def other_type(spec, random):
    """Returns an array of double precision, which no signature takes."""
    return random.choice([1.5, 2]) * np.ones((1, *random.integers(1, 9, 2)))


def other_sizes(spec, random):
    """Returns inputs of the right rank whose further axes have other sizes."""
    shape = list(good_inputs(spec, random).shape)
    for axis in range(1, len(shape)):
        size = shape[axis]
        shape[axis] = random.choice([1, 2, 10, size - 1, size, size + 1, 2 * size])
    return of_shape(spec, random, np.maximum(shape, 1))


SHAPES = {
    "wrong rank": wrong_rank,
    "another wrong rank": wrong_rank,
    "axis of size 0": zero_size,
    "no inputs": no_inputs,
    "32 inputs": many_inputs(32, 32),
    "128 inputs": many_inputs(128, 128),
    "too many inputs": many_inputs(129, 2000),
    "another type": other_type,
    "other sizes": other_sizes,
}

# Numbers.

END = 3  # Ends the token ids of a sentence.
INT32 = np.iinfo("int32")


def with_value(value, num_values=1):
    """Returns a function that replaces some values of one of several good inputs."""

    def make(spec, random):
        inputs = good_inputs(spec, random, random.integers(1, 4))
        one = inputs[random.integers(len(inputs))].reshape(-1)  # A view.
        one[random.integers(one.size, size=num_values)] = value
        return inputs

    return make


def numbers(low, high, place):
    """Returns the kinds of numbers that are none, or not from `low` to `high`."""
    values = {
        "NaN": np.nan,
        "infinity": np.inf,
        "-infinity": -np.inf,
        "a huge number": 3e38,
        f"a number below {low}": low - 0.01,
        f"a number above {high}": high + 0.01,
    }
    places = {f"a {place}": 1, f"many {place}s": 1000}
    return {
        f"{name} in {where}": with_value(value, num_values)
        for name, value in values.items()
        for where, num_values in places.items()
    }


PIXELS = numbers(0, 255, "pixel")
LATENTS = numbers(-100, 100, "number")
SAMPLES = {
    **numbers(-1, 1, "sample"),
    "an hour of silence": lambda spec, random: np.zeros((1, 3600 * 8000), "float32"),
    "a minute": lambda spec, random: random.uniform(-1, 1, (1, 480_000)).astype("f4"),
    "one sample": lambda spec, random: np.ones((3, 1), "float32"),
}


def random_ids(low, high, max_rows=8, max_steps=40):
    """Returns a function that makes rows of random token ids."""

    def make(spec, random):
        shape = random.integers(1, (max_rows + 1, max_steps + 1))
        return random.integers(low, high, shape, "int32", endpoint=True)

    return make


TOKEN_IDS = {
    **{
        f"token {value}": with_value(value)
        for value in (-1, INT32.min, INT32.max, 1 << 16, 10**6)
    },
    "padding only": random_ids(0, 0),
    "ends only": random_ids(END, END),
    "no end": random_ids(4, 50),
    "any tokens": random_ids(INT32.min, INT32.max),
    "small tokens": random_ids(0, 50),
    "long rows": random_ids(0, 50, max_steps=2000),
    "very long rows": random_ids(4, 50, max_rows=1, max_steps=1_000_000),
    "many long rows": random_ids(0, 50, max_rows=128, max_steps=1000),
    "much padding": lambda spec, random: np.pad(
        good_inputs(spec, random, 3), [(0, 0), (0, random.integers(1, 3000))]
    ),
}

SEEDS = {
    f"seed {value}": with_value(value)
    for value in (-1, 2**31, 2**32, -(2**63), 2**63 - 1)
}

# Rows of texts: a seed, and values of attributes.


def with_text(text, column):
    """Returns a function that replaces a text of one of several good rows."""

    def make(spec, random):
        inputs = good_inputs(spec, random, random.integers(1, 4))
        inputs[random.integers(len(inputs)), column] = text
        return inputs

    return make


ROWS = {
    f"{name} as the {place}": with_text(text, column)
    for place, column in (("seed", 0), ("last attribute", -1))
    for name, text in {
        "a word": "seven",
        "a negative number": "-1",
        "a fraction": "1.5",
        "a huge number": 400 * "9",
        "an empty text": "",
        "bytes that are no text": b"\xff\xfe\0",
        "a megabyte": 2**20 * "a",
    }.items()
}

# Image files.


def encode(image, format, **options):
    """Returns the file of an image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def good_image(random, format=None):
    """Returns an image file of random pixels."""
    modes = {
        "JPEG": ["L", "RGB", "CMYK"],
        "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
        "GIF": ["L", "P"],
        "BMP": ["RGB", "RGBA"],
    }
    format = format or random.choice(list(modes))
    mode = random.choice(modes[format])
    height, width = random.integers(1, 100, 2)
    pixels = random.integers(0, 256, (height, width, 4), "uint8")
    if mode == "I;16":
        return encode(Image.fromarray(pixels.view("uint16")[..., 0]), format)
    image = Image.fromarray(pixels).convert("RGB" if mode == "CMYK" else mode)
    options = {"progressive": bool(random.integers(2))} if format == "JPEG" else {}
    return encode(image.convert(mode), format, **options)


def random_bytes(random):
    """Returns random bytes; most begin as an image file does."""
    prefixes = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"]
    return prefixes[random.integers(6)] + random.bytes(random.integers(1, 5000))


def truncated(random):
    """Returns the beginning of an image file."""
    file = good_image(random)
    return file[: random.integers(len(file))]


def flipped(format):
    """Returns a function that changes bits of an image file, often of its header."""

    def make(random):
        file = bytearray(good_image(random, format))
        end = random.choice([40, len(file)])
        for place in random.integers(0, min(end, len(file)), random.integers(1, 9)):
            file[place] ^= 1 << random.integers(8)
        return bytes(file)

    return make


def png_chunk(name, content):
    """Returns a part of a PNG file."""
    sizes = (
        struct.pack(">I", len(content)),
        struct.pack(">I", zlib.crc32(name + content)),
    )
    return sizes[0] + name + content + sizes[1]


def png_of_size(width, height, pixels=b"", depth=8, chunks=b""):
    """Returns a PNG file with a header of this size, whatever its pixels are."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"".join(
        (
            *(b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), chunks),
            *(png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")),
        )
    )


def lying_png(random):
    """Returns a PNG file whose header has another size than its pixels."""
    width, height = random.choice([0, 1, 5000, 2**16, 2**31 - 1, 2**32 - 1], 2)
    return png_of_size(width, height, zlib.compress(bytes(1000)))


def lying_jpeg(random):
    """Returns a JPEG file whose header has another size than its pixels."""
    file = good_image(random, "JPEG")
    (start,) = re.search(rb"\xff[\xc0\xc2]\0", file).span()[:1]
    size = struct.pack(">HH", *random.choice([0, 1, 5000, 2**15, 2**16 - 1], 2))
    return file[: start + 5] + size + file[start + 9 :]


def lying_gif(random):
    """Returns a GIF file whose headers have other sizes than its pixels."""
    file = bytearray(good_image(random, "GIF"))
    size = struct.pack("<HH", *random.choice([0, 1, 5000, 2**15, 2**16 - 1], 2))
    frame = file.index(b",", 13 + 3 * 2 ** (file[10] % 8 + 1))
    for place in random.choice([6, frame + 5], random.integers(1, 3)):
        file[place : place + 4] = size
    return bytes(file)


def lying_bmp(random):
    """Returns a BMP file whose header has another size than its pixels."""
    file = bytearray(good_image(random, "BMP"))
    sizes = [0, 1, -1, 5000, 2**31 - 1, -(2**31)]
    file[18:26] = struct.pack("<ii", *random.choice(sizes, 2))
    file[28:30] = struct.pack("<H", random.choice([0, 1, 8, 16, 24, 32, 2**16 - 1]))
    return bytes(file)


@functools.cache
def huge_png():
    """Returns a PNG file of 144 million pixels, of few bytes."""
    side = 12_000
    return png_of_size(
        side, side, zlib.compress(bytes(side * (1 + side // 8))), depth=1
    )


@functools.cache
def png_of_texts():
    """Returns a PNG file of 8 MB whose compressed comments take 8 GB."""
    content = b"comment\0\0" + zlib.compress(bytes(7_900_000), 9)
    return png_of_size(
        1, 1, zlib.compress(bytes(2)), chunks=1000 * png_chunk(b"zTXt", content)
    )


def repeat_scans(jpeg, times):
    """Returns a progressive JPEG file that repeats its last scan."""
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + times * jpeg[last:-2] + jpeg[-2:]


@functools.cache
def grey_jpeg(side):
    """Returns a progressive JPEG file of a single colour, of few bytes."""
    return encode(Image.new("L", (side, side), 99), "JPEG", progressive=True)


@functools.cache
def gif_of_frames(side, num_frames):
    """Returns a GIF file of many large frames, of few bytes each."""
    file = encode(Image.new("L", (side, side)), "GIF")
    start = file.index(b",", 13 + 3 * 2 ** (file[10] % 8 + 1))
    return file[:start] + num_frames * file[start:-1] + file[-1:]


def gif_of_blocks(random):
    """Returns a GIF file of many extensions, which consist of many blocks."""
    file = encode(Image.new("L", (9, 9)), "GIF")
    start = 13 + 3 * 2 ** (file[10] % 8 + 1)
    extension = b"!\xfe" + random.integers(100, 30_000) * b"\1." + b"\0"
    return file[:start] + random.integers(1, 101) * extension + file[start:]


def animation(format):
    """Returns a function that makes a moving image."""

    def make(random):
        first, *others = (Image.new("RGB", (30, 30), (i, 0, 0)) for i in range(9))
        return encode(first, format, save_all=True, append_images=others)

    return make


IMAGES = {
    "empty": lambda random: b"",
    "random bytes": random_bytes,
    "a text": lambda random: b"<svg/>",
    **{
        f"changed bits, {name}": flipped(name) for name in ("JPEG", "PNG", "GIF", "BMP")
    },
    "truncated": truncated,
    "truncated again": truncated,
    "false size, JPEG": lying_jpeg,
    "false size, PNG": lying_png,
    "false size, GIF": lying_gif,
    "false size, BMP": lying_bmp,
    "12,000² pixels, PNG": lambda random: huge_png(),
    "6,000² pixels, JPEG": lambda random: grey_jpeg(6000),
    "animated GIF": animation("GIF"),
    "animated PNG": animation("PNG"),
    "animated WEBP": animation("WEBP"),
    "BMP with a palette": lambda random: encode(Image.new("P", (9, 9)), "BMP"),
    "TIFF": lambda random: encode(Image.new("RGB", (9, 9)), "TIFF"),
    "padded JPEG": lambda random: (
        b"\xff\xd8" + 200_000 * b"\xff" + good_image(random, "JPEG")[2:]
    ),
    "JPEG of many comments": lambda random: (
        b"\xff\xd8" + 50_000 * b"\xff\xfe\0\3." + good_image(random, "JPEG")[2:]
    ),
}
LARGE_IMAGES = {
    "JPEG of thousands of scans": lambda random: repeat_scans(grey_jpeg(2000), 5000),
    "JPEG of many scan marks": lambda random: (
        grey_jpeg(300)[:-2] + 2_000_000 * b"\xff\xda"
    ),
    "GIF of many large frames": lambda random: gif_of_frames(4900, 500),
    "GIF of many blocks": gif_of_blocks,
    "PNG of large comments": lambda random: png_of_texts(),
    "24,010,000 pixels, RGBA": lambda random: large_file("RGBA", "PNG"),
    "24,010,000 pixels, 16 bits": lambda random: large_file("I;16", "PNG"),
    "24,010,000 pixels, 20 scans": lambda random: repeat_scans(grey_jpeg(4900), 15),
    "24,010,000 pixels, GIF": lambda random: gif_of_frames(4900, 1),
}


@functools.cache
def large_file(mode, format):
    """Returns an image file of 24 million pixels, of few bytes."""
    return encode(Image.new(mode, (4900, 4900)), format, compress_level=1)


# WAV files.


def wav(samples, rate=8000, bits=16, code=1, channels=1, size=None):
    """Returns a WAV file of samples, bytes; its header may lie."""
    step = channels * bits // 8
    header = struct.pack(
        "<HHIIHH",
        *(code, channels, rate, rate * step & 0xFFFFFFFF, step & 0xFFFF, bits),
    )
    size = len(samples) if size is None else size
    chunks = (
        b"fmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", size)
    )
    return b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVE" + chunks + samples


def good_audio(random):
    """Returns a WAV file of noise."""
    rate = int(random.choice([8000, 11025, 16000, 22050, 44100, 48000]))
    bits, channels = int(random.choice([8, 16, 24, 32])), int(random.integers(1, 3))
    content = random.bytes(int(random.integers(1, 5000)) * channels * bits // 8)
    return wav(content, rate, bits, 1, channels)


def lying_wav(random):
    """Returns a WAV file whose header says something else than its samples."""
    number = int(random.choice([0, 1, 7, 2**15, 2**16 - 1]))
    return wav(
        random.bytes(1000),
        rate=int(random.choice([0, 1, 8000, 44100, 2**31, 2**32 - 1])),
        bits=int(random.choice([0, 1, 8, 12, 16, 64, number])),
        code=int(random.choice([0, 1, 3, 0xFFFE, number])),
        channels=int(random.choice([0, 1, 2, 33, number])),
        size=int(random.choice([0, 1, 1000, 2**31, 2**32 - 1])),
    )


def flipped_wav(random):
    """Returns a WAV file with some changed bits in its header."""
    file = bytearray(good_audio(random))
    for place in random.integers(0, 44, random.integers(1, 9)):
        file[place] ^= 1 << random.integers(8)
    return bytes(file)


def cut_wav(random):
    """Returns the beginning of a WAV file."""
    file = good_audio(random)
    return file[: random.integers(len(file))]


def wav_of_chunks(random):
    """Returns a WAV file of very many empty chunks."""
    return b"RIFF" + bytes(4) + b"WAVE" + 100_000 * (b"LIST" + bytes(4))


def wav_of_floats(random):
    """Returns a WAV file of floats that are no numbers, or huge."""
    values = random.choice([np.nan, np.inf, -np.inf, 3e38, 0.5], 1000)
    return wav(values.astype("<f4").tobytes(), bits=32, code=3)


AUDIO = {
    "random bytes": random_bytes,
    "truncated WAV": cut_wav,
    "flipped WAV": flipped_wav,
    "lying WAV": lying_wav,
    "WAV of chunks": wav_of_chunks,
    "WAV of floats": wav_of_floats,
    "one sample": lambda random: wav(random.bytes(2)),
    "silence": lambda random: wav(bytes(8000)),
    "empty file": lambda random: b"",
}
LARGE_AUDIO = {
    "ten minutes": lambda random: wav(random.bytes(2 * 8000 * 600)),
    "a minute of two channels at 192 kHz": lambda random: wav(
        random.bytes(2 * 2 * 192_000 * 59), rate=192_000, channels=2
    ),
    "a minute": lambda random: wav(random.bytes(2 * 8000 * 59)),
}

# Texts.


def good_text(random):
    """Returns a sentence of one to twelve words."""
    words = [
        "a",
        "man",
        "in",
        "the",
        "street",
        "is",
        "sleeping",
        "on",
        "his",
        "green",
        "bicycle",
    ]
    return " ".join(random.choice(words, random.integers(1, 13))).encode()


def letters(random, alphabet, num_letters):
    """Returns random letters."""
    return "".join(random.choice(list(alphabet), num_letters)).encode()


TEXTS = {
    "empty": lambda random: b"",
    "spaces": lambda random: b" \t\n\r\0\v " * random.integers(1, 99),
    "36 KB": lambda random: b" ".join(good_text(random) for _ in range(1100))[:36_000],
    "word of 20,000 letters": lambda random: letters(random, "abcdefg", 20_000),
    "word of 1,000 letters": lambda random: letters(random, "abcdefg", 1000),
    "random bytes": lambda random: random.bytes(random.integers(1, 300)),
    "truncated UTF-8": lambda random: "é".encode()[:1] + good_text(random),
    "surrogates": lambda random: b"so \xed\xa0\x80 and \xed\xb0\x80",
    "control characters": lambda random: bytes(random.integers(0, 32, 99).tolist()),
    "emoji": lambda random: letters(random, "😀👨‍👩‍👧🏳️‍🌈🤷🏽", 200),
    "combining marks": lambda random: b"a" + 5000 * "\u0301".encode(),
    "some combining marks": lambda random: b"a" + 400 * "\u0301\u0323".encode(),
    "one letter": lambda random: random.integers(1, 3000) * b"e",
    "one sign": lambda random: random.integers(1, 3000) * b"!",
    "one Chinese letter": lambda random: random.integers(1, 1000) * "好".encode(),
    "quotes": lambda random: letters(random, "\"'«»„“`´", random.integers(1, 300)),
    "HTML": lambda random: b"<b>&amp;&#39;&#x110000;&#0;</b>" * random.integers(1, 30),
    "any letters": lambda random: "".join(
        chr(i) for i in random.integers(1, 0xD800, 300)
    ).encode(),
    "other writing directions": lambda random: "\u202eabc \u200f שלום \u2066".encode(),
    "underlines of tokens": lambda random: "▁ ▁▁ <s> </s> <unk> <pad>".encode(),
    "long URL": lambda random: b"https://x.org/" + letters(random, "abc%/&=", 900),
}
LARGE_TEXTS = {
    "4,900 bytes of words": lambda random: letters(random, "ab c de f ", 4900),
    "9,900 bytes of words": lambda random: letters(random, "ab c de f ", 9900),
    "4,900 bytes of signs": lambda random: letters(random, "!?.,;:-", 4900),
    "4,900 bytes of letters": lambda random: b"a " * 2450,
    "9,900 bytes of letters": lambda random: b"a " * 4950,
    "4,900 bytes of emoji": lambda random: letters(random, "😀🤷", 1225),
}


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=Path, nargs="+", default=RELEASED, help="SavedModels"
    )
    parser.add_argument(
        "--requests", type=int, default=200, help="requests to each signature"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests")
    arguments = parser.parse_args()
    for model in arguments.model:
        print(model)
        print_rows(probe(model, arguments.requests, arguments.seed))


def print_rows(rows):
    """Prints a table of what `probe` returns, and the failures below it."""
    columns = ("refused", "answered", "errors", "NaN", "failures")
    header = "".join(f"{column:>10}" for column in ("requests", *columns))
    print(f"  {'':16}{header}   slowest, largest")
    for row in rows:
        numbers = (
            *(row.requests, row.refused, row.answered, row.errors),
            *(row.not_finite, len(row.failures)),
        )
        print(
            f"  {row.signature:16}{''.join(f'{number:10}' for number in numbers)}   "
            f"{row.max_seconds:.1f} s, {row.slowest}; "
            f"{row.max_megabytes:.0f} MB, {row.largest}"
        )
    for row in rows:
        for failure, number in Counter(row.failures).items():
            print(f"  {row.signature}, {number} × {failure}")


if __name__ == "__main__":
    main()
