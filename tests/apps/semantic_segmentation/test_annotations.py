import json

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from apps.common import datasets
from apps.common.errors import BadInput
from apps.semantic_segmentation import data
from tests.apps.semantic_segmentation.shapes import small, write

HEIGHT, WIDTH = 20, 30
SQUARE = [[4, 4], [11, 4], [11, 11], [4, 11]]
PIXELS = np.zeros((HEIGHT, WIDTH), "uint8")
PIXELS[4:12, 4:12] = 1


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "green").save(path)


def write_labelme(folder, name, *shapes, **changes):
    """Writes an image and its annotations; a shape is a label, points and a type."""
    write_image(folder / f"{name}.png")
    content = {
        "imagePath": f"{name}.png",
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        "shapes": [
            {"label": label, "points": points, "shape_type": kind}
            for label, points, kind in shapes
        ],
    }
    (folder / f"{name}.json").write_text(json.dumps(content | changes))


def write_coco(path, names, annotations, **changes):
    """Writes annotations; one is an image, a category, a segmentation and an area."""
    content = {
        "images": [
            {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for i, name in enumerate(names)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": category,
                "segmentation": segmentation,
                "area": area,
            }
            for i, (image, category, segmentation, area) in enumerate(annotations)
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes))


def load(folder, **settings):
    return data.load_split(small(folder, **settings), "all")


def test_shapes_of_labelme_become_masks(tmp_path, capsys):
    write_labelme(tmp_path, "a", ("dog", SQUARE, "polygon"))
    write_labelme(
        tmp_path,
        "b",
        ("cat", [[29, 19], [20, 10]], "rectangle"),
        ("dog", [[8, 8], [8, 12]], "circle"),
        ("__ignore__", [[28, 18], [29, 19]], "rectangle"),
        ("_background_", [[20, 10], [21, 19]], "rectangle"),
    )
    write_image(tmp_path / "c.png")
    examples = load(tmp_path)
    assert examples.classes == ("background", "cat", "dog")
    assert examples.names == ["a.png", "b.png"]
    np.testing.assert_array_equal(examples.mask(0), 2 * PIXELS)
    mask = examples.mask(1)
    assert (mask == 1).sum() == 8 * 10 - 4
    assert (mask == 255).sum() == 4
    assert (mask == 2).sum() == pytest.approx(np.pi * 4**2, rel=0.25)
    assert (mask[8, 8], mask[0, 0], mask[15, 20]) == (2, 0, 0)
    assert capsys.readouterr().err == "skipped 1 file: has no annotation: c.png\n"


def test_polygons_and_run_lengths_of_coco_become_masks(tmp_path, capsys):
    polygon = [[4, 4, 12, 4, 12, 12, 4, 12]]
    packed = pycocotools.mask.encode(np.asfortranarray(PIXELS))
    packed = {"size": packed["size"], "counts": packed["counts"].decode()}
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    names = ["a.png", "b.png", "c.png", "nowhere.png"]
    annotations = [
        *((0, 7, polygon, 64), (1, 7, packed, 64), (1, 3, runs, 600)),
    ]
    write_coco(tmp_path / "annotations/instances_train2017.json", names, annotations)
    write_coco(tmp_path / "annotations/instances_val2017.json", ["d.png"], [])
    for name in names[:3]:
        write_image(tmp_path / "train2017" / name)
    write_image(tmp_path / "val2017/d.png")
    splits = data.read_splits(small(tmp_path))
    assert datasets.sizes(splits) == {"train": 3, "validation": 1}
    examples = splits["train"]
    assert examples.classes == ("background", "cat", "dog")
    assert examples.names[0] == "train2017/a.png"
    np.testing.assert_array_equal(examples.mask(0), 2 * PIXELS)
    np.testing.assert_array_equal(examples.mask(1), np.where(PIXELS, 2, 1))
    assert not examples.mask(2).any()
    missing = "is annotated, but there is no such file: annotations/nowhere.png\n"
    assert capsys.readouterr().err == f"skipped 1 file: {missing}"


def test_pixels_without_annotations_are_unlabelled_if_there_is_no_background(tmp_path):
    write_labelme(tmp_path, "a", ("dog", SQUARE, "polygon"))
    (tmp_path / "classes.txt").write_text("dog\nsky\n")
    examples = load(tmp_path)
    assert examples.classes == ("dog", "sky")
    np.testing.assert_array_equal(examples.mask(0), np.where(PIXELS, 0, 255))


def test_splits_are_words_in_the_paths_of_annotations(tmp_path):
    for split, number in (("train", 3), ("valid", 2), ("test", 1)):
        for i in range(number):
            write_labelme(tmp_path / split, f"{i}", ("dog", SQUARE, "polygon"))
    splits = data.load_examples(small(tmp_path))
    assert datasets.sizes(splits) == {"train": 3, "validation": 2, "test": 1}


def test_folders_of_pascal_voc_are_read(tmp_path, capsys):
    write(tmp_path, range(6), "JPEGImages", "SegmentationClass")
    (tmp_path / "SegmentationClass/odd_05.png").unlink()
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("even_00\nodd_01\n")
    (lists / "val.txt").write_text("even_02\n")
    splits = data.read_splits(small(tmp_path))
    assert splits["train"].names == ["even_00.png", "odd_01.jpg"]
    assert splits["validation"].names == ["even_02.png"]
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: has no mask of the same name: JPEGImages/odd_05.jpg",
        "skipped 2 files: is in no list of ImageSets/Segmentation: even_04.png, "
        "odd_03.jpg",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": [{"label": "dog"}]}, "a.json is damaged.*KeyError.*points"),
        (
            {"shapes": [{"label": "a", "points": [], "shape_type": "line"}]},
            "a.json is damaged.*a shape of the type line has no area",
        ),
        (
            {"shapes": [{"label": "a", "points": [[1, 1]], "shape_type": "circle"}]},
            "a.png has a damaged annotation of a",
        ),
        ({"imageHeight": WIDTH}, "the annotation of a.png has .*when it is upright"),
    ],
)
def test_damaged_annotations_are_refused(changes, message, tmp_path):
    write_labelme(tmp_path, "a", ("dog", SQUARE, "polygon"), **changes)
    with pytest.raises(BadInput, match=message):
        load(tmp_path)


def test_annotations_that_have_no_regions_or_unknown_classes_are_refused(tmp_path):
    write_image(tmp_path / "a.png")
    write_coco(tmp_path / "boxes.json", ["a.png"], [(0, 7, [], 64)])
    with pytest.raises(BadInput, match="annotation 0 has no segmentation"):
        load(tmp_path)
    (tmp_path / "boxes.json").write_text('{"version": 1}')
    with pytest.raises(BadInput, match=r"boxes.json is damaged, .* or remove it"):
        load(tmp_path)
    (tmp_path / "boxes.json").unlink()
    write_labelme(tmp_path, "a", ("dog", SQUARE, "polygon"))
    with pytest.raises(BadInput, match=r"class 'dog', which is not among .* cat, cow"):
        load(tmp_path, classes=("cat #ff0000", "cow"))
