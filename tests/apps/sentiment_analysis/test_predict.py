import functools

import numpy as np
import pytest
from PIL import Image

from apps.common.predictors import load_predictor
from apps.sentiment_analysis import predict as predict_module
from apps.sentiment_analysis.data import load_examples
from apps.sentiment_analysis.predict import predict
from tests.conftest import run_command


@pytest.fixture(params=["run", "1", "edge"])
def model(request, run, exported):
    return run if request.param == "run" else exported / request.param


def test_answers_are_printed_and_drawn(model, tmp_path, capsys):
    picture = tmp_path / "deep/picture.png"
    texts = ["the soup was so good", "although the soup was good , the bar was bad"]
    answers = predict(texts, str(model), picture=picture)
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("positive 0.")
    assert first.endswith(": the soup was so good")
    assert second.startswith("negative 0.")
    assert second.count(", ") >= 2
    assert last == f"picture: {picture}"
    assert answers["classes"].shape == answers["scores"].shape == (2, 3)
    assert answers["tokens"].shape == answers["attention"].shape
    np.testing.assert_allclose(answers["attention"].sum(axis=1), 1, rtol=1e-4)
    with Image.open(picture) as image:
        assert min(image.size) > 50


def test_without_texts_a_few_of_the_test_split_are_taken(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = predict((), str(run))
    assert len(answers["scores"]) == 12
    assert (tmp_path / "runs/sentiment_analysis/predictions.png").exists()
    config = predict_module.training_config(predict_module.Config, str(run))
    examples = load_examples(config)[0]["test"]
    assert predict_module.some_test_texts(str(run), 3) == examples.texts[::250]


load_once = functools.cache(load_predictor)
UNUSUAL = {
    "10,000 words": "the soup was so good and " * 1700,
    "emoji": "😀😍👍🏽❤️",
    "signs": "$\\frac{ $$ _^ <unk> </s>",
    "one letter": "x",
    "nothing known": "\ufffd\u200b",
    "scripts": "你好 مرحبا ไทย हिन्दी",
    "control": "good\x00\x07\x1bday",
    "one long word": "o" * 9_000,
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_texts_simply_work(text, run, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict_module, "load_predictor", load_once)
    scores = []
    for model in (run, exported / "1", exported / "edge/float32.tflite"):
        answers = predict([text, "good"], str(model))
        scores.append(np.sort(answers["scores"], axis=1))
        assert np.isfinite(answers["scores"]).all()
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-3)


def test_texts_and_a_file_come_in_their_order(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("the soup was bad\nthe bar was bad\n")
    assert (
        run_command(
            *("sentiment_analysis", "predict", "the soup was good", "--model", run),
            *("--file", "more.txt", "--picture", "p.png"),
        )
        == 0
    )
    *answers, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in answers] == ["positive", "negative", "negative"]
    assert [line.split(": ")[1] for line in answers[1:]] == [
        "the soup was bad",
        "the bar was bad",
    ]
    assert last == "picture: p.png"
