import math

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from apps.image_captioning import metrics

REFERENCES = [
    ("a black dog runs on the beach", "the dog runs", "a dog near the water"),
    ("two children play with a ball", "children in a park"),
    ("a man in a red shirt climbs a rock",),
    ("a boat on the water", "a small boat"),
]
CAPTIONS = [
    "a dog runs on the grass",
    "two children play with a ball",
    "a man climbs a mountain",
    "",
]


def test_scores_are_those_of_pycocoevalcap():
    scores = metrics.score(CAPTIONS, REFERENCES)
    assert list(scores) == [
        *(f"bleu_{n}" for n in range(1, 5)),
        *("rouge_l", "cider", "exact"),
    ]
    bleu = BleuScorer(n=4)
    cider = CiderScorer()
    rouge = []
    for caption, references in zip(CAPTIONS, REFERENCES, strict=True):
        bleu += (caption, list(references))
        cider += (caption, list(references))
        rouge.append(Rouge().calc_score([caption], list(references)))
    expected, _ = bleu.compute_score(option="closest")
    assert [scores[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx(expected)
    assert scores["rouge_l"] == pytest.approx(np.mean(rouge))
    mean, values = cider.compute_score()
    assert scores["cider"] == pytest.approx(mean)
    assert 0.1 < scores["bleu_4"] < scores["bleu_1"] < 0.9
    np.testing.assert_allclose(metrics.ciders(CAPTIONS, REFERENCES), values)
    assert values[1] > values[0] > values[3] == 0
    assert all(type(value) is float for value in scores.values())


def test_scores_of_a_small_case_are_as_computed_by_hand():
    # Of 5 words 4 are in the reference, of 4 pairs 2, of 3 triples 1.
    scores = metrics.score(["a black dog sat there"], [("a black dog ran there",)])
    assert scores["bleu_1"] == pytest.approx(4 / 5)
    assert scores["bleu_2"] == pytest.approx(math.sqrt(4 / 5 * 2 / 4))
    assert scores["bleu_3"] == pytest.approx((4 / 5 * 2 / 4 * 1 / 3) ** (1 / 3))
    assert scores["rouge_l"] == pytest.approx(4 / 5)
    assert scores["exact"] == 0
    # Half as long as the reference.
    scores = metrics.score(["a black dog"], [("a black dog sat over there",)])
    assert scores["bleu_1"] == pytest.approx(math.exp(1 - 6 / 3))


def test_captions_like_a_reference_are_best():
    captions = [references[-1] for references in REFERENCES]
    scores = metrics.score(captions, REFERENCES)
    assert scores["exact"] == 1
    assert scores["bleu_4"] == pytest.approx(1, abs=1e-3)
    assert scores["rouge_l"] == pytest.approx(1)
    assert metrics.score([*captions[:3], "a"], REFERENCES)["exact"] == 3 / 4
    # With one reference each and no word in common, CIDEr-D is 10.
    captions = ["one two three four", "five six seven eight"]
    scores = metrics.score(captions, [(caption,) for caption in captions])
    assert scores["cider"] == pytest.approx(10)


def test_variety_is_counted():
    captions = ["a dog", "a dog", "a black dog", "a red cat", ""]
    scores = metrics.variety(captions, ["a dog", "a cat", "a red cat"])
    assert scores == {"distinct": 4 / 5, "novel": 2 / 5, "words": 10 / 5}


# CIDEr-D in training


def test_cider_of_the_training_images_is_that_of_pycocoevalcap():
    """If one caption of each training image is scored, that is the whole corpus."""
    cider = metrics.TrainingCider(REFERENCES)
    expected = metrics.ciders(CAPTIONS, REFERENCES)
    np.testing.assert_allclose(cider(CAPTIONS, range(4)), expected)
    order = [2, 0, 3, 1]
    values = cider([CAPTIONS[i] for i in order], order)
    np.testing.assert_allclose(values, expected[order])


@pytest.mark.parametrize("times", [1, 2, 5])
def test_the_value_of_a_caption_depends_on_no_other(times):
    cider = metrics.TrainingCider(REFERENCES)
    captions = ["a dog runs", "two children", "a dog runs"] * times
    values = cider(captions, [0, 1, 3] * times)
    whole = metrics.ciders(["a dog runs", "two children", "", ""], REFERENCES)
    last = metrics.ciders(["", "", "", "a dog runs"], REFERENCES)
    np.testing.assert_allclose(values, [whole[0], whole[1], last[3]] * times)
    assert values[0] > values[2] >= 0


# While training


def test_each_epoch_has_the_scores_of_its_captions():
    written = []

    def write():
        written.append(True)
        return CAPTIONS

    callback = metrics.ValidationCider(write, REFERENCES)
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    scores = metrics.score(CAPTIONS, REFERENCES)
    assert written == [True]
    assert logs == {
        "loss": 1.0,
        "val_cider": scores["cider"],
        "val_bleu_4": scores["bleu_4"],
    }
