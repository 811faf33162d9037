import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from apps.common import saved_models
from apps.common.errors import BadInput, ExportRefused
from apps.common.predictors import load_predictor
from apps.translation import export as export_module
from apps.translation.data import load_split
from apps.translation.export import VARIANTS, export
from apps.translation.model import alignments, load_model
from tests.model_server import serve


@pytest.fixture(scope="module")
def texts(config):
    sentences = load_split(config, "test").sources[:12]
    # A long one, an empty one, and what nobody has learned from.
    return [*sentences, " ".join(sentences * 3), "", "ZWEI 你好 \u200bdrei\u00a0vier"]


@pytest.fixture(scope="module")
def answers(run, texts):
    return {
        signature: load_model(str(run), signature)(texts)
        for signature in ("serving_default", "greedy")
    }


def check(predictor, texts, expected, same=1.0, atol=0.02):
    """Holds an engine to the trained model's answers."""
    found = predictor(texts)
    assert set(found) == set(expected)
    alike = found["translations"] == expected["translations"]
    assert alike.mean() >= same
    assert len(set(found["translations"][:12])) > 4
    for i, ours in enumerate(alignments(found)):
        theirs = alignments(expected)[i]
        assert ours[0] == theirs[0]
        if alike[i] and ours[1] == theirs[1]:
            np.testing.assert_allclose(ours[2], theirs[2], atol=atol)
            assert found["scores"][i] == pytest.approx(expected["scores"][i], abs=atol)


@pytest.mark.parametrize("signature", ["serving_default", "greedy"])
def test_all_engines_give_the_translations_of_the_trained_model(
    signature, texts, answers, exported
):
    expected = answers[signature]
    with serve("translation", exported / "1") as addresses:
        for where in (exported / "1", *addresses):
            predictor = load_predictor(str(where), None, signature)
            check(predictor, texts, expected, same=0.9)
    float32 = exported / "edge/float32.tflite"
    predictor = load_predictor(str(float32), None, signature)
    check(predictor, texts, expected, same=1.0, atol=1e-3)
    predictor = load_predictor(str(exported / "edge"), None, signature)
    check(predictor, texts, expected, same=0.8, atol=0.1)


def test_greed_answers_otherwise_than_a_beam(answers):
    beam, greedy = (answers[name]["scores"] for name in ("serving_default", "greedy"))
    assert np.abs(beam - greedy).max() > 1e-3


def test_numbers_of_pieces_are_translated_too(texts, exported):
    loaded = tf.saved_model.load(exported / "1").signatures
    tokens = tf.constant([[5, 9, 7, 3], [8, 6, 3, 0]])
    found = loaded["tensors"](tokens=tokens)
    assert set(found) == {"tokens", "scores", "attention"}
    assert found["tokens"].shape[0] == 2
    assert found["attention"].shape[2] == 4


def test_everything_is_there(run, exported, config):
    edge = exported / "edge"
    names = {path.name for path in edge.iterdir()}
    assert names >= {
        "float32.tflite",
        "model.tflite",
        "requirements.txt",
        "run.py",
        "search.json",
        "source.model",
    }
    assert not names & {"target.model", "labels.txt"}  # The vocabulary is shared.
    assert (edge / "source.model").read_bytes() == (run / "source.model").read_bytes()
    search = json.loads((edge / "search.json").read_text("utf-8"))
    assert search["beam_size"] == config.beam_size
    assert search["length_penalty"] == config.length_penalty
    assert "sentencepiece" in (edge / "requirements.txt").read_text()


def test_the_card_tells_what_was_measured(exported, config):
    card = json.loads((exported / "card.json").read_text())
    assert [row["engine"] for row in card["engines"]] == [
        "trained model",
        "SavedModel",
        *VARIANTS,
    ]
    rows = {row["engine"]: row for row in card["engines"]}
    for row in rows.values():
        for name in ("bleu", "bleu_lowercased_tokenized", "chrf"):
            assert 10 < row[name] <= 100
        assert row["size_MB"] > 0
        assert row["latency_ms"] > 0
        assert row["changed_translations"] == pytest.approx(
            1 - row["same_translations"]
        )
    assert rows["trained model"]["same_translations"] == 1
    for name in ("SavedModel", "float32"):
        assert rows[name]["same_translations"] >= 0.98
    assert rows["float16"]["size_MB"] < 0.8 * rows["float32"]["size_MB"]
    assert card["config"]["data"] == config.data
    assert card["config"]["target_data"] is None
    text = (exported / "card.md").read_text()
    assert "# Translation: source → target" in text
    assert "| SavedModel |" in text
    assert "not stated" in text


@pytest.mark.parametrize("name", ["float32", "model"])
def test_a_device_has_all_operations(name, exported):
    path = exported / f"edge/{name}.tflite"
    operations = saved_models.lite_operations(path.read_bytes())
    assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2  # One in each direction.
    assert not [
        name for name in operations if name.startswith(("WHILE", "Flex", "CUSTOM"))
    ]


def test_warm_up_requests_fit_their_signatures(exported):
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(str(exported / "1"))
    path = exported / "1/assets.extra/tf_serving_warmup_requests"
    answered = set()
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        name = request.model_spec.signature_name
        assert request.model_spec.name == "translation"
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        assert loaded.signatures[name](**inputs)
        answered.add(name)
    assert answered == {"serving_default", "greedy", "tensors"}


@pytest.fixture
def measured(monkeypatch):
    """Stands in for all that takes long, and lets each engine change such a share."""

    def install(*changed):
        left = list(changed)

        def save(variables, signatures, path, **options):
            path.mkdir()

        def make_bundle(translator, folder, variants):
            folder.mkdir()
            for variant in variants:
                (folder / f"{variant}.tflite").touch()
            return {variant: {"ADD": 1} for variant in variants}

        def measure(predictor, pairs, language, reference):
            share = left.pop(0)
            return {"same_translations": 1 - share, "changed_translations": share}, []

        monkeypatch.setattr(saved_models, "save", save)
        monkeypatch.setattr(export_module, "make_bundle", make_bundle)
        monkeypatch.setattr(export_module, "load_model", lambda where: None)
        monkeypatch.setattr(export_module, "measure", measure)
        monkeypatch.setattr(saved_models, "latency_ms", lambda *arguments: 1.0)

    return install


@pytest.mark.parametrize("changed", [(0, 0.03, 0), (0, 0, 0.03), (0, np.nan, 0)])
def test_a_broken_promise_publishes_nothing(changed, measured, run, tmp_path):
    measured(*changed)
    with pytest.raises(ExportRefused, match="nothing was published"):
        export(run, tmp_path / "models", variants=("float32",))
    assert list(tmp_path.iterdir()) == []


def test_a_variant_that_changes_translations_is_left_out(measured, run, tmp_path):
    measured(0, 0, 0, 0.01, 0.05)
    export(run, tmp_path / "models")
    names = {path.name for path in (tmp_path / "models/edge").glob("*.tflite")}
    assert names == {"float32.tflite", "model.tflite"}
    assert "device: float16" in (tmp_path / "models/card.md").read_text()


def test_what_was_not_trained_is_not_exported(tmp_path):
    with pytest.raises(BadInput, match="holds no trained model"):
        export(tmp_path, tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


# Neither a layer of ours nor keras-nlp is imported, so no operation can come from them.
STOCK = """
import sys
from apps.common.predictors import load_predictor

where, *texts = sys.argv[1:]
answers = load_predictor(where, load_run=None)(texts)
assert not {"layers", "apps.translation", "keras_nlp"} & set(sys.modules)
print([translation.decode() for translation in answers["translations"]])
"""


def test_the_operations_of_tensorflow_text_are_enough(exported):
    texts = ["dreiundvierzig", "siebenhundertzwanzig"]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, exported / "1", *texts],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = load_predictor(str(exported / "1"), None)(texts)
    expected = [translation.decode() for translation in answers["translations"]]
    assert done.stdout.splitlines()[-1] == str(expected)
    names = saved_models.operations(exported / "1")
    assert [name for name in names if "Sentencepiece" in name]
