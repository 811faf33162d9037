import functools

import numpy as np
import pytest
from PIL import Image

from apps.common.predictors import load_predictor
from apps.translation import predict as predict_module
from apps.translation.data import load_split
from apps.translation.model import load_translator
from apps.translation.predict import predict
from tests.conftest import run_command


@functools.cache
def load_once(where):
    return load_predictor(
        where, lambda run: load_translator(run).predictor(), "serving_default"
    )


@pytest.fixture(autouse=True, scope="module")
def once(request):
    """Loads each model once; its predictions are what is tested here."""
    load_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_module, "load_model", load_once)
        yield
    load_once.cache_clear()


@pytest.fixture(params=["run", "1", "edge"])
def model(request, run, exported):
    return run if request.param == "run" else exported / request.param


def test_translations_are_printed_and_drawn(model, tmp_path, capsys):
    picture = tmp_path / "deep/picture.png"
    texts = ["dreiundvierzig", "siebenhundertzwanzig"]
    answers = predict(texts, str(model), picture=picture)
    out, error = capsys.readouterr()
    lines = out.splitlines()
    assert lines[::2] == [*texts, f"picture: {picture}"]
    assert [line[:2] for line in lines[1::2]] == ["→ "] * 2
    translations = [text.decode() for text in answers["translations"]]
    assert [line[2:] for line in lines[1::2]] == translations
    assert len(set(translations)) == 2
    assert error == ""
    with Image.open(picture) as image:
        assert min(image.size) > 200


def test_without_texts_a_few_of_the_test_split_are_taken(
    run, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    answers = predict((), str(run))
    assert len(answers["translations"]) == 9
    assert (tmp_path / "runs/translation/predictions.png").exists()
    sources = load_split(config, "test").sources
    assert predict_module.some_test_sentences(str(run), 3) == sources[::50]


def test_long_texts_are_said_to_be_translated_in_parts(model, tmp_path, capsys):
    five = "eins zwei drei vier fünf"  # 25 words make a part.
    texts = ["eins zwei drei", " ".join([five] * 100)]
    answers = predict(texts, str(model), picture=tmp_path / "p.png")
    error = capsys.readouterr().err
    assert error == "text 2 is long; translated in 20 parts, each by itself\n"
    part = predict([" ".join([five] * 5)], str(model), picture=tmp_path / "p.png")
    assert answers["translations"][1] == b" ".join([*part["translations"]] * 20)


def test_unknown_characters_are_said_to_be_skipped(model, tmp_path, capsys):
    predict(["zwei", "zwei 你好"], str(model), picture=tmp_path / "p.png")
    error = capsys.readouterr().err
    assert error.startswith("text 2 has characters that the model does not know")
    assert len(error.splitlines()) == 1


UNUSUAL = {
    "signs": "$\\frac{ $$ _^ <unk> </s> <s> ▁",
    "one letter": "x",
    "nothing visible": "\u200b",
    "scripts": "你好 مرحبا ไทย हिन्दी 😀👍🏽",
    "control": "zwei\x07\x1bdrei\x85\u2028",
    "one long word": "zwei" * 200,
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_texts_simply_work(text, run, exported, tmp_path):
    expected = None
    for model in (run, exported / "1", exported / "edge/float32.tflite"):
        answers = predict([text, "zwei"], str(model), picture=tmp_path / "p.png")
        assert np.isfinite(answers["scores"]).all()
        read = answers["source_pieces"].tolist()
        assert (expected or read) == read
        expected = read


def test_texts_and_a_file_come_in_their_order(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("zwei\n\ndrei\n")
    predict = ["predict", "eins", "--model", run, "--file", "more.txt"]
    assert run_command("translation", *predict, "--picture", "p.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["eins", "zwei", "drei", "picture: p.png"]
