"""Trains a captioner: the decoder on image features, and further if wanted.

python -m apps.image_captioning train flickr8k
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from apps.common import backbones, baselines, datasets, figures, runs, schedules
from apps.common.decoder import SmoothedCrossEntropy
from apps.common.errors import BadInput
from apps.common.tokenizer import train_tokenizer
from apps.image_captioning import baseline, self_critical
from apps.image_captioning.batches import (
    EXTRACTION_BATCH,
    load_features,
    make_batches,
    make_images,
)
from apps.image_captioning.config import Config
from apps.image_captioning.data import load_examples
from apps.image_captioning.metrics import ValidationCider
from apps.image_captioning.model import build_model
from apps.image_captioning.signatures import (
    TOKENIZER_FILE,
    Captioner,
    load_tokenizer,
    save_tokenizer,
)

# The CIDEr-D of fewer validation images says little. Their loss chooses the epoch then,
# and cannot judge self-critical training.
MIN_IMAGES = 10


def train(config: Config, run: Path) -> dict[str, Any]:
    """Trains a model into a run directory; resumes an interrupted training there.

    Args:
        config: The settings.
        run: The run directory, as described in `runs`.

    Returns:
        The summary of `runs.finish`.
    """
    if summary := runs.finished(config, run):
        return summary
    keras.utils.set_random_seed(config.seed)

    splits = load_examples(config, runs.read_held_out(run))
    datasets.print_summary(config.data, splits, "image")
    counts = {split: len(splits[split].all_captions) for split in splits}
    print("  captions:", ", ".join(f"{split} {n}" for split, n in counts.items()))
    tokenizer = find_tokenizer(splits["train"], config, run)
    model = build_model(config=config, vocabulary_size=len(tokenizer))
    captioner = Captioner(model, tokenizer, config)
    runs.start(config, run, splits.held_out)
    save_tokenizer(tokenizer, run)

    # The features of a pretrained backbone are computed once.
    features = None
    if config.weights:
        features = load_features(model, splits, config, run / "features")
        backbones.set_trainable(model.network, 0)
    record = baseline.measure(splits, features, run)
    of_train = features and features["train"]
    batches = make_batches(splits["train"], config, tokenizer, of_train, training=True)
    first, second = schedules.limit_epochs(
        len(batches),
        config.max_steps,
        config.epochs,
        config.fine_tune_epochs if config.weights else 0,
        min_steps=config.min_steps,
    )
    monitor, self_critical_epochs = ("val_cider", "max"), config.self_critical_epochs
    if len(splits["validation"]) < MIN_IMAGES:
        monitor, self_critical_epochs = ("val_loss", "min"), 0
        if config.self_critical_epochs:
            print(
                "no self-critical epochs: they need at least "
                f"{MIN_IMAGES} validation images"
            )

    def fit(phase, batches, features, first_epoch, epochs):
        runs.fit(
            model,
            batches,
            make_batches(
                splits["validation"],
                config,
                tokenizer,
                features and features["validation"],
            ),
            run,
            phase,
            initial_epoch=first_epoch,
            epochs=first_epoch + epochs,
            total_epochs=first.epochs + second.epochs + self_critical_epochs,
            monitor=monitor[0],
            mode=monitor[1],
            patience=config.patience,
            max_minutes=config.max_minutes,
            callbacks=[
                ValidationCider(
                    make_writer(captioner, splits["validation"], features),
                    splits["validation"].captions,
                )
            ],
        )

    # Phase 1: the decoder, or the whole network if nothing is pretrained.
    schedule = schedules.warm_up_and_decay(config.learning_rate, first.steps)
    compile_model(model, config, schedule)
    batches = batches.repeat().take(first.steps_per_epoch)
    fit("training", batches, features, 0, first.epochs)

    # Phase 2: the backbone too, from images.
    if second.epochs:
        model.load_weights(run / "model.keras")
        backbones.set_trainable(model.network, config.fine_tune_fraction)
        batches = make_batches(splits["train"], config, tokenizer, training=True)
        schedule = schedules.warm_up_and_decay(
            config.fine_tune_learning_rate, second.steps
        )
        compile_model(model, config, schedule)
        batches = batches.repeat().take(second.steps_per_epoch)
        fit("fine_tuning", batches, None, first.epochs, second.epochs)

    # Phase 3: the decoder on its own captions.
    if self_critical_epochs:
        model.load_weights(run / "model.keras")
        backbones.set_trainable(model.network, 0)
        if features is None or second.epochs:
            used = {name: splits[name] for name in ("train", "validation")}
            plain = replace(config, views=1)
            features = load_features(model, used, plain, run / "new_features")
        batches = self_critical.make_batches(
            captioner, splits["train"], features["train"], config
        )
        compile_model(
            model,
            config,
            config.self_critical_learning_rate,
            # The weights of the captions of an image add up to 0, so a weighted mean
            # has no meaning.
            SmoothedCrossEntropy(label_smoothing=0, reduction="sum_over_batch_size"),
        )
        last_epoch = first.epochs + second.epochs
        fit("self_critical", batches, features, last_epoch, self_critical_epochs)

    figures.draw_curves(runs.read_history(run), run / "curves.png")
    for name in ("features", "new_features"):
        shutil.rmtree(run / name, ignore_errors=True)
    summary = runs.finish(run, *monitor)
    baselines.print_verdict(
        record,
        "cider",
        summary["val_cider"],
        "add images, or more captions of each image",
    )
    return summary


def find_tokenizer(examples, config, run):
    """Returns the tokenizer of an interrupted training, or trains a new one.

    Raises:
        BadInput: The beam is larger than the vocabulary, or all captions are too long.
    """
    if (run / TOKENIZER_FILE).exists():
        return load_tokenizer(run)
    captions = examples.all_captions
    tokenizer = train_tokenizer(captions, config.vocabulary_size, config.token)
    if config.beam_size > len(tokenizer):
        raise BadInput(
            f"--beam-size {config.beam_size} is more than the {len(tokenizer)} tokens "
            "of the vocabulary; make it smaller"
        )
    if tokenizer(tf.constant(captions)).row_lengths().numpy().min() > config.max_tokens:
        raise BadInput(
            f"every caption of {config.data} is longer than --max-tokens "
            f"{config.max_tokens}; raise it, or add shorter captions"
        )
    return tokenizer


def compile_model(model, config, learning_rate, loss=None):
    """Compiles a model with the optimizer and the loss, by default cross-entropy."""
    model.compile(
        optimizer=keras.optimizers.Adam(
            learning_rate, global_clipnorm=config.gradient_norm
        ),
        loss=loss or SmoothedCrossEntropy(label_smoothing=config.label_smoothing),
        jit_compile=False,  # On CPUs, XLA is slower.
    )


def make_writer(captioner, examples, features):
    """Returns a function that writes a caption of each image by greedy search.

    Args:
        captioner: A `Captioner` with the model in training.
        examples: The `Examples`.
        features: The `Features` by split, of which those for validation are used; None
            computes them from the images.
    """
    model = captioner.model
    write = tf.function(lambda features: captioner.write(features, 1)["captions"])
    extract = tf.function(model.extract)

    def feature_batches():
        if features is None:
            yield from map(extract, make_images(examples, captioner.config))
            return
        for start in range(0, len(examples), EXTRACTION_BATCH):
            indices = np.arange(start, min(start + EXTRACTION_BATCH, len(examples)))
            yield tf.constant(features["validation"].read(indices, 0 * indices))

    def write_captions():
        batches = [write(batch).numpy() for batch in feature_batches()]
        return [caption.decode() for caption in np.concatenate(batches)]

    return write_captions
