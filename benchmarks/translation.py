"""How fast the released translator is, against a decoder that is a loop in Python.

    python -m benchmarks.translation

All translate the same test sentences in the same batches. The loop asks the same
weights step by step and takes the likeliest piece each time, as tutorials do.
"""

import json
import os
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf

from apps.common import runs
from apps.common.text import PADDING
from apps.translation.config import Config
from apps.translation.data import load_split
from apps.translation.metrics import translate
from apps.translation.model import (
    State,
    load_model,
    load_tokenizers,
    make_translator,
    most_steps,
)
from apps.translation.tokenizer import END, START
from apps.translation.train import new_model
from benchmarks.measure import bundle_start, median_seconds_in_turns

RELEASED = Path("saved_models/translation")


def released_translator(config):
    """Returns the released weights as a `Translator` that Python can ask for steps."""
    tokenizers = load_tokenizers(RELEASED / "edge")
    model = new_model(config, tokenizers)
    released = tf.saved_model.load(RELEASED / "1").model_variables
    for variable, value in zip(model.variables, released, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    return make_translator(model, tokenizers, config)


def loop_in_python(translator, texts):
    """Translates texts greedily; each step is asked for from Python."""
    tokens = translator.source_tokenizer(tf.constant(texts)).to_tensor(PADDING)
    memory = translator.model.encode(tokens)
    state = State(*(value[:, None] for value in translator.model.begin(memory)))
    written = [np.full((len(texts), 1), START)]
    ended = np.zeros(len(texts), bool)
    while not ended.all() and len(written) <= most_steps(tokens.shape[1]):
        log_probs, state, _ = translator.step(written[-1], state, memory)
        written.append(np.where(ended[:, None], END, np.argmax(log_probs, -1)))
        ended |= written[-1][:, 0] == END
    rows = [row[row != END] for row in np.concatenate(written[1:], 1)]
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
        sources = load_split(config, "test").sources
        translator = released_translator(config)
        predictors = {
            "loop in Python, greedy": lambda texts: loop_in_python(translator, texts),
            "SavedModel, greedy": load_model(str(RELEASED / "1"), "greedy"),
            f"SavedModel, beam {config.beam_size}": load_model(str(RELEASED / "1")),
            f"edge bundle, beam {config.beam_size}": load_model(str(RELEASED / "edge")),
        }
        seconds = median_seconds_in_turns(
            [
                lambda predictor=predictor: translate(predictor, sources)
                for predictor in predictors.values()
            ],
            repetitions=3,
        )
        print(f"{len(sources)} test sentences, from text to text")
        for name, each in zip(predictors, seconds, strict=True):
            print(
                f"  {name:24} {len(sources) / each:8.0f} a second "
                f"{each / seconds[0]:8.2f}"
            )

    seconds, megabytes = bundle_start(RELEASED / "edge", "A man sleeps on a couch.")
    print("Edge bundle, from start to the answer")
    print(f"  {seconds:.2f} s, {megabytes:.0f} MB resident")


if __name__ == "__main__":
    main()
