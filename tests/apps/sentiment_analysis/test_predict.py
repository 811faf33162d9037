import re

import numpy as np
import pytest
from PIL import Image

from apps.common.errors import BadInput
from apps.sentiment_analysis.config import sentences
from apps.sentiment_analysis.data import load_examples
from apps.sentiment_analysis.predict import predict, some_test_texts
from apps.sentiment_analysis.signatures import MAX_TEXT_BYTES, tokens_with_attention
from tests.apps.sentiment_analysis.untrained import write_run
from tests.conftest import run_command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "sentences")


def test_answers_are_printed_and_drawn(run, tmp_path, capsys):
    figure = tmp_path / "new/figure.png"
    texts = ["the soup was so good", "although the soup was good , the bar was bad"]
    answers = predict(texts, str(run), None, figure)
    *lines, last = capsys.readouterr().out.splitlines()
    for line, text, classes, scores in zip(
        lines, texts, answers["classes"], answers["scores"], strict=True
    ):
        best = [
            f"{name.decode()} {score:.3f}"
            for name, score in zip(classes, scores, strict=True)
        ]
        assert line == f"{', '.join(best)}: {text}"
    assert last == f"figure: {figure}"
    assert answers["classes"].shape == answers["scores"].shape == (2, 3)
    for tokens, weights in tokens_with_attention(answers):
        assert len(tokens) == len(weights)
        np.testing.assert_allclose(weights.sum(), 1, atol=1e-4)
    with Image.open(figure) as image:
        assert min(image.size) > 50


def test_a_refused_text_is_quoted(run, tmp_path):
    long = "so " * MAX_TEXT_BYTES
    says = f'the model refuses "{long[:39]}…": the text has more than {MAX_TEXT_BYTES} '
    with pytest.raises(BadInput, match=re.escape(says)):
        predict(["so", long], str(run), None, tmp_path / "figure.png")


def test_without_texts_a_few_of_the_test_split_are_classified(run, tmp_path, capsys):
    answers = predict((), str(run), None, tmp_path / "figure.png")
    assert len(answers["scores"]) == 12
    texts = some_test_texts(str(run), 3)
    assert len(texts) == 3
    assert set(texts) <= set(load_examples(sentences())["test"].texts)


def test_texts_come_before_those_of_the_file(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.txt").write_text("the soup was bad\n\nthe bar was bad\n")
    command = ["sentiment_analysis", "predict", "the soup was good", "--model", run]
    assert run_command(*command, "--file", "more.txt", "--figure", "f.png") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == [
        "the soup was good",
        "the soup was bad",
        "",
        "the bar was bad",
    ]
    assert last == "figure: f.png"
