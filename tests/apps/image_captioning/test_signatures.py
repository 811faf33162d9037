import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apps.common.errors import BadInput
from apps.common.images import encode_png
from apps.common.limits import MAX_INPUTS
from apps.common.predictors import as_predictor
from apps.common.tokenizer import END, START
from apps.image_captioning.signatures import (
    NEVER_WRITTEN,
    Captioner,
    load_model,
    load_run,
    load_tokenizer,
    maps_of,
    save_tokenizer,
    words_of,
)
from tests.apps.image_captioning.untrained import (
    SETTINGS,
    make_captioner,
    random_images,
    write_run,
)

MAX_TOKENS = SETTINGS["max_tokens"]
IMAGES = random_images(20)
FILES = [encode_png(image.astype("uint8")) for image in IMAGES]
SIGNATURES = ["serving_default", "greedy"]


@pytest.fixture(scope="module")
def captioner():
    return make_captioner()


@pytest.fixture(scope="module")
def features(captioner):
    return captioner.model.extract(IMAGES)


@pytest.fixture(scope="module")
def predictors(captioner):
    return {
        name: as_predictor(signature)
        for name, signature in captioner.signatures.items()
    }


@pytest.fixture(scope="module")
def answers(predictors):
    return {name: predictors[name](FILES) for name in SIGNATURES}


def check_same(answers, expected):
    """Compares answers."""
    assert set(answers) == set(expected)
    for name, value in expected.items():
        if value.dtype == object:
            assert answers[name].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(answers[name], value, atol=1e-4)


def take(answers, rows):
    """Returns the answers to some of the inputs."""
    return {name: each[rows] for name, each in answers.items()}


def changed(captioner, **settings):
    """Returns a captioner with the same model and other settings."""
    config = dataclasses.replace(captioner.config, **settings)
    return Captioner(captioner.model, captioner.tokenizer, config)


def test_captions_differ_in_words_and_length(answers):
    for each in answers.values():
        assert len(set(each["captions"])) > 8
        lengths = set(map(len, words_of(each)))
        assert len(lengths) > 3
        assert MAX_TOKENS in lengths


def test_answers_have_the_documented_shapes(answers):
    for each in answers.values():
        assert set(each) == {"captions", "scores", "tokens", "attention", "errors"}
        assert each["errors"].tolist() == [b""] * 20
        assert each["captions"].shape == each["scores"].shape == (20,)
        assert each["tokens"].shape == (20, MAX_TOKENS)
        assert each["attention"].shape == (20, MAX_TOKENS, 4, 4)
        assert each["scores"].dtype == each["attention"].dtype == "float32"
        assert (each["scores"] < 0).all()


def test_tokens_are_those_of_the_captions_and_nothing_follows_them(answers):
    for each in answers.values():
        for caption, tokens, attention in zip(
            each["captions"], each["tokens"], each["attention"], strict=True
        ):
            words = caption.split()
            spelled = [b"\xe2\x96\x81" + word for word in words]
            assert tokens.tolist() == spelled + [b""] * (MAX_TOKENS - len(words))
            sums = attention.sum(axis=(1, 2))
            np.testing.assert_allclose(sums[: len(words)], 1, atol=1e-5)
            assert not attention[len(words) :].any()


@pytest.fixture(scope="module")
def log_probs_after(captioner, features):
    """Function of an image and token ids that returns what may follow them.

    It calls the model as in training.
    """
    model = tf.function(captioner.model, reduce_retracing=True)
    known = {}

    def after(image, token_ids):
        if (image, token_ids) not in known:
            inputs = {
                "features": features[image : image + 1],
                "token_ids": tf.constant([[START, *token_ids]]),
            }
            logits = model(inputs)[0, -1].numpy().astype("float64")
            logits[list(NEVER_WRITTEN)] = -np.inf
            most = logits.max()
            log_sum = most + np.log(np.exp(logits - most).sum())
            known[image, token_ids] = logits - log_sum
        return known[image, token_ids]

    return after


def plain_beam_search(after, image, beam_size, alpha):
    """Returns token ids, end token included, and scores, best first."""

    def score(hypothesis):
        token_ids, log_prob = hypothesis
        return log_prob / ((5 + len(token_ids)) / 6) ** alpha

    def is_done(token_ids):
        return token_ids[-1:] == (END,) or len(token_ids) == MAX_TOKENS

    beam = [((), 0.0)]
    while not all(is_done(token_ids) for token_ids, _ in beam):
        candidates = []
        for token_ids, log_prob in beam:
            if is_done(token_ids):
                candidates.append((token_ids, log_prob))
                continue
            for token_id, more in enumerate(after(image, token_ids)):
                candidates.append(((*token_ids, token_id), log_prob + more))
        beam = sorted(candidates, key=score, reverse=True)[:beam_size]
    return [(token_ids, score((token_ids, log_prob))) for token_ids, log_prob in beam]


@pytest.mark.parametrize(("beam_size", "alpha"), [(1, 0.7), (3, 0.0), (4, 2.0)])
def test_a_search_finds_what_a_plain_beam_search_finds(
    beam_size, alpha, captioner, features, log_probs_after
):
    searcher = changed(captioner, length_penalty=alpha)
    found = searcher.search(features[:6], beam_size)
    for image in range(6):
        expected = plain_beam_search(log_probs_after, image, beam_size, alpha)
        assert found.token_ids.shape[1] == len(expected) == beam_size
        for k, (token_ids, score) in enumerate(expected):
            steps = len(token_ids)
            assert tuple(found.token_ids[image, k, :steps].numpy()) == token_ids
            assert found.lengths[image, k] == steps - (token_ids[-1] == END)
            assert float(found.scores[image, k]) == pytest.approx(score, abs=1e-4)


def test_signatures_write_the_best_hypotheses(
    captioner, answers, predictors, log_probs_after
):
    vocabulary = np.array(captioner.tokenizer.vocabulary())
    alpha = captioner.config.length_penalty
    assert (captioner.config.beam_size, alpha) == (3, 1.4)
    for name, beam_size in (("serving_default", 3), ("greedy", 1)):
        for image in range(6):
            best, score = plain_beam_search(log_probs_after, image, beam_size, alpha)[0]
            tokens = vocabulary[[token_id for token_id in best if token_id != END]]
            assert words_of(answers[name])[image] == [each[1:] for each in tokens]
            assert answers[name]["scores"][image] == pytest.approx(score, abs=1e-4)
    assert (
        answers["greedy"]["captions"] != answers["serving_default"]["captions"]
    ).any()


def test_tensors_have_the_answers_of_files(predictors, answers):
    """The images have the size of the network's input."""
    check_same(predictors["tensors"](IMAGES), answers["serving_default"])


def test_attention_is_that_of_the_steps_row_by_row(captioner, features, answers):
    """The decoder reads the tokens of the caption one by one."""
    decoder, vocabulary = captioner.model.decoder, captioner.tokenizer.vocabulary()
    for i in range(4):
        memory = captioner.model.encode(features[i : i + 1])
        state = tf.nest.map_structure(
            lambda value: value[:, None], decoder.initial_state(memory)
        )
        last = START
        words = answers["greedy"]["tokens"][i]
        maps = maps_of(answers["greedy"])[i]
        assert len(maps) == sum(map(bool, words))
        for token, found in zip(words, maps, strict=False):
            embeddings = decoder.embed(tf.constant([[last]]))
            _, state, weights = decoder.decode(embeddings, state, memory)
            np.testing.assert_allclose(found.ravel(), weights[0, 0], atol=1e-5)
            last = vocabulary.index(token.decode())


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_image_has_the_same_answer_alone_and_among_others(
    signature, predictors, answers
):
    for i in range(0, 20, 5):
        alone = predictors[signature]([FILES[i]])
        check_same(alone, take(answers[signature], [i]))
    order = np.random.default_rng(0).permutation(20)
    shuffled = predictors[signature]([FILES[i] for i in order])
    check_same(shuffled, take(answers[signature], order))


BAD_FILES = {"empty": b"", "text": b"no image", "truncated": FILES[0][:60]}


def ask(captioner, signature, inputs):
    """Returns all outputs, `errors` included."""
    outputs = captioner.signatures[signature](inputs)
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_bad_file_costs_its_own_answer_only(signature, captioner, answers):
    files = [FILES[0], *BAD_FILES.values(), FILES[1]]
    found = ask(captioner, signature, tf.constant(files))
    errors = found["errors"]
    assert [bool(error) for error in errors] == [False, True, True, True, False]
    assert b"is no JPEG, PNG, GIF or BMP file" in errors[1]
    assert b"damaged" in errors[3]
    check_same(take(found, [0, 4]), take(answers[signature], [0, 1]))
    for name in set(found) - {"errors"}:
        assert not found[name][1:4].astype(bool).any()


def test_a_bad_tensor_costs_its_own_answer_only(captioner, answers):
    images = IMAGES[:5].copy()
    for i, value in ((1, np.nan), (2, -1), (3, 256)):
        images[i, 3, 3, 0] = value
    found = ask(captioner, "tensors", tf.constant(images))
    errors = found["errors"]
    says = b"the pixels must be from 0 to 255"
    assert errors.tolist() == [b"", says, says, says, b""]
    check_same(take(found, [0, 4]), take(answers["serving_default"], [0, 4]))
    for name in set(found) - {"errors"}:
        assert not found[name][1:4].astype(bool).any()


def test_a_request_without_images_has_no_answers(captioner):
    empty = {
        **dict.fromkeys(SIGNATURES, tf.constant([], tf.string)),
        "tensors": tf.zeros((0, 32, 32, 3)),
    }
    for signature, inputs in empty.items():
        found = ask(captioner, signature, inputs)
        assert {name: value.shape for name, value in found.items()} == {
            "captions": (0,),
            "scores": (0,),
            "tokens": (0, MAX_TOKENS),
            "attention": (0, MAX_TOKENS, 4, 4),
            "errors": (0,),
        }


def test_requests_of_too_many_images_are_refused(captioner):
    with pytest.raises(tf.errors.InvalidArgumentError, match="n at most 32"):
        ask(captioner, "greedy", tf.constant(FILES[:1] * (MAX_INPUTS + 1)))
    images = np.repeat(IMAGES[:1], MAX_INPUTS + 1, axis=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="n at most 32"):
        ask(captioner, "tensors", tf.constant(images))


def test_special_tokens_are_never_written(captioner, features):
    found = captioner.search(features, 3)
    assert not np.isin(found.token_ids, NEVER_WRITTEN).any()
    # Without the bias they are.
    plain = changed(captioner)
    plain.bias = tf.zeros_like(captioner.bias)
    assert np.isin(plain.search(features, 3).token_ids, NEVER_WRITTEN).any()


def test_captions_end_at_the_largest_number_of_tokens(captioner, features):
    endless = changed(captioner, max_tokens=7)
    endless.bias += tf.one_hot(END, len(captioner.tokenizer), -np.inf, 0.0)
    found = endless.write(features[:4], 3)
    assert found["attention"].shape == (4, 7, 4, 4)
    np.testing.assert_allclose(found["attention"].numpy().sum((2, 3)), 1, atol=1e-5)
    assert all(len(caption.split()) == 7 for caption in found["captions"].numpy())


def test_all_outputs_have_their_full_length_if_captions_are_short(captioner, features):
    short = changed(captioner)
    short.bias += tf.one_hot(END, len(captioner.tokenizer), 1000.0, 0.0)
    found = short.write(features[:2], 3)
    assert found["captions"].numpy().tolist() == [b"", b""]
    assert found["tokens"].numpy().tolist() == [[b""] * MAX_TOKENS] * 2
    assert found["attention"].shape == (2, MAX_TOKENS, 4, 4)
    assert not found["attention"].numpy().any()
    np.testing.assert_allclose(found["scores"], 0, atol=1e-3)


def test_without_attention_the_maps_are_zero():
    captioner = make_captioner(attention="none")
    found = captioner.write(captioner.model.extract(IMAGES[:8]), 2)
    assert found["attention"].shape == (8, MAX_TOKENS, 4, 4)
    assert not found["attention"].numpy().any()
    assert len(set(found["captions"].numpy())) > 1


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_images_become_square_as_the_settings_say(resize, captioner):
    """The middle of the wide image is a plain one."""
    wide = np.concatenate([IMAGES[1], IMAGES[0], IMAGES[1]], axis=1)
    file = encode_png(wide.astype("uint8"))
    found = changed(captioner, resize=resize).caption_greedily(tf.constant([file]))
    square = IMAGES[:1]
    if resize == "squash":
        square = tf.image.resize(wide[None], (32, 32), antialias=True)
    expected = captioner.write(captioner.model.extract(square), 1)
    assert found["errors"].numpy().tolist() == [b""]
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
    np.testing.assert_array_equal(found["captions"], expected["captions"])


def test_words_and_maps_end_with_the_tokens():
    attention = np.arange(2 * 3 * 4, dtype="float32").reshape(2, 3, 2, 2)
    tokens = [[b"\xe2\x96\x81two", b"s", b""], [b"", b"", b""]]
    answers = {"tokens": np.array(tokens, object), "attention": attention}
    assert words_of(answers) == [["two", "s"], []]
    first, second = maps_of(answers)
    assert second == []
    assert [each.tolist() for each in first] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_a_tokenizer_is_saved_and_loaded(captioner, tmp_path):
    save_tokenizer(captioner.tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.model"]
    again = load_tokenizer(tmp_path)
    assert again.vocabulary() == captioner.tokenizer.vocabulary()


def test_a_run_is_loaded_for_inference(captioner, tmp_path):
    run = write_run(tmp_path / "run", "data")
    loaded = load_run(run)
    assert loaded.config == dataclasses.replace(captioner.config, data="data")
    assert loaded.tokenizer.vocabulary() == captioner.tokenizer.vocabulary()
    weights = captioner.model.get_weights()
    for ours, value in zip(loaded.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, value.astype("float16"))
    with pytest.raises(BadInput, match="input 2: the image is no JPEG"):
        load_model(str(run), "greedy")([FILES[0], b"no image"])
