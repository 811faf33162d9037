import csv
import dataclasses

import keras
import numpy as np
import pytest

from apps.common import runs
from apps.common.errors import BadInput
from apps.translation import metrics
from apps.translation import train as train_module
from apps.translation.config import Config
from apps.translation.data import Pairs, load_pairs, load_split
from apps.translation.model import load_translator
from apps.translation.tokenizer import train_tokenizer
from apps.translation.train import (
    SmoothedCrossEntropy,
    TeacherForcing,
    find_tokenizers,
    train,
)
from tests.apps.translation.conftest import make_pairs


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


def test_the_best_epoch_is_that_of_the_best_bleu(begun, config):
    fits = begun(dataclasses.replace(config, gradient_norm=0.5, label_smoothing=0.2))
    assert (fits["monitor"], fits["mode"]) == ("val_bleu", "max")
    assert (fits["patience"], fits["epochs"]) == (config.patience, config.epochs)
    assert fits["model"].loss.label_smoothing == 0.2
    optimizer = fits["model"].optimizer
    assert optimizer.clipnorm == 0.5
    steps = len(fits["batches"]) * config.epochs
    rates = [float(optimizer._learning_rate(step)) for step in range(steps)]
    assert max(rates) == pytest.approx(config.learning_rate, rel=0.05)
    assert rates[-1] < 0.01 * config.learning_rate
    (callback,) = fits["callbacks"]
    assert isinstance(callback, metrics.ValidationBleu)
    assert callback.pairs == load_pairs(config)["validation"]
    assert fits["model"].told is False


def test_settings_reach_the_model(begun, config, tmp_path):
    own = dataclasses.replace(config, joint_vocabulary=False, teacher_forcing=0.5)
    fits = begun(own)
    arguments = fits["model"].arguments
    for name in ("embedding_size", "encoder_units", "decoder_units", "attention_units"):
        assert arguments[name] == getattr(config, name)
    assert arguments["scheduled"] is True
    names = {"config.json", "source.model", "target.model"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names
    one, other = find_tokenizers(None, own, tmp_path / "run")
    assert arguments["source_vocabulary"] == len(one)
    assert arguments["target_vocabulary"] == len(other)
    _, forcing = fits["callbacks"]
    assert isinstance(forcing, TeacherForcing)
    assert (forcing.last, forcing.epochs) == (0.5, config.epochs)


def test_the_share_that_is_told_falls_along_a_line():
    class Model:
        told = keras.Variable(1.0)

    for last, epochs, expected in (
        (0.6, 5, [1, 0.9, 0.8, 0.7, 0.6]),
        (0.0, 3, [1, 0.5, 0]),
        (0.5, 1, [1]),
    ):
        callback = TeacherForcing(last, epochs)
        callback.set_model(Model)
        told = []
        for epoch in range(epochs):
            callback.on_epoch_begin(epoch)
            told.append(float(Model.told))
        np.testing.assert_allclose(told, expected, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_counts_each_piece_alike(smoothing):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 5, 7)).astype("float32")
    labels = random.integers(1, 7, (3, 5))
    weights = np.ones((3, 5), "float32")
    weights[0, 1:] = weights[1, 4:] = 0
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(7)[labels] + smoothing / 7
    each = -(wanted * log_probs).sum(-1)
    expected = (each * weights).sum() / weights.sum()
    loss = SmoothedCrossEntropy(smoothing)
    assert float(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(labels, logits)) == pytest.approx(each.mean(), rel=1e-5)
    # What stands where nothing counts changes nothing.
    logits[0, 1:] += 100
    labels[0, 1:] = 0
    assert float(loss(labels, logits, weights)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_an_interrupted_run_keeps_its_tokenizers(joint, tmp_path):
    config = Config("", vocabulary_size=40, joint_vocabulary=joint)
    pairs = Pairs(*map(list, zip(*make_pairs(60), strict=True)))
    fresh = find_tokenizers(pairs, config, tmp_path)
    assert (fresh[0] is fresh[1]) == joint
    assert list(tmp_path.iterdir()) == []
    train_module.save_tokenizers(fresh, tmp_path)
    other = dataclasses.replace(pairs, sources=pairs.targets, targets=pairs.targets)
    again = find_tokenizers(other, config, tmp_path)
    assert [each.model for each in again] == [each.model for each in fresh]
    assert train_tokenizer(other.sources, 40).vocabulary() != fresh[0].vocabulary()


def test_tokenizers_learn_from_training_pairs_alone(run, config):
    pairs = load_split(config, "train")
    texts = [*pairs.sources, *pairs.targets]
    expected = train_tokenizer(texts, config.vocabulary_size)
    assert load_translator(run).source_tokenizer.vocabulary() == expected.vocabulary()


def test_a_beam_of_more_than_all_pieces_is_refused(config, tmp_path):
    with pytest.raises(BadInput, match=r"--beam-size 99 is more than the .* pieces"):
        train(dataclasses.replace(config, beam_size=99, vocabulary_size=50), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_holds_all_that_is_needed(run, config):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "source.model", "model.keras", "curves.png"}
    assert "target.model" not in names  # It is shared.
    assert list((run / "logs").rglob("events.out.tfevents*"))
    with (run / "history.csv").open() as file:
        header, *rows = csv.reader(file)
    assert {"loss", "val_loss", "val_bleu", "seconds"} <= set(header)
    assert 2 <= len(rows) <= config.epochs
    assert runs.load_config(Config, run) == config


def test_the_summary_tells_what_the_model_reaches(run, config):
    summary = runs.summary(run)
    pairs = load_split(config, "validation")
    predictor = load_translator(run).predictor("greedy")
    translations = metrics.translate(predictor, pairs.sources)
    bleu = metrics.score(translations, pairs.targets)["bleu"]
    assert summary["val_bleu"] == pytest.approx(bleu, abs=1e-4)
    best = max(runs.read_history(run), key=lambda row: row["val_bleu"])
    assert summary["val_bleu"] == best["val_bleu"]
    assert summary["best_epoch"] == best["epoch"] + 1


def test_a_finished_run_is_left_as_it_is(run, config):
    before = (run / "model.keras").stat().st_mtime_ns
    assert train(config, run) == runs.summary(run)
    assert (run / "model.keras").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="another dropout"):
        train(dataclasses.replace(config, dropout=0.3), run)


def test_learning_goes_on(run):
    losses = [row["val_loss"] for row in runs.read_history(run)]
    assert losses[-1] < 0.5 * losses[0]
