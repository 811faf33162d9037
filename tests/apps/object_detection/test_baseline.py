import io
import json

import numpy as np
import pytest
from PIL import Image

from apps.common import baselines
from apps.object_detection import baseline
from apps.object_detection.data import load_examples
from apps.object_detection.model import build_model
from tests.apps.object_detection.shapes import CLASSES, small, write
from tests.apps.object_detection.test_metrics import make_examples

STRIDE, ROWS, COLUMNS = 16, 6, 8
SIZE = (ROWS * STRIDE, COLUMNS * STRIDE)


def planted(num_images):
    """Returns examples and an encoder whose features tell the class of each cell."""
    random = np.random.default_rng(0)
    labels, features = [], []
    for _ in range(num_images):
        cells = random.permutation(ROWS * COLUMNS)[:4]
        maps = random.normal(0, 0.1, (ROWS * COLUMNS, 5))
        rows = []
        for cell, number in zip(cells, (0, 1, 0, 1), strict=True):
            y, x = (np.array(divmod(cell, COLUMNS)) + 0.5) * STRIDE
            width, height = ((10, 20), (24, 12))[number]
            rows.append(
                [
                    x - width / 2,
                    y - height / 2,
                    x + width / 2,
                    y + height / 2,
                    number,
                    0,
                ]
            )
            maps[cell, number] += 5
        labels.append(rows)
        features.append(maps.reshape(ROWS, COLUMNS, 5))
    strides, size = np.array([STRIDE, STRIDE]), np.array(SIZE)
    return make_examples(labels), lambda name: (features[int(name)], strides, size)


def test_it_finds_boxes_whose_features_tell_their_class():
    examples, encode = planted(20)
    classifier, sizes = baseline.fit(examples, encode, seed=0)
    np.testing.assert_allclose(sizes * SIZE[::-1], [[10, 20], [24, 12]], rtol=1e-5)

    answer = baseline.predict(classifier, sizes, *encode("7"))

    order = np.lexsort(answer["boxes"][:4].T)
    expected = np.lexsort(examples.boxes[7].T)
    np.testing.assert_allclose(
        answer["boxes"][:4][order],
        np.clip(examples.boxes[7], 0, SIZE[1] * np.ones(4))[expected],
        atol=1e-3,
    )
    np.testing.assert_array_equal(
        answer["classes"][:4][order], examples.box_classes[7][expected]
    )
    assert answer["scores"][3] > 10 * answer["scores"][4]
    assert (answer["classes"][answer["num_detections"] :] == -1).all()


def test_crowds_are_no_boxes():
    examples, encode = planted(10)
    for i, boxes in enumerate(examples.boxes):
        examples.boxes[i] = np.concatenate([boxes, [[0, 0, 90, 90]]])
        examples.box_classes[i] = np.append(examples.box_classes[i], 0)
        examples.is_crowd[i] = np.append(examples.is_crowd[i], True)
    examples.is_crowd[3][:] = True
    assert baseline.with_objects(examples).names == [*"012", *"456789"]
    _, sizes = baseline.fit(examples, encode, seed=0)
    np.testing.assert_allclose(sizes * SIZE[::-1], [[10, 20], [24, 12]], rtol=1e-5)


def test_a_class_without_boxes_gets_the_size_of_the_others():
    examples, encode = planted(10)
    examples = make_examples(
        [
            [[*box, number, 0] for box, number in zip(*each, strict=True)]
            for each in zip(examples.boxes, examples.box_classes, strict=True)
        ],
        classes=("box", "disc", "star"),
    )
    classifier, sizes = baseline.fit(examples, encode, seed=0)
    np.testing.assert_allclose(sizes[2] * SIZE[::-1], [17, 16], rtol=1e-5)
    answer = baseline.predict(classifier, sizes, *encode("0"))
    assert not (answer["classes"] == 2).any()


def build(backbone):
    return build_model(
        num_classes=2,
        model="one_stage",
        backbone=backbone,
        weights=None,
        filters=16,
        num_bins=8,
    )


@pytest.mark.parametrize(
    ("backbone", "stride"), [("MobileNetV2", 16), ("small_resnet", 8)]
)
def test_cells_have_about_16_pixels(backbone, stride):
    encode = baseline.encoder(build(backbone), (64, 96))
    file = io.BytesIO()
    Image.new("RGB", (192, 64)).save(file, "png")  # It is scaled down by 2.
    cells, strides, size = encode(file.getvalue())
    assert cells.shape[:2] == (64 // stride, 96 // stride)
    np.testing.assert_allclose(strides, [2 * stride, 2 * stride])
    np.testing.assert_array_equal(size, [64, 192])


def test_its_scores_are_recorded(tmp_path, capsys):
    write(tmp_path / "shapes", range(20))
    config = small(tmp_path / "shapes")
    splits = load_examples(config)
    record = baseline.measure(build("small_resnet"), splits, config, tmp_path)
    assert record["name"] == "logistic regression on random features of each cell"
    assert 0 < record["test"]["ap50"] < 1
    assert record["test"]["map"] < record["test"]["ap50"]
    assert json.loads((tmp_path / "baseline.json").read_text()) == record
    assert baselines.describe(record, "validation") in capsys.readouterr().out
    assert splits["test"].classes == CLASSES
