import csv
import dataclasses
import json
import re

import keras
import numpy as np
import pytest

from apps.common import runs
from apps.sentiment_analysis import train as train_module
from apps.sentiment_analysis.config import Config
from apps.sentiment_analysis.data import load_examples, load_split
from apps.sentiment_analysis.evaluate import evaluate, score
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


def test_the_summary_has_the_validation_scores_of_the_mixture(run):
    summary = runs.summary(run)
    assert {"val_macro_recall", "val_accuracy", "val_loss"} <= summary.keys()
    assert summary["val_macro_recall"] == 1.0  # "good" and "bad" decide.
    assert summary["val_loss"] < np.log(2)


def test_the_linear_branch_learns_from_training_and_validation_texts(
    tmp_path, monkeypatch
):
    fits = []
    fit = train_module.linear.fit

    def spy(layer, token_ids, labels, weights, strength=None):
        fits.append((len(labels), token_ids.shape[0], weights, strength))
        return fit(layer, token_ids, labels, weights, strength)

    monkeypatch.setattr(train_module.linear, "fit", spy)
    config = imbalanced(tmp_path, epochs=1)
    train(config, tmp_path / "run")
    splits = load_examples(config)
    num_train = len(splits["train"])
    num_both = num_train + len(splits["validation"])
    first, second = fits
    assert first[:2] == (num_train, num_train)
    assert second[:2] == (num_both, num_both)
    assert first[3] is None
    assert second[3] in train_module.linear.STRENGTHS
    assert second[2][0] > second[2][1]  # The rare class weighs more.


def test_the_linear_branch_can_be_left_out(tmp_path):
    config = imbalanced(tmp_path, epochs=1, linear_branch=False)
    summary = train(config, tmp_path / "run")
    model = keras.saving.load_model(tmp_path / "run/model.keras")
    assert "linear" not in {layer.name for layer in model.layers}
    (history,) = runs.read_history(tmp_path / "run")
    assert summary["val_loss"] == history["val_loss"]


def test_a_training_that_was_killed_while_mixing_mixes_again(tmp_path, monkeypatch):
    config, run = imbalanced(tmp_path), tmp_path / "run"

    def stop(*arguments):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(train_module.runs, "finish", stop)
        with pytest.raises(Stopped):
            train(config, run)
    expected = keras.saving.load_model(run / "model.keras").get_weights()
    train(config, run)
    again = keras.saving.load_model(run / "model.keras").get_weights()
    for weight, other in zip(again, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)
    assert not (run / "network.keras").exists()


def test_the_baseline_stands_beside_the_score(started, tmp_path, capsys):
    started(imbalanced(tmp_path))
    printed = capsys.readouterr().out
    assert re.search(r"^baseline on validation: .*macro recall 1\.0000", printed, re.M)
    record = json.loads((tmp_path / "run/baseline.json").read_text())
    assert record["test"]["macro_recall"] == 1.0


def test_training_says_that_there_are_no_word_vectors(started, tmp_path, capsys):
    started(imbalanced(tmp_path))
    assert "no word vectors: " in capsys.readouterr().out


def test_evaluate_prints_the_baseline_beside_the_score(run, capsys):
    report = evaluate(str(run))
    record = json.loads((run / "baseline.json").read_text())
    assert report["baseline"] == {"name": record["name"], **record["test"]}
    assert "baseline: macro recall 1.0000, accuracy 1.0000" in capsys.readouterr().out


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
    config = runs.load_config(Config, run)
    examples = load_split(config, "test", held_out=runs.read_held_out(run))
    token_ids = load_run(run).tokenizer(examples.texts).to_tensor(0)
    one_hot = np.eye(2)[examples.labels]
    report = model.evaluate(token_ids, one_hot, verbose=0, return_dict=True)
    scores = score(load_model(str(run)), examples)
    assert report["macro_recall"] == pytest.approx(scores.macro_recall, abs=1e-4)
