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
from apps.sentiment_analysis.model import initial_embedding, load_classifier
from apps.sentiment_analysis.tokenizer import train_tokenizer
from apps.sentiment_analysis.train import find_tokenizer, train


class Stopped(Exception):
    pass


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Begins a training; returns what it was about to fit."""
    fits = {}

    def fit(*arguments, **options):
        names = ("model", "batches", "validation_batches", "run")
        fits.update(zip(names, arguments, strict=True), **options)
        raise Stopped

    monkeypatch.setattr(train_module.runs, "fit", fit)

    def begin(config):
        with pytest.raises(Stopped):
            train(config, tmp_path / "run")
        return fits

    return begin


def unbalanced(folder):
    rows = ["text\tlabel", *[f"so good {i}\tyes" for i in range(16)]]
    rows += [f"too bad {i}\tno" for i in range(8)]
    (folder / "mine.tsv").write_text("\n".join(rows) + "\n")
    return Config(str(folder / "mine.tsv"), embedding_size=4, units=3, epochs=2)


def test_rare_classes_weigh_more(begun, tmp_path):
    for balance in (True, False):
        config = dataclasses.replace(unbalanced(tmp_path), class_weights=balance)
        labels = load_examples(config)[0]["train"].labels
        fits = begun(config)
        for name in ("batches", "validation_batches"):
            for _, one_hot, weights in fits[name]:
                share = np.bincount(labels)[one_hot.numpy().argmax(axis=1)]
                expected = len(labels) / 2 / share if balance else np.ones(len(share))
                np.testing.assert_allclose(weights, expected)
        (tmp_path / "run/config.json").unlink()


def test_the_best_epoch_is_that_of_the_best_macro_recall(begun, tmp_path):
    config = unbalanced(tmp_path)
    fits = begun(config)
    assert (fits["monitor"], fits["mode"]) == ("val_macro_recall", "max")
    assert fits["patience"] == config.patience == 5
    loss = fits["model"].loss
    assert loss.label_smoothing == 0.1
    optimizer = fits["model"].optimizer
    assert (optimizer.weight_decay, optimizer.clipnorm) == (1e-3, 1.0)
    rates = [float(optimizer._learning_rate(step)) for step in range(200)]
    assert max(rates) == pytest.approx(2e-3)


def test_the_embedding_starts_from_word_vectors(begun, tmp_path, capsys):
    config = unbalanced(tmp_path)
    texts = load_examples(config)[0]["train"].texts
    pieces = train_tokenizer(texts, config.vocabulary_size).vocabulary()
    words = sorted({piece.removeprefix("▁") for piece in pieces[2:]} - {""})
    lines = [f"{word} {i} {i * i}" for i, word in enumerate(words)]
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    paths = (str(tmp_path / "words.txt"),)
    fits = begun(dataclasses.replace(config, word_vectors=paths))
    expected, known = initial_embedding(pieces, 4, paths, config.seed)
    assert known > 0
    assert f"{known} of {len(pieces)} pieces" in capsys.readouterr().out
    (embedding,) = fits["model"].get_layer("embedding").get_weights()
    np.testing.assert_array_equal(embedding, expected)


def test_an_interrupted_run_keeps_its_tokenizer(tmp_path):
    run = tmp_path / "run"
    config = Config("", vocabulary_size=50)
    fresh = find_tokenizer(["one two three four"] * 5, config, run)
    assert not run.exists()
    run.mkdir()
    runs.write_bytes(run / "tokenizer.model", fresh.model)
    again = find_tokenizer(["five six seven eight"] * 5, config, run)
    assert again.model == fresh.model
    other = train_tokenizer(["five six seven eight"] * 5, 50)
    assert other.vocabulary() != fresh.vocabulary()


def test_a_run_holds_all_that_is_needed(run):
    assert json.loads((run / "classes.json").read_text()) == [
        "negative",
        "neutral",
        "positive",
    ]
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "tokenizer.model", "model.keras", "curves.png"}
    assert list((run / "logs").rglob("events.out.tfevents*"))
    with (run / "history.csv").open() as file:
        header, *rows = csv.reader(file)
    assert len(rows) == 7
    assert {"macro_recall", "val_macro_recall", "accuracy", "loss"} <= set(header)


def test_the_summary_tells_what_the_model_reaches(run):
    summary = runs.summary(run)
    config = runs.load_config(Config, run)
    examples, class_names = load_split(config, "validation")
    result = score(load_classifier(run), examples, class_names)
    assert summary["val_macro_recall"] == pytest.approx(result.macro_recall, abs=1e-4)
    assert summary["epochs"] == 7


def test_a_finished_run_is_left_as_it_is(run):
    before = (run / "model.keras").stat().st_mtime_ns
    config = runs.load_config(Config, run)
    assert train(config, run) == runs.summary(run)
    assert (run / "model.keras").stat().st_mtime_ns == before


def test_a_trained_model_loads_with_its_metric(run):
    model = keras.saving.load_model(run / "model.keras")
    examples, class_names = load_split(runs.load_config(Config, run), "validation")
    classifier = load_classifier(run)
    tokens = classifier.tokenizer(examples.texts).to_tensor(0)
    one_hot = np.eye(len(class_names))[examples.labels]
    report = model.evaluate(tokens, one_hot, verbose=0, return_dict=True)
    assert report["macro_recall"] == pytest.approx(
        runs.summary(run)["val_macro_recall"], abs=1e-4
    )
