import dataclasses
import json

import numpy as np
import pytest

from apps.common import datasets, runs
from apps.common.errors import BadInput
from apps.common.predictors import as_predictor
from apps.common.tokenizer import train_tokenizer
from apps.image_captioning import batches, metrics, model
from apps.image_captioning import train as training_module
from apps.image_captioning.config import Config
from apps.image_captioning.data import load_examples, load_split
from apps.image_captioning.signatures import Captioner, load_run, save_tokenizer
from apps.image_captioning.train import (
    compile_model,
    find_tokenizer,
    make_writer,
    train,
)
from tests.apps.image_captioning import shapes
from tests.apps.image_captioning.tiny import make_examples, small, write_lines

# A pretrained network whose features cost little.
PRETRAINED = {
    "backbone": "EfficientNetLite0",
    "backbone_output": "block3_project_bn",
    "weights": "imagenet",
    "views": 2,
}


@pytest.fixture(scope="module")
def walls(tmp_path_factory):
    """40 images with their captions."""
    folder = tmp_path_factory.mktemp("walls")
    examples = make_examples(40)
    for name, image in zip(examples.names, examples.images, strict=True):
        (folder / name).write_bytes(image)
    rows = [
        f"{name}\t{caption}"
        for name, captions in zip(examples.names, examples.captions, strict=True)
        for caption in captions
    ]
    write_lines(folder / "captions.tsv", "image\tcaption", *rows)
    return folder


@pytest.fixture
def phases(monkeypatch):
    """Records each phase of a training."""
    found = {}
    fit = runs.fit

    def watch(network, batches, validation, run, phase, **options):
        before = {variable.path: variable.numpy() for variable in network.variables}
        inputs, labels, _ = next(iter(batches))
        folders = {path.name for path in run.iterdir() if path.is_dir()}
        fit(network, batches, validation, run, phase, **options)
        changed = {
            path
            for variable in network.variables
            for path in [variable.path]
            if np.any(before[path] != variable.numpy())
        }
        found[phase] = {
            **options,
            "has_features": "features" in inputs,
            "captions": len(labels),
            "steps": len(batches),
            "folders": folders,
            "changed": changed,
            "loss": network.loss,
            "clipnorm": network.optimizer.global_clipnorm,
        }

    monkeypatch.setattr(runs, "fit", watch)
    return found


def is_of_backbone(path):
    return "conv" in path or "bn" in path or "block" in path


@pytest.mark.slow
def test_pretrained_features_are_computed_once_and_removed(
    walls, phases, tmp_path, capsys
):
    """With few validation images: their loss chooses the epoch."""
    run = tmp_path / "run"
    config = small(walls, **PRETRAINED, epochs=2, self_critical_epochs=1)
    summary = train(config, run)
    assert datasets.sizes(load_examples(config))["validation"] == 3
    # Self-critical training has another loss, which could not be compared.
    assert list(phases) == ["training"]
    out = capsys.readouterr().out
    assert "no self-critical epochs: they need at least 10" in out
    numbers = ", ".join(
        f"{split} {sum(map(len, examples.captions))}"
        for split, examples in load_examples(config).items()
    )
    assert f"\n  captions: {numbers}\n" in out
    phase = phases["training"]
    assert phase["has_features"]
    assert "features" in phase["folders"]
    assert (phase["initial_epoch"], phase["epochs"], phase["total_epochs"]) == (0, 2, 2)
    assert (phase["monitor"], phase["mode"]) == ("val_loss", "min")
    assert not any(map(is_of_backbone, phase["changed"]))
    assert any("lstm" in path for path in phase["changed"])

    names = {path.name for path in run.iterdir()}
    assert not names & {"features", "new_features"}
    assert {"curves.png", "model.keras", "tokens.model", "baseline.json"} <= names
    assert summary["epochs"] == 2
    history = runs.read_history(run)
    assert summary["val_loss"] == min(row["val_loss"] for row in history)
    assert {"val_cider", "val_bleu_4"} <= history[0].keys()
    record = json.loads((run / "baseline.json").read_text())
    assert record["name"].endswith("images with similar frozen features")
    # A finished training is not repeated.
    assert train(config, run) == summary
    assert list(phases) == ["training"]


@pytest.mark.slow
def test_all_phases_follow_one_another(walls, phases, tmp_path, capsys):
    run = tmp_path / "run"
    config = small(
        walls,
        **PRETRAINED,
        fine_tune_epochs=1,
        fine_tune_fraction=1.0,
        self_critical_epochs=2,
        validation_fraction=0.34,
        gradient_norm=0.5,
        label_smoothing=0.2,
    )
    summary = train(config, run)
    assert list(phases) == ["training", "fine_tuning", "self_critical"]
    first, second, third = phases.values()
    epochs = [(phase["initial_epoch"], phase["epochs"]) for phase in phases.values()]
    assert epochs == [(0, 1), (1, 2), (2, 4)]
    assert {phase["total_epochs"] for phase in phases.values()} == {4}
    assert {phase["monitor"] for phase in phases.values()} == {"val_cider"}
    assert [phase["has_features"] for phase in phases.values()] == [True, False, True]
    assert "new_features" in third["folders"]  # The backbone has changed.
    assert not any(map(is_of_backbone, first["changed"] | third["changed"]))
    assert any(map(is_of_backbone, second["changed"]))
    assert any("lstm" in path for path in third["changed"])
    losses = [phase["loss"].label_smoothing for phase in phases.values()]
    assert losses == [0.2, 0.2, 0]
    assert third["loss"].reduction == "sum_over_batch_size"
    assert {phase["clipnorm"] for phase in phases.values()} == {0.5}
    assert third["captions"] == 8 // 3 * 3  # Captions of two images.
    assert [row["epoch"] for row in runs.read_history(run)] == [0, 1, 2, 3]
    assert not {path.name for path in run.iterdir()} & {"features", "new_features"}

    # The saved model is the best of all phases, and writes what was scored.
    examples = load_split(config, "validation", held_out=runs.read_held_out(run))
    best = max(row["val_cider"] for row in runs.read_history(run))
    assert summary["val_cider"] == best
    predictor = as_predictor(load_run(run).signatures["greedy"])
    encoded = [examples.image_bytes(i) for i in range(len(examples))]
    captions = [text.decode() for text in predictor(encoded)["captions"]]
    scores = metrics.score(captions, examples.captions)
    assert scores["cider"] == pytest.approx(best, abs=0.05)
    assert "validation cider " in capsys.readouterr().out


@pytest.mark.slow
def test_random_weights_are_trained_in_the_first_phase(walls, phases, tmp_path):
    config = small(
        walls,
        attention="none",
        fine_tune_epochs=3,
        self_critical_epochs=1,
        validation_fraction=0.34,
        beam_size=2,
    )
    run = tmp_path / "run"
    train(config, run)
    first, last = phases["training"], phases["self_critical"]
    assert list(phases) == ["training", "self_critical"]
    assert not first["has_features"]
    assert last["has_features"]
    assert any(map(is_of_backbone, first["changed"]))
    assert not any(map(is_of_backbone, last["changed"]))
    assert "features" not in first["folders"]
    record = json.loads((run / "baseline.json").read_text())
    assert record["name"].endswith("images with similar pixels")
    captioner = load_run(run)
    assert captioner.model.decoder.attention is None
    answers = as_predictor(captioner.signatures["serving_default"])(
        [load_examples(config)["test"].image_bytes(0)]
    )
    assert answers["attention"].shape == (1, 10, *captioner.model.grid)
    assert not answers["attention"].any()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        # 27 training images have about 54 captions.
        ({"max_steps": 5, "epochs": 3}, (1, 5)),
        ({"min_steps": 60, "epochs": 3}, (3, 20)),
    ],
)
def test_steps_are_limited(limits, expected, walls, tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def fit(network, batches, *arguments, **options):
        raise Started(len(batches), options)

    monkeypatch.setattr(runs, "fit", fit)
    with pytest.raises(Started) as started:
        train(small(walls, max_minutes=7, patience=3, **limits), tmp_path / "run")
    steps, options = started.value.args
    assert (options["max_minutes"], options["patience"]) == (7, 3)
    assert (options["epochs"], steps) == expected


@pytest.mark.slow
def test_a_small_data_set_is_learned(tmp_path):
    """An epoch would have six steps, and five of them patience."""
    folder = shapes.write(tmp_path / "data", range(0, 360, 3))  # One caption each.
    settings = shapes.SMALL | {"learning_rate": 2e-3, "min_steps": 240}
    summary = train(Config(str(folder), **settings), tmp_path / "run")
    assert summary["val_cider"] > 5


# Parts of the training


EXAMPLES = make_examples(12)


def test_an_interrupted_training_keeps_its_tokenizer(tmp_path):
    config = small(token="subword", vocabulary_size=30)
    tokenizer = find_tokenizer(EXAMPLES, config, tmp_path)
    assert list(tmp_path.iterdir()) == []
    captions = [each for row in EXAMPLES.captions for each in row]
    expected = train_tokenizer(captions, 30, "subword").vocabulary()
    assert tokenizer.vocabulary() == expected
    save_tokenizer(tokenizer, tmp_path)
    changed = dataclasses.replace(EXAMPLES, captions=[("other words",)] * 12)
    again = find_tokenizer(changed, config, tmp_path)
    assert again.vocabulary() == expected
    words = find_tokenizer(changed, small(beam_size=1), tmp_path / "new").vocabulary()
    assert {"▁other", "▁words"} <= set(words)


def test_a_beam_larger_than_the_vocabulary_is_refused(tmp_path):
    message = r"--beam-size 99 is more than the \d\d tokens of the vocabulary; make"
    with pytest.raises(BadInput, match=message):
        find_tokenizer(EXAMPLES, small(beam_size=99), tmp_path)


def test_some_caption_must_be_short(tmp_path):
    # "a red wall" has 4 tokens with the end, "red" has 2.
    long = datasets.take(EXAMPLES, [0, 3, 6, 9])
    with pytest.raises(BadInput, match="of mine is longer than --max-tokens 3; raise"):
        find_tokenizer(long, small("mine", max_tokens=3), tmp_path)
    find_tokenizer(long, small("mine", max_tokens=4), tmp_path)
    find_tokenizer(EXAMPLES, small("mine", max_tokens=3), tmp_path)


def test_the_settings_reach_the_optimizer_and_the_loss(captioner):
    compile_model(captioner.model, small(gradient_norm=0.7, label_smoothing=0.3), 0.02)
    assert captioner.model.optimizer.global_clipnorm == pytest.approx(0.7)
    assert float(captioner.model.optimizer.learning_rate) == pytest.approx(0.02)
    assert captioner.model.loss.label_smoothing == 0.3


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    config = small()
    tokenizer = find_tokenizer(EXAMPLES, config, tmp_path_factory.mktemp("none"))
    network = model.build_model(config=config, vocabulary_size=len(tokenizer))
    random = np.random.default_rng(0)
    for part in (network.reduction, network.decoder):
        for weight in part.trainable_variables:
            weight.assign(random.normal(0, 1, weight.shape))
    return Captioner(network, tokenizer, config)


def test_captions_are_written_of_images_or_of_features(
    captioner, tmp_path, monkeypatch
):
    for module in (batches, training_module):
        monkeypatch.setattr(module, "EXTRACTION_BATCH", 20)
    examples = make_examples(32)
    of_images = make_writer(captioner, examples, None)()
    greedy = as_predictor(captioner.signatures["greedy"])(examples.images)
    assert of_images == [text.decode() for text in greedy["captions"]]
    assert len(set(of_images)) > 1
    features = training_module.load_features(
        captioner.model, {"validation": examples}, captioner.config, tmp_path
    )
    of_features = make_writer(captioner, examples, features)()
    alike = np.mean([a == b for a, b in zip(of_images, of_features, strict=True)])
    assert alike > 0.9  # The features have half precision.


def test_captions_follow_the_model(captioner):
    write = make_writer(captioner, EXAMPLES, None)
    before = write()
    weights = captioner.model.get_weights()
    for weight in captioner.model.decoder.trainable_variables:
        weight.assign(-weight)
    after = write()
    captioner.model.set_weights(weights)
    assert before != after
    assert write() == before
