import json
from pathlib import Path

import pytest
from PIL import Image

from apps.common import annotations
from apps.common.errors import BadInput


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "validation"),
        ("Valid/_annotations.coco.json", "validation"),
        ("annotations/captions_dev2017.json", "validation"),
        ("my-test/a.json", "test"),
        ("contest/a.json", "train"),
        ("a.json", "train"),
    ],
)
def test_a_split_is_a_word_in_a_path(path, split):
    assert annotations.find_split(Path(path)) == split


def test_images_are_known_by_their_suffix(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", "d.heic", "notes.txt", "e.xml", "f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [
        annotations.name_below(tmp_path, path)
        for path in annotations.list_images(tmp_path)
    ]
    assert names == ["a.png", "b.JPG", "d.heic", "sub/c.webp"]


def test_the_first_folder_that_has_a_file_gives_its_path(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    assert annotations.first_file(folders, Path("../b/x.png")) == tmp_path / "b/x.png"
    write_image(tmp_path / "b/x.png")
    write_image(tmp_path / "c/x.png")
    assert annotations.first_file(folders, Path("x.png")) == tmp_path / "b/x.png"
    assert annotations.first_file(folders, Path("y.png")) == tmp_path / "a/y.png"
    long = "y" * 300
    assert annotations.first_file(folders, Path(long)) == tmp_path / "a" / long


def test_files_without_a_partner_are_reported(tmp_path, capsys):
    for name in ("a.png", "b.png", "masks/c.png"):
        write_image(tmp_path / name)
    (tmp_path / "README.md").touch()
    long = "y" * 300
    annotated = [tmp_path / "a.png", tmp_path / "gone.png", tmp_path / long]
    annotations.print_unmatched(tmp_path, annotated)
    reason = "is annotated, but there is no such file"
    missing = f"skipped 2 files: {reason}: gone.png, {long}"
    assert capsys.readouterr().err.splitlines() == [
        missing,
        "skipped 2 files: has no annotation: b.png, masks/c.png",
    ]
    annotations.print_unmatched(tmp_path, annotated, [tmp_path / "a.png"])
    assert capsys.readouterr().err.splitlines() == [missing]


CONTENT = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": 5}],
    "annotations": [
        {"image_id": 8, "category_id": 2, "area": 1},
        {"image_id": 8, "category_id": 1, "area": 2},
    ],
}


@pytest.mark.parametrize(
    ("json_path", "image_folder"),
    [
        ("instances.json", "."),
        ("annotations/instances.json", "."),
        ("annotations/instances.json", "annotations"),
        ("annotations/instances.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val.json", "images/val"),
        ("annotations/instances_val.json", "val/images"),
        ("val/labels.json", "val/images"),
    ],
)
def test_images_of_coco_lie_where_people_put_them(json_path, image_folder, tmp_path):
    folder = tmp_path / image_folder
    write_image(folder / "a.png")
    write_image(folder / "b.png")
    first, second = annotations.read_coco(tmp_path / json_path, CONTENT, tmp_path)
    assert (first.path, first.objects) == (folder / "a.png", [])
    assert first.entry == {"id": 7, "file_name": "a.png"}
    assert second.path == folder / "b.png"
    assert [(name, entry["area"]) for name, entry in second.objects] == [
        ("5", 1),
        ("cat", 2),
    ]


@pytest.mark.parametrize("missing", ["images", "categories", "annotations"])
def test_a_file_of_coco_needs_all_its_parts(missing, tmp_path):
    content = {key: value for key, value in CONTENT.items() if key != missing}
    with pytest.raises(KeyError, match=missing):
        annotations.read_coco(tmp_path / "a.json", content, tmp_path)


def test_json_files_that_are_damaged_or_no_objects_are_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT))
    assert annotations.read_json(path) == CONTENT
    path.write_text(json.dumps(CONTENT)[:-5])
    with pytest.raises(BadInput, match=r"a.json is damaged \(.*\); export it again"):
        annotations.read_json(path)
    path.write_text("[1, 2]")
    assert annotations.load_json(path) == [1, 2]
    with pytest.raises(BadInput, match=r"a.json holds no annotations; remove it"):
        annotations.read_json(path)
