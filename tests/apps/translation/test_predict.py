import pytest
from PIL import Image

from apps.common import datasets
from apps.common.errors import BadInput
from apps.common.predictors import data_settings
from apps.common.text import UNKNOWN_TOKEN
from apps.common.tokenizer import END_TOKEN
from apps.translation.config import Config
from apps.translation.data import load_split
from apps.translation.predict import predict, print_warnings, some_test_sentences
from tests.apps.translation.untrained import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return str(write_run(tmp_path_factory.mktemp("runs") / "untrained"))


def test_translations_are_printed_and_drawn(run, tmp_path, capsys):
    figure = tmp_path / "deep/figure.png"
    texts = ["dreiundvierzig", "siebenhundertzwanzig"]
    answers = predict(texts, run, None, figure)
    out, error = capsys.readouterr()
    translations = [text.decode() for text in answers["translations"]]
    pairs = zip(texts, translations, strict=True)
    assert out.splitlines() == [*map("\t".join, pairs), f"figure: {figure}"]
    assert len(set(translations)) == 2
    assert error == ""
    with Image.open(figure) as image:
        assert min(image.size) > 200


def test_a_refused_text_is_quoted(run, tmp_path):
    long = "zwei" * 30
    says = f'the model refuses "{long[:39]}…": a word has more than 100 letters'
    with pytest.raises(BadInput, match=says):
        predict(["zwei", long], run, None, tmp_path / "figure.png")


def test_by_default_a_few_test_sentences_are_translated(run, tmp_path):
    answers = predict((), run, None, tmp_path / "figure.png")
    assert len(answers["translations"]) == 9
    config, _, held_out = data_settings(Config, run)
    examples = load_split(config, "test", held_out=held_out)
    assert some_test_sentences(run, 3) == datasets.evenly(examples, 3).sources


def test_texts_come_before_those_of_a_file(run, tmp_path, capsys):
    (tmp_path / "more.txt").write_text("zwei\n\ndrei\n")
    predict(["eins"], run, tmp_path / "more.txt", tmp_path / "figure.png")
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert [line.split("\t")[0] for line in lines] == ["eins", "zwei", "", "drei"]


def test_translation_in_parts_is_mentioned(run, tmp_path, capsys):
    part = " ".join(["eins zwei drei vier fünf"] * 5)  # The longest part has 25 words.
    texts = ["eins zwei drei", " ".join([part] * 20), part]
    answers = predict(texts, run, None, tmp_path / "figure.png")
    error = capsys.readouterr().err
    assert error == "text 2 is long; its 20 parts were translated one by one\n"
    translations = answers["translations"]
    assert translations[1] == b" ".join([translations[2]] * 20)


def test_unknown_characters_are_mentioned(run, tmp_path, capsys):
    predict(["zwei", "zwei 你好"], run, None, tmp_path / "figure.png")
    error = capsys.readouterr().err
    assert error.startswith('text 2, "zwei 你好": 1 of ')
    assert len(error.splitlines()) == 1


def test_a_text_can_have_both_warnings(capsys):
    print_warnings(3, "a 你. b", ["▁a", UNKNOWN_TOKEN, END_TOKEN, "▁b", END_TOKEN])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("text 3 is long; its 2 parts ")
    assert second.startswith('text 3, "a 你. b": 1 of 3 tokens are unknown ')
    print_warnings(4, "a", ["▁a", END_TOKEN])
    assert capsys.readouterr().err == ""
