import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from apps.common import lite, saved_models
from apps.common.predictors import in_batches
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.export import bundle, served
from apps.sentiment_analysis.signatures import load_model, tokens_with_attention
from tests.apps.sentiment_analysis.untrained import CLASSES, make_classifier, write_run


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture(scope="module")
def models(classifier, tmp_path_factory):
    """The same model as a run, as a SavedModel and as an edge bundle."""
    folder = tmp_path_factory.mktemp("models")
    saved_models.save(served(classifier), folder / "1")
    lite.write_bundle(bundle(classifier), folder / "edge", ["float32"])
    return {
        "run": write_run(folder / "run"),
        "SavedModel": folder / "1",
        "device": folder / "edge/float32.tflite",
    }


@pytest.fixture(scope="module")
def predictor(classifier):
    signature = classifier.signatures["serving_default"]
    return lambda texts: {
        name: value.numpy() for name, value in signature(tf.constant(texts)).items()
    }


def test_a_text_has_the_same_answer_alone_and_in_a_batch(predictor):
    texts = [text for text, _ in sentences(40, seed=7)]
    together = predictor(texts)
    for i, text in enumerate(texts):
        alone = predictor([text])
        steps = alone["tokens"].shape[1]
        np.testing.assert_array_equal(alone["classes"][0], together["classes"][i])
        for name in ("scores", "attention"):
            expected = together[name][i][:steps]
            np.testing.assert_allclose(alone[name][0], expected, atol=1e-5)
        assert together["tokens"][i][:steps].tolist() == alone["tokens"][0].tolist()
        assert not any(together["tokens"][i][steps:])
        assert not together["attention"][i][steps:].any()


def test_the_best_class_comes_first(classifier, predictor):
    texts = [text for text, _ in sentences(20)]
    answers = predictor(texts)
    assert (np.diff(answers["scores"], axis=1) <= 0).all()
    token_ids = classifier.tokenizer(tf.constant(texts)).to_tensor(0)
    scores = classifier.signatures["tensors"](token_ids)["scores"].numpy()
    order = np.argsort(-scores, axis=1)
    expected = np.array(CLASSES, "S")[order]
    np.testing.assert_array_equal(answers["classes"].astype(bytes), expected)
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_allclose(answers["scores"], expected, atol=1e-5)


def test_tokens_are_strings_without_padding(predictor):
    answers = predictor(["the soup was not good", "so good", ""])
    rows = tokens_with_attention(answers)
    texts = ["".join(tokens).replace("▁", " ") for tokens, _ in rows]
    assert texts == [" the soup was not good", " so good", "<unk>"]
    for tokens, attention in rows:
        assert len(tokens) == len(attention)
        np.testing.assert_allclose(attention.sum(), 1, rtol=1e-4)


UNUSUAL = {
    "empty": "",
    "10,000 words": "the soup was so good and " * 1700,
    "emoji": "😀😍👍🏽❤️",
    "symbols": "$\\frac{ $$ _^ <unk> </s>",
    "one letter": "x",
    "no known character": "\ufffd\u200b",
    "scripts": "你好 مرحبا ไทย हिन्दी",
    "control": "good\x00\x07\x1bday",
    "one long word": "o" * 9_000,
    "all at once": "@me 😀 &amp; &#39; caf\u0301e http://a.b/c",
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_all_engines_answer_unusual_texts_alike(text, models):
    expected = load_model(str(models["run"]))([text, "so good"])
    assert np.isfinite(expected["scores"]).all()
    for name in ("SavedModel", "device"):
        answers = load_model(str(models[name]))([text, "so good"])
        assert answers["tokens"].tolist() == expected["tokens"].tolist()
        np.testing.assert_allclose(answers["scores"], expected["scores"], atol=1e-3)
        expected_attention = expected["attention"]
        np.testing.assert_allclose(answers["attention"], expected_attention, atol=1e-3)


def test_all_engines_answer_sentences_alike(models):
    texts = [text for text, _ in sentences(70, seed=3)]
    expected = in_batches(load_model(str(models["run"])), texts)
    assert len(set(expected["classes"][:, 0])) > 1
    for name in ("SavedModel", "device"):
        answers = in_batches(load_model(str(models[name])), texts)
        for output in ("scores", "attention"):
            np.testing.assert_allclose(answers[output], expected[output], atol=1e-3)
        for output in ("classes", "tokens"):
            assert answers[output].tolist() == expected[output].tolist()


def test_the_tensors_signature_takes_token_ids(models):
    token_ids = [[5, 9, 7, 3], [8, 6, 0, 0]]
    expected = load_model(str(models["run"]), "tensors")(token_ids)
    answers = load_model(str(models["SavedModel"]), "tensors")(token_ids)
    for name in ("scores", "attention"):
        np.testing.assert_allclose(answers[name], expected[name], atol=1e-5)


def test_each_direction_is_one_operation_on_a_device(models):
    operations = lite.operations(models["device"].read_bytes())
    assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert "WHILE" not in operations


# The process imports neither a layer of ours nor keras-nlp, so the graph has no
# operation of theirs.
STOCK = """
import sys
from apps.common.predictors import load_predictor

where, *texts = sys.argv[1:]
answers = load_predictor(where, None)(texts)
assert not {"layers", "apps.sentiment_analysis", "keras_nlp"} & set(sys.modules)
print([row[0].decode() for row in answers["classes"]])
"""


def test_the_operations_of_tensorflow_text_are_enough(models, predictor):
    texts = ["the soup was so good", "the soup was so bad"]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, models["SavedModel"], *texts],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [row[0].decode() for row in predictor(texts)["classes"]]
    assert done.stdout.splitlines()[-1] == str(expected)
    operations = saved_models.operations(models["SavedModel"])
    assert [name for name in operations if "Sentencepiece" in name]
