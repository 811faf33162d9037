import dataclasses

import numpy as np
import pytest

from apps.common import datasets, runs
from apps.common.errors import BadInput
from apps.common.predictors import as_predictor
from apps.common.tokenizer import train_tokenizer
from apps.translation import metrics
from apps.translation.config import Config
from apps.translation.data import Examples, load_examples, load_split
from apps.translation.signatures import load_run, save_tokenizers
from apps.translation.train import (
    compile_model,
    find_tokenizers,
    make_model,
    train,
)
from tests.apps.translation.conftest import make_pairs

TINY = Config("", embedding_size=8, encoder_units=4, decoder_units=8)
PAIRS = Examples(*map(list, zip(*make_pairs(60), strict=True)))


@pytest.mark.parametrize("is_joint", [True, False], ids=["joint", "separate"])
def test_the_settings_reach_the_model(is_joint, config, tmp_path):
    config = dataclasses.replace(
        config,
        joint_vocabulary=is_joint,
        attention="multiplicative",
        embedding_dropout=0.1,
        dropout=0.2,
        teacher_forcing_rate=0.5,
    )
    tokenizers = find_tokenizers(PAIRS, config, tmp_path)
    model = make_model(config, tokenizers)
    sizes = [len(tokenizer) for tokenizer in tokenizers]
    assert model.arguments == {
        "source_vocabulary_size": sizes[0],
        "target_vocabulary_size": None if is_joint else sizes[1],
        "scheduled_sampling": True,
        **{
            name: getattr(config, name)
            for name in (
                *("embedding_size", "encoder_units", "decoder_units", "attention"),
                *("attention_units", "embedding_dropout", "dropout"),
            )
        },
    }
    assert model.built
    model = make_model(
        dataclasses.replace(config, teacher_forcing_rate=1.0), tokenizers
    )
    assert model.decoder.teacher_forcing_rate is None


def test_the_settings_reach_the_optimizer_and_the_loss():
    model = make_model(TINY, [[None] * 9] * 2)
    config = dataclasses.replace(
        TINY, learning_rate=0.01, gradient_norm=0.5, label_smoothing=0.2
    )
    compile_model(model, config, steps=100)
    assert model.loss.label_smoothing == 0.2
    assert model.optimizer.clipnorm == 0.5
    rates = [float(model.optimizer._learning_rate(step)) for step in range(100)]
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    assert rates[-1] < 0.01 * config.learning_rate


@pytest.mark.parametrize("is_joint", [True, False], ids=["joint", "separate"])
def test_an_interrupted_training_keeps_its_tokenizers(is_joint, tmp_path):
    config = Config("", vocabulary_size=40, joint_vocabulary=is_joint)
    tokenizers = find_tokenizers(PAIRS, config, tmp_path)
    assert (tokenizers[0] is tokenizers[1]) == is_joint
    assert list(tmp_path.iterdir()) == []
    save_tokenizers(tokenizers, tmp_path)
    other = Examples(PAIRS.targets, PAIRS.targets)
    again = find_tokenizers(other, config, tmp_path)
    assert [each.model for each in again] == [each.model for each in tokenizers]
    new = train_tokenizer(other.sources, 40)
    assert new.vocabulary() != tokenizers[0].vocabulary()


def test_a_beam_larger_than_the_vocabulary_is_refused(config, tmp_path):
    with pytest.raises(BadInput, match=r"--beam-size 99 is more than the .* tokens"):
        train(dataclasses.replace(config, beam_size=99, vocabulary_size=50), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_trained_and_loaded(tmp_path):
    """With everything that the training of the contract does not have."""
    (tmp_path / "mine.tsv").write_text(
        "\n".join(["a\tb", *map("\t".join, make_pairs(40))]) + "\n"
    )
    config = dataclasses.replace(
        TINY,
        data=str(tmp_path / "mine.tsv"),
        source_column="a",
        target_column="b",
        vocabulary_size=50,
        joint_vocabulary=False,
        subword_sampling_alpha=0.2,
        attention="none",
        token_dropout=0.1,
        teacher_forcing_rate=0.5,
        epochs=2,
        beam_size=2,
    )
    run = tmp_path / "run"
    train(config, run)
    assert {"source.model", "target.model"} <= {path.name for path in run.iterdir()}
    translator = load_run(run)
    assert float(translator.model.decoder.teacher_forcing_rate) in (0.5, 1.0)
    answers = as_predictor(translator.signatures["with_attention"])(["zwei", "drei"])
    assert answers["translations"].shape == (2,)
    weights = b" ".join(answers["attention"]).split()
    assert not np.array(weights, float).any()


# The training of the contract.


def test_tokenizers_are_trained_on_the_training_split(run, config):
    splits = load_examples(config, runs.read_held_out(run))
    texts = [*splits["train"].sources, *splits["train"].targets]
    expected = train_tokenizer(texts, config.vocabulary_size).vocabulary()
    tokenizers = load_run(run).tokenizers
    assert tokenizers[0] is tokenizers[1]
    assert tokenizers[0].vocabulary() == expected
    texts += datasets.join(splits.values()).sources
    assert train_tokenizer(texts, config.vocabulary_size).vocabulary() != expected


def test_the_best_epoch_has_the_best_greedy_bleu(run, config):
    summary = runs.summary(run)
    examples = load_split(config, "validation", held_out=runs.read_held_out(run))
    predictor = as_predictor(load_run(run).signatures["greedy"])
    translations = metrics.translate(predictor, examples.sources)
    bleu = metrics.score(translations, examples.targets)["bleu"]
    assert summary["val_bleu"] == pytest.approx(bleu, abs=1e-4)
    best = max(runs.read_history(run), key=lambda row: row["val_bleu"])
    assert summary["val_bleu"] == best["val_bleu"]
    assert summary["best_epoch"] == best["epoch"] + 1


def test_the_loss_falls(run):
    losses = [row["val_loss"] for row in runs.read_history(run)]
    assert losses[-1] < 0.5 * losses[0]
