import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from apps.common import datasets, figures, runs
from apps.common.errors import BadInput
from apps.common.text import read_table
from apps.image_captioning import predict as module
from apps.image_captioning.config import Config
from apps.image_captioning.data import load_split
from apps.image_captioning.predict import MAX_DRAWN, predict, write_table
from tests.apps.image_captioning import shapes


@pytest.fixture
def run(own_data, tmp_path, monkeypatch):
    """A run whose model captions an image with the number of its bytes."""

    def predictor(encoded_images):
        words = [f"{len(each)} bytes".encode() for each in encoded_images]
        tokens = [[b"\xe2\x96\x81" + each for each in text.split()] for text in words]
        return {
            "captions": np.array(words, object),
            "scores": -np.array(list(map(len, encoded_images)), "float32") / 1000,
            "tokens": np.array(tokens, object),
            "attention": np.ones((len(words), 2, 3, 3), "float32"),
        }

    monkeypatch.setattr(module, "load_model", lambda model: predictor)
    runs.start(Config(str(own_data), **shapes.SMALL), tmp_path / "run", {})
    return str(tmp_path / "run")


@pytest.fixture
def photos(own_data, tmp_path):
    """A folder with images in it and below it, and a text."""
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    for name in ("000.png", "001.jpg", "deep/002.png"):
        source = own_data / "images" / name.removeprefix("deep/")
        shutil.copy(source, photos / name)
    (photos / "notes.txt").write_text("no image")
    return photos


def caption(path):
    return f"{path.stat().st_size} bytes"


def test_captions_are_printed_written_and_drawn(run, photos, tmp_path, capsys):
    figure, table = tmp_path / "a/figure.png", tmp_path / "b/captions.tsv"
    one = photos / "001.jpg"
    answers = predict([one, photos], run, table, figure)
    out, error = capsys.readouterr()
    found = [one, photos / "000.png", one, photos / "deep/002.png"]
    lines = [f"{path}\t{caption(path)}" for path in found]
    assert out.splitlines() == [*lines, f"table: {table}", f"figure: {figure}"]
    assert "skipped 1 file: is not an image" in error
    assert [each.decode() for each in answers["captions"]] == list(map(caption, found))
    with table.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["image", "caption", "score"]
    assert rows[1:] == [
        [str(path), caption(path), f"{-path.stat().st_size / 1000:.4f}"]
        for path in found
    ]
    with Image.open(figure) as image:
        assert min(image.size) > 200


def test_a_table_holds_any_name_and_caption(tmp_path):
    names, captions = ['a "b".png', "tab\there.png"], ["one\r\nline", "ça"]
    write_table(tmp_path / "t.tsv", names, captions, np.array([-0.25, -1]))
    columns = {name: name for name in ("image", "caption", "score")}
    rows = read_table(tmp_path / "t.tsv", columns)
    assert rows == [
        (2, ('a "b".png', "one  line", "-0.2500")),
        (3, ("tab here.png", "ça", "-1.0000")),
    ]


def test_by_default_a_few_test_images_are_captioned(
    run, own_data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(figures, "draw_attention", lambda *arguments: None)
    answers = predict((), run, None, tmp_path / "figure.png")
    config = Config(str(own_data), **shapes.SMALL)
    examples = datasets.evenly(load_split(config, "test"), 12)
    *lines, _ = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{name}\t{caption(path)}"
        for name, path in zip(examples.names, examples.images, strict=True)
    ]
    assert len(answers["captions"]) == 12


def test_the_figure_shows_the_first_images(run, own_data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(figures, "draw_attention", lambda *call: calls.append(call))
    answers = predict([own_data / "images"], run, None, tmp_path / "figure.png")
    assert len(answers["captions"]) == 240
    ((files, words, maps, titles, path),) = calls
    assert [len(each) for each in (files, words, maps, titles)] == [MAX_DRAWN] * 4
    assert titles == [f"{len(file)} bytes" for file in files]
    assert words == [title.split() for title in titles]
    assert {len(each) for each in maps} == {2}
    assert path == tmp_path / "figure.png"


def test_a_folder_without_images_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has no image that can be read"):
        predict([tmp_path / "empty"], run, None, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()
