import numpy as np
import pytest
import tensorflow as tf

from apps.common import lite, saved_models
from apps.common.decoder import State
from apps.common.errors import BadInput
from apps.common.limits import MAX_INPUTS
from apps.common.predictors import as_predictor
from apps.common.search import length_penalty
from apps.common.text import PADDING
from apps.common.tokenizer import END, END_TOKEN, START
from apps.translation import edge
from apps.translation.export import bundle, served
from apps.translation.parts import MAX_TOKENS
from apps.translation.signatures import (
    CHUNK_SIZE,
    MAX_TEXT_BYTES,
    MAX_WORD_LETTERS,
    NEVER_WRITTEN,
    alignments,
    load_model,
    load_tokenizers,
    max_steps,
    save_tokenizers,
)
from tests.apps.translation.conftest import make_pairs
from tests.apps.translation.untrained import make_translator, write_run

SENTENCES = [source for source, _ in make_pairs(MAX_INPUTS)]
SIGNATURES = ["serving_default", "greedy", "with_attention"]


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
    """Compares answers."""
    assert set(answers) == set(expected)
    assert answers["translations"].tolist() == expected["translations"].tolist()
    np.testing.assert_allclose(answers["scores"], expected["scores"], atol=tolerance)
    if "attention" in answers:
        for ours, theirs in zip(*map(alignments, (answers, expected)), strict=True):
            assert ours[:2] == theirs[:2]
            np.testing.assert_allclose(ours[2], theirs[2], atol=tolerance)


def take(answers, rows):
    """Returns the answers to some of the inputs."""
    return {name: each[rows] for name, each in answers.items()}


def test_translations_differ_in_length(answers):
    rows = alignments(answers["with_attention"])
    assert len({len(target) for _, target, _ in rows}) > 5
    for each in answers.values():
        assert len(set(each["translations"])) > 10


def test_attention_changes_no_answer(answers):
    assert set(answers["serving_default"]) == {"translations", "scores", "errors"}
    for name, value in answers["serving_default"].items():
        np.testing.assert_array_equal(value, answers["with_attention"][name])


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_sentence_has_the_same_answer_alone_and_among_many(
    signature, predictors, answers
):
    for i in range(0, len(SENTENCES), 4):
        alone = predictors[signature]([SENTENCES[i]])
        check_same(alone, take(answers[signature], [i]))


def test_many_sentences_keep_their_order(predictors, answers):
    order = np.random.default_rng(0).permutation(len(SENTENCES))
    shuffled = predictors["with_attention"]([SENTENCES[i] for i in order])
    check_same(shuffled, take(answers["with_attention"], order))


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
    answers = answers["with_attention"]
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
    beam, greedy = (answers[name]["scores"] for name in ("serving_default", "greedy"))
    assert beam.mean() > greedy.mean()
    assert (beam <= 0).all()


def test_tokens_are_those_of_the_texts(answers):
    answers = answers["with_attention"]
    assert all(value.shape == (len(SENTENCES),) for value in answers.values())
    for i, (source, target, attention) in enumerate(alignments(answers)):
        assert source[-1] == END_TOKEN
        assert "".join(source[:-1]).replace("▁", " ").strip() == SENTENCES[i]
        joined = "".join(target).replace("▁", " ").strip()
        assert joined == answers["translations"][i].decode().strip()
        assert attention.shape == (len(target), len(source))
        np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-4)


def test_long_texts_are_translated_in_parts(predictors):
    translate = predictors["with_attention"]
    most = 25  # Half of `max_tokens`.
    words = sorted(SENTENCES, key=len)[:8]
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
        assert answers["translations"][0] == answers["errors"][0] == b""
        assert np.isfinite(answers["scores"]).all()
        if signature == "with_attention":
            source, target, attention = alignments(answers)[0]
            assert (source, target) == ([END_TOKEN], [])
            assert attention.shape == (0, 1)


def test_special_tokens_are_never_written(translator):
    token_ids = translator.source_tokenizer(tf.constant(SENTENCES[:30])).to_tensor()
    found = translator.search(token_ids)
    assert not np.isin(found.token_ids, NEVER_WRITTEN).any()
    memory = translator.model.encode(token_ids)
    state = State(
        *(value[:, None] for value in translator.model.decoder.initial_state(memory))
    )
    log_probs, _, _ = translator.model.decoder.step(
        np.full((30, 1), START), state, memory, translator.bias
    )
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
    expected = answers["with_attention"]
    token_ids = translator.source_tokenizer(tf.constant(SENTENCES)).to_tensor()
    found = predictors["tensors"](token_ids)
    assert set(found) == {"token_ids", "scores", "errors"}
    assert found["token_ids"].shape == (len(SENTENCES), 2 * token_ids.shape[1] + 10)
    assert not found["errors"].astype(bool).any()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    vocabulary = np.array(translator.target_tokenizer.vocabulary())
    for row, (_, target, _) in zip(
        found["token_ids"], alignments(expected), strict=True
    ):
        length = int((row != PADDING).sum())
        assert not row[length:].any()
        assert vocabulary[row[:length]].tolist() == target


@pytest.mark.parametrize("padding", [0, 5, END, -1, 10**6])
def test_whatever_follows_the_end_token_is_padding(padding, predictors):
    rows = [[5, 9, 7, END], [8, 6, END, padding], [END, *[padding] * 3]]
    answers = predictors["tensors"](rows)
    assert answers["errors"].tolist() == [b""] * 3
    assert not answers["token_ids"][2].any()
    for row, found, score in zip(
        rows, answers["token_ids"], answers["scores"], strict=True
    ):
        alone = predictors["tensors"]([row[: row.index(END) + 1]])
        width = alone["token_ids"].shape[1]
        assert width == 2 * (row.index(END) + 1) + 10
        np.testing.assert_array_equal(found[:width], alone["token_ids"][0])
        assert not found[width:].any()
        np.testing.assert_allclose(score, alone["scores"][0], atol=1e-5)


def test_languages_can_have_separate_vocabularies():
    translator = make_translator(is_joint=False)
    source, target = map(len, translator.tokenizers)
    assert source != target
    texts = ["siebenundvierzig", "zwei"]
    answers = as_predictor(translator.signatures["with_attention"])(texts)
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
    "one long word": "zwei" * (MAX_WORD_LETTERS // 4),
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
    texts = [*UNUSUAL.values(), *SENTENCES[:9], ". ".join(SENTENCES[:40]), ""]
    for signature in SIGNATURES:
        expected = load_model(str(models["run"]), signature)(texts)
        assert np.isfinite(expected["scores"]).all()
        for name in ("SavedModel", "device"):
            answers = load_model(str(models[name]), signature)(texts)
            check_same(answers, expected, tolerance=1e-3)


def test_many_sentences_are_decoded_in_chunks_from_half_precision(translator, tmp_path):
    saved_models.save(served(translator), tmp_path)
    translate = load_model(str(tmp_path), "with_attention")
    long = ". ".join(SENTENCES) + "."
    texts = [long, "zwei", long, long]
    assert 3 * len(SENTENCES) > CHUNK_SIZE
    answers = translate(texts)
    expected = translate([f"{sentence}." for sentence in SENTENCES])
    for i in (0, 2, 3):
        assert answers["translations"][i] == b" ".join(expected["translations"])
    check_same(take(answers, [1]), translate(["zwei"]))


@pytest.fixture(scope="module")
def ask(models):
    """Function of a signature and its input that returns arrays, `errors` included.

    Nothing but the graph of the SavedModel checks inputs, as in a server.
    """
    loaded = tf.saved_model.load(str(models["SavedModel"]))

    def ask(signature, values):
        function = loaded.signatures[signature]
        ((name, spec),) = function.structured_input_signature[1].items()
        value = tf.constant(values, spec.dtype)
        return {name: each.numpy() for name, each in function(**{name: value}).items()}

    return ask


GOOD_TEXTS = ["vierzig", "", "zwei", ". ".join(SENTENCES[:30])]
BAD_TEXTS = {
    "Latin-1": (b"caf\xe9", "the text is not UTF-8"),
    "cut": ("zwei 😀".encode()[:-1], "the text is not UTF-8"),
    "long": (b"a " * (MAX_TEXT_BYTES // 2) + b"b", f"than {MAX_TEXT_BYTES} bytes"),
    "very long": (b"\xff" * 10**6, f"more than {MAX_TEXT_BYTES} bytes; shorten it"),
    "long word": (
        b"zwei " + b"a" * (MAX_WORD_LETTERS + 1) + b"\nzwei",
        f"a word has more than {MAX_WORD_LETTERS} letters; shorten it",
    ),
    "long word of 2-byte letters": (
        "ü".encode() * (MAX_WORD_LETTERS + 1),
        f"a word has more than {MAX_WORD_LETTERS} letters",
    ),
    "long sentence": (b"zwei. " * 30 + b"wnhtrgz " * 25, f"than {MAX_TOKENS} tokens"),
}


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize(("text", "error"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_a_bad_text_costs_its_own_answer_only(signature, text, error, ask):
    answers = ask(signature, [GOOD_TEXTS[0], text, *GOOD_TEXTS[1:]])
    assert error in answers["errors"][1].decode()
    assert np.isfinite(answers["scores"]).all()
    for name, value in answers.items():
        if name != "errors":
            assert not np.any(value[1]), name
    for i, good in zip([0, 2, 3, 4], GOOD_TEXTS, strict=True):
        assert answers["errors"][i] == b""
        check_same(take(answers, [i]), ask(signature, [good]), tolerance=2e-5)


def test_sentences_that_are_too_long_are_not_decoded(translator):
    texts = ["zwei", BAD_TEXTS["long sentence"][0]]
    _, errors, (source, *_) = translator._translate(texts, translator.search)
    assert errors.numpy().astype(bool).tolist() == [False, True]
    assert source.to_list()[1:] == [[END]] * 31


def test_words_of_the_largest_size_are_translated(ask):
    long = "ü" * MAX_WORD_LETTERS
    for space in " \t\n\v\f\r":
        answers = ask("greedy", [f"zwei{space}{long}{space}zwei"])
        assert answers["errors"].tolist() == [b""]


BAD_ROWS = {
    "no end": ([5, 9, 7, 8], f"the end token ({END}) is missing"),
    "padding alone": ([0, 0, 0, 0], f"the end token ({END}) is missing"),
    "negative": ([5, -1, END, 0], "a token id is not from 1 to "),
    "large": ([5, 10**6, END, 0], "a token id is not from 1 to "),
    "padding inside": ([5, 0, END, 0], "a token id is not from 1 to "),
}


@pytest.mark.parametrize(("row", "error"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_costs_its_own_answer_only(row, error, ask):
    good = [[5, 9, 7, END], [8, 6, END, 0]]
    answers = ask("tensors", [good[0], row, good[1]])
    assert error in answers["errors"][1].decode()
    assert not answers["token_ids"][1].any()
    assert answers["scores"][1] == 0
    expected = ask("tensors", good)
    assert expected["errors"].tolist() == [b"", b""]
    np.testing.assert_array_equal(answers["token_ids"][::2], expected["token_ids"])
    np.testing.assert_allclose(answers["scores"][::2], expected["scores"], atol=1e-5)


def test_token_ids_outside_the_vocabulary_have_an_error(ask, translator):
    largest = len(translator.source_tokenizer) - 1
    errors = ask("tensors", [[largest, END], [largest + 1, END]])["errors"].tolist()
    assert errors == [b"", f"a token id is not from 1 to {largest}".encode()]


TEXTS_OF_WRONG_SHAPES = ["zwei", [["zwei"]], [[]] * 2, ["zwei"] * (MAX_INPUTS + 1)]
WRONG_SHAPES = {
    **dict.fromkeys(SIGNATURES, TEXTS_OF_WRONG_SHAPES),
    "tensors": [
        END,
        [5, END],
        [[[END]]],
        [[], []],
        [[END]] * (MAX_INPUTS + 1),
        [[5] * MAX_TOKENS + [END]],
    ],
}


@pytest.mark.parametrize("signature", WRONG_SHAPES)
def test_wrong_shapes_are_refused_with_a_sentence(signature, ask):
    for value in WRONG_SHAPES[signature]:
        with pytest.raises(tf.errors.InvalidArgumentError, match="must have the shape"):
            ask(signature, value)


@pytest.mark.parametrize("signature", WRONG_SHAPES)
def test_no_inputs_have_no_answers(signature, ask):
    for shape in ([0], [0, 3], [0, 2, 5]):
        value = np.zeros(shape, "int32" if signature == "tensors" else object)
        answers = ask(signature, value)
        assert {name: len(each) for name, each in answers.items()} == dict.fromkeys(
            answers, 0
        )


def test_predictors_raise_errors(models):
    for name in ("run", "SavedModel"):
        with pytest.raises(BadInput, match="input 2: a word has more than 100"):
            load_model(str(models[name]))(["zwei", "a" * 101])


def test_each_direction_is_one_operation_on_a_device(models):
    operations = lite.operations(models["device"].read_bytes())
    assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
    assert "WHILE" not in operations


def test_the_device_has_the_limits_of_the_server(translator):
    assert (edge.START, edge.END) == (START, END)
    assert max_steps(7) == 2 * 7 + 10  # As written in `edge.py`.
