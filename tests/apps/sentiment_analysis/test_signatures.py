import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from apps.common import lite, saved_models
from apps.common.errors import BadInput
from apps.common.limits import MAX_INPUTS
from apps.common.predictors import as_predictor, in_batches
from apps.sentiment_analysis import signatures
from apps.sentiment_analysis.embedded import sentences
from apps.sentiment_analysis.export import bundle, served
from apps.sentiment_analysis.signatures import (
    MAX_TEXT_BYTES,
    MAX_TOKENS,
    load_model,
    tokens_with_attention,
)
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
def loaded(models):
    """The SavedModel as a server loads it; nothing but its graph checks inputs."""
    return tf.saved_model.load(str(models["SavedModel"]))


@pytest.fixture(scope="module")
def ask(loaded):
    """Function of a signature and its input that returns arrays, `errors` included."""

    def ask(signature, values):
        function = loaded.signatures[signature]
        ((name, spec),) = function.structured_input_signature[1].items()
        value = tf.constant(values, spec.dtype)
        return {name: each.numpy() for name, each in function(**{name: value}).items()}

    return ask


@pytest.fixture(scope="module")
def predictor(classifier):
    return as_predictor(classifier.signatures["with_attention"])


def check_alone(answers, i, alone):
    """Checks that the i-th answer is that to the input alone."""
    assert set(answers) == set(alone)
    for name, value in answers.items():
        if value.dtype == object and name != "attention":
            assert np.all(value[i] == alone[name][0]), name
    np.testing.assert_allclose(answers["scores"][i], alone["scores"][0], atol=1e-5)
    if "tokens" in answers:
        rows = [tokens_with_attention(each) for each in (answers, alone)]
        np.testing.assert_allclose(rows[0][i][1], rows[1][0][1], atol=1e-5)


def test_a_text_has_the_same_answer_alone_and_in_a_batch(predictor):
    texts = [text for text, _ in sentences(MAX_INPUTS, seed=7)]
    together = predictor(texts)
    for i, text in enumerate(texts):
        check_alone(together, i, predictor([text]))


def test_attention_changes_no_answer(classifier, predictor):
    texts = [text for text, _ in sentences(MAX_INPUTS, seed=7)]
    expected = predictor(texts)
    answers = as_predictor(classifier.signatures["serving_default"])(texts)
    assert set(answers) == {"classes", "scores", "errors"}
    for name, value in answers.items():
        np.testing.assert_array_equal(value, expected[name])


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


def test_each_token_has_a_weight(classifier, predictor):
    texts = ["the soup was not good", "so good", "\u200b"]
    answers = predictor(texts)
    rows = tokens_with_attention(answers)
    joined = ["".join(tokens).replace("▁", " ") for tokens, _ in rows]
    assert joined == [" the soup was not good", " so good", "<unk>"]
    token_ids = classifier.tokenizer(tf.constant(texts)).to_tensor(0)
    expected = classifier.signatures["tensors"](token_ids)["attention"].numpy()
    for (tokens, weights), row in zip(rows, expected, strict=True):
        np.testing.assert_allclose(weights, row[: len(tokens)], atol=1e-6)
        assert not row[len(tokens) :].any()
        np.testing.assert_allclose(weights.sum(), 1, atol=1e-4)


TEXT_SIGNATURES = ["serving_default", "with_attention"]
GOOD_TEXTS = ["the soup was good", "so bad " * 300, "x", "the bar was not so good"]
BAD_TEXTS = {
    "empty": (b"", "the text is empty; write at least one word"),
    "spaces": (" \n\t\u00a0\u3000\x07".encode(), "the text is empty"),
    "Latin-1": (b"caf\xe9", "the text is not UTF-8"),
    "surrogate": (b"so \xed\xa0\x80", "the text is not UTF-8"),
    "cut": ("so 😀".encode()[:-1], "the text is not UTF-8"),
    "long": (b"a" * (MAX_TEXT_BYTES + 1), f"more than {MAX_TEXT_BYTES} bytes"),
    "long and not UTF-8": (b"\xff" * 10**6, f"more than {MAX_TEXT_BYTES} bytes"),
    "many tokens": ("⏯".encode() * 3000, f"more than {MAX_TOKENS} tokens; shorten"),
}


@pytest.mark.parametrize("signature", TEXT_SIGNATURES)
@pytest.mark.parametrize(("text", "error"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_bad_text_costs_its_own_answer_only(signature, text, error, ask):
    answers = ask(signature, [GOOD_TEXTS[0], text, *GOOD_TEXTS[1:]])
    assert error in answers["errors"][1].decode()
    for name, value in answers.items():
        if name != "errors":
            assert not np.any(value[1]), name
    for i, good in zip([0, 2, 3, 4], GOOD_TEXTS, strict=True):
        assert answers["errors"][i] == b""
        check_alone(answers, i, ask(signature, [good]))


def test_a_text_of_the_largest_size_is_answered(ask):
    text = b"a " * (MAX_TEXT_BYTES // 2)
    answers = ask("serving_default", [text] * 2)
    assert answers["errors"].tolist() == [b"", b""]
    np.testing.assert_allclose(answers["scores"].sum(axis=1), 1, rtol=1e-5)


BAD_ROWS = {
    "negative": ([5, -1, 7, 0], "a token id is not from 0 to "),
    "large": ([5, 10**6, 7, 0], "a token id is not from 0 to "),
    "padding alone": ([0, 0, 0, 0], "the first token id is 0, which is padding"),
    "padding first": ([0, 0, 5, 7], "the first token id is 0, which is padding"),
    "padding inside": ([5, 0, 7, 0], r"a token follows padding (0)"),
}


@pytest.mark.parametrize(("row", "error"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_costs_its_own_answer_only(row, error, ask):
    good = [[5, 9, 7, 3], [8, 6, 0, 0]]
    answers = ask("tensors", [good[0], row, good[1]])
    assert error in answers["errors"][1].decode()
    assert not answers["scores"][1].any()
    assert not answers["attention"][1].any()
    expected = ask("tensors", good)
    for name in ("scores", "attention"):
        np.testing.assert_allclose(answers[name][::2], expected[name], atol=1e-5)
    assert expected["errors"].tolist() == [b"", b""]


def test_token_ids_outside_the_vocabulary_have_an_error(ask, classifier):
    largest = len(classifier.tokenizer) - 1
    errors = ask("tensors", [[largest], [largest + 1]])["errors"].tolist()
    assert errors == [b"", f"a token id is not from 0 to {largest}".encode()]


WRONG_SHAPES = {
    "serving_default": ["so", [["so"]], [["so", "no"]], ["so"] * (MAX_INPUTS + 1)],
    "tensors": [
        5,
        [5, 7],
        [[[5]]],
        [[], []],
        [[5]] * (MAX_INPUTS + 1),
        [[5] * (MAX_TOKENS + 1)],
    ],
}
WRONG_SHAPES["with_attention"] = WRONG_SHAPES["serving_default"]


@pytest.mark.parametrize("signature", WRONG_SHAPES)
def test_wrong_shapes_are_refused_with_a_sentence(signature, ask):
    for value in WRONG_SHAPES[signature]:
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"must have the shape"
        ):
            ask(signature, value)


@pytest.mark.parametrize("signature", WRONG_SHAPES)
def test_no_inputs_have_no_answers(signature, ask):
    for shape in ([0], [0, 3], [0, 2, 5]):
        value = np.zeros(shape, "int32" if signature == "tensors" else object)
        answers = ask(signature, value)
        assert {name: len(each) for name, each in answers.items()} == dict.fromkeys(
            answers, 0
        )
    assert answers["scores"].shape == (0, len(CLASSES))


def test_chunks_get_the_answers_of_single_texts(monkeypatch):
    """A request of many tokens is run in chunks of similar lengths."""
    monkeypatch.setattr(signatures, "CHUNK_TOKENS", 40)
    monkeypatch.setattr(signatures, "MAX_TOKENS", 39)
    chunked = make_classifier()
    network, sizes = chunked.network, []

    def run(token_ids):
        tf.py_function(lambda ids: sizes.append(ids.shape), [token_ids], [])
        return network(token_ids)

    chunked.network = run
    texts = [" ".join(["good"] * (1 + i * i % 37)) for i in range(23)]
    texts += ["", "the soup was bad", "good " * 60]
    answers = as_predictor(chunked.signatures["with_attention"])(texts)
    assert len(sizes) > 5
    assert max(rows * steps for rows, steps in sizes) <= 40
    assert sum(rows for rows, _ in sizes) == len(texts)
    assert answers["errors"].astype(bool).sum() == 2
    # Texts with an error are not read.
    good = [
        row for row, error in zip(texts, answers["errors"], strict=True) if not error
    ]
    assert max(steps for _, steps in sizes) == max(len(row.split()) for row in good)
    alone = as_predictor(make_classifier().signatures["with_attention"])
    for i, text in enumerate(texts):
        check_alone(answers, i, alone([text]))


UNUSUAL = {
    "many words": "the soup was so good and " * 400,
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
    expected = load_model(str(models["run"]), "with_attention")([text, "so good"])
    assert np.isfinite(expected["scores"]).all()
    for name in ("SavedModel", "device"):
        answers = load_model(str(models[name]), "with_attention")([text, "so good"])
        check_alike(answers, expected)


def check_alike(answers, expected):
    """Compares the answers of two engines."""
    assert set(answers) == set(expected)
    for name in ("classes", "tokens"):
        assert answers[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=1e-3)
    rows = map(tokens_with_attention, (answers, expected))
    for (_, weights), (_, same) in zip(*rows, strict=True):
        np.testing.assert_allclose(weights, same, atol=1e-3)


def test_all_engines_answer_sentences_alike(models):
    texts = [text for text, _ in sentences(70, seed=3)]
    for signature in TEXT_SIGNATURES:
        expected = in_batches(load_model(str(models["run"]), signature), texts)
        assert len(set(expected["classes"][:, 0])) > 1
        for name in ("SavedModel", "device"):
            answers = in_batches(load_model(str(models[name]), signature), texts)
            if signature == "with_attention":
                check_alike(answers, expected)
            assert set(answers) == set(expected)
            scores = expected["scores"]
            np.testing.assert_allclose(answers["scores"], scores, atol=1e-3)


def test_predictors_raise_errors(models):
    for name in ("run", "SavedModel"):
        predictor = load_model(str(models[name]))
        with pytest.raises(BadInput, match=r"^input 2: the text is empty; write"):
            predictor(["so", " "])


def test_the_tensors_signature_takes_token_ids(models):
    token_ids = [[5, 9, 7, 3], [8, 6, 0, 0]]
    expected = load_model(str(models["run"]), "tensors")(token_ids)
    answers = load_model(str(models["SavedModel"]), "tensors")(token_ids)
    assert set(answers) == {"scores", "attention"}
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
answers = load_predictor(where, "sentiment_analysis", None)(texts)
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
