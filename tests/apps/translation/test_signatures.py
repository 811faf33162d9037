import numpy as np
import pytest
import tensorflow as tf

from apps.common import lite, saved_models
from apps.common.predictors import as_predictor
from apps.common.search import length_penalty
from apps.common.text import PADDING
from apps.translation import edge
from apps.translation.export import bundle, served
from apps.translation.model import State
from apps.translation.signatures import (
    CHUNK_SIZE,
    NEVER_WRITTEN,
    alignments,
    load_model,
    load_tokenizers,
    max_steps,
    save_tokenizers,
)
from apps.translation.tokenizer import END, END_TOKEN, START
from tests.apps.translation.conftest import make_pairs
from tests.apps.translation.untrained import make_translator, write_run

SENTENCES = [source for source, _ in make_pairs(2 * CHUNK_SIZE + 7)]
SIGNATURES = ["serving_default", "greedy"]


@pytest.fixture(scope="module")
def translator():
    return make_translator()


@pytest.fixture(scope="module")
def predictors(translator):
    return {
        name: as_predictor(signature)
        for name, signature in translator.signatures.items()
    }


@pytest.fixture(scope="module")
def answers(predictors):
    return {name: predictors[name](SENTENCES) for name in SIGNATURES}


def check_same(answers, expected, tolerance=1e-4):
    """Compares answers, whose padding may differ."""
    assert answers["translations"].tolist() == expected["translations"].tolist()
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=tolerance)
    for ours, theirs in zip(*map(alignments, (answers, expected)), strict=True):
        assert ours[:2] == theirs[:2]
        np.testing.assert_allclose(ours[2], theirs[2], atol=tolerance)


def test_translations_differ_in_length(answers):
    for each in answers.values():
        lengths = [len(target) for _, target, _ in alignments(each)]
        assert len(set(lengths)) > 5
        assert len(set(each["translations"])) > 20


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_sentence_has_the_same_answer_alone_and_among_many(
    signature, predictors, answers
):
    for i in range(0, len(SENTENCES), 9):
        alone = predictors[signature]([SENTENCES[i]])
        check_same(
            alone, {name: each[i : i + 1] for name, each in answers[signature].items()}
        )


def test_many_sentences_keep_their_order(predictors, answers):
    order = np.random.default_rng(0).permutation(len(SENTENCES))
    shuffled = predictors["serving_default"]([SENTENCES[i] for i in order])
    expected = {name: each[order] for name, each in answers["serving_default"].items()}
    assert {name: each.shape for name, each in shuffled.items()} == {
        name: each.shape for name, each in expected.items()
    }
    check_same(shuffled, expected)


def greedy_by_hand(translator, model, text):
    """Returns the most probable token at each step, by the model as it is trained."""
    source = translator.source_tokenizer(tf.constant([text])).to_tensor().numpy()
    token_ids = [START]
    while token_ids[-1] != END and len(token_ids) <= max_steps(source.shape[1]):
        logits = model([source, tf.constant([token_ids])])[0, -1].numpy()
        logits[list(NEVER_WRITTEN)] = -np.inf
        token_ids.append(int(logits.argmax()))
    token_ids = [token_id for token_id in token_ids[1:] if token_id != END]
    ragged = tf.ragged.constant([token_ids], tf.int32, ragged_rank=1)
    return translator.target_tokenizer.detokenize(ragged)[0].numpy()


def test_greedy_search_takes_the_most_probable_token(translator, answers):
    model = tf.function(translator.model, reduce_retracing=True)
    for text, translation in zip(
        SENTENCES[:3], answers["greedy"]["translations"], strict=False
    ):
        assert translation == greedy_by_hand(translator, model, text)


def test_scores_are_those_of_the_trained_model(translator, answers):
    answers = answers["serving_default"]
    vocabulary = translator.target_tokenizer.vocabulary()
    for i, (_, target, _) in enumerate(alignments(answers)[:6]):
        source = translator.source_tokenizer(tf.constant([SENTENCES[i]])).to_tensor()
        token_ids = [vocabulary.index(token) for token in target]
        inputs = np.array([[START, *token_ids]])
        logits = translator.model([source, inputs])[0].numpy()
        logits[:, list(NEVER_WRITTEN)] = -np.inf
        log_probs = tf.nn.log_softmax(logits).numpy()
        if len(token_ids) < max_steps(source.shape[1]):
            token_ids.append(END)
        total = sum(log_probs[t, token_id] for t, token_id in enumerate(token_ids))
        expected = total / length_penalty(len(token_ids), translator.length_penalty)
        assert answers["scores"][i] == pytest.approx(float(expected), abs=1e-4)


def test_a_beam_finds_better_translations_than_greedy_search(answers):
    beam, greedy = (answers[name]["scores"] for name in SIGNATURES)
    assert beam.mean() > greedy.mean()
    assert (beam <= 0).all()


def test_tokens_are_those_of_the_texts(answers):
    answers = answers["serving_default"]
    number = len(SENTENCES)
    assert answers["translations"].shape == answers["scores"].shape == (number,)
    (_, source_steps), (_, steps) = (
        answers[name].shape for name in ("source_tokens", "target_tokens")
    )
    assert answers["attention"].shape == (number, steps, source_steps)
    rows = alignments(answers)
    assert max(len(source) for source, _, _ in rows) == source_steps
    assert max(len(target) for _, target, _ in rows) == steps
    for i, (source, target, attention) in enumerate(rows):
        assert source[-1] == END_TOKEN
        assert "".join(source[:-1]).replace("▁", " ").strip() == SENTENCES[i]
        joined = "".join(target).replace("▁", " ").strip()
        assert joined == answers["translations"][i].decode().strip()
        np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-4)
        assert not answers["attention"][i, len(target) :].any()
        assert not answers["attention"][i, :, len(source) :].any()


def test_long_texts_are_translated_in_parts(predictors):
    translate = predictors["serving_default"]
    most = 25  # Half of `max_tokens`.
    words = SENTENCES[:8]
    first = ". ".join(words) + "."
    last = " ".join([*words, *words, *words, *words[:2]])
    cut = " ".join(last.split()[:most]), " ".join(last.split()[most:])
    parts = [f"{word}." for word in words] + [part for part in cut if part]
    expected = translate(parts)
    answers = translate([words[0], f"{first} {last}"])
    assert answers["translations"][1] == b" ".join(expected["translations"])
    mean = float(expected["scores"].mean())
    assert answers["scores"][1] == pytest.approx(mean, abs=1e-4)
    source, target, attention = alignments(answers)[1]
    assert source.count(END_TOKEN) == len(parts)
    row = column = 0
    is_outside = np.ones(attention.shape, bool)
    for part_source, part_target, part in alignments(expected):
        rows = slice(row, row + len(part_target))
        columns = slice(column, column + len(part_source))
        assert source[columns] == part_source
        assert target[rows] == part_target
        np.testing.assert_allclose(attention[rows, columns], part, atol=1e-4)
        is_outside[rows, columns] = False
        row, column = rows.stop, columns.stop
    assert (row, column) == attention.shape
    assert not attention[is_outside].any()


@pytest.mark.parametrize("signature", SIGNATURES)
def test_empty_text_translates_to_empty_text(signature, predictors):
    for texts in ([""], [" \n\u200b", "vier"], ["", ""]):
        answers = predictors[signature](texts)
        assert answers["translations"][0] == b""
        source, target, attention = alignments(answers)[0]
        assert (source, target) == ([END_TOKEN], [])
        assert attention.shape == (0, 1)
        assert np.isfinite(answers["scores"]).all()
    assert answers["attention"].shape == (2, 0, 1)


def test_no_text_has_no_answer(predictors):
    answers = predictors["serving_default"](tf.constant([], tf.string))
    assert {name: len(each) for name, each in answers.items()} == dict.fromkeys(
        answers, 0
    )


def test_special_tokens_are_never_written(translator):
    token_ids = translator.source_tokenizer(tf.constant(SENTENCES[:30])).to_tensor()
    found = translator.search(token_ids)
    assert not np.isin(found.token_ids, NEVER_WRITTEN).any()
    memory = translator.model.encode(token_ids)
    state = State(*(value[:, None] for value in translator.model.initial_state(memory)))
    log_probs, _, _ = translator.step(np.full((30, 1), START), state, memory)
    assert np.isneginf(log_probs.numpy()[..., list(NEVER_WRITTEN)]).all()
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1, rtol=1e-5)


def test_endless_translations_are_cut():
    endless = make_translator()
    endless.bias += tf.one_hot(END, len(endless.target_tokenizer), -np.inf, 0.0)
    source = endless.source_tokenizer(tf.constant(SENTENCES[:8]))
    found = endless.search(source.to_tensor())
    expected = 2 * source.row_lengths() + 10
    np.testing.assert_array_equal(found.lengths[:, 0], expected)


def test_token_ids_are_translated_like_texts(translator, predictors, answers):
    expected = answers["serving_default"]
    token_ids = translator.source_tokenizer(tf.constant(SENTENCES)).to_tensor()
    found = predictors["tensors"](token_ids)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(found["attention"], expected["attention"], atol=1e-5)
    vocabulary = np.array(translator.target_tokenizer.vocabulary())
    for row, (_, target, _) in zip(
        found["token_ids"], alignments(expected), strict=True
    ):
        length = int((row != PADDING).sum())
        assert not row[length:].any()
        assert vocabulary[row[:length]].tolist() == target


def test_token_ids_may_have_any_padding(predictors):
    token_ids = np.array([[5, 9, 7, END], [8, 6, END, 0], [END, 0, 0, 0]], "int32")
    expected = predictors["tensors"](token_ids)
    wider = predictors["tensors"](np.pad(token_ids, ((0, 1), (0, 3))))
    assert not expected["token_ids"][2].any()
    assert not wider["token_ids"][2:].any()
    np.testing.assert_array_equal(wider["token_ids"][:3], expected["token_ids"])
    np.testing.assert_allclose(wider["scores"][:3], expected["scores"], atol=1e-5)
    attention = wider["attention"]
    assert attention.shape[2] == 7
    np.testing.assert_allclose(attention[:3, :, :4], expected["attention"], atol=1e-5)
    assert not attention[:, :, 4:].any()


def test_languages_can_have_separate_vocabularies():
    translator = make_translator(is_joint=False)
    source, target = map(len, translator.tokenizers)
    assert source != target
    texts = ["siebenundvierzig", "zwei"]
    answers = as_predictor(translator.signatures["serving_default"])(texts)
    target_vocabulary = set(translator.target_tokenizer.vocabulary())
    for text, translation, (source, target, _) in zip(
        texts, answers["translations"], alignments(answers), strict=True
    ):
        assert "".join(source) == f"▁{text}{END_TOKEN}"
        joined = "".join(target).replace("▁", " ").strip()
        assert joined == translation.decode().strip()
        assert set(target) <= target_vocabulary


@pytest.mark.parametrize("is_joint", [True, False], ids=["joint", "separate"])
def test_tokenizers_are_saved_and_loaded(is_joint, tmp_path):
    tokenizers = make_translator(is_joint).tokenizers
    save_tokenizers(tokenizers, tmp_path)
    names = {"source.model"} if is_joint else {"source.model", "target.model"}
    assert {path.name for path in tmp_path.iterdir()} == names
    again = load_tokenizers(tmp_path)
    assert [each.model for each in again] == [each.model for each in tokenizers]
    assert (again[0] is again[1]) == is_joint


UNUSUAL = {
    "symbols": "$\\frac{ $$ _^ <unk> </s> <s> ▁",
    "one letter": "x",
    "nothing visible": "\u200b",
    "scripts": "你好 مرحبا ไทย हिन्दी 😀👍🏽",
    "control": "zwei\x07\x1bdrei\x85\u2028",
    "one long word": "zwei" * 200,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Returns the same model as a run, as a SavedModel and as an edge bundle."""
    folder = tmp_path_factory.mktemp("models")
    run = write_run(folder / "run")
    translator = make_translator()
    # Random weights do not keep their translations in half precision.
    saved_models.save(served(translator)._replace(half=False), folder / "1")
    lite.write_bundle(bundle(translator), folder / "edge", ["float32"])
    return {
        "run": run,
        "SavedModel": folder / "1",
        "device": folder / "edge/float32.tflite",
    }


def test_all_engines_translate_unusual_texts_alike(models):
    texts = [*UNUSUAL.values(), *SENTENCES[:9], " ".join(SENTENCES[:40]), ""]
    for signature in SIGNATURES:
        expected = load_model(str(models["run"]), signature)(texts)
        assert np.isfinite(expected["scores"]).all()
        for name in ("SavedModel", "device"):
            answers = load_model(str(models[name]), signature)(texts)
            check_same(answers, expected, tolerance=1e-3)


def test_many_sentences_are_decoded_in_chunks_from_half_precision(translator, tmp_path):
    saved_models.save(served(translator), tmp_path)
    translate = load_model(str(tmp_path))
    answers = translate(SENTENCES)
    for i in range(0, len(SENTENCES), 30):
        alone = translate([SENTENCES[i]])
        check_same(alone, {name: each[i : i + 1] for name, each in answers.items()})


def test_each_direction_is_one_operation_on_a_device(models):
    operations = lite.operations(models["device"].read_bytes())
    assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert "WHILE" not in operations


def test_the_device_has_the_limits_of_the_server(translator):
    assert (edge.START, edge.END) == (START, END)
    assert max_steps(7) == 2 * 7 + 10  # As written in `edge.py`.
