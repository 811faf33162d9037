import json
import shutil
from pathlib import Path

import pytest

from apps.common.errors import BadInput
from apps.object_detection.annotations import Region, read_annotations
from tests.apps.object_detection.shapes import (
    CLASSES,
    FORMATS,
    coco_content,
    draw,
    voc_xml,
    write,
)

BOX = ("cat", (2, 3, 12, 13))


def touch(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_pair(folder, name, *objects, xml="Annotations", image="JPEGImages", **fields):
    """Writes an XML file of Pascal VOC and an image, which need not be readable."""
    touch(folder / image / f"{name}.jpg")
    text = voc_xml(f"{name}.jpg", (30, 20), objects or [BOX], **fields)
    touch(folder / xml / f"{name}.xml", text)


def write_list(folder, split, *names):
    touch(folder / f"ImageSets/Main/{split}.txt", "".join(f"{n}\n" for n in names))


def write_labels(folder, text, name="a", **yaml_lines):
    """Writes an image, its label file and `data.yaml` for YOLO."""
    touch(folder / f"images/{name}.jpg")
    touch(folder / f"labels/{name}.txt", text)
    lines = {"train": "images", "names": "[cat, dog]", **yaml_lines}
    touch(folder / "data.yaml", "".join(f"{key}: {lines[key]}\n" for key in lines))


def read(folder, classes=()):
    """Returns the names of the images by split, and the classes."""
    splits, classes = read_annotations(folder, classes)
    names = {
        split: [image.path.name for image in part] for split, part in splits.items()
    }
    return names, classes


def only_image(folder):
    """Returns what is annotated in a folder with one image."""
    ((image,),) = read_annotations(folder, ())[0].values()
    return image


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_boxes(format, tmp_path, capsys):
    write(tmp_path, range(6), format)
    splits, classes = read_annotations(tmp_path, ())
    assert capsys.readouterr() == ("", "")
    assert classes == CLASSES
    assert list(splits) == ["train"]
    by_name = {image.path.name: image for image in splits["train"]}
    assert len(by_name) == 6
    for seed, name in ((2, "even_02.png"), (3, "odd_03.jpg")):
        picture, objects = draw(seed)
        image = by_name[name]
        width, height = picture.size
        assert image.are_fractions is (format == "yolo")
        assert image.size == (None if format == "yolo" else picture.size)
        for region, (class_name, box) in zip(image.regions, objects, strict=True):
            if format == "yolo":
                box = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
            assert region == Region(class_name, pytest.approx(box, abs=1e-5), False)


@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_each_split_has_its_own_file(format, tmp_path):
    for split, seeds in (("train", [1, 2]), ("val", [3]), ("test", [4, 5])):
        write(tmp_path, seeds, format, split)
    assert read(tmp_path) == (
        {
            "train": ["even_02.png", "odd_01.jpg"]
            if format == "yolo"
            else ["odd_01.jpg", "even_02.png"],
            "validation": ["odd_03.jpg"],
            "test": ["even_04.png", "odd_05.jpg"],
        },
        CLASSES,
    )


def test_a_class_that_is_not_among_the_given_ones_is_refused(tmp_path):
    write(tmp_path, range(3))
    assert read(tmp_path, ("disc", "ring", "box"))[1] == ("disc", "ring", "box")
    message = (
        r"\.xml has a box of the class 'disc', .* among the classes box, ring; add"
    )
    with pytest.raises(BadInput, match=message):
        read(tmp_path, ("box", "ring"))
    with pytest.raises(BadInput, match="the classes a, a; give them different names"):
        read(tmp_path, ("a", "a"))


def test_folders_without_boxes_are_refused(tmp_path):
    for name in ("a.jpg", "labels.csv", "data.yml.txt"):
        touch(tmp_path / name)
    with pytest.raises(
        BadInput, match="has no boxes; expected XML files of Pascal VOC"
    ):
        read(tmp_path)


@pytest.mark.parametrize("box", [("nan", 1, 5, 5), (1, 1, "inf", 5)])
def test_coordinates_must_be_finite(box, tmp_path):
    write_pair(tmp_path, "a", ("cat", box))
    with pytest.raises(
        BadInput, match=r"a.xml has the box \(.*\) in a.jpg; correct it"
    ):
        read(tmp_path)


# Pascal VOC


def test_the_lists_of_pascal_voc_choose_the_splits(tmp_path, capsys):
    for name in "abcde":
        write_pair(tmp_path, name)
    write_list(tmp_path, "train", "a", "b.jpg")
    write_list(tmp_path, "val", "c")
    write_list(tmp_path, "trainval", "a", "b", "c")
    write_list(tmp_path, "test", "d", "nowhere")
    names, _ = read(tmp_path)
    assert names == {
        "train": ["a.jpg", "b.jpg"],
        "validation": ["c.jpg"],
        "test": ["d.jpg"],
    }
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: is in the list for test, but has no image with an annotation: "
        "nowhere",
        "skipped 1 file: is in no list of ImageSets/Main: JPEGImages/e.jpg",
    ]
    (tmp_path / "ImageSets/Main/train.txt").unlink()
    (tmp_path / "ImageSets/Main/val.txt").unlink()
    assert read(tmp_path)[0] == {
        "train": ["a.jpg", "b.jpg", "c.jpg"],
        "test": ["d.jpg"],
    }


def test_an_image_in_two_splits_stays_in_the_first(tmp_path, capsys):
    for name in "ab":
        write_pair(tmp_path, name)
    write_list(tmp_path, "train", "a", "b")
    write_list(tmp_path, "test", "b")
    assert read(tmp_path)[0] == {"train": ["a.jpg", "b.jpg"]}
    assert capsys.readouterr().err == (
        "skipped 1 file: is annotated twice, or in two splits; only the first counts: "
        "JPEGImages/b.jpg\n"
    )


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("{split}", "{split}"),  # As Roboflow exports it.
        ("annotations/{split}", "images/{split}"),
        ("annotations", "images/{split}"),
    ],
)
def test_folders_choose_the_splits_if_there_are_no_lists(xml, image, tmp_path):
    for split, name in (("train", "test_1"), ("valid", "b"), ("test", "c")):
        folders = {"xml": xml.format(split=split), "image": image.format(split=split)}
        write_pair(tmp_path, name, **folders)
    names, _ = read(tmp_path)
    assert names == {
        "train": ["test_1.jpg"],
        "validation": ["b.jpg"],
        "test": ["c.jpg"],
    }


def test_an_image_is_named_like_its_xml_file_or_in_it(tmp_path, capsys):
    write_pair(tmp_path, "a")
    write_pair(tmp_path, "b")
    annotations = tmp_path / "Annotations"
    touch(annotations / "b.xml", voc_xml("C:\\photos\\a.jpg", (30, 20), []))
    touch(tmp_path / "JPEGImages/d.PNG")
    touch(annotations / "c.xml", voc_xml("photos/d.jpeg", (30, 20), []))
    touch(annotations / "e.xml", voc_xml("nowhere.jpg", (30, 20), []))
    touch(tmp_path / "JPEGImages/f.jpg")
    touch(tmp_path / "README.md")
    names, classes = read(tmp_path)
    assert names == {"train": ["a.jpg", "b.jpg", "d.PNG"]}
    assert classes == ("cat",)
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: is annotated, but there is no such file: "
        "Annotations/nowhere.jpg",
        "skipped 1 file: has no annotation: JPEGImages/f.jpg",
    ]


def test_the_nearest_image_is_meant_and_masks_are_none(tmp_path, capsys):
    for year in ("VOC2007", "VOC2012"):
        write_pair(tmp_path / year, "a")
        touch(tmp_path / year / "SegmentationClass/a.png")
    splits, _ = read_annotations(tmp_path, ())
    for image, year in zip(splits["train"], ("VOC2007", "VOC2012"), strict=True):
        assert image.path == tmp_path / year / "JPEGImages/a.jpg"
    assert capsys.readouterr().err == ""


def test_objects_of_pascal_voc_may_be_none_difficult_or_of_parts(tmp_path):
    write_pair(tmp_path, "a", BOX, difficult=1)
    assert only_image(tmp_path).regions == [Region(*BOX, is_crowd=True)]
    path = tmp_path / "Annotations/a.xml"
    text = path.read_text().replace(
        "<difficult>1</difficult>", "<part><name>x</name></part>"
    )
    path.write_text(text)
    assert only_image(tmp_path).regions == [Region(*BOX)]
    path.write_text("<annotation><filename>a.jpg</filename></annotation>")
    assert only_image(tmp_path).regions == []  # A negative image.
    assert only_image(tmp_path).size is None
    path.write_text(voc_xml("a.jpg", (0, 0), [BOX]))
    assert only_image(tmp_path).size is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-20], "unclosed token|no element|mismatched"),
        (lambda text: text.replace("annotation>", "html>"), "it begins with <html>"),
        (lambda text: text.replace("<xmin>2</xmin>", ""), "NoneType"),
        (lambda text: text.replace("<xmin>2</xmin>", "<xmin>two</xmin>"), "float"),
        (lambda text: text.replace("<name>cat</name>", ""), "an object has no name"),
    ],
)
def test_damaged_xml_files_are_refused(change, reason, tmp_path):
    write_pair(tmp_path, "a")
    path = tmp_path / "Annotations/a.xml"
    path.write_text(change(path.read_text()))
    message = (
        rf"a.xml is damaged, or not of Pascal VOC \(.*({reason}).*; export it again"
    )
    with pytest.raises(BadInput, match=message):
        read(tmp_path)


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_fractions_are_refused_where_pixels_are_meant(format, tmp_path):
    box = (0.1, 0.2, 0.5, 0.8)
    if format == "voc":
        write_pair(tmp_path, "a", ("cat", box))
    else:
        write(tmp_path, [0], format)
        change_coco(tmp_path, lambda each: each.update(bbox=[0.1, 0.2, 0.4, 0.6]))
    with pytest.raises(BadInput, match=r"has fractions of .* have pixels; multiply"):
        read(tmp_path)


def test_a_tiny_box_without_area_is_no_fraction(tmp_path):
    write_pair(tmp_path, "a", ("cat", (1, 1, 1, 1)))
    assert len(only_image(tmp_path).regions) == 1


# COCO


def change_coco(folder, change):
    """Changes each annotation of a COCO file."""
    path = folder / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    for each in content["annotations"]:
        change(each)
    path.write_text(json.dumps(content))


def test_crowds_of_coco_are_marked(tmp_path):
    write(tmp_path, [0], "coco")
    change_coco(tmp_path, lambda each: each.update(iscrowd=1))
    assert all(region.is_crowd for region in only_image(tmp_path).regions)


def test_classes_of_coco_have_the_order_of_their_ids(tmp_path):
    write(tmp_path, range(4), "coco")
    path = tmp_path / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["categories"] = [
        {"id": 6, "name": "a"},
        {"id": 0, "name": "without a box"},
        {"id": 3, "name": "z"},
    ]
    path.write_text(json.dumps(content))
    assert read(tmp_path)[1] == ("z", "a")


def test_images_of_coco_may_have_no_boxes_and_no_size(tmp_path, capsys):
    picture, _ = draw(0)
    content = coco_content([("a.png", picture, []), ("nowhere.png", picture, [])])
    del content["images"][0]["width"]
    touch(tmp_path / "_annotations.coco.json", json.dumps(content))
    touch(tmp_path / "a.png")
    touch(tmp_path / "b.png")
    image = only_image(tmp_path)
    assert (image.regions, image.size) == ([], None)
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: is annotated, but there is no such file: nowhere.png",
        "skipped 1 file: has no annotation: b.png",
    ]


def test_of_the_files_of_coco_itself_those_of_instances_are_read(tmp_path, capsys):
    write(tmp_path, [0], "coco")
    path = tmp_path / "annotations/instances_train.json"
    shutil.copy(path, path.with_name("person_keypoints_train.json"))
    touch(path.with_name("captions_train.json"), "{}")
    assert read(tmp_path)[0] == {"train": ["even_00.png"]}
    assert capsys.readouterr().err == (
        "skipped 2 files: is no file of instances: annotations/captions_train.json, "
        "annotations/person_keypoints_train.json\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{}]}, r"is damaged, or has no boxes of COCO \(KeyError"),
        (
            {
                "annotations": [{"image_id": 0, "category_id": 3, "bbox": []}],
                "images": [{"id": 0, "file_name": "even_00.png"}],
            },
            r"is damaged, or has no boxes of COCO \(ValueError",
        ),
        ({"categories": None}, r"is damaged, or has no boxes of COCO \(TypeError"),
    ],
)
def test_damaged_files_of_coco_are_refused(change, message, tmp_path):
    write(tmp_path, [0], "coco")
    path = tmp_path / "annotations/instances_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInput, match=f"instances_train.json {message}"):
        read(tmp_path)


def test_json_files_of_other_content_are_refused(tmp_path):
    touch(tmp_path / "a.json", '{"shapes": [], "imagePath": "a.jpg"}')
    with pytest.raises(BadInput, match=r"a.json is not of COCO, .*; export boxes for"):
        read(tmp_path)


# YOLO


def test_polygons_of_yolo_become_the_boxes_around_them(tmp_path):
    write_labels(tmp_path, "1 0.2 0.3 0.6 0.4 0.5 0.9\n\n0 0.5 0.5 0.2 0.4\n")
    assert only_image(tmp_path).regions == [
        Region("dog", (0.2, 0.3, 0.6, 0.9)),
        Region("cat", pytest.approx((0.4, 0.3, 0.6, 0.7))),
    ]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("[cat, dog]", ("cat", "dog")),
        ("{0: cat, 1: dog}", ("cat", "dog")),
        ("\n  1: no\n  4: 12", ("no", "12")),
    ],
)
def test_names_of_yolo_are_a_list_or_numbered(names, classes, tmp_path):
    write_labels(tmp_path, "1 0.5 0.5 0.2 0.2\n", names=names)
    splits, found = read_annotations(tmp_path, ())
    assert found == classes
    assert splits["train"][0].regions[0].class_name == {"no": "no"}.get(
        classes[0], "dog"
    )


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        (None, "images/train"),
        (None, "../images/train"),  # As Roboflow writes it.
        ("data/shapes", "images/train"),  # Somebody else's folder.
        ("images", "train"),
        (None, "[images/train]"),
        (None, "list.txt"),
    ],
)
def test_images_of_yolo_are_found(path, entry, tmp_path):
    folder = tmp_path / "deep/data"
    write(folder, range(3), "yolo")
    (folder / "list.txt").write_text(
        "./images/train/even_00.png\nimages/train/odd_01.jpg\n"
        f"{folder / 'images/train/even_02.png'}\n"
    )
    lines = [f"train: {entry}", "val:", "names: [box, disc]"]
    lines += [f"path: {path}"] if path else []
    (folder / "data.yaml").write_text("\n".join(lines))
    assert sorted(read(folder)[0]["train"]) == [
        *("even_00.png", "even_02.png", "odd_01.jpg")
    ]


def test_labels_of_yolo_may_lie_beside_the_images(tmp_path, monkeypatch):
    write(tmp_path, range(3), "yolo")
    for path in (tmp_path / "labels/train").iterdir():
        path.rename(tmp_path / "images/train" / path.name)
    splits, _ = read_annotations(tmp_path, ())
    assert all(image.regions for image in splits["train"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels/train/even_00.txt").touch()
    (tmp_path / "images/train/even_00.txt").unlink()
    splits, _ = read_annotations(Path("."), ())
    assert [bool(image.regions) for image in splits["train"]] == [False, True, True]


def test_what_yolo_lacks_is_said(tmp_path, capsys):
    for split, seeds in (("train", [0, 1, 2]), ("val", [3])):
        write(tmp_path, seeds, "yolo", split)
    (tmp_path / "labels/train/odd_01.txt").unlink()
    (tmp_path / "labels/train/even_02.txt").write_text("")
    touch(tmp_path / "labels/train/lost.txt")
    touch(tmp_path / "labels/train/classes.txt")
    touch(tmp_path / "results.png")
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("test: ../test/images\n")
    splits, _ = read_annotations(tmp_path, ())
    assert [len(image.regions) for image in splits["train"]] == [2, 0, 0]
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 folder: is what data.yaml names for test, but there is none: "
        "../test/images",
        "kept 1 image: has no label file, so it has no boxes: images/train/odd_01.jpg",
        "skipped 1 file: has no image of the same name: labels/train/lost.txt",
        "skipped 1 file: is in no split of data.yaml: results.png",
    ]


def test_listed_images_that_do_not_exist_are_reported(tmp_path, capsys):
    write_labels(tmp_path, "0 0.5 0.5 0.2 0.2", train="images/list.txt")
    touch(tmp_path / "images/list.txt", "./a.jpg\nnowhere.jpg\n")
    touch(tmp_path / "a.jpg")  # The folder of the list comes first.
    assert only_image(tmp_path).path == tmp_path / "images/a.jpg"
    assert capsys.readouterr().err.splitlines() == [
        "skipped 1 file: is listed, but there is no such file: images/nowhere.jpg",
        "skipped 1 file: is in no split of data.yaml: a.jpg",
    ]


def test_training_images_that_are_also_those_of_validation_stay(tmp_path, capsys):
    write_labels(tmp_path, "0 0.5 0.5 0.2 0.2", val="images")
    assert read(tmp_path)[0] == {"train": ["a.jpg"]}
    assert "skipped 1 file: is annotated twice, or in two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "0 320 240 50 60",
            "YOLO boxes are fractions of the image, and 320 is above 1",
        ),
        ("2 0.5 0.5 0.2 0.2", "the class 2 is not among 0, 1, which data.yaml names"),
        ("0 0.5 0.5 0.2", "it has 4 numbers; write a class number"),
        ("0 0.5 0.5 0.2 0.2 0.9", "it has 6 numbers; write a class number"),
        ("cat 0.5 0.5 0.2 0.2", "could not convert .*; write a class number"),
    ],
)
def test_wrong_lines_of_yolo_are_refused(line, message, tmp_path):
    write_labels(tmp_path, f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(BadInput, match=rf"labels/a.txt, line 2: {message}"):
        read(tmp_path)


def test_fractions_of_yolo_may_be_rounded(tmp_path):
    write_labels(tmp_path, "0 0.5 0.5 1.000001 1")
    assert len(only_image(tmp_path).regions) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            {"names": ""},
            r"has no names of classes; add a line .* `names: \[cat, dog\]`",
        ),
        ({"names": "{cat: 0}"}, "has no names of classes"),
        (
            {"train": "nowhere"},
            "names nowhere for training, but there is no such folder",
        ),
        ({"train": ""}, "data.yaml names no images; add a line such as `train: images"),
        ({"kpt_shape": "[17, 3]"}, "describes key points of poses; export boxes"),
        ({"names": "[cat, dog"}, r"data.yaml is damaged \(.*\); correct it"),
    ],
)
def test_wrong_descriptions_of_yolo_are_refused(lines, message, tmp_path):
    write_labels(tmp_path, "0 0.5 0.5 0.2 0.2", **lines)
    with pytest.raises(BadInput, match=message):
        read(tmp_path)


def test_images_of_yolo_need_some_label_file(tmp_path):
    write_labels(tmp_path, "")
    (tmp_path / "labels/a.txt").unlink()
    message = r"has 1 images .* none has a label file, such as .*/labels/a.txt; put the"
    with pytest.raises(BadInput, match=message):
        read(tmp_path)


def test_a_description_of_yolo_may_have_another_name(tmp_path):
    write_labels(tmp_path, "0 0.5 0.5 0.2 0.2")
    touch(tmp_path / "tools.yml", "version: 1")
    path = (tmp_path / "data.yaml").rename(tmp_path / "pets.yaml")
    assert read(tmp_path)[0] == {"train": ["a.jpg"]}
    shutil.copy(path, tmp_path / "more.yaml")
    with pytest.raises(BadInput, match=r"has more.yaml and pets.yaml; keep one"):
        read(tmp_path)


def test_text_files_must_be_utf_8(tmp_path):
    write_labels(tmp_path, "0 0.5 0.5 0.2 0.2")
    (tmp_path / "labels/a.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(BadInput, match=r"a.txt is not UTF-8 text; save it as UTF-8"):
        read(tmp_path)
