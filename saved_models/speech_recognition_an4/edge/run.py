"""Transcribes recordings on a device: python run.py message.wav

Needs NumPy and ai-edge-litert, see requirements.txt; no TensorFlow.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

BUNDLE = Path(__file__).parent
BLANK = END = 0
NEVER = -math.inf
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
# The resampling filter, as in the served model.
ZERO_CROSSINGS = 64
CUTOFF = 0.96
KAISER_BETA = 9.0
MIN_BLOCK = 400
RATE_STEP = 25
STREAM_SECONDS = 0.25  # Audio between two answers.


class BadAudio(ValueError):
    """A file cannot be used; the message says why."""


def load_model(path=BUNDLE / "model.tflite", signature="serving_default"):
    """Loads a model of this bundle.

    Args:
        path: The `.tflite` file. Its folder also holds `tokens.json`, `search.json`
            and, if the answers are restricted to a word list, `words.npz`.
        signature: `serving_default` (beam search) or `greedy`.

    Returns:
        A function from a list of WAV files, as bytes, to named arrays `(files,)`:
        `transcripts`; `scores`, their log-probabilities; and `word_times`, with a line
        for each word: its start and its end in seconds, and the word.
    """
    folder = Path(path).parent
    tokens = json.loads((folder / "tokens.json").read_text("utf-8"))["tokens"]
    settings = json.loads((folder / "search.json").read_text("utf-8"))
    words = None
    if (folder / "words.npz").exists():
        words = dict(np.load(folder / "words.npz"))
    interpreter = Interpreter(str(path), num_threads=1)
    is_greedy = signature == "greedy"
    if "decode" in interpreter.get_signature_list():
        beam_size = 1 if is_greedy else settings["beam"]["beam_size"]
        encode = interpreter.get_signature_runner("encode")
        decode = interpreter.get_signature_runner("decode")

        def write(samples):
            return attention_search(encode(samples=samples[None]), decode, beam_size)

    else:
        listener = Listener(interpreter)

        def write(samples):
            log_probs = listener.start().hear(fill(samples, settings))
            if is_greedy:
                return greedy_search(log_probs)
            return beam_search(log_probs, words, **settings["beam"])

    def transcribe(wav):
        samples, rate = decode_wav(wav, settings["max_seconds"])
        samples = resample(samples, rate, settings["sampling_rate"])
        token_ids, frames, score = write(samples)
        if np.abs(samples).max() < settings["quietest"]:  # Silence has no words.
            token_ids, frames = [], []
        times = word_times(token_ids, frames, tokens, settings["frame_seconds"])
        lines = [f"{start:.2f} {end:.2f} {word}" for start, end, word in times]
        return {
            "transcripts": " ".join(word for _, _, word in times).encode(),
            "scores": np.float32(score),
            "word_times": "\n".join(lines).encode(),
        }

    def predict(files):
        answers = [transcribe(file) for file in files]
        return {
            name: np.array(
                [answer[name] for answer in answers],
                "float32" if name == "scores" else object,
            )
            for name in answers[0]
        }

    return predict


class Listener:
    """Turns audio into log-probabilities of tokens, whole or in pieces.

    Args:
        interpreter: The interpreter of a model that was trained by CTC.
    """

    def __init__(self, interpreter):
        self.interpreter = interpreter
        self.runner = None
        self.context = {}

    def start(self):
        """Begins another recording; returns the listener."""
        if self.runner is None:
            self.interpreter.allocate_tensors()
            self.runner = self.interpreter.get_signature_runner()
        self.interpreter.reset_all_variables()
        # What a streaming model has heard last: silence.
        self.context = {
            name: np.zeros(details["shape"], "float32")
            for name, details in self.runner.get_input_details().items()
            if name != "samples"
        }
        return self

    def hear(self, samples):
        """Returns the log-probabilities of the next piece, `(frames, tokens)`.

        Args:
            samples: float32 `(samples,)`: for a streaming model a multiple of
                `chunk_samples` in `search.json`, for others the whole recording.
        """
        self.context = self.runner(samples=samples[None], **self.context)
        return self.context.pop("log_probs")[0]


def fill(samples, settings):
    """Returns samples with silence at the end, so that a streaming model takes them."""
    missing = -len(samples) % settings.get("chunk_samples", 1)
    return np.pad(samples, (0, missing))


def decode_wav(wav, max_seconds):
    """Decodes a WAV file.

    Returns:
        The mean of its channels, float32 `(samples,)`, from -1 to 1; and its sampling
        rate.

    Raises:
        BadAudio: It is no such file, it is compressed, or it is too long.
    """
    header, data = find_chunks(wav)
    if header is None or data is None:
        raise BadAudio("this is no WAV file; pass RIFF WAV with PCM or floats")
    header = header + bytes(26)

    def number(start, size):
        return int.from_bytes(header[start : start + size], "little")

    code, channels, rate, bits = number(0, 2), number(2, 2), number(4, 4), number(14, 2)
    code = number(24, 2) if code == EXTENSIBLE else code
    if (code, bits) not in ((1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)):
        raise BadAudio(
            "the WAV file is compressed; pass PCM of 8 to 32 bits, or floats"
        )
    if not 1 <= channels <= 32:
        raise BadAudio("the WAV file must have 1 to 32 channels")
    if not 4_000 <= rate <= 192_000:
        raise BadAudio("the sampling rate must be from 4000 to 192000 hertz")
    num_frames = len(data) // (channels * bits // 8)
    if not num_frames:
        raise BadAudio("the WAV file has no samples")
    if num_frames > max_seconds * rate:
        raise BadAudio(
            f"the audio is longer than {max_seconds:g} seconds; pass it in pieces"
        )
    data = data[: num_frames * channels * bits // 8]
    if code == FLOAT:
        samples = np.frombuffer(data, f"<f{bits // 8}")
    elif bits == 8:  # Without sign.
        samples = np.frombuffer(data, "u1") / 128 - 1
    elif bits == 24:
        parts = np.frombuffer(data, "u1").reshape(-1, 3)
        whole = np.pad(parts, [(0, 0), (1, 0)]).view("<i4")[:, 0]
        samples = whole / 2**31
    else:
        samples = np.frombuffer(data, f"<i{bits // 8}") / 2 ** (bits - 1)
    mono = samples.astype("float32").reshape(-1, channels).mean(axis=1)
    return np.where(np.isfinite(mono), mono, 0).clip(-1, 1), rate


def find_chunks(wav):
    """Returns the format and the data of a RIFF file, None where there is none."""
    header, start = None, 12
    if wav[:4] != b"RIFF" or wav[8:12] != b"WAVE":
        return None, None
    while start + 8 <= len(wav):
        name = wav[start : start + 4]
        size = int.from_bytes(wav[start + 4 : start + 8], "little")
        content = wav[start + 8 : start + 8 + size]
        if name == b"data":
            return header, content
        if name == b"fmt " and size >= 16:
            header = content
        start += 8 + size + size % 2
    return header, None


def resample(samples, rate, to_rate):
    """Changes the sampling rate with a windowed sinc filter, as the served model does.

    Args:
        samples: float32 `(samples,)`.
        rate: Their sampling rate.
        to_rate: The new one.
    """
    if rate == to_rate:
        return samples
    rate = round(rate / RATE_STEP) * RATE_STEP
    divisor = math.gcd(rate, to_rate)
    repeat = -(-MIN_BLOCK // (rate // divisor))
    num_old, num_new = rate // divisor * repeat, to_rate // divisor * repeat
    ratio = num_old / num_new
    cutoff = CUTOFF * min(1, 1 / ratio)
    reach = ZERO_CROSSINGS / cutoff
    margin = math.ceil(reach)
    distance = (
        np.arange(-margin, num_old + margin) - np.arange(num_new)[:, None] * ratio
    )
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(1 - (distance / reach) ** 2, 0)))
    window = np.where(abs(distance) < reach, window, 0) / np.i0(KAISER_BETA)
    weights = (cutoff * np.sinc(cutoff * distance) * window).astype("float32")

    num_blocks = -(-len(samples) // num_old)
    padded = np.zeros(num_blocks * num_old + 2 * margin, "float32")
    padded[margin : margin + len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, num_old + 2 * margin)
    resampled = (frames[::num_old][:num_blocks] @ weights.T).ravel()
    return resampled[: -(-len(samples) * num_new // num_old)]


def greedy_search(log_probs):
    """Returns the tokens of the best path, their frames, and the score of the path."""
    best = log_probs.argmax(axis=1)
    before = np.concatenate([[BLANK], best[:-1]])
    frames = np.flatnonzero((best != BLANK) & (best != before))
    return best[frames], frames, log_probs.max(axis=1).sum()


def beam_search(log_probs, words, beam_size, language_weight, word_bonus):
    """Returns the most probable tokens, summed over all paths that have them.

    Args:
        log_probs: Log-probabilities, float32 `(frames, tokens)`.
        words: None, or the arrays of a word list: `next_node`, `word` and
            `log_probabilities`.
        beam_size: Number of prefixes that are kept.
        language_weight: Weight of the words' log-probabilities.
        word_bonus: Added to the score for each word.

    Returns:
        The token ids, the frame at which each begins, and the score.
    """

    def word_score(before, word):
        before = min(before, first_word)
        return language_weight * words["log_probabilities"][before, word] + word_bonus

    # A prefix has two log-probabilities, of the paths that end with a blank and with
    # its last token; the place in the word list, the last word and the words' score;
    # and its frames, with the log-probability of the way to it that has these.
    first_word = len(words["log_probabilities"]) - 1 if words else 0
    beam = {(): [0.0, NEVER, (0, first_word, 0.0), (), NEVER]}
    for frame, now in enumerate(log_probs.tolist()):
        following = {}

        def add(prefix, blank, token, place, frames, peak, following=following):
            if prefix not in following:
                following[prefix] = [NEVER, NEVER, place, frames, NEVER]
            entry = following[prefix]
            entry[0], entry[1] = log_add(entry[0], blank), log_add(entry[1], token)
            if peak > entry[4]:
                entry[3], entry[4] = frames, peak

        for prefix, (blank, token, place, frames, peak) in beam.items():
            total = log_add(blank, token)
            stay = token + now[prefix[-1]] if prefix else NEVER
            add(prefix, total + now[BLANK], stay, place, frames, peak)
            node, before, bonus = place
            for number in range(1, len(now)):
                next_place = place
                if words:
                    next_node = int(words["next_node"][node, number])
                    if next_node < 0:
                        continue
                    next_place = (next_node, before, bonus)
                    word = int(words["word"][node])
                    if next_node == 0 and word >= 0:
                        next_place = (0, word, bonus + word_score(before, word))
                start = blank if prefix and number == prefix[-1] else total
                probability = start + now[number]
                if probability > NEVER:
                    add(
                        (*prefix, number),
                        NEVER,
                        probability,
                        next_place,
                        (*frames, frame),
                        probability,
                    )
        ranked = sorted(
            following.items(), key=lambda item: -(log_add(*item[1][:2]) + item[1][2][2])
        )
        beam = dict(ranked[:beam_size])

    def final_score(entry):
        node, before, bonus = entry[2]
        score = log_add(entry[0], entry[1]) + bonus
        if not words or node == 0:
            return score
        word = int(words["word"][node])
        return score + word_score(before, word) if word >= 0 else NEVER

    best = max(beam, key=lambda prefix: final_score(beam[prefix]))
    return best, beam[best][3], final_score(beam[best])


def attention_search(state, decode, beam_size):
    """Returns the best tokens of a decoder with attention.

    Args:
        state: The encoded recording, and the initial state of one beam: named arrays.
        decode: Computes one step. Its arguments are these arrays and the last
            `token_ids`, `(1, beams)`. It returns the next state, the most probable next
            `token_ids` and their `log_probs`, `(1, beams, candidates)`, and
            `attention`, `(1, beams, frames)`.
        beam_size: Number of hypotheses to keep.

    Returns:
        The token ids, the frame of each that has most of the attention, and the score.
    """
    memory = {name: state.pop(name) for name in ("values", "keys", "summary")}
    max_steps = memory["values"].shape[1] + 1
    # All beams start identical, so every one but the first scores −inf. A finished
    # hypothesis has a single continuation for the same reason.
    only_first = np.where(np.arange(beam_size) == 0, 0, -np.inf)
    state = {name: np.repeat(value, beam_size, 1) for name, value in state.items()}
    token_ids = np.full((beam_size, 1), END, "int32")
    frames = np.zeros((beam_size, 0), int)
    log_probs, lengths = only_first, np.zeros(beam_size, int)
    is_done = np.zeros(beam_size, bool)
    while not is_done.all():
        answer = decode(token_ids=token_ids[None, :, -1], **state, **memory)
        next_log_probs = np.where(
            is_done[:, None], only_first, answer.pop("log_probs")[0, :, :beam_size]
        )
        next_ids = np.where(
            is_done[:, None], END, answer.pop("token_ids")[0, :, :beam_size]
        )
        peaks = answer.pop("attention")[0].argmax(axis=1)
        lengths = lengths + ~is_done
        totals = log_probs[:, None] + next_log_probs
        scores = totals / ((5 + lengths[:, None]) / 6)
        best = np.argsort(-scores, axis=None, kind="stable")[:beam_size]
        parents = best // beam_size
        last = next_ids.reshape(-1)[best].astype("int32")
        log_probs, lengths = totals.reshape(-1)[best], lengths[parents]
        token_ids = np.column_stack([token_ids[parents], last])
        frames = np.column_stack([frames[parents], peaks[parents]])
        state = {name: value[:, parents] for name, value in answer.items()}
        is_done = is_done[parents] | (last == END) | (lengths >= max_steps)
    length = np.count_nonzero(token_ids[0, 1:] != END)
    return token_ids[0, 1 : length + 1], frames[0, :length], scores.reshape(-1)[best[0]]


def log_add(one, other):
    """Returns the logarithm of the sum of two probabilities, given theirs."""
    largest = max(one, other)
    if largest == NEVER:
        return NEVER
    return largest + math.log1p(math.exp(min(one, other) - largest))


def word_times(token_ids, frames, tokens, frame_seconds):
    """Returns the start, the end and the text of each word, in seconds."""
    words = []
    is_new = True
    for token_id, frame in zip(token_ids, frames, strict=True):
        piece = tokens[token_id]
        is_new = is_new or piece.startswith(" ")
        text = piece.strip()
        if not text:
            continue
        start, end = frame * frame_seconds, (frame + 1) * frame_seconds
        if is_new:
            words.append([start, end, text])
        else:
            words[-1][1:] = [end, words[-1][2] + text]
        is_new = False
    return words


def main():
    """Prints a line for each recording: its name, a tab and what is said."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="WAV files")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write while listening to standard input, without a search: raw samples "
        "of 16 bits, mono, at the sampling rate of the model, which must have been "
        "trained with --streaming",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=BUNDLE / "model.tflite",
        help="a .tflite file of this bundle (default: model.tflite)",
    )
    parser.add_argument(
        "--times", action="store_true", help="print when words are said"
    )
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        stop(f"there is no model {arguments.model}")
    for path in arguments.recordings:
        if not path.is_file():
            stop(f"there is no file {path}")
    if arguments.stream:
        try:
            stream(arguments.model, sys.stdin.buffer)
        except KeyboardInterrupt:
            print()
        return
    if not arguments.recordings:
        stop("recordings are required; name WAV files, or pass --stream")
    predict = load_model(arguments.model)
    for path in arguments.recordings:
        try:
            answer = predict([path.read_bytes()])
        except BadAudio as reason:
            stop(f"{path}: {reason}")
        print(f"{path}\t{answer['transcripts'][0].decode()}")
        if arguments.times:
            print(answer["word_times"][0].decode())


def stream(path, source):
    """Prints what is said while it is said.

    Args:
        path: The `.tflite` file.
        source: A binary file of samples, little-endian int16.
    """
    tokens = json.loads((path.parent / "tokens.json").read_text("utf-8"))["tokens"]
    settings = json.loads((path.parent / "search.json").read_text("utf-8"))
    if "chunk_samples" not in settings:
        stop("this model needs whole recordings; train one with --streaming")
    listener = Listener(Interpreter(str(path), num_threads=1)).start()
    step = settings["chunk_samples"]
    num_samples = -(-round(STREAM_SECONDS * settings["sampling_rate"]) // step) * step
    last, is_first = BLANK, True
    while piece := source.read(2 * num_samples):
        samples = np.frombuffer(piece[: len(piece) // 2 * 2], "<i2") / 2**15
        samples = np.pad(samples.astype("float32"), (0, num_samples - len(samples)))
        log_probs = listener.hear(samples)
        best = [last, *log_probs.argmax(axis=1)]
        new = [
            now
            for before, now in itertools.pairwise(best)
            if now not in (BLANK, before)
        ]
        text = "".join(tokens[token_id] for token_id in new)
        print(text.lstrip() if is_first else text, end="", flush=True)
        is_first &= not text.strip()
        last = best[-1]
    print()


def stop(reason):
    """Ends the program with an error message."""
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
