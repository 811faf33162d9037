import csv
import dataclasses
import json

import keras
import numpy as np
import pytest

from apps.common import runs
from apps.sentiment_analysis import train as train_module
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_examples, load_split
from apps.sentiment_analysis.evaluate import score
from apps.sentiment_analysis.signatures import load_model, load_run
from apps.sentiment_analysis.tokenizer import train_tokenizer
from apps.sentiment_analysis.train import find_tokenizer, train
from apps.sentiment_analysis.word_vectors import initial_embedding


class Stopped(Exception):
    pass


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts a training; returns the arguments of its call of `runs.fit`."""
    fits = {}

    def fit(*arguments, **options):
        names = ("model", "batches", "validation_batches", "run")
        fits.update(zip(names, arguments, strict=True), **options)
        raise Stopped

    monkeypatch.setattr(train_module.runs, "fit", fit)

    def start(config):
        with pytest.raises(Stopped):
            train(config, tmp_path / "run")
        return fits

    return start


def imbalanced(folder, **changes):
    """Writes 24 texts of two classes; returns the configuration of a tiny model."""
    rows = ["text\tlabel", *[f"so good {i}\tyes" for i in range(16)]]
    rows += [f"too bad {i}\tno" for i in range(8)]
    (folder / "mine.tsv").write_text("\n".join(rows) + "\n")
    settings = {"embedding_size": 4, "units": 3, "epochs": 2, **changes}
    return Config(str(folder / "mine.tsv"), **settings)


def test_rare_classes_have_larger_weights(started, tmp_path):
    for balance in (True, False):
        config = imbalanced(tmp_path, class_weights=balance)
        labels = load_examples(config)["train"].labels
        fits = started(config)
        for name in ("batches", "validation_batches"):
            for _, one_hot, weights in fits[name]:
                counts = np.bincount(labels)[one_hot.numpy().argmax(axis=1)]
                expected = len(labels) / 2 / counts if balance else np.ones(len(counts))
                np.testing.assert_allclose(weights, expected)
        (tmp_path / "run/config.json").unlink()


def test_the_settings_reach_the_training(started, tmp_path):
    config = imbalanced(tmp_path)
    fits = started(config)
    assert (fits["monitor"], fits["mode"]) == ("val_macro_recall", "max")
    assert fits["patience"] == config.patience == 5
    loss = fits["model"].loss
    assert loss.label_smoothing == 0.1
    optimizer = fits["model"].optimizer
    assert (optimizer.weight_decay, optimizer.clipnorm) == (1e-3, 1.0)
    rates = [float(optimizer._learning_rate(step)) for step in range(200)]
    assert max(rates) == pytest.approx(2e-3)
    dropout = {
        layer.name: layer.rate
        for layer in fits["model"].layers
        if isinstance(layer, keras.layers.Dropout)
    }
    assert dropout == {"embedding_dropout": 0.2, "lstm_dropout": 0.4, "dropout": 0.4}


def test_the_embedding_starts_from_word_vectors(started, tmp_path, capsys):
    config = imbalanced(tmp_path)
    texts = load_examples(config)["train"].texts
    vocabulary = train_tokenizer(texts, config.vocabulary_size).vocabulary()
    words = sorted({token.removeprefix("▁") for token in vocabulary[2:]} - {""})
    lines = [f"{word} {i} {i * i}" for i, word in enumerate(words)]
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    paths = (str(tmp_path / "words.txt"),)
    fits = started(dataclasses.replace(config, word_vectors=paths))
    expected, num_known = initial_embedding(vocabulary, 4, paths, config.seed)
    assert num_known > 0
    assert f"{num_known} of {len(vocabulary)} tokens" in capsys.readouterr().out
    (embedding,) = fits["model"].get_layer("embedding").get_weights()
    np.testing.assert_array_equal(embedding, expected)


def test_an_interrupted_training_keeps_its_tokenizer(tmp_path):
    run = tmp_path / "run"
    config = Config("", vocabulary_size=50)
    first = find_tokenizer(["one two three four"] * 5, config, run)
    assert not run.exists()
    run.mkdir()
    runs.write_bytes(run / "tokenizer.model", first.model)
    again = find_tokenizer(["five six seven eight"] * 5, config, run)
    assert again.model == first.model
    other = train_tokenizer(["five six seven eight"] * 5, 50)
    assert other.vocabulary() != first.vocabulary()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    train(imbalanced(folder, batch_size=4, learning_rate=1e-2), folder / "run")
    return folder / "run"


def test_the_summary_has_the_score_of_the_saved_model(run):
    summary = runs.summary(run)
    examples = load_split(runs.load_config(Config, run), "validation")
    scores = score(load_model(str(run)), examples)
    assert summary["val_macro_recall"] == pytest.approx(scores.macro_recall, abs=1e-4)


def test_the_history_has_macro_recall(run):
    with (run / "history.csv").open() as file:
        header, *rows = csv.reader(file)
    assert len(rows) == 2
    assert {"macro_recall", "val_macro_recall", "accuracy", "loss"} <= set(header)


def test_a_run_has_its_tokenizer_and_class_names(run):
    assert json.loads((run / "classes.json").read_text()) == ["no", "yes"]
    classifier = load_run(run)
    assert classifier.class_names == ("no", "yes")
    assert classifier.tokenizer.model == (run / "tokenizer.model").read_bytes()


def test_a_trained_model_can_be_loaded_with_its_metric(run):
    model = keras.saving.load_model(run / "model.keras")
    examples = load_split(runs.load_config(Config, run), "validation")
    token_ids = load_run(run).tokenizer(examples.texts).to_tensor(0)
    one_hot = np.eye(2)[examples.labels]
    report = model.evaluate(token_ids, one_hot, verbose=0, return_dict=True)
    assert report["macro_recall"] == pytest.approx(
        runs.summary(run)["val_macro_recall"], abs=1e-4
    )
