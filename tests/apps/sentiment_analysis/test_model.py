import keras
import numpy as np
import pytest
from scipy.special import softmax

from apps.common.text import PADDING
from apps.sentiment_analysis.model import (
    branches,
    scale_branches,
    with_attention,
    without_padding,
)
from tests.apps.sentiment_analysis.untrained import make_model

LENGTHS = (9, 6, 4, 2, 1)


@pytest.fixture(scope="module", params=[16, 0], ids=["two branches", "network"])
def model(request):
    return make_model(vocabulary_size=50, dropout=0.5, num_buckets=request.param)


@pytest.fixture(scope="module")
def token_ids():
    random = np.random.default_rng(1)
    token_ids = random.integers(1, 50, (len(LENGTHS), 9)).astype("int32")
    for row, length in zip(token_ids, LENGTHS, strict=True):
        row[length:] = PADDING
    return token_ids


def one_by_one(model, token_ids):
    """Returns the answer for each text alone, without padding."""
    return [
        model(row[None, :length])
        for row, length in zip(token_ids, LENGTHS, strict=True)
    ]


def test_padding_changes_no_score(model, token_ids):
    expected = np.concatenate(one_by_one(model, token_ids))
    np.testing.assert_allclose(model(token_ids), expected, atol=1e-6)
    wider = np.pad(token_ids, ((0, 0), (0, 20)))
    np.testing.assert_allclose(model(wider), expected, atol=1e-6)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.05


def test_the_model_without_padding_is_the_same(model, token_ids):
    unpadded = without_padding(model)
    np.testing.assert_allclose(
        np.concatenate(one_by_one(unpadded, token_ids)), model(token_ids), atol=1e-6
    )
    assert [w.shape for w in unpadded.weights] == [w.shape for w in model.weights]


def test_without_padding_there_is_no_mask(model):
    """The id of padding is then an ordinary token id."""
    token_ids = np.array([[PADDING, 5, 7]], "int32")
    attention = with_attention(without_padding(model))(token_ids)["attention"]
    assert attention.numpy().min() > 0


def test_attention_sums_to_one_and_is_zero_on_padding(model, token_ids):
    answers = with_attention(model)(token_ids)
    np.testing.assert_array_equal(answers["scores"], model(token_ids))
    attention = answers["attention"].numpy()
    assert attention.shape == token_ids.shape
    assert (attention >= 0).all()
    assert (attention[token_ids == PADDING] == 0).all()
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-5)
    for row, length, single in zip(
        attention, LENGTHS, one_by_one(with_attention(model), token_ids), strict=True
    ):
        np.testing.assert_allclose(row[:length], single["attention"][0], atol=1e-6)
    assert attention[0].std() > 0.01


def test_the_order_of_words_matters(model, token_ids):
    forwards, backwards = token_ids[:1], token_ids[:1, ::-1]
    difference = np.abs(model(forwards) - model(backwards)).max()
    assert difference > 1e-2


def test_the_query_has_both_ends_of_a_text(model, token_ids):
    expected = model(token_ids).numpy()
    for place in (0, LENGTHS[1] - 1):
        changed = token_ids.copy()
        changed[1, place] = changed[1, place] % 49 + 1
        difference = np.abs(model(changed) - expected).max(axis=1)
        assert difference[1] > 1e-3
        assert np.delete(difference, 1).max() < 1e-6


def test_a_text_of_padding_only_gives_finite_scores(model):
    answers = with_attention(model)(np.zeros((2, 4), "int32"))
    assert np.isfinite(answers["scores"]).all()
    assert (answers["attention"].numpy() == 0).all()


def test_dropout_is_only_for_training(model, token_ids):
    np.testing.assert_array_equal(model(token_ids), model(token_ids))
    first, second = (model(token_ids, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_a_saved_model_can_be_loaded(model, token_ids, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(token_ids), model(token_ids), atol=1e-6)
    unpadded = without_padding(again)
    np.testing.assert_allclose(unpadded(token_ids[:1]), model(token_ids[:1]), atol=1e-6)


def test_the_branches_add_up(token_ids):
    model = make_model(vocabulary_size=50)
    logits = branches(model)(token_ids)
    scale_branches(model, network=0.5, linear=2.0)
    expected = softmax(0.5 * logits["network"] + 2 * logits["linear"], axis=1)
    np.testing.assert_allclose(model(token_ids), expected, atol=1e-5)
