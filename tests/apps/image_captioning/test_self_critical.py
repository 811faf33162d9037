import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apps.common import backbones
from apps.common.decoder import SmoothedCrossEntropy
from apps.common.text import PADDING
from apps.common.tokenizer import END, START
from apps.image_captioning import metrics, self_critical
from apps.image_captioning.batches import Features
from apps.image_captioning.model import build_model
from apps.image_captioning.signatures import Captioner
from apps.image_captioning.train import compile_model
from tests.apps.image_captioning.tiny import make_examples, make_tokenizer, small

EXAMPLES = make_examples(10)
BEAM = 3
CONFIG = small(beam_size=BEAM, batch_size=9, max_tokens=7, attention_penalty=0.0)


@pytest.fixture(scope="module")
def captioner():
    """A captioner with large random weights, so that captions vary."""
    # Not `keras.utils.set_random_seed`: it deletes TensorFlow's tokenizers.
    tokenizer = make_tokenizer(EXAMPLES)
    model = build_model(config=CONFIG, vocabulary_size=len(tokenizer))
    random = np.random.default_rng(1)
    for part in (model.reduction, model.decoder):
        for weight in part.trainable_variables:
            weight.assign(random.normal(0, 0.7, weight.shape))
    backbones.set_trainable(model.network, 0)
    return Captioner(model, tokenizer, CONFIG)


@pytest.fixture(scope="module")
def features(captioner):
    random = np.random.default_rng(2)
    made = Features([])
    shape = (len(EXAMPLES), int(np.prod(captioner.model.grid)), 128)
    made.views = [random.normal(0, 3, shape).astype("float16") for _ in range(2)]
    return made


@pytest.fixture(scope="module")
def examples(captioner, features):
    """Images whose captions are like the second one of a beam search."""
    found = captioner.search(tf.constant(features.views[0], tf.float32), BEAM)
    second = captions_of(captioner.tokenizer, found.token_ids[:, 1].numpy())
    captions = [(caption, "a red wall") for caption in second]
    return dataclasses.replace(EXAMPLES, captions=captions)


@pytest.fixture(scope="module")
def loaded(captioner, examples, features):
    return self_critical.make_batches(captioner, examples, features, CONFIG)


def captions_of(tokenizer, labels):
    rows = [[i for i in row if i not in (PADDING, END)] for row in labels.tolist()]
    ragged = tf.ragged.constant(rows, tf.int32, ragged_rank=1)
    return [text.decode() for text in tokenizer.detokenize(ragged).numpy()]


def owners_of(seen, features):
    """Returns the number of the image of each row."""
    known = features.views[0].astype("float32")
    return [int(np.abs(known - row).sum((1, 2)).argmin()) for row in seen]


def test_every_image_comes_with_the_captions_of_a_beam_search(
    loaded, captioner, features
):
    orders, lengths = [], set()
    for _ in range(2):
        orders.append([])
        for inputs, labels, _ in loaded.as_numpy_iterator():
            seen, previous = inputs["features"], inputs["token_ids"]
            assert len(seen) == len(previous) == len(labels)
            assert len(labels) in (3 * BEAM, BEAM)  # 10 images, 3 in a batch.
            owners = owners_of(seen, features)
            np.testing.assert_array_equal(seen, features.views[0][owners])
            assert owners == np.repeat(owners[::BEAM], BEAM).tolist()
            orders[-1] += owners[::BEAM]
            found = captioner.search(tf.constant(seen[::BEAM]), BEAM)
            expected = found.token_ids.numpy().reshape(len(labels), -1)
            number = found.lengths.numpy().ravel()
            lengths |= set(number.tolist())
            for i, label in enumerate(labels):
                end = [END] if number[i] < CONFIG.max_tokens else []
                tokens = [*expected[i, : number[i]], *end]
                assert label[: len(tokens)].tolist() == tokens
                assert not label[len(tokens) :].any()
                before = [START, *tokens[:-1]]
                assert previous[i, : len(tokens)].tolist() == before
                assert not previous[i, len(tokens) :].any()
    assert len(lengths) > 1
    for order in orders:
        assert sorted(order) == list(range(10))
    assert orders[0] != orders[1]


def test_the_values_of_an_image_add_up_to_nothing(
    loaded, captioner, examples, features
):
    cider = metrics.TrainingCider(examples.captions)
    values = []
    for inputs, labels, weights in loaded.as_numpy_iterator():
        assert weights.dtype == np.float32
        captions = captions_of(captioner.tokenizer, labels)
        scores = cider(captions, owners_of(inputs["features"], features))
        scores = scores.reshape(-1, BEAM)
        expected = (scores - scores.mean(axis=1, keepdims=True)).ravel()
        np.testing.assert_allclose(weights[:, 0], expected, atol=1e-5)
        is_token = labels != PADDING
        np.testing.assert_array_equal(weights, weights[:, :1] * is_token)
        sums = weights[:, 0].reshape(-1, BEAM).sum(axis=1)
        np.testing.assert_allclose(sums, 0, atol=1e-5)
        values += weights[:, 0].tolist()
    assert np.reshape(values, (-1, BEAM))[:, 1].mean() > 0.5


def test_a_greedy_model_learns_from_two_captions_of_each_image(captioner, features):
    config = dataclasses.replace(CONFIG, beam_size=1)
    loaded = self_critical.make_batches(captioner, EXAMPLES, features, config)
    inputs, *_ = next(iter(loaded))
    owners = owners_of(inputs["features"].numpy(), features)
    assert len(owners) == 8
    assert owners[::2] == owners[1::2]
    assert len(set(owners)) == 4


def test_a_step_makes_better_captions_likelier(loaded, captioner):
    model = captioner.model
    inputs, labels, values = next(iter(loaded))
    each = SmoothedCrossEntropy(label_smoothing=0, reduction="none")

    def expected_value():
        """The log-probability of each caption, times its value."""
        weights = tf.cast(labels != PADDING, tf.float32)
        log_probs = -tf.reduce_sum(each(labels, model(inputs), weights), axis=1)
        return float(tf.reduce_sum(values[:, 0] * log_probs)), log_probs.numpy()

    before, old = expected_value()
    loss = SmoothedCrossEntropy(label_smoothing=0, reduction="sum_over_batch_size")
    assert float(loss(labels, model(inputs), values)) == pytest.approx(
        -before / labels.shape.num_elements(), rel=1e-4
    )
    kept = model.get_weights()
    compile_model(model, CONFIG, 1e-3, loss)
    model.train_on_batch(inputs, labels, values)
    after, new = expected_value()
    model.set_weights(kept)
    assert after > before + 0.01
    best, worst = int(np.argmax(values[:, 0])), int(np.argmin(values[:, 0]))
    assert new[best] - old[best] > new[worst] - old[worst]
