"""Speed of the released translator, compared with a decoding loop in Python.

    python -m benchmarks.translation

All translate the same test sentences. The loop computes the same network step by step
from Python and takes the most probable token each time, as tutorials do.
"""

import json
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf

from apps.common import runs
from apps.common.decoder import State
from apps.common.limits import MAX_INPUTS
from apps.common.text import PADDING
from apps.common.tokenizer import END, START
from apps.translation.config import Config
from apps.translation.data import load_split
from apps.translation.metrics import translate
from apps.translation.signatures import (
    Translator,
    load_model,
    load_tokenizers,
    max_steps,
)
from apps.translation.train import make_model
from benchmarks.measure import bundle_start, median_seconds_in_turns

RELEASED = Path("saved_models/translation")


def released_translator(config):
    """Returns the released weights as a `Translator`, for the loop in Python."""
    tokenizers = load_tokenizers(RELEASED / "edge")
    model = make_model(config, tokenizers)
    released = tf.saved_model.load(RELEASED / "1").model_variables
    for variable, value in zip(model.weights, released, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    return Translator(model, tokenizers, config)


def loop_in_python(translator, texts):
    """Translates texts greedily; each step is a call from Python."""
    source_ids = translator.source_tokenizer(tf.constant(texts)).to_tensor(PADDING)
    memory = translator.model.encode(source_ids)
    state = State(
        *(value[:, None] for value in translator.model.decoder.initial_state(memory))
    )
    token_ids = [np.full((len(texts), 1), START)]
    is_done = np.zeros(len(texts), bool)
    while not is_done.all() and len(token_ids) <= max_steps(source_ids.shape[1]):
        log_probs, state, _ = translator.model.decoder.step(
            token_ids[-1], state, memory, translator.bias
        )
        token_ids.append(np.where(is_done[:, None], END, np.argmax(log_probs, -1)))
        is_done |= token_ids[-1][:, 0] == END
    rows = [row[row != END] for row in np.concatenate(token_ids[1:], 1)]
    return {
        "translations": translator.target_tokenizer.detokenize(
            tf.ragged.constant(rows, tf.int32, row_splits_dtype=tf.int64)
        ).numpy()
    }


def main():
    """Prints the tables."""
    card = json.loads((RELEASED / "card.json").read_text())
    config = runs.make_config(Config, card["config"])
    if not Path(config.data).exists():
        print(f"speed: skipped, there is no {config.data}")
    else:
        print_speed(config)
    seconds, megabytes = bundle_start(RELEASED / "edge", "A man sleeps on a couch.")
    print("Edge bundle, from start to the answer")
    print(f"  {seconds:.2f} s, {megabytes:.0f} MB resident")


def print_speed(config):
    """Prints the sentences per second of each way to translate."""
    sources = load_split(config, "test").sources
    translator = released_translator(config)
    greedy = load_model(str(RELEASED / "1"), "greedy")
    beam = load_model(str(RELEASED / "1"))
    device = load_model(str(RELEASED / "edge"))
    ways = {
        "loop in Python, greedy": lambda: translate(
            lambda texts: loop_in_python(translator, texts), sources
        ),
        "SavedModel, greedy": lambda: translate(greedy, sources),
        f"SavedModel, beam {config.beam_size}": lambda: translate(beam, sources),
        f"edge bundle, beam {config.beam_size}": lambda: translate(device, sources),
    }
    seconds = median_seconds_in_turns(list(ways.values()), repetitions=3)
    print(f"{len(sources)} test sentences, in batches of {MAX_INPUTS}")
    print(f"  {'':30} {'per second':>10} {'time ratio':>10}")
    for name, each in zip(ways, seconds, strict=True):
        print(f"  {name:30} {len(sources) / each:10.0f} {each / seconds[0]:10.2f}")


if __name__ == "__main__":
    main()
