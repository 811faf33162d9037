import json
import shutil

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from apps.common import figures, runs
from apps.common.errors import BadInput
from apps.image_captioning import evaluate as module
from apps.image_captioning.config import Config
from apps.image_captioning.data import Examples, clean, load_split
from apps.image_captioning.evaluate import (
    Scores,
    draw,
    evaluate,
    print_report,
    score,
    summarize,
)
from tests.apps.image_captioning import shapes

CONSTANT = "some strange thing"


def make_predictor(captions):
    """Returns a predictor that knows a caption of each file."""

    def predict(encoded_images):
        found = [captions[each] for each in encoded_images]
        tokens = np.full((len(found), 12), b"", object)
        for row, caption in zip(tokens, found, strict=True):
            words = [f"▁{word}".encode() for word in caption.split()]
            row[: len(words)] = words
        return {
            "captions": np.array([each.encode() for each in found], object),
            "tokens": tokens,
            "attention": np.ones((len(found), 12, 2, 2), "float32"),
        }

    return predict


@pytest.fixture
def run(own_data, tmp_path, monkeypatch):
    """A run whose beam search finds a right caption of each image of shapes."""
    right = {
        path.read_bytes(): clean(shapes.captions(int(path.stem))[0])
        for path in own_data.glob("images/*")
    }
    predictors = {
        "serving_default": make_predictor(right),
        "greedy": make_predictor(dict.fromkeys(right, CONSTANT)),
    }
    monkeypatch.setattr(
        module, "load_model", lambda model, signature: predictors[signature]
    )
    monkeypatch.setattr(figures, "draw_attention", lambda *arguments: None)
    run = tmp_path / "run"
    runs.start(Config(str(own_data), **shapes.SMALL), run, {})
    (run / "model.keras").touch()
    return run


EXAMPLES = Examples(
    [f"{i}.png" for i in range(40)],
    [bytes([i]) for i in range(40)],
    [(f"image {i}", f"number {i}") for i in range(40)],
)


def test_images_are_captioned_in_their_order():
    captions = {bytes([i]): f"number {i}" for i in range(40)}
    scores = score(make_predictor(captions), EXAMPLES)
    assert scores.captions == [f"number {i}" for i in range(40)]
    assert scores.examples is EXAMPLES
    assert scores.seconds > 0


def test_images_are_read_a_batch_at_a_time(monkeypatch):
    read = []
    monkeypatch.setattr(Examples, "image_bytes", lambda _, i: read.append(i) or b"0")
    most = []

    def predict(encoded_images):
        most.append(len(read))
        return {"captions": np.full(len(encoded_images), b"a dog", object)}

    assert score(predict, EXAMPLES).captions == ["a dog"] * 40
    assert most == [1, 33, 41]


def test_the_report_has_both_searches():
    examples = Examples(["a", "b"], [b"a", b"b"], [("a red cat", "one cat"), ("dogs",)])
    beam = Scores(["one cat", "dogs"], examples, 0.5)
    greedy = Scores(["dogs", "dogs"], examples, 0.25)
    report = summarize({"greedy": greedy, "beam": beam}, ["dogs", "two dogs"])
    assert report["images"] == 2
    assert (report["images_per_second"], report["greedy"]["images_per_second"]) == (
        4,
        8,
    )
    assert (report["exact"], report["greedy"]["exact"]) == (1, 0.5)
    assert (report["distinct"], report["greedy"]["distinct"]) == (1, 0.5)
    assert (report["novel"], report["greedy"]["novel"]) == (0.5, 0)
    assert (report["words"], report["greedy"]["words"]) == (1.5, 1)
    names = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    assert names <= set(report) & set(report["greedy"])
    assert report["bleu_1"] > report["greedy"]["bleu_1"]
    assert json.loads(json.dumps(report)) == report
    # Nothing is known about the captions of other data's training.
    report = summarize({"greedy": greedy, "beam": beam})
    assert "novel" not in report
    assert "novel" not in report["greedy"]


def test_the_data_of_the_training_is_scored(run, capsys):
    record = {"name": "something simple", "test": {"bleu_4": 0.25, "cider": 1.5}}
    runs.write_json(run / "baseline.json", record)
    report = evaluate(str(run))
    out = capsys.readouterr().out
    assert out.startswith("60 images of ")
    assert out.endswith(f"baseline: something simple\nfigures: {run / 'evaluation'}\n")
    assert report["images"] == 60
    assert (report["exact"], report["bleu_1"]) == (1, pytest.approx(1))
    assert report["distinct"] == 9 / 60
    assert (report["novel"], report["greedy"]["novel"]) == (0, 1)
    assert (report["words"], report["greedy"]["words"]) == (5, 3)
    assert report["baseline"] == {"name": "something simple", **record["test"]}
    assert "baseline" not in evaluate(str(run), split="validation")


def test_the_table_has_each_number_below_its_title(capsys):
    numbers = {
        **{f"bleu_{n}": n / 10 for n in range(1, 5)},
        **{"rouge_l": 0.5, "cider": 0.6, "exact": 0.7, "distinct": 0.8},
        **{"novel": 0.9, "words": 10, "images_per_second": 1234.5},
    }
    greedy = {**numbers, "bleu_1": 1.25e-17, "bleu_2": 8.041e-10}
    del greedy["novel"]
    baseline = {"name": "something simple", "bleu_4": 0.125, "cider": 10}
    print_report({**numbers, "greedy": greedy, "baseline": baseline})
    lines = capsys.readouterr().out.splitlines()
    rows = [
        [line[:10].strip()] + [line[i : i + 9].strip() for i in range(10, 109, 9)]
        for line in lines
    ]
    titles = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "exact"]
    assert rows[0] == ["", *titles, "distinct", "novel", "words", "per s"]
    same = ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]
    assert rows[1] == ["greedy", "0", "0", *same, "", "10", "1234"]
    assert rows[2] == ["beam", "0.1", "0.2", *same, "0.9", "10", "1234"]
    assert rows[3] == ["baseline", "", "", "", "0.125", "", "10", *[""] * 5]
    assert lines[4] == "baseline: something simple"


def test_other_data_has_other_columns_and_folders(run, own_data, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    table = (own_data / "captions.tsv").read_text().splitlines()
    rows = ["file\ttext", *table[1:31]]
    (other / "captions.tsv").write_text("\n".join(rows) + "\n")
    images = shutil.copytree(own_data / "images", tmp_path / "photos")
    columns = {"image_column": "file", "caption_column": "text"}
    report = evaluate(
        *(str(run), str(other), "test", str(images), columns),
        figures_folder=tmp_path / "figures",
    )
    assert report["images"] == len({row.split("\t")[0] for row in table[1:31]}) < 30
    assert report["exact"] == 1
    assert "novel" not in report
    out = capsys.readouterr().out
    assert f"{report['images']} images of {other}\n" in out
    assert f"figures: {tmp_path / 'figures'}\n" in out
    # Without names, the columns are those of the training.
    (other / "captions.tsv").write_text("\n".join(table[:31]) + "\n")
    again = evaluate(str(run), str(other), image_folder=str(images))
    assert again["cider"] == report["cider"]
    with pytest.raises(BadInput, match="column"):
        evaluate(str(run), str(other), "test", str(images), columns)
    assert not (run / "evaluation").exists()


def test_the_images_may_be_elsewhere(run, own_data, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(own_data / "images", photos)
    assert evaluate(str(run), image_folder=str(photos))["exact"] == 1
    contents = [path.read_bytes() for path in sorted(photos.iterdir())]
    for path, content in zip(sorted(photos.iterdir()), contents[::-1], strict=True):
        path.write_bytes(content)
    assert evaluate(str(run), image_folder=str(photos))["exact"] < 0.5
    with pytest.raises(BadInput, match="there is no folder nowhere"):
        evaluate(str(run), image_folder="nowhere")


def test_an_unknown_split_is_refused(run, tmp_path):
    with pytest.raises(BadInput, match="has no split 'tets'; did you mean 'test'"):
        evaluate(str(run), split="tets", figures_folder=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_the_worst_captions_come_first(own_data, tmp_path, monkeypatch):
    examples = load_split(Config(str(own_data)), "test", is_other_data=True)
    files = [path.read_bytes() for path in examples.images]
    captions = [each[0] for each in examples.captions]
    for i in (230, 5, 100):
        captions[i] = CONSTANT
    references = dict(enumerate(map(list, examples.captions)))
    ours = {i: [caption] for i, caption in enumerate(captions)}
    _, quality = Cider().compute_score(references, ours)
    worst = np.argsort(quality, kind="stable")[:4]
    assert worst.tolist()[:3] == [5, 100, 230]
    drawn = {}

    def record(encoded_images, texts, attention, titles, path):
        drawn[path.name] = encoded_images, texts, attention, titles

    monkeypatch.setattr(figures, "draw_attention", record)
    predictor = make_predictor(dict(zip(files, captions, strict=True)))
    draw(Scores(captions, examples, 1.0), predictor, tmp_path, num_images=4)
    assert set(drawn) == {"worst.png", "typical.png"}
    for name, indices in (
        ("worst.png", worst),
        ("typical.png", range(0, 240, 60)),
    ):
        encoded_images, texts, attention, titles = drawn[name]
        assert encoded_images == [files[i] for i in indices]
        assert texts == [captions[i].split() for i in indices]
        assert list(map(len, attention)) == list(map(len, texts))
        assert titles == [
            f"{captions[i]}\n({examples.captions[i][0]})" for i in indices
        ]


def test_figures_of_a_single_image_are_drawn(tmp_path, own_data):
    examples = Examples(["a"], [own_data / "images/000.png"], [("a red disc",)])
    predictor = make_predictor({examples.image_bytes(0): "a red disc"})
    draw(score(predictor, examples), predictor, tmp_path / "deep")
    names = {path.name for path in (tmp_path / "deep").iterdir()}
    assert names == {"worst.png", "typical.png"}
