import contextlib
import io
import json

from pycocotools.coco import COCO

from apps.object_detection.predict import read_classes, write_results
from tests.apps.app_contract import succeed
from tests.apps.object_detection.conftest import APP
from tests.apps.object_detection.shapes import coco_content, draw
from tests.apps.object_detection.test_metrics import THREE_ANSWERS, make_answers


def test_results_have_the_format_of_coco(tmp_path):
    drawn = [("a.png", *draw(0))]
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = coco_content(drawn)
        labels.dataset["images"][0]["id"] = 1
        labels.dataset["annotations"] = []
        labels.createIndex()
        path = tmp_path / "deep/results.json"
        write_results(path, ["a.png"], THREE_ANSWERS, ("disc", "box"))
        results = labels.loadRes(str(path))
    assert len(results.anns) == 3
    assert json.loads(path.read_text())[1] == {
        "image_id": 1,
        "file_name": "a.png",
        "category_id": 2,
        "category_name": "box",
        "bbox": [200, 0, 50, 50],
        "score": 0.8,
    }


def test_classes_come_from_a_record_or_the_answers(tmp_path):
    found = [(0, 0, 9, 9, "disc", 0.9), (0, 0, 9, 9, "box", 0.8)]
    answers = make_answers([found])
    assert read_classes(str(tmp_path), answers) == ["box", "disc"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "classes.json").write_text('["cone", "disc", "box"]')
    assert read_classes(str(tmp_path), answers) == ["cone", "disc", "box"]


def test_the_confidence_chooses_what_is_shown_and_not_what_is_written(
    run, own_data, tmp_path
):
    counts = []
    for flags in ((), ("--confidence", 0.02), ("--confidence", 1)):
        predict = ["predict", own_data / "JPEGImages", "--model", run, *flags]
        files = ["--figure", tmp_path / "a.png", "--json", tmp_path / "results.json"]
        out = succeed(APP.name, *predict, *files)
        assert f"results: {tmp_path / 'results.json'}\n" in out
        results = json.loads((tmp_path / "results.json").read_text())
        assert {result["image_id"] for result in results} == set(range(1, 21))
        assert min(result["score"] for result in results) < 0.02
        shown = [line for line in out.splitlines() if "JPEGImages/" in line]
        assert len(shown) == 20
        words = " ".join(line.split(": ")[1] for line in shown).replace(",", "")
        counts.append(sum(int(word) for word in words.split() if word.isdigit()))
    assert counts[1] > counts[0] > counts[2] == 0
    assert shown[0].endswith(": nothing")
