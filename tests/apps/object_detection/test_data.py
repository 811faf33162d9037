import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import ExifTags, Image

from apps.common import datasets, images
from apps.common.errors import BadInput
from apps.common.images import encode_png, upright_size
from apps.object_detection import data
from apps.object_detection.config import CROWD, PADDING
from tests.apps.object_detection.shapes import (
    CLASSES,
    FORMATS,
    draw,
    small,
    voc_xml,
    write,
)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """A folder of 20 images of different sizes with their boxes."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write(folder, range(20))
    return folder


def names_of(splits):
    return {split: set(examples.names) for split, examples in splits.items()}


def arrays(pixels, boxes, classes=None, is_crowd=None):
    """Returns `Examples` of images, boxes, and classes, which are 0 by default."""
    boxes = [np.array(each, "float32").reshape(-1, 4) for each in boxes]
    classes = classes or [[0] * len(each) for each in boxes]
    is_crowd = is_crowd or [[False] * len(each) for each in boxes]
    return data.Examples(
        [str(i) for i in range(len(pixels))],
        [encode_png(each) for each in pixels],
        boxes,
        [np.array(each, int) for each in classes],
        [np.array(each, bool) for each in is_crowd],
        CLASSES,
    )


# Splits


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_examples(format, tmp_path):
    write(tmp_path, range(6), format)
    examples = data.load_split(small(tmp_path), "all")
    assert len(examples) == 6
    assert examples.classes == CLASSES
    for i, name in enumerate(examples.names):
        picture, objects = draw(int(name.rsplit("_")[1][:2]))
        assert upright_size(examples.image_bytes(i)) == picture.size
        assert examples.image_bytes(i) == examples.images[i].read_bytes()
        assert examples.boxes[i].dtype == np.float32
        boxes = [box for _, box in objects]
        np.testing.assert_allclose(examples.boxes[i], boxes, atol=1e-3)
        names = [CLASSES[number] for number in examples.box_classes[i]]
        assert names == [class_name for class_name, _ in objects]
        assert not examples.is_crowd[i].any()


def test_a_folder_without_splits_is_split_at_random(own_data):
    splits = data.load_examples(small(own_data))
    assert datasets.sizes(splits) == {"train": 13, "validation": 2, "test": 5}
    assert len(set.union(*names_of(splits).values())) == 20  # No image in two splits.


def test_recorded_splits_stay_the_same_when_images_are_added(tmp_path):
    write(tmp_path, range(12))
    before = data.load_examples(small(tmp_path))
    write(tmp_path, range(12, 18))
    after = data.load_examples(small(tmp_path), before.held_out)
    for split in ("test", "validation"):
        assert after[split].names == before[split].names
    assert len(after["train"]) == len(before["train"]) + 6


def test_splits_of_the_data_are_kept(tmp_path):
    for split, seeds in (("train", range(4)), ("val", [4]), ("test", [5, 6])):
        write(tmp_path, seeds, "yolo", split)
    splits = data.load_examples(small(tmp_path))
    assert datasets.sizes(splits) == {"train": 4, "validation": 1, "test": 2}
    assert splits.held_out == {}
    assert len(data.load_split(small(tmp_path), "all")) == 7
    assert len(data.load_split(small(tmp_path), "test")) == 2


def test_a_test_split_alone_can_be_scored_but_not_trained_on(tmp_path):
    write(tmp_path, range(3), "coco", "test")
    assert len(data.load_split(small(tmp_path), "test")) == 3
    with pytest.raises(BadInput, match="annotations for test but none for training"):
        data.load_examples(small(tmp_path))


def test_other_data_is_taken_whole_and_has_its_own_classes(own_data, capsys):
    config = small(own_data, classes=("disc", "box", "ring"))
    assert data.load_split(config, "test").classes == config.classes
    examples = data.load_split(config, "test", is_other_data=True)
    assert (len(examples), examples.classes) == (20, CLASSES)
    assert "no split 'test'; all 20 examples are scored" in capsys.readouterr().out
    scenes = data.load_split(small("scenes"), "test", is_other_data=True)
    assert len(scenes) == 128


def test_some_training_image_needs_a_box(tmp_path):
    write(tmp_path, range(8))
    for path in (tmp_path / "Annotations").iterdir():
        path.write_text("<annotation/>")
    with pytest.raises(BadInput, match="has no box for training; draw some"):
        data.load_examples(small(tmp_path))


def test_a_missing_folder_is_refused():
    with pytest.raises(BadInput, match="there is no folder nowhere; pass --data"):
        data.load_examples(small("nowhere"))


def test_boxes_are_counted(own_data, capsys):
    pixels = [np.zeros((32, 32, 3), "uint8")] * 3
    boxes = [[(0, 0, 9, 9)] * 3, [], [(0, 0, 5, 5)]]
    classes = [[1, 0, 1], [], [1]]
    is_crowd = [[False, False, True], [], [False]]
    some = arrays(pixels, boxes, classes, is_crowd)
    none = datasets.take(some, [1])
    data.print_boxes({"train": some, "test": none})
    assert capsys.readouterr().out == (
        "  boxes for train: 3 (disc 2, box 1); crowds and difficult objects: 1; "
        "images without boxes: 1\n"
        "  boxes for test: 0; images without boxes: 1\n"
    )


def store(name, objects, records, folder):
    """Stores a data set for TensorFlow Datasets, with this feature `objects`."""
    image = tfds.features.Image(encoding_format="png")
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": image, "objects": objects}),
        split_datasets={"train": records[:6], "test": records[6:]},
        data_dir=folder,
    )
    tfds.core.add_data_dir(folder)


def test_a_data_set_of_tensorflow_datasets_is_read(tmp_path):
    objects = tfds.features.Sequence(
        {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "is_crowd": np.bool_,
        }
    )
    box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=0.9)
    some = {"bbox": [box, box], "label": ["dog", "cat"], "is_crowd": [False, True]}
    none = {"bbox": [], "label": [], "is_crowd": []}
    pixels = np.zeros((20, 40, 3), "uint8")
    records = [
        (i, {"image": pixels, "objects": some if i % 2 else none}) for i in range(8)
    ]
    store("tiny_boxes", objects, records, tmp_path)
    config = small("tfds:tiny_boxes", validation_fraction=0.2)
    splits = data.load_examples(config)
    assert datasets.sizes(splits) == {"train": 5, "validation": 1, "test": 2}
    examples = data.load_split(config, "all")
    i = [len(boxes) for boxes in examples.boxes].index(2)
    assert examples.classes == ("cat", "dog")
    np.testing.assert_allclose(examples.boxes[i], [(8, 2, 36, 10)] * 2, rtol=1e-6)
    assert examples.box_classes[i].tolist() == [1, 0]
    assert examples.is_crowd[i].tolist() == [False, True]
    assert sum(map(len, examples.boxes)) == 8
    pixels, targets = next(iter(data.make_batches(examples, config)))
    assert pixels.shape == (4, 64, 64, 3)
    assert targets["classes"].shape == (4, 2)


def test_a_data_set_without_boxes_is_refused(tmp_path):
    objects = tfds.features.Sequence(tfds.features.ClassLabel(names=["cat", "dog"]))
    pixels = np.zeros((4, 4, 3), "uint8")
    records = [(i, {"image": pixels, "objects": []}) for i in range(8)]
    store("no_boxes", objects, records, tmp_path)
    with pytest.raises(BadInput, match="tfds:no_boxes has no `bbox` and `label` in"):
        data.load_examples(small("tfds:no_boxes"))


# Bad input


def annotate(folder, name, *objects, size=(40, 30), stated=None, **fields):
    """Writes an image and its XML file of Pascal VOC."""
    for part in ("JPEGImages", "Annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "green").save(folder / "JPEGImages" / f"{name}.png")
    text = voc_xml(f"{name}.png", stated or size, objects, **fields)
    (folder / "Annotations" / f"{name}.xml").write_text(text)


def test_boxes_beyond_the_image_are_clipped_and_those_without_area_skipped(
    tmp_path, capsys
):
    annotate(
        tmp_path,
        "a",
        ("cat", (-5, 3, 20, 35)),
        ("cat", (3, 3, 3, 20)),
        ("cat", (50, 3, 60, 20)),
        ("dog", (10, 0, 40.5, 30)),
        ("cow", (20, 10, 10, 20)),
        ("cat", (30, 3, 45, 20)),
    )
    examples = data.load_split(small(tmp_path), "all")
    np.testing.assert_array_equal(
        examples.boxes[0], [(0, 3, 20, 30), (10, 0, 40, 30), (30, 3, 40, 20)]
    )
    assert [examples.classes[i] for i in examples.box_classes[0]] == [
        *("cat", "dog", "cat")
    ]
    name = "JPEGImages/a.png"
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 3 boxes: has no area in the image: {name} (3, 3, 3, 20), "
        f"{name} (50, 3, 60, 20), {name} (20, 10, 10, 20)",
        f"clipped 2 boxes: reaches beyond the image: {name} (-5, 3, 20, 35), "
        f"{name} (30, 3, 45, 20)",
    ]


def test_difficult_objects_are_crowds(tmp_path):
    annotate(tmp_path, "a", ("cat", (3, 3, 20, 20)), difficult=1)
    examples = data.load_split(small(tmp_path), "all")
    assert examples.is_crowd[0].tolist() == [True]


def test_images_without_objects_are_kept(tmp_path):
    annotate(tmp_path, "a", ("cat", (3, 3, 20, 20)))
    annotate(tmp_path, "b")
    examples = data.load_split(small(tmp_path), "all")
    assert examples.names == ["JPEGImages/a.png", "JPEGImages/b.png"]
    assert examples.boxes[1].shape == (0, 4)
    ((_, targets),) = data.make_batches(examples, small(tmp_path))
    assert targets["classes"].numpy().tolist() == [[0], [PADDING]]
    np.testing.assert_array_equal(targets["boxes"][1], [[0, 0, 0, 0]])


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, capsys):
    write(tmp_path, range(5))
    folder = tmp_path / "JPEGImages"
    whole = (folder / "odd_01.jpg").read_bytes()
    (folder / "odd_01.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "even_02.png").write_text("no image")
    (tmp_path / "Annotations/odd_03.xml").unlink()
    (folder / "even_04.png").unlink()
    (tmp_path / "README.md").touch()
    assert data.load_split(small(tmp_path), "all").names == ["JPEGImages/even_00.png"]
    skipped = capsys.readouterr().err
    assert skipped.splitlines() == [
        "skipped 1 file: is annotated, but there is no such file: "
        "Annotations/even_04.png",
        "skipped 1 file: has no annotation: JPEGImages/odd_03.jpg",
        "skipped 1 file: is not an image; use JPEG or PNG files: "
        "JPEGImages/even_02.png",
        "skipped 1 file: is damaged or truncated; replace it: JPEGImages/odd_01.jpg",
    ]
    # An evaluation says the same.
    assert len(data.load_split(small(tmp_path), "all", is_other_data=True)) == 1
    assert capsys.readouterr().err == skipped
    (folder / "even_00.png").write_text("no image")
    with pytest.raises(BadInput, match="has no image that can be used; add some"):
        data.load_split(small(tmp_path), "all")


@pytest.mark.parametrize("format", FORMATS)
def test_boxes_belong_to_upright_images(format, tmp_path):
    write(tmp_path, [1], format)
    path = next(tmp_path.glob("**/odd_01.jpg"))
    picture, objects = draw(1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.save(path, quality=95, exif=exif)
    examples = data.load_split(small(tmp_path), "all")
    assert upright_size(examples.image_bytes(0)) == picture.size
    np.testing.assert_allclose(
        examples.boxes[0], [box for _, box in objects], atol=1e-3
    )


def test_images_that_were_annotated_at_another_size_are_skipped(tmp_path, capsys):
    annotate(tmp_path, "a", ("cat", (3, 3, 20, 20)))
    annotate(tmp_path, "b", ("cat", (3, 3, 20, 20)), stated=(30, 40))
    annotate(tmp_path, "c", ("cat", (3, 3, 20, 20)), stated=(0, 0))
    examples = data.load_split(small(tmp_path), "all")
    assert examples.names == ["JPEGImages/a.png", "JPEGImages/c.png"]
    assert capsys.readouterr().err == (
        "skipped 1 file: was annotated at another size; draw new boxes: "
        "JPEGImages/b.png (30×40, not 40×30)\n"
    )


# Batches


def test_boxes_move_with_the_letterboxed_image(tmp_path):
    pixels = np.zeros((40, 80, 3), "uint8")
    pixels[10:30, 20:60] = 255
    examples = arrays([pixels, pixels], [[(20, 10, 60, 30)] * 2, [(20, 10, 60, 30)]])
    config = small("", image_size=(64, 32))
    ((loaded, targets),) = data.make_batches(examples, config)
    assert (loaded.shape, loaded.dtype) == ((2, 64, 32, 3), "float32")
    boxes, classes = targets["boxes"].numpy(), targets["classes"].numpy()
    assert (boxes.dtype, classes.dtype) == ("float32", "int32")
    np.testing.assert_allclose(boxes[0], [(8, 4, 24, 12)] * 2)
    np.testing.assert_allclose(boxes[1], [(8, 4, 24, 12), (0, 0, 0, 0)])
    assert classes.tolist() == [[0, 0], [0, PADDING]]
    assert (loaded.numpy()[0, 5:11, 9:23] > 250).all()
    assert (loaded.numpy()[0, 16:] == 128).all()  # The padding is grey.


def test_sides_are_resized_as_the_image_is():
    """The height of a narrow image is rounded, from 3.2 to 3 pixels."""
    examples = arrays([np.zeros((10, 100, 3), "uint8")], [[(0, 0, 100, 10)]])
    ((_, targets),) = data.make_batches(examples, small("", image_size=(64, 32)))
    np.testing.assert_allclose(targets["boxes"], [[(0, 0, 32, 3)]], rtol=1e-6)


def bright_boxes(pixels):
    """Returns the boxes around what is red, green or blue: x1, y1, x2, y2."""
    boxes = []
    for color in range(3):
        others = np.delete(pixels, color, axis=-1).max(axis=-1)
        rows, columns = np.nonzero(pixels[..., color] - others > 100)
        if len(rows):
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return boxes


def colorful(number, size=64):
    """Returns images with a red, a green and a blue box, and these boxes."""
    random = np.random.default_rng(0)
    pixels = np.zeros((number, size, size, 3), "uint8")
    boxes = []
    for image in pixels:
        boxes.append([])
        for color in range(3):
            width, height = random.integers(12, 20, 2)
            left, top = 21 * color + random.integers(2), random.integers(size - 20)
            image[top : top + height, left : left + width, color] = 255
            boxes[-1].append((left, top, left + width, top + height))
    return pixels, boxes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": (0.6, 0.6)},
        {"scale": (1.0, 1.0), "flip": True},
        {"scale": (1.0, 1.0), "flip_vertically": True},
        {"scale": (0.5, 1.0), "flip": True, "flip_vertically": True},
    ],
)
def test_boxes_stay_on_what_they_are_around(settings):
    pixels, boxes = colorful(16)
    settings = {"scale": (0.7, 1.0), "flip": False, **settings}
    config = small("", batch_size=16, **settings)
    classes = [[0, 1, 2]] * 16
    examples = arrays(pixels, boxes, classes)
    ((moved, targets),) = data.make_batches(examples, config, training=True)
    for image, found, numbers in zip(
        moved.numpy(), targets["boxes"].numpy(), targets["classes"].numpy(), strict=True
    ):
        assert numbers.tolist() == [0, 1, 2]  # Each is whole, and in the image.
        expected = bright_boxes(image)
        np.testing.assert_allclose(found, expected, atol=1.01)
        assert abs((found - expected).mean()) < 0.4
    assert len(np.unique(targets["boxes"], axis=0)) == 16


def test_each_mirror_is_used_only_if_asked():
    pixels = np.zeros((64, 64, 3), "uint8")
    corners = {}
    for flip in (False, True):
        for flip_vertically in (False, True):
            config = small(
                "",
                batch_size=32,
                scale=(1.0, 1.0),
                flip=flip,
                flip_vertically=flip_vertically,
            )
            examples = arrays([pixels] * 32, [[(4, 8, 20, 20)]] * 32)
            ((_, targets),) = data.make_batches(examples, config, training=True)
            found = np.round(targets["boxes"][:, 0, :2].numpy(), 3)
            corners[flip, flip_vertically] = set(map(tuple, found.tolist()))
    assert corners == {
        (False, False): {(4, 8)},
        (True, False): {(4, 8), (44, 8)},
        (False, True): {(4, 8), (4, 44)},
        (True, True): {(4, 8), (44, 8), (4, 44), (44, 44)},
    }


def test_boxes_of_which_little_is_left_become_padding():
    pixels = np.full((64, 64, 3), 200, "uint8")
    boxes = [[(0, 0, 16, 16), (0, 0, 16, 16), (31, 31, 32, 32)]] * 256
    classes, is_crowd = [[0, 1, 1]] * 256, [[False, True, False]] * 256
    examples = arrays([pixels] * 256, boxes, classes, is_crowd)
    config = small("", batch_size=256, scale=(1.5, 1.5), flip=False)
    ((_, targets),) = data.make_batches(examples, config, training=True)
    boxes, classes = targets["boxes"].numpy(), targets["classes"].numpy()
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) / 24**2
    assert set(np.unique(classes)) == {CROWD, PADDING, 0}  # One is below 2 pixels.
    assert 0.25 <= areas[classes == 0].min() < 0.4
    assert areas[classes == CROWD].min() < 0.25  # Of a crowd, every part counts.
    assert not areas[classes == PADDING].any()
    assert (classes == CROWD).sum() > (classes == 0).sum() > 0
    is_padding = classes == PADDING
    assert (is_padding == np.sort(is_padding, axis=1)).all()  # It is at the end.
    assert not is_padding.all(axis=0).any()


def test_a_mosaic_shows_parts_of_four_images_with_their_boxes():
    colors = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)], "uint8")
    pixels = np.broadcast_to(colors[:, None, None], (4, 64, 64, 3))
    corners = [(x, y) for x in range(0, 64, 8) for y in range(0, 64, 8)]
    boxes = [[(x, y, x + 8, y + 8) for x, y in corners]] * 4
    examples = arrays(pixels, boxes, [[number] * 64 for number in range(4)])
    config = small("", mosaic=1.0, scale=(1.2, 1.5))
    ((composed, targets),) = data.make_batches(examples, config, training=True)
    places = set()
    for image, boxes, classes in zip(
        *(composed.numpy(), targets["boxes"].numpy(), targets["classes"].numpy()),
        strict=True,
    ):
        num_boxed = num_colored = 0
        for number, color in enumerate(colors):
            found = boxes[classes == number]
            whole = np.hstack([np.ceil(found[:, :2]), np.floor(found[:, 2:])])
            is_boxed = np.zeros((64, 64), bool)
            for left, top, right, bottom in whole.astype(int):
                is_boxed[top:bottom, left:right] = True
            is_color = (image == color).all(axis=-1)
            # At its edge, an image may lack half a pixel.
            assert np.mean(is_boxed & ~is_color) < 0.03
            assert is_color.any()
            num_boxed += is_boxed.sum()
            num_colored += is_color.sum()
        # Some have too little left, and edges may lie within a pixel.
        assert num_boxed > 0.5 * num_colored
        places.add(tuple(boxes[classes == classes[0], 2:].max(axis=0)))
    assert len(places) == 4


def test_the_mosaic_is_used_as_often_as_asked():
    pixels, boxes = colorful(4)
    examples = arrays(np.tile(pixels, (8, 1, 1, 1)), boxes * 8)
    for fraction in (0.0, 0.5, 1.0):
        config = small("", mosaic=fraction, scale=(1.0, 1.0), flip=False, batch_size=32)
        ((composed, _),) = data.make_batches(examples, config, training=True)
        is_whole = [
            any(np.allclose(image, each, atol=0.1) for each in pixels)
            for image in composed.numpy()
        ]
        assert 1 - np.mean(is_whole) == pytest.approx(fraction, abs=0.3)
        assert len(composed) == 32
        assert (np.mean(is_whole) in (0, 1)) is (fraction in (0, 1))


def test_where_there_is_no_image_it_is_grey():
    examples = arrays([np.zeros((64, 64, 3), "uint8")] * 4, [[(0, 0, 64, 64)]] * 4)
    config = small("", scale=(0.5, 0.5))
    ((moved, targets),) = data.make_batches(examples, config, training=True)
    for image, (box,) in zip(moved.numpy(), targets["boxes"].numpy(), strict=True):
        left, top, right, bottom = np.round(box).astype(int)
        assert (image == 127.5).mean() == pytest.approx(0.75, abs=0.04)
        assert (image[top + 1 : bottom - 1, left + 1 : right - 1] == 0).all()


def test_training_images_are_recolored_only_if_asked():
    examples = arrays([np.full((64, 64, 3), 90, "uint8")] * 8, [[]] * 8)
    for color in (0.0, 0.5):
        config = small("", color=color, scale=(1.0, 1.0), batch_size=8)
        ((pixels, targets),) = data.make_batches(examples, config, training=True)
        assert (pixels.numpy().std() > 3) == (color > 0)
        assert targets["boxes"].shape == (8, 0, 4)


@pytest.mark.parametrize("cache", [0, 2**30])
def test_training_shuffles_and_validation_does_not(cache, monkeypatch):
    monkeypatch.setattr(images, "MAX_CACHE_BYTES", cache)
    boxes = [[(0, 0, 10 + i, 10)] for i in range(20)]
    examples = arrays([np.zeros((64, 64, 3), "uint8")] * 20, boxes)
    config = small("", scale=(1.0, 1.0), flip=False)
    for training in (False, True):
        batches = data.make_batches(examples, config, training)
        assert len(batches) == 5
        widths = [box[0, 2] - 10 for _, each in batches for box in each["boxes"]]
        widths = np.round(widths).astype(int).tolist()
        assert (widths == list(range(20))) is not training
        assert sorted(widths) == list(range(20))
